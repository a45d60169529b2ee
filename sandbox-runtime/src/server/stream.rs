//! The events of a run as a stream of server-sent events (WHATWG HTML, section 9.2).

use std::{
    collections::VecDeque,
    io::Write as _,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{
    HttpRequest, HttpResponse,
    body::{BodySize, MessageBody},
    http::header::{ACCEPT, CACHE_CONTROL, HeaderName, HeaderValue},
    web::Bytes,
};
use tokio::time::{Instant, Sleep};

use crate::run::{Event, Reader};

/// A stream that says nothing looks dead to proxies, and a client that left unread is noticed by writing to it.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// How long a client is to wait before it joins again, in milliseconds.
const RETRY_MS: u32 = 1000;

/// Above this an event's data is handed on as it is, not copied.
const LARGE_BYTES: usize = 64 * 1024;

/// Whether a request asks for a stream: its `Accept` names it.
pub(super) fn is_wanted(request: &HttpRequest) -> bool {
    let accepted = request.headers().get_all(ACCEPT).filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let refused = |parameter: &str| {
            let quality = parameter.strip_prefix("q=").and_then(|quality| quality.parse::<f32>().ok());
            quality.is_some_and(|quality| quality <= 0.0)
        };
        parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("text/event-stream")) && !parts.any(refused)
    })
}

/// The answer that brings the events as they come.
pub(super) fn respond(reader: Reader) -> HttpResponse {
    let body = EventStream { reader, ready: VecDeque::new(), heartbeat: None, ended: false };
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((CACHE_CONTROL, "no-cache, no-transform"))
        // nginx collects answers otherwise.
        .insert_header((HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")))
        .body(body)
}

struct EventStream {
    reader: Reader,
    /// Pieces of the answer that are to be written next.
    ready: VecDeque<Bytes>,
    /// Set from the first poll on.
    heartbeat: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl EventStream {
    /// The events as text: small ones together in one piece, the data of a large one as it is.
    fn push(&mut self, events: Vec<Event>, mut text: Vec<u8>) {
        for Event { id, name, data } in events {
            // Writing to a Vec does not fail.
            let _ = write!(text, "id: {id}\nevent: {name}\ndata: ");
            if data.len() > LARGE_BYTES {
                self.ready.push_back(std::mem::take(&mut text).into());
                self.ready.push_back(data);
            } else {
                text.extend_from_slice(&data);
            }
            text.extend_from_slice(b"\n\n");
        }
        if !text.is_empty() {
            self.ready.push_back(text.into());
        }
    }
}

impl MessageBody for EventStream {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        loop {
            if let Some(piece) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(piece)));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            let first = this.heartbeat.is_none();
            let heartbeat = this.heartbeat.get_or_insert_with(|| Box::pin(tokio::time::sleep(HEARTBEAT)));
            let text = if first { format!("retry: {RETRY_MS}\n\n").into_bytes() } else { Vec::new() };
            match this.reader.poll_next(context) {
                Poll::Ready(events) => {
                    this.ended = events.is_empty();
                    heartbeat.as_mut().reset(Instant::now() + HEARTBEAT);
                    this.push(events, text);
                }
                Poll::Pending if first => this.push(Vec::new(), text),
                Poll::Pending => {
                    if heartbeat.as_mut().poll(context).is_pending() {
                        return Poll::Pending;
                    }
                    heartbeat.as_mut().reset(Instant::now() + HEARTBEAT);
                    this.ready.push_back(Bytes::from_static(b": still here\n\n"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::is_wanted;

    #[test]
    fn a_stream_is_asked_for_by_its_name() {
        for (accept, wanted) in [
            ("text/event-stream", true),
            ("application/json, Text/Event-Stream;q=0.9", true),
            ("text/event-stream;q=0", false),
            ("*/*", false),
            ("text/*", false),
            ("application/json", false),
        ] {
            let request = TestRequest::default().insert_header(("accept", accept)).to_http_request();
            assert_eq!(is_wanted(&request), wanted, "{accept}");
        }
        assert!(!is_wanted(&TestRequest::default().to_http_request()));
    }
}
