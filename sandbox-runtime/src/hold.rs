//! Holding a session for one call: `&mut` excludes, `&` shares, and nobody holds one while waiting for a turn.

use std::{
    any::Any,
    ops::{Deref, DerefMut},
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use sandbox_types::{ErrorCode, WaitingFor};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::{
    context::ToolContext,
    error::{Result, ToolError},
    gate::Turn,
    session::{EndReason, Lease},
    tool::SessionUse,
};

/// How often a call that got its turn only after the session was taken again gives the turn back.
const MAX_GIVEN_BACK: u32 = 3;

/// A leased session with its type, not locked yet.
pub(crate) struct HeldSession<S> {
    pub(crate) lease: Arc<Lease>,
    pub(crate) cell: Arc<RwLock<Option<S>>>,
}

impl<S: Send + Sync + 'static> HeldSession<S> {
    /// Locks the session for reading, or shares the caller's hold.
    pub(crate) async fn share(self, context: &mut ToolContext) -> Result<(SharedGuard<S>, Turn)> {
        if let Some(frame) = context.held(&self.lease.session) {
            if frame.session_use == SessionUse::Exclusive {
                return Err(self.conflict("the caller has it to itself"));
            }
            // Locking again would deadlock with a writer that waits between the two.
            let hold =
                frame.guard.as_ref().and_then(Weak::upgrade).and_then(|any| any.downcast::<SharedHold<S>>().ok());
            let hold = hold.ok_or_else(|| self.conflict("the call that held it is over"))?;
            // The call of a tool: it gets its turn now or is refused.
            return Ok((SharedGuard(hold), context.turn().await?));
        }
        let now = || self.cell.clone().try_read_owned().ok();
        let (guard, turn) = self.with_turn(context, now, || self.cell.clone().read_owned()).await?;
        let session = self.lease.session.clone();
        let hold = Arc::new(SharedHold { guard, _lease: self.lease });
        let erased: Arc<dyn Any + Send + Sync> = hold.clone();
        context.push_frame(session, SessionUse::Shared, Some(Arc::downgrade(&erased)));
        Ok((SharedGuard(hold), turn))
    }

    /// Locks the session for one call alone.
    pub(crate) async fn exclude(self, context: &mut ToolContext) -> Result<(Exclusive<S>, Turn)> {
        if context.held(&self.lease.session).is_some() {
            return Err(self.conflict("the caller holds it"));
        }
        let now = || self.cell.clone().try_write_owned().ok();
        let (guard, turn) = self.with_turn(context, now, || self.cell.clone().write_owned()).await?;
        context.push_frame(self.lease.session.clone(), SessionUse::Exclusive, None);
        Ok((Exclusive { entered: false, guard, lease: self.lease }, turn))
    }

    /// The lock, and the call's turn on its resource.
    ///
    /// Whoever waits for a session takes nobody's turn, and whoever waits for a turn holds no session: the tool whose
    /// turn it is may be waiting for that very session.
    async fn with_turn<G, W>(
        &self,
        context: &ToolContext,
        now: impl Fn() -> Option<G>,
        lock: impl Fn() -> W,
    ) -> Result<(G, Turn)>
    where
        G: Deref<Target = Option<S>>,
        W: Future<Output = G>,
    {
        // It may have ended while this call waited for it: broken by the one before, for example.
        let there = |guard: G| {
            if guard.is_some() && self.lease.session.ended().is_none() { Ok(guard) } else { Err(self.gone()) }
        };
        let mut given_back = 0;
        let mut waiting = None;
        loop {
            let guard = match now() {
                Some(guard) => guard,
                None => {
                    if waiting.is_none() {
                        waiting = Some(self.begin_to_wait(context)?);
                    }
                    lock().await
                }
            };
            let guard = there(guard)?;
            if let Some(turn) = context.turn_now()? {
                return Ok((guard, turn));
            }
            drop(guard);
            let turn = context.turn().await?;
            if let Some(guard) = now() {
                return Ok((there(guard)?, turn));
            }
            // Who holds a session waits for no turn, so waiting for it with a turn in hand comes to an end.
            if given_back == MAX_GIVEN_BACK {
                let _waiting = match waiting {
                    Some(waiting) => waiting,
                    None => self.begin_to_wait(context)?,
                };
                return Ok((there(lock().await)?, turn));
            }
            given_back += 1;
        }
    }

    fn begin_to_wait(&self, context: &ToolContext) -> Result<Waiting<'_>> {
        let session = &self.lease.session;
        if context.highest_held().is_some_and(|highest| highest >= session.ordinal()) {
            return Err(self.conflict("waiting for it could deadlock with a session that the caller holds"));
        }
        context.waits_for(WaitingFor::Session);
        session.begin_to_wait()
    }

    fn gone(&self) -> ToolError {
        let session = &self.lease.session;
        session.ended().unwrap_or(EndReason::Broken).gone(&format!("session `{}`", session.id()))
    }

    fn conflict(&self, why: &str) -> ToolError {
        let session = &self.lease.session;
        ToolError::new(ErrorCode::CONFLICT, format!("session `{}` cannot be used here: {why}", session.id()))
    }
}

/// Counts a waiting call.
pub(crate) struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    pub(crate) fn enter(counter: &'a AtomicU32, max: usize) -> Option<Self> {
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        counter
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| (waiting < max).then(|| waiting + 1))
            .is_ok()
            // Not `then_some`: one that was never counted would be uncounted when it is dropped.
            .then(|| Self(counter))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The read lock and the lease that keeps it meaningful.
struct SharedHold<S> {
    // Before the lease: the cleanup that the lease's end may start needs the lock.
    guard: OwnedRwLockReadGuard<Option<S>>,
    _lease: Arc<Lease>,
}

/// A session in use by this call and perhaps by other readers.
pub(crate) struct SharedGuard<S>(Arc<SharedHold<S>>);

impl<S> Deref for SharedGuard<S> {
    type Target = S;

    fn deref(&self) -> &S {
        locked(self.0.guard.as_ref())
    }
}

/// A session in use by this call alone.
///
/// Dropped between the entry of the method and [`Exclusive::finish`], it leaves the session broken: the call was cut off
/// midway.
pub struct Exclusive<S> {
    entered: bool,
    // Before the lease: the cleanup that the lease's end may start needs the lock.
    guard: OwnedRwLockWriteGuard<Option<S>>,
    lease: Arc<Lease>,
}

impl<S> Exclusive<S> {
    /// The method returned: the session is whole.
    pub fn finish(mut self) {
        self.entered = false;
    }

    /// From now on the method may change the session.
    pub(crate) fn enter(&mut self) {
        self.entered = true;
    }
}

impl<S> Deref for Exclusive<S> {
    type Target = S;

    fn deref(&self) -> &S {
        locked(self.guard.as_ref())
    }
}

impl<S> DerefMut for Exclusive<S> {
    fn deref_mut(&mut self) -> &mut S {
        locked(self.guard.as_mut())
    }
}

impl<S> Drop for Exclusive<S> {
    fn drop(&mut self) {
        if self.entered {
            self.lease.session.mark_broken();
        }
    }
}

/// The value of a locked session: cleanup takes it only when no lease is left, and a guard holds one.
#[expect(clippy::expect_used, reason = "checked when the lock was taken, and the guard's lease keeps cleanup away")]
fn locked<T>(value: Option<T>) -> T {
    value.expect("a leased session has its value")
}
