//! Everything below a folder, found by descriptors: no link is followed, and nothing outside is ever reached.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use sandbox_runtime::prelude::CancellationToken;

/// Entries that are looked at in one walk, unless its caller wants fewer.
pub(super) const MAX_ENTRIES: usize = 2_000_000;

/// Names that one walk holds in memory at once.
const MAX_NAMES: usize = 500_000;
/// Names after which a walk looks whether anybody still waits for it.
const PACE: usize = 4096;

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
    found: impl FnMut(Entry<'_>) -> Next,
) -> Result<bool, Errno> {
    let first = super::files::reopen(folder, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut walk = Walk { left: most, held: 0, whole: true, cancellation, found };
    let on = walk.descend(first.as_fd(), "", depth)?;
    Ok(on && walk.whole)
}

/// A walk under way.
struct Walk<'a, F> {
    /// Entries that may still be looked at.
    left: usize,
    /// Names that are in memory, of all the folders that the walk is in.
    held: usize,
    /// Whether every folder was looked at to its end.
    whole: bool,
    cancellation: &'a CancellationToken,
    found: F,
}

impl<F: FnMut(Entry<'_>) -> Next> Walk<'_, F> {
    /// Walks one folder; says whether to go on behind it.
    fn descend(&mut self, folder: BorrowedFd<'_>, prefix: &str, depth: u32) -> Result<bool, Errno> {
        let room = self.left.min(MAX_NAMES.saturating_sub(self.held));
        let mut entries: Vec<(CString, FileType)> = Dir::read_from(folder)?
            .filter_map(Result::ok)
            .map(|entry| (entry.file_name().to_owned(), entry.file_type()))
            .filter(|(name, _)| !matches!(name.to_bytes(), b"." | b".."))
            .take(room + 1)
            .enumerate()
            .take_while(|(number, _)| !number.is_multiple_of(PACE) || !self.cancellation.is_cancelled())
            .map(|(_, entry)| entry)
            .collect();
        // Of a folder with more names than can be held some are looked at, whichever they are.
        self.whole &= entries.len() <= room && !self.cancellation.is_cancelled();
        entries.truncate(room);
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        let count = entries.len();
        self.held += count;
        let walked = self.visit(folder, prefix, depth, entries);
        self.held -= count;
        walked
    }

    /// Calls back with the entries of one folder, and goes into them.
    fn visit(
        &mut self,
        folder: BorrowedFd<'_>,
        prefix: &str,
        depth: u32,
        entries: Vec<(CString, FileType)>,
    ) -> Result<bool, Errno> {
        for (name, kind) in entries {
            if self.left == 0 || self.cancellation.is_cancelled() {
                return Ok(false);
            }
            self.left -= 1;
            let text = name.to_string_lossy();
            let path = if prefix.is_empty() { text.into_owned() } else { format!("{prefix}/{text}") };
            match (self.found)(Entry { path: &path, folder, name: &name, kind }) {
                Next::Stop => return Ok(false),
                Next::Enter if kind == FileType::Directory && depth > 1 => {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    // One that may not be read, or is gone, is passed over.
                    let Ok(inner) = rustix::fs::openat(folder, &name, flags, Mode::empty()) else { continue };
                    // There a server that is root sees more than the shell.
                    if super::files::is_proc(&inner).unwrap_or(true) {
                        continue;
                    }
                    if !self.descend(inner.as_fd(), &path, depth - 1).unwrap_or(true) {
                        return Ok(false);
                    }
                }
                Next::Enter | Next::Skip => {}
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_looks_at_so_many_entries_and_says_whether_those_were_all() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b/2", "a/1", "a/2", "c"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let open = OwnedFd::from(std::fs::File::open(folder.path()).unwrap());
        let found = |most, token: &CancellationToken| {
            let mut paths = Vec::new();
            let whole = walk(&open, 9, most, token, |entry| {
                paths.push(entry.path.to_owned());
                Next::Enter
            });
            (whole.unwrap(), paths.join(" "))
        };
        let token = CancellationToken::new();
        assert_eq!(found(100, &token), (true, "a a/1 a/2 b b/2 c".into()));
        assert_eq!(found(6, &token), (true, "a a/1 a/2 b b/2 c".into()));
        assert_eq!(found(3, &token), (false, "a a/1 a/2".into()));
        let (whole, paths) = found(2, &token);
        assert!(!whole && paths.split(' ').count() == 2, "{paths}");
        token.cancel();
        assert_eq!(found(100, &token), (false, String::new()));
    }
}
