//! `sandbox tools`.

use std::process::ExitCode;

use sandbox_runtime::{host::Host, linked::Linked};
use serde_json::json;

use crate::{NOT_RUN, args::Tools, check::load, print};

pub(crate) fn run(args: &Tools) -> ExitCode {
    let linked = Linked::discover();
    let config = match load(&args.config, &linked) {
        Ok(config) => config,
        Err(errors) => return print::errors(&errors, NOT_RUN),
    };
    let executor = match Host::check(&config, &linked) {
        Ok(executor) => executor,
        Err(errors) => return print::errors(&errors, NOT_RUN),
    };
    let tools = executor.registry().tools().filter(|tool| tool.is_on() && !tool.info.hidden).map(|tool| &tool.info);
    if args.json {
        print::json(&json!(tools.collect::<Vec<_>>()));
        return ExitCode::SUCCESS;
    }
    for tool in tools {
        let properties = tool.input_schema["properties"].as_object();
        let required = tool.input_schema["required"].as_array();
        let parameters: Vec<_> = properties
            .into_iter()
            .flat_map(|properties| properties.keys())
            .map(|name| {
                let needed = required.is_some_and(|required| required.iter().any(|other| other == name));
                if needed { name.clone() } else { format!("{name}?") }
            })
            .collect();
        print::entry(&tool.full_name, &parameters.join(", "), &tool.description);
    }
    ExitCode::SUCCESS
}
