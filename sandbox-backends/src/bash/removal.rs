//! Removal of a folder that a sandbox has filled: however deep, with few descriptors and no recursion.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Folders that are open at once; what lies deeper is first moved up.
const MAX_OPEN: usize = 64;

/// Removes a folder with everything in it; one that is not there is removed already.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let top = match open(CWD, path) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    empty(&top)?;
    Ok(rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR)?)
}

/// Removes an entry of a folder, with everything in it if asked; answers how many files and folders that were.
pub(super) fn remove_entry(folder: BorrowedFd<'_>, name: &CStr, recursive: bool) -> Result<u64, Errno> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        // The first is what Linux answers for a folder.
        Err(Errno::ISDIR | Errno::PERM) => {}
        removed => return removed.map(|()| 1),
    }
    let removed = if recursive { empty(&open(folder, name)?)? } else { 0 };
    rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?;
    Ok(removed + 1)
}

/// Removes everything in a folder; answers how many files and folders that were.
fn empty(top: &OwnedFd) -> Result<u64, Errno> {
    let mut removed = 0;
    // Each open folder, and the name that it has in the one before.
    let mut open_folders: Vec<(CString, OwnedFd)> = Vec::new();
    let mut moved = 0_u64;
    loop {
        let here = open_folders.last().map_or(top, |(_, folder)| folder);
        match next_folder(here, &mut removed)? {
            Some(name) if open_folders.len() >= MAX_OPEN => {
                // Beside the others at the top, under a name that is not there yet.
                loop {
                    moved += 1;
                    let target = CString::new(format!(".removed-{moved}")).unwrap_or_default();
                    let flags = rustix::fs::RenameFlags::NOREPLACE;
                    match rustix::fs::renameat_with(here, &name, top, &target, flags) {
                        Err(Errno::EXIST) => {}
                        result => break result?,
                    }
                }
            }
            Some(name) => {
                let folder = open(here, &name)?;
                open_folders.push((name, folder));
            }
            None => {
                let Some((name, _)) = open_folders.pop() else { return Ok(removed) };
                let parent = open_folders.last().map_or(top, |(_, folder)| folder);
                rustix::fs::unlinkat(parent, &name, AtFlags::REMOVEDIR)?;
                removed += 1;
            }
        }
    }
}

/// Removes what is no folder, and answers a folder that is in it.
fn next_folder(folder: &OwnedFd, removed: &mut u64) -> Result<Option<CString>, Errno> {
    let mut found = None;
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let is_folder = match entry.file_type() {
            FileType::Unknown => rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir()),
            kind => kind.is_dir(),
        };
        if is_folder {
            found = Some(name.to_owned());
        } else {
            remove_file(folder, name)?;
            *removed += 1;
        }
    }
    Ok(found)
}

fn remove_file(folder: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Opens a folder for removal, whatever its owner has made of its permissions.
fn open(parent: impl AsFd, name: impl rustix::path::Arg + Copy) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(&parent, name, flags, Mode::empty());
    let writable = || rustix::fs::chmodat(&parent, name, Mode::RWXU, AtFlags::empty());
    match opened {
        Ok(folder) => {
            // Without privilege, entries can only be removed from a folder that may be written to.
            let _ = rustix::fs::fchmod(&folder, Mode::RWXU);
            Ok(folder)
        }
        Err(Errno::ACCESS) => {
            writable()?;
            rustix::fs::openat(&parent, name, flags, Mode::empty())
        }
        Err(error) => Err(error),
    }
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
        assert_eq!(remove_entry(parent.as_fd(), &name, true).unwrap(), 1 + 5000 + 2 * 50);
        fs::create_dir_all(top.join("a/b")).unwrap();
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        remove_tree(&top).unwrap();
    }
}
