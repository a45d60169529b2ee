//! One method per route.

use std::ops::Deref;

use reqwest::{RequestBuilder, Response, StatusCode, Url, header::HeaderValue};
use sandbox_types::{CreateSession, Envelope, ExecuteRequest, RunId, ToolInfo, WorkerId};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// Talks to one server for one worker.
#[derive(Clone, Debug)]
pub struct HttpServiceClient {
    pub(crate) http: reqwest::Client,
    pub(crate) url: String,
    base: Url,
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
    /// A stream broke before its last event, and joining it again did not help.
    #[error("{url}: the events {}broke off: {why}", .run_id.as_ref().map_or_else(String::new, |id| format!("of {id} ")))]
    Broken {
        /// Where.
        url: String,
        /// The run, where that was known yet: it may go on, and be followed from [`RunStream::last_event_id`].
        ///
        /// [`RunStream::last_event_id`]: crate::RunStream::last_event_id
        run_id: Option<RunId>,
        /// What happened last.
        why: String,
    },
    /// The address is no URL.
    #[error("expected the URL of a server, such as http://127.0.0.1:18890, found `{url}`")]
    Url {
        /// What came.
        url: String,
    },
    /// The HTTP client cannot be made.
    #[error("the HTTP client cannot be made: {0}")]
    Setup(String),
    /// The parameters are not JSON.
    #[error("the parameters are not JSON: {0}")]
    Params(serde_json::Error),
}

pub(crate) type Result<T, E = ClientError> = std::result::Result<T, E>;

impl HttpServiceClient {
    /// A client of the server at `url`, such as `http://127.0.0.1:18890`.
    ///
    /// # Errors
    /// The address is no URL, or the HTTP client cannot be made.
    pub fn new(url: impl Into<String>, worker: WorkerId) -> Result<Self> {
        let url = url.into().trim_end_matches('/').to_owned();
        // `localhost:80` would be one of a scheme `localhost`.
        let parsed = Url::parse(&url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let Some(base) = parsed.filter(Url::has_host) else {
            return Err(ClientError::Url { url });
        };
        // The provider is named here: a program may link several, and then none is the default.
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| ClientError::Setup(error.to_string()))?
            .with_root_certificates(rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() })
            .with_no_client_auth();
        let mut http = reqwest::Client::builder().tls_backend_preconfigured(tls);
        if base.host_str().is_some_and(is_loopback) {
            // A proxy of the environment cannot reach this machine's own server, and must not see its token.
            http = http.no_proxy();
        }
        let http = http.build();
        let http = http.map_err(|error| ClientError::Setup(error.to_string()))?;
        Ok(Self { http, url, base, worker, token: None })
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
        let mut answer: Value = self.get("/tools").await?;
        serde_json::from_value(answer["tools"].take()).map_err(|_| self.protocol(200))
    }

    /// One tool, by any of its names.
    ///
    /// # Errors
    /// There is no answer, or there is no such tool.
    pub async fn tool(&self, name: &str) -> Result<ToolInfo> {
        self.get(&format!("/tools/{name}/schema")).await
    }

    /// A route that answers its data plain.
    async fn get<T: DeserializeOwned>(&self, route: &str) -> Result<T> {
        let (status, body) = self.send(self.http.get(format!("{}{route}", self.url))).await?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|_| self.protocol(status.as_u16()));
        }
        Err(match serde_json::from_slice::<Envelope>(&body) {
            Ok(refusal) => ClientError::Refused(Box::new(refusal)),
            Err(_) => self.protocol(status.as_u16()),
        })
    }

    /// A route that answers an envelope, whatever the status.
    async fn post(&self, route: &str, body: &impl Serialize) -> Result<Envelope> {
        let (status, body) = self.send(self.http.post(format!("{}{route}", self.url)).json(body)).await?;
        serde_json::from_slice(&body).map_err(|_| self.protocol(status.as_u16()))
    }

    async fn send(&self, request: RequestBuilder) -> Result<(StatusCode, impl Deref<Target = [u8]> + use<>)> {
        let response = self.open(request).await?;
        Ok((response.status(), response.bytes().await.map_err(|source| self.broken(source))?))
    }

    /// The head of an answer, whatever its status.
    pub(crate) async fn open(&self, request: RequestBuilder) -> Result<Response> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        request.send().await.map_err(|source| self.broken(source))
    }

    /// What an enveloped route answers; a refusal is an error.
    pub(crate) async fn data<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let (status, body) = self.send(request).await?;
        let protocol = |_| self.protocol(status.as_u16());
        let answer: Envelope = serde_json::from_slice(&body).map_err(protocol)?;
        if !answer.success {
            return Err(ClientError::Refused(Box::new(answer)));
        }
        serde_json::from_value(answer.data.unwrap_or_default()).map_err(protocol)
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

    pub(crate) fn broken(&self, source: reqwest::Error) -> ClientError {
        ClientError::Connection { url: self.url.clone(), source }
    }

    pub(crate) fn protocol(&self, status: u16) -> ClientError {
        ClientError::Protocol { url: self.url.clone(), status }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host == "[::1]" || host.starts_with("127.")
}

#[cfg(test)]
mod tests {
    use sandbox_types::WorkerId;

    use super::{ClientError, HttpServiceClient};

    #[test]
    fn an_address_without_a_scheme_is_no_url() {
        let client = |url: &str| HttpServiceClient::new(url, WorkerId::parse("w").expect("a good id"));
        for url in ["127.0.0.1:1", "localhost:1", "", "ftp://a", "http://"] {
            let error = client(url).expect_err("must be refused");
            assert!(matches!(&error, ClientError::Url { .. }), "{url}: {error}");
            assert!(error.to_string().contains("http://127.0.0.1:18890"), "{error}");
        }
        client("http://127.0.0.1:1/").expect("is right");
    }
}
