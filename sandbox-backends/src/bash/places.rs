//! Where a sandbox's folders are, seen from its shell.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// The folders of one sandbox.
#[derive(Debug, Clone)]
pub(super) struct Places {
    control: String,
    workspace: String,
    tmp: String,
}

impl Places {
    /// Those of a sandbox with a root of its own, or, without namespaces, of one that lives in a folder of the host.
    pub(super) fn new(base: Option<&Path>) -> Self {
        match base {
            None => Self { control: "/.sbx".into(), workspace: "/workspace".into(), tmp: "/tmp".into() },
            Some(base) => {
                let base = base.display();
                Self {
                    control: format!("{base}/.sbx"),
                    workspace: format!("{base}/workspace"),
                    tmp: format!("{base}/tmp"),
                }
            }
        }
    }

    /// A file of the protocol.
    pub(super) fn control(&self, name: &str) -> String {
        format!("{}/{name}", self.control)
    }

    /// The folder of the protocol's files; the shell's user cannot change its entries.
    pub(super) fn control_folder(&self) -> &str {
        &self.control
    }

    /// The work folder.
    pub(super) fn workspace(&self) -> &str {
        &self.workspace
    }

    /// The folder for temporary files.
    pub(super) fn tmp(&self) -> &str {
        &self.tmp
    }

    /// Makes the folders in a host folder that exists; they belong to this user if one is given.
    pub(super) fn create(&self, owner: Option<u32>) -> io::Result<()> {
        for (folder, mode, owner) in
            [(&self.control, 0o711, None), (&self.workspace, 0o700, owner), (&self.tmp, 0o700, owner)]
        {
            fs::create_dir(folder)?;
            fs::set_permissions(folder, Permissions::from_mode(mode))?;
            if owner.is_some() {
                chown(folder, owner, owner)?;
            }
        }
        Ok(())
    }

    /// The folder that all of them are in, for those that have one.
    pub(super) fn base(&self) -> io::Result<OwnedFd> {
        let base = Path::new(&self.control).parent().ok_or(io::ErrorKind::NotFound)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::open(base, flags, Mode::empty())?)
    }
}
