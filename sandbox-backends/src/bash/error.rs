//! What can go wrong with an isolated shell, and which step of its construction the kernel refused.

use std::io;
use std::time::Duration;

use sandbox_runtime::prelude::{ErrorCode, ToolError};
use serde::{Deserialize, Serialize};

use super::wire::Refusal;

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)+) => {
        /// One step in the construction of a sandbox.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub(super) enum Step {
            $($(#[$doc])* $name,)+
        }

        impl Step {
            /// What the step does, as a noun phrase for messages.
            const fn describe(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

steps! {
    /// Reading what the server asks for.
    Options => "reading the options",
    /// `unshare` in the zygote, `clone3` with the new user, mount, pid, ipc, uts, network and cgroup namespaces.
    Namespaces => "creating the namespaces",
    /// Entering the cgroup.
    Cgroup => "entering the cgroup",
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
    /// The rules of landlock.
    Landlock => "setting the landlock rules",
    /// The listening socket for the egress proxy.
    Egress => "listening for the egress proxy",
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

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.describe())
    }
}

/// Why a shell could not be started, used or closed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShellError {
    /// A parameter or an option cannot be honoured.
    #[error("`{option}`: {reason}")]
    Invalid { option: &'static str, reason: String },
    /// There are as many sandboxes as the configuration permits.
    #[error("{limit} sandboxes exist, more are not permitted (`max_sessions` of the resource)")]
    Full { limit: usize },
    /// The zygote could not be started.
    #[error("the zygote (a re-execution of this program) could not be started: {0}")]
    Spawn(#[source] io::Error),
    /// The kernel refused a step of the isolation; no shell was started at a lower level instead.
    #[error("the sandbox could not be isolated: {step} failed: {source}{}", hint(*.step, .source))]
    Isolation { step: Step, source: io::Error },
    /// Neither with namespaces nor without them.
    #[error("{namespaces}; and without namespaces: {without}")]
    NoTier { namespaces: Box<Self>, without: Box<Self> },
    /// The zygote or a sandbox did not answer in time.
    #[error("{who} did not answer within {} ms", limit.as_millis())]
    Silent { who: &'static str, limit: Duration },
    /// The sandbox's processes are gone.
    #[error("the sandbox has ended")]
    Gone,
    /// The shell ends as soon as it is started again.
    #[error("the shell ended {attempts} times in a row before it took the command")]
    Unstable { attempts: u32 },
    /// The sandbox sent something that the protocol does not know.
    #[error("the sandbox broke the protocol: {0}")]
    Protocol(&'static str),
    /// An operating system call of the server failed.
    #[error("{what}: {source}")]
    Io { what: &'static str, source: io::Error },
    /// The processes did not end in time.
    #[error("the sandbox did not end within {} s of SIGKILL", limit.as_secs())]
    CloseTimeout { limit: Duration },
}

impl From<Refusal> for ShellError {
    fn from(Refusal { step, errno }: Refusal) -> Self {
        Self::Isolation { step, source: io::Error::from_raw_os_error(errno) }
    }
}

impl From<ShellError> for ToolError {
    fn from(error: ShellError) -> Self {
        let code = match &error {
            ShellError::Invalid { .. } => ErrorCode::INVALID_INPUT,
            ShellError::Full { .. } => ErrorCode::RESOURCE_EXHAUSTED,
            ShellError::Isolation { .. }
            | ShellError::NoTier { .. }
            | ShellError::Spawn(_)
            | ShellError::Silent { .. } => ErrorCode::DEPENDENCY_FAILURE,
            _ => ErrorCode::EXECUTION_ERROR,
        };
        Self::new(code, error.to_string())
    }
}

/// What an administrator can do about a refusal.
fn hint(step: Step, error: &io::Error) -> &'static str {
    let refused = matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::ENOSPC | libc::EUSERS));
    match step {
        // Where AppArmor restricts them, the namespaces are there, and what is done in them is refused.
        Step::Namespaces | Step::Propagation if refused => {
            "; this host refuses user namespaces: raise sysctl user.max_user_namespaces, permit this program in AppArmor \
             (on Ubuntu 24.04 kernel.apparmor_restrict_unprivileged_userns), or, in a container, in its seccomp profile; \
             in a chroot there are none"
        }
        Step::IdMap if refused => {
            "; a server that runs as root in a container needs user ids beyond 0 there: map more, or run it as another user"
        }
        Step::Landlock if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            "; that needs landlock of version 6 (Linux 6.12), enabled at boot"
        }
        _ => "",
    }
}

impl ShellError {
    /// Whether the session is lost with it.
    pub(super) fn ends_the_session(&self) -> bool {
        !matches!(self, Self::Invalid { .. } | Self::Full { .. })
    }

    /// An adapter for `map_err` that names the failed operation.
    pub(super) fn io<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { what, source: source.into() }
    }
}
