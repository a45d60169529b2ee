//! How many calls of a resource run at once; those beyond wait, served in turn by worker.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sandbox_types::{ErrorCode, WorkerId};
use tokio::sync::oneshot;

use crate::error::ToolError;

/// The gate of one resource.
pub(crate) struct Gate {
    state: Mutex<State>,
    max_active: usize,
    max_queued: usize,
}

#[derive(Default)]
struct State {
    active: usize,
    queued: usize,
    next_ticket: u64,
    /// Workers with waiting calls, in the order of their turns.
    turns: VecDeque<WorkerId>,
    queues: HashMap<WorkerId, VecDeque<(u64, oneshot::Sender<()>)>>,
}

/// The right to run one call.
pub(crate) struct Permit(Arc<Gate>);

/// A call's turn on its resource, until it is dropped.
pub(crate) enum Turn {
    /// A tool that made the call has one, or it needs none.
    Callers,
    /// A permit of its own.
    Own(Permit),
    /// A permit that something else of the call holds too: who comes last gives it back.
    Shared(Arc<Permit>),
}

impl Turn {
    /// The turn in two halves.
    pub(crate) fn share(self) -> (Self, Self) {
        let permit = match self {
            Self::Callers => return (Self::Callers, Self::Callers),
            Self::Own(permit) => Arc::new(permit),
            Self::Shared(permit) => permit,
        };
        (Self::Shared(permit.clone()), Self::Shared(permit))
    }
}

/// The queue is full, or for who must not wait: no permit is free.
#[derive(Debug, PartialEq)]
pub(crate) struct Full;

impl Full {
    pub(crate) fn error(resource: &str) -> ToolError {
        let message =
            format!("too many calls of `{resource}` are running or waiting (max_concurrent_calls, max_queued_calls)");
        ToolError::new(ErrorCode::RESOURCE_EXHAUSTED, message)
    }
}

impl Gate {
    pub(crate) fn new(max_active: usize, max_queued: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), max_active, max_queued })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a further call of this worker would be refused now.
    pub(crate) fn is_full(&self, worker: &WorkerId) -> bool {
        let state = self.state();
        state.active >= self.max_active && state.queued >= self.max_queued && state.greedier(worker).is_none()
    }

    /// Waits for a permit; calls of different workers take turns. In a full queue a worker with fewer waiting calls takes
    /// the place of the latest call of the one with the most.
    ///
    /// # Errors
    /// [`Full`] when too many wait already.
    pub(crate) async fn enter(self: &Arc<Self>, worker: &WorkerId) -> Result<Permit, Full> {
        let mut waiter = {
            let mut state = self.state();
            if state.active < self.max_active {
                state.active += 1;
                return Ok(Permit(self.clone()));
            }
            if state.queued >= self.max_queued {
                let greedier = state.greedier(worker).ok_or(Full)?;
                // Its sender is dropped with it, which tells the waiting call.
                state.queues.get_mut(&greedier).and_then(VecDeque::pop_back).ok_or(Full)?;
                state.queued -= 1;
            }
            let (granted, receiver) = oneshot::channel();
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            state.queued += 1;
            let queue = state.queues.entry(worker.clone()).or_default();
            queue.push_back((ticket, granted));
            if queue.len() == 1 {
                state.turns.push_back(worker.clone());
            }
            Waiter { gate: self, worker, ticket, receiver: Some(receiver) }
        };
        let granted = match &mut waiter.receiver {
            Some(receiver) => receiver.await.is_ok(),
            None => false,
        };
        waiter.receiver = None;
        if granted { Ok(Permit(self.clone())) } else { Err(Full) }
    }

    /// A permit if one is free: a call that a tool makes holds what others wait for, and so must not wait itself.
    ///
    /// # Errors
    /// [`Full`] when none is free.
    pub(crate) fn try_enter(self: &Arc<Self>) -> Result<Permit, Full> {
        let mut state = self.state();
        if state.active >= self.max_active {
            return Err(Full);
        }
        state.active += 1;
        Ok(Permit(self.clone()))
    }

    /// Passes a permit on to the next worker in turn, or gives it back.
    fn release(&self) {
        let mut state = self.state();
        while let Some(worker) = state.turns.pop_front() {
            let Some(queue) = state.queues.get_mut(&worker) else { continue };
            let next = queue.pop_front();
            if queue.is_empty() {
                state.queues.remove(&worker);
            } else {
                state.turns.push_back(worker);
            }
            if let Some((_, granted)) = next {
                state.queued -= 1;
                if granted.send(()).is_ok() {
                    return;
                }
            }
        }
        state.active -= 1;
    }
}

impl State {
    /// The worker with the most waiting calls, if it would still have more than this one after giving up one for it.
    fn greedier(&self, worker: &WorkerId) -> Option<WorkerId> {
        let own = self.queues.get(worker).map_or(0, VecDeque::len);
        let (most, queue) = self.queues.iter().max_by_key(|(_, queue)| queue.len())?;
        (queue.len() > own + 1).then(|| most.clone())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// A waiting call; dropped before its turn it leaves the queue, dropped with an unused grant it passes it on.
struct Waiter<'a> {
    gate: &'a Arc<Gate>,
    worker: &'a WorkerId,
    ticket: u64,
    receiver: Option<oneshot::Receiver<()>>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let Some(mut receiver) = self.receiver.take() else { return };
        receiver.close();
        if receiver.try_recv().is_ok() {
            self.gate.release();
            return;
        }
        let mut state = self.gate.state();
        let Some(queue) = state.queues.get_mut(self.worker) else { return };
        let before = queue.len();
        queue.retain(|(ticket, _)| *ticket != self.ticket);
        let left = before - queue.len();
        if queue.is_empty() {
            state.queues.remove(self.worker);
            state.turns.retain(|worker| worker != self.worker);
        }
        state.queued -= left;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Full, Gate};
    use sandbox_types::WorkerId;

    fn worker(name: &str) -> WorkerId {
        WorkerId::parse(name).expect("a good id")
    }

    #[tokio::test(start_paused = true)]
    async fn workers_take_turns() {
        let gate = Gate::new(1, 10);
        let first = gate.enter(&worker("x")).await.expect("free");
        let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
        for name in ["a", "a", "a", "b", "c"] {
            let (gate, sender) = (gate.clone(), sender.clone());
            tokio::spawn(async move {
                let permit = gate.enter(&worker(name)).await.expect("room in the queue");
                sender.send(name).expect("the test listens");
                tokio::time::sleep(Duration::from_millis(1)).await;
                drop(permit);
            });
            tokio::task::yield_now().await;
        }
        drop(first);
        let mut seen = Vec::new();
        for _ in 0..5 {
            seen.push(order.recv().await.expect("five grants"));
        }
        assert_eq!(seen, ["a", "b", "c", "a", "a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_worker_cannot_fill_the_queue_of_all() {
        let gate = Gate::new(1, 3);
        let held = gate.enter(&worker("x")).await.expect("free");
        let (sender, mut ends) = tokio::sync::mpsc::unbounded_channel();
        for name in ["a", "a", "a", "b", "c", "d"] {
            let (gate, sender) = (gate.clone(), sender.clone());
            tokio::spawn(async move {
                let entered = gate.enter(&worker(name)).await.is_ok();
                sender.send((name, entered)).expect("the test listens");
            });
            tokio::task::yield_now().await;
        }
        for refused in ["a", "a", "d"] {
            assert_eq!(
                ends.recv().await,
                Some((refused, false)),
                "two of `a` made room for `b` and `c`; all have one now"
            );
        }
        drop(held);
        for served in ["a", "b", "c"] {
            assert_eq!(ends.recv().await, Some((served, true)));
        }
        assert_eq!(gate.state().queued, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_leaves_the_queue_and_loses_no_permit() {
        let gate = Gate::new(1, 1);
        let held = gate.enter(&worker("a")).await.expect("free");
        let patience = Duration::from_millis(5);
        assert!(tokio::time::timeout(patience, gate.enter(&worker("b"))).await.is_err());
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.enter(&worker("c")).await.is_ok() }
        });
        tokio::task::yield_now().await;
        assert!(gate.is_full(&worker("d")));
        assert_eq!(gate.enter(&worker("d")).await.err(), Some(Full));
        drop(held);
        assert!(waiting.await.expect("no panic"));
        assert!(tokio::time::timeout(patience, gate.enter(&worker("e"))).await.is_ok(), "every permit came back");
        assert!(gate.state().queues.is_empty() && gate.state().turns.is_empty() && gate.state().active == 0);
    }
}
