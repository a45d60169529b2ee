//! The runs that clients can ask for: those that run, and for a while those that ended.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering, fence},
    },
    time::Duration,
};

use sandbox_types::{ErrorCode, RunId, RunInfo, WorkerId};
use serde_json::{Value, json, value::RawValue};
use tokio::time::Instant;

use crate::{
    answer::Answer,
    error::{Result, ToolError},
    events::Budget,
    executor::ToolExecutor,
    nearest::shown,
    run::{Reader, Run},
};

/// How long a run is kept after its end.
const KEPT: Duration = Duration::from_mins(10);
/// Plain calls of one worker that are kept after their ends, without their answers.
const MAX_PLAIN_OF_WORKER: usize = 32;
/// Plain calls that one shard keeps after their ends.
const MAX_PLAIN_OF_SHARD: usize = 1_000;
/// Runs of one worker that are kept after their ends: each look-up goes through them.
const MAX_OF_WORKER: usize = 1_000;
/// What a run takes beside its ring and its answer.
const RUN_OVERHEAD: usize = 1_024;
const SHARDS: usize = 16;

/// The runs by worker.
pub(crate) struct RunStore {
    pub(crate) budget: Arc<Budget>,
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    incarnation: u32,
    next: AtomicU64,
}

#[derive(Default)]
struct Shard {
    workers: HashMap<WorkerId, Mine>,
    /// Ended plain calls, oldest first; some may be forgotten already.
    plain: VecDeque<(WorkerId, u64)>,
}

/// The runs of one worker.
#[derive(Default)]
struct Mine {
    /// In the order in which they were listed.
    runs: BTreeMap<u64, Kept>,
    /// Ended ones with their answers, in the order of their ends.
    answered: VecDeque<u64>,
    /// Ended plain calls, in the order of their ends.
    plain: VecDeque<u64>,
    /// What the ended ones take.
    bytes: usize,
}

struct Kept {
    run: Arc<Run>,
    /// Set at its end: what it takes of the budget, beside its ring.
    bytes: Option<usize>,
}

impl RunStore {
    /// A store whose rings and answers take about `max_bytes`, a ring at most `ring_bytes`.
    pub(crate) fn new(incarnation: u32, max_bytes: usize, ring_bytes: usize) -> Self {
        Self {
            budget: Budget::new(max_bytes, ring_bytes),
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            incarnation,
            next: AtomicU64::new(0),
        }
    }

    fn shard_at(&self, index: usize) -> MutexGuard<'_, Shard> {
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_of(&self, worker: &WorkerId) -> usize {
        usize::try_from(self.hasher.hash_one(worker) % SHARDS as u64).unwrap_or_default()
    }

    fn shard(&self, worker: &WorkerId) -> MutexGuard<'_, Shard> {
        self.shard_at(self.index_of(worker))
    }

    /// Lists a run, under an id of its own, unless it is listed.
    pub(crate) fn list(&self, run: &Arc<Run>) {
        if run.id().is_some() {
            return;
        }
        let Some(id) = self.new_id() else { return };
        let mut shard = self.shard(&run.worker);
        if run.name(id) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let mine = shard.workers.entry(run.worker.clone()).or_default();
            mine.runs.insert(number, Kept { run: run.clone(), bytes: None });
            // Listed from another thread, it may have ended meanwhile as one that is not.
            fence(Ordering::SeqCst);
            if run.is_over() {
                mine.runs.remove(&number);
            }
        }
    }

    /// Unguessable: whoever knows it and names the worker can cancel the run.
    fn new_id(&self) -> Option<RunId> {
        let (high, low) = (getrandom::u64().ok()?, getrandom::u64().ok()?);
        RunId::parse(&format!("run_{:08x}{high:016x}{low:016x}", self.incarnation)).ok()
    }

    /// A listed run has ended: it is kept for a while.
    pub(crate) fn ended(&self, run: &Arc<Run>) {
        let index = self.index_of(&run.worker);
        // Dropped with no shard locked, here and below: an answer may be large.
        let forgotten = self.shard_at(index).keep(run, &self.budget);
        drop(forgotten);
        if self.budget.is_exceeded() {
            self.make_room();
        }
    }

    /// Shortens what running ones have said, then forgets those that ended first, until an eighth of the room is free: so it
    /// need not be done at each end.
    fn make_room(&self) {
        let mut ended: Vec<(Instant, usize, WorkerId, u64)> = Vec::new();
        let mut running = Vec::new();
        for index in 0..SHARDS {
            for (worker, mine) in &self.shard_at(index).workers {
                running.extend(mine.runs.values().filter(|kept| kept.bytes.is_none()).map(|kept| kept.run.clone()));
                let at = |number: &u64| mine.runs.get(number)?.run.ended_at();
                ended.extend(
                    mine.answered.iter().filter_map(|number| Some((at(number)?, index, worker.clone(), *number))),
                );
            }
        }
        running.retain(|run: &Arc<Run>| run.events().is_recording());
        // However many run, the answers of those that ended have half of the room.
        let share = self.budget.max_bytes / 2 / running.len().max(1);
        for run in running {
            let mut events = run.events();
            // What one that has ended meanwhile takes is counted already.
            if run.ended_at().is_none() {
                events.shorten(share);
            }
        }
        ended.sort_unstable_by_key(|(at, ..)| *at);
        // Somebody is about to ask for the last one.
        ended.pop();
        for (_, index, worker, number) in ended {
            if self.budget.has_an_eighth_left() {
                return;
            }
            let forgotten = self.shard_at(index).forget_answered(&worker, number, &self.budget);
            drop(forgotten);
        }
    }

    /// A worker's run.
    ///
    /// # Errors
    /// The worker has none with this id, or has none any more.
    pub(crate) fn find(&self, worker: &WorkerId, id: &str) -> Result<Arc<Run>> {
        let shard = self.shard(worker);
        let runs = shard.workers.get(worker).into_iter().flat_map(|mine| mine.runs.values());
        if let Some(kept) = runs.into_iter().find(|kept| kept.run.id().is_some_and(|own| own.as_str() == id)) {
            return Ok(kept.run.clone());
        }
        let hex = id.strip_prefix("run_").filter(|hex| hex.len() == 40 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let incarnation = hex.and_then(|hex| u32::from_str_radix(hex.get(..8)?, 16).ok());
        Err(if incarnation.is_some_and(|other| other != self.incarnation) {
            let message = format!("run `{id}` is gone: the server was restarted");
            ToolError::new(ErrorCode::NOT_FOUND, message).with_reason("server_restarted")
        } else {
            let message = format!("the worker has no run `{}`; ended ones are kept for ten minutes", shown(id));
            ToolError::new(ErrorCode::NOT_FOUND, message)
        })
    }

    /// Forgets a call whose answer has arrived, unless it was a stream or detached.
    pub(crate) fn forget(&self, worker: &WorkerId, id: &RunId) {
        let forgotten = self.shard(worker).forget_id(worker, id, &self.budget);
        drop(forgotten);
    }

    /// A worker's runs, the latest first.
    pub(crate) fn of(&self, worker: &WorkerId) -> Vec<Arc<Run>> {
        let shard = self.shard(worker);
        let mine = shard.workers.get(worker);
        mine.into_iter().flat_map(|mine| mine.runs.values().rev().map(|kept| kept.run.clone())).collect()
    }

    /// Forgets what ended more than ten minutes ago, and what there is no room for.
    pub(crate) fn sweep(&self) {
        for index in 0..SHARDS {
            let forgotten = self.shard_at(index).forget_old(&self.budget);
            drop(forgotten);
        }
        // By what running ones say.
        if self.budget.is_exceeded() {
            self.make_room();
        }
    }
}

impl ToolExecutor {
    /// A worker's runs, the latest first: those that run, and for ten minutes those that ended.
    ///
    /// A call that never had to wait is not listed.
    pub fn list_runs(&self, worker: &WorkerId) -> Value {
        let runs = self.runs.of(worker);
        let runs: Vec<RunInfo<&Answer>> = runs.iter().filter_map(|run| run.info(false).ok()).collect();
        json!({ "worker_id": worker, "count": runs.len(), "runs": runs })
    }

    /// How far a worker's run is, and its answer once it has ended; waits for the end if it is told to.
    ///
    /// # Errors
    /// [`ErrorCode::NOT_FOUND`] when the worker has no such run.
    pub async fn show_run(&self, worker: &WorkerId, id: &str, wait: Duration) -> Result<Box<RawValue>> {
        let run = self.runs.find(worker, id)?;
        if !wait.is_zero() {
            let _listening = run.listen(&self.runtime);
            let _ = tokio::time::timeout(wait, run.outcome()).await;
        }
        let info = run.info(true)?;
        serde_json::value::to_raw_value(&info)
            .map_err(|error| ToolError::new(ErrorCode::INTERNAL_ERROR, error.to_string()))
    }

    /// Asks a worker's run to end; its tool is told at once.
    ///
    /// # Errors
    /// [`ErrorCode::NOT_FOUND`] when the worker has no such run.
    pub fn cancel_run(&self, worker: &WorkerId, id: &str) -> Result<Value> {
        let run = self.runs.find(worker, id)?;
        let cancelled = run.cancel();
        let mut info = serde_json::to_value(run.info(false)?)
            .map_err(|error| ToolError::new(ErrorCode::INTERNAL_ERROR, error.to_string()))?;
        info["cancelled"] = cancelled.into();
        Ok(info)
    }

    /// Reads the events of a worker's run after the one with the id `seen`, 0: from the beginning; none when that was the
    /// last one.
    ///
    /// # Errors
    /// [`ErrorCode::NOT_FOUND`] when the worker has no such run, or its answer is not kept;
    /// [`ErrorCode::INVALID_INPUT`] when there is no such event.
    pub fn read_run(&self, worker: &WorkerId, id: &str, seen: u64) -> Result<Option<Reader>> {
        let run = self.runs.find(worker, id)?;
        let last = run.events().last_id();
        if run.answer().is_some() && seen == last + 1 {
            return Ok(None);
        }
        if seen > last {
            let expected = format!("the id of an event of this run, at most {last}");
            return Err(ToolError::parameter(ErrorCode::INVALID_INPUT, "Last-Event-ID", expected, seen.to_string()));
        }
        let reader = run.read_after(seen, &self.runs.budget, &self.runtime);
        reader.map(Some).ok_or_else(|| {
            let message = "the run is over, and the answer of a plain call goes to its caller alone";
            ToolError::new(ErrorCode::NOT_FOUND, message).with_reason("not_kept")
        })
    }
}

impl Shard {
    fn keep(&mut self, run: &Arc<Run>, budget: &Budget) -> Vec<Arc<Run>> {
        let Some(mine) = self.workers.get_mut(&run.worker) else { return Vec::new() };
        let own = mine.runs.iter_mut().rev().find(|(_, kept)| Arc::ptr_eq(&kept.run, run));
        let Some((number, kept)) = own.filter(|(_, kept)| kept.bytes.is_none()) else { return Vec::new() };
        let (number, bytes) = (*number, RUN_OVERHEAD + run.answer_bytes());
        kept.bytes = Some(bytes);
        budget.add(bytes);
        mine.bytes += bytes + run.events().bytes();
        let mut forgotten = Vec::new();
        if run.answer().is_some() {
            mine.answered.push_back(number);
            // What one worker keeps must not be what no other can.
            while mine.answered.len() > 1 && (mine.bytes > budget.max_bytes / 2 || mine.answered.len() > MAX_OF_WORKER)
            {
                forgotten.extend(mine.forget_oldest(budget));
            }
            return forgotten;
        }
        mine.plain.push_back(number);
        if mine.plain.len() > MAX_PLAIN_OF_WORKER
            && let Some(oldest) = mine.plain.pop_front()
        {
            forgotten.extend(mine.forget(oldest, budget));
        }
        self.plain.push_back((run.worker.clone(), number));
        if self.plain.len() > MAX_PLAIN_OF_SHARD
            && let Some((worker, number)) = self.plain.pop_front()
            && let Some(mine) = self.workers.get_mut(&worker)
            && mine.plain.front() == Some(&number)
        {
            mine.plain.pop_front();
            forgotten.extend(mine.forget(number, budget));
            self.drop_if_empty(&worker);
        }
        forgotten
    }

    fn forget_answered(&mut self, worker: &WorkerId, number: u64, budget: &Budget) -> Option<Arc<Run>> {
        // Another end may have made room meanwhile.
        let mine = self.workers.get_mut(worker).filter(|mine| mine.answered.front() == Some(&number))?;
        let forgotten = mine.forget_oldest(budget);
        self.drop_if_empty(worker);
        forgotten
    }

    fn forget_id(&mut self, worker: &WorkerId, id: &RunId, budget: &Budget) -> Option<Arc<Run>> {
        let mine = self.workers.get_mut(worker)?;
        // What a run has said may still be asked for.
        let is_it = |run: &Run| run.id() == Some(id) && !run.events().is_recording();
        let of_this = |number: &u64| mine.runs.get(number).is_some_and(|kept| is_it(&kept.run));
        // It is among the latest.
        let number = mine.answered.remove(mine.answered.iter().rposition(of_this)?)?;
        let forgotten = mine.forget(number, budget);
        self.drop_if_empty(worker);
        forgotten
    }

    fn forget_old(&mut self, budget: &Budget) -> Vec<Arc<Run>> {
        let mut forgotten = Vec::new();
        self.workers.retain(|_, mine| {
            while mine.is_old(mine.answered.front()) {
                forgotten.extend(mine.forget_oldest(budget));
            }
            while mine.is_old(mine.plain.front())
                && let Some(oldest) = mine.plain.pop_front()
            {
                forgotten.extend(mine.forget(oldest, budget));
            }
            !mine.runs.is_empty()
        });
        forgotten
    }

    fn drop_if_empty(&mut self, worker: &WorkerId) {
        if self.workers.get(worker).is_some_and(|mine| mine.runs.is_empty()) {
            self.workers.remove(worker);
        }
    }
}

impl Mine {
    fn is_old(&self, number: Option<&u64>) -> bool {
        let ended_at = number.and_then(|number| self.runs.get(number)).and_then(|kept| kept.run.ended_at());
        ended_at.is_some_and(|at| at.elapsed() > KEPT)
    }

    fn forget_oldest(&mut self, budget: &Budget) -> Option<Arc<Run>> {
        let oldest = self.answered.pop_front()?;
        self.forget(oldest, budget)
    }

    fn forget(&mut self, number: u64, budget: &Budget) -> Option<Arc<Run>> {
        let kept = self.runs.remove(&number)?;
        if let Some(bytes) = kept.bytes {
            budget.give_back(bytes);
            self.bytes -= bytes + kept.run.events().bytes();
        }
        Some(kept.run)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use sandbox_types::{Meta, TraceId, WorkerId};
    use serde_json::value::RawValue;
    use tokio::time::{Instant, advance};

    use super::{KEPT, MAX_OF_WORKER, MAX_PLAIN_OF_WORKER, RunStore};
    use crate::{
        answer::success,
        run::{Lifetime, Run, Subject},
    };

    fn worker(name: &str) -> WorkerId {
        WorkerId::parse(name).expect("a good id")
    }

    fn begin(store: &RunStore, name: &str, lifetime: Lifetime) -> Arc<Run> {
        let trace = TraceId::parse("t").expect("a good id");
        let run = Run::new(worker(name), Subject::Batch(1), trace, Instant::now(), lifetime);
        store.list(&run);
        run
    }

    fn end(store: &RunStore, run: &Arc<Run>, bytes: usize) {
        let data = RawValue::from_string(format!("\"{}\"", "x".repeat(bytes))).expect("JSON");
        run.end(&Arc::new(success(data, Meta::default())));
        store.ended(run);
    }

    fn is_kept(store: &RunStore, run: &Run) -> bool {
        store.find(&run.worker, run.id().expect("listed").as_str()).is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn what_ended_is_kept_for_ten_minutes() {
        let store = RunStore::new(1, 1 << 20, 1 << 20);
        let running = begin(&store, "w", Lifetime::Reattach(KEPT));
        let (detached, plain) = (begin(&store, "w", Lifetime::Reattach(KEPT)), begin(&store, "v", Lifetime::Caller));
        end(&store, &detached, 10);
        end(&store, &plain, 10);
        advance(KEPT).await;
        store.sweep();
        assert!(is_kept(&store, &detached) && is_kept(&store, &plain));
        advance(Duration::from_millis(1)).await;
        store.sweep();
        assert!(!is_kept(&store, &detached) && !is_kept(&store, &plain) && is_kept(&store, &running));
        end(&store, &running, 10);
        advance(KEPT * 2).await;
        store.sweep();
        assert!(store.shards.iter().all(|shard| shard.lock().expect("no panic").workers.is_empty()));
        store.budget.add(1 << 20);
        assert!(!store.budget.is_exceeded(), "everything was given back");
    }

    #[tokio::test(start_paused = true)]
    async fn answers_stay_within_the_bound_and_one_worker_has_half_of_it() {
        let store = RunStore::new(1, 100_000, 1 << 20);
        let first = begin(&store, "first", Lifetime::Reattach(KEPT));
        end(&store, &first, 30_000);
        let greedy: Vec<_> = (0..10)
            .map(|_| {
                let run = begin(&store, "greedy", Lifetime::Reattach(KEPT));
                end(&store, &run, 10_000);
                run
            })
            .collect();
        assert!(is_kept(&store, &first), "another worker's answers are not what pushed it out");
        let kept = greedy.iter().filter(|run| is_kept(&store, run)).count();
        assert!(kept == 4 && is_kept(&store, &greedy[9]), "{kept}");
        for name in ["a", "b", "c", "d", "e"] {
            advance(Duration::from_secs(1)).await;
            end(&store, &begin(&store, name, Lifetime::Reattach(KEPT)), 30_000);
            assert!(!store.budget.is_exceeded());
        }
        assert!(!is_kept(&store, &first));
    }

    #[tokio::test(start_paused = true)]
    async fn few_plain_calls_are_kept_and_many_others() {
        let store = RunStore::new(1, 1 << 30, 1 << 20);
        for (lifetime, max) in [(Lifetime::Caller, MAX_PLAIN_OF_WORKER), (Lifetime::Reattach(KEPT), MAX_OF_WORKER)] {
            let runs: Vec<_> = (0..max + 5)
                .map(|_| {
                    let run = begin(&store, "w", lifetime);
                    end(&store, &run, 1);
                    run
                })
                .collect();
            assert!(!is_kept(&store, &runs[4]) && is_kept(&store, &runs[5]));
        }
        for number in 0..20_000 {
            end(&store, &begin(&store, &format!("w{number}"), Lifetime::Caller), 1);
        }
        let kept: usize = store.shards.iter().map(|shard| shard.lock().expect("no panic").workers.len()).sum();
        assert!(kept < 16_100, "{kept}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_is_found_by_its_worker_alone() {
        let (store, other) = (RunStore::new(1, 1 << 20, 1 << 20), RunStore::new(2, 1 << 20, 1 << 20));
        let run = begin(&store, "w", Lifetime::Reattach(KEPT));
        let id = run.id().expect("listed").as_str();
        assert!(store.find(&worker("w"), id).is_ok());
        let reason = |store: &RunStore, worker_id: &str, id: &str| {
            store.find(&worker(worker_id), id).err().expect("must not be found").body().reason.clone()
        };
        assert_eq!(reason(&store, "v", id), None);
        assert_eq!(reason(&other, "w", id).as_deref(), Some("server_restarted"));
        assert_eq!(reason(&store, "w", "run_€€€€"), None);
    }
}
