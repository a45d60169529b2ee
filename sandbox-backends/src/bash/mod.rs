//! `bash`: one persistent, isolated shell per session.
//!
//! A request becomes a line on the shell's private pipe and comes back on a fifo of its own (`session.rs`); the shell was
//! started by a launcher, a re-execution of this program (`launch.rs`), which builds the sandbox around it (`init.rs`).

mod error;
mod init;
mod launch;
mod options;
mod output;
mod policy;
mod root;
mod session;
mod wire;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

use sandbox_runtime::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use error::ShellError;
use options::{RunRequest, ShellOptions};
use session::Shell;

/// Most bytes of each stream that an answer holds.
const MAX_OUTPUT_BYTES: usize = 32_768;

/// What a call needs at its end to interrupt a command and still answer.
const ANSWER_MARGIN: Duration = Duration::from_secs(3);

/// The longest time before its deadline that a call is told to end.
const TOKEN_LEAD: Duration = Duration::from_secs(2);

/// Configuration of the resource.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BashConfig {
    /// Size of `/workspace`, in MiB.
    #[schemars(range(min = 1))]
    pub workspace_mib: u64,
    /// Size of `/tmp` and of `/dev/shm`, each, in MiB.
    #[schemars(range(min = 1))]
    pub tmp_mib: u64,
    /// Processes and threads at once.
    #[schemars(range(min = 1))]
    pub pids: u64,
    /// Address space of each process, in MiB; unlimited if absent.
    pub memory_mib: Option<u64>,
    /// Environment of every session.
    pub env: BTreeMap<String, String>,
}

impl Default for BashConfig {
    fn default() -> Self {
        let ShellOptions { workspace_mib, tmp_mib, pids, memory_mib, env, cwd: _ } = ShellOptions::default();
        Self { workspace_mib, tmp_mib, pids, memory_mib, env }
    }
}

/// Configuration of a session.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BashSessionConfig {
    /// Environment, beside that of the resource.
    pub env: BTreeMap<String, String>,
    /// Working directory to begin in; `/workspace` if absent.
    pub cwd: Option<String>,
    /// Address space of each process, in MiB, instead of the resource's.
    pub memory_mib: Option<u64>,
}

/// What became of a command.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RunResult {
    /// Its exit code; 128 + n after signal n.
    exit_code: i32,
    /// What it wrote to standard output; of a long output the head and the tail.
    stdout: String,
    /// What it wrote to standard error; of a long output the head and the tail.
    stderr: String,
    /// Whether `stdout` is not the whole output.
    stdout_truncated: bool,
    /// Whether `stderr` is not the whole output.
    stderr_truncated: bool,
    /// The working directory afterwards.
    cwd: String,
    /// How long it ran, in milliseconds.
    duration_ms: u64,
    /// Whether the time limit ended it.
    timed_out: bool,
    /// Whether the shell had to be started again: variables and functions are lost, files are not.
    shell_restarted: bool,
}

/// Shells in sandboxes of their own.
#[derive(Debug)]
pub struct BashBackend {
    config: BashConfig,
}

/// One session: its shell, and the means to say that it is dead.
pub struct BashSession {
    shell: Shell,
    handle: SessionHandle,
}

impl From<ShellError> for ToolError {
    fn from(error: ShellError) -> Self {
        let code = match &error {
            ShellError::InvalidOption { .. } | ShellError::NulInCommand { .. } | ShellError::CommandTooLong { .. } => {
                ErrorCode::INVALID_INPUT
            }
            ShellError::Isolation { .. } | ShellError::Spawn(_) => ErrorCode::DEPENDENCY_FAILURE,
            _ => ErrorCode::EXECUTION_ERROR,
        };
        Self::new(code, error.to_string())
    }
}

/// Shells in sandboxes of their own: a persistent bash per session, cut off from the host and its network.
#[backend(name = "bash")]
impl BashBackend {
    fn new(config: BashConfig) -> Result<Self> {
        Ok(Self { config })
    }

    /// Makes one sandbox, so that a host which refuses them is found at the start and not by the first client.
    async fn warmup(&self) -> Result<()> {
        Shell::start(&self.options(BashSessionConfig::default())).await?.close().await?;
        Ok(())
    }

    async fn initialize(&self, config: BashSessionConfig, handle: &SessionHandle) -> Result<BashSession> {
        let shell = Shell::start(&self.options(config)).await?;
        Ok(BashSession { shell, handle: handle.clone() })
    }

    async fn cleanup(&self, session: BashSession) -> Result<()> {
        Ok(session.shell.close().await?)
    }

    /// Run a command in the session's shell. Variables, functions and the working directory stay for the next command.
    #[tool]
    async fn run(
        &self,
        session: &mut BashSession,
        context: &ToolContext,
        progress: &Progress,
        /// The command: any bash, also several lines.
        command: String,
        /// Time limit, in milliseconds; what is left of the call's own limit, less what it takes to answer, if absent.
        #[schemars(range(min = 1))]
        timeout_ms: Option<u64>,
    ) -> Result<RunResult> {
        let left = context.deadline().saturating_duration_since(tokio::time::Instant::now());
        let timeout =
            timeout_ms.map_or_else(|| left.saturating_sub(ANSWER_MARGIN).max(left / 2), Duration::from_millis);
        // The token fires so long before the deadline at most, and in short calls a fifth of their limit.
        let near = TOKEN_LEAD.min(left / 2);
        let request =
            RunRequest { command: &command, timeout, max_output_bytes: MAX_OUTPUT_BYTES, live: Some(progress) };
        let outcome = session.shell.run(request, context.cancellation()).await.inspect_err(|error| {
            if matches!(
                error,
                ShellError::Gone | ShellError::Abandoned | ShellError::Unstable { .. } | ShellError::Io { .. }
            ) {
                session.handle.fail("its shell ended and cannot be started again");
            }
        })?;
        let left = context.deadline().saturating_duration_since(tokio::time::Instant::now());
        let interrupted = outcome.cancelled && left > near;
        let result = RunResult {
            exit_code: outcome.exit_code,
            stdout: outcome.stdout.text,
            stderr: outcome.stderr.text,
            stdout_truncated: outcome.stdout.truncated,
            stderr_truncated: outcome.stderr.truncated,
            cwd: outcome.cwd,
            duration_ms: u64::try_from(outcome.duration.as_millis()).unwrap_or(u64::MAX),
            // Cancelled shortly before the call's own limit: to the client it is the same.
            timed_out: outcome.timed_out || (outcome.cancelled && !interrupted),
            shell_restarted: outcome.shell_restarted,
        };
        if interrupted {
            let message = "the command was interrupted: the call was cancelled before its time limit";
            let data = serde_json::to_value(&result).tool_err(ErrorCode::INTERNAL_ERROR)?;
            return Err(ToolError::new(ErrorCode::CANCELLED, message).with_data(data));
        }
        Ok(result)
    }
}

impl BashBackend {
    fn options(&self, session: BashSessionConfig) -> ShellOptions {
        let BashConfig { workspace_mib, tmp_mib, pids, memory_mib, env } = self.config.clone();
        let env = env.into_iter().chain(session.env).collect();
        ShellOptions {
            workspace_mib,
            tmp_mib,
            pids,
            memory_mib: session.memory_mib.or(memory_mib),
            env,
            cwd: session.cwd,
        }
    }
}
