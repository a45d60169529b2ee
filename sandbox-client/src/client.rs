//! One method per route.

use sandbox_types::{CreateSession, Envelope, ExecuteRequest, ToolInfo, WorkerId};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// Talks to one server for one worker.
#[derive(Clone, Debug)]
pub struct HttpServiceClient {
    http: reqwest::Client,
    url: String,
    worker: WorkerId,
    token: Option<String>,
}

/// Why there is no answer. A tool that failed is an answer: look at [`Envelope::success`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server was not reached, or the connection broke.
    #[error("{url} does not answer: {source}")]
    Connection {
        /// Where.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// What answered does not speak this API.
    #[error("{url} answered {status} with something that is no answer of this API")]
    Protocol {
        /// Where.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The server refused.
    #[error("{}", .0.message)]
    Refused(Box<Envelope>),
    /// The HTTP client cannot be made.
    #[error("the HTTP client cannot be made: {0}")]
    Setup(String),
    /// The parameters are not JSON.
    #[error("the parameters are not JSON: {0}")]
    Params(serde_json::Error),
}

type Result<T, E = ClientError> = std::result::Result<T, E>;

impl HttpServiceClient {
    /// A client of the server at `url`, such as `http://127.0.0.1:18890`.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub fn new(url: impl Into<String>, worker: WorkerId) -> Result<Self> {
        let url = url.into().trim_end_matches('/').to_owned();
        // The provider is named here: a program may link several, and then none is the default.
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| ClientError::Setup(error.to_string()))?
            .with_root_certificates(rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() })
            .with_no_client_auth();
        let mut http = reqwest::Client::builder().tls_backend_preconfigured(tls);
        if is_loopback(&url) {
            // A proxy of the environment cannot reach this machine's own server, and must not see its token.
            http = http.no_proxy();
        }
        let http = http.build();
        let http = http.map_err(|error| ClientError::Setup(error.to_string()))?;
        Ok(Self { http, url, worker, token: None })
    }

    /// Sends this token with every request.
    pub fn with_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Who this client is.
    pub fn worker(&self) -> &WorkerId {
        &self.worker
    }

    /// Runs a tool.
    ///
    /// # Errors
    /// There is no answer; a tool's own failure is one.
    pub async fn execute(&self, action: &str, params: impl Serialize) -> Result<Envelope> {
        let mut request = ExecuteRequest::new(self.worker.clone(), action);
        request.params = Some(serde_json::value::to_raw_value(&params).map_err(ClientError::Params)?);
        self.execute_request(&request).await
    }

    /// Runs a tool, with every field of the request in the caller's hand.
    ///
    /// # Errors
    /// There is no answer; a tool's own failure is one.
    pub async fn execute_request(&self, request: &ExecuteRequest) -> Result<Envelope> {
        self.post("/execute", request).await
    }

    /// Makes a session, or finds the one that is there.
    ///
    /// # Errors
    /// There is no answer; a refusal is one.
    pub async fn create_session(&self, request: &CreateSession) -> Result<Envelope> {
        self.post("/session/create", request).await
    }

    /// The worker's sessions.
    ///
    /// # Errors
    /// There is no answer; a refusal is one.
    pub async fn list_sessions(&self) -> Result<Envelope> {
        self.post("/session/list", &json!({ "worker_id": self.worker })).await
    }

    /// Every tool that is not hidden.
    ///
    /// # Errors
    /// There is no answer, or a refusal.
    pub async fn tools(&self) -> Result<Vec<ToolInfo>> {
        let mut answer: Value = self.send(self.http.get(format!("{}/tools", self.url))).await?;
        serde_json::from_value(answer["tools"].take()).map_err(|_| self.protocol(200))
    }

    /// One tool, by any of its names.
    ///
    /// # Errors
    /// There is no answer, or there is no such tool.
    pub async fn tool(&self, name: &str) -> Result<ToolInfo> {
        self.send(self.http.get(format!("{}/tools/{name}/schema", self.url))).await
    }

    async fn post<T: DeserializeOwned>(&self, route: &str, body: &impl Serialize) -> Result<T> {
        self.send(self.http.post(format!("{}{route}", self.url)).json(body)).await
    }

    async fn send<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let broken = |source| ClientError::Connection { url: self.url.clone(), source };
        let response = request.send().await.map_err(broken)?;
        let status = response.status().as_u16();
        let body = response.bytes().await.map_err(broken)?;
        match serde_json::from_slice(&body) {
            Ok(answer) => Ok(answer),
            Err(_) => Err(match serde_json::from_slice::<Envelope>(&body) {
                Ok(refusal) => ClientError::Refused(Box::new(refusal)),
                Err(_) => self.protocol(status),
            }),
        }
    }

    fn protocol(&self, status: u16) -> ClientError {
        ClientError::Protocol { url: self.url.clone(), status }
    }
}

fn is_loopback(url: &str) -> bool {
    let host = reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
    host.is_some_and(|host| host == "localhost" || host == "[::1]" || host.starts_with("127."))
}
