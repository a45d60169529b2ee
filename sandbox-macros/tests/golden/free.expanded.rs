/// Search the web.
#[allow(clippy::needless_pass_by_value, clippy::too_many_arguments)]
async fn search(
    config: &WebSearchConfig,
    query: String,
    max_results: u32,
) -> Result<SearchResults> {
    config.search(query, max_results).await
}
const _: () = {
    use ::sandbox_runtime::__private as __rt;
    struct __Free {
        config: WebSearchConfig,
    }
    impl __rt::Backend for __Free {
        type Config = WebSearchConfig;
        type SessionConfig = __rt::NoConfig;
        type Session = __rt::NoSession;
        type Shared = ();
        const ABOUT: __rt::About = __rt::About {
            name: "web:search",
            description: "Search the web.",
            version: ::core::env!("CARGO_PKG_VERSION"),
            kind: __rt::BackendKind::Stateless,
            config_section: __rt::Option::Some("apis.websearch"),
            free_tool_group: __rt::Option::Some("web"),
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
                struct __Params<__P0, __P1> {
                    query: __P0,
                    max_results: __P1,
                }
                __rt::Tool {
                    name: "search",
                    description: "Search the web.",
                    aliases: &[],
                    group: __rt::Option::None,
                    hidden: false,
                    idempotent: false,
                    read_only: false,
                    timeout: __rt::Option::None,
                    blocking: false,
                    session: __rt::SessionUse::None,
                    input_schema: <__Params<
                        <String as __rt::Parameter<_>>::Value,
                        <u32 as __rt::Parameter<_>>::Value,
                    > as __rt::schemars::JsonSchema>::json_schema,
                    output_schema: <<Result<
                        SearchResults,
                    > as __rt::ToolResult>::Value as __rt::schemars::JsonSchema>::json_schema,
                    defaults: &[
                        __rt::ParameterDefault::of::<
                            <u32 as __rt::Parameter<_>>::Value,
                        >("max_results", "10"),
                    ],
                    run: |mut call| __rt::Box::pin(async move {
                        let params: __Params<
                            <String as __rt::Parameter<_>>::Value,
                            <u32 as __rt::Parameter<_>>::Value,
                        > = call.params()?;
                        let scope = call.enter(__rt::SessionUse::None).await?;
                        let result = search(
                                &scope.backend().config,
                                <String as __rt::Parameter<_>>::sent(params.query),
                                <u32 as __rt::Parameter<_>>::sent(params.max_results),
                            )
                            .await;
                        <Result<SearchResults> as __rt::ToolResult>::into_output(result)
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
            config: Self::Config,
            _: &__rt::HookScope<Self, __rt::New>,
        ) -> __rt::Result<Self> {
            __rt::StdResult::Ok(Self { config })
        }
        async fn warmup(
            self: &__rt::Arc<Self>,
            _: &__rt::HookScope<Self, __rt::Warmup>,
        ) -> __rt::Result<()> {
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
    static __ENTRY: __rt::BackendEntry = __rt::BackendEntry::of::<__Free>();
};
/// Send a message back.
#[cfg(unix)]
#[allow(clippy::needless_pass_by_value, clippy::too_many_arguments)]
pub async fn echo(message: String) -> Result<Echo> {
    Ok(Echo { message })
}
#[cfg(unix)]
const _: () = {
    use ::sandbox_runtime::__private as __rt;
    struct __Free;
    impl __rt::Backend for __Free {
        type Config = __rt::NoConfig;
        type SessionConfig = __rt::NoConfig;
        type Session = __rt::NoSession;
        type Shared = ();
        const ABOUT: __rt::About = __rt::About {
            name: "util:echo",
            description: "Send a message back.",
            version: ::core::env!("CARGO_PKG_VERSION"),
            kind: __rt::BackendKind::Stateless,
            config_section: __rt::Option::None,
            free_tool_group: __rt::Option::Some("util"),
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
                struct __Params<__P0> {
                    message: __P0,
                }
                __rt::Tool {
                    name: "echo",
                    description: "Send a message back.",
                    aliases: &[],
                    group: __rt::Option::None,
                    hidden: false,
                    idempotent: false,
                    read_only: false,
                    timeout: __rt::Option::None,
                    blocking: false,
                    session: __rt::SessionUse::None,
                    input_schema: <__Params<
                        <String as __rt::Parameter<_>>::Value,
                    > as __rt::schemars::JsonSchema>::json_schema,
                    output_schema: <<Result<
                        Echo,
                    > as __rt::ToolResult>::Value as __rt::schemars::JsonSchema>::json_schema,
                    defaults: &[],
                    run: |mut call| __rt::Box::pin(async move {
                        let params: __Params<<String as __rt::Parameter<_>>::Value> = call
                            .params()?;
                        let scope = call.enter(__rt::SessionUse::None).await?;
                        let result = echo(
                                <String as __rt::Parameter<_>>::sent(params.message),
                            )
                            .await;
                        <Result<Echo> as __rt::ToolResult>::into_output(result)
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
            __rt::StdResult::Ok(Self)
        }
        async fn warmup(
            self: &__rt::Arc<Self>,
            _: &__rt::HookScope<Self, __rt::Warmup>,
        ) -> __rt::Result<()> {
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
    static __ENTRY: __rt::BackendEntry = __rt::BackendEntry::of::<__Free>();
};
