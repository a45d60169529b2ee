//! The zygote: makes what all sandboxes share, then forks a sandbox for each request of the server until that is gone.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType};
use rustix::process::{Pid, Signal, WaitOptions, getegid, geteuid, pidfd_send_signal};
use rustix::thread::UnshareFlags;

use super::super::error::Step;
use super::super::removal::remove_tree;
use super::super::wire::{self, FromZygote, Join, Report, Setup, Spec, ToZygote};
use super::init::Init;
use super::policy::Filters;
use super::syscalls::{clone, close_from, control_socket, exit, ignore_children, reset_signals};
use super::template::{During, Failure, SHELL_UID, build, workspaces};

/// How much rather than anything else on the host the kernel is to kill what runs inside when memory is short.
const OOM_SCORE_ADJ: &str = "300";
/// How long the zygote waits for its sandboxes when the server is gone, in tries with a pause.
const END_TRIES: u32 = 2000;
const END_PAUSE: Duration = Duration::from_millis(1);

/// Runs the zygote on descriptor 0 and exits.
pub(crate) fn main() -> ! {
    let control = control_socket();
    if let Err(failure) = serve(&control) {
        // Without a server there is nobody to tell.
        let _ = wire::send(&control, &FromZygote::Failed(failure.into()), &[]);
        exit(1);
    }
    exit(0)
}

/// Answers requests until the server is gone. The end of this process is the end of all sandboxes: each PID 1 has it as
/// its parent's death signal.
fn serve(control: &OwnedFd) -> Result<(), Failure> {
    reset_signals();
    ignore_children();
    // Out of the server's process group: Ctrl-C on its terminal is for the server, which then closes its shells.
    let _ = rustix::process::setsid();
    close_from(3, 0).during(Step::Options)?;
    wire::send(control, &FromZygote::Hello, &[]).during(Step::Options)?;
    let (setup, tops) = match wire::receive(control).during(Step::Options)? {
        Some((ToZygote::Setup(setup), tops)) => (setup, tops),
        Some(_) => return Err((Step::Options, io::ErrorKind::InvalidData.into())),
        None => return Ok(()),
    };
    if setup.namespaces {
        unshare(&setup)?;
        build(&setup)?;
    }
    let filters = Filters::compile(&setup)?;
    wire::send(control, &FromZygote::Ready, &[]).during(Step::Options)?;
    let mut folders = Vec::new();
    while let Some((request, fds)) = wire::receive(control).during(Step::Options)? {
        let ToZygote::Spawn(spec) = request else { return Err((Step::Options, io::ErrorKind::InvalidData.into())) };
        let mut fds = fds.into_iter();
        let Some(socket) = fds.next() else { continue };
        remember(&mut folders, &setup, &spec);
        if let Err(failure) = spawn(control, &setup, &filters, spec, &socket, &fds.collect::<Vec<_>>()) {
            let _ = wire::send(&socket, &Report::Failed(failure.into()), &[]);
        }
    }
    clear_up(&setup, &tops, &folders);
    Ok(())
}

/// Remembers the sandbox's folder on the host, to remove it if the server is killed.
fn remember(folders: &mut Vec<PathBuf>, setup: &Setup, spec: &Spec) {
    let Some(workspace) = &spec.workspace else { return };
    if folders.len() >= folders.capacity() {
        // Most of them the server has removed.
        folders.retain(|folder| folder.exists());
    }
    folders.push(if setup.namespaces { workspaces().join(workspace) } else { workspace.clone() });
}

/// The server is gone, perhaps killed: waits for the sandboxes, which see it too, and removes their cgroups and
/// folders.
fn clear_up(setup: &Setup, tops: &[OwnedFd], folders: &[PathBuf]) {
    for _ in 0..END_TRIES {
        // No child is left, since nobody else reaps them.
        if rustix::process::wait(WaitOptions::NOHANG).is_err() {
            break;
        }
        std::thread::sleep(END_PAUSE);
    }
    for pair in tops.chunks(2) {
        let [top, parent] = pair else { continue };
        let groups = rustix::fs::Dir::read_from(top).into_iter().flatten().flatten();
        let is_group = |entry: &rustix::fs::DirEntry| {
            entry.file_type() == FileType::Directory && !entry.file_name().to_bytes().starts_with(b".")
        };
        for group in groups.filter(is_group) {
            let _ = rustix::fs::unlinkat(top, group.file_name(), AtFlags::REMOVEDIR);
        }
        if let Some(name) = &setup.groups {
            let _ = rustix::fs::unlinkat(parent, name.as_str(), AtFlags::REMOVEDIR);
        }
    }
    for folder in folders {
        let _ = remove_tree(folder);
    }
}

/// Leaves the host's mounts, and without privilege also its user namespace.
#[expect(unsafe_code, reason = "rustix cannot know that there is one thread")]
fn unshare(setup: &Setup) -> Result<(), Failure> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    let flags = if setup.own_ids { UnshareFlags::NEWNS } else { UnshareFlags::NEWNS | UnshareFlags::NEWUSER };
    // SAFETY: no descriptor table is unshared, and there is no other thread.
    unsafe { rustix::thread::unshare_unsafe(flags) }.during(Step::Namespaces)?;
    if !setup.own_ids {
        write_id_maps("/proc/self", (user, user), (group, group)).during(Step::IdMap)?;
    }
    Ok(())
}

/// Forks one sandbox and tells the server its pidfd.
fn spawn(
    control: &OwnedFd,
    setup: &Setup,
    filters: &Filters,
    spec: Spec,
    socket: &OwnedFd,
    groups: &[OwnedFd],
) -> Result<(), Failure> {
    let (watch, hold) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).during(Step::Options)?;
    let folder = if spec.cgroup == Join::Clone { groups.first() } else { None };
    let (host_id, join) = (spec.host_id, spec.cgroup);
    let Some((pid, pidfd)) = clone(setup.namespaces, folder.map(AsFd::as_fd)).during(Step::Namespaces)? else {
        let joined = if join == Join::Write { join_groups(groups) } else { Ok(()) };
        close_all([control, &hold].into_iter().chain(groups));
        Init::run(setup, filters, spec, socket, &watch, joined);
    };
    drop(watch);
    // From outside, so that it cannot be undone inside. Without a `/proc` to write to, the kernel chooses as it likes.
    let _ = fs::write(format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero()), OOM_SCORE_ADJ);
    let mapped = if setup.namespaces { map_ids(host_id, pid).during(Step::IdMap) } else { Ok(()) };
    let begun = mapped
        .and_then(|()| wire::send(socket, &Report::Begun, &[pidfd.as_fd()]).during(Step::Options))
        .and_then(|()| rustix::io::write(&hold, &[1]).during(Step::IdMap));
    if begun.is_err() {
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    }
    begun.map(drop)
}

/// Moves this process, which has one thread, into the groups. The kernel moves who asks for himself at once; to move
/// another process it stops all forking of the machine, which takes some ten milliseconds when that has not just been done.
fn join_groups(groups: &[OwnedFd]) -> Result<(), Failure> {
    groups.iter().try_for_each(|group| rustix::io::write(group, b"0").map(drop)).during(Step::Cgroup)
}

/// Closes what belongs to the zygote, in the sandbox.
#[expect(unsafe_code, reason = "the zygote's own values stay behind, and nothing in the child uses them again")]
fn close_all<'a>(fds: impl Iterator<Item = &'a OwnedFd>) {
    use std::os::fd::AsRawFd;
    for fd in fds {
        // SAFETY: the child never returns to the frames that own these descriptors.
        unsafe { libc::close(fd.as_raw_fd()) };
    }
}

/// Maps two ids of the host's, else only the server's own.
fn map_ids(host_id: Option<u32>, pid: Pid) -> io::Result<()> {
    let folder = format!("/proc/{}", pid.as_raw_nonzero());
    let Some(init) = host_id else {
        return write_id_maps(&folder, (SHELL_UID, geteuid().as_raw()), (SHELL_UID, getegid().as_raw()));
    };
    let map = format!("0 {init} 1\n{SHELL_UID} {} 1\n", init + 1);
    fs::write(format!("{folder}/uid_map"), &map)?;
    fs::write(format!("{folder}/gid_map"), map)
}

/// Maps one id inside to one outside, for users and for groups.
fn write_id_maps(folder: &str, user: (u32, u32), group: (u32, u32)) -> io::Result<()> {
    // The kernel's condition for a group map written without privilege.
    fs::write(format!("{folder}/setgroups"), "deny")?;
    fs::write(format!("{folder}/uid_map"), format!("{} {} 1\n", user.0, user.1))?;
    fs::write(format!("{folder}/gid_map"), format!("{} {} 1\n", group.0, group.1))
}
