//! The servers under test: a bare actix-web handler, and ours with a backend that does nothing.

use std::{collections::BTreeMap, sync::Arc};

use actix_web::{App, HttpResponse, HttpServer, web};
use sandbox_runtime::{
    backend::{About, Backend, BackendKind, NoConfig},
    linked::Linked,
    location,
    prelude::*,
    scope::{HookScope, Initialize, New, Warmup},
    slice::BackendEntry,
    tool::{Call, SessionUse, Tool, ToolFuture, ToolResult},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

struct Bench;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "parsed, as a tool's parameters are, and not used")]
struct Params {
    x: u32,
    y: u32,
    button: String,
    text: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SessionConfig {
    #[serde(default)]
    initialize_ms: u64,
}

#[derive(Serialize, JsonSchema)]
struct Done {
    ok: bool,
}

impl Backend for Bench {
    type Config = NoConfig;
    type SessionConfig = SessionConfig;
    type Session = u64;
    type Shared = ();

    const ABOUT: About = About {
        name: "bench",
        description: "Does nothing.",
        version: "0",
        kind: BackendKind::Session,
        config_section: None,
        free_tool_group: None,
        location: location!(),
    };
    const TOOLS: &'static [Tool<Self>] = &[
        Tool::new::<Params, Done>("noop", "Nothing.", SessionUse::None, noop, location!()),
        Tool::new::<Params, Done>("touch", "Nothing, with a session.", SessionUse::Exclusive, touch, location!()),
    ];

    async fn new(_: NoConfig, _: &HookScope<Self, New>) -> Result<Self> {
        Ok(Self)
    }

    async fn warmup(self: &Arc<Self>, _: &HookScope<Self, Warmup>) -> Result<()> {
        Ok(())
    }

    async fn initialize(self: &Arc<Self>, config: SessionConfig, _: &HookScope<Self, Initialize>) -> Result<u64> {
        if config.initialize_ms > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(config.initialize_ms)).await;
        }
        Ok(0)
    }
}

fn noop(call: Call<Bench>) -> ToolFuture {
    Box::pin(async move {
        let _params: Params = call.params()?;
        let _scope = call.enter(SessionUse::None).await?;
        Result::<Done>::Ok(Done { ok: true }).into_output()
    })
}

fn touch(call: Call<Bench>) -> ToolFuture {
    Box::pin(async move {
        let _params: Params = call.params()?;
        let (_scope, mut session) = call.enter_exclusive().await?;
        *session += 1;
        session.finish();
        Result::<Done>::Ok(Done { ok: true }).into_output()
    })
}

/// Serves until standard input closes; the first line of the output is the address.
pub(crate) fn serve(mode: &str) {
    sandbox_cli::give_memory_back();
    if mode == "bare" {
        return bare();
    }
    let level = if mode == "json-log" { "info" } else { "warn" };
    let file = std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(level)
        .with_writer(std::sync::Mutex::new(file))
        .init();
    let config = json!({ "server": { "port": 0, "workers": 1 }, "resources": { "bench": {} } });
    crate::process::serve(config, Linked::of([BackendEntry::of::<Bench>()], []));
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "parsed, as the server does, and not used")]
struct Request {
    worker_id: String,
    action: String,
    params: Box<RawValue>,
    timeout: Option<f64>,
    trace_id: Option<String>,
}

fn bare() {
    actix_web::rt::System::new().block_on(async {
        let server = HttpServer::new(|| App::new().route("/execute", web::post().to(bare_execute)))
            .workers(1)
            .disable_signals()
            .bind("127.0.0.1:0")
            .unwrap();
        println!("{}", server.addrs()[0]);
        let server = server.run();
        let handle = server.handle();
        actix_web::rt::spawn(async move {
            let _ = actix_web::rt::task::spawn_blocking(crate::process::wait_for_end).await;
            handle.stop(true).await;
        });
        server.await.unwrap();
    });
}

#[derive(Serialize)]
struct Answer<'a> {
    success: bool,
    code: u16,
    message: &'a str,
    data: &'a RawValue,
    error: Option<()>,
    temporary_session: bool,
    meta: BTreeMap<&'a str, &'a str>,
}

async fn bare_execute(body: web::Bytes) -> HttpResponse {
    let request: Request = serde_json::from_slice(&body).unwrap();
    let params: Params = serde_json::from_str(request.params.get()).unwrap();
    let _ = params;
    let data = serde_json::value::to_raw_value(&Done { ok: true }).unwrap();
    let meta = BTreeMap::from([
        ("tool", "bench:noop"),
        ("resource_type", "bench"),
        ("trace_id", request.trace_id.as_deref().unwrap_or("")),
    ]);
    let answer =
        Answer { success: true, code: 0, message: "success", data: &data, error: None, temporary_session: false, meta };
    HttpResponse::Ok().content_type("application/json").body(serde_json::to_vec(&answer).unwrap())
}
