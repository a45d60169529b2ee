//! What runs beside the shell: background jobs, and what a finished command left running. Their output is read all the
//! time, so that they never wait for a reader, and kept to be fetched.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::io::Errno;
use tokio::io::Interest;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use super::error::ShellError;
use super::ladder::{FAR, INTERRUPT_GRACE};
use super::output::{Captured, excerpt};
use super::readiness::register;
use super::sandbox::{Ended, Link};
use super::spool::{Budget, Piece, Spool};
use super::wire::{Order, Target};

/// Most jobs of one session that are remembered; the oldest that have ended are forgotten first.
const MAX_JOBS: usize = 64;
/// Jobs that run at once, and outputs of ended commands that are still open.
const MAX_RUNNING: usize = 24;
/// Bytes of a command that its job remembers.
const COMMAND_BYTES: usize = 1000;
/// Bytes that are read at once.
const READ_BYTES: usize = 32 * 1024;
/// How long a full pipe takes to be read.
const DRAIN_LIMIT: Duration = Duration::from_millis(100);
/// The pause between looks at what is still to be read.
const DRAIN_PAUSE: Duration = Duration::from_millis(1);
/// How fast the output of what runs beside the shell is read, so that a flood occupies its sandbox and not the server.
const BYTES_PER_SECOND: u32 = 32 << 20;

/// The jobs of one session, oldest first.
#[derive(Debug)]
pub(super) struct Jobs {
    /// What their output may take on disk.
    pub(super) budget: Arc<Budget>,
    known: Mutex<Vec<Arc<Job>>>,
    /// The numbers given so far.
    numbers: AtomicU32,
}

/// One job.
#[derive(Debug)]
pub(super) struct Job {
    /// Its id in the session.
    pub(super) number: u32,
    /// The beginning of its command.
    pub(super) command: String,
    pub(super) kind: Kind,
    pub(super) started: SystemTime,
    streams: [Mutex<Spool>; 2],
    state: watch::Sender<State>,
    /// The pipe to its standard input, until that is ended, or its terminal.
    input: Mutex<Option<Arc<OwnedFd>>>,
    /// What its streams are read from.
    readers: Vec<Arc<OwnedFd>>,
    /// What reads them, and waits for its end.
    tasks: Mutex<Vec<AbortHandle>>,
}

/// What a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Started as a job.
    Background { terminal: bool },
    /// The output of a command that has ended: what did not fit into its answer, and what it left running.
    Command,
}

/// When a job is ended.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limits {
    /// After this time it is interrupted.
    pub(super) timeout: Option<Duration>,
    /// After this time it is killed; a second after the interrupt if absent.
    pub(super) hard_timeout: Option<Duration>,
    /// After this time without output it is interrupted.
    pub(super) idle_timeout: Option<Duration>,
}

/// How far a job has come; each piece of output makes a new state.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct State {
    pub(super) ended: Option<Ended>,
    /// How many of its streams are still open.
    open: u8,
    written: u64,
    /// Whether a time limit has ended it.
    pub(super) timed_out: bool,
}

impl State {
    /// Whether nothing more will come.
    pub(super) fn is_over(self, kind: Kind) -> bool {
        self.open == 0 && (self.ended.is_some() || kind == Kind::Command)
    }
}

impl Jobs {
    /// None yet; what they write may take so many bytes on disk.
    pub(super) fn new(output_bytes: u64) -> Self {
        Self { budget: Budget::new(output_bytes), known: Mutex::default(), numbers: AtomicU32::new(0) }
    }

    /// The number of a new job, from 1.
    pub(super) fn next_number(&self) -> u32 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Remembers a job.
    pub(super) fn add(&self, job: Arc<Job>) {
        let mut jobs = self.lock();
        let over = |job: &Arc<Job>| job.state().is_over(job.kind);
        // What commands have left open comes after what is over; jobs that run are not forgotten.
        let spare = |jobs: &[Arc<Job>], wanted: &dyn Fn(&Arc<Job>) -> bool| {
            let command = |job: &Arc<Job>| job.kind == Kind::Command && wanted(job);
            jobs.iter().position(|job| over(job) && wanted(job)).or_else(|| jobs.iter().position(command))
        };
        while self.budget.is_short() {
            let Some(oldest) = spare(&jobs, &|job| job.takes_disk()) else { break };
            // How it ended is still known, and what it still writes is still read.
            jobs[oldest].forget_output();
        }
        while jobs.len() >= MAX_JOBS {
            let Some(oldest) = spare(&jobs, &|_| true) else { break };
            jobs.remove(oldest).abandon();
        }
        let open = jobs.iter().filter(|job| job.kind == Kind::Command && !over(job)).count();
        if open >= MAX_RUNNING
            && let Some(oldest) = jobs.iter().position(|job| job.kind == Kind::Command && !over(job))
        {
            // Whoever still writes there is told by SIGPIPE.
            jobs.remove(oldest).abandon();
        }
        jobs.push(job);
    }

    /// The job of this number.
    ///
    /// # Errors
    /// [`ShellError::Invalid`] names those that there are.
    pub(super) fn get(&self, number: u32) -> Result<Arc<Job>, ShellError> {
        let jobs = self.lock();
        jobs.iter().find(|job| job.number == number).cloned().ok_or_else(|| {
            let known: Vec<_> = jobs.iter().map(|job| job.number.to_string()).collect();
            let known =
                if known.is_empty() { "there are none".to_owned() } else { format!("there are {}", known.join(", ")) };
            ShellError::Invalid { option: "job_id", reason: format!("the session has no job {number}; {known}") }
        })
    }

    /// Refuses a job when as many run as may.
    ///
    /// # Errors
    /// [`ShellError::Invalid`].
    pub(super) fn admit(&self) -> Result<(), ShellError> {
        let runs = |job: &&Arc<Job>| job.kind != Kind::Command && !job.state().is_over(job.kind);
        if self.lock().iter().filter(runs).count() < MAX_RUNNING {
            return Ok(());
        }
        let reason = format!("{MAX_RUNNING} jobs of the session run, more are not permitted; end one with `bash:kill`");
        Err(ShellError::Invalid { option: "background", reason })
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Arc<Job>> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Job>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        for job in self.all() {
            job.abandon();
        }
    }
}

impl Job {
    /// A job that has been started; its output is read on `runtime` from now on.
    pub(super) fn started(
        number: u32,
        command: &str,
        fds: Vec<OwnedFd>,
        budget: &Arc<Budget>,
        link: &Arc<Link>,
        runtime: &Handle,
    ) -> Result<Arc<Self>, ShellError> {
        let mut fds = fds.into_iter();
        let first = Arc::new(fds.next().ok_or(ShellError::Protocol("a job without descriptors"))?);
        let outputs: Vec<_> = fds.map(Arc::new).collect();
        let terminal = outputs.is_empty();
        let readers = if terminal { vec![first.clone()] } else { outputs };
        let spools = [Spool::new(budget), Spool::new(budget)];
        let job = Self::new(number, command, Kind::Background { terminal }, spools, readers);
        rustix::io::ioctl_fionbio(&first, true).map_err(ShellError::io("configuring the input of a job"))?;
        *job.input.lock().unwrap_or_else(PoisonError::into_inner) = Some(first);
        let job = Arc::new(job);
        job.clone().read(runtime);
        let (watched, link) = (job.clone(), link.clone());
        let task = runtime.spawn(async move {
            let mut gone = link.news.gone.subscribe();
            loop {
                let changed = link.news.jobs_changed.notified();
                if let Some(ended) = link.take_job_end(number) {
                    watched.state.send_modify(|state| state.ended = Some(ended));
                    return;
                }
                tokio::select! {
                    () = changed => {}
                    _ = gone.wait_for(|gone| *gone) => return,
                }
            }
        });
        job.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task.abort_handle());
        Ok(job)
    }

    /// The output of a command that has ended: what was kept of it, and the streams that are still open.
    pub(super) fn left_by(
        number: u32,
        command: &str,
        spools: [Spool; 2],
        streams: Vec<OwnedFd>,
        ended: Ended,
        runtime: &Handle,
    ) -> Arc<Self> {
        let streams = streams.into_iter().map(Arc::new).collect();
        let job = Arc::new(Self::new(number, command, Kind::Command, spools, streams));
        job.state.send_modify(|state| state.ended = Some(ended));
        job.clone().read(runtime);
        job
    }

    fn new(number: u32, command: &str, kind: Kind, spools: [Spool; 2], readers: Vec<Arc<OwnedFd>>) -> Self {
        let command = command[..command.floor_char_boundary(COMMAND_BYTES)].to_owned();
        let state = State { open: u8::try_from(readers.len()).unwrap_or(u8::MAX), ..State::default() };
        Self {
            number,
            command,
            kind,
            started: SystemTime::now(),
            streams: spools.map(Mutex::new),
            state: watch::Sender::new(state),
            input: Mutex::default(),
            readers,
            tasks: Mutex::default(),
        }
    }

    /// How far it has come.
    pub(super) fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Reads the streams, each into its spool.
    fn read(self: Arc<Self>, runtime: &Handle) {
        for (index, stream) in self.readers.iter().cloned().enumerate() {
            let job = self.clone();
            let task = runtime.spawn(async move {
                // One that cannot be read is at its end.
                let _ = job.read_one(index, &stream).await;
                job.state.send_modify(|state| state.open -= 1);
            });
            self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task.abort_handle());
        }
    }

    async fn read_one(&self, index: usize, stream: &OwnedFd) -> std::io::Result<()> {
        rustix::io::ioctl_fionbio(stream, true)?;
        let stream = register(stream.as_fd(), Interest::READABLE)?;
        let mut space = vec![0; READ_BYTES];
        loop {
            let read = stream.async_io(Interest::READABLE, |fd| {
                // Over both, so that whoever holds it sees either that something is there or what it was.
                let mut spool = self.stream(index);
                let length = rustix::io::read(fd, &mut space)?;
                spool.push(&space[..length]);
                Ok(length)
            });
            let length = match read.await {
                // A terminal whose last user has closed it.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => 0,
                read => read?,
            };
            if length == 0 {
                return Ok(());
            }
            self.state.send_modify(|state| state.written += length as u64);
            tokio::time::sleep(Duration::from_secs(length as u64) / BYTES_PER_SECOND).await;
        }
    }

    fn stream(&self, index: usize) -> MutexGuard<'_, Spool> {
        self.streams[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it wrote from these offsets on, at most `most` bytes of each stream, waited for until the deadline if there
    /// is nothing yet. With it how many bytes each stream has had.
    pub(super) async fn output(&self, offsets: [u64; 2], most: usize, deadline: Instant) -> [(Piece, u64); 2] {
        let mut changes = self.state.subscribe();
        loop {
            let over = changes.borrow_and_update().is_over(self.kind);
            let pieces = [0, 1].map(|index| {
                let stream = self.stream(index);
                (stream.read(offsets[index], most), stream.total())
            });
            if over || pieces.iter().any(|(piece, _)| !piece.bytes.is_empty()) {
                return pieces;
            }
            if timeout_at(deadline, changes.changed()).await.is_err() {
                return pieces;
            }
        }
    }

    /// What its streams have had since these offsets, as an answer of at most `most` bytes each holds it.
    pub(super) fn since(&self, offsets: [u64; 2], most: usize) -> [Captured; 2] {
        [0, 1].map(|index| {
            let stream = self.stream(index);
            let total = stream.total() - offsets[index];
            let head = stream.read(offsets[index], most).bytes;
            let tail = stream.read(stream.total().saturating_sub(most as u64).max(offsets[index]), most).bytes;
            excerpt(most, &head, &tail, total)
        })
    }

    /// Whether some of its output is on disk.
    fn takes_disk(&self) -> bool {
        [0, 1].into_iter().any(|index| self.stream(index).takes_disk())
    }

    /// Gives back what its output has taken.
    fn forget_output(&self) {
        for index in [0, 1] {
            self.stream(index).forget();
        }
    }

    /// Ends it at its time limits.
    pub(super) fn limit(self: &Arc<Self>, limits: Limits, link: &Arc<Link>, runtime: &Handle) {
        if limits.timeout.or(limits.hard_timeout).or(limits.idle_timeout).is_none() {
            return;
        }
        let (job, link) = (self.clone(), link.clone());
        let task = runtime.spawn(async move { job.end_in_time(limits, &link).await });
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task.abort_handle());
    }

    async fn end_in_time(&self, limits: Limits, link: &Link) {
        let began = Instant::now();
        let after = |from: Instant, time: Option<Duration>| from + time.unwrap_or(FAR).min(FAR);
        let (soft, hard) = (after(began, limits.timeout), after(began, limits.hard_timeout));
        let mut news = self.state.subscribe();
        let mut silent_since = began;
        loop {
            let before = news.borrow_and_update().written;
            let due = soft.min(hard).min(after(silent_since, limits.idle_timeout));
            match timeout_at(due, news.wait_for(|state| state.ended.is_some() || state.written != before)).await {
                Err(_) => break,
                Ok(Ok(state)) if state.ended.is_none() => silent_since = Instant::now(),
                Ok(_) => return,
            }
        }
        let late = self.state.send_if_modified(|state| {
            state.timed_out = state.ended.is_none();
            state.timed_out
        });
        if !late {
            return;
        }
        if Instant::now() < hard {
            self.signal(link, libc::SIGINT);
            let kill = if limits.hard_timeout.is_some() { hard } else { Instant::now() + INTERRUPT_GRACE };
            if self.ended(kill.saturating_duration_since(Instant::now())).await.is_some() {
                return;
            }
        }
        self.signal(link, libc::SIGKILL);
    }

    /// Reads its streams no more.
    pub(super) fn abandon(&self) {
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }

    /// How many bytes its streams have had.
    pub(super) fn totals(&self) -> [u64; 2] {
        [0, 1].map(|index| self.stream(index).total())
    }

    /// Waits until its end, for so long at most.
    pub(super) async fn ended(&self, limit: Duration) -> Option<Ended> {
        let mut changes = self.state.subscribe();
        let ended = tokio::time::timeout(limit, changes.wait_for(|state| state.ended.is_some())).await;
        ended.ok().and_then(Result::ok).and_then(|state| state.ended)
    }

    /// Writes to its standard input or its terminal, and ends the input if asked.
    ///
    /// # Errors
    /// [`ShellError::Invalid`] when it takes no input, or does not take it until the deadline.
    pub(super) async fn write(&self, text: &[u8], eof: bool, deadline: Instant) -> Result<(), ShellError> {
        let refuse = |reason: &str| ShellError::Invalid { option: "job_id", reason: reason.to_owned() };
        let input = self
            .input_pipe()
            .ok_or_else(|| refuse("the job takes no input: it is none of `background`, or its input was ended"))?;
        write_all(&input, text, deadline).await?;
        if eof {
            if self.kind == (Kind::Background { terminal: true }) {
                // What Ctrl-D sends.
                write_all(&input, &[4], deadline).await?;
            } else {
                self.end_input();
            }
        }
        Ok(())
    }

    /// Ends its standard input, as soon as nobody writes to it any more.
    pub(super) fn end_input(&self) {
        self.input.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The pipe to its standard input.
    pub(super) fn input_pipe(&self) -> Option<Arc<OwnedFd>> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until what was written before has been read, or for so long as that can take.
    pub(super) async fn drained(&self) {
        let deadline = Instant::now() + DRAIN_LIMIT;
        for (index, reader) in self.readers.iter().enumerate() {
            loop {
                let spool = self.stream(index);
                let left = rustix::io::ioctl_fionread(&**reader).unwrap_or(0);
                drop(spool);
                if left == 0 || Instant::now() >= deadline {
                    break;
                }
                tokio::time::sleep(DRAIN_PAUSE).await;
            }
        }
    }

    /// Its terminal.
    pub(super) fn terminal(&self) -> Option<Arc<OwnedFd>> {
        self.input_pipe().filter(|_| self.kind == Kind::Background { terminal: true })
    }

    /// Sends a signal to its process group.
    pub(super) fn signal(&self, link: &Link, signal: i32) {
        link.tell(&Order::Signal { to: Target::Job(self.number), signal });
    }
}

/// Writes everything, on the runtime of the caller.
pub(super) async fn write_all(fd: &OwnedFd, mut text: &[u8], deadline: Instant) -> Result<(), ShellError> {
    if text.is_empty() {
        return Ok(());
    }
    let refuse = |reason: &str| ShellError::Invalid { option: "text", reason: reason.to_owned() };
    // Most texts fit at once.
    while !text.is_empty() {
        match rustix::io::write(fd, text) {
            Ok(length) => text = &text[length..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                // A copy, since its reader may be registered with the same runtime.
                let copy = rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(ShellError::io("copying a descriptor"))?;
                let waiting =
                    register(copy, Interest::WRITABLE).map_err(ShellError::io("registering with the runtime"))?;
                match timeout_at(deadline, waiting.writable()).await {
                    Ok(guard) => guard.map_err(ShellError::io("waiting for the input"))?.retain_ready(),
                    Err(_) => return Err(refuse("it was not read to its end within the call's time")),
                }
            }
            Err(Errno::PIPE | Errno::IO) => return Err(refuse("nobody reads it any more")),
            Err(error) => return Err(ShellError::io("writing the input")(error)),
        }
    }
    Ok(())
}
