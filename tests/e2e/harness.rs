//! Starts servers, sends requests, and leaves nothing behind.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

pub(crate) const SERVER: &str = env!("CARGO_BIN_EXE_probe-server");

/// A server process; killed and waited for at the end of the test.
pub(crate) struct Server {
    pub(crate) process: Child,
    pub(crate) address: SocketAddr,
    /// Of the control port, if the configuration asks for one.
    pub(crate) control: Option<SocketAddr>,
    pub(crate) log: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Value,
}

impl Reply {
    pub(crate) fn code(&self) -> u64 {
        self.body["code"].as_u64().unwrap_or_else(|| panic!("no envelope: {self:?}"))
    }

    /// The data of a success.
    pub(crate) fn data(&self) -> &Value {
        assert_eq!((self.status, self.code()), (200, 0), "{self:?}");
        &self.body["data"]
    }

    pub(crate) fn reason(&self) -> &str {
        self.body["error"]["reason"].as_str().unwrap_or_else(|| panic!("no reason: {self:?}"))
    }
}

impl Server {
    /// A server with one `probe` resource and short limits.
    pub(crate) fn probe() -> Self {
        Self::start(&json!({ "resources": { "probe": {} } }))
    }

    pub(crate) fn start(config: &Value) -> Self {
        Self::start_with(config, &[])
    }

    pub(crate) fn start_with(config: &Value, env: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let log = folder.path().join("server.log");
        let mut process = Command::new(SERVER)
            .args(["serve", "--port", "0", "--config"])
            .arg(&file)
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let Some(address) = line.trim().strip_prefix("listening on http://") else {
            let _ = process.kill();
            let _ = process.wait();
            panic!("no address: {line:?}; {}", std::fs::read_to_string(&log).unwrap())
        };
        let address = address.parse().unwrap();
        let control = config["server"]["control_port"].is_number().then(|| {
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            line.trim().strip_prefix("control on http://").unwrap().parse().unwrap()
        });
        Self { process, address, control, log, _folder: folder }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        stream
    }

    /// One request on a connection of its own.
    pub(crate) fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut stream = self.connect();
        send(&mut stream, method, path, headers, body);
        receive(&mut stream)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        self.raw("POST", path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.raw("GET", path, &[], b"")
    }

    pub(crate) fn execute(&self, worker: &str, action: &str, params: &Value) -> Reply {
        self.execute_with(worker, action, params, &json!({}))
    }

    /// `execute` with further request fields.
    pub(crate) fn execute_with(&self, worker: &str, action: &str, params: &Value, more: &Value) -> Reply {
        let mut body = json!({ "worker_id": worker, "action": action, "params": params });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.post("/execute", &body)
    }

    pub(crate) fn create(&self, worker: &str, config: &Value) -> Reply {
        self.post(
            "/session/create",
            &json!({ "worker_id": worker, "resource_type": "probe", "session_config": config }),
        )
    }

    /// What `probe:counts` says, under any resource name.
    pub(crate) fn counts(&self) -> Value {
        self.execute("observer", "probe:counts", &json!({})).data().clone()
    }

    /// Sends a request and hangs up after a while, without reading the answer.
    pub(crate) fn abandon(&self, path: &str, body: &Value, after: Duration) {
        let mut stream = self.connect();
        send(&mut stream, "POST", path, &[("Content-Type", "application/json")], body.to_string().as_bytes());
        std::thread::sleep(after);
    }

    pub(crate) fn signal(&self, signal: i32) {
        kill(&self.process, signal);
    }
}

/// Sends a signal.
pub(crate) fn kill(child: &Child, number: i32) {
    signal(child.id(), number);
}

/// Sends a signal to a child that is not yet waited for.
pub(crate) fn signal(child: u32, number: i32) {
    let pid = i32::try_from(child).unwrap();
    #[expect(unsafe_code, reason = "a call without a safe wrapper")]
    // SAFETY: kill takes two numbers; the process is our child and not yet waited for.
    let sent = unsafe { libc::kill(pid, number) };
    assert_eq!(sent, 0);
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- server log\n{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

pub(crate) fn send(stream: &mut TcpStream, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
    let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request.push_str("Host: 127.0.0.1\r\n");
    }
    for (name, value) in headers {
        write!(request, "{name}: {value}\r\n").unwrap();
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    // A server that refuses a large body may close before it has all of it.
    let _ = stream.write_all(body);
}

pub(crate) fn receive(stream: &mut TcpStream) -> Reply {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    let open = read.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!open, "the connection stays open after: {}", String::from_utf8_lossy(&bytes));
    assert!(read.is_ok() || !bytes.is_empty(), "no answer: {read:?}");
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head: head.to_owned(), body: serde_json::from_str(body).unwrap_or(Value::Null) }
}

/// Waits until something holds; the minute is for a machine whose disk has much else to do.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !holds() {
        assert!(Instant::now() < deadline, "still not: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
