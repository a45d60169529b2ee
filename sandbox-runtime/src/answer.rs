//! The answer of a call: its envelope, and the one event that the log has of it.

use std::time::Duration;

use sandbox_types::{Envelope, ErrorCode, Meta, SessionId, TraceId, WorkerId};
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::{error::ToolError, registry::ToolEntry};

/// What a call is answered: its `data` is the tool's result as it was serialised, once.
pub type Answer = Envelope<Box<RawValue>>;

pub(crate) fn meta(tool: Option<&ToolEntry>, trace: TraceId, arrival: Instant, warnings: Vec<String>) -> Meta {
    Meta {
        tool: tool.map(|tool| tool.full_name.clone()),
        resource_type: tool.and_then(|tool| tool.resource_type.clone()),
        trace_id: Some(trace),
        execution_time_ms: milliseconds(arrival.elapsed()),
        warnings,
        ..Meta::default()
    }
}

pub(crate) fn success(data: Box<RawValue>, meta: Meta) -> Answer {
    Envelope {
        success: true,
        code: ErrorCode::SUCCESS,
        message: "success".into(),
        data: Some(data),
        error: None,
        temporary_session: meta.temporary_session,
        meta,
    }
}

/// The envelope of a failure.
pub(crate) fn failure(error: &ToolError, meta: Meta) -> Answer {
    Envelope {
        success: false,
        code: error.code(),
        message: error.message().to_owned().into(),
        data: error.data().and_then(|data| serde_json::value::to_raw_value(data).ok()),
        error: Some(error.body().clone()),
        temporary_session: meta.temporary_session,
        meta,
    }
}

/// The answer to a call that no tool was found for, or none may run for; logged as every call is.
pub(crate) fn refused(error: &ToolError, meta: Meta, worker: &WorkerId) -> Answer {
    let answer = failure(error, meta);
    log(&answer, worker, None);
    answer
}

/// The one event of a call, at its end; never its parameters.
pub(crate) fn log(answer: &Answer, worker: &WorkerId, entered: Option<Duration>) {
    let bytes = answer.data.as_ref().map_or(0, |data| data.get().len());
    log_bytes(answer, worker, entered, bytes as u64);
}

/// As [`log`], of an answer that was so many bytes long.
pub(crate) fn log_bytes(answer: &Answer, worker: &WorkerId, entered: Option<Duration>, bytes: u64) {
    let meta = &answer.meta;
    let total_ms = meta.execution_time_ms;
    let wait_ms = entered.map_or(total_ms, milliseconds);
    tracing::info!(
        target: "sandbox::call",
        trace = meta.trace_id.as_ref().map(TraceId::as_str),
        worker = worker.as_str(),
        session = meta.session_id.as_ref().map(SessionId::as_str),
        tool = meta.tool.as_deref(),
        code = answer.code.number(),
        wait_ms,
        run_ms = ((total_ms - wait_ms) * 1e3).round() / 1e3,
        bytes,
    );
}

/// With three decimals: more is noise.
pub(crate) fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
