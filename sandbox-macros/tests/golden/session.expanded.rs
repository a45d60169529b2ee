/// A virtual machine with a screen.
impl VmBackend {
    async fn new(config: VmConfig) -> Result<Self> {
        Ok(Self { config })
    }
    async fn warmup(&self) -> Result<Pool> {
        Pool::start().await
    }
    async fn shutdown(&self, shared: Pool) -> Result<()> {
        shared.stop().await
    }
    async fn initialize(
        &self,
        config: VmSessionConfig,
        worker: &WorkerId,
        pool: &Pool,
    ) -> VmResult<VmSession> {
        pool.take(config, worker).await
    }
    async fn cleanup(&self, session: &mut VmSession, reason: &EndReason) -> Result<()> {
        session.stop(reason).await
    }
    /// Take a screenshot.
    #[allow(clippy::needless_pass_by_value, clippy::too_many_arguments)]
    async fn screenshot(&self, session: &VmSession, pool: &Pool) -> Result<Screenshot> {
        session.screenshot().await
    }
    /// Click at a point.
    ///
    /// Nothing happens outside the screen.
    #[allow(clippy::needless_pass_by_value, clippy::too_many_arguments)]
    async fn click(
        self: &Arc<Self>,
        session: &mut VmSession,
        progress: &Progress,
        x: u32,
        mut y: u32,
        button: Button,
        delay_ms: Option<Delay>,
    ) -> Result<()> {
        session.click(x, y).await
    }
    /// Compute for long.
    #[cfg(feature = "compute")]
    #[allow(clippy::needless_pass_by_value, clippy::too_many_arguments)]
    fn run(
        &self,
        session: &mut VmSession,
        cancel: &CancellationToken,
        job: Job,
    ) -> Result<u64> {
        session.run(job, cancel)
    }
    fn helper(&self) {}
}
const _: () = {
    use ::sandbox_runtime::__private as __rt;
    impl __rt::Backend for VmBackend {
        type Config = VmConfig;
        type SessionConfig = VmSessionConfig;
        type Session = <VmResult<VmSession> as __rt::HookResult>::Value;
        type Shared = Pool;
        const ABOUT: __rt::About = __rt::About {
            name: "vm",
            description: "A virtual machine with a screen.",
            version: ::core::env!("CARGO_PKG_VERSION"),
            kind: __rt::BackendKind::Mixed,
            config_section: __rt::Option::None,
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
                const {
                    ::core::assert!(
                        ! (< Pool as __rt::Lend < __rt::CallScope < VmBackend >, _ > >
                        ::IS_SESSION && (< VmSession as __rt::Lend < __rt::CallScope <
                        VmBackend >, _ > > ::IS_SESSION)),
                        "the session is borrowed twice by this tool; take it once, by `&` or by `&mut`"
                    )
                };
                __rt::Tool {
                    name: "screenshot",
                    description: "Take a screenshot.",
                    aliases: &["shot"],
                    group: __rt::Option::Some("screen"),
                    hidden: false,
                    idempotent: true,
                    read_only: true,
                    timeout: __rt::Option::None,
                    blocking: false,
                    session: if <VmSession as __rt::Lend<
                        __rt::CallScope<VmBackend>,
                        _,
                    >>::IS_SESSION
                        || <Pool as __rt::Lend<
                            __rt::CallScope<VmBackend>,
                            _,
                        >>::IS_SESSION
                    {
                        __rt::SessionUse::Shared
                    } else {
                        __rt::SessionUse::None
                    },
                    input_schema: <__Params as __rt::schemars::JsonSchema>::json_schema,
                    output_schema: <<Result<
                        Screenshot,
                    > as __rt::ToolResult>::Value as __rt::schemars::JsonSchema>::json_schema,
                    defaults: &[],
                    run: |mut call| __rt::Box::pin(async move {
                        let _: __Params = call.params()?;
                        let scope = call
                            .enter(
                                if <VmSession as __rt::Lend<
                                    __rt::CallScope<VmBackend>,
                                    _,
                                >>::IS_SESSION
                                    || <Pool as __rt::Lend<
                                        __rt::CallScope<VmBackend>,
                                        _,
                                    >>::IS_SESSION
                                {
                                    __rt::SessionUse::Shared
                                } else {
                                    __rt::SessionUse::None
                                },
                            )
                            .await?;
                        let lent_0 = <VmSession as __rt::Lend<
                            __rt::CallScope<VmBackend>,
                            _,
                        >>::lend(&scope)?;
                        let lent_1 = <Pool as __rt::Lend<
                            __rt::CallScope<VmBackend>,
                            _,
                        >>::lend(&scope)?;
                        let result = <VmBackend>::screenshot(
                                scope.backend(),
                                &lent_0,
                                &lent_1,
                            )
                            .await;
                        <Result<Screenshot> as __rt::ToolResult>::into_output(result)
                    }),
                    location: __rt::Location {
                        krate: ::core::env!("CARGO_PKG_NAME"),
                        file: ::core::file!(),
                        line: ::core::line!(),
                    },
                }
            },
            {
                #[derive(__rt::serde::Deserialize, __rt::schemars::JsonSchema)]
                #[serde(crate = "__rt::serde", deny_unknown_fields)]
                #[schemars(crate = "__rt::schemars")]
                struct __Params<__P0, __P1, __P2, __P3> {
                    /// X, in pixels from the left edge.
                    #[schemars(range(max = 4096))]
                    x: __P0,
                    /// Y, in pixels from the top edge.
                    y: __P1,
                    button: __P2,
                    #[serde(rename = "delay")]
                    delay_ms: __P3,
                }
                const {
                    ::core::assert!(
                        ! (< Progress as __rt::Lend < __rt::CallScope < VmBackend >, _ >
                        > ::IS_SESSION),
                        "the session is borrowed twice by this tool; take it once, by `&` or by `&mut`"
                    )
                };
                __rt::Tool {
                    name: "click",
                    description: "Click at a point.\n\nNothing happens outside the screen.",
                    aliases: &[],
                    group: __rt::Option::None,
                    hidden: false,
                    idempotent: false,
                    read_only: false,
                    timeout: __rt::Option::Some(__rt::Duration::from_millis(10000u64)),
                    blocking: false,
                    session: __rt::SessionUse::Exclusive,
                    input_schema: <__Params<
                        <u32 as __rt::Parameter<_>>::Value,
                        <u32 as __rt::Parameter<_>>::Value,
                        <Button as __rt::Parameter<_>>::Value,
                        <Option<Delay> as __rt::Parameter<_>>::Value,
                    > as __rt::schemars::JsonSchema>::json_schema,
                    output_schema: <<Result<
                        (),
                    > as __rt::ToolResult>::Value as __rt::schemars::JsonSchema>::json_schema,
                    defaults: &[
                        __rt::ParameterDefault::of::<
                            <Button as __rt::Parameter<_>>::Value,
                        >("button", "\"left\""),
                        __rt::ParameterDefault::of::<
                            <Option<Delay> as __rt::Parameter<_>>::Value,
                        >("delay", "{\"ms\":-1,\"also\":[null,true]}"),
                    ],
                    run: |mut call| __rt::Box::pin(async move {
                        let params: __Params<
                            <u32 as __rt::Parameter<_>>::Value,
                            <u32 as __rt::Parameter<_>>::Value,
                            <Button as __rt::Parameter<_>>::Value,
                            <Option<Delay> as __rt::Parameter<_>>::Value,
                        > = call.params()?;
                        let (scope, mut exclusive) = call.enter_exclusive().await?;
                        let lent_1 = match <Progress as __rt::Lend<
                            __rt::CallScope<VmBackend>,
                            _,
                        >>::lend(&scope) {
                            __rt::StdResult::Ok(lent) => lent,
                            __rt::StdResult::Err(error) => {
                                exclusive.finish();
                                return __rt::StdResult::Err(error);
                            }
                        };
                        let result = <VmBackend>::click(
                                scope.backend(),
                                <VmSession as __rt::SessionOf<
                                    <VmBackend as __rt::Backend>::Session,
                                >>::lend_mut(&mut exclusive),
                                &lent_1,
                                <u32 as __rt::Parameter<_>>::sent(params.x),
                                <u32 as __rt::Parameter<_>>::sent(params.y),
                                <Button as __rt::Parameter<_>>::sent(params.button),
                                <Option<Delay> as __rt::Parameter<_>>::sent(params.delay_ms),
                            )
                            .await;
                        exclusive.finish();
                        <Result<()> as __rt::ToolResult>::into_output(result)
                    }),
                    location: __rt::Location {
                        krate: ::core::env!("CARGO_PKG_NAME"),
                        file: ::core::file!(),
                        line: ::core::line!(),
                    },
                }
            },
            #[cfg(feature = "compute")]
            {
                #[derive(__rt::serde::Deserialize, __rt::schemars::JsonSchema)]
                #[serde(crate = "__rt::serde")]
                #[schemars(crate = "__rt::schemars")]
                struct __Params<__P0> {
                    #[serde(flatten)]
                    job: __P0,
                }
                const {
                    ::core::assert!(
                        ! (< CancellationToken as __rt::Lend < __rt::CallScope <
                        VmBackend >, _ > > ::IS_SESSION),
                        "the session is borrowed twice by this tool; take it once, by `&` or by `&mut`"
                    )
                };
                __rt::Tool {
                    name: "compute",
                    description: "Compute for long.",
                    aliases: &[],
                    group: __rt::Option::None,
                    hidden: true,
                    idempotent: false,
                    read_only: false,
                    timeout: __rt::Option::None,
                    blocking: true,
                    session: __rt::SessionUse::Exclusive,
                    input_schema: <__Params<
                        <Job as __rt::Parameter<_>>::Value,
                    > as __rt::schemars::JsonSchema>::json_schema,
                    output_schema: <<Result<
                        u64,
                    > as __rt::ToolResult>::Value as __rt::schemars::JsonSchema>::json_schema,
                    defaults: &[],
                    run: |mut call| __rt::Box::pin(async move {
                        let params: __Params<<Job as __rt::Parameter<_>>::Value> = call
                            .params()?;
                        let (scope, mut exclusive) = call.enter_exclusive().await?;
                        scope
                            .block(move |scope| {
                                let lent_1 = match <CancellationToken as __rt::Lend<
                                    __rt::CallScope<VmBackend>,
                                    _,
                                >>::lend(scope) {
                                    __rt::StdResult::Ok(lent) => lent,
                                    __rt::StdResult::Err(error) => {
                                        exclusive.finish();
                                        return __rt::StdResult::Err(error);
                                    }
                                };
                                let result = <VmBackend>::run(
                                    scope.backend(),
                                    <VmSession as __rt::SessionOf<
                                        <VmBackend as __rt::Backend>::Session,
                                    >>::lend_mut(&mut exclusive),
                                    &lent_1,
                                    <Job as __rt::Parameter<_>>::sent(params.job),
                                );
                                exclusive.finish();
                                <Result<u64> as __rt::ToolResult>::into_output(result)
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
        ];
        async fn new(
            config: Self::Config,
            _scope: &__rt::HookScope<Self, __rt::New>,
        ) -> __rt::Result<Self> {
            <Result<Self> as __rt::HookResult>::into_result(Self::new(config).await)
        }
        async fn warmup(
            self: &__rt::Arc<Self>,
            _scope: &__rt::HookScope<Self, __rt::Warmup>,
        ) -> __rt::Result<Self::Shared> {
            <Result<Pool> as __rt::HookResult>::into_result(Self::warmup(self).await)
        }
        async fn shutdown(
            self: &__rt::Arc<Self>,
            shared: Self::Shared,
            _scope: &__rt::HookScope<Self, __rt::Shutdown>,
        ) -> __rt::Result<()> {
            <Result<
                (),
            > as __rt::HookResult>::into_result(Self::shutdown(self, shared).await)
        }
        async fn initialize(
            self: &__rt::Arc<Self>,
            config: Self::SessionConfig,
            scope: &__rt::HookScope<Self, __rt::Initialize>,
        ) -> __rt::Result<Self::Session> {
            let lent_1 = <WorkerId as __rt::Lend<
                __rt::HookScope<Self, __rt::Initialize>,
                _,
            >>::lend(scope)?;
            let lent_2 = <Pool as __rt::Lend<
                __rt::HookScope<Self, __rt::Initialize>,
                _,
            >>::lend(scope)?;
            <VmResult<
                VmSession,
            > as __rt::HookResult>::into_result(
                Self::initialize(self, config, &lent_1, &lent_2).await,
            )
        }
        async fn cleanup(
            self: &__rt::Arc<Self>,
            session: &mut __rt::Option<Self::Session>,
            scope: &__rt::HookScope<Self, __rt::Cleanup>,
        ) -> __rt::Result<()> {
            let lent_1 = <EndReason as __rt::Lend<
                __rt::HookScope<Self, __rt::Cleanup>,
                _,
            >>::lend(scope)?;
            let __rt::Option::Some(value) = session.as_mut() else {
                return __rt::StdResult::Ok(())
            };
            <Result<
                (),
            > as __rt::HookResult>::into_result(
                Self::cleanup(self, value, &lent_1).await,
            )?;
            *session = __rt::Option::None;
            __rt::StdResult::Ok(())
        }
    }
    #[__rt::linkme::distributed_slice(__rt::BACKENDS)]
    #[linkme(crate = __rt::linkme)]
    static __ENTRY: __rt::BackendEntry = __rt::BackendEntry::of::<VmBackend>();
};
