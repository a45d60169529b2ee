//! `sandbox exec`.

use std::{future::Future, io, pin::pin, process::ExitCode};

use sandbox_client::{
    ClientError, HttpServiceClient,
    types::{CreateSession, Envelope, ErrorCode, ExecuteRequest, SessionId, ToolInfo, WorkerId},
};
use sandbox_runtime::{linked::Linked, server::HttpServiceServer};
use serde_json::{Map, Value};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{
    FAILED, NOT_RUN,
    args::{Exec, Server},
    check::read,
    log, print,
};

/// Why there is no answer.
enum Unanswered {
    /// Nothing was run.
    NotRun(String),
    /// A signal came; the tool may have run.
    Interrupted,
}

impl<E: ToString> From<E> for Unanswered {
    fn from(error: E) -> Self {
        Self::NotRun(error.to_string())
    }
}

pub(crate) fn run(args: &Exec) -> ExitCode {
    match execute(args) {
        Ok(answer) => show(&answer, args),
        Err(Unanswered::NotRun(error)) => print::errors(&error, NOT_RUN),
        Err(Unanswered::Interrupted) => print::errors(&"interrupted", FAILED),
    }
}

/// A client of the server at `url`.
///
/// # Errors
/// The worker's name is no valid id, or the address no URL.
pub(crate) fn client(url: &str, server: &Server) -> Result<HttpServiceClient, String> {
    let worker = WorkerId::parse(&server.worker).map_err(|error| format!("--worker: {error}"))?;
    let client = HttpServiceClient::new(url, worker).map_err(|error| error.to_string())?;
    Ok(match &server.token {
        Some(token) => client.with_token(token),
        None => client,
    })
}

/// A runtime for the few requests of one command.
///
/// # Errors
/// The system refuses it.
pub(crate) fn runtime() -> Result<Runtime, String> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())
}

/// Ctrl-C and SIGTERM, from when it is made.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new(runtime: &Runtime) -> io::Result<Self> {
        let _inside = runtime.enter();
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! { _ = self.interrupt.recv() => {}, _ = self.terminate.recv() => {} }
    }

    /// What the future answers; `None` when a signal came first.
    async fn or<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! { biased; () = self.next() => None, answer = pin!(future) => Some(answer) }
    }
}

/// Runs the tool on the named server, or on one of its own.
fn execute(args: &Exec) -> Result<Envelope, Unanswered> {
    let runtime = runtime()?;
    // Before anything is started that a signal must not leave behind.
    let mut signals = Signals::new(&runtime)?;
    if let Some(url) = &args.server.url {
        if args.config.config.is_some() {
            return Err("--config is for a server of its own: leave it out, or --server and SANDBOX_SERVER".into());
        }
        let client = client(url, &args.server)?;
        let answer = runtime.block_on(signals.or(call(&client, args)));
        return Ok(answer.ok_or(Unanswered::Interrupted)??);
    }
    let server = start(args)?;
    let answer = match client(&format!("http://{}", server.address()), &args.server) {
        Ok(client) => runtime.block_on(signals.or(call(&client, args))),
        Err(error) => Some(Err(error)),
    };
    // Its connection ends with the client's runtime: that cancels a call which was dropped.
    runtime.shutdown_background();
    stop(server, signals, answer.is_none())?;
    Ok(answer.ok_or(Unanswered::Interrupted)??)
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
fn stop(server: HttpServiceServer, mut signals: Signals, interrupted: bool) -> Result<(), Unanswered> {
    let runtime = runtime()?;
    let stopped = runtime.block_on(async {
        let mut stopping = tokio::task::spawn_blocking(move || server.stop());
        if !interrupted && let Some(stopped) = signals.or(&mut stopping).await {
            return Some(stopped);
        }
        signals.or(stopping).await
    });
    runtime.shutdown_background();
    Ok(stopped.ok_or(Unanswered::Interrupted)???)
}

async fn call(client: &HttpServiceClient, args: &Exec) -> Result<Envelope, String> {
    // Its schema says how to read `key=value`; an unknown tool is answered by the call itself, with candidates.
    let tool = match client.tool(&args.action).await {
        Ok(tool) => Some(tool),
        Err(ClientError::Refused(_)) => None,
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
            return Ok(created);
        }
    }
    request.session.clone_from(&args.session);
    client.execute_request(&request).await.map_err(|error| error.to_string())
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

fn show(answer: &Envelope, args: &Exec) -> ExitCode {
    let printed = match &answer.data {
        _ if args.json => print::json(&serde_json::to_value(answer).unwrap_or_default()),
        Some(data) => print::json(data),
        None => Ok(()),
    };
    let code = if answer.success {
        ExitCode::SUCCESS
    } else if args.json {
        ExitCode::from(FAILED)
    } else {
        print::errors(&failure(answer, &args.server), FAILED)
    };
    print::exit(printed, code)
}

/// A failure in the words of the command line.
pub(crate) fn failure(answer: &Envelope, server: &Server) -> String {
    match &server.token {
        _ if answer.code != ErrorCode::UNAUTHENTICATED => format!("{}: {}", answer.code, answer.message),
        None => format!("{}: the server wants a token: give it with --token or SANDBOX_TOKEN", answer.code),
        Some(_) => format!("{}: the server does not know the token of --token or SANDBOX_TOKEN", answer.code),
    }
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
