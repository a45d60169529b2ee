//! Finds the server of an address of this machine, or starts one that all clients of the address share.

use std::{fs::File, io, path::PathBuf, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    builder::StartSettings,
    client::HttpServiceClient,
    error::{ClientError, Result},
};

/// How long a server may take to say whether it takes calls.
const PROBE_LIMIT: Duration = Duration::from_secs(3);
/// The longest that a start is waited for.
const MAX_STARTUP: Duration = Duration::from_hours(24);
/// How often it is looked whether something has come about.
const LOOK: Duration = Duration::from_millis(20);
/// How much of a log is read.
const LOG_BYTES: u64 = 64 * 1024;

/// A server that takes calls.
pub(crate) struct Found {
    pub(crate) client: HttpServiceClient,
    /// Open for as long as this client uses a server that was started for its clients.
    pub(crate) lifeline: Option<File>,
    pub(crate) log: Option<PathBuf>,
}

/// What is at an address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// A server that takes calls.
    Ready,
    /// A server that will take calls soon.
    WarmingUp,
    /// A server that ends.
    Draining,
    /// Something else.
    Foreign,
    Nobody,
}

/// Whether the server takes calls, or will soon.
pub(crate) async fn takes_calls(client: &HttpServiceClient) -> bool {
    matches!(standing(client).await, Ok(Standing::Ready | Standing::WarmingUp) | Err(_))
}

async fn standing(client: &HttpServiceClient) -> Result<Standing> {
    // Whatever is there is not to see the token.
    let client = client.without_token();
    let mut said = client.ready_within(PROBE_LIMIT).await;
    if matches!(said, Err(ClientError::Connection { sent: true, .. })) {
        // A connection can break without a reason.
        sleep(LOOK).await;
        said = client.ready_within(PROBE_LIMIT).await;
    }
    match said {
        Ok(ready) => Ok(match ready.status.as_str() {
            "ready" => Standing::Ready,
            "warming_up" => Standing::WarmingUp,
            "draining" => Standing::Draining,
            _ => Standing::Foreign,
        }),
        Err(ClientError::Connection { sent: false, .. }) => Ok(Standing::Nobody),
        Err(ClientError::Connection { sent: true, .. } | ClientError::Protocol { .. }) => Ok(Standing::Foreign),
        Err(error) => Err(error),
    }
}

/// The server at the client's address, or one that is started.
///
/// # Errors
/// None is there, and none could be started in time.
pub(crate) async fn find_or_start(given: &HttpServiceClient, settings: &StartSettings) -> Result<Found> {
    let deadline = Instant::now() + settings.startup_timeout.min(MAX_STARTUP);
    #[cfg(target_os = "linux")]
    let folder = shared::Folder::of(given, settings);
    loop {
        // First: a server that withdraws meanwhile is looked for again.
        #[cfg(target_os = "linux")]
        let shared = folder.as_ref().is_ok_and(shared::Folder::is_shared);
        #[cfg(not(target_os = "linux"))]
        let shared = false;
        let found = standing(given).await?;
        match found {
            // Nobody needs to be told of this client.
            Standing::Ready if !shared => return Ok(Found { client: given.clone(), lifeline: None, log: None }),
            Standing::WarmingUp | Standing::Draining => {}
            Standing::Ready | Standing::Foreign | Standing::Nobody => {
                #[cfg(target_os = "linux")]
                match &folder {
                    Ok(folder) => {
                        if let Some(found) = folder.find_or_start(given, settings, deadline).await? {
                            return Ok(found);
                        }
                    }
                    Err(why) => return Err(not_started(why.clone())),
                }
                #[cfg(not(target_os = "linux"))]
                return Err(not_started(format!("nothing answers at {}, and servers run on Linux only", given.url())));
            }
        }
        if Instant::now() >= deadline {
            let what = if found == Standing::Draining { "ends" } else { "warms up" };
            return Err(not_started(format!("the server at {} {what}, and has not come to it", given.url())));
        }
        sleep(LOOK).await;
    }
}

fn not_started(why: String) -> ClientError {
    ClientError::ServerStart { why, log: String::new() }
}

/// The end of a log.
pub(crate) fn log_end(path: &std::path::Path) -> io::Result<String> {
    use io::{Read as _, Seek as _};
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(io::SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The server that the clients of one user and address share, as [`sandbox_types::started`] describes it.
#[cfg(target_os = "linux")]
mod shared {
    use std::{
        env,
        fs::{self, DirBuilder, File, OpenOptions, TryLockError},
        os::unix::{
            fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
            process::CommandExt as _,
        },
        path::{Path, PathBuf},
        process::{Child, Command, Stdio},
    };

    use rustix::{
        fs::{CWD, FileType, Mode},
        process::{Pid, Signal, kill_process_group, test_kill_process},
    };
    use sandbox_types::started::{CLIENTS, LOCK, LOG, SERVER, StartedServer};
    use tokio::time::{Instant, sleep};

    use super::{ClientError, Found, HttpServiceClient, LOOK, Result, Standing, StartSettings, log_end, standing};

    /// A log that is larger begins anew with the next server.
    const MAX_LOG_BYTES: u64 = 16 * 1024 * 1024;
    /// Lines of a log that are shown.
    const LOG_LINES: usize = 20;

    pub(super) struct Folder(PathBuf);

    impl Folder {
        /// The folder of an address; it need not be there.
        ///
        /// # Errors
        /// Its place is not one of this user's own.
        pub(super) fn of(client: &HttpServiceClient, settings: &StartSettings) -> Result<Self, String> {
            let uid = rustix::process::getuid().as_raw();
            let in_runtime_dir = || {
                let folder = PathBuf::from(env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty())?);
                // That of another user is there after `sudo`, and one that is gone after a logout.
                let is_own = fs::metadata(&folder).is_ok_and(|found| found.is_dir() && found.uid() == uid);
                is_own.then(|| folder.join("sandbox"))
            };
            let in_temporary = || env::temp_dir().join(format!("sandbox-{uid}"));
            let base = settings.runtime_dir.clone().or_else(in_runtime_dir).unwrap_or_else(in_temporary);
            let failed = |error| format!("the folder {} cannot be used: {error}", base.display());
            match DirBuilder::new().mode(0o700).create(&base) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(error)),
                _ => {}
            }
            // Where everybody may write, somebody else may have made it.
            let found = fs::symlink_metadata(&base).map_err(failed)?;
            if !found.is_dir() || found.uid() != uid || found.mode() & 0o077 != 0 {
                let expected = "expected a folder that this user alone may use";
                return Err(format!("the folder {} cannot be used: {expected}", base.display()));
            }
            let name: String = client
                .authority()
                .chars()
                .map(|letter| if letter.is_ascii_alphanumeric() || letter == '.' { letter } else { '_' })
                .collect();
            Ok(Self(base.join(name)))
        }

        /// Whether there is, or was, a server that a client has started.
        pub(super) fn is_shared(&self) -> bool {
            self.0.join(SERVER).exists() || self.0.join(CLIENTS).exists()
        }

        /// The server that is there, or a new one; none where that has to wait for another one to end.
        pub(super) async fn find_or_start(
            &self,
            given: &HttpServiceClient,
            settings: &StartSettings,
            deadline: Instant,
        ) -> Result<Option<Found>> {
            let _lock = self.lock(deadline).await?;
            // Another client may have been faster.
            let at_address = standing(given).await?;
            let server = self.server();
            match at_address {
                Standing::Ready => {
                    let is_shared = server.as_ref().is_some_and(|server| is_at(&server.url, given.url()));
                    return self.found(given.clone(), is_shared).map(Some);
                }
                Standing::WarmingUp | Standing::Draining => return Ok(None),
                Standing::Foreign | Standing::Nobody => {}
            }
            if let Some(server) = server.filter(is_alive) {
                let client = given.at(&server.url)?;
                match standing(&client).await? {
                    Standing::Ready => return self.found(client, true).map(Some),
                    Standing::WarmingUp | Standing::Draining => return Ok(None),
                    Standing::Foreign | Standing::Nobody => {}
                }
            }
            let port = if at_address == Standing::Nobody { given.port() } else { 0 };
            self.start(given, settings, port, deadline).await
        }

        async fn lock(&self, deadline: Instant) -> Result<File> {
            let open = || {
                DirBuilder::new().mode(0o700).recursive(true).create(&self.0)?;
                OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(self.0.join(LOCK))
            };
            let file = open().map_err(|error| self.unusable(&error))?;
            loop {
                match file.try_lock() {
                    Ok(()) => return Ok(file),
                    Err(TryLockError::Error(error)) => return Err(self.unusable(&error)),
                    Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                        let why = "another client has been starting it all the time".to_owned();
                        return Err(ClientError::ServerStart { why, log: self.log_lines() });
                    }
                    Err(TryLockError::WouldBlock) => sleep(LOOK).await,
                }
            }
        }

        fn server(&self) -> Option<StartedServer> {
            serde_json::from_slice(&fs::read(self.0.join(SERVER)).ok()?).ok()
        }

        /// A server that is there; one of the clients' is told of this one.
        fn found(&self, client: HttpServiceClient, shared: bool) -> Result<Found> {
            if !shared {
                return Ok(Found { client, lifeline: None, log: None });
            }
            // Detached servers have no pipe, or nobody who reads it.
            let lifeline = match self.join() {
                Ok(lifeline) => Some(lifeline),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => return Err(self.unusable(&error)),
            };
            Ok(Found { client, lifeline, log: Some(self.0.join(LOG)) })
        }

        /// Says that this client is there, for as long as what is returned is open.
        fn join(&self) -> std::io::Result<File> {
            // Also for reading: so it opens before the server does.
            OpenOptions::new().read(true).write(true).open(self.0.join(CLIENTS))
        }

        async fn start(
            &self,
            given: &HttpServiceClient,
            settings: &StartSettings,
            port: u16,
            deadline: Instant,
        ) -> Result<Option<Found>> {
            let (mut starting, lifeline) = self.spawn(given, settings, port)?;
            let ended = loop {
                match starting.child().try_wait() {
                    Ok(None) => {}
                    Ok(Some(status)) => {
                        // Another one may have been on its way, started by a client that was killed.
                        if port != 0 && !matches!(standing(given).await?, Standing::Nobody | Standing::Foreign) {
                            return Ok(None);
                        }
                        break format!("it ended with {status}");
                    }
                    Err(error) => break error.to_string(),
                }
                // It was removed before; who is there now has been started since.
                if let Some(server) = self.server() {
                    let client = given.at(&server.url)?;
                    if standing(&client).await.is_ok_and(|standing| standing == Standing::Ready) {
                        starting.succeeds();
                        return Ok(Some(Found { client, lifeline, log: Some(self.0.join(LOG)) }));
                    }
                }
                if Instant::now() >= deadline {
                    break format!("it was not ready after {} s", settings.startup_timeout.as_secs_f64());
                }
                sleep(LOOK).await;
            };
            drop(starting);
            Err(ClientError::ServerStart { why: ended, log: self.log_lines() })
        }

        fn spawn(
            &self,
            given: &HttpServiceClient,
            settings: &StartSettings,
            port: u16,
        ) -> Result<(Starting<'_>, Option<File>)> {
            let binary = binary(settings)?;
            let prepare = || {
                match fs::remove_file(self.0.join(SERVER)) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                let lifeline = if settings.detach {
                    None
                } else {
                    // One that is there stays: a server that is on its way may read it.
                    match rustix::fs::mknodat(CWD, self.0.join(CLIENTS), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0) {
                        Err(error) if error != rustix::io::Errno::EXIST => return Err(error.into()),
                        _ => Some(self.join()?),
                    }
                };
                // A server that ends may write to it still.
                let path = self.0.join(LOG);
                let log = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
                if log.metadata()?.len() > MAX_LOG_BYTES {
                    log.set_len(0)?;
                }
                Ok((lifeline, log.try_clone()?, log))
            };
            let (lifeline, stdout, stderr) = prepare().map_err(|error| self.unusable(&error))?;
            let mut command = Command::new(&binary);
            command.args(["serve", "--host", &given.host(), "--port", &port.to_string(), "--lifeline"]).arg(&self.0);
            if !settings.detach {
                command.args(["--linger", &settings.linger.as_secs_f64().to_string()]);
            }
            if let Some(config) = &settings.config {
                command.arg("--config").arg(config);
            }
            command
                .env("SANDBOX__SERVER__ALLOW_SHUTDOWN", "true")
                .stdin(Stdio::null())
                .stdout(stdout)
                .stderr(stderr)
                // What a terminal sends to this program is not for a server that others use too.
                .process_group(0);
            let child = command.spawn().map_err(|error| ClientError::ServerStart {
                why: format!("{} cannot be run: {error}", binary.display()),
                log: String::new(),
            })?;
            Ok((Starting { folder: self, child: Some(child) }, lifeline))
        }

        fn log_lines(&self) -> String {
            let log = log_end(&self.0.join(LOG)).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
        }

        fn unusable(&self, error: &std::io::Error) -> ClientError {
            let why = format!("the folder {} cannot be used: {error}", self.0.display());
            ClientError::ServerStart { why, log: String::new() }
        }
    }

    /// A server that is starting: dropped before it takes calls, it is ended, so that nobody meets it half made.
    struct Starting<'a> {
        folder: &'a Folder,
        child: Option<Child>,
    }

    impl Starting<'_> {
        #[expect(clippy::expect_used, reason = "it is there until one of the two ends")]
        fn child(&mut self) -> &mut Child {
            self.child.as_mut().expect("a child that was started")
        }

        fn succeeds(mut self) {
            if let Some(child) = self.child.take() {
                reap(child);
            }
        }
    }

    impl Drop for Starting<'_> {
        fn drop(&mut self) {
            let Some(mut child) = self.child.take() else { return };
            // With what it has started: it leads a group of its own. What has ended is met by neither.
            if let Ok(None) = child.try_wait()
                && let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
            {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = child.wait();
            if self.folder.server().is_some_and(|server| !is_alive(&server)) {
                let _ = fs::remove_file(self.folder.0.join(SERVER));
            }
        }
    }

    /// Whether its process is there: another one may have its port by now.
    fn is_alive(server: &StartedServer) -> bool {
        let pid = i32::try_from(server.pid).ok().and_then(Pid::from_raw);
        pid.is_some_and(|pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
    }

    fn is_at(one: &str, other: &str) -> bool {
        let plain = |url: &str| url.replace("//localhost:", "//127.0.0.1:");
        plain(one) == plain(other)
    }

    /// The program of the server.
    fn binary(settings: &StartSettings) -> Result<PathBuf> {
        if let Some(binary) = &settings.binary {
            return Ok(binary.clone());
        }
        if let Some(binary) = env::var_os("SANDBOX_BIN").filter(|path| !path.is_empty()) {
            return Ok(binary.into());
        }
        let beside = env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
        // Where cargo puts tests and examples, the programs are one folder above.
        let above = beside
            .as_deref()
            .filter(|folder| folder.ends_with("deps") || folder.ends_with("examples"))
            .and_then(Path::parent)
            .map(Path::to_owned);
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = beside.into_iter().chain(above).chain(env::split_paths(&path));
        let found = folders.map(|folder| folder.join("sandbox")).find(|program| program.is_file());
        found.ok_or_else(|| ClientError::ServerStart {
            why: "there is no program `sandbox` beside this one or in PATH; name it with SANDBOX_BIN".to_owned(),
            log: String::new(),
        })
    }

    /// Waits for the end of a server, so that the system can forget it.
    fn reap(mut child: Child) {
        let wait = move || {
            let _ = child.wait();
        };
        // Without a thread for it, it is forgotten when this program ends.
        let _ = std::thread::Builder::new().name("sandbox-reap".into()).stack_size(64 * 1024).spawn(wait);
    }
}
