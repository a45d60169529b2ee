//! Server-sent events out of bytes that may be cut anywhere (WHATWG HTML, section 9.2.6).

use std::collections::VecDeque;

/// One dispatched event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// The last id of the stream so far; empty: none came.
    pub(crate) id: String,
    /// Its name; `message` where it has none.
    pub(crate) name: String,
    pub(crate) data: String,
}

/// What the bytes said so far and is not dispatched yet.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    /// Whether the last byte was `\r`: a `\n` after it ends no line of its own.
    after_return: bool,
    /// Whether the first line is behind: only that may begin with a byte order mark.
    begun: bool,
    id: String,
    name: String,
    data: String,
    retry_ms: Option<u64>,
}

impl Parser {
    /// Takes further bytes, and hands on the events that they complete.
    pub(crate) fn push(&mut self, mut bytes: &[u8], messages: &mut VecDeque<Message>) {
        while let Some(first) = bytes.first() {
            if std::mem::take(&mut self.after_return) && *first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
                self.line.extend_from_slice(bytes);
                return;
            };
            self.line.extend_from_slice(&bytes[..end]);
            self.after_return = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            let mut line = std::mem::take(&mut self.line);
            messages.extend(self.take_line(&line));
            line.clear();
            // Its room is used again, unless one long line made it large.
            if line.capacity() <= 64 * 1024 {
                self.line = line;
            }
        }
    }

    /// How long to wait before joining again, if the stream said so, in milliseconds.
    pub(crate) fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    fn take_line(&mut self, line: &[u8]) -> Option<Message> {
        let line = match line.strip_prefix(b"\xef\xbb\xbf") {
            Some(rest) if !self.begun => rest,
            _ => line,
        };
        self.begun = true;
        if line.is_empty() {
            return self.dispatch();
        }
        let text = String::from_utf8_lossy(line);
        let (field, value) = text.split_once(':').unwrap_or((&text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry_ms = Some(value.parse().unwrap_or(u64::MAX));
            }
            // A comment, which has no name, or a field of another version.
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Message> {
        let name = std::mem::take(&mut self.name);
        let mut data = std::mem::take(&mut self.data);
        // Each line of it left one; without any there is no event.
        data.pop()?;
        let name = if name.is_empty() { "message".to_owned() } else { name };
        Some(Message { id: self.id.clone(), name, data })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::{Message, Parser};

    fn parse(pieces: &[&[u8]]) -> (Vec<Message>, Option<u64>) {
        let (mut parser, mut messages) = (Parser::default(), VecDeque::new());
        for piece in pieces {
            parser.push(piece, &mut messages);
        }
        (messages.into(), parser.retry_ms())
    }

    fn message(id: &str, name: &str, data: &str) -> Message {
        Message { id: id.into(), name: name.into(), data: data.into() }
    }

    const STREAM: &str = "\u{feff}retry: 250\n\nid: 1\nevent: start\ndata: {\"a\": \"ä€😀\"}\n\n: still here\n\n\
        id: 2\r\nevent: output\r\ndata: one\r\ndata:two\r\ndata\r\n\r\nid:3\revent:x\rdata:  spaced: so\r\r\
        colour: green\nevent: empty\n\ndata: without a name\n\nid: 4\ndata: cut before its end";

    #[test]
    fn events_are_the_same_wherever_the_bytes_are_cut() {
        let expected = vec![
            message("1", "start", "{\"a\": \"ä€😀\"}"),
            message("2", "output", "one\ntwo\n"),
            message("3", "x", " spaced: so"),
            message("3", "message", "without a name"),
        ];
        let bytes = STREAM.as_bytes();
        assert_eq!(parse(&[bytes]), (expected.clone(), Some(250)));
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(parse(&pieces).0, expected, "cut at {first} and {second}");
            }
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(parse(&single), (expected, Some(250)));
    }

    #[test]
    fn what_is_no_field_changes_nothing() {
        assert_eq!(parse(&[b"retry: soon\nretry:\nretry: -1\n: data: x\ndatum: y\n data: z\n\n"]), (vec![], None));
        assert_eq!(
            parse(&[b"id: 7\n\nid: 8\0\ndata: a\n\nid\ndata: b\n\n"]).0,
            [message("7", "message", "a"), message("", "message", "b"),]
        );
        assert_eq!(parse(&[b"data\n\ndata: \n\n"]).0.len(), 2, "an empty line is data too");
        assert_eq!(parse(&[b"data: a\xff\xe2\x82\n\n"]).0[0].data, "a\u{fffd}\u{fffd}");
        assert_eq!(parse(&[b"data: a\n\n\xef\xbb\xbfdata: b\n\n"]).0.len(), 1, "a mark stands at the beginning only");
    }
}
