//! Control groups: memory, processes and processor time of each sandbox, in version 2 of the hierarchy or in version 1.
//!
//! All groups of a server lie in one folder that bears its process id and start time. The zygote removes it when the
//! server is gone, and the next server what both have left behind.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::wire::Join;

/// What a folder of ours is named before the process id and the start time of its server.
const PREFIX: &str = "sandbox-";
/// The group that the server moves itself to where it must leave its own.
const OWN_GROUP: &str = "server";
/// The period of the processor quota, in microseconds.
const PERIOD_US: u64 = 100_000;
/// What may wait in the TCP and UDP sockets of a sandbox, in version 1.
const SOCKET_BYTES: u64 = 64 << 20;
/// How often, and after which pause, the removal of a group is tried: its last process is still being torn down.
const REMOVALS: u32 = 200;
const REMOVAL_PAUSE: Duration = Duration::from_millis(5);

/// What a group limits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) memory_mib: Option<u64>,
    pub(super) pids: u64,
    pub(super) cpus: Option<f64>,
}

/// The folders of this server's groups.
#[derive(Debug)]
pub(super) struct Cgroups {
    /// One for version 2; for version 1 one for each controller: memory, pids, and cpu if it is there.
    tops: Vec<(PathBuf, [File; 2])>,
    version: Version,
    next: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// The group of one sandbox.
#[derive(Debug)]
pub(super) struct Cgroup {
    folders: Vec<PathBuf>,
    handles: Vec<File>,
    version: Version,
}

impl Cgroups {
    /// Finds a place where this process may make groups, and makes the folder there.
    ///
    /// # Errors
    /// Why there is none, and what to do about it.
    pub(super) fn find() -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|error| error.to_string())?;
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let name = own_name().map_err(|error| error.to_string())?;
        let two = version_two(&mounts, &own, &name);
        let (version, folders) = match two {
            Ok(folder) => (Version::Two, vec![folder]),
            Err(reason) => match version_one(&mounts, &own, &name) {
                Some(folders) => (Version::One, folders),
                None => return Err(reason),
            },
        };
        let tops = folders.into_iter().map(|folder| {
            sweep(&folder);
            fs::create_dir_all(&folder)?;
            let parent = folder.parent().ok_or(io::ErrorKind::NotFound)?;
            let handles = [File::open(&folder)?, File::open(parent)?];
            Ok((folder, handles))
        });
        let tops = tops.collect::<io::Result<Vec<_>>>().map_err(|error| {
            format!(
                "making a control group failed: {error}; run the server with a delegated group (systemd: Delegate=yes)"
            )
        })?;
        let found = Self { tops, version, next: AtomicU64::new(0) };
        if version == Version::Two {
            found.enable().map_err(|error| format!("enabling the controllers failed: {error}"))?;
        }
        // With the real thing, since a folder that can be made may still refuse limits.
        let tried = found.create(Limits { memory_mib: Some(64), pids: 16, cpus: None });
        tried.and_then(|group| group.remove()).map_err(|error| format!("limiting a control group failed: {error}"))?;
        Ok(found)
    }

    /// Lets the groups in the folder have the controllers.
    fn enable(&self) -> io::Result<()> {
        for (top, _) in &self.tops {
            let available = fs::read_to_string(top.join("cgroup.controllers"))?;
            let has = |name: &str| available.split_whitespace().any(|controller| controller == name);
            let wanted = ["memory", "pids", "cpu"].into_iter().filter(|name| has(name)).map(|name| format!("+{name}"));
            fs::write(top.join("cgroup.subtree_control"), wanted.collect::<Vec<_>>().join(" "))?;
        }
        Ok(())
    }

    /// The folders, each with the one it is in, for the zygote to remove.
    pub(super) fn tops(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.tops.iter().flat_map(|(_, handles)| handles).map(AsFd::as_fd)
    }

    /// The name of the folders.
    pub(super) fn name(&self) -> Option<String> {
        self.tops.first().and_then(|(top, _)| Some(top.file_name()?.to_str()?.to_owned()))
    }

    /// Makes the group of a sandbox.
    pub(super) fn create(&self, limits: Limits) -> io::Result<Cgroup> {
        let name = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let mut group = Cgroup { folders: Vec::new(), handles: Vec::new(), version: self.version };
        for (top, _) in &self.tops {
            let folder = top.join(&name);
            fs::create_dir(&folder)?;
            // Removed with the group if a later step fails.
            group.folders.push(folder);
        }
        group.set_memory(limits.memory_mib)?;
        group.set_rest(limits)?;
        group.handles = match self.version {
            Version::Two => vec![File::open(&group.folders[0])?],
            Version::One => group
                .folders
                .iter()
                .map(|folder| File::options().write(true).open(folder.join("tasks")))
                .collect::<io::Result<_>>()?,
        };
        Ok(group)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for (top, _) in &self.tops {
            // Groups that are still in it are removed by the zygote or by the next server.
            let _ = fs::remove_dir(top);
        }
    }
}

impl Cgroup {
    /// How a sandbox enters, and what the zygote needs for it.
    pub(super) fn join(&self) -> (Join, impl Iterator<Item = BorrowedFd<'_>>) {
        let join = if self.version == Version::Two { Join::Clone } else { Join::Write };
        (join, self.handles.iter().map(AsFd::as_fd))
    }

    /// The sandbox is in it: what that took is closed.
    pub(super) fn entered(&mut self) {
        self.handles.clear();
    }

    /// Limits the memory, the kernel's own included; without a limit if none is given.
    pub(super) fn set_memory(&self, mib: Option<u64>) -> io::Result<()> {
        let folder = &self.folders[0];
        let bytes = mib.map(|mib| mib.saturating_mul(1 << 20));
        if self.version == Version::Two {
            fs::write(folder.join("memory.max"), bytes.map_or_else(|| "max".to_owned(), |bytes| bytes.to_string()))?;
            // Absent without swap.
            let _ = fs::write(folder.join("memory.swap.max"), "0");
        } else {
            let bytes = bytes.map_or_else(|| "-1".to_owned(), |bytes| bytes.to_string());
            // The limit with swap may not be below the one without, in whichever direction both move.
            let together = folder.join("memory.memsw.limit_in_bytes");
            let _ = fs::write(&together, &bytes);
            fs::write(folder.join("memory.limit_in_bytes"), &bytes)?;
            let _ = fs::write(together, &bytes);
        }
        Ok(())
    }

    /// Limits processes and processor time.
    fn set_rest(&self, limits: Limits) -> io::Result<()> {
        let pids = if self.version == Version::Two { &self.folders[0] } else { &self.folders[1] };
        // Those of PID 1 and of a shell that is being replaced are beside the shell's own.
        fs::write(pids.join("pids.max"), limits.pids.saturating_add(2).to_string())?;
        if self.version == Version::One {
            // What waits in sockets is counted with the rest only in version 2; here only from the first limit on. Absent
            // where the kernel counts none of it.
            let _ = fs::write(self.folders[0].join("memory.kmem.tcp.limit_in_bytes"), SOCKET_BYTES.to_string());
        }
        let Some(cpus) = limits.cpus else { return Ok(()) };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "the configuration's schema bounds it"
        )]
        let quota = (cpus * PERIOD_US as f64) as u64;
        match (self.version, self.folders.get(2)) {
            (Version::Two, _) => fs::write(self.folders[0].join("cpu.max"), format!("{quota} {PERIOD_US}")),
            (Version::One, Some(folder)) => {
                fs::write(folder.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
                fs::write(folder.join("cpu.cfs_quota_us"), quota.to_string())
            }
            (Version::One, None) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// How often its processor time was used up.
    #[cfg(test)]
    pub(super) fn throttled(&self) -> u64 {
        let folder = self.folders.get(2).unwrap_or(&self.folders[0]);
        let stat = fs::read_to_string(folder.join("cpu.stat")).unwrap_or_default();
        stat.lines().find_map(|line| line.strip_prefix("nr_throttled ")?.parse().ok()).unwrap_or(0)
    }

    /// Removes the group with what is left in it. Blocks for milliseconds.
    pub(super) fn remove(&self) -> io::Result<()> {
        for folder in &self.folders {
            let mut tries = 0;
            while let Err(error) = fs::remove_dir(folder) {
                if error.kind() == io::ErrorKind::NotFound {
                    break;
                }
                if tries == 0 && self.version == Version::Two {
                    // Whatever is left of a sandbox that has ended; the kernel may be too old.
                    let _ = fs::write(folder.join("cgroup.kill"), "1");
                }
                tries += 1;
                if error.raw_os_error() != Some(libc::EBUSY) || tries >= REMOVALS {
                    return Err(error);
                }
                std::thread::sleep(REMOVAL_PAUSE);
            }
        }
        Ok(())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for folder in &self.folders {
            // One that is not empty yet is removed with its folder by the zygote or by the next server.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// The name of this server's folder.
fn own_name() -> io::Result<String> {
    let pid = std::process::id();
    Ok(format!("{PREFIX}{pid}-{}-{}", started(pid)?, NEXT_FOLDER.fetch_add(1, Ordering::Relaxed)))
}

/// Numbers the folders of one process.
static NEXT_FOLDER: AtomicU64 = AtomicU64::new(0);

/// When the process started, in ticks since the machine did.
fn started(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().nth(19)?.parse().ok());
    ticks.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Removes the folders beside this one whose servers are gone.
fn sweep(folder: &Path) {
    for entry in folder.parent().and_then(|parent| fs::read_dir(parent).ok()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let mut parts = rest.split('-').map(str::parse::<u64>);
        let (Some(Ok(pid)), Some(Ok(ticks))) = (parts.next(), parts.next()) else { continue };
        let lives = u32::try_from(pid).is_ok_and(|pid| started(pid).is_ok_and(|started| started == ticks));
        if !lives {
            remove_tree(&entry.path());
        }
    }
}

/// Removes a folder of groups without processes.
fn remove_tree(top: &Path) {
    for group in fs::read_dir(top).into_iter().flatten().flatten() {
        let _ = fs::remove_dir(group.path());
    }
    let _ = fs::remove_dir(top);
}

/// Where a hierarchy is mounted, and which of its groups is at that place.
fn mounted<'a>(mounts: &'a str, kind: &str, option: Option<&str>) -> Option<(&'a str, &'a str)> {
    mounts.lines().find_map(|line| {
        let (place, source) = line.split_once(" - ")?;
        let mut source = source.split_whitespace();
        if source.next() != Some(kind) {
            return None;
        }
        let options = source.nth(1)?;
        if option.is_some_and(|option| !options.split(',').any(|found| found == option)) {
            return None;
        }
        let mut place = place.split_whitespace().skip(3);
        Some((place.next()?, place.next()?))
    })
}

/// The folder of a group, if it is below the mount.
fn folder(mounts: &str, kind: &str, option: Option<&str>, group: &str) -> Option<PathBuf> {
    let (root, place) = mounted(mounts, kind, option)?;
    let inside = Path::new(group).strip_prefix(root).unwrap_or_else(|_| Path::new(""));
    let folder = Path::new(place).join(inside);
    // A group outside the mount, as in a container that sees only its own.
    Some(if folder.is_dir() { folder } else { PathBuf::from(place) })
}

/// The place for groups of version 2.
fn version_two(mounts: &str, own: &str, name: &str) -> Result<PathBuf, String> {
    let group =
        own.lines().find_map(|line| line.strip_prefix("0::")).ok_or("there is no control group of version 2")?;
    let own = folder(mounts, "cgroup2", None, group).ok_or("no cgroup2 file system is mounted")?;
    let root = folder(mounts, "cgroup2", None, "/").unwrap_or_else(|| own.clone());
    let controllers = |of: &Path| fs::read_to_string(of.join("cgroup.controllers")).unwrap_or_default();
    let has = |of: &Path| ["memory", "pids"].iter().all(|name| controllers(of).split_whitespace().any(|c| c == *name));
    let enabled = |of: &Path| {
        let enabled = fs::read_to_string(of.join("cgroup.subtree_control")).unwrap_or_default();
        ["memory", "pids"].iter().all(|name| enabled.split_whitespace().any(|c| c == *name))
    };
    // Of the first place that has the controllers.
    let mut reason = None;
    // Where an earlier one of this program's, or systemd (`DelegateSubgroup=server`), has put the server out of the way.
    let above = own.parent().filter(|_| own.file_name() == Some(OWN_GROUP.as_ref()));
    for parent in above.into_iter().chain([own.as_path(), root.as_path()]) {
        if !has(parent) {
            continue;
        }
        if !is_writable(parent) {
            reason.get_or_insert_with(|| {
                format!(
                    "the control group {group} cannot be written to; give the server one of its own (systemd: \
                     Delegate=yes), or mount it writable"
                )
            });
            continue;
        }
        if enabled(parent) || delegate(parent).is_ok() {
            return Ok(parent.join(name));
        }
        reason.get_or_insert_with(|| {
            format!(
                "other processes than the server are in the control group {group}, which cannot have groups of its own \
                 then; give the server one for itself (systemd: Delegate=yes, DelegateSubgroup=server)"
            )
        });
    }
    Err(reason.unwrap_or_else(|| {
        format!(
            "the control group {group} has no memory and pids controllers; delegate them to the server (systemd: \
             Delegate=yes)"
        )
    }))
}

/// Whether this process may make groups in this one.
fn is_writable(group: &Path) -> bool {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    accessat(CWD, group, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

/// Moves this process, if it is the only one, out of its group, which may then have groups with controllers.
fn delegate(parent: &Path) -> io::Result<()> {
    let control = parent.join("cgroup.subtree_control");
    // Without processor time, rather than not at all.
    let enable = || fs::write(&control, "+memory +pids +cpu").or_else(|_| fs::write(&control, "+memory +pids"));
    if enable().is_ok() {
        return Ok(());
    }
    let inside = fs::read_to_string(parent.join("cgroup.procs"))?;
    let this = std::process::id().to_string();
    if inside.lines().any(|pid| pid != this) {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    let own = parent.join(OWN_GROUP);
    match fs::create_dir(&own) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::write(own.join("cgroup.procs"), &this)?;
    enable()
}

/// The places for groups of version 1: memory, pids, and cpu if it is there.
fn version_one(mounts: &str, own: &str, name: &str) -> Option<Vec<PathBuf>> {
    let place = |controller: &str| {
        let group = own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            fields.next()?.split(',').any(|found| found == controller).then(|| fields.next())?
        })?;
        folder(mounts, "cgroup", Some(controller), group).map(|parent| parent.join(name))
    };
    let (memory, pids) = (place("memory")?, place("pids")?);
    Some([memory, pids].into_iter().chain(place("cpu")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_in_mountinfo() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
                      31 30 0:27 /docker/1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                      33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(mounted(mounts, "cgroup", Some("memory")), Some(("/docker/1", "/sys/fs/cgroup/memory")));
        assert_eq!(mounted(mounts, "cgroup", Some("cpu")), Some(("/", "/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!(mounted(mounts, "cgroup", Some("pids")), None);
        assert_eq!(mounted(mounts, "cgroup2", None), Some(("/", "/sys/fs/cgroup/unified")));
    }

    #[test]
    fn a_server_without_a_hierarchy_is_told_what_to_do() {
        assert!(version_two("", "4:memory:/\n", "x").is_err());
        assert!(version_one("", "4:memory:/\n", "x").is_none());
        let reason = version_two("33 30 0:29 / /nowhere rw - cgroup2 cgroup2 rw\n", "0::/a\n", "x").unwrap_err();
        assert!(reason.contains("Delegate=yes"), "{reason}");
    }

    #[test]
    fn a_folder_of_a_server_that_is_gone_is_removed() {
        let place = std::env::temp_dir().join(format!("cgroup-sweep-{}", std::process::id()));
        let own = own_name().unwrap();
        for name in [own.as_str(), "sandbox-4194305-1-0", "sandbox-other"] {
            fs::create_dir_all(place.join(name).join("0")).unwrap();
        }
        sweep(&place.join("new"));
        let mut left: Vec<_> = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        let mut expected = vec![own.into(), std::ffi::OsString::from("sandbox-other")];
        expected.sort();
        assert_eq!(left, expected);
        fs::remove_dir_all(place).unwrap();
    }
}
