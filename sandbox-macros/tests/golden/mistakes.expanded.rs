impl Vm {
    async fn initialize(&self) -> Result<VmSession> {
        Ok(VmSession)
    }
    /// The block stays, without what only the macro understands, and further blocks of the type find a backend.
    #[allow(clippy::needless_pass_by_value, clippy::too_many_arguments)]
    async fn click(&self, x: u32) -> Result<()> {
        Ok(())
    }
}
const _: () = {
    use ::sandbox_runtime::__private as __rt;
    impl __rt::Backend for Vm {
        type Config = __rt::NoConfig;
        type SessionConfig = __rt::NoConfig;
        type Session = VmSession;
        type Shared = ();
        const ABOUT: __rt::About = __rt::About {
            name: "",
            description: "",
            version: "",
            kind: __rt::BackendKind::Mixed,
            config_section: __rt::Option::None,
            free_tool_group: __rt::Option::None,
            location: __rt::Location {
                krate: ::core::env!("CARGO_PKG_NAME"),
                file: ::core::file!(),
                line: ::core::line!(),
            },
        };
        const TOOLS: &'static [__rt::Tool<Self>] = &[];
        async fn new(
            _: Self::Config,
            _: &__rt::HookScope<Self, __rt::New>,
        ) -> __rt::Result<Self> {
            ::core::unreachable!()
        }
        async fn warmup(
            self: &__rt::Arc<Self>,
            _: &__rt::HookScope<Self, __rt::Warmup>,
        ) -> __rt::Result<Self::Shared> {
            ::core::unreachable!()
        }
        async fn initialize(
            self: &__rt::Arc<Self>,
            _: Self::SessionConfig,
            _: &__rt::HookScope<Self, __rt::Initialize>,
        ) -> __rt::Result<Self::Session> {
            ::core::unreachable!()
        }
    }
};
::core::compile_error! {
    "unknown option `hiden`: did you mean `hidden`? Known are `name`, `hidden`, `timeout`, `idempotent`, `read_only`, `blocking`, `alias`, `group`, `config`"
}
