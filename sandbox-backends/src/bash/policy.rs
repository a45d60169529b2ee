//! What the shell may not do: system call filter, capabilities, resource limits, `no_new_privs`.

use std::collections::BTreeMap;
use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use super::error::Step;
use super::wire::Config;

/// The open files each process may have.
const OPEN_FILES: u64 = 4096;

/// `clone` flags that would create a namespace.
const NAMESPACE_FLAGS: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// `open_tree_attr`, not yet named by the libc crate.
const SYS_OPEN_TREE_ATTR: libc::c_long = 467;

/// Refused with EPERM whatever the arguments.
const DENIED: &[libc::c_long] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Mounts, roots and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_tree,
    SYS_OPEN_TREE_ATTR,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    // Keys, programs in the kernel, tracing.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_fanotify_init,
    // The machine.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_acct,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_vhangup,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // Files by handle go around the mount namespace.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
];

/// Refused with EPERM, only on this architecture.
#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[libc::c_long] =
    &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_uselib, libc::SYS__sysctl];
/// Refused with EPERM, only on this architecture.
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[libc::c_long] = &[];

/// Answered as if the kernel were too old, so that programs fall back: `clone3` hides its flags from filters,
/// `io_uring` goes around them.
const ABSENT: &[libc::c_long] =
    &[libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// The compiled system call filters.
#[derive(Debug)]
pub(super) struct Filters([BpfProgram; 2]);

impl Filters {
    /// Compiles the filters for the architecture of this program.
    pub(super) fn compile() -> io::Result<Self> {
        let mut denied = compile(denied_rules()?, libc::EPERM)?;
        let absent = compile(ABSENT.iter().map(|call| (*call, Vec::new())).collect(), libc::ENOSYS)?;
        if cfg!(target_arch = "x86_64") {
            denied.splice(0..0, refuse_x32()?);
        }
        Ok(Self([denied, absent]))
    }

    /// Sets `no_new_privs` and installs the filters; from here on they bind this process and all its children.
    pub(super) fn install(&self) -> io::Result<()> {
        for program in &self.0 {
            seccompiler::apply_filter(program).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// A program that answers `errno` where a rule matches.
fn compile(rules: BTreeMap<libc::c_long, Vec<SeccompRule>>, errno: i32) -> io::Result<BpfProgram> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno.unsigned_abs()), architecture)
        .and_then(TryInto::try_into)
        .map_err(io::Error::other)
}

/// What is refused with EPERM.
fn denied_rules() -> io::Result<BTreeMap<libc::c_long, Vec<SeccompRule>>> {
    let mut rules: BTreeMap<libc::c_long, Vec<SeccompRule>> =
        DENIED.iter().chain(DENIED_HERE).map(|call| (*call, Vec::new())).collect();
    let mut clone = Vec::new();
    for flag in NAMESPACE_FLAGS {
        let flag = u64::from(flag.unsigned_abs());
        clone.push(rule(&[(0, Op::MaskedEq(flag), flag)])?);
    }
    rules.insert(libc::SYS_clone, clone);
    // Only Unix, IP and netlink sockets, none of them raw: vsock reaches the hypervisor whatever the network
    // namespace, and the others are attack surface.
    let families =
        [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK].map(|family| u64::from(family.unsigned_abs()));
    let raw = u64::from(libc::SOCK_RAW.unsigned_abs());
    rules.insert(
        libc::SYS_socket,
        vec![
            rule(&families.map(|family| (0, Op::Ne, family)))?,
            rule(&[(0, Op::Eq, families[1]), (1, Op::MaskedEq(0xf), raw)])?,
            rule(&[(0, Op::Eq, families[2]), (1, Op::MaskedEq(0xf), raw)])?,
        ],
    );
    // Keystrokes put into a terminal are read by whoever reads it next.
    let (sti, linux) = (0x5412, 0x541C);
    rules.insert(libc::SYS_ioctl, vec![rule(&[(1, Op::Eq, sti)])?, rule(&[(1, Op::Eq, linux)])?]);
    // Reading the personality and setting the default one are harmless.
    rules.insert(libc::SYS_personality, vec![rule(&[(0, Op::Ne, 0), (0, Op::Ne, 0xffff_ffff)])?]);
    Ok(rules)
}

/// A rule that matches when all conditions on arguments hold.
fn rule(conditions: &[(u8, Op, u64)]) -> io::Result<SeccompRule> {
    conditions
        .iter()
        .map(|(argument, operator, value)| SeccompCondition::new(*argument, Len::Dword, operator.clone(), *value))
        .collect::<Result<_, _>>()
        .and_then(SeccompRule::new)
        .map_err(io::Error::other)
}

/// The x32 calls share the architecture of `x86_64` and have other numbers, so no rule would match them.
fn refuse_x32() -> io::Result<[sock_filter; 3]> {
    let code = |code: u32| u16::try_from(code).map_err(io::Error::other);
    let absent = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    Ok([
        sock_filter { code: code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS)?, jt: 0, jf: 0, k: 0 },
        sock_filter { code: code(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K)?, jt: 0, jf: 1, k: 0x4000_0000 },
        sock_filter { code: code(libc::BPF_RET | libc::BPF_K)?, jt: 0, jf: 0, k: absent },
    ])
}

/// Sets the resource limits of the shell; a limit that is already lower stays.
pub(super) fn limit_resources(config: &Config) -> io::Result<()> {
    limit(Resource::Nproc, config.pids)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, OPEN_FILES)?;
    if config.memory_mib > 0 {
        limit(Resource::As, config.memory_mib.saturating_mul(1 << 20))?;
    }
    Ok(())
}

/// Sets one limit, soft and hard.
fn limit(resource: Resource, value: u64) -> io::Result<()> {
    let value = getrlimit(resource).maximum.map_or(value, |hard| hard.min(value));
    Ok(setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?)
}

/// Drops every capability for good.
pub(super) fn drop_capabilities() -> io::Result<()> {
    let none = CapabilitySet::empty();
    rustix::thread::clear_ambient_capability_set()?;
    Ok(rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}

/// Empties the bounding set, so that no program can gain a capability either.
pub(super) fn empty_bounding_set() -> io::Result<()> {
    for number in 0..64 {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // The number after the last capability that the kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Gives up the user, the capabilities and the right to any other; `identity` changes the user in between.
pub(super) fn restrict(
    config: &Config,
    filters: &Filters,
    identity: impl FnOnce() -> io::Result<()>,
) -> Result<(), (Step, io::Error)> {
    empty_bounding_set().map_err(|error| (Step::Privileges, error))?;
    identity().map_err(|error| (Step::Privileges, error))?;
    drop_capabilities().map_err(|error| (Step::Privileges, error))?;
    limit_resources(config).map_err(|error| (Step::Limits, error))?;
    filters.install().map_err(|error| (Step::SystemCallFilter, error))
}
