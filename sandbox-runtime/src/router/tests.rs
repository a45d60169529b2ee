//! What the table keeps, and for how long.

use std::{sync::Arc, time::Duration};

use sandbox_types::{
    CreateSession, CreatedSession, DestroySession, DestroyedSession, ErrorCode, ExecuteRequest, SessionId, WorkerId,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, advance, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{PoisonError, SessionTable};
use crate::{
    backend::{About, Backend, BackendKind, NoConfig},
    error::{Result, ToolError},
    executor::ToolExecutor,
    linked::Linked,
    location,
    scope::{Cleanup, HookScope, Initialize, Lend as _, New, Warmup},
    slice::BackendEntry,
    tool::{Call, SessionUse, Tool, ToolFuture, ToolResult as _},
};

/// Fails and hangs on request. Written by hand: the macros' registration is for other crates.
struct Odd;

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Behaviour {
    fail: bool,
    hang: bool,
}

/// Lets a cleanup that hangs go on.
static RELEASE: Notify = Notify::const_new();

impl Backend for Odd {
    type Config = NoConfig;
    type SessionConfig = Behaviour;
    type Session = Behaviour;
    type Shared = ();

    const ABOUT: About = About {
        name: "odd",
        description: "Fails and hangs on request.",
        version: "0",
        kind: BackendKind::Session,
        config_section: None,
        free_tool_group: None,
        location: location!(),
    };
    const TOOLS: &'static [Tool<Self>] =
        &[Tool::new::<Behaviour, ()>("touch", "Use the session.", SessionUse::Exclusive, touch, location!())];

    async fn new(_: NoConfig, _: &HookScope<Self, New>) -> Result<Self> {
        Ok(Self)
    }

    async fn warmup(self: &Arc<Self>, _: &HookScope<Self, Warmup>) -> Result<()> {
        Ok(())
    }

    async fn initialize(self: &Arc<Self>, behaviour: Behaviour, _: &HookScope<Self, Initialize>) -> Result<Behaviour> {
        if behaviour.fail { Err(ToolError::execution("as asked")) } else { Ok(behaviour) }
    }

    async fn cleanup(
        self: &Arc<Self>,
        session: &mut Option<Behaviour>,
        scope: &HookScope<Self, Cleanup>,
    ) -> Result<()> {
        if session.as_ref().is_some_and(|behaviour| behaviour.hang) {
            CancellationToken::lend(scope)?.cancelled().await;
            RELEASE.notified().await;
        }
        *session = None;
        Ok(())
    }
}

fn touch(call: Call<Odd>) -> ToolFuture {
    Box::pin(async move {
        let Behaviour { fail, .. } = call.params()?;
        let (_scope, session) = call.enter_exclusive().await?;
        session.finish();
        let result = if fail { Err(ToolError::execution("as asked")) } else { Ok(()) };
        result.into_output()
    })
}

/// On the test's own runtime, whose clock stands still.
fn executor(limits: &Value) -> Arc<ToolExecutor> {
    let config = json!({ "resources": { "odd": limits } });
    let config = serde_json::from_value(config).expect("a right configuration");
    let linked = Linked::of([BackendEntry::of::<Odd>()], []);
    crate::host::assemble(&config, &linked, Handle::current()).expect("it starts")
}

fn worker(n: usize) -> WorkerId {
    WorkerId::parse(&format!("w{n}")).expect("a good id")
}

async fn create(executor: &Arc<ToolExecutor>, n: usize, config: Value) -> Result<CreatedSession> {
    let request: CreateSession =
        serde_json::from_value(json!({ "worker_id": worker(n), "resource_type": "odd", "session_config": config }))
            .expect("a right request");
    executor.create_session(request).await
}

fn destroy(executor: &ToolExecutor, n: usize) -> Result<DestroyedSession> {
    let request: DestroySession =
        serde_json::from_value(json!({ "worker_id": worker(n), "resource_type": "odd" })).expect("a right request");
    executor.destroy_session(&request)
}

async fn call(executor: &Arc<ToolExecutor>, n: usize, fail: bool, id: Option<&Value>) -> (ErrorCode, String) {
    let mut request = ExecuteRequest::new(worker(n), "odd:touch");
    request.params = serde_json::value::to_raw_value(&json!({ "fail": fail })).ok();
    request.session_id = id.and_then(Value::as_str).map(|id| SessionId::parse(id).expect("a good id"));
    let answer = executor.execute(request, Vec::new()).await;
    (answer.code, answer.error.as_ref().and_then(|error| error.reason.clone()).unwrap_or_default())
}

/// Lets the cleanups that run end; the clock stands still meanwhile.
async fn settle(executor: &ToolExecutor) {
    while !executor.cleanups.is_empty() {
        tokio::task::yield_now().await;
    }
}

/// Workers of whom the table holds anything.
fn entries(table: &SessionTable) -> usize {
    table.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
}

#[tokio::test(start_paused = true)]
async fn a_worker_of_whom_nothing_is_left_leaves_no_entry() {
    const WORKERS: usize = 500;
    let executor = executor(&json!({ "session_ttl": 3600 }));
    let began = Instant::now();
    for n in 0..WORKERS {
        create(&executor, n, json!({})).await.expect("it is made");
    }
    assert_eq!(entries(&executor.table), WORKERS);
    for n in 0..WORKERS {
        executor.disconnect(&worker(n));
    }
    settle(&executor).await;
    assert_eq!(entries(&executor.table), 0, "after disconnect");

    for n in 0..WORKERS {
        create(&executor, n, json!({})).await.expect("it is made");
        destroy(&executor, n).expect("it is there");
    }
    settle(&executor).await;
    assert_eq!(entries(&executor.table), 0, "after destroy");

    for n in 0..WORKERS {
        let error = create(&executor, n, json!({ "fail": true })).await.expect_err("as asked");
        assert_eq!(error.code(), ErrorCode::EXECUTION_ERROR);
    }
    assert_eq!(entries(&executor.table), 0, "after an `initialize` that failed");

    for n in 0..WORKERS {
        let expected = if n % 2 == 1 { ErrorCode::EXECUTION_ERROR } else { ErrorCode::SUCCESS };
        assert_eq!(call(&executor, n, n % 2 == 1, None).await.0, expected);
    }
    settle(&executor).await;
    assert_eq!(entries(&executor.table), 0, "after temporary sessions");
    assert_eq!(began.elapsed(), Duration::ZERO, "the sweep, which would have tidied up, has not come by");
}

/// Past a time to live of 0.3 s, and before the first sweep.
const BETWEEN_SWEEPS: Duration = Duration::from_millis(400);

#[tokio::test(start_paused = true)]
async fn the_time_to_live_holds_for_a_call_that_names_the_id() {
    let executor = executor(&json!({ "session_ttl": 0.3 }));
    let id = json!(create(&executor, 0, json!({})).await.expect("it is made").session_id);
    assert_eq!(call(&executor, 0, false, Some(&id)).await.0, ErrorCode::SUCCESS);
    advance(BETWEEN_SWEEPS).await;
    assert_eq!(entries(&executor.table), 1, "no sweep came by");
    for _ in 0..2 {
        assert_eq!(call(&executor, 0, false, Some(&id)).await, (ErrorCode::SESSION_GONE, "expired".into()));
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_to_live_holds_for_a_creation() {
    let executor = executor(&json!({ "session_ttl": 0.3 }));
    let first = create(&executor, 0, json!({})).await.expect("it is made");
    let again = create(&executor, 0, json!({})).await.expect("it is there");
    assert!(again.existed() && again.session_id == first.session_id);
    advance(BETWEEN_SWEEPS).await;
    let second = create(&executor, 0, json!({})).await.expect("it is made");
    assert!(!second.existed());
    assert_ne!(second.session_id, first.session_id);
    assert_eq!(call(&executor, 0, false, None).await.0, ErrorCode::SUCCESS, "to ask for a new one acknowledges");
}

#[tokio::test(start_paused = true)]
async fn the_time_to_live_holds_for_a_listing() {
    let executor = executor(&json!({ "session_ttl": 0.3 }));
    create(&executor, 0, json!({})).await.expect("it is made");
    assert_eq!(executor.list_sessions(&worker(0), None).count, 1);
    advance(BETWEEN_SWEEPS).await;
    assert_eq!(entries(&executor.table), 1, "no sweep came by");
    assert_eq!(executor.list_sessions(&worker(0), None).count, 0);
    assert!(executor.worker_status(&worker(0)).active_resources.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_cleanup_that_hangs_counts_as_orphaned_and_keeps_its_slot() {
    let executor = executor(&json!({ "max_sessions": 1 }));
    create(&executor, 0, json!({ "hang": true })).await.expect("it is made");
    destroy(&executor, 0).expect("it is there");
    sleep(Duration::from_secs(29)).await;
    assert_eq!(executor.readiness().1.orphaned_sessions, 0, "it has 30 s");
    sleep(Duration::from_secs(2)).await;
    assert_eq!(executor.readiness().1.orphaned_sessions, 1);
    let error = create(&executor, 1, json!({})).await.expect_err("its slot is not free");
    assert_eq!(error.code(), ErrorCode::RESOURCE_EXHAUSTED);
    RELEASE.notify_one();
    settle(&executor).await;
    let ready = executor.readiness().1;
    assert_eq!((ready.orphaned_sessions, ready.failed_cleanups), (0, 0));
    create(&executor, 1, json!({})).await.expect("its slot is free");
}
