//! The reading process.

use std::{
    fs::File,
    io::{BufWriter, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    process::exit,
    thread,
};

use super::{
    confine,
    wire::{self, Flaw, Order, Reply, Section, Work},
};
#[cfg(feature = "doc")]
use super::{docx, epub, markdown};
#[cfg(feature = "documents")]
use super::{
    html, pdf,
    wire::{Kind, Task},
};

/// A document that is being made.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) title: Option<String>,
    pub(super) content: String,
    /// In their order.
    pub(super) sections: Vec<Section>,
    /// Where each page begins; empty if there are no pages.
    pub(super) pages: Vec<usize>,
}

/// Room for a tree that is nested deeply: what walks it calls itself.
const STACK_BYTES: usize = 64 << 20;

/// Reads documents from descriptor 0 until the server is gone, and exits.
pub(crate) fn main() -> ! {
    let served = thread::Builder::new().stack_size(STACK_BYTES).spawn(serve).map(thread::JoinHandle::join);
    exit(i32::from(!matches!(served, Ok(Ok(())))))
}

/// The longest title, in characters.
const MAX_TITLE: usize = 500;

fn serve() {
    let Ok(socket) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3) else { return };
    if confine::confine().is_err() {
        return;
    }
    let mut socket = File::from(socket);
    if socket.write_all(&[wire::CONFINED]).is_err() {
        return;
    }
    loop {
        let Ok(file) = wire::receive_file(&socket) else { return };
        let Ok((order, document)) = wire::receive::<Order>(&mut socket, wire::MAX_DOCUMENT_BYTES) else { return };
        confine::end_in(order.seconds);
        // A parser that panics has met what it does not understand.
        let read =
            catch_unwind(AssertUnwindSafe(|| work(&order.work, file, &document))).unwrap_or(Err(Flaw::Malformed));
        drop(document);
        confine::end_in(0);
        let (draft, flaw) = match read {
            Ok(draft) if draft.content.len() > wire::MAX_CONTENT_BYTES => (Draft::default(), Some(Flaw::TooLong)),
            Ok(draft) => (draft, None),
            Err(flaw) => (Draft::default(), Some(flaw)),
        };
        let title = draft.title.map(|title| title.chars().take(MAX_TITLE).collect());
        let reply = Reply { title, flaw, sections: draft.sections, pages: draft.pages };
        let mut socket = BufWriter::new(&mut socket);
        if wire::send(&mut socket, &reply, draft.content.as_bytes()).is_err() {
            return;
        }
    }
}

#[cfg_attr(
    not(feature = "data"),
    expect(unused_variables, clippy::needless_pass_by_value, reason = "files are of tables")
)]
#[cfg_attr(not(feature = "documents"), expect(unused_variables, reason = "bodies are documents"))]
fn work(work: &Work, file: Option<File>, document: &[u8]) -> Result<Draft, Flaw> {
    match work {
        #[cfg(feature = "documents")]
        Work::Document(task) => read(task, document),
        #[cfg(feature = "data")]
        Work::Scan(scan) => {
            let answer = super::data::run(scan, file.ok_or(Flaw::Malformed)?);
            let content = String::from_utf8(answer).map_err(|_| Flaw::Malformed)?;
            Ok(Draft { content, ..Draft::default() })
        }
    }
}

/// Reads one document.
#[cfg(feature = "documents")]
fn read(task: &Task, document: &[u8]) -> Result<Draft, Flaw> {
    match task.kind {
        #[cfg(feature = "web")]
        Kind::Article => Ok(html::article(task, document)),
        Kind::Pdf => pdf::read(document),
        #[cfg(feature = "doc")]
        Kind::Docx => docx::read(task.form, document),
        #[cfg(feature = "doc")]
        Kind::Epub => epub::read(task.form, document),
        #[cfg(feature = "doc")]
        Kind::Html => Ok(html::whole(task.form, &html::decode(None, document))),
        #[cfg(feature = "doc")]
        Kind::Markdown => Ok(markdown::read(task.form, document)),
        #[cfg(feature = "doc")]
        Kind::Text => Ok(markdown::plain(document)),
    }
}
