//! The server's side of a reading process.

use std::{
    fs::{self, File},
    io::{self, Read},
    net::Shutdown,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::net::sockopt::set_socket_send_buffer_size;

use super::wire::{self, Order, Reply};
use crate::again::Role;

/// How long a process may take to be ready; machines can be busy.
const START_LIMIT: Duration = Duration::from_secs(30);

/// What may be on its way between the server and a process.
const BUFFER_BYTES: usize = 1 << 20;

/// A process that reads one document after the other. Dropped, it is killed and waited for.
pub(super) struct Process {
    child: Child,
    socket: UnixStream,
}

impl Process {
    /// Starts one.
    pub(super) fn start() -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        // As little going to and fro as the system's own limit allows.
        for end in [&socket, &theirs] {
            set_socket_send_buffer_size(end, BUFFER_BYTES)?;
        }
        let child = Role::Reader
            .command()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut process = Self { child, socket };
        // One that could not give up what it must not have reads nothing.
        let mut word = [0];
        process.socket.set_read_timeout(Some(START_LIMIT))?;
        process.socket.read_exact(&mut word)?;
        process.socket.set_read_timeout(None)?;
        if word == [wire::CONFINED] { Ok(process) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// The most memory that it has had, in KiB. It cannot say so itself: what the kernel tells it begins with the memory of
    /// the program that started it.
    pub(super) fn peak_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(u64::MAX)
    }

    /// Its process id.
    #[cfg(test)]
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Has one document or file read, as long as nobody hangs up.
    pub(super) fn ask(
        &mut self,
        line: &Line,
        order: &Order,
        file: Option<&File>,
        document: &[u8],
    ) -> io::Result<(Reply, String)> {
        line.hold(self.socket.try_clone()?)?;
        wire::send_file(&self.socket, file)?;
        wire::send(&mut self.socket, order, document)?;
        let (reply, content) = wire::receive(&mut self.socket, wire::MAX_CONTENT_BYTES)?;
        Ok((reply, String::from_utf8(content).map_err(|_| io::ErrorKind::InvalidData)?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The line between whoever waits for an answer and the thread that talks to the process.
#[derive(Default)]
pub(super) struct Line(Mutex<State>);

#[derive(Default)]
struct State {
    socket: Option<UnixStream>,
    cut: bool,
}

impl Line {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the socket to shut, unless it is too late.
    fn hold(&self, socket: UnixStream) -> io::Result<()> {
        let mut state = self.state();
        if state.cut {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        state.socket = Some(socket);
        Ok(())
    }

    /// Whether nobody waits any more.
    pub(super) fn is_cut(&self) -> bool {
        self.state().cut
    }

    /// Parts with the socket, which is whole if nobody has left.
    pub(super) fn let_go(&self) -> bool {
        let mut state = self.state();
        state.socket = None;
        !state.cut
    }
}

/// Cuts the line when whoever waits leaves; the thread is woken by that.
pub(super) struct HangUp(pub(super) Arc<Line>);

impl Drop for HangUp {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.cut = true;
        if let Some(socket) = state.socket.take() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}
