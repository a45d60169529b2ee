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
    error::{ClientError, Result, root},
    retry::{Attempts, is_passing, retry_after},
};

/// How much longer than the server a client waits: who gives up first must be the server, which then says so.
const MARGIN: Duration = Duration::from_secs(5);
/// How long a call without a limit of its own is waited for; `server.max_timeout_seconds` is as long, if nothing else is said.
const LONGEST_CALL: Duration = Duration::from_hours(1);
/// Limit of requests that make sessions or get resources ready (`initialize_timeout_seconds` is 300).
pub(crate) const SLOW: Duration = Duration::from_secs(305);
/// Limit of all other requests that run no tool.
pub(crate) const QUICK: Duration = Duration::from_secs(30);
/// The longest limit of a call: longer ones are as good as none for the clock.
const MAX_LIMIT: Duration = Duration::from_hours(8760);
/// Keys that one request says have been answered.
const MAX_ANSWERED: usize = 64;
/// Keys that are kept to be said; the server forgets the others after ten minutes.
const MAX_KEPT: usize = 10_000;
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
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        if answered.len() < MAX_KEPT {
            answered.push(key);
        }
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
    /// Not so much time is left any more.
    fn shorten(&mut self, left: Duration);
}

macro_rules! keyed {
    ($($request:ident: $shorten:expr;)*) => {
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

            fn shorten(&mut self, left: Duration) {
                let shorten: fn(&mut Self, Duration) = $shorten;
                shorten(self, left);
            }
        })*
    };
}

keyed! {
    ExecuteRequest: |request, left| {
        if let Some(timeout) = &mut request.timeout {
            *timeout = timeout.min(left.as_secs_f64());
        }
    };
    // Its limits are those of its actions, of which nobody knows which have run.
    BatchRequest: |_, _| {};
}

/// A request that may be sent more than once.
#[derive(Debug)]
pub(crate) struct Sending<R> {
    request: R,
    attempts: Attempts,
    /// The key, if the client chose it.
    own_key: Option<String>,
    may_repeat: bool,
    restarts: u32,
    sent: u32,
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
            // One that cannot tell its starts apart would run again what an earlier one ran.
            may_repeat = has("idempotency") && server.incarnation.is_some();
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
        Ok(Self { request, attempts, own_key, may_repeat, restarts: 0, sent: 0 })
    }

    /// The request, for an attempt.
    pub(crate) fn attempt(&mut self) -> &R {
        if self.attempts.may_have_arrived() {
            let left = self.attempts.time_left().saturating_sub(MARGIN).max(Duration::from_millis(1));
            self.request.shorten(left);
        }
        self.attempts.begin();
        self.sent += 1;
        &self.request
    }

    /// The attempt was taken.
    pub(crate) fn was_taken(&mut self) {
        self.attempts.learn(true);
    }

    /// The key to acknowledge: of a request that cannot arrive once more.
    pub(crate) fn finished_key(&self) -> Option<String> {
        self.own_key.clone().filter(|_| !self.attempts.may_have_arrived())
    }

    /// The last outcome, with what earlier attempts may have done.
    pub(crate) fn give_up<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|error| self.attempts.give_up(error))
    }

    /// How often it was sent.
    pub(crate) fn attempts_made(&self) -> u32 {
        self.sent
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
        if reply.status == StatusCode::CONFLICT && self.may_repeat && reply.is_of_another_start() {
            self.attempts.learn(false);
            return self.meet_another_start(client).await;
        }
        if !is_passing(reply.status) {
            self.attempts.learn(false);
            return Ok(false);
        }
        let not_executed = reply.was_not_executed();
        // What is in the way may have passed it on before it said so.
        self.attempts.learn(not_executed != Some(true));
        Ok(not_executed.unwrap_or(self.may_repeat) && self.attempts.another(reply.retry_after).await)
    }

    /// The server was started anew since the client learned what it is: nothing of this request ran there.
    async fn meet_another_start(&mut self, client: &HttpServiceClient) -> Result<bool> {
        // What is asked for from now on is meant for this one.
        client.state.set_server(None);
        if self.attempts.may_have_arrived() {
            let why = "the server was restarted after the request was sent, and whether its tool ran is not known";
            return Err(ClientError::Connection { url: client.url.clone(), why: why.to_owned(), sent: true });
        }
        // Under a key of the caller's an earlier call may have run.
        if self.own_key.is_none() || self.restarts == MAX_RESTARTS {
            return Ok(false);
        }
        self.restarts += 1;
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
        let (health, lasting) = match self.health().await {
            Ok(health) => (health, true),
            // Whatever it is, it promises nothing; what is in the way of a server that boots, only for now.
            Err(ClientError::Protocol { status, .. }) => (Health::default(), status < 500 && status != 429),
            Err(ClientError::Failed(_)) => (Health::default(), false),
            Err(error) => return Err(error),
        };
        let server = Arc::new(health);
        if lasting {
            self.state.set_server(Some(server.clone()));
        }
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
            let left = sending.time_left();
            let body = self.http.post(&url).json(sending.attempt());
            let outcome = self.once(body, left).await;
            if sending.again(self, &outcome).await? {
                continue;
            }
            if let (Ok(_), Some(key)) = (&outcome, sending.finished_key()) {
                self.state.has_arrived(key);
            }
            return sending.give_up(outcome);
        }
    }

    /// Asks for something that may be asked for twice.
    ///
    /// # Errors
    /// There is no answer.
    pub(crate) async fn ask(&self, request: impl Fn() -> RequestBuilder, limit: Duration) -> Result<Reply> {
        self.ask_for(request, limit, true).await
    }

    /// Asks for something; for what must not arrive twice only until it may have arrived.
    ///
    /// # Errors
    /// There is no answer.
    pub(crate) async fn ask_for(
        &self,
        request: impl Fn() -> RequestBuilder,
        limit: Duration,
        may_repeat: bool,
    ) -> Result<Reply> {
        let mut attempts = Attempts::new(self.retries, Instant::now() + limit);
        loop {
            let outcome = self.once(request(), attempts.time_left()).await;
            let again = match &outcome {
                Ok(reply) => {
                    let refused = is_passing(reply.status) && reply.was_not_executed().unwrap_or(may_repeat);
                    refused && attempts.another(reply.retry_after).await
                }
                Err(error) => attempts.after(error, may_repeat) && attempts.another(None).await,
            };
            if !again {
                return outcome.map_err(|error| attempts.give_up(error));
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
            Some(token) => request.bearer_auth(token.as_str()),
            None => request,
        }
    }

    pub(crate) fn failure(&self, error: &reqwest::Error, limit: Duration) -> ClientError {
        // One that did not even come to a connection has its own, shorter limit.
        if error.is_timeout() && !error.is_connect() {
            return self.timeout(limit);
        }
        let sent = !error.is_connect() && !error.is_builder();
        ClientError::Connection { url: self.url.clone(), why: root(error), sent }
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
    ///
    /// # Errors
    /// What is named is no time.
    pub(crate) fn limits(&self, named: Option<f64>) -> Result<(Option<f64>, Duration)> {
        let Some(seconds) = named.or(self.timeout.map(|timeout| timeout.as_secs_f64())) else {
            return Ok((None, LONGEST_CALL + MARGIN));
        };
        // JSON has no other numbers, and no limit at all would take their place.
        let limit = Duration::try_from_secs_f64(seconds).ok().filter(|limit| !limit.is_zero());
        let limit = limit.ok_or_else(|| {
            ClientError::Invalid(format!("timeout: expected a positive number of seconds, found {seconds}"))
        })?;
        Ok((Some(seconds), limit.min(MAX_LIMIT) + MARGIN))
    }
}
