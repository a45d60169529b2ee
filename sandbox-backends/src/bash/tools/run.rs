//! Commands in the session's shell.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use sandbox_runtime::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::Instant;

use super::super::command::{RunOutcome, RunRequest};
use super::super::config::check_env;
use super::super::error::ShellError;
use super::super::job::{Limits, write_all};
use super::super::signals::{self, SignalName};
use super::super::terminal::resize;
use super::super::wire::{Order, Target};
use super::super::{BashBackend, BashSession};

/// What a call needs at its end to interrupt a command and still answer.
pub(super) const ANSWER_MARGIN: Duration = Duration::from_secs(3);
/// The longest time before its deadline that a call is told to end.
const TOKEN_LEAD: Duration = Duration::from_secs(2);
/// The size of a new terminal, in columns and rows.
pub(super) const TERMINAL_SIZE: (u16, u16) = (120, 40);

/// What became of a command.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RunResult {
    /// Its exit code; 128 + n after signal n. Absent for a job that has just been started.
    exit_code: Option<i32>,
    /// The signal that the exit code stands for, such as `KILL`.
    signal: Option<&'static str>,
    /// What it wrote to standard output, or to its terminal; of a long output the head and the tail.
    stdout: String,
    /// What it wrote to standard error; of a long output the head and the tail.
    stderr: String,
    /// Present if `stdout` is not the whole output.
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout_truncated: Option<Truncated>,
    /// Present if `stderr` is not the whole output.
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr_truncated: Option<Truncated>,
    /// The working directory afterwards.
    cwd: String,
    /// How long it ran, in milliseconds.
    duration_ms: u64,
    /// Whether a time limit ended it.
    timed_out: bool,
    /// Whether the shell had to be started again.
    shell_restarted: bool,
    /// Whether variables and functions were lost with that; files never are.
    state_lost: bool,
    /// The job whose output `bash:output` fetches: one started with `background`, or the rest of a long output, or what
    /// the command left running.
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<u32>,
}

/// What an answer lacks of an output.
#[derive(Debug, Serialize, JsonSchema)]
struct Truncated {
    /// How many bytes the output has.
    total_bytes: u64,
}

#[tools]
impl BashBackend {
    /// Run a command in the session's shell. Variables, functions and the working directory stay for the next command. A
    /// command that fails is no error: see `exit_code`.
    #[tool]
    async fn run(
        &self,
        session: &BashSession,
        context: &ToolContext,
        progress: &Progress,
        /// The command: any bash, also several lines.
        command: String,
        /// After this time the command is interrupted, in milliseconds. If absent: what is left of the call's own limit,
        /// less what it takes to answer; a job has no limit then.
        #[schemars(range(min = 1))]
        timeout_ms: Option<u64>,
        /// After this time the command is killed, in milliseconds: a job at once, a command in the shell a tenth of a second
        /// after an interrupt that may spare the shell. If absent: a second after it was interrupted.
        #[schemars(range(min = 1))]
        hard_timeout_ms: Option<u64>,
        /// After this time without output the command is interrupted, in milliseconds.
        #[schemars(range(min = 1))]
        idle_timeout_ms: Option<u64>,
        /// Its standard input; empty if absent. A job keeps its input open for `bash:input`.
        stdin: Option<String>,
        /// The directory to go to first.
        cwd: Option<String>,
        /// Environment variables of this command only.
        #[default({})]
        env: BTreeMap<String, String>,
        /// Most bytes of each stream in the answer.
        #[default = 32768]
        #[schemars(range(max = 1_048_576))]
        max_output_bytes: u32,
        /// Whether it runs on a terminal; its output is then in `stdout`, with what it echoes.
        #[default = false]
        pty: bool,
        /// Whether it runs beside the shell, as a job with the shell's state; the answer has its `job_id`.
        #[default = false]
        background: bool,
    ) -> Result<RunResult> {
        let left = context.deadline().saturating_duration_since(Instant::now());
        let most = left.saturating_sub(ANSWER_MARGIN).max(left / 2);
        // A job may run longer than the call that starts it.
        let [timeout_asked, hard_asked] = [timeout_ms, hard_timeout_ms].map(|time| time.filter(|_| !background));
        let timeout = limit_within("timeout_ms", timeout_asked, most)?;
        let hard_timeout = hard_asked.map(|time| limit_within("hard_timeout_ms", Some(time), left)).transpose()?;
        check_env(&env)?;
        let env: Vec<_> = env.into_iter().collect();
        let mut request = RunRequest {
            command: &command,
            timeout,
            hard_timeout,
            idle_timeout: idle_timeout_ms.map(Duration::from_millis),
            deadline: context.deadline(),
            stdin: stdin.as_deref(),
            env: &env,
            cwd: cwd.as_deref(),
            terminal: pty.then_some(TERMINAL_SIZE),
            max_output_bytes: usize::try_from(max_output_bytes).unwrap_or(usize::MAX),
            live: Some(progress),
        };
        let mut shell = tokio::select! {
            biased;
            shell = session.shell.lock() => shell,
            () = context.cancellation().cancelled() => {
                let message = "the call was cancelled while it waited for the command before it";
                return Err(ToolError::new(ErrorCode::CANCELLED, message));
            }
        };
        // What the wait has left.
        let left = context.deadline().saturating_duration_since(Instant::now());
        request.timeout = request.timeout.min(left.saturating_sub(ANSWER_MARGIN).max(left / 2));
        if background {
            let began = Instant::now();
            let (job, restarts) =
                shell.start_job(request, context.cancellation()).await.inspect_err(|error| session.examine(error))?;
            let [timeout, hard_timeout, idle_timeout] =
                [timeout_ms, hard_timeout_ms, idle_timeout_ms].map(|time| time.map(Duration::from_millis));
            job.limit(Limits { timeout, hard_timeout, idle_timeout }, session.sandbox.link(), &session.runtime);
            return Ok(RunResult {
                shell_restarted: restarts.restarted,
                state_lost: restarts.state_lost,
                ..RunResult::started(job.number, shell.cwd(), began)
            });
        }
        let _terminal = pty.then(|| session.lend_terminal(shell.terminal().master().clone()));
        let outcome = shell.run(request, context.cancellation()).await.inspect_err(|error| session.examine(error))?;
        outcome.cwd.clone_into(&mut session.cwd.lock().unwrap_or_else(PoisonError::into_inner));
        // The token fires so long before the deadline at most, and in short calls a fifth of their limit.
        let near = TOKEN_LEAD.min(left / 2);
        let left = context.deadline().saturating_duration_since(Instant::now());
        let interrupted = outcome.cancelled && left > near;
        // Cancelled shortly before the call's own limit: to the client it is the same.
        let timed_out = outcome.timed_out || (outcome.cancelled && !interrupted);
        let result = RunResult { timed_out, ..outcome.into() };
        if interrupted {
            let message = "the command was interrupted: the call was cancelled before its time limit";
            let data = serde_json::to_value(&result).tool_err(ErrorCode::INTERNAL_ERROR)?;
            return Err(ToolError::new(ErrorCode::CANCELLED, message).with_data(data));
        }
        Ok(result)
    }

    /// Send a signal to the command that the shell runs now, such as an interrupt; or to a job.
    #[tool]
    async fn interrupt(
        &self,
        session: &BashSession,
        /// The job; the command in the shell if absent.
        job_id: Option<u32>,
        /// The signal.
        #[default = "INT"]
        signal: SignalName,
    ) -> Result<()> {
        match job_id {
            Some(job) => session.jobs.get(job)?.signal(session.sandbox.link(), signal.number()),
            // Between commands there is nobody to hear it but the shell itself.
            None if session.shell.try_lock().is_ok() => {
                let reason = "no command runs in the shell now; name a job".to_owned();
                return Err(ShellError::Invalid { option: "job_id", reason }.into());
            }
            None => {
                let to = Target::Foreground;
                session.sandbox.link().tell(&Order::Signal { to, signal: signal.number() });
            }
        }
        Ok(())
    }

    /// Write to a job's standard input, or to the terminal of a job or of the command that runs now.
    #[tool]
    async fn input(
        &self,
        session: &BashSession,
        context: &ToolContext,
        /// The job; the command in the shell, which must run with `pty`, if absent.
        job_id: Option<u32>,
        /// The text. On a terminal a line ends with `\n`, and `\u0003` is what Ctrl-C sends.
        #[default = ""]
        text: String,
        /// Whether the input ends after it; on a terminal, whether Ctrl-D is sent.
        #[default = false]
        eof: bool,
    ) -> Result<()> {
        let deadline = context.deadline() - TOKEN_LEAD;
        if let Some(job) = job_id {
            return Ok(session.jobs.get(job)?.write(text.as_bytes(), eof, deadline).await?);
        }
        let terminal = session.terminal.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(terminal) = terminal else {
            let reason = "no command with a terminal runs in the shell; run it with `pty`, or as a job".to_owned();
            return Err(ShellError::Invalid { option: "job_id", reason }.into());
        };
        write_all(&terminal, text.as_bytes(), deadline).await?;
        if eof {
            write_all(&terminal, &[4], deadline).await?;
        }
        Ok(())
    }

    /// Set the size of the terminal of a job, or of the command that runs now.
    #[tool]
    async fn resize(
        &self,
        session: &BashSession,
        /// The job; the command in the shell if absent.
        job_id: Option<u32>,
        #[schemars(range(min = 1, max = 1000))]
        /// Width, in characters.
        columns: u16,
        #[schemars(range(min = 1, max = 1000))]
        /// Height, in lines.
        rows: u16,
    ) -> Result<()> {
        let terminal = match job_id {
            Some(job) => session.jobs.get(job)?.terminal(),
            None => session.terminal.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        let Some(terminal) = terminal else {
            let reason = "it has no terminal; run it with `pty`".to_owned();
            return Err(ShellError::Invalid { option: "job_id", reason }.into());
        };
        Ok(resize(&terminal, columns, rows)?)
    }

    /// Start the shell anew: variables, functions and what it runs are gone, files and jobs stay.
    #[tool]
    async fn restart(&self, session: &BashSession) -> Result<()> {
        // A command that runs has the shell's turn; it ends with the shell.
        session.sandbox.link().kill_shell();
        let mut shell = session.shell.lock().await;
        shell.restart().await.inspect_err(|error| session.examine(error))?;
        Ok(())
    }
}

/// A time limit in milliseconds, which must lie within what the call permits.
pub(super) fn limit_within(name: &str, asked: Option<u64>, most: Duration) -> Result<Duration> {
    let Some(asked) = asked.map(Duration::from_millis) else { return Ok(most) };
    if asked > most {
        let message = format!(
            "`{name}` is {}, and the time limit of this call leaves {}; give the call a longer `timeout`",
            asked.as_millis(),
            most.as_millis()
        );
        return Err(ToolError::new(ErrorCode::INVALID_INPUT, message));
    }
    Ok(asked)
}

impl BashSession {
    /// Says that the session is lost when the error means that.
    pub(super) fn examine(&self, error: &ShellError) {
        if error.ends_the_session() {
            self.handle.fail(format!("its shell cannot be used any more: {error}"));
        }
    }

    /// Lets `bash:input` reach the terminal until the answer is dropped.
    fn lend_terminal(&self, terminal: std::sync::Arc<std::os::fd::OwnedFd>) -> impl Drop {
        struct Lent<'a>(&'a BashSession);
        impl Drop for Lent<'_> {
            fn drop(&mut self) {
                self.0.terminal.lock().unwrap_or_else(PoisonError::into_inner).take();
            }
        }
        *self.terminal.lock().unwrap_or_else(PoisonError::into_inner) = Some(terminal);
        Lent(self)
    }
}

impl RunResult {
    /// Of a job that has just been started.
    fn started(job: u32, cwd: &str, began: Instant) -> Self {
        Self {
            exit_code: None,
            signal: None,
            stdout: String::new(),
            stderr: String::new(),
            stdout_truncated: None,
            stderr_truncated: None,
            cwd: cwd.to_owned(),
            duration_ms: milliseconds(began.elapsed()),
            timed_out: false,
            shell_restarted: false,
            state_lost: false,
            job_id: Some(job),
        }
    }
}

impl From<RunOutcome> for RunResult {
    fn from(outcome: RunOutcome) -> Self {
        let truncated = |captured: &super::super::output::Captured| {
            captured.truncated.then_some(Truncated { total_bytes: captured.total_bytes })
        };
        Self {
            exit_code: Some(outcome.exit_code),
            signal: signals::of_exit_code(outcome.exit_code),
            stdout_truncated: truncated(&outcome.stdout),
            stderr_truncated: truncated(&outcome.stderr),
            stdout: outcome.stdout.text,
            stderr: outcome.stderr.text,
            cwd: outcome.cwd,
            duration_ms: milliseconds(outcome.duration),
            timed_out: outcome.timed_out,
            shell_restarted: outcome.shell_restarted,
            state_lost: outcome.state_lost,
            job_id: outcome.job,
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
