//! The harness for authors' tests: its clock, its faults, and what it says of sessions.
#![cfg(feature = "testing")]

use std::time::Duration;

use sandbox_runtime::{
    prelude::*,
    testing::{Fault, Harness, Point},
};
use serde_json::{Value, json};

#[derive(Default)]
struct Sleepy;

/// Waits.
#[backend(name = "sleepy")]
impl Sleepy {
    async fn initialize(&self) -> Result<u32> {
        Ok(0)
    }

    async fn cleanup(&self, session: &mut u32) -> Result<()> {
        *session = 0;
        Ok(())
    }

    /// Waits with the session in hand.
    #[tool]
    async fn wait(&self, session: &mut u32, seconds: u64) -> Result<u32> {
        *session += 1;
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        Ok(*session)
    }

    /// Blocks a thread for a moment.
    #[tool(blocking)]
    fn block(&self, session: &mut u32) -> Result<u32> {
        std::thread::sleep(Duration::from_millis(20));
        *session += 1;
        Ok(*session)
    }
}

/// Says who is asked.
#[tool(name = "free:who")]
async fn who(worker: &WorkerId) -> Result<String> {
    Ok(worker.to_string())
}

fn harness() -> Harness {
    Harness::builder().resource("sleepy", json!({ "session_ttl": 60 })).virtual_clock().start()
}

fn reason(error: &ToolError) -> Option<&str> {
    error.body().reason.as_deref()
}

#[test]
fn time_passes_when_the_test_says_so() {
    let harness = harness();
    let agent = harness.worker("agent");
    agent.create("sleepy", json!({})).unwrap();
    let call = agent.begin("sleepy:wait", json!({ "seconds": 30 }));
    harness.advance(Duration::from_secs(29));
    assert!(!call.is_over());
    harness.advance(Duration::from_secs(2));
    assert_eq!(call.end().unwrap(), 1);
    assert_eq!(agent.call("sleepy:block", json!({})).unwrap(), 2, "the world's time is not the clock's");
    let late = agent.timeout(10.0).begin("sleepy:wait", json!({ "seconds": 3600 }));
    harness.advance(Duration::from_secs(11));
    assert_eq!(late.end().unwrap_err().code(), ErrorCode::TIMEOUT_ERROR);
    // It was cut off with the session in hand.
    let gone = agent.call("sleepy:block", json!({})).unwrap_err();
    assert_eq!((gone.code(), reason(&gone)), (ErrorCode::SESSION_GONE, Some("broken")));
    agent.create("sleepy", json!({})).unwrap();
    harness.advance(Duration::from_secs(59));
    harness.expect_sessions(1);
    harness.advance(Duration::from_secs(10));
    harness.expect_sessions(0);
    let ended = |reason| ("sleepy".to_owned(), reason);
    assert_eq!(harness.ended(), [ended(EndReason::Broken), ended(EndReason::Expired)]);
}

#[test]
fn hooks_and_tools_fail_on_request() {
    let harness = harness();
    let agent = harness.worker("agent");
    let point = || "sleepy".to_owned();
    harness.inject(Point::Warmup(point()), Fault::Fail("no disk".into()), 1);
    let error = agent.create("sleepy", json!({})).unwrap_err();
    assert!(error.code() == ErrorCode::BACKEND_NOT_INITIALIZED && error.message().contains("no disk"), "{error}");
    harness.inject(Point::Initialize(point()), Fault::Panic, 1);
    assert_eq!(agent.create("sleepy", json!({})).unwrap_err().code(), ErrorCode::UNEXPECTED_ERROR);
    harness.expect_sessions(0);
    agent.create("sleepy", json!({})).unwrap();
    harness.inject(Point::Tool("sleepy:block".into()), Fault::Fail("not now".into()), 1);
    assert_eq!(agent.call("sleepy:block", json!({})).unwrap_err().message(), "not now");
    assert_eq!(agent.call_as::<u32>("sleepy:block", json!({})).unwrap(), 1);
    harness.inject(Point::Cleanup(point()), Fault::Fail("busy".into()), 2);
    agent.destroy("sleepy").unwrap();
    harness.expect_sessions(1);
    harness.advance(Duration::from_secs(5));
    harness.expect_sessions(0);
    let counts = [Point::Warmup(point()), Point::Initialize(point()), Point::Cleanup(point())];
    assert_eq!(counts.map(|point| harness.count(&point)), [2, 2, 3]);
    harness.inject(Point::Initialize(point()), Fault::Hang, 1);
    agent.begin("sleepy:block", json!({})).leave();
    harness.expect_sessions(0);
}

#[test]
fn workers_sessions_and_free_tools() {
    let harness = harness();
    let (one, two) = (harness.worker("one"), harness.worker("two"));
    one.session("a").create("sleepy", json!({})).unwrap();
    assert_eq!(one.session("a").call("sleepy:block", json!({})).unwrap(), 1);
    assert_eq!(one.session("a").call("sleepy:block", json!({})).unwrap(), 2);
    let temporary = two.begin("sleepy:block", json!({})).answer();
    assert!(temporary.temporary_session && temporary.meta.executed);
    assert_eq!(two.call("free:who", json!({})).unwrap(), "two");
    assert_eq!(harness.count(&Point::Tool("free:who".into())), 1);
    let error = one.call("sleepy:nothing", json!({})).unwrap_err();
    assert!(error.body().candidates.is_some(), "{error:?}");
    let error = one.call("sleepy:wait", json!({ "seconds": "long" })).unwrap_err();
    assert_eq!(error.body().parameter.as_deref(), Some("seconds"));
    assert_eq!(one.disconnect(), 1);
    harness.expect_sessions(0);
}

#[test]
fn the_clock_of_the_world_is_the_default() {
    let harness = Harness::builder().resource("sleepy", json!({})).start();
    let agent = harness.worker("agent");
    agent.create("sleepy", json!({})).unwrap();
    assert_eq!(agent.call("sleepy:wait", json!({ "seconds": 0 })).unwrap(), Value::from(1));
    agent.destroy("sleepy").unwrap();
    harness.expect_sessions(0);
    assert_eq!(harness.ended().len(), 1);
}

#[test]
#[should_panic(expected = "the configuration is wrong")]
fn a_wrong_configuration_is_named() {
    let _ = Harness::builder().resource("sleepy", json!({ "session_tll": 1 })).start();
}
