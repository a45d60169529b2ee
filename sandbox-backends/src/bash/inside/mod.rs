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

#[cfg(test)]
pub(super) use syscalls::landlock_version;
pub(crate) use zygote::main as zygote_main;
