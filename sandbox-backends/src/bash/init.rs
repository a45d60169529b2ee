//! The child side: the single-threaded launcher, and PID 1 of the sandbox, which starts and reaps the shell.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::{
    DumpableBehavior, Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, kill_process_group,
    pidfd_send_signal, set_dumpable_behavior, set_parent_process_death_signal, wait, waitid,
};
use rustix::process::{Gid, Uid};
use rustix::pty::OpenptFlags;
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::error::Step;
use super::policy::{Filters, restrict};
use super::root::{CONTROL, During, Failure, SHELL_UID, enter, fifo};
use super::wire::{self, Config, MAX_FRAME_BYTES, Tag};

/// How many output fifos of background jobs PID 1 keeps emptying; the oldest give way.
const MAX_DRAINS: usize = 256;

/// Runs the launcher on descriptor 0 and exits.
pub(super) fn main() -> ! {
    let control = control_socket();
    let status = match launch(&control) {
        Ok(()) => 0,
        Err(failure) => report(&control, &failure),
    };
    exit(status)
}

/// Tells the server which step failed; answers the exit status.
fn report(control: &OwnedFd, (step, error): &Failure) -> i32 {
    let mut body = vec![step.code()];
    body.extend(error.raw_os_error().unwrap_or(libc::EIO).to_le_bytes());
    // Without a server there is nobody to tell.
    let _ = wire::send(control, Tag::Failed, &body, &[]);
    1
}

/// Starts PID 1 for the configuration that the server sends, and stays until PID 1 or the server ends.
fn launch(control: &OwnedFd) -> Result<(), Failure> {
    reset_signals();
    // Out of the server's process group: Ctrl-C on its terminal is for the server, which then closes its shells.
    let _ = rustix::process::setsid();
    close_from(3, 0).during(Step::Options)?;
    let Some(frame) = wire::receive(control, MAX_FRAME_BYTES).during(Step::Options)? else { return Ok(()) };
    let config = Config::decode(&frame.body).ok_or(io::ErrorKind::InvalidData).during(Step::Options)?;
    let (watch, hold) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).during(Step::Options)?;
    let Some((pid, pidfd)) = clone().during(Step::Namespaces)? else {
        drop(hold);
        let Err(failure) = Init::run(config, control, &watch);
        exit(report(control, &failure))
    };
    drop(watch);
    let guarded = wire::send(control, Tag::Pid, &[], &[pidfd.as_fd()])
        .during(Step::Options)
        .and_then(|()| write_id_maps(&config, pid).during(Step::IdMap))
        .and_then(|()| rustix::io::write(&hold, &[1]).during(Step::IdMap));
    if guarded.is_ok() {
        // Until PID 1 or the server ends; the messages themselves are for PID 1.
        let mut ends = [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(control, PollFlags::empty())];
        while poll(&mut ends, None) == Err(rustix::io::Errno::INTR) {}
    }
    // Harmless when it is the one that ended, since it is not reaped yet.
    let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
    guarded.map(drop)
}

/// Maps two ids of the host's when the server is root, else only the server's own.
fn write_id_maps(config: &Config, pid: Pid) -> io::Result<()> {
    let folder = format!("/proc/{}", pid.as_raw_nonzero());
    let (users, groups) = if config.host_id > 0 {
        let (init, shell) = (config.host_id, config.host_id + 1);
        let map = format!("0 {init} 1\n{SHELL_UID} {shell} 1\n");
        (map.clone(), map)
    } else {
        // The kernel's condition for a group map written without privilege.
        fs::write(format!("{folder}/setgroups"), "deny")?;
        let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
        (format!("{SHELL_UID} {} 1\n", user.as_raw()), format!("{SHELL_UID} {} 1\n", group.as_raw()))
    };
    fs::write(format!("{folder}/uid_map"), users)?;
    fs::write(format!("{folder}/gid_map"), groups)
}

/// PID 1 of the sandbox.
struct Init<'a> {
    config: Config,
    control: &'a OwnedFd,
    filters: Filters,
    /// Becomes readable when a child ended.
    children: OwnedFd,
    shell: Option<Pid>,
    /// Both sides of the shell's terminal; without the second one it would hang up before the shell has opened it.
    terminal: Option<[OwnedFd; 2]>,
    /// Output fifos that only background jobs still write to.
    drains: Vec<OwnedFd>,
    started: bool,
}

impl<'a> Init<'a> {
    /// Builds the sandbox and serves until the server is gone.
    fn run(config: Config, control: &'a OwnedFd, watch: &OwnedFd) -> Result<Infallible, Failure> {
        // One byte says that the id maps are written; its absence, that the launcher is gone.
        if rustix::io::read(watch, &mut [0]) != Ok(1) {
            exit(1);
        }
        if config.host_id > 0 {
            become_user(0).during(Step::Identity)?;
        }
        // After the change of user, which clears it. The launcher has one thread, so its end is the process's end.
        set_parent_process_death_signal(Some(Signal::KILL)).during(Step::ProcessAttributes)?;
        // After the id map, which could not be written otherwise.
        set_dumpable_behavior(DumpableBehavior::NotDumpable).during(Step::ProcessAttributes)?;
        let mut launcher = [PollFd::new(watch, PollFlags::empty())];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut launcher, Some(&now)).during(Step::ProcessAttributes)? > 0 {
            exit(1);
        }
        rustix::process::umask(Mode::empty());
        enter(&config)?;
        rustix::system::sethostname(b"sandbox").during(Step::HostName)?;
        raise_loopback().during(Step::Loopback)?;
        let children = child_events().during(Step::ProcessAttributes)?;
        let filters = Filters::compile().during(Step::SystemCallFilter)?;
        let command = rustix::fs::openat(
            CWD,
            format!("{CONTROL}/c"),
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o644),
        )
        .during(Step::ControlFiles)?;
        let report = fifo("r", OFlags::RDWR).during(Step::ControlFiles)?;
        let (out, err) = output_fifos().during(Step::ControlFiles)?;
        let fds = [command.as_fd(), report.as_fd(), out.as_fd(), err.as_fd()];
        wire::send(control, Tag::Ready, &[], &fds).during(Step::ControlFiles)?;
        drop((command, report, out, err));
        let init = Self {
            config,
            control,
            filters,
            children,
            shell: None,
            terminal: None,
            drains: Vec::new(),
            started: false,
        };
        init.serve().during(Step::ProcessAttributes)
    }

    /// Reaps children, obeys the server and empties what nobody reads.
    fn serve(mut self) -> io::Result<Infallible> {
        loop {
            let mut events: Vec<_> = [self.control, &self.children]
                .into_iter()
                .chain(&self.drains)
                .chain(self.terminal.iter().map(|[master, _]| master))
                .map(|fd| PollFd::new(fd, PollFlags::IN))
                .collect();
            match poll(&mut events, None) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result?,
            };
            let ready: Vec<bool> = events.iter().map(|event| !event.revents().is_empty()).collect();
            let mut rest = ready[2..].iter();
            self.drains.retain(|fd| rest.next() != Some(&true) || discard(fd));
            if rest.next() == Some(&true) && !self.terminal.as_ref().is_some_and(|[master, _]| discard(master)) {
                self.terminal = None;
            }
            if ready[1] {
                let mut events = [0; 1024];
                let _ = rustix::io::read(&self.children, &mut events);
                self.reap();
            }
            if ready[0] {
                let Some(frame) = wire::receive(self.control, MAX_FRAME_BYTES)? else { exit(0) };
                self.obey(frame.tag, &frame.body)?;
            }
        }
    }

    /// Collects ended children and tells the server about the shell.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if self.shell == Some(pid) {
                self.shell = None;
                let code = status
                    .exit_status()
                    .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
                    .unwrap_or(1);
                let _ = wire::send(self.control, Tag::Exit, &code.to_le_bytes(), &[]);
            }
        }
    }

    /// Carries out one order.
    fn obey(&mut self, tag: Tag, body: &[u8]) -> io::Result<()> {
        match tag {
            Tag::Shell => match self.start_shell(body) {
                Ok(input) => wire::send(self.control, Tag::Shell, &[], &[input.as_fd()])?,
                Err(failure) => drop(report(self.control, &failure)),
            },
            Tag::Slot => match self.replace_output() {
                Ok((out, err)) => wire::send(self.control, Tag::Slot, &[], &[out.as_fd(), err.as_fd()])?,
                Err(error) => drop(report(self.control, &(Step::ControlFiles, error))),
            },
            Tag::Interrupt => {
                self.signal_foreground(Signal::INT);
                // A stopped process would see the interrupt only later.
                self.signal_foreground(Signal::CONT);
            }
            Tag::Kill => self.signal_foreground(Signal::KILL),
            Tag::KillShell => {
                self.signal_foreground(Signal::KILL);
                if let Some(shell) = self.shell {
                    let _ = kill_process_group(shell, Signal::KILL);
                    let _ = kill_process(shell, Signal::KILL);
                }
            }
            Tag::Config | Tag::Pid | Tag::Ready | Tag::Failed | Tag::Exit => {}
        }
        Ok(())
    }

    /// Every failure means that the processes are gone already.
    fn signal_foreground(&self, signal: Signal) {
        let foreground = self.terminal.as_ref().and_then(|[master, _]| rustix::termios::tcgetpgrp(master).ok());
        if let (Some(group), Some(_)) = (foreground.or(self.shell), self.shell) {
            let _ = kill_process_group(group, signal);
        }
    }

    /// New output fifos under the same names; what still writes to the old ones is read and dropped from now on.
    fn replace_output(&mut self) -> io::Result<(OwnedFd, OwnedFd)> {
        for name in ["o", "e"] {
            let path = format!("{CONTROL}/{name}");
            let access = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            if let Ok(old) = rustix::fs::open(&path, access, Mode::empty()) {
                self.drains.push(old);
            }
            fs::remove_file(&path)?;
        }
        let excess = self.drains.len().saturating_sub(MAX_DRAINS);
        self.drains.drain(..excess);
        output_fifos()
    }

    /// Starts a shell in `cwd` and answers the pipe for its input.
    fn start_shell(&mut self, cwd: &[u8]) -> Result<OwnedFd, Failure> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let terminal = rustix::pty::openpt(flags).during(Step::Terminal)?;
        rustix::pty::unlockpt(&terminal).during(Step::Terminal)?;
        let slave = rustix::pty::ioctl_tiocgptpeer(&terminal, flags).during(Step::Terminal)?;
        if self.config.host_id > 0 {
            let (user, group) = (Uid::from_raw(SHELL_UID), Gid::from_raw(SHELL_UID));
            rustix::fs::fchown(&slave, Some(user), Some(group)).during(Step::Terminal)?;
        }
        rustix::io::ioctl_fionbio(&terminal, true).during(Step::Terminal)?;
        let (input, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).during(Step::ShellStreams)?;
        let (failure, failed) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).during(Step::ShellStreams)?;
        let cwd = CString::new(cwd).map_err(io::Error::other).during(Step::WorkingDirectory)?;
        let variables = self.config.env.iter().map(|(name, value)| CString::new(format!("{name}={value}")));
        let variables: Vec<_> = variables.collect::<Result<_, _>>().map_err(io::Error::other).during(Step::Exec)?;
        let Some(pid) = fork().during(Step::Fork)? else {
            let Err((step, error)) = self.become_shell(&input, &slave, &cwd, &variables);
            let mut body = [step.code(), 0, 0, 0, 0];
            body[1..].copy_from_slice(&error.raw_os_error().unwrap_or(libc::EIO).to_le_bytes());
            let _ = rustix::io::write(&failed, &body);
            exit(127)
        };
        drop((input, failed));
        // Closed by execve, unless there is a failure to read.
        let mut body = [0; 5];
        if rustix::io::retry_on_intr(|| rustix::io::read(&failure, &mut body)).during(Step::Exec)? == body.len() {
            let step = Step::from_code(body[0]).unwrap_or(Step::Exec);
            return Err((step, io::Error::from_raw_os_error(i32::from_le_bytes([body[1], body[2], body[3], body[4]]))));
        }
        self.shell = Some(pid);
        self.terminal = Some([terminal, slave]);
        self.started = true;
        Ok(writer)
    }

    /// Turns the forked child into the shell; returns only if that failed.
    fn become_shell(
        &self,
        input: &OwnedFd,
        slave: &OwnedFd,
        cwd: &CString,
        variables: &[CString],
    ) -> Result<Infallible, Failure> {
        reset_signals();
        rustix::process::setsid().during(Step::ShellStreams)?;
        rustix::process::ioctl_tiocsctty(slave).during(Step::ShellStreams)?;
        let null =
            rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).during(Step::ShellStreams)?;
        rustix::stdio::dup2_stdin(input).during(Step::ShellStreams)?;
        rustix::stdio::dup2_stdout(&null).during(Step::ShellStreams)?;
        rustix::stdio::dup2_stderr(&null).during(Step::ShellStreams)?;
        rustix::process::umask(Mode::from_raw_mode(0o022));
        restrict(
            &self.config,
            &self.filters,
            || if self.config.host_id > 0 { become_user(SHELL_UID) } else { Ok(()) },
        )?;
        if let Err(error) = rustix::process::chdir(cwd) {
            // A shell that is started again must not fail because its folder was removed.
            if !self.started {
                return Err((Step::WorkingDirectory, error.into()));
            }
            rustix::process::chdir("/workspace").during(Step::WorkingDirectory)?;
        }
        close_from(3, libc::CLOSE_RANGE_CLOEXEC).during(Step::ShellStreams)?;
        // Interactive, so that interrupts and errors jump to the top level instead of ending the shell.
        let arguments = [c"bash", c"--norc", c"--noprofile", c"--noediting", c"-i"].map(CString::from);
        Err((Step::Exec, execute(&arguments, variables)))
    }
}

/// The fifos for standard output and standard error.
fn output_fifos() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok((fifo("o", OFlags::RDONLY)?, fifo("e", OFlags::RDONLY)?))
}

/// Reads what is there and drops it; `false` at the end of the stream.
fn discard(fd: &OwnedFd) -> bool {
    match rustix::io::read(fd, &mut [0; 16384]) {
        Ok(length) => length > 0,
        Err(error) => matches!(error, rustix::io::Errno::AGAIN | rustix::io::Errno::INTR),
    }
}

/// Changes all user and group ids, without supplementary groups.
fn become_user(id: u32) -> io::Result<()> {
    set_thread_groups(&[])?;
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    set_thread_res_gid(group, group, group)?;
    Ok(set_thread_res_uid(user, user, user)?)
}

/// The control socket.
#[expect(unsafe_code, reason = "descriptor 0 is the control socket by agreement with the server")]
fn control_socket() -> OwnedFd {
    // SAFETY: the server started this process with the socket as its standard input, and nothing else owns it here.
    unsafe { OwnedFd::from_raw_fd(0) }
}

/// Ends the process.
#[expect(unsafe_code, reason = "the process ends without destructors or exit handlers of the server's libraries")]
fn exit(status: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(status) }
}

/// Default dispositions and an empty mask: what a server ignores would stay ignored in the shell.
#[expect(unsafe_code, reason = "signal dispositions have no safe wrapper")]
fn reset_signals() {
    // The kernel's structure, all zero: SIG_DFL, no flags, an empty mask. Not through the C library, which refuses the
    // two signals that it keeps for itself.
    let default = [0_u64; 4];
    // SAFETY: the process has one thread; the structure is at least as long as the kernel's and outlives the call, the
    // set in it has 8 bytes; the refusal for SIGKILL and SIGSTOP is harmless; the mask is initialised by sigemptyset
    // before it is used.
    unsafe {
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null_mut::<u64>(), 8);
        }
        let mut mask = std::mem::zeroed();
        libc::sigemptyset(&raw mut mask);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, ptr::null_mut());
    }
}

/// A descriptor that becomes readable when a child ends.
#[expect(unsafe_code, reason = "signalfd has no safe wrapper")]
fn child_events() -> io::Result<OwnedFd> {
    // SAFETY: the mask is initialised by sigemptyset before it is used, and the new descriptor has no other owner.
    unsafe {
        let mut mask = std::mem::zeroed();
        libc::sigemptyset(&raw mut mask);
        libc::sigaddset(&raw mut mask, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const mask, ptr::null_mut());
        match libc::signalfd(-1, &raw const mask, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Closes, or with the flag marks close-on-exec, every descriptor from `first` on.
#[expect(unsafe_code, reason = "close_range has no safe wrapper")]
fn close_from(first: libc::c_uint, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: called right after the start, when nothing owns these descriptors, or with CLOEXEC, which closes none.
    match unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Forks into new namespaces; `None` in the child.
#[expect(unsafe_code, reason = "clone3 has no safe wrapper")]
fn clone() -> io::Result<Option<(Pid, OwnedFd)>> {
    let namespaces = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_PIDFD;
    let mut pidfd = -1;
    // SAFETY: the process has one thread, so the child may go on with a copy of everything; the structure is plain
    // numbers, for which zero is valid; the pidfd is stored in a variable that outlives the call.
    unsafe {
        let mut arguments: libc::clone_args = std::mem::zeroed();
        arguments.flags = u64::from(namespaces.cast_unsigned());
        arguments.pidfd = (&raw mut pidfd).addr() as u64;
        arguments.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
        let pid = libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>());
        // Before `Pid` sees it, which holds no negative number.
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        let pid = i32::try_from(pid).map_err(io::Error::other)?;
        Ok(Pid::from_raw(pid).map(|pid| (pid, OwnedFd::from_raw_fd(pidfd))))
    }
}

/// Forks; `None` in the child.
#[expect(unsafe_code, reason = "fork has no safe wrapper")]
fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the process has one thread, so the child may do everything that the parent may.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(pid)),
    }
}

/// Replaces the process by bash; answers why that failed.
#[expect(unsafe_code, reason = "execve has no safe wrapper")]
fn execute(arguments: &[CString], variables: &[CString]) -> io::Error {
    let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect::<Vec<_>>();
    let (arguments, variables) = (pointers(arguments), pointers(variables));
    // SAFETY: both arrays end with a null pointer and point to strings that live until the call returns.
    unsafe { libc::execve(c"/bin/bash".as_ptr(), arguments.as_ptr(), variables.as_ptr()) };
    io::Error::last_os_error()
}

/// Brings `lo` up.
#[expect(unsafe_code, reason = "interface flags have no safe wrapper")]
fn raise_loopback() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    let flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(io::Error::other)?;
    // SAFETY: the structure is plain numbers, for which zero is valid; the name is NUL-terminated by the zeroes; the
    // call reads and writes only this structure, which outlives it.
    let result = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (target, byte) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
            *target = libc::c_char::from_ne_bytes([*byte]);
        }
        request.ifr_ifru.ifru_flags = flags;
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
