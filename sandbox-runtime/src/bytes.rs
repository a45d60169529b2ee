//! `ByteStream`: an upload or a download of any size, as an argument or as the result of a tool.

mod file;
mod json;
mod save;

use std::{
    fmt,
    future::poll_fn,
    path::Path,
    pin::Pin,
    task::{Context, Poll, ready},
    time::SystemTime,
};

use bytes::Bytes;
use futures_core::Stream;
use sandbox_types::ErrorCode;
use sha2::{Digest, Sha256};
use tokio::io::AsyncRead;

use crate::error::{Result, ToolError};
use file::FileSource;

pub use json::Content;
#[cfg(feature = "server")]
pub(crate) use json::mark_of;
pub(crate) use json::{Lent, parameter, parse_with};
pub use save::Saved;

/// What is read from an [`AsyncRead`] at once.
const READ_BYTES: usize = 128 * 1024;

/// Bytes that come, or go, piece by piece: an upload that a tool takes by value, or a download that it returns.
///
/// Over HTTP the bytes travel beside the JSON (`POST /execute/{tool}`), with back-pressure both ways; in JSON, small ones
/// travel as base64. What was read is whole only once [`next`](Self::next) has answered `None`: an upload that was cut
/// off, is too large, or has not the promised checksum ends with an error.
///
/// ```
/// use sandbox_runtime::prelude::*;
///
/// #[derive(Default)]
/// struct Store;
///
/// /// Keeps one file.
/// #[backend(name = "store")]
/// impl Store {
///     /// Store the file; answers its size and checksum.
///     #[tool]
///     async fn put(&self, file: ByteStream) -> Result<Saved> {
///         file.save("/var/lib/store/file").await
///     }
///
///     /// The file.
///     #[tool(read_only)]
///     async fn get(&self) -> Result<ByteStream> {
///         Ok(ByteStream::from_file("/var/lib/store/file").await?.with_content_type("text/plain"))
///     }
/// }
/// ```
pub struct ByteStream {
    content_type: Option<String>,
    file_name: Option<String>,
    len: Option<u64>,
    sha256: Option<[u8; 32]>,
    etag: Option<String>,
    last_modified: Option<SystemTime>,
    source: Source,
    read: u64,
    hasher: Option<Sha256>,
    ended: bool,
    /// Said again to whoever goes on reading: after a failure there is no end that could be taken for a clean one.
    failed: Option<ToolError>,
}

enum Source {
    Memory(Bytes),
    File(FileSource),
    Stream(Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>),
}

impl ByteStream {
    fn new(source: Source, len: Option<u64>) -> Self {
        Self {
            content_type: None,
            file_name: None,
            len,
            sha256: None,
            etag: None,
            last_modified: None,
            source,
            read: 0,
            hasher: None,
            ended: false,
            failed: None,
        }
    }

    /// Of bytes in memory. A download of them can be asked for in parts.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let len = bytes.len() as u64;
        Self::new(Source::Memory(bytes), Some(len))
    }

    /// Of a regular file. A download of it can be asked for in parts, and has an `ETag`.
    ///
    /// # Errors
    /// [`ErrorCode::NOT_FOUND`] where there is none, [`ErrorCode::EXECUTION_ERROR`] where it cannot be read or is no regular
    /// file. The message does not hold the path.
    pub async fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        save::blocking(move || FileSource::open(&path)).await?.map(Self::of_source)
    }

    /// Of a regular file that is open, from its beginning.
    ///
    /// # Errors
    /// [`ErrorCode::EXECUTION_ERROR`] where it is no regular file.
    pub fn from_open_file(file: std::fs::File) -> Result<Self> {
        FileSource::of(file).map(Self::of_source)
    }

    fn of_source(file: FileSource) -> Self {
        let (etag, last_modified, len) = (file.etag.clone(), file.modified, file.left());
        let mut stream = Self::new(Source::File(file), Some(len));
        stream.etag = Some(etag);
        stream.last_modified = last_modified;
        stream
    }

    /// Of a stream; an error of the stream cuts the download off.
    pub fn from_stream(stream: impl Stream<Item = Result<Bytes>> + Send + 'static) -> Self {
        Self::new(Source::Stream(Box::pin(stream)), None)
    }

    /// Of a reader, such as the output of a process.
    pub fn from_reader(reader: impl AsyncRead + Send + 'static) -> Self {
        let reader = tokio_util::io::ReaderStream::with_capacity(reader, READ_BYTES);
        Self::from_stream(Reader(Box::pin(reader)))
    }

    /// Says what the bytes are; `application/octet-stream` if nothing does.
    pub fn with_content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// Names the file; of a path, its last part is kept.
    pub fn with_file_name(mut self, name: impl AsRef<str>) -> Self {
        self.file_name = last_part(name.as_ref());
        self
    }

    /// Says how many bytes will come; more, or fewer, are an error.
    pub fn with_len(mut self, len: u64) -> Self {
        self.len = Some(len);
        self
    }

    /// Says what their SHA-256 is: who reads them to the end gets an error if it is another. A client is told it.
    pub fn with_sha256(mut self, sha256: [u8; 32]) -> Self {
        self.sha256 = Some(sha256);
        self
    }

    /// Says what changes when the content does, as the header `ETag` has it: `"v1"`, quotes included.
    pub fn with_etag(mut self, etag: impl Into<String>) -> Self {
        self.etag = Some(etag.into());
        self
    }

    /// The `Content-Type`, as the client or the tool gave it.
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// The name of the file, as the client or the tool gave it: no path, but nothing else is certain of it.
    pub fn file_name(&self) -> Option<&str> {
        self.file_name.as_deref()
    }

    /// How many bytes there are in all, if that is known.
    #[expect(clippy::len_without_is_empty, reason = "whether it is empty is seen when it is read")]
    pub fn len(&self) -> Option<u64> {
        self.len
    }

    /// What changes when the content does.
    pub fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    /// When the content changed last.
    pub fn last_modified(&self) -> Option<SystemTime> {
        self.last_modified
    }

    /// The SHA-256 that it says it has.
    pub fn sha256(&self) -> Option<&[u8; 32]> {
        self.sha256.as_ref()
    }

    /// The next bytes; `None` at the end. Not before: an empty piece is never answered.
    ///
    /// # Errors
    /// The stream is cut: the client left or sends nothing more, the upload is larger than the server takes, its length or
    /// its checksum is wrong; or what the source says.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        if let Some(error) = &self.failed {
            return Poll::Ready(Err(error.clone()));
        }
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        let chunk = ready!(self.source.poll(context)).and_then(|chunk| self.account(chunk));
        match &chunk {
            Ok(Some(_)) => {}
            Ok(None) => self.ended = true,
            Err(error) => self.failed = Some(error.clone()),
        }
        Poll::Ready(chunk)
    }

    /// Holds what came against what was promised.
    fn account(&mut self, chunk: Option<Bytes>) -> Result<Option<Bytes>> {
        self.read += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        let wrong = |len: u64, found: &str| {
            let message = format!("the content is not whole: expected {len} bytes, found {found}");
            Err(ToolError::new(ErrorCode::EXECUTION_ERROR, message).with_reason("length"))
        };
        match (&chunk, self.len) {
            (Some(_), Some(len)) if self.read > len => return wrong(len, "more"),
            (None, Some(len)) if self.read < len => return wrong(len, &self.read.to_string()),
            _ => {}
        }
        let Some(expected) = self.sha256 else { return Ok(chunk) };
        match &chunk {
            Some(chunk) => self.hasher.get_or_insert_default().update(chunk),
            None => agree(expected, self.hasher.take().unwrap_or_default().finalize().into())?,
        }
        Ok(chunk)
    }

    /// Everything, in memory.
    ///
    /// # Errors
    /// Those of [`next`](Self::next), and [`ErrorCode::PAYLOAD_TOO_LARGE`] beyond `max_bytes`.
    pub async fn read_to_end(mut self, max_bytes: usize) -> Result<Bytes> {
        let max = max_bytes as u64;
        if self.len.is_some_and(|len| len > max) {
            return Err(too_large(max));
        }
        let Some(first) = self.next().await? else { return Ok(Bytes::new()) };
        let Some(second) = self.next().await? else {
            return if first.len() > max_bytes { Err(too_large(max)) } else { Ok(first) };
        };
        let expected = usize::try_from(self.len.unwrap_or(0)).unwrap_or(0);
        let mut all = Vec::with_capacity(expected.max(first.len() + second.len()));
        all.extend_from_slice(&first);
        let mut next = Some(second);
        while let Some(chunk) = next {
            if all.len() + chunk.len() > max_bytes {
                return Err(too_large(max));
            }
            all.extend_from_slice(&chunk);
            next = self.next().await?;
        }
        Ok(all.into())
    }

    /// Writes everything into a file, which is there only once it is whole: until then it grows without a name, so that
    /// nothing is left of it even when the process is killed. (On file systems without nameless files, such as NFS, and while
    /// it takes the place of another file, it stands beside the target as `.upload-*.part`, which goes with the stream's failure
    /// and with the future that is dropped, but not with a process that is killed.) Another file of the target's name is
    /// replaced.
    ///
    /// # Errors
    /// Those of [`next`](Self::next), and [`ErrorCode::EXECUTION_ERROR`] where the file cannot be written; its message does
    /// not hold the path.
    pub async fn save(self, path: impl AsRef<Path>) -> Result<Saved> {
        save::save(self, path.as_ref().to_owned()).await
    }

    /// As a reader, for libraries that take one.
    pub fn into_reader(self) -> impl AsyncRead + Send {
        tokio_util::io::StreamReader::new(Fallible(self))
    }
}

/// What the server does with a download.
#[cfg(feature = "server")]
impl ByteStream {
    /// Whether a part of it can be had.
    pub(crate) fn is_seekable(&self) -> bool {
        matches!(self.source, Source::Memory(_) | Source::File(_))
    }

    /// The content, if it is in memory.
    pub(crate) fn in_memory(&self) -> Option<&Bytes> {
        if let Source::Memory(bytes) = &self.source { Some(bytes) } else { None }
    }

    /// Leaves only a part of what is seekable: `len` bytes from `start`, which there are.
    pub(crate) fn narrow(&mut self, start: u64, len: u64) {
        match &mut self.source {
            Source::Memory(bytes) => {
                let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                *bytes = bytes.slice(place(start)..place(start + len));
            }
            Source::File(file) => file.narrow(start, len),
            Source::Stream(_) => return,
        }
        self.len = Some(len);
        // Of the whole, not of the part.
        self.sha256 = None;
    }
}

impl Source {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        match self {
            Self::Memory(bytes) => {
                let all = std::mem::take(bytes);
                Poll::Ready(Ok((!all.is_empty()).then_some(all)))
            }
            Self::File(file) => file.poll(context),
            Self::Stream(stream) => loop {
                match ready!(stream.as_mut().poll_next(context)) {
                    Some(Ok(chunk)) if chunk.is_empty() => {}
                    chunk => return Poll::Ready(chunk.transpose()),
                }
            },
        }
    }
}

impl Stream for ByteStream {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        if self.failed.is_some() {
            // Said once: what collects a stream waits for its end.
            return Poll::Ready(None);
        }
        self.poll(context).map(Result::transpose)
    }
}

impl fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteStream")
            .field("content_type", &self.content_type)
            .field("file_name", &self.file_name)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl From<Bytes> for ByteStream {
    fn from(bytes: Bytes) -> Self {
        Self::from_bytes(bytes)
    }
}

impl From<Vec<u8>> for ByteStream {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from_bytes(bytes)
    }
}

/// The stream of a reader, its errors as those of a tool.
struct Reader<S>(Pin<Box<S>>);

impl<S: Stream<Item = std::io::Result<Bytes>>> Stream for Reader<S> {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        let unreadable = |error| save::io_error("the content cannot be read", &error);
        self.0.as_mut().poll_next(context).map(|next| next.map(|chunk| chunk.map_err(unreadable)))
    }
}

/// A stream whose errors are those of a reader.
struct Fallible(ByteStream);

impl Stream for Fallible {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll(context).map(|chunk| chunk.transpose().map(|chunk| chunk.map_err(std::io::Error::other)))
    }
}

/// A checksum as it was promised, and as it is.
fn agree(expected: [u8; 32], found: [u8; 32]) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    let message = format!("the checksum is wrong: expected sha-256 {}, found {}", hex(&expected), hex(&found));
    Err(ToolError::new(ErrorCode::INVALID_INPUT, message).with_reason("checksum"))
}

fn too_large(max_bytes: u64) -> ToolError {
    ToolError::new(ErrorCode::PAYLOAD_TOO_LARGE, format!("the content is larger than {max_bytes} bytes"))
}

fn hex(digest: &[u8; 32]) -> String {
    use fmt::Write as _;
    digest.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The last part of a path, of this system or of another.
fn last_part(name: &str) -> Option<String> {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let last: String = last.chars().filter(|c| !c.is_control()).collect();
    (!matches!(last.trim(), "" | "." | "..")).then_some(last)
}

#[cfg(test)]
mod tests;
