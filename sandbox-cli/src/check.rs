//! `sandbox check`, and the loading of configurations for all commands.

use std::process::ExitCode;

use sandbox_runtime::{
    config::{Config, ConfigErrors, Loader},
    host::Host,
    linked::Linked,
};

use crate::{
    FAILED,
    args::{Check, ConfigFile},
    print,
};

/// The configuration when no file is named: the shell, on loopback, without any service beside.
pub(crate) const DEFAULT_CONFIG: &str = include_str!("../../config/default.json");

/// Loads the named file, or the embedded default, with the overrides of the environment.
///
/// # Errors
/// Every fault of it, together.
pub(crate) fn load(file: &ConfigFile, linked: &Linked) -> Result<Config, ConfigErrors> {
    let loader = Loader::new(linked).process_env();
    let loader = match &file.config {
        Some(path) => loader.file(path),
        None => loader.embedded(DEFAULT_CONFIG),
    };
    loader.load().map(|loaded| loaded.config)
}

pub(crate) fn run(args: &Check) -> ExitCode {
    let linked = Linked::discover();
    if args.schema {
        print::json(&Config::json_schema(&linked));
        return ExitCode::SUCCESS;
    }
    let config = match load(&args.config, &linked) {
        Ok(config) => config,
        Err(errors) => return print::errors(&errors, FAILED),
    };
    match Host::check(&config, &linked) {
        Ok(executor) => {
            let (on, off): (Vec<_>, Vec<_>) = executor.registry().tools().partition(|tool| tool.is_on());
            print::line(format!("ok: {} resources, {} tools", executor.resources().len(), on.len()));
            for tool in off {
                print::line(format!("off: {} (its section of the configuration is absent)", tool.info.full_name));
            }
            ExitCode::SUCCESS
        }
        Err(errors) => print::errors(&errors, FAILED),
    }
}
