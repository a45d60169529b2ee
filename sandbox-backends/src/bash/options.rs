//! What a caller says about a shell and a command, and what it gets back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sandbox_runtime::prelude::Progress;

use super::error::ShellError;
use super::output::Captured;
use super::wire::Config;

/// First host id of the sandboxes when the server is root; each takes two of the `HOST_ID_PAIRS` pairs from here on.
const HOST_ID_BASE: u64 = 100_000;
/// After so many sandboxes the ids are used again.
const HOST_ID_PAIRS: u64 = 32_768;

/// How a shell is set up.
#[derive(Debug, Clone)]
pub(super) struct ShellOptions {
    /// Size of `/workspace` in MiB.
    pub workspace_mib: u64,
    /// Size of `/tmp` and of `/dev/shm` in MiB, each.
    pub tmp_mib: u64,
    /// Most processes and threads of the shell's user.
    pub pids: u64,
    /// Address space of each single process in MiB.
    pub memory_mib: Option<u64>,
    /// Environment of the shell, beside `PATH`, `HOME` and the like, which it may override.
    pub env: BTreeMap<String, String>,
    /// Initial working directory, which must exist; `/workspace` without it.
    pub cwd: Option<String>,
}

impl Default for ShellOptions {
    fn default() -> Self {
        Self { workspace_mib: 512, tmp_mib: 128, pids: 256, memory_mib: None, env: BTreeMap::new(), cwd: None }
    }
}

/// One command.
#[derive(Clone, Copy)]
pub(super) struct RunRequest<'a> {
    /// Its text, any number of lines.
    pub command: &'a str,
    /// After this time it is interrupted.
    pub timeout: Duration,
    /// Most bytes of text that are kept of each stream.
    pub max_output_bytes: usize,
    /// Who is told what it writes, as it comes.
    pub live: Option<&'a Progress>,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RunOutcome {
    /// Its exit code; 128 + n after signal n.
    pub exit_code: i32,
    /// Its standard output.
    pub stdout: Captured,
    /// Its standard error.
    pub stderr: Captured,
    /// The working directory afterwards.
    pub cwd: String,
    /// How long it ran.
    pub duration: Duration,
    /// Whether the time limit ended it.
    pub timed_out: bool,
    /// Whether the caller cancelled it.
    pub cancelled: bool,
    /// Whether the shell was started again before or after it: variables and functions are lost, files are not.
    pub shell_restarted: bool,
}

impl ShellOptions {
    /// Checks the options and completes them.
    pub(super) fn config(&self) -> Result<Config, ShellError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        for (option, value) in [("workspace_mib", self.workspace_mib), ("tmp_mib", self.tmp_mib), ("pids", self.pids)] {
            if value == 0 {
                return Err(ShellError::InvalidOption { option, reason: "it must be at least 1".to_owned() });
            }
        }
        let defaults = [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/workspace"),
            ("USER", "sandbox"),
            ("LOGNAME", "sandbox"),
            ("SHELL", "/bin/bash"),
            ("LANG", "C.UTF-8"),
            ("TERM", "dumb"),
            ("TMPDIR", "/tmp"),
        ];
        let mut env: BTreeMap<_, _> = defaults.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                let reason =
                    format!("{name:?} is no variable: a name is not empty and has no `=`, and neither part has a NUL");
                return Err(ShellError::InvalidOption { option: "env", reason });
            }
            env.insert(name.clone(), value.clone());
        }
        let cwd = self.cwd.clone().unwrap_or_else(|| "/workspace".to_owned());
        if cwd.contains('\0') || cwd.len() > 4095 || !cwd.starts_with('/') {
            return Err(ShellError::InvalidOption {
                option: "cwd",
                reason: "an absolute path was expected".to_owned(),
            });
        }
        let host_id = if rustix::process::geteuid().is_root() {
            HOST_ID_BASE + 2 * (NEXT.fetch_add(1, Ordering::Relaxed) % HOST_ID_PAIRS)
        } else {
            0
        };
        let ShellOptions { workspace_mib, tmp_mib, pids, memory_mib, .. } = *self;
        Ok(Config { workspace_mib, tmp_mib, pids, memory_mib: memory_mib.unwrap_or(0), host_id, env, cwd })
    }
}
