//! What the shell's current command writes: its two output fifos, and the records on the third.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{self, Handle};

use super::error::ShellError;
use super::output::Collector;
use super::readiness::register;

/// Most bytes taken from one stream before the others get their turn.
const TURN_BYTES: u64 = 256 * 1024;
/// The same for records, of which each byte could be one.
const RECORD_TURN_BYTES: u64 = 16 * 1024;
/// Bytes that are read at once.
const READ_BYTES: usize = 16 * 1024;
/// Most bytes of unfinished records that are kept.
const MAX_RECORD_BYTES: usize = 16 * 1024;

/// The descriptors of the shell's current slot.
#[derive(Debug)]
pub(super) struct Streams {
    outputs: [OwnedFd; 2],
    record: Arc<OwnedFd>,
    /// The record's registration, for the next command that is polled by the same runtime.
    registered: Option<Registered>,
    /// Which of the outputs may have something to read.
    ready: [bool; 2],
    record_ready: bool,
    /// Which of the outputs had no writer when last looked at.
    closed: [bool; 2],
    /// Bytes of records not yet looked at.
    records: Vec<u8>,
}

/// The record as a runtime watches it. The server has it open for reading and writing, so that it is never closed: tokio
/// keeps a fifo readable for ever once its last writer closed. No id of a runtime is used twice, or the session would end
/// with an error.
#[derive(Debug)]
struct Registered {
    runtime: runtime::Id,
    record: AsyncFd<Arc<OwnedFd>>,
}

/// One command's wait for its streams: for the record alone at first, since most commands are over before anybody needs
/// to look at what they wrote, and each write and each end of a stream would wake the server.
#[derive(Debug)]
pub(super) struct Watch {
    registered: Registered,
    /// Watches the outputs, edge-triggered.
    outputs: Option<AsyncFd<OwnedFd>>,
}

/// What has happened.
pub(super) enum Event {
    Record,
    Outputs,
}

/// What the shell reports after a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) exit_code: i32,
    pub(super) cwd: String,
}

impl Watch {
    /// Whether the outputs are watched too.
    pub(super) fn has_outputs(&self) -> bool {
        self.outputs.is_some()
    }

    /// Waits until something has happened.
    pub(super) async fn event(&self) -> Result<Event, ShellError> {
        let outputs = async {
            match &self.outputs {
                Some(outputs) => outputs.readable().await.map(|mut guard| guard.clear_ready()),
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            biased;
            guard = self.registered.record.readable() => guard.map(|mut guard| { guard.clear_ready(); Event::Record }),
            outputs = outputs => outputs.map(|()| Event::Outputs),
        };
        event.map_err(ShellError::io("waiting for the shell"))
    }
}

impl Streams {
    pub(super) fn new(record: OwnedFd, outputs: [OwnedFd; 2]) -> Result<Self, ShellError> {
        adopt(&record)?;
        outputs.iter().try_for_each(adopt)?;
        Ok(Self {
            outputs,
            record: Arc::new(record),
            registered: None,
            ready: [false; 2],
            record_ready: false,
            closed: [false; 2],
            records: Vec::new(),
        })
    }

    /// Replaces the outputs; answers those there were.
    pub(super) fn replace(&mut self, outputs: [OwnedFd; 2]) -> Result<[OwnedFd; 2], ShellError> {
        outputs.iter().try_for_each(adopt)?;
        (self.ready, self.closed) = ([false; 2], [false; 2]);
        Ok(std::mem::replace(&mut self.outputs, outputs))
    }

    /// Begins to wait for the record, on the runtime that polls the caller.
    pub(super) fn watch(&mut self) -> Result<Watch, ShellError> {
        let runtime = Handle::current().id();
        let registered = match self.registered.take() {
            Some(registered) if registered.runtime == runtime => registered,
            _ => {
                let record = register(self.record.clone(), Interest::READABLE)
                    .map_err(ShellError::io("registering with the runtime"))?;
                Registered { runtime, record }
            }
        };
        Ok(Watch { registered, outputs: None })
    }

    /// Begins to wait for the outputs too.
    pub(super) fn watch_outputs(&self, watch: &mut Watch) -> Result<(), ShellError> {
        // Not by tokio itself: see `Registered`.
        let events =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(ShellError::io("creating an epoll instance"))?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        for (number, output) in (0..).zip(&self.outputs) {
            epoll::add(&events, output, epoll::EventData::new_u64(number), flags)
                .map_err(ShellError::io("watching the sandbox"))?;
        }
        let events = register(events, Interest::READABLE).map_err(ShellError::io("registering with the runtime"))?;
        watch.outputs = Some(events);
        Ok(())
    }

    /// Takes note of an event.
    pub(super) fn note(&mut self, event: &Event, watch: &Watch) -> Result<(), ShellError> {
        match (event, &watch.outputs) {
            (Event::Outputs, Some(outputs)) => {
                let mut space = [MaybeUninit::<epoll::Event>::uninit(); 4];
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                // Does not sleep, so no signal interrupts it.
                let (events, _) = epoll::wait(outputs.get_ref(), &mut space, Some(&now))
                    .map_err(ShellError::io("waiting for the sandbox"))?;
                for event in events {
                    self.ready[usize::from(event.data.u64() != 0)] = true;
                }
            }
            _ => self.record_ready = true,
        }
        Ok(())
    }

    /// Takes everything that is watched for ready.
    pub(super) fn suppose_ready(&mut self, watch: &Watch) {
        self.record_ready = true;
        if watch.has_outputs() {
            self.ready = [true; 2];
        }
    }

    /// Ends the wait.
    pub(super) fn unwatch(&mut self, watch: Watch) {
        self.registered = Some(watch.registered);
    }

    /// Whether something that is known to be there was not read yet.
    pub(super) fn has_more(&self) -> bool {
        self.ready[0] || self.ready[1] || self.record_ready
    }

    /// Whether what is there is mostly nonsense on the way of records.
    pub(super) fn is_flooded(&self) -> bool {
        self.record_ready && !self.ready[0] && !self.ready[1]
    }

    /// Takes the outputs for ready: after the end of a command what is there must be read, whatever the events said.
    pub(super) fn look_again(&mut self) {
        (self.ready, self.closed) = ([true; 2], [false; 2]);
    }

    /// Whether both outputs are at their end.
    pub(super) fn are_closed(&self) -> bool {
        self.closed == [true; 2]
    }

    /// Reads what is there, within the limit of one turn; says whether there was anything.
    pub(super) fn take_output(&mut self, collector: &mut Collector) -> Result<bool, ShellError> {
        let mut any = false;
        let mut space = [MaybeUninit::uninit(); READ_BYTES];
        for index in 0..2 {
            let mut turn = 0;
            while self.ready[index] && turn < TURN_BYTES {
                match rustix::io::read(&self.outputs[index], &mut space) {
                    Ok((bytes, _)) if !bytes.is_empty() => {
                        turn += bytes.len() as u64;
                        any = true;
                        self.closed[index] = false;
                        collector.push(index, bytes);
                    }
                    // Before the shell has opened the fifo this is no end; a new event says when it is.
                    Ok(_) => (self.ready[index], self.closed[index]) = (false, true),
                    Err(Errno::AGAIN) => (self.ready[index], self.closed[index]) = (false, false),
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(ShellError::io("reading the output")(error)),
                }
            }
        }
        Ok(any)
    }

    /// Reads records until the one with this nonce.
    pub(super) fn take_record(&mut self, nonce: &str) -> Result<Option<Record>, ShellError> {
        let mut space = [MaybeUninit::uninit(); 4096];
        let (mut turn, mut short) = (0, false);
        // Bounded, since a command may write nonsense here as fast as it likes.
        while self.record_ready && turn < RECORD_TURN_BYTES {
            match rustix::io::read(&*self.record, &mut space) {
                Ok((bytes, left)) => {
                    turn += bytes.len() as u64;
                    short = !left.is_empty();
                    self.records.extend_from_slice(bytes);
                }
                Err(Errno::AGAIN) => self.record_ready = false,
                Err(Errno::INTR) => {}
                Err(error) => return Err(ShellError::io("reading the record")(error)),
            }
            if let Some(record) = find(&mut self.records, nonce) {
                // Mostly all there is. If not, what is left is nobody's, and the next record makes a new event.
                self.record_ready = !short;
                return Ok(Some(record));
            }
        }
        Ok(None)
    }
}

/// Makes a fifo non-blocking, and refuses anything else: with a single user id inside, the sandbox could have put
/// something else there.
fn adopt(fd: &OwnedFd) -> Result<(), ShellError> {
    let stat = rustix::fs::fstat(fd).map_err(ShellError::io("examining a fifo"))?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_fifo() {
        return Err(ShellError::Protocol("something that is no fifo in the place of one"));
    }
    rustix::io::ioctl_fionbio(fd, true).map_err(ShellError::io("configuring a fifo"))
}

/// Takes the record with this nonce, and what stands before it, from what has come; without one, all that cannot be the
/// beginning of it. A command may have written anything before it.
fn find(bytes: &mut Vec<u8>, nonce: &str) -> Option<Record> {
    loop {
        let Some(begin) = memchr::memmem::find(bytes, nonce.as_bytes()) else {
            bytes.drain(..bytes.len().saturating_sub(nonce.len() - 1));
            return None;
        };
        let Some(length) = memchr::memchr(0, &bytes[begin..]) else {
            bytes.drain(..begin);
            if bytes.len() > MAX_RECORD_BYTES {
                bytes.clear();
            }
            return None;
        };
        let record = parse(&bytes[begin + nonce.len()..begin + length]);
        // Nonsense with the nonce may stand just before it.
        let end = if record.is_some() { begin + length + 1 } else { begin + nonce.len() };
        bytes.drain(..end);
        if record.is_some() {
            return record;
        }
    }
}

/// What stands in a record behind its nonce.
fn parse(record: &[u8]) -> Option<Record> {
    let record = String::from_utf8_lossy(record);
    let mut fields = record.strip_prefix('\t')?.splitn(2, '\t');
    let exit_code = fields.next()?.parse().ok()?;
    Some(Record { exit_code, cwd: fields.next()?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_record_with_the_nonce_counts() {
        let expected = || Some(Record { exit_code: 3, cwd: "/a\tb".into() });
        let look = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            (find(&mut bytes, "0123"), String::from_utf8_lossy(&bytes).into_owned())
        };
        for before in
            [&b""[..], b"nonsense\xff", b"\0\0\0", b"0123\t4\0", b"0123", b"0123\0", b"01230123\0", b"0123\tx\t/\0"]
        {
            let bytes = [before, b"0123\t3\t/a\tb\0rest"].concat();
            assert_eq!(look(&bytes), (expected(), "rest".into()), "{before:?}");
        }
        for (other, left) in
            [("", ""), ("0124\t3\t/\0", "/\0"), ("x0123\t3\t", "0123\t3\t"), ("x012", "012"), ("0123\t3\0", "")]
        {
            let (record, kept) = look(other.as_bytes());
            assert!(record.is_none() && kept.ends_with(left) && kept.len() <= left.len().max(3), "{other}: {kept}");
        }
        // In pieces, as a fifo may give it.
        let (mut bytes, mut found) = (Vec::new(), None);
        for byte in b"junk0120123\t3\t/a\tb\0" {
            assert_eq!(found, None);
            bytes.push(*byte);
            found = find(&mut bytes, "0123");
        }
        assert_eq!(found, expected());
    }
}
