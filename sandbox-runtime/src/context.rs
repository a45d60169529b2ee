//! What the runtime knows about a call and lends to tools: worker, session, trace, deadline, cancellation.

use std::{
    any::Any,
    future::Future,
    iter::successors,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, PoisonError, RwLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sandbox_types::{ErrorCode, SessionId, SessionMode, TraceId, WaitingFor, WorkerId};
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};

use crate::{
    batch::BatchSessions,
    error::{Result, ToolError},
    gate::{Full, Gate, Turn},
    report::Reports,
    session::Session,
    supervise::CallControl,
    tool::SessionUse,
    transfer::Transfer,
};

/// How deep tools may call tools.
pub(crate) const MAX_DEPTH: u8 = 8;

/// Synchronous bodies of one resource that may run at once.
const MAX_BLOCKING_THREADS: usize = 64;
/// The same of one session, which must leave some to the others; calls beyond them wait.
pub(crate) const MAX_SESSION_THREADS: usize = 16;

/// A type that tools and hooks may borrow: the runtime makes it for the call, nothing of it comes from the client.
///
/// ```
/// # use sandbox_runtime::prelude::*;
/// /// The worker's name in upper case.
/// struct Shout(String);
///
/// impl Inject for Shout {
///     fn inject(context: &ToolContext) -> Result<Self> {
///         Ok(Self(context.worker().as_str().to_uppercase()))
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`&{Self}` cannot be injected",
    label = "not made by the runtime",
    note = "implement `sandbox_runtime::Inject` for it, or take it by value as a parameter that the client sends"
)]
pub trait Inject: Sized + Send + Sync {
    /// Makes the value for one call.
    ///
    /// # Errors
    /// What it says is the call's answer.
    fn inject(context: &ToolContext) -> Result<Self>;
}

/// What is known about a resource: its name and its data folder.
#[derive(Debug)]
pub struct ResourceContext {
    name: Arc<str>,
    data_dir: Option<PathBuf>,
    exposed: bool,
    facts: RwLock<Value>,
    pub(crate) runtime: Handle,
    blocking: Arc<Semaphore>,
}

impl ResourceContext {
    pub(crate) fn new(name: Arc<str>, data_dir: Option<PathBuf>, exposed: bool, runtime: Handle) -> Self {
        Self {
            name,
            data_dir,
            exposed,
            facts: RwLock::default(),
            runtime,
            blocking: Arc::new(Semaphore::new(MAX_BLOCKING_THREADS)),
        }
    }

    /// One of the threads for synchronous bodies, for a session that has `of_session` of its own.
    ///
    /// # Errors
    /// All of them are in use.
    fn reserve_thread(&self, of_session: Option<OwnedSemaphorePermit>) -> Result<Thread> {
        let of_resource = self.blocking.clone().try_acquire_owned();
        let of_resource = of_resource.map_err(|_| all_in_use(MAX_BLOCKING_THREADS, &format!("`{}`", self.name)))?;
        Ok(Thread { _of_resource: of_resource, _of_session: of_session })
    }

    /// Name of the resource, such as `vm_small`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A folder of this resource's own inside `server.data_dir`, if one is configured. It may not exist yet.
    pub fn data_dir(&self) -> Option<&Path> {
        self.data_dir.as_deref()
    }

    /// Whether the server listens on an address that others than this machine can reach.
    pub fn is_exposed(&self) -> bool {
        self.exposed
    }

    /// Says what clients and deployers should know about the running resource, such as how well its sessions are
    /// isolated: an object, shown by `/ready`, `/tools`, `/resources` and `sandbox doctor`. It replaces what was said
    /// before.
    pub fn set_facts(&self, facts: Value) {
        *self.facts.write().unwrap_or_else(PoisonError::into_inner) = facts;
    }

    /// What was said last; null if nothing was.
    pub(crate) fn facts(&self) -> Value {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn all_in_use(limit: usize, whose: &str) -> ToolError {
    ToolError::new(ErrorCode::RESOURCE_EXHAUSTED, format!("{limit} blocking calls of {whose} are running"))
}

/// A thread for one synchronous body.
pub(crate) struct Thread {
    _of_resource: OwnedSemaphorePermit,
    _of_session: Option<OwnedSemaphorePermit>,
}

/// The call that is running, or the request that a hook serves.
#[derive(Clone)]
pub struct ToolContext {
    inner: Arc<Inner>,
    /// The sessions that this call and its callers hold, innermost first.
    pub(crate) frames: Option<Arc<Frame>>,
    /// What goes beside the JSON. Weak: a context that outlives its call must not keep what the call handed over.
    transfer: Weak<Transfer>,
}

pub(crate) struct Inner {
    pub(crate) worker: WorkerId,
    pub(crate) trace: TraceId,
    pub(crate) resource: Arc<ResourceContext>,
    pub(crate) session: Option<Arc<Session>>,
    /// Set while the session is still being made.
    pub(crate) session_id: Option<SessionId>,
    pub(crate) control: Arc<CallControl>,
    pub(crate) limits: Limits,
    pub(crate) entered: Entered,
    /// Where the call says what it does; none for a session that is made apart from any call.
    pub(crate) reports: Option<Reports>,
    /// The gate that the call passes once it has its session: who waits for a session takes nobody's turn.
    pub(crate) gate: Option<Arc<Gate>>,
    /// The gates that its callers have passed; their permits stand for this call too.
    pub(crate) passed: Option<Arc<Passed>>,
    /// The body is synchronous and needs a thread.
    pub(crate) blocking: bool,
    /// This is an `initialize`, or a call that one waits for: waiting for a session that is being made, it might wait for
    /// itself.
    pub(crate) making: bool,
    /// How the request chose its session, also for the calls that the tool makes.
    pub(crate) choice: SessionChoice,
    pub(crate) depth: u8,
    pub(crate) nested: Option<Arc<dyn NestedCalls>>,
}

/// Which session a request means.
#[derive(Clone)]
pub(crate) struct SessionChoice {
    /// The request field `session`.
    pub(crate) key: Arc<str>,
    pub(crate) mode: SessionMode,
    /// The temporary sessions of the batch that the request belongs to. Weak: a context that outlives its call must not
    /// keep them.
    pub(crate) batch: Option<Weak<BatchSessions>>,
}

/// A gate that a caller has passed.
pub(crate) struct Passed {
    pub(crate) gate: Arc<Gate>,
    pub(crate) before: Option<Arc<Passed>>,
}

impl SessionChoice {
    /// Of a request that says no more than a name.
    pub(crate) fn named(key: Arc<str>) -> Self {
        Self { key, mode: SessionMode::Auto, batch: None }
    }
}

impl Passed {
    /// Whether one of the callers has passed this gate.
    pub(crate) fn has(mut this: Option<&Arc<Self>>, gate: &Arc<Gate>) -> bool {
        while let Some(passed) = this {
            if Arc::ptr_eq(&passed.gate, gate) {
                return true;
            }
            this = passed.before.as_ref();
        }
        false
    }
}

/// When a call must be over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// When the request arrived.
    pub(crate) arrival: Instant,
    /// Until when the call may wait for its method to be entered, from the arrival.
    pub(crate) wait: Duration,
    /// How long the method may run, from its entry; `None`: `wait` holds to the end.
    pub(crate) run: Option<Duration>,
}

/// Whether, and when, the method was entered; shared with the executor, which answers `meta.executed`.
#[derive(Clone, Default)]
pub(crate) struct Entered(Arc<AtomicU64>);

impl Entered {
    fn mark(&self, after: Duration) {
        let nanos = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX - 1);
        // Plus one: zero means "not entered".
        let _ = self.0.compare_exchange(0, nanos.saturating_add(1), Ordering::AcqRel, Ordering::Acquire);
    }

    fn clear(&self) {
        self.0.store(0, Ordering::Release);
    }

    /// From the request's arrival to the entry of the method.
    pub(crate) fn get(&self) -> Option<Duration> {
        match self.0.load(Ordering::Acquire) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos - 1)),
        }
    }
}

/// A session held by a call.
pub(crate) struct Frame {
    pub(crate) session: Arc<Session>,
    pub(crate) session_use: SessionUse,
    /// The read guard of a shared hold. Weak: a context that outlives its call must not keep the session locked.
    pub(crate) guard: Option<Weak<dyn Any + Send + Sync>>,
    pub(crate) parent: Option<Arc<Frame>>,
}

impl Frame {
    /// This hold and those of the callers, innermost first.
    pub(crate) fn chain(first: Option<&Arc<Self>>) -> impl Iterator<Item = &Arc<Self>> {
        successors(first, |frame| frame.parent.as_ref())
    }
}

/// What runs the calls that a tool makes; the executor.
pub(crate) trait NestedCalls: Send + Sync {
    fn call(
        self: Arc<Self>,
        context: ToolContext,
        action: String,
        params: Box<RawValue>,
    ) -> Pin<Box<dyn Future<Output = Result<Box<RawValue>>> + Send>>;
}

impl ToolContext {
    pub(crate) fn new(inner: Inner) -> Self {
        Self { inner: Arc::new(inner), frames: None, transfer: Weak::new() }
    }

    /// The same for a call with an upload beside its parameters, or whose result may be streamed.
    pub(crate) fn with_transfer(mut self, transfer: Option<&Arc<Transfer>>) -> Self {
        self.transfer = transfer.map_or_else(Weak::new, Arc::downgrade);
        self
    }

    pub(crate) fn transfer(&self) -> Option<Arc<Transfer>> {
        self.transfer.upgrade()
    }

    /// Gives a half of the call's turn, and of its share of the resource, to the download that may come of it. The other is
    /// the call's: a blocking body may outlast whoever waits for it.
    pub(crate) fn hand_over(&self, turn: Turn, token: &TaskTrackerToken) -> Turn {
        match self.transfer() {
            Some(transfer) => transfer.keep(turn, token.clone()),
            None => turn,
        }
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// Who calls.
    pub fn worker(&self) -> &WorkerId {
        &self.inner.worker
    }

    /// The trace of the request.
    pub fn trace(&self) -> &TraceId {
        &self.inner.trace
    }

    /// The session's id; none for a tool without a session.
    pub fn session_id(&self) -> Option<&SessionId> {
        self.inner.session.as_ref().map(|session| session.id()).or(self.inner.session_id.as_ref())
    }

    /// The resource that the call runs on.
    pub fn resource(&self) -> &ResourceContext {
        &self.inner.resource
    }

    /// Fires when the answer is no longer wanted: shortly before the deadline, when the client left, when the call is
    /// cancelled, when the session is destroyed. What a tool returns within the grace that follows is still the answer.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.inner.control.cancel
    }

    /// When the answer must have left.
    pub fn deadline(&self) -> Instant {
        let limits = self.inner.limits;
        match (limits.run, self.inner.entered.get()) {
            (Some(run), Some(entered)) => limits.arrival + entered + run,
            _ => limits.arrival + limits.wait,
        }
    }

    /// Runs a task on the runtime that outlives the HTTP server; it is not ended with the call.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.inner.resource.runtime.spawn(future)
    }

    /// Calls another tool for the same worker, trace and deadline.
    ///
    /// It shares a session that the caller holds by `&`, and waits for no turn: the caller's stands for its resource, on
    /// another it has one at once or not at all. At most 8 calls may be nested.
    ///
    /// # Errors
    /// What the called tool answers. [`ErrorCode::CONFLICT`] where it needs a session that the caller has borrowed by
    /// `&mut`, or where waiting for a session could deadlock; [`ErrorCode::RESOURCE_EXHAUSTED`] where another resource has
    /// no turn free.
    pub async fn call(&self, action: &str, params: impl Serialize) -> Result<Box<RawValue>> {
        let Some(nested) = self.inner.nested.clone() else {
            return Err(ToolError::new(ErrorCode::CONFLICT, "tools cannot be called from here"));
        };
        if self.inner.depth >= MAX_DEPTH {
            return Err(ToolError::new(ErrorCode::CONFLICT, format!("more than {MAX_DEPTH} nested calls")));
        }
        let params = serde_json::value::to_raw_value(&params)
            .map_err(|error| ToolError::new(ErrorCode::INVALID_INPUT, format!("params are not JSON: {error}")))?;
        nested.call(self.clone(), action.to_owned(), params).await
    }

    /// The call's turn on its resource if it can have it now. A call that a tool makes does not wait: it would keep
    /// what its caller holds from others.
    ///
    /// # Errors
    /// It must not wait, and there is no turn.
    pub(crate) fn turn_now(&self) -> Result<Option<Turn>> {
        let Some(gate) = &self.inner.gate else { return Ok(Some(Turn::Callers)) };
        match gate.try_enter() {
            Ok(permit) => Ok(Some(Turn::Own(permit))),
            Err(Full) if self.inner.depth > 0 => Err(Full::error(&self.inner.resource.name)),
            Err(Full) => Ok(None),
        }
    }

    /// Waits for the call's turn on its resource, if it may wait.
    ///
    /// # Errors
    /// Too many wait, or it must not wait and there is no turn.
    pub(crate) async fn turn(&self) -> Result<Turn> {
        if let Some(turn) = self.turn_now()? {
            return Ok(turn);
        }
        let Some(gate) = &self.inner.gate else { return Ok(Turn::Callers) };
        self.waits_for(WaitingFor::Turn);
        match gate.enter(&self.inner.worker).await {
            Ok(permit) => Ok(Turn::Own(permit)),
            Err(Full) => Err(Full::error(&self.inner.resource.name)),
        }
    }

    /// A thread for the body, if the tool says that it blocks; waits for one of the session's.
    ///
    /// # Errors
    /// All of them are in use, and too many calls wait, or the call has callers, which may hold what it waits for.
    pub(crate) async fn thread(&self) -> Result<Option<Thread>> {
        if !self.inner.blocking {
            return Ok(None);
        }
        let Some(session) = self.inner.session.as_deref().filter(|_| self.inner.depth == 0) else {
            return self.reserve_thread().map(Some);
        };
        let threads = session.threads.clone();
        let of_session = match threads.clone().try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => {
                let _waiting = session.begin_to_wait()?;
                self.waits_for(WaitingFor::Session);
                threads.acquire_owned().await.ok()
            }
        };
        self.inner.resource.reserve_thread(of_session).map(Some)
    }

    /// A thread for a synchronous body.
    ///
    /// # Errors
    /// All of them are in use, or all that the session may have.
    pub(crate) fn reserve_thread(&self) -> Result<Thread> {
        let of_session = self.inner.session.as_deref().map(|session| session.threads.clone().try_acquire_owned());
        let of_session = of_session.transpose().map_err(|_| all_in_use(MAX_SESSION_THREADS, "the session"))?;
        self.inner.resource.reserve_thread(of_session)
    }

    pub(crate) fn mark_entered(&self) {
        let after = self.inner.limits.arrival.elapsed();
        self.inner.entered.mark(after);
        if let Some(run) = self.inner.reports.as_ref().and_then(Reports::whole) {
            run.runs_since(after);
        }
    }

    /// The call waits before its tool is entered.
    pub(crate) fn waits_for(&self, what: WaitingFor) {
        if let Some(reports) = &self.inner.reports {
            reports.waits_for(what);
        }
    }

    pub(crate) fn mark_not_entered(&self) {
        self.inner.entered.clear();
    }

    /// Whether one of the callers holds this session, and how.
    pub(crate) fn held(&self, session: &Arc<Session>) -> Option<&Arc<Frame>> {
        Frame::chain(self.frames.as_ref()).find(|frame| Arc::ptr_eq(&frame.session, session))
    }

    /// The highest ordinal among the sessions held; waiting for a session above it cannot deadlock.
    pub(crate) fn highest_held(&self) -> Option<u64> {
        Frame::chain(self.frames.as_ref()).map(|frame| frame.session.ordinal()).max()
    }

    pub(crate) fn push_frame(
        &mut self,
        session: Arc<Session>,
        session_use: SessionUse,
        guard: Option<Weak<dyn Any + Send + Sync>>,
    ) {
        self.frames = Some(Arc::new(Frame { session, session_use, guard, parent: self.frames.take() }));
    }

    /// Marks the call's session as broken when it is dropped before `disarm`.
    pub(crate) fn break_session_on_drop(&self) -> BreakOnDrop {
        BreakOnDrop(self.inner.session.clone())
    }

    pub(crate) async fn spawn_blocking<R: Send + 'static>(
        &self,
        thread: Thread,
        body: impl FnOnce() -> R + Send + 'static,
    ) -> Result<std::thread::Result<R>> {
        let thread = self.inner.resource.runtime.spawn_blocking(move || {
            let _thread = thread;
            body()
        });
        match thread.await {
            Ok(result) => Ok(Ok(result)),
            Err(error) if error.is_panic() => Ok(Err(error.into_panic())),
            Err(_) => Err(ToolError::new(ErrorCode::SHUTTING_DOWN, "the server is shutting down")),
        }
    }
}

/// The async side of a blocking call: dropped before its thread is done, it breaks the session.
pub(crate) struct BreakOnDrop(Option<Arc<Session>>);

impl BreakOnDrop {
    pub(crate) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for BreakOnDrop {
    fn drop(&mut self) {
        if let Some(session) = self.0.take() {
            session.mark_broken();
        }
    }
}

impl Inject for ToolContext {
    fn inject(context: &ToolContext) -> Result<Self> {
        Ok(context.clone())
    }
}

impl Inject for WorkerId {
    fn inject(context: &ToolContext) -> Result<Self> {
        Ok(context.worker().clone())
    }
}

impl Inject for TraceId {
    fn inject(context: &ToolContext) -> Result<Self> {
        Ok(context.trace().clone())
    }
}

impl Inject for SessionId {
    fn inject(context: &ToolContext) -> Result<Self> {
        context.session_id().cloned().ok_or_else(|| {
            ToolError::new(ErrorCode::INTERNAL_ERROR, "the tool asks for a session id and uses no session")
        })
    }
}

impl Inject for CancellationToken {
    fn inject(context: &ToolContext) -> Result<Self> {
        Ok(context.cancellation().clone())
    }
}
