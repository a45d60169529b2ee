//! Sends the stream that a call came to, for as long as somebody reads it.

use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use sandbox_types::ErrorCode;
use serde_json::value::RawValue;
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::{sleep, timeout},
};

use super::{Streamed, Transfer, locked};
use crate::{
    answer::{Answer, failure, log_bytes, milliseconds, success},
    bytes::{ByteStream, mark_of},
    error::{Result, ToolError},
    executor::ToolExecutor,
    run::Run,
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
        Self { upload: Mutex::new(None), result: Mutex::new(None), kept: Mutex::new(None), ending: Mutex::new(None) }
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

    /// What is left to do at the end of the call's download.
    pub(crate) fn end_later(&self, ending: Ending) {
        *locked(&self.ending) = Some(ending);
    }

    /// The result, if it was a stream.
    pub(crate) fn take_download(&self) -> Option<Download> {
        let ending = locked(&self.ending).take()?;
        locked(&self.result).take().map(|streamed| Download { streamed, ending })
    }
}

/// The end of a call whose result is a stream: its run goes on, and its event in the log waits, until this is dropped.
pub(crate) struct Ending {
    executor: Arc<ToolExecutor>,
    run: Arc<Run>,
    answer: Arc<Answer>,
    entered: Option<Duration>,
    /// How much was sent.
    bytes: u64,
    sent: Result<()>,
}

impl Ending {
    pub(crate) fn new(executor: Arc<ToolExecutor>, run: Arc<Run>, answer: Arc<Answer>) -> Self {
        let entered = run.entered();
        Self { executor, run, answer, entered, bytes: 0, sent: Err(ToolError::client_left()) }
    }

    fn watched(&self) -> Watched<'_> {
        Watched {
            watchdog: &self.executor.watchdog,
            tool: self.answer.meta.tool.as_deref().unwrap_or_default(),
            hook: None,
            worker: self.run.worker.as_str(),
            trace: self.run.trace().as_str(),
            run: Some(&self.run),
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let mut meta = self.answer.meta.clone();
        meta.execution_time_ms = milliseconds(self.run.arrival.elapsed());
        let answer = match (&self.sent, &self.answer.data) {
            (Ok(()), Some(data)) => success(data.clone(), meta),
            (Ok(()), None) => success(RawValue::NULL.to_owned(), meta),
            (Err(error), _) => failure(error, meta),
        };
        log_bytes(&answer, &self.run.worker, self.entered, self.bytes);
        self.executor.end_run(&self.run, &Arc::new(answer));
    }
}

/// A result that is sent as it is.
pub(crate) struct Download {
    streamed: Streamed,
    ending: Ending,
}

impl Download {
    pub(crate) fn stream(&mut self) -> &mut ByteStream {
        &mut self.streamed.stream
    }

    /// Nothing is left to be sent: so many bytes go at once, or an error in their place.
    pub(crate) fn end(self, sent: Result<usize>) {
        let Self { streamed, mut ending } = self;
        ending.sent = sent.map(|bytes| ending.bytes = bytes as u64);
        ending.watched().during(|| drop(streamed));
    }

    /// Sends the stream from a task of its own, which ends, and lets go of the session, with the last byte, with its reader,
    /// with the session, with the run when that is cancelled, at the server's end, when the reader takes nothing for a minute,
    /// or when it takes longer than any call may.
    pub(crate) fn send(self) -> Pieces {
        let (sender, pieces) = channel(2);
        let executor = self.ending.executor.clone();
        executor.runs.list(&self.ending.run);
        executor.clone().calls.spawn(async move {
            let Self { streamed: Streamed { stream, lease, kept }, mut ending } = self;
            let run = ending.run.clone();
            let session = lease.as_ref().map(|lease| lease.session.cancel.clone());
            let ended = async {
                let ended = ToolError::new(ErrorCode::CANCELLED, "the session ended during the download");
                match session {
                    Some(session) => session.cancelled_owned().await,
                    None => pending().await,
                }
                ended
            };
            let cut = async {
                tokio::select! {
                    error = ended => error,
                    () = executor.shutdown.cancelled() => ToolError::shutting_down(),
                    () = run.cancelled().cancelled() => ToolError::run_cancelled(),
                    () = sleep(executor.limits.max) => {
                        let message = format!("the download took longer than {} s", executor.limits.max.as_secs_f64());
                        ToolError::new(ErrorCode::TIMEOUT_ERROR, message)
                    }
                }
            };
            let mut bytes = 0;
            let sent = deliver(stream, &sender, cut, ending.watched(), &mut bytes).await;
            if let Err(error) = &sent {
                tracing::debug!(trace = run.trace().as_str(), %error, "a download was cut off");
            }
            (ending.bytes, ending.sent) = (bytes, sent);
            // When the run is over, what it used is free.
            drop((lease, kept));
        });
        pieces
    }
}

/// Hands everything on, and counts it; whatever ends it, the source is gone when it returns.
async fn deliver(
    mut stream: ByteStream,
    sender: &Sender<Option<Bytes>>,
    cut: impl Future<Output = ToolError>,
    watched: Watched<'_>,
    bytes: &mut u64,
) -> Result<()> {
    let length = stream.len();
    let sent = tokio::select! {
        biased;
        () = sender.closed() => Err(ToolError::client_left()),
        error = cut => Err(error),
        sent = watched.awaiting(catch(copy(&mut stream, sender, bytes))) => sent.and_then(|sent| sent),
    };
    watched.during(|| drop(stream));
    match sent {
        // The reader had all that it was promised, and did not wait for the end of the source.
        Err(error) if error.is_client_left() && length == Some(*bytes) => Ok(()),
        sent => sent,
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
        Ok(Err(_)) => Err(ToolError::client_left()),
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

    async fn cut(panics: bool, reader: Reader, cut: impl Future<Output = ToolError>) -> ToolError {
        let alive = Arc::new(());
        let (sender, mut pieces) = channel(2);
        let stream = ByteStream::from_stream(Source { panics, _alive: alive.clone() });
        let reader = tokio::spawn(async move {
            match reader {
                Reader::Slow => {
                    while pieces.recv().await.is_some() {
                        sleep(STALL_LIMIT.mul_f64(0.9)).await;
                    }
                }
                Reader::Stalled => pending().await,
                Reader::Leaving => sleep(Duration::from_secs(1)).await,
            }
            drop(pieces);
        });
        let (watchdog, mut bytes) = (Arc::default(), 0);
        let watched =
            Watched { watchdog: &watchdog, tool: "probe:drip", hook: None, worker: "w", trace: "t", run: None };
        let error = deliver(stream, &sender, cut, watched, &mut bytes).await.expect_err("must be cut off");
        assert_eq!(Arc::strong_count(&alive), 1, "the source is gone: {error}");
        reader.abort();
        error
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_ends_a_download_drops_its_source() {
        let stalled = cut(false, Reader::Stalled, pending()).await;
        assert_eq!(stalled.body().reason.as_deref(), Some("stalled"));
        assert_eq!(cut(false, Reader::Leaving, pending()).await.message(), "the client left");
        assert_eq!(cut(true, Reader::Slow, pending()).await.code(), ErrorCode::UNEXPECTED_ERROR);
        let later = async {
            sleep(STALL_LIMIT * 5).await;
            ToolError::shutting_down()
        };
        let ended = cut(false, Reader::Slow, later).await;
        assert_eq!(ended.code(), ErrorCode::SHUTTING_DOWN, "a slow reader goes on: {ended}");
    }
}
