//! Bodies and queries of requests: liberal where existing clients need it, exact about what is wrong.

use std::{future::Future, pin::Pin, sync::LazyLock, time::Duration};

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    error::PayloadError,
    http::header::{CONTENT_TYPE, HeaderMap, HeaderName},
    web::Bytes,
};
use sandbox_types::{
    BatchRequest, CancelRun, CreateSession, DestroySession, ErrorCode, ExecuteRequest, InitBatch, InitResource,
    RefreshSessions, ShutdownRequest, WarmupRequest, WorkerId, WorkerRequest,
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::render::Failure;
use crate::{
    error::ToolError,
    nearest::{nearest, shown},
    schema::BodySchema,
};

/// Unknown fields that are named; a client that sends more has another problem.
const MAX_WARNINGS: usize = 8;

/// How long a body may take to arrive: a connection that stalls holds what it has sent so far.
pub(super) const ARRIVAL_LIMIT: Duration = Duration::from_mins(1);

/// Above this a body that does not parse is answered in the parser's words: to find better ones costs many times its size.
const MAX_EXPLAINED_BYTES: usize = 256 * 1024;

/// A request body that the server knows.
pub(super) trait WireBody: DeserializeOwned + 'static {
    /// Its schema, prepared once.
    fn schema() -> &'static BodySchema;

    /// Stands for an empty body, where a route allows one.
    fn empty() -> Option<Self> {
        None
    }
}

macro_rules! wire_bodies {
    ($($body:ident $($empty:expr)?;)*) => {
        $(impl WireBody for $body {
            fn schema() -> &'static BodySchema {
                static SCHEMA: LazyLock<BodySchema> = LazyLock::new(BodySchema::of::<$body>);
                &SCHEMA
            }

            $(fn empty() -> Option<Self> {
                Some($empty)
            })?
        })*
    };
}

wire_bodies! {
    ExecuteRequest;
    BatchRequest;
    CreateSession;
    DestroySession;
    RefreshSessions;
    WorkerRequest;
    InitResource;
    InitBatch;
    CancelRun CancelRun::default();
    WarmupRequest WarmupRequest::default();
    ShutdownRequest ShutdownRequest::default();
}

/// A parsed body.
pub(super) struct Body<T> {
    pub(super) value: T,
    /// Remarks on fields that the route does not know.
    pub(super) warnings: Vec<String>,
    pub(super) arrival: Instant,
}

impl<T: WireBody> FromRequest for Body<T> {
    type Error = actix_web::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Self::Error>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let arrival = Instant::now();
        let json = is_json(request);
        let mut bytes = Bytes::from_request(request, payload);
        Box::pin(async move {
            let bytes = match timeout_at(arrival + ARRIVAL_LIMIT, &mut bytes).await {
                Ok(Ok(read)) => read,
                Ok(Err(error)) => return Err(Failure::unread(unreadable(&error), None, bytes).into()),
                Err(_) => return Err(Failure::unread(too_slow(), None, bytes).into()),
            };
            if bytes.is_empty()
                && let Some(value) = T::empty()
            {
                return Ok(Self { value, warnings: Vec::new(), arrival });
            }
            if !json {
                let message = "expected Content-Type: application/json";
                return Err(Failure::from(ToolError::new(ErrorCode::UNSUPPORTED_MEDIA_TYPE, message)).into());
            }
            let (value, warnings) = parse(&bytes).map_err(Failure::from)?;
            Ok(Self { value, warnings, arrival })
        })
    }
}

pub(super) fn is_json(request: &HttpRequest) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

pub(super) fn unreadable(error: &actix_web::Error) -> ToolError {
    match error.as_error::<PayloadError>() {
        Some(PayloadError::Overflow) => {
            let message = "the body is larger than this route takes (of a call: server.body_limit_mib)";
            ToolError::new(ErrorCode::PAYLOAD_TOO_LARGE, message)
        }
        _ => ToolError::new(ErrorCode::INVALID_REQUEST_FORMAT, "the body could not be read"),
    }
}

pub(super) fn too_slow() -> ToolError {
    let message = format!("the body did not arrive within {} s", ARRIVAL_LIMIT.as_secs());
    ToolError::new(ErrorCode::INVALID_REQUEST_FORMAT, message)
}

pub(super) fn parse<T: WireBody>(bytes: &[u8]) -> Result<(T, Vec<String>), ToolError> {
    let mut warnings = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    // Ignored, as existing clients need it, but not in silence.
    let parsed = serde_ignored::deserialize(&mut deserializer, |path| {
        if warnings.len() < MAX_WARNINGS {
            warnings.push(unknown_field::<T>(&path.to_string()));
        }
    });
    match parsed.and_then(|value| deserializer.end().map(|()| value)) {
        Ok(value) => Ok((value, warnings)),
        Err(error) if bytes.len() > MAX_EXPLAINED_BYTES => {
            Err(ToolError::new(ErrorCode::INVALID_REQUEST_FORMAT, format!("the body: {error}")))
        }
        Err(error) => Err(match serde_json::from_slice::<serde_json::Value>(bytes) {
            Ok(body) => T::schema().violation(&body),
            Err(_) => ToolError::new(ErrorCode::INVALID_REQUEST_FORMAT, format!("the body is not JSON: {error}")),
        }),
    }
}

/// Compared with the fields of its own level only; `path` writes an optional value's level as `?`.
fn unknown_field<T: WireBody>(path: &str) -> String {
    let parts: Vec<_> = path.split('.').filter(|part| *part != "?").collect();
    let (name, level) = parts.split_last().unwrap_or((&path, &[]));
    match nearest(name, T::schema().fields(level)) {
        Some(near) => format!("unknown field `{path}` is ignored; did you mean `{near}`?"),
        None => format!("unknown field `{}` is ignored", shown(path)),
    }
}

/// Names the worker where no body does.
pub(super) const WORKER: &str = "X-Worker-ID";

/// A header as text; one that is none is left out.
pub(super) fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// A header as text.
///
/// # Errors
/// It is none.
pub(super) fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ToolError> {
    let wrong = |_| ToolError::parameter(ErrorCode::INVALID_INPUT, name, "visible ASCII characters", "others");
    if headers.get_all(name).nth(1).is_some() {
        // Of two, a proxy may have written one.
        return Err(ToolError::parameter(ErrorCode::INVALID_INPUT, name, "it once", "it twice"));
    }
    headers.get(name).map(|value| value.to_str().map_err(wrong)).transpose()
}

/// The worker that the headers name.
///
/// # Errors
/// It is no id.
pub(super) fn named_worker(headers: &HeaderMap) -> Result<Option<WorkerId>, ToolError> {
    header_text(headers, WORKER)?.map(worker_id).transpose()
}

/// A worker that stands in a header or a query.
///
/// # Errors
/// It is no id.
pub(super) fn worker_id(text: &str) -> Result<WorkerId, ToolError> {
    WorkerId::parse(text).map_err(|_| {
        let expected = format!("1 to {} bytes without control characters", WorkerId::MAX_BYTES);
        ToolError::parameter(ErrorCode::INVALID_INPUT, WORKER, expected, format!("{} bytes", text.len()))
    })
}

/// The answer to a request that must name its worker, and does not.
pub(super) fn no_worker() -> ToolError {
    let expected = "the header, or `worker_id` in the query or the body";
    ToolError::parameter(ErrorCode::MISSING_REQUIRED_FIELD, WORKER, expected, "neither")
}

/// `true`, in the spellings of clients in several languages.
pub(super) fn is_true(text: Option<&str>) -> bool {
    text.is_some_and(|text| matches!(text.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error<T: WireBody>(body: &str) -> ToolError {
        parse::<T>(body.as_bytes()).err().expect("must be refused")
    }

    #[test]
    fn null_is_absence_and_unknown_fields_are_named() {
        let body = r#"{"worker_id":"w","action":"a:b","timeout":null,"session_mode":null,"detached":null,"params":null,"timout":3}"#;
        let parsed = parse::<ExecuteRequest>(body.as_bytes()).expect("fits");
        let (value, warnings) = parsed;
        assert!(value.timeout.is_none() && value.params.is_none());
        assert_eq!(warnings, ["unknown field `timout` is ignored; did you mean `timeout`?"]);
    }

    #[test]
    fn an_unknown_field_is_compared_within_its_level() {
        let body = r#"{"worker_id":"w","actions":[{"action":"a:b","timout":3,"atomc":1}]}"#;
        let parsed = parse::<BatchRequest>(body.as_bytes()).expect("fits");
        assert_eq!(
            parsed.1,
            [
                "unknown field `actions.0.timout` is ignored; did you mean `timeout`?",
                "unknown field `actions.0.atomc` is ignored"
            ]
        );
    }

    #[test]
    fn a_missing_field_under_another_name_is_named() {
        let error = error::<ExecuteRequest>(r#"{"worker":"w","action":"a:b"}"#);
        assert_eq!(error.message(), "field `worker_id` is required; `worker` came, which is not known");
        assert_eq!(error.body().candidates, Some(vec!["worker_id".to_owned()]));
    }

    #[test]
    fn a_wrong_body_names_the_field() {
        let cases: [(ToolError, ErrorCode, Option<&str>); 6] = [
            (error::<ExecuteRequest>("{\"worker_id\":"), ErrorCode::INVALID_REQUEST_FORMAT, None),
            (error::<ExecuteRequest>("[]"), ErrorCode::INVALID_PARAMETER_TYPE, Some("params")),
            (error::<ExecuteRequest>("{\"worker_id\":\"w\"}"), ErrorCode::MISSING_REQUIRED_FIELD, Some("action")),
            (
                error::<ExecuteRequest>("{\"worker_id\":7,\"action\":\"a\"}"),
                ErrorCode::INVALID_PARAMETER_TYPE,
                Some("worker_id"),
            ),
            (
                error::<ExecuteRequest>("{\"worker_id\":\"w\",\"action\":\"a\",\"session_mode\":\"x\"}"),
                ErrorCode::INVALID_INPUT,
                Some("session_mode"),
            ),
            (
                error::<BatchRequest>("{\"worker_id\":\"w\",\"actions\":[{\"params\":{}}]}"),
                ErrorCode::MISSING_REQUIRED_FIELD,
                Some("actions[0].action"),
            ),
        ];
        for (error, code, field) in cases {
            assert_eq!((error.code(), error.body().parameter.as_deref()), (code, field), "{error}");
        }
    }

    #[test]
    fn every_wire_body_has_a_schema() {
        let fields = [
            ExecuteRequest::schema().fields(&[]).len(),
            BatchRequest::schema().fields(&[]).len(),
            CreateSession::schema().fields(&[]).len(),
            DestroySession::schema().fields(&[]).len(),
            RefreshSessions::schema().fields(&[]).len(),
            WorkerRequest::schema().fields(&[]).len(),
            InitResource::schema().fields(&[]).len(),
            InitBatch::schema().fields(&[]).len(),
            CancelRun::schema().fields(&[]).len(),
            WarmupRequest::schema().fields(&[]).len(),
            ShutdownRequest::schema().fields(&[]).len(),
        ];
        assert_eq!(fields, [12, 9, 6, 4, 4, 2, 3, 2, 1, 1, 2]);
    }
}
