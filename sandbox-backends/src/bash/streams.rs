//! What the shell's current command writes: its two output fifos, and the records on the third.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

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
/// The record fifo's number among the watched descriptors; the streams have 0 and 1.
const RECORD: u64 = 2;

/// The descriptors of the shell's current slot.
#[derive(Debug)]
pub(super) struct Streams {
    /// Watches them, edge-triggered: tokio keeps a fifo readable for ever once its last writer closed.
    events: Arc<OwnedFd>,
    outputs: [OwnedFd; 2],
    record: OwnedFd,
    /// Which of the outputs may have something to read.
    ready: [bool; 2],
    record_ready: bool,
    /// Which of the outputs had no writer when last looked at.
    closed: [bool; 2],
    /// Bytes of records not yet looked at.
    records: Vec<u8>,
}

/// What the shell reports after a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) exit_code: i32,
    pub(super) cwd: String,
}

impl Streams {
    pub(super) fn new(record: OwnedFd, outputs: [OwnedFd; 2]) -> Result<Self, ShellError> {
        let events =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(ShellError::io("creating an epoll instance"))?;
        let streams = Self {
            events: Arc::new(events),
            outputs,
            record,
            ready: [false; 2],
            record_ready: false,
            closed: [false; 2],
            records: Vec::new(),
        };
        streams.watch(&streams.record, RECORD)?;
        streams.watch_outputs()?;
        Ok(streams)
    }

    /// Replaces the outputs; answers those there were.
    pub(super) fn replace(&mut self, outputs: [OwnedFd; 2]) -> Result<[OwnedFd; 2], ShellError> {
        for output in &self.outputs {
            epoll::delete(&*self.events, output).map_err(ShellError::io("watching the sandbox"))?;
        }
        let before = std::mem::replace(&mut self.outputs, outputs);
        (self.ready, self.closed) = ([false; 2], [false; 2]);
        self.watch_outputs()?;
        Ok(before)
    }

    /// Registers them with the runtime that polls the caller.
    pub(super) fn register(&self) -> Result<AsyncFd<Arc<OwnedFd>>, ShellError> {
        register(self.events.clone(), Interest::READABLE).map_err(ShellError::io("registering with the runtime"))
    }

    fn watch_outputs(&self) -> Result<(), ShellError> {
        for (number, output) in (0..).zip(&self.outputs) {
            self.watch(output, number)?;
        }
        Ok(())
    }

    /// Begins to watch a fifo, and refuses anything else: with a single user id inside, the sandbox could have put
    /// something else there.
    fn watch(&self, fd: &impl AsFd, number: u64) -> Result<(), ShellError> {
        let stat = rustix::fs::fstat(fd).map_err(ShellError::io("examining a fifo"))?;
        if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_fifo() {
            return Err(ShellError::Protocol("something that is no fifo in the place of one"));
        }
        rustix::io::ioctl_fionbio(fd, true).map_err(ShellError::io("configuring a fifo"))?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&*self.events, fd, epoll::EventData::new_u64(number), flags)
            .map_err(ShellError::io("watching the sandbox"))
    }

    /// Adds what has become ready.
    pub(super) fn take_events(&mut self) -> Result<(), ShellError> {
        let mut space = [MaybeUninit::<epoll::Event>::uninit(); 8];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Does not sleep, so no signal interrupts it.
        let (events, _) =
            epoll::wait(&*self.events, &mut space, Some(&now)).map_err(ShellError::io("waiting for the sandbox"))?;
        for event in events {
            match event.data.u64() {
                0 => self.ready[0] = true,
                1 => self.ready[1] = true,
                _ => self.record_ready = true,
            }
        }
        Ok(())
    }

    /// Whether something that is known to be there was not read yet.
    pub(super) fn has_more(&self) -> bool {
        self.ready[0] || self.ready[1] || self.record_ready
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
        let mut turn = 0;
        // Bounded, since a command may write nonsense here as fast as it likes.
        while self.record_ready && turn < RECORD_TURN_BYTES {
            match rustix::io::read(&self.record, &mut space) {
                Ok((bytes, _)) => {
                    turn += bytes.len() as u64;
                    self.records.extend_from_slice(bytes);
                }
                Err(Errno::AGAIN) => self.record_ready = false,
                Err(Errno::INTR) => {}
                Err(error) => return Err(ShellError::io("reading the record")(error)),
            }
            while let Some(end) = self.records.iter().position(|byte| *byte == 0) {
                let record: Vec<u8> = self.records.drain(..=end).collect();
                if let Some(record) = parse(&record[..end], nonce) {
                    return Ok(Some(record));
                }
            }
            if self.records.len() > MAX_RECORD_BYTES {
                self.records.clear();
            }
        }
        Ok(None)
    }
}

/// A record with this nonce. A command may have written something unfinished before it.
fn parse(record: &[u8], nonce: &str) -> Option<Record> {
    let record = String::from_utf8_lossy(record);
    let mut fields = record.split_once(nonce)?.1.splitn(3, '\t').skip(1);
    let exit_code = fields.next()?.parse().ok()?;
    Some(Record { exit_code, cwd: fields.next()?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_record_with_the_nonce_counts() {
        let expected = Some(Record { exit_code: 3, cwd: "/a\tb".into() });
        assert_eq!(parse(b"0123\t3\t/a\tb", "0123"), expected);
        assert_eq!(parse(b"nonsense\xff0123\t3\t/a\tb", "0123"), expected);
        for other in ["", "0124\t3\t/", "0123", "0123\t", "0123\tx\t/", "0123\t3"] {
            assert_eq!(parse(other.as_bytes(), "0123"), None, "{other}");
        }
    }
}
