//! How many requests go to one host at once, and how many of them are one worker's.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use sandbox_runtime::prelude::*;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Hosts that are looked through for those that nobody asks any more.
const SWEEP_ABOVE: usize = 256;

/// The hosts that are being asked.
pub(super) struct Hosts {
    permits: usize,
    turns: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// A turn at a host.
pub(super) struct Turn {
    // Before the semaphore, which must not be the last to know of it.
    _permit: OwnedSemaphorePermit,
    _host: Arc<Semaphore>,
}

impl Hosts {
    pub(super) fn new(permits: u32) -> Self {
        Self { permits: permits as usize, turns: Mutex::default() }
    }

    /// Waits for a turn; who came first has it first.
    ///
    /// # Errors
    /// None: a semaphore is not closed.
    pub(super) async fn turn(&self, host: &str) -> Result<Turn> {
        let host = self.host(host);
        let permit = host.clone().acquire_owned().await.tool_err(ErrorCode::INTERNAL_ERROR)?;
        Ok(Turn { _permit: permit, _host: host })
    }

    fn host(&self, host: &str) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = turns.get(host).and_then(Weak::upgrade) {
            return known;
        }
        if turns.len() >= SWEEP_ABOVE {
            turns.retain(|_, host| host.strong_count() > 0);
        }
        let new = Arc::new(Semaphore::new(self.permits));
        turns.insert(host.to_owned(), Arc::downgrade(&new));
        new
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Duration, timeout};

    use super::*;

    #[tokio::test]
    async fn a_host_has_so_many_turns_and_no_other_waits_for_it() {
        let hosts = Hosts::new(2);
        let wait = |host| timeout(Duration::from_millis(20), hosts.turn(host));
        let (first, _second) = (wait("a").await.expect("a turn"), wait("a").await.expect("a turn"));
        assert!(wait("a").await.is_err(), "a third");
        assert!(wait("b").await.is_ok());
        drop(first);
        assert!(wait("a").await.is_ok());
        for host in 0..1000 {
            let host = host.to_string();
            timeout(Duration::from_secs(5), hosts.turn(&host)).await.expect("in time").expect("a turn");
        }
        assert!(hosts.turns.lock().expect("whole").len() <= SWEEP_ABOVE, "hosts are kept for ever");
    }
}
