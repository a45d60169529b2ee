//! Output for people and for programs; colours only on a terminal.
#![expect(clippy::print_stdout, reason = "this is where the command line prints")]

use std::{fmt::Display, process::ExitCode};

use anstyle::{AnsiColor, Style};
use serde_json::Value;

const ERROR: Style = AnsiColor::Red.on_default().bold();
const NAME: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

/// Prints what went wrong, a line each, and says how to exit.
pub(crate) fn errors(errors: &impl Display, code: u8) -> ExitCode {
    for line in errors.to_string().lines() {
        anstream::eprintln!("{ERROR}error:{ERROR:#} {line}");
    }
    ExitCode::from(code)
}

/// Prints JSON for a program, or a person: indented on a terminal.
pub(crate) fn json(value: &Value) {
    let pretty = std::io::IsTerminal::is_terminal(&std::io::stdout());
    let text = if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    println!("{}", text.unwrap_or_default());
}

/// Prints a name and what is to be said of it.
pub(crate) fn entry(name: &str, remark: &str, text: &str) {
    anstream::println!("{NAME}{name}{NAME:#} {DIM}{remark}{DIM:#}");
    for line in text.lines() {
        anstream::println!("    {line}");
    }
}

/// Prints a line.
pub(crate) fn line(text: impl Display) {
    anstream::println!("{text}");
}
