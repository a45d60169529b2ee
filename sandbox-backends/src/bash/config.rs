//! What a deployer and a client say about shells.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::egress::EgressConfig;
use super::error::ShellError;
use super::script::is_name;
use super::tools::NewFile;

/// How well sandboxes are isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Tier {
    /// Everything.
    A,
    /// Without control groups: no limit on the memory and the processor time of a sandbox as a whole.
    B,
    /// Also without `/proc` inside.
    C,
    /// Without namespaces: landlock and the system call filter are the only walls.
    D,
}

/// Configuration of the resource.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BashConfig {
    /// The least isolation that the resource starts with. Absent: B for a server that listens beyond loopback, else C;
    /// without namespaces, at D, it starts only if that is written here.
    pub strict: Option<Tier>,
    /// Sandboxes kept ready for sessions to come.
    #[schemars(range(max = 1000))]
    pub min_idle: usize,
    /// Sandboxes at once, those kept ready included; 10,000 if absent. The resource has a limit of its own beside it.
    #[schemars(range(min = 1, max = 10_000))]
    pub max_sessions: usize,
    /// Memory of a sandbox, in MiB, where the server has control groups: 2048 if absent. Elsewhere the address space of
    /// each process, without a limit if absent.
    #[schemars(range(min = 16))]
    pub memory_mib: Option<u64>,
    /// Processes and threads of a sandbox at once.
    #[schemars(range(min = 8))]
    pub pids: u64,
    /// Processors that a sandbox may use up, such as 0.5, where the server has control groups; without a limit if absent.
    #[schemars(range(min = 0.05, max = 1024))]
    pub cpus: Option<f64>,
    /// Size of `/workspace`, in MiB, in memory.
    #[schemars(range(min = 1))]
    pub workspace_mib: u64,
    /// Size of `/tmp` and of `/dev/shm`, each, in MiB, in memory.
    #[schemars(range(min = 1))]
    pub tmp_mib: u64,
    /// Host folder in which each sandbox gets a folder for its `/workspace`, instead of memory; its size is not limited
    /// then. It must exist.
    pub workspace_dir: Option<PathBuf>,
    /// Host folders that sandboxes can read under the same path, beside those of the system. Not below `/dev`, `/proc`,
    /// `/tmp`, `/var/tmp` and `/workspace`, where sandboxes have folders of their own.
    pub read_only_paths: Vec<PathBuf>,
    /// Output of commands and jobs that a session can fetch later, in MiB of disk; a single stream takes at most half.
    #[schemars(range(min = 1, max = 65_536))]
    pub output_mib: u64,
    /// What sandboxes may reach; nothing if absent.
    pub egress: EgressConfig,
    /// Environment of every session.
    pub env: BTreeMap<String, String>,
}

impl Default for BashConfig {
    fn default() -> Self {
        Self {
            strict: None,
            min_idle: 2,
            max_sessions: 10_000,
            memory_mib: None,
            pids: 256,
            cpus: None,
            workspace_mib: 512,
            tmp_mib: 128,
            workspace_dir: None,
            read_only_paths: Vec::new(),
            output_mib: 64,
            egress: EgressConfig::default(),
            env: BTreeMap::new(),
        }
    }
}

/// Configuration of a session.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BashSessionConfig {
    /// Environment, beside that of the resource.
    pub env: BTreeMap<String, String>,
    /// Working directory to begin in, which must exist; `/workspace` if absent.
    pub cwd: Option<String>,
    /// Memory in MiB, instead of the resource's and not more than that.
    #[schemars(range(min = 16))]
    pub memory_mib: Option<u64>,
    /// What the sandbox may reach, as `host:port`: a part of what the resource permits, and all of it if absent.
    pub egress: Option<SessionEgress>,
    /// Files to begin with, by path: the text of each, or `{"base64": ".."}`. Folders above them are made.
    pub files: BTreeMap<String, NewFile>,
}

/// What a session may reach.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionEgress {
    /// Servers as `host:port`, each covered by the resource's own list.
    pub allow: Vec<String>,
}

impl BashConfig {
    /// Memory of a sandbox in MiB, where there are control groups.
    pub(super) fn sandbox_memory_mib(&self) -> u64 {
        self.memory_mib.unwrap_or(2048)
    }
}

/// Refuses what cannot be a variable of a shell.
pub(super) fn check_env<'a>(variables: impl IntoIterator<Item = (&'a String, &'a String)>) -> Result<(), ShellError> {
    for (name, value) in variables {
        let reason = if !is_name(name) {
            format!("{name:?} is no name of a variable: letters, digits and `_` were expected, and no digit first")
        } else if value.contains('\0') {
            format!("the value of {name} has a NUL byte, which no variable can hold")
        } else {
            continue;
        };
        return Err(ShellError::Invalid { option: "env", reason });
    }
    Ok(())
}
