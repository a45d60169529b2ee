//! `sandbox serve`.

use std::{process::ExitCode, time::Duration};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sandbox_runtime::{
    linked::Linked,
    server::{HttpServiceServer, Lifeline},
};

use crate::{NOT_RUN, args::Serve, check::read, log, notify, print};

pub(crate) fn run(args: Serve) -> ExitCode {
    let linked = Linked::discover();
    let mut read = read(&args.config, &linked);
    // Checked again: the arguments may have named an address that needs tokens.
    read.change(|config| {
        if let Some(host) = args.host {
            config.server.host = host;
        }
        if let Some(port) = args.port {
            config.server.port = port;
        }
    });
    let config = match read.check(&linked) {
        Ok((config, _)) => config,
        Err(faults) => return print::errors(&faults, NOT_RUN),
    };
    if let Err(error) = log::init(&config.server.log) {
        return print::errors(&error, NOT_RUN);
    }
    #[cfg(feature = "jemalloc")]
    crate::give_memory_back();
    raise_descriptor_limit();
    let announce = |what: &'static str| {
        move |address| {
            // Who started it may read no further; it serves all the same.
            if let Err(error) = print::line(format!("{what} on http://{address}")) {
                tracing::warn!("standard output cannot be written to: {error}");
            }
        }
    };
    let mut server = HttpServiceServer::builder().config(config).linked(linked);
    if let Some(folder) = args.lifeline {
        // A time that is too long for the clock is as good as none.
        let linger = args.linger.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        server = server.lifeline(Lifeline { folder, linger });
    }
    let announce_listening = announce("listening");
    let listening = move |address| {
        announce_listening(address);
        notify::ready(address);
    };
    match server.on_listening(listening).on_control_listening(announce("control")).run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => print::errors(&error, NOT_RUN),
    }
}

/// Connections, files and what backends hold are descriptors: as many as the system lets this process have.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // What is refused leaves things as they were.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
