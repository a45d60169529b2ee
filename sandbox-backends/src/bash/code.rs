//! Interpreters for `bash:code`: a small driver in the language itself takes code on its standard input and reports each
//! end on a fifo of its own, so that neither travels with the output.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use sandbox_runtime::prelude::CancellationToken;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};

use super::error::ShellError;
use super::job::{Job, Jobs, write_all};
use super::ladder::{FAR, INTERRUPT_GRACE};
use super::output::Captured;
use super::places::Places;
use super::readiness::register;
use super::sandbox::{Ended, Link};
use super::script;
use super::session::{nonce, replace};
use super::wire::Order;

/// The drivers.
const PYTHON: &str = include_str!("drivers/python.py");
const NODE: &str = include_str!("drivers/node.js");

/// How long the driver may take to begin.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long a killed interpreter may take to end.
const END_LIMIT: Duration = Duration::from_secs(5);
/// Longest report of a driver.
const MAX_REPORT_BYTES: usize = 256 * 1024;
/// Reads of the fifo of reports before everything else has its turn.
const TURN_READS: usize = 16;
/// The exit code of a program that is not there.
const NOT_FOUND: i32 = 127;

/// A language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Language {
    /// Python 3.
    Python,
    /// JavaScript, by Node.js.
    Node,
}

/// A running interpreter. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Interpreter {
    job: Arc<Job>,
    link: Arc<Link>,
    /// Until the last code.
    input: Option<Arc<OwnedFd>>,
    report: OwnedFd,
    /// What came of the next report.
    unread: Vec<u8>,
}

/// What an interpreter needs of its session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ground<'a> {
    pub(super) link: &'a Arc<Link>,
    pub(super) places: &'a Places,
    pub(super) jobs: &'a Jobs,
    pub(super) runtime: &'a Handle,
}

/// What a driver is told.
#[derive(Serialize)]
struct Cell<'a> {
    nonce: &'a str,
    code: &'a str,
    /// Whether it is the last.
    last: bool,
}

/// What a driver reports.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Outcome {
    nonce: String,
    /// Whether the code ran to its end.
    pub(super) ok: bool,
    /// The value of its last expression, as the language writes it.
    #[serde(default)]
    pub(super) result: Option<String>,
}

/// What becomes of an interpreter after the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// It waits for more.
    Stay,
    /// It ends as a program does: when its threads, timers and exit handlers are through and its files are written.
    End,
}

/// What became of the code.
#[derive(Debug)]
pub(super) struct CodeOutcome {
    /// What the driver reported, if it could.
    pub(super) reported: Option<Outcome>,
    /// How the interpreter itself ended, if it has.
    pub(super) ended: Option<Ended>,
    pub(super) output: [Captured; 2],
    pub(super) timed_out: bool,
    pub(super) cancelled: bool,
}

impl Language {
    fn program(self) -> &'static str {
        match self {
            Self::Python => "python3 -u -X utf8",
            Self::Node => "node --no-warnings",
        }
    }

    fn driver(self) -> &'static str {
        match self {
            Self::Python => PYTHON,
            Self::Node => NODE,
        }
    }
}

impl Interpreter {
    /// Starts an interpreter in this directory, with the variables of the session.
    ///
    /// # Errors
    /// [`ShellError::Invalid`] when the sandbox has no such interpreter.
    pub(super) async fn start(language: Language, cwd: &str, ground: &Ground<'_>) -> Result<Self, ShellError> {
        let Ground { link, places, jobs, runtime } = *ground;
        let number = jobs.next_number();
        let [driver, report] = link.order(&Order::JobFiles(number)).await?;
        replace(&driver, language.driver().as_bytes())?;
        let [command, record] =
            [script::job_command(number), script::job_record(number)].map(|name| places.control(&name));
        let mut folder = String::new();
        script::quote(&mut folder, cwd);
        let (variables, program) = (places.control(script::VARIABLES), language.program());
        let line = format!("\\. {variables}; \\builtin cd -- {folder}; exec {program} {command} {record}");
        let fds = link.order::<3>(&Order::Job { number, line, terminal: None }).await?;
        let job = Job::started(number, "", Vec::from(fds), &jobs.budget, link, runtime)?;
        let input = job.input_pipe().ok_or(ShellError::Protocol("a job without its input"))?;
        rustix::io::ioctl_fionbio(&report, true).map_err(ShellError::io("configuring a fifo"))?;
        let mut interpreter = Self { job, link: link.clone(), input: Some(input), report, unread: Vec::new() };
        let deadline = Instant::now() + 2 * START_LIMIT;
        let begun = interpreter.run("", After::Stay, 2000, START_LIMIT, deadline, &CancellationToken::new()).await?;
        match begun.ended {
            None => Ok(interpreter),
            Some(Ended { code: NOT_FOUND, .. }) => {
                let name = language.program().split(' ').next().unwrap_or_default();
                let reason = format!(
                    "the sandbox has no {name}: install it on the server's host, or name its folder in `read_only_paths`"
                );
                Err(ShellError::Invalid { option: "language", reason })
            }
            Some(ended) => {
                let [_, (errors, _)] = interpreter.job.output([0, 0], 2000, Instant::now()).await;
                let errors = String::from_utf8_lossy(&errors.bytes).into_owned();
                let reason = format!("the interpreter ended with code {}: {}", ended.code, errors.trim());
                Err(ShellError::Invalid { option: "language", reason })
            }
        }
    }

    /// Whether it can take more code.
    pub(super) fn lives(&self) -> bool {
        self.job.state().ended.is_none()
    }

    /// Runs code to its end, or ends it when the time is over or `cancel` fires: an interrupt, and a kill after that.
    pub(super) async fn run(
        &mut self,
        code: &str,
        after: After,
        most: usize,
        limit: Duration,
        deadline: Instant,
        cancel: &CancellationToken,
    ) -> Result<CodeOutcome, ShellError> {
        let began = self.job.totals();
        let nonce = nonce()?;
        let mut cell = serde_json::to_vec(&Cell { nonce: &nonce, code, last: after == After::End })
            .map_err(|error| ShellError::io("writing the code")(std::io::Error::other(error)))?;
        cell.push(b'\n');
        let mut next = Instant::now() + limit.min(FAR);
        let report = self.report.try_clone().map_err(ShellError::io("copying a descriptor"))?;
        let events = register(report, Interest::READABLE).map_err(ShellError::io("registering with the runtime"))?;
        let input = self.input.clone().ok_or(ShellError::Protocol("code for an interpreter that ends"))?;
        if after == After::End {
            self.input = None;
            self.job.end_input();
        }
        let writing = async {
            let written = write_all(&input, &cell, deadline).await;
            drop(input);
            written
        };
        tokio::pin!(writing);
        let (mut written, mut stage, mut timed_out, mut cancelled) = (false, 0, false, false);
        let mut reported = None;
        let ended = loop {
            // Before the report is looked for, which comes before the end.
            let ended = self.job.state().ended;
            let report = self.take_report(&nonce)?;
            let more = matches!(report, Report::More);
            if let Report::Found(outcome) = report {
                reported = Some(outcome);
                if after == After::Stay {
                    break None;
                }
            }
            if ended.is_some() && !more {
                break ended;
            }
            if stage == 0 && cancel.is_cancelled() {
                (cancelled, next) = (true, Instant::now());
            }
            if Instant::now() >= next {
                timed_out |= stage == 0 && !cancelled;
                let signal = if stage == 0 { libc::SIGINT } else { libc::SIGKILL };
                self.job.signal(&self.link, signal);
                let left = deadline.saturating_duration_since(Instant::now()) / 4;
                next = Instant::now() + if stage == 0 { INTERRUPT_GRACE.min(left) } else { END_LIMIT };
                if stage > 1 {
                    return Err(ShellError::Silent { who: "the interpreter", limit: END_LIMIT });
                }
                stage += 1;
            }
            if more {
                // Nonsense, as fast as it can be read: it must not keep the thread.
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                // A driver that has ended does not read; how it did is what counts.
                _ = &mut writing, if !written => written = true,
                guard = events.readable() => guard.map_err(ShellError::io("waiting for the interpreter"))?.clear_ready(),
                _ = self.job.ended(FAR) => {}
                () = cancel.cancelled(), if stage == 0 => {}
                () = sleep_until(next) => {}
            }
        };
        self.job.drained().await;
        let output = self.job.since(began, most);
        Ok(CodeOutcome { reported, ended, output, timed_out, cancelled })
    }

    /// The report with this nonce, if it has come. Bounded, since code may write nonsense there.
    fn take_report(&mut self, nonce: &str) -> Result<Report, ShellError> {
        let mut bytes = [0; 4096];
        for _ in 0..TURN_READS {
            let searched = self.unread.len();
            match rustix::io::read(&self.report, &mut bytes) {
                Ok(length) => self.unread.extend_from_slice(&bytes[..length]),
                Err(rustix::io::Errno::AGAIN) => return Ok(Report::None),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(ShellError::io("reading the report")(error)),
            }
            let mut from = searched;
            while let Some(end) = memchr::memchr(b'\n', &self.unread[from..]) {
                let line: Vec<u8> = self.unread.drain(..=from + end).collect();
                from = 0;
                if let Ok(outcome) = serde_json::from_slice::<Outcome>(&line)
                    && outcome.nonce == nonce
                {
                    return Ok(Report::Found(outcome));
                }
            }
            if self.unread.len() > MAX_REPORT_BYTES {
                self.unread.clear();
            }
        }
        Ok(Report::More)
    }
}

/// What the fifo of reports holds.
enum Report {
    Found(Outcome),
    /// More than was looked at.
    More,
    None,
}

impl Drop for Interpreter {
    fn drop(&mut self) {
        self.job.signal(&self.link, libc::SIGKILL);
        // What it started may hold its streams open.
        self.job.abandon();
    }
}

/// The interpreters of a session that keep their state.
#[derive(Debug, Default)]
pub(super) struct Interpreters {
    running: BTreeMap<Language, Interpreter>,
    /// Those that have had a state.
    known: BTreeSet<Language>,
}

impl Interpreters {
    /// Takes the interpreter for one call; a call that is dropped takes it with it. Says whether there was a state.
    pub(super) fn take(&mut self, language: Language) -> (Option<Interpreter>, bool) {
        (self.running.remove(&language).filter(Interpreter::lives), !self.known.insert(language))
    }

    /// Puts it back.
    pub(super) fn put(&mut self, language: Language, interpreter: Interpreter) {
        self.running.insert(language, interpreter);
    }

    /// The state is gone, and that was said.
    pub(super) fn forget(&mut self, language: Language) {
        self.known.remove(&language);
    }
}
