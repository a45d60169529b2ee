//! What the server, the zygote and PID 1 of a sandbox say to each other: one JSON document per packet, descriptors
//! beside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::error::Step;

/// Longest packet, in bytes.
const MAX_PACKET_BYTES: usize = 16 * 1024;
/// Most descriptors beside one packet.
const MAX_FDS: usize = 16;

/// Server to zygote.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToZygote {
    /// Once, first: what every sandbox shares.
    Setup(Setup),
    /// Make a sandbox; the first descriptor is its control socket, the others are those of its cgroup.
    Spawn(Spec),
}

/// Zygote to server.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromZygote {
    /// The program has become the zygote.
    Hello,
    /// What every sandbox shares is made.
    Ready,
    /// It could not be made.
    Failed(Refusal),
}

/// What all sandboxes of one zygote share.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Setup {
    /// Whether sandboxes get namespaces of their own; without them system call filter and landlock are the walls.
    pub(super) namespaces: bool,
    /// Whether each sandbox gets two host ids of its own, which takes a privileged server.
    pub(super) own_ids: bool,
    /// Name of the folder of this server's control groups; beside the setup each such folder and the one it is in.
    pub(super) groups: Option<String>,
    /// Whether PID 1 lends its memory to what it starts, until that has executed its program.
    pub(super) lends_memory: bool,
    /// Whether sandboxes get a `/proc`.
    pub(super) proc: bool,
    /// Host folder with the work folders of sandboxes, in the place of a tmpfs for each.
    pub(super) workspace_dir: Option<PathBuf>,
    /// Host folders and files that sandboxes see, beside the system's.
    pub(super) read_only_paths: Vec<PathBuf>,
}

/// One sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Spec {
    /// Size of `/workspace`, in MiB.
    pub(super) workspace_mib: u64,
    /// Size of `/tmp` and of `/dev/shm`, each, in MiB.
    pub(super) tmp_mib: u64,
    /// Processes and threads at once.
    pub(super) pids: u64,
    /// Address space of each process, in MiB.
    pub(super) address_space_mib: Option<u64>,
    /// The first of the sandbox's two host ids; without them the server's own id is mapped.
    pub(super) host_id: Option<u32>,
    /// Name of its folder in [`Setup::workspace_dir`]; without namespaces the path of its work folder.
    pub(super) workspace: Option<PathBuf>,
    /// How it joins its cgroup.
    pub(super) cgroup: Join,
}

/// How a sandbox joins its cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Join {
    /// There is none.
    None,
    /// It is cloned into the group (version 2); the second descriptor is the group's folder.
    Clone,
    /// It joins by itself, by the other descriptors, which are the groups' files of tasks (version 1).
    Write,
}

/// Server to PID 1.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Start a shell in this folder, or in `/workspace` if it is gone.
    Shell { cwd: String },
    /// Make the output fifos of this number; those of the number before lose their names.
    Slot(u32),
    /// Make the files of this job: command, state, record fifo.
    JobFiles(u32),
    /// Start this job: a line for `bash -c`; with a terminal of so many columns and rows if they are given.
    Job { number: u32, line: String, terminal: Option<(u16, u16)> },
    /// Send a signal.
    Signal { to: Target, signal: i32 },
    /// Listen for the egress proxy.
    Egress,
    /// End everything inside, and then itself.
    End,
}

/// Who gets a signal.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Target {
    /// The foreground process group of the shell's terminal.
    Foreground,
    /// The foreground process group and everything that the shell started, but not the jobs.
    Descendants,
    /// The shell itself.
    Shell,
    /// The process groups of a job.
    Job(u32),
}

/// PID 1 to server.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// From the zygote: the sandbox has begun; beside it the pidfd of PID 1.
    Begun,
    /// Everything is in place; beside it: the root folder, the command file, the input file, the environment file, the
    /// record fifo.
    Ready,
    /// A step of the construction, or of the last order, failed.
    Failed(Refusal),
    /// A shell has started; beside it the pipe for its input and the master side of its terminal.
    Shell,
    /// The shell has ended; `saved` if it left its state for the next one.
    ShellEnded { code: i32, saved: bool },
    /// New output fifos; beside it their reading sides.
    Slot,
    /// The files of a job; beside it the command file and the record fifo.
    JobFiles,
    /// A job has started; beside it its input, output and error pipes, or the master side of its terminal.
    Job,
    /// A job has ended.
    JobEnded { number: u32, code: i32 },
    /// Beside it the listening socket of the egress proxy.
    Egress,
}

/// Which step was refused, and the kernel's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refusal {
    pub(super) step: Step,
    pub(super) errno: i32,
}

impl From<(Step, io::Error)> for Refusal {
    fn from((step, error): (Step, io::Error)) -> Self {
        Self { step, errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }
}

/// Sends one packet.
pub(super) fn send(socket: impl AsFd, packet: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let body = serde_json::to_vec(packet)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if body.len() > MAX_PACKET_BYTES || (!fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds))) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let parts = [IoSlice::new(&body)];
    rustix::io::retry_on_intr(|| sendmsg(&socket, &parts, &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives one packet; `None` when the other end is gone.
pub(super) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut body = [0; MAX_PACKET_BYTES];
    let message = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(&mut body)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            // Said once when the other end ended with packets unread; what it sent before, a report perhaps, comes next.
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
    if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(Some((serde_json::from_slice(&body[..message.bytes])?, fds)))
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    #[test]
    fn packets_carry_descriptors_and_end_with_the_socket() {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let order = Order::Signal { to: Target::Job(7), signal: 9 };
        send(&ours, &order, &[ours.as_fd(), theirs.as_fd()]).unwrap();
        let (got, fds) = receive::<Order>(&theirs).unwrap().unwrap();
        assert_eq!((format!("{got:?}"), fds.len()), (format!("{order:?}"), 2));
        let long = Order::Shell { cwd: "x".repeat(MAX_PACKET_BYTES) };
        assert_eq!(send(&ours, &long, &[]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        send(&ours, &"no order", &[]).unwrap();
        assert!(receive::<Order>(&theirs).is_err());
        drop((ours, fds));
        assert!(receive::<Order>(&theirs).unwrap().is_none());
    }
}
