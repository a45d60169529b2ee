//! Which system calls the shell may make.
//!
//! An allow-list: a call that is not named here is answered as if the kernel did not know it (ENOSYS), so that programs
//! fall back; the ones that are refused on purpose answer EPERM. The lists follow what container engines permit by
//! default, less what has no use in a sandbox.

use std::io;

use seccompiler::{BpfProgram, sock_filter};

/// Permitted, whatever the arguments (but for those that `policy.rs` looks at).
#[rustfmt::skip]
const ALLOWED: &[libc::c_long] = &[
    // Files and folders.
    libc::SYS_openat, libc::SYS_openat2, libc::SYS_close, libc::SYS_close_range, libc::SYS_read, libc::SYS_write,
    libc::SYS_readv, libc::SYS_writev, libc::SYS_pread64, libc::SYS_pwrite64, libc::SYS_preadv, libc::SYS_pwritev,
    libc::SYS_preadv2, libc::SYS_pwritev2, libc::SYS_lseek, libc::SYS_sendfile, libc::SYS_splice, libc::SYS_tee,
    libc::SYS_vmsplice, libc::SYS_copy_file_range, libc::SYS_readahead, libc::SYS_fadvise64, libc::SYS_fallocate,
    libc::SYS_ftruncate, libc::SYS_truncate, libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_sync, libc::SYS_syncfs,
    libc::SYS_sync_file_range, libc::SYS_flock, libc::SYS_fcntl, libc::SYS_ioctl, libc::SYS_dup, libc::SYS_dup3,
    libc::SYS_pipe2, libc::SYS_getdents64, libc::SYS_getcwd, libc::SYS_chdir, libc::SYS_fchdir, libc::SYS_mkdirat,
    libc::SYS_mknodat, libc::SYS_unlinkat, libc::SYS_renameat2, libc::SYS_linkat, libc::SYS_symlinkat,
    libc::SYS_readlinkat, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_fchmod, libc::SYS_fchmodat,
    libc::SYS_fchmodat2, libc::SYS_fchown, libc::SYS_fchownat, libc::SYS_newfstatat, libc::SYS_fstat, libc::SYS_statx,
    libc::SYS_statfs, libc::SYS_fstatfs, libc::SYS_utimensat, libc::SYS_umask, libc::SYS_setxattr, libc::SYS_lsetxattr,
    libc::SYS_fsetxattr, libc::SYS_getxattr, libc::SYS_lgetxattr, libc::SYS_fgetxattr, libc::SYS_listxattr,
    libc::SYS_llistxattr, libc::SYS_flistxattr, libc::SYS_removexattr, libc::SYS_lremovexattr, libc::SYS_fremovexattr,
    libc::SYS_inotify_init1, libc::SYS_inotify_add_watch, libc::SYS_inotify_rm_watch, libc::SYS_memfd_create,
    // Waiting.
    libc::SYS_ppoll, libc::SYS_pselect6, libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2, libc::SYS_eventfd2, libc::SYS_signalfd4, libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime, libc::SYS_timerfd_gettime, libc::SYS_futex, libc::SYS_futex_waitv,
    libc::SYS_set_robust_list, libc::SYS_get_robust_list, libc::SYS_membarrier, libc::SYS_rseq,
    libc::SYS_restart_syscall, libc::SYS_nanosleep, libc::SYS_clock_nanosleep,
    // Memory.
    libc::SYS_brk, libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mprotect, libc::SYS_mremap, libc::SYS_madvise,
    libc::SYS_msync, libc::SYS_mincore, libc::SYS_mlock, libc::SYS_mlock2, libc::SYS_munlock, libc::SYS_mlockall,
    libc::SYS_munlockall, libc::SYS_pkey_alloc, libc::SYS_pkey_free, libc::SYS_pkey_mprotect, libc::SYS_shmget,
    libc::SYS_shmat, libc::SYS_shmdt, libc::SYS_shmctl,
    // Processes and threads, of its own.
    libc::SYS_clone, libc::SYS_execve, libc::SYS_execveat, libc::SYS_exit, libc::SYS_exit_group, libc::SYS_wait4,
    libc::SYS_waitid, libc::SYS_kill, libc::SYS_tkill, libc::SYS_tgkill, libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal, libc::SYS_getpid, libc::SYS_getppid, libc::SYS_gettid, libc::SYS_getpgid,
    libc::SYS_setpgid, libc::SYS_getsid, libc::SYS_setsid, libc::SYS_prctl, libc::SYS_seccomp,
    libc::SYS_set_tid_address, libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigpending,
    libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo, libc::SYS_rt_sigreturn, libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait, libc::SYS_sigaltstack, libc::SYS_personality, libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_add_rule, libc::SYS_landlock_restrict_self,
    // Scheduling and limits; capabilities decide.
    libc::SYS_sched_yield, libc::SYS_sched_getaffinity, libc::SYS_sched_setaffinity, libc::SYS_sched_getparam,
    libc::SYS_sched_setparam, libc::SYS_sched_getscheduler, libc::SYS_sched_setscheduler, libc::SYS_sched_getattr,
    libc::SYS_sched_setattr, libc::SYS_sched_get_priority_max, libc::SYS_sched_get_priority_min,
    libc::SYS_sched_rr_get_interval, libc::SYS_getpriority, libc::SYS_setpriority, libc::SYS_ioprio_get,
    libc::SYS_ioprio_set, libc::SYS_getrlimit, libc::SYS_setrlimit, libc::SYS_prlimit64, libc::SYS_getrusage,
    libc::SYS_times, libc::SYS_getcpu,
    // Who one is; capabilities decide.
    libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid, libc::SYS_getresuid,
    libc::SYS_getresgid, libc::SYS_getgroups, libc::SYS_setuid, libc::SYS_setgid, libc::SYS_setreuid,
    libc::SYS_setregid, libc::SYS_setresuid, libc::SYS_setresgid, libc::SYS_setgroups, libc::SYS_setfsuid,
    libc::SYS_setfsgid, libc::SYS_capget, libc::SYS_capset,
    // Time and the machine.
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_gettimeofday, libc::SYS_timer_create,
    libc::SYS_timer_settime, libc::SYS_timer_gettime, libc::SYS_timer_getoverrun, libc::SYS_timer_delete,
    libc::SYS_getitimer, libc::SYS_setitimer, libc::SYS_uname, libc::SYS_sysinfo, libc::SYS_getrandom,
    // Sockets and messages, inside its own namespaces.
    libc::SYS_socket, libc::SYS_socketpair, libc::SYS_bind, libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4,
    libc::SYS_connect, libc::SYS_getsockname, libc::SYS_getpeername, libc::SYS_getsockopt, libc::SYS_setsockopt,
    libc::SYS_sendto, libc::SYS_recvfrom, libc::SYS_sendmsg, libc::SYS_recvmsg, libc::SYS_sendmmsg,
    libc::SYS_recvmmsg, libc::SYS_shutdown, libc::SYS_semget, libc::SYS_semctl, libc::SYS_semop,
    libc::SYS_semtimedop, libc::SYS_msgget, libc::SYS_msgctl, libc::SYS_msgsnd, libc::SYS_msgrcv, libc::SYS_mq_open,
    libc::SYS_mq_unlink, libc::SYS_mq_timedsend, libc::SYS_mq_timedreceive, libc::SYS_mq_notify,
    libc::SYS_mq_getsetattr,
];

/// Permitted calls that younger architectures have no more.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ALLOWED_HERE: &[libc::c_long] = &[
    libc::SYS_open, libc::SYS_creat, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_chmod,
    libc::SYS_chown, libc::SYS_lchown, libc::SYS_dup2, libc::SYS_pipe, libc::SYS_mkdir, libc::SYS_rmdir,
    libc::SYS_mknod, libc::SYS_link, libc::SYS_unlink, libc::SYS_symlink, libc::SYS_readlink, libc::SYS_rename,
    libc::SYS_renameat, libc::SYS_getdents, libc::SYS_utime, libc::SYS_utimes, libc::SYS_futimesat,
    libc::SYS_poll, libc::SYS_select, libc::SYS_epoll_create, libc::SYS_epoll_wait, libc::SYS_eventfd,
    libc::SYS_signalfd, libc::SYS_inotify_init, libc::SYS_fork, libc::SYS_vfork, libc::SYS_getpgrp, libc::SYS_pause,
    libc::SYS_alarm, libc::SYS_time, libc::SYS_arch_prctl,
];
/// Permitted calls that younger architectures have no more.
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[libc::c_long] = &[libc::SYS_renameat];

/// Permitted calls that the libc crate does not name yet, of the numbers that all architectures share: `cachestat`,
/// `futex_wake`, `futex_wait`, `futex_requeue`, `mseal`.
const ALLOWED_NEW: &[libc::c_long] = &[451, 454, 455, 456, 462];

/// Refused with EPERM, whatever the arguments.
#[rustfmt::skip]
const DENIED: &[libc::c_long] = &[
    // Other processes.
    libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev, libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd, libc::SYS_kcmp,
    // Mounts, roots and namespaces; 467 is `open_tree_attr`.
    libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root, libc::SYS_chroot, libc::SYS_fsopen, libc::SYS_fsconfig,
    libc::SYS_fsmount, libc::SYS_fspick, libc::SYS_open_tree, 467, libc::SYS_move_mount, libc::SYS_mount_setattr,
    libc::SYS_unshare, libc::SYS_setns, libc::SYS_sethostname, libc::SYS_setdomainname,
    // Keys, programs in the kernel, tracing.
    libc::SYS_add_key, libc::SYS_request_key, libc::SYS_keyctl, libc::SYS_bpf, libc::SYS_perf_event_open,
    libc::SYS_userfaultfd, libc::SYS_fanotify_init, libc::SYS_fanotify_mark,
    // The machine.
    libc::SYS_kexec_load, libc::SYS_kexec_file_load, libc::SYS_init_module, libc::SYS_finit_module,
    libc::SYS_delete_module, libc::SYS_reboot, libc::SYS_syslog, libc::SYS_settimeofday, libc::SYS_clock_settime,
    libc::SYS_clock_adjtime, libc::SYS_adjtimex, libc::SYS_acct, libc::SYS_swapon, libc::SYS_swapoff,
    libc::SYS_quotactl, libc::SYS_quotactl_fd, libc::SYS_vhangup, libc::SYS_lookup_dcookie, libc::SYS_nfsservctl,
    libc::SYS_move_pages, libc::SYS_migrate_pages, libc::SYS_mbind, libc::SYS_set_mempolicy,
    // Files by handle go around the mount namespace.
    libc::SYS_open_by_handle_at, libc::SYS_name_to_handle_at,
];

/// Refused with EPERM, only on this architecture.
#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[libc::c_long] =
    &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_uselib, libc::SYS__sysctl];
/// Refused with EPERM, only on this architecture.
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[libc::c_long] = &[];

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Allow,
    Errno(i32),
}

/// From this number on, a verdict holds.
type Range = (u32, Verdict);

/// The program that decides by the number alone. It searches by halves: the kernel runs it for every number when it is
/// installed, which with a list would take longer than all else in the making of a sandbox.
pub(super) fn by_number() -> io::Result<BpfProgram> {
    /// Offsets in `struct seccomp_data`.
    const NUMBER: u32 = 0;
    const ARCHITECTURE: u32 = 4;
    let load = code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS)?;
    let equal = code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K)?;
    let mut program = vec![
        sock_filter { code: load, jt: 0, jf: 0, k: ARCHITECTURE },
        // Calls of another architecture have other numbers.
        sock_filter { code: equal, jt: 1, jf: 0, k: architecture()? },
        sock_filter { code: code(libc::BPF_RET | libc::BPF_K)?, jt: 0, jf: 0, k: libc::SECCOMP_RET_KILL_PROCESS },
        sock_filter { code: load, jt: 0, jf: 0, k: NUMBER },
    ];
    program.extend(tree(&ranges()?)?);
    Ok(program)
}

/// `AUDIT_ARCH_*` of this program.
fn architecture() -> io::Result<u32> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(0xC000_003E),
        "aarch64" => Ok(0xC000_00B7),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// The verdicts on all numbers, ascending. The x32 calls, which share the architecture of `x86_64`, lie behind the last.
fn ranges() -> io::Result<Vec<Range>> {
    let mut verdicts = std::collections::BTreeMap::new();
    let lists = [
        (ALLOWED, Verdict::Allow),
        (ALLOWED_HERE, Verdict::Allow),
        (ALLOWED_NEW, Verdict::Allow),
        (DENIED, Verdict::Errno(libc::EPERM)),
        (DENIED_HERE, Verdict::Errno(libc::EPERM)),
    ];
    for (calls, verdict) in lists {
        for call in calls {
            verdicts.insert(u32::try_from(*call).map_err(io::Error::other)?, verdict);
        }
    }
    let unknown = Verdict::Errno(libc::ENOSYS);
    let last = verdicts.last_key_value().map_or(0, |(number, _)| *number);
    let mut ranges: Vec<Range> = Vec::new();
    for number in 0..=last + 1 {
        let verdict = verdicts.get(&number).copied().unwrap_or(unknown);
        if ranges.last().is_none_or(|(_, before)| *before != verdict) {
            ranges.push((number, verdict));
        }
    }
    Ok(ranges)
}

/// A search tree over ranges, for a number that is at least the first.
fn tree(ranges: &[Range]) -> io::Result<BpfProgram> {
    if let [(_, verdict)] = ranges {
        let action = match verdict {
            Verdict::Allow => libc::SECCOMP_RET_ALLOW,
            Verdict::Errno(errno) => libc::SECCOMP_RET_ERRNO | errno.unsigned_abs(),
        };
        return Ok(vec![sock_filter { code: code(libc::BPF_RET | libc::BPF_K)?, jt: 0, jf: 0, k: action }]);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let (low_program, high_program) = (tree(low)?, tree(high)?);
    let skip = u8::try_from(low_program.len()).map_err(io::Error::other)?;
    let at_least = code(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K)?;
    let mut program = vec![sock_filter { code: at_least, jt: skip, jf: 0, k: high[0].0 }];
    program.extend(low_program);
    program.extend(high_program);
    Ok(program)
}

fn code(code: u32) -> io::Result<u16> {
    u16::try_from(code).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program answers, by running it.
    fn run(program: &[sock_filter], number: u32) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let step = &program[at];
            at += 1;
            match u32::from(step.code) {
                code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    value = if step.k == 0 { number } else { architecture().unwrap() };
                }
                code if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => {
                    at += usize::from(if value == step.k { step.jt } else { step.jf });
                }
                code if code == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K => {
                    at += usize::from(if value >= step.k { step.jt } else { step.jf });
                }
                _ => return step.k,
            }
        }
    }

    #[test]
    fn every_number_has_its_verdict() {
        let program = by_number().unwrap();
        let errno = |errno: i32| libc::SECCOMP_RET_ERRNO | errno.unsigned_abs();
        for number in (0..1000).chain([0x4000_0000, 0x4000_0027, u32::MAX]) {
            let call = libc::c_long::from(number);
            let allowed = [ALLOWED, ALLOWED_HERE, ALLOWED_NEW].iter().any(|list| list.contains(&call));
            let denied = [DENIED, DENIED_HERE].iter().any(|list| list.contains(&call));
            assert!(!(allowed && denied), "{number} is on both lists");
            let expected = match (allowed, denied) {
                (true, _) => libc::SECCOMP_RET_ALLOW,
                (_, true) => errno(libc::EPERM),
                _ => errno(libc::ENOSYS),
            };
            assert_eq!(run(&program, number), expected, "{number}");
        }
        assert_eq!(run(&program, u32::try_from(libc::SYS_clone3).unwrap()), errno(libc::ENOSYS));
    }
}
