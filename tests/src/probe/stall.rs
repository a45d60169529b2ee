//! Blocks threads that serve, as a backend must not.

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use sandbox_runtime::prelude::*;

use super::{Probe, Session};

/// Blocks this thread until the file that `PROBE_RELEASE` names is there, a minute at most.
pub(super) fn until_released() {
    let release = std::env::var_os("PROBE_RELEASE").map(PathBuf::from);
    let end = Instant::now() + Duration::from_mins(1);
    while Instant::now() < end && !release.as_ref().is_some_and(|file| file.exists()) {
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for the release when it is dropped.
struct StallOnDrop;

impl Drop for StallOnDrop {
    fn drop(&mut self) {
        until_released();
    }
}

#[tools]
impl Probe {
    /// Block the thread that serves, with the session, then wait as a tool should.
    #[tool]
    async fn stall(&self, session: &mut Session, #[default = 0] then_ms: u64) -> Result<u64> {
        until_released();
        tokio::time::sleep(Duration::from_millis(then_ms)).await;
        session.total += 1;
        Ok(session.total)
    }

    /// Block the thread that serves, without a session.
    #[tool]
    async fn stall_free(&self) -> Result<()> {
        until_released();
        Ok(())
    }

    /// Block the thread that serves for a while, with the session.
    #[tool]
    async fn stall_for(&self, session: &mut Session, ms: u64) -> Result<u64> {
        thread::sleep(Duration::from_millis(ms));
        session.total += 1;
        Ok(session.total)
    }

    /// Wait as a tool should, and block the thread that serves when that is cut off.
    #[tool]
    async fn stall_dropped(&self) -> Result<()> {
        let _stall = StallOnDrop;
        tokio::time::sleep(Duration::from_hours(1)).await;
        Ok(())
    }
}
