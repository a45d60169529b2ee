//! Answers as HTTP responses.

use std::{fmt, time::Duration};

use actix_web::{
    HttpResponse, HttpResponseBuilder, ResponseError,
    http::{
        ConnectionType, StatusCode,
        header::{self, HeaderValue},
    },
};
use sandbox_types::ErrorCode;
use serde::Serialize;
use tokio::time::Instant;

use super::access::name_page;
use crate::{
    answer::{Answer, failure, meta},
    error::ToolError,
    resource::new_trace,
};

/// When to come again after a refusal for want of capacity.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// An error of a route, answered as an envelope.
#[derive(Debug)]
pub(super) struct Failure {
    error: ToolError,
    /// The body was not read to its end: what is left would be waited for as long as the client likes.
    unread: bool,
    /// The web page that may read the refusal.
    page: Option<HeaderValue>,
}

impl Failure {
    /// A refusal of a request whose body was not read to its end: its connection is closed.
    pub(super) fn unread(error: ToolError, page: Option<HeaderValue>, body: impl Sized + 'static) -> Self {
        leave_unread(body);
        Self { page, ..Self::closing(error) }
    }

    /// As [`unread`](Self::unread), where somebody else has the body.
    pub(super) fn closing(error: ToolError) -> Self {
        Self { error, unread: true, page: None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl From<ToolError> for Failure {
    fn from(error: ToolError) -> Self {
        Self { error, unread: false, page: None }
    }
}

impl ResponseError for Failure {
    fn status_code(&self) -> StatusCode {
        status(self.error.code())
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = refusal(&self.error);
        if self.unread {
            response.head_mut().set_connection_type(ConnectionType::Close);
        }
        if let Some(page) = &self.page {
            name_page(response.headers_mut(), page.clone());
        }
        response
    }
}

/// Keeps the unread rest of a body, whose answer goes out now, until it is out: with a body that is dropped earlier, and has no
/// length, the HTTP library waits for its end, which is when the client likes.
pub(super) fn leave_unread(body: impl Sized + 'static) {
    actix_web::rt::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(body);
    });
}

/// A query that the route cannot read.
pub(super) fn bad_query(error: &actix_web::error::QueryPayloadError) -> Failure {
    ToolError::new(ErrorCode::INVALID_REQUEST_FORMAT, format!("the query: {error}")).into()
}

/// An error that no tool call stands behind.
pub(super) fn refusal(error: &ToolError) -> HttpResponse {
    envelope(&failure(error, meta(None, new_trace(), Instant::now(), Vec::new())))
}

pub(super) fn status(code: ErrorCode) -> StatusCode {
    StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// An enveloped answer; the tool's result is copied as it is, not parsed or escaped again.
pub(super) fn envelope(answer: &Answer) -> HttpResponse {
    let mut response = HttpResponse::build(status(answer.code));
    if matches!(
        answer.code,
        ErrorCode::RESOURCE_EXHAUSTED | ErrorCode::SHUTTING_DOWN | ErrorCode::BACKEND_NOT_INITIALIZED
    ) {
        response.insert_header((header::RETRY_AFTER, RETRY_AFTER.as_secs()));
    }
    if answer.code == ErrorCode::UNAUTHENTICATED {
        response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
    }
    let data = answer.data.as_ref().map_or(0, |data| data.get().len());
    write(response, answer, 384 + answer.message.len() + data)
}

/// The envelope of a route that no tool stands behind.
pub(super) fn answer(
    result: Result<impl Serialize, ToolError>,
    arrival: Instant,
    warnings: Vec<String>,
) -> HttpResponse {
    let meta = meta(None, new_trace(), arrival, warnings);
    let data = result.and_then(|data| {
        serde_json::value::to_raw_value(&data)
            .map_err(|error| ToolError::new(ErrorCode::INTERNAL_ERROR, error.to_string()))
    });
    match data {
        Ok(data) => envelope(&crate::answer::success(data, meta)),
        Err(error) => envelope(&failure(&error, meta)),
    }
}

/// A bare answer.
pub(super) fn bare(status: StatusCode, body: &impl Serialize) -> HttpResponse {
    write(HttpResponse::build(status), body, 256)
}

fn write(mut response: HttpResponseBuilder, body: &impl Serialize, expected_bytes: usize) -> HttpResponse {
    let mut bytes = Vec::with_capacity(expected_bytes);
    match serde_json::to_writer(&mut bytes, body) {
        Ok(()) => response.content_type("application/json").body(bytes),
        // The wire types always serialise; a map with keys that are no strings would not.
        Err(_) => HttpResponse::InternalServerError().finish(),
    }
}
