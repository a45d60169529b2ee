//! Reads streams of events from the socket, as far as they have come.

use std::{
    io::{BufRead, BufReader, Read},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use serde_json::{Value, json};

use crate::harness::{Server, send};

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) data: Value,
}

/// An answer with the events that come.
pub(crate) struct Stream {
    reader: BufReader<TcpStream>,
    pub(crate) head: String,
    pub(crate) comments: Vec<String>,
    pub(crate) retry: Option<String>,
    /// Decoded and not parsed yet.
    text: String,
}

impl Server {
    /// Runs a tool and reads what it says.
    pub(crate) fn stream(&self, worker: &str, action: &str, params: &Value) -> Stream {
        self.stream_with(worker, action, params, &json!({}))
    }

    /// `stream` with further request fields.
    pub(crate) fn stream_with(&self, worker: &str, action: &str, params: &Value, more: &Value) -> Stream {
        let mut body = json!({ "worker_id": worker, "action": action, "params": params });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.open("POST", "/execute", &[], body.to_string().as_bytes())
    }

    /// Joins a run after an event; 0: from its beginning.
    pub(crate) fn join(&self, worker: &str, run: &str, seen: u64) -> Stream {
        let seen = seen.to_string();
        let mut headers = vec![("X-Worker-ID", worker)];
        if seen != "0" {
            headers.push(("Last-Event-ID", &seen));
        }
        self.open("GET", &format!("/runs/{run}/events"), &headers, b"")
    }

    pub(crate) fn open(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Stream {
        let mut stream = self.connect();
        let mut all = vec![("Accept", "text/event-stream"), ("Content-Type", "application/json")];
        all.extend(headers);
        send(&mut stream, method, path, &all, body);
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "no answer: {head:?}");
        }
        Stream { reader, head: head.to_lowercase(), comments: Vec::new(), retry: None, text: String::new() }
    }
}

impl Stream {
    /// The next event; none when the stream has ended in order.
    pub(crate) fn next(&mut self) -> Option<Event> {
        assert!(self.head.starts_with("http/1.1 200"), "{}", self.head);
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let (mut id, mut name, mut data) = (None, None, None);
                for line in block.lines() {
                    match line.split_once(':') {
                        Some(("", comment)) => self.comments.push(comment.trim().to_owned()),
                        Some(("retry", value)) => self.retry = Some(value.trim().to_owned()),
                        Some(("id", value)) => id = Some(value.trim().parse().unwrap()),
                        Some(("event", value)) => name = Some(value.trim().to_owned()),
                        Some(("data", value)) => data = Some(serde_json::from_str(value).unwrap()),
                        _ => panic!("no line of an event stream: {line:?}"),
                    }
                }
                self.text = rest.to_owned();
                if let Some(data) = data {
                    return Some(Event { id: id.unwrap(), name: name.unwrap(), data });
                }
            }
            if !self.read_chunk() {
                assert_eq!(self.text, "", "cut within an event");
                return None;
            }
        }
    }

    /// One chunk of the body; whether there was one.
    fn read_chunk(&mut self) -> bool {
        let mut line = String::new();
        assert!(self.reader.read_line(&mut line).unwrap() > 0, "the connection ended before the stream");
        let length = usize::from_str_radix(line.trim(), 16).unwrap_or_else(|_| panic!("no chunk: {line:?}"));
        let mut bytes = vec![0; length + 2];
        self.reader.read_exact(&mut bytes).unwrap();
        bytes.truncate(length);
        self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        length > 0
    }

    /// The events up to the end.
    pub(crate) fn rest(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// The id of the run, from its first event.
    pub(crate) fn started(&mut self) -> String {
        let start = self.next().unwrap();
        assert_eq!((start.name.as_str(), start.id), ("start", 1));
        start.data["run_id"].as_str().unwrap().to_owned()
    }

    /// Waits for the output that ends so.
    pub(crate) fn until_output(&mut self, end: &str) -> Event {
        loop {
            let event = self.next().unwrap();
            if event.name == "output" && event.data["data"].as_str().unwrap().ends_with(end) {
                return event;
            }
        }
    }

    /// Hangs up.
    pub(crate) fn cut(self) {
        let _ = self.reader.get_ref().shutdown(Shutdown::Both);
    }

    pub(crate) fn with_timeout(self, timeout: Duration) -> Self {
        self.reader.get_ref().set_read_timeout(Some(timeout)).unwrap();
        self
    }
}

/// Everything that came on one output, checked for holes.
pub(crate) fn output(events: &[Event], stream: &str) -> String {
    let mut text = String::new();
    for event in events.iter().filter(|event| event.name == "output" && event.data["stream"] == stream) {
        assert_eq!(event.data["offset"], text.len(), "no byte is missing or doubled");
        text.push_str(event.data["data"].as_str().unwrap());
    }
    text
}

/// Ids from this one on, one by one.
pub(crate) fn assert_consecutive(events: &[Event], first: u64) {
    let ids: Vec<_> = events.iter().map(|event| event.id).collect();
    let expected: Vec<_> = (first..first + ids.len() as u64).collect();
    assert_eq!(ids, expected);
}
