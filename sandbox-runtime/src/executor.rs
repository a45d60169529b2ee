//! `ToolExecutor`: resolve, parse, lease, inject, call, answer.

use std::{
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sandbox_types::{ErrorCode, ExecuteRequest, Meta, SessionId, SessionMode, TraceId, WaitingFor, WorkerId};
use serde_json::value::RawValue;
use tokio::{runtime::Handle, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    answer::{Answer, failure, log, meta, success},
    context::{Frame, Inner, Limits, MAX_DEPTH, NestedCalls, Passed, SessionChoice, ToolContext},
    creation::SessionSpec,
    error::{Result, ToolError},
    gate::Full,
    hold::Waiting,
    idempotency::IdempotencyStore,
    naming::parse_key,
    registry::{Registry, ToolEntry},
    report::Reports,
    resource::{Resource, new_trace},
    router::{Found, SessionTable},
    run::{Lifetime, Run, Subject},
    runs::RunStore,
    session::{Lease, Session},
    supervise::{Facts, caught, supervise},
    tool::{Output, SessionUse},
    transfer::{self, Transfer},
    watchdog::{Watchdog, Watched},
};

pub(crate) use crate::supervise::CallControl;

/// Time limits that hold for every call.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimits {
    /// Of a call whose request and tool name none.
    pub default: Duration,
    /// The longest that a request or a tool can have.
    pub max: Duration,
    /// How long a call that can be joined again lives on without anyone waiting for it.
    pub reattach: Duration,
}

/// Runs tools: the part of the server that knows no HTTP.
pub struct ToolExecutor {
    pub(crate) registry: Registry,
    pub(crate) table: Arc<SessionTable>,
    pub(crate) runtime: Handle,
    pub(crate) limits: TimeLimits,
    pub(crate) idempotency: IdempotencyStore,
    pub(crate) runs: Arc<RunStore>,
    pub(crate) cleanups: TaskTracker,
    /// Calls that run now.
    pub(crate) calls: TaskTracker,
    /// Fires when calls may no longer finish. Only calls that wait listen to it: one token as the parent of every
    /// call's own would be a lock that all workers share.
    pub(crate) shutdown: CancellationToken,
    draining: AtomicBool,
    pub(crate) watchdog: Arc<Watchdog>,
}

/// One call on its way.
pub(crate) struct Job {
    pub(crate) tool: Arc<ToolEntry>,
    pub(crate) params: Option<Box<RawValue>>,
    pub(crate) worker: WorkerId,
    pub(crate) trace: TraceId,
    pub(crate) choice: SessionChoice,
    pub(crate) session_id: Option<SessionId>,
    pub(crate) limits: Limits,
    pub(crate) control: Arc<CallControl>,
    /// None where a session that is made apart from any call needs it.
    pub(crate) reports: Option<Reports>,
    /// Held by the tool that makes this call.
    pub(crate) frames: Option<Arc<Frame>>,
    /// Passed by the tool that makes this call.
    pub(crate) passed: Option<Arc<Passed>>,
    /// An `initialize` waits for it.
    pub(crate) making: bool,
    pub(crate) depth: u8,
    pub(crate) warnings: Vec<String>,
    /// What goes beside the JSON.
    pub(crate) transfer: Option<Arc<Transfer>>,
}

impl Job {
    /// It waits before its tool is entered.
    fn waits_for(&self, what: WaitingFor) {
        if let Some(reports) = &self.reports {
            reports.waits_for(what);
        }
    }
}

impl ToolExecutor {
    pub(crate) fn new(
        registry: Registry,
        table: Arc<SessionTable>,
        cleanups: TaskTracker,
        runtime: Handle,
        limits: TimeLimits,
        runs: RunStore,
        watchdog: Arc<Watchdog>,
    ) -> Arc<Self> {
        let executor = Arc::new(Self {
            registry,
            table,
            runtime,
            limits,
            idempotency: IdempotencyStore::default(),
            runs: Arc::new(runs),
            cleanups,
            calls: TaskTracker::new(),
            shutdown: CancellationToken::new(),
            draining: AtomicBool::new(false),
            watchdog,
        });
        executor.runtime.spawn(crate::reaper::run(Arc::downgrade(&executor)));
        executor
    }

    /// The names and what stands behind them.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The limits of a call of this tool: the request's, else the tool's, else the server's, and never above the maximum.
    pub(crate) fn limits_for(&self, tool: &ToolEntry, requested: Option<Duration>, arrival: Instant) -> Limits {
        let wait = requested.unwrap_or(self.limits.default).min(self.limits.max);
        let run = match requested {
            Some(_) => None,
            None => tool.timeout.map(|timeout| timeout.min(self.limits.max)),
        };
        Limits { arrival, wait, run }
    }

    /// What a request for one call comes to; what is left of the request says whose it was.
    ///
    /// # Errors
    /// A field that is wrong, a tool that is not there.
    pub(crate) fn prepare(
        self: &Arc<Self>,
        request: &mut ExecuteRequest,
        arrival: Instant,
        lifetime: Lifetime,
        warnings: &[String],
    ) -> Result<(Arc<Run>, Job)> {
        let timeout = positive(request.timeout)?;
        let key = parse_key(request.session.as_deref())?.into();
        let tool = self.registry.resolve(&request.action)?;
        let limits = self.limits_for(&tool, timeout, arrival);
        let worker = request.worker_id.clone();
        let trace = request.trace_id.take().unwrap_or_else(new_trace);
        let run = Run::new(worker.clone(), Subject::Tool(tool.clone()), trace.clone(), arrival, lifetime);
        let job = Job {
            tool,
            params: request.params.take(),
            worker,
            trace,
            choice: SessionChoice { key, mode: request.session_mode, batch: None },
            session_id: request.session_id.take(),
            limits,
            control: run.control.clone(),
            reports: Some(Reports::of(run.clone())),
            frames: None,
            passed: None,
            making: false,
            depth: 0,
            warnings: warnings.to_vec(),
            transfer: None,
        };
        Ok((run, job))
    }

    /// Runs a call in a task of its own on the caller's runtime: whoever waits for it may go away, it is never dropped midway.
    pub(crate) async fn spawn(self: &Arc<Self>, job: Job) -> Answer {
        let (trace, arrival) = (job.trace.clone(), job.limits.arrival);
        let own = trace.clone();
        let task = self.calls.spawn(caught(self.clone().call(job), move |ended| answered(ended, &own, arrival)));
        task.await.unwrap_or_else(|_| answered(Err(ToolError::shutting_down()), &trace, arrival))
    }

    /// Runs a call to its end, in the task that polls it.
    pub(crate) async fn call(self: Arc<Self>, mut job: Job) -> Answer {
        let facts = Facts::default();
        let params = job.params.take();
        // Only a call that waits can be asked about, and only then is it worth a place in the list.
        let begins_to_wait = || {
            if let Some(run) = job.reports.as_ref().and_then(Reports::whole) {
                self.runs.list(run);
            }
        };
        // Pinned here and lent: a future that is handed on by value is copied each time, and this one is large.
        let result = {
            let attempt = pin!(Some(self.attempt(&job, params, &facts)));
            let watched = Watched {
                watchdog: &self.watchdog,
                tool: &job.tool.full_name,
                hook: None,
                worker: job.worker.as_str(),
                trace: job.trace.as_str(),
                run: job.reports.as_ref().map(|reports| &reports.run),
            };
            supervise(attempt, &job.control, job.limits, &facts, &self.shutdown, watched, begins_to_wait).await
        };
        let mut meta = meta(Some(&job.tool), job.trace, job.limits.arrival, job.warnings);
        meta.executed = facts.entered.get().is_some();
        let session = facts.session.get();
        meta.session_id = session.map(|session| session.id().clone());
        meta.temporary_session = session.is_some_and(|session| session.temporary);
        let answer = match result {
            Ok(data) => success(data, meta),
            Err(error) => failure(&error, meta),
        };
        // That of a download is logged with its end.
        if job.transfer.is_none_or(|transfer| !transfer.has_download()) {
            log(&answer, &job.worker, facts.entered.get());
        }
        answer
    }

    async fn attempt(
        self: &Arc<Self>,
        job: &Job,
        params: Option<Box<RawValue>>,
        facts: &Facts,
    ) -> Result<Box<RawValue>> {
        let tool = &job.tool;
        // That a tool is off says more than what is wrong with its parameters.
        let resource = tool.resource()?;
        let params = tool.params.check(params.as_deref())?;
        let nested = job.depth > 0;
        if !nested && resource.gate.is_full(&job.worker) {
            return Err(Full::error(&resource.name));
        }
        if !resource.started() {
            job.waits_for(WaitingFor::Resource);
            Box::pin(resource.ensure_started()).await?;
        }
        let lease = match tool.session {
            SessionUse::None => None,
            SessionUse::Shared | SessionUse::Exclusive => match self.lease_at_hand(job, resource)? {
                Some(lease) => Some(lease),
                // Boxed: the making of a session is large, and most calls need none of it.
                None => Some(Box::pin(self.lease(job, resource)).await?),
            },
        };
        // A call that names its session by id means that one for the calls of its tool too.
        let mut key = &job.choice.key;
        if let Some(lease) = &lease {
            key = &lease.session.key;
            let _ = facts.session.set(lease.session.clone());
            if let Some(run) = job.reports.as_ref().and_then(Reports::whole) {
                run.uses(lease.session.id());
            }
        }
        let key = key.clone();
        let mut context = ToolContext::new(Inner {
            worker: job.worker.clone(),
            trace: job.trace.clone(),
            resource: resource.context.clone(),
            session: lease.as_ref().map(|lease| lease.session.clone()),
            session_id: None,
            control: job.control.clone(),
            limits: job.limits,
            entered: facts.entered.clone(),
            reports: job.reports.clone(),
            gate: (!Passed::has(job.passed.as_ref(), &resource.gate)).then(|| resource.gate.clone()),
            passed: job.passed.clone(),
            blocking: tool.blocking,
            making: job.making,
            choice: SessionChoice { key, ..job.choice.clone() },
            depth: job.depth,
            nested: Some(self.clone()),
        })
        .with_transfer(job.transfer.as_ref());
        context.frames.clone_from(&job.frames);
        let kept = lease.clone();
        match resource.instance.call(tool.index, params, context, lease)?.await? {
            Output::Json(json) => Ok(json),
            Output::Bytes(stream) => Box::pin(transfer::answer(job.transfer.as_deref(), *stream, kept)).await,
        }
    }

    /// The session that a call names, or that its callers hold, or that stands ready under its key.
    fn lease_at_hand(&self, job: &Job, resource: &Arc<Resource>) -> Result<Option<Arc<Lease>>> {
        if let Some(id) = &job.session_id {
            let lease = self.table.find_id(&job.worker, id)?;
            if !Arc::ptr_eq(&lease.session.resource, resource) {
                let found = format!("a session of `{}`", lease.session.resource.name);
                let expected = format!("a session of `{}`", resource.name);
                return Err(ToolError::parameter(ErrorCode::INVALID_INPUT, "session_id", expected, found));
            }
            return Ok(Some(lease));
        }
        if let Some(session) = held_by_callers(job, resource) {
            return session.lease().map(Some);
        }
        if job.choice.mode == SessionMode::Temporary {
            return Ok(None);
        }
        match self.table.find(&job.worker, resource, &job.choice.key, job.choice.mode == SessionMode::Auto) {
            Found::Live(lease) => Ok(Some(lease)),
            Found::Gone(error) => Err(error),
            Found::Creating(_) | Found::Nothing => Ok(None),
        }
    }

    /// The session of a call that found none at hand: one that is being made, or a temporary one.
    async fn lease(self: &Arc<Self>, job: &Job, resource: &Arc<Resource>) -> Result<Arc<Lease>> {
        let SessionChoice { key, mode, batch } = &job.choice;
        if *mode != SessionMode::Temporary {
            loop {
                let acknowledge = *mode == SessionMode::Auto;
                match self.table.find(&job.worker, resource, key, acknowledge) {
                    Found::Live(lease) => return Ok(lease),
                    Found::Creating(creation) => {
                        // Its `initialize` may need what the callers hold, or be what waits for this call.
                        if job.making || job.frames.is_some() {
                            let message = format!(
                                "session `{key}` of `{}` is being made, and waiting for it could deadlock",
                                resource.name
                            );
                            return Err(ToolError::new(ErrorCode::CONFLICT, message));
                        }
                        let max = resource.limits.max_waiting_calls;
                        let _waiting = Waiting::enter(&creation.waiting, max).ok_or_else(|| {
                            let message = format!("{max} calls wait for session `{key}` of `{}`", resource.name);
                            ToolError::new(ErrorCode::RESOURCE_EXHAUSTED, message)
                        })?;
                        job.waits_for(WaitingFor::SessionCreation);
                        creation.wait().await?;
                    }
                    Found::Gone(error) => return Err(error),
                    Found::Nothing => break,
                }
            }
            if *mode == SessionMode::Require {
                let message = format!("the worker has no session `{key}` on `{}`; create it first", resource.name);
                return Err(ToolError::new(ErrorCode::RESOURCE_NOT_INITIALIZED, message));
            }
        }
        let spec = SessionSpec {
            worker: job.worker.clone(),
            resource: resource.clone(),
            choice: job.choice.clone(),
            config: resource
                .session_schema
                .check(None)
                .map_err(|error| error.context("a temporary session cannot be made"))?,
            label: None,
            ttl: None,
            trace: job.trace.clone(),
            nested: Some(self.clone()),
            depth: job.depth + 1,
            frames: job.frames.clone(),
            passed: job.passed.clone(),
            reports: job.reports.clone(),
        };
        job.waits_for(WaitingFor::SessionCreation);
        match batch.as_ref().and_then(Weak::upgrade) {
            Some(batch) => batch.lease(spec, &self.table).await,
            None => self.table.create_temporary(spec).await,
        }
    }

    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// The longest that one call can have.
    pub(crate) fn longest_call(&self) -> Duration {
        self.limits.max
    }

    /// The calls that run are cancelled, as nothing waits for their ends any more.
    pub(crate) fn cut_short(&self) -> bool {
        self.shutdown.is_cancelled()
    }

    /// Cancels every call that still runs.
    pub(crate) fn cancel_calls(&self) {
        self.shutdown.cancel();
    }

    pub(crate) fn session_count(&self) -> usize {
        self.registry.resources().map(|resource| resource.sessions.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn sweep(&self) {
        self.table.sweep();
        self.idempotency.sweep();
        self.runs.sweep();
    }

    /// Takes no new work from now on.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Ends everything, leaving nothing behind: calls get `limit` to finish and are cancelled then, sessions are cleaned
    /// up in parallel, resources are shut down. How many sessions that were.
    pub async fn shutdown(&self, limit: Duration, cleanup_sessions: bool) -> usize {
        self.drain();
        self.calls.close();
        if tokio::time::timeout(limit, self.calls.wait()).await.is_err() {
            self.cancel_calls();
            // Past the token's grace every future is dropped; only a blocked thread can outlast this.
            let _ = tokio::time::timeout(Duration::from_secs(3), self.calls.wait()).await;
        }
        let ended = if cleanup_sessions {
            self.table.end_all()
        } else {
            let abandoned = self.table.abandon_all();
            // The sessions' own drops, which may block or panic.
            let drops = self.runtime.spawn_blocking(move || {
                for session in abandoned {
                    let _ = std::panic::catch_unwind(AssertUnwindSafe(|| drop(session)));
                }
            });
            let _ = tokio::time::timeout(CLEANUP_PATIENCE, drops).await;
            0
        };
        self.cleanups.close();
        let cleaned = tokio::time::timeout(CLEANUP_PATIENCE, self.cleanups.wait()).await.is_ok();
        if !cleaned {
            tracing::error!(left = self.cleanups.len(), "sessions could not be cleaned up before the end");
        }
        let stops: Vec<_> = self.registry.resources().cloned().collect();
        let stops: Vec<_> = stops
            .into_iter()
            .map(|resource| self.runtime.spawn(async move { resource.stop(STOP_PATIENCE).await }))
            .collect();
        for stop in stops {
            let _ = stop.await;
        }
        ended
    }
}

/// The answer of a call, also when something of it panics outside its polls: the drop of a future that was cut.
pub(crate) fn answered(ended: Result<Answer>, trace: &TraceId, arrival: Instant) -> Answer {
    // It may have been entered: nobody may take it for one that was not.
    let meta = || Meta { executed: true, ..meta(None, trace.clone(), arrival, Vec::new()) };
    ended.unwrap_or_else(|error| failure(&error, meta()))
}

/// How long the shutdown waits for cleanups.
const CLEANUP_PATIENCE: Duration = Duration::from_secs(35);
/// How long the shutdown of a resource waits for what still uses it.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// The time limit that a request names.
///
/// # Errors
/// It is no positive, finite time.
pub(crate) fn positive(seconds: Option<f64>) -> Result<Option<Duration>> {
    let Some(seconds) = seconds else { return Ok(None) };
    match Duration::try_from_secs_f64(seconds) {
        Ok(timeout) if !timeout.is_zero() => Ok(Some(timeout)),
        _ => {
            let (expected, found) = ("a positive number of seconds", seconds.to_string());
            Err(ToolError::parameter(ErrorCode::INVALID_INPUT, "timeout", expected, found))
        }
    }
}

/// The session of this resource and name that a caller of this call holds, if one does.
fn held_by_callers(job: &Job, resource: &Arc<Resource>) -> Option<Arc<Session>> {
    let of_this = |session: &&Arc<Session>| Arc::ptr_eq(&session.resource, resource) && session.key == job.choice.key;
    Frame::chain(job.frames.as_ref()).map(|frame| &frame.session).find(of_this).cloned()
}

impl NestedCalls for ToolExecutor {
    fn call(
        self: Arc<Self>,
        context: ToolContext,
        action: String,
        params: Box<RawValue>,
    ) -> Pin<Box<dyn Future<Output = Result<Box<RawValue>>> + Send>> {
        Box::pin(async move {
            let inner = context.inner();
            debug_assert!(inner.depth < MAX_DEPTH);
            let tool = self.registry.resolve(&action)?;
            let arrival = Instant::now();
            let wait = context.deadline().saturating_duration_since(arrival);
            let control = inner.control.child();
            let guard = DisconnectGuard(Some(control.clone()));
            let job = Job {
                params: Some(params),
                worker: inner.worker.clone(),
                trace: inner.trace.clone(),
                choice: inner.choice.clone(),
                session_id: None,
                limits: Limits { arrival, wait, run: None },
                control,
                reports: inner.reports.as_ref().map(|reports| reports.of_nested(&tool)),
                tool,
                frames: context.frames.clone(),
                passed: match &inner.gate {
                    Some(gate) => Some(Arc::new(Passed { gate: gate.clone(), before: inner.passed.clone() })),
                    None => inner.passed.clone(),
                },
                making: inner.making,
                depth: inner.depth + 1,
                warnings: Vec::new(),
                transfer: None,
            };
            let answer = self.spawn(job).await;
            guard.disarm();
            match (answer.data, answer.error) {
                (Some(data), None) => Ok(data),
                (_, Some(body)) => Err(ToolError::from_answer(answer.code, answer.message.into_owned(), body)),
                (None, None) => Ok(RawValue::NULL.to_owned()),
            }
        })
    }
}

/// Cancels the call when whoever waits for it goes away.
pub(crate) struct DisconnectGuard(pub(crate) Option<Arc<CallControl>>);

impl DisconnectGuard {
    pub(crate) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for DisconnectGuard {
    fn drop(&mut self) {
        if let Some(control) = self.0.take() {
            control.disconnect();
        }
    }
}
