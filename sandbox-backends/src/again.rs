//! This program, started again as something else: the zygote of shells, the reader of documents.
//!
//! A helper of its own would have to be built, found and kept at the server's version. Each of these is a new execution
//! with an empty environment, diverted before `main`.

use std::{fs, hint::black_box, os::unix::process::CommandExt, process::Command};

/// What this program may become.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    /// Makes the sandboxes of shells.
    #[cfg(feature = "bash")]
    Zygote,
    /// Reads documents.
    #[cfg(feature = "reader")]
    Reader,
}

impl Role {
    const ALL: &[Self] = &[
        #[cfg(feature = "bash")]
        Self::Zygote,
        #[cfg(feature = "reader")]
        Self::Reader,
    ];

    /// `argv[0]` that makes this program one.
    const fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "bash")]
            Self::Zygote => "sandbox-zygote",
            #[cfg(feature = "reader")]
            Self::Reader => "sandbox-reader",
        }
    }

    fn run(self) -> ! {
        match self {
            #[cfg(feature = "bash")]
            Self::Zygote => crate::bash::zygote_main(),
            #[cfg(feature = "reader")]
            Self::Reader => crate::reader::process_main(),
        }
    }

    /// A command that starts this program in this role.
    pub(crate) fn command(self) -> Command {
        // Keeps the linker from leaving the hook out; without it this would start a second server.
        black_box(&BECOME);
        let mut command = Command::new("/proc/self/exe");
        command.arg0(self.name()).env_clear().current_dir("/");
        command
    }
}

/// Runs before `main` in every program that links this crate, so that a server or a test needs no line of its own.
#[used]
#[unsafe(link_section = ".init_array")]
#[expect(unsafe_code, reason = "the section is a list of functions that the loader calls")]
static BECOME: extern "C" fn() = become_another;

/// Diverts when this process is meant to be another.
extern "C" fn become_another() {
    // Not the arguments that glibc passes here: other C libraries pass none.
    let Ok(line) = fs::read("/proc/self/cmdline") else { return };
    let meant = |role: &&Role| line.strip_prefix(role.name().as_bytes()).is_some_and(|rest| rest == [0]);
    if let Some(role) = Role::ALL.iter().find(meant) {
        role.run();
    }
}
