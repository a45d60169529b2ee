impl Plain {
    /// Say nothing.
    #[allow(clippy::needless_pass_by_value, clippy::too_many_arguments)]
    async fn nothing(&self) -> Result<()> {
        Ok(())
    }
}
const _: () = {
    use ::sandbox_runtime::__private as __rt;
    impl __rt::Backend for Plain {
        type Config = __rt::NoConfig;
        type SessionConfig = __rt::NoConfig;
        type Session = __rt::NoSession;
        type Shared = ();
        const ABOUT: __rt::About = __rt::About {
            name: "plain",
            description: "",
            version: "1.2.3",
            kind: __rt::BackendKind::Stateless,
            config_section: __rt::Option::Some("apis.plain"),
            free_tool_group: __rt::Option::None,
            location: __rt::Location {
                krate: ::core::env!("CARGO_PKG_NAME"),
                file: ::core::file!(),
                line: ::core::line!(),
            },
        };
        const TOOLS: &'static [__rt::Tool<Self>] = &[
            {
                #[derive(__rt::serde::Deserialize, __rt::schemars::JsonSchema)]
                #[serde(crate = "__rt::serde", deny_unknown_fields)]
                #[schemars(crate = "__rt::schemars")]
                struct __Params {}
                __rt::Tool {
                    name: "nothing",
                    description: "Say nothing.",
                    aliases: &[],
                    group: __rt::Option::None,
                    hidden: false,
                    idempotent: false,
                    read_only: false,
                    timeout: __rt::Option::None,
                    blocking: false,
                    session: __rt::SessionUse::None,
                    input_schema: <__Params as __rt::schemars::JsonSchema>::json_schema,
                    output_schema: <<Result<
                        (),
                    > as __rt::ToolResult>::Value as __rt::schemars::JsonSchema>::json_schema,
                    defaults: &[],
                    run: |mut call| __rt::Box::pin(async move {
                        let _: __Params = call.params()?;
                        let scope = call.enter(__rt::SessionUse::None).await?;
                        let result = <Plain>::nothing(scope.backend()).await;
                        <Result<()> as __rt::ToolResult>::into_output(result)
                    }),
                    location: __rt::Location {
                        krate: ::core::env!("CARGO_PKG_NAME"),
                        file: ::core::file!(),
                        line: ::core::line!(),
                    },
                }
            },
        ];
        async fn new(
            _: Self::Config,
            _: &__rt::HookScope<Self, __rt::New>,
        ) -> __rt::Result<Self> {
            __rt::StdResult::Ok(<Plain as __rt::MadeWithoutNew>::make())
        }
        async fn warmup(
            self: &__rt::Arc<Self>,
            _: &__rt::HookScope<Self, __rt::Warmup>,
        ) -> __rt::Result<Self::Shared> {
            __rt::StdResult::Ok(())
        }
        async fn initialize(
            self: &__rt::Arc<Self>,
            _: Self::SessionConfig,
            _: &__rt::HookScope<Self, __rt::Initialize>,
        ) -> __rt::Result<Self::Session> {
            __rt::StdResult::Err(
                __rt::ToolError::execution("this backend has no sessions"),
            )
        }
    }
    #[__rt::linkme::distributed_slice(__rt::BACKENDS)]
    #[linkme(crate = __rt::linkme)]
    static __ENTRY: __rt::BackendEntry = __rt::BackendEntry::of::<Plain>();
};
impl Plain {
    /// Say who calls.
    #[allow(clippy::needless_pass_by_value, clippy::too_many_arguments)]
    fn who(&self, worker: &WorkerId) -> Result<String> {
        Ok(worker.to_string())
    }
}
const _: () = {
    use ::sandbox_runtime::__private as __rt;
    const fn tools() -> __rt::ToolBlock
    where
        Plain: __rt::Backend,
    {
        __rt::ToolBlock::of::<
            Plain,
        >(
            &const {
                &[
                    {
                        #[derive(__rt::serde::Deserialize, __rt::schemars::JsonSchema)]
                        #[serde(crate = "__rt::serde", deny_unknown_fields)]
                        #[schemars(crate = "__rt::schemars")]
                        struct __Params {}
                        __rt::Tool {
                            name: "who",
                            description: "Say who calls.",
                            aliases: &[],
                            group: __rt::Option::None,
                            hidden: false,
                            idempotent: false,
                            read_only: false,
                            timeout: __rt::Option::None,
                            blocking: true,
                            session: if <WorkerId as __rt::Lend<
                                __rt::CallScope<Plain>,
                                _,
                            >>::IS_SESSION {
                                __rt::SessionUse::Shared
                            } else {
                                __rt::SessionUse::None
                            },
                            input_schema: <__Params as __rt::schemars::JsonSchema>::json_schema,
                            output_schema: <<Result<
                                String,
                            > as __rt::ToolResult>::Value as __rt::schemars::JsonSchema>::json_schema,
                            defaults: &[],
                            run: |mut call| __rt::Box::pin(async move {
                                let _: __Params = call.params()?;
                                let scope = call
                                    .enter(
                                        if <WorkerId as __rt::Lend<
                                            __rt::CallScope<Plain>,
                                            _,
                                        >>::IS_SESSION {
                                            __rt::SessionUse::Shared
                                        } else {
                                            __rt::SessionUse::None
                                        },
                                    )
                                    .await?;
                                scope
                                    .block(move |scope| {
                                        let lent_0 = <WorkerId as __rt::Lend<
                                            __rt::CallScope<Plain>,
                                            _,
                                        >>::lend(scope)?;
                                        let result = <Plain>::who(scope.backend(), &lent_0);
                                        <Result<String> as __rt::ToolResult>::into_output(result)
                                    })
                                    .await?
                            }),
                            location: __rt::Location {
                                krate: ::core::env!("CARGO_PKG_NAME"),
                                file: ::core::file!(),
                                line: ::core::line!(),
                            },
                        }
                    },
                ] as &'static [__rt::Tool<Plain>]
            },
            __rt::Location {
                krate: ::core::env!("CARGO_PKG_NAME"),
                file: ::core::file!(),
                line: ::core::line!(),
            },
        )
    }
    #[__rt::linkme::distributed_slice(__rt::TOOL_BLOCKS)]
    #[linkme(crate = __rt::linkme)]
    static __BLOCK: __rt::ToolBlock = tools();
};
