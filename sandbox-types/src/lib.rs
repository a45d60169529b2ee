//! Wire types of the sandbox HTTP API: requests, the answer envelope, error codes and ids.
//!
//! The server and the client both speak through this crate, and it depends on neither; it needs serde and nothing else.

mod envelope;
mod error;
mod execute;
mod id;
mod run;
mod service;
mod session;
pub mod started;
mod tool;

pub use envelope::{Envelope, ErrorBody, Meta};
pub use error::ErrorCode;
pub use execute::{BatchAction, BatchRequest, BatchResult, ExecuteRequest, SessionMode};
pub use id::{RunId, SessionId, TraceId, WorkerId};
pub use run::{
    CancelRun, EventSource, GapEvent, ItemEvent, OutputEncoding, OutputEvent, ProgressEvent, RunInfo, RunState,
    StartEvent, WaitingFor,
};
pub use service::{
    BackendStatus, Disconnected, Health, Heartbeat, InitBatch, InitResource, Ready, SessionStatus, ShutdownBegun,
    ShutdownRequest, WarmupAnswer, WarmupRequest, WarmupStatus, WarmupSummary, WorkerRequest, WorkerStatus,
};
pub use session::{
    CreateSession, CreatedSession, DestroySession, DestroyedSession, RefreshAnswer, RefreshSessions, Refreshed,
    RefreshedSession, RefreshedSessions, SessionInfo, SessionList,
};
pub use tool::{ResourceInfo, ResourceLimits, ToolInfo};

/// `null` where a field has a default means the default: existing clients send every optional field as `null`.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::Deserialize<'de> + Default,
{
    Ok(<Option<T> as serde::Deserialize>::deserialize(deserializer)?.unwrap_or_default())
}
