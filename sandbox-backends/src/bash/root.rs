//! The sandbox's root directory: read-only system folders, private work folders, nothing else of the host.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change, move_mount,
    open_tree, unmount,
};

use super::error::Step;
use super::wire::Config;

/// Where the root is assembled; any folder that exists on every host, hidden only in the new mount namespace.
const ASSEMBLY: &str = "/tmp";
/// Folders with the protocol's files; the shell's user cannot change its entries.
pub(super) const CONTROL: &str = "/.sbx";
/// The shell's user inside.
pub(super) const SHELL_UID: u32 = 1000;
/// System folders: bound when they are folders, repeated when they are links.
const SYSTEM_FOLDERS: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// Entries of `/etc` that programs need and that say nothing about the host; the absent ones are skipped.
const ETC: [&str; 8] = [
    "alternatives",
    "ld.so.cache",
    "localtime",
    "ssl/certs",
    "ssl/openssl.cnf",
    "pki/tls/certs",
    "pki/ca-trust/extracted",
    "mime.types",
];
/// Nodes of `/dev`.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// `MOUNT_ATTR_NOEXEC`, not named by the libc crate.
const MOUNT_ATTR_NOEXEC: u64 = 0x8;

/// A failed step and the kernel's answer.
pub(super) type Failure = (Step, io::Error);

/// Makes `Result`s of a step carry its name.
pub(super) trait During<T> {
    /// Names the step.
    fn during(self, step: Step) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, step: Step) -> Result<T, Failure> {
        self.map_err(|error| (step, error.into()))
    }
}

/// Builds the root and enters it; runs as PID 1 with all capabilities in its own namespaces.
pub(super) fn enter(config: &Config) -> Result<(), Failure> {
    let safe = MountFlags::NOSUID | MountFlags::NODEV;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).during(Step::Propagation)?;
    mount("tmpfs", ASSEMBLY, "tmpfs", safe, c"mode=0755,size=1m,nr_inodes=512").during(Step::RootDirectory)?;
    std::env::set_current_dir(ASSEMBLY).during(Step::RootDirectory)?;
    for folder in ["dev", "etc", "proc", "run", "tmp", "var", "workspace", ".sbx"] {
        fs::create_dir(folder).during(Step::RootDirectory)?;
    }
    symlink("../tmp", "var/tmp").during(Step::RootDirectory)?;
    system_folders().during(Step::SystemFolders)?;
    system_files().during(Step::SystemFiles)?;
    devices().during(Step::Devices)?;
    // Before the host's root is detached: a user namespace gets a new proc only next to a visible one.
    mount("proc", "proc", "proc", safe | MountFlags::NOEXEC, None::<&CStr>).during(Step::Proc)?;
    // The host's kernel command line is nobody's business here.
    bind("/dev/null", "proc/cmdline", libc::MOUNT_ATTR_NOSUID).during(Step::Proc)?;
    mount(
        "devpts",
        "dev/pts",
        "devpts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        c"newinstance,ptmxmode=0666,mode=0620",
    )
    .during(Step::Terminals)?;
    let owner = format!("uid={SHELL_UID},gid={SHELL_UID}");
    for (folder, mib, mode) in [
        ("workspace", config.workspace_mib, "0755"),
        ("tmp", config.tmp_mib, "1777"),
        ("dev/shm", config.tmp_mib, "1777"),
    ] {
        let inodes = mib.saturating_mul(256).clamp(1024, 1 << 24);
        let options = format!("mode={mode},size={mib}m,nr_inodes={inodes},{owner}\0");
        let options =
            CStr::from_bytes_with_nul(options.as_bytes()).map_err(io::Error::other).during(Step::WorkFolders)?;
        mount("tmpfs", folder, "tmpfs", safe, options).during(Step::WorkFolders)?;
    }
    mount("tmpfs", ".sbx", "tmpfs", safe | MountFlags::NOEXEC, c"mode=0711,size=8m,nr_inodes=64")
        .during(Step::ControlFiles)?;
    rustix::process::pivot_root(".", ".").during(Step::PivotRoot)?;
    unmount(".", UnmountFlags::DETACH).during(Step::PivotRoot)?;
    std::env::set_current_dir("/").during(Step::PivotRoot)?;
    set_attributes(
        &rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).during(Step::ReadOnlyRoot)?,
        false,
        READ_ONLY,
    )
    .during(Step::ReadOnlyRoot)
}

/// For everything that comes from the host.
const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;

/// Programs and libraries.
fn system_folders() -> io::Result<()> {
    for name in SYSTEM_FOLDERS {
        let host = Path::new("/").join(name);
        match fs::symlink_metadata(&host) {
            Ok(entry) if entry.is_symlink() => symlink(fs::read_link(&host)?, name)?,
            Ok(entry) if entry.is_dir() => {
                fs::create_dir(name)?;
                bind(&host, name, READ_ONLY)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// `/etc`: synthetic accounts and names, and a few entries of the host's.
fn system_files() -> io::Result<()> {
    let shell = "/bin/bash";
    let id = SHELL_UID;
    let files = [
        (
            "passwd",
            format!(
                "root:x:0:0:root:/:/usr/sbin/nologin\nsandbox:x:{id}:{id}:sandbox:/workspace:{shell}\n\
                 nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
            ),
        ),
        ("group", format!("root:x:0:\nsandbox:x:{id}:\nnogroup:x:65534:\n")),
        ("hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n".to_owned()),
        ("hostname", "sandbox\n".to_owned()),
        ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n".to_owned()),
        ("resolv.conf", String::new()),
    ];
    for (name, content) in files {
        let path = Path::new("etc").join(name);
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    }
    for name in ETC {
        let host = Path::new("/etc").join(name);
        let Ok(entry) = fs::metadata(&host) else { continue };
        let target = Path::new("etc").join(name);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        if entry.is_dir() {
            fs::create_dir(&target)?;
        } else {
            fs::write(&target, "")?;
        }
        bind(&host, &target, READ_ONLY | MOUNT_ATTR_NOEXEC)?;
    }
    Ok(())
}

/// `/dev`.
fn devices() -> io::Result<()> {
    for name in DEVICES {
        let target = Path::new("dev").join(name);
        fs::write(&target, "")?;
        bind(Path::new("/dev").join(name), &target, libc::MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)?;
    }
    for folder in ["dev/pts", "dev/shm"] {
        fs::create_dir(folder)?;
    }
    for (target, link) in [
        ("pts/ptmx", "dev/ptmx"),
        ("/proc/self/fd", "dev/fd"),
        ("/proc/self/fd/0", "dev/stdin"),
        ("/proc/self/fd/1", "dev/stdout"),
        ("/proc/self/fd/2", "dev/stderr"),
    ] {
        symlink(target, link)?;
    }
    Ok(())
}

/// Binds a host entry with everything mounted below it.
fn bind(host: impl AsRef<Path>, target: impl AsRef<Path>, attributes: u64) -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, host.as_ref(), flags)?;
    set_attributes(&tree, true, attributes)?;
    Ok(move_mount(&tree, c"", CWD, target.as_ref(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Adds mount attributes.
#[expect(unsafe_code, reason = "mount_setattr has no safe wrapper")]
fn set_attributes(mount: &OwnedFd, recursive: bool, attributes: u64) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated string, and the structure outlives the call and has the size that is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Creates one fifo of the control folder and opens it.
pub(super) fn fifo(name: &str, access: OFlags) -> io::Result<OwnedFd> {
    let path = format!("{CONTROL}/{name}");
    // Written by another user than the one who reads it, so that a command cannot swallow its own record.
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o622), 0)?;
    Ok(rustix::fs::open(&path, access | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?)
}
