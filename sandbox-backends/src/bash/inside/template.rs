//! The root directory of sandboxes: read-only system folders and files, made once by the zygote; private work folders,
//! made by each sandbox; nothing else of the host.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind, mount_change,
    mount_remount, move_mount, open_tree, unmount,
};

use super::super::error::Step;
use super::super::wire::{Setup, Spec};

/// Where the root is assembled; any folder that exists on every host, hidden only in the new mount namespace.
const ASSEMBLY: &str = "/tmp";
/// Where the host's work folders are, until each sandbox covers them.
const WORKSPACES: &str = ".workspaces";
/// The shell's user inside.
pub(super) const SHELL_UID: u32 = 1000;
/// System folders: bound when they are folders, repeated when they are links.
pub(super) const SYSTEM_FOLDERS: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// Entries of `/etc` that programs need and that say nothing about the host; the absent ones are skipped.
pub(super) const ETC: [&str; 8] = [
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
pub(super) const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
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

/// Builds what all sandboxes share, and makes it the root of this process; runs in the zygote, with all capabilities
/// in its own mount namespace.
pub(super) fn build(setup: &Setup) -> Result<(), Failure> {
    let safe = MountFlags::NOSUID | MountFlags::NODEV;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).during(Step::Propagation)?;
    // Before the place where the root is assembled hides it.
    let workspaces = setup.workspace_dir.as_deref().map(|host| clone_tree(host, SAFE)).transpose();
    let workspaces = workspaces.during(Step::WorkFolders)?;
    let extra = setup.read_only_paths.iter().map(|path| Ok((path, clone_tree(path, READ_ONLY)?)));
    let extra = extra.collect::<io::Result<Vec<_>>>().during(Step::SystemFolders)?;
    mount("tmpfs", ASSEMBLY, "tmpfs", safe, c"mode=0755,size=4m,nr_inodes=1024").during(Step::RootDirectory)?;
    std::env::set_current_dir(ASSEMBLY).during(Step::RootDirectory)?;
    for folder in ["dev", "etc", "proc", "run", "tmp", "var", "workspace", ".sbx", WORKSPACES] {
        fs::create_dir(folder).during(Step::RootDirectory)?;
    }
    symlink("../tmp", "var/tmp").during(Step::RootDirectory)?;
    system_folders().during(Step::SystemFolders)?;
    for (path, tree) in extra {
        let target = path.strip_prefix("/").unwrap_or(path);
        // It may lie inside a folder that is bound already, where nothing can and need be made.
        let _ = fs::create_dir_all(target);
        attach(&tree, target).during(Step::SystemFolders)?;
    }
    system_files().during(Step::SystemFiles)?;
    devices().during(Step::Devices)?;
    // For the id maps that the zygote writes, and because a user namespace gets a new proc only next to a visible one;
    // every sandbox covers it.
    attach(&clone_tree("/proc", 0).during(Step::Proc)?, "proc").during(Step::Proc)?;
    if let Some(tree) = workspaces {
        attach(&tree, WORKSPACES).during(Step::WorkFolders)?;
    }
    rustix::process::pivot_root(".", ".").during(Step::PivotRoot)?;
    unmount(".", UnmountFlags::DETACH).during(Step::PivotRoot)?;
    std::env::set_current_dir("/").during(Step::PivotRoot)?;
    set_attributes(&root().during(Step::ReadOnlyRoot)?, false, READ_ONLY).during(Step::ReadOnlyRoot)
}

/// Adds to the shared root what each sandbox has of its own; runs as PID 1 with all capabilities in its own namespaces.
pub(super) fn complete(setup: &Setup, spec: &Spec) -> Result<(), Failure> {
    let safe = MountFlags::NOSUID | MountFlags::NODEV;
    if setup.proc {
        mount("proc", "/proc", "proc", safe | MountFlags::NOEXEC, None::<&CStr>).during(Step::Proc)?;
        // The host's kernel command line is nobody's business here.
        bind("/dev/null", "/proc/cmdline", libc::MOUNT_ATTR_NOSUID).during(Step::Proc)?;
    } else {
        cover("/proc").during(Step::Proc)?;
    }
    let terminals = c"newinstance,max=64,ptmxmode=0666,mode=0620";
    mount("devpts", "/dev/pts", "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, terminals)
        .during(Step::Terminals)?;
    let owner = format!("uid={SHELL_UID},gid={SHELL_UID}");
    let workspace = match &spec.workspace {
        Some(name) => {
            let host = workspaces().join(name);
            bind(host, "/workspace", SAFE).during(Step::WorkFolders)?;
            None
        }
        None => Some(("/workspace", spec.workspace_mib, "0755")),
    };
    let folders = [("/tmp", spec.tmp_mib, "1777"), ("/dev/shm", spec.tmp_mib, "1777")];
    for (folder, mib, mode) in workspace.into_iter().chain(folders) {
        let inodes = mib.saturating_mul(256).clamp(1024, 1 << 24);
        let options = CString::new(format!("mode={mode},size={mib}m,nr_inodes={inodes},{owner}"));
        let options = options.map_err(io::Error::other).during(Step::WorkFolders)?;
        mount("tmpfs", folder, "tmpfs", safe, options.as_c_str()).during(Step::WorkFolders)?;
    }
    if setup.workspace_dir.is_some() {
        // The folders of the others.
        cover(&format!("/{WORKSPACES}")).during(Step::WorkFolders)?;
    }
    mount("tmpfs", "/.sbx", "tmpfs", safe | MountFlags::NOEXEC, c"mode=0711,size=40m,nr_inodes=1024")
        .during(Step::ControlFiles)
}

/// Makes the kernel's settings read-only where sandboxes share the server's user id: who is the host's root in a user
/// namespace may write them by its mere id.
pub(super) fn seal_settings(setup: &Setup) -> Result<(), Failure> {
    if setup.own_ids || !setup.proc {
        return Ok(());
    }
    let settings = ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"];
    for path in settings.into_iter().filter(|path| Path::new(path).exists()) {
        // Not by a tree of its own, which is a mount namespace, and of those no more are permitted by now.
        mount_bind(path, path).during(Step::Proc)?;
        let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount_remount(path, flags, c"").during(Step::Proc)?;
    }
    Ok(())
}

/// An empty folder that nobody can write to, over whatever is there.
fn cover(folder: &str) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    Ok(mount("tmpfs", folder, "tmpfs", flags, c"mode=0555,size=4k,nr_inodes=1")?)
}

/// Where the host's work folders are in the root of the zygote.
pub(super) fn workspaces() -> PathBuf {
    Path::new("/").join(WORKSPACES)
}

/// The root folder.
pub(super) fn root() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// For every folder.
const SAFE: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
/// For everything that comes from the host.
const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY | SAFE;

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

/// Binds an entry with everything mounted below it.
fn bind(source: impl AsRef<Path>, target: impl AsRef<Path>, attributes: u64) -> io::Result<()> {
    attach(&clone_tree(source, attributes)?, target)
}

/// A copy of an entry's mount with everything mounted below it, not yet attached anywhere.
fn clone_tree(source: impl AsRef<Path>, attributes: u64) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, source.as_ref(), flags)?;
    if attributes != 0 {
        set_attributes(&tree, true, attributes)?;
    }
    Ok(tree)
}

/// Puts a copied mount into its place.
fn attach(tree: &OwnedFd, target: impl AsRef<Path>) -> io::Result<()> {
    Ok(move_mount(tree, c"", CWD, target.as_ref(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
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
