//! `bash`: one persistent, isolated shell per session.
//!
//! A command becomes two lines on the shell's private pipe and its end comes back on a fifo of its own (`session.rs`,
//! `script.rs`). The shell runs in a sandbox (`sandbox.rs`) that a zygote, a re-execution of this program (`zygote.rs`),
//! has forked; `inside/` is what runs there. Sandboxes are made ahead (`pool.rs`), at the best isolation that the host
//! gives (`tier.rs`). What runs beside the shell is a job (`job.rs`).

mod cgroup;
mod code;
mod command;
mod config;
mod egress;
mod error;
mod files;
mod ids;
mod inside;
mod job;
mod ladder;
mod output;
mod places;
mod pool;
mod readiness;
mod removal;
mod sandbox;
mod script;
mod session;
mod signals;
mod spool;
mod streams;
mod terminal;
mod tier;
mod tools;
mod walk;
mod wire;
mod zygote;

#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError};

use sandbox_runtime::prelude::*;
use tokio::task::AbortHandle;

use code::Interpreters;
use config::check_env;
pub use config::{BashConfig, BashSessionConfig, SessionEgress, Tier};
pub use egress::EgressConfig;
use egress::{Egress, Rule};
use error::ShellError;
use files::Files;
pub(crate) use inside::zygote_main;
use job::Jobs;
use pool::Pool;
use sandbox::Sandbox;
use session::Shell;
pub use tools::NewFile;

/// Shells in sandboxes of their own.
#[derive(Debug)]
pub struct BashBackend {
    config: BashConfig,
    /// The least isolation to start with.
    strict: Tier,
    /// What sandboxes may reach.
    egress: Vec<Rule>,
}

/// What is shared by all sessions of the resource.
#[derive(Debug)]
pub struct Shells {
    pool: Arc<Pool>,
}

/// One session: its sandbox, its shell, and what runs beside that.
#[derive(Debug)]
pub struct BashSession {
    sandbox: Sandbox,
    /// Commands take turns.
    shell: tokio::sync::Mutex<Shell>,
    jobs: Arc<Jobs>,
    files: Arc<Files>,
    /// Edits take turns: each writes what it has read before.
    edits: tokio::sync::Mutex<()>,
    /// The shell's directory after its last command.
    cwd: std::sync::Mutex<String>,
    /// The terminal of the command that has one now.
    terminal: std::sync::Mutex<Option<Arc<std::os::fd::OwnedFd>>>,
    egress: Option<Egress>,
    /// Interpreters that keep their state.
    interpreters: tokio::sync::Mutex<Interpreters>,
    /// Where reading goes on between calls.
    runtime: tokio::runtime::Handle,
    handle: SessionHandle,
    watch: AbortHandle,
}

/// Shells in sandboxes of their own: a persistent bash per session, cut off from the host and its network.
#[backend(name = "bash")]
impl BashBackend {
    fn new(config: BashConfig, resource: &ResourceContext) -> Result<Self> {
        check_env(&config.env)?;
        let folders = config.workspace_dir.iter().map(|path| ("workspace_dir", path));
        for (option, path) in folders.chain(config.read_only_paths.iter().map(|path| ("read_only_paths", path))) {
            if !path.is_absolute() || !path.exists() {
                let reason = format!("{} is no absolute path of something that exists", path.display());
                return Err(ShellError::Invalid { option, reason }.into());
            }
        }
        // Where each sandbox has folders of its own, mounted over whatever else is there.
        let own = ["/dev", "/proc", "/tmp", "/var/tmp", "/workspace"];
        let hidden = |path: &std::path::Path| own.iter().any(|own| path.starts_with(own));
        let mut paths = config.read_only_paths.iter();
        if let Some(path) = paths.find(|path| hidden(path) || path.canonicalize().is_ok_and(|path| hidden(&path))) {
            let reason = format!("{} would be hidden: sandboxes have folders of their own there", path.display());
            return Err(ShellError::Invalid { option: "read_only_paths", reason }.into());
        }
        let strict = config.strict.unwrap_or(if resource.is_exposed() { Tier::B } else { Tier::C });
        let egress = egress::rules(&config.egress.allow)?;
        Ok(Self { config, strict, egress })
    }

    /// Makes a sandbox, so that a host which refuses them is found at the start and not by the first client, and begins
    /// to keep some ready.
    async fn warmup(&self, resource: &ResourceContext) -> Result<Shells> {
        let (pool, isolation) = tier::find(&self.config).await?;
        resource.set_facts(serde_json::json!({ "isolation": isolation }));
        let missing: Vec<_> = isolation
            .missing
            .iter()
            .map(|missing| format!("{} ({}); {}", missing.what, missing.why, missing.remedy))
            .collect();
        let missing = missing.join(". ");
        if isolation.tier > self.strict {
            let message = format!(
                "sandboxes here have isolation tier {:?}, and `strict` asks for {:?}. Missing: {missing}",
                isolation.tier, self.strict
            );
            return Err(ToolError::new(ErrorCode::DEPENDENCY_FAILURE, message));
        }
        if isolation.tier > Tier::A {
            tracing::warn!(
                resource = resource.name(),
                "sandboxes have isolation tier {:?}. Missing: {missing}",
                isolation.tier
            );
        }
        let pool = Arc::new(pool);
        pool.keep_filled();
        Ok(Shells { pool })
    }

    async fn shutdown(&self, shells: Shells) -> Result<()> {
        shells.pool.empty().await;
        Ok(())
    }

    async fn initialize(
        &self,
        config: BashSessionConfig,
        shells: &Shells,
        worker: &WorkerId,
        handle: &SessionHandle,
    ) -> Result<BashSession> {
        check_env(&config.env)?;
        let egress = self.egress(&config)?;
        if let (Some(asked), limit) = (config.memory_mib, self.config.sandbox_memory_mib())
            && asked > limit
        {
            let reason = format!("{asked} MiB were asked for, the resource permits {limit}");
            return Err(ShellError::Invalid { option: "memory_mib", reason }.into());
        }
        let made = shells.pool.take(config.memory_mib).await?;
        let gone = made.sandbox.link().news.gone.subscribe();
        let watch = tokio::spawn(watch(gone, handle.clone())).abort_handle();
        let cwd = config.cwd.clone().unwrap_or_else(|| made.shell.cwd().to_owned());
        let mut session = BashSession {
            sandbox: made.sandbox,
            shell: tokio::sync::Mutex::new(made.shell),
            jobs: made.jobs,
            files: made.files,
            edits: tokio::sync::Mutex::default(),
            cwd: std::sync::Mutex::new(cwd),
            terminal: std::sync::Mutex::default(),
            egress: None,
            interpreters: tokio::sync::Mutex::default(),
            runtime: tokio::runtime::Handle::current(),
            handle: handle.clone(),
            watch,
        };
        if let Err(error) = session.prepare(&self.config, &config, egress, worker).await {
            session.end().await?;
            return Err(error);
        }
        Ok(session)
    }

    async fn cleanup(&self, session: &mut BashSession) -> Result<()> {
        Ok(session.end().await?)
    }
}

impl BashBackend {
    /// What a session may reach.
    fn egress(&self, config: &BashSessionConfig) -> Result<Vec<Rule>, ShellError> {
        let Some(asked) = &config.egress else { return Ok(self.egress.clone()) };
        let asked_rules = egress::rules(&asked.allow)?;
        for (rule, text) in asked_rules.iter().zip(&asked.allow) {
            if !self.egress.iter().any(|own| own.covers(rule)) {
                let reason = format!("`{text}` is not covered by what the resource permits");
                return Err(ShellError::Invalid { option: "egress.allow", reason });
            }
        }
        Ok(asked_rules)
    }
}

impl BashSession {
    /// Makes a sandbox that was ready for anybody the worker's own.
    async fn prepare(
        &mut self,
        resource: &BashConfig,
        config: &BashSessionConfig,
        egress: Vec<Rule>,
        worker: &WorkerId,
    ) -> Result<(), ToolError> {
        let mut proxy = std::collections::BTreeMap::new();
        if !egress.is_empty() {
            let [listener] = self.sandbox.link().order(&wire::Order::Egress).await?;
            // What the sandbox has itself goes past the proxy, unless the list means the server's host by that name.
            let local =
                ["localhost", "127.0.0.1", "::1"].map(|name| (name, egress.iter().any(|rule| rule.is_for(name))));
            let direct: Vec<_> = local.iter().filter(|(_, listed)| !listed).map(|(name, _)| *name).collect();
            let max_bytes = resource.egress.max_mib << 20;
            self.egress = Some(Egress::start(listener, egress, max_bytes, worker.to_string())?);
            for name in ["http_proxy", "https_proxy", "all_proxy"] {
                proxy.insert(name.to_owned(), egress::PROXY_URL.to_owned());
                proxy.insert(name.to_uppercase(), egress::PROXY_URL.to_owned());
            }
            for name in ["no_proxy", "NO_PROXY"] {
                proxy.insert(name.to_owned(), direct.join(","));
            }
        }
        self.write_files(config.files.clone()).await?;
        let shell = self.shell.get_mut();
        let variables = script::exports(proxy.iter().chain(&resource.env).chain(&config.env));
        if variables.is_empty() && config.cwd.is_none() {
            return Ok(());
        }
        if let Some(cwd) = &config.cwd
            && !cwd.starts_with('/')
        {
            return Err(
                ShellError::Invalid { option: "cwd", reason: "an absolute path was expected".to_owned() }.into()
            );
        }
        Ok(shell.adopt(&variables, config.cwd.as_deref()).await?)
    }

    /// Writes files, by path.
    async fn write_files(&self, new: std::collections::BTreeMap<String, NewFile>) -> Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        let files = self.files.clone();
        let new: Vec<_> = new.into_iter().map(|(path, file)| (self.path(&path), file)).collect();
        let written = tokio::task::spawn_blocking(move || write_all(&files, &new)).await;
        written.unwrap_or_else(|error| Err(ToolError::new(ErrorCode::INTERNAL_ERROR, error.to_string())))
    }

    /// The path from the root; a relative one begins in the shell's directory.
    fn path(&self, path: &str) -> String {
        if path.starts_with('/') || path.is_empty() {
            return path.to_owned();
        }
        let cwd = self.cwd.lock().unwrap_or_else(PoisonError::into_inner);
        let path = path.strip_prefix("./").unwrap_or(path);
        if path == "." { cwd.clone() } else { format!("{}/{path}", cwd.trim_end_matches('/')) }
    }

    async fn end(&mut self) -> Result<(), ShellError> {
        self.watch.abort();
        self.sandbox.close().await
    }
}

/// Writes files, with the folders above them.
fn write_all(files: &Files, new: &[(String, NewFile)]) -> Result<()> {
    let _user = files.as_user().map_err(|error| ToolError::new(ErrorCode::INTERNAL_ERROR, error.to_string()))?;
    for (path, content) in new {
        if let Some((parent, _)) = path.rsplit_once('/').filter(|(parent, _)| !parent.is_empty()) {
            files.make_folder(parent, true, 0o755)?;
        }
        files.replace(path, None, |file| std::io::Write::write_all(file, content.bytes()))?;
    }
    Ok(())
}

/// Says that the session is dead when its sandbox is.
async fn watch(mut gone: tokio::sync::watch::Receiver<bool>, handle: SessionHandle) {
    if gone.wait_for(|gone| *gone).await.is_ok() {
        handle.fail("its sandbox has ended");
    }
}
