//! The making of sessions: single-flight, under a time limit, within the limits of resource and worker.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use sandbox_types::{ErrorCode, SessionId, TraceId, WorkerId};
use serde_json::Value;
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};

use crate::{
    context::{Entered, Frame, Inner, Limits, NestedCalls, Passed, SessionChoice, ToolContext},
    error::{Result, ToolError},
    journal::OpenSession,
    naming::{label, session_name},
    pace::Begun,
    report::Reports,
    resource::Resource,
    router::{Place, SessionTable, Shard, drop_if_empty},
    session::{EndReason, Lease, NewSession, Session, SessionHandle},
    supervise::{CallControl, Cause, catch},
};

/// The making of an explicit session, shared by all who ask for it.
pub(crate) struct Creation {
    pub(crate) cancel: CancellationToken,
    /// Calls that wait for it.
    pub(crate) waiting: AtomicU32,
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
        answer.unwrap_or_else(|| Err(ToolError::shutting_down()))
    }
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
    pub(crate) choice: SessionChoice,
    pub(crate) config: Value,
    pub(crate) label: Option<String>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) trace: TraceId,
    pub(crate) nested: Option<Arc<dyn NestedCalls>>,
    /// How deep the call that needs the session is nested, and what its callers hold and have passed.
    pub(crate) depth: u8,
    pub(crate) frames: Option<Arc<Frame>>,
    pub(crate) passed: Option<Arc<Passed>>,
    /// Where the call that needs the session reports to: its making is part of what that call does.
    pub(crate) reports: Option<Reports>,
}

/// One of the sessions that a resource, and a worker on it, may have; free again when dropped.
pub(crate) struct Slot {
    table: Weak<SessionTable>,
    worker: WorkerId,
    resource: Arc<Resource>,
    number: u32,
    users: Option<TaskTrackerToken>,
    /// The end of the server waits for it.
    _alive: TaskTrackerToken,
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

impl SessionTable {
    /// Makes the session, joins its making, or finds it.
    ///
    /// The making runs in a task of its own and survives whoever asked for it.
    ///
    /// # Errors
    /// What `initialize` answered, or a limit.
    pub(crate) async fn create(self: &Arc<Self>, spec: SessionSpec) -> Result<Created> {
        let digest = digest(&spec.config);
        let ended;
        let began = {
            let label = label(&spec.resource.name, &spec.choice.key);
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
            ended = expired.map(|session| self.end_in(&mut shard, &session, &EndReason::Expired));
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
        let creation = Arc::new(Creation { cancel: CancellationToken::new(), waiting: AtomicU32::new(0), outcome });
        let place = Place::Creating(creation.clone());
        let entry = shard.entry(spec.worker.clone()).or_default();
        if let Some(Place::Gone { id, .. }) = entry.places.insert(label.into(), place) {
            self.forget(&id);
        }
        let (table, own, spec, label) = (self.clone(), creation.clone(), spec.clone(), Arc::<str>::from(label));
        self.runtime.spawn(async move {
            let worker = spec.worker.clone();
            // A panic here, such as one in the drop of an `initialize` that was cut, must not leave the key taken.
            let made = catch(table.make(spec, slot, false, digest, own.cancel.clone())).await.and_then(|made| made);
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
                        gone_since: None,
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
                let made = self.runtime.spawn(async move {
                    // A panic can come from the drop of an `initialize` that was cut.
                    catch(resource.initialize_pace.observe(making)).await.and_then(|made| made)
                });
                made.await.unwrap_or_else(|_| Err(ToolError::shutting_down()))
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
        let SessionSpec { worker, resource, choice, config, label, ttl, trace, nested, depth, frames, passed, reports } =
            spec;
        let key = choice.key.clone();
        let limit = Duration::from_secs_f64(resource.limits.initialize_timeout_seconds);
        let name = session_name(&resource.name, &worker, slot.number, label.as_deref());
        let id = self.new_id(&name)?;
        let handle = SessionHandle::default();
        let control = CallControl::under(&cancel);
        let mut context = ToolContext::new(Inner {
            worker: worker.clone(),
            trace: trace.clone(),
            resource: resource.context.clone(),
            session: None,
            session_id: Some(id.clone()),
            control: control.clone(),
            limits: Limits { arrival: Instant::now(), wait: limit, run: None },
            entered: Entered::default(),
            reports,
            gate: None,
            passed,
            blocking: false,
            making: true,
            // Two sessions of a batch that each need the other in `initialize` would wait for each other.
            choice: SessionChoice { batch: None, ..choice },
            depth,
            nested,
        });
        context.frames = frames;
        let initialize = async {
            resource.ensure_started().await?;
            let initialize = catch(resource.instance.clone().initialize(config, context, handle.clone()));
            let watched = resource.watched("initialize", worker.as_str(), trace.as_str());
            watched.awaiting(initialize).await.and_then(|made| made)
        };
        let made = tokio::select! {
            biased;
            made = tokio::time::timeout(limit, initialize) => made.unwrap_or_else(|_| {
                // What `initialize` has started elsewhere listens to its token.
                control.fire(Cause::Deadline);
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
        if self.closed.load(Ordering::Acquire) {
            return Err(ToolError::shutting_down());
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
            _alive: resource.cleanups.token(),
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
}

fn digest(config: &Value) -> u64 {
    // Only compared within one process: `serde_json` maps are sorted, so equal configurations have equal text.
    ahash::RandomState::with_seeds(1, 2, 3, 4).hash_one(config.to_string())
}

fn destroyed_meanwhile() -> ToolError {
    ToolError::new(ErrorCode::CANCELLED, "the session was destroyed while it was being made")
}
