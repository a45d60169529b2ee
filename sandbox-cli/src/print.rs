//! Output for people and for programs; colours only on a terminal.

use std::{
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anstyle::{AnsiColor, Style};
use serde_json::Value;

use crate::NOT_RUN;

const ERROR: Style = AnsiColor::Red.on_default().bold();
const NAME: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

/// As a shell sees a program that SIGPIPE ended: 128 + 13.
const BROKEN_PIPE: u8 = 141;

/// Prints what went wrong, a line each, and says how to exit; an indented line belongs to the one before.
pub(crate) fn errors(errors: &impl Display, code: u8) -> ExitCode {
    let mut stderr = anstream::stderr().lock();
    for line in errors.to_string().lines() {
        let printed = if line.starts_with(' ') {
            writeln!(stderr, "{line}")
        } else {
            writeln!(stderr, "{ERROR}error:{ERROR:#} {line}")
        };
        if printed.is_err() {
            break; // Nowhere is left to say so.
        }
    }
    ExitCode::from(code)
}

/// How to exit after printing to standard output: with `code`, or quietly when the reader has left, or with an error.
pub(crate) fn exit(printed: io::Result<()>, code: ExitCode) -> ExitCode {
    // A file may take what is buffered only now, and the end of the process would not say so.
    match printed.and_then(|()| io::stdout().flush()) {
        Ok(()) => code,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(BROKEN_PIPE),
        Err(error) => errors(&format!("standard output cannot be written to: {error}"), NOT_RUN),
    }
}

/// Prints JSON for a program, or a person: indented on a terminal.
pub(crate) fn json(value: &Value) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let text = if stdout.is_terminal() { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    writeln!(stdout, "{}", text?)
}

/// Prints a name and what is to be said of it.
pub(crate) fn entry(name: &str, remark: &str, text: &str) -> io::Result<()> {
    let mut stdout = anstream::stdout().lock();
    writeln!(stdout, "{NAME}{name}{NAME:#} {DIM}{remark}{DIM:#}")?;
    text.lines().try_for_each(|line| writeln!(stdout, "    {line}"))
}

/// Tells a person what may be done next; a program is told nothing.
pub(crate) fn hint(text: impl Display) {
    let mut stderr = anstream::stderr().lock();
    if stderr.is_terminal() {
        // It can be missed.
        let _ = writeln!(stderr, "{DIM}{text}{DIM:#}");
    }
}

/// Prints what somebody else has written.
pub(crate) fn bytes(bytes: &[u8]) -> io::Result<()> {
    io::stdout().lock().write_all(bytes)
}

/// Prints a line.
pub(crate) fn line(text: impl Display) -> io::Result<()> {
    writeln!(anstream::stdout().lock(), "{text}")
}
