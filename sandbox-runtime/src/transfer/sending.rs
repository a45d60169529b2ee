//! Sends the stream that a call came to, for as long as somebody reads it.

use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use sandbox_types::{ErrorCode, TraceId};
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Download, Transfer, locked};
use crate::{
    answer::LaterLog,
    bytes::{ByteStream, mark_of},
    error::{Result, ToolError},
    executor::ToolExecutor,
    supervise::catch,
    watchdog::Watched,
};

/// How long a transfer may make no progress, in either direction: until then it holds a session.
pub(crate) const STALL_LIMIT: Duration = Duration::from_mins(1);

/// The largest piece that is handed to the reader at once, so that a slow one is seen to go on.
const PIECE_BYTES: usize = 64 * 1024;

/// The bytes of a download as they come; `None` is their end, and a channel that closes without it a cut.
pub(crate) type Pieces = Receiver<Option<Bytes>>;

impl Transfer {
    /// Of a call without an upload.
    pub(crate) fn new() -> Self {
        Self { upload: Mutex::new(None), download: Mutex::new(None), kept: Mutex::new(None) }
    }

    /// Of a call with an upload, and what is to stand in its parameters for it.
    pub(crate) fn with_upload(stream: ByteStream) -> (Self, String) {
        let (mark, lent) = mark_of(stream);
        (Self { upload: Mutex::new(Some(lent)), ..Self::new() }, mark)
    }

    /// Whether an upload is waiting to be read.
    pub(crate) fn has_upload(&self) -> bool {
        locked(&self.upload).is_some()
    }

    /// Leaves the call's event in the log to its download; whether there is one.
    pub(crate) fn log_later(&self, log: impl FnOnce() -> LaterLog) -> bool {
        let mut download = locked(&self.download);
        if let Some(download) = &mut *download {
            download.log = Some(log());
        }
        download.is_some()
    }

    /// The result, if it was a stream.
    pub(crate) fn take_download(&self) -> Option<Download> {
        locked(&self.download).take()
    }
}

impl Download {
    /// Its bytes are sent as they are, all at once.
    pub(crate) fn sent_at_once(&mut self, bytes: usize) {
        if let Some(log) = &mut self.log {
            log.bytes = bytes as u64;
        }
    }

    /// Sends the stream from a task of its own, which ends, and lets go of the session, with the last byte, with its reader,
    /// with the session, at the server's end, when the reader takes nothing for a minute, or when it takes longer than any call
    /// may.
    pub(crate) fn send(self, executor: &Arc<ToolExecutor>) -> Pieces {
        let (sender, pieces) = channel(2);
        let executor = executor.clone();
        executor.clone().calls.spawn(async move {
            let Self { stream, lease, _kept, mut log } = self;
            let session = lease.as_ref().map(|lease| lease.session.cancel.clone());
            let ended = async {
                match session {
                    Some(session) => session.cancelled_owned().await,
                    None => pending().await,
                }
            };
            let meta = log.as_ref().map(LaterLog::meta);
            let watched = Watched {
                watchdog: &executor.watchdog,
                tool: meta.and_then(|meta| meta.tool.as_deref()).unwrap_or_default(),
                hook: None,
                worker: log.as_ref().map_or("", |log| log.worker.as_str()),
                trace: meta.and_then(|meta| meta.trace_id.as_ref()).map_or("", TraceId::as_str),
                run: None,
            };
            let limits = Limits { shutdown: &executor.shutdown, ended, longest: executor.limits.max };
            let mut bytes = 0;
            let sent = deliver(stream, &sender, limits, watched, &mut bytes).await;
            if let Err(error) = &sent {
                tracing::debug!(trace = watched.trace, %error, "a download was cut off");
            }
            if let Some(log) = &mut log {
                log.bytes = bytes;
                if let Err(error) = sent {
                    log.code = error.code();
                }
            }
        });
        pieces
    }
}

/// What ends a download before its end.
struct Limits<'a, F> {
    shutdown: &'a CancellationToken,
    /// Its session.
    ended: F,
    longest: Duration,
}

/// Hands everything on, and counts it; whatever ends it, the source is gone when it returns.
async fn deliver(
    mut stream: ByteStream,
    sender: &Sender<Option<Bytes>>,
    limits: Limits<'_, impl Future<Output = ()>>,
    watched: Watched<'_>,
    bytes: &mut u64,
) -> Result<()> {
    let end = Instant::now() + limits.longest;
    tokio::select! {
        biased;
        () = sender.closed() => Err(ToolError::new(ErrorCode::CANCELLED, "the client left")),
        () = limits.shutdown.cancelled() => Err(ToolError::shutting_down()),
        () = limits.ended => Err(ToolError::new(ErrorCode::CANCELLED, "the session ended during the download")),
        () = sleep_until(end) => {
            let message = format!("the download took longer than {} s", limits.longest.as_secs_f64());
            Err(ToolError::new(ErrorCode::TIMEOUT_ERROR, message))
        }
        sent = watched.awaiting(catch(copy(&mut stream, sender, bytes))) => sent.and_then(|sent| sent),
    }
}

async fn copy(stream: &mut ByteStream, sender: &Sender<Option<Bytes>>, bytes: &mut u64) -> Result<()> {
    while let Some(mut chunk) = stream.next().await? {
        while !chunk.is_empty() {
            let piece = chunk.split_to(chunk.len().min(PIECE_BYTES));
            let length = piece.len() as u64;
            hand(sender, Some(piece)).await?;
            *bytes += length;
        }
    }
    hand(sender, None).await
}

async fn hand(sender: &Sender<Option<Bytes>>, piece: Option<Bytes>) -> Result<()> {
    match timeout(STALL_LIMIT, sender.send(piece)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(ToolError::new(ErrorCode::CANCELLED, "the client left")),
        Err(_) => {
            let message = format!("the client read nothing for {} s", STALL_LIMIT.as_secs());
            Err(ToolError::new(ErrorCode::CANCELLED, message).with_reason("stalled"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        pin::Pin,
        sync::Arc,
        task::{Context, Poll},
    };

    use super::*;

    /// Without end, or with a panic; it is seen whether it is still there.
    struct Source {
        panics: bool,
        _alive: Arc<()>,
    }

    impl futures_core::Stream for Source {
        type Item = Result<Bytes>;

        fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
            assert!(!self.panics, "as asked");
            Poll::Ready(Some(Ok(Bytes::from_static(&[0; 1000]))))
        }
    }

    enum Reader {
        Slow,
        Stalled,
        Leaving,
    }

    async fn cut(panics: bool, reader: Reader, stopping: bool, ended: impl Future<Output = ()>) -> ToolError {
        let alive = Arc::new(());
        let (sender, mut pieces) = channel(2);
        let stream = ByteStream::from_stream(Source { panics, _alive: alive.clone() });
        let shutdown = CancellationToken::new();
        if stopping {
            shutdown.cancel();
        }
        let reader = tokio::spawn(async move {
            match reader {
                Reader::Slow => {
                    while pieces.recv().await.is_some() {
                        tokio::time::sleep(STALL_LIMIT.mul_f64(0.9)).await;
                    }
                }
                Reader::Stalled => pending().await,
                Reader::Leaving => tokio::time::sleep(Duration::from_secs(1)).await,
            }
            drop(pieces);
        });
        let limits = Limits { shutdown: &shutdown, ended, longest: STALL_LIMIT * 100 };
        let (watchdog, mut bytes) = (Arc::default(), 0);
        let watched =
            Watched { watchdog: &watchdog, tool: "probe:drip", hook: None, worker: "w", trace: "t", run: None };
        let error = deliver(stream, &sender, limits, watched, &mut bytes).await.expect_err("must be cut off");
        assert_eq!(Arc::strong_count(&alive), 1, "the source is gone: {error}");
        reader.abort();
        error
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_ends_a_download_drops_its_source() {
        let stalled = cut(false, Reader::Stalled, false, pending()).await;
        assert_eq!(stalled.body().reason.as_deref(), Some("stalled"));
        assert_eq!(cut(false, Reader::Leaving, false, pending()).await.message(), "the client left");
        assert_eq!(cut(true, Reader::Slow, false, pending()).await.code(), ErrorCode::UNEXPECTED_ERROR);
        assert_eq!(cut(false, Reader::Slow, true, pending()).await.code(), ErrorCode::SHUTTING_DOWN);
        let ended = cut(false, Reader::Slow, false, tokio::time::sleep(STALL_LIMIT * 5)).await;
        assert!(ended.message().contains("session ended"), "a slow reader goes on: {ended}");
        let longest = cut(false, Reader::Slow, false, pending()).await;
        assert_eq!(longest.code(), ErrorCode::TIMEOUT_ERROR, "but not for ever");
    }
}
