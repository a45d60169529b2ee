//! What a tool or a hook answers when it fails.

use std::fmt;

use sandbox_types::{ErrorBody, ErrorCode};
use serde_json::Value;

/// The result of tools and hooks.
pub type Result<T, E = ToolError> = std::result::Result<T, E>;

/// A failure with a code, a message for the caller, and what a program can use of it.
///
/// The message travels to the client as it is: it must hold no secret and no path of the server.
/// An author's own error type becomes one by `impl From<MyError> for ToolError`.
#[derive(Clone)]
pub struct ToolError(Box<Parts>);

#[derive(Clone)]
struct Parts {
    code: ErrorCode,
    message: String,
    body: ErrorBody,
    data: Option<Value>,
}

impl ToolError {
    /// A failure with a code and a message.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let body = ErrorBody { name: code.name().to_owned(), retryable: code.retryable(), ..ErrorBody::default() };
        Self(Box::new(Parts { code, message: message.into(), body, data: None }))
    }

    /// [`ErrorCode::BUSINESS_FAILURE`]: the tool ran and says no.
    pub fn business(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BUSINESS_FAILURE, message)
    }

    /// [`ErrorCode::EXECUTION_ERROR`]: the tool failed.
    pub fn execution(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::EXECUTION_ERROR, message)
    }

    /// A parameter with a wrong value: names it, what was expected and what came.
    pub fn parameter(
        code: ErrorCode,
        parameter: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        let (parameter, expected, found) = (parameter.into(), expected.into(), found.into());
        let mut error = Self::new(code, format!("parameter `{parameter}`: expected {expected}, found {found}"));
        error.0.body.parameter = Some(parameter);
        error.0.body.expected = Some(expected);
        error.0.body.found = Some(found);
        error
    }

    /// The server takes no new work, or ended before the answer.
    pub(crate) fn shutting_down() -> Self {
        Self::new(ErrorCode::SHUTTING_DOWN, "the server is shutting down")
    }

    /// Who would have read the answer is gone.
    pub(crate) fn client_left() -> Self {
        Self::new(ErrorCode::CANCELLED, "the client left").with_reason("disconnected")
    }

    #[cfg(feature = "server")]
    pub(crate) fn is_client_left(&self) -> bool {
        self.body().reason.as_deref() == Some("disconnected")
    }

    /// Someone asked for the end of the run.
    pub(crate) fn run_cancelled() -> Self {
        Self::new(ErrorCode::CANCELLED, "the run was cancelled").with_reason("cancelled")
    }

    /// The failure that another call was answered.
    pub(crate) fn from_answer(code: ErrorCode, message: String, body: ErrorBody) -> Self {
        Self(Box::new(Parts { code, message, body, data: None }))
    }

    /// Adds a machine-readable reason.
    pub fn with_reason(mut self, reason: impl Into<String>) -> Self {
        self.0.body.reason = Some(reason.into());
        self
    }

    /// Adds names that may have been meant, nearest first.
    pub fn with_candidates(mut self, candidates: impl IntoIterator<Item = String>) -> Self {
        self.0.body.candidates = Some(candidates.into_iter().collect());
        self
    }

    /// Adds what had been done so far; it travels as `data`.
    pub fn with_data(mut self, data: Value) -> Self {
        self.0.data = Some(data);
        self
    }

    /// The same failure of a part of the request: `key` is `session_config.key`.
    pub(crate) fn inside(mut self, part: &str) -> Self {
        let inner = self.0.body.parameter.take().filter(|parameter| parameter != "params");
        let path = inner.as_ref().map_or_else(|| part.to_owned(), |inner| format!("{part}.{inner}"));
        let old = format!("`{}`", inner.as_deref().unwrap_or("params"));
        self.0.message = self.0.message.replacen(&old, &format!("`{path}`"), 1);
        self.0.body.parameter = Some(path);
        self
    }

    /// Another message for the same failure.
    pub(crate) fn with_message(mut self, message: String) -> Self {
        self.0.message = message;
        self
    }

    /// Puts words in front of the message.
    pub fn context(mut self, words: impl fmt::Display) -> Self {
        self.0.message = format!("{words}: {}", self.0.message);
        self
    }

    /// The code.
    pub fn code(&self) -> ErrorCode {
        self.0.code
    }

    /// The message for the caller.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The failure in the form that programs read.
    pub fn body(&self) -> &ErrorBody {
        &self.0.body
    }

    /// What had been done so far.
    pub fn data(&self) -> Option<&Value> {
        self.0.data.as_ref()
    }
}

impl fmt::Display for ToolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for ToolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.message)
    }
}

impl std::error::Error for ToolError {}

/// Gives any error a code.
pub trait ResultExt<T> {
    /// Turns the error into a [`ToolError`] with this code; its text becomes the message.
    ///
    /// ```
    /// # use sandbox_runtime::prelude::*;
    /// fn port(text: &str) -> Result<u16> {
    ///     text.parse().tool_err(ErrorCode::INVALID_INPUT)
    /// }
    /// assert_eq!(port("http").unwrap_err().code(), ErrorCode::INVALID_INPUT);
    /// ```
    ///
    /// # Errors
    /// The error, with this code.
    fn tool_err(self, code: ErrorCode) -> Result<T>;
}

impl<T, E: fmt::Display> ResultExt<T> for Result<T, E> {
    fn tool_err(self, code: ErrorCode) -> Result<T> {
        self.map_err(|error| ToolError::new(code, error.to_string()))
    }
}
