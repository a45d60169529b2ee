//! The routes of runs: calls apart from the connections that asked for them.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, header::ACCEPT};
use sandbox_types::{ExecuteRequest, RunId, RunInfo};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    client::{HttpServiceClient, data},
    error::Result,
    stream::{EVENT_STREAM, RunStream},
    transport::{QUICK, Sending},
};

/// What asking a run to end came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cancellation {
    /// Whether it still ran; if so its tool was told, and the run ends soon.
    pub cancelled: bool,
    /// How far the run is.
    #[serde(flatten)]
    pub run: RunInfo,
}

/// The longest that a server waits at once for the end of a run.
const MAX_WAIT: Duration = Duration::from_mins(1);

#[derive(Deserialize)]
struct Listed {
    runs: Vec<RunInfo>,
}

impl HttpServiceClient {
    /// Runs a tool, and reads what it says while it runs; the stream's last event is the answer.
    ///
    /// Who drops the stream leaves the run, which the server cancels after a while (`server.reattach_seconds`) unless
    /// somebody follows it, or the request is `detached`.
    ///
    /// # Errors
    /// There is no answer, or no run began: [`ClientError::Failed`](crate::ClientError::Failed) has the reason.
    pub async fn stream(&self, request: &ExecuteRequest) -> Result<RunStream> {
        let (timeout, limit) = self.limits(request.timeout)?;
        let sending = Sending::new(self, ExecuteRequest { timeout, ..request.clone() }, limit).await?;
        RunStream::begin(self, sending).await
    }

    /// Reads the events of a run after the one with the id `last_event_id`; 0: from its beginning.
    ///
    /// # Errors
    /// There is no answer, or the worker has no such run, or the run no such event.
    pub async fn follow(&self, run_id: &RunId, last_event_id: u64) -> Result<RunStream> {
        RunStream::follow(self, run_id.clone(), last_event_id).await
    }

    /// Starts a tool and leaves it to run to its end on its own.
    ///
    /// # Errors
    /// There is no answer, or no run began.
    pub async fn detach(&self, request: &ExecuteRequest) -> Result<RunInfo> {
        let (timeout, _) = self.limits(request.timeout)?;
        let request = ExecuteRequest { detached: true, timeout, ..request.clone() };
        let reply = self.run_once("/execute", request, QUICK).await?;
        data(self.envelope(&reply)?, &self.url)
    }

    /// The worker's runs, the latest first: those that run, and for ten minutes those that ended.
    ///
    /// # Errors
    /// There is no answer, or a refusal.
    pub async fn runs(&self) -> Result<Vec<RunInfo>> {
        Ok(self.told::<Listed>(|| self.runs_request(Method::GET, &[], None), QUICK).await?.runs)
    }

    /// How far a run is, and its answer once it has ended; waits for its end so long, at most 60 seconds.
    ///
    /// # Errors
    /// There is no answer, or the worker has no such run.
    pub async fn run(&self, run_id: &RunId, wait_seconds: Option<f64>) -> Result<RunInfo> {
        let wait = wait_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or_default();
        let wait = wait.min(MAX_WAIT);
        let request = || self.runs_request(Method::GET, &[run_id.as_str()], wait_seconds);
        self.told(request, QUICK.saturating_add(wait)).await
    }

    /// Asks a run to end; its tool is told at once.
    ///
    /// # Errors
    /// There is no answer, or the worker has no such run.
    pub async fn cancel_run(&self, run_id: &RunId) -> Result<Cancellation> {
        self.told(|| self.runs_request(Method::POST, &[run_id.as_str(), "cancel"], None), QUICK).await
    }

    pub(crate) fn events_request(&self, run_id: &RunId, last_event_id: u64) -> RequestBuilder {
        let request = self.runs_request(Method::GET, &[run_id.as_str(), "events"], None).header(ACCEPT, EVENT_STREAM);
        if last_event_id == 0 { request } else { request.header("last-event-id", last_event_id) }
    }

    async fn told<T: DeserializeOwned>(&self, request: impl Fn() -> RequestBuilder, limit: Duration) -> Result<T> {
        let reply = self.ask(request, limit).await?;
        data(self.envelope(&reply)?, &self.url)
    }

    fn runs_request(&self, method: Method, parts: &[&str], wait_seconds: Option<f64>) -> RequestBuilder {
        let (mut url, worker) = self.runs_url(parts);
        if let Some(seconds) = wait_seconds {
            url.query_pairs_mut().append_pair("wait_seconds", &seconds.to_string());
        }
        let request = self.http.request(method, url);
        match worker {
            Some(worker) => request.header("x-worker-id", worker),
            None => request,
        }
    }
}
