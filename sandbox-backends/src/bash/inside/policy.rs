//! What the shell may not do: system call filters, landlock, capabilities, resource limits, `no_new_privs`.

use std::collections::BTreeMap;
use std::io;

use landlock::{
    ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::super::error::Step;
use super::super::places::Places;
use super::super::wire::{Setup, Spec};
use super::calls;
use super::syscalls::landlock_version;
use super::template::{DEVICES, During, ETC, Failure, SYSTEM_FOLDERS};

/// The open files each process may have.
const OPEN_FILES: u64 = 4096;
/// Bytes in POSIX message queues, of the sandbox's user.
const MESSAGE_QUEUE_BYTES: u64 = 1 << 20;
/// Bytes that may be locked in memory, of the sandbox's user.
const LOCKED_BYTES: u64 = 8 << 20;

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

/// The system call filters, compiled once for all sandboxes.
#[derive(Debug)]
pub(super) struct Filters([BpfProgram; 2]);

impl Filters {
    pub(super) fn compile(setup: &Setup) -> Result<Self, Failure> {
        let by_argument = by_argument(setup.namespaces).during(Step::SystemCallFilter)?;
        Ok(Self([by_argument, calls::by_number().during(Step::SystemCallFilter)?]))
    }
}

/// Binds PID 1, and so everything inside, to landlock and to the system call filters. Without namespaces PID 1 itself
/// stays outside of landlock, which then protects it from the shell's signals, and lets it find what is left at the end.
pub(super) fn confine(setup: &Setup, places: &Places, filters: &Filters) -> Result<(), Failure> {
    rustix::thread::set_no_new_privs(true).during(Step::Privileges)?;
    if setup.namespaces {
        landlock(setup, places)?;
    }
    for program in &filters.0 {
        seccompiler::apply_filter(program).map_err(io::Error::other).during(Step::SystemCallFilter)?;
    }
    Ok(())
}

/// The rules of landlock: the second wall behind the mounts, and without namespaces the only one around files. A kernel
/// without it, or with an older one, gives what it has.
pub(super) fn landlock(setup: &Setup, places: &Places) -> Result<(), Failure> {
    // Without the scope of signals, which came with version 6, the shell could end its PID 1, and the server.
    if !setup.namespaces && landlock_version() < 6 {
        return Err((Step::Landlock, io::Error::from_raw_os_error(libc::EOPNOTSUPP)));
    }
    set_rules(setup, places).map_err(io::Error::other).during(Step::Landlock)
}

fn set_rules(setup: &Setup, places: &Places) -> Result<(), RulesetError> {
    /// The newest whose rights this program knows.
    const KNOWN: ABI = ABI::V6;
    let (all, read) = (AccessFs::from_all(KNOWN), AccessFs::from_read(KNOWN));
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let mut rules = Ruleset::default().handle_access(all)?.scope(Scope::from_all(KNOWN))?.create()?;
    let mut allow = |path: &str, rights| match PathFd::new(path) {
        Ok(folder) => (&mut rules).add_rule(PathBeneath::new(folder, rights)).map(drop),
        // What is not there needs no rule.
        Err(_) => Ok(()),
    };
    if setup.namespaces {
        // Everything that is mounted may be read.
        allow("/", read)?;
        allow("/dev/pts", device)?;
        allow("/dev/shm", all)?;
        // What a process may write here is decided by its owner; where `/proc/sys` and the like could be its own, a mount
        // makes them read-only.
        allow("/proc", read | AccessFs::WriteFile)?;
    } else {
        for folder in SYSTEM_FOLDERS {
            allow(&format!("/{folder}"), read)?;
        }
        for entry in ETC {
            allow(&format!("/etc/{entry}"), read)?;
        }
        for file in ["passwd", "group", "nsswitch.conf", "hosts"] {
            allow(&format!("/etc/{file}"), AccessFs::ReadFile.into())?;
        }
        for path in &setup.read_only_paths {
            allow(&path.to_string_lossy(), read)?;
        }
    }
    for name in DEVICES {
        allow(&format!("/dev/{name}"), device)?;
    }
    for folder in [places.workspace(), places.tmp(), places.control_folder()] {
        allow(folder, all)?;
    }
    rules.restrict_self().map(drop)
}

/// The filter that looks at arguments.
fn by_argument(namespaces: bool) -> io::Result<BpfProgram> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    SeccompFilter::new(argument_rules(namespaces)?, SeccompAction::Allow, refused, architecture)
        .and_then(TryInto::try_into)
        .map_err(io::Error::other)
}

/// What is refused because of its arguments.
fn argument_rules(namespaces: bool) -> io::Result<BTreeMap<libc::c_long, Vec<SeccompRule>>> {
    let mut rules = BTreeMap::new();
    let mut clone = Vec::new();
    for flag in NAMESPACE_FLAGS {
        let flag = u64::from(flag.unsigned_abs());
        clone.push(rule(&[(0, Op::MaskedEq(flag), flag)])?);
    }
    rules.insert(libc::SYS_clone, clone);
    // Only Unix and IP sockets, none of them raw: vsock reaches the hypervisor whatever the network namespace, what waits
    // in netlink sockets is counted for nobody, and the others are attack surface. Without a network namespace, none.
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6].map(|family| u64::from(family.unsigned_abs()));
    let raw = u64::from(libc::SOCK_RAW.unsigned_abs());
    let socket = if namespaces {
        vec![
            rule(&families.map(|family| (0, Op::Ne, family)))?,
            rule(&[(0, Op::Eq, families[1]), (1, Op::MaskedEq(0xf), raw)])?,
            rule(&[(0, Op::Eq, families[2]), (1, Op::MaskedEq(0xf), raw)])?,
        ]
    } else {
        // Not even Unix ones: by their paths they reach services of the host, which no landlock rule covers.
        Vec::new()
    };
    rules.insert(libc::SYS_socket, socket);
    rules.insert(libc::SYS_socketpair, vec![rule(&[(0, Op::Ne, families[0])])?]);
    // Programs for the kernel, of which thousands of sockets could have one each.
    let level = u64::from(libc::SOL_SOCKET.unsigned_abs());
    let programs =
        [libc::SO_ATTACH_FILTER, libc::SO_ATTACH_BPF, libc::SO_ATTACH_REUSEPORT_CBPF, libc::SO_ATTACH_REUSEPORT_EBPF];
    let programs = programs.map(|option| rule(&[(1, Op::Eq, level), (2, Op::Eq, u64::from(option.unsigned_abs()))]));
    rules.insert(libc::SYS_setsockopt, programs.into_iter().collect::<io::Result<_>>()?);
    // Keystrokes put into a terminal are read by whoever reads it next.
    let (sti, linux) = (0x5412, 0x541C);
    // One command must not close the terminal to the next, halt it, or change what it does with what is written
    // (`TIOCEXCL`, `TCXONC` with `TCOOFF`, `TIOCSETD`).
    let (exclusive, flow, halt, discipline) = (0x540C, 0x540A, 0, 0x5423);
    rules.insert(
        libc::SYS_ioctl,
        vec![
            rule(&[(1, Op::Eq, sti)])?,
            rule(&[(1, Op::Eq, linux)])?,
            rule(&[(1, Op::Eq, exclusive)])?,
            rule(&[(1, Op::Eq, discipline)])?,
            rule(&[(1, Op::Eq, flow), (2, Op::Eq, halt)])?,
        ],
    );
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

/// Gives up the user, the capabilities and the right to any other; `identity` changes the user in between.
pub(super) fn restrict(spec: &Spec, identity: impl FnOnce() -> io::Result<()>) -> Result<(), Failure> {
    empty_bounding_set().during(Step::Privileges)?;
    identity().during(Step::Privileges)?;
    drop_capabilities().during(Step::Privileges)?;
    limit_resources(spec).during(Step::Limits)
}

/// Sets the resource limits of the shell; a limit that is already lower stays.
fn limit_resources(spec: &Spec) -> io::Result<()> {
    limit(Resource::Nproc, spec.pids)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, OPEN_FILES)?;
    limit(Resource::Msgqueue, MESSAGE_QUEUE_BYTES)?;
    limit(Resource::Memlock, LOCKED_BYTES)?;
    spec.address_space_mib.map_or(Ok(()), |mib| limit(Resource::As, mib.saturating_mul(1 << 20)))
}

/// Sets one limit, soft and hard.
fn limit(resource: Resource, value: u64) -> io::Result<()> {
    let value = getrlimit(resource).maximum.map_or(value, |hard| hard.min(value));
    Ok(setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?)
}

/// Drops every capability for good.
fn drop_capabilities() -> io::Result<()> {
    let none = CapabilitySet::empty();
    rustix::thread::clear_ambient_capability_set()?;
    Ok(rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}

/// Empties the bounding set, so that no program can gain a capability either.
fn empty_bounding_set() -> io::Result<()> {
    for number in 0..64 {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // The number after the last capability that the kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            // Without namespaces and without privilege there is nothing to give up.
            Err(rustix::io::Errno::PERM) if drop_nothing() => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether this process has no capability that it could pass on.
fn drop_nothing() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.permitted.is_empty())
}
