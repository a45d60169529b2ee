//! What a run has to say: a bounded ring of events, read by any number of readers at their own pace.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Waker,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use sandbox_types::{EventSource, GapEvent, OutputEncoding, OutputEvent, ProgressEvent};
use serde::Serialize;

/// Id of the event `start`, which every run has and no ring holds.
pub(crate) const START: u64 = 1;

/// Longest piece of output in one event: what is longer becomes several.
const MAX_OUTPUT_BYTES: usize = 32 * 1024;

/// What one event takes beside its text.
const EVENT_OVERHEAD: usize = 64;

/// To what a ring shrinks when all of them together take more than they may.
const SHORT_RING_BYTES: usize = 64 * 1024;

/// Outputs of one run that are open at a time; no tool has so many. Of one more, another begins anew.
const MAX_OUTPUTS: usize = 8192;

/// What all runs hold together: rings, and answers of those that ended.
#[derive(Debug)]
pub(crate) struct Budget {
    held: AtomicUsize,
    /// The most that may be held.
    pub(crate) max_bytes: usize,
    /// The most that one ring may hold.
    pub(crate) ring_bytes: usize,
}

impl Budget {
    pub(crate) fn new(max_bytes: usize, ring_bytes: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), max_bytes, ring_bytes })
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn is_exceeded(&self) -> bool {
        self.held.load(Ordering::Relaxed) > self.max_bytes
    }

    pub(crate) fn has_an_eighth_left(&self) -> bool {
        self.held.load(Ordering::Relaxed) <= self.max_bytes - self.max_bytes / 8
    }
}

/// One event of a run.
#[derive(Clone, Debug)]
pub struct Event {
    /// Events of a run are numbered from 1 without holes; a `gap` has the number of the last event that is missing.
    pub id: u64,
    /// `start`, `output`, `progress`, `item`, `gap`, and at the end `result` or `error`.
    pub name: &'static str,
    /// JSON on one line: a type of [`sandbox_types`] named after the event; of the last one the whole answer.
    pub data: Bytes,
}

impl Event {
    pub(crate) fn new(id: u64, name: &'static str, data: &impl Serialize) -> Self {
        Self { id, name, data: written(data) }
    }

    fn bytes(&self) -> usize {
        self.data.len() + EVENT_OVERHEAD
    }
}

/// An event in the ring.
#[derive(Debug)]
struct Frame {
    event: Event,
    /// Who it is from, so that a newer `progress` takes the place of one that nobody has read.
    index: Option<u32>,
}

const PROGRESS: &str = "progress";

/// Who reports: an action of a batch, a tool that the tool called.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Source<'a> {
    pub(crate) index: Option<u32>,
    pub(crate) tool: Option<&'a str>,
}

impl<'a> Source<'a> {
    fn on_the_wire(self) -> EventSource<'a> {
        EventSource { index: self.index, tool: self.tool.map(Into::into) }
    }
}

/// The events of one run.
#[derive(Debug)]
pub(crate) struct EventLog {
    frames: VecDeque<Frame>,
    bytes: usize,
    /// Id of the latest event, recorded or not.
    last_id: u64,
    /// Present while events are recorded.
    budget: Option<Arc<Budget>>,
    outputs: Vec<Output>,
    /// Id of the latest event that any reader has taken.
    delivered: u64,
    wakers: Vec<(u64, Waker)>,
    next_reader: u64,
}

/// How far an output is.
#[derive(Debug)]
struct Output {
    index: Option<u32>,
    stream: Box<str>,
    offset: u64,
    /// The beginning of a character whose rest has not come yet.
    partial: Vec<u8>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self {
            frames: VecDeque::new(),
            bytes: 0,
            last_id: START,
            budget: None,
            outputs: Vec::new(),
            delivered: START,
            wakers: Vec::new(),
            next_reader: 0,
        }
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.give_back(self.bytes);
        }
    }
}

impl EventLog {
    /// Keeps events from now on; those before are gone.
    pub(crate) fn record(&mut self, budget: &Arc<Budget>) {
        self.budget.get_or_insert_with(|| budget.clone());
    }

    pub(crate) fn is_recording(&self) -> bool {
        self.budget.is_some()
    }

    pub(crate) fn last_id(&self) -> u64 {
        self.last_id
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that a tool has written to one of its outputs.
    pub(crate) fn output(&mut self, from: Source<'_>, stream: &str, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let place = self.outputs.iter().rposition(|output| output.index == from.index && *output.stream == *stream);
        let place = place.unwrap_or_else(|| {
            if self.outputs.len() == MAX_OUTPUTS {
                self.end_output(0);
            }
            self.outputs.push(Output { index: from.index, stream: stream.into(), offset: 0, partial: Vec::new() });
            self.outputs.len() - 1
        });
        if self.budget.is_none() {
            let output = &mut self.outputs[place];
            output.offset += data.len() as u64;
            self.last_id += 1;
            return;
        }
        // Joined with the beginning of a character that came before.
        let mut partial = std::mem::take(&mut self.outputs[place].partial);
        let data = if partial.is_empty() {
            data
        } else {
            partial.extend_from_slice(data);
            &partial
        };
        let whole = data.len() - cut_off(data);
        for piece in pieces(&data[..whole]) {
            self.push_output(from, place, piece);
        }
        self.outputs[place].partial = data[whole..].to_vec();
    }

    fn push_output(&mut self, from: Source<'_>, place: usize, piece: &[u8]) {
        let output = &mut self.outputs[place];
        let offset = output.offset;
        output.offset += piece.len() as u64;
        let stream = std::mem::take(&mut output.stream);
        let (data, encoding) = match std::str::from_utf8(piece) {
            Ok(text) => (text.into(), None),
            Err(_) => (STANDARD.encode(piece).into(), Some(OutputEncoding::Base64)),
        };
        self.push(
            "output",
            from.index,
            written(&OutputEvent { stream: (&*stream).into(), offset, data, encoding, from: from.on_the_wire() }),
        );
        self.outputs[place].stream = stream;
    }

    /// The outputs of a call, or of one action of a batch, are over: what is left of those that ended in the middle of a
    /// character.
    pub(crate) fn end_outputs(&mut self, index: Option<u32>) {
        while let Some(place) = self.outputs.iter().rposition(|output| output.index == index) {
            self.end_output(place);
        }
    }

    fn end_output(&mut self, place: usize) {
        let partial = std::mem::take(&mut self.outputs[place].partial);
        if !partial.is_empty() {
            let from = Source { index: self.outputs[place].index, tool: None };
            self.push_output(from, place, &partial);
        }
        self.outputs.swap_remove(place);
    }

    /// How far a tool has come.
    pub(crate) fn progress(&mut self, from: Source<'_>, done: u64, total: Option<u64>, message: &str) {
        if self.budget.is_none() {
            self.last_id += 1;
            return;
        }
        let message = (!message.is_empty()).then(|| message.into());
        let event = ProgressEvent { done, total, message, from: from.on_the_wire() };
        // A tool that reports faster than anyone reads is not what fills the ring.
        let unread = self
            .frames
            .back()
            .filter(|last| last.event.name == PROGRESS && last.index == from.index && last.event.id > self.delivered);
        if unread.is_some()
            && let Some(last) = self.frames.pop_back()
        {
            self.shrink_by(&last);
            self.last_id -= 1;
        }
        self.push(PROGRESS, from.index, written(&event));
    }

    /// The end of one action of a batch; its answer was written before, as it may be large.
    pub(crate) fn item(&mut self, index: u32, data: Option<Bytes>) {
        match data.filter(|_| self.budget.is_some()) {
            Some(data) => self.push("item", Some(index), data),
            None => {
                // Should recording have begun since its answer was not written: ids in the ring have no holes, what is missing
                // is a gap.
                while let Some(frame) = self.frames.pop_front() {
                    self.shrink_by(&frame);
                }
                self.last_id += 1;
            }
        }
    }

    fn push(&mut self, name: &'static str, index: Option<u32>, data: Bytes) {
        let Some(budget) = self.budget.clone() else { return };
        self.last_id += 1;
        let event = Event { id: self.last_id, name, data };
        budget.add(event.bytes());
        self.bytes += event.bytes();
        self.frames.push_back(Frame { event, index });
        let max = if budget.is_exceeded() { budget.ring_bytes.min(SHORT_RING_BYTES) } else { budget.ring_bytes };
        self.shrink_to(max);
    }

    fn shrink_by(&mut self, frame: &Frame) {
        self.bytes -= frame.event.bytes();
        if let Some(budget) = &self.budget {
            budget.give_back(frame.event.bytes());
        }
    }

    /// Lets go of all but the latest events.
    pub(crate) fn shorten(&mut self, max_bytes: usize) {
        self.shrink_to(max_bytes.min(SHORT_RING_BYTES));
    }

    fn shrink_to(&mut self, max_bytes: usize) {
        // The newest one stays, however large: who keeps up with the tool gets it.
        while self.bytes > max_bytes
            && self.frames.len() > 1
            && let Some(oldest) = self.frames.pop_front()
        {
            self.shrink_by(&oldest);
        }
    }

    /// What a reader that has everything up to `seen` gets next, about `max_bytes` of it at most; what it has then.
    pub(crate) fn read(&mut self, mut seen: u64, max_bytes: usize, take: &mut Vec<Event>) -> u64 {
        let first = self.frames.front().map_or(self.last_id + 1, |frame| frame.event.id);
        if seen + 1 < first {
            let gap = GapEvent { from: seen + 1, to: first - 1 };
            take.push(Event::new(gap.to, "gap", &gap));
            seen = gap.to;
        }
        // Ids in the ring have no holes.
        let skip = usize::try_from((seen + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        let mut bytes = 0;
        for Frame { event, .. } in self.frames.iter().skip(skip) {
            if bytes > 0 && bytes + event.data.len() > max_bytes {
                break;
            }
            bytes += event.data.len();
            seen = event.id;
            take.push(event.clone());
        }
        self.delivered = self.delivered.max(seen);
        seen
    }

    /// A number for a reader, under which it leaves its waker.
    pub(crate) fn new_reader(&mut self) -> u64 {
        self.next_reader += 1;
        self.next_reader
    }

    pub(crate) fn wake_later(&mut self, reader: u64, waker: &Waker) {
        match self.wakers.iter_mut().find(|(number, _)| *number == reader) {
            Some((_, old)) => old.clone_from(waker),
            None => self.wakers.push((reader, waker.clone())),
        }
    }

    pub(crate) fn forget_reader(&mut self, reader: u64) {
        self.wakers.retain(|(number, _)| *number != reader);
    }

    /// Those who wait for news, to be woken once the log is free.
    pub(crate) fn take_wakers(&mut self) -> Vec<(u64, Waker)> {
        std::mem::take(&mut self.wakers)
    }
}

/// The event as JSON of exactly its size.
pub(crate) fn written(event: &impl Serialize) -> Bytes {
    thread_local! {
        static SCRATCH: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        // Wire types always serialise.
        let _ = serde_json::to_writer(&mut *scratch, event);
        // Of JSON that a tool has made itself, which may stand on several lines; in its texts they are escaped.
        for byte in scratch.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')) {
            *byte = b' ';
        }
        let bytes = Bytes::copy_from_slice(scratch);
        if scratch.capacity() > 8 * MAX_OUTPUT_BYTES {
            *scratch = Vec::new();
        }
        bytes
    })
}

/// How many bytes at the end begin a character of UTF-8 that is not whole.
fn cut_off(data: &[u8]) -> usize {
    for back in 1..=data.len().min(3) {
        let byte = data[data.len() - back];
        let length = match byte {
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            0x80..=0xBF => continue,
            _ => return 0,
        };
        return if length > back { back } else { 0 };
    }
    0
}

/// Pieces of a size for one event, cut between characters where that is possible.
fn pieces(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if data.is_empty() {
            return None;
        }
        let mut end = data.len().min(MAX_OUTPUT_BYTES);
        if end < data.len() {
            end -= cut_off(&data[..end]);
        }
        let (piece, rest) = data.split_at(end);
        data = rest;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::Ordering};

    use serde_json::{Value, json};

    use super::{Budget, Event, EventLog, MAX_OUTPUT_BYTES, SHORT_RING_BYTES, Source, cut_off, pieces};

    fn recording(max_bytes: usize, ring_bytes: usize) -> (EventLog, Arc<Budget>) {
        let budget = Budget::new(max_bytes, ring_bytes);
        let mut log = EventLog::default();
        log.record(&budget);
        (log, budget)
    }

    fn read(log: &mut EventLog, seen: u64) -> Vec<Event> {
        let mut take = Vec::new();
        log.read(seen, usize::MAX, &mut take);
        take
    }

    fn data(event: &Event) -> Value {
        serde_json::from_slice(&event.data).expect("JSON")
    }

    #[test]
    fn a_ring_stays_within_its_bound_and_tells_the_gap() {
        let (mut log, budget) = recording(1 << 30, 10_000);
        for _ in 0..1000 {
            log.output(Source::default(), "out", &[b'x'; 100]);
        }
        assert!(log.bytes() <= 10_000 && log.bytes() > 9_000);
        assert_eq!(budget.held.load(Ordering::Relaxed), log.bytes());
        let events = read(&mut log, 1);
        let first = events[1].id;
        assert_eq!((events[0].name, data(&events[0])), ("gap", json!({ "from": 2, "to": first - 1 })));
        assert_eq!(data(&events[1])["offset"], (first - 2) * 100);
        assert_eq!(events.last().map(|event| event.id), Some(1001));
        assert!(read(&mut log, 1001).is_empty());
        drop(log);
        assert_eq!(budget.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn when_all_rings_take_too_much_each_gets_short() {
        let (mut log, budget) = recording(1_000_000, 900_000);
        budget.add(500_000);
        for _ in 0..1000 {
            log.output(Source::default(), "out", &[b'x'; 1000]);
        }
        assert!(log.bytes() <= 500_000, "{}", log.bytes());
        let mut other = EventLog::default();
        budget.add(600_000);
        other.record(&budget);
        for _ in 0..1000 {
            other.output(Source::default(), "out", &[b'x'; 1000]);
        }
        assert!(other.bytes() <= SHORT_RING_BYTES);
    }

    #[test]
    fn of_progress_that_nobody_read_the_last_one_counts() {
        let (mut log, _) = recording(1 << 20, 1 << 20);
        for done in 0..10 {
            log.progress(Source::default(), done, None, "");
        }
        let events = read(&mut log, 1);
        assert_eq!((events.len(), events[0].id, data(&events[0])), (1, 2, json!({ "done": 9, "total": null })));
        log.progress(Source::default(), 10, Some(20), "more");
        log.progress(Source { index: Some(1), tool: None }, 1, None, "");
        log.progress(Source { index: Some(1), tool: Some("a:b") }, 2, None, "");
        let events = read(&mut log, 2);
        assert_eq!(events.iter().map(|event| event.id).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(data(&events[1]), json!({ "done": 2, "total": null, "index": 1, "tool": "a:b" }));
    }

    #[test]
    fn what_is_not_recorded_is_counted() {
        let mut log = EventLog::default();
        log.output(Source::default(), "out", b"abc");
        log.progress(Source::default(), 1, None, "");
        log.record(&Budget::new(1 << 20, 1 << 20));
        log.output(Source::default(), "out", b"d");
        let events = read(&mut log, 1);
        assert_eq!((events[0].name, data(&events[0])), ("gap", json!({ "from": 2, "to": 3 })));
        assert_eq!((events[1].id, data(&events[1])), (4, json!({ "stream": "out", "offset": 3, "data": "d" })));
    }

    #[test]
    fn the_end_of_an_action_that_was_not_written_is_a_gap() {
        let (mut log, budget) = recording(1 << 20, 1 << 20);
        log.output(Source::default(), "out", b"abc");
        log.item(0, None);
        log.item(1, Some("{}".into()));
        let events = read(&mut log, 1);
        assert_eq!((events[0].name, data(&events[0])), ("gap", json!({ "from": 2, "to": 3 })));
        assert_eq!((events.len(), events[1].id, events[1].name), (2, 4, "item"));
        assert_eq!(budget.held.load(Ordering::Relaxed), log.bytes());
    }

    #[test]
    fn large_output_is_cut_between_characters() {
        let text = "€".repeat(MAX_OUTPUT_BYTES);
        let (mut log, _) = recording(1 << 30, 1 << 30);
        log.output(Source::default(), "out", text.as_bytes());
        let mut joined = String::new();
        for event in read(&mut log, 1) {
            let data = data(&event);
            assert_eq!((&data["offset"], data.get("encoding")), (&json!(joined.len()), None));
            joined.push_str(data["data"].as_str().expect("text"));
        }
        assert_eq!(joined, text);
        let binary = vec![0x80; 3 * MAX_OUTPUT_BYTES + 1];
        assert_eq!(pieces(&binary).map(<[u8]>::len).sum::<usize>(), binary.len(), "what is no text is cut anywhere");
    }

    #[test]
    fn the_beginning_of_a_character_is_known() {
        for (bytes, expected) in [
            (&b"abc"[..], 0),
            ("€".as_bytes(), 0),
            (&"€".as_bytes()[..1], 1),
            (&"a€".as_bytes()[..3], 2),
            (&"😀".as_bytes()[..3], 3),
            (&[0x80, 0x80, 0x80], 0),
            (&[0xff], 0),
            (&[], 0),
        ] {
            assert_eq!(cut_off(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn outputs_end_with_their_call() {
        let (mut log, _) = recording(1 << 20, 1 << 20);
        for index in [None, Some(0), Some(1)] {
            log.output(Source { index, tool: None }, "out", &[b'a', 0xe2]);
        }
        log.end_outputs(Some(0));
        assert_eq!((log.outputs.len(), read(&mut log, 4).len()), (2, 1));
        log.end_outputs(None);
        assert_eq!(log.outputs.len(), 1);
    }

    #[test]
    fn json_of_a_tool_stands_on_one_line() {
        let raw = serde_json::value::RawValue::from_string("{\n \"a\":\r \"x\\ny\"}".to_owned()).expect("JSON");
        assert_eq!(&super::written(&raw)[..], br#"{  "a":  "x\ny"}"#);
    }
}
