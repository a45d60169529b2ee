//! Bounded capture of one output stream: its head and its tail, decoded to text at the end.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;

use sandbox_runtime::prelude::Progress;

use super::spool::{Budget, Spool};

/// What one stream wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Captured {
    /// The text, UTF-8 with invalid bytes replaced; when [`truncated`](Self::truncated), the head, a line that counts
    /// the omitted bytes, and the tail. Never longer than the limit that was asked for.
    pub text: String,
    /// How many bytes the stream wrote.
    pub total_bytes: u64,
    /// Whether `text` lacks a part of them.
    pub truncated: bool,
}

/// Room kept for the line that stands for the omitted bytes.
const MARKER_BYTES: usize = 48;

/// What a command writes, both streams.
pub(super) struct Collector {
    captures: [Capture; 2],
    spools: [Spool; 2],
    live: Option<Progress>,
}

impl Collector {
    /// For answers of at most `limit` bytes of each stream; more of them is kept beside them, within the budget.
    pub(super) fn new(limit: usize, budget: &Arc<Budget>, live: Option<&Progress>) -> Self {
        Self {
            captures: [Capture::new(limit), Capture::new(limit)],
            spools: [Spool::new(budget), Spool::new(budget)],
            live: live.cloned(),
        }
    }

    /// Takes the next bytes of standard output (0) or standard error (1).
    pub(super) fn push(&mut self, stream: usize, bytes: &[u8]) {
        if let Some(live) = &self.live {
            live.output(["stdout", "stderr"][stream], bytes);
        }
        self.captures[stream].push(bytes);
        self.spools[stream].push(bytes);
    }

    /// What goes into the answer, and what can be fetched later.
    pub(super) fn finish(self) -> ([Captured; 2], [Spool; 2]) {
        (self.captures.map(Capture::finish), self.spools)
    }
}

/// What an answer holds of a stream of which only the head and the tail are at hand; `head` is all of it if that is short.
pub(super) fn excerpt(limit: usize, head: &[u8], tail: &[u8], total_bytes: u64) -> Captured {
    if head.len() as u64 == total_bytes {
        let mut capture = Capture::new(limit);
        capture.push(head);
        return capture.finish();
    }
    join(head, tail, limit, total_bytes)
}

/// Collects a stream in bounded memory.
struct Capture {
    limit: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total_bytes: u64,
}

impl Capture {
    /// A capture whose text has at most `limit` bytes.
    fn new(limit: usize) -> Self {
        Self { limit, head: Vec::new(), tail: VecDeque::new(), total_bytes: 0 }
    }

    /// Takes the next bytes of the stream.
    fn push(&mut self, bytes: &[u8]) {
        self.total_bytes += bytes.len() as u64;
        let head_limit = self.limit / 2;
        let taken = bytes.len().min(head_limit - self.head.len());
        self.head.extend(&bytes[..taken]);
        let rest = &bytes[taken..];
        let tail_limit = self.limit - head_limit;
        let rest = &rest[rest.len().saturating_sub(tail_limit)..];
        let excess = (self.tail.len() + rest.len()).saturating_sub(tail_limit);
        self.tail.drain(..excess);
        self.tail.extend(rest);
    }

    /// Decodes what was kept.
    fn finish(mut self) -> Captured {
        let kept = (self.head.len() + self.tail.len()) as u64;
        let tail = self.tail.make_contiguous();
        if kept == self.total_bytes {
            self.head.extend_from_slice(tail);
            let text = String::from_utf8_lossy(&self.head);
            // Replacement characters are longer than the bytes they replace.
            if text.len() <= self.limit {
                return Captured { text: text.into_owned(), total_bytes: self.total_bytes, truncated: false };
            }
            let middle = self.head.len() / 2;
            let (head, tail) = self.head.split_at(middle);
            return join(head, tail, self.limit, self.total_bytes);
        }
        join(&self.head, tail, self.limit, self.total_bytes)
    }
}

/// Head, marker and tail within `limit` bytes of text, cut between characters.
fn join(head: &[u8], tail: &[u8], limit: usize, total_bytes: u64) -> Captured {
    let room = limit.saturating_sub(MARKER_BYTES);
    // Too small for a marker: the end of the output says more than its beginning.
    let (head_room, tail_room) = if room == 0 { (0, limit) } else { (room / 2, room - room / 2) };
    let (head, head_bytes) = decode_start(head, head_room);
    let (tail, tail_bytes) = decode_end(tail, tail_room);
    let mut text = head;
    if room > 0 {
        let omitted = total_bytes.saturating_sub(head_bytes + tail_bytes);
        // Writing to a string cannot fail.
        let _ = write!(text, "\n[... {omitted} bytes omitted ...]\n");
    }
    text.push_str(&tail);
    Captured { text, total_bytes, truncated: true }
}

/// Decodes from the start until `room` bytes of text are full; also says how many bytes were consumed.
fn decode_start(bytes: &[u8], room: usize) -> (String, u64) {
    let mut text = String::new();
    let mut consumed = 0;
    let mut chunks = bytes.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        let end = chunk.valid().floor_char_boundary(room - text.len());
        text.push_str(&chunk.valid()[..end]);
        consumed += end;
        if end < chunk.valid().len() {
            break;
        }
        let invalid = chunk.invalid();
        // A sequence cut off by the end of what was kept is not an error of the stream.
        let cut_off =
            chunks.peek().is_none() && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
        if invalid.is_empty() || cut_off || room - text.len() < 3 {
            break;
        }
        text.push(char::REPLACEMENT_CHARACTER);
        consumed += invalid.len();
    }
    (text, consumed as u64)
}

/// Decodes so that the end is kept in `room` bytes of text; also says how many bytes that covers.
fn decode_end(bytes: &[u8], room: usize) -> (String, u64) {
    // Never more bytes than can have room, and none of a character whose beginning was dropped.
    let mut start = bytes.len().saturating_sub(room);
    start += bytes[start..].iter().take(3).take_while(|byte| **byte & 0xC0 == 0x80).count();
    let bytes = &bytes[start..];
    let text = String::from_utf8_lossy(bytes);
    if text.len() <= room {
        return (text.into_owned(), bytes.len() as u64);
    }
    let mut cut = text.len() - room;
    while !text.is_char_boundary(cut) {
        cut += 1;
    }
    // The consumed bytes are only known up to the replaced ones here; the decoded length is the best measure.
    let text = text[cut..].to_owned();
    let covered = text.chars().map(|c| if c == char::REPLACEMENT_CHARACTER { 1 } else { c.len_utf8() as u64 }).sum();
    (text, covered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(chunks: &[&[u8]], limit: usize) -> Captured {
        let mut capture = Capture::new(limit);
        for chunk in chunks {
            capture.push(chunk);
        }
        capture.finish()
    }

    #[test]
    fn everything_within_the_limit() {
        let captured = of(&["häl".as_bytes(), "lo".as_bytes()], 6);
        assert_eq!(captured, Captured { text: "hällo".into(), total_bytes: 6, truncated: false });
        assert_eq!(of(&[b"a\xffb"], 100).text, "a\u{fffd}b");
        assert_eq!(of(&[], 0), Captured::default());
    }

    #[test]
    fn head_and_tail_never_split_a_character() {
        for limit in 0..400 {
            for width in ["é", "€", "🦀", "a"] {
                let captured = of(&[width.repeat(1000).as_bytes()], limit);
                assert!(captured.truncated && captured.text.len() <= limit, "{limit} {width} {}", captured.text.len());
                assert!(!captured.text.contains(char::REPLACEMENT_CHARACTER), "{limit} {width}");
            }
        }
    }

    #[test]
    fn invalid_bytes_stay_within_the_limit() {
        for limit in [0, 1, 2, 3, 60, 100, 101, 500, 999, 1000] {
            let captured = of(&[&[0xff; 1000]], limit);
            assert!(captured.truncated && captured.text.len() <= limit);
        }
        let captured = of(&[&[0x80; 90], b"end"], 100);
        assert!(captured.truncated && captured.text.ends_with("end") && captured.text.len() <= 100);
    }

    #[test]
    fn the_marker_counts_what_is_missing() {
        let captured = of(&[b"start", &[b'x'; 10_000], b"finish"], 148);
        assert!(captured.text.starts_with("startxxx") && captured.text.ends_with("xxxfinish"));
        assert!(captured.text.contains(&format!("[... {} bytes omitted ...]", 10_011 - 100)), "{}", captured.text);
    }

    #[test]
    fn memory_is_bounded() {
        let mut capture = Capture::new(1000);
        for _ in 0..1000 {
            capture.push(&[b'x'; 4096]);
        }
        assert!(capture.head.capacity() <= 4096 && capture.tail.capacity() <= 4096);
        assert_eq!(capture.finish().total_bytes, 4_096_000);
    }
}
