//! `counter`: the smallest backend with sessions.

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Counter;

/// Counts, one counter per session.
#[backend(name = "counter")]
impl Counter {
    async fn initialize(&self) -> Result<u64> {
        Ok(0)
    }

    /// Add to the counter; answers the sum so far.
    #[tool]
    async fn add(&self, total: &mut u64, #[default = 1] by: u64) -> Result<u64> {
        *total += by;
        Ok(*total)
    }
}
