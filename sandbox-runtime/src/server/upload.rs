//! The body of a request as an upload: pumped into the call piece by piece, as fast as the tool takes it.

use std::{
    cell::Cell,
    future::{pending, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{
    HttpRequest,
    error::PayloadError,
    http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, ContentDisposition, HeaderMap},
    web::{Bytes, Payload},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_core::Stream;
use sandbox_types::ErrorCode;
use tokio::{
    sync::{
        Notify,
        mpsc::{Receiver, Sender, channel},
        oneshot,
    },
    time::timeout,
};

use super::{connection::Socket, extract::text, render::leave_unread};
use crate::{
    bytes::ByteStream,
    error::{Result, ToolError},
    transfer::STALL_LIMIT,
};

/// Pieces that have come and that the tool has not taken yet; the HTTP library makes them of at most some 100 KiB.
const PIECES: usize = 8;

/// From here on an upload is in bulk, and it is so until as much is left: its bytes are read when many of them are there.
const BULK_BYTES: u64 = 1024 * 1024;

/// How long bytes of an upload in bulk are waited for until there are many; then any are welcome.
const GATHERING: Duration = Duration::from_millis(50);

/// How far the reading of a request's body has come. What is left of the body is kept for as long as this is, which is until
/// the answer is out.
pub(super) struct Progress {
    state: Rc<State>,
    _answering: oneshot::Sender<()>,
}

#[derive(Default)]
struct State {
    whole: Cell<bool>,
    left: Notify,
}

impl Progress {
    /// Whether it was read to its end: if not, its connection must be closed with the answer.
    pub(super) fn is_whole(&self) -> bool {
        self.state.whole.get()
    }

    /// Waits until the client has left while it was held back: nobody else would notice.
    pub(super) async fn client_left(&self) {
        self.state.left.notified().await;
    }
}

/// What is known of an upload before it comes.
pub(super) struct Promise {
    content_type: Option<String>,
    file_name: Option<String>,
    length: Option<u64>,
    sha256: Option<[u8; 32]>,
    /// A checksum is promised, and none that is known here.
    unchecked: bool,
    limit_bytes: u64,
}

impl Promise {
    /// By the headers of the request, or of its part.
    ///
    /// # Errors
    /// The upload is larger than it may be, encoded, or its checksum is none.
    pub(super) fn of(headers: &HeaderMap, limit_bytes: u64) -> Result<Self> {
        let text = |name| text(headers, name);
        let length = text(CONTENT_LENGTH).and_then(|length| length.parse().ok());
        if length.is_some_and(|length: u64| length > limit_bytes) {
            return Err(too_large(limit_bytes));
        }
        if let Some(encoding) = headers.get("content-encoding")
            && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
        {
            let message = "expected an upload without Content-Encoding";
            return Err(ToolError::new(ErrorCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        // Lines of one name are one list.
        let digests = headers.get_all("content-digest").chain(headers.get_all("repr-digest"));
        let digests: Vec<_> = digests.map(|value| value.to_str().unwrap_or_default()).collect();
        let promised = !digests.is_empty();
        let sha256 = digest(&digests.join(","))?;
        let name = headers.get(CONTENT_DISPOSITION).and_then(|value| ContentDisposition::from_raw(value).ok());
        Ok(Self {
            content_type: text(CONTENT_TYPE).map(str::to_owned),
            file_name: name.as_ref().and_then(file_name),
            length,
            sha256,
            unchecked: promised && sha256.is_none(),
            limit_bytes,
        })
    }

    /// What the client should know beside its answer.
    pub(super) fn remark(&self) -> Option<String> {
        self.unchecked.then(|| "the checksum of the upload is not checked: expected `sha-256`".to_owned())
    }

    /// A body of which only so much is known.
    pub(super) fn up_to(limit_bytes: u64) -> Self {
        Self { content_type: None, file_name: None, length: None, sha256: None, unchecked: false, limit_bytes }
    }

    /// The upload, of which these are the bytes.
    pub(super) fn stream(self, pieces: impl Stream<Item = Result<Bytes>> + Send + 'static) -> ByteStream {
        let mut stream = ByteStream::from_stream(pieces);
        if let Some(content_type) = self.content_type {
            stream = stream.with_content_type(content_type);
        }
        if let Some(name) = self.file_name {
            stream = stream.with_file_name(name);
        }
        if let Some(length) = self.length {
            stream = stream.with_len(length);
        }
        match self.sha256 {
            Some(sha256) => stream.with_sha256(sha256),
            None => stream,
        }
    }
}

fn file_name(disposition: &ContentDisposition) -> Option<String> {
    let extended = disposition.get_filename_ext().map(|name| String::from_utf8_lossy(&name.value).into_owned());
    extended.or_else(|| disposition.get_filename().map(str::to_owned))
}

/// The SHA-256 of a `Content-Digest` (RFC 9530); none where only other algorithms are named.
fn digest(header: &str) -> Result<Option<[u8; 32]>> {
    let member = header.split(',').find_map(|member| member.trim().strip_prefix("sha-256="));
    let Some(value) = member else { return Ok(None) };
    let text = value.split(';').next().and_then(|value| value.trim().strip_prefix(':')?.strip_suffix(':'));
    let bytes = text.and_then(|text| STANDARD.decode(text).ok()).and_then(|bytes| bytes.try_into().ok());
    bytes.map(Some).ok_or_else(|| {
        let expected = "sha-256=:<base64 of 32 bytes>:";
        ToolError::parameter(ErrorCode::INVALID_INPUT, "Content-Digest", expected, format!("`{value}`"))
    })
}

/// The body of a request, pumped from here on; a promise holds for all of it.
pub(super) fn pumped(request: &HttpRequest, payload: Payload, promise: Promise) -> (ByteStream, Progress) {
    let (pump, pieces) = Pump::new(request, &promise);
    let (answering, answered) = oneshot::channel();
    let progress = Progress { state: pump.state.clone(), _answering: answering };
    actix_web::rt::spawn(async move {
        let mut payload = payload;
        if !pump.run(&mut payload).await {
            drop(pump);
            let _ = answered.await;
            leave_unread(payload);
        }
    });
    (promise.stream(pieces), progress)
}

/// Brings the pieces of a body to the tool, as fast as it takes them.
struct Pump {
    sender: Sender<Result<Option<Bytes>>>,
    /// What the tool is told where there is no room for a last word.
    cut: Arc<OnceLock<ToolError>>,
    state: Rc<State>,
    socket: Option<Socket>,
    limit_bytes: u64,
    /// Of the whole request, if that is known.
    body_bytes: Option<u64>,
}

impl Pump {
    fn new(request: &HttpRequest, promise: &Promise) -> (Self, Pieces) {
        let (sender, receiver) = channel(PIECES);
        let cut = Arc::default();
        let pump = Self {
            sender,
            cut: Arc::clone(&cut),
            state: Rc::default(),
            socket: Socket::of(request),
            limit_bytes: promise.limit_bytes,
            body_bytes: text(request.headers(), CONTENT_LENGTH).and_then(|length| length.parse().ok()),
        };
        (pump, Pieces { receiver, cut })
    }

    /// Hands pieces on until the end; whether it was reached: if not, whoever reads has been told why, or has left.
    async fn run(&self, source: &mut Payload) -> bool {
        let mut read = 0;
        loop {
            let next = tokio::select! {
                biased;
                next = timeout(STALL_LIMIT, self.next(source, read)) => next,
                // The tool has left it unread.
                () = self.sender.closed() => return false,
            };
            let piece = match next {
                Ok(None) => {
                    self.state.whole.set(true);
                    self.hand(Ok(None)).await;
                    return true;
                }
                Ok(Some(Ok(piece))) if piece.len() as u64 > self.limit_bytes - read => Err(too_large(self.limit_bytes)),
                Ok(Some(Ok(piece))) => Ok(piece),
                Ok(Some(Err(error))) => Err(cut(error)),
                Err(_) => Err(stalled()),
            };
            let failed = piece.is_err();
            read += piece.as_ref().map_or(0, |piece| piece.len() as u64);
            if !self.hand(piece.map(Some)).await || failed {
                return false;
            }
        }
    }

    /// The next piece, after so many bytes.
    async fn next(&self, source: &mut Payload, read: u64) -> Option<Result<Bytes, PayloadError>> {
        // What is left may be in the library's buffers, and less would then come than is waited for.
        let bulk = read >= BULK_BYTES && self.body_bytes.is_some_and(|all| all.saturating_sub(read) >= BULK_BYTES);
        self.gather(bulk);
        if bulk && let Ok(next) = timeout(GATHERING, next(source)).await {
            return next;
        }
        self.gather(false);
        next(source).await
    }

    fn gather(&self, much: bool) {
        if let Some(socket) = &self.socket {
            socket.gather(much);
        }
    }

    /// Whether the tool takes it.
    async fn hand(&self, piece: Result<Option<Bytes>>) -> bool {
        let left = async {
            match &self.socket {
                Some(socket) => socket.left().await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            sent = self.sender.send(piece) => sent.is_ok(),
            () = left => {
                let _ = self.cut.set(client_left());
                self.state.left.notify_one();
                false
            }
        }
    }
}

/// The next item of a stream.
async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    let mut stream = pin!(stream);
    poll_fn(|context| stream.as_mut().poll_next(context)).await
}

/// What the tool reads of an upload.
struct Pieces {
    receiver: Receiver<Result<Option<Bytes>>>,
    cut: Arc<OnceLock<ToolError>>,
}

impl Stream for Pieces {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        self.receiver.poll_recv(context).map(|received| match received {
            Some(piece) => piece.transpose(),
            // Without a reason: its pump is gone with the server's worker.
            None => Some(Err(self.cut.get().cloned().unwrap_or_else(ToolError::shutting_down))),
        })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` hands it over")]
fn cut(error: PayloadError) -> ToolError {
    match error {
        PayloadError::Incomplete(_) | PayloadError::Io(_) => client_left(),
        _ => ToolError::new(ErrorCode::INVALID_REQUEST_FORMAT, "the upload could not be read"),
    }
}

fn client_left() -> ToolError {
    let message = "the client left before the upload was whole";
    ToolError::new(ErrorCode::CANCELLED, message).with_reason("upload_cut")
}

fn stalled() -> ToolError {
    let message = format!("nothing more of the upload came within {} s", STALL_LIMIT.as_secs());
    ToolError::new(ErrorCode::INVALID_REQUEST_FORMAT, message).with_reason("upload_cut")
}

pub(super) fn too_large(limit_bytes: u64) -> ToolError {
    let message = format!("the upload is larger than the {} MiB of server.upload_limit_mib", limit_bytes / 1024 / 1024);
    ToolError::new(ErrorCode::PAYLOAD_TOO_LARGE, message)
}

#[cfg(test)]
mod tests {
    use super::digest;

    #[test]
    fn a_digest_is_read_as_its_rfc_writes_it() {
        let empty = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        let found = |header: &str| digest(header).expect("is right").map(|digest| digest[0]);
        assert_eq!(found(&format!("sha-256=:{empty}:")), Some(0xe3));
        assert_eq!(found(&format!("sha-512=:AAAA:, sha-256=:{empty}:;x=1")), Some(0xe3));
        assert_eq!(found("sha-512=:AAAA:"), None);
        for wrong in ["sha-256=abc", "sha-256=:abc", "sha-256=:AAAA:", "sha-256="] {
            let error = digest(wrong).expect_err("must be refused");
            assert_eq!(error.body().parameter.as_deref(), Some("Content-Digest"), "{wrong}");
        }
    }
}
