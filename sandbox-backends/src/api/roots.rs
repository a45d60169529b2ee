//! Files below configured folders, and no others.
//!
//! A path is resolved by the kernel below the folder (`openat2` with `RESOLVE_BENEATH`): neither `..` nor a link leads out
//! of it, whoever changes what meanwhile. A file is known by its path below its folder; where two folders have the same,
//! the first one's is meant, as with `PATH`. A path that names the folder too is understood.

#[cfg(feature = "doc")]
use std::time::{Duration, SystemTime};
use std::{
    collections::BTreeSet,
    fs::{File, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use globset::{GlobBuilder, GlobMatcher};
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2},
    io::Errno,
};
use sandbox_runtime::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use tokio::{sync::Semaphore, task::spawn_blocking};
use walkdir::WalkDir;

use super::{
    budget::fingerprint,
    names::{nearest, quotable},
};

/// Folders within folders that are listed.
const MAX_DEPTH: usize = 32;
/// Files that are listed.
const MAX_FILES: usize = 20_000;

/// Files that are looked at for a list.
const MAX_VISITED: usize = 200_000;
/// Lists that are made at once; threads that do it go on when nobody waits any more.
const WALKS: usize = 4;

/// The folders.
#[derive(Clone, Debug)]
pub(crate) struct Roots {
    folders: Vec<PathBuf>,
    walks: Arc<Semaphore>,
}

impl<'de> Deserialize<'de> for Roots {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let roots = Vec::<PathBuf>::deserialize(deserializer)?;
        if roots.is_empty() || roots.iter().any(|root| root.as_os_str().is_empty()) {
            return Err(D::Error::custom("expected at least one path of a folder"));
        }
        Ok(Self { folders: roots, walks: Arc::new(Semaphore::new(WALKS)) })
    }
}

/// A file that was opened.
pub(crate) struct Found {
    /// Its path below its folder.
    pub(crate) path: String,
    pub(crate) file: File,
    pub(crate) version: Version,
}

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Version {
    device: u64,
    inode: u64,
    pub(crate) bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Files of a folder.
pub(crate) struct Listing {
    pub(crate) files: Vec<FileEntry>,
    /// For cursors.
    pub(crate) print: String,
    /// Whether there may be more than were looked at.
    pub(crate) more: bool,
}

/// A file of a listing.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct FileEntry {
    /// Its path, for the other tools.
    pub(super) path: String,
    /// What it is, by the end of its name.
    format: &'static str,
    /// Size in bytes.
    bytes: u64,
    /// When it was changed last, in seconds since 1970.
    modified: u64,
}

impl FileEntry {
    /// Characters in an answer, about.
    pub(crate) fn size(&self) -> usize {
        self.path.chars().count() + 70
    }
}

impl Roots {
    /// Opens a file for reading, which `parameter` names.
    ///
    /// # Errors
    /// `NOT_FOUND`, with similar paths; `PERMISSION_DENIED`: it is elsewhere; `INVALID_INPUT`: it is no file.
    pub(crate) async fn open(&self, parameter: &'static str, path: &str, known: &'static Known) -> Result<Found> {
        let (roots, name) = (self.clone(), path.to_owned());
        if let Some(found) = on_thread(move || roots.find(parameter, &name, known)).await? {
            return Ok(found);
        }
        let files = self.list("", None, known).await?.files;
        let names = nearest(path, files.iter().map(|file| file.path.as_str()));
        let message = format!("there is no {} `{}`; `{}` names them", known.noun, quotable(path), known.lister);
        Err(ToolError::new(ErrorCode::NOT_FOUND, message).with_candidates(names))
    }

    /// Opens a file for reading, if there is one.
    fn find(&self, parameter: &str, path: &str, known: &Known) -> Result<Option<Found>> {
        let invalid = |expected: &str| {
            ToolError::parameter(ErrorCode::INVALID_INPUT, parameter, expected, format!("`{}`", quotable(path)))
        };
        if path.is_empty() || path.contains('\0') {
            return Err(invalid(&format!("the path of {}", known.what)));
        }
        let (mut inside, mut led_out) = (false, false);
        for root in &self.folders {
            let Some(mut below) = below(root, path) else { continue };
            inside = true;
            if below.is_empty() {
                below.push('.');
            }
            match open_below(root, &below, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
                Ok(file) => {
                    let metadata = file.metadata().map_err(|error| failed(known, error))?;
                    let kind = metadata.file_type();
                    if kind.is_file() {
                        return Ok(Some(Found { path: below, version: Version::of(&metadata), file }));
                    }
                    let lister = if kind.is_dir() {
                        format!(", not a folder; `{}` lists them", known.lister)
                    } else {
                        String::new()
                    };
                    return Err(invalid(&format!("{}{lister}", known.what)));
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => {}
                Err(Errno::XDEV | Errno::LOOP) => led_out = true,
                Err(Errno::ACCESS | Errno::PERM) => {
                    let message = format!("the server may not read `{}`", quotable(path));
                    return Err(ToolError::new(ErrorCode::PERMISSION_DENIED, message).with_reason("unreadable"));
                }
                Err(error) => return Err(failed(known, error)),
            }
        }
        if led_out || !inside {
            let message = format!(
                "`{}` is not below a folder that is configured; `{}` names what is",
                quotable(path),
                known.lister
            );
            return Err(ToolError::new(ErrorCode::PERMISSION_DENIED, message).with_reason("outside"));
        }
        Ok(None)
    }

    /// The files below a folder (`""` for all) that match a pattern, by path, and whether there are more than are looked at.
    /// Links to folders are not followed.
    ///
    /// # Errors
    /// `INVALID_INPUT`: the pattern is none; `NOT_FOUND`, `PERMISSION_DENIED`: there is no such folder, or it is elsewhere.
    pub(crate) async fn list(&self, folder: &str, pattern: Option<&str>, known: &'static Known) -> Result<Listing> {
        let pattern = pattern.map(Pattern::new).transpose()?;
        let turn = self.walks.clone().acquire_owned().await.tool_err(ErrorCode::INTERNAL_ERROR)?;
        let (roots, folder) = (self.clone(), folder.to_owned());
        on_thread(move || {
            let _turn = turn;
            roots.walk(&folder, pattern.as_ref(), known)
        })
        .await
    }

    fn walk(&self, folder: &str, pattern: Option<&Pattern>, known: &Known) -> Result<Listing> {
        let (mut files, mut seen, mut more, mut visited) = (Vec::new(), BTreeSet::new(), false, 0);
        let (mut inside, mut listed) = (false, false);
        for root in &self.folders {
            let Some(folder) = below(root, folder) else { continue };
            inside = true;
            let from = if folder.is_empty() { "." } else { &folder };
            // A link to elsewhere is no folder of this one.
            if open_below(root, from, OFlags::PATH | OFlags::DIRECTORY).is_err() {
                continue;
            }
            listed = true;
            let top = root.join(&folder);
            let walk = WalkDir::new(&top).max_depth(MAX_DEPTH).sort_by_file_name();
            for entry in walk.into_iter().filter_map(Result::ok).filter(|entry| !entry.file_type().is_dir()) {
                visited += 1;
                if files.len() >= MAX_FILES || visited > MAX_VISITED {
                    more = true;
                    break;
                }
                let Some(path) = entry.path().strip_prefix(root).ok().and_then(Path::to_str) else { continue };
                let Some(format) = (known.format)(path) else { continue };
                let wanted =
                    |pattern: &Pattern| entry.path().strip_prefix(&top).is_ok_and(|path| pattern.matches(path));
                if !pattern.is_none_or(wanted) || !seen.insert(path.to_owned()) {
                    continue;
                }
                // What a link leads to, if that is below the folder.
                let Ok(metadata) =
                    open_below(root, path, OFlags::PATH).map_err(io::Error::from).and_then(|file| file.metadata())
                else {
                    continue;
                };
                if metadata.is_file() {
                    let modified = metadata.mtime().try_into().unwrap_or(0);
                    files.push(FileEntry { path: path.to_owned(), format, bytes: metadata.len(), modified });
                }
            }
        }
        if !inside {
            let message = format!("`{}` is not below a folder that is configured", quotable(folder));
            return Err(ToolError::new(ErrorCode::PERMISSION_DENIED, message).with_reason("outside"));
        }
        if !listed {
            self.readable()?;
            let message = format!("there is no folder `{}`; without `folder` all are listed", quotable(folder));
            return Err(ToolError::new(ErrorCode::NOT_FOUND, message));
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let print = fingerprint(&format!("{files:?}"));
        Ok(Listing { files, print, more })
    }

    /// Whether the folders can be read; for each, what is wrong.
    pub(crate) fn states(&self) -> Vec<String> {
        let state = |root: &PathBuf| match openat(
            CWD,
            root,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(_) => "ready".to_owned(),
            Err(error) => format!("cannot be opened: {}", error.kind()),
        };
        self.folders.iter().map(state).collect()
    }

    /// # Errors
    /// None of the folders can be opened.
    fn readable(&self) -> Result<()> {
        if self.states().iter().any(|state| state == "ready") {
            return Ok(());
        }
        Err(ToolError::new(ErrorCode::DEPENDENCY_FAILURE, "none of the configured folders can be opened"))
    }
}

/// A pattern of paths; without a slash it is one of names.
struct Pattern {
    matcher: GlobMatcher,
    of_names: bool,
}

impl Pattern {
    fn new(pattern: &str) -> Result<Self> {
        let glob =
            GlobBuilder::new(pattern).literal_separator(true).case_insensitive(true).build().map_err(|error| {
                let found = format!("`{}`: {}", quotable(pattern), error.kind());
                ToolError::parameter(ErrorCode::INVALID_INPUT, "pattern", "a pattern such as `*.pdf`", found)
            })?;
        Ok(Self { matcher: glob.compile_matcher(), of_names: !pattern.contains('/') })
    }

    fn matches(&self, path: &Path) -> bool {
        match path.file_name() {
            Some(name) if self.of_names => self.matcher.is_match(name),
            _ => self.matcher.is_match(path),
        }
    }
}

/// What files are for a family of tools.
pub(crate) struct Known {
    /// Such as `document`.
    pub(crate) noun: &'static str,
    /// Such as `a PDF or Markdown file`.
    pub(crate) what: &'static str,
    /// The tool that lists them.
    pub(crate) lister: &'static str,
    /// What a file is by its name.
    pub(crate) format: fn(&str) -> Option<&'static str>,
}

impl Version {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the file was left alone for so long before it was opened that a later change must show.
    #[cfg(feature = "doc")]
    pub(crate) fn is_settled(&self) -> bool {
        let (seconds, nanos) = self.changed;
        let changed = Duration::new(seconds.try_into().unwrap_or(0), nanos.try_into().unwrap_or(0));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(changed) > Duration::from_millis(50)
    }
}

/// A path below a folder, which it may name too.
fn below(root: &Path, path: &str) -> Option<String> {
    let path = Path::new(path);
    let path = if path.is_absolute() { path.strip_prefix(root).ok()? } else { path };
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            Component::ParentDir => {
                parts.pop()?;
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

fn open_below(root: &Path, path: &str, flags: OFlags) -> Result<File, Errno> {
    let root = openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // Something was renamed meanwhile.
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result.map(File::from),
        }
    }
}

fn failed(known: &Known, error: impl Into<io::Error>) -> ToolError {
    let message = format!("the {} cannot be opened: {}", known.noun, error.into().kind());
    ToolError::new(ErrorCode::EXECUTION_ERROR, message)
}

/// Does what waits for disks.
pub(crate) async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(ToolError::new(ErrorCode::INTERNAL_ERROR, error.to_string())))
}
