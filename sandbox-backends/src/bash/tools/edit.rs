//! Changing files: exact replacement and unified diffs.

use std::fs::File;
use std::io::Read;

use diffy::patch_set::{FileMode, FileOperation, ParseOptions, PatchSet};
use rustix::fs::RawMode;
use sandbox_runtime::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::{MutexGuard, Semaphore, SemaphorePermit};

use super::super::files::fail;
use super::super::{BashBackend, BashSession};
use super::content::digest;
use super::files::Written;
use super::hunks::{self, Misfit};

/// Largest file that is edited.
const MAX_EDIT_BYTES: u64 = 32 << 20;
/// Files that are edited at once, in all sessions: each is in memory, twice, and of a patched one the place of each line.
static EDITS: Semaphore = Semaphore::const_new(4);
/// Places after which an edit looks whether anybody still waits for it.
const PACE: usize = 4096;
/// Places that an error names.
const NAMED_PLACES: usize = 5;

/// What an edit did.
#[derive(Debug, Serialize, JsonSchema)]
struct Edited {
    /// How many places were replaced.
    replacements: u32,
    /// How many bytes the file has now.
    total_bytes: u64,
    /// SHA-256 of the file now, in hexadecimal digits.
    sha256: String,
}

/// What a diff did.
#[derive(Debug, Serialize, JsonSchema)]
struct Patched {
    files: Vec<PatchedFile>,
}

/// One file of a diff.
#[derive(Debug, Serialize, JsonSchema)]
struct PatchedFile {
    path: String,
    change: Change,
    /// How many hunks were applied.
    hunks: usize,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Change {
    Created,
    Modified,
    Removed,
    Moved,
}

/// A file as it will be.
struct Planned {
    path: String,
    /// None removes it.
    content: Option<Vec<u8>>,
    mode: Option<RawMode>,
    change: Change,
    hunks: usize,
}

#[tools]
impl BashBackend {
    /// Replace text in a file. The text must be there exactly as often as `count` says, or nothing is changed.
    #[tool(blocking)]
    fn edit(
        &self,
        session: &BashSession,
        cancellation: &CancellationToken,
        /// The file.
        path: String,
        /// The text to replace, exactly as it stands in the file, line ends and indentation included.
        #[schemars(length(min = 1))]
        old_text: String,
        /// What to put in its place.
        new_text: String,
        /// How many places there must be; 0 replaces all, however many.
        #[default = 1]
        count: u32,
        /// SHA-256 that the file must have, as `bash:read` gave it; it was changed meanwhile otherwise.
        expected_sha256: Option<String>,
    ) -> Result<Edited> {
        let path = session.path(&path);
        let _turn = session.turn(cancellation)?;
        let _user = session.as_user()?;
        let content = session.content(&path)?;
        if let Some(expected) = expected_sha256 {
            let found = digest(&content);
            if !expected.eq_ignore_ascii_case(&found) {
                let message =
                    format!("`{path}` was changed: its SHA-256 is {found}, {expected} was expected; read it again");
                return Err(ToolError::new(ErrorCode::CONFLICT, message));
            }
        }
        let places = || memchr::memmem::find_iter(&content, old_text.as_bytes());
        let mut number = 0;
        for _ in places() {
            number += 1;
            go_on(number, cancellation)?;
        }
        let found = u32::try_from(number).unwrap_or(u32::MAX);
        if found == 0 {
            let mut message = format!("`old_text` is not in `{path}`; it must match exactly, white space included");
            if content.windows(2).any(|pair| pair == b"\r\n") && !old_text.contains('\r') {
                message.push_str("; lines of the file end with \\r\\n");
            }
            return Err(ToolError::new(ErrorCode::INVALID_INPUT, message));
        }
        if count > 0 && found != count {
            let lines = places().take(NAMED_PLACES).map(|place| line_of(&content, place).to_string());
            let lines = lines.collect::<Vec<_>>().join(", ");
            let more = if number > NAMED_PLACES { ", .." } else { "" };
            let message = format!(
                "`old_text` is in `{path}` {found} times, in lines {lines}{more}; `count` is {count}: give more of the text \
                 around the place, or the right `count`"
            );
            return Err(ToolError::new(ErrorCode::INVALID_INPUT, message));
        }
        let length = new_text.len().saturating_mul(number).saturating_add(content.len() - old_text.len() * number);
        if length as u64 > MAX_EDIT_BYTES {
            return Err(too_large(&path, length as u64));
        }
        let mut edited = Vec::with_capacity(length);
        let mut end = 0;
        for (index, place) in places().enumerate() {
            go_on(index, cancellation)?;
            edited.extend_from_slice(&content[end..place]);
            edited.extend_from_slice(new_text.as_bytes());
            end = place + old_text.len();
        }
        edited.extend_from_slice(&content[end..]);
        let Written { total_bytes, sha256 } = session.replace(&path, None, &edited)?;
        Ok(Edited { replacements: found, total_bytes, sha256: sha256.unwrap_or_default() })
    }

    /// Apply a unified diff, such as that of `git diff` or `diff -u`, to one or more files. Each hunk must fit exactly,
    /// within 1000 lines of where it says. If a part of it does not apply, nothing is changed.
    #[tool(blocking)]
    fn patch(
        &self,
        session: &BashSession,
        cancellation: &CancellationToken,
        /// The diff. Paths in it begin in `directory`; `a/` and `b/` before them are left out.
        patch: String,
        /// The directory; the shell's if absent.
        #[default = "."]
        directory: String,
    ) -> Result<Patched> {
        let directory = session.path(&directory);
        let _turn = session.turn(cancellation)?;
        let _user = session.as_user()?;
        let planned = session.plan(&patch, &directory, cancellation)?;
        let mut files = Vec::new();
        for Planned { path, content, mode, change, hunks } in planned {
            match content {
                Some(content) => {
                    session.make_parents(&path)?;
                    session.replace(&path, mode, &content)?;
                }
                None => {
                    session.files.remove(&path, false, cancellation)?;
                }
            }
            files.push(PatchedFile { path, change, hunks });
        }
        // The removal that belongs to a move is no change of its own.
        files.retain(|file| file.hunks != usize::MAX);
        Ok(Patched { files })
    }
}

/// Says after every few places whether anybody still waits.
fn go_on(place: usize, cancellation: &CancellationToken) -> Result<()> {
    if place.is_multiple_of(PACE) && cancellation.is_cancelled() { Err(cancelled()) } else { Ok(()) }
}

fn cancelled() -> ToolError {
    ToolError::new(ErrorCode::CANCELLED, "the call was cancelled before anything was changed")
}

impl BashSession {
    /// Waits until no other edit of the session, and fewer of all sessions, are under way.
    fn turn(&self, cancellation: &CancellationToken) -> Result<(MutexGuard<'_, ()>, SemaphorePermit<'static>)> {
        let both = async {
            let own = self.edits.lock().await;
            let place = EDITS.acquire().await.tool_err(ErrorCode::INTERNAL_ERROR)?;
            Ok((own, place))
        };
        Handle::current().block_on(async {
            tokio::select! {
                turn = both => turn,
                () = cancellation.cancelled() => Err(cancelled()),
            }
        })
    }

    /// A whole file.
    fn content(&self, path: &str) -> Result<Vec<u8>> {
        let file: File = self.files.open(path)?;
        let length = file.metadata().map_err(|error| fail(path, error))?.len();
        if length > MAX_EDIT_BYTES {
            return Err(too_large(path, length));
        }
        let mut content = Vec::new();
        file.take(MAX_EDIT_BYTES + 1).read_to_end(&mut content).map_err(|error| fail(path, error))?;
        if content.len() as u64 > MAX_EDIT_BYTES {
            return Err(too_large(path, length));
        }
        Ok(content)
    }

    /// What the files of a diff are to become.
    fn plan(&self, diff: &str, directory: &str, cancellation: &CancellationToken) -> Result<Vec<Planned>> {
        let refuse = |message: String| ToolError::new(ErrorCode::INVALID_INPUT, message);
        let git = diff.lines().any(|line| line.starts_with("diff --git "));
        let options = if git { ParseOptions::gitdiff() } else { ParseOptions::unidiff() };
        let mut planned = Vec::new();
        let (mut bytes, mut touched) = (0, std::collections::BTreeSet::new());
        for file in PatchSet::parse(diff, options) {
            let file = file.map_err(|error| refuse(format!("`patch` is no unified diff: {error}")))?;
            let prefixed = |path: &str| path.starts_with("a/") || path.starts_with("b/");
            let strip = match file.operation() {
                FileOperation::Delete(path) | FileOperation::Create(path) => prefixed(path),
                FileOperation::Modify { original, modified } => {
                    original.starts_with("a/") && modified.starts_with("b/")
                }
                // Git gives these without.
                FileOperation::Rename { .. } | FileOperation::Copy { .. } => false,
            };
            let operation = file.operation().strip_prefix(usize::from(strip));
            let Some(hunks) = file.patch().as_text() else {
                return Err(refuse("`patch` changes a binary file, which is not supported".into()));
            };
            let place =
                |path: &str| if path.starts_with('/') { path.to_owned() } else { format!("{directory}/{path}") };
            let mode = match file.new_mode() {
                Some(FileMode::Executable) => Some(0o755),
                Some(FileMode::Regular) => Some(0o644),
                Some(_) => return Err(refuse("`patch` makes a link or a submodule, which is not supported".into())),
                None => None,
            };
            let (from, to, change) = match &operation {
                FileOperation::Create(path) => (None, Some(place(path)), Change::Created),
                FileOperation::Delete(path) => (Some(place(path)), None, Change::Removed),
                FileOperation::Modify { original, modified } => {
                    // A diff of two names, such as that of a file and its copy, changes the one that is there.
                    let (original, modified) = (place(original), place(modified));
                    let path = if self.files.stat(&modified, true).is_ok() { modified } else { original };
                    (Some(path.clone()), Some(path), Change::Modified)
                }
                FileOperation::Rename { from, to } => (Some(place(from)), Some(place(to)), Change::Moved),
                FileOperation::Copy { from, to } => (Some(place(from)), Some(place(to)), Change::Created),
            };
            if matches!(change, Change::Created | Change::Moved)
                && let Some(to) = &to
                && self.files.stat(to, false).is_ok()
            {
                return Err(refuse(format!("`patch` makes `{to}`, which exists already")));
            }
            let content = from.as_deref().map_or(Ok(String::new()), |path| {
                String::from_utf8(self.content(path)?).map_err(|_| refuse(format!("`{path}` is no text")))
            })?;
            let applied = hunks::apply(&content, hunks.hunks(), &|| !cancellation.is_cancelled());
            let applied = applied.map_err(|reason| {
                let path = from.as_deref().or(to.as_deref()).unwrap_or_default();
                match reason {
                    Misfit::Cancelled => cancelled(),
                    reason => refuse(format!("`patch` does not apply to `{path}`: {reason}; nothing was changed")),
                }
            })?;
            if to.is_none() && !applied.is_empty() {
                let path = from.as_deref().unwrap_or_default();
                return Err(refuse(format!(
                    "`patch` removes `{path}`, which has more than it takes away; nothing was changed"
                )));
            }
            let hunks = hunks.hunks().len();
            bytes += applied.len() as u64;
            if bytes > MAX_EDIT_BYTES {
                return Err(too_large(to.as_deref().unwrap_or_default(), bytes));
            }
            for path in from.iter().chain(to.iter().filter(|to| from.as_ref() != Some(to))) {
                if !touched.insert(path.clone()) {
                    return Err(refuse(format!("`patch` has more than one section for `{path}`")));
                }
            }
            match (from, to) {
                (from, Some(to)) => {
                    planned.push(Planned { path: to, content: Some(applied.into_bytes()), mode, change, hunks });
                    if let (Some(path), Change::Moved) = (from, change) {
                        planned.push(Planned { path, content: None, mode: None, change, hunks: usize::MAX });
                    }
                }
                (Some(path), None) => planned.push(Planned { path, content: None, mode: None, change, hunks }),
                (None, None) => {}
            }
        }
        if planned.is_empty() {
            return Err(refuse(
                "`patch` holds no change: a unified diff with `---`, `+++` and `@@` lines was expected".into(),
            ));
        }
        Ok(planned)
    }
}

/// A file that is, or would become, larger than what can be edited.
fn too_large(path: &str, length: u64) -> ToolError {
    let message = format!("`{path}` has, or would have, {length} bytes; at most {MAX_EDIT_BYTES} can be edited");
    ToolError::new(ErrorCode::PAYLOAD_TOO_LARGE, message)
}

/// The number of the line in which a byte stands.
fn line_of(content: &[u8], place: usize) -> usize {
    memchr::memchr_iter(b'\n', &content[..place]).count() + 1
}
