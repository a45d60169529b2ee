//! The server's side of one sandbox: its making, the orders to its PID 1, its end.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::cgroup::Cgroup;
use super::error::ShellError;
use super::places::Places;
use super::readiness::register;
use super::removal::remove_tree;
use super::wire::{self, Order, Report, Spec, Target};
use super::zygote::Zygote;

/// How long PID 1 may take to answer.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long the processes may take to end after SIGKILL.
const END_LIMIT: Duration = Duration::from_secs(10);

/// What a report brings beside it.
type Fds = Vec<OwnedFd>;

/// How a shell or a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    /// Its exit code; 128 + n after signal n.
    pub(super) code: i32,
    /// Whether a shell left its state for the next one.
    pub(super) saved: bool,
}

/// What happens inside without having been ordered.
#[derive(Debug, Default)]
pub(super) struct News {
    /// The end of the current shell, until the next one is started.
    pub(super) shell: watch::Sender<Option<Ended>>,
    /// Set when PID 1 is gone.
    pub(super) gone: watch::Sender<bool>,
    jobs: Mutex<Vec<(u32, Ended)>>,
    pub(super) jobs_changed: tokio::sync::Notify,
}

/// One sandbox. Dropping it kills everything inside.
#[derive(Debug)]
pub(super) struct Sandbox {
    link: Arc<Link>,
    /// pidfd of PID 1; its end is the end of everything inside.
    init: OwnedFd,
    places: Places,
    namespaces: bool,
    belongings: Belongings,
}

/// What a sandbox has outside, given back after its end.
#[derive(Debug)]
pub(super) struct Belongings {
    pub(super) cgroup: Option<Cgroup>,
    /// Its work folder on the host.
    pub(super) folder: Option<WorkFolder>,
    /// Its host ids and its place among those that the configuration permits.
    pub(super) _lease: Box<dyn Send + Sync + std::fmt::Debug>,
    /// Alive as long as its sandboxes are wanted.
    pub(super) _zygote: Arc<Zygote>,
}

/// The descriptors that a new sandbox hands over.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) command: OwnedFd,
    pub(super) input: OwnedFd,
    pub(super) variables: OwnedFd,
    pub(super) record: OwnedFd,
    /// The first shell's standard input, the master side of its terminal, and its output fifos.
    pub(super) pipe: OwnedFd,
    pub(super) master: OwnedFd,
    pub(super) fifos: [OwnedFd; 2],
}

/// The way to PID 1.
#[derive(Debug)]
pub(super) struct Link {
    socket: OwnedFd,
    /// Who waits for an answer, in the order of the orders.
    waiting: Mutex<VecDeque<oneshot::Sender<(Report, Fds)>>>,
    pub(super) news: News,
}

impl Sandbox {
    /// Has the zygote make a sandbox and start a shell in it, and takes what it hands over: its root folder, and what its
    /// shell works with. To be called on the runtime that outlives calls.
    ///
    /// # Errors
    /// [`ShellError::Isolation`] names the step that the kernel refused; there is no fallback to less isolation here.
    pub(super) async fn make(
        zygote: Arc<Zygote>,
        spec: &Spec,
        namespaces: bool,
        belongings: Belongings,
    ) -> Result<(Self, OwnedFd, Handed), ShellError> {
        let socket = zygote.spawn(spec, belongings.cgroup.as_ref())?;
        let link = Arc::new(Link { socket, waiting: Mutex::default(), news: News::default() });
        let events = register(Socket(link.clone()), Interest::READABLE)
            .map_err(ShellError::io("registering with the runtime"))?;
        let begun = timeout(ANSWER_LIMIT, next(&events)).await;
        let (report, fds) = begun.map_err(|_| silent())??;
        let Report::Begun = report else { return Err(unexpected(&report)) };
        let [init] = take(fds)?;
        let mut belongings = belongings;
        if let Some(cgroup) = &mut belongings.cgroup {
            cgroup.entered();
        }
        let places = Places::new(spec.workspace.as_deref().filter(|_| !namespaces));
        // From here on a drop kills.
        let sandbox = Self { link, init, places, namespaces, belongings };
        let ready = async {
            let (report, fds) = timeout(ANSWER_LIMIT, next(&events)).await.map_err(|_| silent())??;
            let Report::Ready = report else { return Err(unexpected(&report)) };
            tokio::spawn(pump(events));
            take(fds)
        };
        // Ordered before it is ready, so that it need not wait for the order; the answers come in order.
        let (shell, slot) = (Order::Shell { cwd: sandbox.places.workspace().to_owned() }, Order::Slot(0));
        let link = sandbox.link();
        let (ready, started, fifos) = tokio::try_join!(ready, link.order(&shell), link.order(&slot))?;
        let [root, command, input, variables, record] = ready;
        let [pipe, master] = started;
        Ok((sandbox, root, Handed { command, input, variables, record, pipe, master, fifos }))
    }

    /// The way to PID 1.
    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Where its folders are.
    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    /// Its control group.
    pub(super) fn cgroup(&self) -> Option<&Cgroup> {
        self.belongings.cgroup.as_ref()
    }

    /// Kills everything inside and waits until it is gone.
    ///
    /// # Errors
    /// [`ShellError::CloseTimeout`] when the kernel has not ended the processes in time.
    pub(super) async fn close(&mut self) -> Result<(), ShellError> {
        self.kill();
        let ended = async {
            let init = register(self.init.as_fd(), Interest::READABLE)
                .map_err(ShellError::io("registering with the runtime"))?;
            init.readable().await.map_err(ShellError::io("waiting for the end of the sandbox"))?.retain_ready();
            Ok::<_, ShellError>(())
        };
        timeout(END_LIMIT, ended).await.map_err(|_| ShellError::CloseTimeout { limit: END_LIMIT })??;
        let (cgroup, folder) = (self.belongings.cgroup.take(), self.belongings.folder.take());
        // What cannot be removed now is put back, for the next try.
        let cleared = tokio::task::spawn_blocking(move || {
            let removed = cgroup.as_ref().map_or(Ok(()), Cgroup::remove);
            let cgroup = cgroup.filter(|_| removed.is_err());
            let emptied = folder.as_ref().map_or(Ok(()), WorkFolder::remove);
            (cgroup, folder.filter(|_| emptied.is_err()), removed.and(emptied))
        });
        let (cgroup, folder, result) = match cleared.await {
            Ok(cleared) => cleared,
            Err(error) => (None, None, Err(std::io::Error::other(error))),
        };
        (self.belongings.cgroup, self.belongings.folder) = (cgroup, folder);
        result.map_err(ShellError::io("clearing up after the sandbox"))
    }

    /// Kills PID 1, and with it everything inside; without namespaces PID 1 is asked to do it.
    fn kill(&self) {
        if self.namespaces {
            let _ = pidfd_send_signal(&self.init, Signal::KILL);
        } else {
            self.link.tell(&Order::End);
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A folder of the host for one sandbox, removed by the drop.
#[derive(Debug)]
pub(super) struct WorkFolder(pub(super) PathBuf);

impl WorkFolder {
    fn remove(&self) -> std::io::Result<()> {
        remove_tree(&self.0)
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        if self.0.exists() {
            // A drop may run on a thread that must not block.
            let folder = std::mem::take(&mut self.0);
            let _ = std::thread::Builder::new().name("sandbox-reaper".into()).spawn(move || remove_tree(&folder));
        }
    }
}

impl Link {
    /// Sends an order and waits for its answer.
    ///
    /// # Errors
    /// [`ShellError::Isolation`] when PID 1 could not obey, [`ShellError::Gone`] when it is gone.
    pub(super) async fn order<const N: usize>(&self, order: &Order) -> Result<[OwnedFd; N], ShellError> {
        let (sender, answer) = oneshot::channel();
        {
            // Held over the sending, so that both queues have the same order.
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            match self.send(order) {
                // What it has said before its end, perhaps why it could not be made, comes first.
                Ok(()) | Err(ShellError::Gone) => waiting.push_back(sender),
                Err(error) => return Err(error),
            }
        }
        if *self.news.gone.borrow() {
            return Err(ShellError::Gone);
        }
        match timeout(ANSWER_LIMIT, answer).await.map_err(|_| silent())? {
            Ok((Report::Failed(refusal), _)) => Err(refusal.into()),
            Ok((_, fds)) => take(fds),
            Err(_) => Err(ShellError::Gone),
        }
    }

    /// Sends an order that has no answer; one that is gone needs none.
    pub(super) fn tell(&self, order: &Order) {
        let _ = self.send(order);
    }

    /// Kills the shell and what runs in its session, but not the jobs.
    pub(super) fn kill_shell(&self) {
        for to in [Target::Descendants, Target::Shell] {
            self.tell(&Order::Signal { to, signal: libc::SIGKILL });
        }
    }

    fn send(&self, order: &Order) -> Result<(), ShellError> {
        wire::send(&self.socket, order, &[]).map_err(|error| match error.raw_os_error() {
            Some(libc::EPIPE | libc::ECONNRESET) => ShellError::Gone,
            _ => ShellError::io("sending an order to the sandbox")(error),
        })
    }

    /// How the job ended, if it has.
    pub(super) fn take_job_end(&self, number: u32) -> Option<Ended> {
        let mut jobs = self.news.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let at = jobs.iter().position(|(job, _)| *job == number)?;
        Some(jobs.swap_remove(at).1)
    }
}

/// The socket of a link, for the runtime.
struct Socket(Arc<Link>);

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.socket.as_raw_fd()
    }
}

/// The next report.
async fn next(events: &AsyncFd<Socket>) -> Result<(Report, Fds), ShellError> {
    match events.async_io(Interest::READABLE, |socket| wire::receive(&socket.0.socket)).await {
        Ok(Some((Report::Failed(refusal), fds))) if fds.is_empty() => Ok((Report::Failed(refusal), fds)),
        Ok(Some(report)) => Ok(report),
        Ok(None) => Err(ShellError::Gone),
        Err(error) => Err(ShellError::io("reading from the sandbox")(error)),
    }
}

/// Takes everything that PID 1 has to say, until it is gone.
async fn pump(events: AsyncFd<Socket>) {
    let link = events.get_ref().0.clone();
    while let Ok((report, fds)) = next(&events).await {
        match report {
            Report::ShellEnded { code, saved } => {
                link.news.shell.send_replace(Some(Ended { code, saved }));
            }
            Report::JobEnded { number, code } => {
                let ended = Ended { code, saved: false };
                link.news.jobs.lock().unwrap_or_else(PoisonError::into_inner).push((number, ended));
                link.news.jobs_changed.notify_waiters();
            }
            answer => {
                let waiting = link.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                if let Some(waiting) = waiting {
                    let _ = waiting.send((answer, fds));
                }
            }
        }
    }
    link.news.gone.send_replace(true);
    // Whoever waits for the shell learns that there is no other when he asks for one.
    link.news.shell.send_replace(Some(Ended { code: 128 + libc::SIGKILL, saved: false }));
    link.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// The descriptors of a report, which must be this many.
fn take<const N: usize>(fds: Fds) -> Result<[OwnedFd; N], ShellError> {
    fds.try_into().map_err(|_| ShellError::Protocol("a report without its descriptors"))
}

fn unexpected(report: &Report) -> ShellError {
    match report {
        Report::Failed(refusal) => (*refusal).into(),
        _ => ShellError::Protocol("an unexpected report"),
    }
}

fn silent() -> ShellError {
    ShellError::Silent { who: "the sandbox", limit: ANSWER_LIMIT }
}
