//! What is lent by reference to tools and hooks, and the type-level rule that finds it.
//!
//! A parameter `&T` compiles when `T: Lend<Scope, _>` has exactly one marker: the type system, never the spelling of
//! the type, decides whether it is the session, the shared state or a value of the context.

use std::{marker::PhantomData, ops::Deref, sync::Arc};

use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::{
    backend::Backend,
    context::{Inject, ResourceContext, Thread, ToolContext},
    error::Result,
    gate::Turn,
    hold::{Exclusive, SharedGuard},
    session::{EndReason, SessionHandle},
};

/// Everything a running tool can borrow.
pub struct CallScope<B: Backend> {
    // Before everything else: the session is free as soon as the call is over.
    pub(crate) guard: Option<SharedGuard<B::Session>>,
    pub(crate) _turn: Turn,
    /// Of a tool that said that its body blocks.
    pub(crate) thread: Option<Thread>,
    pub(crate) backend: Arc<B>,
    pub(crate) shared: Arc<B::Shared>,
    pub(crate) context: ToolContext,
    // Last: `shutdown` waits for it, and must then find `shared` free.
    pub(crate) _token: TaskTrackerToken,
}

impl<B: Backend> CallScope<B> {
    /// The backend.
    pub fn backend(&self) -> &Arc<B> {
        &self.backend
    }

    /// What `warmup` returned.
    pub fn shared(&self) -> &B::Shared {
        &self.shared
    }

    /// The session of a tool that shares it.
    ///
    /// # Errors
    /// The tool was entered without its session, a fault of a hand-written tool.
    pub fn session(&self) -> Result<&B::Session> {
        self.guard.as_deref().ok_or_else(|| {
            crate::error::ToolError::new(
                sandbox_types::ErrorCode::INTERNAL_ERROR,
                "the tool was entered without its session",
            )
        })
    }

    /// The call's context.
    pub fn context(&self) -> &ToolContext {
        &self.context
    }

    /// Runs a synchronous body on the blocking pool.
    ///
    /// The body owns what it works on, so nothing is taken from under it when its caller gives up: the answer is then
    /// a timeout, the session is broken, and its cleanup waits for the thread.
    ///
    /// # Errors
    /// [`ErrorCode::RESOURCE_EXHAUSTED`](sandbox_types::ErrorCode::RESOURCE_EXHAUSTED) when too many such bodies of the resource are running.
    pub async fn block<R: Send + 'static>(mut self, body: impl FnOnce(&Self) -> R + Send + 'static) -> Result<R> {
        let context = self.context.clone();
        let thread = match self.thread.take() {
            Some(thread) => thread,
            None => context.reserve_thread()?,
        };
        let abandoned = context.break_session_on_drop();
        let ended = context.spawn_blocking(thread, move || body(&self)).await;
        // The thread is done, well or not: if it had the session to itself, its own guard knows.
        abandoned.disarm();
        match ended? {
            Ok(result) => Ok(result),
            // The executor answers a panic of a tool; this one happened on another thread.
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Everything a lifecycle method can borrow; `Phase` says which one it is.
pub struct HookScope<B: Backend, Phase> {
    pub(crate) resource: Arc<ResourceContext>,
    pub(crate) context: Option<ToolContext>,
    pub(crate) shared: Option<Arc<B::Shared>>,
    pub(crate) handle: Option<SessionHandle>,
    pub(crate) reason: Option<EndReason>,
    pub(crate) phase: PhantomData<fn() -> Phase>,
}

/// Phase of `Backend::new`.
pub enum New {}
/// Phase of `warmup`.
pub enum Warmup {}
/// Phase of `shutdown`.
pub enum Shutdown {}
/// Phase of `initialize`.
pub enum Initialize {}
/// Phase of `cleanup`.
pub enum Cleanup {}

/// A borrowed value, or one made for this call and lent from here.
pub enum Lent<'a, T> {
    /// Owned by the runtime.
    Borrowed(&'a T),
    /// Made for this call.
    Owned(T),
}

impl<T> Deref for Lent<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Borrowed(value) => value,
            Self::Owned(value) => value,
        }
    }
}

/// A type that can be borrowed by tools or hooks with this scope; `Marker` is inferred and says why.
#[diagnostic::on_unimplemented(
    message = "`&{Self}` cannot be injected here",
    label = "nothing to borrow of this type",
    note = "by reference = injected by the runtime: the session (what `initialize` returns), the shared state (what `warmup` returns), `ToolContext`, `WorkerId`, `SessionId`, `TraceId`, `CancellationToken`, `Progress`, or a type that implements `Inject`",
    note = "if it is the session, the `#[backend]` block needs `async fn initialize(&self) -> Result<{Self}>`; if it is shared by all calls, `async fn warmup(&self) -> Result<{Self}>`",
    note = "what the client sends is taken by value",
    note = "hooks: `new`, `warmup` and `shutdown` borrow `ResourceContext` only; `initialize` also what a tool can and `SessionHandle`, `cleanup` also what a tool can and `EndReason`; the session is for tools"
)]
pub trait Lend<Scope, Marker>: Sized {
    /// Whether this is the session.
    const IS_SESSION: bool;

    /// Lends the value.
    ///
    /// # Errors
    /// What [`Inject::inject`] answers.
    fn lend(scope: &Scope) -> Result<Lent<'_, Self>>;
}

/// Marker: the session.
pub enum AsSession {}
/// Marker: what `warmup` returned.
pub enum AsShared {}
/// Marker: a value of the call's context.
pub enum FromContext {}
/// Marker: about the resource.
pub enum OfResource {}
/// Marker: a value of one lifecycle method only.
pub enum OfHook {}

// Without further bounds, here and below: a session that is not `Send` is a mistake of its backend and said there; that
// it cannot be borrowed would be another, and not true.
impl<B: Backend<Session = S>, S> Lend<CallScope<B>, AsSession> for S {
    const IS_SESSION: bool = true;

    fn lend(scope: &CallScope<B>) -> Result<Lent<'_, Self>> {
        scope.session().map(Lent::Borrowed)
    }
}

impl<Scope: WithShared<Shared = T>, T> Lend<Scope, AsShared> for T {
    const IS_SESSION: bool = false;

    fn lend(scope: &Scope) -> Result<Lent<'_, Self>> {
        Ok(Lent::Borrowed(scope.shared_state()))
    }
}

impl<Scope: WithContext, T: Inject> Lend<Scope, FromContext> for T {
    const IS_SESSION: bool = false;

    fn lend(scope: &Scope) -> Result<Lent<'_, Self>> {
        // A tool whose values cannot be made is not entered: the answer must say so.
        T::inject(scope.tool_context()).inspect_err(|_| scope.tool_context().mark_not_entered()).map(Lent::Owned)
    }
}

impl<Scope: WithResource> Lend<Scope, OfResource> for ResourceContext {
    const IS_SESSION: bool = false;

    fn lend(scope: &Scope) -> Result<Lent<'_, Self>> {
        Ok(Lent::Borrowed(scope.resource()))
    }
}

impl<B: Backend> Lend<HookScope<B, Initialize>, OfHook> for SessionHandle {
    const IS_SESSION: bool = false;

    fn lend(scope: &HookScope<B, Initialize>) -> Result<Lent<'_, Self>> {
        Ok(Lent::Borrowed(present(scope.handle.as_ref())))
    }
}

impl<B: Backend> Lend<HookScope<B, Cleanup>, OfHook> for EndReason {
    const IS_SESSION: bool = false;

    fn lend(scope: &HookScope<B, Cleanup>) -> Result<Lent<'_, Self>> {
        Ok(Lent::Borrowed(present(scope.reason.as_ref())))
    }
}

/// The one type that may be borrowed by `&mut`: the session of a tool.
#[diagnostic::on_unimplemented(
    message = "`&mut {Self}` cannot be injected",
    label = "only the session can be borrowed by `&mut`; write `&`",
    note = "`&mut` is for the type that `initialize` returns; everything else is borrowed by `&`, also the shared state, or taken by value"
)]
pub trait SessionOf<S> {
    /// Lends the session.
    fn lend_mut(exclusive: &mut Exclusive<S>) -> &mut Self;
}

// Without a further bound: a bound that fails here would be what the compiler reports, in its own words.
impl<S> SessionOf<S> for S {
    fn lend_mut(exclusive: &mut Exclusive<S>) -> &mut S {
        exclusive
    }
}

/// A scope with shared state.
pub trait WithShared {
    /// What `warmup` returned.
    type Shared;
    /// Lends it.
    fn shared_state(&self) -> &Self::Shared;
}

/// A scope with the context of a call.
pub trait WithContext {
    /// Lends it.
    fn tool_context(&self) -> &ToolContext;
}

/// A scope of a resource.
pub trait WithResource {
    /// Lends what is known about the resource.
    fn resource(&self) -> &ResourceContext;
}

impl<B: Backend> WithShared for CallScope<B> {
    type Shared = B::Shared;

    fn shared_state(&self) -> &B::Shared {
        &self.shared
    }
}

impl<B: Backend> WithContext for CallScope<B> {
    fn tool_context(&self) -> &ToolContext {
        &self.context
    }
}

impl<B: Backend> WithResource for CallScope<B> {
    fn resource(&self) -> &ResourceContext {
        self.context.resource()
    }
}

macro_rules! session_hook {
    ($phase:ident) => {
        impl<B: Backend> WithShared for HookScope<B, $phase> {
            type Shared = B::Shared;

            fn shared_state(&self) -> &B::Shared {
                present(self.shared.as_deref())
            }
        }

        impl<B: Backend> WithContext for HookScope<B, $phase> {
            fn tool_context(&self) -> &ToolContext {
                present(self.context.as_ref())
            }
        }
    };
}

session_hook!(Initialize);
session_hook!(Cleanup);

impl<B: Backend, Phase> WithResource for HookScope<B, Phase> {
    fn resource(&self) -> &ResourceContext {
        &self.resource
    }
}

/// The part of a hook's scope that its phase always has; `erase.rs` fills it in.
#[expect(clippy::expect_used, reason = "the constructors of each phase set exactly the parts that the phase lends")]
fn present<T>(part: Option<&T>) -> &T {
    part.expect("a scope has the parts of its phase")
}

impl<B: Backend> HookScope<B, Initialize> {
    /// What `warmup` returned.
    pub fn shared(&self) -> &B::Shared {
        self.shared_state()
    }

    /// The context of the call, or request, that makes the session.
    pub fn context(&self) -> &ToolContext {
        self.tool_context()
    }

    /// A handle that can end the session from outside a call.
    pub fn handle(&self) -> &SessionHandle {
        present(self.handle.as_ref())
    }
}

impl<B: Backend> HookScope<B, Cleanup> {
    /// What `warmup` returned.
    pub fn shared(&self) -> &B::Shared {
        self.shared_state()
    }

    /// Why the session ends.
    pub fn reason(&self) -> &EndReason {
        present(self.reason.as_ref())
    }
}
