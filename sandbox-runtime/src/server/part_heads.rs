//! The heads of a multipart body, without the `Content-Length` that some clients write there: a server must ignore it
//! (RFC 7578, section 4.8), the library counts by it, and a part whose length is wrong would be cut in silence.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use actix_web::web::Bytes;
use futures_core::Stream;

/// Parts whose heads are read: the request and the upload. What comes after them is refused anyway.
const HEADS: usize = 2;

/// Longer lines are left to the library, which refuses them.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// A body whose parts do not say how long they are.
pub(super) struct Unmeasured<S> {
    body: S,
    delimiter: Vec<u8>,
    place: Place,
    /// Of a head, the line that has begun; of a content, its beginning.
    line: Vec<u8>,
    heads: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Content,
    Head,
    /// After the last head.
    Through,
}

impl<S> Unmeasured<S> {
    pub(super) fn new(body: S, boundary: &str) -> Self {
        let delimiter = format!("--{boundary}\r\n").into_bytes();
        Self { body, delimiter, place: Place::Content, line: Vec::new(), heads: 0 }
    }

    /// What of the next bytes goes on.
    fn pass(&mut self, chunk: &[u8]) -> Vec<u8> {
        let mut on = Vec::with_capacity(self.line.len() + chunk.len());
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            match self.place {
                Place::Through => on.extend_from_slice(piece),
                Place::Content => {
                    on.extend_from_slice(piece);
                    // As much as tells a delimiter from what only begins like one.
                    let wanted = (self.delimiter.len() + 1).saturating_sub(self.line.len());
                    self.line.extend_from_slice(&piece[..piece.len().min(wanted)]);
                    if piece.ends_with(b"\n") {
                        if self.line == self.delimiter {
                            self.place = Place::Head;
                        }
                        self.line.clear();
                    }
                }
                Place::Head => {
                    self.line.extend_from_slice(piece);
                    if piece.ends_with(b"\n") {
                        self.end_head_line(&mut on);
                    } else if self.line.len() > MAX_LINE_BYTES {
                        self.place = Place::Through;
                        on.append(&mut self.line);
                    }
                }
            }
        }
        on
    }

    fn end_head_line(&mut self, on: &mut Vec<u8>) {
        let name = self.line.split(|byte| *byte == b':').next().unwrap_or_default();
        if name.trim_ascii().eq_ignore_ascii_case(b"content-length") {
            return self.line.clear();
        }
        if self.line.trim_ascii().is_empty() {
            self.heads += 1;
            self.place = if self.heads == HEADS { Place::Through } else { Place::Content };
        }
        on.append(&mut self.line);
    }
}

impl<S: Stream<Item = Result<Bytes, E>> + Unpin, E> Stream for Unmeasured<S> {
    type Item = Result<Bytes, E>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let next = ready!(Pin::new(&mut self.body).poll_next(context));
            let Some(Ok(chunk)) = &next else { return Poll::Ready(next) };
            if self.place == Place::Through {
                return Poll::Ready(next);
            }
            let on = self.pass(chunk);
            if !on.is_empty() {
                return Poll::Ready(Some(Ok(on.into())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Unmeasured;

    #[test]
    fn lengths_go_from_heads_however_they_are_cut_and_from_nothing_else() {
        let body = "Content-Length: 1\r\n--XX\r\nContent-Disposition: a\r\nCONTENT-LENGTH : 3\r\n\r\nContent-Length: 2\r\n\
                    --XXX\r\nContent-Length: 3\r\n\r\n--XX\r\ncontent-length:7\r\nX-Content-Length: 8\r\n\r\n\
                    Content-Length: 4\r\n--XX\r\nContent-Length: 5\r\n\r\n--XX--\r\n";
        let expected = body.replace("CONTENT-LENGTH : 3\r\n", "").replace("content-length:7\r\n", "");
        for size in 1..body.len() {
            let mut passing = Unmeasured::new((), "XX");
            let passed: Vec<u8> = body.as_bytes().chunks(size).flat_map(|chunk| passing.pass(chunk)).collect();
            assert_eq!(String::from_utf8(passed).expect("text"), expected, "in pieces of {size}");
        }
    }

    #[test]
    fn a_head_without_an_end_is_not_kept() {
        let mut passing = Unmeasured::new((), "XX");
        let mut passed = passing.pass(b"--XX\r\n").len();
        for _ in 0..100 {
            passed += passing.pass(&[b'x'; 1000]).len();
        }
        assert_eq!((passed, passing.line.len()), (6 + 100_000, 0));
    }
}
