//! Reads documents and data files of strangers: pages of the web, PDF files and others become text, tables become rows.
//!
//! A parser that a stranger feeds may fall into a loop, fill the memory, overflow its stack or, should it hold a mistake,
//! obey the stranger. So parsers run in processes of their own (`process.rs` on this side, `inside.rs` on theirs), which
//! cannot open a file or a socket (of a table they are handed the open file), have a limit of memory, and are killed when
//! they take too long. A process reads one document at a time and lives on, so that a document costs no start of one.

mod confine;
#[cfg(feature = "data")]
mod data;
#[cfg(all(test, feature = "doc"))]
mod document_tests;
#[cfg(feature = "doc")]
mod docx;
#[cfg(feature = "doc")]
mod epub;
#[cfg(feature = "documents")]
mod html;
mod inside;
#[cfg(feature = "doc")]
mod markdown;
#[cfg(feature = "doc")]
mod marks;
#[cfg(feature = "doc")]
mod outline;
#[cfg(feature = "documents")]
mod pdf;
mod process;
#[cfg(feature = "documents")]
mod tables;
#[cfg(all(test, feature = "documents"))]
mod tests;
mod wire;

use std::{
    fs::File,
    io,
    sync::{Arc, Mutex, PoisonError},
    thread::available_parallelism,
    time::Duration,
};

#[cfg(feature = "data")]
pub(crate) use data::{Ask, Column, ColumnSummary, Condition, DataFormat, Failure, Inspection, Rows, RowsWanted, Scan};
pub(crate) use inside::main as process_main;
use process::{HangUp, Line, Process};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};
pub(crate) use wire::Flaw;
#[cfg(feature = "doc")]
pub(crate) use wire::Section;
#[cfg(feature = "documents")]
pub(crate) use wire::{Form, Kind, Task};
use wire::{Order, Reply, Work};

/// How much longer than a document may take its process lives.
const ALARM_MARGIN_SECONDS: u64 = 5;

/// Processes beyond the number of cores.
const SPARE: usize = 2;

/// A process that needed more memory than this is not used again: it may not give it back.
const KEEP_BELOW_KIB: u64 = 96 << 10;

/// A document as text.
#[cfg(feature = "documents")]
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Its title, if it has one.
    pub(crate) title: Option<String>,
    /// Its text, in the form that was asked for.
    pub(crate) content: String,
    /// Where its sections begin, in their order.
    #[cfg(feature = "doc")]
    pub(crate) sections: Vec<Section>,
    /// Where its pages begin; empty if it has none.
    #[cfg(feature = "doc")]
    pub(crate) pages: Vec<usize>,
}

/// Why a document cannot be read.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// What is wrong with it.
    Flawed(Flaw),
    /// It takes too long.
    Slow,
    /// It needs more memory or stack than a document may, or breaks its parser.
    Fatal,
    /// The process cannot be started or talked to.
    Broken(io::Error),
}

/// A document that is to be read.
pub(crate) enum Content {
    Bytes(Vec<u8>),
    /// So many bytes of a file, which are read when the document's turn comes: those that wait take no memory.
    #[cfg(feature = "doc")]
    File(File, u64),
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl Content {
    fn read(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            #[cfg(feature = "doc")]
            Self::File(file, length) => {
                let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
                io::Read::read_to_end(&mut io::Read::take(file, length), &mut bytes)?;
                Ok(bytes)
            }
        }
    }
}

/// Processes that read documents; a few more at once than the machine has cores, so that documents which take their time
/// do not hold up all others.
pub(crate) struct Reader {
    idle: Arc<Mutex<Vec<Process>>>,
    turns: Arc<Semaphore>,
    limit: Duration,
}

impl Reader {
    /// Processes that have this time for a document.
    pub(crate) fn new(limit: Duration) -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        Self { idle: Arc::default(), turns: Arc::new(Semaphore::new(cores + SPARE)), limit }
    }

    /// Reads one document. Dropped, it ends the process that is at it.
    ///
    /// # Errors
    /// The document cannot be read.
    #[cfg(feature = "documents")]
    pub(crate) async fn read(&self, task: Task, document: impl Into<Content>) -> Result<Reading, Unreadable> {
        let (reply, content) = self.ask(Work::Document(task), None, document.into()).await?;
        Ok(Reading {
            title: reply.title,
            content,
            #[cfg(feature = "doc")]
            sections: reply.sections,
            #[cfg(feature = "doc")]
            pages: reply.pages,
        })
    }

    /// Reads rows of a file; the answer is JSON. Dropped, it ends the process that is at it.
    ///
    /// # Errors
    /// The file cannot be read.
    #[cfg(feature = "data")]
    pub(crate) async fn scan(&self, scan: Scan, file: File) -> Result<String, Unreadable> {
        Ok(self.ask(Work::Scan(scan), Some(file), Content::Bytes(Vec::new())).await?.1)
    }

    async fn ask(&self, work: Work, file: Option<File>, document: Content) -> Result<(Reply, String), Unreadable> {
        let Ok(turn) = self.turns.clone().acquire_owned().await else {
            return Err(Unreadable::Broken(io::ErrorKind::BrokenPipe.into()));
        };
        let idle = self.idle.clone();
        let line = Arc::new(Line::default());
        let _hang_up = HangUp(line.clone());
        let seconds = (self.limit.as_secs() + ALARM_MARGIN_SECONDS).try_into().unwrap_or(u32::MAX);
        let order = Order { work, seconds };
        let job = spawn_blocking(move || {
            let _turn = turn;
            let document = document.read().map_err(Unreadable::Broken)?;
            let waiting = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let reused = waiting.is_some();
            let mut process = waiting.map_or_else(Process::start, Ok).map_err(Unreadable::Broken)?;
            let mut answer = process.ask(&line, &order, file.as_ref(), &document);
            // A process may have been ended while it waited, by whoever looks after the machine's memory.
            if reused && answer.is_err() && !line.is_cut() {
                process = Process::start().map_err(Unreadable::Broken)?;
                answer = process.ask(&line, &order, file.as_ref(), &document);
            }
            let (reply, content) = answer.map_err(|_| Unreadable::Fatal)?;
            if process.peak_kib() < KEEP_BELOW_KIB && line.let_go() {
                idle.lock().unwrap_or_else(PoisonError::into_inner).push(process);
            }
            match reply.flaw {
                None => Ok((reply, content)),
                Some(flaw) => Err(Unreadable::Flawed(flaw)),
            }
        });
        match timeout(self.limit, job).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Unreadable::Fatal),
            Err(_) => Err(Unreadable::Slow),
        }
    }
}
