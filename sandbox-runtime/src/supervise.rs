//! Runs a call under its time limit, its cancellation and a net for panics.

use std::{
    any::Any,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use sandbox_types::ErrorCode;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{
    context::{Entered, Limits},
    error::{Result, ToolError},
    session::{EndReason, Session},
    watchdog::Watched,
};

pin_project! {
    /// A future whose panics are errors, and what is done with its result. As large as the future: an `async` block that
    /// awaits another holds it twice.
    pub(crate) struct Caught<F, T> {
        #[pin]
        future: F,
        then: Option<T>,
    }
}

impl<F: Future, T: FnOnce(Result<F::Output>) -> R, R> Future for Caught<F, T> {
    type Output = R;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<R> {
        let this = self.project();
        let result = match catch_unwind(AssertUnwindSafe(|| this.future.poll(context))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(panic) => Err(panicked(&*panic)),
        };
        match this.then.take() {
            Some(then) => Poll::Ready(then(result)),
            // Polled after its end, which no executor does.
            None => Poll::Pending,
        }
    }
}

/// Hands the result of the future on, a panic of it as an error.
pub(crate) fn caught<F: Future, R>(future: F, then: impl FnOnce(Result<F::Output>) -> R) -> impl Future<Output = R> {
    Caught { future, then: Some(then) }
}

/// Turns a panic of the future into an error.
pub(crate) fn catch<F: Future>(future: F) -> impl Future<Output = Result<F::Output>> {
    caught(future, |result| result)
}

/// The answer to a panic: its message is for the log, the client learns only that it happened.
fn panicked(panic: &(dyn Any + Send)) -> ToolError {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text.unwrap_or("(no text)"), "a tool or hook panicked");
    ToolError::new(ErrorCode::UNEXPECTED_ERROR, "the tool panicked")
}

/// Why a call is to end before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Cause {
    Deadline = 1,
    Disconnect = 2,
    SessionEnded = 3,
    Shutdown = 4,
    Cancelled = 5,
}

/// The handle by which a call is cancelled.
pub(crate) struct CallControl {
    pub(crate) cancel: CancellationToken,
    cause: AtomicU8,
    parent: Option<Arc<CallControl>>,
}

impl CallControl {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { cancel: CancellationToken::new(), cause: AtomicU8::new(0), parent: None })
    }

    /// A control that is cancelled with its parent.
    pub(crate) fn child(self: &Arc<Self>) -> Arc<Self> {
        Arc::new(Self { cancel: self.cancel.child_token(), cause: AtomicU8::new(0), parent: Some(self.clone()) })
    }

    /// A control that is cancelled with a token.
    pub(crate) fn under(token: &CancellationToken) -> Arc<Self> {
        Arc::new(Self { cancel: token.child_token(), cause: AtomicU8::new(0), parent: None })
    }

    pub(crate) fn fire(&self, cause: Cause) {
        let _ = self.cause.compare_exchange(0, cause as u8, Ordering::AcqRel, Ordering::Acquire);
        self.cancel.cancel();
    }

    /// The client left.
    pub(crate) fn disconnect(&self) {
        self.fire(Cause::Disconnect);
    }

    pub(crate) fn cause(&self) -> Cause {
        match self.cause.load(Ordering::Acquire) {
            1 => Cause::Deadline,
            3 => Cause::SessionEnded,
            4 => Cause::Shutdown,
            5 => Cause::Cancelled,
            2 => Cause::Disconnect,
            _ => self.parent.as_ref().map_or(Cause::Disconnect, |parent| parent.cause()),
        }
    }
}

/// What the supervisor learns of a call while it runs.
#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) entered: Entered,
    pub(crate) session: OnceLock<Arc<Session>>,
}

/// When a limit of `total` that ends at `end` fires the token, and when the future is dropped at the latest.
fn marks(end: Instant, total: Duration) -> (Instant, Instant) {
    let grace = (total / 5).min(Duration::from_secs(2));
    // The answer leaves by 0.98 of the limit: clients that wait exactly that long still get it.
    (end - grace, end - total / 50)
}

/// Runs the future to its end, to its time limit, or to its cancellation; then it is dropped.
///
/// The token fires some time before the limit; what the future returns within that grace is the answer. The watchdog sees
/// each poll, and the drop, which may block as well.
///
/// # Errors
/// The future's own, [`ErrorCode::TIMEOUT_ERROR`], [`ErrorCode::CANCELLED`], [`ErrorCode::SESSION_GONE`],
/// [`ErrorCode::SHUTTING_DOWN`], or [`ErrorCode::UNEXPECTED_ERROR`] after a panic.
pub(crate) async fn supervise<T, F: Future<Output = Result<T>>>(
    mut future: Pin<&mut Option<F>>,
    control: &CallControl,
    limits: Limits,
    facts: &Facts,
    shutdown: &CancellationToken,
    watched: Watched<'_>,
    begins_to_wait: impl Fn(),
) -> Result<T> {
    let mut watch: Option<Box<Watch>> = None;
    poll_fn(|context| {
        let Some(running) = future.as_mut().as_pin_mut() else { return Poll::Pending };
        match watched.during(|| catch_unwind(AssertUnwindSafe(|| running.poll(context)))) {
            Ok(Poll::Ready(result)) => return Poll::Ready(result),
            Ok(Poll::Pending) => {}
            Err(panic) => return Poll::Ready(Err(panicked(&*panic))),
        }
        // A call that is ready at once never gets here: timers and wakers cost nothing then.
        let watch = watch.get_or_insert_with(|| {
            begins_to_wait();
            Box::new(Watch::new(control, shutdown))
        });
        let cut = watch.poll(context, control, limits, facts);
        if cut.is_ready() {
            watched.during(|| future.set(None));
        }
        cut
    })
    .await
}

/// The timers and wakers of a call that has to wait.
struct Watch {
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    session: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
    timer: Pin<Box<Sleep>>,
    /// Set when the token has fired.
    drop_at: Option<Instant>,
}

impl Watch {
    fn new(control: &CallControl, shutdown: &CancellationToken) -> Self {
        Self {
            shutdown: Box::pin(shutdown.clone().cancelled_owned()),
            cancelled: Box::pin(control.cancel.clone().cancelled_owned()),
            session: None,
            timer: Box::pin(tokio::time::sleep_until(Instant::now())),
            drop_at: None,
        }
    }

    fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        control: &CallControl,
        limits: Limits,
        facts: &Facts,
    ) -> Poll<Result<T>> {
        let entered = facts.entered.get();
        let (end, total) = match (limits.run, entered) {
            (Some(run), Some(entered)) => (limits.arrival + entered + run, run),
            _ => (limits.arrival + limits.wait, limits.wait),
        };
        let (fire_at, last) = marks(end, total);
        if let (None, Some(session)) = (&self.session, facts.session.get()) {
            self.session = Some(Box::pin(session.cancel.clone().cancelled_owned()));
        }
        if self.drop_at.is_none() {
            if self.session.as_mut().is_some_and(|ended| ended.as_mut().poll(context).is_ready()) {
                control.fire(Cause::SessionEnded);
            } else if self.shutdown.as_mut().poll(context).is_ready() {
                control.fire(Cause::Shutdown);
            } else if Instant::now() >= fire_at {
                control.fire(Cause::Deadline);
            }
            if self.cancelled.as_mut().poll(context).is_ready() {
                let cause = control.cause();
                let now = Instant::now();
                self.drop_at = Some(match (cause, entered) {
                    (Cause::Deadline, _) => last,
                    // Nothing has begun that could be brought to an end.
                    (_, None) => now,
                    (_, Some(_)) => last.min(now + (total / 5).min(Duration::from_secs(2))),
                });
            }
        }
        let next = self.drop_at.unwrap_or(fire_at);
        if self.timer.deadline() != next {
            self.timer.as_mut().reset(next);
        }
        if self.timer.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        if self.drop_at.is_none() {
            // The token fires now; the tool gets its chance with the next poll, which firing has asked for.
            control.fire(Cause::Deadline);
            self.drop_at = Some(last);
            self.timer.as_mut().reset(last);
            context.waker().wake_by_ref();
            let _ = self.timer.as_mut().poll(context);
            return Poll::Pending;
        }
        Poll::Ready(Err(cut(control.cause(), total, facts)))
    }
}

fn cut(cause: Cause, total: Duration, facts: &Facts) -> ToolError {
    match cause {
        Cause::Deadline => {
            let what = if facts.entered.get().is_some() { "the tool ran" } else { "the call waited" };
            ToolError::new(
                ErrorCode::TIMEOUT_ERROR,
                format!("{what} longer than its limit of {} s", total.as_secs_f64()),
            )
        }
        Cause::Disconnect => ToolError::client_left(),
        Cause::Cancelled => ToolError::run_cancelled(),
        Cause::Shutdown => ToolError::new(ErrorCode::SHUTTING_DOWN, "the server is shutting down"),
        Cause::SessionEnded => {
            let reason = facts.session.get().and_then(|session| session.ended());
            let reason = reason.unwrap_or(EndReason::Destroyed);
            let code = if reason.asked_for() { ErrorCode::CANCELLED } else { ErrorCode::SESSION_GONE };
            ToolError::new(code, "the session ended during the call").with_reason(reason.as_str())
        }
    }
}
