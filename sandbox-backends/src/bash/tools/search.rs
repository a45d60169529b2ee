//! Finding files by name and by content.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};

use globset::{GlobBuilder, GlobMatcher};
use regex::bytes::{Regex, RegexBuilder};
use rustix::fs::{FileType, Mode, OFlags};
use sandbox_runtime::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;

use super::super::files::fail;
use super::super::walk::{self, Entry, Next};
use super::super::{BashBackend, BashSession};
use super::files::MAX_ANSWER_BYTES;

/// How deep a search goes.
const MAX_DEPTH: u32 = 64;
/// Longest line that is searched and shown, in bytes; of a longer one the beginning.
const MAX_LINE_BYTES: usize = 2000;
/// Bytes of a compiled expression.
const MAX_EXPRESSION_BYTES: usize = 4 << 20;

/// The paths that match.
#[derive(Debug, Serialize, JsonSchema)]
struct Matches {
    /// Paths from the folder, sorted.
    paths: Vec<String>,
    /// Whether there are more.
    truncated: bool,
}

/// The lines that match.
#[derive(Debug, Default, Serialize, JsonSchema)]
struct Lines {
    matches: Vec<LineMatch>,
    /// Whether there are more.
    truncated: bool,
    /// How many files were searched.
    files_searched: u64,
    /// How many files were not searched: binary, too large or not readable.
    files_skipped: u64,
}

/// One line that matches.
#[derive(Debug, Serialize, JsonSchema)]
struct LineMatch {
    /// The file's path from the folder.
    path: String,
    /// The number of the line, from 1.
    line: u64,
    /// The line, without its end.
    text: String,
    /// Lines before it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    before: Vec<String>,
    /// Lines behind it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    after: Vec<String>,
}

#[tools]
impl BashBackend {
    /// Find files and folders by a pattern such as `**/*.rs` or `src/{a,b}?.c`.
    #[tool(read_only, blocking)]
    fn glob(
        &self,
        session: &BashSession,
        cancellation: &CancellationToken,
        /// The pattern, for paths from the folder: `*` and `?` do not pass a `/`, `**` does.
        pattern: String,
        /// The folder to begin in; the shell's directory if absent.
        #[default = "."]
        path: String,
        /// Whether names that begin with a dot are found.
        #[default = false]
        hidden: bool,
        /// Most paths.
        #[default = 1000]
        #[schemars(range(min = 1, max = 100_000))]
        max_results: u32,
    ) -> Result<Matches> {
        if pattern.starts_with('/') || pattern.split('/').any(|part| part == "..") {
            let message = "`pattern` is for paths from the folder: neither `/` at its beginning nor `..` can match; name \
                           the folder as `path`";
            return Err(ToolError::new(ErrorCode::INVALID_INPUT, message));
        }
        let matcher = glob(&pattern, "pattern")?;
        let path = session.path(&path);
        let _user = session.as_user()?;
        let folder = session.files.folder(&path)?;
        let most = usize::try_from(max_results).unwrap_or(usize::MAX);
        let (mut paths, mut bytes, mut truncated) = (Vec::new(), 0, false);
        let visit = |Entry { path, name, .. }: Entry<'_>| {
            if !hidden && name.to_bytes().starts_with(b".") {
                return Next::Skip;
            }
            if matcher.is_match(path) {
                bytes += path.len();
                if paths.len() >= most || bytes > MAX_ANSWER_BYTES {
                    truncated = true;
                    return Next::Stop;
                }
                paths.push(path.to_owned());
            }
            Next::Enter
        };
        let whole = walk::walk(&folder, MAX_DEPTH, walk::MAX_ENTRIES, cancellation, visit);
        let whole = whole.map_err(|error| fail(&path, error))?;
        paths.sort();
        Ok(Matches { paths, truncated: truncated || !whole })
    }

    /// Find lines by a regular expression, in a file or in all files below a folder. Binary files are left out.
    #[tool(read_only, blocking)]
    fn grep(
        &self,
        session: &BashSession,
        cancellation: &CancellationToken,
        /// The expression, in the syntax of Rust's `regex` (like PCRE, without look-around and back-references).
        pattern: String,
        /// The file or the folder; the shell's directory if absent.
        #[default = "."]
        path: String,
        /// Search only files whose path from the folder, or whose name, matches this pattern, such as `*.py`.
        glob: Option<String>,
        /// Whether `pattern` is taken as it stands.
        #[default = false]
        fixed: bool,
        /// Whether case is ignored.
        #[default = false]
        ignore_case: bool,
        /// Whether files whose name, or whose folder's, begins with a dot are searched.
        #[default = false]
        hidden: bool,
        /// Lines to show before and behind each match.
        #[default = 0]
        #[schemars(range(max = 20))]
        context: u32,
        /// Most matches.
        #[default = 200]
        #[schemars(range(min = 1, max = 10_000))]
        max_results: u32,
        /// Files larger than this are left out, in bytes.
        #[default = 10_485_760]
        #[schemars(range(max = 1_073_741_824))]
        max_file_bytes: u64,
    ) -> Result<Lines> {
        let expression = expression(&pattern, fixed, ignore_case)?;
        let matcher = glob.as_deref().map(|pattern| self::glob(pattern, "glob")).transpose()?;
        let path = session.path(&path);
        let _user = session.as_user()?;
        let context = usize::try_from(context).unwrap_or(0);
        let most = usize::try_from(max_results).unwrap_or(usize::MAX);
        let mut search = Search {
            expression,
            context,
            most,
            max_file_bytes,
            cancellation: cancellation.clone(),
            bytes: 0,
            lines: Lines::default(),
        };
        if FileType::from_raw_mode(session.files.stat(&path, true)?.st_mode).is_file() {
            let name = path.rsplit('/').next().unwrap_or(&path).to_owned();
            search.file(&name, session.files.open(&path)?);
            return Ok(search.lines);
        }
        let folder = session.files.folder(&path)?;
        let visit = |Entry { path, folder, name, kind }: Entry<'_>| {
            if !hidden && name.to_bytes().starts_with(b".") {
                return Next::Skip;
            }
            if kind == FileType::RegularFile
                && matcher
                    .as_ref()
                    .is_none_or(|glob| glob.is_match(path) || glob.is_match(name.to_string_lossy().as_ref()))
            {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                match rustix::fs::openat(folder, name, flags, Mode::empty()) {
                    Ok(file) => search.file(path, file.into()),
                    Err(_) => search.lines.files_skipped += 1,
                }
            }
            if search.lines.truncated { Next::Stop } else { Next::Enter }
        };
        let whole = walk::walk(&folder, MAX_DEPTH, walk::MAX_ENTRIES, cancellation, visit);
        search.lines.truncated |= !whole.map_err(|error| fail(&path, error))?;
        Ok(search.lines)
    }
}

/// A search through files.
struct Search {
    expression: Regex,
    context: usize,
    most: usize,
    max_file_bytes: u64,
    cancellation: CancellationToken,
    /// What the answer holds so far.
    bytes: usize,
    lines: Lines,
}

impl Search {
    /// Searches one file.
    fn file(&mut self, path: &str, file: File) {
        let fits = file.metadata().is_ok_and(|entry| entry.is_file() && entry.len() <= self.max_file_bytes);
        if !fits || self.text(path, file).is_none() {
            self.lines.files_skipped += 1;
        } else {
            self.lines.files_searched += 1;
        }
    }

    /// Searches its lines; nothing if it is no text or cannot be read.
    fn text(&mut self, path: &str, file: File) -> Option<()> {
        // No more than it had when it was looked at, however it grows.
        let mut reader = BufReader::with_capacity(64 * 1024, file.take(self.max_file_bytes));
        if memchr::memchr(0, reader.fill_buf().ok()?).is_some() {
            return None;
        }
        let first = self.lines.matches.len();
        let mut before: std::collections::VecDeque<String> = std::collections::VecDeque::new();
        let mut line = Vec::new();
        for number in 1.. {
            if !read_line(&mut reader, &mut line).ok()? {
                break;
            }
            if self.cancellation.is_cancelled() {
                self.lines.truncated = true;
                break;
            }
            let text = line.strip_suffix(b"\r").unwrap_or(&line);
            let shown = || String::from_utf8_lossy(text).into_owned();
            if self.context > 0 {
                // To those matches that are near enough.
                for found in self.lines.matches[first..].iter_mut().rev().take(self.context) {
                    if found.after.len() < self.context && found.line + self.context as u64 >= number {
                        self.bytes += text.len();
                        found.after.push(shown());
                    }
                }
            }
            if self.expression.is_match(text) {
                if self.lines.matches.len() >= self.most || self.bytes >= MAX_ANSWER_BYTES {
                    self.lines.truncated = true;
                    break;
                }
                let before: Vec<_> = before.iter().cloned().collect();
                self.bytes += path.len() + text.len() + before.iter().map(String::len).sum::<usize>();
                let (path, text) = (path.to_owned(), shown());
                self.lines.matches.push(LineMatch { path, line: number, text, before, after: Vec::new() });
            }
            if self.context > 0 {
                if before.len() >= self.context {
                    before.pop_front();
                }
                before.push_back(shown());
            }
        }
        Some(())
    }
}

/// Reads a line without its end, of a long one the beginning; `false` at the end of the file.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    let mut any = false;
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            return Ok(any);
        }
        any = true;
        let end = memchr::memchr(b'\n', bytes);
        let piece = &bytes[..end.unwrap_or(bytes.len())];
        line.extend_from_slice(&piece[..piece.len().min(MAX_LINE_BYTES.saturating_sub(line.len()))]);
        let used = end.map_or(bytes.len(), |end| end + 1);
        reader.consume(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// A pattern for paths.
fn glob(pattern: &str, parameter: &str) -> Result<GlobMatcher> {
    let glob = GlobBuilder::new(pattern).literal_separator(true).build();
    glob.map(|glob| glob.compile_matcher())
        .map_err(|error| ToolError::new(ErrorCode::INVALID_INPUT, format!("`{parameter}` is no pattern: {error}")))
}

/// A regular expression.
fn expression(pattern: &str, fixed: bool, ignore_case: bool) -> Result<Regex> {
    let pattern = if fixed { regex::escape(pattern) } else { pattern.to_owned() };
    let built = RegexBuilder::new(&pattern).case_insensitive(ignore_case).size_limit(MAX_EXPRESSION_BYTES).build();
    built.map_err(|error| {
        ToolError::new(ErrorCode::INVALID_INPUT, format!("`pattern` is no regular expression: {error}"))
    })
}
