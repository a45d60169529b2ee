//! `sandbox sessions`.

use std::{io, process::ExitCode};

use serde_json::Value;

use crate::{FAILED, NOT_RUN, args::Sessions, exec, print};

pub(crate) fn run(args: &Sessions) -> ExitCode {
    let Some(url) = &args.server.url else {
        return print::errors(
            &"sessions live on a running server: name it with --server URL or SANDBOX_SERVER",
            NOT_RUN,
        );
    };
    let listed = exec::client(url, &args.server).and_then(|client| {
        let runtime = exec::runtime()?;
        runtime.block_on(client.list_sessions()).map_err(|error| error.to_string())
    });
    let answer = match listed {
        Ok(answer) => answer,
        Err(error) => return print::errors(&error, NOT_RUN),
    };
    if !answer.success {
        return print::errors(&exec::failure(&answer, &args.server), FAILED);
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
