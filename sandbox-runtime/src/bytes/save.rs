//! Writes a stream into a file that is there whole or not at all.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use rustix::fs::{AtFlags, CWD};
use sandbox_types::ErrorCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::task::{JoinError, JoinHandle};

use super::{ByteStream, agree, hex};
use crate::error::{Result, ToolError};

/// What is handed to the blocking pool at once; while it is written, as much again is gathered.
const BATCH_BYTES: usize = 512 * 1024;

/// What [`ByteStream::save`] has written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Saved {
    /// How many bytes.
    pub bytes: u64,
    /// Their SHA-256, as 64 hex digits.
    pub sha256: String,
}

pub(super) async fn save(mut stream: ByteStream, target: PathBuf) -> Result<Saved> {
    // Hashed here while it is written, on the other thread, unless its beginning was read already.
    let expected = if stream.hasher.is_none() { stream.sha256.take() } else { None };
    let beside = target.clone();
    let mut part = Writing::Idle(blocking(move || Part::create(&beside)).await??);
    loop {
        match gather(&mut stream).await {
            Ok(Some(batch)) => part = Writing::Busy(part.done().await?.write(batch)),
            Ok(None) => break,
            Err(error) => {
                // Who is told of the failure finds nothing left.
                let part = part.done().await;
                blocking(move || drop(part)).await?;
                return Err(error);
            }
        }
    }
    let part = part.done().await?;
    blocking(move || part.finish(&target, expected)).await?
}

/// So many pieces that a hop to another thread is worth it; `None` at the end.
async fn gather(stream: &mut ByteStream) -> Result<Option<Vec<Bytes>>> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while bytes < BATCH_BYTES
        && let Some(chunk) = stream.next().await?
    {
        bytes += chunk.len();
        batch.push(chunk);
    }
    Ok((!batch.is_empty()).then_some(batch))
}

enum Writing {
    Idle(Part),
    Busy(JoinHandle<Result<Part>>),
}

impl Writing {
    async fn done(self) -> Result<Part> {
        match self {
            Self::Idle(part) => Ok(part),
            Self::Busy(writing) => joined(writing.await)?,
        }
    }
}

/// The file while it grows. Without a name, where the file system can do that: then nothing is left of it even if the whole
/// process is killed. Elsewhere under a name of its own, which goes when this is dropped, on whichever thread that happens.
struct Part {
    file: File,
    path: Option<PathBuf>,
    hasher: Sha256,
    bytes: u64,
}

impl Part {
    fn create(target: &Path) -> Result<Self> {
        match nameless(target) {
            Some(file) => Ok(Self::of(file, None)),
            None => Self::named(target),
        }
    }

    fn named(target: &Path) -> Result<Self> {
        let path = beside(target);
        let file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(|error| unwritten(&error))?;
        Ok(Self::of(file, Some(path)))
    }

    fn of(file: File, path: Option<PathBuf>) -> Self {
        Self { file, path, hasher: Sha256::new(), bytes: 0 }
    }

    fn write(mut self, batch: Vec<Bytes>) -> JoinHandle<Result<Self>> {
        tokio::task::spawn_blocking(move || {
            for chunk in batch {
                self.file.write_all(&chunk).map_err(|error| unwritten(&error))?;
                self.hasher.update(&chunk);
                self.bytes += chunk.len() as u64;
            }
            Ok(self)
        })
    }

    fn finish(mut self, target: &Path, expected: Option<[u8; 32]>) -> Result<Saved> {
        let found = std::mem::take(&mut self.hasher).finalize().into();
        if let Some(expected) = expected {
            agree(expected, found)?;
        }
        self.take_place(target).map_err(|error| unwritten(&error))?;
        Ok(Saved { bytes: self.bytes, sha256: hex(&found) })
    }

    fn take_place(&mut self, target: &Path) -> io::Result<()> {
        let path = match self.path.take() {
            Some(path) => path,
            None if name(&self.file, target).is_ok() => return Ok(()),
            // Another file stands there: only a renaming takes its place in one step.
            None => {
                let path = beside(target);
                name(&self.file, &path)?;
                path
            }
        };
        std::fs::rename(self.path.insert(path), target)?;
        self.path = None;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(%error, path = %path.display(), "a part of an upload stays behind");
        }
    }
}

/// A file without a name in the target's folder; none where there are no such files, or none could be named later.
#[cfg(target_os = "linux")]
fn nameless(target: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt as _;

    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(folder).ok()?;
    own_link(&file).exists().then_some(file)
}

#[cfg(not(target_os = "linux"))]
fn nameless(_: &Path) -> Option<File> {
    None
}

/// Where the system shows an open file of this process.
fn own_link(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// Gives a nameless file a name, which must be free.
fn name(file: &File, path: &Path) -> io::Result<()> {
    Ok(rustix::fs::linkat(CWD, own_link(file), CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

/// A name of its own in the target's folder.
fn beside(target: &Path) -> PathBuf {
    target.with_file_name(format!(".upload-{:016x}.part", fastrand::u64(..)))
}

fn unwritten(error: &io::Error) -> ToolError {
    io_error("the file cannot be written", error)
}

/// In the system's words, which hold no path.
pub(super) fn io_error(what: &str, error: &io::Error) -> ToolError {
    let code = match error.kind() {
        io::ErrorKind::NotFound => ErrorCode::NOT_FOUND,
        _ => ErrorCode::EXECUTION_ERROR,
    };
    let why = if error.raw_os_error().is_some() { error.to_string() } else { error.kind().to_string() };
    ToolError::new(code, format!("{what}: {why}"))
}

pub(super) async fn blocking<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    joined(tokio::task::spawn_blocking(body).await)
}

/// What a thread of the blocking pool came to; it is refused, or cancelled, only at the end of its runtime.
pub(super) fn joined<T>(joined: Result<T, JoinError>) -> Result<T> {
    joined.map_err(|_| ToolError::shutting_down())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Part;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).expect("a folder");
        entries.map(|entry| entry.expect("is read").file_name().to_string_lossy().into_owned()).collect()
    }

    #[tokio::test]
    async fn with_a_name_or_without_a_part_takes_its_place_whole_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("target");
        // `create` is without a name where the file system can.
        for create in [Part::named, Part::create] {
            for content in ["first", "second"] {
                let part = create(&target).expect("is made");
                let part = part.write(vec![content.into()]).await.expect("no panic").expect("is written");
                part.finish(&target, None).expect("takes its place");
                assert_eq!(
                    (std::fs::read_to_string(&target).expect("is there"), names(folder.path()).len()),
                    (content.into(), 1)
                );
            }
            let part = create(&target).expect("is made");
            let part = part.write(vec!["third".into()]).await.expect("no panic").expect("is written");
            part.finish(&target, Some([0; 32])).expect_err("another checksum");
            create(&target).expect("is made").finish(&folder.path().join("no/such"), None).expect_err("no folder");
            create(&target).expect("is made").finish(folder.path(), None).expect_err("a folder");
            assert_eq!(
                (std::fs::read_to_string(&target).expect("is there"), names(folder.path()).len()),
                ("second".into(), 1)
            );
            std::fs::remove_file(&target).expect("is there");
        }
    }
}
