//! Typed backends behind untyped handles.

use std::{
    any::{Any, TypeId},
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use sandbox_types::ErrorCode;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::Value;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use crate::{
    backend::{About, Backend, Location},
    context::{ResourceContext, ToolContext},
    error::{Result, ToolError},
    hold::HeldSession,
    scope::{HookScope, Initialize, Shutdown},
    session::{EndReason, Lease, SessionHandle},
    supervise::catch,
    tool::{Call, ParameterDefault, SessionUse, Tool, ToolFuture},
};

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A linked backend, not running.
pub(crate) trait DynBackend: Sync {
    fn about(&self) -> &'static About;
    fn type_id(&self) -> TypeId;
    fn config_schema(&self) -> Value;
    fn session_config_schema(&self, generator: &mut SchemaGenerator) -> Schema;
    /// Whether the configuration parses; the path and the fault if not.
    fn check_config(&self, config: &Value) -> Result<(), (String, String)>;
    /// The tools of the main block and of the further ones, in that order: `call` takes an index into them.
    fn tools(&self, blocks: &[DynBlock]) -> Vec<ToolView>;
    /// An instance for one resource.
    fn bind(&self, blocks: &[DynBlock], resource: Arc<ResourceContext>) -> Arc<dyn DynInstance>;
}

/// A `#[tools]` block: a `&'static [Tool<B>]` and the type it belongs to.
#[derive(Clone, Copy)]
pub(crate) struct DynBlock {
    pub(crate) backend: fn() -> (TypeId, &'static str),
    tools: &'static (dyn Any + Send + Sync),
}

impl DynBlock {
    pub(crate) const fn of<B: Backend>(tools: &'static &'static [Tool<B>]) -> Self {
        Self { backend: || (TypeId::of::<B>(), std::any::type_name::<B>()), tools }
    }

    fn typed<B: Backend>(&self) -> &'static [Tool<B>] {
        self.tools.downcast_ref::<&'static [Tool<B>]>().copied().unwrap_or_default()
    }
}

/// A tool without its type: everything but the function.
pub(crate) struct ToolView {
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    pub(crate) aliases: &'static [&'static str],
    pub(crate) group: Option<&'static str>,
    pub(crate) hidden: bool,
    pub(crate) idempotent: bool,
    pub(crate) read_only: bool,
    pub(crate) timeout: Option<Duration>,
    pub(crate) blocking: bool,
    pub(crate) session: SessionUse,
    pub(crate) input_schema: fn(&mut SchemaGenerator) -> Schema,
    pub(crate) output_schema: fn(&mut SchemaGenerator) -> Schema,
    pub(crate) defaults: &'static [ParameterDefault],
    pub(crate) location: Location,
}

/// A session just made.
pub(crate) struct Made {
    pub(crate) cell: Arc<dyn Any + Send + Sync>,
    pub(crate) token: TaskTrackerToken,
}

/// What a round of cleanup came to.
pub(crate) enum Cleaned {
    /// The session is gone.
    Done,
    /// It failed, and the session was used up: nothing is left to try.
    Failed(ToolError),
    /// It failed, and the session is still there: try again.
    Retry(ToolError),
}

/// A backend running as one resource.
pub(crate) trait DynInstance: Send + Sync {
    /// `new`, unless it has succeeded before, then `warmup`.
    fn start(self: Arc<Self>, config: Value) -> BoxFuture<Result<()>>;
    /// Waits for everything that uses the shared state, at most `limit`, then `shutdown`.
    fn stop(self: Arc<Self>, limit: Duration) -> BoxFuture<Result<()>>;
    fn initialize(
        self: Arc<Self>,
        config: Value,
        context: ToolContext,
        handle: SessionHandle,
    ) -> BoxFuture<Result<Made>>;
    fn clean_up(
        self: Arc<Self>,
        cell: Arc<dyn Any + Send + Sync>,
        context: ToolContext,
        reason: EndReason,
    ) -> BoxFuture<Cleaned>;
    /// Runs one call of the tool with this index.
    ///
    /// # Errors
    /// The resource is not running.
    fn call(&self, tool: usize, params: Value, context: ToolContext, lease: Option<Arc<Lease>>) -> Result<ToolFuture>;
}

/// `B` as a value, so that its functions can stand behind a `dyn`.
pub(crate) struct Typed<B>(PhantomData<fn() -> B>);

impl<B: Backend> Typed<B> {
    pub(crate) const fn new() -> Self {
        Self(PhantomData)
    }

    fn all_tools(blocks: &[DynBlock]) -> Vec<&'static Tool<B>> {
        B::TOOLS.iter().chain(blocks.iter().flat_map(DynBlock::typed::<B>)).collect()
    }
}

impl<B: Backend> DynBackend for Typed<B> {
    fn about(&self) -> &'static About {
        const { &B::ABOUT }
    }

    fn type_id(&self) -> TypeId {
        TypeId::of::<B>()
    }

    fn config_schema(&self) -> Value {
        crate::schema::generate(<B::Config as JsonSchema>::json_schema)
    }

    fn session_config_schema(&self, generator: &mut SchemaGenerator) -> Schema {
        <B::SessionConfig as JsonSchema>::json_schema(generator)
    }

    fn check_config(&self, config: &Value) -> Result<(), (String, String)> {
        serde_path_to_error::deserialize::<_, B::Config>(config)
            .map(drop)
            .map_err(|error| (error.path().to_string(), error.into_inner().to_string()))
    }

    fn tools(&self, blocks: &[DynBlock]) -> Vec<ToolView> {
        let view = |tool: &'static Tool<B>| ToolView {
            name: tool.name,
            description: tool.description,
            aliases: tool.aliases,
            group: tool.group,
            hidden: tool.hidden,
            idempotent: tool.idempotent,
            read_only: tool.read_only,
            timeout: tool.timeout,
            blocking: tool.blocking,
            session: tool.session,
            input_schema: tool.input_schema,
            output_schema: tool.output_schema,
            defaults: tool.defaults,
            location: tool.location,
        };
        Self::all_tools(blocks).into_iter().map(view).collect()
    }

    fn bind(&self, blocks: &[DynBlock], resource: Arc<ResourceContext>) -> Arc<dyn DynInstance> {
        Arc::new(Instance::<B> {
            tools: Self::all_tools(blocks),
            backend: OnceLock::new(),
            shared: RwLock::new(None),
            users: TaskTracker::new(),
            resource,
        })
    }
}

struct Instance<B: Backend> {
    tools: Vec<&'static Tool<B>>,
    backend: OnceLock<Arc<B>>,
    /// Present from the end of `warmup` to the beginning of `shutdown`.
    shared: RwLock<Option<Arc<B::Shared>>>,
    /// Calls, hooks and sessions, which all may use the shared state.
    users: TaskTracker,
    resource: Arc<ResourceContext>,
}

impl<B: Backend> Instance<B> {
    fn scope<Phase>(&self) -> HookScope<B, Phase> {
        HookScope {
            resource: self.resource.clone(),
            context: None,
            shared: None,
            handle: None,
            reason: None,
            phase: PhantomData,
        }
    }

    fn live(&self) -> Result<(Arc<B>, Arc<B::Shared>)> {
        let shared = self.shared.read().unwrap_or_else(PoisonError::into_inner).clone();
        self.backend.get().cloned().zip(shared).ok_or_else(|| {
            ToolError::new(
                ErrorCode::BACKEND_NOT_INITIALIZED,
                format!("resource `{}` is not running", self.resource.name()),
            )
        })
    }
}

impl<B: Backend> DynInstance for Instance<B> {
    fn start(self: Arc<Self>, config: Value) -> BoxFuture<Result<()>> {
        Box::pin(async move {
            let backend = match self.backend.get() {
                Some(backend) => backend.clone(),
                None => {
                    let config = serde_json::from_value(config).map_err(|error| {
                        ToolError::new(ErrorCode::BACKEND_NOT_INITIALIZED, format!("config: {error}"))
                    })?;
                    let made = Arc::new(B::new(config, &self.scope()).await?);
                    self.backend.get_or_init(|| made).clone()
                }
            };
            let shared = backend.warmup(&self.scope()).await?;
            *self.shared.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(shared));
            Ok(())
        })
    }

    fn stop(self: Arc<Self>, limit: Duration) -> BoxFuture<Result<()>> {
        Box::pin(async move {
            let shared = self.shared.write().unwrap_or_else(PoisonError::into_inner).take();
            let (Some(shared), Some(backend)) = (shared, self.backend.get().cloned()) else { return Ok(()) };
            self.users.close();
            let free = tokio::time::timeout(limit, self.users.wait()).await.is_ok();
            match Arc::into_inner(shared).filter(|_| free) {
                Some(shared) => backend.shutdown(shared, &self.scope::<Shutdown>()).await,
                None => Err(ToolError::new(
                    ErrorCode::TIMEOUT_ERROR,
                    "calls or sessions still use the shared state; `shutdown` is not called",
                )),
            }
        })
    }

    fn initialize(
        self: Arc<Self>,
        config: Value,
        context: ToolContext,
        handle: SessionHandle,
    ) -> BoxFuture<Result<Made>> {
        Box::pin(async move {
            let token = self.users.token();
            let (backend, shared) = self.live()?;
            let config = serde_path_to_error::deserialize(config).map_err(|error| {
                let path = error.path().to_string();
                let parameter =
                    if path == "." { "session_config".to_owned() } else { format!("session_config.{path}") };
                let found = error.into_inner().to_string();
                ToolError::parameter(ErrorCode::INVALID_INPUT, parameter, "a value that `initialize` takes", found)
            })?;
            let mut scope = self.scope::<Initialize>();
            scope.context = Some(context);
            scope.shared = Some(shared);
            scope.handle = Some(handle);
            let session = backend.initialize(config, &scope).await?;
            Ok(Made { cell: Arc::new(tokio::sync::RwLock::new(Some(session))), token })
        })
    }

    fn clean_up(
        self: Arc<Self>,
        cell: Arc<dyn Any + Send + Sync>,
        context: ToolContext,
        reason: EndReason,
    ) -> BoxFuture<Cleaned> {
        Box::pin(async move {
            let _token = self.users.token();
            let Some(cell) = typed_cell::<B>(cell) else { return Cleaned::Done };
            let mut session = cell.write_owned().await;
            if session.is_none() {
                return Cleaned::Done;
            }
            let Ok((backend, shared)) = self.live() else {
                // The resource is down; what is left is to drop the session.
                *session = None;
                return Cleaned::Done;
            };
            let mut scope = self.scope();
            scope.context = Some(context);
            scope.shared = Some(shared);
            scope.reason = Some(reason);
            // Caught here, where it is seen whether the session is still there to try again.
            match catch(backend.cleanup(&mut session, &scope)).await.and_then(|cleaned| cleaned) {
                Ok(()) => {
                    *session = None;
                    Cleaned::Done
                }
                Err(error) if session.is_some() => Cleaned::Retry(error),
                Err(error) => Cleaned::Failed(error),
            }
        })
    }

    fn call(&self, tool: usize, params: Value, context: ToolContext, lease: Option<Arc<Lease>>) -> Result<ToolFuture> {
        let token = self.users.token();
        let (backend, shared) = self.live()?;
        let session =
            lease.and_then(|lease| typed_cell::<B>(lease.session.cell.clone()).map(|cell| HeldSession { lease, cell }));
        Ok((self.tools[tool].run)(Call { backend, shared, params, context, session, token }))
    }
}

/// The cell of a session of `B`: sessions never leave their resource, so the type is always right.
fn typed_cell<B: Backend>(cell: Arc<dyn Any + Send + Sync>) -> Option<Arc<tokio::sync::RwLock<Option<B::Session>>>> {
    cell.downcast().ok()
}
