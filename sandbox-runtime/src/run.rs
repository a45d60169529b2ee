//! A run: one execution of a tool, or of a batch, apart from the connection that asked for it.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use sandbox_types::{ErrorCode, RunId, RunInfo, RunState, SessionId, StartEvent, TraceId, WaitingFor, WorkerId};
use tokio::{runtime::Handle, time::Instant};
#[cfg(feature = "server")]
use tokio_util::sync::CancellationToken;

pub use crate::events::Event;
use crate::{
    answer::Answer,
    error::{Result, ToolError},
    events::{Budget, EventLog, START},
    registry::ToolEntry,
    supervise::{CallControl, Cause},
    time::rfc3339,
};

/// One execution of a tool, or of a batch.
pub(crate) struct Run {
    /// Given when the run is listed.
    id: OnceLock<RunId>,
    pub(crate) worker: WorkerId,
    pub(crate) subject: Subject,
    trace: TraceId,
    pub(crate) arrival: Instant,
    pub(crate) control: Arc<CallControl>,
    lifetime: Lifetime,
    /// Runs to its end, whoever listens; also set by one who joined it later.
    detached: AtomicBool,
    /// Microseconds since the arrival at which it began, and three bits of what it is.
    phase: AtomicU64,
    session: OnceLock<SessionId>,
    events: Mutex<EventLog>,
    ended: OnceLock<Ended>,
    listeners: AtomicUsize,
    /// How often someone began to listen or the last one left: a timer of an earlier absence must not end a later one.
    turns: AtomicUsize,
    /// Fires when someone asks it to end; made when someone does, or waits for that.
    #[cfg(feature = "server")]
    cancelled: OnceLock<CancellationToken>,
}

/// What is executed.
#[derive(Clone)]
pub(crate) enum Subject {
    Tool(Arc<ToolEntry>),
    /// So many actions.
    Batch(usize),
}

/// How long a run lives without anyone who waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// As long as its caller waits; nobody else gets its answer.
    Caller,
    /// So long after the last one who listened has left, unless it is detached.
    Reattach(Duration),
}

/// How a run ended.
struct Ended {
    at: Instant,
    code: ErrorCode,
    /// Of a plain call its caller has it, and nobody else.
    answer: Option<Arc<Answer>>,
}

const RUNNING: u64 = 5;
const OVER: u64 = 6;

impl Run {
    pub(crate) fn new(
        worker: WorkerId,
        subject: Subject,
        trace: TraceId,
        arrival: Instant,
        lifetime: Lifetime,
    ) -> Arc<Self> {
        Arc::new(Self {
            id: OnceLock::new(),
            worker,
            subject,
            trace,
            arrival,
            control: CallControl::new(),
            lifetime,
            detached: AtomicBool::new(false),
            phase: AtomicU64::new(0),
            session: OnceLock::new(),
            events: Mutex::default(),
            ended: OnceLock::new(),
            listeners: AtomicUsize::new(0),
            turns: AtomicUsize::new(0),
            #[cfg(feature = "server")]
            cancelled: OnceLock::new(),
        })
    }

    /// A run that is over, for an answer that is kept: its stream has a beginning and an end.
    pub(crate) fn of_answer(worker: WorkerId, subject: Subject, answer: Arc<Answer>) -> Arc<Self> {
        let trace = answer.meta.trace_id.clone().unwrap_or_else(crate::resource::new_trace);
        let run = Self::new(worker, subject, trace, Instant::now(), Lifetime::Reattach(Duration::ZERO));
        if let Some(id) = &answer.meta.run_id {
            let _ = run.id.set(id.clone());
        }
        let _ = run.ended.set(Ended { at: Instant::now(), code: answer.code, answer: Some(answer) });
        run
    }

    pub(crate) fn trace(&self) -> &TraceId {
        &self.trace
    }

    pub(crate) fn id(&self) -> Option<&RunId> {
        self.id.get()
    }

    /// Gives it an id; whether it had none.
    pub(crate) fn name(&self, id: RunId) -> bool {
        self.id.set(id).is_ok()
    }

    /// Whether others than its caller can have its answer.
    pub(crate) fn is_shared(&self) -> bool {
        self.lifetime != Lifetime::Caller
    }

    /// From now on it runs to its end, whoever listens.
    pub(crate) fn detach(&self) {
        self.detached.store(true, Ordering::Release);
    }

    fn is_detached(&self) -> bool {
        self.detached.load(Ordering::Acquire)
    }

    pub(crate) fn events(&self) -> MutexGuard<'_, EventLog> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the log, and wakes those who wait for news. After the end nothing is said any more.
    pub(crate) fn report(&self, change: impl FnOnce(&mut EventLog)) {
        let wakers = {
            let mut events = self.events();
            if self.ended.get().is_some() {
                return;
            }
            change(&mut events);
            events.take_wakers()
        };
        for (_, waker) in wakers {
            waker.wake();
        }
    }

    /// It waits before its tool is entered.
    pub(crate) fn waits_for(&self, what: WaitingFor) {
        let code = match what {
            WaitingFor::Resource => 1,
            WaitingFor::SessionCreation => 2,
            WaitingFor::Session => 3,
            WaitingFor::Turn => 4,
        };
        self.set_phase(code, self.arrival.elapsed());
    }

    /// Its tool was entered so long after the arrival.
    pub(crate) fn runs_since(&self, entered: Duration) {
        self.set_phase(RUNNING, entered);
    }

    /// How long after the arrival its tool was entered; none before that, and once it is over.
    #[cfg(feature = "server")]
    pub(crate) fn entered(&self) -> Option<Duration> {
        let phase = self.phase.load(Ordering::Relaxed);
        (phase & 7 == RUNNING).then(|| Duration::from_micros(phase >> 3))
    }

    fn set_phase(&self, code: u64, since: Duration) {
        let micros = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        self.phase.store(micros << 3 | code, Ordering::Relaxed);
    }

    /// The session that it runs on.
    pub(crate) fn uses(&self, session: &SessionId) {
        let _ = self.session.set(session.clone());
    }

    /// It is over; whether it is not listed, so that nobody can have asked for it, and nothing more is to be done.
    pub(crate) fn ends_unlisted(&self) -> bool {
        self.phase.store(OVER, Ordering::Relaxed);
        // Whoever lists it from another thread looks at this afterwards: one of the two sees the other.
        fence(Ordering::SeqCst);
        self.id.get().is_none()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.phase.load(Ordering::Relaxed) & 7 == OVER
    }

    /// It is over. The first end counts.
    pub(crate) fn end(&self, answer: &Arc<Answer>) {
        let mut wakers = Vec::new();
        {
            let mut events = self.events();
            events.end_outputs(None);
            // Under the lock: a reader that finds no end has left its waker.
            let kept = self.is_shared() || events.is_recording();
            let ended = Ended { at: Instant::now(), code: answer.code, answer: kept.then(|| answer.clone()) };
            if self.ended.set(ended).is_ok() {
                wakers = events.take_wakers();
            }
        }
        for (_, waker) in wakers {
            waker.wake();
        }
    }

    pub(crate) fn ended_at(&self) -> Option<Instant> {
        self.ended.get().map(|ended| ended.at)
    }

    /// The answer, if it has ended and the answer is kept.
    pub(crate) fn answer(&self) -> Option<&Arc<Answer>> {
        self.ended.get().and_then(|ended| ended.answer.as_ref())
    }

    /// Asks it to end; whether it still ran.
    pub(crate) fn cancel(&self) -> bool {
        let running = self.ended.get().is_none();
        if running {
            self.control.fire(Cause::Cancelled);
            #[cfg(feature = "server")]
            self.cancelled().cancel();
        }
        running
    }

    /// Fires when someone asks the run to end. Its call's own token may have fired for another reason, and its download goes on.
    #[cfg(feature = "server")]
    pub(crate) fn cancelled(&self) -> &CancellationToken {
        self.cancelled.get_or_init(CancellationToken::new)
    }

    fn state(&self) -> (RunState, Option<WaitingFor>, Instant) {
        if let Some(ended) = self.ended.get() {
            let state = match ended.code {
                ErrorCode::SUCCESS => RunState::Succeeded,
                ErrorCode::CANCELLED => RunState::Cancelled,
                // A batch tells how its actions ended.
                _ if self.control.cause() == Cause::Cancelled => RunState::Cancelled,
                _ => RunState::Failed,
            };
            return (state, None, ended.at);
        }
        let phase = self.phase.load(Ordering::Relaxed);
        let since = self.arrival + Duration::from_micros(phase >> 3);
        let waiting_for = match phase & 7 {
            RUNNING | OVER => return (RunState::Running, None, since),
            1 => Some(WaitingFor::Resource),
            2 => Some(WaitingFor::SessionCreation),
            3 => Some(WaitingFor::Session),
            4 => Some(WaitingFor::Turn),
            _ => None,
        };
        (RunState::Waiting, waiting_for, since)
    }

    fn tool_and_actions(&self) -> (Option<String>, Option<usize>) {
        match &self.subject {
            Subject::Tool(tool) => (Some(tool.full_name.clone()), None),
            Subject::Batch(actions) => (None, Some(*actions)),
        }
    }

    fn known_id(&self) -> Result<RunId> {
        self.id.get().cloned().ok_or_else(|| ToolError::new(ErrorCode::INTERNAL_ERROR, "the run is not listed"))
    }

    /// As clients see it.
    ///
    /// # Errors
    /// It is not listed.
    pub(crate) fn info(&self, with_answer: bool) -> Result<RunInfo<&Answer>> {
        let (state, waiting_for, since) = self.state();
        let (tool, actions) = self.tool_and_actions();
        let (now, clock) = (Instant::now(), SystemTime::now());
        let time = |at: Instant| rfc3339(clock - now.saturating_duration_since(at));
        let last_event_id = {
            let events = self.events();
            if events.is_recording() { events.last_id() + u64::from(state.ended()) } else { 0 }
        };
        Ok(RunInfo {
            run_id: self.known_id()?,
            tool,
            actions,
            session_id: self.session.get().cloned(),
            trace_id: self.trace.clone(),
            state,
            waiting_for,
            since: time(since),
            started_at: time(self.arrival),
            detached: self.is_detached(),
            last_event_id,
            answer: self.answer().filter(|_| with_answer).map(|answer| &**answer),
        })
    }

    /// Bytes that its end made lasting, beside its ring.
    pub(crate) fn answer_bytes(&self) -> usize {
        self.answer().map_or(0, |answer| answer.data.as_ref().map_or(0, |data| data.get().len()))
    }

    /// Someone listens from now on.
    pub(crate) fn listen(self: &Arc<Self>, runtime: &Handle) -> Listening {
        self.turns.fetch_add(1, Ordering::AcqRel);
        self.listeners.fetch_add(1, Ordering::AcqRel);
        Listening { run: self.clone(), runtime: runtime.clone() }
    }

    /// A reader of everything after the event `seen`; none of a run that is over and whose answer is not kept.
    pub(crate) fn read_after(self: &Arc<Self>, seen: u64, budget: &Arc<Budget>, runtime: &Handle) -> Option<Reader> {
        let number = {
            let mut events = self.events();
            match self.ended.get() {
                None => events.record(budget),
                Some(ended) if ended.answer.is_none() => return None,
                Some(_) => {}
            }
            events.new_reader()
        };
        Some(Reader { number, seen, ended: false, listening: self.listen(runtime) })
    }

    /// Waits for the end; `None` for a run whose answer is not kept.
    pub(crate) async fn outcome(self: &Arc<Self>) -> Option<Arc<Answer>> {
        let mut waiter = Waiter { run: self, number: self.events().new_reader() };
        poll_fn(|context| waiter.poll(context)).await;
        self.answer().cloned()
    }
}

struct Waiter<'a> {
    run: &'a Run,
    number: u64,
}

impl Waiter<'_> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut events = self.run.events();
        if self.run.ended.get().is_some() {
            return Poll::Ready(());
        }
        events.wake_later(self.number, context.waker());
        Poll::Pending
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.run.events().forget_reader(self.number);
    }
}

/// Someone waits for a run. When the last one leaves, the run lives on for as long as its lifetime says.
pub(crate) struct Listening {
    pub(crate) run: Arc<Run>,
    runtime: Handle,
}

impl Drop for Listening {
    fn drop(&mut self) {
        let last = self.run.listeners.fetch_sub(1, Ordering::AcqRel) == 1;
        let Lifetime::Reattach(patience) = self.run.lifetime else { return };
        if !last || self.run.is_detached() || self.run.ended.get().is_some() {
            return;
        }
        if patience.is_zero() {
            self.run.control.disconnect();
            return;
        }
        let (run, end) = (self.run.clone(), Instant::now() + patience);
        // Counted here: by the first poll of the task someone may have come and gone.
        let absence = run.turns.fetch_add(1, Ordering::AcqRel) + 1;
        self.runtime.spawn(async move {
            tokio::time::sleep_until(end).await;
            let absent = run.listeners.load(Ordering::Acquire) == 0 && run.turns.load(Ordering::Acquire) == absence;
            if absent && !run.is_detached() {
                run.control.disconnect();
            }
        });
    }
}

/// Reads the events of a run at its own pace; what is no longer kept when it comes by is a `gap`.
pub struct Reader {
    number: u64,
    /// Id of the last event taken.
    seen: u64,
    ended: bool,
    listening: Listening,
}

impl Reader {
    /// About how much a reader takes at once.
    const AT_ONCE_BYTES: usize = 32 * 1024;

    /// The events that are there; none after the last one.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Vec<Event>> {
        let run = &self.listening.run;
        let mut take = Vec::new();
        if self.ended {
            return Poll::Ready(take);
        }
        if self.seen < START
            && let Some(run_id) = run.id.get().cloned()
        {
            let (tool, actions) = run.tool_and_actions();
            let start = StartEvent { run_id, tool, actions, trace_id: run.trace.clone() };
            take.push(Event::new(START, "start", &start));
            self.seen = START;
        }
        let answer = {
            let mut events = run.events();
            self.seen = events.read(self.seen, Self::AT_ONCE_BYTES, &mut take);
            let ended = run.ended.get().filter(|_| self.seen == events.last_id());
            self.ended = ended.is_some();
            if take.is_empty() && !self.ended {
                events.wake_later(self.number, context.waker());
                return Poll::Pending;
            }
            ended.and_then(|ended| ended.answer.clone())
        };
        if let Some(answer) = answer {
            let name = if answer.success { "result" } else { "error" };
            take.push(Event::new(self.seen + 1, name, &*answer));
        }
        Poll::Ready(take)
    }

    /// Waits for events; none after the last one.
    pub async fn read(&mut self) -> Vec<Event> {
        poll_fn(|context| self.poll_next(context)).await
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.listening.run.events().forget_reader(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::Arc,
        task::{Context, Poll, Waker},
        time::Duration,
    };

    use sandbox_types::{ErrorCode, Meta, TraceId, WorkerId};
    use tokio::{runtime::Handle, time::Instant};

    use super::{Lifetime, Run, Subject};
    use crate::{
        answer::failure,
        error::ToolError,
        events::{Budget, Source},
    };

    const REATTACH: Duration = Duration::from_secs(30);

    fn run(lifetime: Lifetime) -> Arc<Run> {
        let worker = WorkerId::parse("w").expect("a good id");
        let trace = TraceId::parse("t").expect("a good id");
        let run = Run::new(worker, Subject::Batch(1), trace, Instant::now(), lifetime);
        run.name(sandbox_types::RunId::parse("run_1").expect("a good id"));
        run
    }

    fn end(run: &Run) {
        run.end(&Arc::new(failure(&ToolError::new(ErrorCode::CANCELLED, "no"), Meta::default())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_visit_does_not_shorten_the_wait_that_begins_with_its_end() {
        let run = run(Lifetime::Reattach(REATTACH));
        let visit = || run.listen(&Handle::current());
        // The first one leaves, and before the timer of its absence is polled the second one is there.
        drop(visit());
        let second = visit();
        tokio::time::sleep(REATTACH.mul_f64(0.9)).await;
        drop(second);
        tokio::time::sleep(REATTACH.mul_f64(0.5)).await;
        assert!(!run.control.cancel.is_cancelled(), "the wait began anew when the second one left");
        let third = visit();
        tokio::time::sleep(REATTACH * 2).await;
        assert!(!run.control.cancel.is_cancelled(), "someone waits");
        drop(third);
        tokio::time::sleep(REATTACH.mul_f64(1.1)).await;
        assert!(run.control.cancel.is_cancelled(), "nobody came back");
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_run_to_be_joined_again_ends_with_its_listeners() {
        for (lifetime, cancelled) in [
            (Lifetime::Caller, false),
            (Lifetime::Reattach(Duration::ZERO), true),
            (Lifetime::Reattach(REATTACH), true),
        ] {
            let run = run(lifetime);
            drop(run.listen(&Handle::current()));
            tokio::time::sleep(REATTACH * 2).await;
            assert_eq!(run.control.cancel.is_cancelled(), cancelled, "{lifetime:?}");
        }
        let run = run(Lifetime::Reattach(REATTACH));
        drop(run.listen(&Handle::current()));
        run.detach();
        drop(run.listen(&Handle::current()));
        tokio::time::sleep(REATTACH * 2).await;
        assert!(!run.control.cancel.is_cancelled(), "detached, also while a timer was running");
    }

    #[tokio::test]
    async fn every_reader_gets_every_event_and_the_end_once() {
        let run = run(Lifetime::Reattach(REATTACH));
        let budget = Budget::new(1 << 20, 1 << 20);
        let mut early = run.read_after(0, &budget, &Handle::current()).expect("it is kept");
        let names = |events: &[super::Event]| events.iter().map(|event| event.name).collect::<Vec<_>>();
        assert_eq!(names(&early.read().await), ["start"]);
        {
            let mut waiting = pin!(early.read());
            assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            run.report(|events| events.output(Source::default(), "out", b"a"));
            assert_eq!(names(&waiting.await), ["output"]);
        }
        let outcome = tokio::spawn({
            let run = run.clone();
            async move { run.outcome().await }
        });
        tokio::task::yield_now().await;
        end(&run);
        run.report(|events| events.output(Source::default(), "out", b"too late"));
        assert_eq!(names(&early.read().await), ["error"]);
        assert!(early.read().await.is_empty() && early.read().await.is_empty());
        let mut late = run.read_after(0, &budget, &Handle::current()).expect("it is kept");
        let events = late.read().await;
        assert_eq!(names(&events), ["start", "output", "error"]);
        assert_eq!(events.iter().map(|event| event.id).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(outcome.await.is_ok_and(|answer| answer.is_some_and(|answer| !answer.success)));
    }

    #[tokio::test]
    async fn readers_that_leave_are_not_woken() {
        let run = run(Lifetime::Reattach(REATTACH));
        let budget = Budget::new(1 << 20, 1 << 20);
        let mut reader = run.read_after(1, &budget, &Handle::current()).expect("it is kept");
        assert!(matches!(reader.poll_next(&mut Context::from_waker(Waker::noop())), Poll::Pending));
        assert!(matches!(reader.poll_next(&mut Context::from_waker(Waker::noop())), Poll::Pending));
        {
            let mut outcome = pin!(run.outcome());
            assert!(outcome.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        drop(reader);
        assert!(run.events().take_wakers().is_empty());
    }
}
