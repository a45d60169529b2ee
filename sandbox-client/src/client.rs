//! One method per route.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use reqwest::{RequestBuilder, Url, header::HeaderValue};
use sandbox_types::{
    BatchRequest, CreateSession, DestroySession, Envelope, ErrorCode, ExecuteRequest, Health, InitBatch, InitResource,
    Ready, RefreshSessions, ResourceInfo, SessionId, ShutdownBegun, ShutdownRequest, ToolInfo, WarmupAnswer,
    WarmupRequest, WarmupStatus, WorkerId, WorkerRequest,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use crate::{
    error::{ClientError, Result},
    transport::{QUICK, SLOW, State},
};

/// How long a connection may take to come about.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How often a request is sent again, where nothing else is said.
const RETRIES: u32 = 5;
/// The longest that a batch is waited for.
const MAX_BATCH: Duration = Duration::from_hours(8760);
/// How long a connection is kept that is not used: less than the five seconds after which servers close it.
const KEEP_IDLE: Duration = Duration::from_secs(4);
/// After this a connection whose other end does not acknowledge anything is dead.
const DEAD_AFTER: Duration = Duration::from_mins(1);

/// Talks to one server for one worker.
///
/// Routes that answer an envelope return it as it came, failures included: look at [`Envelope::success`]. Requests that did not
/// arrive, or that the server refused for now, are sent again, with growing pauses; one whose tool may have run only where the
/// server knows idempotency keys, so that no tool runs twice.
#[derive(Clone, Debug)]
pub struct HttpServiceClient {
    pub(crate) http: reqwest::Client,
    pub(crate) url: String,
    /// Where the routes are that every server of the contract has.
    pub(crate) api: String,
    base: Url,
    worker: WorkerId,
    pub(crate) token: Option<Token>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) retries: u32,
    pub(crate) state: Arc<State>,
}

impl HttpServiceClient {
    /// A client of the server at `url`, such as `http://127.0.0.1:18890`.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when the address is no URL, or the HTTP client cannot be made.
    pub fn new(url: impl Into<String>, worker: WorkerId) -> Result<Self> {
        let url = url.into().trim_end_matches('/').to_owned();
        let base = parse(&url)?;
        let http = http(&base)?;
        let state = Arc::new(State::new(format!("{:016x}", random())));
        let api = format!("{url}/api/v1");
        Ok(Self { http, url, api, base, worker, token: None, timeout: None, retries: RETRIES, state })
    }

    /// Sends this token with every request.
    pub fn with_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(Token(token.into()));
        self
    }

    pub(crate) fn without_token(&self) -> Self {
        Self { token: None, ..self.clone() }
    }

    /// The same client with connections of its own, for another runtime: those of one that stands still do not answer.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when the HTTP client cannot be made.
    pub(crate) fn apart(&self) -> Result<Self> {
        Ok(Self { http: http(&self.base)?, ..self.clone() })
    }

    /// How long a call may take that names no limit itself; the server ends it then, and is waited for a little longer. Without
    /// one the limits of the tool and of the server hold.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How often a request is sent again that may be; 5 where nothing is said.
    ///
    /// With 0 a call has no idempotency key of the client's choice: the server ends it when its connection ends, and not up
    /// to 30 seconds later.
    pub fn with_retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Who this client is.
    pub fn worker(&self) -> &WorkerId {
        &self.worker
    }

    /// The address of the server.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether the server is on this machine.
    pub(crate) fn is_local(&self) -> bool {
        self.base.scheme() == "http" && self.base.host_str().is_some_and(is_loopback)
    }

    /// The host of the server, as a program takes it.
    #[cfg(target_os = "linux")]
    pub(crate) fn host(&self) -> String {
        self.base.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned()
    }

    /// The port of the server.
    #[cfg(target_os = "linux")]
    pub(crate) fn port(&self) -> u16 {
        self.base.port_or_known_default().unwrap_or_default()
    }

    /// Host and port of the server.
    #[cfg(target_os = "linux")]
    pub(crate) fn authority(&self) -> String {
        let host = self.host();
        let host = if host == "localhost" { "127.0.0.1" } else { &host };
        format!("{host}:{}", self.port())
    }

    /// The same client of another server.
    #[cfg(target_os = "linux")]
    pub(crate) fn at(&self, url: &str) -> Result<Self> {
        let other = Self::new(url, self.worker.clone())?;
        Ok(Self { token: self.token.clone(), timeout: self.timeout, retries: self.retries, ..other })
    }

    /// `POST /execute`: runs a tool.
    ///
    /// # Errors
    /// There is no answer, or `params` cannot be written as JSON; a tool's own failure is an answer.
    pub async fn execute(&self, action: &str, params: impl Serialize) -> Result<Envelope> {
        self.execute_request(&self.request(action, params)?).await
    }

    /// A request for a tool, for its fields to be changed.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when `params` cannot be written as JSON.
    pub fn request(&self, action: &str, params: impl Serialize) -> Result<ExecuteRequest> {
        let mut request = ExecuteRequest::new(self.worker.clone(), action);
        request.params = Some(to_raw(&params)?);
        Ok(request)
    }

    /// `POST /execute`, with every field of the request in the caller's hand.
    ///
    /// # Errors
    /// There is no answer; a tool's own failure is one.
    pub async fn execute_request(&self, request: &ExecuteRequest) -> Result<Envelope> {
        self.execute_as(request).await
    }

    /// As [`execute_request`](Self::execute_request), with the result as it is asked for: [`RawValue`] leaves it as JSON.
    ///
    /// # Errors
    /// There is no answer, or its result is none of this type.
    pub(crate) async fn execute_as<D: DeserializeOwned>(&self, request: &ExecuteRequest) -> Result<Envelope<D>> {
        let (timeout, limit) = self.limits(request.timeout)?;
        let reply = self.run_once("/execute", ExecuteRequest { timeout, ..request.clone() }, limit).await?;
        self.envelope(&reply)
    }

    /// `POST /execute/batch`: runs several tools; the data of the answer is a [`BatchResult`](sandbox_types::BatchResult).
    ///
    /// # Errors
    /// There is no answer; failures of tools are one.
    pub async fn execute_batch(&self, request: &BatchRequest) -> Result<Envelope> {
        let (timeout, mut limit) = self.limits(request.timeout)?;
        let mut all = Duration::ZERO;
        for action in &request.actions {
            let (_, its) = self.limits(action.timeout.or(request.timeout))?;
            limit = limit.max(its);
            all = all.saturating_add(its);
        }
        let limit = if request.parallel { limit } else { limit.max(all).min(MAX_BATCH) };
        let reply = self.run_once("/execute/batch", BatchRequest { timeout, ..request.clone() }, limit).await?;
        self.envelope(&reply)
    }

    /// `POST /session/create`: makes a session, or finds the one that is there; the data of the answer is a
    /// [`CreatedSession`](sandbox_types::CreatedSession).
    ///
    /// # Errors
    /// There is no answer; a refusal is one.
    pub async fn create_session(&self, request: &CreateSession) -> Result<Envelope> {
        self.post("/session/create", request, SLOW).await
    }

    /// `POST /session/destroy`: ends a session; its cleanup goes on behind. The data of the answer is a
    /// [`DestroyedSession`](sandbox_types::DestroyedSession).
    ///
    /// # Errors
    /// There is no answer; a refusal is one.
    pub async fn destroy_session(&self, request: &DestroySession) -> Result<Envelope> {
        // By its name it may be another one the second time.
        let again = request.session_id.is_some();
        let post = || self.http.post(format!("{}/session/destroy", self.api)).json(request);
        self.envelope(&self.ask_for(post, QUICK, again).await?)
    }

    /// `POST /session/destroy` of the session with this id.
    ///
    /// # Errors
    /// There is no answer; a refusal is one.
    pub async fn destroy_session_id(&self, id: &SessionId) -> Result<Envelope> {
        self.destroy_session(&DestroySession {
            worker_id: self.worker.clone(),
            resource_type: None,
            session: None,
            session_id: Some(id.clone()),
        })
        .await
    }

    /// `POST /session/list`: the worker's sessions; the data of the answer is a [`SessionList`](sandbox_types::SessionList).
    ///
    /// # Errors
    /// There is no answer; a refusal is one.
    pub async fn list_sessions(&self) -> Result<Envelope> {
        self.post("/session/list", &self.me(), QUICK).await
    }

    /// `POST /session/refresh`: renews the time to live of one session, or of all; the data of the answer is a
    /// [`RefreshAnswer`](sandbox_types::RefreshAnswer).
    ///
    /// # Errors
    /// There is no answer; a refusal is one.
    pub async fn refresh_sessions(&self, request: &RefreshSessions) -> Result<Envelope> {
        self.post("/session/refresh", request, QUICK).await
    }

    /// `POST /lifecycle/heartbeat`: renews the time to live of all sessions; the data of the answer is a
    /// [`Heartbeat`](sandbox_types::Heartbeat).
    ///
    /// # Errors
    /// There is no answer; a refusal is one.
    pub async fn heartbeat(&self) -> Result<Envelope> {
        self.post("/lifecycle/heartbeat", &self.me(), QUICK).await
    }

    /// `POST /lifecycle/status`: what the worker has; the data of the answer is a
    /// [`WorkerStatus`](sandbox_types::WorkerStatus).
    ///
    /// # Errors
    /// There is no answer; a refusal is one.
    pub async fn status(&self) -> Result<Envelope> {
        self.post("/lifecycle/status", &self.me(), QUICK).await
    }

    /// `POST /worker/disconnect`: ends every session of the worker; the data of the answer is a
    /// [`Disconnected`](sandbox_types::Disconnected).
    ///
    /// # Errors
    /// There is no answer; a refusal is one.
    pub async fn disconnect(&self) -> Result<Envelope> {
        // Once: the sessions may be others the second time.
        let post = || self.http.post(format!("{}/worker/disconnect", self.api)).json(&self.me());
        self.envelope(&self.ask_for(post, QUICK, false).await?)
    }

    /// `POST /init/resource`: [`create_session`](Self::create_session) in the words of older clients.
    ///
    /// # Errors
    /// There is no answer; a refusal is one.
    pub async fn init_resource(&self, request: &InitResource) -> Result<Envelope> {
        self.post("/init/resource", request, SLOW).await
    }

    /// `POST /init/batch`: makes several sessions; what failed is told beside what did not.
    ///
    /// # Errors
    /// There is no answer; a refusal is one.
    pub async fn init_batch(&self, request: &InitBatch) -> Result<Envelope> {
        self.post("/init/batch", request, SLOW).await
    }

    /// `GET /tools`: every tool that is not hidden.
    ///
    /// # Errors
    /// There is no answer, or a refusal.
    pub async fn tools(&self) -> Result<Vec<ToolInfo>> {
        self.listed("/tools", "tools").await
    }

    /// `GET /tools/{name}/schema`: one tool, by any of its names.
    ///
    /// # Errors
    /// There is no answer, or there is no such tool.
    pub async fn tool(&self, name: &str) -> Result<ToolInfo> {
        let url = self.route(&["tools", name, "schema"]);
        self.bare(|| self.http.get(url.clone()), QUICK).await
    }

    /// `GET /resources`: what runs, and its limits.
    ///
    /// # Errors
    /// There is no answer, or a refusal.
    pub async fn resources(&self) -> Result<Vec<ResourceInfo>> {
        self.listed("/resources", "resources").await
    }

    /// `POST /warmup`: gets resources ready, all of them if none is named.
    ///
    /// # Errors
    /// There is no answer, or a refusal; what did not get ready is told in the answer.
    pub async fn warmup(&self, backends: Option<Vec<String>>) -> Result<WarmupAnswer> {
        let body = WarmupRequest { backends };
        self.bare(|| self.http.post(format!("{}/warmup", self.api)).json(&body), SLOW).await
    }

    /// `GET /warmup/status`: how far each resource is.
    ///
    /// # Errors
    /// There is no answer, or a refusal.
    pub async fn warmup_status(&self) -> Result<WarmupStatus> {
        self.bare(|| self.http.get(format!("{}/warmup/status", self.api)), QUICK).await
    }

    /// `GET /health`: that the server is there, and what it is able to.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn health(&self) -> Result<Health> {
        self.bare(|| self.http.get(format!("{}/health", self.url)), QUICK).await
    }

    /// `GET /ready`: whether the server takes calls, [`Ready::status`] says so; it is asked once.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn ready(&self) -> Result<Ready> {
        self.ready_within(QUICK).await
    }

    pub(crate) async fn ready_within(&self, limit: Duration) -> Result<Ready> {
        let reply = self.once(self.http.get(format!("{}/ready", self.url)), limit).await?;
        serde_json::from_slice(&reply.body).map_err(|_| self.protocol(reply.status))
    }

    /// `POST /server/shutdown`: ends the server, if it permits that (`server.allow_shutdown`).
    ///
    /// # Errors
    /// There is no answer, or a refusal.
    pub async fn shutdown_server(&self, request: &ShutdownRequest) -> Result<ShutdownBegun> {
        // Once: it may be another server by then.
        let reply = self.once(self.http.post(format!("{}/server/shutdown", self.api)).json(request), QUICK).await?;
        self.bare_reply(&reply)
    }

    pub(crate) fn me(&self) -> WorkerRequest {
        WorkerRequest { worker_id: self.worker.clone(), resource_type: None }
    }

    /// A route that answers its data plain.
    async fn bare<T: DeserializeOwned>(&self, request: impl Fn() -> RequestBuilder, limit: Duration) -> Result<T> {
        let reply = self.ask(request, limit).await?;
        self.bare_reply(&reply)
    }

    fn bare_reply<T: DeserializeOwned>(&self, reply: &crate::transport::Reply) -> Result<T> {
        let protocol = |_| self.protocol(reply.status);
        if reply.status.is_success() {
            return serde_json::from_slice(&reply.body).map_err(protocol);
        }
        Err(ClientError::of(serde_json::from_slice(&reply.body).map_err(protocol)?))
    }

    async fn listed<T: DeserializeOwned>(&self, route: &str, what: &str) -> Result<Vec<T>> {
        let mut answer: Value = self.bare(|| self.http.get(format!("{}{route}", self.api)), QUICK).await?;
        serde_json::from_value(answer[what].take()).map_err(|_| self.protocol(reqwest::StatusCode::OK))
    }

    /// A route that answers an envelope, whatever the status.
    async fn post(&self, route: &str, body: &impl Serialize, limit: Duration) -> Result<Envelope> {
        let reply = self.ask(|| self.http.post(format!("{}{route}", self.api)).json(body), limit).await?;
        self.envelope(&reply)
    }

    /// The address of a route with these parts, which may hold anything.
    pub(crate) fn route(&self, parts: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["api", "v1"]).extend(parts);
        }
        url
    }

    /// The address below `/runs` of these parts, and how the request says whose runs are meant.
    pub(crate) fn runs_url(&self, parts: &[&str]) -> (Url, Option<HeaderValue>) {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("runs").extend(parts);
        }
        let worker = self.worker.as_str();
        // Spaces at its ends do not survive as a header, and other than ASCII is no text there.
        let header = HeaderValue::from_str(worker).ok().filter(|_| worker.is_ascii() && worker.trim() == worker);
        if header.is_none() {
            url.query_pairs_mut().append_pair("worker_id", worker);
        }
        (url, header)
    }
}

/// The data of an answer; a failure is an error.
///
/// # Errors
/// It is a failure, or its data is not of this type.
pub(crate) fn data<T: DeserializeOwned>(answer: Envelope, url: &str) -> Result<T> {
    if !answer.success {
        return Err(ClientError::of(answer));
    }
    let status = answer.code.http_status();
    let protocol = |_| ClientError::Protocol { url: url.to_owned(), status };
    serde_json::from_value(answer.data.unwrap_or_default()).map_err(protocol)
}

/// The result of a call, read as what it is asked for; a failure is an error.
///
/// # Errors
/// It is a failure, or the result is not of this type.
pub(crate) fn result<T: DeserializeOwned>(answer: Envelope<Box<RawValue>>) -> Result<T> {
    let Envelope { success, code, message, data, error, temporary_session, meta } = answer;
    let json = data.as_deref().map_or("null", RawValue::get);
    if success {
        return serde_json::from_str(json).map_err(|error| {
            let tool = meta.tool.as_deref().unwrap_or("the tool");
            ClientError::Invalid(format!("the result of {tool} is not of the type that was asked for: {error}"))
        });
    }
    let data = serde_json::from_str(json).unwrap_or_default();
    Err(ClientError::of(Envelope { success, code, message, data, error, temporary_session, meta }))
}

/// Parameters as they are sent.
///
/// # Errors
/// They cannot be written as JSON.
pub(crate) fn to_raw(params: &impl Serialize) -> Result<Box<RawValue>> {
    serde_json::value::to_raw_value(params)
        .map_err(|error| ClientError::Invalid(format!("the parameters are not JSON: {error}")))
}

fn parse(url: &str) -> Result<Url> {
    // `localhost:80` would be one of a scheme `localhost`.
    let parsed = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https")).filter(Url::has_host);
    match parsed {
        Some(parsed) if !parsed.username().is_empty() || parsed.password().is_some() => Err(ClientError::Invalid(
            "expected the URL of a server without user and password; a token goes into `with_token`".to_owned(),
        )),
        Some(parsed) => Ok(parsed),
        None => Err(ClientError::Invalid(format!(
            "expected the URL of a server, such as http://127.0.0.1:18890, found `{url}`"
        ))),
    }
}

/// A secret, which is not shown.
#[derive(Clone)]
pub(crate) struct Token(String);

impl From<String> for Token {
    fn from(token: String) -> Self {
        Self(token)
    }
}

impl Token {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

fn http(base: &Url) -> Result<reqwest::Client> {
    make_http(base).map_err(|error| ClientError::Invalid(format!("no HTTP client can be made: {error}")))
}

fn make_http(base: &Url) -> Result<reqwest::Client, Box<dyn std::error::Error>> {
    // The provider is named here: a program may link several, and then none is the default.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() })
        .with_no_client_auth();
    let mut http = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(CONNECT_LIMIT)
        .pool_idle_timeout(KEEP_IDLE)
        .pool_max_idle_per_host(usize::MAX)
        .tcp_keepalive(DEAD_AFTER / 4);
    #[cfg(target_os = "linux")]
    {
        http = http.tcp_user_timeout(DEAD_AFTER);
    }
    if base.host_str().is_some_and(is_loopback) {
        // A proxy of the environment cannot reach this machine's own server, and must not see its token.
        http = http.no_proxy();
    }
    Ok(http.build()?)
}

fn is_loopback(host: &str) -> bool {
    let ip: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    host == "localhost" || ip.is_some_and(|ip| ip.is_loopback())
}

/// A number that no other client has.
pub(crate) fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| fastrand::u64(..))
}

/// Whether an answer says that what was to be ended is not there.
pub(crate) fn is_missing(error: &ClientError) -> bool {
    matches!(error.code(), Some(ErrorCode::NOT_FOUND | ErrorCode::SESSION_GONE))
}

#[cfg(test)]
mod tests {
    use sandbox_types::WorkerId;

    use super::{ClientError, HttpServiceClient};

    #[test]
    fn an_address_without_a_scheme_is_no_url() {
        let client = |url: &str| HttpServiceClient::new(url, WorkerId::parse("w").expect("a good id"));
        let secret = client("http://user:secret@127.0.0.1:1").expect_err("must be refused").to_string();
        assert!(secret.contains("without user") && !secret.contains("secret@"), "{secret}");
        let hidden = client("http://127.0.0.1:1").expect("is right").with_token("canary");
        assert!(!format!("{hidden:?}").contains("canary"));
        assert!(
            super::is_loopback("127.0.0.2") && super::is_loopback("[::1]") && !super::is_loopback("127.example.com")
        );
        for url in ["127.0.0.1:1", "localhost:1", "", "ftp://a", "http://"] {
            let error = client(url).expect_err("must be refused");
            assert!(matches!(&error, ClientError::Invalid(_)), "{url}: {error}");
            assert!(error.to_string().contains("http://127.0.0.1:18890"), "{error}");
        }
        client("http://127.0.0.1:1/").expect("is right");
    }
}
