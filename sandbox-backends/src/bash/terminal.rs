//! The terminal of a session's shell, seen from the server: read all the time, so that nobody inside waits for a reader.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::termios::{InputModes, OptionalActions, Termios, Winsize};
use tokio::io::Interest;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::error::ShellError;
use super::readiness::register;

/// Bytes that are read at once.
const READ_BYTES: usize = 8 * 1024;
/// How fast it is read, so that a flood occupies its sandbox and not the server.
const BYTES_PER_SECOND: u32 = 32 << 20;
/// Bytes that are kept for a call that is not quick enough; a call that has not taken them makes the terminal wait.
const PENDING_BYTES: usize = 1 << 20;

/// The master side.
#[derive(Debug, Clone)]
pub(super) struct Terminal {
    master: Arc<OwnedFd>,
    sink: Arc<Sink>,
    /// How a new terminal is set.
    fresh: Termios,
}

/// What was read for the call that has the terminal.
#[derive(Debug, Default)]
struct Sink {
    /// None while no call has it: what is written then is dropped.
    pending: Mutex<Option<Vec<u8>>>,
    filled: Notify,
    emptied: Notify,
}

impl Terminal {
    /// Begins to read on `runtime`.
    pub(super) fn new(master: OwnedFd, runtime: &Handle) -> Result<Self, ShellError> {
        rustix::io::ioctl_fionbio(&master, true).map_err(ShellError::io("configuring the terminal"))?;
        let fresh = rustix::termios::tcgetattr(&master).map_err(ShellError::io("examining the terminal"))?;
        let terminal = Self { master: Arc::new(master), sink: Arc::default(), fresh };
        let (master, sink) = (terminal.master.clone(), terminal.sink.clone());
        // It ends with the terminal.
        runtime.spawn(async move { drain(&master, &sink).await });
        Ok(terminal)
    }

    /// From now on, and until the answer is dropped, what is written is kept for the caller; the terminal is as if new.
    pub(super) fn take(&self, (columns, rows): (u16, u16)) -> Result<Loan, ShellError> {
        let configure = || {
            // Without flow control for a moment, which lets a terminal go on that was halted by Ctrl-S.
            let mut flowing = self.fresh.clone();
            flowing.input_modes.remove(InputModes::IXON);
            rustix::termios::tcsetattr(&*self.master, OptionalActions::Now, &flowing)?;
            rustix::termios::tcsetattr(&*self.master, OptionalActions::Now, &self.fresh)?;
            let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            rustix::termios::tcsetwinsize(&*self.master, size)
        };
        configure().map_err(ShellError::io("configuring the terminal"))?;
        *self.sink.pending.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
        Ok(Loan(self.sink.clone()))
    }

    /// The descriptor to write to.
    pub(super) fn master(&self) -> &Arc<OwnedFd> {
        &self.master
    }
}

/// A call that has the terminal.
#[derive(Debug)]
pub(super) struct Loan(Arc<Sink>);

impl Drop for Loan {
    fn drop(&mut self) {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.0.emptied.notify_one();
    }
}

impl Loan {
    /// Waits for what is written.
    pub(super) async fn written(&self) -> Vec<u8> {
        loop {
            let filled = self.0.filled.notified();
            let pending = self.0.pending.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(std::mem::take);
            if let Some(pending) = pending.filter(|pending| !pending.is_empty()) {
                self.0.emptied.notify_one();
                return pending;
            }
            filled.await;
        }
    }
}

/// What a command has on the terminal: everything up to the mark that stands at its end.
pub(super) struct Screen {
    mark: Vec<u8>,
    /// What could be the beginning of the mark.
    held: Vec<u8>,
    whole: bool,
}

impl Screen {
    pub(super) fn new(mark: &str) -> Self {
        Self { mark: mark.as_bytes().to_vec(), held: Vec::new(), whole: false }
    }

    /// What of these bytes, and of what was held back, is the command's; what comes after the mark is nobody's.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.whole {
            return Vec::new();
        }
        let mut all = std::mem::take(&mut self.held);
        all.extend_from_slice(bytes);
        if let Some(end) = memchr::memmem::find(&all, &self.mark) {
            self.whole = true;
            all.truncate(end);
        } else {
            let begun = (1..self.mark.len()).rev().find(|length| all.ends_with(&self.mark[..*length]));
            self.held = all.split_off(all.len() - begun.unwrap_or(0));
        }
        all
    }

    /// Whether the mark has come.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// What was held back, for want of the rest of a mark.
    pub(super) fn rest(self) -> Vec<u8> {
        self.held
    }
}

async fn drain(master: &OwnedFd, sink: &Sink) {
    let Ok(events) = register(master.as_fd(), Interest::READABLE) else { return };
    let mut space = vec![0; READ_BYTES];
    // An error is the end of the terminal.
    while let Ok(length) = events.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut space)?)).await {
        if length == 0 {
            return;
        }
        loop {
            let emptied = sink.emptied.notified();
            {
                let mut pending = sink.pending.lock().unwrap_or_else(PoisonError::into_inner);
                match &mut *pending {
                    None => break,
                    Some(pending) if pending.len() < PENDING_BYTES => {
                        pending.extend_from_slice(&space[..length]);
                        sink.filled.notify_one();
                        break;
                    }
                    Some(_) => {}
                }
            }
            emptied.await;
        }
        // A flood that nobody asked for must not occupy the server.
        tokio::time::sleep(Duration::from_secs(length as u64) / BYTES_PER_SECOND).await;
    }
}

/// Sets the size of a terminal, in characters.
pub(super) fn resize(master: &OwnedFd, columns: u16, rows: u16) -> Result<(), ShellError> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(master, size).map_err(ShellError::io("resizing the terminal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_ends_with_its_mark() {
        let text = b"a 0123 b 0123456789abcdef late";
        for size in 1..text.len() {
            let mut screen = Screen::new("0123456789abcdef");
            let passed: Vec<u8> = text.chunks(size).flat_map(|piece| screen.pass(piece)).collect();
            assert_eq!((passed.as_slice(), screen.is_whole()), (b"a 0123 b ".as_slice(), true), "{size}");
        }
        let mut screen = Screen::new("0123456789abcdef");
        assert_eq!(screen.pass(b"prompt> "), b"prompt> ", "nothing is held back that cannot be the mark");
        assert_eq!((screen.pass(b"x01"), screen.rest()), (b"x".to_vec(), b"01".to_vec()));
    }
}
