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
    /// How often someone began to wait: a timer of an earlier absence must not end a later one.
    visits: AtomicUsize,
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
        if state.entries.len() >= self.max_keys {
            return Err(ToolError::new(ErrorCode::RESOURCE_EXHAUSTED, "too many idempotency keys are in use"));
        }
        let running = Arc::new(Running {
            outcome: watch::Sender::new(None),
            waiting: AtomicUsize::new(0),
            visits: AtomicUsize::new(0),
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
            state.entries.remove(&key);
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
                if let Some(Entry { stage: Stage::Answered(_, bytes), .. }) = self.entries.remove(&key) {
                    self.bytes -= bytes;
                }
            }
        }
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
        self.visits.fetch_add(1, Ordering::AcqRel);
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
            let (running, reattach) = (self.running.clone(), self.reattach);
            self.runtime.spawn(async move {
                let visits = running.visits.load(Ordering::Acquire);
                tokio::time::sleep(reattach).await;
                if running.waiting.load(Ordering::Acquire) == 0 && running.visits.load(Ordering::Acquire) == visits {
                    running.control.disconnect();
                }
            });
        }
    }
}
