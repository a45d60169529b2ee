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
mod answer;
mod args;
mod check;
mod completions;
mod connect;
mod doctor;
mod exec;
mod follow;
mod live;
mod log;
mod new;
mod notify;
mod plain;
mod print;
mod runs;
mod serve;
mod sessions;
mod signals;
mod tools;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

#[cfg(feature = "jemalloc")]
pub use allocator::give_memory_back;

use args::{Args, Command};

/// Exit code when the tool, or the check, failed, or a signal ended it.
const FAILED: u8 = 1;
/// Exit code when nothing was run: wrong usage, wrong configuration, no server.
const NOT_RUN: u8 = 2;

/// Runs the command line of this process and says how to exit: 0 success, 1 the tool or the check failed, 2 nothing was
/// run or printed, 141 the reader of the output left.
pub fn main() -> ExitCode {
    let matches = Args::command().display_name(program()).get_matches();
    let args = Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match args.command {
        Command::Serve(args) => serve::run(args),
        Command::Exec(args) => exec::run(&args),
        Command::Tools(args) => tools::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Sessions(args) => sessions::run(&args),
        Command::Runs(args) => runs::run(&args),
        Command::New(args) => new::run(args),
        Command::Completions { shell } => completions::run(shell),
    }
}

/// The name that this program was started by: a custom server is not `sandbox`.
fn program() -> String {
    let path = std::env::args_os().next().map(std::path::PathBuf::from).unwrap_or_default();
    path.file_name().map_or_else(|| "sandbox".to_owned(), |name| name.to_string_lossy().into_owned())
}
