//! What a caller says of a command, and what it gets back.

use std::time::Duration;

use sandbox_runtime::prelude::Progress;
use tokio::time::Instant;

use super::error::ShellError;
use super::output::Captured;
use super::sandbox::ANSWER_LIMIT;

/// Longest command text.
pub(super) const MAX_COMMAND_BYTES: usize = 4 << 20;
/// Longest input of a command.
pub(super) const MAX_INPUT_BYTES: usize = 8 << 20;
/// Longest path.
pub(super) const MAX_PATH_BYTES: usize = 4096;

/// One command.
#[derive(Clone, Copy)]
pub(super) struct RunRequest<'a> {
    /// Its text, any number of lines.
    pub(super) command: &'a str,
    /// After this time it is interrupted.
    pub(super) timeout: Duration,
    /// After this time it is killed; a second after the interrupt if absent.
    pub(super) hard_timeout: Option<Duration>,
    /// After this time without output it is interrupted.
    pub(super) idle_timeout: Option<Duration>,
    /// When the caller must have its answer.
    pub(super) deadline: Instant,
    /// Its standard input; empty if absent.
    pub(super) stdin: Option<&'a str>,
    /// Variables of this command only.
    pub(super) env: &'a [(String, String)],
    /// The folder to go to first.
    pub(super) cwd: Option<&'a str>,
    /// The size of its terminal, in columns and rows, if it is to have one.
    pub(super) terminal: Option<(u16, u16)>,
    /// Most bytes of text that are kept of each stream.
    pub(super) max_output_bytes: usize,
    /// Who is told what it writes, as it comes.
    pub(super) live: Option<&'a Progress>,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RunOutcome {
    /// Its exit code; 128 + n after signal n.
    pub(super) exit_code: i32,
    pub(super) stdout: Captured,
    pub(super) stderr: Captured,
    /// The working directory afterwards.
    pub(super) cwd: String,
    /// How long it ran.
    pub(super) duration: Duration,
    /// Whether a time limit ended it.
    pub(super) timed_out: bool,
    /// Whether the caller cancelled it.
    pub(super) cancelled: bool,
    /// Whether the shell was started again before or after it.
    pub(super) shell_restarted: bool,
    /// Whether variables and functions were lost with that; files never are.
    pub(super) state_lost: bool,
    /// The job that has the rest of its output.
    pub(super) job: Option<u32>,
}

/// What became of the shell during a call.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Restarts {
    pub(super) restarted: bool,
    pub(super) state_lost: bool,
}

impl<'a> RunRequest<'a> {
    /// A command of the server's own.
    pub(super) fn small(command: &'a str) -> Self {
        Self {
            command,
            timeout: ANSWER_LIMIT,
            hard_timeout: None,
            idle_timeout: None,
            deadline: Instant::now() + ANSWER_LIMIT,
            stdin: None,
            env: &[],
            cwd: None,
            terminal: None,
            max_output_bytes: 1000,
            live: None,
        }
    }
}

/// Refuses a text that no shell can represent, or that is too long.
pub(super) fn check_text<'a>(option: &'static str, text: &'a str, limit: usize) -> Result<&'a [u8], ShellError> {
    if let Some(offset) = text.bytes().position(|byte| byte == 0) {
        let reason = format!("it has a NUL byte at offset {offset}, which no shell can represent");
        return Err(ShellError::Invalid { option, reason });
    }
    check_size(option, text, limit)
}

pub(super) fn check_size<'a>(option: &'static str, text: &'a str, limit: usize) -> Result<&'a [u8], ShellError> {
    if text.len() > limit {
        let reason = format!("it has {} bytes, at most {limit} are accepted; pass data in files", text.len());
        return Err(ShellError::Invalid { option, reason });
    }
    Ok(text.as_bytes())
}
