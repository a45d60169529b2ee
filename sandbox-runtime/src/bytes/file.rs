//! A file as the source of a stream: read ahead by one piece, on the blocking pool.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    pin::Pin,
    task::{Context, Poll, ready},
    time::SystemTime,
};

use bytes::Bytes;
use sandbox_types::ErrorCode;
use tokio::task::JoinHandle;

use super::save::{io_error, joined};
use crate::error::{Result, ToolError};

/// What is read at once: fewer hops to the blocking pool cost more memory.
const PIECE_BYTES: u64 = 256 * 1024;

/// A file, and how much of it is still to be read.
pub(super) struct FileSource {
    /// Absent while a piece is being read.
    file: Option<File>,
    start: u64,
    left: u64,
    reading: Option<JoinHandle<(File, Result<Bytes>)>>,
    pub(super) etag: String,
    pub(super) modified: Option<SystemTime>,
}

impl FileSource {
    pub(super) fn open(path: &Path) -> Result<Self> {
        // Without the flag the opening of a pipe would wait for its other end.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        Self::of(file.map_err(|error| io_error("the file cannot be opened", &error))?)
    }

    pub(super) fn of(mut file: File) -> Result<Self> {
        let metadata = file.metadata().map_err(|error| io_error("the file cannot be read", &error))?;
        if !metadata.is_file() {
            return Err(ToolError::new(ErrorCode::EXECUTION_ERROR, "expected a regular file, found something else"));
        }
        file.seek(SeekFrom::Start(0)).map_err(|error| io_error("the file cannot be read", &error))?;
        let changed = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        Ok(Self {
            file: Some(file),
            start: 0,
            left: metadata.len(),
            reading: None,
            etag: format!("\"{:x}-{:x}-{changed:x}\"", metadata.ino(), metadata.len()),
            modified: metadata.modified().ok(),
        })
    }

    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Leaves only a part; before anything was read.
    #[cfg(feature = "server")]
    pub(super) fn narrow(&mut self, start: u64, len: u64) {
        self.start = start;
        self.left = len;
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        if self.reading.is_none() {
            self.read_ahead();
        }
        let Some(reading) = &mut self.reading else { return Poll::Ready(Ok(None)) };
        let read = ready!(Pin::new(reading).poll(context));
        self.reading = None;
        let (file, piece) = joined(read)?;
        let piece = piece?;
        self.file = Some(file);
        self.left = if piece.is_empty() { 0 } else { self.left.saturating_sub(piece.len() as u64) };
        // Empty: the file has become shorter; the length that was promised says so.
        let piece = (!piece.is_empty()).then_some(piece);
        self.read_ahead();
        Poll::Ready(Ok(piece))
    }

    fn read_ahead(&mut self) {
        let wanted = self.left.min(PIECE_BYTES);
        let seek = std::mem::take(&mut self.start);
        let Some(mut file) = self.file.take_if(|_| wanted > 0) else { return };
        self.reading = Some(tokio::task::spawn_blocking(move || {
            let mut piece = Vec::with_capacity(usize::try_from(wanted).unwrap_or(0));
            let mut read = || {
                if seek > 0 {
                    file.seek(SeekFrom::Start(seek))?;
                }
                (&mut file).take(wanted).read_to_end(&mut piece)
            };
            let read = read().map_err(|error| io_error("the file cannot be read", &error));
            (file, read.map(|_| piece.into()))
        }));
    }
}
