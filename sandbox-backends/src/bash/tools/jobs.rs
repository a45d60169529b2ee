//! Jobs: what runs beside the shell.

use std::time::{Duration, SystemTime};

use sandbox_runtime::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::Instant;

use super::super::job::{Job, Kind};
use super::super::signals::{self, SignalName};
use super::super::spool::Piece;
use super::super::{BashBackend, BashSession};
use super::content::{Encoding, cut_between_characters, encode};

/// What a call keeps of its time to answer.
const ANSWER_MARGIN: Duration = Duration::from_secs(2);
/// How long `bash:kill` waits for the end.
const KILL_WAIT: Duration = Duration::from_secs(2);

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Status {
    /// It runs.
    Running,
    /// It has ended, and what it started may still write.
    Exited,
    /// Nothing more will come.
    Finished,
}

/// A part of what a job wrote.
#[derive(Debug, Serialize, JsonSchema)]
struct JobOutput {
    status: Status,
    /// Its exit code, once it has ended; 128 + n after signal n.
    exit_code: Option<i32>,
    /// The signal that the exit code stands for.
    signal: Option<&'static str>,
    /// Whether a time limit of its own has ended it.
    timed_out: bool,
    stdout: Part,
    stderr: Part,
}

/// A part of a stream.
#[derive(Debug, Serialize, JsonSchema)]
struct Part {
    /// The bytes, as text or in base64.
    content: String,
    encoding: Encoding,
    /// Offset of the first byte; more than was asked for if what lies between is no longer kept: of the output of a
    /// session the oldest gives way when there is too much (`output_mib` of the resource).
    offset: u64,
    /// Where to go on.
    next_offset: u64,
    /// How many bytes the stream has had so far.
    total_bytes: u64,
}

/// The jobs of a session.
#[derive(Debug, Serialize, JsonSchema)]
struct JobList {
    /// Oldest first.
    jobs: Vec<JobInfo>,
}

/// One job.
#[derive(Debug, Serialize, JsonSchema)]
struct JobInfo {
    job_id: u32,
    /// The beginning of its command.
    command: String,
    status: Status,
    exit_code: Option<i32>,
    signal: Option<&'static str>,
    /// Whether a time limit of its own has ended it.
    timed_out: bool,
    /// Whether it was started as a job; else it is what a command in the shell left.
    background: bool,
    /// Whether it has a terminal.
    pty: bool,
    /// When it was started, in seconds since 1970.
    started_at: f64,
    stdout_bytes: u64,
    stderr_bytes: u64,
}

#[tools]
impl BashBackend {
    /// Fetch what a job wrote from given offsets on; waits for more if there is nothing yet.
    #[tool(read_only)]
    async fn output(
        &self,
        session: &BashSession,
        context: &ToolContext,
        /// The job, as `bash:run` has answered.
        job_id: u32,
        /// Where to begin in standard output, in bytes.
        #[default = 0]
        offset: u64,
        /// Where to begin in standard error, in bytes.
        #[default = 0]
        stderr_offset: u64,
        /// How long to wait for something to come, in milliseconds.
        #[default = 0]
        #[schemars(range(max = 3_600_000))]
        wait_ms: u64,
        /// Most bytes of each stream.
        #[default = 32768]
        #[schemars(range(min = 1, max = 1_048_576))]
        max_bytes: u32,
    ) -> Result<JobOutput> {
        let job = session.jobs.get(job_id)?;
        let most = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        let wait = Instant::now() + Duration::from_millis(wait_ms);
        let deadline = wait.min(context.deadline() - ANSWER_MARGIN);
        let waiting = job.output([offset, stderr_offset], most, deadline);
        let pieces = tokio::select! {
            pieces = waiting => pieces,
            () = context.cancellation().cancelled() => {
                return Err(ToolError::new(ErrorCode::CANCELLED, "the call was cancelled"));
            }
        };
        let (status, exit_code, signal) = progress(&job);
        let over = status != Status::Running;
        let [stdout, stderr] = pieces.map(|(piece, total)| Part::new(piece, total, over));
        let timed_out = job.state().timed_out;
        Ok(JobOutput { status, exit_code, signal, timed_out, stdout, stderr })
    }

    /// List the session's jobs.
    #[tool(read_only)]
    async fn jobs(&self, session: &BashSession) -> Result<JobList> {
        let jobs = session.jobs.all().into_iter().map(|job| {
            let (status, exit_code, signal) = progress(&job);
            let [stdout_bytes, stderr_bytes] = job.totals();
            JobInfo {
                job_id: job.number,
                command: job.command.clone(),
                status,
                exit_code,
                signal,
                timed_out: job.state().timed_out,
                background: job.kind != Kind::Command,
                pty: job.kind == Kind::Background { terminal: true },
                started_at: job.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
                stdout_bytes,
                stderr_bytes,
            }
        });
        Ok(JobList { jobs: jobs.collect() })
    }

    /// End a job with everything that it and its children have started, and wait up to two seconds for its end. What has
    /// detached itself, as a daemon does whose parent has ended, lives until the session ends.
    #[tool]
    async fn kill(
        &self,
        session: &BashSession,
        /// The job.
        job_id: u32,
        /// The signal.
        #[default = "KILL"]
        signal: SignalName,
    ) -> Result<JobInfoShort> {
        let job = session.jobs.get(job_id)?;
        if job.kind == Kind::Command {
            let message = "`job_id`: this is what a command in the shell has left; end it there, by its process id";
            return Err(ToolError::new(ErrorCode::INVALID_INPUT, message));
        }
        job.signal(session.sandbox.link(), signal.number());
        job.ended(KILL_WAIT).await;
        let (status, exit_code, signal) = progress(&job);
        Ok(JobInfoShort { status, exit_code, signal })
    }
}

/// How far a job is after a signal.
#[derive(Debug, Serialize, JsonSchema)]
struct JobInfoShort {
    status: Status,
    exit_code: Option<i32>,
    signal: Option<&'static str>,
}

fn progress(job: &Job) -> (Status, Option<i32>, Option<&'static str>) {
    let state = job.state();
    let status = match (state.is_over(job.kind), state.ended) {
        (true, _) => Status::Finished,
        (false, Some(_)) => Status::Exited,
        (false, None) => Status::Running,
    };
    let code = state.ended.map(|ended| ended.code);
    (status, code, code.and_then(signals::of_exit_code))
}

impl Part {
    /// As text if it is text; a character that is cut in two at the end of it is left for the next part, unless nothing
    /// more will come.
    fn new(piece: Piece, total_bytes: u64, over: bool) -> Self {
        let Piece { offset, mut bytes } = piece;
        if !(over && offset + bytes.len() as u64 == total_bytes) {
            cut_between_characters(&mut bytes);
        }
        let next_offset = offset + bytes.len() as u64;
        let (content, encoding) = encode(bytes);
        Self { content, encoding, offset, next_offset, total_bytes }
    }
}
