//! The embedded server: what only a backend of the test's own can show.

#![cfg(feature = "server")]
#![expect(clippy::unwrap_used, reason = "a test says where it fails")]

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use sandbox_runtime::{linked::Linked, prelude::*, server::HttpServiceServer, slice::BackendEntry};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

static GO: Semaphore = Semaphore::const_new(0);

#[derive(Default)]
struct Slow;

/// Starts when it is told to.
#[backend(name = "slow")]
impl Slow {
    async fn warmup(&self) -> Result<()> {
        let _ = GO.acquire().await;
        Ok(())
    }

    /// Nothing.
    #[tool]
    async fn act(&self) -> Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct Plain;

/// Has neither sessions nor a start.
#[backend(name = "plain")]
impl Plain {
    /// Nothing.
    #[tool]
    async fn act(&self) -> Result<()> {
        Ok(())
    }
}

static HELD: AtomicUsize = AtomicUsize::new(0);

/// Tells whether it is there.
struct Held;

impl Default for Held {
    fn default() -> Self {
        HELD.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Is seen to go.
#[backend(name = "held")]
impl Held {
    /// Nothing.
    #[tool]
    async fn act(&self) -> Result<()> {
        Ok(())
    }
}

fn start(resources: &Value) -> HttpServiceServer {
    let config = json!({ "server": { "port": 0, "workers": 1 }, "resources": resources });
    let linked = Linked::of([BackendEntry::of::<Slow>(), BackendEntry::of::<Plain>(), BackendEntry::of::<Held>()], []);
    HttpServiceServer::builder().config(serde_json::from_value(config).unwrap()).linked(linked).start().unwrap()
}

fn send(server: &HttpServiceServer, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    let length = body.len();
    write!(stream, "{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[test]
fn a_required_resource_makes_the_server_ready_only_once_it_is_warm() {
    let server = start(&json!({ "slow": { "required": true }, "other": { "backend": "slow" } }));
    let (status, body) = send(&server, "GET", "/ready", "");
    assert_eq!((status, &body["status"], &body["waiting_for"]), (503, &json!("warming_up"), &json!(["slow"])));
    assert_eq!(send(&server, "GET", "/health", "").0, 200, "it lives all the same");
    GO.add_permits(1);
    let is_ready = (0..2_000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        send(&server, "GET", "/ready", "").0 == 200
    });
    assert!(is_ready);
    server.stop().unwrap();
}

#[test]
fn clients_may_ask_for_sessions_where_there_are_none() {
    let server = start(&json!({ "plain": {} }));
    let body = json!({ "worker_id": "w", "resource_type": "plain" }).to_string();
    for route in ["/session/create", "/session/destroy", "/api/v1/session/destroy"] {
        let (status, answer) = send(&server, "POST", route, &body);
        assert_eq!((status, &answer["code"]), (200, &json!(0)), "{route}: {answer}");
        let data = &answer["data"];
        assert_eq!(
            (&data["compatibility_mode"], &data["resource_type"], &data["session_id"], &data["session_name"]),
            (&json!(true), &json!("plain"), &Value::Null, &Value::Null),
            "{route}: {answer}"
        );
    }
    server.stop().unwrap();
}

#[test]
fn a_server_that_has_ended_holds_no_backend() {
    let server = start(&json!({ "held": {} }));
    let call = json!({ "worker_id": "w", "action": "held:act", "detached": true }).to_string();
    let (status, answer) = send(&server, "POST", "/execute", &call);
    assert_eq!((status, &answer["code"], HELD.load(Ordering::SeqCst)), (202, &json!(0), 1), "{answer}");
    server.stop().unwrap();
    let is_gone = (0..2_000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        HELD.load(Ordering::SeqCst) == 0
    });
    assert!(is_gone, "its runs, and what they hold, went with it");
}
