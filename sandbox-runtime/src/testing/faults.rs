//! Backends that fail on request, and count what is asked of them.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    future::{Future, pending},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sandbox_types::ErrorCode;
use schemars::{Schema, SchemaGenerator};
use serde_json::Value;

use crate::{
    backend::About,
    context::{ResourceContext, ToolContext},
    erase::{Cleaned, DynBackend, DynBlock, DynInstance, Made, ToolView},
    error::{Result, ToolError},
    session::{EndReason, Lease, SessionHandle},
    tool::ToolFuture,
};

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Where a call or a hook can fail; the text names the resource, or the tool in full (`vm:click`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Point {
    /// Before `new` and `warmup` of a resource.
    Warmup(String),
    /// Before `initialize`.
    Initialize(String),
    /// Before `cleanup`, which is tried again after a failure.
    Cleanup(String),
    /// Before `shutdown`.
    Shutdown(String),
    /// Before a tool is entered.
    Tool(String),
}

/// How something fails.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// With this message ([`ErrorCode::EXECUTION_ERROR`]).
    Fail(String),
    /// By a panic.
    Panic,
    /// It never ends.
    Hang,
}

/// What is to fail, and what has happened.
#[derive(Default)]
pub(super) struct Faults {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    planned: HashMap<Point, (Fault, usize)>,
    counts: HashMap<Point, usize>,
    ended: Vec<(String, EndReason)>,
}

impl Faults {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn inject(&self, point: Point, fault: Fault, times: usize) {
        self.state().planned.insert(point, (fault, times));
    }

    pub(super) fn count(&self, point: &Point) -> usize {
        self.state().counts.get(point).copied().unwrap_or_default()
    }

    pub(super) fn ended(&self) -> Vec<(String, EndReason)> {
        self.state().ended.clone()
    }

    /// Comes to a point.
    ///
    /// # Errors
    /// The failure that was asked for.
    #[expect(clippy::panic, reason = "it was asked for")]
    async fn pass(&self, point: Point) -> Result<()> {
        let fault = {
            let mut state = self.state();
            *state.counts.entry(point.clone()).or_default() += 1;
            match state.planned.get_mut(&point) {
                Some((fault, left @ 1..)) => {
                    *left -= 1;
                    Some(fault.clone())
                }
                _ => None,
            }
        };
        match fault {
            None => Ok(()),
            Some(Fault::Fail(message)) => Err(ToolError::new(ErrorCode::EXECUTION_ERROR, message)),
            Some(Fault::Panic) => panic!("a fault of the test at {point:?}"),
            Some(Fault::Hang) => pending().await,
        }
    }
}

/// The backend with its faults; it lives as long as the process, as linked ones do.
pub(super) fn wrap(backend: &'static dyn DynBackend, faults: &Arc<Faults>) -> &'static dyn DynBackend {
    Box::leak(Box::new(Faulty { backend, faults: faults.clone() }))
}

struct Faulty {
    backend: &'static dyn DynBackend,
    faults: Arc<Faults>,
}

impl DynBackend for Faulty {
    fn about(&self) -> &'static About {
        self.backend.about()
    }

    fn type_id(&self) -> TypeId {
        self.backend.type_id()
    }

    fn config_schema(&self) -> Value {
        self.backend.config_schema()
    }

    fn session_config_schema(&self, generator: &mut SchemaGenerator) -> Schema {
        self.backend.session_config_schema(generator)
    }

    fn check_config(&self, config: &Value) -> Result<(), (String, String)> {
        self.backend.check_config(config)
    }

    fn tools(&self, blocks: &[DynBlock]) -> Vec<ToolView> {
        self.backend.tools(blocks)
    }

    fn bind(&self, blocks: &[DynBlock], resource: Arc<ResourceContext>) -> Arc<dyn DynInstance> {
        // A free tool has its group for a resource.
        let prefix = self.about().free_tool_group.unwrap_or(resource.name()).to_owned();
        Arc::new(FaultyInstance {
            tools: self.tools(blocks).iter().map(|tool| format!("{prefix}:{}", tool.name)).collect(),
            resource: resource.name().to_owned(),
            instance: self.backend.bind(blocks, resource),
            faults: self.faults.clone(),
        })
    }
}

struct FaultyInstance {
    instance: Arc<dyn DynInstance>,
    resource: String,
    tools: Vec<String>,
    faults: Arc<Faults>,
}

impl DynInstance for FaultyInstance {
    fn start(self: Arc<Self>, config: Value) -> BoxFuture<Result<()>> {
        Box::pin(async move {
            self.faults.pass(Point::Warmup(self.resource.clone())).await?;
            self.instance.clone().start(config).await
        })
    }

    fn stop(self: Arc<Self>, limit: std::time::Duration) -> BoxFuture<Result<()>> {
        Box::pin(async move {
            self.faults.pass(Point::Shutdown(self.resource.clone())).await?;
            self.instance.clone().stop(limit).await
        })
    }

    fn initialize(
        self: Arc<Self>,
        config: Value,
        context: ToolContext,
        handle: SessionHandle,
    ) -> BoxFuture<Result<Made>> {
        Box::pin(async move {
            self.faults.pass(Point::Initialize(self.resource.clone())).await?;
            self.instance.clone().initialize(config, context, handle).await
        })
    }

    fn clean_up(
        self: Arc<Self>,
        cell: Arc<dyn Any + Send + Sync>,
        context: ToolContext,
        reason: EndReason,
    ) -> BoxFuture<Cleaned> {
        Box::pin(async move {
            if let Err(error) = self.faults.pass(Point::Cleanup(self.resource.clone())).await {
                return Cleaned::Retry(error);
            }
            let cleaned = self.instance.clone().clean_up(cell, context, reason.clone()).await;
            if !matches!(cleaned, Cleaned::Retry(_)) {
                self.faults.state().ended.push((self.resource.clone(), reason));
            }
            cleaned
        })
    }

    fn call(&self, tool: usize, params: Value, context: ToolContext, lease: Option<Arc<Lease>>) -> Result<ToolFuture> {
        let called = self.instance.call(tool, params, context, lease)?;
        let (faults, point) = (self.faults.clone(), Point::Tool(self.tools[tool].clone()));
        Ok(Box::pin(async move {
            faults.pass(point).await?;
            called.await
        }))
    }
}
