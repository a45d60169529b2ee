//! Which isolation this host gives, found by really making a sandbox.

use schemars::JsonSchema;
use serde::Serialize;

use super::cgroup::Cgroups;
use super::config::{BashConfig, Tier};
use super::error::{ShellError, Step};
use super::ids;
use super::pool::Pool;
use super::wire::Setup;
use super::zygote::Nursery;

/// The isolation that sandboxes get.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct Isolation {
    /// Its tier.
    pub(super) tier: Tier,
    /// What it lacks, in comparison with tier A.
    pub(super) missing: Vec<Missing>,
}

/// One thing that this host does not give.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct Missing {
    /// What is missing, and what follows from that.
    pub(super) what: &'static str,
    /// Why.
    pub(super) why: String,
    /// How to get it.
    pub(super) remedy: &'static str,
}

/// Finds the best isolation there is: tries with everything, and gives up one thing after the other as the kernel
/// refuses it. Answers a pool that makes such sandboxes.
///
/// # Errors
/// Not even the lowest tier works.
pub(super) async fn find(config: &BashConfig) -> Result<(Pool, Isolation), ShellError> {
    let mut missing = Vec::new();
    let cgroups = || match Cgroups::find() {
        Ok(cgroups) => (Some(cgroups), None),
        Err(why) => (None, Some(why)),
    };
    let mut setup = Setup {
        namespaces: true,
        own_ids: ids::available().is_some(),
        groups: None,
        // Else the kernel opens the memory of who changes his user to that user, which would be PID 1's to the shell.
        lends_memory: std::fs::read_to_string("/proc/sys/fs/suid_dumpable").is_ok_and(|open| open.trim() != "1"),
        proc: true,
        workspace_dir: config.workspace_dir.clone(),
        read_only_paths: config.read_only_paths.clone(),
    };
    let (mut groups, mut groups_refused) = cgroups();
    let mut no_namespaces = None;
    loop {
        let pool = Pool::new(Nursery::new(setup.clone(), groups.take()), config.clone());
        let error = match pool.make(config.memory_mib).await {
            Ok(mut made) => {
                made.sandbox.close().await?;
                let limited = groups_refused.is_none();
                if let Some(why) = groups_refused {
                    missing.push(Missing {
                        what: "control groups: the memory and the processor time of a sandbox as a whole are not limited",
                        why,
                        remedy: "run the server as root or with a delegated control group (systemd: Delegate=yes)",
                    });
                }
                if !setup.own_ids {
                    missing.push(Missing {
                        what: "user ids of its own: all sandboxes share the server's, and what the kernel counts by user \
                               (epoll watches, pipe memory) is shared with the server",
                        why: "the server is not root, or has too few ids in its user namespace".to_owned(),
                        remedy: "run the server as root; its sandboxes never are",
                    });
                }
                let tier = match (setup.namespaces, setup.proc, limited) {
                    (false, ..) => Tier::D,
                    (true, false, _) => Tier::C,
                    (true, true, false) => Tier::B,
                    (true, true, true) => Tier::A,
                };
                return Ok((pool, Isolation { tier, missing }));
            }
            Err(error) => error,
        };
        drop(pool);
        let ShellError::Isolation { step, source } = &error else { return Err(neither(no_namespaces, error)) };
        if !is_refusal(source) {
            // A fault, which a lower tier would only hide.
            return Err(neither(no_namespaces, error));
        }
        match step {
            Step::Cgroup if groups_refused.is_none() => groups_refused = Some(error.to_string()),
            // Root in a user namespace with a single id.
            Step::IdMap if setup.own_ids => setup.own_ids = false,
            Step::Proc if setup.namespaces && setup.proc => {
                setup.proc = false;
                missing.push(Missing {
                    what: "/proc inside: process substitution, /dev/stdin, ps and what else reads it do not work",
                    why: error.to_string(),
                    remedy: "unmask /proc of the server's container (docker: --security-opt systempaths=unconfined; \
                             podman: --security-opt unmask=ALL)",
                });
            }
            Step::Namespaces
            | Step::IdMap
            | Step::Identity
            | Step::Propagation
            | Step::RootDirectory
            | Step::SystemFolders
            | Step::SystemFiles
            | Step::Devices
            | Step::Terminals
            | Step::WorkFolders
            | Step::PivotRoot
            | Step::ReadOnlyRoot
                if setup.namespaces =>
            {
                setup.namespaces = false;
                setup.own_ids = ids::available().is_some();
                missing.push(Missing {
                    what: "namespaces: sandboxes share the host's processes, network and file names; system call filter \
                           and landlock are the only walls (neither keeps it from changing the permissions of files \
                           of its own user), sizes of folders are not limited, there is no /proc inside, \
                           and nothing listens for egress",
                    why: error.to_string(),
                    remedy: "permit user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, \
                             kernel.apparmor_restrict_unprivileged_userns; in a container its seccomp profile and \
                             CAP_SYS_ADMIN)",
                });
                no_namespaces = Some(error);
            }
            _ => return Err(neither(no_namespaces, error)),
        }
        if groups_refused.is_none() {
            (groups, groups_refused) = cgroups();
        }
    }
}

/// Names both reasons where there are two.
fn neither(namespaces: Option<ShellError>, error: ShellError) -> ShellError {
    match namespaces {
        Some(namespaces) => ShellError::NoTier { namespaces: Box::new(namespaces), without: Box::new(error) },
        None => error,
    }
}

/// Whether the kernel, or a container's filter, does not permit it.
fn is_refusal(error: &std::io::Error) -> bool {
    let refusals =
        [libc::EPERM, libc::EACCES, libc::ENOSPC, libc::EUSERS, libc::ENOSYS, libc::EINVAL, libc::EOPNOTSUPP];
    error.raw_os_error().is_some_and(|code| refusals.contains(&code))
}
