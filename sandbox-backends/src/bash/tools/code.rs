//! Code in Python and JavaScript.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FileType};
use sandbox_runtime::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::super::code::{After, Ground, Interpreter, Language};
use super::super::output::Captured;
use super::super::walk::{self, Entry, Next};
use super::super::{BashBackend, BashSession};
use super::content::NewFile;
use super::run::{ANSWER_MARGIN, limit_within};

/// Most files that an answer names.
const MAX_FILES: usize = 200;
/// Entries that are looked at for them.
const MAX_LOOKED_AT: usize = 20_000;
/// How deep they are looked for.
const MAX_DEPTH: u32 = 16;
/// How coarse the times of files are.
const CLOCK_STEP: Duration = Duration::from_millis(20);

/// What became of the code.
#[derive(Debug, Serialize, JsonSchema)]
struct CodeResult {
    /// 0 if it ran to its end, 1 if it ended with an error; the interpreter's exit code if that ended.
    exit_code: i32,
    /// The value of its last expression, as the language writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<String>,
    /// What it wrote to standard output; of a long output the head and the tail.
    stdout: String,
    /// What it wrote to standard error; of a long output the head and the tail.
    stderr: String,
    /// How many bytes standard output has; present if `stdout` is not all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout_total_bytes: Option<u64>,
    /// How many bytes standard error has; present if `stderr` is not all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr_total_bytes: Option<u64>,
    /// How long it ran, in milliseconds.
    duration_ms: u64,
    /// Whether the time limit ended it.
    timed_out: bool,
    /// Whether the state of a stateful interpreter is gone.
    state_lost: bool,
    /// Files of the working directory that were made or changed while it ran.
    files: Vec<MadeFile>,
}

/// A file that was made or changed.
#[derive(Debug, Serialize, JsonSchema)]
struct MadeFile {
    path: String,
    /// Size in bytes.
    size: u64,
}

#[tools]
impl BashBackend {
    /// Run Python or JavaScript in the sandbox, beside the shell. The value of a last expression is answered as `result`.
    /// Code on its own ends as a program does, when its threads, timers and exit handlers are through.
    #[tool]
    async fn code(
        &self,
        session: &BashSession,
        context: &ToolContext,
        /// The language.
        language: Language,
        /// The code.
        code: String,
        /// After this time the code is interrupted, in milliseconds; what is left of the call's own limit, less what it
        /// takes to answer, if absent.
        #[schemars(range(min = 1))]
        timeout_ms: Option<u64>,
        /// Whether it runs where earlier stateful code of the session ran, with its variables; else on its own.
        #[default = false]
        stateful: bool,
        /// Files to write first, by path: the text of each, or `{"base64": ".."}`.
        #[default({})]
        files: BTreeMap<String, NewFile>,
        /// Most bytes of each stream in the answer.
        #[default = 32768]
        #[schemars(range(max = 1_048_576))]
        max_output_bytes: u32,
    ) -> Result<CodeResult> {
        let left = context.deadline().saturating_duration_since(Instant::now());
        let limit = limit_within("timeout_ms", timeout_ms, left.saturating_sub(ANSWER_MARGIN).max(left / 2))?;
        session.write_files(files).await?;
        let cancel = context.cancellation();
        let mut kept = tokio::select! {
            kept = session.interpreters.lock(), if stateful => Some(kept),
            () = std::future::ready(()), if !stateful => None,
            () = cancel.cancelled() => {
                return Err(ToolError::new(ErrorCode::CANCELLED, "the call was cancelled while it waited for the code before it"));
            }
        };
        let (earlier, had_state) = kept.as_mut().map_or((None, false), |kept| kept.take(language));
        let lost = had_state && earlier.is_none();
        let mut interpreter = match earlier {
            Some(interpreter) => interpreter,
            None => session.interpreter(language).await?,
        };
        let most = usize::try_from(max_output_bytes).unwrap_or(usize::MAX);
        let (began, clock) = (Instant::now(), SystemTime::now());
        // Until it is put back, a call that is dropped takes the interpreter with it.
        let after = if stateful { After::Stay } else { After::End };
        let outcome = interpreter.run(&code, after, most, limit, context.deadline(), cancel).await?;
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let [stdout, stderr] = outcome.output;
        let failed = outcome.reported.as_ref().is_some_and(|reported| !reported.ok);
        let ended = outcome.ended.is_some();
        // An interpreter that ends as it should does not know that the code had failed before.
        let exit_code = outcome.ended.map_or(0, |ended| ended.code).max(i32::from(failed));
        let result = outcome.reported.and_then(|reported| reported.result);
        if let Some(kept) = &mut kept {
            if ended { kept.forget(language) } else { kept.put(language, interpreter) }
        }
        let total = |captured: &Captured| captured.truncated.then_some(captured.total_bytes);
        let result = CodeResult {
            exit_code,
            result,
            stdout_total_bytes: total(&stdout),
            stderr_total_bytes: total(&stderr),
            stdout: stdout.text,
            stderr: stderr.text,
            duration_ms,
            timed_out: outcome.timed_out,
            state_lost: lost || (stateful && ended),
            files: session.changed_since(clock, cancel).await?,
        };
        if outcome.cancelled {
            let data = serde_json::to_value(&result).tool_err(ErrorCode::INTERNAL_ERROR)?;
            return Err(ToolError::new(ErrorCode::CANCELLED, "the code was interrupted: the call was cancelled")
                .with_data(data));
        }
        Ok(result)
    }
}

impl BashSession {
    /// Starts an interpreter in the shell's directory.
    async fn interpreter(&self, language: Language) -> Result<Interpreter> {
        let ground = Ground {
            link: self.sandbox.link(),
            places: self.sandbox.places(),
            jobs: &self.jobs,
            runtime: &self.runtime,
        };
        let started = Interpreter::start(language, &self.path("."), &ground).await;
        Ok(started.inspect_err(|error| self.examine(error))?)
    }

    /// Files of the working directory that have changed since.
    async fn changed_since(&self, since: SystemTime, cancel: &CancellationToken) -> Result<Vec<MadeFile>> {
        let since = since.checked_sub(CLOCK_STEP).unwrap_or(since);
        let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (files, folder, cancel) = (self.files.clone(), self.path("."), cancel.clone());
        let look = move || {
            let mut changed = Vec::new();
            // What cannot be looked at has no files to name.
            let Ok(_user) = files.as_user() else { return changed };
            let Ok(open) = files.folder(&folder) else { return changed };
            let visit = |Entry { path, folder: parent, name, kind }: Entry<'_>| {
                if kind == FileType::RegularFile
                    && let Ok(stat) = rustix::fs::statat(parent.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)
                {
                    let seconds = u64::try_from(stat.st_ctime).unwrap_or(0);
                    let nanos = u32::try_from(stat.st_ctime_nsec).unwrap_or(0).min(999_999_999);
                    if Duration::new(seconds, nanos) >= since {
                        let size = u64::try_from(stat.st_size).unwrap_or(0);
                        changed.push(MadeFile { path: format!("{}/{path}", folder.trim_end_matches('/')), size });
                    }
                }
                // What interpreters keep of what they have read is not what the code made.
                let cache = matches!(name.to_bytes(), b"__pycache__" | b"node_modules" | b".git");
                if changed.len() >= MAX_FILES {
                    Next::Stop
                } else if cache {
                    Next::Skip
                } else {
                    Next::Enter
                }
            };
            let _ = walk::walk(&open, MAX_DEPTH, MAX_LOOKED_AT, &cancel, visit);
            changed
        };
        let looked = Handle::current().spawn_blocking(look).await;
        looked.map_err(|error| ToolError::new(ErrorCode::INTERNAL_ERROR, error.to_string()))
    }
}
