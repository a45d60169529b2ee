//! Runs: calls apart from the connections that asked for them, and the events of their streams.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Envelope, RunId, SessionId, TraceId, WorkerId};

/// One run, as `GET /runs` lists it and `GET /runs/{id}` shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RunInfo<E = Envelope> {
    /// Its id.
    pub run_id: RunId,
    /// Full name of the tool; null for a batch.
    pub tool: Option<String>,
    /// How many actions a batch has; null for a single call.
    pub actions: Option<usize>,
    /// The session it runs on, once it has one.
    pub session_id: Option<SessionId>,
    /// The trace of the request.
    pub trace_id: TraceId,
    /// How far it is.
    pub state: RunState,
    /// What it waits for; null unless `state` is `waiting` and there is something to wait for.
    pub waiting_for: Option<WaitingFor>,
    /// Since when it is in this state (RFC 3339).
    pub since: String,
    /// When the request arrived (RFC 3339).
    pub started_at: String,
    /// Whether it runs to its end whoever listens.
    pub detached: bool,
    /// Id of its latest event; 0 where none was recorded.
    pub last_event_id: u64,
    /// The answer once it has ended, where it is asked for by id and is kept; that of a plain call went to its caller.
    // No `default`: that would ask for it of `E`, and an absent `Option` is none without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<E>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(inline))]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Its tool was not entered yet.
    Waiting,
    /// Its tool was entered.
    Running,
    /// It ended well.
    Succeeded,
    /// It ended with an error.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl RunState {
    /// Whether it is over.
    pub const fn ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// What a run that was not entered yet waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(inline))]
#[serde(rename_all = "snake_case")]
pub enum WaitingFor {
    /// The resource is starting.
    Resource,
    /// Its session is being made.
    SessionCreation,
    /// Another call holds its session.
    Session,
    /// As many calls run on the resource as may (`max_concurrent_calls`).
    Turn,
}

/// Body of `POST /runs/{id}/cancel`, where the header `X-Worker-ID` does not name the worker.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CancelRun {
    /// Whose run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<WorkerId>,
}

/// `data` of the event `start`, the first one of every stream that is read from its beginning; its id is 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StartEvent {
    /// The run.
    pub run_id: RunId,
    /// Full name of the tool; null for a batch.
    pub tool: Option<String>,
    /// How many actions a batch has; null for a single call.
    pub actions: Option<usize>,
    /// The trace of the request.
    pub trace_id: TraceId,
}

/// `data` of the event `output`: what a tool has written so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OutputEvent<'a> {
    /// Which output, such as `stdout`.
    pub stream: Cow<'a, str>,
    /// Where `data` begins, in bytes since the beginning of this stream.
    pub offset: u64,
    /// The text; base64 where `encoding` says so.
    pub data: Cow<'a, str>,
    /// How `data` is written; absent: as UTF-8 text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<OutputEncoding>,
    /// Who says so.
    #[serde(flatten)]
    pub from: EventSource<'a>,
}

/// How output that is no UTF-8 is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(inline))]
#[serde(rename_all = "snake_case")]
pub enum OutputEncoding {
    /// RFC 4648 section 4, with padding.
    Base64,
}

/// `data` of the event `progress`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ProgressEvent<'a> {
    /// How much is done, in units of the tool's own.
    pub done: u64,
    /// Of how much; null where that is not known.
    pub total: Option<u64>,
    /// What is being done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Cow<'a, str>>,
    /// Who says so.
    #[serde(flatten)]
    pub from: EventSource<'a>,
}

/// Whose event it is, where it is not of the tool that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EventSource<'a> {
    /// Index of the action in the batch; absent for a single call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// Full name of the tool that the tool called; absent for the one that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<Cow<'a, str>>,
}

/// `data` of the event `item`: the end of one action of a batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ItemEvent<E = Envelope<Value>> {
    /// Index of the action in the batch.
    pub index: u32,
    /// Its answer.
    pub answer: E,
}

/// `data` of the event `gap`: events that are no longer kept, or were not recorded since nobody had asked for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct GapEvent {
    /// Id of the first event that is missing.
    pub from: u64,
    /// Id of the last event that is missing; that of the `gap` too.
    pub to: u64,
}
