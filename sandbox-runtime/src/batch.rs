//! Batches: several calls in one request, one after the other or all at once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use sandbox_types::{BatchAction, BatchRequest, BatchResult, Envelope, ErrorBody, ErrorCode, TraceId};
use tokio::{sync::OnceCell, time::Instant};

use crate::{
    answer::{Answer, failure, meta, refused},
    context::SessionChoice,
    creation::SessionSpec,
    error::{Result, ToolError},
    executor::{CallControl, DisconnectGuard, Job, ToolExecutor, positive},
    naming::parse_key,
    resource::new_trace,
    router::SessionTable,
    session::Lease,
};

/// Actions of one batch; more would hold the worker's thread, and the answer, for too long.
const MAX_ACTIONS: usize = 1_000;

/// The temporary sessions of one batch, by resource and session name: its calls share them, and they end with it.
#[derive(Default)]
pub(crate) struct BatchSessions {
    cells: Mutex<Cells>,
}

/// By resource and name; each is filled by the first call that needs the session.
type Cells = HashMap<(Arc<str>, Arc<str>), Arc<OnceCell<Arc<Lease>>>>;

impl BatchSessions {
    /// A lease on the batch's session; the first call that needs it makes it.
    ///
    /// # Errors
    /// What `initialize` answered, or why the session ended since.
    pub(crate) async fn lease(&self, spec: SessionSpec, table: &Arc<SessionTable>) -> Result<Arc<Lease>> {
        let cell = {
            let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
            cells.entry((spec.resource.name.clone(), spec.choice.key.clone())).or_default().clone()
        };
        if spec.frames.is_some() && !cell.initialized() {
            // The one that makes it now may need what the callers hold: whoever holds a session does not wait for it.
            let lease = table.create_temporary(spec).await?;
            let _ = cell.set(lease.clone());
            return Ok(lease);
        }
        cell.get_or_try_init(|| table.create_temporary(spec)).await?.session.lease()
    }
}

impl ToolExecutor {
    /// Runs the actions of a batch; its `data` is a [`BatchResult`].
    ///
    /// Code 0 when all succeeded, [`ErrorCode::PARTIAL_FAILURE`] when some did, [`ErrorCode::ALL_REQUESTS_FAILED`] when none did.
    pub async fn execute_batch(self: &Arc<Self>, request: BatchRequest, warnings: Vec<String>) -> Arc<Answer> {
        let arrival = Instant::now();
        let trace = request.trace_id.clone().unwrap_or_else(new_trace);
        let control = CallControl::new();
        match request.idempotency_key.clone() {
            None => {
                let guard = DisconnectGuard(Some(control.clone()));
                // In a task of its own: whoever waits may go away, and the calls end as a cancelled call does.
                let run = self.clone().run_batch(request, trace.clone(), arrival, control, warnings);
                let answer = self.calls.spawn(run).await;
                guard.disarm();
                Arc::new(
                    answer.unwrap_or_else(|_| {
                        failure(&ToolError::shutting_down(), meta(None, trace, arrival, Vec::new()))
                    }),
                )
            }
            Some(key) => {
                let digest = Self::digest(&(&request.actions, request.parallel, request.stop_on_error));
                let worker = request.worker_id.clone();
                // A batch ends by the limits of its actions; a duplicate waits as long.
                let limit = self.longest_call() * u32::try_from(request.actions.len().max(1)).unwrap_or(u32::MAX);
                let run = self.clone().run_batch(request, trace.clone(), arrival, control.clone(), warnings);
                self.keyed(&worker, &key, digest, trace, limit, control, run).await
            }
        }
    }

    async fn run_batch(
        self: Arc<Self>,
        request: BatchRequest,
        trace: TraceId,
        arrival: Instant,
        control: Arc<CallControl>,
        warnings: Vec<String>,
    ) -> Answer {
        if self.draining() {
            return failure(&ToolError::shutting_down(), meta(None, trace, arrival, warnings));
        }
        if request.actions.len() > MAX_ACTIONS {
            let (expected, found) = (format!("at most {MAX_ACTIONS} actions"), request.actions.len().to_string());
            let error = ToolError::parameter(ErrorCode::INVALID_INPUT, "actions", expected, found);
            return failure(&error, meta(None, trace, arrival, warnings));
        }
        let sessions = Arc::new(BatchSessions::default());
        let stop_on_error = request.stop_on_error.unwrap_or(true);
        let mut results: Vec<Answer> = Vec::with_capacity(request.actions.len());
        if request.parallel {
            let calls: Vec<_> = request
                .actions
                .iter()
                .map(|action| {
                    let call = self.clone().run_action(
                        action.clone(),
                        &request,
                        trace.clone(),
                        control.child(),
                        Arc::downgrade(&sessions),
                    );
                    tokio::spawn(call)
                })
                .collect();
            for call in calls {
                let answer = call.await;
                results.push(answer.unwrap_or_else(|_| {
                    failure(&ToolError::shutting_down(), meta(None, trace.clone(), arrival, Vec::new()))
                }));
            }
        } else {
            for action in &request.actions {
                let call = self.clone().run_action(
                    action.clone(),
                    &request,
                    trace.clone(),
                    control.child(),
                    Arc::downgrade(&sessions),
                );
                let answer = call.await;
                let failed = !answer.success;
                results.push(answer);
                if (failed && stop_on_error) || control.cancel.is_cancelled() || self.cut_short() {
                    break;
                }
            }
        }
        drop(sessions);
        answer(results, request.actions.len(), meta(None, trace, arrival, warnings))
    }

    fn run_action(
        self: Arc<Self>,
        action: BatchAction,
        request: &BatchRequest,
        trace: TraceId,
        control: Arc<CallControl>,
        sessions: Weak<BatchSessions>,
    ) -> impl Future<Output = Answer> + Send + use<> {
        let arrival = Instant::now();
        let worker = request.worker_id.clone();
        let timeout = action.timeout.or(request.timeout);
        async move {
            let prepared = (|| {
                let timeout = positive(timeout)?;
                let key = parse_key(action.session.as_deref())?.into();
                Ok((self.registry.resolve(&action.action)?, key, timeout))
            })();
            let (tool, key, timeout) = match prepared {
                Ok(prepared) => prepared,
                Err(error) => return refused(&error, meta(None, trace, arrival, Vec::new()), &worker),
            };
            let limits = self.limits_for(&tool, timeout, arrival);
            let job = Job {
                tool,
                params: action.params,
                worker,
                trace,
                choice: SessionChoice { batch: Some(sessions), ..SessionChoice::named(key) },
                session_id: None,
                limits,
                control,
                frames: None,
                passed: None,
                making: false,
                depth: 0,
                warnings: Vec::new(),
                transfer: None,
            };
            self.spawn(job).await
        }
    }
}

fn answer(results: Vec<Answer>, total: usize, mut meta: sandbox_types::Meta) -> Answer {
    let success_count = results.iter().filter(|answer| answer.success).count();
    let executed = results.len();
    meta.executed = results.iter().any(|answer| answer.meta.executed);
    let (code, message) = match success_count {
        n if n == total => (ErrorCode::SUCCESS, "success".to_owned()),
        0 => (ErrorCode::ALL_REQUESTS_FAILED, format!("none of {total} actions succeeded")),
        n => (ErrorCode::PARTIAL_FAILURE, format!("{n} of {total} actions succeeded, {executed} were run")),
    };
    let data = BatchResult { failed_count: executed - success_count, results, total, executed, success_count };
    let error = (code != ErrorCode::SUCCESS).then(|| ErrorBody {
        name: code.name().to_owned(),
        retryable: code.retryable(),
        ..ErrorBody::default()
    });
    Envelope {
        success: code == ErrorCode::SUCCESS,
        code,
        message: message.into(),
        data: serde_json::value::to_raw_value(&data).ok(),
        error,
        temporary_session: false,
        meta,
    }
}
