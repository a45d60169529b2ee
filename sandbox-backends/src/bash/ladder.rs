//! When a command that does not end is interrupted, killed, and at last taken with its shell.

use std::time::Duration;

use tokio::time::Instant;

use super::command::RunRequest;
use super::sandbox::ANSWER_LIMIT;

/// Between SIGINT and SIGKILL, at most; the same for commands, jobs and code.
pub(super) const INTERRUPT_GRACE: Duration = Duration::from_secs(1);
/// A time limit that never comes, and that can be added to any instant.
pub(super) const FAR: Duration = Duration::from_hours(365 * 24);
/// Between SIGINT and asking a second time for the record.
const RECORD_GRACE: Duration = Duration::from_millis(100);
/// Between SIGKILL to the foreground, to the shell's descendants, and to the shell.
pub(super) const KILL_GRACE: Duration = Duration::from_millis(250);

/// How far the attempts to end a command went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) enum Stage {
    Running,
    Interrupted,
    AskedAgain,
    Killed,
    DescendantsKilled,
    ShellKilled,
}

/// When the attempts to end a command begin and go on.
pub(super) struct Ladder {
    pub(super) stage: Stage,
    /// When the next attempt is due.
    next: Instant,
    /// When the first attempt is due for want of output.
    idle: Option<(Instant, Duration)>,
    /// When SIGKILL is due.
    pub(super) hard: Option<Instant>,
    deadline: Instant,
}

impl Ladder {
    pub(super) fn new(request: &RunRequest<'_>, began: Instant) -> Self {
        let after = |time: Duration| began + time.min(FAR);
        Self {
            stage: Stage::Running,
            next: after(request.timeout.min(request.hard_timeout.unwrap_or(FAR))),
            idle: request.idle_timeout.map(|time| (after(time), time)),
            hard: request.hard_timeout.map(after),
            deadline: request.deadline,
        }
    }

    pub(super) fn limit(&self) -> Instant {
        match self.idle {
            Some((idle, _)) if self.stage == Stage::Running => idle.min(self.next),
            _ => self.next,
        }
    }

    /// Whether it waits longer than it must.
    pub(super) fn is_patient(&self) -> bool {
        self.hard.is_some()
    }

    /// Waits no longer than it must.
    pub(super) fn hurry(&mut self) {
        if self.hard.take().is_some() {
            self.next = self.next.min(Instant::now() + KILL_GRACE);
        }
    }

    pub(super) fn wrote(&mut self) {
        if let Some((idle, time)) = &mut self.idle {
            *idle = Instant::now() + *time;
        }
    }

    pub(super) fn advance(&mut self) {
        let now = Instant::now();
        // A call with little time left gives less.
        let left = self.deadline.saturating_duration_since(now) / 4;
        let (stage, pause) = match self.stage {
            Stage::Running => (Stage::Interrupted, RECORD_GRACE),
            Stage::Interrupted => (Stage::AskedAgain, INTERRUPT_GRACE.saturating_sub(RECORD_GRACE)),
            Stage::AskedAgain => (Stage::Killed, KILL_GRACE),
            Stage::Killed => (Stage::DescendantsKilled, KILL_GRACE),
            Stage::DescendantsKilled | Stage::ShellKilled => (Stage::ShellKilled, ANSWER_LIMIT),
        };
        self.next = now + if stage == Stage::ShellKilled { pause } else { pause.min(left) };
        if let (Stage::AskedAgain, Some(hard)) = (stage, self.hard) {
            self.next = hard.clamp(now, now + 2 * left);
        }
        self.stage = stage;
    }
}
