//! The end of a server that a client has started: when the last client of this machine has gone.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read as _},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sandbox_types::started::{CLIENTS, LOCK, SERVER, StartedServer};
use tokio::sync::mpsc::UnboundedSender;

use super::shutdown::Stop;
use crate::executor::ToolExecutor;

/// How often it is looked whether somebody is there.
const LOOK: Duration = Duration::from_millis(250);

/// For whom a server was started, and how long it outlives them.
#[derive(Clone, Debug)]
pub struct Lifeline {
    /// The folder that the clients share, as [`sandbox_types::started`] describes it.
    pub folder: PathBuf,
    /// The server ends once it had no client, and nobody else called, for so long; none: it does not end by itself.
    pub linger: Option<Duration>,
}

/// When the server was last asked for more than whether it is there.
#[derive(Debug)]
pub(super) struct Activity {
    since: Instant,
    last_ms: AtomicU64,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { since: Instant::now(), last_ms: AtomicU64::new(0) })
    }

    pub(super) fn note(&self) {
        self.last_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn idle(&self) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(self.last_ms.load(Ordering::Relaxed)))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Says where the server is for as long as this lives.
#[derive(Debug)]
pub(super) struct Announced {
    file: PathBuf,
    server: StartedServer,
}

impl Announced {
    fn new(folder: &Path, address: SocketAddr) -> io::Result<Self> {
        let server = StartedServer { url: format!("http://{address}"), pid: std::process::id() };
        let file = folder.join(SERVER);
        let unfinished = file.with_extension("new");
        fs::write(&unfinished, serde_json::to_vec(&server)?)?;
        fs::rename(&unfinished, &file)?;
        Ok(Self { file, server })
    }

    fn withdraw(&self) {
        // By now it may be that of another server.
        let said = fs::read(&self.file).ok().and_then(|text| serde_json::from_slice::<StartedServer>(&text).ok());
        if said.is_some_and(|said| said == self.server) {
            let _ = fs::remove_file(&self.file);
        }
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.withdraw();
    }
}

impl Lifeline {
    /// Announces the server, and ends it when it is no longer used.
    ///
    /// # Errors
    /// The folder is not as it should be.
    pub(super) fn hold(
        self,
        address: SocketAddr,
        activity: Arc<Activity>,
        executor: Arc<ToolExecutor>,
        stop: UnboundedSender<Stop>,
    ) -> io::Result<Arc<Announced>> {
        let Some(linger) = self.linger else { return Announced::new(&self.folder, address).map(Arc::new) };
        // Without waiting for a client, here and whenever it is read.
        let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
        let clients = OpenOptions::new().read(true).custom_flags(nonblocking).open(self.folder.join(CLIENTS))?;
        let lock = OpenOptions::new().read(true).write(true).open(self.folder.join(LOCK))?;
        let announced = Arc::new(Announced::new(&self.folder, address)?);
        let watched = Arc::downgrade(&announced);
        let watch = move || {
            let mut alone_since = Instant::now();
            loop {
                std::thread::sleep(LOOK);
                // Whatever ended the server, it is over.
                let Some(announced) = watched.upgrade() else { return };
                if is_anyone_there(&clients) {
                    alone_since = Instant::now();
                }
                let unused = alone_since.elapsed() >= linger && activity.idle() >= linger;
                if !unused || !executor.calls.is_empty() || lock.try_lock().is_err() {
                    continue;
                }
                // Who comes while the lock is held finds no server, and starts one.
                if !is_anyone_there(&clients) {
                    announced.withdraw();
                    executor.drain();
                    tracing::info!("the last client has gone");
                    let _ = stop.send(Stop { force: false, cleanup_sessions: true });
                    return;
                }
                let _ = lock.unlock();
            }
        };
        std::thread::Builder::new().name("sandbox-lifeline".into()).spawn(watch)?;
        Ok(announced)
    }
}

/// Whether anyone has the pipe open for writing.
fn is_anyone_there(mut clients: &File) -> bool {
    match clients.read(&mut [0; 64]) {
        Ok(read) => read > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}
