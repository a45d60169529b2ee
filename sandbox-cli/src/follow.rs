//! `sandbox runs follow`.

use std::{process::ExitCode, time::Duration};

use sandbox_client::{
    ClientError, HttpServiceClient,
    types::{Envelope, RunId},
};
use tokio::time::timeout;

use crate::{
    FAILED, NOT_RUN, answer,
    args::{self, Server},
    connect,
    live::{Live, watch},
    print,
    signals::Signals,
};

/// How long the server may take to say what becomes of a run that is left.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) fn run(run_id: &RunId, from: u64, live: &args::Live, json: bool, server: &Server) -> ExitCode {
    let prepared = connect::named("runs", server).and_then(|client| {
        let runtime = connect::runtime()?;
        let signals = Signals::new(&runtime).map_err(|error| error.to_string())?;
        Ok((client, runtime, signals))
    });
    let (client, runtime, mut signals) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return print::errors(&error, NOT_RUN),
    };
    let followed = runtime.block_on(async {
        let mut live = Live::new(live);
        let followed = signals.or(follow(&client, run_id, from, &mut live)).await;
        if followed.is_none() {
            let detached = signals.or(timeout(PATIENCE, client.run(run_id, None))).await;
            let detached = detached.and_then(Result::ok).and_then(Result::ok).is_some_and(|run| run.detached);
            live.say(&left(run_id, detached, server));
        }
        followed
    });
    match followed {
        None => ExitCode::from(FAILED),
        Some(Ok(Some(answer))) => answer::show(&answer, json, server),
        Some(Ok(None)) => print::errors(&"the run is over, and its answer is not kept", FAILED),
        Some(Err(error @ ClientError::Broken { .. })) => print::errors(&error, FAILED),
        Some(Err(error)) => answer::error(&error, server),
    }
}

async fn follow(
    client: &HttpServiceClient,
    run_id: &RunId,
    from: u64,
    live: &mut Live,
) -> Result<Option<Envelope>, ClientError> {
    let mut stream = client.follow(run_id, from).await?;
    match watch(&mut stream, live).await? {
        Some(answer) => Ok(Some(answer)),
        // It was followed from its last event.
        None => Ok(client.run(run_id, None).await?.answer),
    }
}

/// What becomes of a run that is followed no more.
fn left(run_id: &RunId, detached: bool, server: &Server) -> String {
    let cancel = connect::command(&format!("runs cancel {run_id}"), server);
    let how = if detached { "goes on" } else { "goes on for as long as somebody else waits for it, or joins it soon" };
    format!("{run_id} {how}; cancel it with: {cancel}")
}
