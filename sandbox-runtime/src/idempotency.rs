//! Requests of one worker with one key run once and share their answer.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sandbox_types::{ErrorCode, RunId, WorkerId};
use tokio::time::Instant;

use crate::{
    answer::Answer,
    error::{Result, ToolError},
    run::Run,
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
    /// Ended ones, in the order of their ends.
    ended: BTreeMap<u64, (Instant, Key)>,
    /// The number of the next end.
    next: u64,
    /// Those that ended before this one have no answer any more.
    forgotten: u64,
    bytes: usize,
}

struct Entry {
    digest: u128,
    stage: Stage,
}

enum Stage {
    Running(Arc<Run>),
    Answered {
        answer: Arc<Answer>,
        bytes: usize,
        end: u64,
    },
    /// The tool ran; its answer had to make room.
    Forgotten {
        end: u64,
    },
}

/// What to do with a keyed request.
pub(crate) enum Begin {
    /// Run it, and say how it ended through [`IdempotencyStore::end`].
    Run,
    /// Wait for the one that runs.
    Join(Arc<Run>),
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
    pub(crate) fn begin(&self, worker: &WorkerId, key: &str, digest: u128, run: &Arc<Run>) -> Result<Begin> {
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
                Stage::Running(run) => Ok(Begin::Join(run.clone())),
                Stage::Answered { answer, .. } => Ok(Begin::Replay(answer.clone())),
                Stage::Forgotten { .. } => {
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
        state.entries.insert(key, Entry { digest, stage: Stage::Running(run.clone()) });
        Ok(Begin::Run)
    }

    /// The request ended: its answer is kept if the tool was entered, else the key is free again.
    pub(crate) fn end(&self, worker: &WorkerId, key: &str, answer: &Arc<Answer>) {
        let key: Key = (worker.clone(), Box::from(key));
        let warnings: usize = answer.meta.warnings.iter().map(String::len).sum();
        let bytes = answer.data.as_ref().map_or(0, |data| data.get().len()) + 2 * answer.message.len() + warnings + 512;
        let mut state = self.state();
        if answer.meta.executed {
            let fits = bytes <= self.max_bytes / 4;
            while fits && state.bytes + bytes > self.max_bytes && state.forget_an_answer() {}
            let end = state.next;
            if let Some(entry) = state.entries.get_mut(&key) {
                let answer = answer.clone();
                entry.stage = if fits { Stage::Answered { answer, bytes, end } } else { Stage::Forgotten { end } };
                state.bytes += if fits { bytes } else { 0 };
                state.ended.insert(end, (Instant::now(), key));
                state.next += 1;
            }
        } else {
            state.remove(&key);
        }
    }

    /// The worker has the answers of these keys, and will not ask for them again; the runs whose answers were kept.
    pub(crate) fn acknowledge(&self, worker: &WorkerId, keys: &[String]) -> Vec<RunId> {
        let mut state = self.state();
        let mut runs = Vec::new();
        for key in keys {
            let key: Key = (worker.clone(), Box::from(key.as_str()));
            let end = match state.entries.get(&key).map(|entry| &entry.stage) {
                Some(Stage::Answered { answer, end, .. }) => {
                    runs.extend(answer.meta.run_id.clone());
                    *end
                }
                Some(Stage::Forgotten { end }) => *end,
                // It has no answer yet: whoever says so is mistaken.
                Some(Stage::Running(_)) | None => continue,
            };
            state.ended.remove(&end);
            state.remove(&key);
        }
        runs
    }

    /// Drops what is older than ten minutes.
    pub(crate) fn sweep(&self) {
        self.state().sweep();
    }
}

impl State {
    fn sweep(&mut self) {
        while self.ended.first_key_value().is_some_and(|(_, (since, _))| since.elapsed() > KEPT) {
            if let Some((_, (_, key))) = self.ended.pop_first() {
                self.remove(&key);
            }
        }
    }

    fn remove(&mut self, key: &Key) {
        let Some(removed) = self.entries.remove(key) else { return };
        if let Stage::Answered { bytes, .. } = removed.stage {
            self.bytes -= bytes;
        }
        if let Some(own) = self.by_worker.get_mut(&key.0) {
            *own -= 1;
            if *own == 0 {
                self.by_worker.remove(&key.0);
            }
        }
    }

    /// Drops the oldest answer that is still kept; its marker stays.
    fn forget_an_answer(&mut self) -> bool {
        while let Some((&end, (_, key))) = self.ended.range(self.forgotten..).next() {
            self.forgotten = end + 1;
            if let Some(entry) = self.entries.get_mut(key)
                && let Stage::Answered { bytes, .. } = entry.stage
            {
                entry.stage = Stage::Forgotten { end };
                self.bytes -= bytes;
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use sandbox_types::{ErrorCode, Meta, TraceId, WorkerId};
    use serde_json::value::RawValue;
    use tokio::time::{Instant, advance};

    use super::{Begin, IdempotencyStore, KEPT, MAX_BYTES, MAX_KEYS};
    use crate::{
        answer::{Answer, success},
        error::{Result, ToolError},
        run::{Lifetime, Run, Subject},
    };

    fn worker() -> WorkerId {
        WorkerId::parse("w").expect("a good id")
    }

    fn store(max_bytes: usize, max_keys: usize) -> IdempotencyStore {
        IdempotencyStore { max_bytes, max_keys, ..IdempotencyStore::default() }
    }

    fn some_run() -> Arc<Run> {
        let trace = TraceId::parse("t").expect("a good id");
        Run::new(worker(), Subject::Batch(1), trace, Instant::now(), Lifetime::Reattach(KEPT))
    }

    fn begin(store: &IdempotencyStore, key: &str) -> Result<Begin> {
        store.begin(&worker(), key, 7, &some_run())
    }

    fn run(store: &IdempotencyStore, key: &str) {
        assert!(matches!(begin(store, key), Ok(Begin::Run)), "`{key}` must be free");
    }

    fn answer(bytes: usize, executed: bool) -> Arc<Answer> {
        let data = RawValue::from_string(format!("\"{}\"", "x".repeat(bytes))).expect("JSON");
        Arc::new(success(data, Meta { executed, ..Meta::default() }))
    }

    fn end(store: &IdempotencyStore, key: &str, bytes: usize) {
        run(store, key);
        store.end(&worker(), key, &answer(bytes, true));
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
        run(&store, "a");
        end(&store, "b", 1);
        assert_eq!(refusal(&store, "c").code(), ErrorCode::RESOURCE_EXHAUSTED, "half of all");
        let other = |key: &str| {
            let worker = WorkerId::parse(&format!("other-{key}")).expect("a good id");
            store.begin(&worker, key, 7, &some_run())
        };
        assert!(matches!(other("a"), Ok(Begin::Run)) && matches!(other("b"), Ok(Begin::Run)));
        assert!(other("c").is_err(), "all of them");
        assert!(matches!(begin(&store, "a"), Ok(Begin::Join(_))) && is_replayed(&store, "b"), "known ones are not");
        store.end(&worker(), "a", &answer(1, false));
        run(&store, "c");
        let state = store.state();
        assert_eq!(state.by_worker.values().sum::<usize>(), state.entries.len());
    }

    #[tokio::test(start_paused = true)]
    async fn after_ten_minutes_answers_and_markers_are_gone() {
        let store = store(4_000, MAX_KEYS);
        run(&store, "running");
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
        store.end(&worker(), "running", &answer(1, true));
        advance(KEPT * 2).await;
        store.sweep();
        let state = store.state();
        assert_eq!((state.entries.len(), state.ended.len(), state.bytes), (5, 0, 0), "those that run");
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_free_again_once_its_answer_has_arrived() {
        let store = store(4_000, 4);
        let acknowledge = |key: &str| store.acknowledge(&worker(), &[key.to_owned(), "unknown".to_owned()]);
        for round in 0..10 {
            end(&store, "a", 300);
            end(&store, "large", 2_000);
            assert!(is_replayed(&store, "a") && is_forgotten(&store, "large"), "{round}");
            acknowledge("a");
            acknowledge("large");
        }
        run(&store, "a");
        acknowledge("a");
        assert!(matches!(begin(&store, "a"), Ok(Begin::Join(_))), "it still runs");
        let state = store.state();
        assert_eq!((state.entries.len(), state.ended.len(), state.bytes), (1, 0, 0));
    }
}
