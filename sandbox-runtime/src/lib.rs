//! Write tool backends for AI agents and serve them.
//!
//! One annotated `impl` block is a backend: registration, JSON Schema, parsing, injection and session locking follow
//! from its signatures. The manual is one sentence: **by value = a parameter that the client sends; by reference =
//! injected by the runtime; `&mut` session = alone on the session, `&` session = in parallel with other readers.**
//!
//! A request goes in one direction: `server` -> [`executor`] -> [`registry`] (one look-up) -> `router` (a session, if
//! the tool uses one) -> the generated glue -> the author's method.

extern crate self as sandbox_runtime;

// Its samples are compiled, and run where they say something.
#[cfg(all(doctest, feature = "testing"))]
#[doc = include_str!("../../docs/authoring.md")]
struct Authoring;

pub mod answer;
pub mod backend;
pub mod bytes;
pub mod config;
pub mod context;
pub mod error;
pub mod executor;
pub mod registry;
pub mod scope;
pub mod session;
pub mod slice;
pub mod tool;

mod batch;
mod creation;
mod erase;
mod events;
mod gate;
mod gone;
mod hold;
pub mod host;
mod idempotency;
mod journal;
mod lifecycle;
pub mod linked;
mod naming;
mod nearest;
mod pace;
mod reaper;
pub mod report;
mod request;
mod resource;
mod router;
pub mod run;
mod runs;
mod schema;
#[cfg(feature = "server")]
pub mod server;
mod supervise;
#[cfg(feature = "testing")]
pub mod testing;
mod time;
mod transfer;
mod watchdog;

pub use context::Inject;
pub use error::{Result, ResultExt, ToolError};
pub use sandbox_macros::{backend, tool, tools};
pub use sandbox_types as types;

/// What a backend's file needs: `use sandbox_runtime::prelude::*;`.
pub mod prelude {
    pub use crate::{
        bytes::{ByteStream, Saved},
        context::{Inject, ResourceContext, ToolContext},
        error::{Result, ResultExt, ToolError},
        report::Progress,
        session::{EndReason, SessionHandle},
    };
    pub use sandbox_macros::{backend, tool, tools};
    pub use sandbox_types::{ErrorCode, SessionId, TraceId, WorkerId};
    pub use tokio_util::sync::CancellationToken;
}

/// What generated code reaches; not for people.
#[doc(hidden)]
pub mod __private {
    pub use crate::{
        backend::{About, Backend, BackendKind, Location, MadeWithoutNew, NoConfig, NoSession},
        error::{Result, ToolError},
        scope::{CallScope, Cleanup, HookScope, Initialize, Lend, Lent, New, SessionOf, Shutdown, Warmup},
        session::Exclusive,
        slice::{BACKENDS, BackendEntry, TOOL_BLOCKS, ToolBlock},
        tool::{
            Call, HookResult, InjectedByValue, NoSchema, Parameter, ParameterDefault, SchemaOf, SessionByValue,
            SessionUse, SharedByValue, Tool, ToolFuture, ToolResult,
        },
    };
    pub use std::{boxed::Box, option::Option, result::Result as StdResult, sync::Arc, time::Duration};
    pub use {linkme, schemars, serde, serde_json};
}
