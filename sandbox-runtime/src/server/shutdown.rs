//! The end of the server: drain, clean up, stop.

use std::{sync::Arc, time::Duration};

use actix_web::dev::ServerHandle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::{executor::ToolExecutor, host::Host};

/// How long the workers may take to stop: twice what their connections get.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// How to stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    /// Do not wait for running calls.
    pub(crate) force: bool,
    /// Whether sessions get their cleanup.
    pub(crate) cleanup_sessions: bool,
}

/// Turns SIGTERM and Ctrl-C into stops: the first drains, the second no longer waits for calls.
pub(super) fn on_signals(stop: UnboundedSender<Stop>) {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            for force in [false, true] {
                tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
                if stop.send(Stop { force, cleanup_sessions: true }).is_err() {
                    break;
                }
            }
            std::io::Result::Ok(())
        })
    };
    let spawned = std::thread::Builder::new().name("sandbox-signals".into()).spawn(move || {
        if let Err(error) = listen() {
            tracing::error!("signals cannot be listened for: {error}");
        }
    });
    if let Err(error) = spawned {
        tracing::error!("signals cannot be listened for: {error}");
    }
}

/// Waits for the first stop, then ends everything; a later stop with `force` hurries it. Whether every worker has stopped.
pub(super) async fn when_told(
    mut stops: UnboundedReceiver<Stop>,
    host: &Host,
    executor: &Arc<ToolExecutor>,
    handle: &ServerHandle,
) -> bool {
    let stop = stops.recv().await.unwrap_or(Stop { force: true, cleanup_sessions: true });
    tracing::info!("shutting down");
    executor.drain();
    // Connections are taken until the end: `/ready` and every answer say that the server drains, and who waits for it
    // to be gone is not left hanging.
    let limit = if stop.force { Duration::ZERO } else { host.drain_limit() };
    let ending = executor.clone();
    let mut end = host.handle().spawn(async move { ending.shutdown(limit, stop.cleanup_sessions).await });
    let ended = loop {
        tokio::select! {
            ended = &mut end => break ended.unwrap_or_default(),
            Some(stop) = stops.recv() => if stop.force {
                executor.cancel_calls();
            },
        }
    };
    tracing::info!(sessions = ended, "sessions cleaned up");
    let stopped = tokio::time::timeout(STOP_PATIENCE, handle.stop(true)).await.is_ok();
    if !stopped {
        // Nothing can take a thread from its tool; it ends with the process.
        tracing::error!(blocked_threads = executor.watchdog.blocked(), "workers that tools block are left behind");
    }
    stopped
}
