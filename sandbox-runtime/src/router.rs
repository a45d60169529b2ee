//! The session table: one session per worker, resource and name; creation, leases, ends.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use sandbox_types::{ErrorCode, SessionId, WorkerId};
use tokio::{runtime::Handle, time::Instant};

use crate::{
    creation::Creation,
    error::{Result, ToolError},
    gone::GoneIds,
    journal::{Journal, OpenSession},
    naming::{label, may_be_of, parse_id},
    resource::{CleanupFaults, Resource},
    session::{EndReason, Ended, Lease, Session},
};

/// Locks of the table: a call takes one of them, and holds it for no longer than it takes to look up, or to write one line
/// of the journal.
const SHARDS: usize = 64;

/// Workers are told of so many sessions that ended by themselves.
pub(crate) const MAX_NOTES: usize = 100_000;

pub(crate) type Shard = HashMap<WorkerId, Worker, ahash::RandomState>;

/// All sessions of all resources.
pub(crate) struct SessionTable {
    shards: Box<[Mutex<Shard>]>,
    hasher: ahash::RandomState,
    gone: GoneIds,
    pub(crate) journal: Option<Journal>,
    pub(crate) incarnation: u32,
    pub(crate) next_ordinal: AtomicU64,
    /// Set when the sessions are ended for good: none is made any more.
    pub(crate) closed: AtomicBool,
    /// Notes of sessions that are gone; the sweep counts them.
    notes: AtomicUsize,
    pub(crate) runtime: Handle,
    pub(crate) faults: Arc<CleanupFaults>,
}

/// What the table knows of one worker; it is dropped when nothing is left of it.
#[derive(Default)]
pub(crate) struct Worker {
    /// By label: the resource's name, or `resource/session`.
    pub(crate) places: HashMap<Arc<str>, Place, ahash::RandomState>,
    pub(crate) temporary: Vec<Arc<Session>>,
    /// Sessions by resource, those under cleanup included.
    pub(crate) counts: Vec<(Arc<str>, usize)>,
    pub(crate) next_number: u32,
}

pub(crate) enum Place {
    Creating(Arc<Creation>),
    Live(Arc<Session>),
    /// It ended without the worker asking for it, and the worker has not been told.
    Gone {
        reason: Box<EndReason>,
        id: SessionId,
        since: Instant,
    },
}

/// What stands under a key.
pub(crate) enum Found {
    Live(Arc<Lease>),
    Creating(Arc<Creation>),
    Gone(ToolError),
    Nothing,
}

impl Worker {
    pub(crate) fn count(&self, resource: &str) -> usize {
        self.counts.iter().find(|(name, _)| &**name == resource).map_or(0, |(_, count)| *count)
    }

    pub(crate) fn uncount(&mut self, resource: &str) {
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

pub(crate) fn drop_if_empty(shard: &mut Shard, worker: &WorkerId) {
    let empty = |w: &Worker| w.places.is_empty() && w.temporary.is_empty() && w.counts.is_empty();
    if shard.get(worker).is_some_and(empty) {
        shard.remove(worker);
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
            closed: AtomicBool::new(false),
            notes: AtomicUsize::new(0),
            runtime,
            faults: Arc::default(),
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

    pub(crate) fn shard(&self, worker: &WorkerId) -> MutexGuard<'_, Shard> {
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

    pub(crate) fn forget(&self, id: &SessionId) {
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
        (incarnation != self.incarnation && may_be_of(id, worker)).then_some(EndReason::ServerRestarted)
    }

    /// Takes a session out of the table and ends it.
    pub(crate) fn end(&self, session: &Arc<Session>, reason: &EndReason) {
        let ended = self.end_in(&mut self.shard(&session.worker), session, reason);
        ended.start();
    }

    pub(crate) fn end_in(&self, shard: &mut Shard, session: &Arc<Session>, reason: &EndReason) -> Ended {
        if let Some(entry) = shard.get_mut(&session.worker) {
            if session.temporary {
                entry.temporary.retain(|other| !Arc::ptr_eq(other, session));
            } else {
                let label = label(&session.resource.name, &session.key);
                if matches!(entry.places.get(&*label), Some(Place::Live(live)) if Arc::ptr_eq(live, session)) {
                    // Beyond the bound a worker is told only if it names the session's id.
                    if reason.asked_for() || self.notes.load(Ordering::Relaxed) >= MAX_NOTES {
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
        let mut notes = 0;
        for mut shard in self.all() {
            let sessions = shard.values().flat_map(Worker::sessions);
            let expired: Vec<_> = sessions.filter(|session| session.expired()).cloned().collect();
            let ended: Vec<_> =
                expired.iter().map(|session| self.end_in(&mut shard, session, &EndReason::Expired)).collect();
            shard.retain(|_, worker| {
                worker.places.retain(|_, place| match place {
                    Place::Gone { since, id, .. } => {
                        let kept = since.elapsed() <= crate::gone::REMEMBERED;
                        if !kept {
                            self.forget(id);
                        }
                        kept
                    }
                    Place::Creating(_) | Place::Live(_) => true,
                });
                !(worker.places.is_empty() && worker.temporary.is_empty() && worker.counts.is_empty())
            });
            let gone = |place: &&Place| matches!(place, Place::Gone { .. });
            notes += shard.values().map(|worker| worker.places.values().filter(gone).count()).sum::<usize>();
            if shard.capacity() > 4 * shard.len().max(16) {
                shard.shrink_to_fit();
            }
            drop(shard);
            // A log that is slow to take it must not keep the lock: a tool may have the log's.
            for session in &expired {
                tracing::info!(worker = session.worker.as_str(), session = session.id().as_str(), "session expired");
            }
            ended.into_iter().for_each(Ended::start);
        }
        self.notes.store(notes, Ordering::Relaxed);
        self.gone.sweep();
        if let Some(journal) = &self.journal {
            journal.compact();
        }
    }

    /// Ends every session; how many. None is made from now on.
    pub(crate) fn end_all(&self) -> usize {
        self.closed.store(true, Ordering::Release);
        let mut count = 0;
        for mut shard in self.all() {
            let sessions: Vec<_> = shard.values().flat_map(Worker::sessions).cloned().collect();
            for worker in shard.values_mut() {
                // Taken out, so that one which is done at this moment finds its place gone and is cleaned up.
                for (_, place) in worker.places.extract_if(|_, place| matches!(place, Place::Creating(_))) {
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

    /// Lets go of every session without its cleanup, those apart that a thread still holds: what drops with the others is
    /// the backends' own.
    pub(crate) fn abandon_all(&self) -> Vec<Arc<Session>> {
        self.closed.store(true, Ordering::Release);
        let mut sessions = Vec::new();
        for mut shard in self.all() {
            for (_, worker) in shard.iter_mut() {
                for (_, place) in worker.places.drain() {
                    match place {
                        Place::Creating(creation) => creation.cancel.cancel(),
                        Place::Live(session) => sessions.push(session),
                        Place::Gone { .. } => {}
                    }
                }
                sessions.append(&mut worker.temporary);
            }
        }
        sessions
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

fn not_found(id: &SessionId) -> ToolError {
    ToolError::new(ErrorCode::NOT_FOUND, format!("the worker has no session `{id}`"))
}

#[cfg(test)]
mod tests;
