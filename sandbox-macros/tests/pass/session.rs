//! A session backend: type aliases, a session of another module, both receivers, `#[cfg]`, blocking tools, moved attributes.

use std::sync::Arc;

use sandbox_runtime::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod machine {
    pub struct Vm {
        pub clicks: u32,
    }
}

type VmSession = machine::Vm;
type Pixels = u32;
type Outcome<T> = Result<T, VmError>;

pub enum VmError {
    Lost,
}

impl From<VmError> for ToolError {
    fn from(_: VmError) -> Self {
        ToolError::business("lost")
    }
}

#[derive(Deserialize, JsonSchema)]
struct VmConfig {
    pool_size: usize,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
struct VmSessionConfig {
    image: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Button {
    Left,
    Right,
}

#[derive(Deserialize, JsonSchema)]
struct Paging {
    #[serde(default)]
    page: u32,
}

#[derive(Serialize, JsonSchema)]
struct Screenshot {
    png: String,
}

struct VmBackend {
    pool_size: usize,
}

/// A virtual machine with a screen.
#[backend(name = "vm", version = "1.2.3")]
impl VmBackend {
    const LIMIT: usize = 3;

    async fn new(config: VmConfig, resource: &ResourceContext) -> Result<Self> {
        let _ = resource.name();
        Ok(Self { pool_size: config.pool_size.min(Self::LIMIT) })
    }

    async fn initialize(
        &self,
        /// What the client chose.
        config: VmSessionConfig,
        worker: &WorkerId,
        session_id: &SessionId,
        handle: &SessionHandle,
        context: &ToolContext,
    ) -> Outcome<VmSession> {
        let _ = (worker, session_id, handle, context, config.image);
        if self.pool_size == 0 { Err(VmError::Lost) } else { Ok(machine::Vm { clicks: self.helper() }) }
    }

    async fn cleanup(&self, session: &mut VmSession, reason: &EndReason, context: &ToolContext) -> Result<()> {
        session.clicks = 0;
        let _ = (reason, context);
        Ok(())
    }

    fn helper(&self) -> u32 {
        0
    }

    /// Take a screenshot.
    #[tool(read_only, idempotent, timeout = "2m")]
    async fn screenshot(&self, session: &machine::Vm, _: &Progress) -> Result<Screenshot> {
        Ok(Screenshot { png: session.clicks.to_string() })
    }

    /// Click at a point.
    #[tool(timeout = "500ms", alias = ["vm_click", "press"], group = "pointer")]
    async fn click(
        self: &Arc<Self>,
        session: &mut VmSession,
        progress: &Progress,
        /// X, in pixels from the left edge.
        x: Pixels,
        /// Y, in pixels from the top edge.
        #[schemars(range(max = 10_000))]
        mut y: u32,
        #[default = "left"] button: Button,
        #[serde(rename = "delay")] delay_ms: Option<u32>,
        #[default([[1, -2.5], [], [null]])] path: Vec<Vec<Option<f64>>>,
        r#type: Option<String>,
    ) -> Outcome<()> {
        y += x + u32::from(matches!(button, Button::Right)) + delay_ms.unwrap_or(0);
        progress.report(1, None, "clicked");
        session.clicks += y;
        let _ = (path, r#type, matches!(button, Button::Left));
        Ok(())
    }

    /// Compute for long.
    #[tool(blocking, hidden, name = "compute")]
    fn run_blocking(&self, cancel: &CancellationToken, session: &mut VmSession, n: u64) -> Result<u64, VmError> {
        session.clicks += 1;
        if cancel.is_cancelled() { Err(VmError::Lost) } else { Ok(n) }
    }

    /// Read, on the blocking pool.
    #[tool(blocking)]
    fn read(&self, trace: &TraceId, session: &VmSession) -> std::result::Result<String, ToolError> {
        Ok(format!("{trace} {}", session.clicks))
    }

    /// A page of what there is.
    #[tool]
    async fn list(&self, #[serde(flatten)] paging: Paging, filter: Option<String>) -> Result<u32> {
        let _ = filter;
        Ok(paging.page)
    }

    /// Only in another world.
    #[cfg(any())]
    #[tool]
    async fn variant(&self, x: Missing) -> Result<Missing> {}

    /// In this world.
    #[cfg(not(any()))]
    #[tool]
    async fn variant(&self) -> Result<()> {
        Ok(())
    }
}

mod more {
    use super::*;

    #[tools]
    impl VmBackend {
        /// Type a text.
        #[tool]
        async fn type_text(&self, session: &mut super::machine::Vm, text: String) -> Result<usize> {
            session.clicks += 1;
            Ok(text.len())
        }
    }

    #[tools]
    impl VmBackend {
        /// Who calls.
        #[tool]
        async fn who(&self, worker: &WorkerId, session: &VmSession) -> Result<String> {
            Ok(format!("{worker} {}", session.clicks))
        }
    }
}

fn main() {}
