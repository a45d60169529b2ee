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
    executor::{Job, ToolExecutor, positive},
    naming::parse_key,
    report::Reports,
    resource::new_trace,
    router::SessionTable,
    run::{Lifetime, Run, Subject},
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
    /// The run of a batch.
    ///
    /// # Errors
    /// It has too many actions.
    pub(crate) fn prepare_batch(
        &self,
        request: &mut BatchRequest,
        arrival: Instant,
        lifetime: Lifetime,
    ) -> Result<Arc<Run>> {
        let actions = request.actions.len();
        if actions > MAX_ACTIONS {
            let (expected, found) = (format!("at most {MAX_ACTIONS} actions"), actions.to_string());
            return Err(ToolError::parameter(ErrorCode::INVALID_INPUT, "actions", expected, found));
        }
        let trace = request.trace_id.take().unwrap_or_else(new_trace);
        Ok(Run::new(request.worker_id.clone(), Subject::Batch(actions), trace, arrival, lifetime))
    }

    /// Runs the actions of a batch; its `data` is a [`BatchResult`].
    pub(crate) async fn call_batch(
        self: Arc<Self>,
        run: Arc<Run>,
        request: BatchRequest,
        warnings: Vec<String>,
    ) -> Answer {
        let trace = run.trace().clone();
        self.runs.list(&run);
        run.runs_since(run.arrival.elapsed());
        let sessions = Arc::new(BatchSessions::default());
        let stop_on_error = request.stop_on_error.unwrap_or(true);
        let mut results: Vec<Answer> = Vec::with_capacity(request.actions.len());
        let calls = request.actions.iter().enumerate().map(|(index, action)| {
            let reports = Reports::of_action(&run, index);
            self.clone().run_action(action.clone(), &request, trace.clone(), reports, Arc::downgrade(&sessions))
        });
        if request.parallel {
            let calls: Vec<_> = calls.map(tokio::spawn).collect();
            for call in calls {
                let answer = call.await;
                results.push(answer.unwrap_or_else(|_| {
                    failure(&ToolError::shutting_down(), meta(None, trace.clone(), run.arrival, Vec::new()))
                }));
            }
        } else {
            for call in calls {
                let answer = call.await;
                let failed = !answer.success;
                results.push(answer);
                if (failed && stop_on_error) || run.control.cancel.is_cancelled() || self.cut_short() {
                    break;
                }
            }
        }
        drop(sessions);
        answer(results, request.actions.len(), meta(None, trace, run.arrival, warnings))
    }

    fn run_action(
        self: Arc<Self>,
        action: BatchAction,
        request: &BatchRequest,
        trace: TraceId,
        reports: Reports,
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
                Err(error) => {
                    let answer = refused(&error, meta(None, trace, arrival, Vec::new()), &worker);
                    reports.item(&answer);
                    return answer;
                }
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
                control: reports.run.control.child(),
                reports: Some(reports.clone()),
                frames: None,
                passed: None,
                making: false,
                depth: 0,
                warnings: Vec::new(),
                transfer: None,
            };
            let answer = self.spawn(job).await;
            reports.item(&answer);
            answer
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
