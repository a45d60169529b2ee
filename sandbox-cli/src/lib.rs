//! The command line of sandbox.
//!
//! A custom server is three lines: it names the crates of its backends and calls [`main`].
//!
//! ```no_run
//! // use {acme_backend as _, sandbox_backends as _};
//! fn main() -> std::process::ExitCode {
//!     sandbox_cli::main()
//! }
//! ```

#[cfg(feature = "jemalloc")]
mod allocator;
mod args;
mod check;
mod exec;
mod log;
mod print;
mod serve;
mod sessions;
mod tools;

use std::process::ExitCode;

use clap::Parser as _;

#[cfg(feature = "jemalloc")]
pub use allocator::give_memory_back;

use args::{Args, Command};

/// Exit code when the tool, or the check, failed.
const FAILED: u8 = 1;
/// Exit code when nothing was run: wrong usage, wrong configuration, no server.
const NOT_RUN: u8 = 2;

/// Runs the command line of this process and says how to exit: 0 success, 1 the tool or the check failed, 2 nothing was run.
pub fn main() -> ExitCode {
    match Args::parse().command {
        Command::Serve(args) => serve::run(args),
        Command::Exec(args) => exec::run(&args),
        Command::Tools(args) => tools::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Sessions(args) => sessions::run(&args),
    }
}
