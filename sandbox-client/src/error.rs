//! Why there is no result.

use std::{collections::BTreeMap, fmt};

use sandbox_types::{Envelope, ErrorCode, RunId};

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server was not reached, or the connection broke.
    #[error("{url} does not answer: {why}")]
    Connection {
        /// Where.
        url: String,
        /// What happened.
        why: String,
        /// Whether the request may have arrived: whether its tool ran is not known then.
        sent: bool,
    },
    /// No server could be started.
    #[error("no server could be started: {why}{}", Log(.log))]
    ServerStart {
        /// What happened.
        why: String,
        /// The last lines that it logged.
        log: String,
    },
    /// The session that the call meant is gone; [`reason`](Self::reason) says why. Asked for again, it is made anew.
    #[error("{}", .0.message)]
    SessionGone(Box<Envelope>),
    /// The tool failed, or the server refused the request.
    #[error("{}", .0.message)]
    Failed(Box<Envelope>),
    /// Resources did not get ready; why, by name.
    #[error("not ready: {}", Reasons(.0))]
    NotReady(BTreeMap<String, String>),
    /// There was no answer in time; the tool may have run, or run still.
    #[error("{url} did not answer within {seconds} s")]
    Timeout {
        /// Where.
        url: String,
        /// How long it was waited for.
        seconds: f64,
    },
    /// What answered does not speak this API.
    #[error("{url} answered {status} with something that is no answer of this API")]
    Protocol {
        /// Where.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// A stream broke before its last event, and joining it again did not help.
    #[error("{url}: the events {}broke off: {why}", .run_id.as_ref().map_or_else(String::new, |id| format!("of {id} ")))]
    Broken {
        /// Where.
        url: String,
        /// The run, where that was known yet: it may go on, and be followed from [`RunStream::last_event_id`].
        ///
        /// [`RunStream::last_event_id`]: crate::RunStream::last_event_id
        run_id: Option<RunId>,
        /// What happened last.
        why: String,
    },
    /// The caller asked for something that cannot be: what was expected, and what came.
    #[error("{0}")]
    Invalid(String),
    /// The sandbox was closed, and not started again.
    #[error("the sandbox is closed; `start` opens it again")]
    Closed,
}

pub(crate) type Result<T, E = ClientError> = std::result::Result<T, E>;

impl ClientError {
    /// A refusal, or a failure of a tool.
    pub(crate) fn of(answer: Envelope) -> Self {
        let answer = Box::new(answer);
        if answer.code == ErrorCode::SESSION_GONE { Self::SessionGone(answer) } else { Self::Failed(answer) }
    }

    /// What the server answered, if it did.
    pub fn answer(&self) -> Option<&Envelope> {
        match self {
            Self::SessionGone(answer) | Self::Failed(answer) => Some(answer),
            _ => None,
        }
    }

    /// The code of the answer, if there is one.
    pub fn code(&self) -> Option<ErrorCode> {
        self.answer().map(|answer| answer.code)
    }

    /// The machine-readable reason of the answer, such as `expired` for a session that is gone.
    pub fn reason(&self) -> Option<&str> {
        self.answer()?.error.as_ref()?.reason.as_deref()
    }

    /// Whether the tool may have run all the same: what is asked for again then, under another key, may run twice.
    pub fn may_have_run(&self) -> bool {
        match self {
            Self::Connection { sent, .. } => *sent,
            Self::Timeout { .. } | Self::Broken { .. } | Self::Protocol { .. } => true,
            Self::SessionGone(answer) | Self::Failed(answer) => answer.meta.executed,
            Self::ServerStart { .. } | Self::NotReady(_) | Self::Invalid(_) | Self::Closed => false,
        }
    }

    /// Whether the same request may succeed later; see [`may_have_run`](Self::may_have_run) too. Retries of the client's own
    /// are behind it then.
    pub fn retryable(&self) -> bool {
        match self {
            Self::SessionGone(answer) | Self::Failed(answer) => {
                answer.error.as_ref().map_or(answer.code.retryable(), |error| error.retryable)
            }
            Self::Connection { .. } | Self::Timeout { .. } | Self::Broken { .. } => true,
            Self::Protocol { status, .. } => *status >= 500 || matches!(status, 408 | 429),
            _ => false,
        }
    }
}

struct Log<'a>(&'a str);

impl fmt::Display for Log<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "; its log ends so:\n{}", self.0) }
    }
}

struct Reasons<'a>(&'a BTreeMap<String, String>);

impl fmt::Display for Reasons<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for (name, why) in self.0 {
            write!(f, "{between}`{name}`: {why}")?;
            between = "; ";
        }
        Ok(())
    }
}

/// The last cause of an error, which is what happened; those before say that a request failed, and where.
pub(crate) fn root(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

/// What an error says, and what caused it: the last cause tells most.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}
