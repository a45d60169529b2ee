//! A tool's stream as an HTTP response: its headers, the part that was asked for, and its pieces as they come.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    body::{BodySize, MessageBody},
    http::{
        Method, StatusCode,
        header::{
            self, Charset, ContentDisposition, DispositionParam, DispositionType, ExtendedValue, HeaderValue, HttpDate,
        },
    },
    web::Bytes,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use sandbox_types::ErrorCode;
use sha2::{Digest as _, Sha256};

use super::{extract::text, render::envelope, upload::Progress};
use crate::{
    answer::{Answer, failure},
    bytes::ByteStream,
    error::ToolError,
    transfer::{Download, Pieces},
};

/// Up to here the checksum of what is in memory is worked out for the answer.
const MAX_DIGESTED_BYTES: usize = 8 * 1024 * 1024;

/// The stream of a successful call as its answer.
pub(super) fn respond(
    request: &HttpRequest,
    mut download: Download,
    answer: &Answer,
    body: Option<Progress>,
) -> HttpResponse {
    let stream = download.stream();
    let digest = digest(stream);
    let etag = etag(stream, digest.as_ref());
    let mut response = HttpResponse::Ok();
    describe(&mut response, stream, digest, etag.as_deref());
    remark(&mut response, answer);
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads && is_known(request, stream, etag.as_deref()) {
        download.end(Ok(0));
        return response.status(StatusCode::NOT_MODIFIED).finish();
    }
    let whole = stream.len();
    if *request.method() == Method::HEAD {
        download.end(Ok(0));
        return response.body(Headless(whole));
    }
    // For other methods than GET the header has no meaning (RFC 9110, section 14.2).
    if reads && let Some(range) = range(request, stream, etag.as_deref()) {
        let total = whole.unwrap_or_default();
        let Some((start, len)) = range else {
            let expected = format!("a part of the {total} bytes");
            let error = ToolError::parameter(ErrorCode::INVALID_INPUT, "Range", expected, "a range outside of it");
            let response = unsatisfiable(&error, answer, total);
            download.end(Err(error));
            return response;
        };
        stream.narrow(start, len);
        response.status(StatusCode::PARTIAL_CONTENT);
        response.insert_header((header::CONTENT_RANGE, format!("bytes {start}-{}/{total}", start + len - 1)));
    }
    let (len, checked) = (stream.len(), stream.sha256().is_some());
    match stream.in_memory().cloned() {
        // Nothing is left to be read, and so no session to be kept. One whose checksum was promised is read like others.
        Some(bytes) if !checked => {
            download.end(Ok(bytes.len()));
            response.body(bytes)
        }
        _ if len == Some(0) => {
            download.end(Ok(0));
            response.body(Bytes::new())
        }
        _ => response.body(Body { pieces: download.send(), len, done: false, _request: body }),
    }
}

/// What can be said of the stream before it is sent.
fn describe(response: &mut HttpResponseBuilder, stream: &ByteStream, digest: Option<[u8; 32]>, etag: Option<&str>) {
    let shown = stream.shown_type();
    response.insert_header((header::CONTENT_TYPE, shown_text(shown).unwrap_or("application/octet-stream")));
    // What a tool hands out may come from anywhere: no browser shall take it for a page.
    response.insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"));
    // Whose it is stands in headers, so that one address means another file for each worker and session.
    response.insert_header((header::CACHE_CONTROL, "private, no-cache"));
    response.insert_header((header::VARY, "Authorization, X-Worker-ID, X-Session, X-Session-ID, X-Session-Mode"));
    if let Some(name) = stream.file_name() {
        response.insert_header((header::CONTENT_DISPOSITION, attachment(name)));
    }
    if stream.is_seekable() {
        response.insert_header((header::ACCEPT_RANGES, "bytes"));
    }
    if let Some(digest) = digest {
        response.insert_header(("Repr-Digest", format!("sha-256=:{}:", STANDARD.encode(digest))));
    }
    if let Some(etag) = etag {
        response.insert_header((header::ETAG, etag));
    }
    if let Some(modified) = stream.last_modified() {
        response.insert_header((header::LAST_MODIFIED, HttpDate::from(modified)));
    }
}

/// What an envelope would say beside the data.
fn remark(response: &mut HttpResponseBuilder, answer: &Answer) {
    if let Some(trace) = answer.meta.trace_id.as_ref().and_then(|trace| shown_text(trace.as_str())) {
        response.insert_header(("X-Trace-ID", trace));
    }
    response.insert_header(("X-Execution-Time-Ms", answer.meta.execution_time_ms.to_string()));
    for warning in &answer.meta.warnings {
        // A header takes no more than visible ASCII.
        let text: String = warning.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect();
        response.append_header(("X-Warning", text));
    }
    if let Some(session) = answer.meta.session_id.as_ref().and_then(|session| shown_text(session.as_str())) {
        response.insert_header(("X-Session-ID", session));
    }
}

/// A text that may stand in a header.
fn shown_text(text: &str) -> Option<&str> {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~')).then_some(text)
}

/// The checksum that is known, or easily had.
fn digest(stream: &ByteStream) -> Option<[u8; 32]> {
    stream.sha256().copied().or_else(|| {
        let bytes = stream.in_memory().filter(|bytes| bytes.len() <= MAX_DIGESTED_BYTES)?;
        Some(Sha256::digest(bytes).into())
    })
}

/// The stream's own, or that of its content.
fn etag(stream: &ByteStream, digest: Option<&[u8; 32]>) -> Option<String> {
    let own = stream.etag().and_then(shown_text).map(str::to_owned);
    own.or_else(|| digest.map(|digest| format!("\"{}\"", STANDARD.encode(&digest[..18]))))
}

/// `attachment`, with the name in both spellings where it needs the second (RFC 6266).
fn attachment(name: &str) -> ContentDisposition {
    let plain = name.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\' | b'%'));
    let parameter = if plain {
        DispositionParam::Filename(name.to_owned())
    } else {
        let value = ExtendedValue { charset: Charset::Ext("UTF-8".into()), language_tag: None, value: name.into() };
        DispositionParam::FilenameExt(value)
    };
    ContentDisposition { disposition: DispositionType::Attachment, parameters: vec![parameter] }
}

/// Whether the client has the content already.
fn is_known(request: &HttpRequest, stream: &ByteStream, etag: Option<&str>) -> bool {
    let text = |name| text(request.headers(), name);
    if let Some(known) = text(header::IF_NONE_MATCH) {
        let Some(etag) = etag else { return false };
        let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
        return known.trim() == "*" || known.split(',').any(|known| opaque(known) == opaque(etag));
    }
    let since = text(header::IF_MODIFIED_SINCE).and_then(|date| date.parse::<HttpDate>().ok());
    since.zip(stream.last_modified()).is_some_and(|(since, modified)| seconds(modified) <= seconds(since.into()))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// The part that is asked for, as its beginning and its length: `None` if all of it is, `Some(None)` if there is none such.
#[expect(clippy::option_option, reason = "no range, a range outside of the content, a range")]
fn range(request: &HttpRequest, stream: &ByteStream, etag: Option<&str>) -> Option<Option<(u64, u64)>> {
    let text = |name| text(request.headers(), name);
    let total = stream.len().filter(|_| stream.is_seekable())?;
    let wanted = text(header::RANGE)?;
    if let Some(condition) = text(header::IF_RANGE) {
        let same = match condition.parse::<HttpDate>() {
            Ok(date) => stream.last_modified().is_some_and(|modified| seconds(modified) == seconds(date.into())),
            // Weak ones never are the same here.
            Err(_) => etag.is_some_and(|etag| etag == condition.trim() && !etag.starts_with("W/")),
        };
        if !same {
            return None;
        }
    }
    parse_range(wanted, total)
}

/// One range of bytes; several, or another unit, are answered with the whole, as they may be.
#[expect(clippy::option_option, reason = "no range, a range outside of the content, a range")]
fn parse_range(wanted: &str, total: u64) -> Option<Option<(u64, u64)>> {
    let (unit, range) = wanted.split_once('=')?;
    let (first, last) = range.trim().split_once('-').filter(|_| unit.trim().eq_ignore_ascii_case("bytes"))?;
    let number = |text: &str| {
        let text = text.trim();
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    match (first.trim().is_empty(), last.trim().is_empty()) {
        (true, true) => None,
        (true, false) => {
            let len = number(last)?.min(total);
            Some((len > 0).then_some((total - len, len)))
        }
        (false, open) => {
            let first = number(first)?;
            let last = if open { u64::MAX } else { number(last)? };
            if last < first {
                return None;
            }
            Some((first < total).then(|| (first, last.min(total - 1) - first + 1)))
        }
    }
}

fn unsatisfiable(error: &ToolError, answer: &Answer, total: u64) -> HttpResponse {
    let mut response = envelope(&failure(error, answer.meta.clone()));
    *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
    if let Ok(value) = HeaderValue::try_from(format!("bytes */{total}")) {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    response
}

/// The pieces of a download.
struct Body {
    pieces: Pieces,
    len: Option<u64>,
    done: bool,
    /// What is left of the request's body is kept until then.
    _request: Option<Progress>,
}

/// A stream that ended before its end: the connection is closed, and the client sees that something is missing.
#[derive(Debug, thiserror::Error)]
#[error("the download was cut off")]
struct Cut;

impl MessageBody for Body {
    type Error = Cut;

    fn size(&self) -> BodySize {
        self.len.map_or(BodySize::Stream, BodySize::Sized)
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        if self.done {
            return Poll::Ready(None);
        }
        match ready!(self.pieces.poll_recv(context)) {
            Some(Some(piece)) => Poll::Ready(Some(Ok(piece))),
            Some(None) => {
                self.done = true;
                Poll::Ready(None)
            }
            None => Poll::Ready(Some(Err(Cut))),
        }
    }
}

/// The answer to HEAD: the length of what is not sent.
struct Headless(Option<u64>);

impl MessageBody for Headless {
    type Error = Cut;

    fn size(&self) -> BodySize {
        self.0.map_or(BodySize::Stream, BodySize::Sized)
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use super::{attachment, parse_range};

    #[test]
    fn one_range_is_understood_and_others_mean_everything() {
        let cases = [
            ("bytes=0-0", Some(Some((0, 1)))),
            ("bytes=2-5", Some(Some((2, 4)))),
            ("bytes=5-", Some(Some((5, 5)))),
            ("bytes=8-99999999999999999999", Some(Some((8, 2)))),
            ("Bytes = -3", Some(Some((7, 3)))),
            ("bytes=-30", Some(Some((0, 10)))),
            ("bytes=-0", Some(None)),
            ("bytes=10-", Some(None)),
            ("bytes=5-2", None),
            ("bytes=-", None),
            ("bytes=0-1,4-5", None),
            ("bytes=a-b", None),
            ("lines=0-1", None),
            ("0-1", None),
        ];
        for (wanted, range) in cases {
            assert_eq!(parse_range(wanted, 10), range, "{wanted}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Some(None));
    }

    #[test]
    fn a_name_is_written_so_that_it_stays_one() {
        let written = |name| attachment(name).to_string();
        assert_eq!(written("a b.txt"), "attachment; filename=\"a b.txt\"");
        assert_eq!(written("\u{e4}\".txt"), "attachment; filename*=UTF-8''%C3%A4%22.txt");
    }
}
