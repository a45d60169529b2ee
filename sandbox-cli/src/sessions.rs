//! `sandbox sessions`.

use std::{io, process::ExitCode};

use sandbox_client::types::SessionList;

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
    if args.json {
        return print::exit(print::json(&data), ExitCode::SUCCESS);
    }
    match serde_json::from_value(data) {
        Ok(sessions) => print::exit(list(&sessions, &args.server.worker), ExitCode::SUCCESS),
        Err(error) => print::errors(&format!("the server's list of sessions cannot be read: {error}"), FAILED),
    }
}

fn list(list: &SessionList, worker: &str) -> io::Result<()> {
    for session in &list.sessions {
        let name = format!("{}/{}", session.resource_type, session.session);
        let remark = format!("{} until {}", session.status, session.expires_at);
        print::entry(&name, &remark, session.session_id.as_str())?;
    }
    if list.sessions.is_empty() {
        print::line(format!("worker `{worker}` has no sessions"))?;
    }
    Ok(())
}
