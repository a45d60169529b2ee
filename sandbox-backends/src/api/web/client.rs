//! Requests to the APIs of services: with a key, with retries, and with no more in an error than the caller may know.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use reqwest::{
    Client, Method,
    header::{ACCEPT, HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
use sandbox_runtime::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::config::Secret;
use crate::outbound::{client_builder, read_body, request_failed, retry_after};

/// The most of an answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 8 << 20;

/// The most of a service's own words that an error repeats, in characters.
const MAX_WORDS: usize = 200;

/// A pause that is longer than this is not waited for: the caller may have something better to do.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// A service, as errors name it.
#[derive(Clone, Copy)]
pub(super) struct Service {
    pub(super) name: &'static str,
    /// The key of `apis.websearch` that holds its key.
    pub(super) setting: &'static str,
}

/// One request.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    /// Sent as JSON by POST; without one it is a GET.
    pub(super) body: Option<Value>,
    /// The key in it, which no error may show.
    pub(super) secret: Option<Secret>,
}

impl Request {
    pub(super) fn new(url: Url) -> Self {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        Self { url, headers, body: None, secret: None }
    }

    /// Adds a key, in a header and behind a prefix.
    /// An empty one is none: a variable that is not set, say.
    pub(super) fn key(mut self, header: HeaderName, prefix: &str, key: &Secret) -> Self {
        if key.expose().is_empty() {
            return self;
        }
        self.headers.insert(header, key.header(prefix));
        self.secret = Some(key.clone());
        self
    }

    pub(super) fn json(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }
}

/// The refusal of a service, before it is known what it means.
#[derive(Clone)]
pub(super) struct Refusal {
    pub(super) status: u16,
    /// What the service says about it, cut short and without the key.
    pub(super) words: String,
}

/// Why a request brought nothing.
pub(super) enum Failure {
    /// The service answered with an error.
    Refused(Refusal, Option<Duration>),
    /// There is no answer, or none that can be read.
    Failed(ToolError),
}

/// Connections to services, driven by the runtime that outlives calls, so that they are kept.
pub(super) struct ApiClient {
    client: Client,
    retries: usize,
}

impl ApiClient {
    pub(super) fn new(retries: u8) -> Result<Self> {
        // A redirect could take the key elsewhere.
        let builder = client_builder()?.redirect(Policy::none()).referer(false).connect_timeout(MAX_PAUSE);
        let client = builder.build().map_err(|_| ToolError::new(ErrorCode::INTERNAL_ERROR, "no HTTP client"))?;
        Ok(Self { client, retries: retries.into() })
    }

    /// Asks, again if the service is busy or away, and reads the answer as what it is documented to be.
    ///
    /// # Errors
    /// What `explain` makes of a refusal that it knows, and what [`refused`] makes of others; `API_RESPONSE_PARSE_ERROR` for
    /// an answer that is not as documented.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        context: &ToolContext,
        service: Service,
        request: Request,
        explain: impl Fn(&Refusal) -> Option<ToolError>,
    ) -> Result<T> {
        let secret = request.secret.clone();
        let ask = || {
            let (client, request) = (self.client.clone(), request.clone());
            let job = AbortOnDropHandle::new(context.spawn(send(client, service, request)));
            async move { job.await.unwrap_or_else(|_| Err(Failure::Failed(gone(service)))) }
        };
        let pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(250))
            .with_max_delay(MAX_PAUSE)
            .with_jitter()
            .with_max_times(self.retries);
        let answer = ask
            .retry(pauses)
            .when(Failure::may_pass)
            .adjust(|failure, pause| pause.map(|pause| failure.pause().unwrap_or(pause)))
            .await;
        match answer {
            Ok(body) => parse(service, &body),
            Err(Failure::Failed(error)) => Err(error),
            Err(Failure::Refused(refusal, _)) => {
                Err(explain(&refusal).unwrap_or_else(|| refused(service, &refusal, secret.is_some())))
            }
        }
    }
}

impl Failure {
    /// Whether it may be over soon.
    fn may_pass(&self) -> bool {
        match self {
            Self::Refused(refusal, pause) => {
                matches!(refusal.status, 429 | 500 | 502 | 503 | 504) && pause.is_none_or(|pause| pause <= MAX_PAUSE)
            }
            Self::Failed(error) => {
                matches!(error.body().reason.as_deref(), Some("connect" | "connection"))
            }
        }
    }

    /// How long the service asks to be left alone.
    fn pause(&self) -> Option<Duration> {
        match self {
            Self::Refused(_, pause) => *pause,
            Self::Failed(_) => None,
        }
    }
}

/// Sends a request and reads the answer.
async fn send(client: Client, service: Service, request: Request) -> Result<Vec<u8>, Failure> {
    let failed = |error| Failure::Failed(request_failed(service.name, &error));
    let method = if request.body.is_some() { Method::POST } else { Method::GET };
    let mut builder = client.request(method, request.url).headers(request.headers);
    if let Some(body) = &request.body {
        builder = builder.json(body);
    }
    let mut response = builder.send().await.map_err(failed)?;
    let status = response.status().as_u16();
    let pause = retry_after(response.headers());
    let (body, more) = read_body(service.name, &mut response, MAX_ANSWER_BYTES).await.map_err(Failure::Failed)?;
    if !(200..300).contains(&status) {
        return Err(Failure::Refused(Refusal { status, words: words(&body, request.secret.as_ref()) }, pause));
    }
    if more {
        let message = format!("the answer of {} is longer than {} MiB", service.name, MAX_ANSWER_BYTES >> 20);
        return Err(Failure::Failed(unreadable(message).with_reason("too_large")));
    }
    Ok(body)
}

/// What a service says about a refusal: the first text that stands where services put it, without the key.
fn words(body: &[u8], secret: Option<&Secret>) -> String {
    let places =
        ["/message", "/error/message", "/error/detail", "/detail/error", "/detail", "/error", "/readableMessage"];
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return String::new() };
    let found = places.iter().find_map(|place| body.pointer(place)?.as_str()).unwrap_or_default();
    let found = match secret.map(Secret::expose).filter(|secret| !secret.is_empty()) {
        Some(secret) => found.replace(secret, "***"),
        None => found.to_owned(),
    };
    found.chars().filter(|letter| !letter.is_control()).take(MAX_WORDS).collect()
}

/// What a refusal means that is not special to the service.
fn refused(service: Service, refusal: &Refusal, with_key: bool) -> ToolError {
    let Service { name, setting } = service;
    let Refusal { status, words } = refusal;
    let (reason, message) = match status {
        401 | 403 if with_key => ("unauthorized", format!("{name} does not accept the key in `{setting}`")),
        401 | 403 => ("unauthorized", format!("{name} does not answer without a key: set `{setting}`")),
        402 | 432 | 433 => ("quota", format!("the plan at {name} is used up")),
        429 => ("rate_limited", format!("{name} is asked too often")),
        500.. => ("unavailable", format!("{name} is not available")),
        _ => ("refused", format!("{name} refuses the request")),
    };
    let said = if words.is_empty() { String::new() } else { format!(": {words}") };
    ToolError::new(ErrorCode::API_REQUEST_FAILED, format!("{message} (HTTP {status}){said}")).with_reason(reason)
}

/// Reads an answer; what is wrong is said by its place, not by what stands there.
fn parse<T: DeserializeOwned>(service: Service, body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Data => "is not as documented",
            _ => "is no JSON",
        };
        unreadable(format!("the answer of {} {what}, at column {}", service.name, error.column()))
    })
}

pub(super) fn unreadable(message: String) -> ToolError {
    ToolError::new(ErrorCode::API_RESPONSE_PARSE_ERROR, message)
}

fn gone(service: Service) -> ToolError {
    ToolError::new(ErrorCode::API_REQUEST_FAILED, format!("the request to {} was ended", service.name))
}
