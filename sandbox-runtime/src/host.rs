//! `Host`: a configuration and the linked backends become a running executor.

use std::{sync::Arc, time::Duration};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::task::TaskTracker;

use crate::{
    config::{Config, ConfigErrors},
    executor::{TimeLimits, ToolExecutor},
    journal::Journal,
    linked::Linked,
    registry::{Registry, RegistryErrors, Shared},
    router::SessionTable,
    runs::RunStore,
};

/// A running executor and the runtime of its hooks, which outlives whatever serves it.
pub struct Host {
    executor: Arc<ToolExecutor>,
    /// Taken at the end.
    runtime: Option<Runtime>,
    handle: Handle,
    drain: Duration,
}

/// Why a host did not start.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The configuration and the linked backends do not fit.
    #[error(transparent)]
    Registry(#[from] RegistryErrors),
    /// The configuration breaks its own rules.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// `server.data_dir` cannot be used.
    #[error("server.data_dir {path}: {error}")]
    DataDir {
        /// The folder.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The system gives no threads.
    #[error("the runtime of the backends cannot be started: {0}")]
    Runtime(std::io::Error),
}

impl Host {
    /// Checks everything, then starts what the configuration wants warm in the background.
    ///
    /// # Errors
    /// Every fault of configuration and backends, together; a data folder that cannot be used.
    pub fn start(config: &Config, linked: &Linked) -> Result<Self, HostError> {
        // Also for a configuration that was made in code.
        config.validate()?;
        let runtime = Builder::new_multi_thread()
            .thread_name("sandbox-backends")
            .enable_all()
            .build()
            .map_err(HostError::Runtime)?;
        let executor = match assemble(config, linked, runtime.handle().clone()) {
            Ok(executor) => executor,
            Err(error) => {
                // Nothing runs on it yet. Dropped where it is, it would panic inside another runtime.
                runtime.shutdown_background();
                return Err(error);
            }
        };
        executor.watchdog.start(&executor.runs);
        if config.warmup.enabled {
            let (executor, names) = (executor.clone(), config.warmup.resources.clone());
            runtime.spawn(async move { executor.warmup(names).await });
        }
        let handle = runtime.handle().clone();
        Ok(Self {
            executor,
            runtime: Some(runtime),
            handle,
            drain: Duration::from_secs_f64(config.server.drain_seconds),
        })
    }

    /// Checks configuration and backends without starting anything.
    ///
    /// # Errors
    /// Every fault, together.
    pub fn check(config: &Config, linked: &Linked) -> Result<Arc<ToolExecutor>, HostError> {
        // Nothing runs on it: the executor is for looking at its registry.
        let runtime = Builder::new_current_thread().build().map_err(HostError::Runtime)?;
        let mut config = config.clone();
        config.server.data_dir = None;
        let executor = assemble(&config, linked, runtime.handle().clone());
        // Dropped where it is, it would panic inside another runtime.
        runtime.shutdown_background();
        executor
    }

    /// What runs the tools.
    pub fn executor(&self) -> &Arc<ToolExecutor> {
        &self.executor
    }

    /// The runtime of the hooks.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// How long calls may take to finish at the end (`server.drain_seconds`).
    pub fn drain_limit(&self) -> Duration {
        self.drain
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Whoever still holds the executor must not begin on a runtime that is gone.
        self.executor.drain();
        // A blocking body that never returns must not keep the process alive.
        match self.runtime.take() {
            // To wait here would panic.
            Some(runtime) if Handle::try_current().is_ok() => runtime.shutdown_background(),
            Some(runtime) => runtime.shutdown_timeout(Duration::from_secs(1)),
            None => {}
        }
    }
}

/// What a host runs, on any runtime.
pub(crate) fn assemble(config: &Config, linked: &Linked, runtime: Handle) -> Result<Arc<ToolExecutor>, HostError> {
    let journal = match &config.server.data_dir {
        None => None,
        Some(folder) => Some(
            Journal::open(folder).map_err(|error| HostError::DataDir { path: folder.display().to_string(), error })?,
        ),
    };
    let table = SessionTable::new(runtime.clone(), journal);
    let cleanups = TaskTracker::new();
    let server = &config.server;
    let runs = RunStore::new(table.incarnation, server.run_memory_mib << 20, server.run_buffer_kib << 10);
    let shared = Shared {
        runtime: runtime.clone(),
        data_dir: config.server.data_dir.as_deref(),
        exposed: !config.server.is_loopback(),
        faults: table.faults.clone(),
        watchdog: Arc::default(),
        cleanups: cleanups.clone(),
    };
    let watchdog = shared.watchdog.clone();
    let registry = Registry::build(config, linked, &shared)?;
    let limits = TimeLimits {
        default: Duration::from_secs_f64(config.server.default_timeout_seconds),
        max: Duration::from_secs_f64(config.server.max_timeout_seconds),
        reattach: Duration::from_secs_f64(config.server.reattach_seconds),
    };
    Ok(ToolExecutor::new(registry, table, cleanups, runtime, limits, runs, watchdog))
}
