//! Files below configured folders, and no others.
//!
//! A path is resolved by the kernel below the folder (`openat2` with `RESOLVE_BENEATH`): neither `..` nor a link leads out
//! of it, whoever changes what meanwhile. A file is known by its path below its folder; where two folders have the same,
//! the first one's is meant, as with `PATH`. A path that names the folder too is understood.

use std::{
    collections::BTreeSet,
    fs::{File, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};

use globset::GlobBuilder;
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2},
    io::Errno,
};
use sandbox_runtime::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use walkdir::WalkDir;

use super::names::{nearest, quotable};

/// Folders within folders that are listed.
const MAX_DEPTH: usize = 32;
/// Files that are listed.
const MAX_FILES: usize = 20_000;

/// The folders.
#[derive(Clone, Debug)]
pub(crate) struct Roots(Vec<PathBuf>);

impl<'de> Deserialize<'de> for Roots {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let roots = Vec::<PathBuf>::deserialize(deserializer)?;
        if roots.is_empty() || roots.iter().any(|root| root.as_os_str().is_empty()) {
            return Err(D::Error::custom("expected at least one path of a folder"));
        }
        Ok(Self(roots))
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
    /// Opens a file for reading. What `parameter` names is said to be `what`, and listed by `lister`.
    ///
    /// # Errors
    /// `NOT_FOUND`, with similar paths; `PERMISSION_DENIED`: it is elsewhere; `INVALID_INPUT`: it is no file.
    pub(crate) fn open(&self, parameter: &str, path: &str, known: &Known) -> Result<Found> {
        let invalid = |expected: &str| {
            ToolError::parameter(ErrorCode::INVALID_INPUT, parameter, expected, format!("`{}`", quotable(path)))
        };
        if path.is_empty() || path.contains('\0') {
            return Err(invalid(&format!("the path of {}", known.what)));
        }
        let mut outside = false;
        for root in &self.0 {
            let Some(below) = below(root, path) else {
                outside = true;
                continue;
            };
            match open_below(root, &below, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
                Ok(file) => {
                    let metadata = file.metadata().map_err(|error| failed(known, error))?;
                    let kind = metadata.file_type();
                    if kind.is_file() {
                        return Ok(Found { path: below, version: Version::of(&metadata), file });
                    }
                    let lister = if kind.is_dir() {
                        format!(", not a folder; `{}` lists them", known.lister)
                    } else {
                        String::new()
                    };
                    return Err(invalid(&format!("{}{lister}", known.what)));
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => {}
                Err(Errno::XDEV | Errno::LOOP) => outside = true,
                Err(Errno::ACCESS | Errno::PERM) => {
                    let message = format!("the server may not read `{}`", quotable(path));
                    return Err(ToolError::new(ErrorCode::PERMISSION_DENIED, message).with_reason("unreadable"));
                }
                Err(error) => return Err(failed(known, error)),
            }
        }
        if outside {
            let message = format!(
                "`{}` is not below a folder that is configured; `{}` names what is",
                quotable(path),
                known.lister
            );
            return Err(ToolError::new(ErrorCode::PERMISSION_DENIED, message).with_reason("outside"));
        }
        self.readable()?;
        let names = self.list("", None, known)?.0;
        let names = nearest(path, names.iter().map(|file| file.path.as_str()));
        let message = format!("there is no {} `{}`; `{}` names them", known.noun, quotable(path), known.lister);
        Err(ToolError::new(ErrorCode::NOT_FOUND, message).with_candidates(names))
    }

    /// The files below a folder (`""` for all) whose paths match a pattern, by path, and whether there are more than are
    /// looked at. Links to folders are not followed.
    ///
    /// # Errors
    /// The pattern is none.
    pub(crate) fn list(&self, folder: &str, pattern: Option<&str>, known: &Known) -> Result<(Vec<FileEntry>, bool)> {
        let pattern = pattern.map(|pattern| {
            let glob = GlobBuilder::new(pattern).literal_separator(true).build();
            glob.map(|glob| glob.compile_matcher()).map_err(|error| {
                let found = format!("`{}`: {}", quotable(pattern), error.kind());
                ToolError::parameter(ErrorCode::INVALID_INPUT, "pattern", "a pattern such as `**/*.pdf`", found)
            })
        });
        let pattern = pattern.transpose()?;
        let (mut files, mut seen, mut more) = (Vec::new(), BTreeSet::new(), false);
        for root in &self.0 {
            let Some(folder) = below(root, folder) else { continue };
            // A link to elsewhere is no folder of this one.
            if open_below(root, if folder.is_empty() { "." } else { &folder }, OFlags::PATH | OFlags::DIRECTORY)
                .is_err()
            {
                continue;
            }
            let walk = WalkDir::new(root.join(&folder)).max_depth(MAX_DEPTH).sort_by_file_name();
            for entry in walk.into_iter().filter_map(Result::ok).filter(|entry| !entry.file_type().is_dir()) {
                let Some(path) = entry.path().strip_prefix(root).ok().and_then(Path::to_str) else { continue };
                let Some(format) = (known.format)(path) else { continue };
                if pattern.as_ref().is_some_and(|pattern| !pattern.is_match(path)) || !seen.insert(path.to_owned()) {
                    continue;
                }
                if files.len() >= MAX_FILES {
                    more = true;
                    break;
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
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok((files, more))
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
        self.0.iter().map(state).collect()
    }

    /// # Errors
    /// None of the folders can be opened.
    pub(crate) fn readable(&self) -> Result<()> {
        if self.states().iter().any(|state| state == "ready") {
            return Ok(());
        }
        Err(ToolError::new(ErrorCode::DEPENDENCY_FAILURE, "none of the configured folders can be opened"))
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
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the file was left alone for so long before it was opened that a later change must show.
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
