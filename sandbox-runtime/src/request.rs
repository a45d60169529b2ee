//! What becomes of a request: a run of its own, the one with its idempotency key, or an answer that is kept.

use std::{future::Future, sync::Arc, time::Duration};

use sandbox_types::{BatchRequest, ErrorCode, ExecuteRequest, Meta, TraceId, WorkerId};
use serde_json::value::RawValue;
use tokio::{task::JoinHandle, time::Instant};

#[cfg(feature = "server")]
use crate::transfer::Ending;
use crate::{
    answer::{Answer, failure, meta, refused, success},
    error::{Result, ToolError},
    executor::{DisconnectGuard, ToolExecutor, answered, positive},
    idempotency::Begin,
    resource::new_trace,
    run::{Lifetime, Reader, Run},
    supervise::caught,
    transfer::Transfer,
};

/// Keys that one request may acknowledge.
const MAX_ACKNOWLEDGED: usize = 1_000;

/// A run that has begun, or was found.
struct Opened {
    run: Arc<Run>,
    /// What it runs in, if this request has begun it.
    task: Option<JoinHandle<Arc<Answer>>>,
}

/// An idempotency key, and what it was given for.
struct Key {
    key: String,
    digest: u128,
}

impl ToolExecutor {
    /// Runs one tool.
    ///
    /// A caller that stops waiting cancels the call, unless the request has an idempotency key: then it lives on for
    /// [`TimeLimits::reattach`](crate::executor::TimeLimits), to be joined again. With `detached` the answer comes at once, and
    /// its `data` is the run. Must be called within a tokio runtime; the tool runs on it.
    pub async fn execute(self: &Arc<Self>, request: ExecuteRequest, warnings: Vec<String>) -> Arc<Answer> {
        self.execute_since(Instant::now(), request, warnings).await
    }

    /// Runs one tool for a request that arrived some time ago.
    pub(crate) async fn execute_since(
        self: &Arc<Self>,
        arrival: Instant,
        request: ExecuteRequest,
        warnings: Vec<String>,
    ) -> Arc<Answer> {
        if request.idempotency_key.is_none() && !request.detached {
            return match self.open_call(arrival, request, false, warnings) {
                Ok(opened) => self.answer_to_caller(opened).await,
                Err(refusal) => refusal,
            };
        }
        let limit = positive(request.timeout).ok().flatten().unwrap_or(self.limits.max).min(self.limits.max);
        let detached = request.detached;
        let open = || self.open_call(arrival, request.clone(), false, warnings.clone());
        if detached { self.detach(open) } else { self.joined(arrival, limit, open).await }
    }

    /// Runs one tool; its events are read from the beginning.
    ///
    /// # Errors
    /// The answer of a request that begins no run.
    pub fn stream(self: &Arc<Self>, request: ExecuteRequest, warnings: Vec<String>) -> Result<Reader, Arc<Answer>> {
        let opened = self.open_call(Instant::now(), request, true, warnings)?;
        self.reader_of(&opened.run)
    }

    /// Runs one tool whose upload comes, or whose result goes, beside the JSON. A caller that stops waiting cancels it.
    #[cfg(feature = "server")]
    pub(crate) async fn transfer(
        self: &Arc<Self>,
        arrival: Instant,
        mut request: ExecuteRequest,
        transfer: &Arc<Transfer>,
        warnings: Vec<String>,
    ) -> Arc<Answer> {
        let named = request.timeout.is_some();
        let opened = match self.prepare(&mut request, arrival, Lifetime::Caller, &warnings) {
            Ok((run, mut job)) => {
                job.transfer = Some(transfer.clone());
                if !named && transfer.has_upload() {
                    // How long an upload takes is the client's matter, as long as it goes on; how long it waits for its tool is not.
                    job.limits.run.get_or_insert(self.longest_call());
                }
                self.open(run, None, false, warnings, Some(transfer), self.clone().call(job))
            }
            Err(error) => Err(refusal(&error, &request.worker_id, request.trace_id, arrival, warnings)),
        };
        match opened {
            Ok(opened) => self.answer_to_caller(opened).await,
            Err(refusal) => refusal,
        }
    }

    /// Runs the actions of a batch; its `data` is a [`BatchResult`](sandbox_types::BatchResult).
    ///
    /// Code 0 when all succeeded, [`ErrorCode::PARTIAL_FAILURE`] when some did, [`ErrorCode::ALL_REQUESTS_FAILED`] when none did.
    pub async fn execute_batch(self: &Arc<Self>, request: BatchRequest, warnings: Vec<String>) -> Arc<Answer> {
        let arrival = Instant::now();
        if request.idempotency_key.is_none() {
            return match self.open_batch(arrival, request, false, warnings) {
                Ok(opened) => self.answer_to_caller(opened).await,
                Err(refusal) => refusal,
            };
        }
        // A batch ends by the limits of its actions; a duplicate waits as long.
        let limit = self.longest_call() * u32::try_from(request.actions.len().max(1)).unwrap_or(u32::MAX);
        let open = || self.open_batch(arrival, request.clone(), false, warnings.clone());
        self.joined(arrival, limit, open).await
    }

    /// Runs the actions of a batch; the events of all are read from the beginning.
    ///
    /// # Errors
    /// The answer of a request that begins no run.
    pub fn stream_batch(self: &Arc<Self>, request: BatchRequest, warnings: Vec<String>) -> Result<Reader, Arc<Answer>> {
        let opened = self.open_batch(Instant::now(), request, true, warnings)?;
        self.reader_of(&opened.run)
    }

    fn reader_of(&self, run: &Arc<Run>) -> Result<Reader, Arc<Answer>> {
        let reader = run.read_after(0, &self.runs.budget, &self.runtime);
        // A run that was streamed, or joined, keeps its answer.
        reader.ok_or_else(|| Arc::new(cut_off(run)))
    }

    fn open_call(
        self: &Arc<Self>,
        arrival: Instant,
        mut request: ExecuteRequest,
        record: bool,
        warnings: Vec<String>,
    ) -> Result<Opened, Arc<Answer>> {
        // Of what is asked for: a client that asks again may do so under another trace and with less time.
        let key = request.idempotency_key.take().map(|key| {
            let params = request.params.as_deref().map(RawValue::get);
            let asked = (&request.action, params, &request.session, &request.session_id, request.session_mode);
            Key { key, digest: digest(&asked) }
        });
        self.acknowledge(&request.worker_id, &request.answered);
        if let Err(error) = self.is_meant(request.incarnation.as_deref()) {
            return Err(refusal(&error, &request.worker_id, request.trace_id, arrival, warnings));
        }
        let detached = request.detached;
        // A detached run will be asked what it did meanwhile.
        let record = record || detached;
        let lifetime = self.lifetime(key.is_some() || record);
        let opened = match self.prepare(&mut request, arrival, lifetime, &warnings) {
            Ok((run, job)) => self.open(run, key, record, warnings, None, self.clone().call(job))?,
            Err(error) => return Err(refusal(&error, &request.worker_id, request.trace_id, arrival, warnings)),
        };
        if detached {
            // Also one that was begun by a request that waits for it.
            opened.run.detach();
        }
        Ok(opened)
    }

    fn open_batch(
        self: &Arc<Self>,
        arrival: Instant,
        mut request: BatchRequest,
        record: bool,
        warnings: Vec<String>,
    ) -> Result<Opened, Arc<Answer>> {
        let key = request.idempotency_key.take().map(|key| {
            let digest = digest(&(&request.actions, request.parallel, request.stop_on_error));
            Key { key, digest }
        });
        self.acknowledge(&request.worker_id, &request.answered);
        if let Err(error) = self.is_meant(request.incarnation.as_deref()) {
            return Err(refusal(&error, &request.worker_id, request.trace_id, arrival, warnings));
        }
        let lifetime = self.lifetime(key.is_some() || record);
        match self.prepare_batch(&mut request, arrival, lifetime) {
            Ok(run) => {
                let work = self.clone().call_batch(run.clone(), request, warnings.clone());
                self.open(run, key, record, warnings, None, work)
            }
            Err(error) => Err(refusal(&error, &request.worker_id, request.trace_id, arrival, warnings)),
        }
    }

    /// Forgets what was kept for a worker that has it by now.
    fn acknowledge(&self, worker: &WorkerId, keys: &[String]) {
        if keys.is_empty() {
            return;
        }
        // More than a client that says so with each request can have.
        for run in self.idempotency.acknowledge(worker, &keys[..keys.len().min(MAX_ACKNOWLEDGED)]) {
            self.runs.forget(worker, &run);
        }
    }

    /// Tells this start of the server from others.
    pub fn incarnation(&self) -> String {
        format!("{:08x}", self.table.incarnation)
    }

    /// Whether a request was meant for this start of the server.
    ///
    /// # Errors
    /// It was meant for another one, which may have run it.
    fn is_meant(&self, incarnation: Option<&str>) -> Result<()> {
        // Of every call with a key: not by writing it.
        let is_this = |meant: &str| u32::from_str_radix(meant, 16) == Ok(self.table.incarnation);
        if incarnation.is_none_or(is_this) {
            return Ok(());
        }
        let message = "the request was meant for an earlier start of this server, or for another server";
        Err(ToolError::new(ErrorCode::CONFLICT, message).with_reason("server_restarted"))
    }

    fn lifetime(&self, shared: bool) -> Lifetime {
        if shared { Lifetime::Reattach(self.limits.reattach) } else { Lifetime::Caller }
    }

    /// Begins a run, unless one with its key runs or ran.
    ///
    /// It has a task of its own on the caller's runtime: whoever waits for it may go away, it is never dropped midway.
    fn open(
        self: &Arc<Self>,
        run: Arc<Run>,
        key: Option<Key>,
        record: bool,
        warnings: Vec<String>,
        transfer: Option<&Arc<Transfer>>,
        work: impl Future<Output = Answer> + Send + 'static,
    ) -> Result<Opened, Arc<Answer>> {
        let refused =
            |error: &ToolError| Err(refusal(error, &run.worker, Some(run.trace().clone()), run.arrival, warnings));
        if let Some(Key { key, digest }) = &key {
            match self.idempotency.begin(&run.worker, key, *digest, &run) {
                Ok(Begin::Run) => {}
                Ok(Begin::Join(run)) => {
                    // The one that began it may not have come so far yet.
                    self.runs.list(&run);
                    return Ok(Opened { run, task: None });
                }
                Ok(Begin::Replay(answer)) => {
                    let kept = answer.meta.run_id.as_ref().map(|id| self.runs.find(&run.worker, id.as_str()));
                    let run = match kept {
                        Some(Ok(kept)) => kept,
                        _ => Run::of_answer(run.worker.clone(), run.subject.clone(), answer),
                    };
                    return Ok(Opened { run, task: None });
                }
                Err(error) => return refused(&error),
            }
        }
        if self.draining() {
            let refusal = refused(&ToolError::shutting_down());
            if let (Some(Key { key, .. }), Err(answer)) = (&key, &refusal) {
                self.idempotency.end(&run.worker, key, answer);
                // Another request may have joined it already.
                run.end(answer);
            }
            return refusal;
        }
        if record {
            run.events().record(&self.runs.budget);
        }
        if run.is_shared() {
            self.runs.list(&run);
        }
        let (executor, own, transfer) = (self.clone(), run.clone(), transfer.cloned());
        let task = self.calls.spawn(caught(work, move |ended| {
            let mut answer = answered(ended, own.trace(), own.arrival);
            if own.is_shared() {
                answer.meta.run_id = own.id().cloned();
            }
            let answer = Arc::new(answer);
            #[cfg(feature = "server")]
            if let Some(transfer) = transfer.filter(|transfer| transfer.has_download()) {
                transfer.end_later(Ending::new(executor, own, answer.clone()));
                return answer;
            }
            #[cfg(not(feature = "server"))]
            drop(transfer);
            // First: who waited for an answer that is not its own looks for the key again.
            if let Some(Key { key, .. }) = &key {
                executor.idempotency.end(&own.worker, key, &answer);
            }
            executor.end_run(&own, &answer);
            answer
        }));
        Ok(Opened { run, task: Some(task) })
    }

    /// A run is over.
    pub(crate) fn end_run(&self, run: &Arc<Run>, answer: &Arc<Answer>) {
        if run.is_shared() || !run.ends_unlisted() {
            run.end(answer);
            self.runs.ended(run);
        }
    }

    /// The answer of a run that is its caller's alone: it ends when the caller leaves.
    async fn answer_to_caller(&self, opened: Opened) -> Arc<Answer> {
        let Opened { run, task } = opened;
        let guard = DisconnectGuard(Some(run.control.clone()));
        let answer = match task {
            Some(task) => task.await.ok(),
            None => run.outcome().await,
        };
        guard.disarm();
        answer.unwrap_or_else(|| Arc::new(cut_off(&run)))
    }

    /// The answer of a run that others may wait for too.
    async fn joined(
        &self,
        arrival: Instant,
        limit: Duration,
        open: impl Fn() -> Result<Opened, Arc<Answer>>,
    ) -> Arc<Answer> {
        loop {
            let Opened { run, task } = match open() {
                Ok(opened) => opened,
                Err(refusal) => return refusal,
            };
            let _listening = run.listen(&self.runtime);
            let own = task.is_some();
            let answer = match task {
                Some(task) => task.await.ok(),
                // The call that runs ends by limits of its own; one that only joined it waits as long as its request says.
                None => match tokio::time::timeout_at(arrival + limit, run.outcome()).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        let message = "the request with this idempotency_key is still running";
                        // It may have been entered: nobody may take it for one that was not.
                        let meta = Meta { executed: true, ..meta(None, new_trace(), arrival, Vec::new()) };
                        return Arc::new(failure(&ToolError::new(ErrorCode::TIMEOUT_ERROR, message), meta));
                    }
                },
            };
            let Some(answer) = answer else { return Arc::new(cut_off(&run)) };
            // An answer of a call that was never entered is for its own caller only; another one may do better.
            if own || answer.meta.executed {
                return answer;
            }
        }
    }

    /// The answer to a request that does not wait: its run.
    fn detach(&self, open: impl Fn() -> Result<Opened, Arc<Answer>>) -> Arc<Answer> {
        let run = match open() {
            Ok(opened) => opened.run,
            Err(refusal) => return refusal,
        };
        let info = run.info(false).and_then(|info| {
            serde_json::value::to_raw_value(&info)
                .map_err(|error| ToolError::new(ErrorCode::INTERNAL_ERROR, error.to_string()))
        });
        let meta = meta(None, run.trace().clone(), run.arrival, Vec::new());
        Arc::new(match info {
            Ok(data) => {
                let mut answer = success(data, meta);
                answer.meta.run_id = run.id().cloned();
                answer
            }
            Err(error) => failure(&error, meta),
        })
    }
}

/// The answer to a request that begins no run.
fn refusal(
    error: &ToolError,
    worker: &WorkerId,
    trace: Option<TraceId>,
    arrival: Instant,
    warnings: Vec<String>,
) -> Arc<Answer> {
    Arc::new(refused(error, meta(None, trace.unwrap_or_else(new_trace), arrival, warnings), worker))
}

/// The answer of a run whose task was dropped with its runtime.
fn cut_off(run: &Run) -> Answer {
    answered(Err(ToolError::shutting_down()), run.trace(), run.arrival)
}

/// Tells requests under one key apart.
fn digest(request: &impl serde::Serialize) -> u128 {
    let text = serde_json::to_vec(request).unwrap_or_default();
    let half = |seed| u128::from(ahash::RandomState::with_seeds(seed, 3, 5, 7).hash_one(&text));
    (half(1) << 64) | half(2)
}
