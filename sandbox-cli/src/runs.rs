//! `sandbox runs`.

use std::{io, process::ExitCode};

use sandbox_client::{
    Cancellation, ClientError, HttpServiceClient,
    types::{RunId, RunInfo, RunState, WaitingFor},
};
use serde_json::json;

use crate::{
    NOT_RUN, answer,
    args::{Runs, RunsCommand, Server},
    connect, follow, print,
};

/// The longest that a server waits at once.
const MAX_WAIT_SECONDS: f64 = 60.0;

pub(crate) fn run(args: &Runs) -> ExitCode {
    let (json, server) = (args.json, &args.server);
    match &args.command {
        None | Some(RunsCommand::List) => ask(
            server,
            async |client| client.runs().await,
            |runs| if json { print::json(&json!(runs)) } else { list(&runs, &server.worker) },
        ),
        Some(RunsCommand::Show { run, wait }) => ask(
            server,
            async |client| wait_for(client, &run.id, *wait).await,
            |run| if json { print::json(&json!(run)) } else { details(&run) },
        ),
        Some(RunsCommand::Follow { run, from, live }) => follow::run(&run.id, *from, live, json, server),
        Some(RunsCommand::Cancel { run }) => ask(
            server,
            async |client| client.cancel_run(&run.id).await,
            |cancelled| if json { print::json(&json!(cancelled)) } else { print::line(outcome(&cancelled)) },
        ),
    }
}

/// Asks the named server for something, and prints it.
fn ask<T>(
    server: &Server,
    question: impl AsyncFnOnce(&HttpServiceClient) -> Result<T, ClientError>,
    print: impl FnOnce(T) -> io::Result<()>,
) -> ExitCode {
    let prepared = connect::named("runs", server).and_then(|client| Ok((client, connect::runtime()?)));
    let (client, runtime) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return print::errors(&error, NOT_RUN),
    };
    match runtime.block_on(question(&client)) {
        Ok(told) => print::exit(print(told), ExitCode::SUCCESS),
        Err(error) => answer::error(&error, server),
    }
}

async fn wait_for(client: &HttpServiceClient, id: &RunId, wait_seconds: Option<f64>) -> Result<RunInfo, ClientError> {
    let mut left = wait_seconds.unwrap_or_default();
    loop {
        let wait = left.min(MAX_WAIT_SECONDS);
        let run = client.run(id, (wait > 0.0).then_some(wait)).await?;
        left -= wait;
        if run.state.ended() || left <= 0.0 {
            return Ok(run);
        }
    }
}

fn list(runs: &[RunInfo], worker: &str) -> io::Result<()> {
    for run in runs {
        print::entry(run.run_id.as_str(), &standing(run), &subject(run))?;
    }
    if runs.is_empty() {
        print::line(format!("worker `{worker}` has no runs"))?;
    }
    Ok(())
}

fn details(run: &RunInfo) -> io::Result<()> {
    let mut text = format!("{}\nstarted {}\ntrace {}", subject(run), run.started_at, run.trace_id);
    if let Some(session) = &run.session_id {
        text = format!("{text}\nsession {session}");
    }
    print::entry(run.run_id.as_str(), &standing(run), &text)?;
    match &run.answer {
        Some(answer) if !answer.success => print::line(format!("{}: {}", answer.code, answer.message)),
        Some(answer) => answer.data.as_ref().map_or(Ok(()), print::json),
        None => Ok(()),
    }
}

/// What is run.
fn subject(run: &RunInfo) -> String {
    match (&run.tool, run.actions) {
        (Some(tool), _) => tool.clone(),
        (None, Some(1)) => "a batch of 1 action".to_owned(),
        (None, actions) => format!("a batch of {} actions", actions.unwrap_or_default()),
    }
}

/// How far it is.
fn standing(run: &RunInfo) -> String {
    let waiting_for = run.waiting_for.map_or("", |what| match what {
        WaitingFor::Resource => " for its resource to start",
        WaitingFor::SessionCreation => " for its session to be made",
        WaitingFor::Session => " for its session",
        WaitingFor::Turn => " for its turn",
    });
    let detached = if run.detached { ", detached" } else { "" };
    format!("{}{waiting_for} since {}{detached}", state(run.state), run.since)
}

fn outcome(cancelled: &Cancellation) -> String {
    let run = &cancelled.run;
    if cancelled.cancelled {
        format!("{} was told to end", run.run_id)
    } else {
        format!("{} is over: {}", run.run_id, state(run.state))
    }
}

fn state(state: RunState) -> &'static str {
    match state {
        RunState::Waiting => "waiting",
        RunState::Running => "running",
        RunState::Succeeded => "succeeded",
        RunState::Failed => "failed",
        RunState::Cancelled => "cancelled",
    }
}
