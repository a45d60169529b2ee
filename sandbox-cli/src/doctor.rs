//! `sandbox doctor`.

use std::{fmt::Write as _, process::ExitCode, time::Duration};

use sandbox_client::types::ResourceInfo;
use sandbox_runtime::{host::Host, linked::Linked};
use serde_json::{Value, json};

use crate::{FAILED, NOT_RUN, args::Doctor, check::read, log, print};

pub(crate) fn run(args: &Doctor) -> ExitCode {
    let linked = Linked::discover();
    let mut config = match read(&args.config, &linked).check(&linked) {
        Ok((config, _)) => config,
        Err(faults) => return print::errors(&faults, FAILED),
    };
    // What is wrong is in the report.
    config.server.log.level = "off".into();
    if let Err(error) = log::init(&config.server.log) {
        return print::errors(&error, NOT_RUN);
    }
    // Nothing of a server that runs beside it is touched.
    config.server.data_dir = None;
    config.warmup.enabled = false;
    let host = match Host::start(&config, &linked) {
        Ok(host) => host,
        Err(error) => return print::errors(&error, FAILED),
    };
    let executor = host.executor().clone();
    let resources = host.handle().block_on(async {
        let warmed = executor.warmup(None).await;
        let resources = executor.resources();
        executor.shutdown(Duration::ZERO, true).await;
        warmed.map(|_| resources)
    });
    let resources = match resources {
        Ok(resources) => resources,
        Err(error) => return print::errors(&error.message(), FAILED),
    };
    let code = if resources.iter().all(well) { ExitCode::SUCCESS } else { ExitCode::from(FAILED) };
    let printed = if args.json {
        print::json(&json!(resources))
    } else {
        resources.iter().try_for_each(|resource| print::entry(&resource.resource, state(resource), &findings(resource)))
    };
    print::exit(printed, code)
}

fn well(resource: &ResourceInfo) -> bool {
    resource.last_error.is_none()
}

fn state(resource: &ResourceInfo) -> &'static str {
    if well(resource) { "starts" } else { "does not start" }
}

/// What is to be said of a resource, a line each.
fn findings(resource: &ResourceInfo) -> String {
    let mut text = String::new();
    if let Some(error) = &resource.last_error {
        text.push_str(error);
        text.push('\n');
    }
    outline(&mut text, &resource.facts, 0);
    text
}

/// A value as an outline.
fn outline(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    let entries: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (format!("{name}:"), value)).collect(),
        Value::Array(values) => values.iter().map(|value| ("-".to_owned(), value)).collect(),
        Value::Null => return,
        only => vec![(String::new(), only)],
    };
    for (name, value) in entries {
        // Writing to a string cannot fail.
        let _ = match value {
            Value::Object(fields) if !fields.is_empty() => {
                let written = writeln!(text, "{indent}{name}");
                outline(text, value, depth + 1);
                written
            }
            Value::Array(values) if !values.is_empty() => {
                let written = writeln!(text, "{indent}{name}");
                outline(text, value, depth + 1);
                written
            }
            Value::Array(_) | Value::Object(_) => writeln!(text, "{indent}{name} nothing"),
            Value::String(word) => writeln!(text, "{indent}{name} {word}"),
            other => writeln!(text, "{indent}{name} {other}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_become_an_outline() {
        let mut text = String::new();
        let facts = json!({ "isolation": { "missing": [{ "what": "x", "why": "y" }], "none": [], "tier": "B" } });
        outline(&mut text, &facts, 0);
        assert_eq!(text, "isolation:\n  missing:\n    -\n      what: x\n      why: y\n  none: nothing\n  tier: B\n");
    }
}
