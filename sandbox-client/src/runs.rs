//! The routes of runs: calls apart from the connections that asked for them.

use reqwest::{Method, RequestBuilder, header::ACCEPT};
use sandbox_types::{ExecuteRequest, RunId, RunInfo};
use serde::{Deserialize, Serialize};

use crate::{
    client::{HttpServiceClient, Result},
    stream::{EVENT_STREAM, RunStream},
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
    /// There is no answer, or no run began: [`ClientError::Refused`](crate::ClientError::Refused) has the reason.
    pub async fn stream(&self, request: &ExecuteRequest) -> Result<RunStream> {
        let request = self.http.post(format!("{}/execute", self.url)).header(ACCEPT, EVENT_STREAM).json(request);
        RunStream::open(self, None, 0, request).await
    }

    /// Reads the events of a run after the one with the id `last_event_id`; 0: from its beginning.
    ///
    /// # Errors
    /// There is no answer, or the worker has no such run, or the run no such event.
    pub async fn follow(&self, run_id: &RunId, last_event_id: u64) -> Result<RunStream> {
        let request = self.events_request(run_id, last_event_id);
        RunStream::open(self, Some(run_id.clone()), last_event_id, request).await
    }

    /// Starts a tool and leaves it to run to its end on its own.
    ///
    /// # Errors
    /// There is no answer, or no run began.
    pub async fn detach(&self, request: &ExecuteRequest) -> Result<RunInfo> {
        let request = ExecuteRequest { detached: true, ..request.clone() };
        self.data(self.http.post(format!("{}/execute", self.url)).json(&request)).await
    }

    /// The worker's runs, the latest first: those that run, and for ten minutes those that ended.
    ///
    /// # Errors
    /// There is no answer, or a refusal.
    pub async fn runs(&self) -> Result<Vec<RunInfo>> {
        Ok(self.data::<Listed>(self.runs_request(Method::GET, &[], None)).await?.runs)
    }

    /// How far a run is, and its answer once it has ended; waits for its end so long, at most 60 seconds.
    ///
    /// # Errors
    /// There is no answer, or the worker has no such run.
    pub async fn run(&self, run_id: &RunId, wait_seconds: Option<f64>) -> Result<RunInfo> {
        self.data(self.runs_request(Method::GET, &[run_id.as_str()], wait_seconds)).await
    }

    /// Asks a run to end; its tool is told at once.
    ///
    /// # Errors
    /// There is no answer, or the worker has no such run.
    pub async fn cancel_run(&self, run_id: &RunId) -> Result<Cancellation> {
        self.data(self.runs_request(Method::POST, &[run_id.as_str(), "cancel"], None)).await
    }

    pub(crate) fn events_request(&self, run_id: &RunId, last_event_id: u64) -> RequestBuilder {
        let request = self.runs_request(Method::GET, &[run_id.as_str(), "events"], None).header(ACCEPT, EVENT_STREAM);
        if last_event_id == 0 { request } else { request.header("last-event-id", last_event_id) }
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
