//! Ctrl-C and SIGTERM.

use std::{future::Future, io, pin::pin};

use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

/// Ctrl-C and SIGTERM, from when it is made.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    count: usize,
}

impl Signals {
    pub(crate) fn new(runtime: &Runtime) -> io::Result<Self> {
        let _inside = runtime.enter();
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, count: 0 })
    }

    /// How many came and were noticed.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// What the future answers; `None` when a signal came first.
    pub(crate) async fn or<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            answer = pin!(future) => return Some(answer),
        }
        self.count += 1;
        None
    }
}
