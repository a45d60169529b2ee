//! Frames on the control socket between the server, the launcher and PID 1 of the sandbox.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Largest frame, in bytes; below the default socket buffer, so that one send never fails for its size.
pub(super) const MAX_FRAME_BYTES: usize = 96 * 1024;
/// Most descriptors in one frame.
const MAX_FDS: usize = 8;

/// The meaning of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Tag {
    /// Server to launcher: encoded [`Config`].
    Config = b'C',
    /// Launcher to server: pidfd of PID 1.
    Pid = b'P',
    /// PID 1 to server: command file, report fifo, stdout fifo, stderr fifo.
    Ready = b'R',
    /// Either to server: step number and errno.
    Failed = b'E',
    /// Both ways: start a shell in the given folder; answered with its input pipe.
    Shell = b'B',
    /// PID 1 to server: the shell ended, with its exit code.
    Exit = b'X',
    /// Both ways: replace the output fifos; answered with the new pair.
    Slot = b'F',
    /// Server to PID 1: SIGINT to the foreground process group.
    Interrupt = b'I',
    /// Server to PID 1: SIGKILL to the foreground process group.
    Kill = b'K',
    /// Server to PID 1: SIGKILL to the foreground process group and to the shell.
    KillShell = b'S',
}

impl Tag {
    /// The tag with this byte.
    fn from_byte(byte: u8) -> Option<Self> {
        use Tag::{Config, Exit, Failed, Interrupt, Kill, KillShell, Pid, Ready, Shell, Slot};
        [Config, Pid, Ready, Failed, Shell, Exit, Slot, Interrupt, Kill, KillShell]
            .into_iter()
            .find(|tag| *tag as u8 == byte)
    }
}

/// One received frame.
#[derive(Debug)]
pub(super) struct Frame {
    /// The meaning.
    pub(super) tag: Tag,
    /// The payload.
    pub(super) body: Vec<u8>,
    /// The descriptors that came with it.
    pub(super) fds: Vec<OwnedFd>,
}

/// Sends one frame.
pub(super) fn send(socket: impl AsFd, tag: Tag, body: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let tag = [tag as u8];
    let parts = [IoSlice::new(&tag), IoSlice::new(body)];
    rustix::io::retry_on_intr(|| sendmsg(&socket, &parts, &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives one frame of at most `capacity` bytes; `None` when the other end is gone.
pub(super) fn receive(socket: impl AsFd, capacity: usize) -> io::Result<Option<Frame>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut body = vec![0; capacity];
    let message = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(&mut body)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            // Said once when the other end ended with frames unread; what it sent before, a report perhaps, comes next.
            Err(Errno::INTR | Errno::CONNRESET) => {}
            result => break result?,
        }
    };
    let fds = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    if message.bytes == 0 {
        return Ok(None);
    }
    body.truncate(message.bytes);
    match Tag::from_byte(body.remove(0)) {
        Some(tag) if !message.flags.contains(ReturnFlags::TRUNC) => Ok(Some(Frame { tag, body, fds })),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// What the launcher and PID 1 need to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Config {
    /// Size of `/workspace` in MiB.
    pub(super) workspace_mib: u64,
    /// Size of `/tmp` and of `/dev/shm` in MiB.
    pub(super) tmp_mib: u64,
    /// Most processes and threads.
    pub(super) pids: u64,
    /// Address space of each process in MiB; 0 for no limit.
    pub(super) memory_mib: u64,
    /// First of the two host ids; 0 when the server has no privilege and only its own id is mapped.
    pub(super) host_id: u64,
    /// Environment of the shell.
    pub(super) env: BTreeMap<String, String>,
    /// Initial working directory.
    pub(super) cwd: String,
}

impl Config {
    /// The payload of a [`Tag::Config`] frame.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in [self.workspace_mib, self.tmp_mib, self.pids, self.memory_mib, self.host_id] {
            bytes.extend(number.to_le_bytes());
        }
        let names = self.env.iter().flat_map(|(name, value)| [name, value]);
        for text in std::iter::once(&self.cwd).chain(names) {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes
    }

    /// Reads a payload; `None` when it is malformed.
    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut config = Self {
            workspace_mib: number(&mut bytes)?,
            tmp_mib: number(&mut bytes)?,
            pids: number(&mut bytes)?,
            memory_mib: number(&mut bytes)?,
            host_id: number(&mut bytes)?,
            env: BTreeMap::new(),
            cwd: text(&mut bytes)?,
        };
        while !bytes.is_empty() {
            let name = text(&mut bytes)?;
            config.env.insert(name, text(&mut bytes)?);
        }
        Some(config)
    }
}

/// Takes a number off the front.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*number))
}

/// Takes a text with its length off the front.
fn text(bytes: &mut &[u8]) -> Option<String> {
    let length = usize::try_from(number(bytes)?).ok()?;
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    String::from_utf8(text.to_vec()).ok()
}
