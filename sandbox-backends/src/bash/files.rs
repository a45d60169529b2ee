//! Files of a sandbox, worked on from the server: by the names that the sandbox has for them, with the rights of its
//! shell, and never outside.
//!
//! Every path is resolved by the kernel below the sandbox's root (`openat2` with `RESOLVE_IN_ROOT`, without the links of
//! `/proc`): what a link or `..` names, it names inside, whoever swaps what meanwhile. Special files and `/proc` are
//! refused. A server that is root takes on the file rights of the shell's user for as long as it works.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawMode, RenameFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use rustix::process::{Gid, getgroups};
use rustix::thread::{CapabilitySet, CapabilitySets, set_thread_groups};
use sandbox_runtime::prelude::{CancellationToken, ErrorCode, ToolError};

use super::removal::remove_entry;

/// `f_type` of `/proc`.
const PROC_SUPER_MAGIC: u64 = 0x9fa0;
/// Symbolic links that are followed at the end of a path.
const MAX_LINKS: usize = 40;

/// The files of one sandbox.
#[derive(Debug)]
pub(super) struct Files {
    root: OwnedFd,
    /// The host id whose rights apply, if the server must take it on.
    user: Option<u32>,
    /// Where the root is, seen from the shell; empty if it is the shell's own root.
    base: String,
}

/// Why a file could not be worked on.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// The kernel's answer.
    #[error("`{path}`: {}", describe(.error))]
    Io { path: String, error: io::Error },
    /// It is not what the tool works on.
    #[error("`{path}`: {expected} was expected, {found} is there")]
    Kind { path: String, expected: &'static str, found: &'static str },
    /// A path that cannot be one.
    #[error("`{path}`: {reason}")]
    Path { path: String, reason: &'static str },
}

impl From<FileError> for ToolError {
    fn from(error: FileError) -> Self {
        let code = match &error {
            FileError::Io { error, .. } => match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => ErrorCode::NOT_FOUND,
                Some(libc::EACCES | libc::EPERM | libc::EROFS) => ErrorCode::PERMISSION_DENIED,
                Some(libc::EEXIST | libc::ENOTEMPTY) => ErrorCode::CONFLICT,
                Some(libc::ECANCELED) => ErrorCode::CANCELLED,
                // Which no later call has of itself.
                Some(libc::ENOSPC | libc::EDQUOT) => ErrorCode::BUSINESS_FAILURE,
                Some(libc::EMFILE | libc::ENFILE) => ErrorCode::RESOURCE_EXHAUSTED,
                _ => ErrorCode::EXECUTION_ERROR,
            },
            FileError::Kind { .. } | FileError::Path { .. } => ErrorCode::INVALID_INPUT,
        };
        Self::new(code, error.to_string())
    }
}

fn describe(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "there is nothing".into(),
        Some(libc::ENOTDIR) => "a part of the path is no folder".into(),
        Some(libc::EEXIST) => "it exists already".into(),
        Some(libc::EXDEV | libc::ELOOP) => "the path has links that lead nowhere inside".into(),
        Some(libc::ENOSPC | libc::EDQUOT) => "no space is left in the sandbox".into(),
        Some(libc::ECANCELED) => "the call was cancelled before all of it was done".into(),
        // Without the number, which says nothing to a client.
        Some(code) => Errno::from_raw_os_error(code).kind().to_string(),
        None => error.to_string(),
    }
}

/// Where an entry is: its folder, and its name in it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) folder: OwnedFd,
    pub(super) name: CString,
    /// What it was asked for as.
    pub(super) path: String,
}

impl Files {
    /// Files below `root`, which the shell knows as `base` (empty for its own root).
    pub(super) fn new(root: OwnedFd, user: Option<u32>, base: String) -> Self {
        Self { root, user, base }
    }

    /// Takes on the rights of the shell's user until the answer is dropped, on this thread.
    pub(super) fn as_user(&self) -> io::Result<AsUser> {
        AsUser::enter(self.user)
    }

    /// The path from the root.
    fn inside<'a>(&self, path: &'a str) -> Result<&'a str, FileError> {
        let refuse = |reason| Err(FileError::Path { path: path.to_owned(), reason });
        if path.is_empty() {
            return refuse("a path was expected, nothing was given");
        }
        if path.contains('\0') {
            return refuse("a path has no NUL byte");
        }
        if path.len() > 4095 {
            return refuse("a path has at most 4095 bytes");
        }
        Ok(match path.strip_prefix(self.base.as_str()) {
            Some(rest) if !self.base.is_empty() && (rest.is_empty() || rest.starts_with('/')) => rest,
            _ => path,
        })
    }

    /// Opens by name, without effect on what is there.
    fn look(&self, path: &str, follow: bool) -> Result<OwnedFd, FileError> {
        let inside = self.inside(path)?;
        let flags = if follow { OFlags::PATH } else { OFlags::PATH | OFlags::NOFOLLOW };
        let found = self.open_in_root(inside, flags).map_err(|error| fail(path, error))?;
        refuse_proc(path, &found)?;
        Ok(found)
    }

    fn open_in_root(&self, inside: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let inside = inside.trim_start_matches('/');
        let inside = if inside.is_empty() { "." } else { inside };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.root, inside, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                // Something was renamed meanwhile.
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
    }

    /// What is there, the link itself or what it leads to.
    pub(super) fn stat(&self, path: &str, follow: bool) -> Result<Stat, FileError> {
        let found = self.look(path, follow)?;
        rustix::fs::fstat(found).map_err(|error| fail(path, error))
    }

    /// Opens a regular file for reading.
    pub(super) fn open(&self, path: &str) -> Result<File, FileError> {
        let found = self.look(path, true)?;
        expect_kind(path, &found, FileType::RegularFile)?;
        reopen(&found, OFlags::RDONLY).map(File::from).map_err(|error| fail(path, error))
    }

    /// Opens a folder.
    pub(super) fn folder(&self, path: &str) -> Result<OwnedFd, FileError> {
        let found = self.look(path, true)?;
        expect_kind(path, &found, FileType::Directory)?;
        Ok(found)
    }

    /// Where an entry is, or would be. A link at the end is followed if asked.
    pub(super) fn locate(&self, path: &str, follow: bool) -> Result<Place, FileError> {
        let mut inside = PathBuf::from(self.inside(path)?);
        for _ in 0..MAX_LINKS {
            let Some(Component::Normal(name)) = inside.components().next_back() else {
                return Err(FileError::Path {
                    path: path.to_owned(),
                    reason: "the path of a file or a folder was expected",
                });
            };
            let name = CString::new(name.as_encoded_bytes()).map_err(|error| fail(path, io::Error::other(error)))?;
            let parent = inside.parent().unwrap_or(Path::new("")).to_owned();
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let folder = self.open_in_root(&parent.to_string_lossy(), flags).map_err(|error| fail(path, error))?;
            refuse_proc(path, &folder)?;
            let target = if follow { rustix::fs::readlinkat(&folder, &name, Vec::new()).ok() } else { None };
            let Some(target) = target else { return Ok(Place { folder, name, path: path.to_owned() }) };
            // An absolute one replaces the path, and both are resolved below the root.
            inside = parent.join(target.to_string_lossy().as_ref());
        }
        Err(fail(path, Errno::LOOP))
    }

    /// Makes a folder, with those above it if asked.
    pub(super) fn make_folder(&self, path: &str, parents: bool, mode: RawMode) -> Result<bool, FileError> {
        let inside = PathBuf::from(self.inside(path)?.trim_start_matches('/'));
        let mut so_far = PathBuf::from("/");
        let mut new = false;
        let mut components = inside.components().peekable();
        while let Some(component) = components.next() {
            so_far.push(component);
            let last = components.peek().is_none();
            if !last && !parents {
                continue;
            }
            if !matches!(component, Component::Normal(_)) {
                continue;
            }
            let place = self.locate(&so_far.to_string_lossy(), true)?;
            match rustix::fs::mkdirat(&place.folder, &place.name, Mode::from_raw_mode(mode)) {
                Ok(()) => new = true,
                Err(Errno::EXIST) => {
                    let found = self.look(&so_far.to_string_lossy(), true)?;
                    expect_kind(path, &found, FileType::Directory)?;
                    new = false;
                }
                Err(error) => return Err(fail(path, error)),
            }
        }
        Ok(new)
    }

    /// Replaces the content of a file, or makes it: the new content takes the place of the old one at once, when it is
    /// whole. The mode of an old file stays if none is given.
    pub(super) fn replace(
        &self,
        path: &str,
        mode: Option<RawMode>,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), FileError> {
        let draft = self.draft(path, mode)?;
        let mut file = draft.file.try_clone().map_err(|error| fail(path, error))?;
        write(&mut file).map_err(|error| fail(path, error))?;
        draft.publish()
    }

    /// Begins a new content for a file.
    pub(super) fn draft(&self, path: &str, mode: Option<RawMode>) -> Result<Draft, FileError> {
        let place = self.locate(path, true)?;
        let before = match rustix::fs::statat(&place.folder, &place.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(before) => Some(before),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(fail(path, error)),
        };
        if let Some(before) = &before
            && !FileType::from_raw_mode(before.st_mode).is_file()
        {
            let found = kind_name(FileType::from_raw_mode(before.st_mode));
            return Err(FileError::Kind { path: path.to_owned(), expected: "a regular file", found });
        }
        let random = getrandom::u64().map_err(|error| fail(path, io::Error::other(error)))?;
        let name =
            CString::new(format!(".sandbox-{random:016x}")).map_err(|error| fail(path, io::Error::other(error)))?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&place.folder, &name, flags, Mode::from_raw_mode(0o644));
        let file = File::from(file.map_err(|error| fail(path, error))?);
        let draft = Draft { place, name, file, published: false };
        let kept = before.map(|before| before.st_mode & 0o7777);
        if let Some(mode) = mode.or(kept) {
            rustix::fs::fchmod(&draft.file, Mode::from_raw_mode(mode & 0o1777)).map_err(|error| fail(path, error))?;
        }
        Ok(draft)
    }

    /// Adds to the end of a file, which is made if it is not there.
    pub(super) fn append(&self, path: &str, mode: Option<RawMode>, bytes: &[u8]) -> Result<u64, FileError> {
        let place = self.locate(path, true)?;
        // Not blocking, for something else than a file may be there.
        let flags = OFlags::WRONLY
            | OFlags::APPEND
            | OFlags::CREATE
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        if let Ok(found) = self.look(path, true) {
            expect_kind(path, &found, FileType::RegularFile)?;
        }
        let file = rustix::fs::openat(&place.folder, &place.name, flags, Mode::from_raw_mode(mode.unwrap_or(0o644)));
        let file = file.map_err(|error| fail(path, error))?;
        expect_kind(path, &file, FileType::RegularFile)?;
        let mut file = File::from(file);
        file.write_all(bytes).and_then(|()| file.stream_position()).map_err(|error| fail(path, error))
    }

    /// Gives an entry another name.
    pub(super) fn rename(&self, from: &str, to: &str, overwrite: bool) -> Result<(), FileError> {
        let (source, target) = (self.locate(from, false)?, self.locate(to, false)?);
        let flags = if overwrite { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        match rustix::fs::renameat_with(&source.folder, &source.name, &target.folder, &target.name, flags) {
            Ok(()) => Ok(()),
            Err(Errno::XDEV) => self.carry(from, to, &source, overwrite),
            // What is missing is the source, or the folder of the target, which has been opened.
            Err(Errno::NOENT) => Err(fail(from, Errno::NOENT)),
            Err(Errno::INVAL) => {
                Err(FileError::Path { path: to.to_owned(), reason: "a folder cannot be moved into itself" })
            }
            Err(error) => Err(fail(to, error)),
        }
    }

    /// Moves a file to another file system.
    fn carry(&self, from: &str, to: &str, source: &Place, overwrite: bool) -> Result<(), FileError> {
        let stat = rustix::fs::statat(&source.folder, &source.name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(|error| fail(from, error))?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            let reason = "only regular files can be moved to another file system; use `cp -a` and `rm -r` in the shell";
            return Err(FileError::Path { path: from.to_owned(), reason });
        }
        if !overwrite && self.stat(to, false).is_ok() {
            return Err(fail(to, Errno::EXIST));
        }
        let mut file = self.open(from)?;
        self.replace(to, Some(stat.st_mode & 0o7777), |target| io::copy(&mut file, target).map(drop))?;
        rustix::fs::unlinkat(&source.folder, &source.name, AtFlags::empty()).map_err(|error| fail(from, error))
    }

    /// Removes an entry, with everything below it if asked, until the call is cancelled; answers how many.
    pub(super) fn remove(
        &self,
        path: &str,
        recursive: bool,
        cancellation: &CancellationToken,
    ) -> Result<u64, FileError> {
        let place = self.locate(path, false)?;
        let go_on = || !cancellation.is_cancelled();
        remove_entry(place.folder.as_fd(), &place.name, recursive, &go_on).map_err(|error| fail(path, error))
    }
}

/// New content of a file that does not have its name yet. Dropped, it is gone.
#[derive(Debug)]
pub(super) struct Draft {
    place: Place,
    name: CString,
    pub(super) file: File,
    published: bool,
}

impl Draft {
    /// Gives it its name.
    pub(super) fn publish(mut self) -> Result<(), FileError> {
        let Place { folder, name, path } = &self.place;
        rustix::fs::renameat(folder, &self.name, folder, name).map_err(|error| fail(path, error))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published {
            // By another thread perhaps, with the rights of the server; the name is random and the folder held.
            let _ = rustix::fs::unlinkat(&self.place.folder, &self.name, AtFlags::empty());
        }
    }
}

/// Opens what a descriptor stands for.
pub(super) fn reopen(found: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    rustix::fs::open(path, flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK, Mode::empty())
}

fn expect_kind(path: &str, found: &OwnedFd, expected: FileType) -> Result<(), FileError> {
    let kind = rustix::fs::fstat(found).map(|stat| FileType::from_raw_mode(stat.st_mode));
    let kind = kind.map_err(|error| fail(path, error))?;
    if kind == expected {
        return Ok(());
    }
    Err(FileError::Kind { path: path.to_owned(), expected: kind_name(expected), found: kind_name(kind) })
}

/// What a client may see of processes it sees inside, with the rights of the shell; a server that is root has more.
fn refuse_proc(path: &str, found: &OwnedFd) -> Result<(), FileError> {
    if is_proc(found).map_err(|error| fail(path, error))? {
        return Err(FileError::Path { path: path.to_owned(), reason: "files of /proc can only be read in the shell" });
    }
    Ok(())
}

/// Whether something is in a `/proc`.
pub(super) fn is_proc(found: &OwnedFd) -> Result<bool, Errno> {
    Ok(u64::try_from(rustix::fs::fstatfs(found)?.f_type) == Ok(PROC_SUPER_MAGIC))
}

/// What a kind of entry is called.
pub(super) fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a folder",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a fifo",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "something unknown",
    }
}

/// An error about a path.
pub(super) fn fail(path: &str, error: impl Into<io::Error>) -> FileError {
    FileError::Io { path: path.to_owned(), error: error.into() }
}

/// At most `most` bytes of a file, from an offset on.
pub(super) fn read_part(file: &mut File, offset: u64, most: u64) -> io::Result<Vec<u8>> {
    file.seek(io::SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The file rights of the shell's user, on one thread: its ids, no other groups, and no capability.
#[derive(Debug)]
pub(super) struct AsUser {
    before: Option<Before>,
    /// The thread cannot be changed meanwhile.
    _thread: std::marker::PhantomData<*const ()>,
}

/// What the thread had.
#[derive(Debug)]
struct Before {
    groups: Vec<Gid>,
    capabilities: CapabilitySets,
}

impl AsUser {
    fn enter(user: Option<u32>) -> io::Result<Self> {
        let mut this = Self { before: None, _thread: std::marker::PhantomData };
        let Some(user) = user else { return Ok(this) };
        let before = Before { groups: getgroups()?, capabilities: rustix::thread::capabilities(None)? };
        let without = CapabilitySets { effective: CapabilitySet::empty(), ..before.capabilities };
        this.before = Some(before);
        // From here on the drop gives everything back.
        set_thread_groups(&[])?;
        if !set_file_ids(user) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        rustix::thread::set_capabilities(None, without)?;
        Ok(this)
    }
}

impl Drop for AsUser {
    fn drop(&mut self) {
        if let Some(before) = self.before.take() {
            let back = rustix::thread::set_capabilities(None, before.capabilities).is_ok()
                && set_file_ids(0)
                && set_thread_groups(&before.groups).is_ok();
            // A thread of the pool with another's rights must not go on.
            assert!(back, "a thread cannot take its own rights back");
        }
    }
}

/// Changes the ids by which this thread works on files; says whether that was permitted.
#[expect(unsafe_code, reason = "the file system ids of a thread have no safe wrapper")]
fn set_file_ids(id: u32) -> bool {
    // SAFETY: these calls change the calling thread's ids only, and have no other effect on memory. A second call with an
    // impossible id answers the current one.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, id);
        libc::syscall(libc::SYS_setfsuid, id);
        libc::syscall(libc::SYS_setfsgid, u32::MAX) == libc::c_long::from(id)
            && libc::syscall(libc::SYS_setfsuid, u32::MAX) == libc::c_long::from(id)
    }
}
