//! The server's side of the zygote: starts it, asks it for sandboxes, starts it again when it has died.

use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::io::Interest;
use tokio::time::timeout;

use crate::again::Role;

use super::cgroup::{Cgroup, Cgroups};
use super::error::ShellError;
use super::readiness::register;
use super::wire::{self, FromZygote, Setup, Spec, ToZygote};

/// How long this program may take to become the zygote.
const HELLO_LIMIT: Duration = Duration::from_secs(1);
/// How long the zygote may take to make what sandboxes share.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// A running zygote. Dropping it ends it, and with it every sandbox it has made.
#[derive(Debug)]
pub(super) struct Zygote {
    socket: OwnedFd,
    process: Mutex<Option<Child>>,
}

impl Zygote {
    /// Starts a zygote and hands it what its sandboxes share.
    ///
    /// # Errors
    /// [`ShellError::Silent`] when this program does not become the zygote; [`ShellError::Isolation`] names the step
    /// that the kernel refused.
    pub(super) async fn start(setup: &Setup, cgroups: Option<&Cgroups>) -> Result<Self, ShellError> {
        let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(ShellError::io("creating the socket of the zygote"))?;
        rustix::io::ioctl_fionbio(&socket, true).map_err(ShellError::io("configuring the socket of the zygote"))?;
        let process = Role::Zygote
            .command()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(ShellError::Spawn)?;
        let zygote = Self { socket, process: Mutex::new(Some(process)) };
        match zygote.answer(HELLO_LIMIT).await? {
            FromZygote::Hello => {}
            FromZygote::Failed(refusal) => return Err(refusal.into()),
            FromZygote::Ready => return Err(ShellError::Protocol("the zygote was ready before it began")),
        }
        let tops: Vec<_> = cgroups.into_iter().flat_map(Cgroups::tops).collect();
        wire::send(&zygote.socket, &ToZygote::Setup(setup.clone()), &tops)
            .map_err(ShellError::io("sending the options to the zygote"))?;
        match zygote.answer(READY_LIMIT).await? {
            FromZygote::Ready => Ok(zygote),
            FromZygote::Failed(refusal) => Err(refusal.into()),
            FromZygote::Hello => Err(ShellError::Protocol("the zygote began twice")),
        }
    }

    async fn answer(&self, limit: Duration) -> Result<FromZygote, ShellError> {
        let socket = register(self.socket.as_fd(), Interest::READABLE)
            .map_err(ShellError::io("registering with the runtime"))?;
        let received = timeout(limit, socket.async_io(Interest::READABLE, |socket| wire::receive(socket)));
        match received.await {
            Ok(Ok(Some((answer, _)))) => Ok(answer),
            Ok(Ok(None)) => Err(ShellError::Protocol("the zygote ended at once")),
            Ok(Err(error)) => Err(ShellError::io("reading from the zygote")(error)),
            Err(_) => Err(ShellError::Silent { who: "the zygote", limit }),
        }
    }

    /// Asks for a sandbox; answers the server's end of its control socket.
    ///
    /// # Errors
    /// [`ShellError::Gone`] when the zygote has died.
    pub(super) fn spawn(&self, spec: &Spec, cgroup: Option<&Cgroup>) -> Result<OwnedFd, ShellError> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(ShellError::io("creating a control socket"))?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(ShellError::io("configuring a control socket"))?;
        let groups = cgroup.map(|group| group.join().1).into_iter().flatten();
        let fds: Vec<_> = std::iter::once(theirs.as_fd()).chain(groups).collect();
        match wire::send(&self.socket, &ToZygote::Spawn(spec.clone()), &fds) {
            Ok(()) => Ok(ours),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)) => Err(ShellError::Gone),
            Err(error) => Err(ShellError::io("asking the zygote for a sandbox")(error)),
        }
    }

    /// Whether it has died.
    fn is_dead(&self) -> bool {
        let mut socket = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut socket, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Its process id.
    #[cfg(test)]
    pub(super) fn id(&self) -> u32 {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, Child::id)
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        let process = self.process.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // It ends with the socket, after its sandboxes; a drop may run on a thread that must not wait for that.
        if let Some(mut process) = process {
            let _ = std::thread::Builder::new().name("zygote-reaper".into()).spawn(move || process.wait());
        }
    }
}

/// The zygote of a resource, made again when it has died.
#[derive(Debug)]
pub(super) struct Nursery {
    pub(super) setup: Setup,
    pub(super) cgroups: Option<Cgroups>,
    current: tokio::sync::Mutex<Option<Arc<Zygote>>>,
}

impl Nursery {
    pub(super) fn new(setup: Setup, cgroups: Option<Cgroups>) -> Self {
        let groups = cgroups.as_ref().and_then(Cgroups::name);
        let setup = Setup { groups, ..setup };
        Self { setup, cgroups, current: tokio::sync::Mutex::new(None) }
    }

    /// A zygote that lives.
    ///
    /// # Errors
    /// Those of [`Zygote::start`].
    pub(super) async fn zygote(&self) -> Result<Arc<Zygote>, ShellError> {
        let mut current = self.current.lock().await;
        if let Some(zygote) = current.as_ref().filter(|zygote| !zygote.is_dead()) {
            return Ok(zygote.clone());
        }
        if current.take().is_some() {
            tracing::warn!("the zygote of the shells has died, and all sandboxes with it; a new one is started");
        }
        let zygote = Arc::new(Zygote::start(&self.setup, self.cgroups.as_ref()).await?);
        *current = Some(zygote.clone());
        Ok(zygote)
    }
}
