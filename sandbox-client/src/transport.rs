//! Requests on their way: attempts, keys under which a tool runs once, and time limits.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use reqwest::{RequestBuilder, Response, StatusCode};
use sandbox_types::{BatchRequest, Envelope, ErrorBody, ExecuteRequest, Health};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::Instant;

use crate::{
    client::HttpServiceClient,
    error::{ClientError, Result, chain},
    retry::{Attempts, is_passing, retry_after},
};

/// How much longer than the server a client waits: who gives up first must be the server, which then says so.
const MARGIN: Duration = Duration::from_secs(5);
/// How long a call without a limit of its own is waited for: the server's own limits are below that.
const LONGEST_CALL: Duration = Duration::from_hours(1);
/// Limit of requests that make sessions or get resources ready (`initialize_timeout_seconds` is 300).
pub(crate) const SLOW: Duration = Duration::from_secs(305);
/// Limit of all other requests that run no tool.
pub(crate) const QUICK: Duration = Duration::from_secs(30);
/// Keys that one request says have been answered.
const MAX_ANSWERED: usize = 64;
/// How often in a row the server may turn out to be another one.
const MAX_RESTARTS: u32 = 3;

/// An answer, read.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    retry_after: Option<Duration>,
    pub(crate) body: bytes::Bytes,
}

/// What a client learns of its server, and what it owes it. Clones of the client share it.
#[derive(Debug)]
pub(crate) struct State {
    server: Mutex<Option<Arc<Health>>>,
    /// Begins every key of this client.
    prefix: String,
    next_key: AtomicU64,
    answered: Mutex<Vec<String>>,
}

impl State {
    pub(crate) fn new(prefix: String) -> Self {
        Self { server: Mutex::default(), prefix, next_key: AtomicU64::new(0), answered: Mutex::default() }
    }

    fn new_key(&self) -> String {
        format!("{}-{}", self.prefix, self.next_key.fetch_add(1, Ordering::Relaxed))
    }

    fn take_answered(&self) -> Vec<String> {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let from = answered.len().saturating_sub(MAX_ANSWERED);
        answered.split_off(from)
    }

    /// The answer of a key has arrived; the next request says so.
    pub(crate) fn has_arrived(&self, key: String) {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).push(key);
    }

    fn known_server(&self) -> Option<Arc<Health>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_server(&self, server: Option<Arc<Health>>) {
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = server;
    }
}

/// A request under which a tool runs at most once.
pub(crate) trait Keyed: Serialize + Clone {
    fn key(&mut self) -> &mut Option<String>;
    fn incarnation(&mut self) -> &mut Option<String>;
    fn answered(&mut self) -> &mut Vec<String>;
}

macro_rules! keyed {
    ($($request:ident)*) => {
        $(impl Keyed for $request {
            fn key(&mut self) -> &mut Option<String> {
                &mut self.idempotency_key
            }

            fn incarnation(&mut self) -> &mut Option<String> {
                &mut self.incarnation
            }

            fn answered(&mut self) -> &mut Vec<String> {
                &mut self.answered
            }
        })*
    };
}

keyed! { ExecuteRequest BatchRequest }

/// A request that may be sent more than once.
#[derive(Debug)]
pub(crate) struct Sending<R> {
    request: R,
    attempts: Attempts,
    /// The key, if the client chose it.
    pub(crate) own_key: Option<String>,
    may_repeat: bool,
    restarts: u32,
}

/// What an answer says to who may send its request again.
#[derive(Deserialize)]
struct Verdict {
    #[serde(default)]
    error: Option<ErrorBody>,
    #[serde(default)]
    meta: Option<VerdictMeta>,
}

#[derive(Deserialize)]
struct VerdictMeta {
    #[serde(default)]
    executed: Option<bool>,
}

impl<R: Keyed> Sending<R> {
    /// Gives a request a key, if it is of use, and so many attempts within a limit.
    ///
    /// # Errors
    /// The server cannot be asked what it is able to.
    pub(crate) async fn new(client: &HttpServiceClient, mut request: R, limit: Duration) -> Result<Self> {
        let attempts = Attempts::new(client.retries, Instant::now() + limit);
        let mut own_key = None;
        let mut may_repeat = false;
        if client.retries > 0 {
            let server = client.server().await?;
            let has = |feature: &str| server.features.iter().any(|known| known == feature);
            may_repeat = has("idempotency");
            if may_repeat && request.key().is_none() && has("acknowledge") {
                own_key = Some(client.state.new_key());
                request.key().clone_from(&own_key);
                *request.answered() = client.state.take_answered();
            }
            may_repeat &= request.key().is_some();
            if may_repeat && request.incarnation().is_none() {
                request.incarnation().clone_from(&server.incarnation);
            }
        }
        Ok(Self { request, attempts, own_key, may_repeat, restarts: 0 })
    }

    pub(crate) fn request(&self) -> &R {
        &self.request
    }

    /// Whether it may arrive twice.
    pub(crate) fn may_repeat(&self) -> bool {
        self.may_repeat
    }

    pub(crate) fn time_left(&self) -> Duration {
        self.attempts.time_left()
    }

    /// Whether to send it again after an answer, or none; waits before that.
    ///
    /// # Errors
    /// It would not be known whether the tool runs twice.
    pub(crate) async fn again(&mut self, client: &HttpServiceClient, outcome: &Result<Reply>) -> Result<bool> {
        let reply = match outcome {
            Ok(reply) => reply,
            Err(error) => return Ok(self.attempts.after(error, self.may_repeat) && self.attempts.another(None).await),
        };
        if reply.status == StatusCode::CONFLICT && self.request.incarnation().is_some() && reply.is_of_another_start() {
            return self.meet_another_start(client).await;
        }
        let refused = is_passing(reply.status) && reply.was_not_executed().unwrap_or(self.may_repeat);
        Ok(refused && self.attempts.another(reply.retry_after).await)
    }

    /// The server was started anew since the client learned what it is: nothing of this request ran there.
    async fn meet_another_start(&mut self, client: &HttpServiceClient) -> Result<bool> {
        if self.attempts.sent {
            let why = "the server was restarted after the request was sent, and whether its tool ran is not known";
            return Err(ClientError::Connection { url: client.url.clone(), why: why.to_owned(), sent: true });
        }
        if self.restarts == MAX_RESTARTS {
            return Ok(false);
        }
        self.restarts += 1;
        client.state.set_server(None);
        self.request.incarnation().clone_from(&client.server().await?.incarnation);
        Ok(true)
    }
}

impl Reply {
    /// Whether it says that no tool was entered; none where it is no answer of this API.
    fn was_not_executed(&self) -> Option<bool> {
        let verdict: Verdict = serde_json::from_slice(&self.body).ok()?;
        // Servers that do not say so may have run it.
        Some(verdict.meta?.executed == Some(false))
    }

    fn is_of_another_start(&self) -> bool {
        let verdict = serde_json::from_slice::<Verdict>(&self.body).ok();
        verdict.and_then(|verdict| verdict.error?.reason).as_deref() == Some("server_restarted")
    }
}

impl HttpServiceClient {
    /// What the server is, asked once.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) async fn server(&self) -> Result<Arc<Health>> {
        if let Some(server) = self.state.known_server() {
            return Ok(server);
        }
        let server = Arc::new(match self.health().await {
            Ok(health) => health,
            // Whatever it is, it promises nothing.
            Err(ClientError::Protocol { .. } | ClientError::Failed(_)) => Health {
                status: String::new(),
                timestamp: String::new(),
                title: String::new(),
                version: String::new(),
                incarnation: None,
                features: Vec::new(),
            },
            Err(error) => return Err(error),
        });
        self.state.set_server(Some(server.clone()));
        Ok(server)
    }

    /// Runs what a request asks for, once.
    ///
    /// # Errors
    /// There is no answer.
    pub(crate) async fn run_once<R: Keyed>(&self, route: &str, request: R, limit: Duration) -> Result<Reply> {
        let mut sending = Sending::new(self, request, limit).await?;
        let url = format!("{}{route}", self.api);
        loop {
            let body = self.http.post(&url).json(sending.request());
            let outcome = self.once(body, sending.time_left()).await;
            if sending.again(self, &outcome).await? {
                continue;
            }
            if let (Ok(_), Some(key)) = (&outcome, sending.own_key) {
                self.state.has_arrived(key);
            }
            return outcome;
        }
    }

    /// Asks for something that may be asked for twice.
    ///
    /// # Errors
    /// There is no answer.
    pub(crate) async fn ask(&self, request: impl Fn() -> RequestBuilder, limit: Duration) -> Result<Reply> {
        let mut attempts = Attempts::new(self.retries, Instant::now() + limit);
        loop {
            let outcome = self.once(request(), attempts.time_left()).await;
            let again = match &outcome {
                Ok(reply) => {
                    let refused = is_passing(reply.status) && reply.was_not_executed().unwrap_or(true);
                    refused && attempts.another(reply.retry_after).await
                }
                Err(error) => attempts.after(error, true) && attempts.another(None).await,
            };
            if !again {
                return outcome;
            }
        }
    }

    /// Sends a request, and reads the answer.
    ///
    /// # Errors
    /// There is none within the limit.
    pub(crate) async fn once(&self, request: RequestBuilder, limit: Duration) -> Result<Reply> {
        let response = self.signed(request).timeout(limit).send().await;
        self.read(response.map_err(|error| self.failure(&error, limit))?, limit).await
    }

    /// Reads an answer to its end.
    ///
    /// # Errors
    /// It does not come to an end.
    pub(crate) async fn read(&self, response: Response, limit: Duration) -> Result<Reply> {
        let (status, retry_after) = (response.status(), retry_after(response.headers()));
        let body = response.bytes().await.map_err(|error| self.failure(&error, limit))?;
        Ok(Reply { status, retry_after, body })
    }

    /// The head of an answer, whatever its status; its body may take any time.
    ///
    /// # Errors
    /// There is none within the limit.
    pub(crate) async fn open(&self, request: RequestBuilder, limit: Duration) -> Result<Response> {
        match tokio::time::timeout(limit, self.signed(request).send()).await {
            Ok(response) => response.map_err(|error| self.failure(&error, limit)),
            Err(_) => Err(self.timeout(limit)),
        }
    }

    fn signed(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    fn failure(&self, error: &reqwest::Error, limit: Duration) -> ClientError {
        // One that did not even come to a connection has its own, shorter limit.
        if error.is_timeout() && !error.is_connect() {
            return self.timeout(limit);
        }
        let sent = !error.is_connect() && !error.is_builder();
        ClientError::Connection { url: self.url.clone(), why: chain(error), sent }
    }

    fn timeout(&self, limit: Duration) -> ClientError {
        ClientError::Timeout { url: self.url.clone(), seconds: limit.as_secs_f64() }
    }

    pub(crate) fn protocol(&self, status: StatusCode) -> ClientError {
        ClientError::Protocol { url: self.url.clone(), status: status.as_u16() }
    }

    /// An answer in its envelope, whatever the status.
    ///
    /// # Errors
    /// It is none of this API.
    pub(crate) fn envelope<D: DeserializeOwned>(&self, reply: &Reply) -> Result<Envelope<D>> {
        serde_json::from_slice(&reply.body).map_err(|_| self.protocol(reply.status))
    }

    /// How long the server may take for a call, and how long it is waited for.
    pub(crate) fn limits(&self, named: Option<f64>) -> (Option<f64>, Duration) {
        let seconds = named.or(self.timeout.map(|timeout| timeout.as_secs_f64()));
        // What is no time is refused by the server, in better words.
        let limit = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(LONGEST_CALL);
        (seconds, limit.min(LONGEST_CALL) + MARGIN)
    }
}
