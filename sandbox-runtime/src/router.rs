//! The session table: one session per worker, resource and name; creation, leases, ends.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use sandbox_types::{ErrorCode, SessionId, TraceId, WorkerId};
use serde_json::Value;
use tokio::{runtime::Handle, sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};

use crate::{
    context::{Entered, Inner, Limits, NestedCalls, ToolContext},
    error::{Result, ToolError},
    gone::GoneIds,
    journal::{Journal, OpenSession},
    pace::Begun,
    resource::Resource,
    session::{EndReason, Ended, Lease, NewSession, Session, SessionHandle},
    supervise::catch,
};

/// Locks of the table: a call takes one of them, for well under a microsecond.
const SHARDS: usize = 64;

/// Longest name of a session (the request field `session`), in bytes.
const MAX_KEY_BYTES: usize = 128;

/// The name of a session when the request names none.
pub(crate) const DEFAULT_SESSION: &str = "default";

type Shard = HashMap<WorkerId, Worker, ahash::RandomState>;

/// All sessions of all resources.
pub(crate) struct SessionTable {
    shards: Box<[Mutex<Shard>]>,
    hasher: ahash::RandomState,
    gone: GoneIds,
    journal: Option<Journal>,
    incarnation: u32,
    next_ordinal: AtomicU64,
    draining: AtomicBool,
    runtime: Handle,
    pub(crate) orphaned: Arc<AtomicUsize>,
}

/// What the table knows of one worker; it is dropped when nothing is left of it.
#[derive(Default)]
struct Worker {
    /// By label: the resource's name, or `resource/session`.
    places: HashMap<Arc<str>, Place, ahash::RandomState>,
    temporary: Vec<Arc<Session>>,
    /// Sessions by resource, those under cleanup included.
    counts: Vec<(Arc<str>, usize)>,
    next_number: u32,
}

enum Place {
    Creating(Arc<Creation>),
    Live(Arc<Session>),
    /// It ended without the worker asking for it, and the worker has not been told.
    Gone {
        reason: Box<EndReason>,
        id: SessionId,
        since: Instant,
    },
}

/// The making of an explicit session, shared by all who ask for it.
pub(crate) struct Creation {
    cancel: CancellationToken,
    outcome: watch::Receiver<Option<Result<Arc<Session>>>>,
}

impl Creation {
    /// Waits for the session.
    ///
    /// # Errors
    /// What `initialize` answered.
    pub(crate) async fn wait(&self) -> Result<Arc<Session>> {
        let mut outcome = self.outcome.clone();
        let answer = outcome.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
        answer.unwrap_or_else(|| Err(shutting_down()))
    }
}

/// What stands under a key.
pub(crate) enum Found {
    Live(Arc<Lease>),
    Creating(Arc<Creation>),
    Gone(ToolError),
    Nothing,
}

/// What `session/create` found or made.
pub(crate) struct Created {
    pub(crate) session: Arc<Session>,
    pub(crate) existed: bool,
    pub(crate) config_matches: bool,
}

/// What a new session is to be.
#[derive(Clone)]
pub(crate) struct SessionSpec {
    pub(crate) worker: WorkerId,
    pub(crate) resource: Arc<Resource>,
    pub(crate) key: Arc<str>,
    pub(crate) config: Value,
    pub(crate) label: Option<String>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) trace: TraceId,
    pub(crate) nested: Option<Arc<dyn NestedCalls>>,
}

/// One of the sessions that a resource, and a worker on it, may have; free again when dropped.
pub(crate) struct Slot {
    table: Weak<SessionTable>,
    worker: WorkerId,
    resource: Arc<Resource>,
    number: u32,
    users: Option<TaskTrackerToken>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.resource.sessions.fetch_sub(1, Ordering::AcqRel);
        if let Some(table) = self.table.upgrade() {
            let mut shard = table.shard(&self.worker);
            if let Some(worker) = shard.get_mut(&self.worker) {
                worker.uncount(&self.resource.name);
                drop_if_empty(&mut shard, &self.worker);
            }
        }
        self.users = None;
    }
}

impl Worker {
    fn count(&self, resource: &str) -> usize {
        self.counts.iter().find(|(name, _)| &**name == resource).map_or(0, |(_, count)| *count)
    }

    fn uncount(&mut self, resource: &str) {
        if let Some(index) = self.counts.iter().position(|(name, _)| &**name == resource) {
            self.counts[index].1 -= 1;
            if self.counts[index].1 == 0 {
                self.counts.swap_remove(index);
            }
        }
    }

    fn sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        let explicit = self.places.values().filter_map(|place| match place {
            Place::Live(session) => Some(session),
            Place::Creating(_) | Place::Gone { .. } => None,
        });
        explicit.chain(&self.temporary)
    }
}

fn drop_if_empty(shard: &mut Shard, worker: &WorkerId) {
    let empty = |w: &Worker| w.places.is_empty() && w.temporary.is_empty() && w.counts.is_empty();
    if shard.get(worker).is_some_and(empty) {
        shard.remove(worker);
    }
}

/// The name under which maps keyed by resource show a session: `vm`, or `vm/second`.
pub(crate) fn label<'a>(resource: &'a str, key: &str) -> Cow<'a, str> {
    if key == DEFAULT_SESSION { Cow::Borrowed(resource) } else { Cow::Owned(format!("{resource}/{key}")) }
}

/// The request field `session`.
///
/// # Errors
/// It is empty, too long, or has control characters.
pub(crate) fn parse_key(key: Option<&str>) -> Result<&str> {
    match key {
        None => Ok(DEFAULT_SESSION),
        Some(key) if key.is_empty() || key.len() > MAX_KEY_BYTES || key.chars().any(char::is_control) => {
            let expected = format!("1 to {MAX_KEY_BYTES} bytes without control characters");
            Err(ToolError::parameter(ErrorCode::INVALID_INPUT, "session", expected, format!("{} bytes", key.len())))
        }
        Some(key) => Ok(key),
    }
}

impl SessionTable {
    /// An empty table; sessions that an earlier server left in the journal are gone, and their workers will be told.
    pub(crate) fn new(runtime: Handle, journal: Option<(Journal, Vec<OpenSession>)>) -> Arc<Self> {
        let (journal, left) = journal.map_or((None, Vec::new()), |(journal, left)| (Some(journal), left));
        let table = Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: ahash::RandomState::new(),
            gone: GoneIds::new(),
            journal,
            incarnation: getrandom::u32().unwrap_or_else(|_| fastrand::u32(..)),
            next_ordinal: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            runtime,
            orphaned: Arc::default(),
        };
        for open in left {
            let (Ok(worker), Ok(id)) = (WorkerId::parse(&open.worker), SessionId::parse(&open.id)) else { continue };
            if let Some((_, random)) = parse_id(&id) {
                table.gone.remember(&worker, random, EndReason::ServerRestarted);
            }
            let label = label(&open.resource, &open.session).as_ref().into();
            let place = Place::Gone { reason: Box::new(EndReason::ServerRestarted), id, since: Instant::now() };
            table.shard(&worker).entry(worker.clone()).or_default().places.insert(label, place);
        }
        Arc::new(table)
    }

    fn shard(&self, worker: &WorkerId) -> MutexGuard<'_, Shard> {
        let index = self.hasher.hash_one(worker) % SHARDS as u64;
        #[expect(clippy::cast_possible_truncation, reason = "less than SHARDS")]
        self.shards[index as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the worker has under this key. `acknowledge`: a session that is gone is reported this once.
    pub(crate) fn find(&self, worker: &WorkerId, resource: &Resource, key: &str, acknowledge: bool) -> Found {
        let label = label(&resource.name, key);
        let mut shard = self.shard(worker);
        let Some(place) = shard.get(worker).and_then(|entry| entry.places.get(&*label)) else { return Found::Nothing };
        let expired = match place {
            Place::Creating(creation) => return Found::Creating(creation.clone()),
            Place::Live(session) if !session.expired() => match session.lease() {
                Ok(lease) => return Found::Live(lease),
                Err(error) => return Found::Gone(error),
            },
            Place::Live(session) => Some(session.clone()),
            Place::Gone { .. } => None,
        };
        // The sweep has not come by yet: the time to live holds all the same.
        let ended = expired.map(|session| self.end_in(&mut shard, &session, &EndReason::Expired));
        let found = self.take_note(&mut shard, worker, &label, acknowledge).map_or(Found::Nothing, Found::Gone);
        drop(shard);
        if let Some(ended) = ended {
            ended.start();
        }
        found
    }

    /// The note that a session is gone; acknowledged, it is dropped.
    fn take_note(&self, shard: &mut Shard, worker: &WorkerId, label: &str, acknowledge: bool) -> Option<ToolError> {
        let entry = shard.get_mut(worker)?;
        let Some(Place::Gone { reason, id, .. }) = entry.places.get(label) else { return None };
        let error = reason.gone(&format!("session `{label}` of this worker"));
        if acknowledge {
            self.forget(id);
            entry.places.remove(label);
            drop_if_empty(shard, worker);
        }
        Some(error)
    }

    fn forget(&self, id: &SessionId) {
        if let Some(journal) = &self.journal {
            journal.closed(id.as_str());
        }
    }

    /// A lease on the worker's session with this id.
    ///
    /// # Errors
    /// The session ended, never was, or is another worker's.
    pub(crate) fn find_id(&self, worker: &WorkerId, id: &SessionId) -> Result<Arc<Lease>> {
        let mut shard = self.shard(worker);
        let found = shard.get(worker).and_then(|entry| entry.sessions().find(|session| session.id() == id)).cloned();
        match found {
            // A temporary session belongs to its own call: no other may join it.
            Some(session) if session.temporary => Err(not_found(id)),
            Some(session) if session.expired() => {
                let ended = self.end_in(&mut shard, &session, &EndReason::Expired);
                drop(shard);
                ended.start();
                Err(EndReason::Expired.gone(&format!("session `{id}`")))
            }
            Some(session) => session.lease(),
            None => {
                drop(shard);
                Err(self
                    .why_gone(worker, id)
                    .map_or_else(|| not_found(id), |reason| reason.gone(&format!("session `{id}`"))))
            }
        }
    }

    fn why_gone(&self, worker: &WorkerId, id: &SessionId) -> Option<EndReason> {
        let (incarnation, random) = parse_id(id)?;
        if let Some(reason) = self.gone.reason(worker, random) {
            return Some(reason);
        }
        // Made by an earlier server that kept no journal: its name says whose it was.
        let own = id.as_str().contains(&format!("_{}_", sanitize(worker.as_str())));
        (incarnation != self.incarnation && own).then_some(EndReason::ServerRestarted)
    }

    /// Makes the session, joins its making, or finds it.
    ///
    /// The making runs in a task of its own and survives whoever asked for it.
    ///
    /// # Errors
    /// What `initialize` answered, or a limit.
    pub(crate) async fn create(self: &Arc<Self>, spec: SessionSpec) -> Result<Created> {
        let digest = digest(&spec.config);
        let mut ended = None;
        let began = {
            let label = label(&spec.resource.name, &spec.key);
            let mut shard = self.shard(&spec.worker);
            let expired = match shard.get(&spec.worker).and_then(|entry| entry.places.get(&*label)) {
                Some(Place::Live(session)) if session.expired() => Some(session.clone()),
                Some(Place::Live(session)) => {
                    session.touch();
                    let config_matches = session.config_digest == digest;
                    return Ok(Created { session: session.clone(), existed: true, config_matches });
                }
                _ => None,
            };
            ended = expired.map(|session| self.end_in(&mut shard, &session, &EndReason::Expired)).or(ended);
            let running = match shard.get(&spec.worker).and_then(|entry| entry.places.get(&*label)) {
                Some(Place::Creating(creation)) => Some(creation.clone()),
                _ => None,
            };
            match running {
                Some(creation) => Ok((creation, true)),
                None => self.begin_creation(&mut shard, &label, &spec, digest).map(|creation| (creation, false)),
            }
        };
        if let Some(ended) = ended {
            ended.start();
        }
        let (creation, existed) = began?;
        let session = creation.wait().await?;
        let config_matches = session.config_digest == digest;
        Ok(Created { session, existed, config_matches })
    }

    fn begin_creation(
        self: &Arc<Self>,
        shard: &mut Shard,
        label: &str,
        spec: &SessionSpec,
        digest: u64,
    ) -> Result<Arc<Creation>> {
        let slot = self.reserve(shard, &spec.worker, &spec.resource)?;
        let (sender, outcome) = watch::channel(None);
        let creation = Arc::new(Creation { cancel: CancellationToken::new(), outcome });
        let place = Place::Creating(creation.clone());
        let entry = shard.entry(spec.worker.clone()).or_default();
        if let Some(Place::Gone { id, .. }) = entry.places.insert(label.into(), place) {
            self.forget(&id);
        }
        let (table, own, spec, label) = (self.clone(), creation.clone(), spec.clone(), Arc::<str>::from(label));
        self.runtime.spawn(async move {
            let worker = spec.worker.clone();
            let made = table.make(spec, slot, false, digest, own.cancel.clone()).await;
            let result = table.settle(&worker, &label, &own, made);
            let _ = sender.send(Some(result));
        });
        Ok(creation)
    }

    /// Puts a session just made into its place, unless it was destroyed meanwhile.
    fn settle(
        &self,
        worker: &WorkerId,
        label: &Arc<str>,
        own: &Arc<Creation>,
        made: Result<(Arc<Session>, SessionHandle)>,
    ) -> Result<Arc<Session>> {
        let mut shard = self.shard(worker);
        let place = shard.get_mut(worker).and_then(|entry| entry.places.get_mut(label));
        let place = place.filter(|place| matches!(place, Place::Creating(creation) if Arc::ptr_eq(creation, own)));
        let outcome = match (made, place) {
            (Ok((session, handle)), Some(place)) => {
                if let Some(journal) = &self.journal {
                    journal.opened(OpenSession {
                        worker: worker.to_string(),
                        resource: session.resource.name.to_string(),
                        session: session.key.to_string(),
                        id: session.id().to_string(),
                    });
                }
                *place = Place::Live(session.clone());
                Ok((session, handle))
            }
            (Ok((session, _)), None) => Err((destroyed_meanwhile(), Some(session.end(EndReason::Destroyed)))),
            (Err(error), place) => {
                let cancelled = place.is_none();
                if !cancelled {
                    if let Some(entry) = shard.get_mut(worker) {
                        entry.places.remove(label);
                    }
                    drop_if_empty(&mut shard, worker);
                }
                Err((if cancelled { destroyed_meanwhile() } else { error }, None))
            }
        };
        drop(shard);
        // Outside the lock: cleanups, and a handle that has failed already and takes the session out again.
        match outcome {
            Ok((session, handle)) => {
                handle.attach(&session);
                Ok(session)
            }
            Err((error, ended)) => {
                if let Some(ended) = ended {
                    ended.start();
                }
                Err(error)
            }
        }
    }

    /// Makes a session for one call, or batch: with the end of its last lease it is destroyed. Its making is cancelled
    /// when the caller goes away.
    ///
    /// # Errors
    /// What `initialize` answered, or a limit.
    pub(crate) async fn create_temporary(self: &Arc<Self>, spec: SessionSpec) -> Result<Arc<Lease>> {
        let slot = self.reserve(&mut self.shard(&spec.worker), &spec.worker, &spec.resource)?;
        let resource = spec.resource.clone();
        let cancel = CancellationToken::new();
        let guard = cancel.clone().drop_guard();
        let table = self.clone();
        let making = async move {
            let (session, handle) = table.make(spec, slot, true, 0, cancel).await?;
            // Leased before anyone can end it; a result that nobody takes is dropped, lease and session with it.
            let lease = session.lease();
            table.shard(&session.worker).entry(session.worker.clone()).or_default().temporary.push(session.clone());
            handle.attach(&session);
            lease
        };
        let lease = match resource.initialize_pace.begin(making, &self.runtime) {
            Begun::Done(lease) => lease,
            Begun::Pending(making) => {
                let made = self.runtime.spawn(async move { resource.initialize_pace.observe(making).await });
                made.await.unwrap_or_else(|_| Err(shutting_down()))
            }
        };
        guard.disarm();
        lease
    }

    /// Runs `initialize` under its time limit.
    async fn make(
        self: &Arc<Self>,
        spec: SessionSpec,
        mut slot: Slot,
        temporary: bool,
        config_digest: u64,
        cancel: CancellationToken,
    ) -> Result<(Arc<Session>, SessionHandle)> {
        let SessionSpec { worker, resource, key, config, label, ttl, trace, nested } = spec;
        let limit = Duration::from_secs_f64(resource.limits.initialize_timeout_seconds);
        let name = session_name(&resource.name, &worker, slot.number, label.as_deref());
        let id = self.new_id(&name)?;
        let handle = SessionHandle::default();
        let context = ToolContext::new(Inner {
            worker: worker.clone(),
            trace,
            resource: resource.context.clone(),
            session: None,
            session_id: Some(id.clone()),
            cancel: cancel.clone(),
            limits: Limits { arrival: Instant::now(), wait: limit, run: None },
            entered: Entered::default(),
            depth: 0,
            nested,
        });
        let initialize = async {
            resource.ensure_started().await?;
            catch(resource.instance.clone().initialize(config, context, handle.clone())).await.and_then(|made| made)
        };
        let made = tokio::select! {
            biased;
            made = tokio::time::timeout(limit, initialize) => made.unwrap_or_else(|_| {
                let message = format!("`initialize` of `{}` took longer than {} s", resource.name, limit.as_secs_f64());
                Err(ToolError::new(ErrorCode::TIMEOUT_ERROR, message))
            })?,
            () = cancel.cancelled() => return Err(ToolError::new(ErrorCode::CANCELLED, "nobody waits for the session any more")),
        };
        slot.users = Some(made.token);
        let ttl = ttl.unwrap_or_else(|| Duration::from_secs_f64(resource.limits.session_ttl));
        let session = Session::new(NewSession {
            id,
            name: name.into(),
            worker,
            key,
            resource,
            temporary,
            config_digest,
            ttl,
            ordinal: self.next_ordinal.fetch_add(1, Ordering::Relaxed),
            cell: made.cell,
            slot,
            table: Arc::downgrade(self),
        });
        Ok((session, handle))
    }

    fn reserve(self: &Arc<Self>, shard: &mut Shard, worker: &WorkerId, resource: &Arc<Resource>) -> Result<Slot> {
        if self.draining.load(Ordering::Acquire) {
            return Err(shutting_down());
        }
        let limits = &resource.limits;
        let exhausted = |what: String| Err(ToolError::new(ErrorCode::RESOURCE_EXHAUSTED, what));
        if shard.get(worker).map_or(0, |entry| entry.count(&resource.name)) >= limits.max_sessions_per_worker {
            let max = limits.max_sessions_per_worker;
            return exhausted(format!(
                "the worker has {max} sessions on `{}` (max_sessions_per_worker)",
                resource.name
            ));
        }
        let below = |sessions: usize| (sessions < limits.max_sessions).then_some(sessions + 1);
        if resource.sessions.fetch_update(Ordering::AcqRel, Ordering::Acquire, below).is_err() {
            return exhausted(format!("`{}` has {} sessions (max_sessions)", resource.name, limits.max_sessions));
        }
        let entry = shard.entry(worker.clone()).or_default();
        entry.next_number += 1;
        match entry.counts.iter_mut().find(|(name, _)| *name == resource.name) {
            Some((_, count)) => *count += 1,
            None => entry.counts.push((resource.name.clone(), 1)),
        }
        Ok(Slot {
            table: Arc::downgrade(self),
            worker: worker.clone(),
            resource: resource.clone(),
            number: entry.next_number,
            users: None,
        })
    }

    fn new_id(&self, name: &str) -> Result<SessionId> {
        let random = [getrandom::u64(), getrandom::u64()];
        let [Ok(high), Ok(low)] = random else {
            return Err(ToolError::new(ErrorCode::INTERNAL_ERROR, "the system gives no random numbers"));
        };
        SessionId::parse(&format!("{name}_{:08x}{high:016x}{low:016x}", self.incarnation))
            .map_err(|error| ToolError::new(ErrorCode::INTERNAL_ERROR, error))
    }

    /// Takes a session out of the table and ends it.
    pub(crate) fn end(&self, session: &Arc<Session>, reason: EndReason) {
        let ended = self.end_in(&mut self.shard(&session.worker), session, &reason);
        ended.start();
    }

    fn end_in(&self, shard: &mut Shard, session: &Arc<Session>, reason: &EndReason) -> Ended {
        if let Some(entry) = shard.get_mut(&session.worker) {
            if session.temporary {
                entry.temporary.retain(|other| !Arc::ptr_eq(other, session));
            } else {
                let label = label(&session.resource.name, &session.key);
                if matches!(entry.places.get(&*label), Some(Place::Live(live)) if Arc::ptr_eq(live, session)) {
                    if reason.asked_for() {
                        entry.places.remove(&*label);
                        self.forget(session.id());
                    } else {
                        let (reason, id) = (Box::new(reason.clone()), session.id().clone());
                        entry.places.insert(label.as_ref().into(), Place::Gone { reason, id, since: Instant::now() });
                    }
                    if let Some((_, random)) = parse_id(session.id()) {
                        self.gone.remember(&session.worker, random, reason.clone());
                    }
                }
            }
            drop_if_empty(shard, &session.worker);
        }
        session.end(reason.clone())
    }

    /// The worker's sessions, temporary ones included.
    pub(crate) fn sessions_of(&self, worker: &WorkerId) -> Vec<Arc<Session>> {
        let shard = self.shard(worker);
        let mut sessions: Vec<_> = shard.get(worker).into_iter().flat_map(Worker::sessions).cloned().collect();
        drop(shard);
        sessions.retain(|session| !session.expired());
        sessions.sort_by_key(|session| session.ordinal());
        sessions
    }

    /// Destroys what the worker has under a key: a session, one that is being made, or the note that one is gone.
    pub(crate) fn destroy(&self, worker: &WorkerId, resource: &str, key: &str) -> Result<Option<Arc<Session>>> {
        let label = label(resource, key);
        let mut shard = self.shard(worker);
        let nothing = || ToolError::new(ErrorCode::NOT_FOUND, format!("the worker has no session `{label}`"));
        let entry = shard.get_mut(worker).ok_or_else(nothing)?;
        match entry.places.get(&*label) {
            None => Err(nothing()),
            Some(Place::Live(session)) => {
                let session = session.clone();
                let ended = self.end_in(&mut shard, &session, &EndReason::Destroyed);
                drop(shard);
                ended.start();
                Ok(Some(session))
            }
            Some(Place::Creating(creation)) => {
                creation.cancel.cancel();
                entry.places.remove(&*label);
                drop_if_empty(&mut shard, worker);
                Ok(None)
            }
            Some(Place::Gone { .. }) => Err(self.take_note(&mut shard, worker, &label, true).unwrap_or_else(nothing)),
        }
    }

    /// Ends everything the worker has; how many sessions that were.
    pub(crate) fn disconnect(&self, worker: &WorkerId) -> usize {
        let mut shard = self.shard(worker);
        let Some(entry) = shard.get_mut(worker) else { return 0 };
        let mut sessions = Vec::new();
        for (_, place) in entry.places.extract_if(|_, place| !matches!(place, Place::Live(_))) {
            match place {
                Place::Creating(creation) => creation.cancel.cancel(),
                Place::Gone { id, .. } => self.forget(&id),
                Place::Live(_) => {}
            }
        }
        sessions.extend(entry.sessions().cloned());
        let ended: Vec<_> =
            sessions.iter().map(|session| self.end_in(&mut shard, session, &EndReason::Disconnected)).collect();
        drop_if_empty(&mut shard, worker);
        drop(shard);
        ended.into_iter().for_each(Ended::start);
        sessions.len()
    }

    /// Ends idle sessions, forgets old notes and gives memory back.
    pub(crate) fn sweep(&self) {
        for mut shard in self.all() {
            let sessions = shard.values().flat_map(Worker::sessions);
            let expired: Vec<_> = sessions.filter(|session| session.expired()).cloned().collect();
            let end = |session: &Arc<Session>| {
                tracing::info!(worker = %session.worker, session = %session.id(), "session expired");
                self.end_in(&mut shard, session, &EndReason::Expired)
            };
            let ended: Vec<_> = expired.iter().map(end).collect();
            shard.retain(|_, worker| {
                worker.places.retain(|_, place| match place {
                    Place::Gone { since, .. } => since.elapsed() <= crate::gone::REMEMBERED,
                    Place::Creating(_) | Place::Live(_) => true,
                });
                !(worker.places.is_empty() && worker.temporary.is_empty() && worker.counts.is_empty())
            });
            if shard.capacity() > 4 * shard.len().max(16) {
                shard.shrink_to_fit();
            }
            drop(shard);
            ended.into_iter().for_each(Ended::start);
        }
        self.gone.sweep();
    }

    /// Takes no new sessions from now on.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Ends every session; how many.
    pub(crate) fn end_all(&self) -> usize {
        let mut count = 0;
        for mut shard in self.all() {
            let sessions: Vec<_> = shard.values().flat_map(Worker::sessions).cloned().collect();
            for worker in shard.values_mut() {
                for place in worker.places.values() {
                    if let Place::Creating(creation) = place {
                        creation.cancel.cancel();
                    }
                }
            }
            count += sessions.len();
            let ended: Vec<_> =
                sessions.iter().map(|session| self.end_in(&mut shard, session, &EndReason::ServerRestarted)).collect();
            drop(shard);
            ended.into_iter().for_each(Ended::start);
        }
        count
    }

    /// Workers with sessions, and sessions.
    pub(crate) fn totals(&self) -> (usize, usize) {
        let mut totals = (0, 0);
        for shard in self.all() {
            for worker in shard.values() {
                let sessions = worker.sessions().count();
                totals.0 += usize::from(sessions > 0);
                totals.1 += sessions;
            }
        }
        totals
    }
}

fn digest(config: &Value) -> u64 {
    // Only compared within one process: `serde_json` maps are sorted, so equal configurations have equal text.
    ahash::RandomState::with_seeds(1, 2, 3, 4).hash_one(config.to_string())
}

fn session_name(resource: &str, worker: &WorkerId, number: u32, label: Option<&str>) -> String {
    let worker = sanitize(worker.as_str());
    match label.filter(|label| !label.is_empty()) {
        Some(label) => format!("{resource}_{worker}_{number:03}_{}", sanitize(label)),
        None => format!("{resource}_{worker}_{number:03}"),
    }
}

/// At most 32 characters, others than `[A-Za-z0-9_-]` as `-`.
fn sanitize(text: &str) -> String {
    text.chars().take(32).map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '-' }).collect()
}

/// Incarnation and random part of an id that a server of this kind made.
fn parse_id(id: &SessionId) -> Option<(u32, u128)> {
    let (_, hex) = id.as_str().rsplit_once('_')?;
    if hex.len() != 40 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    Some((u32::from_str_radix(&hex[..8], 16).ok()?, u128::from_str_radix(&hex[8..], 16).ok()?))
}

fn not_found(id: &SessionId) -> ToolError {
    ToolError::new(ErrorCode::NOT_FOUND, format!("the worker has no session `{id}`"))
}

fn destroyed_meanwhile() -> ToolError {
    ToolError::new(ErrorCode::CANCELLED, "the session was destroyed while it was being made")
}

pub(crate) fn shutting_down() -> ToolError {
    ToolError::new(ErrorCode::SHUTTING_DOWN, "the server is shutting down")
}

#[cfg(test)]
mod tests {
    use super::{parse_id, session_name};
    use sandbox_types::{SessionId, WorkerId};

    #[test]
    fn names_are_safe_and_ids_parse() {
        let worker = WorkerId::parse("agent 7/ä@host-with-a-very-long-name-indeed").expect("a good id");
        let name = session_name("vm", &worker, 7, Some("my label"));
        assert_eq!(name, "vm_agent-7---host-with-a-very-long-_007_my-label");
        let id = SessionId::parse(&format!("{name}_{:08x}{:032x}", 1, 2)).expect("a good id");
        assert_eq!(parse_id(&id), Some((1, 2)));
        assert_eq!(parse_id(&SessionId::parse("vm_x_001_ff").expect("a good id")), None);
    }
}
