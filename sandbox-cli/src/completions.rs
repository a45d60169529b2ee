//! `sandbox completions`.

use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::{Shell, generate};

use crate::{args::Args, print, program};

pub(crate) fn run(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    generate(shell, &mut Args::command(), program(), &mut script);
    print::exit(print::bytes(&script), ExitCode::SUCCESS)
}
