//! `sandbox exec`.

use std::{pin::pin, process::ExitCode, time::Duration};

use sandbox_client::{
    ClientError, HttpServiceClient, RunEvent, RunStream,
    types::{CreateSession, Envelope, ExecuteRequest, RunInfo, SessionId, ToolInfo},
};
use sandbox_runtime::{linked::Linked, server::HttpServiceServer};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use crate::{
    FAILED, NOT_RUN, answer,
    args::Exec,
    check::read,
    connect,
    live::{Live, watch},
    log, print,
    signals::Signals,
};

/// How long an interrupted call may take to begin, so that it can be cancelled, or to end: its tool is told two seconds
/// before it is cut off.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it may take to ask for a cancellation before that is announced: a second signal, which follows that, is not
/// to overtake the request.
const SOON: Duration = Duration::from_millis(500);

/// What a call came to.
enum Done {
    /// It has ended.
    Answer {
        answer: Envelope,
        /// By a signal.
        interrupted: bool,
    },
    /// It runs on the server.
    Detached(RunInfo),
}

/// Why there is no answer.
enum Unanswered {
    /// Nothing was run.
    NotRun(String),
    /// The tool may have run.
    Lost(String),
    /// A signal came; the tool may have run.
    Interrupted,
}

impl<E: ToString> From<E> for Unanswered {
    fn from(error: E) -> Self {
        Self::NotRun(error.to_string())
    }
}

impl From<Envelope> for Done {
    fn from(answer: Envelope) -> Self {
        Self::Answer { answer, interrupted: false }
    }
}

pub(crate) fn run(args: &Exec) -> ExitCode {
    match execute(args) {
        Ok(Done::Answer { answer, interrupted }) => {
            let code = answer::show(&answer, args.json, &args.server);
            if interrupted { print::errors(&"interrupted", FAILED) } else { code }
        }
        Ok(Done::Detached(run)) => {
            let printed = if args.json { print::json(&json!(run)) } else { print::line(&run.run_id) };
            let code = print::exit(printed, ExitCode::SUCCESS);
            let follow = connect::command(&format!("runs follow {}", run.run_id), &args.server);
            print::hint(format!("follow it with: {follow}"));
            code
        }
        Err(Unanswered::NotRun(error)) => print::errors(&error, NOT_RUN),
        Err(Unanswered::Lost(error)) => print::errors(&error, FAILED),
        Err(Unanswered::Interrupted) => print::errors(&"interrupted", FAILED),
    }
}

/// Runs the tool on the named server, or on one of its own.
fn execute(args: &Exec) -> Result<Done, Unanswered> {
    let runtime = connect::runtime()?;
    // Before anything is started that a signal must not leave behind.
    let mut signals = Signals::new(&runtime)?;
    if let Some(url) = &args.server.url {
        if args.config.config.is_some() {
            return Err("--config is for a server of its own: leave it out, or --server and SANDBOX_SERVER".into());
        }
        let client = connect::client(url, &args.server)?;
        return runtime.block_on(call(&client, args, &mut signals));
    }
    if args.detach {
        let why = "a server of its own ends with this command";
        return Err(
            format!("--detach needs a running server, {why}: name it with --server URL or SANDBOX_SERVER").into()
        );
    }
    let server = start(args)?;
    let done = match connect::client(&format!("http://{}", server.address()), &args.server) {
        Ok(client) => runtime.block_on(call(&client, args, &mut signals)),
        Err(error) => Err(error.into()),
    };
    runtime.shutdown_background();
    match stop(server, signals) {
        // What the call came to is not less true for that.
        Err(Unanswered::NotRun(error)) => print::hint(format!("the server did not end well: {error}")),
        stopped => stopped?,
    }
    done
}

/// A server for one call.
fn start(args: &Exec) -> Result<HttpServiceServer, Unanswered> {
    let linked = Linked::discover();
    let (mut config, _) = read(&args.config, &linked).check(&linked)?;
    config.server.host = "127.0.0.1".into();
    config.server.port = 0;
    config.server.workers = Some(1);
    config.server.tokens.clear();
    config.server.allowed_hosts.clear();
    // Beside a server that uses the folder and the port, this one must not take them.
    config.server.data_dir = None;
    config.server.control_port = None;
    // Only what the tool needs is started, when it needs it.
    config.warmup.enabled = false;
    if config.server.log.level == "info" {
        config.server.log.level = "warn".into();
    }
    log::init(&config.server.log)?;
    Ok(HttpServiceServer::builder().config(config).linked(linked).start()?)
}

/// Ends a server in order; the second signal of all is not waited through.
fn stop(server: HttpServiceServer, mut signals: Signals) -> Result<(), Unanswered> {
    let runtime = connect::runtime()?;
    let stopped = runtime.block_on(async {
        let mut stopping = tokio::task::spawn_blocking(move || server.stop());
        while signals.count() < 2 {
            if let Some(stopped) = signals.or(&mut stopping).await {
                return Some(stopped);
            }
        }
        None
    });
    runtime.shutdown_background();
    Ok(stopped.ok_or(Unanswered::Interrupted)???)
}

/// Calls the tool; a signal cancels the call.
async fn call(client: &HttpServiceClient, args: &Exec, signals: &mut Signals) -> Result<Done, Unanswered> {
    let prepared = signals.or(prepare(client, args)).await.ok_or(Unanswered::Interrupted)??;
    let request = match prepared {
        Ok(request) => request,
        Err(refusal) => return Ok(refusal.into()),
    };
    if args.detach {
        return detach(client, &request, signals).await;
    }
    let begun = begin(client.stream(&request), signals).await?;
    let interrupted = signals.count() > 0;
    let mut stream = match begun {
        Ok(stream) => stream,
        Err(ClientError::Failed(refusal) | ClientError::SessionGone(refusal)) => {
            return Ok(Done::Answer { answer: *refusal, interrupted });
        }
        Err(error) => return Err(unsure(error)),
    };
    let mut live = Live::new(&args.live);
    if !interrupted && let Some(watched) = signals.or(watch(&mut stream, &mut live)).await {
        let lost = |error: ClientError| Unanswered::Lost(lost(&error, &stream, args));
        let ended = || Unanswered::Lost("the events of the run ended without its answer".to_owned());
        return watched.map_err(lost)?.map(Done::from).ok_or_else(ended);
    }
    let cancelled = signals.or(timeout(PATIENCE, cancel(client, &mut stream, &mut live))).await;
    let answer = match cancelled {
        Some(Ok(answer)) => answer.map_err(|error| Unanswered::Lost(lost(&error, &stream, args)))?,
        Some(Err(_)) => {
            live.say("it has not ended yet");
            None
        }
        None => None,
    };
    answer.map(|answer| Done::Answer { answer, interrupted: true }).ok_or(Unanswered::Interrupted)
}

/// What the server first says to a request. After a signal it is waited for a little longer: what a request that is on its way
/// has begun can be cancelled once it is known.
async fn begin<T>(request: impl Future<Output = T>, signals: &mut Signals) -> Result<T, Unanswered> {
    let mut request = Box::pin(request);
    match signals.or(&mut request).await {
        Some(begun) => Ok(begun),
        None => signals.or(timeout(PATIENCE, request)).await.and_then(Result::ok).ok_or(Unanswered::Interrupted),
    }
}

/// Leaves the call to the server; a signal cancels it as soon as it is known.
async fn detach(
    client: &HttpServiceClient,
    request: &ExecuteRequest,
    signals: &mut Signals,
) -> Result<Done, Unanswered> {
    match begin(client.detach(request), signals).await? {
        Ok(RunInfo { run_id, .. }) if signals.count() > 0 => {
            let cancelled = signals.or(timeout(PATIENCE, client.cancel_run(&run_id))).await;
            Err(match cancelled {
                Some(Ok(Ok(_))) => Unanswered::Interrupted,
                Some(Ok(Err(error))) => Unanswered::Lost(format!("interrupted, but {run_id} may go on: {error}")),
                Some(Err(_)) | None => Unanswered::Lost(format!("interrupted, but {run_id} may go on")),
            })
        }
        Ok(run) => Ok(Done::Detached(run)),
        Err(ClientError::Failed(refusal) | ClientError::SessionGone(refusal)) => Ok((*refusal).into()),
        Err(error) => Err(unsure(error)),
    }
}

/// Why a call did not begin, or may have begun: a script that takes the one for the other would run the tool twice.
fn unsure(error: ClientError) -> Unanswered {
    let sent = match &error {
        ClientError::Connection { sent, .. } => *sent,
        ClientError::Protocol { .. } | ClientError::Timeout { .. } => true,
        _ => false,
    };
    if sent { Unanswered::Lost(error.to_string()) } else { error.into() }
}

/// Asks the run to end, and waits until it has.
async fn cancel(
    client: &HttpServiceClient,
    stream: &mut RunStream,
    live: &mut Live,
) -> Result<Option<Envelope>, ClientError> {
    while stream.run_id().is_none() {
        match stream.next().await? {
            Some(RunEvent::End(answer)) => return Ok(Some(*answer)),
            Some(event) => live.show(&event),
            None => return Ok(None),
        }
    }
    if let Some(run_id) = stream.run_id() {
        let mut asked = pin!(client.cancel_run(run_id));
        let early = timeout(SOON, &mut asked).await;
        live.say(&format!("cancelling {run_id}; again to leave at once"));
        match early {
            Ok(asked) => asked?,
            Err(_) => asked.await?,
        };
    }
    watch(stream, live).await
}

/// Why the answer did not come, and where it may be had.
fn lost(error: &ClientError, stream: &RunStream, args: &Exec) -> String {
    match (error, stream.run_id()) {
        (ClientError::Broken { .. } | ClientError::Connection { .. }, Some(run_id)) if args.server.url.is_some() => {
            let follow = format!("runs follow {run_id} --from {}", stream.last_event_id());
            let follow = connect::command(&follow, &args.server);
            format!("{error}\n  the run may go on; follow it with: {follow}")
        }
        _ => error.answer().map_or_else(|| error.to_string(), |refusal| answer::failure(refusal, &args.server)),
    }
}

/// The request, or why there can be none.
async fn prepare(client: &HttpServiceClient, args: &Exec) -> Result<Result<ExecuteRequest, Envelope>, String> {
    // Its schema says how to read `key=value`; an unknown tool is answered by the call itself, with candidates.
    let tool = match client.tool(&args.action).await {
        Ok(tool) => Some(tool),
        Err(error) if error.answer().is_some() => None,
        Err(error) => return Err(error.to_string()),
    };
    let params = params(&args.params, tool.as_ref())?;
    let mut request = ExecuteRequest::new(client.worker().clone(), &args.action);
    request.params = Some(serde_json::value::to_raw_value(&params).map_err(|error| error.to_string())?);
    request.timeout = args.timeout;
    request.session_id = args
        .session_id
        .as_deref()
        .map(SessionId::parse)
        .transpose()
        .map_err(|error| format!("--session-id: {error}"))?;
    if let (Some(name), Some(resource)) = (&args.session, tool.as_ref().and_then(|tool| tool.resource_type.clone())) {
        let session = CreateSession {
            worker_id: client.worker().clone(),
            resource_type: resource,
            session: Some(name.clone()),
            session_config: Map::new(),
            custom_name: None,
            ttl_seconds: None,
        };
        let created = client.create_session(&session).await.map_err(|error| error.to_string())?;
        if !created.success {
            return Ok(Err(created));
        }
    }
    request.session.clone_from(&args.session);
    Ok(Ok(request))
}

/// One JSON object, or `key=value` pairs, whose values are read by the tool's schema.
fn params(given: &[String], tool: Option<&ToolInfo>) -> Result<Map<String, Value>, String> {
    if let [one] = given
        && one.trim_start().starts_with('{')
    {
        return serde_json::from_str(one).map_err(|error| format!("the parameters are not a JSON object: {error}"));
    }
    let mut params = Map::new();
    for pair in given {
        let Some((key, text)) = pair.split_once('=') else {
            return Err(format!("expected key=value or one JSON object, found `{pair}`"));
        };
        let value = tool.map_or_else(|| Value::from(text), |tool| tool.value_of(key, text));
        if params.insert(key.to_owned(), value).is_some() {
            return Err(format!("`{key}` is given twice"));
        }
    }
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::params;
    use sandbox_client::types::ToolInfo;
    use serde_json::json;

    #[test]
    fn values_follow_the_schema() {
        let tool: ToolInfo = serde_json::from_value(json!({
            "name": "t", "full_name": "a:t", "api_name": "a__t", "resource_type": null, "stateless": true, "description": "",
            "input_schema": {"properties": {"text": {"type": "string"}, "count": {"type": ["integer", "null"]}}},
            "output_schema": {}, "read_only": false, "idempotent": false, "hidden": false
        }))
        .expect("a tool");
        let given = ["text=7".to_owned(), "count=7".to_owned()];
        assert_eq!(
            serde_json::Value::from(params(&given, Some(&tool)).expect("fits")),
            json!({"text": "7", "count": 7})
        );
        let object = [r#"{"text": "a=b"}"#.to_owned()];
        assert_eq!(params(&object, Some(&tool)).expect("fits")["text"], "a=b");
        assert!(params(&["text".to_owned()], None).expect_err("no pair").contains("key=value"));
        assert!(params(&["a=1".to_owned(), "a=2".to_owned()], None).expect_err("twice").contains("twice"));
    }
}
