//! A running resource: its start, its limits, and the cleanup of its sessions.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use sandbox_types::{ErrorCode, ResourceInfo, ResourceLimits, TraceId};
use serde_json::Value;
use tokio::{sync::watch, time::Instant};
use tokio_util::task::TaskTracker;

use crate::{
    answer::milliseconds,
    backend::About,
    context::{Entered, Inner, Limits, ResourceContext, SessionChoice, ToolContext},
    creation::Slot,
    erase::{Cleaned, DynInstance},
    error::{Result, ToolError},
    gate::Gate,
    pace::{Begun, Pace},
    schema::ParamsSchema,
    session::{EndReason, Session},
    supervise::{CallControl, Cause, catch},
    watchdog::{Watchdog, Watched},
};

/// How long a cleanup may take before it counts as orphaned; it is not cut off.
const CLEANUP_LIMIT: Duration = Duration::from_secs(30);

/// The longest pause between two tries of a cleanup.
const MAX_BACK_OFF: Duration = Duration::from_mins(1);

/// A configured, running instance of a backend.
pub(crate) struct Resource {
    pub(crate) name: Arc<str>,
    pub(crate) about: &'static About,
    pub(crate) description: String,
    pub(crate) limits: ResourceLimits,
    pub(crate) required: bool,
    pub(crate) config: Value,
    /// Of `session_config`.
    pub(crate) session_schema: ParamsSchema,
    pub(crate) context: Arc<ResourceContext>,
    pub(crate) instance: Arc<dyn DynInstance>,
    pub(crate) gate: Arc<Gate>,
    /// Start of the clock that all sessions share.
    pub(crate) epoch: Instant,
    /// Sessions that exist, those under cleanup included.
    pub(crate) sessions: AtomicUsize,
    pub(crate) faults: Arc<CleanupFaults>,
    /// Cleanups that run, all resources together: the shutdown waits for them.
    pub(crate) cleanups: TaskTracker,
    pub(crate) watchdog: Arc<Watchdog>,
    pub(crate) start: Start,
    pub(crate) initialize_pace: Pace,
    pub(crate) cleanup_pace: Pace,
}

/// What went wrong with cleanups, all resources together.
#[derive(Default)]
pub(crate) struct CleanupFaults {
    /// Sessions whose cleanup failed and is tried again, or hangs.
    pub(crate) orphaned: AtomicUsize,
    /// Cleanups that failed and cannot be tried again, since the server's start: the session was taken by value.
    pub(crate) failed: AtomicUsize,
}

/// How far the start of a resource has come.
#[derive(Default)]
pub(crate) struct Start {
    started: AtomicBool,
    /// Set once, by the end of the server.
    stopped: AtomicBool,
    running: Mutex<Option<watch::Receiver<Option<Result<()>>>>>,
    last_error: Mutex<Option<String>>,
}

impl Resource {
    /// Whether the resource is ready for its first call.
    pub(crate) fn started(&self) -> bool {
        self.start.started.load(Ordering::Acquire)
    }

    /// Why the last start failed.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.start.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs `new` and `warmup` unless they have succeeded. All who ask meanwhile share one run, which survives them;
    /// a failure is tried again on the next use.
    ///
    /// # Errors
    /// [`ErrorCode::BACKEND_NOT_INITIALIZED`] with what the backend answered.
    pub(crate) async fn ensure_started(self: &Arc<Self>) -> Result<()> {
        if self.started() {
            return Ok(());
        }
        let mut outcome = self.join_start();
        let answer = outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        answer.unwrap_or_else(|| Err(ToolError::shutting_down()))
    }

    fn join_start(self: &Arc<Self>) -> watch::Receiver<Option<Result<()>>> {
        let mut running = self.start.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outcome) = &*running {
            return outcome.clone();
        }
        if self.start.stopped.load(Ordering::Acquire) {
            return watch::channel(Some(Err(ToolError::shutting_down()))).1;
        }
        let (sender, outcome) = watch::channel(self.started().then_some(Ok(())));
        if self.started() {
            return outcome;
        }
        *running = Some(outcome.clone());
        let resource = self.clone();
        self.context.runtime.spawn(async move {
            let began = Instant::now();
            let start = catch(resource.instance.clone().start(resource.config.clone()));
            let result = resource.watched("start", "", "").awaiting(start).await.and_then(|result| result);
            let result = result.map_err(|error| {
                ToolError::new(
                    ErrorCode::BACKEND_NOT_INITIALIZED,
                    format!("resource `{}` could not be started: {}", resource.name, error.message()),
                )
            });
            match &result {
                Ok(()) => {
                    tracing::info!(resource = %resource.name, ms = milliseconds(began.elapsed()), "resource started");
                }
                Err(error) => tracing::error!(resource = %resource.name, "{error}"),
            }
            let mut last_error = resource.start.last_error.lock().unwrap_or_else(PoisonError::into_inner);
            *last_error = result.as_ref().err().map(|error| error.message().to_owned());
            drop(last_error);
            resource.start.started.store(result.is_ok(), Ordering::Release);
            *resource.start.running.lock().unwrap_or_else(PoisonError::into_inner) = None;
            let _ = sender.send(Some(result));
        });
        outcome
    }

    /// Ends the resource once nothing uses it.
    pub(crate) async fn stop(&self, limit: Duration) {
        self.start.stopped.store(true, Ordering::Release);
        let starting = self.start.running.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(mut starting) = starting {
            // What is starting now must be shut down too.
            let _ = tokio::time::timeout(limit, starting.wait_for(Option::is_some)).await;
        }
        if !self.started() {
            return;
        }
        let watched = self.watched("shutdown", "", "");
        let stopped = watched.awaiting(catch(self.instance.clone().stop(limit)));
        // `stop` waits up to the limit for users; the hook itself gets as long again.
        match tokio::time::timeout(limit * 2, stopped).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error)) | Err(error)) => tracing::warn!(resource = %self.name, "shutdown: {error}"),
            Err(_) => tracing::warn!(resource = %self.name, "shutdown did not end within its limit"),
        }
        self.start.started.store(false, Ordering::Release);
    }

    /// Runs the cleanup of an ended session that no call holds any more; its slot is free afterwards.
    /// No lock of the session table may be held: a quick cleanup runs right here.
    pub(crate) fn clean_up(self: &Arc<Self>, session: Arc<Session>, reason: EndReason, slot: Option<Slot>) {
        let resource = self.clone();
        let running = self.cleanups.token();
        let cleanup = async move {
            resource.clean_up_until_gone(&session, reason).await;
            drop((slot, running));
        };
        if let Begun::Pending(cleanup) = self.cleanup_pace.begin(cleanup, &self.context.runtime) {
            let resource = self.clone();
            self.context.runtime.spawn(async move { resource.cleanup_pace.observe(cleanup).await });
        }
    }

    async fn clean_up_until_gone(&self, session: &Arc<Session>, reason: EndReason) {
        let mut orphan = None;
        let mut back_off = Duration::from_secs(1);
        loop {
            let (control, trace) = (CallControl::new(), new_trace());
            let context = ToolContext::new(Inner {
                worker: session.worker.clone(),
                trace: trace.clone(),
                resource: self.context.clone(),
                session: None,
                session_id: Some(session.id().clone()),
                control: control.clone(),
                limits: Limits { arrival: Instant::now(), wait: CLEANUP_LIMIT, run: None },
                entered: Entered::default(),
                reports: None,
                gate: None,
                passed: None,
                blocking: false,
                making: false,
                choice: SessionChoice::named(session.key.clone()),
                depth: 0,
                nested: None,
            });
            let cleanup = catch(self.instance.clone().clean_up(session.cell.clone(), context, reason.clone()));
            let watched = self.watched("cleanup", session.worker.as_str(), trace.as_str());
            let mut round = Box::pin(watched.awaiting(cleanup));
            let outcome = match tokio::time::timeout(CLEANUP_LIMIT, &mut round).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    tracing::error!(resource = %self.name, session = %session.id(), "cleanup takes longer than 30 s");
                    orphan.get_or_insert_with(|| Orphan::new(&self.faults));
                    control.fire(Cause::Deadline);
                    // Cutting it off midway would leave more behind than waiting.
                    round.await
                }
            };
            match outcome {
                Ok(Cleaned::Done) => return,
                Ok(Cleaned::Failed(error)) | Err(error) => {
                    self.faults.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(resource = %self.name, session = %session.id(), "cleanup failed: {error}");
                    return;
                }
                Ok(Cleaned::Retry(error)) => {
                    tracing::error!(resource = %self.name, session = %session.id(), "cleanup failed, trying again: {error}");
                    orphan.get_or_insert_with(|| Orphan::new(&self.faults));
                    tokio::time::sleep(back_off).await;
                    back_off = (back_off * 2).min(MAX_BACK_OFF);
                }
            }
        }
    }

    /// A hook, as the log names it when it blocks its thread.
    pub(crate) fn watched<'a>(&'a self, hook: &'static str, worker: &'a str, trace: &'a str) -> Watched<'a> {
        Watched { watchdog: &self.watchdog, tool: &self.name, hook: Some(hook), worker, trace, run: None }
    }

    pub(crate) fn info(&self) -> ResourceInfo {
        ResourceInfo {
            resource: self.name.to_string(),
            backend: self.about.name.to_owned(),
            description: self.description.clone(),
            version: self.about.version.to_owned(),
            kind: self.about.kind.as_str().to_owned(),
            warmed_up: self.started(),
            last_error: self.last_error(),
            facts: self.context.facts(),
            sessions: self.sessions.load(Ordering::Relaxed),
            limits: self.limits.clone(),
        }
    }
}

/// Counts one session whose cleanup fails or hangs.
struct Orphan(Arc<CleanupFaults>);

impl Orphan {
    fn new(faults: &Arc<CleanupFaults>) -> Self {
        faults.orphaned.fetch_add(1, Ordering::Relaxed);
        Self(faults.clone())
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        self.0.orphaned.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A trace for what no request asked for, or for a request that names none: 32 hex digits, unique enough for logs.
#[expect(clippy::expect_used, reason = "32 hex digits are a valid id")]
pub(crate) fn new_trace() -> TraceId {
    TraceId::parse(&format!("{:032x}", fastrand::u128(..))).expect("hex is a valid id")
}
