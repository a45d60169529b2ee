//! How PID 1 starts a shell or a job: terminal, identity, limits, execution.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{DumpableBehavior, Gid, Pid, Signal, Uid, set_dumpable_behavior};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::super::error::Step;
use super::super::places::Places;
use super::super::wire::{Setup, Spec};
use super::init::c_string;
use super::policy;
use super::processes::processes;
use super::syscalls::{Execution, close_from, exit, fork, kill_all_of_this_user, spawn, unblock_signals};
use super::template::{During, Failure, SHELL_UID};

/// Whose rights the processes of the sandbox have.
#[derive(Debug, Clone, Copy)]
pub(super) enum Identity {
    /// Two host ids, mapped to 0 and to the shell's id.
    Mapped,
    /// The server's id, mapped to the shell's.
    Single,
    /// Without namespaces: a host id for the shell; PID 1 has that of the server, which is root.
    Own(u32),
    /// Without namespaces: the server's id.
    Same,
}

impl Identity {
    pub(super) fn of(setup: &Setup, spec: &Spec) -> Self {
        match (setup.namespaces, spec.host_id) {
            (true, Some(_)) => Self::Mapped,
            (true, None) => Self::Single,
            (false, Some(init)) => Self::Own(init + 1),
            (false, None) => Self::Same,
        }
    }

    /// The id of the shell if it differs from that of PID 1.
    pub(super) fn shell_id(self) -> Option<u32> {
        match self {
            Self::Mapped => Some(SHELL_UID),
            Self::Own(id) => Some(id),
            Self::Single | Self::Same => None,
        }
    }

    pub(super) fn become_init(self) -> io::Result<()> {
        if matches!(self, Self::Mapped) { become_user(0) } else { Ok(()) }
    }

    pub(super) fn become_shell(self) -> io::Result<()> {
        self.shell_id().map_or(Ok(()), become_user)
    }

    /// Without namespaces: kills every process of the shell's, and waits for none.
    pub(super) fn kill_all(self) {
        if let Self::Own(id) = self {
            if let Ok(None) = fork() {
                if become_user(id).is_ok() {
                    kill_all_of_this_user();
                }
                exit(0);
            }
            return;
        }
        let this = rustix::process::getpid();
        // What is orphaned comes to this process, so the hunt ends when there are no children left.
        for _ in 0..1000 {
            let mut found = false;
            for process in processes().filter(|process| process.parent == Some(this)) {
                found = true;
                let _ = rustix::process::kill_process(process.id, Signal::KILL);
            }
            if !found {
                return;
            }
        }
    }
}

/// Changes all user and group ids, without supplementary groups.
fn become_user(id: u32) -> io::Result<()> {
    set_thread_groups(&[])?;
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    set_thread_res_gid(group, group, group)?;
    Ok(set_thread_res_uid(user, user, user)?)
}

/// A pseudo terminal of the sandbox.
#[derive(Debug)]
pub(super) struct Terminal {
    master: OwnedFd,
    /// Open as long as the terminal is the shell's, or it would hang up before the shell has opened it.
    slave: OwnedFd,
}

impl Terminal {
    pub(super) fn open(identity: Identity) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags)?;
        rustix::pty::unlockpt(&master)?;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        if let Some(id) = identity.shell_id() {
            rustix::fs::fchown(&slave, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)))?;
        }
        Ok(Self { master, slave })
    }

    /// A copy for the server.
    pub(super) fn master(&self) -> io::Result<OwnedFd> {
        Ok(rustix::io::fcntl_dupfd_cloexec(&self.master, 3)?)
    }

    pub(super) fn slave(&self) -> &OwnedFd {
        &self.slave
    }

    pub(super) fn resize(&self, (columns, rows): (u16, u16)) -> io::Result<()> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(rustix::termios::tcsetwinsize(&self.master, size)?)
    }

    /// Its foreground process group.
    pub(super) fn foreground(&self) -> Option<Pid> {
        rustix::termios::tcgetpgrp(&self.master).ok()
    }
}

/// A bash to be started.
pub(super) struct Program<'a> {
    pub(super) arguments: &'a [String],
    pub(super) streams: [&'a OwnedFd; 3],
    /// Its controlling terminal.
    pub(super) terminal: Option<&'a Terminal>,
    /// Where it begins; the work folder if that is gone.
    pub(super) cwd: &'a str,
}

impl Program<'_> {
    /// Starts it; a failure of any step up to the execution is answered.
    pub(super) fn start(
        &self,
        setup: &Setup,
        spec: &Spec,
        places: &Places,
        identity: Identity,
    ) -> Result<Pid, Failure> {
        let arguments = self.arguments.iter().map(|argument| c_string(argument.as_str()));
        let arguments = arguments.collect::<io::Result<Vec<_>>>().during(Step::Exec)?;
        let variables = environment(places).map(|(name, value)| c_string(format!("{name}={value}")));
        let variables = variables.into_iter().collect::<io::Result<Vec<_>>>().during(Step::Exec)?;
        let cwd = c_string(self.cwd).during(Step::WorkingDirectory)?;
        let program = Execution::new(c"/bin/bash", &arguments, &variables);
        let mut failure = None;
        let pid = spawn(setup.lends_memory, || {
            let prepared = (|| {
                self.attach()?;
                if !setup.namespaces {
                    policy::landlock(setup, places)?;
                }
                policy::restrict(spec, || {
                    identity.become_shell()?;
                    // The memory is still that of PID 1, and the change of user has made it as open as the host's
                    // `fs.suid_dumpable` says.
                    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
                })?;
                if rustix::process::chdir(&cwd).is_err() {
                    rustix::process::chdir(places.workspace()).during(Step::WorkingDirectory)?;
                }
                close_from(3, libc::CLOSE_RANGE_CLOEXEC).during(Step::ShellStreams)
            })();
            failure = Some(prepared.err().unwrap_or_else(|| (Step::Exec, program.execute())));
        });
        match failure {
            None => pid.during(Step::Fork),
            Some(failure) => Err(failure),
        }
    }

    /// Session, controlling terminal, standard streams.
    fn attach(&self) -> Result<(), Failure> {
        // All dispositions are the defaults, by the zygote.
        unblock_signals();
        rustix::process::setsid().during(Step::ShellStreams)?;
        if let Some(terminal) = self.terminal {
            rustix::process::ioctl_tiocsctty(&terminal.slave).during(Step::ShellStreams)?;
        }
        let [input, out, err] = self.streams;
        rustix::stdio::dup2_stdin(input).during(Step::ShellStreams)?;
        rustix::stdio::dup2_stdout(out).during(Step::ShellStreams)?;
        rustix::stdio::dup2_stderr(err).during(Step::ShellStreams)?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        Ok(())
    }
}

/// The variables of every shell; those of the configuration and of the session come from a file of the protocol.
fn environment(places: &Places) -> [(&'static str, &str); 8] {
    [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", places.workspace()),
        ("USER", "sandbox"),
        ("LOGNAME", "sandbox"),
        ("SHELL", "/bin/bash"),
        ("LANG", "C.UTF-8"),
        ("TERM", "dumb"),
        ("TMPDIR", places.tmp()),
    ]
}
