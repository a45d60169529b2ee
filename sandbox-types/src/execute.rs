//! Requests that run tools.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Envelope, SessionId, TraceId, WorkerId, null_is_default};

/// Body of `POST /execute`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ExecuteRequest {
    /// Who calls.
    pub worker_id: WorkerId,
    /// The tool: its full name (`vm:click`), or a simple name that is unique.
    pub action: String,
    /// The tool's parameters: an object; they stay raw JSON until the tool parses them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<serde_json::Map<String, serde_json::Value>>"))]
    pub params: Option<Box<RawValue>>,
    /// Time limit of the request in seconds, from its arrival.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0)))]
    pub timeout: Option<f64>,
    /// Name of the worker's session on the resource; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Id of the session to use: when it is gone the answer says so, and no other session is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    /// How a session is chosen.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "SessionMode::is_auto")]
    pub session_mode: SessionMode,
    /// Trace to run under; made by the server when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<TraceId>,
    /// Requests of one worker with one key run the tool once and share its answer (10 minutes).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The start of the server that the request is for (`incarnation` of `GET /health`): another one refuses it, since it
    /// does not know whether an earlier request with this key ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
    /// Idempotency keys whose answers have arrived: the server forgets them.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub answered: Vec<String>,
    /// Answer at once and let the call run to its end on its own.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "std::ops::Not::not")]
    pub detached: bool,
}

impl ExecuteRequest {
    /// A request with every optional field absent.
    pub fn new(worker_id: WorkerId, action: impl Into<String>) -> Self {
        Self {
            worker_id,
            action: action.into(),
            params: None,
            timeout: None,
            session: None,
            session_id: None,
            session_mode: SessionMode::Auto,
            trace_id: None,
            idempotency_key: None,
            incarnation: None,
            answered: Vec::new(),
            detached: false,
        }
    }
}

/// How a call finds its session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(inline))]
#[serde(rename_all = "snake_case")]
pub enum SessionMode {
    /// The worker's session if there is one, else a temporary one.
    #[default]
    Auto,
    /// Never a temporary one.
    Require,
    /// Always a temporary one.
    Temporary,
}

impl SessionMode {
    // Takes what serde gives it.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

/// Body of `POST /execute/batch`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BatchRequest {
    /// Who calls.
    pub worker_id: WorkerId,
    /// What to run.
    pub actions: Vec<BatchAction>,
    /// Run all at once instead of one after the other.
    #[serde(default, deserialize_with = "null_is_default")]
    pub parallel: bool,
    /// Stop a sequential batch at its first failure; true when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_on_error: Option<bool>,
    /// Time limit of each action that has none of its own, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0)))]
    pub timeout: Option<f64>,
    /// Trace to run under; made by the server when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<TraceId>,
    /// Requests of one worker with one key run the batch once and share its answer (10 minutes).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The start of the server that the request is for (`incarnation` of `GET /health`): another one refuses it, since it
    /// does not know whether an earlier request with this key ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
    /// Idempotency keys whose answers have arrived: the server forgets them.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub answered: Vec<String>,
}

impl BatchRequest {
    /// A sequential batch of these actions with every optional field absent.
    pub fn new(worker_id: WorkerId, actions: Vec<BatchAction>) -> Self {
        Self {
            worker_id,
            actions,
            parallel: false,
            stop_on_error: None,
            timeout: None,
            trace_id: None,
            idempotency_key: None,
            incarnation: None,
            answered: Vec::new(),
        }
    }
}

/// One action of a batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(inline))]
pub struct BatchAction {
    /// The tool.
    pub action: String,
    /// The tool's parameters: an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<serde_json::Map<String, serde_json::Value>>"))]
    pub params: Option<Box<RawValue>>,
    /// Time limit of this action in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0)))]
    pub timeout: Option<f64>,
    /// Name of the worker's session on the resource; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

/// `data` of a batch's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BatchResult<E = Envelope> {
    /// One envelope for each action that was run, in the order of the actions.
    pub results: Vec<E>,
    /// How many actions were asked for.
    pub total: usize,
    /// How many were run.
    pub executed: usize,
    /// How many succeeded.
    pub success_count: usize,
    /// How many failed.
    pub failed_count: usize,
}
