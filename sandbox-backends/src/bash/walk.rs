//! Everything below a folder, found by descriptors: no link is followed, and nothing outside is ever reached.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use sandbox_runtime::prelude::CancellationToken;

/// Entries that are looked at in one walk, unless its caller wants fewer.
pub(super) const MAX_ENTRIES: usize = 2_000_000;

/// One entry that was found.
pub(super) struct Entry<'a> {
    /// Its path from where the walk began.
    pub(super) path: &'a str,
    /// Its folder.
    pub(super) folder: BorrowedFd<'a>,
    /// Its name.
    pub(super) name: &'a CStr,
    pub(super) kind: FileType,
}

/// What to do after an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Go into it if it is a folder.
    Enter,
    /// Go on behind it.
    Skip,
    /// End the walk.
    Stop,
}

/// Calls back with at most so many entries below the folder, down to this depth, in the order of names; says whether
/// those were all.
pub(super) fn walk(
    folder: &OwnedFd,
    depth: u32,
    most: usize,
    cancellation: &CancellationToken,
    mut found: impl FnMut(Entry<'_>) -> Next,
) -> Result<bool, Errno> {
    let mut left = most;
    let first = super::files::reopen(folder, OFlags::RDONLY | OFlags::DIRECTORY)?;
    descend(first.as_fd(), "", depth, cancellation, &mut left, &mut found)
}

/// Walks one folder; says whether to go on behind it.
fn descend(
    folder: BorrowedFd<'_>,
    prefix: &str,
    depth: u32,
    cancellation: &CancellationToken,
    left: &mut usize,
    found: &mut impl FnMut(Entry<'_>) -> Next,
) -> Result<bool, Errno> {
    let mut entries: Vec<(CString, FileType)> = Dir::read_from(folder)?
        .filter_map(Result::ok)
        .map(|entry| (entry.file_name().to_owned(), entry.file_type()))
        .filter(|(name, _)| !matches!(name.to_bytes(), b"." | b".."))
        .collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, kind) in entries {
        if *left == 0 || cancellation.is_cancelled() {
            return Ok(false);
        }
        *left -= 1;
        let text = name.to_string_lossy();
        let path = if prefix.is_empty() { text.into_owned() } else { format!("{prefix}/{text}") };
        match found(Entry { path: &path, folder, name: &name, kind }) {
            Next::Stop => return Ok(false),
            Next::Enter if kind == FileType::Directory && depth > 1 => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                // One that may not be read, or is gone, is passed over.
                let Ok(inner) = rustix::fs::openat(folder, &name, flags, Mode::empty()) else { continue };
                // There a server that is root sees more than the shell.
                if super::files::is_proc(&inner).unwrap_or(true) {
                    continue;
                }
                if !descend(inner.as_fd(), &path, depth - 1, cancellation, left, found).unwrap_or(true) {
                    return Ok(false);
                }
            }
            Next::Enter | Next::Skip => {}
        }
    }
    Ok(true)
}
