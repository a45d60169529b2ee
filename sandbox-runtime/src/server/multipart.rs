//! `multipart/form-data` (RFC 7578; RFC 2046, section 5.1) as it comes: a part's head at once, its content piece by piece.
//!
//! Memory stays bounded and time linear whatever comes, only the delimiter ends a content, and the length that a part names is
//! ignored (RFC 7578, section 4.8): with a wrong one it would be cut in silence.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use actix_web::{
    http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, ContentDisposition, HeaderMap, HeaderName, HeaderValue},
    web::{Bytes, BytesMut},
};
use bytes::Buf as _;
use futures_core::Stream;
use memchr::memmem;
use sandbox_types::ErrorCode;

use crate::{
    bytes::ByteStream,
    error::{Result, ToolError},
};

/// What may come before the first part, or be the head of one.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Fields of a head.
const MAX_FIELDS: usize = 32;

/// A body, read part by part.
pub(super) struct Parts {
    body: ByteStream,
    /// What has come and was not read. The content of a part leaves it at once, but for what may begin a delimiter.
    buffer: BytesMut,
    delimiter: Vec<u8>,
    /// Whether the delimiter before the next part was read.
    delimited: bool,
}

impl Parts {
    pub(super) fn new(body: ByteStream, boundary: &str) -> Self {
        // Delimiters begin with a line break, which the first one need not have.
        let buffer = BytesMut::from("\r\n");
        Self { body, buffer, delimiter: format!("\r\n--{boundary}").into_bytes(), delimited: false }
    }

    /// Head of the next part; none after the last one.
    ///
    /// # Errors
    /// The body is no such body, or ends before its end.
    pub(super) async fn next(&mut self) -> Result<Option<HeaderMap>> {
        poll_fn(|context| self.poll_head(context)).await
    }

    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>>> {
        loop {
            match self.read_head() {
                Ok(Some(read)) => return Poll::Ready(Ok(read)),
                Ok(None) if self.buffer.len() > MAX_HEAD_BYTES => {
                    let what =
                        if self.delimited { "the head of a part is too long" } else { "its boundary is not there" };
                    return Poll::Ready(Err(malformed(what)));
                }
                Ok(None) => ready!(self.poll_more(context))?,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// What the buffer has of the next head; none if it is not whole.
    #[expect(clippy::option_option, reason = "not there yet, the end, a head")]
    fn read_head(&mut self) -> Result<Option<Option<HeaderMap>>> {
        if !self.delimited {
            let Some(at) = memmem::find(&self.buffer, &self.delimiter) else { return Ok(None) };
            self.buffer.advance(at + self.delimiter.len());
            self.delimited = true;
        }
        if self.buffer.starts_with(b"--") {
            return Ok(Some(None));
        }
        // The rest of the delimiter's line, then the fields, then an empty line.
        let Some(line_end) = memmem::find(&self.buffer, b"\r\n") else { return Ok(None) };
        if self.buffer[..line_end].iter().any(|byte| !matches!(byte, b' ' | b'\t')) {
            return Err(malformed("there is more than its boundary in a line"));
        }
        let Some(end) = memmem::find(&self.buffer[line_end..], b"\r\n\r\n") else { return Ok(None) };
        let head = self.buffer.split_to(line_end + end + 4);
        self.delimited = false;
        fields(&head[line_end + 2..]).map(|fields| Some(Some(fields)))
    }

    /// The next bytes of the part whose head was read last; none at its end.
    fn poll_content(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        loop {
            let found = memmem::find(&self.buffer, &self.delimiter);
            let ready = found.unwrap_or_else(|| self.buffer.len() - begun(&self.buffer, &self.delimiter));
            if ready > 0 {
                return Poll::Ready(Ok(Some(self.buffer.split_to(ready).freeze())));
            }
            if found.is_some() {
                self.buffer.advance(self.delimiter.len());
                self.delimited = true;
                return Poll::Ready(Ok(None));
            }
            ready!(self.poll_more(context))?;
        }
    }

    /// The whole content of the part whose head was read last.
    ///
    /// # Errors
    /// The body ends before its end; [`ErrorCode::PAYLOAD_TOO_LARGE`].
    pub(super) async fn content(&mut self, limit_bytes: usize) -> Result<Bytes> {
        let mut all = BytesMut::new();
        while let Some(piece) = poll_fn(|context| self.poll_content(context)).await? {
            if all.len() + piece.len() > limit_bytes {
                let message = "part `request` is larger than server.body_limit_mib";
                return Err(ToolError::new(ErrorCode::PAYLOAD_TOO_LARGE, message));
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    /// The content of the part whose head was read last, which must be the last part.
    pub(super) fn last(self, limit_bytes: u64) -> Last {
        Last { parts: self, left: limit_bytes, limit_bytes, at_end: false }
    }

    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        let more = ready!(Pin::new(&mut self.body).poll_next(context));
        let piece = more.unwrap_or_else(|| Err(malformed("it ends before its end")))?;
        self.buffer.extend_from_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

/// The content of the last part.
pub(super) struct Last {
    parts: Parts,
    left: u64,
    limit_bytes: u64,
    /// Its last byte was read: what follows must be the end of the body.
    at_end: bool,
}

impl Stream for Last {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        if !self.at_end {
            let Some(piece) = ready!(self.parts.poll_content(context)).transpose() else {
                self.at_end = true;
                return self.poll_next(context);
            };
            let limit_bytes = self.limit_bytes;
            return Poll::Ready(Some(piece.and_then(|piece| {
                self.left =
                    self.left.checked_sub(piece.len() as u64).ok_or_else(|| super::upload::too_large(limit_bytes))?;
                Ok(piece)
            })));
        }
        match ready!(self.parts.poll_head(context)) {
            Ok(None) => Poll::Ready(None),
            Ok(Some(_)) => {
                let message = "expected nothing after the part with the file, found another part";
                Poll::Ready(Some(Err(ToolError::new(ErrorCode::INVALID_REQUEST_FORMAT, message))))
            }
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}

/// The name that a part's head gives it.
pub(super) fn name(head: &HeaderMap) -> Option<String> {
    let disposition = ContentDisposition::from_raw(head.get(CONTENT_DISPOSITION)?).ok()?;
    disposition.get_name().map(str::to_owned)
}

fn fields(head: &[u8]) -> Result<HeaderMap> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let wrong = || malformed("the head of a part cannot be read");
    let parsed = httparse::parse_headers(head, &mut fields).map_err(|_| wrong())?;
    let httparse::Status::Complete((used, fields)) = parsed else { return Err(wrong()) };
    if used < head.len() {
        // It takes a bare line feed for the end of a line.
        return Err(wrong());
    }
    let mut headers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| wrong())?;
        if name != CONTENT_LENGTH {
            headers.append(name, HeaderValue::from_bytes(field.value).map_err(|_| wrong())?);
        }
    }
    Ok(headers)
}

/// How many bytes at the end may be the beginning of a delimiter.
fn begun(bytes: &[u8], delimiter: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(delimiter.len() - 1)..];
    memchr::memchr_iter(b'\r', tail).map(|at| &tail[at..]).find(|end| delimiter.starts_with(end)).map_or(0, <[u8]>::len)
}

/// A body that is no `multipart/form-data`, or ends before its end.
pub(super) fn malformed(what: &str) -> ToolError {
    let message = format!("the body is no whole multipart/form-data: {what}");
    ToolError::new(ErrorCode::INVALID_REQUEST_FORMAT, message).with_reason("upload_cut")
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use actix_web::http::header::CONTENT_TYPE;

    use super::*;

    /// A body that comes in pieces of a size.
    struct Pieces(Bytes, usize);

    impl Stream for Pieces {
        type Item = Result<Bytes>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
            let size = self.1.min(self.0.len());
            let piece = self.0.split_to(size);
            Poll::Ready((!piece.is_empty()).then_some(Ok(piece)))
        }
    }

    fn parts(body: &[u8], size: usize) -> Parts {
        Parts::new(ByteStream::from_stream(Pieces(Bytes::copy_from_slice(body), size)), "XX")
    }

    /// Names, types and contents of two parts, of which the second is the last.
    async fn read(mut parts: Parts) -> Result<Vec<(String, String)>> {
        let describe = |head: HeaderMap| {
            let kind = head.get(CONTENT_TYPE).map_or("", |kind| kind.to_str().expect("text"));
            assert!(!head.contains_key(CONTENT_LENGTH));
            format!("{} {kind}", name(&head).unwrap_or_default())
        };
        let mut found = Vec::new();
        let Some(head) = parts.next().await? else { return Ok(found) };
        found.push((describe(head), String::from_utf8_lossy(&parts.content(1000).await?).into_owned()));
        let Some(head) = parts.next().await? else { return Ok(found) };
        let mut last = parts.last(1_000_000);
        let mut content = Vec::new();
        while let Some(piece) = poll_fn(|context| Pin::new(&mut last).poll_next(context)).await {
            content.extend_from_slice(&piece?);
        }
        found.push((describe(head), String::from_utf8_lossy(&content).into_owned()));
        Ok(found)
    }

    const REQUEST: &str = "Content-Disposition: form-data; name=\"request\"";
    const FILE: &str = "Content-Disposition: form-data; name=\"file\"; filename=\"a\"";

    #[tokio::test]
    async fn parts_are_read_however_they_are_cut() {
        let content = "\r\n--X\r--XX garbage\r\n--\r\n\r\r\n-XX--\n--XX\r\n";
        let body = format!(
            "preamble\r\n--XX \t\r\n{REQUEST}\r\ncontent-length: 1\r\n\r\n{{}}\r\n--XX\r\n{FILE}\r\nContent-Type: text/x\r\n\
             Content-Length: 3\r\n\r\n{content}\r\n--XX--\r\nepilogue"
        );
        let expected = [("request ".to_owned(), "{}".to_owned()), ("file text/x".to_owned(), content.to_owned())];
        for size in 1..body.len() {
            assert_eq!(read(parts(body.as_bytes(), size)).await.expect("is whole"), expected, "in pieces of {size}");
        }
        let empty = format!("--XX\r\n{REQUEST}\r\n\r\n\r\n--XX\r\n\r\n\r\n--XX--");
        let expected = [("request ".to_owned(), String::new()), (" ".to_owned(), String::new())];
        for size in 1..empty.len() {
            assert_eq!(read(parts(empty.as_bytes(), size)).await.expect("is whole"), expected, "in pieces of {size}");
        }
        assert!(read(parts(b"--XX--\r\n", 100)).await.expect("is whole").is_empty());
    }

    #[tokio::test]
    async fn what_is_not_whole_is_an_error() {
        let head = format!("--XX\r\n{REQUEST}\r\n\r\n{{}}\r\n--XX\r\n{FILE}\r\n\r\nhello");
        for end in ["", "\r\n", "\r\n--X", "\r\n--XX", "\r\n--XX-", "\r\n--XXY--", "\r\n--XX\r\n\r\n\r\n--XX--"] {
            let body = format!("{head}{end}");
            for size in [1, 7, body.len()] {
                read(parts(body.as_bytes(), size)).await.expect_err(end);
            }
        }
        let long = "x".repeat(MAX_HEAD_BYTES + 1);
        let bad = ["--XX\r\n:\r\n\r\n--XX--", "--XX\r\nA: b\n\nC: d\r\n\r\n--XX--"].map(str::to_owned);
        for body in [long.clone(), format!("--XX\r\n{long}"), format!("--XX{long}")].into_iter().chain(bad) {
            let error = read(parts(body.as_bytes(), 100)).await.expect_err("must be refused");
            assert_eq!(error.code(), ErrorCode::INVALID_REQUEST_FORMAT);
        }
        let large = format!("--XX\r\n\r\n{}", "x".repeat(1001));
        let error = read(parts(large.as_bytes(), 100)).await.expect_err("must be refused");
        assert_eq!(error.code(), ErrorCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn what_looks_like_delimiters_comes_in_few_pieces() {
        let content = "\r\n--".repeat(50_000);
        let body = format!("--XX\r\n{FILE}\r\n\r\n{content}\r\n--XX--\r\n");
        let mut parts = parts(body.as_bytes(), 10_000);
        parts.next().await.expect("is whole").expect("a part");
        let (mut pieces, mut bytes) = (0, 0);
        while let Some(piece) = poll_fn(|context| parts.poll_content(context)).await.expect("is whole") {
            pieces += 1;
            bytes += piece.len();
        }
        assert!(bytes == content.len() && pieces < 50, "{bytes} bytes in {pieces} pieces");
    }
}
