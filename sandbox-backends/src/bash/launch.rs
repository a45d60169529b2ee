//! The server side of a sandbox's life: re-execution of this program as the launcher, handshake, end.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout_at;

use super::error::{ShellError, Step};
use super::wire::{self, Config, Frame, Tag};

/// `argv[0]` that makes this program the launcher.
const LAUNCHER: &str = "sbx-init";
/// How long the sandbox may take to answer.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How long the processes may take to end after SIGKILL.
const END_LIMIT: Duration = Duration::from_secs(5);
/// Largest frame that PID 1 sends.
const ANSWER_BYTES: usize = 64;

/// Runs before `main` in every program that links this crate, so that a server or a test needs no line of its own.
#[used]
#[unsafe(link_section = ".init_array")]
#[expect(unsafe_code, reason = "the section is a list of functions that the loader calls")]
static BECOME_LAUNCHER: extern "C" fn() = become_launcher;

/// Diverts to the launcher when this process is meant to be one.
extern "C" fn become_launcher() {
    // Not the arguments that glibc passes here: other C libraries pass none.
    if fs::read("/proc/self/cmdline")
        .is_ok_and(|line| line.strip_prefix(LAUNCHER.as_bytes()).is_some_and(|rest| rest == [0]))
    {
        super::init::main();
    }
}

/// The processes of one sandbox.
#[derive(Debug)]
pub(super) struct Sandbox {
    control: OwnedFd,
    launcher: Option<(Child, OwnedFd)>,
    /// pidfd of PID 1; its end is the end of everything inside.
    init: Option<OwnedFd>,
}

impl Sandbox {
    /// Starts the launcher and hands it the configuration; the first shell is asked for at once.
    pub(super) fn spawn(config: &Config) -> Result<Self, ShellError> {
        let (control, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(ShellError::io("creating the control socket"))?;
        rustix::io::ioctl_fionbio(&control, true).map_err(ShellError::io("configuring the control socket"))?;
        let body = config.encode();
        if body.len() >= wire::MAX_FRAME_BYTES {
            let reason =
                format!("names and values have {} bytes, less than {} are accepted", body.len(), wire::MAX_FRAME_BYTES);
            return Err(ShellError::InvalidOption { option: "env", reason });
        }
        // Queued until the launcher and PID 1 read them.
        wire::send(&control, Tag::Config, &body, &[]).map_err(ShellError::io("sending the options"))?;
        wire::send(&control, Tag::Shell, config.cwd.as_bytes(), &[]).map_err(ShellError::io("sending the options"))?;
        // Keeps the linker from leaving the hook out; without it this would start a second server.
        std::hint::black_box(&BECOME_LAUNCHER);
        let mut launcher = Command::new("/proc/self/exe")
            .arg0(LAUNCHER)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(ShellError::Spawn)?;
        match i32::try_from(launcher.id()).ok().and_then(Pid::from_raw).map(|pid| pidfd_open(pid, PidfdFlags::empty()))
        {
            Some(Ok(pidfd)) => Ok(Self { control, launcher: Some((launcher, pidfd)), init: None }),
            result => {
                let _ = launcher.kill();
                let _ = launcher.wait();
                let error = result.and_then(Result::err).map_or(io::ErrorKind::InvalidData.into(), io::Error::from);
                Err(ShellError::Spawn(error))
            }
        }
    }

    /// The control socket.
    pub(super) fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Sends an order to PID 1.
    pub(super) fn order(&self, tag: Tag, body: &[u8]) -> Result<(), ShellError> {
        wire::send(&self.control, tag, body, &[]).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ShellError::Gone,
            _ => ShellError::Io { what: "sending an order to the sandbox", source: error },
        })
    }

    /// The next frame if one is there; reports of failure become errors.
    pub(super) fn poll_frame(&mut self) -> Result<Option<Frame>, ShellError> {
        let frame = match wire::receive(&self.control, ANSWER_BYTES) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Err(ShellError::Gone),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(source) => return Err(ShellError::Io { what: "reading from the sandbox", source }),
        };
        if frame.tag == Tag::Failed {
            let (Some(step), Some(errno)) =
                (frame.body.first().copied().and_then(Step::from_code), frame.body.get(1..).and_then(number))
            else {
                return Err(ShellError::Protocol("an unreadable report of failure"));
            };
            return Err(ShellError::Isolation { step, source: io::Error::from_raw_os_error(errno) });
        }
        Ok(Some(frame))
    }

    /// The next frame, waited for within the answer limit.
    pub(super) async fn frame(&mut self) -> Result<Frame, ShellError> {
        let deadline = tokio::time::Instant::now() + ANSWER_LIMIT;
        loop {
            if let Some(frame) = self.poll_frame()? {
                return Ok(frame);
            }
            match timeout_at(deadline, readable(self.control.as_fd())).await {
                Ok(result) => result?,
                Err(_) => return Err(ShellError::HandshakeTimeout { limit: ANSWER_LIMIT }),
            }
        }
    }

    /// Remembers the pidfd of PID 1.
    pub(super) fn set_init(&mut self, pidfd: OwnedFd) {
        self.init = Some(pidfd);
    }

    /// Process id of the launcher.
    #[cfg(test)]
    pub(super) fn launcher_id(&self) -> u32 {
        self.launcher.as_ref().map_or(0, |(launcher, _)| launcher.id())
    }

    /// Kills everything inside and waits until it is gone.
    pub(super) async fn close(mut self) -> Result<(), ShellError> {
        self.kill();
        let Some((_, pidfd)) = &self.launcher else { return Ok(()) };
        let deadline = tokio::time::Instant::now() + END_LIMIT;
        match timeout_at(deadline, readable(pidfd.as_fd())).await {
            Ok(result) => result?,
            // The drop below goes on with it.
            Err(_) => return Err(ShellError::CloseTimeout { limit: END_LIMIT }),
        }
        if let Some((mut launcher, _)) = self.launcher.take() {
            // An error means that somebody else in this process has reaped it.
            let _ = launcher.wait();
        }
        Ok(())
    }

    /// Kills PID 1, and with it everything inside; the launcher then ends by itself.
    fn kill(&self) {
        if let Some(init) = &self.init {
            let _ = pidfd_send_signal(init, Signal::KILL);
        }
        // Before its pidfd arrived the launcher kills it, when it sees the end of the socket.
        let _ = rustix::net::shutdown(&self.control, rustix::net::Shutdown::Both);
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let Some((launcher, pidfd)) = self.launcher.take() else { return };
        self.kill();
        // A drop may run on a thread that must not block, and the end of a pid namespace takes milliseconds.
        let slot = std::sync::Arc::new(std::sync::Mutex::new(Some((launcher, pidfd))));
        let theirs = std::sync::Arc::clone(&slot);
        let reap_slot = move || {
            if let Some((launcher, pidfd)) = theirs.lock().ok().and_then(|mut slot| slot.take()) {
                reap(launcher, &pidfd);
            }
        };
        if thread::Builder::new().name("sbx-reaper".into()).spawn(reap_slot).is_err()
            && let Some((launcher, pidfd)) = slot.lock().ok().and_then(|mut slot| slot.take())
        {
            reap(launcher, &pidfd);
        }
    }
}

/// Waits for the launcher, and kills it if it does not end by itself.
fn reap(mut launcher: Child, pidfd: &OwnedFd) {
    let deadline = Instant::now() + END_LIMIT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(left) = Timespec::try_from(left) else { break };
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(0) | Err(_) => break,
            Ok(_) => return drop(launcher.wait()),
        }
    }
    // PID 1 dies with it.
    let _ = launcher.kill();
    let _ = launcher.wait();
}

/// Waits until the descriptor is readable, on the runtime that polls this future.
pub(super) async fn readable(fd: BorrowedFd<'_>) -> Result<(), ShellError> {
    let fd = register(fd)?;
    fd.readable().await.map_err(ShellError::io("waiting for the sandbox"))?.retain_ready();
    Ok(())
}

/// Registers a descriptor with the runtime that polls the caller.
#[expect(unsafe_code, reason = "tokio cannot know that the descriptor stays open")]
pub(super) fn register<T: AsFd + AsRawFd>(fd: T) -> Result<AsyncFd<T>, ShellError> {
    // SAFETY: every `T` here (a borrowed descriptor, a shared owned one) keeps one and the same descriptor open while
    // it lives, and it lives in the registration.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
        .map_err(|error| ShellError::io("registering with the runtime")(io::Error::from(error)))
}

/// A number in a frame.
pub(super) fn number(bytes: &[u8]) -> Option<i32> {
    bytes.try_into().ok().map(i32::from_le_bytes)
}

/// The next frame, which must have this tag.
pub(super) async fn expect(sandbox: &mut Sandbox, tag: Tag) -> Result<Frame, ShellError> {
    let frame = sandbox.frame().await?;
    if frame.tag == tag { Ok(frame) } else { Err(ShellError::Protocol("an unexpected frame")) }
}

/// The descriptors of a frame, which must be this many.
pub(super) fn fds<const N: usize>(frame: Frame) -> Result<[OwnedFd; N], ShellError> {
    frame.fds.try_into().map_err(|_| ShellError::Protocol("a frame without its descriptors"))
}
