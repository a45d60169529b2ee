//! What tests of uploads and downloads share.

use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::fd::AsRawFd as _,
};

use serde_json::{Value, json};

use crate::harness::{Reply, Server, send};

pub(crate) const WORKER: (&str, &str) = ("X-Worker-ID", "w");

/// A server, and the folder that its tools read and write.
pub(crate) struct Place {
    pub(crate) server: Server,
    pub(crate) folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::with(&json!({}))
    }

    pub(crate) fn with(server: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({ "server": server, "resources": { "probe": {} } });
        let server = Server::start_with(&config, &[("PROBE_FOLDER", folder.path().to_str().unwrap())]);
        Self { server, folder }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    pub(crate) fn put(&self, name: &str, content: &[u8]) {
        std::fs::write(self.folder.path().join(name), content).unwrap();
    }

    pub(crate) fn get(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.path().join(name)).unwrap()
    }

    pub(crate) fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let headers: Vec<_> = headers.iter().copied().chain([WORKER]).collect();
        self.server.raw(method, path, &headers, body)
    }

    pub(crate) fn download(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Download {
        let headers: Vec<_> = headers.iter().copied().chain([WORKER]).collect();
        let mut stream = self.server.connect();
        send(&mut stream, method, path, &headers, b"");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        Download::of(&bytes)
    }

    pub(crate) fn rss_kib(&self) -> u64 {
        self.memory_kib("VmRSS:")
    }

    /// The most that it has had at any time.
    pub(crate) fn peak_kib(&self) -> u64 {
        self.memory_kib("VmHWM:")
    }

    fn memory_kib(&self, what: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.server.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Whether the server has a file of the folder open, with a name or without.
    pub(crate) fn is_open(&self) -> bool {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.server.process.id())).unwrap();
        let mut files = open.filter_map(|link| std::fs::read_link(link.ok()?.path()).ok());
        files.any(|file| file.starts_with(self.folder.path()))
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.server.log).unwrap()
    }

    pub(crate) fn sources(&self) -> u64 {
        self.server.execute("observer", "probe:sources", &json!({})).data().as_u64().unwrap()
    }

    /// Sessions that the worker has.
    pub(crate) fn sessions(&self) -> u64 {
        let resources = self.server.get("/resources").body;
        let all = resources["resources"].as_array().unwrap().clone();
        all.iter().find(|one| one["resource"] == "probe").unwrap()["sessions"].as_u64().unwrap()
    }
}

/// An answer whose body may be anything.
pub(crate) struct Download {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Download {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head, body: bytes[end + 4..].to_vec() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(crate) fn is(&self, status: u16, body: &str) {
        let found = String::from_utf8_lossy(&self.body);
        assert_eq!((self.status, &*found), (status, body), "{}", self.head);
    }
}

/// Sends the head of a request and leaves its body to the caller.
pub(crate) fn begin(server: &Server, path: &str, headers: &str) -> TcpStream {
    let mut stream = server.connect();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Worker-ID: w\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

/// Leaves without a farewell, which would wait behind what the server has not taken.
pub(crate) fn reset(stream: TcpStream) {
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    let length = libc::socklen_t::try_from(size_of::<libc::linger>()).unwrap();
    #[expect(unsafe_code, reason = "a call without a safe wrapper")]
    // SAFETY: the value is a `linger` that lives through the call, and the length is its own.
    let set = unsafe {
        let value = std::ptr::from_ref(&at_once).cast();
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, value, length)
    };
    assert_eq!(set, 0);
    drop(stream);
}

pub(crate) fn multipart(parts: &[(&str, &str)]) -> Vec<u8> {
    let mut body = String::new();
    for (head, content) in parts {
        write!(body, "--XX\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n").unwrap();
    }
    body.push_str("--XX--\r\n");
    body.into_bytes()
}

pub(crate) const MULTIPART: (&str, &str) = ("Content-Type", "multipart/form-data; boundary=XX");
pub(crate) const HELLO_SHA256: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
pub(crate) const HELLO_DIGEST: &str = "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:";
