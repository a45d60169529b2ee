//! The control port: a thread and a runtime of its own, so that it answers while tools block every worker.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::mpsc,
    thread::JoinHandle,
};

use actix_web::rt::System;
use tokio::sync::oneshot;

use super::{Parts, on, routes};
use crate::pace;

/// A control port that answers; dropped, it ends soon.
pub(super) struct Control {
    address: SocketAddr,
    /// Its drop ends the port.
    end: oneshot::Sender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl Control {
    /// Answers from now on.
    ///
    /// # Errors
    /// The system gives no thread, or nothing to serve with.
    pub(super) fn start(listener: TcpListener, parts: Parts) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (end, ended) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("sandbox-control".into())
            .spawn(move || serve(listener, parts, ended, &ready))?;
        let control = Self { address, end, thread };
        // A sender that is gone means that the thread ended.
        if is_ready.recv().is_err() { control.stop().and(Err(io::ErrorKind::Other.into())) } else { Ok(control) }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it; nothing is left of it then.
    ///
    /// # Errors
    /// It failed.
    pub(super) fn stop(self) -> io::Result<()> {
        drop(self.end);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread of the control port panicked")))
    }
}

fn serve(
    listener: TcpListener,
    parts: Parts,
    ended: oneshot::Receiver<()>,
    ready: &mpsc::Sender<()>,
) -> io::Result<()> {
    System::new().block_on(async move {
        let server = on(listener, 1, parts, routes::configure_control, pace::keep_free)?;
        let handle = server.handle();
        let serving = actix_web::rt::spawn(server);
        let _ = ready.send(());
        let _ = ended.await;
        handle.stop(true).await;
        serving.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    })
}
