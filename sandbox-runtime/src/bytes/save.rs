//! Writes a stream into a file that is there whole or not at all.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
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

/// The file while it grows; removed when it is dropped, on whichever thread that happens.
struct Part {
    file: File,
    path: PathBuf,
    kept: bool,
    hasher: Sha256,
    bytes: u64,
}

impl Part {
    fn create(target: &Path) -> Result<Self> {
        let name = format!(".upload-{:016x}.part", fastrand::u64(..));
        let path = target.parent().map_or_else(|| PathBuf::from(&name), |folder| folder.join(&name));
        let file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(|error| unwritten(&error))?;
        Ok(Self { file, path, kept: false, hasher: Sha256::new(), bytes: 0 })
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
        std::fs::rename(&self.path, target).map_err(|error| unwritten(&error))?;
        self.kept = true;
        Ok(Saved { bytes: self.bytes, sha256: hex(&found) })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "a part of an upload stays behind");
        }
    }
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
