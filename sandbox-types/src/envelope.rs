//! The one shape of every enveloped answer.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{ErrorCode, RunId, SessionId, TraceId};

/// What every enveloped route answers; `D` is the payload.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Envelope<D = Value> {
    /// Whether `code` is 0.
    pub success: bool,
    /// 0, or an error code.
    pub code: ErrorCode,
    /// `"success"`, or what went wrong in one sentence.
    pub message: Cow<'static, str>,
    /// The result; on failure what had been done so far, where there is something.
    pub data: Option<D>,
    /// The failure in a form for programs; null on success.
    #[serde(default)]
    pub error: Option<ErrorBody>,
    /// Whether the call ran on a session made for it alone.
    #[serde(default)]
    pub temporary_session: bool,
    /// About the call itself.
    #[serde(default)]
    pub meta: Meta,
}

/// The failure in a form for programs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorBody {
    /// Name of the code, such as `INVALID_INPUT`.
    pub name: String,
    /// Whether the same request may succeed later without change.
    pub retryable: bool,
    /// A machine-readable reason, such as `expired` for a session that is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The field or parameter at fault, as a path (`items[2].name`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// What was expected there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// Names that may have been meant, nearest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidates: Option<Vec<String>>,
}

/// About the call itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Meta {
    /// Full name of the tool.
    #[serde(default)]
    pub tool: Option<String>,
    /// The resource the tool ran on; null for a free tool.
    #[serde(default)]
    pub resource_type: Option<String>,
    /// The session the tool ran on.
    #[serde(default)]
    pub session_id: Option<SessionId>,
    /// The trace of the request.
    #[serde(default)]
    pub trace_id: Option<TraceId>,
    /// The run, where it can be asked for again: of a stream, a detached call, or one with an idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
    /// From the request's arrival to its answer, in milliseconds.
    #[serde(default)]
    pub execution_time_ms: f64,
    /// Whether the tool's method was entered; a client re-sends a failed call only when it was not.
    #[serde(default)]
    pub executed: bool,
    /// True beside the top-level field, for clients that look here; absent otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub temporary_session: bool,
    /// Remarks on the request, such as an unknown field with the nearest known one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}
