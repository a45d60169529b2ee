//! The watchdog: names the tool that keeps its thread, and for how long.
//!
//! A tool that waits without `.await`, or computes for long, keeps a thread that serves: what else runs there stands still.
//! Each poll of a call leaves a mark with its thread, and a thread of the watchdog's own looks at the marks.

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use sandbox_types::RunId;

use crate::{answer::milliseconds, run::Run, runs::RunStore};

/// How often the watchdog looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A poll that is still the same one so many looks after it was first seen keeps its thread: for 100 ms at least, by looks
/// and not by the clock, which goes on while the process, or its machine, is stopped.
const LOOKS: u32 = 2;

/// Watches the threads on which one executor's calls are polled.
#[derive(Default)]
pub(crate) struct Watchdog {
    /// Threads that polled for the first time since the last look.
    newcomers: Mutex<Vec<Weak<Slot>>>,
    /// Threads that the last look found blocked.
    blocked: AtomicUsize,
}

/// A call or a hook, as the log names it when it blocks its thread.
#[derive(Clone, Copy)]
pub(crate) struct Watched<'a> {
    pub(crate) watchdog: &'a Arc<Watchdog>,
    /// Of a hook, the resource.
    pub(crate) tool: &'a str,
    pub(crate) hook: Option<&'static str>,
    /// Empty of a hook that runs for no worker.
    pub(crate) worker: &'a str,
    pub(crate) trace: &'a str,
    /// None of a hook, nor of a call that an explicit session's making needs.
    pub(crate) run: Option<&'a Arc<Run>>,
}

impl Watched<'_> {
    /// Polls, or drops, the call's future under the watchdog's eyes.
    ///
    /// No clock is read, nothing is allocated once the thread has polled before, and no lock is waited for but while the
    /// watchdog reads the names of a poll that blocks.
    pub(crate) fn during<R>(&self, poll: impl FnOnce() -> R) -> R {
        let _mark = self.watchdog.slot().and_then(|slot| Mark::set(slot, self));
        poll()
    }

    /// Awaits a future, each poll of it under the watchdog's eyes.
    pub(crate) async fn awaiting<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|context| self.during(|| future.as_mut().poll(context))).await
    }
}

thread_local! {
    /// This thread's slots, one for each executor whose calls it has polled.
    static SLOTS: RefCell<Vec<Arc<Slot>>> = const { RefCell::new(Vec::new()) };
}

/// What one thread polls.
struct Slot {
    owner: Weak<Watchdog>,
    /// Odd during a poll. Only its thread writes it.
    polls: AtomicU64,
    /// Of the poll that runs, or ran last.
    names: Mutex<Names>,
    thread: String,
    /// As the system numbers it, if it says so.
    thread_id: Option<u64>,
}

/// Kept as text that is written over: to make an `Arc` for each call costs more than to copy a hundred bytes, and what the
/// slot would hold on to could be the last of a backend.
#[derive(Clone, Debug, Default)]
struct Names {
    tool: String,
    worker: String,
    trace: String,
    run: Weak<Run>,
}

/// A poll that runs.
struct Mark(Arc<Slot>);

impl Mark {
    /// None inside another poll on the same thread: the outermost one is it that blocks.
    fn set(slot: Arc<Slot>, watched: &Watched<'_>) -> Option<Self> {
        let polls = slot.polls.load(Ordering::Relaxed);
        if is_running(polls) {
            return None;
        }
        let mut names = slot.names();
        let Names { tool, worker, trace, run } = &mut *names;
        *run = watched.run.map(Arc::downgrade).unwrap_or_default();
        for (name, text) in [(&mut *tool, watched.tool), (worker, watched.worker), (trace, watched.trace)] {
            name.clear();
            name.push_str(text);
        }
        if let Some(hook) = watched.hook {
            tool.extend([":", hook]);
        }
        drop(names);
        slot.polls.store(polls + 1, Ordering::Release);
        Some(Self(slot))
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        let polls = self.0.polls.load(Ordering::Relaxed);
        self.0.polls.store(polls + 1, Ordering::Release);
    }
}

fn is_running(polls: u64) -> bool {
    polls % 2 == 1
}

impl Slot {
    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watchdog {
    /// Looks until nobody holds it any more, in a thread of its own.
    ///
    /// It holds neither itself nor the runs, which hold their tools and resources.
    pub(crate) fn start(self: &Arc<Self>, runs: &Arc<RunStore>) {
        let (watchdog, runs) = (Arc::downgrade(self), Arc::downgrade(runs));
        let watching =
            thread::Builder::new().name("sandbox-watchdog".into()).spawn(move || Self::watch(&watchdog, &runs));
        if let Err(error) = watching {
            tracing::error!("tools that block their threads will not be named: {error}");
        }
    }

    fn watch(watchdog: &Weak<Self>, runs: &Weak<RunStore>) {
        let mut threads = Vec::new();
        loop {
            thread::sleep(LOOK_EVERY);
            let Some(watchdog) = watchdog.upgrade() else { return };
            let sightings = watchdog.look(&mut threads, Instant::now());
            // The log may keep this thread; it keeps nothing of the executor meanwhile.
            drop(watchdog);
            for sighting in &sightings {
                let run = sighting.names.run.upgrade();
                if let (Some(run), Some(runs)) = (&run, runs.upgrade()) {
                    // A call that has not waited yet is not in the list, and now someone will look for it there.
                    runs.list(run);
                }
                let id = run.as_ref().and_then(|run| run.id().cloned());
                drop(run);
                sighting.log(id.as_ref());
            }
        }
    }

    /// Threads that a tool keeps now.
    pub(crate) fn blocked(&self) -> usize {
        self.blocked.load(Ordering::Relaxed)
    }

    fn newcomers(&self) -> MutexGuard<'_, Vec<Weak<Slot>>> {
        self.newcomers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot of this thread; none when the thread is about to end.
    fn slot(self: &Arc<Self>) -> Option<Arc<Slot>> {
        let own = |slot: &&Arc<Slot>| std::ptr::eq(slot.owner.as_ptr(), Arc::as_ptr(self));
        let find = |slots: &RefCell<Vec<Arc<Slot>>>| slots.borrow().iter().find(own).cloned();
        SLOTS.try_with(|slots| find(slots).unwrap_or_else(|| self.register(slots))).ok()
    }

    #[cold]
    fn register(self: &Arc<Self>, slots: &RefCell<Vec<Arc<Slot>>>) -> Arc<Slot> {
        let slot = Arc::new(Slot {
            owner: Arc::downgrade(self),
            polls: AtomicU64::new(0),
            names: Mutex::default(),
            thread: thread::current().name().unwrap_or("(no name)").to_owned(),
            thread_id: thread_id(),
        });
        self.newcomers().push(Arc::downgrade(&slot));
        let mut slots = slots.borrow_mut();
        slots.retain(|slot| slot.owner.strong_count() > 0);
        slots.push(slot.clone());
        slot
    }

    /// One look at every thread: what has to be said about them.
    fn look(&self, threads: &mut Vec<Seen>, now: Instant) -> Vec<Sighting> {
        threads.extend(self.newcomers().drain(..).map(|slot| Seen {
            slot,
            polls: 0,
            since: now,
            looks: 0,
            told: None,
        }));
        let mut sightings = Vec::new();
        threads.retain_mut(|seen| {
            let Some(slot) = seen.slot.upgrade() else { return false };
            sightings.extend(seen.look(&slot, now));
            true
        });
        self.blocked.store(threads.iter().filter(|seen| seen.told.is_some()).count(), Ordering::Relaxed);
        sightings
    }
}

/// What the watchdog knows of one thread.
struct Seen {
    slot: Weak<Slot>,
    /// What the thread was at when it was last looked at, since when, and for how many looks.
    polls: u64,
    since: Instant,
    looks: u32,
    /// Set while it is blocked: by whom, and how often that was said.
    told: Option<(Names, u32)>,
}

impl Seen {
    fn look(&mut self, slot: &Slot, now: Instant) -> Option<Sighting> {
        let polls = slot.polls.load(Ordering::Acquire);
        let blocked = now.saturating_duration_since(self.since);
        let sighting =
            |names, end| Some(Sighting { names, thread: slot.thread.clone(), thread_id: slot.thread_id, blocked, end });
        if polls != self.polls {
            (self.polls, self.since, self.looks) = (polls, now, 0);
            let (names, _) = self.told.take()?;
            return sighting(names, true);
        }
        if !is_running(polls) {
            return None;
        }
        self.looks = self.looks.saturating_add(1);
        if self.looks < LOOKS {
            return None;
        }
        if self.told.is_none() {
            let names = slot.names().clone();
            if slot.polls.load(Ordering::Acquire) != polls {
                // It got loose meanwhile: these may be the next one's.
                return None;
            }
            self.told = Some((names, 0));
        }
        let (names, times) = self.told.as_mut()?;
        let before = *times;
        while blocked >= due(*times) {
            *times += 1;
        }
        if *times == before { None } else { sighting(names.clone(), false) }
    }
}

/// When a thread has been blocked long enough to say so again.
fn due(times: u32) -> Duration {
    match times {
        0 => Duration::ZERO,
        1 => Duration::from_secs(1),
        2 => Duration::from_secs(10),
        _ => Duration::from_mins(1) * (times - 2),
    }
}

/// A thread that is blocked, or was.
#[derive(Debug)]
struct Sighting {
    names: Names,
    thread: String,
    thread_id: Option<u64>,
    blocked: Duration,
    /// It got loose.
    end: bool,
}

impl Sighting {
    fn log(&self, run: Option<&RunId>) {
        let run = run.map(RunId::as_str);
        let Self { names: Names { tool, worker, trace, .. }, thread, thread_id, blocked, end } = self;
        let [worker, trace] = [worker, trace].map(|name| (!name.is_empty()).then_some(&**name));
        let blocked_ms = milliseconds(*blocked).round();
        if *end {
            tracing::info!(
                tool,
                worker,
                trace,
                run,
                thread,
                thread_id,
                blocked_ms,
                "a thread that a tool blocked is free"
            );
        } else {
            tracing::warn!(
                tool,
                worker,
                trace,
                run,
                thread,
                thread_id,
                blocked_ms,
                "a tool or hook blocks its thread, and all that runs there; what must block is a tool declared `blocking`, or goes to `spawn_blocking`"
            );
        }
    }
}

/// The number that the system gives this thread: the one that debuggers and `top -H` show.
fn thread_id() -> Option<u64> {
    // `<process>/task/<thread>`; elsewhere than on Linux there is none.
    std::fs::read_link("/proc/thread-self").ok()?.file_name()?.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, mpsc},
        thread,
        time::{Duration, Instant},
    };

    use super::{RunStore, Seen, Sighting, Watchdog, Watched};

    fn watched(watchdog: &Arc<Watchdog>) -> Watched<'_> {
        Watched { watchdog, tool: "probe:stall", hook: None, worker: "w", trace: "t", run: None }
    }

    fn until(what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < deadline, "still not: {what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Looks by hand, at times of the test's choosing.
    struct Eyes {
        watchdog: Arc<Watchdog>,
        threads: Vec<Seen>,
        began: Instant,
    }

    impl Eyes {
        fn new() -> Self {
            Self { watchdog: Arc::default(), threads: Vec::new(), began: Instant::now() }
        }

        /// The sightings of one look, as (milliseconds blocked, whether it got loose).
        fn look(&mut self, at_ms: u64) -> Vec<(u128, bool)> {
            let now = self.began + Duration::from_millis(at_ms);
            let shown = |sighting: Sighting| (sighting.blocked.as_millis(), sighting.end);
            self.watchdog.look(&mut self.threads, now).into_iter().map(shown).collect()
        }
    }

    #[test]
    fn a_poll_that_stays_is_told_once_and_again_when_it_is_long_and_when_it_ends() {
        let mut eyes = Eyes::new();
        let watchdog = eyes.watchdog.clone();
        watched(&watchdog).during(|| {
            assert_eq!((eyes.look(0), eyes.look(50)), (vec![], vec![]));
            assert_eq!((eyes.look(100), watchdog.blocked()), (vec![(100, false)], 1));
            assert_eq!((eyes.look(150), eyes.look(900)), (vec![], vec![]));
            assert_eq!((eyes.look(1_010), eyes.look(9_000)), (vec![(1_010, false)], vec![]));
            assert_eq!((eyes.look(10_000), eyes.look(59_999)), (vec![(10_000, false)], vec![]));
            assert_eq!((eyes.look(60_000), eyes.look(119_000)), (vec![(60_000, false)], vec![]));
            assert_eq!(eyes.look(300_000), [(300_000, false)], "said once, however much was missed");
            assert_eq!((eyes.look(300_050), eyes.look(359_000)), (vec![], vec![]));
        });
        assert_eq!((eyes.look(400_000), watchdog.blocked()), (vec![(400_000, true)], 0));
        assert_eq!(eyes.look(400_050), []);
    }

    #[test]
    fn polls_that_go_by_are_nothing_and_nor_is_a_clock_that_jumps() {
        let mut eyes = Eyes::new();
        let watchdog = eyes.watchdog.clone();
        for n in 0..10 {
            // Always in a poll when it is looked at, and always in another one.
            watched(&watchdog).during(|| assert_eq!(eyes.look(n * 3_600_000), []));
        }
        watched(&watchdog).during(|| {
            assert_eq!(eyes.look(40_000_000), []);
            assert_eq!((eyes.look(80_000_000), watchdog.blocked()), (vec![], 0), "the process had been stopped");
        });
    }

    #[test]
    fn the_outermost_of_nested_polls_is_named() {
        let mut eyes = Eyes::new();
        let watchdog = eyes.watchdog.clone();
        watched(&watchdog).during(|| {
            let inner = Watched { tool: "probe:inner", ..watched(&watchdog) };
            assert_eq!((eyes.look(0), eyes.look(50)), (vec![], vec![]));
            inner.during(|| ());
            inner.during(|| assert_eq!(eyes.look(100), [(100, false)]));
            let (names, _) = eyes.threads[0].told.as_ref().expect("it is blocked");
            assert_eq!(names.tool, "probe:stall");
        });
        assert_eq!(eyes.look(150), [(150, true)]);
    }

    #[test]
    fn a_panic_ends_its_poll() {
        let mut eyes = Eyes::new();
        let watchdog = eyes.watchdog.clone();
        let poll = || watched(&watchdog).during(|| panic!("as asked"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(poll)).is_err());
        assert_eq!((eyes.look(0), eyes.look(50), eyes.look(100)), (vec![], vec![], vec![]));
    }

    #[test]
    fn each_executor_sees_its_own_calls_and_threads_that_ended_are_forgotten() {
        let (mut one, mut other) = (Eyes::new(), Eyes::new());
        let (first, second) = (one.watchdog.clone(), other.watchdog.clone());
        thread::scope(|scope| {
            scope.spawn(|| {
                watched(&second).during(|| ());
                watched(&first).during(|| {
                    assert_eq!((one.look(0), one.look(50), one.look(100)), (vec![], vec![], vec![(100, false)]));
                    assert_eq!((other.look(0), other.look(50), other.look(100)), (vec![], vec![], vec![]));
                    assert_eq!((one.threads.len(), other.threads.len()), (1, 1));
                });
            });
        });
        // The scope waits for the closure, not for the end of its thread.
        until("both have forgotten it", || {
            one.look(150);
            other.look(150);
            one.threads.is_empty() && other.threads.is_empty()
        });
    }

    #[test]
    fn its_own_thread_looks_and_ends_with_the_last_who_holds_it() {
        let watchdog = Arc::<Watchdog>::default();
        let held = Arc::downgrade(&watchdog);
        let watching = thread::spawn(move || Watchdog::watch(&held, &std::sync::Weak::<RunStore>::new()));
        let (release, released) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let watchdog = &watchdog;
            scope.spawn(move || watched(watchdog).during(|| released.recv()));
            until("it is blocked", || watchdog.blocked() == 1);
            drop(release);
            until("it is free", || watchdog.blocked() == 0);
        });
        drop(watchdog);
        watching.join().expect("no panic");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_has_the_number_that_the_system_gives_it() {
        let ids: Vec<_> = (0..2).map(|_| thread::spawn(super::thread_id).join().expect("no panic")).collect();
        assert!(ids[0].is_some() && ids[0] != ids[1], "{ids:?}");
    }
}
