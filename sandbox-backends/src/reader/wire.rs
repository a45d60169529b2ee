//! What the server and a reading process say to each other: a byte that may bring an open file, then a header in JSON and a
//! body, each with its length in front. There is no byte before an answer.

use std::{
    fs::File,
    io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::fd::AsFd,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

#[cfg(feature = "data")]
use super::data::Scan;

/// The longest header, in bytes.
const MAX_HEADER_BYTES: usize = 16 << 20;
/// The longest document, in bytes.
pub(super) const MAX_DOCUMENT_BYTES: usize = 256 << 20;
/// The longest content that is made of one, in bytes: what is many times as long as a page would be repeats something.
pub(super) const MAX_CONTENT_BYTES: usize = 16 << 20;

/// What is to be done, and how long it may take.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Order {
    pub(super) work: Work,
    /// After so many the process ends itself: more than the server waits, which might be gone.
    pub(super) seconds: u32,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) enum Work {
    /// Read the document that follows.
    #[cfg(feature = "documents")]
    Document(Task),
    /// Read the file that came before.
    #[cfg(feature = "data")]
    Scan(Scan),
}

/// How a document is to be read.
#[cfg(feature = "documents")]
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Task {
    pub(crate) kind: Kind,
    pub(crate) form: Form,
    /// The encoding that came with the document, as its label.
    pub(crate) charset: Option<String>,
    /// What relative links are relative to.
    pub(crate) base: Option<String>,
}

/// What a document is.
#[cfg(feature = "documents")]
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) enum Kind {
    /// A page of the web, of which the article is wanted.
    #[cfg(feature = "web")]
    Article,
    Pdf,
    #[cfg(feature = "doc")]
    Docx,
    #[cfg(feature = "doc")]
    Epub,
    /// A page of which everything is wanted.
    #[cfg(feature = "doc")]
    Html,
    #[cfg(feature = "doc")]
    Markdown,
    #[cfg(feature = "doc")]
    Text,
}

/// What is made of it.
#[cfg(feature = "documents")]
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Hash, Serialize)]
pub(crate) enum Form {
    /// Markdown; of a PDF plain text.
    Markdown,
    /// Plain text.
    Text,
}

/// What is wrong with a document.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) enum Flaw {
    /// It is not what it should be.
    Malformed,
    /// It opens with a password only.
    Encrypted,
    /// It has pages, and no text on them.
    NoText,
    /// It has more text than [`MAX_CONTENT_BYTES`].
    TooLong,
}

/// Where a section begins.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Section {
    /// In bytes of the content.
    pub(crate) at: usize,
    /// 1 for the highest.
    pub(crate) level: u8,
    pub(crate) title: String,
}

/// What comes back; the body that follows is the content.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Reply {
    pub(super) title: Option<String>,
    pub(super) flaw: Option<Flaw>,
    pub(super) sections: Vec<Section>,
    pub(super) pages: Vec<usize>,
}

/// What a process says once it is confined.
pub(super) const CONFINED: u8 = b'!';

/// Sends the byte that goes before an order.
pub(super) fn send_file(socket: impl AsFd, file: Option<&File>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<_> = file.iter().map(|file| file.as_fd()).collect();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(ErrorKind::InvalidInput.into());
    }
    rustix::io::retry_on_intr(|| sendmsg(&socket, &[IoSlice::new(b"?")], &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives that byte, and the file if one came with it; `UnexpectedEof` if the other side has gone.
pub(super) fn receive_file(socket: impl AsFd) -> io::Result<Option<File>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let receive = || recvmsg(&socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC);
    if rustix::io::retry_on_intr(receive)?.bytes == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let mut files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok(files.next().and_then(|mut fds| fds.next()).map(File::from))
}

/// Sends a header and its body.
pub(super) fn send(to: &mut impl Write, header: &impl Serialize, body: &[u8]) -> io::Result<()> {
    let header = serde_json::to_vec(header)?;
    for part in [header.as_slice(), body] {
        let length = u32::try_from(part.len()).map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
        to.write_all(&length.to_le_bytes())?;
        to.write_all(part)?;
    }
    Ok(())
}

/// Receives a header and its body; `UnexpectedEof` if the other side has gone.
pub(super) fn receive<T: DeserializeOwned>(from: &mut impl Read, max_body: usize) -> io::Result<(T, Vec<u8>)> {
    let header = part(from, MAX_HEADER_BYTES)?;
    let body = part(from, max_body)?;
    Ok((serde_json::from_slice(&header)?, body))
}

fn part(from: &mut impl Read, max: usize) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > max {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::with_capacity(length);
    from.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() < length { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(bytes) }
}
