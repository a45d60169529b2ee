//! What the shell is told: the files of the protocol, and the lines that go through the shell's private pipe.
//!
//! The lines have no quotes and no state: an interrupt that comes while the shell reads one cuts it in two, and whatever
//! is left of it must be harmless. The backslashes keep aliases out.

use std::fmt::Write as _;

use super::places::Places;

/// The text of the command.
pub(super) const COMMAND: &str = "c";
/// The standard input of the command.
pub(super) const INPUT: &str = "i";
/// The variables of the session.
pub(super) const VARIABLES: &str = "v";
/// The fifo for records.
pub(super) const RECORD: &str = "r";
/// Where a shell that ends saves its state.
pub(super) const SAVED: &str = "s";
/// The state that the next shell begins with.
pub(super) const KEPT: &str = "k";
/// Reports the end of a command.
const REPORTER: &str = "q";
/// The same for a command on the terminal: what stands there last is the nonce.
const TERMINAL_REPORTER: &str = "t";
/// Prepares a new shell.
const PRELUDE: &str = "p";
/// Writes the state of the shell to the file that is its argument.
const SAVER: &str = "x";

/// The last line of a whole state.
pub(super) const WHOLE: &str = "# whole\n";

/// The names of a slot's output fifos.
pub(super) fn slot(number: u32) -> [String; 2] {
    [format!("{number}o"), format!("{number}e")]
}

/// The file with a job's command.
pub(super) fn job_command(number: u32) -> String {
    format!("j{number}c")
}

/// The fifo on which a job can report.
pub(super) fn job_record(number: u32) -> String {
    format!("j{number}r")
}

/// The file with the state that a job begins with.
pub(super) fn job_state(number: u32) -> String {
    format!("j{number}s")
}

/// The files that never change, by name.
pub(super) fn constant(places: &Places) -> [(&'static str, String); 4] {
    let control = places.control_folder();
    let record = places.control(RECORD);
    let report =
        |code: &str| format!("\\builtin printf '%s\\t%s\\t%s\\0' \"$1\" \"{code}\" \"${{PWD-}}\" >|{record}\n");
    [
        (
            REPORTER,
            // The nonce is the argument of `.`; `$?` is that of what ran before.
            report("$?"),
        ),
        (
            TERMINAL_REPORTER,
            // The server must know when it has read all of it; the kernel passes it on in its own time.
            format!("\\builtin set -- \"$1\" \"$?\"; \\builtin printf %s \"$1\" >/dev/tty\n{}", report("$2")),
        ),
        (
            PRELUDE,
            // History off keeps the protocol's lines out of a file, and exclamation marks literal. What a shell that
            // ended has saved comes back, but for `errexit`, which may have ended it.
            format!(
                "\\builtin set +o history +H; \\builtin unset HISTFILE\n\
                 \\builtin trap '\\. {control}/{SAVER} {control}/{SAVED}' EXIT\n\
                 \\. {control}/{VARIABLES}\n\
                 if [[ -e {control}/{KEPT} ]]; then \\. {control}/{KEPT} >/dev/null 2>&1; \\builtin set +e; fi\n"
            ),
        ),
        (
            SAVER,
            // Options last: `noglob` or `noclobber` must not change how the rest is read.
            "{ \\builtin declare -p; \\builtin declare -f; \\builtin alias -p; \\builtin trap -p; \\builtin printf \
             '\\\\builtin umask %s\\n\\\\builtin cd -- %q\\n' \"$(\\builtin umask)\" \"$PWD\"; \\builtin shopt -p; \
             \\builtin set +o; \\builtin printf '# whole\\n'; } >|\"$1\" 2>/dev/null\n"
                .to_owned(),
        ),
    ]
}

/// Prepares a new shell.
pub(super) fn prelude(places: &Places) -> String {
    format!("\\. {}\n", places.control(PRELUDE))
}

/// What one call wants to be different.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Wishes<'a> {
    /// Variables of this command only.
    pub(super) env: &'a [(String, String)],
    /// The folder to go to first.
    pub(super) cwd: Option<&'a str>,
    /// Whether the input file is its standard input.
    pub(super) input: bool,
    /// Whether its streams are the terminal.
    pub(super) terminal: bool,
}

/// The lines that run the command file with the output fifos of this slot, and report its end.
pub(super) fn run_lines(places: &Places, slot_number: u32, nonce: &str, wishes: &Wishes<'_>) -> String {
    let mut lines = String::new();
    let [out, err] = slot(slot_number).map(|name| places.control(&name));
    if let Some(cwd) = wishes.cwd {
        lines.push_str("\\builtin cd -- ");
        quote(&mut lines, cwd);
        // Writing to a string cannot fail.
        let _ = write!(lines, " >|{out} 2>|{err} && ");
    }
    for (name, value) in wishes.env {
        lines.push_str(name);
        lines.push('=');
        quote(&mut lines, value);
        lines.push(' ');
    }
    let command = places.control(COMMAND);
    let _ = match (wishes.terminal, wishes.input) {
        (true, _) => writeln!(lines, "\\. {command} <>/dev/tty >&0 2>&1"),
        (false, true) => writeln!(lines, "\\. {command} <{} >|{out} 2>|{err}", places.control(INPUT)),
        (false, false) => writeln!(lines, "\\. {command} </dev/null >|{out} 2>|{err}"),
    };
    let reporter = if wishes.terminal { TERMINAL_REPORTER } else { REPORTER };
    let _ = writeln!(lines, "\\. {} {nonce}", places.control(reporter));
    lines
}

/// The line that makes the shell report.
pub(super) fn record_line(places: &Places, nonce: &str) -> String {
    format!("\\. {} {nonce}\n", places.control(REPORTER))
}

/// The lines that write the shell's state for a job, and report.
pub(super) fn state_lines(places: &Places, number: u32, nonce: &str) -> String {
    let (saver, state) = (places.control(SAVER), places.control(&job_state(number)));
    format!("\\. {saver} {state}\n{}", record_line(places, nonce))
}

/// The argument of `bash -c` for a job.
pub(super) fn job_line(places: &Places, number: u32) -> String {
    let (state, command) = (places.control(&job_state(number)), places.control(&job_command(number)));
    format!("\\. {state} >/dev/null 2>&1; \\builtin set +em; \\builtin trap - EXIT; \\. {command}")
}

/// Lines that set and export variables.
pub(super) fn exports<'a>(variables: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let mut lines = String::new();
    for (name, value) in variables {
        let _ = write!(lines, "\\builtin export {name}=");
        quote(&mut lines, value);
        lines.push('\n');
    }
    lines
}

/// Whether it can name a variable of the shell.
pub(super) fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Appends the text as one word of the shell, on one line.
pub(super) fn quote(target: &mut String, text: &str) {
    target.push_str("$'");
    for character in text.chars() {
        match character {
            '\n' => target.push_str("\\n"),
            '\\' | '\'' => target.extend(['\\', character]),
            _ => target.push(character),
        }
    }
    target.push('\'');
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn quoted_text_is_one_word_on_one_line() {
        for text in ["", "plain", "it's", "a\\b\\n", "two\nlines\t!", "$HOME `id` \"x\"", "é🦀"] {
            let mut line = "printf %s ".to_owned();
            quote(&mut line, text);
            assert!(!line.contains('\n'));
            let output = Command::new("bash").args(["--norc", "-c", &line]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        }
    }

    #[test]
    fn names_of_variables() {
        assert!(["A", "_", "a1_B"].iter().all(|name| is_name(name)));
        assert!(["", "1a", "a-b", "a=b", "ä", "a b", "a\n"].iter().all(|name| !is_name(name)));
    }
}
