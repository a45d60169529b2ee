//! The hunks of a diff, applied to a text: in their order, each where it says or near to it, as long as somebody waits.

use std::fmt;

use diffy::{Hunk, Line};

/// How many lines away from where it says a hunk is looked for, before and behind: what was changed elsewhere in the file
/// meanwhile moves it. Bounded, since each hunk could be looked for in all of the file.
const MAX_SHIFT: usize = 1000;
/// Most lines of a text: for each there is its place in memory.
const MAX_LINES: usize = 2_000_000;
/// Lines that are compared before it is asked whether somebody still waits.
const PACE: usize = 4096;

/// Why a diff was not applied.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    /// A hunk's lines are not there.
    NotThere {
        /// Its number, from 1.
        hunk: usize,
        /// The line it was expected at, from 1.
        line: usize,
    },
    TooManyLines(usize),
    Cancelled,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotThere { hunk, line } => write!(
                f,
                "what hunk {hunk} takes away or keeps is not at line {line}, nor within {MAX_SHIFT} lines of it"
            ),
            Self::TooManyLines(lines) => write!(f, "it has {lines} lines, at most {MAX_LINES} can be patched"),
            Self::Cancelled => f.write_str("the call was cancelled"),
        }
    }
}

/// Applies hunks to a text.
pub(super) fn apply(text: &str, hunks: &[Hunk<'_, str>], go_on: &dyn Fn() -> bool) -> Result<String, Misfit> {
    let count = memchr::memchr_iter(b'\n', text.as_bytes()).count();
    if count > MAX_LINES {
        return Err(Misfit::TooManyLines(count));
    }
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut applied = String::with_capacity(text.len());
    // Lines that are done, and how far the last hunk was from where it said.
    let (mut done, mut shift, mut pace) = (0, 0_isize, 0);
    for (number, hunk) in hunks.iter().enumerate() {
        let old: Vec<&str> = hunk.lines().iter().filter_map(old_line).collect();
        // A hunk that takes and keeps nothing says behind which line it belongs.
        let says = if old.is_empty() { hunk.old_range().start() } else { hunk.old_range().start().saturating_sub(1) };
        let expected = says.saturating_add_signed(shift);
        let mut fits = |at: usize| {
            let Some(there) = lines.get(at..at + old.len()) else { return Ok(false) };
            for (there, wanted) in there.iter().zip(&old) {
                pace += 1;
                if pace % PACE == 0 && !go_on() {
                    return Err(Misfit::Cancelled);
                }
                if there != wanted {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let mut found = None;
        for distance in 0..=MAX_SHIFT {
            for at in [expected.checked_sub(distance), expected.checked_add(distance)].into_iter().flatten() {
                if found.is_none() && at >= done && fits(at)? {
                    found = Some(at);
                }
            }
            // What matches everywhere is put where it says, or nowhere.
            if found.is_some() || old.is_empty() {
                break;
            }
        }
        let Some(at) = found else { return Err(Misfit::NotThere { hunk: number + 1, line: expected + 1 }) };
        shift = at.cast_signed() - says.cast_signed();
        for line in lines[done..at].iter().copied().chain(hunk.lines().iter().filter_map(new_line)) {
            append(&mut applied, line);
        }
        done = at + old.len();
    }
    for line in &lines[done..] {
        append(&mut applied, line);
    }
    Ok(applied)
}

/// Appends a line; one that was the last, and had no end, gets one.
fn append(text: &mut String, line: &str) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(line);
}

/// What a line of a hunk wants to be there.
fn old_line<'a>(line: &Line<'a, str>) -> Option<&'a str> {
    match line {
        Line::Context(text) | Line::Delete(text) => Some(text),
        Line::Insert(_) => None,
    }
}

/// What a line of a hunk leaves there.
fn new_line<'a>(line: &Line<'a, str>) -> Option<&'a str> {
    match line {
        Line::Context(text) | Line::Insert(text) => Some(text),
        Line::Delete(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use diffy::Patch;

    use super::*;

    fn patched(text: &str, diff: &str) -> Result<String, Misfit> {
        apply(text, Patch::from_str(diff).unwrap().hunks(), &|| true)
    }

    fn numbered(lines: std::ops::Range<u32>) -> String {
        lines.fold(String::new(), |mut text, line| {
            writeln!(text, "{line}").unwrap();
            text
        })
    }

    #[test]
    fn what_a_diff_was_made_of_becomes_what_it_was_made_for() {
        let texts = [
            "",
            "a",
            "a\n",
            "a\nb\nc\n",
            "a\nb\nc",
            "b\nc\n",
            "a\r\nb\r\n",
            "\n\n\n",
            "x\ny\nb\nz\n",
            &numbered(0..200),
            &numbered(20..180),
            &numbered(0..200).replace('7', "seven"),
        ];
        for before in texts {
            for after in texts {
                for context in [0, 1, 3] {
                    let diff =
                        diffy::DiffOptions::new().set_context_len(context).create_patch(before, after).to_string();
                    assert_eq!(patched(before, &diff).as_deref(), Ok(after), "{diff}");
                }
            }
        }
    }

    #[test]
    fn a_hunk_is_found_near_to_where_it_says() {
        let diff = "--- a\n+++ b\n@@ -10,3 +10,3 @@\n 9\n-10\n+ten\n 11\n@@ -100,2 +100,3 @@\n 99\n+more\n 100\n";
        let expected = |text: String| text.replace("\n10\n", "\nten\n").replace("\n99\n", "\n99\nmore\n");
        for text in [numbered(0..200), numbered(5..200), format!("{}{}", "x\n".repeat(900), numbered(0..200))] {
            assert_eq!(patched(&text, diff), Ok(expected(text)));
        }
        let far = format!("{}{}", "x\n".repeat(1100), numbered(0..200));
        assert_eq!(patched(&far, diff), Err(Misfit::NotThere { hunk: 1, line: 10 }));
        assert_eq!(patched(&numbered(0..98), diff), Err(Misfit::NotThere { hunk: 2, line: 100 }));
        // The nearest of those that match, and none that an earlier hunk has passed.
        let twice = "--- a\n+++ b\n@@ -2 +2 @@\n-x\n+y\n@@ -3 +3 @@\n-x\n+z\n";
        assert_eq!(patched("x\nx\nx\nx\n", twice), Ok("x\ny\nz\nx\n".into()));
        assert_eq!(patched("0\nx\n2\n", twice), Err(Misfit::NotThere { hunk: 2, line: 3 }));
    }

    #[test]
    fn a_last_line_without_an_end_is_glued_to_none() {
        let no_end = "--- a\n+++ b\n@@ -1 +1 @@\n-a\n+b\n\\ No newline at end of file\n";
        assert_eq!(patched("a\n", no_end).as_deref(), Ok("b"));
        assert_eq!(patched("x\na\nc\n", no_end).as_deref(), Ok("x\nb\nc\n"));
        let behind = "--- a\n+++ b\n@@ -1,0 +2 @@\n+b\n";
        assert_eq!(patched("a", behind).as_deref(), Ok("a\nb\n"));
    }

    #[test]
    fn hunks_that_are_nowhere_end_with_the_call() {
        let text = "a\n".repeat(MAX_LINES);
        let diff = (0..3000).fold("--- a\n+++ b\n".to_owned(), |mut diff, line| {
            write!(diff, "@@ -{} +{} @@\n-a\n+b\n", 600 * line + 1, 600 * line + 1).unwrap();
            diff
        });
        let diff = Patch::from_str(&diff).unwrap();
        assert!(apply(&text, diff.hunks(), &|| false).is_ok(), "few are compared");
        let long = format!("--- a\n+++ b\n@@ -1,6001 +1,6001 @@\n{}-b\n+c\n", " a\n".repeat(6000));
        let long = Patch::from_str(&long).unwrap();
        assert_eq!(apply(&text, long.hunks(), &|| false), Err(Misfit::Cancelled));
        assert_eq!(apply(&text, long.hunks(), &|| true), Err(Misfit::NotThere { hunk: 1, line: 1 }));
        let more = "\n".repeat(MAX_LINES + 1);
        assert_eq!(apply(&more, long.hunks(), &|| true), Err(Misfit::TooManyLines(MAX_LINES + 1)));
    }
}
