//! What a [`Sandbox`] is made of.

use std::{path::PathBuf, time::Duration};

use sandbox_types::WorkerId;

use crate::{
    client::{HttpServiceClient, Token, random},
    error::{ClientError, Result},
    sandbox::Sandbox,
};

/// Where a server is looked for, and started, if nothing else is said.
pub const DEFAULT_URL: &str = "http://127.0.0.1:18890";

/// The shortest pause between heartbeats.
const MIN_HEARTBEAT: Duration = Duration::from_millis(100);

/// What a [`Sandbox`] is made of; each setting has a default.
#[derive(Clone, Debug)]
#[must_use]
pub struct SandboxBuilder {
    url: String,
    worker: Option<String>,
    token: Option<Token>,
    timeout: Option<Duration>,
    retries: Option<u32>,
    pub(crate) heartbeat: Option<Duration>,
    pub(crate) warmup: Vec<String>,
    pub(crate) auto_start: bool,
    pub(crate) start: StartSettings,
}

/// How a server is started.
#[derive(Clone, Debug)]
pub(crate) struct StartSettings {
    pub(crate) binary: Option<PathBuf>,
    pub(crate) config: Option<PathBuf>,
    pub(crate) startup_timeout: Duration,
    pub(crate) linger: Duration,
    pub(crate) detach: bool,
    pub(crate) runtime_dir: Option<PathBuf>,
}

impl Default for SandboxBuilder {
    fn default() -> Self {
        Self {
            url: DEFAULT_URL.to_owned(),
            worker: None,
            token: None,
            timeout: None,
            retries: None,
            heartbeat: Some(Duration::from_secs(30)),
            warmup: Vec::new(),
            auto_start: true,
            start: StartSettings {
                binary: None,
                config: None,
                startup_timeout: Duration::from_secs(30),
                linger: Duration::from_secs(30),
                detach: false,
                runtime_dir: None,
            },
        }
    }
}

impl SandboxBuilder {
    /// The address of the server; [`DEFAULT_URL`] if none is given.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = url.into();
        self
    }

    /// Who calls: sessions belong to a worker. `sandbox_` and 16 random digits if none is given.
    pub fn worker_id(mut self, worker: impl Into<String>) -> Self {
        self.worker = Some(worker.into());
        self
    }

    /// The token of a server that wants one.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(Token::from(token.into()));
        self
    }

    /// How long a call may take that names no limit itself. The server ends it then; the client waits five seconds longer for
    /// it to say so. Without one the limit of the tool holds, else that of the server (55 seconds).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How often a request is sent again that may be; 5 if nothing is said.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = Some(retries);
        self
    }

    /// How often the worker's sessions are kept from ending for want of use, from the first one on that is made; each 30
    /// seconds if nothing is said, never with none.
    pub fn heartbeat(mut self, every: impl Into<Option<Duration>>) -> Self {
        self.heartbeat = every.into().map(|every| every.max(MIN_HEARTBEAT));
        self
    }

    /// Resources that [`Sandbox::start`] gets ready.
    pub fn warmup<T: Into<String>>(mut self, resources: impl IntoIterator<Item = T>) -> Self {
        self.warmup = resources.into_iter().map(Into::into).collect();
        self
    }

    /// Whether to start a server when none answers at an address of this machine; it is if nothing is said. It has the
    /// environment and the working directory of the client that starts it.
    pub fn auto_start(mut self, auto_start: bool) -> Self {
        self.auto_start = auto_start;
        self
    }

    /// The configuration file of a server that is started.
    pub fn config(mut self, path: impl Into<PathBuf>) -> Self {
        self.start.config = Some(path.into());
        self
    }

    /// The program of a server that is started: `sandbox`, or a server of your own. If none is given, what `SANDBOX_BIN` names,
    /// or `sandbox` beside the running program, or in `PATH`.
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.start.binary = Some(path.into());
        self
    }

    /// How long a server may take to take calls; 30 seconds if nothing is said.
    pub fn startup_timeout(mut self, timeout: Duration) -> Self {
        self.start.startup_timeout = timeout;
        self
    }

    /// How long a server that was started outlives its last client and the last call of others; 30 seconds if nothing is said.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.start.linger = linger;
        self
    }

    /// Whether a server that is started runs until it is told to end, whoever uses it.
    pub fn detach(mut self, detach: bool) -> Self {
        self.start.detach = detach;
        self
    }

    /// The folder in which the clients of this user find the servers that they have started: lock, log and address of each. If
    /// none is given, `sandbox` in `$XDG_RUNTIME_DIR`, else `sandbox-<user id>` in the folder for temporary files. It is made if
    /// need be, and must be this user's own, with mode 0700.
    pub fn runtime_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.start.runtime_dir = Some(path.into());
        self
    }

    /// The sandbox; no server is looked for yet.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when the address is no URL, or the worker id is none.
    pub fn build(self) -> Result<Sandbox> {
        let worker = self.worker.clone().unwrap_or_else(|| format!("sandbox_{:016x}", random()));
        let worker = WorkerId::parse(&worker).map_err(ClientError::Invalid)?;
        let mut client = HttpServiceClient::new(&self.url, worker)?;
        client.token.clone_from(&self.token);
        client.timeout = self.timeout;
        if let Some(retries) = self.retries {
            client.retries = retries;
        }
        Ok(Sandbox::new(client, self))
    }
}
