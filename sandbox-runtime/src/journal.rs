//! The keys of explicit sessions on disk, so that after a restart their workers learn that they are gone.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions, TryLockError},
    io::{self, BufRead, BufReader, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use sandbox_types::{SessionId, WorkerId};

use serde::{Deserialize, Serialize};

use crate::{gone::REMEMBERED, router::MAX_NOTES};

/// Who may read the files: they name workers and ids of sessions.
const PRIVATE: u32 = 0o600;

/// One session that was open when the server ended.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct OpenSession {
    pub(crate) worker: String,
    pub(crate) resource: String,
    pub(crate) session: String,
    pub(crate) id: String,
    /// The first start of a server that found it open: seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gone_since: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Open(OpenSession),
    Closed { id: String },
}

/// An append-only file of opened and closed sessions.
///
/// Lines are written without fsync: they survive the end of the process, which is what the journal is for; after a
/// power failure the last ones may be missing.
pub(crate) struct Journal {
    path: PathBuf,
    state: Mutex<State>,
    /// Locked as long as this server uses the folder. A file of its own: the journal's is replaced now and then.
    _lock: File,
}

struct State {
    file: File,
    bytes: u64,
    /// Of what was open when the file was last written anew.
    open_bytes: u64,
    /// The last line was not written whole: the next one must not be taken for its end.
    torn: bool,
}

/// What a journal says is open.
#[derive(Default)]
struct Open(HashMap<String, OpenSession>);

impl Journal {
    /// Opens the journal in `data_dir`, locks the folder for this process, and hands out what was left open.
    ///
    /// # Errors
    /// The folder cannot be made or written, or another server uses it.
    pub(crate) fn open(data_dir: &Path) -> io::Result<(Self, Vec<OpenSession>)> {
        std::fs::create_dir_all(data_dir)?;
        let lock =
            OpenOptions::new().write(true).create(true).truncate(false).mode(PRIVATE).open(data_dir.join("lock"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                io::Error::new(io::ErrorKind::ResourceBusy, "another server uses this data_dir")
            }
            TryLockError::Error(error) => error,
        })?;
        let path = data_dir.join("sessions.journal");
        let mut open = Open::default();
        match File::open(&path) {
            Ok(file) => open.read(file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        open.age(SystemTime::now());
        let (file, bytes) = open.write_anew(&path)?;
        std::fs::rename(renewed(&path), &path)?;
        let left = open.0.into_values().collect();
        Ok((Self { path, state: Mutex::new(State { file, bytes, open_bytes: bytes, torn: false }), _lock: lock }, left))
    }

    pub(crate) fn opened(&self, session: OpenSession) {
        self.append(&Line::Open(session));
    }

    pub(crate) fn closed(&self, id: &str) {
        self.append(&Line::Closed { id: id.to_owned() });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, line: &Line) {
        let mut state = self.state();
        let written = if state.torn { state.file.write_all(b"\n") } else { Ok(()) };
        match written.and_then(|()| write_line(&mut state.file, line)) {
            Ok(bytes) => {
                state.bytes += bytes + u64::from(state.torn);
                state.torn = false;
            }
            Err(error) => {
                // A call must not fail for this: the price is a session that, after a restart, is replaced silently.
                tracing::error!("the session journal cannot be written: {error}");
                state.torn = true;
                state.bytes = state.file.metadata().map_or(state.bytes, |file| file.len());
            }
        }
    }

    /// Writes the journal anew once most of it is about sessions that were closed since.
    pub(crate) fn compact(&self) {
        const WORTH_IT: u64 = 1 << 20;
        let (bytes, open_bytes) = {
            let state = self.state();
            (state.bytes, state.open_bytes)
        };
        if bytes < WORTH_IT + 4 * open_bytes {
            return;
        }
        if let Err(error) = self.renew(bytes) {
            tracing::error!("the session journal cannot be written anew: {error}");
            // Not again before it has grown as much as this time.
            self.state().open_bytes = bytes / 4;
        }
    }

    /// What stands in the first `bytes` is folded while others append; only the rest is copied under the lock.
    fn renew(&self, bytes: u64) -> io::Result<()> {
        let mut open = Open::default();
        open.read(File::open(&self.path)?.take(bytes))?;
        let (mut file, open_bytes) = open.write_anew(&self.path)?;
        let mut state = self.state();
        let mut rest = File::open(&self.path)?;
        rest.seek(io::SeekFrom::Start(bytes))?;
        let rest = io::copy(&mut rest, &mut file)?;
        std::fs::rename(renewed(&self.path), &self.path)?;
        *state = State { file, bytes: open_bytes + rest, open_bytes, torn: state.torn };
        Ok(())
    }
}

impl Open {
    fn read(&mut self, file: impl Read) -> io::Result<()> {
        for line in BufReader::new(file).split(b'\n') {
            // The last line may be cut off, also within a character: the process may have died in the middle of it.
            match serde_json::from_slice(&line?) {
                // Of an id that no server takes nobody can be told.
                Ok(Line::Open(session))
                    if WorkerId::parse(&session.worker).is_ok() && SessionId::parse(&session.id).is_ok() =>
                {
                    self.0.insert(session.id.clone(), session);
                }
                Ok(Line::Closed { id }) => {
                    self.0.remove(&id);
                }
                Ok(Line::Open(_)) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Notes the time at which sessions were first found left open; forgets those that are remembered for long enough, and
    /// the oldest of more than anyone can be told of.
    fn age(&mut self, now: SystemTime) {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        for session in self.0.values_mut() {
            session.gone_since.get_or_insert(now);
        }
        let is_young =
            |session: &OpenSession| now.saturating_sub(session.gone_since.unwrap_or(now)) <= REMEMBERED.as_secs();
        self.0.retain(|_, session| is_young(session));
        if self.0.len() > MAX_NOTES {
            let mut ages: Vec<_> = self.0.values().map(|session| (session.gone_since, session.id.clone())).collect();
            ages.sort_unstable();
            for (_, id) in ages.into_iter().take(self.0.len() - MAX_NOTES) {
                self.0.remove(&id);
            }
        }
    }

    /// A new file beside the journal, to be moved into its place: whoever dies midway leaves the old one whole.
    fn write_anew(&self, path: &Path) -> io::Result<(File, u64)> {
        let path = renewed(path);
        drop(OpenOptions::new().write(true).create(true).truncate(true).mode(PRIVATE).open(&path)?);
        let mut file = OpenOptions::new().append(true).open(&path)?;
        let mut text = Vec::new();
        for session in self.0.values() {
            write_line(&mut text, &Line::Open(session.clone()))?;
        }
        file.write_all(&text)?;
        // Before it takes the old one's place: after a power failure there must be one of them.
        file.sync_all()?;
        Ok((file, text.len() as u64))
    }
}

fn renewed(path: &Path) -> PathBuf {
    path.with_extension("journal.new")
}

fn write_line(file: &mut impl Write, line: &Line) -> io::Result<u64> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    file.write_all(&text)?;
    Ok(text.len() as u64)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use std::time::{Duration, SystemTime};

    use super::{Journal, MAX_NOTES, Open, OpenSession, REMEMBERED};

    fn session(id: &str) -> OpenSession {
        OpenSession {
            worker: "w".into(),
            resource: "vm".into(),
            session: "default".into(),
            id: id.into(),
            gone_since: None,
        }
    }

    fn id(session: &OpenSession) -> &str {
        &session.id
    }

    #[test]
    fn what_was_not_closed_is_open_after_a_restart_and_a_second_server_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let (journal, left) = Journal::open(folder.path()).expect("opens");
        assert!(left.is_empty());
        journal.opened(session("a"));
        journal.opened(session("b"));
        journal.closed("a");
        journal.state().file.write_all(b"{\"open\":{\"worker\":\"\xc3").expect("writes");
        assert!(Journal::open(folder.path()).is_err(), "one server per folder");
        drop(journal);
        for _ in 0..2 {
            let (_, left) = Journal::open(folder.path()).expect("opens");
            assert_eq!(left.iter().map(id).collect::<Vec<_>>(), ["b"]);
        }
    }

    #[test]
    fn it_is_written_anew_when_most_of_it_is_closed_and_loses_nothing_meanwhile() {
        let folder = tempfile::tempdir().expect("a folder");
        let (journal, _) = Journal::open(folder.path()).expect("opens");
        journal.opened(session("first"));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..20_000 {
                    journal.opened(session(&format!("s{n}")));
                    if n % 1000 != 0 {
                        journal.closed(&format!("s{n}"));
                    }
                }
            });
            for _ in 0..50 {
                journal.compact();
                std::thread::yield_now();
            }
        });
        journal.compact();
        let bytes = std::fs::metadata(folder.path().join("sessions.journal")).expect("it is there").len();
        assert!(bytes < 1 << 20, "{bytes} bytes are left of 20,000 sessions");
        drop(journal);
        let (_, left) = Journal::open(folder.path()).expect("opens");
        assert_eq!(left.len(), 21);
        assert!(["first", "s19000"].iter().all(|wanted| left.iter().any(|session| id(session) == *wanted)));
    }

    #[test]
    fn what_was_left_open_is_forgotten_a_day_after_it_was_found_and_when_it_is_too_much() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_hours(10_000);
        let mut open = Open::default();
        open.0.insert("a".into(), session("a"));
        open.age(start);
        open.0.insert("b".into(), session("b"));
        open.age(start + REMEMBERED / 2);
        assert_eq!(open.0.len(), 2);
        open.age(start + REMEMBERED + Duration::from_secs(1));
        assert_eq!(open.0.keys().collect::<Vec<_>>(), ["b"]);
        for n in 0..=MAX_NOTES {
            open.0.insert(n.to_string(), session(&n.to_string()));
        }
        open.age(start + REMEMBERED + Duration::from_secs(2));
        assert_eq!((open.0.len(), open.0.contains_key("b")), (MAX_NOTES, false), "the oldest makes room");
    }
}
