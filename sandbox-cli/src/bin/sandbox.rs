//! The stock server: every backend of `sandbox-backends` behind the command line.

use sandbox_backends as _;

fn main() -> std::process::ExitCode {
    sandbox_cli::main()
}
