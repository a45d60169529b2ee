//! What a reading process gives up.

use std::{fs, io};

use rustix::process::{Resource, Rlimit, setrlimit};
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// Address space beyond what the program itself takes.
const MEMORY_BYTES: u64 = 768 << 20;

/// What a parser needs: memory, the time, the socket that is open, and the file that may come by it. No other file, no other
/// socket, no program, no thread.
#[rustfmt::skip]
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_pread64, libc::SYS_recvmsg, libc::SYS_close, libc::SYS_ppoll,
    libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_mprotect, libc::SYS_madvise, libc::SYS_brk,
    libc::SYS_futex, libc::SYS_sched_yield, libc::SYS_sched_getaffinity, libc::SYS_set_robust_list, libc::SYS_rseq,
    libc::SYS_clock_gettime, libc::SYS_clock_nanosleep, libc::SYS_nanosleep, libc::SYS_gettimeofday,
    libc::SYS_setitimer, libc::SYS_getrandom, libc::SYS_getpid, libc::SYS_gettid,
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_sigaltstack,
    libc::SYS_restart_syscall, libc::SYS_exit, libc::SYS_exit_group,
];

/// Limits this process, for good.
pub(super) fn confine() -> io::Result<()> {
    // Ctrl-C on the server's terminal is for the server.
    let _ = rustix::process::setsid();
    limit(Resource::Core, 0)?;
    limit(Resource::As, size_bytes()?.saturating_add(MEMORY_BYTES))?;
    rustix::thread::set_no_new_privs(true)?;
    seccompiler::apply_filter_all_threads(&filter().map_err(io::Error::other)?).map_err(io::Error::other)
}

/// Ends this process unless it is told otherwise within this time; 0 calls that off. The server ends one that takes too
/// long, but might be gone itself.
pub(super) fn end_in(seconds: u32) {
    let at = libc::timeval { tv_sec: seconds.into(), tv_usec: 0 };
    let timer = libc::itimerval { it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 }, it_value: at };
    #[expect(unsafe_code, reason = "a call without a safe wrapper")]
    // SAFETY: the timer is read, and nothing is written through a null pointer.
    unsafe {
        libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut());
    }
}

fn limit(resource: Resource, value: u64) -> io::Result<()> {
    Ok(setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?)
}

/// The address space that the program itself takes.
fn size_bytes() -> io::Result<u64> {
    let pages = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = pages.split(' ').next().and_then(|pages| pages.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// The calls that are allowed; any other is answered `EPERM`.
fn filter() -> Result<BpfProgram, BackendError> {
    let rules = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    let (refuse, allow) = (SeccompAction::Errno(libc::EPERM.unsigned_abs()), SeccompAction::Allow);
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, refuse, allow, arch)?.try_into()
}
