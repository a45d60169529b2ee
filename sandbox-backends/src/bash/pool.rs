//! Sandboxes ready for sessions to come. One that was handed out never comes back.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::cgroup::Limits;
use super::config::BashConfig;
use super::error::ShellError;
use super::files::Files;
use super::ids::HostIds;
use super::job::Jobs;
use super::sandbox::{Belongings, Sandbox, WorkFolder};
use super::session::Shell;
use super::wire::{Join, Spec};
use super::zygote::Nursery;

/// Sandboxes that are made at once.
const MAKING: usize = 4;
/// The pause before a sandbox takes the place of one that was handed out.
const REFILL_DELAY: Duration = Duration::from_millis(2);
/// The pause after a sandbox for the pool could not be made.
const BACK_OFF: Duration = Duration::from_secs(1);

/// A sandbox with a shell at its prompt.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) sandbox: Sandbox,
    pub(super) shell: Shell,
    pub(super) jobs: Arc<Jobs>,
    pub(super) files: Arc<Files>,
}

/// The sandboxes of a resource.
#[derive(Debug)]
pub(super) struct Pool {
    nursery: Nursery,
    config: BashConfig,
    idle: Mutex<VecDeque<Made>>,
    places: Arc<Semaphore>,
    making: Semaphore,
    taken: Arc<Notify>,
    folders: std::sync::atomic::AtomicU64,
}

/// What a sandbox holds outside for as long as it exists.
#[derive(Debug)]
struct Lease {
    _ids: Option<HostIds>,
    _place: OwnedSemaphorePermit,
}

impl Pool {
    /// A pool that makes sandboxes; nothing is made yet.
    pub(super) fn new(nursery: Nursery, config: BashConfig) -> Self {
        let places = Arc::new(Semaphore::new(config.max_sessions));
        Self {
            nursery,
            config,
            idle: Mutex::default(),
            places,
            making: Semaphore::new(MAKING),
            taken: Arc::default(),
            folders: std::sync::atomic::AtomicU64::new(0),
        }
    }

    /// Keeps it filled from now on, until it is dropped.
    pub(super) fn keep_filled(self: &Arc<Self>) {
        let (pool, taken) = (Arc::downgrade(self), self.taken.clone());
        tokio::spawn(async move {
            while let Some(wait) = Self::fill(&pool).await {
                tokio::select! {
                    // Not at once: who took it has work for the processor first.
                    () = taken.notified() => tokio::time::sleep(REFILL_DELAY).await,
                    () = wait => {}
                }
            }
        });
    }

    /// Fills the pool; answers for how long to wait at most before the next time, and nothing when it is gone.
    async fn fill(pool: &Weak<Self>) -> Option<impl Future<Output = ()> + use<>> {
        loop {
            let pool = pool.upgrade()?;
            if pool.idle.lock().unwrap_or_else(PoisonError::into_inner).len() >= pool.config.min_idle {
                break;
            }
            match pool.make(pool.config.memory_mib).await {
                Ok(made) => pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push_back(made),
                // The sessions take all that is permitted.
                Err(ShellError::Full { .. }) => break,
                Err(error) => {
                    tracing::warn!("no sandbox could be kept ready: {error}");
                    break;
                }
            }
        }
        Some(tokio::time::sleep(BACK_OFF))
    }

    /// A sandbox, from those that are ready if one of them still works. Its memory is limited to so many MiB.
    ///
    /// # Errors
    /// [`ShellError::Full`], and those of making one.
    pub(super) async fn take(&self, memory_mib: Option<u64>) -> Result<Made, ShellError> {
        let memory_mib = memory_mib.or(self.config.memory_mib);
        // A limit of each process is set when it is started.
        let fits = self.nursery.cgroups.is_some() || memory_mib == self.config.memory_mib;
        while let Some(mut made) = self.ready(fits) {
            if made.shell.check().await.is_err() {
                continue;
            }
            if memory_mib != self.config.memory_mib
                && let Some(cgroup) = made.sandbox.cgroup()
            {
                cgroup.set_memory(memory_mib).map_err(ShellError::io("limiting the memory"))?;
            }
            return Ok(made);
        }
        match self.make(memory_mib).await {
            // Those that are ready may hold the last places.
            Err(ShellError::Full { limit }) => {
                let mut spare = self.ready(!fits).ok_or(ShellError::Full { limit })?;
                spare.sandbox.close().await?;
                drop(spare);
                self.make(memory_mib).await
            }
            made => made,
        }
    }

    /// One of those that are ready, if such a one is wanted.
    fn ready(&self, wanted: bool) -> Option<Made> {
        if !wanted {
            return None;
        }
        let ready = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        self.taken.notify_one();
        ready
    }

    /// Makes a sandbox and starts its shell.
    pub(super) async fn make(&self, memory_mib: Option<u64>) -> Result<Made, ShellError> {
        let full = |_| ShellError::Full { limit: self.config.max_sessions };
        let place = self.places.clone().try_acquire_owned().map_err(full)?;
        let _turn = self.making.acquire().await.map_err(|_| ShellError::Gone)?;
        let zygote = self.nursery.zygote().await?;
        let setup = &self.nursery.setup;
        let cgroup = self.nursery.cgroups.as_ref().map(|cgroups| {
            let memory_mib = memory_mib.or(Some(self.config.sandbox_memory_mib()));
            cgroups.create(Limits { memory_mib, pids: self.config.pids, cpus: self.config.cpus })
        });
        let cgroup = cgroup.transpose().map_err(ShellError::io("making a control group"))?;
        let ids = if setup.own_ids { HostIds::take() } else { None };
        if setup.own_ids && ids.is_none() {
            return Err(ShellError::Full { limit: self.config.max_sessions });
        }
        let host_id = ids.as_ref().map(|ids| ids.first);
        let (folder, workspace) = self.work_folder(host_id).map_err(ShellError::io("making a work folder"))?;
        let spec = Spec {
            workspace_mib: self.config.workspace_mib,
            tmp_mib: self.config.tmp_mib,
            pids: self.config.pids,
            address_space_mib: memory_mib.filter(|_| cgroup.is_none()),
            host_id,
            workspace,
            cgroup: cgroup.as_ref().map_or(Join::None, |cgroup| cgroup.join().0),
        };
        let lease = Box::new(Lease { _ids: ids, _place: place });
        let belongings = Belongings { cgroup, folder, _lease: lease, _zygote: zygote.clone() };
        let (sandbox, root, handed) = Sandbox::make(zygote, &spec, setup.namespaces, belongings).await?;
        let base = if setup.namespaces {
            String::new()
        } else {
            spec.workspace.map_or_else(String::new, |base| base.display().to_string())
        };
        let tree = Arc::new(Files::new(root, host_id.map(|init| init + 1), base));
        let jobs = Arc::new(Jobs::new(self.config.output_mib << 20));
        let shell = Shell::start(sandbox.link().clone(), sandbox.places().clone(), handed, jobs.clone()).await?;
        Ok(Made { sandbox, shell, jobs, files: tree })
    }

    /// The sandbox's folder on the host, if it has one, and how the inside is told of it.
    fn work_folder(&self, host_id: Option<u32>) -> std::io::Result<(Option<WorkFolder>, Option<PathBuf>)> {
        use std::os::unix::fs::{DirBuilderExt, chown};
        let setup = &self.nursery.setup;
        let parent = match (&setup.workspace_dir, setup.namespaces) {
            (None, true) => return Ok((None, None)),
            (Some(parent), _) => parent.clone(),
            (None, false) => std::env::temp_dir(),
        };
        let number = self.folders.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name =
            format!("sandbox-{}-{number}-{:08x}", std::process::id(), getrandom::u32().map_err(std::io::Error::other)?);
        let folder = parent.join(&name);
        // Without namespaces the shell's user passes through it to its own folders.
        let mode = if setup.namespaces { 0o700 } else { 0o711 };
        std::fs::DirBuilder::new().mode(mode).create(&folder)?;
        let folder = WorkFolder(folder);
        if setup.namespaces {
            if let Some(init) = host_id {
                chown(&folder.0, Some(init + 1), Some(init + 1))?;
            }
            return Ok((Some(folder), Some(name.into())));
        }
        let path = folder.0.clone();
        Ok((Some(folder), Some(path)))
    }

    /// Ends the sandboxes that are ready.
    pub(super) async fn empty(&self) {
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        for mut made in idle {
            if let Err(error) = made.sandbox.close().await {
                tracing::warn!("{error}");
            }
        }
    }

    /// The process id of the zygote.
    #[cfg(test)]
    pub(super) async fn zygote_id(&self) -> u32 {
        self.nursery.zygote().await.unwrap().id()
    }
}

#[cfg(test)]
mod tests {
    use sandbox_runtime::prelude::CancellationToken;

    use super::super::command::RunRequest;
    use super::super::tier;
    use super::*;

    #[tokio::test]
    async fn a_spare_sandbox_gives_its_place_to_one_with_another_limit() {
        let config = BashConfig { max_sessions: 1, ..BashConfig::default() };
        let (found, _) = tier::find(&config).await.unwrap();
        // Without control groups a limit cannot be changed later.
        let pool = Pool::new(Nursery::new(found.nursery.setup.clone(), None), config.clone());
        let spare = pool.make(config.memory_mib).await.unwrap();
        pool.idle.lock().unwrap().push_back(spare);
        let mut made = pool.take(Some(700)).await.unwrap();
        let outcome = made.shell.run(RunRequest::small("ulimit -v"), &CancellationToken::new()).await.unwrap();
        assert_eq!(outcome.stdout.text, "716800\n");
        assert!(matches!(pool.take(Some(700)).await, Err(ShellError::Full { limit: 1 })));
        made.sandbox.close().await.unwrap();
    }
}
