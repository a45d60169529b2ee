//! The reading process.

use std::{
    fs::File,
    io::{BufWriter, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    process::exit,
    thread,
};

use super::{
    confine, html, pdf,
    wire::{self, Flaw, Kind, Reply, Task},
};

/// Room for a tree that is nested deeply: what walks it calls itself.
const STACK_BYTES: usize = 64 << 20;

/// Reads documents from descriptor 0 until the server is gone, and exits.
pub(crate) fn main() -> ! {
    let served = thread::Builder::new().stack_size(STACK_BYTES).spawn(serve).map(thread::JoinHandle::join);
    exit(i32::from(!matches!(served, Ok(Ok(())))))
}

/// The longest title, in characters.
const MAX_TITLE: usize = 500;

/// More than the server gives a document.
const LIMIT_SECONDS: u8 = 15;

fn serve() {
    let Ok(socket) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3) else { return };
    if confine::confine().is_err() {
        return;
    }
    let mut socket = File::from(socket);
    if socket.write_all(&[wire::CONFINED]).is_err() {
        return;
    }
    while let Ok((task, document)) = wire::receive::<Task>(&mut socket, wire::MAX_DOCUMENT_BYTES) {
        confine::end_in(LIMIT_SECONDS);
        let read = catch_unwind(AssertUnwindSafe(|| match task.kind {
            Kind::Html => Ok(html::read(&task, &document)),
            Kind::Pdf => pdf::read(&document),
        }));
        let (title, content, flaw) = match read {
            Ok(Ok((title, content))) => (title, content, None),
            Ok(Err(flaw)) => (None, String::new(), Some(flaw)),
            Err(_) => (None, String::new(), Some(Flaw::Malformed)),
        };
        confine::end_in(0);
        let title = title.map(|title| title.chars().take(MAX_TITLE).collect());
        let reply = Reply { title, flaw };
        let mut socket = BufWriter::new(&mut socket);
        if wire::send(&mut socket, &reply, content.as_bytes()).is_err() {
            return;
        }
    }
}
