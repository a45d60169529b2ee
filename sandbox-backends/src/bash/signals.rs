//! Names of signals.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A signal that a client can send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum SignalName {
    Int,
    Term,
    Kill,
    Hup,
    Quit,
    Usr1,
    Usr2,
    Stop,
    Cont,
    Tstp,
}

impl SignalName {
    /// Its number here.
    pub(super) fn number(self) -> i32 {
        match self {
            Self::Int => libc::SIGINT,
            Self::Term => libc::SIGTERM,
            Self::Kill => libc::SIGKILL,
            Self::Hup => libc::SIGHUP,
            Self::Quit => libc::SIGQUIT,
            Self::Usr1 => libc::SIGUSR1,
            Self::Usr2 => libc::SIGUSR2,
            Self::Stop => libc::SIGSTOP,
            Self::Cont => libc::SIGCONT,
            Self::Tstp => libc::SIGTSTP,
        }
    }
}

/// The name of the signal that an exit code of a shell stands for.
pub(super) fn of_exit_code(code: i32) -> Option<&'static str> {
    let names = [
        (libc::SIGHUP, "HUP"),
        (libc::SIGINT, "INT"),
        (libc::SIGQUIT, "QUIT"),
        (libc::SIGILL, "ILL"),
        (libc::SIGTRAP, "TRAP"),
        (libc::SIGABRT, "ABRT"),
        (libc::SIGBUS, "BUS"),
        (libc::SIGFPE, "FPE"),
        (libc::SIGKILL, "KILL"),
        (libc::SIGUSR1, "USR1"),
        (libc::SIGSEGV, "SEGV"),
        (libc::SIGUSR2, "USR2"),
        (libc::SIGPIPE, "PIPE"),
        (libc::SIGALRM, "ALRM"),
        (libc::SIGTERM, "TERM"),
        (libc::SIGXCPU, "XCPU"),
        (libc::SIGXFSZ, "XFSZ"),
        (libc::SIGSYS, "SYS"),
        (libc::SIGTSTP, "TSTP"),
        (libc::SIGSTOP, "STOP"),
    ];
    names.into_iter().find_map(|(number, name)| (code == 128 + number).then_some(name))
}
