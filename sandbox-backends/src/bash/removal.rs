//! Removal of a folder that a sandbox has filled: however deep, with few descriptors and no recursion.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::files::reopen;

/// Folders that are open at once; what lies deeper is first moved up.
const MAX_OPEN: usize = 64;
/// How often a folder is read again because something has been made in it meanwhile.
const MAX_ROUNDS: u32 = 1000;
/// Entries after which a removal looks whether it is to go on.
const PACE: usize = 256;

/// Removes a folder with everything in it; one that is not there is removed already.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let top = match open(CWD, path) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    empty(top, &|| true)?;
    Ok(rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR)?)
}

/// Removes an entry of a folder, with everything in it if asked, as long as `go_on` says so; answers how many files and
/// folders that were.
///
/// # Errors
/// `ECANCELED` when it was to go on no more.
pub(super) fn remove_entry(
    folder: BorrowedFd<'_>,
    name: &CStr,
    recursive: bool,
    go_on: &dyn Fn() -> bool,
) -> Result<u64, Errno> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        // The first is what Linux answers for a folder.
        Err(Errno::ISDIR | Errno::PERM) => {}
        removed => return removed.map(|()| 1),
    }
    let removed = if recursive { empty(open(folder, name)?, go_on)? } else { 0 };
    rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?;
    Ok(removed + 1)
}

/// A folder that is being emptied.
struct Emptied {
    /// Its name in the one before; none for the first.
    name: CString,
    entries: Dir,
    /// How often it was read and had something in it again.
    rounds: u32,
}

/// Removes everything in a folder; answers how many files and folders that were.
fn empty(top: OwnedFd, go_on: &dyn Fn() -> bool) -> Result<u64, Errno> {
    let (mut removed, mut moved, mut seen) = (0, 0_u64, 0_usize);
    let mut folders = vec![Emptied { name: CString::default(), entries: Dir::new(top)?, rounds: 0 }];
    // Whether the first folder has got something since it was read.
    let mut again = false;
    while let Some(depth) = folders.len().checked_sub(1) {
        seen += 1;
        if seen.is_multiple_of(PACE) && !go_on() {
            return Err(Errno::CANCELED);
        }
        let Some(entry) = folders[depth].entries.read() else {
            if depth == 0 && !std::mem::take(&mut again) {
                return Ok(removed);
            }
            if depth > 0 {
                let parent = folders[depth - 1].entries.fd()?;
                match rustix::fs::unlinkat(parent, &folders[depth].name, AtFlags::REMOVEDIR) {
                    // Another may have done it, too.
                    Ok(()) | Err(Errno::NOENT) => {
                        folders.pop();
                        removed += 1;
                        continue;
                    }
                    // Something has been made in it meanwhile.
                    Err(Errno::NOTEMPTY | Errno::EXIST) if folders[depth].rounds < MAX_ROUNDS => {
                        folders[depth].rounds += 1;
                    }
                    Err(error) => return Err(error),
                }
            }
            folders[depth].entries.rewind();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let folder = folders[depth].entries.fd()?;
        let removal = match entry.file_type() {
            FileType::Directory => AtFlags::REMOVEDIR,
            _ => AtFlags::empty(),
        };
        match rustix::fs::unlinkat(folder, name, removal) {
            Ok(()) => removed += 1,
            // Gone, or no folder any more: the next time it is no other.
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            // A folder with something in it, or one whose kind the file system does not tell, or has told too early.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ISDIR) if depth + 1 < MAX_OPEN => {
                let inner = Dir::new(open(folder, name)?)?;
                folders.push(Emptied { name: name.to_owned(), entries: inner, rounds: 0 });
            }
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ISDIR) => {
                // It can only be moved when it may be written to.
                drop(open(folder, name)?);
                // Beside the others at the top, under a name that is not there yet.
                let first = folders[0].entries.fd()?;
                loop {
                    moved += 1;
                    let target = CString::new(format!(".removed-{moved}")).unwrap_or_default();
                    let flags = rustix::fs::RenameFlags::NOREPLACE;
                    match rustix::fs::renameat_with(folder, name, first, &target, flags) {
                        Err(Errno::EXIST) if go_on() => {}
                        result => break result?,
                    }
                }
                again = true;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

/// Opens a folder for removal, whatever its owner has made of its permissions.
fn open(parent: impl AsFd, name: impl rustix::path::Arg + Copy) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&parent, name, flags, Mode::empty()) {
        Ok(folder) => {
            // Without privilege, entries can only be removed from a folder that may be written to.
            let _ = rustix::fs::fchmod(&folder, Mode::RWXU);
            Ok(folder)
        }
        Err(Errno::ACCESS) => unlock(parent, name),
        Err(error) => Err(error),
    }
}

/// Opens a folder that its owner has closed to himself. Not by its name alone, which may be that of a link by now, to
/// anything of the host.
fn unlock(parent: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    rustix::fs::chmod(format!("/proc/self/fd/{}", found.as_raw_fd()), Mode::RWXU)?;
    reopen(&found, OFlags::RDONLY | OFlags::DIRECTORY)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_deep_tree_is_removed() {
        let top = std::env::temp_dir().join(format!("removal-{}", std::process::id()));
        fs::create_dir(&top).unwrap();
        let mut here = open(CWD, top.as_path()).unwrap();
        for depth in 0..5000 {
            rustix::fs::mkdirat(&here, c"d", Mode::RWXU).unwrap();
            if depth % 100 == 0 {
                rustix::fs::symlinkat(c"/", &here, c"link").unwrap();
                rustix::fs::mkdirat(&here, c".removed-1", Mode::empty()).unwrap();
            }
            here = open(&here, c"d").unwrap();
        }
        drop(here);
        let parent = fs::File::open(std::env::temp_dir()).unwrap();
        let name = CString::new(top.file_name().unwrap().as_encoded_bytes()).unwrap();
        assert_eq!(remove_entry(parent.as_fd(), &name, true, &|| true).unwrap(), 1 + 5000 + 2 * 50);
        fs::create_dir_all(top.join("a/b")).unwrap();
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        remove_tree(&top).unwrap();
    }

    #[test]
    fn what_many_folders_take_grows_with_their_number() {
        let top = tempfile::tempdir().unwrap();
        for number in 0..3000 {
            fs::create_dir_all(top.path().join(format!("all/{number}/inner"))).unwrap();
        }
        let looks = std::cell::Cell::new(0);
        let go_on = || {
            looks.set(looks.get() + 1);
            true
        };
        let parent = fs::File::open(top.path()).unwrap();
        assert_eq!(remove_entry(parent.as_fd(), c"all", true, &go_on).unwrap(), 1 + 2 * 3000);
        // Each folder is seen a few times, not once for every other.
        assert!(looks.get() < 10 * 3000 / PACE, "{}", looks.get());
    }

    #[test]
    fn a_removal_ends_when_nobody_waits_for_it() {
        let top = tempfile::tempdir().unwrap();
        for number in 0..2 * PACE {
            fs::create_dir_all(top.path().join(format!("all/{number}"))).unwrap();
        }
        let parent = fs::File::open(top.path()).unwrap();
        assert_eq!(remove_entry(parent.as_fd(), c"all", true, &|| false), Err(Errno::CANCELED));
        assert!(fs::read_dir(top.path().join("all")).unwrap().count() >= PACE);
    }

    #[test]
    fn a_link_in_the_place_of_a_closed_folder_changes_nothing_of_what_it_names() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let top = tempfile::tempdir().unwrap();
        let (folder, outside) = (top.path().join("folder"), top.path().join("outside"));
        fs::create_dir(&folder).unwrap();
        fs::create_dir(&outside).unwrap();
        for closed in [&folder, &outside] {
            fs::set_permissions(closed, fs::Permissions::from_mode(0o000)).unwrap();
        }
        symlink(&outside, top.path().join("link")).unwrap();
        let parent = fs::File::open(top.path()).unwrap();
        drop(unlock(&parent, c"folder").unwrap());
        assert!(unlock(&parent, c"link").is_err());
        let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&outside)), (0o700, 0o000));
    }
}
