//! System calls that have no safe wrapper elsewhere.

use std::ffi::{CStr, CString};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use rustix::process::Pid;

/// The control socket.
#[expect(unsafe_code, reason = "descriptor 0 is the control socket by agreement with the server")]
pub(super) fn control_socket() -> OwnedFd {
    // SAFETY: the server started this process with the socket as its standard input, and nothing else owns it here.
    unsafe { OwnedFd::from_raw_fd(0) }
}

/// Ends the process.
#[expect(unsafe_code, reason = "the process ends without destructors or exit handlers of the server's libraries")]
pub(super) fn exit(status: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(status) }
}

/// Default dispositions and an empty mask: what a server ignores would stay ignored in the shell.
#[expect(unsafe_code, reason = "signal dispositions have no safe wrapper")]
pub(super) fn reset_signals() {
    // The kernel's structure, all zero: SIG_DFL, no flags, an empty mask. Not through the C library, which refuses the
    // two signals that it keeps for itself.
    let default = [0_u64; 4];
    // SAFETY: the process has one thread; the structure is at least as long as the kernel's and outlives the call, the
    // set in it has 8 bytes; the refusal for SIGKILL and SIGSTOP is harmless.
    unsafe {
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null_mut::<u64>(), 8);
        }
    }
    unblock_signals();
}

/// Blocks no signal.
#[expect(unsafe_code, reason = "signal masks have no safe wrapper")]
pub(super) fn unblock_signals() {
    // SAFETY: the mask is initialised by sigemptyset before it is used.
    unsafe {
        let mut mask = std::mem::zeroed();
        libc::sigemptyset(&raw mut mask);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, ptr::null_mut());
    }
}

/// Leaves the reaping of children to the kernel.
#[expect(unsafe_code, reason = "signal dispositions have no safe wrapper")]
pub(super) fn ignore_children() {
    // SAFETY: ignoring a signal installs no handler.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
    }
}

/// Takes the reaping of children back.
#[expect(unsafe_code, reason = "signal dispositions have no safe wrapper")]
pub(super) fn heed_children() {
    // SAFETY: the default action installs no handler.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
    }
}

/// A descriptor that becomes readable when a child ends.
#[expect(unsafe_code, reason = "signalfd has no safe wrapper")]
pub(super) fn child_events() -> io::Result<OwnedFd> {
    // SAFETY: the mask is initialised by sigemptyset before it is used, and the new descriptor has no other owner.
    unsafe {
        let mut mask = std::mem::zeroed();
        libc::sigemptyset(&raw mut mask);
        libc::sigaddset(&raw mut mask, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const mask, ptr::null_mut());
        match libc::signalfd(-1, &raw const mask, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Closes, or with the flag marks close-on-exec, every descriptor from `first` on.
#[expect(unsafe_code, reason = "close_range has no safe wrapper")]
pub(super) fn close_from(first: libc::c_uint, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: called right after the start, when nothing owns these descriptors, or with CLOEXEC, which closes none.
    match unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Forks, into new namespaces if asked, and into the cgroup of version 2 whose folder is given; `None` in the child.
#[expect(unsafe_code, reason = "clone3 has no safe wrapper")]
pub(super) fn clone(namespaces: bool, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Option<(Pid, OwnedFd)>> {
    const NAMESPACES: i32 = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWNET;
    /// `CLONE_INTO_CGROUP`, in the libc crate of a type that is too small.
    const INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd = -1;
    // SAFETY: the process has one thread, so the child may go on with a copy of everything; the structure is plain
    // numbers, for which zero is valid; the pidfd is stored in a variable that outlives the call.
    unsafe {
        let mut arguments: libc::clone_args = std::mem::zeroed();
        arguments.flags = u64::from(libc::CLONE_PIDFD.cast_unsigned());
        if namespaces {
            arguments.flags |= u64::from(NAMESPACES.cast_unsigned());
        }
        if let Some(folder) = cgroup {
            arguments.flags |= INTO_CGROUP;
            arguments.cgroup = u64::from(folder.as_raw_fd().cast_unsigned());
        }
        arguments.pidfd = (&raw mut pidfd).addr() as u64;
        arguments.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
        let pid = libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>());
        // Before `Pid` sees it, which holds no negative number.
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        let pid = i32::try_from(pid).map_err(io::Error::other)?;
        Ok(Pid::from_raw(pid).map(|pid| (pid, OwnedFd::from_raw_fd(pidfd))))
    }
}

/// Forks; `None` in the child.
#[expect(unsafe_code, reason = "fork has no safe wrapper")]
pub(super) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the process has one thread, so the child may do everything that the parent may.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(pid)),
    }
}

/// Bytes of stack that [`spawn`] gives.
const STACK_BYTES: usize = 128 << 10;
/// Bytes below it that nothing may touch: the largest page that there is, since the size of one's own can only be asked of
/// `/proc` in kernels before 6.4, and that is closed here.
const GUARD_BYTES: usize = 64 << 10;

/// Runs `child` in a new process that shares the memory of this one, which waits meanwhile, until that has executed
/// another program or `child` has returned, which ends it. No page is copied: a process that forks its whole memory for
/// a program to be executed in it takes several times as long, and pays again for each page that it writes afterwards.
/// If it is not to lend its memory, the child gets a copy, and nothing comes back of what that does to it.
#[expect(unsafe_code, reason = "clone has no safe wrapper")]
pub(super) fn spawn<F: FnMut()>(lend: bool, mut child: F) -> io::Result<Pid> {
    extern "C" fn enter<F: FnMut()>(child: *mut libc::c_void) -> libc::c_int {
        // SAFETY: this is the closure that was passed to clone, which nothing else uses while the parent waits.
        unsafe { (*child.cast::<F>())() };
        exit(127)
    }
    let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: new pages at an address of the kernel's choice, unmapped below, when nothing uses them any more; the lowest
    // of them have no access, so that an overflow is a fault. The stack begins at their end, aligned to pages. This process
    // has one thread and waits, so that the child may use all of its memory; signal handlers, which would see it so, are
    // not installed in any process inside; the closure outlives the child's use of it.
    unsafe {
        let length = GUARD_BYTES + STACK_BYTES;
        let stack = mmap_anonymous(ptr::null_mut(), length, access, flags)?;
        let guarded = mprotect(stack, GUARD_BYTES, MprotectFlags::empty()).map_err(io::Error::from);
        let pid = guarded.and_then(|()| {
            let memory = if lend { libc::CLONE_VM } else { 0 };
            let flags = memory | libc::CLONE_VFORK | libc::SIGCHLD;
            match libc::clone(enter::<F>, stack.byte_add(length), flags, (&raw mut child).cast()) {
                -1 => Err(io::Error::last_os_error()),
                pid => Pid::from_raw(pid).ok_or_else(|| io::ErrorKind::InvalidData.into()),
            }
        });
        let _ = munmap(stack, length);
        pid
    }
}

/// A program to be executed, in the form that the kernel takes.
pub(super) struct Execution<'a> {
    program: &'a CStr,
    arguments: Vec<*const libc::c_char>,
    variables: Vec<*const libc::c_char>,
    texts: PhantomData<&'a [CString]>,
}

impl<'a> Execution<'a> {
    pub(super) fn new(program: &'a CStr, arguments: &'a [CString], variables: &'a [CString]) -> Self {
        let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        Self { program, arguments: pointers(arguments), variables: pointers(variables), texts: PhantomData }
    }

    /// Replaces the process; answers why that failed.
    #[expect(unsafe_code, reason = "execve has no safe wrapper")]
    pub(super) fn execute(&self) -> io::Error {
        // SAFETY: both arrays end with a null pointer and point to strings that outlive this value.
        unsafe { libc::execve(self.program.as_ptr(), self.arguments.as_ptr(), self.variables.as_ptr()) };
        io::Error::last_os_error()
    }
}

/// Brings `lo` up.
#[expect(unsafe_code, reason = "interface flags have no safe wrapper")]
pub(super) fn raise_loopback() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    let flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(io::Error::other)?;
    // SAFETY: the structure is plain numbers, for which zero is valid; the name is NUL-terminated by the zeroes; the
    // call reads and writes only this structure, which outlives it.
    let result = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (target, byte) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
            *target = libc::c_char::from_ne_bytes([*byte]);
        }
        request.ifr_ifru.ifru_flags = flags;
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Kills every process of the current user, this one included, unless that is root.
#[expect(unsafe_code, reason = "rustix has no name for every process")]
pub(super) fn kill_all_of_this_user() {
    if !rustix::process::getuid().is_root() && !rustix::process::geteuid().is_root() {
        // SAFETY: `kill` has no preconditions.
        unsafe { libc::kill(-1, libc::SIGKILL) };
    }
}

/// Makes the control group of this process the root of those that it sees.
#[expect(unsafe_code, reason = "rustix cannot know that no descriptor table is unshared")]
pub(super) fn own_cgroup_namespace() -> io::Result<()> {
    // SAFETY: the descriptor table is not unshared.
    Ok(unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWCGROUP) }?)
}

/// The version of landlock that the kernel has; 0 for none.
#[expect(unsafe_code, reason = "the landlock crate does not tell")]
pub(in super::super) fn landlock_version() -> libc::c_long {
    /// `LANDLOCK_CREATE_RULESET_VERSION`.
    const VERSION: libc::c_ulong = 1;
    // SAFETY: with this flag the call takes no structure and answers a number.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<u8>(), 0_usize, VERSION) }.max(0)
}
