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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sandbox_runtime::{prelude::*, testing::Harness};
    use serde_json::json;

    #[test]
    fn each_session_counts_for_itself_until_it_expires() {
        let harness = Harness::builder().resource("counter", json!({ "session_ttl": 60 })).virtual_clock().start();
        let (one, two) = (harness.worker("one"), harness.worker("two"));
        one.create("counter", json!({})).unwrap();
        two.create("counter", json!({})).unwrap();
        one.call("counter:add", json!({})).unwrap();
        assert_eq!(one.call("counter:add", json!({ "by": 2 })).unwrap(), 3);
        assert_eq!(two.call("counter:add", json!({})).unwrap(), 1);
        harness.advance(Duration::from_secs(61));
        assert_eq!(one.call("counter:add", json!({})).unwrap_err().code(), ErrorCode::SESSION_GONE);
        harness.expect_sessions(0);
    }
}
