//! Ids of sessions that ended, so that a call which names one learns why.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sandbox_types::WorkerId;
use tokio::time::Instant;

use crate::session::EndReason;

/// How long the end of a session is remembered.
pub(crate) const REMEMBERED: Duration = Duration::from_hours(24);

/// How many ends are remembered.
const MAX_REMEMBERED: usize = 100_000;

/// Ended sessions by the random part of their ids.
pub(crate) struct GoneIds {
    state: Mutex<State>,
    hasher: RandomState,
}

#[derive(Default)]
struct State {
    /// 128 random bits -> who owned it, why it ended.
    by_id: HashMap<u128, Gone, ahash::RandomState>,
    by_age: VecDeque<(u128, Instant)>,
}

struct Gone {
    /// A keyed hash: an entry must be small, there are many.
    worker: u64,
    /// In place: a box for each, made while sessions are freed, would hold on to the pages that these leave.
    reason: EndReason,
}

impl GoneIds {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default(), hasher: RandomState::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn remember(&self, worker: &WorkerId, id: u128, reason: EndReason) {
        let worker = self.hasher.hash_one(worker);
        let mut state = self.state();
        if state.by_age.len() >= MAX_REMEMBERED {
            state.forget_oldest();
        }
        if state.by_id.insert(id, Gone { worker, reason }).is_none() {
            state.by_age.push_back((id, Instant::now()));
        }
    }

    /// Why the worker's session with this id ended; nothing if it is another worker's.
    pub(crate) fn reason(&self, worker: &WorkerId, id: u128) -> Option<EndReason> {
        let worker = self.hasher.hash_one(worker);
        self.state().by_id.get(&id).filter(|gone| gone.worker == worker).map(|gone| gone.reason.clone())
    }

    /// Forgets what is older than a day, and gives memory back.
    pub(crate) fn sweep(&self) {
        let mut state = self.state();
        while state.by_age.front().is_some_and(|(_, since)| since.elapsed() > REMEMBERED) {
            state.forget_oldest();
        }
        if state.by_id.capacity() > 4 * state.by_id.len().max(256) {
            state.by_id.shrink_to_fit();
            state.by_age.shrink_to_fit();
        }
    }
}

impl State {
    fn forget_oldest(&mut self) {
        if let Some((id, _)) = self.by_age.pop_front() {
            self.by_id.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{GoneIds, MAX_REMEMBERED};
    use crate::session::EndReason;
    use sandbox_types::WorkerId;

    #[tokio::test(start_paused = true)]
    async fn only_the_owner_learns_the_reason_and_a_day_later_nobody() {
        let gone = GoneIds::new();
        let [owner, other] = ["owner", "other"].map(|name| WorkerId::parse(name).expect("a good id"));
        gone.remember(&owner, 7, EndReason::Expired);
        assert_eq!(gone.reason(&owner, 7), Some(EndReason::Expired));
        assert_eq!(gone.reason(&other, 7), None);
        tokio::time::advance(super::REMEMBERED * 2).await;
        gone.sweep();
        assert_eq!(gone.reason(&owner, 7), None);
    }

    #[tokio::test]
    async fn the_oldest_make_room() {
        let gone = GoneIds::new();
        let owner = WorkerId::parse("owner").expect("a good id");
        for id in 0..=MAX_REMEMBERED as u128 {
            gone.remember(&owner, id, EndReason::Destroyed);
        }
        assert_eq!(gone.reason(&owner, 0), None);
        assert_eq!(gone.reason(&owner, MAX_REMEMBERED as u128), Some(EndReason::Destroyed));
    }
}
