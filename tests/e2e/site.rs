//! A web server of the test's own: answers as it is told, and remembers what it was asked.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::Value;

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    /// In lower case up to the colon.
    pub(crate) head: String,
    pub(crate) body: Value,
}

impl Asked {
    /// A header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// What is answered.
pub(crate) enum Say {
    /// A whole answer.
    Whole { status: u16, headers: String, body: Vec<u8> },
    /// Nothing, for a while.
    Silence(Duration),
}

impl Say {
    pub(crate) fn json(body: &Value) -> Self {
        Self::typed("application/json", body.to_string())
    }

    pub(crate) fn html(body: impl Into<String>) -> Self {
        Self::typed("text/html; charset=utf-8", body.into())
    }

    pub(crate) fn typed(content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::Whole { status: 200, headers: format!("Content-Type: {content_type}\r\n"), body: body.into() }
    }

    pub(crate) fn error(status: u16, body: &Value) -> Self {
        Self::Whole { status, headers: "Content-Type: application/json\r\n".to_owned(), body: body.to_string().into() }
    }

    pub(crate) fn redirect(to: &str) -> Self {
        Self::Whole { status: 302, headers: format!("Location: {to}\r\n"), body: Vec::new() }
    }

    /// The same with another status.
    pub(crate) fn status(self, status: u16) -> Self {
        match self {
            Self::Whole { headers, body, .. } => Self::Whole { status, headers, body },
            silence @ Self::Silence(_) => silence,
        }
    }

    /// The same with another header.
    pub(crate) fn with(self, header: &str) -> Self {
        match self {
            Self::Whole { status, headers, body } => {
                Self::Whole { status, headers: format!("{headers}{header}\r\n"), body }
            }
            silence @ Self::Silence(_) => silence,
        }
    }
}

/// The server; gone at the end of the test.
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// The most requests that were there at once.
    most: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Site {
    pub(crate) fn start(answer: impl Fn(&Asked) -> Say + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (now, most, over) =
            (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let answer = Arc::new(answer);
        let (log, peak, end) = (asked.clone(), most.clone(), over.clone());
        let thread = thread::spawn(move || {
            let mut threads = Vec::new();
            for stream in listener.incoming() {
                if end.load(Ordering::Acquire) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let (answer, log, end) = (answer.clone(), log.clone(), end.clone());
                let (now, peak) = (now.clone(), peak.clone());
                threads.push(thread::spawn(move || {
                    // Counted until the answer begins: who has it may ask again before this thread goes on.
                    let counted = |asked: &Asked| {
                        peak.fetch_max(now.fetch_add(1, Ordering::AcqRel) + 1, Ordering::AcqRel);
                        let say = answer(asked);
                        now.fetch_sub(1, Ordering::AcqRel);
                        say
                    };
                    serve(stream, &counted, &log, &end);
                }));
            }
            for thread in threads {
                let _ = thread.join();
            }
        });
        Self { address, asked, most, over, thread: Some(thread) }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What was asked since the last time.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    pub(crate) fn most_at_once(&self) -> usize {
        self.most.load(Ordering::Acquire)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    mut stream: TcpStream,
    answer: &(impl Fn(&Asked) -> Say + ?Sized),
    log: &Mutex<Vec<Asked>>,
    over: &AtomicBool,
) {
    let Some(asked) = read(&mut stream) else { return };
    log.lock().unwrap().push(asked.clone());
    match answer(&asked) {
        Say::Whole { status, headers, body } => {
            let head =
                format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            // Who asked may have seen enough.
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        }
        Say::Silence(mut left) => {
            let step = Duration::from_millis(20);
            while !left.is_zero() && !over.load(Ordering::Acquire) {
                thread::sleep(step.min(left));
                left = left.saturating_sub(step);
            }
        }
    }
}

fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let text = String::from_utf8(head).unwrap();
    let mut lines = text.lines();
    let mut first = lines.next().unwrap().split(' ');
    let (method, path) = (first.next().unwrap().to_owned(), first.next().unwrap().to_owned());
    let lower = |line: &str| match line.split_once(':') {
        Some((name, value)) => format!("{}:{value}\n", name.to_ascii_lowercase()),
        None => String::new(),
    };
    let head: String = lines.map(lower).collect();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Asked { method, path, head, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
}
