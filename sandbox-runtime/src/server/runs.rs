//! The routes of runs: what a worker's calls do, their answers and events, and their ends.

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse,
    http::StatusCode,
    web::{Data, Path, Query},
};
use sandbox_types::{CancelRun, ErrorCode, WorkerId};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    Service,
    extract::{Body, header_text, named_worker, no_worker, worker_id},
    render::{Failure, answer},
    stream,
};
use crate::error::{Result, ToolError};

/// Id of the last event that a client has.
const LAST_EVENT_ID: &str = "Last-Event-ID";
/// The longest that a request may wait for the end of a run.
const MAX_WAIT_SECONDS: f64 = 60.0;

/// Query of the routes of one run.
#[derive(Debug, Deserialize)]
pub(super) struct RunQuery {
    /// Stands for the header, which a browser's `EventSource` cannot send.
    worker_id: Option<String>,
    /// How long to wait for the end, in seconds.
    wait_seconds: Option<f64>,
    /// Stands for the header `Last-Event-ID`, of which a browser sends its own when it joins again.
    last_event_id: Option<u64>,
}

/// Whose runs are meant.
///
/// # Errors
/// The request does not say so, or it is no id.
fn worker(request: &HttpRequest, other: Option<&str>) -> Result<WorkerId> {
    match named_worker(request.headers())? {
        Some(worker) => Ok(worker),
        None => other.map(worker_id).transpose()?.ok_or_else(no_worker),
    }
}

pub(super) async fn list(service: Data<Service>, request: HttpRequest, query: Query<RunQuery>) -> HttpResponse {
    let arrival = Instant::now();
    let listed = worker(&request, query.worker_id.as_deref()).map(|worker| service.executor.list_runs(&worker));
    answer(listed, arrival, Vec::new())
}

pub(super) async fn show(
    service: Data<Service>,
    request: HttpRequest,
    id: Path<String>,
    query: Query<RunQuery>,
) -> HttpResponse {
    let arrival = Instant::now();
    let shown = async {
        let wait = match query.wait_seconds {
            None => Duration::ZERO,
            Some(seconds) => {
                let wait = (0.0..=MAX_WAIT_SECONDS).contains(&seconds).then(|| Duration::from_secs_f64(seconds));
                wait.ok_or_else(|| {
                    let expected = format!("0 to {MAX_WAIT_SECONDS}");
                    ToolError::parameter(ErrorCode::INVALID_INPUT, "wait_seconds", expected, seconds.to_string())
                })?
            }
        };
        service.executor.show_run(&worker(&request, query.worker_id.as_deref())?, &id, wait).await
    };
    answer(shown.await, arrival, Vec::new())
}

pub(super) async fn events(
    service: Data<Service>,
    request: HttpRequest,
    id: Path<String>,
    query: Query<RunQuery>,
) -> Result<HttpResponse, Failure> {
    let worker = worker(&request, query.worker_id.as_deref())?;
    let seen = match header_text(request.headers(), LAST_EVENT_ID)?.filter(|text| !text.is_empty()) {
        None => query.last_event_id.unwrap_or(0),
        Some(text) => text.trim().parse().map_err(|_| {
            let expected = "the id of an event of this run, a number";
            ToolError::parameter(ErrorCode::INVALID_INPUT, LAST_EVENT_ID, expected, crate::nearest::shown(text))
        })?,
    };
    Ok(match service.executor.read_run(&worker, &id, seen)? {
        Some(reader) => stream::respond(reader),
        // By this an `EventSource` knows that it is not to join again.
        None => HttpResponse::build(StatusCode::NO_CONTENT).finish(),
    })
}

pub(super) async fn cancel(
    service: Data<Service>,
    request: HttpRequest,
    id: Path<String>,
    query: Result<Query<RunQuery>, actix_web::Error>,
    body: Body<CancelRun>,
) -> actix_web::Result<HttpResponse> {
    // Only now: the body of a request that is refused earlier would be waited for.
    let query = query?;
    let named = body.value.worker_id.as_ref().map(WorkerId::as_str).or(query.worker_id.as_deref());
    let cancelled = worker(&request, named).and_then(|worker| service.executor.cancel_run(&worker, &id));
    Ok(answer(cancelled, body.arrival, body.warnings))
}
