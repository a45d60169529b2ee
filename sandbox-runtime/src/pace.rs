//! Where a hook runs: on the runtime of the backends, or, once it is known to be quick, right where it is needed.
//!
//! Handing a future to another runtime and waiting for it costs as much as a whole request. A hook that was seen to end
//! within its first poll, in microseconds, is polled once in place; as soon as one does not, all go back to the runtime.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

/// A hook that takes longer than this keeps its caller's thread too long.
const QUICK: Duration = Duration::from_micros(50);

thread_local! {
    static KEPT_FREE: Cell<bool> = const { Cell::new(false) };
}

/// From now on nothing of a backend runs, or is dropped, on this thread, however quick it was so far: it has to answer.
#[cfg(feature = "server")]
pub(crate) fn keep_free() {
    KEPT_FREE.set(true);
}

/// Whether what belongs to a backend must leave this thread alone.
pub(crate) fn is_kept_free() -> bool {
    // A thread that is about to end answers nobody.
    KEPT_FREE.try_with(Cell::get).unwrap_or(false)
}

/// What is known of one hook of one resource.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    quick: AtomicBool,
}

/// A hook that ended in place, or must be run on the runtime.
pub(crate) enum Begun<F: Future> {
    Done(F::Output),
    Pending(Pin<Box<F>>),
}

impl Pace {
    /// Polls a quick hook once, with the timers and sockets of the backends' runtime.
    pub(crate) fn begin<F: Future>(&self, future: F, runtime: &Handle) -> Begun<F> {
        let mut future = Box::pin(future);
        if !self.quick.load(Ordering::Relaxed) || is_kept_free() {
            return Begun::Pending(future);
        }
        let _runtime = runtime.enter();
        let began = Instant::now();
        let poll = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if poll.is_pending() || began.elapsed() > QUICK {
            self.quick.store(false, Ordering::Relaxed);
        }
        match poll {
            Poll::Ready(output) => Begun::Done(output),
            Poll::Pending => Begun::Pending(future),
        }
    }

    /// Runs a hook on the runtime it is called on, and learns how quick it is.
    pub(crate) async fn observe<F: Future>(&self, mut future: Pin<Box<F>>) -> F::Output {
        let mut first = true;
        std::future::poll_fn(|context| {
            let began = Instant::now();
            let poll = future.as_mut().poll(context);
            if first && poll.is_ready() && began.elapsed() < QUICK {
                self.quick.store(true, Ordering::Relaxed);
            }
            first = false;
            poll
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Begun, Pace};

    #[tokio::test]
    async fn a_hook_runs_in_place_only_while_it_is_quick() {
        let (pace, runtime) = (Pace::default(), tokio::runtime::Handle::current());
        assert!(matches!(pace.begin(async { 1 }, &runtime), Begun::Pending(_)), "nothing is known yet");
        // The first poll of a process may be slowed down by anything; a few tries are enough.
        for _ in 0..1000 {
            pace.observe(Box::pin(async { 1 })).await;
        }
        assert!(matches!(pace.begin(async { 2 }, &runtime), Begun::Done(2)));
        let Begun::Pending(slow) = pace.begin(tokio::time::sleep(Duration::from_millis(1)), &runtime) else {
            panic!("a hook that waits must not end in place")
        };
        slow.await;
        assert!(matches!(pace.begin(async { 3 }, &runtime), Begun::Pending(_)), "it was slow once");
    }
    #[cfg(feature = "server")]
    #[tokio::test]
    async fn on_a_thread_that_is_kept_free_no_hook_runs() {
        let (pace, runtime) = (Pace::default(), tokio::runtime::Handle::current());
        pace.quick.store(true, super::Ordering::Relaxed);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                super::keep_free();
                assert!(matches!(pace.begin(async { 1 }, &runtime), Begun::Pending(_)));
            });
        });
        assert!(matches!(pace.begin(async { 2 }, &runtime), Begun::Done(2)), "it is as quick as it was elsewhere");
    }
}
