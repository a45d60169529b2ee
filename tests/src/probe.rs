//! `probe`: a backend that misbehaves on request, and counts its hooks.

mod bytes;
mod stall;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sandbox_runtime::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::sleep;

#[derive(Default)]
pub(crate) struct Probe;

/// What `warmup` makes: how often the hooks ran, and why sessions ended.
#[derive(Default)]
pub(crate) struct Counts {
    initialized: AtomicU64,
    ended: Mutex<BTreeMap<String, u64>>,
    readers: AtomicU64,
    most_readers: AtomicU64,
}

/// How a session is to behave.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Behaviour {
    /// How long `initialize` takes, in milliseconds.
    initialize_ms: u64,
    /// How long `cleanup` takes, in milliseconds.
    cleanup_ms: u64,
    /// `initialize` fails with this.
    fail: Option<String>,
    /// `cleanup` fails so many times.
    fail_cleanup: u32,
    /// A tool that `initialize` calls.
    call: Option<String>,
    /// `cleanup` panics instead of failing.
    panic_cleanup: bool,
    /// `initialize` panics.
    panic: bool,
    /// `initialize` blocks its thread until it is released.
    stall_initialize: bool,
    /// `cleanup` blocks its thread until it is released.
    stall_cleanup: bool,
}

pub(crate) struct Session {
    pub(crate) total: u64,
    behaviour: Behaviour,
    handle: SessionHandle,
}

#[derive(Serialize, JsonSchema)]
struct Who {
    worker: String,
    session: String,
    trace: String,
    resource: String,
}

#[derive(Serialize, JsonSchema)]
struct Report {
    initialized: u64,
    ended: BTreeMap<String, u64>,
    most_readers: u64,
}

#[derive(Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Button {
    Left,
    Right,
}

/// Misbehaves on request.
#[backend(name = "probe")]
impl Probe {
    async fn warmup(&self) -> Result<Counts> {
        if std::env::var_os("PROBE_STALL_WARMUP").is_some() {
            stall::until_released();
        }
        Ok(Counts::default())
    }

    async fn initialize(
        &self,
        behaviour: Behaviour,
        counts: &Counts,
        handle: &SessionHandle,
        context: &ToolContext,
    ) -> Result<Session> {
        if let Some(action) = &behaviour.call {
            context.call(action, serde_json::json!({})).await?;
        }
        sleep(Duration::from_millis(behaviour.initialize_ms)).await;
        assert!(!behaviour.panic, "as asked");
        if behaviour.stall_initialize {
            stall::until_released();
        }
        if let Some(why) = &behaviour.fail {
            return Err(ToolError::execution(why.clone()));
        }
        counts.initialized.fetch_add(1, Ordering::Relaxed);
        Ok(Session { total: 0, behaviour, handle: handle.clone() })
    }

    async fn cleanup(&self, session: &mut Session, counts: &Counts, reason: &EndReason) -> Result<()> {
        if session.behaviour.cleanup_ms > 0 {
            sleep(Duration::from_millis(session.behaviour.cleanup_ms)).await;
        }
        if session.behaviour.stall_cleanup {
            stall::until_released();
        }
        if session.behaviour.fail_cleanup > 0 {
            session.behaviour.fail_cleanup -= 1;
            assert!(!session.behaviour.panic_cleanup, "as asked");
            return Err(ToolError::execution("cleanup fails, as asked"));
        }
        if let Some(path) = std::env::var_os("PROBE_TRACE") {
            std::fs::write(path, reason.as_str()).tool_err(ErrorCode::EXECUTION_ERROR)?;
        }
        *counts.ended.lock().expect("no panic").entry(reason.as_str().to_owned()).or_default() += 1;
        Ok(())
    }

    /// How often the hooks ran.
    #[tool(read_only)]
    async fn counts(&self, counts: &Counts) -> Result<Report> {
        Ok(Report {
            initialized: counts.initialized.load(Ordering::Relaxed),
            ended: counts.ended.lock().expect("no panic").clone(),
            most_readers: counts.most_readers.load(Ordering::Relaxed),
        })
    }

    /// Add to the session's total.
    #[tool]
    async fn add(&self, session: &mut Session, #[default = 1] by: u64) -> Result<u64> {
        session.total += by;
        Ok(session.total)
    }

    /// The session's total.
    #[tool(read_only, idempotent)]
    async fn total(&self, session: &Session) -> Result<u64> {
        Ok(session.total)
    }

    /// Wait with the session to itself.
    #[tool]
    async fn hold(&self, session: &mut Session, ms: u64) -> Result<u64> {
        if let Some(path) = std::env::var_os("PROBE_BEGUN") {
            std::fs::write(path, "").tool_err(ErrorCode::EXECUTION_ERROR)?;
        }
        sleep(Duration::from_millis(ms)).await;
        session.total += 1;
        Ok(session.total)
    }

    /// Wait with the session shared.
    #[tool]
    async fn share(&self, session: &Session, counts: &Counts, ms: u64) -> Result<u64> {
        let readers = counts.readers.fetch_add(1, Ordering::Relaxed) + 1;
        counts.most_readers.fetch_max(readers, Ordering::Relaxed);
        sleep(Duration::from_millis(ms)).await;
        counts.readers.fetch_sub(1, Ordering::Relaxed);
        Ok(session.total)
    }

    /// Wait without a session.
    #[tool]
    async fn wait(&self, ms: u64) -> Result<()> {
        sleep(Duration::from_millis(ms)).await;
        Ok(())
    }

    /// Wait for the token, then answer all the same.
    #[tool]
    async fn graceful(&self, session: &mut Session, token: &CancellationToken) -> Result<String> {
        token.cancelled().await;
        session.total += 100;
        Ok("stopped in time".into())
    }

    /// A tool with a limit of its own.
    #[tool(timeout = "300ms")]
    async fn limited(&self, ms: u64) -> Result<()> {
        sleep(Duration::from_millis(ms)).await;
        Ok(())
    }

    /// Panic.
    #[tool]
    async fn panic(&self, session: &mut Session) -> Result<u64> {
        session.total += 1;
        panic!("secret /etc/path");
    }

    /// Block a thread of the pool, with the session.
    #[tool(blocking)]
    fn block(&self, session: &mut Session, ms: u64) -> Result<u64> {
        std::thread::sleep(Duration::from_millis(ms));
        session.total += 1;
        Ok(session.total)
    }

    /// Block a thread of the pool, beside others on the session.
    #[tool(blocking)]
    fn block_beside(&self, session: &Session, ms: u64) -> Result<u64> {
        std::thread::sleep(Duration::from_millis(ms));
        Ok(session.total)
    }

    /// Block a thread of the pool.
    #[tool(blocking)]
    fn block_free(&self, ms: u64) -> Result<()> {
        std::thread::sleep(Duration::from_millis(ms));
        Ok(())
    }

    /// Nothing; on a resource `block` one of its spellings is the name of another tool.
    #[tool(hidden)]
    async fn free(&self) -> Result<()> {
        Ok(())
    }

    /// End the session from outside.
    #[tool]
    async fn kill(&self, session: &Session, why: String) -> Result<()> {
        session.handle.fail(why);
        Ok(())
    }

    /// What is injected.
    #[tool]
    async fn who(
        &self,
        session: &Session,
        worker: &WorkerId,
        id: &SessionId,
        trace: &TraceId,
        resource: &ResourceContext,
    ) -> Result<Who> {
        let _ = session;
        Ok(Who {
            worker: worker.to_string(),
            session: id.to_string(),
            trace: trace.to_string(),
            resource: resource.name().to_owned(),
        })
    }

    /// Click.
    #[tool(alias = ["press"])]
    async fn click(
        &self,
        /// X, in pixels.
        x: u32,
        #[schemars(range(min = 1, max = 3))]
        #[default = 1]
        count: u8,
        #[default = "left"] button: Button,
        delay_ms: Option<u32>,
    ) -> Result<Value> {
        Ok(serde_json::json!({ "x": x, "count": count, "button": button, "delay_ms": delay_ms }))
    }

    /// Not listed.
    #[tool(hidden)]
    async fn secret(&self) -> Result<()> {
        Ok(())
    }
}

#[tools]
impl Probe {
    /// Call another tool.
    #[tool]
    async fn nest(&self, context: &ToolContext, action: String, params: Value) -> Result<Value> {
        nested(context, &action, &params).await
    }

    /// Call another tool while the session is shared.
    #[tool]
    async fn nest_shared(
        &self,
        session: &Session,
        context: &ToolContext,
        action: String,
        params: Value,
    ) -> Result<Value> {
        let _ = session;
        nested(context, &action, &params).await
    }

    /// Call another tool while the session is held alone.
    #[tool]
    async fn nest_alone(
        &self,
        session: &mut Session,
        context: &ToolContext,
        action: String,
        params: Value,
    ) -> Result<Value> {
        session.total += 1;
        nested(context, &action, &params).await
    }
}

async fn nested(context: &ToolContext, action: &str, params: &Value) -> Result<Value> {
    let raw = context.call(action, params).await?;
    serde_json::from_str(raw.get()).tool_err(ErrorCode::INTERNAL_ERROR)
}
