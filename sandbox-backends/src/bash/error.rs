//! What can go wrong with an isolated shell, and which step of its construction the kernel refused.

use std::io;
use std::time::Duration;

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)+) => {
        /// One step in the construction of a sandbox.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Step {
            $($(#[$doc])* $name,)+
        }

        impl Step {
            /// Every step, by its number.
            const ALL: &[Self] = &[$(Self::$name,)+];

            /// What the step does, as a noun phrase for messages.
            #[must_use]
            pub const fn describe(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

steps! {
    /// Reading the options in the launcher.
    Options => "reading the options",
    /// `clone3` with the new user, mount, pid, ipc, uts, network and cgroup namespaces.
    Namespaces => "creating the namespaces",
    /// `uid_map` and `gid_map` of the new user namespace.
    IdMap => "writing the user and group id maps",
    /// Becoming the first user of the namespace.
    Identity => "changing to the mapped user",
    /// `PR_SET_PDEATHSIG` and `PR_SET_DUMPABLE`.
    ProcessAttributes => "setting the attributes of the init process",
    /// Private mount propagation.
    Propagation => "making the mounts private",
    /// The tmpfs that becomes `/`, and the entries in it.
    RootDirectory => "building the root directory",
    /// Read-only binds of the host's programs and libraries.
    SystemFolders => "binding the system folders read-only",
    /// The files of `/etc`.
    SystemFiles => "providing the files in /etc",
    /// The device nodes of `/dev`.
    Devices => "providing the device nodes",
    /// A fresh `/proc`.
    Proc => "mounting /proc",
    /// A private `devpts`.
    Terminals => "mounting /dev/pts",
    /// `/workspace`, `/tmp`, `/dev/shm`.
    WorkFolders => "mounting the work folders",
    /// `pivot_root` and the detachment of the host's root.
    PivotRoot => "changing the root",
    /// Making `/` read-only.
    ReadOnlyRoot => "making the root read-only",
    /// The host name.
    HostName => "setting the host name",
    /// Bringing `lo` up.
    Loopback => "bringing the loopback interface up",
    /// The command file and the fifos.
    ControlFiles => "creating the control files",
    /// The pseudo terminal.
    Terminal => "opening the pseudo terminal",
    /// `fork` of the shell.
    Fork => "forking the shell",
    /// `setsid`, controlling terminal, standard streams.
    ShellStreams => "attaching the shell to its streams",
    /// Resource limits.
    Limits => "setting the resource limits",
    /// Dropping capabilities and changing to the shell's user.
    Privileges => "dropping the privileges",
    /// The initial working directory.
    WorkingDirectory => "entering the working directory",
    /// Building or installing the system call filter.
    SystemCallFilter => "installing the system call filter",
    /// `execve` of `/bin/bash`.
    Exec => "executing /bin/bash",
}

impl Step {
    /// The step's number on the control socket.
    pub(super) fn code(self) -> u8 {
        self as u8
    }

    /// The step with this number.
    pub(super) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.describe())
    }
}

/// Why a shell could not be started, used or closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShellError {
    /// An option cannot be honoured.
    #[error("shell option `{option}`: {reason}")]
    InvalidOption {
        /// The option's name.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The launcher process could not be started.
    #[error("the sandbox launcher (a re-execution of this program) could not be started: {0}")]
    Spawn(#[source] io::Error),
    /// The kernel refused a step of the isolation; no shell was started at a lower level instead.
    #[error("the sandbox could not be isolated: {step} failed: {source}{}", hint(*.step, .source))]
    Isolation {
        /// The step that failed.
        step: Step,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The sandbox did not answer in time.
    #[error("the sandbox did not answer within {} s", limit.as_secs())]
    HandshakeTimeout {
        /// The limit that passed.
        limit: Duration,
    },
    /// The sandbox's processes are gone.
    #[error("the sandbox has ended; discard the session")]
    Gone,
    /// An earlier run failed or was dropped midway, so the state of the shell is unknown.
    #[error("an earlier command was abandoned midway; discard the session")]
    Abandoned,
    /// The shell ends as soon as it is started again.
    #[error("the shell ended {attempts} times in a row before it took the command")]
    Unstable {
        /// How often it was started.
        attempts: u32,
    },
    /// The command contains a NUL byte, which no shell can represent.
    #[error("the command contains a NUL byte at offset {offset}; remove it or encode the data")]
    NulInCommand {
        /// Byte offset of the first NUL.
        offset: usize,
    },
    /// The command text is too long.
    #[error("the command has {found} bytes, at most {limit} are accepted; pass data in files")]
    CommandTooLong {
        /// Bytes given.
        found: usize,
        /// Bytes accepted.
        limit: usize,
    },
    /// The sandbox sent something that the protocol does not know.
    #[error("the sandbox broke the protocol: {0}")]
    Protocol(&'static str),
    /// An operating system call of the server failed.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The processes did not end in time; they were sent SIGKILL and are still reaped in the background.
    #[error("the sandbox did not end within {} s of SIGKILL", limit.as_secs())]
    CloseTimeout {
        /// The limit that passed.
        limit: Duration,
    },
}

/// What an administrator can do about a refusal.
fn hint(step: Step, error: &io::Error) -> &'static str {
    let refused = matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::ENOSPC | libc::EUSERS));
    match step {
        // Where AppArmor restricts them, the namespaces are there, and what is done in them is refused.
        Step::Namespaces | Step::Propagation if refused => {
            "; this host refuses user namespaces: raise sysctl user.max_user_namespaces, permit this program in AppArmor \
             (on Ubuntu 24.04 kernel.apparmor_restrict_unprivileged_userns), or, in a container, in its seccomp profile"
        }
        Step::IdMap if refused => {
            "; a server that runs as root in a container needs user ids beyond 0 there: map more, or run it as another user"
        }
        _ => "",
    }
}

impl ShellError {
    /// An adapter for `map_err` that names the failed operation.
    pub(super) fn io<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { what, source: source.into() }
    }
}
