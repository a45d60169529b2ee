//! One persistent shell: how a command gets in, how its result comes out, and what happens when it does not end.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use sandbox_runtime::prelude::CancellationToken;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::command::{
    MAX_COMMAND_BYTES, MAX_INPUT_BYTES, MAX_PATH_BYTES, Restarts, RunOutcome, RunRequest, check_size, check_text,
};
use super::error::ShellError;
use super::job::{Job, Jobs};
use super::ladder::{KILL_GRACE, Ladder, Stage};
use super::output::{Captured, Collector};
use super::places::Places;
use super::sandbox::{ANSWER_LIMIT, Ended, Handed, Link};
use super::script::{self, Wishes};
use super::streams::{Record, Streams, Watch};
use super::terminal::{Loan, Screen, Terminal};
use super::wire::{Order, Target};

/// How long a job may leave its first input unread.
const STDIN_LIMIT: Duration = Duration::from_hours(1);
/// Most of what one call may add to the shell's pipe beside the command: variables and folder.
const MAX_LINE_BYTES: usize = 48 << 10;
/// How long output is still taken after the end of a command that left writers behind, such as `> >(tee log)`.
const WRITER_GRACE: Duration = Duration::from_millis(10);
/// How long the last of what a command wrote on the terminal may take: the kernel passes it on a bit later.
const TERMINAL_LIMIT: Duration = Duration::from_secs(2);
/// How long the terminal must be silent, and how long that is waited for, where nothing marks its end.
const TERMINAL_GRACE: Duration = Duration::from_millis(5);
const SILENCE_LIMIT: Duration = Duration::from_millis(100);
/// After this time what a command has written so far is looked at.
const QUICK_TIME: Duration = Duration::from_millis(1);
/// The pause after each turn of nonsense in the place of a record, so that a flood of it occupies its sandbox and not the
/// server.
const NONSENSE_PAUSE: Duration = Duration::from_millis(1);
/// Starts of the shell for one command.
const MAX_STARTS: u32 = 3;

/// A persistent bash in a sandbox.
#[derive(Debug)]
pub(super) struct Shell {
    link: Arc<Link>,
    places: Places,
    command: OwnedFd,
    input: OwnedFd,
    variables: OwnedFd,
    /// The shell's standard input.
    pipe: OwnedFd,
    terminal: Terminal,
    streams: Streams,
    slot: u32,
    cwd: String,
    ended: watch::Receiver<Option<Ended>>,
    /// Whether the last command has come to its end.
    idle: bool,
    jobs: Arc<Jobs>,
    /// Where reading goes on between calls.
    runtime: Handle,
}

/// How a command ended.
enum End {
    /// The shell reported exit code and working directory.
    Reported(Record),
    /// The shell itself ended.
    ShellEnded(Ended),
}

impl Shell {
    /// Takes the shell of a new sandbox, and tries it with a command that does nothing. To be called on the runtime that
    /// outlives calls.
    pub(super) async fn start(
        link: Arc<Link>,
        places: Places,
        files: Handed,
        jobs: Arc<Jobs>,
    ) -> Result<Self, ShellError> {
        let runtime = Handle::current();
        let cwd = places.workspace().to_owned();
        let Handed { command, input, variables, record, pipe, master, fifos } = files;
        let terminal = Terminal::new(master, &runtime)?;
        let streams = Streams::new(record, fifos)?;
        let ended = link.news.shell.subscribe();
        let mut shell = Self {
            link,
            places,
            command,
            input,
            variables,
            pipe,
            terminal,
            streams,
            slot: 0,
            cwd,
            ended,
            idle: true,
            jobs,
            runtime,
        };
        shell.adopt_pipe()?;
        shell.check().await?;
        Ok(shell)
    }

    /// Tries the shell with a command that does nothing.
    pub(super) async fn check(&mut self) -> Result<(), ShellError> {
        let outcome = self.run(RunRequest::small(":"), &CancellationToken::new()).await?;
        if outcome.shell_restarted || outcome.exit_code != 0 {
            return Err(ShellError::Unstable { attempts: 1 });
        }
        Ok(())
    }

    /// Sets the variables of the session, for this shell and those that follow it, and its folder.
    pub(super) async fn adopt(&mut self, variables: &str, cwd: Option<&str>) -> Result<(), ShellError> {
        replace(&self.variables, variables.as_bytes())?;
        let source = format!("\\. {}", self.places.control(script::VARIABLES));
        let request = RunRequest { cwd, ..RunRequest::small(&source) };
        let outcome = self.run(request, &CancellationToken::new()).await?;
        if outcome.exit_code != 0 {
            let reason = format!("the shell could not go there: {}", outcome.stderr.text.trim());
            return Err(ShellError::Invalid { option: "cwd", reason });
        }
        Ok(())
    }

    /// Runs one command to its end, or ends it when the time is over or `cancel` fires: SIGINT to its foreground
    /// process group, then SIGKILL, then SIGKILL to everything the shell started, and if the shell itself does not come
    /// back, a new shell.
    ///
    /// # Errors
    /// [`ShellError::Invalid`] leaves the shell as it was; after any other error the session must be discarded. When the
    /// future is dropped midway, the next run begins with a new shell.
    pub(super) async fn run(
        &mut self,
        request: RunRequest<'_>,
        cancel: &CancellationToken,
    ) -> Result<RunOutcome, ShellError> {
        let command = check_text("command", request.command, MAX_COMMAND_BYTES)?;
        let stdin = request.stdin.map(|stdin| check_size("stdin", stdin, MAX_INPUT_BYTES)).transpose()?;
        let wishes =
            Wishes { env: request.env, cwd: request.cwd, input: stdin.is_some(), terminal: request.terminal.is_some() };
        if let Some(cwd) = request.cwd {
            check_text("cwd", cwd, MAX_PATH_BYTES)?;
        }
        if request.terminal.is_some() && stdin.is_some() {
            let reason = "a command on a terminal reads that; use `bash:input`, or leave `pty` out".to_owned();
            return Err(ShellError::Invalid { option: "stdin", reason });
        }
        let nonce = nonce()?;
        if cancel.is_cancelled() {
            return Ok(self.never_run());
        }
        let lines = script::run_lines(&self.places, self.slot, &nonce, &wishes);
        // Before anything else happens, which an answer would have to tell.
        if lines.len() > MAX_LINE_BYTES {
            let reason =
                format!("variables and folder take {} bytes, at most {MAX_LINE_BYTES} are accepted", lines.len());
            return Err(ShellError::Invalid { option: "env", reason });
        }
        let mut restarts = self.recover().await?;
        let lines =
            if restarts.restarted { script::run_lines(&self.places, self.slot, &nonce, &wishes) } else { lines };
        replace(&self.command, command)?;
        if let Some(stdin) = stdin {
            replace(&self.input, stdin)?;
        }
        self.idle = false;
        let outcome = self.run_once(request, cancel, &nonce, &lines, &mut restarts).await?;
        self.idle = true;
        Ok(outcome)
    }

    /// Starts a job with the state that the shell has now.
    pub(super) async fn start_job(
        &mut self,
        request: RunRequest<'_>,
        cancel: &CancellationToken,
    ) -> Result<(Arc<Job>, Restarts), ShellError> {
        let command = check_text("command", request.command, MAX_COMMAND_BYTES)?;
        let stdin = request.stdin.map(|stdin| check_size("stdin", stdin, MAX_INPUT_BYTES)).transpose()?;
        self.jobs.admit()?;
        let cancelled = || ShellError::Invalid {
            option: "background",
            reason: "the call was cancelled before the job began".into(),
        };
        if cancel.is_cancelled() {
            return Err(cancelled());
        }
        let number = self.jobs.next_number();
        let [file, _record] = self.link.order(&Order::JobFiles(number)).await?;
        let mut text = String::new();
        if let Some(cwd) = request.cwd {
            text.push_str("\\builtin cd -- ");
            script::quote(&mut text, cwd);
            text.push_str(" || \\builtin exit; ");
        }
        text.push_str(&script::exports(request.env.iter().map(|(name, value)| (name, value))).replace('\n', "; "));
        // On one line with what comes before, so that the numbers of lines in messages are those of the command.
        text.push_str(std::str::from_utf8(command).unwrap_or_default());
        replace(&file, text.as_bytes())?;
        let mut restarts = self.recover().await?;
        self.idle = false;
        let nonce = nonce()?;
        let lines = script::state_lines(&self.places, number, &nonce);
        let saved = self.run_once(RunRequest::small(""), cancel, &nonce, &lines, &mut restarts).await?;
        self.idle = true;
        if saved.cancelled || saved.timed_out {
            return Err(cancelled());
        }
        let line = script::job_line(&self.places, number);
        let order = Order::Job { number, line, terminal: request.terminal };
        let fds = if request.terminal.is_some() {
            Vec::from(self.link.order::<1>(&order).await?)
        } else {
            Vec::from(self.link.order::<3>(&order).await?)
        };
        let job = Job::started(number, request.command, fds, &self.jobs.budget, &self.link, &self.runtime)?;
        self.jobs.add(job.clone());
        if let Some(stdin) = stdin {
            // As it reads it, which may be never.
            let (job, stdin) = (job.clone(), stdin.to_vec());
            self.runtime.spawn(async move { job.write(&stdin, false, Instant::now() + STDIN_LIMIT).await });
        }
        Ok((job, restarts))
    }

    /// Ends the shell and starts a new one; without what the old one had, unless it is to keep it.
    pub(super) async fn restart(&mut self) -> Result<(), ShellError> {
        let abandoned = !self.idle;
        // Until all of it is done: a call that is dropped midway leaves the rest to the next.
        self.idle = false;
        self.end_shell().await?;
        self.start_shell().await?;
        if abandoned {
            // What the abandoned command wrote is nobody's answer.
            self.replace_streams().await?;
        }
        self.idle = true;
        Ok(())
    }

    /// The terminal of the shell.
    pub(super) fn terminal(&self) -> &Terminal {
        &self.terminal
    }

    /// The working directory.
    pub(super) fn cwd(&self) -> &str {
        &self.cwd
    }

    /// What is said of a command that was cancelled before it began.
    fn never_run(&self) -> RunOutcome {
        RunOutcome {
            exit_code: 130,
            stdout: Captured::default(),
            stderr: Captured::default(),
            cwd: self.cwd.clone(),
            duration: Duration::ZERO,
            timed_out: false,
            cancelled: true,
            shell_restarted: false,
            state_lost: false,
            job: None,
        }
    }

    /// A shell whose last command was abandoned midway gives way to a new one.
    async fn recover(&mut self) -> Result<Restarts, ShellError> {
        if self.idle {
            return Ok(Restarts::default());
        }
        self.restart().await?;
        Ok(Restarts { restarted: true, state_lost: true })
    }

    /// Runs one command; an error leaves the shell in an unknown state.
    async fn run_once(
        &mut self,
        request: RunRequest<'_>,
        cancel: &CancellationToken,
        nonce: &str,
        lines: &str,
        restarts: &mut Restarts,
    ) -> Result<RunOutcome, ShellError> {
        let began = Instant::now();
        let mut output = Collector::new(request.max_output_bytes, &self.jobs.budget, request.live);
        let mut ladder = Ladder::new(&request, began);
        let (mut timed_out, mut cancelled) = (false, false);
        // On the runtime that polls this future, which need not be the one that started the shell.
        let mut watch = self.streams.watch()?;
        let loan = self.submit(lines, request.terminal, restarts).await?;
        let mut screen = Screen::new(nonce);
        let quick = Instant::now() + QUICK_TIME;
        let end = loop {
            if self.streams.take_output(&mut output)? {
                ladder.wrote();
            }
            if let Some(record) = self.streams.take_record(nonce)? {
                break End::Reported(record);
            }
            if let Some(ended) = *self.ended.borrow_and_update() {
                break End::ShellEnded(ended);
            }
            if timed_out && cancel.is_cancelled() {
                // No time is left for patience.
                ladder.hurry();
            }
            let stopped = ladder.stage == Stage::Running && cancel.is_cancelled();
            let now = Instant::now();
            if stopped || now >= ladder.limit() {
                if ladder.stage == Stage::Running {
                    (cancelled, timed_out) = (stopped, !stopped);
                    ladder.hard = ladder.hard.filter(|_| timed_out);
                }
                self.escalate(&mut ladder, nonce)?;
                continue;
            }
            if now >= quick && !watch.has_outputs() {
                self.streams.watch_outputs(&mut watch)?;
            }
            if self.streams.has_more() {
                // There is more to read, but a flood of output must not keep the thread, nor hide the record.
                if self.streams.is_flooded() {
                    tokio::time::sleep(NONSENSE_PAUSE).await;
                } else {
                    tokio::task::yield_now().await;
                }
                self.streams.suppose_ready(&watch);
                continue;
            }
            let limit = if watch.has_outputs() { ladder.limit() } else { quick.min(ladder.limit()) };
            tokio::select! {
                biased;
                event = watch.event() => self.streams.note(&event?, &watch)?,
                written = written(loan.as_ref()) => {
                    output.push(0, &screen.pass(&written));
                    ladder.wrote();
                }
                _ = self.ended.changed() => {}
                () = cancel.cancelled(), if ladder.stage == Stage::Running || ladder.is_patient() => {}
                () = sleep_until(limit) => {}
            }
        };
        // After an interrupt the shell may have thrown that line away.
        let marked = matches!(end, End::Reported(_)) && ladder.stage <= Stage::Interrupted;
        take_rest(loan, screen, marked, &mut output).await;
        let left = self.settle_output(&mut watch, &mut output).await?;
        let (exit_code, ended) = match end {
            End::Reported(Record { exit_code, cwd }) => {
                // What the shell says is what a command has made of `PWD`.
                if cwd.starts_with('/') && cwd.len() < MAX_PATH_BYTES {
                    self.cwd = cwd;
                }
                let asked_again = ladder.stage > Stage::Interrupted;
                let ended = if asked_again && !self.answers(&watch).await? { self.end_shell().await? } else { None };
                (exit_code, ended)
            }
            End::ShellEnded(ended) => (ended.code, Some(ended)),
        };
        self.streams.unwatch(watch);
        if let Some(ended) = ended {
            self.revive(ended, restarts).await?;
        }
        let end = Ended { code: exit_code, saved: false };
        let (captured, spools) = output.finish();
        let job = if captured.iter().any(|captured| captured.truncated) || left.is_some() {
            let number = self.jobs.next_number();
            let streams = left.map(Vec::from).unwrap_or_default();
            self.jobs.add(Job::left_by(number, request.command, spools, streams, end, &self.runtime));
            Some(number)
        } else {
            None
        };
        let [stdout, stderr] = captured;
        Ok(RunOutcome {
            exit_code,
            stdout,
            stderr,
            cwd: self.cwd.clone(),
            duration: began.elapsed(),
            timed_out,
            cancelled,
            shell_restarted: restarts.restarted,
            state_lost: restarts.state_lost,
            job,
        })
    }

    /// Gives the shell its lines; a shell that has ended meanwhile is started again first.
    /// Answers the loan of its terminal, if the command wants it.
    async fn submit(
        &mut self,
        lines: &str,
        terminal: Option<(u16, u16)>,
        restarts: &mut Restarts,
    ) -> Result<Option<Loan>, ShellError> {
        for _ in 0..MAX_STARTS {
            let ended = *self.ended.borrow_and_update();
            if let Some(ended) = ended {
                self.revive(ended, restarts).await?;
            }
            let loan = terminal.map(|size| self.terminal.take(size)).transpose()?;
            match rustix::io::write(&self.pipe, lines.as_bytes()) {
                Ok(length) if length == lines.len() => return Ok(loan),
                Ok(_) | Err(Errno::AGAIN) => return Err(ShellError::Protocol("the shell does not read its input")),
                // It has just ended, perhaps by a background job; nothing of the command was read.
                Err(Errno::PIPE) => self.shell_ended().await?,
                Err(error) => return Err(ShellError::io("writing to the shell")(error)),
            }
        }
        Err(ShellError::Unstable { attempts: MAX_STARTS })
    }

    /// Waits for the news that the shell has ended.
    async fn shell_ended(&mut self) -> Result<(), ShellError> {
        let ended = tokio::time::timeout(ANSWER_LIMIT, self.ended.wait_for(Option::is_some)).await;
        match ended {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ShellError::Gone),
            Err(_) => Err(ShellError::Silent { who: "the sandbox", limit: ANSWER_LIMIT }),
        }
    }

    /// Goes on to the next attempt to end the command.
    fn escalate(&mut self, ladder: &mut Ladder, nonce: &str) -> Result<(), ShellError> {
        let kill = |to| self.link.tell(&Order::Signal { to, signal: libc::SIGKILL });
        match ladder.stage {
            Stage::Running => self.link.tell(&Order::Signal { to: Target::Foreground, signal: libc::SIGINT }),
            Stage::Interrupted => {
                // An interrupt that came just after the command made the shell throw away the line for the record. A
                // second record is nobody's: the nonce is that of this command.
                let _ = rustix::io::write(&self.pipe, script::record_line(&self.places, nonce).as_bytes());
            }
            Stage::AskedAgain => kill(Target::Foreground),
            Stage::Killed => kill(Target::Descendants),
            Stage::DescendantsKilled => kill(Target::Shell),
            Stage::ShellKilled => return Err(ShellError::Silent { who: "the sandbox", limit: ANSWER_LIMIT }),
        }
        ladder.advance();
        Ok(())
    }

    /// Takes the rest of the output. Streams that are kept open, by what the command left running, are replaced and
    /// answered, so that what comes later is in nobody's answer.
    async fn settle_output(
        &mut self,
        watch: &mut Watch,
        output: &mut Collector,
    ) -> Result<Option<[OwnedFd; 2]>, ShellError> {
        let deadline = Instant::now() + WRITER_GRACE;
        loop {
            self.streams.look_again();
            self.streams.take_output(output)?;
            if self.streams.are_closed() {
                return Ok(None);
            }
            if Instant::now() >= deadline {
                break;
            }
            if self.streams.has_more() {
                tokio::task::yield_now().await;
                continue;
            }
            if !watch.has_outputs() {
                self.streams.watch_outputs(watch)?;
            }
            if let Ok(event) = timeout_at(deadline, watch.event()).await {
                self.streams.note(&event?, watch)?;
            }
        }
        self.replace_streams().await.map(Some)
    }

    /// Takes the next slot; answers the streams of the one before.
    async fn replace_streams(&mut self) -> Result<[OwnedFd; 2], ShellError> {
        self.slot += 1;
        let fifos = self.link.order(&Order::Slot(self.slot)).await?;
        self.streams.replace(fifos)
    }

    /// Starts a new shell after the end of the last one, with its state if that was saved.
    async fn revive(&mut self, ended: Ended, restarts: &mut Restarts) -> Result<(), ShellError> {
        self.start_shell().await?;
        restarts.restarted = true;
        restarts.state_lost |= !ended.saved;
        Ok(())
    }

    /// Kills the shell and what it runs, if it lives; answers how it ended.
    async fn end_shell(&mut self) -> Result<Option<Ended>, ShellError> {
        if self.ended.borrow_and_update().is_none() {
            self.link.kill_shell();
            self.shell_ended().await?;
        }
        Ok(*self.ended.borrow())
    }

    /// Whether the shell still reads its input, and nothing else does, such as a `PROMPT_COMMAND`.
    async fn answers(&mut self, watch: &Watch) -> Result<bool, ShellError> {
        let nonce = nonce()?;
        if rustix::io::write(&self.pipe, script::record_line(&self.places, &nonce).as_bytes()).is_err() {
            return Ok(false);
        }
        let deadline = Instant::now() + KILL_GRACE;
        loop {
            if self.streams.take_record(&nonce)?.is_some() {
                return Ok(true);
            }
            match timeout_at(deadline, watch.event()).await {
                Ok(event) => self.streams.note(&event?, watch)?,
                Err(_) => return Ok(false),
            }
        }
    }

    /// Starts a new shell in the last known folder; PID 1 has kept the state of the last one, if that saved it.
    async fn start_shell(&mut self) -> Result<(), ShellError> {
        self.link.news.shell.send_replace(None);
        self.ended.mark_unchanged();
        let [pipe, master] = self.link.order(&Order::Shell { cwd: self.cwd.clone() }).await?;
        self.pipe = pipe;
        self.terminal = Terminal::new(master, &self.runtime)?;
        self.adopt_pipe()
    }

    /// Prepares a new shell.
    fn adopt_pipe(&self) -> Result<(), ShellError> {
        rustix::io::ioctl_fionbio(&self.pipe, true).map_err(ShellError::io("configuring the shell's input"))?;
        match rustix::io::write(&self.pipe, script::prelude(&self.places).as_bytes()) {
            // A shell that has ended already is noticed by the next command.
            Ok(_) | Err(Errno::PIPE) => Ok(()),
            Err(error) => Err(ShellError::io("writing to the shell")(error)),
        }
    }
}

/// What is written on the terminal; nothing ever without one.
async fn written(loan: Option<&Loan>) -> Vec<u8> {
    match loan {
        Some(loan) => loan.written().await,
        None => std::future::pending().await,
    }
}

/// Takes what the kernel passes on a bit later of what was written on the terminal, up to the mark of its end if there is
/// to be one, and gives the terminal back.
async fn take_rest(loan: Option<Loan>, mut screen: Screen, marked: bool, output: &mut Collector) {
    if loan.is_some() {
        // What goes on writing has no end.
        let deadline = Instant::now() + if marked { TERMINAL_LIMIT } else { SILENCE_LIMIT };
        while !screen.is_whole() {
            let patience = if marked { deadline } else { deadline.min(Instant::now() + TERMINAL_GRACE) };
            let Ok(more) = timeout_at(patience, written(loan.as_ref())).await else { break };
            output.push(0, &screen.pass(&more));
        }
        output.push(0, &screen.rest());
    }
}

pub(super) fn nonce() -> Result<String, ShellError> {
    let number = getrandom::u64().map_err(|error| io::Error::other(error.to_string()));
    Ok(format!("{:016x}", number.map_err(ShellError::io("drawing a random number"))?))
}

/// Replaces the content of a file.
pub(super) fn replace(file: &OwnedFd, mut text: &[u8]) -> Result<(), ShellError> {
    rustix::fs::ftruncate(file, text.len() as u64).map_err(ShellError::io("writing a file of the protocol"))?;
    let mut offset = 0;
    while !text.is_empty() {
        match rustix::io::retry_on_intr(|| rustix::io::pwrite(file, text, offset)) {
            Ok(written) => {
                text = &text[written..];
                offset += written as u64;
            }
            // Files that something inside has filled up; the shell is as it was.
            Err(Errno::NOSPC) => {
                let reason = "the sandbox's folder of the protocol is full".to_owned();
                return Err(ShellError::Invalid { option: "command", reason });
            }
            Err(error) => return Err(ShellError::io("writing a file of the protocol")(error)),
        }
    }
    Ok(())
}
