//! What runs inside: this program, started again as the zygote, and the PID 1 of each sandbox, which is forked from it.
//!
//! One thread, no runtime, nothing of the server's memory: the zygote is a new execution with an empty environment, made
//! before `main`. It makes what all sandboxes share (`template.rs`), then forks one PID 1 for each sandbox that the server
//! asks for (`zygote.rs`); PID 1 adds what is its own, gives up what it does not need (`policy.rs`, `calls.rs`), starts
//! shells and jobs (`shell.rs`) and reaps (`init.rs`).

mod calls;
mod init;
mod policy;
mod processes;
mod shell;
mod syscalls;
mod template;
mod zygote;

use std::fs;

#[cfg(test)]
pub(super) use syscalls::landlock_version;

/// `argv[0]` that makes this program the zygote.
pub(super) const ZYGOTE: &str = "sandbox-zygote";

/// Runs before `main` in every program that links this crate, so that a server or a test needs no line of its own.
#[used]
#[unsafe(link_section = ".init_array")]
#[expect(unsafe_code, reason = "the section is a list of functions that the loader calls")]
pub(super) static BECOME_ZYGOTE: extern "C" fn() = become_zygote;

/// Diverts to the zygote when this process is meant to be one.
extern "C" fn become_zygote() {
    // Not the arguments that glibc passes here: other C libraries pass none.
    if fs::read("/proc/self/cmdline")
        .is_ok_and(|line| line.strip_prefix(ZYGOTE.as_bytes()).is_some_and(|rest| rest == [0]))
    {
        zygote::main();
    }
}
