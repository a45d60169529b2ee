//! What a command or a job wrote, kept to be fetched later: the last part of it, in memory while it is short, then in a
//! file without a name.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// So much of each stream stays in memory.
const MEMORY_BYTES: usize = 64 * 1024;

/// What the streams of one session may take on disk together.
#[derive(Debug)]
pub(super) struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0) })
    }

    /// Whether little of it is left.
    pub(super) fn is_short(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.limit / 2
    }

    fn take(&self, bytes: u64) -> bool {
        let more = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

/// A stream's last bytes, with offsets that count from its first.
#[derive(Debug)]
pub(super) struct Spool {
    budget: Arc<Budget>,
    /// Most bytes that are kept: the size of the ring.
    limit: u64,
    total: u64,
    memory: Vec<u8>,
    /// The bytes in the ring; memory is empty then.
    file: Option<File>,
    /// What it has taken of the budget: the size of the file.
    taken: u64,
}

/// A part of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Piece {
    /// Offset of its first byte; more than was asked for if that is no longer kept.
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

impl Spool {
    /// One that takes at most half of the budget.
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        let limit = (budget.limit / 2).max(1);
        Self { budget: budget.clone(), limit, total: 0, memory: Vec::new(), file: None, taken: 0 }
    }

    /// How many bytes the stream had so far.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Whether some of it is on disk.
    pub(super) fn takes_disk(&self) -> bool {
        self.taken > 0
    }

    /// Gives up what is kept of it.
    pub(super) fn forget(&mut self) {
        self.budget.used.fetch_sub(self.taken, Ordering::Relaxed);
        (self.taken, self.file, self.limit) = (0, None, MEMORY_BYTES as u64);
        self.memory = Vec::new();
    }

    /// Takes the next bytes of the stream.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.file.is_none() && self.memory.len() + bytes.len() > MEMORY_BYTES {
            self.spill();
        }
        self.grow(bytes.len() as u64);
        if let Some(file) = &self.file {
            if write(file, self.limit, self.total, bytes).is_ok() {
                self.total += bytes.len() as u64;
                return;
            }
            // The disk is full: what comes from here on is kept in memory.
            (self.file, self.limit) = (None, MEMORY_BYTES as u64);
        }
        self.total += bytes.len() as u64;
        let kept = usize::try_from(self.limit).unwrap_or(usize::MAX).min(MEMORY_BYTES);
        let bytes = &bytes[bytes.len().saturating_sub(kept)..];
        let excess = (self.memory.len() + bytes.len()).saturating_sub(kept);
        self.memory.drain(..excess);
        self.memory.extend_from_slice(bytes);
    }

    /// Takes what the file is about to grow by; where nothing is left, the ring is as large as the file is now.
    fn grow(&mut self, bytes: u64) {
        if self.file.is_some() && self.taken < self.limit {
            let wanted = (self.total + bytes).min(self.limit) - self.taken;
            if self.budget.take(wanted) {
                self.taken += wanted;
            } else {
                self.limit = self.taken;
            }
        }
    }

    /// Moves what is in memory into a file; without one, memory stays what there is.
    fn spill(&mut self) {
        if self.limit <= MEMORY_BYTES as u64 {
            return;
        }
        let kept = self.memory.len() as u64;
        if self.total != kept || !self.budget.take(kept) {
            self.limit = MEMORY_BYTES as u64;
            return;
        }
        self.taken = kept;
        let file = tempfile::tempfile().and_then(|file| {
            write(&file, self.limit, 0, &self.memory)?;
            Ok(file)
        });
        match file {
            Ok(file) => (self.file, self.memory) = (Some(file), Vec::new()),
            Err(error) => {
                tracing::warn!("output is kept in memory only, {MEMORY_BYTES} bytes of it: {error}");
                self.limit = MEMORY_BYTES as u64;
            }
        }
    }

    /// At most `most` bytes from an offset on.
    pub(super) fn read(&self, offset: u64, most: usize) -> Piece {
        let kept = if self.file.is_some() { self.limit.min(self.total) } else { self.memory.len() as u64 };
        let begin = self.total - kept;
        let offset = offset.clamp(begin, self.total);
        let length = usize::try_from(self.total - offset).unwrap_or(usize::MAX).min(most);
        let Some(file) = &self.file else {
            let start = usize::try_from(offset - begin).unwrap_or(0);
            return Piece { offset, bytes: self.memory[start..start + length].to_vec() };
        };
        let mut bytes = vec![0; length];
        let place = offset % self.limit;
        let first = usize::try_from(self.limit - place).unwrap_or(usize::MAX).min(length);
        let read =
            file.read_exact_at(&mut bytes[..first], place).and_then(|()| file.read_exact_at(&mut bytes[first..], 0));
        if read.is_err() {
            bytes.clear();
        }
        Piece { offset, bytes }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

/// Writes bytes of a stream, the first of which has this offset, into the ring.
fn write(file: &File, limit: u64, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
    let skipped = bytes.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
    let bytes = &bytes[skipped..];
    let place = (offset + skipped as u64) % limit;
    let first = usize::try_from(limit - place).unwrap_or(usize::MAX).min(bytes.len());
    file.write_all_at(&bytes[..first], place)?;
    file.write_all_at(&bytes[first..], 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_are_kept_with_their_offsets() {
        let stream: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        for limit in [10, 1000, MEMORY_BYTES as u64, 100_000, 1 << 20, 1 << 30] {
            for step in [1000, 4096, 70_001, 3_000_000] {
                let budget = Budget::new(2 * limit);
                let mut spool = Spool::new(&budget);
                let mut total = 0;
                for chunk in stream[..stream.len() / 4].chunks(step) {
                    spool.push(chunk);
                    total += chunk.len();
                    let Piece { offset, bytes } = spool.read(0, usize::MAX);
                    assert_eq!(offset, (total - bytes.len()) as u64);
                    assert_eq!(bytes.len() as u64, limit.min(total as u64), "{limit} {step} {total}");
                    assert!(bytes == stream[total - bytes.len()..total], "{limit} {step} {total}");
                }
                let middle = spool.read(total as u64 - 7, 3);
                assert_eq!((middle.offset, &middle.bytes[..]), (total as u64 - 7, &stream[total - 7..total - 4]));
                assert_eq!(spool.read(u64::MAX, 10), Piece { offset: total as u64, bytes: Vec::new() });
                spool.forget();
                assert_eq!(budget.used.load(Ordering::Relaxed), 0);
                assert_eq!(spool.read(0, 10), Piece { offset: total as u64, bytes: Vec::new() });
                spool.push(b"later");
                assert_eq!(spool.read(0, 10), Piece { offset: total as u64, bytes: b"later".to_vec() });
                assert_eq!(spool.total(), total as u64 + 5);
                drop(spool);
                assert_eq!(budget.used.load(Ordering::Relaxed), 0);
            }
        }
    }

    #[test]
    fn streams_share_a_budget() {
        let budget = Budget::new(1 << 20);
        let mut spools: Vec<_> = (0..8).map(|_| Spool::new(&budget)).collect();
        for (number, spool) in spools.iter_mut().enumerate() {
            for _ in 0..100 {
                spool.push(&[u8::try_from(number).unwrap(); 10_000]);
            }
        }
        let kept: Vec<_> = spools.iter().map(|spool| spool.read(0, usize::MAX)).collect();
        for (number, Piece { offset, bytes }) in kept.iter().enumerate() {
            assert!(bytes.iter().all(|byte| usize::from(*byte) == number) && !bytes.is_empty());
            assert_eq!(*offset + bytes.len() as u64, 1_000_000);
        }
        assert_eq!(kept[0].bytes.len(), 1 << 19);
        assert!(budget.used.load(Ordering::Relaxed) <= 1 << 20 && budget.is_short());
        // What has no place on disk has some in memory.
        assert_eq!(kept[7].bytes.len(), MEMORY_BYTES);
    }
}
