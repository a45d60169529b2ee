//! The sweep: sessions past their time to live, forgotten notes, memory given back.

use std::{sync::Weak, time::Duration};

use crate::executor::ToolExecutor;

/// How often the sweep comes by. A time to live is also checked on use, so this bounds only how long an idle session lingers.
const INTERVAL: Duration = Duration::from_secs(1);

/// Sweeps until the executor is gone.
pub(crate) async fn run(executor: Weak<ToolExecutor>) {
    let mut freed_at = 0;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let Some(executor) = executor.upgrade() else { return };
        executor.sweep();
        freed_at = give_memory_back(executor.session_count(), freed_at);
    }
}

/// After many sessions ended, hands freed pages back to the system: the allocator keeps them otherwise.
fn give_memory_back(sessions: usize, peak: usize) -> usize {
    const WORTH_IT: usize = 1_000;
    if peak.saturating_sub(sessions) < WORTH_IT {
        return peak.max(sessions);
    }
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        #[expect(unsafe_code, reason = "a call without a safe wrapper")]
        // SAFETY: malloc_trim has no preconditions; it takes the allocator's own locks.
        unsafe {
            libc::malloc_trim(0);
        }
    }
    sessions
}
