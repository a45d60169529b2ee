//! A server of three lines: the stock backends and those of a third party.
#![warn(unused_crate_dependencies)] // a backend crate that is not named below becomes a compile warning
use {acme_backend as _, sandbox_backends as _};
fn main() -> std::process::ExitCode {
    sandbox_cli::main()
}
