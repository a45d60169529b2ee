//! The one shape of every enveloped answer.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::{ErrorCode, RunId, SessionId, TraceId, null_is_default};

/// What every enveloped route answers; `D` is the payload.
#[derive(Clone, Debug, Serialize)]
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
    pub error: Option<ErrorBody>,
    /// Whether the call ran on a session made for it alone.
    pub temporary_session: bool,
    /// About the call itself.
    pub meta: Meta,
}

/// An envelope as servers of the `/api/v1` contract send it: some without `success`, some with null for what is absent.
#[derive(Deserialize)]
struct Received<D> {
    success: Option<bool>,
    code: ErrorCode,
    #[serde(default)]
    message: Cow<'static, str>,
    data: Option<D>,
    error: Option<ErrorBody>,
    temporary_session: Option<bool>,
    meta: Option<Meta>,
}

// Not `serde(from)`: the JSON Schema is of what is sent, and would become that of what is taken.
impl<'de, D: Deserialize<'de>> Deserialize<'de> for Envelope<D> {
    fn deserialize<S: Deserializer<'de>>(deserializer: S) -> Result<Self, S::Error> {
        let received = Received::deserialize(deserializer)?;
        let Received { success, code, message, data, error, temporary_session, meta } = received;
        let meta = meta.unwrap_or_default();
        Ok(Self {
            success: success.unwrap_or(code == ErrorCode::SUCCESS),
            code,
            message,
            data,
            error,
            temporary_session: temporary_session.unwrap_or(meta.temporary_session),
            meta,
        })
    }
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
    #[serde(default, deserialize_with = "null_is_default")]
    pub execution_time_ms: f64,
    /// Whether the tool's method was entered; a client re-sends a failed call only when it was not.
    #[serde(default, deserialize_with = "null_is_default")]
    pub executed: bool,
    /// True beside the top-level field, for clients that look here; absent otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub temporary_session: bool,
    /// Remarks on the request, such as an unknown field with the nearest known one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::Envelope;

    #[test]
    fn an_envelope_may_leave_out_what_it_does_not_have() {
        let read = |json: Value| serde_json::from_value::<Envelope>(json).expect("an envelope");
        let plain = read(json!({ "code": 0, "message": "success", "data": 7, "meta": null }));
        assert!(plain.success && plain.data == Some(7.into()) && !plain.meta.executed);
        let meta = json!({ "tool": "a:b", "execution_time_ms": null, "temporary_session": true });
        let failed = read(json!({ "code": 5000, "message": "no", "data": null, "meta": meta }));
        assert!(!failed.success && failed.data.is_none() && failed.temporary_session);
        assert!(serde_json::from_value::<Envelope>(json!({ "message": "no code" })).is_err());
    }
}
