//! Tools of `probe` that take or return streams.

use std::{
    path::PathBuf,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use sandbox_runtime::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::{
    io::{AsyncRead, ReadBuf},
    time::{Sleep, sleep},
};

use super::{Probe, Session, stall::until_released};

/// Sources of downloads that exist now.
static SOURCES: AtomicU64 = AtomicU64::new(0);

#[derive(Serialize, JsonSchema)]
struct Seen {
    bytes: u64,
    pieces: u64,
    declared: Option<u64>,
    content_type: Option<String>,
    file_name: Option<String>,
}

/// Where files of the test are: `PROBE_FOLDER`.
fn place(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("PROBE_FOLDER").unwrap_or_default()).join(name)
}

#[tools]
impl Probe {
    /// Store an upload.
    #[tool]
    async fn store(&self, file: ByteStream, name: String) -> Result<Saved> {
        file.save(place(&name)).await
    }

    /// Store an upload, with a session.
    #[tool]
    async fn store_in(&self, session: &mut Session, file: ByteStream, name: String) -> Result<Saved> {
        session.total += 1;
        file.save(place(&name)).await
    }

    /// Read an upload, with a pause after each piece, and wait before the first.
    #[tool]
    async fn measure(
        &self,
        file: ByteStream,
        #[default = 0] wait_ms: u64,
        #[default = 0] pause_ms: u64,
        most_pieces: Option<u64>,
        most_bytes: Option<u64>,
    ) -> Result<Seen> {
        let mut file = file;
        let mut seen = Seen {
            bytes: 0,
            pieces: 0,
            declared: file.len(),
            content_type: file.content_type().map(str::to_owned),
            file_name: file.file_name().map(str::to_owned),
        };
        sleep(Duration::from_millis(wait_ms)).await;
        while most_pieces.is_none_or(|most| seen.pieces < most)
            && most_bytes.is_none_or(|most| seen.bytes < most)
            && let Some(piece) = file.next().await?
        {
            seen.bytes += piece.len() as u64;
            seen.pieces += 1;
            sleep(Duration::from_millis(pause_ms)).await;
        }
        Ok(seen)
    }

    /// An upload that may be left out.
    #[tool]
    async fn maybe(&self, file: Option<ByteStream>, #[default = 1] times: u32) -> Result<String> {
        match file {
            Some(file) => {
                let bytes = file.read_to_end(1000).await?;
                Ok(String::from_utf8_lossy(&bytes).repeat(times as usize))
            }
            None => Ok("nothing".into()),
        }
    }

    /// Send an upload back.
    #[tool]
    async fn echo(&self, file: ByteStream) -> Result<ByteStream> {
        Ok(file)
    }

    /// A file.
    #[tool(read_only)]
    async fn load(&self, name: String, download: Option<String>) -> Result<ByteStream> {
        let file = ByteStream::from_file(place(&name)).await?.with_content_type("text/plain");
        Ok(match download {
            Some(name) => file.with_file_name(name),
            None => file,
        })
    }

    /// A text.
    #[tool(read_only)]
    async fn say(&self, text: String) -> Result<ByteStream> {
        Ok(ByteStream::from_bytes(text).with_content_type("text/html"))
    }

    /// Zeros from a session, without end or until `bytes`, with a pause before each piece.
    #[tool(read_only)]
    async fn drip(
        &self,
        session: &Session,
        bytes: Option<u64>,
        #[default = 0] pause_ms: u64,
        declared: Option<u64>,
    ) -> Result<ByteStream> {
        let _ = session;
        SOURCES.fetch_add(1, Ordering::Relaxed);
        let pause = Duration::from_millis(pause_ms);
        let source = Drip { left: bytes.unwrap_or(u64::MAX), pause, waiting: Box::pin(sleep(pause)) };
        let stream = ByteStream::from_reader(source);
        Ok(match declared {
            Some(len) => stream.with_len(len),
            None => stream,
        })
    }

    /// Zeros without end, once the call is told to come to its own.
    #[tool(read_only)]
    async fn drip_late(&self, token: &CancellationToken) -> Result<ByteStream> {
        token.cancelled().await;
        SOURCES.fetch_add(1, Ordering::Relaxed);
        let pause = Duration::from_millis(10);
        Ok(ByteStream::from_reader(Drip { left: u64::MAX, pause, waiting: Box::pin(sleep(pause)) }))
    }

    /// Let go of an upload, and go on for a while.
    #[tool]
    async fn dismiss(&self, file: ByteStream, ms: u64) -> Result<()> {
        drop(file);
        sleep(Duration::from_millis(ms)).await;
        Ok(())
    }

    /// Zeros whose source blocks the thread that serves.
    #[tool(read_only)]
    async fn stall_source(&self, session: &Session) -> Result<ByteStream> {
        let _ = session;
        Ok(ByteStream::from_reader(Stalling(1000)))
    }

    /// How many sources of downloads there are.
    #[tool(read_only)]
    async fn sources(&self) -> Result<u64> {
        Ok(SOURCES.load(Ordering::Relaxed))
    }
}

/// So many zeros; the thread is blocked before they come.
struct Stalling(usize);

impl AsyncRead for Stalling {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        until_released();
        let bytes = std::mem::take(&mut self.0);
        buffer.initialize_unfilled_to(bytes);
        buffer.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

struct Drip {
    left: u64,
    pause: Duration,
    waiting: Pin<Box<Sleep>>,
}

impl AsyncRead for Drip {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        ready!(self.waiting.as_mut().poll(context));
        let pause = self.pause;
        self.waiting.set(sleep(pause));
        let bytes = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.remaining());
        buffer.initialize_unfilled_to(bytes);
        buffer.advance(bytes);
        self.left -= bytes as u64;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Drip {
    fn drop(&mut self) {
        SOURCES.fetch_sub(1, Ordering::Relaxed);
    }
}
