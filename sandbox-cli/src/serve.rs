//! `sandbox serve`.

use std::process::ExitCode;

use sandbox_runtime::{linked::Linked, server::HttpServiceServer};

use crate::{NOT_RUN, args::Serve, check::load, log, print};

pub(crate) fn run(args: Serve) -> ExitCode {
    let linked = Linked::discover();
    let mut config = match load(&args.config, &linked) {
        Ok(config) => config,
        Err(errors) => return print::errors(&errors, NOT_RUN),
    };
    if let Some(host) = args.host {
        config.server.host = host;
    }
    if let Some(port) = args.port {
        config.server.port = port;
    }
    // Checked again: the arguments may have named an address that needs tokens.
    if let Err(errors) = config.validate() {
        return print::errors(&errors, NOT_RUN);
    }
    if let Err(error) = log::init(&config.server.log) {
        return print::errors(&error, NOT_RUN);
    }
    #[cfg(feature = "jemalloc")]
    crate::give_memory_back();
    let announce = |address| print::line(format!("listening on http://{address}"));
    match HttpServiceServer::builder().config(config).linked(linked).on_listening(announce).run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => print::errors(&error, NOT_RUN),
    }
}
