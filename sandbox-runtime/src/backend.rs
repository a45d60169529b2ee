//! `Backend`: what a type must offer so that its tools can be run.

use std::{future::Future, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    error::Result,
    scope::{Cleanup, HookScope, Initialize, New, Shutdown, Warmup},
    tool::Tool,
};

/// A type whose tools share state and lifecycle.
///
/// `#[backend]` on an `impl` block writes this implementation; by hand it looks the same (see `examples/by_hand.rs`
/// of this crate). Which lifecycle methods exist is said by [`About::kind`]: `warmup` and `shutdown` run once per
/// resource when the kind is *shared* or *mixed*, `initialize` and `cleanup` once per session when it is *session* or *mixed*.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a backend",
    label = "no `#[backend]` block for this type",
    note = "put `#[backend(name = \"..\")]` on one `impl` block of the type; further blocks are marked `#[tools]`"
)]
pub trait Backend: Sized + Send + Sync + 'static {
    /// What `resources.<name>.config` holds; [`NoConfig`] if nothing.
    type Config: DeserializeOwned + JsonSchema + Send + 'static;
    /// What `session_config` holds; [`NoConfig`] if nothing.
    type SessionConfig: DeserializeOwned + JsonSchema + Send + 'static;
    /// What `initialize` makes; [`NoSession`] without sessions.
    type Session: Send + Sync + 'static;
    /// What `warmup` makes; `()` if nothing.
    type Shared: Send + Sync + 'static;

    /// Name, description and kind.
    const ABOUT: About;
    /// The tools of the main block; `#[tools]` blocks add theirs.
    const TOOLS: &'static [Tool<Self>];

    /// Makes the backend from its configuration, once per resource.
    fn new(config: Self::Config, scope: &HookScope<Self, New>) -> impl Future<Output = Result<Self>> + Send;

    /// Gets the resource ready, once, before its first use. What it returns is lent to tools and hooks.
    fn warmup(self: &Arc<Self>, scope: &HookScope<Self, Warmup>) -> impl Future<Output = Result<Self::Shared>> + Send;

    /// Ends the resource, once, after all its calls and sessions.
    fn shutdown(
        self: &Arc<Self>,
        shared: Self::Shared,
        scope: &HookScope<Self, Shutdown>,
    ) -> impl Future<Output = Result<()>> + Send {
        let _ = scope;
        async move {
            drop(shared);
            Ok(())
        }
    }

    /// Makes a session.
    fn initialize(
        self: &Arc<Self>,
        config: Self::SessionConfig,
        scope: &HookScope<Self, Initialize>,
    ) -> impl Future<Output = Result<Self::Session>> + Send;

    /// Ends a session. One that is still in its place after a failure is given to `cleanup` again, with a back-off.
    fn cleanup(
        self: &Arc<Self>,
        session: &mut Option<Self::Session>,
        scope: &HookScope<Self, Cleanup>,
    ) -> impl Future<Output = Result<()>> + Send {
        let _ = scope;
        async move {
            *session = None;
            Ok(())
        }
    }
}

/// A backend that is made without configuration, where its block has no `new`.
#[diagnostic::on_unimplemented(
    message = "the runtime cannot make `{Self}`: it has neither `new` nor `Default`",
    label = "derive `Default`, or write `fn new`",
    note = "with a configuration: `async fn new(config: MyConfig) -> Result<Self>` in the `#[backend]` block; without: `#[derive(Default)]` on the type"
)]
pub trait MadeWithoutNew: Sized {
    /// Makes it.
    fn make() -> Self;
}

#[diagnostic::do_not_recommend]
impl<B: Default> MadeWithoutNew for B {
    fn make() -> Self {
        Self::default()
    }
}

/// Name, description and kind of a backend.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Name of the backend: `[a-z][a-z0-9_]*` without `__`.
    pub name: &'static str,
    /// What it is, in a sentence or more.
    pub description: &'static str,
    /// Version, such as the crate's.
    pub version: &'static str,
    /// Which lifecycle methods it has.
    pub kind: BackendKind,
    /// `Some("apis.key")` for lightweight tools: the resource exists when that section of the configuration does.
    pub config_section: Option<&'static str>,
    /// `Some("group")` for the generated backend of a free tool, whose full name is `group:tool`.
    pub free_tool_group: Option<&'static str>,
    /// Where it stands in the source.
    pub location: Location,
}

/// Which lifecycle methods a backend has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// None.
    Stateless,
    /// `warmup` or `shutdown`.
    Shared,
    /// `initialize`, perhaps `cleanup`.
    Session,
    /// Both.
    Mixed,
}

impl BackendKind {
    /// Whether there are sessions.
    pub const fn has_sessions(self) -> bool {
        matches!(self, Self::Session | Self::Mixed)
    }

    /// The kind in one word, as `GET /resources` shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stateless => "stateless",
            Self::Shared => "shared",
            Self::Session => "session",
            Self::Mixed => "mixed",
        }
    }
}

/// A place in the source, for the registry's errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The crate.
    pub krate: &'static str,
    /// The file, as the compiler names it.
    pub file: &'static str,
    /// The line.
    pub line: u32,
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "crate {} ({}:{})", self.krate, self.file, self.line)
    }
}

/// The place where this macro stands, as a [`Location`](crate::backend::Location).
#[macro_export]
macro_rules! location {
    () => {
        $crate::backend::Location { krate: env!("CARGO_PKG_NAME"), file: file!(), line: line!() }
    };
}

/// The configuration of a backend, or of its sessions, that has none: an object without keys.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

/// The session type of a backend without sessions: it has no value.
#[derive(Clone, Copy, Debug)]
pub enum NoSession {}
