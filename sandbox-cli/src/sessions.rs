//! `sandbox sessions`.

use std::{io, process::ExitCode};

use serde_json::Value;

use crate::{FAILED, NOT_RUN, answer, args::Sessions, connect, print};

pub(crate) fn run(args: &Sessions) -> ExitCode {
    let listed = connect::named("sessions", &args.server).and_then(|client| {
        let runtime = connect::runtime()?;
        runtime.block_on(client.list_sessions()).map_err(|error| error.to_string())
    });
    let answer = match listed {
        Ok(answer) => answer,
        Err(error) => return print::errors(&error, NOT_RUN),
    };
    if !answer.success {
        return print::errors(&answer::failure(&answer, &args.server), FAILED);
    }
    let data = answer.data.unwrap_or_default();
    let printed = if args.json { print::json(&data) } else { list(&data, &args.server.worker) };
    print::exit(printed, ExitCode::SUCCESS)
}

fn list(data: &Value, worker: &str) -> io::Result<()> {
    for session in data["sessions"].as_array().into_iter().flatten() {
        let text = |key: &str| session[key].as_str().unwrap_or_default().to_owned();
        let name = format!("{}/{}", text("resource_type"), text("session"));
        let remark = format!("{} until {}", text("status"), text("expires_at"));
        print::entry(&name, &remark, &text("session_id"))?;
    }
    if data["count"] == 0 {
        print::line(format!("worker `{worker}` has no sessions"))?;
    }
    Ok(())
}
