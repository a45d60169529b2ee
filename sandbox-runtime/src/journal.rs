//! The keys of explicit sessions on disk, so that after a restart their workers learn that they are gone.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    path::Path,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

/// One session that was open when the server ended.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct OpenSession {
    pub(crate) worker: String,
    pub(crate) resource: String,
    pub(crate) session: String,
    pub(crate) id: String,
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
    file: Mutex<File>,
}

impl Journal {
    /// Opens the journal in `data_dir`, locks it for this process, compacts it, and hands out what was left open.
    ///
    /// # Errors
    /// The folder cannot be made or written, or another server uses it.
    pub(crate) fn open(data_dir: &Path) -> io::Result<(Self, Vec<OpenSession>)> {
        std::fs::create_dir_all(data_dir)?;
        let path = data_dir.join("sessions.journal");
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
        file.try_lock()
            .map_err(|_| io::Error::new(io::ErrorKind::ResourceBusy, "another server uses this data_dir"))?;
        let mut open: HashMap<String, OpenSession> = HashMap::new();
        for line in BufReader::new(&file).split(b'\n') {
            // The last line may be cut off, also within a character: the process may have died in the middle of it.
            match serde_json::from_slice(&line?) {
                Ok(Line::Open(session)) => {
                    open.insert(session.id.clone(), session);
                }
                Ok(Line::Closed { id }) => {
                    open.remove(&id);
                }
                Err(_) => {}
            }
        }
        let left: Vec<_> = open.into_values().collect();
        file.set_len(0)?;
        for session in &left {
            write_line(&mut file, &Line::Open(session.clone()))?;
        }
        Ok((Self { file: Mutex::new(file) }, left))
    }

    pub(crate) fn opened(&self, session: OpenSession) {
        self.append(&Line::Open(session));
    }

    pub(crate) fn closed(&self, id: &str) {
        self.append(&Line::Closed { id: id.to_owned() });
    }

    fn append(&self, line: &Line) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = write_line(&mut file, line) {
            // A call must not fail for this: the price is a session that, after a restart, is replaced silently.
            tracing::error!("the session journal cannot be written: {error}");
        }
    }
}

fn write_line(file: &mut File, line: &Line) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    file.write_all(&text)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::{Journal, OpenSession};

    fn session(id: &str) -> OpenSession {
        OpenSession { worker: "w".into(), resource: "vm".into(), session: "default".into(), id: id.into() }
    }

    #[test]
    fn what_was_not_closed_is_open_after_a_restart_and_a_second_server_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let (journal, left) = Journal::open(folder.path()).expect("opens");
        assert!(left.is_empty());
        journal.opened(session("a"));
        journal.opened(session("b"));
        journal.closed("a");
        journal.file.lock().expect("no panic").write_all(b"{\"open\":{\"worker\":\"\xc3").expect("writes");
        assert!(Journal::open(folder.path()).is_err(), "one server per folder");
        drop(journal);
        for _ in 0..2 {
            let (_, left) = Journal::open(folder.path()).expect("opens");
            assert_eq!(left, [session("b")]);
        }
    }
}
