//! The server under test: the stock backends and one that misbehaves on request.

mod probe;
mod talk;

use sandbox_backends as _;

fn main() -> std::process::ExitCode {
    sandbox_cli::main()
}
