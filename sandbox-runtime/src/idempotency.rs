//! Requests of one worker with one key run once and share their answer.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sandbox_types::{ErrorCode, WorkerId};
use tokio::{sync::watch, time::Instant};

use crate::{
    answer::Answer,
    error::{Result, ToolError},
    supervise::CallControl,
};

/// How long an answer is kept.
const KEPT: Duration = Duration::from_mins(10);
/// Answers kept, in bytes.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Keys kept, with or without their answers.
///
/// One worker may have half of them: what it does must not be what refuses all others.
const MAX_KEYS: usize = 100_000;
/// Longest key, in bytes.
const MAX_KEY_BYTES: usize = 256;

type Key = (WorkerId, Box<str>);

/// Keys in use and answers of the last minutes.
pub(crate) struct IdempotencyStore {
    state: Mutex<State>,
    max_bytes: usize,
    max_keys: usize,
}

#[derive(Default)]
struct State {
    entries: HashMap<Key, Entry>,
    /// Entries by worker.
    by_worker: HashMap<WorkerId, usize>,
    /// Ended ones, oldest first.
    ended: VecDeque<(Instant, Key)>,
    /// How many of these, from the oldest on, have no answer any more.
    forgotten: usize,
    bytes: usize,
}

struct Entry {
    digest: u128,
    stage: Stage,
}

enum Stage {
    Running(Arc<Running>),
    Answered(Arc<Answer>, usize),
    /// The tool ran; its answer had to make room.
    Forgotten,
}

/// A keyed request that runs: its outcome, and how many wait for it.
pub(crate) struct Running {
    outcome: watch::Sender<Option<Arc<Answer>>>,
    waiting: AtomicUsize,
    /// How often someone began to wait or the last one left: a timer of an earlier absence must not end a later one.
    turns: AtomicUsize,
    pub(crate) control: Arc<CallControl>,
}

/// What to do with a keyed request.
pub(crate) enum Begin {
    /// Run it, and say how it ended through [`IdempotencyStore::end`].
    Run(Arc<Running>),
    /// Wait for the one that runs.
    Join(Arc<Running>),
    /// It ran before.
    Replay(Arc<Answer>),
}

impl Default for IdempotencyStore {
    fn default() -> Self {
        Self { state: Mutex::default(), max_bytes: MAX_BYTES, max_keys: MAX_KEYS }
    }
}

impl IdempotencyStore {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks a key up; a new one is taken.
    ///
    /// # Errors
    /// The key is too long, was used with another body, its answer is no longer kept, or no further key can be kept.
    pub(crate) fn begin(
        &self,
        worker: &WorkerId,
        key: &str,
        digest: u128,
        control: &Arc<CallControl>,
    ) -> Result<Begin> {
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            let found = format!("{} bytes", key.len());
            return Err(ToolError::parameter(ErrorCode::INVALID_INPUT, "idempotency_key", "1 to 256 bytes", found));
        }
        let key = (worker.clone(), Box::from(key));
        let mut state = self.state();
        state.sweep();
        if let Some(entry) = state.entries.get(&key) {
            if entry.digest != digest {
                let message = "this idempotency_key was used with another request";
                return Err(ToolError::new(ErrorCode::CONFLICT, message).with_reason("other_body"));
            }
            return match &entry.stage {
                Stage::Running(running) => Ok(Begin::Join(running.clone())),
                Stage::Answered(answer, _) => Ok(Begin::Replay(answer.clone())),
                Stage::Forgotten => {
                    let message = "the request with this idempotency_key ran, and its answer is no longer kept";
                    Err(ToolError::new(ErrorCode::CONFLICT, message).with_reason("answer_forgotten"))
                }
            };
        }
        let own = state.by_worker.get(worker).copied().unwrap_or_default();
        if state.entries.len() >= self.max_keys || own >= self.max_keys.div_ceil(2) {
            return Err(ToolError::new(ErrorCode::RESOURCE_EXHAUSTED, "too many idempotency keys are in use"));
        }
        *state.by_worker.entry(worker.clone()).or_default() += 1;
        let running = Arc::new(Running {
            outcome: watch::Sender::new(None),
            waiting: AtomicUsize::new(0),
            turns: AtomicUsize::new(0),
            control: control.clone(),
        });
        state.entries.insert(key, Entry { digest, stage: Stage::Running(running.clone()) });
        Ok(Begin::Run(running))
    }

    /// The request ended: its answer is kept if the tool was entered, else the key is free again.
    pub(crate) fn end(&self, worker: &WorkerId, key: &str, running: &Running, answer: &Arc<Answer>) {
        let key: Key = (worker.clone(), Box::from(key));
        let warnings: usize = answer.meta.warnings.iter().map(String::len).sum();
        let bytes = answer.data.as_ref().map_or(0, |data| data.get().len()) + 2 * answer.message.len() + warnings + 512;
        let mut state = self.state();
        if answer.meta.executed {
            let fits = bytes <= self.max_bytes / 4;
            while fits && state.bytes + bytes > self.max_bytes && state.forget_an_answer() {}
            if let Some(entry) = state.entries.get_mut(&key) {
                entry.stage = if fits { Stage::Answered(answer.clone(), bytes) } else { Stage::Forgotten };
                state.bytes += if fits { bytes } else { 0 };
                state.ended.push_back((Instant::now(), key));
            }
        } else {
            state.remove(&key);
        }
        drop(state);
        running.outcome.send_replace(Some(answer.clone()));
    }

    /// Drops what is older than ten minutes.
    pub(crate) fn sweep(&self) {
        self.state().sweep();
    }
}

impl State {
    fn sweep(&mut self) {
        while self.ended.front().is_some_and(|(since, _)| since.elapsed() > KEPT) {
            if let Some((_, key)) = self.ended.pop_front() {
                self.forgotten = self.forgotten.saturating_sub(1);
                if let Some(Entry { stage: Stage::Answered(_, bytes), .. }) = self.remove(&key) {
                    self.bytes -= bytes;
                }
            }
        }
    }

    fn remove(&mut self, key: &Key) -> Option<Entry> {
        let removed = self.entries.remove(key)?;
        if let Some(own) = self.by_worker.get_mut(&key.0) {
            *own -= 1;
            if *own == 0 {
                self.by_worker.remove(&key.0);
            }
        }
        Some(removed)
    }

    /// Drops the oldest answer that is still kept; its marker stays.
    fn forget_an_answer(&mut self) -> bool {
        while let Some((_, key)) = self.ended.get(self.forgotten) {
            self.forgotten += 1;
            if let Some(entry) = self.entries.get_mut(key)
                && let Stage::Answered(_, bytes) = entry.stage
            {
                entry.stage = Stage::Forgotten;
                self.bytes -= bytes;
                return true;
            }
        }
        false
    }
}

impl Running {
    /// Waits for the answer. When the last one who waits goes away, the request lives on for `reattach`.
    pub(crate) async fn wait(
        self: &Arc<Self>,
        reattach: Duration,
        runtime: &tokio::runtime::Handle,
    ) -> Option<Arc<Answer>> {
        self.turns.fetch_add(1, Ordering::AcqRel);
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let waiter = Waiter { running: self, reattach, runtime };
        let mut outcome = self.outcome.subscribe();
        let answer = outcome.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
        drop(waiter);
        answer
    }
}

struct Waiter<'a> {
    running: &'a Arc<Running>,
    reattach: Duration,
    runtime: &'a tokio::runtime::Handle,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let last = self.running.waiting.fetch_sub(1, Ordering::AcqRel) == 1;
        if last && self.running.outcome.borrow().is_none() {
            let (running, end) = (self.running.clone(), Instant::now() + self.reattach);
            // Counted here: by the first poll of the task someone may have come and gone.
            let absence = running.turns.fetch_add(1, Ordering::AcqRel) + 1;
            self.runtime.spawn(async move {
                tokio::time::sleep_until(end).await;
                if running.waiting.load(Ordering::Acquire) == 0 && running.turns.load(Ordering::Acquire) == absence {
                    running.control.disconnect();
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::{Pin, pin},
        sync::Arc,
        task::{Context, Waker},
        time::Duration,
    };

    use sandbox_types::{ErrorCode, Meta, WorkerId};
    use serde_json::value::RawValue;
    use tokio::{runtime::Handle, time::advance};

    use super::{Begin, IdempotencyStore, KEPT, MAX_BYTES, MAX_KEYS, Running};
    use crate::{
        answer::{Answer, success},
        error::{Result, ToolError},
        supervise::CallControl,
    };

    fn worker() -> WorkerId {
        WorkerId::parse("w").expect("a good id")
    }

    fn store(max_bytes: usize, max_keys: usize) -> IdempotencyStore {
        IdempotencyStore { max_bytes, max_keys, ..IdempotencyStore::default() }
    }

    fn begin(store: &IdempotencyStore, key: &str) -> Result<Begin> {
        store.begin(&worker(), key, 7, &CallControl::new())
    }

    fn run(store: &IdempotencyStore, key: &str) -> Arc<Running> {
        match begin(store, key) {
            Ok(Begin::Run(running)) => running,
            _ => panic!("`{key}` must be free"),
        }
    }

    fn answer(bytes: usize, executed: bool) -> Arc<Answer> {
        let data = RawValue::from_string(format!("\"{}\"", "x".repeat(bytes))).expect("JSON");
        Arc::new(success(data, Meta { executed, ..Meta::default() }))
    }

    fn end(store: &IdempotencyStore, key: &str, bytes: usize) {
        let running = run(store, key);
        store.end(&worker(), key, &running, &answer(bytes, true));
    }

    fn is_replayed(store: &IdempotencyStore, key: &str) -> bool {
        matches!(begin(store, key), Ok(Begin::Replay(_)))
    }

    fn refusal(store: &IdempotencyStore, key: &str) -> ToolError {
        match begin(store, key) {
            Err(error) => error,
            Ok(_) => panic!("`{key}` must be refused"),
        }
    }

    fn is_forgotten(store: &IdempotencyStore, key: &str) -> bool {
        let error = refusal(store, key);
        (error.code(), error.body().reason.as_deref()) == (ErrorCode::CONFLICT, Some("answer_forgotten"))
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_had_to_make_room_leaves_a_marker() {
        let store = store(4_000, MAX_KEYS);
        for key in ["a", "b", "c", "d", "e"] {
            end(&store, key, 300);
        }
        assert!(is_forgotten(&store, "a"), "the oldest made room");
        assert!(["b", "c", "d", "e"].iter().all(|key| is_replayed(&store, key)));
        end(&store, "large", 2_000);
        assert!(is_forgotten(&store, "large"), "one answer may not push out most others");
        assert!(["b", "c", "d", "e"].iter().all(|key| is_replayed(&store, key)));
        for key in ["f", "g", "h", "i"] {
            end(&store, key, 300);
        }
        assert!(["b", "c", "d", "e"].iter().all(|key| is_forgotten(&store, key)), "in the order of their ends");
        assert!(["f", "g", "h", "i"].iter().all(|key| is_replayed(&store, key)));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_markers_are_in_use_new_keys_are_refused() {
        let store = store(MAX_BYTES, 4);
        let running = run(&store, "a");
        end(&store, "b", 1);
        assert_eq!(refusal(&store, "c").code(), ErrorCode::RESOURCE_EXHAUSTED, "half of all");
        let other = |key: &str| {
            let worker = WorkerId::parse(&format!("other-{key}")).expect("a good id");
            store.begin(&worker, key, 7, &CallControl::new())
        };
        assert!(matches!(other("a"), Ok(Begin::Run(_))) && matches!(other("b"), Ok(Begin::Run(_))));
        assert!(other("c").is_err(), "all of them");
        assert!(matches!(begin(&store, "a"), Ok(Begin::Join(_))) && is_replayed(&store, "b"), "known ones are not");
        store.end(&worker(), "a", &running, &answer(1, false));
        run(&store, "c");
        let state = store.state();
        assert_eq!(state.by_worker.values().sum::<usize>(), state.entries.len());
    }

    #[tokio::test(start_paused = true)]
    async fn after_ten_minutes_answers_and_markers_are_gone() {
        let store = store(4_000, MAX_KEYS);
        let running = run(&store, "running");
        for key in ["a", "b", "c", "d", "e"] {
            end(&store, key, 300);
        }
        assert!(is_forgotten(&store, "a") && is_replayed(&store, "b"));
        advance(KEPT).await;
        assert!(is_forgotten(&store, "a") && is_replayed(&store, "b"), "ten minutes are not over");
        end(&store, "late", 300);
        advance(Duration::from_millis(1)).await;
        store.sweep();
        for key in ["a", "b", "c", "d", "e"] {
            run(&store, key);
        }
        assert!(is_replayed(&store, "late") && matches!(begin(&store, "running"), Ok(Begin::Join(_))));
        store.end(&worker(), "running", &running, &answer(1, true));
        advance(KEPT * 2).await;
        store.sweep();
        let state = store.state();
        assert_eq!(
            (state.entries.len(), state.ended.len(), state.forgotten, state.bytes),
            (5, 0, 0, 0),
            "those that run"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_visit_does_not_shorten_the_wait_that_begins_with_its_end() {
        const REATTACH: Duration = Duration::from_secs(30);
        let store = IdempotencyStore::default();
        let running = run(&store, "k");
        let visit = |running: &Arc<Running>| {
            let running = running.clone();
            Box::pin(async move { running.wait(REATTACH, &Handle::current()).await.is_some() })
        };
        let poll = |future: Pin<&mut dyn Future<Output = bool>>| {
            assert!(future.poll(&mut Context::from_waker(Waker::noop())).is_pending());
        };
        // The first one leaves, and before the timer of its absence is polled the second one is there.
        let mut first = visit(&running);
        poll(first.as_mut());
        drop(first);
        let mut second = visit(&running);
        poll(second.as_mut());
        tokio::time::sleep(REATTACH.mul_f64(0.9)).await;
        drop(second);
        tokio::time::sleep(REATTACH.mul_f64(0.5)).await;
        assert!(!running.control.cancel.is_cancelled(), "the wait began anew when the second one left");
        let third = visit(&running);
        let mut third = pin!(third);
        poll(third.as_mut());
        tokio::time::sleep(REATTACH * 2).await;
        assert!(!running.control.cancel.is_cancelled(), "someone waits");
        third.set(visit(&running));
        tokio::time::sleep(REATTACH.mul_f64(1.1)).await;
        assert!(running.control.cancel.is_cancelled(), "nobody came back");
    }
}
