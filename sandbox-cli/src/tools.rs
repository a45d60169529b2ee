//! `sandbox tools`.

use std::{io, process::ExitCode};

use sandbox_client::types::ToolInfo;
use sandbox_runtime::linked::Linked;
use serde_json::json;

use crate::{NOT_RUN, answer, args::Tools, check::read, connect, print};

pub(crate) fn run(args: &Tools) -> ExitCode {
    let tools = match &args.server.url {
        Some(_) if args.config.config.is_some() => {
            let error = "--config is for tools of no running server: leave it out, or --server and SANDBOX_SERVER";
            return print::errors(&error, NOT_RUN);
        }
        Some(url) => served(url, args),
        None => linked(args),
    };
    let tools = match tools {
        Ok(tools) => tools,
        Err(code) => return code,
    };
    let printed = if args.json { print::json(&json!(tools)) } else { tools.iter().try_for_each(entry) };
    print::exit(printed, ExitCode::SUCCESS)
}

/// The tools of a running server.
fn served(url: &str, args: &Tools) -> Result<Vec<ToolInfo>, ExitCode> {
    let prepared = connect::client(url, &args.server).and_then(|client| Ok((client, connect::runtime()?)));
    let (client, runtime) = prepared.map_err(|error| print::errors(&error, NOT_RUN))?;
    runtime.block_on(client.tools()).map_err(|error| answer::error(&error, &args.server))
}

/// The tools that a configuration switches on, of the backends that are linked in.
fn linked(args: &Tools) -> Result<Vec<ToolInfo>, ExitCode> {
    let linked = Linked::discover();
    let (_, executor) = read(&args.config, &linked).check(&linked).map_err(|faults| print::errors(&faults, NOT_RUN))?;
    let tools = executor.registry().tools().filter(|tool| tool.is_on() && !tool.info.hidden);
    Ok(tools.map(|tool| tool.info.clone()).collect())
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
