//! A session, its ends, and the lease that keeps it while a call uses it.

use std::{
    any::Any,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use sandbox_types::{ErrorCode, SessionId, WorkerId};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;

pub use crate::hold::Exclusive;
use crate::{
    context::MAX_SESSION_THREADS,
    creation::Slot,
    error::{Result, ToolError},
    hold::Waiting,
    pace::is_kept_free,
    resource::Resource,
    router::SessionTable,
};

/// Longest reason that [`SessionHandle::fail`] keeps.
const MAX_REASON_BYTES: usize = 1024;

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// A temporary session's call, or batch, is over.
    CallEnded,
    /// The worker asked for it.
    Destroyed,
    /// The worker disconnected.
    Disconnected,
    /// Nothing used it for its time to live.
    Expired,
    /// A call was dropped, or panicked, while it had the session to itself.
    Broken,
    /// [`SessionHandle::fail`] was called.
    Failed(String),
    /// The server shut down, or was restarted.
    ServerRestarted,
}

impl EndReason {
    /// The word that travels as `error.reason`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::CallEnded => "call_ended",
            Self::Destroyed => "destroyed",
            Self::Disconnected => "disconnected",
            Self::Expired => "expired",
            Self::Broken | Self::Failed(_) => "broken",
            Self::ServerRestarted => "server_restarted",
        }
    }

    /// Whether the worker itself ended the session, and so needs no telling.
    pub fn asked_for(&self) -> bool {
        matches!(self, Self::CallEnded | Self::Destroyed | Self::Disconnected)
    }

    /// The answer to a call that meant a session which ended so.
    pub(crate) fn gone(&self, what: &str) -> ToolError {
        let why = match self {
            Self::CallEnded => "it belonged to one call, which is over".to_owned(),
            Self::Destroyed => "it was destroyed".to_owned(),
            Self::Disconnected => "its worker disconnected".to_owned(),
            Self::Expired => "it was idle for longer than its time to live".to_owned(),
            Self::Broken => "a call on it was cut off midway, so its state is unknown".to_owned(),
            Self::Failed(why) => format!("it failed: {why}"),
            Self::ServerRestarted => "the server was restarted".to_owned(),
        };
        ToolError::new(ErrorCode::SESSION_GONE, format!("{what} is gone: {why}")).with_reason(self.as_str())
    }
}

/// One session of one worker on one resource.
pub(crate) struct Session {
    id: SessionId,
    pub(crate) name: Box<str>,
    pub(crate) worker: WorkerId,
    /// The request field `session`.
    pub(crate) key: Arc<str>,
    pub(crate) resource: Arc<Resource>,
    pub(crate) temporary: bool,
    pub(crate) created_at: SystemTime,
    pub(crate) config_digest: u64,
    ordinal: u64,
    pub(crate) ttl: Duration,
    last_activity_ms: AtomicU64,
    /// `tokio::sync::RwLock<Option<S>>`; `erase.rs` knows `S`.
    pub(crate) cell: Arc<dyn Any + Send + Sync>,
    /// Fires when the session ends; `supervise` passes it on to the calls that run on it.
    pub(crate) cancel: CancellationToken,
    pub(crate) waiting: AtomicU32,
    /// Threads for synchronous bodies that it may have.
    pub(crate) threads: Arc<Semaphore>,
    state: Mutex<State>,
    table: Weak<SessionTable>,
}

struct State {
    leases: u32,
    ended: Option<EndReason>,
    cleaning: bool,
    slot: Option<Slot>,
}

/// What a new session is made of.
pub(crate) struct NewSession {
    pub(crate) id: SessionId,
    pub(crate) name: Box<str>,
    pub(crate) worker: WorkerId,
    pub(crate) key: Arc<str>,
    pub(crate) resource: Arc<Resource>,
    pub(crate) temporary: bool,
    pub(crate) config_digest: u64,
    pub(crate) ttl: Duration,
    pub(crate) ordinal: u64,
    pub(crate) cell: Arc<dyn Any + Send + Sync>,
    pub(crate) slot: Slot,
    pub(crate) table: Weak<SessionTable>,
}

/// Milliseconds on the clock that all sessions share.
pub(crate) fn now_ms(epoch: Instant) -> u64 {
    u64::try_from(epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
}

impl Session {
    pub(crate) fn new(new: NewSession) -> Arc<Self> {
        let session = Self {
            id: new.id,
            name: new.name,
            worker: new.worker,
            key: new.key,
            resource: new.resource,
            temporary: new.temporary,
            created_at: SystemTime::now(),
            config_digest: new.config_digest,
            ordinal: new.ordinal,
            ttl: new.ttl,
            last_activity_ms: AtomicU64::new(0),
            cell: new.cell,
            cancel: CancellationToken::new(),
            waiting: AtomicU32::new(0),
            threads: Arc::new(Semaphore::new(MAX_SESSION_THREADS)),
            state: Mutex::new(State { leases: 0, ended: None, cleaning: false, slot: Some(new.slot) }),
            table: new.table,
        };
        session.touch();
        Arc::new(session)
    }

    /// Counts a call that waits for it.
    ///
    /// # Errors
    /// Too many do.
    pub(crate) fn begin_to_wait(&self) -> Result<Waiting<'_>> {
        let max = self.resource.limits.max_waiting_calls;
        Waiting::enter(&self.waiting, max).ok_or_else(|| {
            ToolError::new(ErrorCode::RESOURCE_EXHAUSTED, format!("{max} calls wait for session `{}`", self.id))
        })
    }

    pub(crate) fn id(&self) -> &SessionId {
        &self.id
    }

    pub(crate) fn ordinal(&self) -> u64 {
        self.ordinal
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing below can panic while it is held; a poisoned lock still guards whole values.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews the time to live.
    pub(crate) fn touch(&self) {
        self.last_activity_ms.store(now_ms(self.resource.epoch), Ordering::Relaxed);
    }

    pub(crate) fn idle(&self) -> Duration {
        let last = self.last_activity_ms.load(Ordering::Relaxed);
        Duration::from_millis(now_ms(self.resource.epoch).saturating_sub(last))
    }

    /// Idle past its time to live, and no call holds it.
    pub(crate) fn expired(&self) -> bool {
        !self.temporary && self.idle() > self.ttl && self.state().leases == 0
    }

    pub(crate) fn busy(&self) -> bool {
        self.state().leases > 0
    }

    /// The right to use the session during one call.
    ///
    /// # Errors
    /// The session ended.
    pub(crate) fn lease(self: &Arc<Self>) -> Result<Arc<Lease>> {
        let mut state = self.state();
        if let Some(reason) = &state.ended {
            return Err(reason.gone(&format!("session `{}`", self.id)));
        }
        state.leases += 1;
        drop(state);
        self.touch();
        Ok(Arc::new(Lease { session: self.clone() }))
    }

    /// Ends the session: its calls are cancelled, and its cleanup starts with the end of the last of them, or with
    /// [`Ended::start`] if there is none. Whoever calls this has taken it out of the table.
    pub(crate) fn end(self: &Arc<Self>, reason: EndReason) -> Ended {
        let mut state = self.state();
        if state.ended.is_some() {
            return Ended(None);
        }
        state.ended = Some(reason);
        let clean_now = state.leases == 0;
        state.cleaning |= clean_now;
        drop(state);
        self.cancel.cancel();
        Ended(clean_now.then(|| self.clone()))
    }

    pub(crate) fn ended(&self) -> Option<EndReason> {
        self.state().ended.clone()
    }

    fn release(self: &Arc<Self>) {
        self.touch();
        let mut state = self.state();
        state.leases -= 1;
        if state.leases > 0 {
            return;
        }
        let ended = state.ended.is_some();
        let clean_now = ended && !state.cleaning;
        state.cleaning |= clean_now;
        drop(state);
        if clean_now {
            self.clean_up();
        } else if self.temporary && !ended {
            self.remove(EndReason::CallEnded);
        }
    }

    fn clean_up(self: &Arc<Self>) {
        let (slot, reason) = {
            let mut state = self.state();
            (state.slot.take(), state.ended.clone().unwrap_or(EndReason::Destroyed))
        };
        self.resource.clean_up(self.clone(), reason, slot);
    }

    /// A call lost track of the session's state: nobody may use it again.
    pub(crate) fn mark_broken(self: &Arc<Self>) {
        self.remove(EndReason::Broken);
    }

    /// Takes the session out of the table and ends it.
    pub(crate) fn remove(self: &Arc<Self>, reason: EndReason) {
        match self.table.upgrade() {
            Some(table) => table.end(self, &reason),
            None => self.end(reason).start(),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // One that is let go without its cleanup still has its value, whose drop may block.
        if is_kept_free() {
            let cell = std::mem::replace(&mut self.cell, Arc::new(()));
            self.resource.context.runtime.spawn_blocking(move || drop(cell));
        }
    }
}

/// A session that was ended, and whose cleanup is to be started once no lock is held.
#[must_use = "its cleanup must be started"]
pub(crate) struct Ended(Option<Arc<Session>>);

impl Ended {
    pub(crate) fn start(self) {
        if let Some(session) = self.0 {
            session.clean_up();
        }
    }
}

/// The right to use a session during one call: while one exists, the reaper leaves the session alone and its cleanup waits.
pub(crate) struct Lease {
    pub(crate) session: Arc<Session>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.session.release();
    }
}

/// Ends a session from outside a call, such as from a task that watches a process.
#[derive(Clone, Debug, Default)]
pub struct SessionHandle(Arc<HandleInner>);

#[derive(Default)]
struct HandleInner {
    failed: OnceLock<String>,
    session: OnceLock<Weak<Session>>,
}

impl std::fmt::Debug for HandleInner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionHandle").field("failed", &self.failed.get()).finish_non_exhaustive()
    }
}

impl SessionHandle {
    /// The session no longer works, and why: its calls are cancelled, it is cleaned up, and the worker's next call is
    /// told so ([`ErrorCode::SESSION_GONE`], reason `broken`).
    ///
    /// Of a long reason the first kilobyte is kept: it is remembered for a day.
    pub fn fail(&self, why: impl Into<String>) {
        let mut why = why.into();
        why.truncate(why.floor_char_boundary(MAX_REASON_BYTES));
        why.shrink_to_fit();
        if self.0.failed.set(why).is_ok() {
            self.apply();
        }
    }

    /// Ties the handle to its session, which is made after it.
    pub(crate) fn attach(&self, session: &Arc<Session>) {
        let _ = self.0.session.set(Arc::downgrade(session));
        self.apply();
    }

    fn apply(&self) {
        let session = self.0.session.get().and_then(Weak::upgrade);
        if let (Some(why), Some(session)) = (self.0.failed.get(), session) {
            session.remove(EndReason::Failed(why.clone()));
        }
    }
}
