//! `sandbox tools`.

use std::{io, process::ExitCode};

use sandbox_client::types::ToolInfo;
use sandbox_runtime::linked::Linked;
use serde_json::json;

use crate::{NOT_RUN, args::Tools, check::read, print};

pub(crate) fn run(args: &Tools) -> ExitCode {
    let linked = Linked::discover();
    let executor = match read(&args.config, &linked).check(&linked) {
        Ok((_, executor)) => executor,
        Err(faults) => return print::errors(&faults, NOT_RUN),
    };
    let tools = executor.registry().tools().filter(|tool| tool.is_on() && !tool.info.hidden).map(|tool| &tool.info);
    let printed =
        if args.json { print::json(&json!(tools.collect::<Vec<_>>())) } else { tools.into_iter().try_for_each(entry) };
    print::exit(printed, ExitCode::SUCCESS)
}

fn entry(tool: &ToolInfo) -> io::Result<()> {
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
    print::entry(&tool.full_name, &parameters.join(", "), &tool.description)
}
