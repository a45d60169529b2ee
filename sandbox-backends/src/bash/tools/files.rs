//! Files of the session: read, write, list, and the rest of what a shell's user does with them.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustix::fs::{AtFlags, FileType, RawMode, Stat};
use sandbox_runtime::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::super::files::{FileError, fail, read_part};
use super::super::walk::{self, Entry};
use super::super::{BashBackend, BashSession};
use super::content::{Encoding, cut_between_characters, digest, encode, hex};

/// Bytes of paths in an answer.
pub(super) const MAX_ANSWER_BYTES: usize = 4 << 20;
/// Most bytes of one `bash:read`.
const MAX_READ_BYTES: u64 = 8 << 20;

/// What a file holds.
#[derive(Debug, Serialize, JsonSchema)]
struct FileContent {
    /// The bytes, as text or in base64.
    content: String,
    encoding: Encoding,
    /// How many bytes the file has.
    total_bytes: u64,
    /// Whether there is more behind `content`; go on at `next_offset`.
    truncated: bool,
    /// Where to go on, in bytes.
    next_offset: u64,
    /// SHA-256 of the whole file, in hexadecimal digits; present if `content` is the whole file.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

/// What was written.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Written {
    /// How many bytes the file has now.
    pub(super) total_bytes: u64,
    /// SHA-256 of the whole file, in hexadecimal digits; absent after an append.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sha256: Option<String>,
}

/// One entry of a folder.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct EntryInfo {
    /// Its path, from the folder that was asked for.
    path: String,
    kind: Kind,
    /// Size in bytes.
    size: u64,
    /// Permissions, in octal digits.
    mode: String,
    /// When it was changed last, in seconds since 1970.
    modified_at: f64,
    /// What a symbolic link leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// SHA-256 of the file, in hexadecimal digits, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Kind {
    File,
    Folder,
    Link,
    /// A fifo, a socket or a device.
    Special,
}

/// The entries of a folder.
#[derive(Debug, Serialize, JsonSchema)]
struct Listing {
    /// By path.
    entries: Vec<EntryInfo>,
    /// Whether there are more.
    truncated: bool,
}

/// What was made.
#[derive(Debug, Serialize, JsonSchema)]
struct Made {
    /// Whether it was not there before.
    created: bool,
}

/// What was removed.
#[derive(Debug, Serialize, JsonSchema)]
struct Removed {
    /// How many entries.
    removed: u64,
}

#[tools]
impl BashBackend {
    /// Read a file. Text comes as text, anything else in base64. A relative path begins in the shell's directory.
    #[tool(read_only, blocking)]
    fn read(
        &self,
        session: &BashSession,
        /// The file.
        path: String,
        /// Where to begin, in bytes.
        #[default = 0]
        offset: u64,
        /// Most bytes to read.
        #[default = 262_144]
        #[schemars(range(min = 1, max = 8_388_608))]
        limit: u64,
    ) -> Result<FileContent> {
        let path = session.path(&path);
        let _user = session.as_user()?;
        let mut file = session.files.open(&path)?;
        let total_bytes = file.metadata().map_err(|error| fail(&path, error))?.len();
        let read = read_part(&mut file, offset, limit.min(MAX_READ_BYTES));
        let mut bytes = read.map_err(|error| fail(&path, error))?;
        let whole = offset == 0 && bytes.len() as u64 >= total_bytes;
        let sha256 = whole.then(|| digest(&bytes));
        if !whole && (offset + bytes.len() as u64) < total_bytes {
            cut_between_characters(&mut bytes);
        }
        let next_offset = offset + bytes.len() as u64;
        let (content, encoding) = encode(bytes);
        Ok(FileContent { content, encoding, total_bytes, truncated: next_offset < total_bytes, next_offset, sha256 })
    }

    /// Write a file. The new content takes the place of the old one at once. Folders above it are made.
    #[tool(idempotent, blocking)]
    fn write(
        &self,
        session: &BashSession,
        /// The file.
        path: String,
        /// What it is to hold.
        content: String,
        /// How `content` is written.
        #[default = "utf-8"]
        encoding: Encoding,
        /// Whether `content` is added to the end of the file.
        #[default = false]
        append: bool,
        /// Permissions, in octal digits such as `755`; those of the old file, or `644`, if absent.
        mode: Option<String>,
    ) -> Result<Written> {
        let path = session.path(&path);
        let mode = mode.as_deref().map(parse_mode).transpose()?;
        let bytes = match encoding {
            Encoding::Utf8 => content.into_bytes(),
            Encoding::Base64 => BASE64_STANDARD.decode(&content).map_err(|error| {
                ToolError::new(ErrorCode::INVALID_INPUT, format!("`content` is no base64: {error}"))
            })?,
        };
        let _user = session.as_user()?;
        session.make_parents(&path)?;
        if append {
            let total_bytes = session.files.append(&path, mode, &bytes)?;
            return Ok(Written { total_bytes, sha256: None });
        }
        session.replace(&path, mode, &bytes)
    }

    /// Say what an entry is: kind, size, permissions, time, target.
    #[tool(read_only, blocking)]
    fn stat(
        &self,
        session: &BashSession,
        cancellation: &CancellationToken,
        /// The entry.
        path: String,
        /// Whether a link is followed.
        #[default = true]
        follow: bool,
        /// Whether the SHA-256 of a file is wanted.
        #[default = false]
        sha256: bool,
    ) -> Result<EntryInfo> {
        let path = session.path(&path);
        let _user = session.as_user()?;
        let stat = session.files.stat(&path, follow)?;
        let mut info = EntryInfo::new(path.clone(), &stat);
        if info.kind == Kind::Link
            && let Ok(place) = session.files.locate(&path, false)
        {
            info.target = target(&place.folder, &place.name);
        }
        if sha256 {
            let mut file = session.files.open(&path)?;
            let mut hasher = Sha256::new();
            let mut bytes = vec![0; 64 * 1024];
            loop {
                let length = std::io::Read::read(&mut file, &mut bytes).map_err(|error| fail(&path, error))?;
                if cancellation.is_cancelled() {
                    return Err(ToolError::new(
                        ErrorCode::CANCELLED,
                        "the call was cancelled before the file was read",
                    ));
                }
                if length == 0 {
                    break;
                }
                hasher.update(&bytes[..length]);
            }
            info.sha256 = Some(hex(&hasher.finalize()));
        }
        Ok(info)
    }

    /// List a folder.
    #[tool(read_only, blocking)]
    fn list(
        &self,
        session: &BashSession,
        cancellation: &CancellationToken,
        /// The folder; the shell's directory if absent.
        #[default = "."]
        path: String,
        /// How deep to go; 1 lists the folder itself.
        #[default = 1]
        #[schemars(range(min = 1, max = 64))]
        depth: u32,
        /// Whether names that begin with a dot are listed.
        #[default = true]
        hidden: bool,
        /// Most entries.
        #[default = 1000]
        #[schemars(range(min = 1, max = 100_000))]
        max_entries: u32,
    ) -> Result<Listing> {
        let path = session.path(&path);
        let _user = session.as_user()?;
        let folder = session.files.folder(&path)?;
        let most = usize::try_from(max_entries).unwrap_or(usize::MAX);
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let mut truncated = false;
        let whole =
            walk::walk(&folder, depth, walk::MAX_ENTRIES, cancellation, |Entry { path, folder, name, kind: _ }| {
                if !hidden && name.to_bytes().starts_with(b".") {
                    return walk::Next::Skip;
                }
                bytes += path.len();
                if entries.len() >= most || bytes > MAX_ANSWER_BYTES {
                    truncated = true;
                    return walk::Next::Stop;
                }
                // One that is gone meanwhile is left out.
                if let Ok(stat) = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                    let mut info = EntryInfo::new(path.to_owned(), &stat);
                    if info.kind == Kind::Link {
                        info.target = target(folder, name);
                    }
                    entries.push(info);
                }
                walk::Next::Enter
            })
            .map_err(|error| fail(&path, error))?;
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Listing { entries, truncated: truncated || !whole })
    }

    /// Make a folder.
    #[tool(idempotent, blocking)]
    fn mkdir(
        &self,
        session: &BashSession,
        /// The folder.
        path: String,
        /// Whether folders above it are made, and one that is there already is no error.
        #[default = true]
        parents: bool,
        /// Permissions, in octal digits.
        #[default = "755"]
        mode: String,
    ) -> Result<Made> {
        let path = session.path(&path);
        let mode = parse_mode(&mode)?;
        let _user = session.as_user()?;
        let created = session.files.make_folder(&path, parents, mode)?;
        if !created && !parents {
            return Err(fail(&path, rustix::io::Errno::EXIST).into());
        }
        Ok(Made { created })
    }

    /// Move an entry, or give it another name.
    #[tool(name = "move", blocking)]
    fn move_entry(
        &self,
        session: &BashSession,
        /// What to move.
        from: String,
        /// Its new path.
        to: String,
        /// Whether it may take the place of what is there.
        #[default = false]
        overwrite: bool,
    ) -> Result<()> {
        let (from, to) = (session.path(&from), session.path(&to));
        let _user = session.as_user()?;
        Ok(session.files.rename(&from, &to, overwrite)?)
    }

    /// Remove an entry.
    #[tool(blocking)]
    fn remove(
        &self,
        session: &BashSession,
        cancellation: &CancellationToken,
        /// What to remove; of a link, the link.
        path: String,
        /// Whether a folder is removed with everything in it.
        #[default = false]
        recursive: bool,
    ) -> Result<Removed> {
        let path = session.path(&path);
        let _user = session.as_user()?;
        Ok(Removed { removed: session.files.remove(&path, recursive, cancellation)? })
    }
}

impl BashSession {
    /// Makes the folders above a path.
    pub(super) fn make_parents(&self, path: &str) -> Result<(), FileError> {
        match path.rsplit_once('/') {
            Some((parent, _)) if !parent.is_empty() => self.files.make_folder(parent, true, 0o755).map(drop),
            _ => Ok(()),
        }
    }

    /// Replaces a file.
    pub(super) fn replace(&self, path: &str, mode: Option<RawMode>, bytes: &[u8]) -> Result<Written> {
        self.files.replace(path, mode, |file| std::io::Write::write_all(file, bytes))?;
        Ok(Written { total_bytes: bytes.len() as u64, sha256: Some(digest(bytes)) })
    }

    /// The file rights of the shell's user, on this thread.
    pub(super) fn as_user(&self) -> Result<super::super::files::AsUser> {
        let message = "the server cannot take on the rights of the sandbox's user";
        self.files.as_user().map_err(|error| ToolError::new(ErrorCode::INTERNAL_ERROR, format!("{message}: {error}")))
    }
}

impl EntryInfo {
    fn new(path: String, stat: &Stat) -> Self {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Folder,
            FileType::Symlink => Kind::Link,
            _ => Kind::Special,
        };
        let seconds = Duration::new(
            u64::try_from(stat.st_mtime).unwrap_or(0),
            u32::try_from(stat.st_mtime_nsec).unwrap_or(0).min(999_999_999),
        );
        let modified = SystemTime::UNIX_EPOCH + seconds;
        Self {
            path,
            kind,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mode: format!("{:o}", stat.st_mode & 0o7777),
            modified_at: modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            target: None,
            sha256: None,
        }
    }
}

/// What a link leads to.
fn target(folder: impl std::os::fd::AsFd, name: &std::ffi::CStr) -> Option<String> {
    let target = rustix::fs::readlinkat(folder, name, Vec::new()).ok()?;
    Some(target.to_string_lossy().into_owned())
}

/// Permissions in octal digits.
pub(super) fn parse_mode(text: &str) -> Result<RawMode> {
    let mode = RawMode::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o1777);
    mode.ok_or_else(|| {
        let message = format!("`mode` is {text:?}: octal digits up to 1777 were expected, such as \"644\"");
        ToolError::new(ErrorCode::INVALID_INPUT, message)
    })
}
