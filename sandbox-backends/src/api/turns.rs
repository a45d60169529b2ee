//! Turns by key: how many requests go to one host at once, and how many of them, or of documents, are one worker's.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use sandbox_runtime::prelude::*;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Keys that are looked through for those that nobody has a turn for any more.
const SWEEP_ABOVE: usize = 256;

/// So many turns for each key.
pub(crate) struct Turns {
    permits: usize,
    turns: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// A turn, until it is dropped.
pub(crate) struct Turn {
    // Before the semaphore, which must not be the last to know of it.
    _permit: OwnedSemaphorePermit,
    _key: Arc<Semaphore>,
}

impl Turns {
    pub(crate) fn new(permits: u32) -> Self {
        Self { permits: permits as usize, turns: Mutex::default() }
    }

    /// Waits for a turn; who came first has it first.
    ///
    /// # Errors
    /// None: a semaphore is not closed.
    pub(crate) async fn turn(&self, key: &str) -> Result<Turn> {
        let all = self.of(key);
        let permit = all.clone().acquire_owned().await.tool_err(ErrorCode::INTERNAL_ERROR)?;
        Ok(Turn { _permit: permit, _key: all })
    }

    fn of(&self, key: &str) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = turns.get(key).and_then(Weak::upgrade) {
            return known;
        }
        if turns.len() >= SWEEP_ABOVE {
            turns.retain(|_, all| all.strong_count() > 0);
        }
        let new = Arc::new(Semaphore::new(self.permits));
        turns.insert(key.to_owned(), Arc::downgrade(&new));
        new
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Duration, timeout};

    use super::*;

    #[tokio::test]
    async fn a_key_has_so_many_turns_and_no_other_waits_for_it() {
        let turns = Turns::new(2);
        let wait = |key| timeout(Duration::from_millis(20), turns.turn(key));
        let (first, _second) = (wait("a").await.expect("a turn"), wait("a").await.expect("a turn"));
        assert!(wait("a").await.is_err(), "a third");
        assert!(wait("b").await.is_ok());
        drop(first);
        assert!(wait("a").await.is_ok());
        for key in 0..1000 {
            let key = key.to_string();
            timeout(Duration::from_secs(5), turns.turn(&key)).await.expect("in time").expect("a turn");
        }
        assert!(turns.turns.lock().expect("whole").len() <= SWEEP_ABOVE, "keys are kept for ever");
    }
}
