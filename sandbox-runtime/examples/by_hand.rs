//! A backend without macros: `#[backend]` and `#[tool]` write exactly this kind of code.
//!
//! Run it with `cargo run -p sandbox-runtime --example by_hand`.

#![expect(clippy::print_stdout, reason = "an example shows what it got")]

use std::sync::Arc;

use sandbox_runtime::{
    backend::{About, Backend, BackendKind, NoConfig},
    config::Config,
    host::Host,
    linked::Linked,
    location,
    prelude::*,
    scope::{HookScope, Initialize, New, Warmup},
    slice::BackendEntry,
    tool::{Call, SessionUse, Tool, ToolFuture, ToolResult},
    types::{CreateSession, ExecuteRequest},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Counts, one counter per session.
struct Counter;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AddParams {
    /// How much to add.
    #[schemars(range(min = 1))]
    by: u64,
}

#[derive(Serialize, JsonSchema)]
struct Total {
    /// The sum so far.
    total: u64,
}

impl Backend for Counter {
    type Config = NoConfig;
    type SessionConfig = NoConfig;
    type Session = u64;
    type Shared = ();

    const ABOUT: About = About {
        name: "counter",
        description: "Counts, one counter per session.",
        version: env!("CARGO_PKG_VERSION"),
        kind: BackendKind::Session,
        config_section: None,
        free_tool_group: None,
        location: location!(),
    };
    const TOOLS: &'static [Tool<Self>] =
        &[Tool::new::<AddParams, Total>("add", "Add to the counter.", SessionUse::Exclusive, add, location!())];

    async fn new(_: NoConfig, _: &HookScope<Self, New>) -> Result<Self> {
        Ok(Self)
    }

    async fn warmup(self: &Arc<Self>, _: &HookScope<Self, Warmup>) -> Result<()> {
        Ok(())
    }

    async fn initialize(self: &Arc<Self>, _: NoConfig, _: &HookScope<Self, Initialize>) -> Result<u64> {
        Ok(0)
    }
}

fn add(call: Call<Counter>) -> ToolFuture {
    Box::pin(async move {
        let params: AddParams = call.params()?;
        let (_scope, mut total) = call.enter_exclusive().await?;
        *total += params.by;
        let result: Result<Total> = Ok(Total { total: *total });
        total.finish();
        result.into_output()
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config: Config = serde_json::from_str(r#"{ "resources": { "counter": {} } }"#)?;
    let host = Host::start(&config, &Linked::of([BackendEntry::of::<Counter>()], []))?;
    let executor = host.executor().clone();
    host.handle().block_on(async move {
        let worker = WorkerId::parse("me")?;
        let session: CreateSession = serde_json::from_str(r#"{ "worker_id": "me", "resource_type": "counter" }"#)?;
        executor.create_session(session).await?;
        let mut sum = 0;
        for by in [1, 41] {
            let mut request = ExecuteRequest::new(worker.clone(), "counter:add");
            request.params = Some(serde_json::value::to_raw_value(&serde_json::json!({ "by": by }))?);
            let answer = executor.execute(request, Vec::new()).await;
            println!("{}", serde_json::to_string(&*answer)?);
            sum += by;
            assert_eq!(answer.data.as_ref().map(|data| data.get()), Some(&*format!("{{\"total\":{sum}}}")));
        }
        executor.shutdown(std::time::Duration::from_secs(1), true).await;
        Ok(())
    })
}

#[test]
fn it_runs() {
    main().expect("the example runs");
}
