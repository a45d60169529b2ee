//! One persistent shell: how a command gets in, how its result comes out, and what happens when it does not end.

use std::fmt::Write as _;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::error::ShellError;
use super::launch::{ANSWER_LIMIT, Sandbox, expect, fds, number, register};
use super::options::{RunOutcome, RunRequest, ShellOptions};
use super::output::Capture;
use super::root::CONTROL;
use super::wire::{Config, Tag};

/// Longest command text.
const MAX_COMMAND_BYTES: usize = 4 << 20;
/// Between SIGINT and SIGKILL.
const INTERRUPT_GRACE: Duration = Duration::from_secs(1);
/// Between SIGINT and asking a second time for the record.
const RECORD_GRACE: Duration = Duration::from_millis(100);
/// Between SIGKILL to the foreground and SIGKILL to the shell.
const KILL_GRACE: Duration = Duration::from_millis(250);
/// How long output is still taken after the end of a command that left writers behind, such as `> >(tee log)`.
const WRITER_GRACE: Duration = Duration::from_millis(10);
/// Most bytes taken from one stream before the other descriptors get their turn.
const TURN_BYTES: u64 = 256 * 1024;
/// Most bytes of unfinished records that are kept.
const MAX_RECORD_BYTES: usize = 16 * 1024;
/// Follows the nonce when the record is asked for a second time.
const SECOND: &str = "+";
/// Starts of the shell for one command.
const MAX_STARTS: u32 = 3;
/// Keeps constant protocol lines out of the history file and exclamation marks literal.
const PRELUDE: &[u8] = b"\\builtin set +o history +H; \\builtin unset HISTFILE\n";

/// A persistent bash in its own sandbox. Dropping it kills everything inside.
#[derive(Debug)]
pub(super) struct Shell {
    sandbox: Sandbox,
    /// Watches the descriptors below, edge-triggered: tokio keeps a fifo readable for ever once its last writer closed.
    events: Arc<OwnedFd>,
    command: OwnedFd,
    record: OwnedFd,
    input: OwnedFd,
    streams: [OwnedFd; 2],
    cwd: String,
    /// The exit code of a shell that has ended and is not replaced yet.
    exited: Option<i32>,
    idle: bool,
}

/// Which descriptors may have something to read.
#[derive(Debug, Clone, Copy, Default)]
struct Ready {
    streams: [bool; 2],
    record: bool,
    control: bool,
}

impl Ready {
    /// Whether any of them has.
    fn any(self) -> bool {
        self.streams[0] || self.streams[1] || self.record || self.control
    }
}

/// What the shell reports after a command.
#[derive(Debug)]
struct Record {
    exit_code: i32,
    cwd: String,
    /// Whether it answers the second question, so that the first one, and perhaps the command, was lost.
    second: bool,
}

/// How a command ended.
#[derive(Debug)]
enum End {
    /// The shell reported exit code and working directory.
    Reported(Record),
    /// The shell itself ended.
    ShellEnded(i32),
}

/// How far the attempts to end a command went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    Interrupted,
    AskedAgain,
    Killed,
    ShellKilled,
}

impl Shell {
    /// Starts a sandbox and the shell in it.
    ///
    /// # Errors
    /// [`ShellError::Isolation`] names the step that the kernel refused; there is no fallback to less isolation.
    pub(super) async fn start(options: &ShellOptions) -> Result<Self, ShellError> {
        let config = options.config()?;
        let started = tokio::time::timeout(ANSWER_LIMIT, Self::start_with(config)).await;
        started.unwrap_or(Err(ShellError::HandshakeTimeout { limit: ANSWER_LIMIT }))
    }

    /// Starts the sandbox, takes its descriptors, and tries the shell with a command that does nothing.
    async fn start_with(config: Config) -> Result<Self, ShellError> {
        let mut sandbox = Sandbox::spawn(&config)?;
        let pid = expect(&mut sandbox, Tag::Pid).await?;
        let [init] = fds(pid)?;
        sandbox.set_init(init);
        let ready = expect(&mut sandbox, Tag::Ready).await?;
        let [command, record, out, err] = fds(ready)?;
        let started = expect(&mut sandbox, Tag::Shell).await?;
        let [input] = fds(started)?;
        let events =
            Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC).map_err(ShellError::io("creating an epoll instance"))?);
        let cwd = config.cwd;
        let mut shell =
            Self { sandbox, events, command, record, input, streams: [out, err], cwd, exited: None, idle: true };
        prepare_fifo(&shell.record)?;
        shell.watch(&shell.record, 2)?;
        shell.watch(&shell.sandbox.control(), 3)?;
        shell.adopt_streams()?;
        shell.adopt_input()?;
        let check = RunRequest { command: ":", timeout: 2 * ANSWER_LIMIT, max_output_bytes: 0, live: None };
        let outcome = shell.run(check, &CancellationToken::new()).await?;
        if outcome.shell_restarted || outcome.exit_code != 0 {
            return Err(ShellError::Unstable { attempts: 1 });
        }
        Ok(shell)
    }

    /// Runs one command to its end, or ends it when the time is over or `cancel` fires: SIGINT to its foreground
    /// process group, SIGKILL after a second, and if the shell itself does not come back, a new shell.
    ///
    /// # Errors
    /// [`ShellError::NulInCommand`] and [`ShellError::CommandTooLong`] leave the shell as it was; after any other
    /// error, or when the future is dropped midway, the session must be discarded.
    pub(super) async fn run(
        &mut self,
        request: RunRequest<'_>,
        cancel: &CancellationToken,
    ) -> Result<RunOutcome, ShellError> {
        let text = request.command.as_bytes();
        if let Some(offset) = text.iter().position(|byte| *byte == 0) {
            return Err(ShellError::NulInCommand { offset });
        }
        if text.len() > MAX_COMMAND_BYTES {
            return Err(ShellError::CommandTooLong { found: text.len(), limit: MAX_COMMAND_BYTES });
        }
        if !std::mem::replace(&mut self.idle, false) {
            return Err(ShellError::Abandoned);
        }
        let outcome = self.run_once(request, cancel).await?;
        self.idle = true;
        Ok(outcome)
    }

    /// Kills everything inside and waits until it is gone.
    ///
    /// # Errors
    /// [`ShellError::CloseTimeout`] when the kernel has not ended the processes within five seconds.
    pub(super) async fn close(self) -> Result<(), ShellError> {
        self.sandbox.close().await
    }

    /// Process id of the launcher.
    #[cfg(test)]
    pub(super) fn launcher_id(&self) -> u32 {
        self.sandbox.launcher_id()
    }

    /// Runs one command; an error leaves the shell in an unknown state.
    async fn run_once(
        &mut self,
        request: RunRequest<'_>,
        cancel: &CancellationToken,
    ) -> Result<RunOutcome, ShellError> {
        let began = Instant::now();
        let nonce = getrandom::u64().map_err(|error| io::Error::other(error.to_string()));
        let nonce = format!("{:016x}", nonce.map_err(ShellError::io("drawing a random number"))?);
        self.write_command(request.command.as_bytes())?;
        let mut restarted = self.submit(&nonce).await?;
        // On the runtime that polls this future, which need not be the one that started the shell.
        let events = register(Arc::clone(&self.events))?;
        let mut captures = ["stdout", "stderr"]
            .map(|name| Capture::new(request.max_output_bytes, request.live.map(|live| (live.clone(), name))));
        let mut ready = Ready::default();
        let mut records = Vec::new();
        let mut stage = Stage::Running;
        let (mut timed_out, mut cancelled) = (false, false);
        let far = Duration::from_hours(365 * 24);
        let mut limit = began + request.timeout.min(far);
        let end = loop {
            self.take_events(&mut ready)?;
            self.take_output(&mut ready, &mut captures)?;
            if let Some(record) = self.take_record(&mut ready, &nonce, &mut records)? {
                break End::Reported(record);
            }
            if std::mem::take(&mut ready.control) {
                self.take_frames()?;
                if let Some(code) = self.exited {
                    break End::ShellEnded(code);
                }
            }
            let stopped = stage == Stage::Running && cancel.is_cancelled();
            if stopped || Instant::now() >= limit {
                if stage == Stage::Running {
                    cancelled = stopped;
                    timed_out = !stopped;
                }
                (stage, limit) = self.escalate(stage, &nonce)?;
                continue;
            }
            if ready.any() {
                // There is more to read, but a flood of output must not keep the thread.
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                biased;
                guard = events.readable() => guard.map_err(ShellError::io("waiting for the shell"))?.clear_ready(),
                () = cancel.cancelled(), if stage == Stage::Running => {}
                () = sleep_until(limit) => {}
            }
        };
        self.settle_output(&events, &mut ready, &mut captures).await?;
        let exit_code = match end {
            End::Reported(Record { exit_code, cwd, second }) => {
                self.cwd = cwd;
                if second {
                    // Something other than the shell reads its input, such as a PROMPT_COMMAND.
                    self.sandbox.order(Tag::KillShell, &[])?;
                    if self.exited.is_none() {
                        self.exit_code().await?;
                    }
                    self.restart().await?;
                    restarted = true;
                }
                exit_code
            }
            End::ShellEnded(code) => {
                self.restart().await?;
                restarted = true;
                code
            }
        };
        let [stdout, stderr] = captures.map(Capture::finish);
        let (cwd, duration) = (self.cwd.clone(), began.elapsed());
        Ok(RunOutcome { exit_code, stdout, stderr, cwd, duration, timed_out, cancelled, shell_restarted: restarted })
    }

    /// Puts the text into the command file.
    fn write_command(&self, mut text: &[u8]) -> Result<(), ShellError> {
        rustix::fs::ftruncate(&self.command, text.len() as u64).map_err(ShellError::io("writing the command"))?;
        let mut offset = 0;
        while !text.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::pwrite(&self.command, text, offset))
                .map_err(ShellError::io("writing the command"))?;
            text = &text[written..];
            offset += written as u64;
        }
        Ok(())
    }

    /// Tells the shell to run the command file; answers whether it had to be started again first.
    async fn submit(&mut self, nonce: &str) -> Result<bool, ShellError> {
        let mut lines = format!("\\. {CONTROL}/c </dev/null >|{CONTROL}/o 2>|{CONTROL}/e\n");
        record_line(&mut lines, nonce);
        let mut restarted = false;
        for _ in 0..MAX_STARTS {
            self.take_frames()?;
            if self.exited.is_some() {
                self.restart().await?;
                restarted = true;
            }
            match rustix::io::write(&self.input, lines.as_bytes()) {
                Ok(length) if length == lines.len() => return Ok(restarted),
                Ok(_) | Err(Errno::AGAIN) => return Err(ShellError::Protocol("the shell does not read its input")),
                // It has just ended, perhaps by a background job; nothing of the command was read.
                Err(Errno::PIPE) => self.exited = Some(self.exit_code().await?),
                Err(error) => return Err(ShellError::io("writing to the shell")(error)),
            }
        }
        Err(ShellError::Unstable { attempts: MAX_STARTS })
    }

    /// Waits for the news that the shell has ended.
    async fn exit_code(&mut self) -> Result<i32, ShellError> {
        let frame = expect(&mut self.sandbox, Tag::Exit).await?;
        number(&frame.body).ok_or(ShellError::Protocol("an exit without a code"))
    }

    /// The next attempt to end the command, and when it counts as failed.
    fn escalate(&mut self, stage: Stage, nonce: &str) -> Result<(Stage, Instant), ShellError> {
        let now = Instant::now();
        Ok(match stage {
            Stage::Running => {
                self.sandbox.order(Tag::Interrupt, &[])?;
                (Stage::Interrupted, now + RECORD_GRACE)
            }
            Stage::Interrupted => {
                // An interrupt that came just after the command made the shell throw away the line for the record.
                let mut line = String::new();
                record_line(&mut line, &format!("{nonce}{SECOND}"));
                let _ = rustix::io::write(&self.input, line.as_bytes());
                (Stage::AskedAgain, now + INTERRUPT_GRACE.saturating_sub(RECORD_GRACE))
            }
            Stage::AskedAgain => {
                self.sandbox.order(Tag::Kill, &[])?;
                (Stage::Killed, now + KILL_GRACE)
            }
            Stage::Killed => {
                self.sandbox.order(Tag::KillShell, &[])?;
                (Stage::ShellKilled, now + ANSWER_LIMIT)
            }
            Stage::ShellKilled => return Err(ShellError::HandshakeTimeout { limit: ANSWER_LIMIT }),
        })
    }

    /// Adds a descriptor to the watched ones, `data` being its number in [`Ready`].
    fn watch(&self, fd: &impl AsFd, data: u64) -> Result<(), ShellError> {
        epoll::add(&*self.events, fd, epoll::EventData::new_u64(data), epoll::EventFlags::IN | epoll::EventFlags::ET)
            .map_err(ShellError::io("watching the sandbox"))
    }

    /// Adds what has become ready.
    fn take_events(&self, ready: &mut Ready) -> Result<(), ShellError> {
        let mut space = [MaybeUninit::<epoll::Event>::uninit(); 8];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Does not sleep, so no signal interrupts it.
        let (events, _) =
            epoll::wait(&*self.events, &mut space, Some(&now)).map_err(ShellError::io("waiting for the sandbox"))?;
        for event in events {
            match event.data.u64() {
                0 => ready.streams[0] = true,
                1 => ready.streams[1] = true,
                2 => ready.record = true,
                _ => ready.control = true,
            }
        }
        Ok(())
    }

    /// Reads what is there, within the limit of one turn; answers which streams have no writer.
    fn take_output(&self, ready: &mut Ready, captures: &mut [Capture; 2]) -> Result<[bool; 2], ShellError> {
        let mut ended = [false; 2];
        let mut space = [MaybeUninit::uninit(); 16384];
        for (index, (stream, capture)) in self.streams.iter().zip(captures).enumerate() {
            let mut turn = 0;
            while ready.streams[index] && turn < TURN_BYTES {
                match rustix::io::read(stream, &mut space) {
                    Ok((bytes, _)) if !bytes.is_empty() => {
                        turn += bytes.len() as u64;
                        capture.push(bytes);
                    }
                    // Before the shell has opened the fifo this is no end; a new event says when it is.
                    Ok(_) => (ready.streams[index], ended[index]) = (false, true),
                    Err(Errno::AGAIN) => ready.streams[index] = false,
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(ShellError::io("reading the output")(error)),
                }
            }
        }
        Ok(ended)
    }

    /// Reads records until the one of this call.
    fn take_record(&self, ready: &mut Ready, nonce: &str, records: &mut Vec<u8>) -> Result<Option<Record>, ShellError> {
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut turn = 0;
        // Bounded, since a command may write nonsense here as fast as it likes.
        while ready.record && turn < TURN_BYTES {
            match rustix::io::read(&self.record, &mut space) {
                Ok((bytes, _)) => {
                    turn += bytes.len() as u64;
                    records.extend_from_slice(bytes);
                }
                Err(Errno::AGAIN) => ready.record = false,
                Err(Errno::INTR) => {}
                Err(error) => return Err(ShellError::io("reading the record")(error)),
            }
            while let Some(end) = records.iter().position(|byte| *byte == 0) {
                let record: Vec<u8> = records.drain(..=end).collect();
                let record = String::from_utf8_lossy(&record[..end]);
                // A command may have written something unfinished before it.
                let Some((_, fields)) = record.split_once(nonce) else { continue };
                let mut fields = fields.splitn(3, '\t');
                if let (Some(mark), Some(Ok(exit_code)), Some(cwd)) =
                    (fields.next(), fields.next().map(str::parse), fields.next())
                {
                    return Ok(Some(Record { exit_code, cwd: cwd.to_owned(), second: mark == SECOND }));
                }
            }
            if records.len() > MAX_RECORD_BYTES {
                records.clear();
            }
        }
        Ok(None)
    }

    /// Takes note of everything that PID 1 has to say.
    fn take_frames(&mut self) -> Result<(), ShellError> {
        while let Some(frame) = self.sandbox.poll_frame()? {
            match (frame.tag, number(&frame.body)) {
                (Tag::Exit, Some(code)) => self.exited = Some(code),
                _ => return Err(ShellError::Protocol("an unexpected frame")),
            }
        }
        Ok(())
    }

    /// Takes the rest of the output; streams that background jobs keep open are replaced, so that what they write
    /// later is in nobody's answer.
    async fn settle_output(
        &mut self,
        events: &AsyncFd<Arc<OwnedFd>>,
        ready: &mut Ready,
        captures: &mut [Capture; 2],
    ) -> Result<(), ShellError> {
        let deadline = Instant::now() + WRITER_GRACE;
        let mut ended = [false; 2];
        loop {
            ready.streams = ended.map(|ended| !ended);
            let now_ended = self.take_output(ready, captures)?;
            ended = [ended[0] || now_ended[0], ended[1] || now_ended[1]];
            if ended == [true; 2] {
                return Ok(());
            }
            if Instant::now() >= deadline {
                break;
            }
            if ready.any() {
                tokio::task::yield_now().await;
            } else {
                if let Ok(guard) = timeout_at(deadline, events.readable()).await {
                    guard.map_err(ShellError::io("waiting for the shell"))?.clear_ready();
                }
                let mut news = Ready::default();
                self.take_events(&mut news)?;
                if news.control {
                    self.take_frames()?;
                }
            }
        }
        self.replace_streams().await
    }

    /// Has PID 1 replace the output fifos and take over the old ones.
    async fn replace_streams(&mut self) -> Result<(), ShellError> {
        self.sandbox.order(Tag::Slot, &[])?;
        let frame = loop {
            let frame = self.sandbox.frame().await?;
            match (frame.tag, number(&frame.body)) {
                (Tag::Slot, _) => break frame,
                (Tag::Exit, Some(code)) => self.exited = Some(code),
                _ => return Err(ShellError::Protocol("an unexpected frame")),
            }
        };
        self.streams = fds(frame)?;
        self.adopt_streams()
    }

    /// Begins to watch new output fifos.
    fn adopt_streams(&self) -> Result<(), ShellError> {
        for (index, stream) in (0..).zip(&self.streams) {
            prepare_fifo(stream)?;
            self.watch(stream, index)?;
        }
        Ok(())
    }

    /// Starts a new shell in the same sandbox, in the last known working directory.
    async fn restart(&mut self) -> Result<(), ShellError> {
        self.sandbox.order(Tag::Shell, self.cwd.as_bytes())?;
        let frame = expect(&mut self.sandbox, Tag::Shell).await?;
        [self.input] = fds(frame)?;
        self.exited = None;
        self.adopt_input()
    }

    /// Prepares a new shell.
    fn adopt_input(&self) -> Result<(), ShellError> {
        prepare_fifo(&self.input)?;
        match rustix::io::write(&self.input, PRELUDE) {
            // A shell that has ended already is noticed by the next command.
            Ok(_) | Err(Errno::PIPE) => Ok(()),
            Err(error) => Err(ShellError::io("writing to the shell")(error)),
        }
    }
}

/// The line that makes the shell report; the backslash keeps aliases out.
fn record_line(lines: &mut String, nonce: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(lines, "\\builtin printf '{nonce}\\t%s\\t%s\\0' \"$?\" \"$PWD\" >|{CONTROL}/r");
}

/// Refuses anything but a fifo: with a single user id inside, the sandbox could have put something else there.
fn prepare_fifo(fd: &OwnedFd) -> Result<(), ShellError> {
    let stat = rustix::fs::fstat(fd).map_err(ShellError::io("examining a fifo"))?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_fifo() {
        return Err(ShellError::Protocol("something that is no fifo in the place of one"));
    }
    rustix::io::ioctl_fionbio(fd, true).map_err(ShellError::io("configuring a fifo"))
}
