//! What the generated glue does when a call runs through it: parameters, injection, session use, hooks, failures.

#![expect(clippy::unwrap_used, reason = "a test says where it fails")]

use std::sync::{
    Mutex,
    atomic::{AtomicU32, Ordering},
};

use sandbox_runtime::{config::Config, host::Host, linked::Linked, prelude::*, types::ExecuteRequest};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn note(text: impl Into<String>) {
    LOG.lock().unwrap().push(text.into());
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
struct CounterConfig {
    step: u64,
}

#[derive(Deserialize, JsonSchema)]
struct Paging {
    page: u32,
    size: Option<u32>,
}

struct Ledger(AtomicU32);

struct Total(u64);

struct Counter {
    step: u64,
}

/// Fails to be injected where the worker is called `unlucky`.
struct Luck;

impl Inject for Luck {
    fn inject(context: &ToolContext) -> Result<Self> {
        if context.worker().as_str() == "unlucky" { Err(ToolError::business("no luck")) } else { Ok(Self) }
    }
}

/// Counts, one counter per session.
#[backend(name = "counter")]
impl Counter {
    fn new(CounterConfig { step }: CounterConfig) -> Result<Self> {
        Ok(Self { step: step.max(1) })
    }

    async fn warmup(&self) -> Result<Ledger> {
        Ok(Ledger(AtomicU32::new(0)))
    }

    async fn initialize(&self, ledger: &Ledger) -> Result<Total> {
        ledger.0.fetch_add(1, Ordering::Relaxed);
        Ok(Total(0))
    }

    async fn cleanup(&self, Total(total): Total, reason: &EndReason) -> Result<()> {
        note(format!("cleanup {total} {}", reason.as_str()));
        if total == 99 { Err(ToolError::execution("nothing is left to try again with")) } else { Ok(()) }
    }

    /// Add.
    #[tool]
    async fn add(
        &self,
        total: &mut Total,
        _: &Luck,
        #[default = 2] by: u64,
        #[serde(rename = "times", alias = "repeat")] n: Option<u64>,
    ) -> Result<u64> {
        total.0 += self.step * by * n.unwrap_or(1);
        Ok(total.0)
    }

    /// Read, on the blocking pool.
    #[tool(blocking, alias = ["peek"])]
    fn read(&self, total: &Total, ledger: &Ledger, worker: &WorkerId) -> Result<String> {
        Ok(format!("{worker} {} {}", total.0, ledger.0.load(Ordering::Relaxed)))
    }

    /// Double, on the blocking pool.
    #[tool(blocking)]
    fn double(&self, total: &mut Total) -> Result<u64> {
        total.0 *= 2;
        Ok(total.0)
    }

    /// Panic.
    #[tool(hidden)]
    async fn panic(&self, total: &mut Total) -> Result<()> {
        total.0 = 99;
        std::future::ready(()).await;
        panic!("on purpose")
    }
}

#[tools]
impl Counter {
    /// A page.
    #[tool]
    async fn page(
        &self,
        #[serde(flatten)] paging: Paging,
        #[default([1, -2])] more: Vec<i32>,
    ) -> Result<(u32, u32, Vec<i32>)> {
        Ok((paging.page, paging.size.unwrap_or(10), more))
    }
}

#[derive(Deserialize, JsonSchema)]
struct GreetConfig {
    greeting: String,
}

/// Greet.
#[tool(name = "text:greet", config = "apis.greet")]
async fn greet(config: &GreetConfig, #[schemars(length(min = 1))] name: String) -> Result<String> {
    Ok(format!("{}, {name}", config.greeting))
}

struct Client<'a>(&'a Host);

impl Client<'_> {
    fn call(&self, worker: &str, action: &str, params: &Value) -> Value {
        let mut request = ExecuteRequest::new(WorkerId::parse(worker).unwrap(), action);
        request.params = Some(serde_json::value::to_raw_value(params).unwrap());
        let executor = self.0.executor().clone();
        let answer = self.0.handle().block_on(async move { executor.execute(request, Vec::new()).await });
        serde_json::to_value(&*answer).unwrap()
    }

    fn session(&self, worker: &str) {
        let body = json!({ "worker_id": worker, "resource_type": "counter" });
        let executor = self.0.executor().clone();
        let request = serde_json::from_value(body).unwrap();
        self.0.handle().block_on(async move { executor.create_session(request).await }).unwrap();
    }
}

#[test]
fn calls_run_through_the_glue() {
    let config = json!({
        "resources": { "counter": { "config": { "step": 3 } } },
        "apis": { "greet": { "greeting": "Hello" } },
    });
    let config: Config = serde_json::from_value(config).unwrap();
    let host = Host::start(&config, &Linked::discover()).unwrap();
    let client = Client(&host);
    client.session("me");

    assert_eq!(client.call("me", "counter:add", &json!({}))["data"], 6);
    assert_eq!(client.call("me", "counter:add", &json!({ "by": 1, "times": 2 }))["data"], 12);
    assert_eq!(client.call("me", "counter:add", &json!({ "by": 0, "repeat": 2 }))["data"], 12);
    assert_eq!(client.call("me", "counter:add", &json!({ "times": 1, "repeat": 2 }))["error"]["parameter"], "repeat");
    assert_eq!(client.call("me", "counter:double", &json!({}))["data"], 24);
    assert_eq!(client.call("me", "peek", &json!({}))["data"], "me 24 1");
    assert_eq!(client.call("me", "counter:add", &json!({ "total": 5 }))["success"], false);
    assert_eq!(client.call("me", "counter:page", &json!({ "page": 7 }))["data"], json!([7, 10, [1, -2]]));
    assert_eq!(client.call("me", "text:greet", &json!({ "name": "you" }))["data"], "Hello, you");
    assert_eq!(client.call("me", "text:greet", &json!({ "name": "" }))["success"], false);

    // Injection fails before the method is entered: the session is whole.
    client.session("unlucky");
    let answer = client.call("unlucky", "counter:add", &json!({}));
    assert_eq!((&answer["success"], &answer["message"]), (&json!(false), &json!("no luck")));
    assert_eq!(answer["meta"]["executed"], false);
    assert_eq!(client.call("unlucky", "peek", &json!({}))["data"], "unlucky 0 2");

    // A panic while the session is borrowed by `&mut` breaks it.
    assert_eq!(client.call("me", "counter:panic", &json!({}))["success"], false);
    assert_eq!(client.call("me", "counter:read", &json!({}))["error"]["name"], "SESSION_GONE");

    let executor = host.executor().clone();
    host.handle().block_on(async move { executor.shutdown(std::time::Duration::from_secs(5), true).await });
    assert_eq!(host.executor().readiness().1.failed_cleanups, 1);
    let log = LOG.lock().unwrap().clone();
    assert!(log.contains(&"cleanup 99 broken".to_owned()), "{log:?}");
    assert!(log.iter().any(|line| line.starts_with("cleanup 0 ")), "{log:?}");
}
