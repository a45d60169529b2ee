//! Servers that clients start for themselves, share, and leave.

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use sandbox_client::{ClientError, Sandbox, SandboxBuilder, blocking};
use serde_json::{Value, json};

use crate::harness::{SERVER, signal, until};

/// A place for servers, with a port that is free.
struct Place {
    folder: tempfile::TempDir,
    port: u16,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), json!({ "resources": { "probe": {} } }).to_string()).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { folder, port }
    }

    fn run(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    fn builder(&self) -> SandboxBuilder {
        Sandbox::builder()
            .url(format!("http://127.0.0.1:{}", self.port))
            .binary(SERVER)
            .config(self.folder.path().join("config.json"))
            .runtime_dir(self.run())
            .linger(Duration::from_millis(500))
    }

    /// What is said of the server in the folder that clients share.
    fn announced(&self) -> Option<Value> {
        let file = self.run().join(format!("127.0.0.1_{}", self.port)).join("server.json");
        serde_json::from_slice(&fs::read(file).ok()?).ok()
    }

    fn pid(&self) -> u32 {
        u32::try_from(self.announced().unwrap()["pid"].as_u64().unwrap()).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Of a test that failed.
        if let Some(server) = self.announced() {
            let _ = Command::new("kill").args(["-9", &server["pid"].to_string()]).status();
        }
    }
}

fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[tokio::test]
async fn a_server_is_started_used_and_ends_with_its_last_client() {
    let place = Place::new();
    let sandbox = place.builder().warmup(["probe"]).build().unwrap();
    assert!(sandbox.url().is_none());
    assert_eq!(sandbox.call::<u64>("probe:add", json!({})).await.unwrap(), 1, "by the first call");
    assert_eq!(sandbox.url().unwrap(), format!("http://127.0.0.1:{}", place.port));
    let log = sandbox.server_log().await.unwrap();
    assert!(log.contains("listening on http://127.0.0.1"), "{log}");
    let pid = place.pid();
    let second = place.builder().build().unwrap();
    second.start().await.unwrap();
    assert_eq!(place.pid(), pid, "it was there");
    sandbox.close().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(second.tools().await.is_ok() && runs(pid), "one client is left");
    drop(second);
    until("it ends with the last one", || !runs(pid));
    assert!(place.announced().is_none());
    sandbox.start().await.unwrap();
    assert_ne!(place.pid(), pid, "another one for who comes back");
    let begun = sandbox.shutdown_server().await.unwrap();
    assert_eq!(begun.status, "success");
    until("it has ended", || place.announced().is_none());
}

#[test]
fn who_comes_at_once_shares_one_server() {
    let place = Place::new();
    let starts: Vec<_> = (0..6)
        .map(|_| {
            let settings = place.builder();
            thread::spawn(move || {
                let sandbox = blocking::Builder::from(settings).build().unwrap();
                sandbox.start().unwrap();
                let incarnation = sandbox.client().unwrap().health().unwrap().incarnation;
                (sandbox, incarnation.unwrap())
            })
        })
        .collect();
    let started: Vec<_> = starts.into_iter().map(|start| start.join().unwrap()).collect();
    assert!(started.iter().all(|(_, incarnation)| *incarnation == started[0].1));
    let pid = place.pid();
    drop(started);
    until("it ends with the last one", || !runs(pid));
}

/// Run by the test below in a process of its own.
#[test]
fn a_client_that_is_killed() {
    let Some(place) = std::env::var_os("SANDBOX_TEST_PLACE") else { return };
    let port: u16 = std::env::var("SANDBOX_TEST_PORT").unwrap().parse().unwrap();
    let folder = tempfile::TempDir::new_in(&place).unwrap();
    let settings = Place { folder, port };
    let builder = settings.builder().runtime_dir(Path::new(&place).join("run"));
    let sandbox = blocking::Builder::from(builder.config(Path::new(&place).join("config.json"))).build().unwrap();
    sandbox.start().unwrap();
    sandbox.create_session("probe").unwrap();
    println!("started");
    std::io::stdout().flush().unwrap();
    thread::sleep(Duration::from_mins(1));
}

#[test]
fn a_client_that_is_killed_leaves_no_server() {
    let place = Place::new();
    let mut client = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "autostart::a_client_that_is_killed", "--nocapture"])
        .env("SANDBOX_TEST_PLACE", place.folder.path())
        .env("SANDBOX_TEST_PORT", place.port.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("a server is there", || place.announced().is_some());
    let pid = place.pid();
    // Until it is used, or it would be another one's start that is cut.
    let probe = Sandbox::builder().url(format!("http://127.0.0.1:{}", place.port)).auto_start(false);
    let probe = blocking::Builder::from(probe).build().unwrap();
    until("it has its session", || {
        probe.client().is_ok_and(|client| client.ready().is_ok_and(|ready| ready.total_sessions == 1))
    });
    signal(client.id(), 9);
    client.wait().unwrap();
    until("the server ends", || !runs(pid));
    assert!(place.announced().is_none());
}

#[tokio::test]
async fn a_call_of_others_keeps_the_server_until_it_is_over() {
    let place = Place::new();
    let sandbox = place.builder().build().unwrap();
    sandbox.start().await.unwrap();
    let pid = place.pid();
    let other = Sandbox::builder().url(sandbox.url().unwrap()).auto_start(false).build().unwrap();
    let call = tokio::spawn(async move { other.call::<Value>("probe:wait", json!({ "ms": 3000 })).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    sandbox.close().await;
    call.await.unwrap().unwrap();
    until("it ends", || !runs(pid));
}

#[tokio::test]
async fn what_else_is_at_the_port_is_left_alone() {
    let place = Place::new();
    let listener = TcpListener::bind(("127.0.0.1", place.port)).unwrap();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let _ = connection.unwrap().write_all(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    let (first, second) = (place.builder().build().unwrap(), place.builder().build().unwrap());
    first.start().await.unwrap();
    second.start().await.unwrap();
    assert_ne!(first.url().unwrap(), format!("http://127.0.0.1:{}", place.port));
    assert_eq!(first.url(), second.url(), "it is found where it is");
    assert_eq!(second.call::<u64>("probe:add", json!({})).await.unwrap(), 1);
    let pid = place.pid();
    drop((first, second));
    until("it ends", || !runs(pid));
}

#[tokio::test]
async fn a_server_that_does_not_start_says_why() {
    let place = Place::new();
    fs::write(place.folder.path().join("bad.json"), r#"{ "server": { "prot": 1 } }"#).unwrap();
    let begun = Instant::now();
    let bad = place.builder().config(place.folder.path().join("bad.json")).build().unwrap();
    let error = bad.start().await.unwrap_err();
    assert!(matches!(&error, ClientError::ServerStart { log, .. } if log.contains("prot")), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(20), "it does not wait for what has ended");
    let error = place.builder().binary("/no/such/program").build().unwrap().start().await.unwrap_err();
    assert!(error.to_string().contains("/no/such/program cannot be run"), "{error}");
    let slow = json!({ "resources": { "probe": { "required": true } }, "warmup": { "enabled": false } });
    fs::write(place.folder.path().join("slow.json"), slow.to_string()).unwrap();
    let slow = place.builder().config(place.folder.path().join("slow.json")).startup_timeout(Duration::from_secs(1));
    let error = slow.build().unwrap().start().await.unwrap_err();
    assert!(error.to_string().contains("was not ready after 1 s"), "{error}");
    assert!(place.announced().is_none());
    // Of the folder's own making, by somebody else.
    fs::create_dir(place.folder.path().join("open")).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(place.folder.path().join("open"), open).unwrap();
    let error =
        place.builder().runtime_dir(place.folder.path().join("open")).build().unwrap().start().await.unwrap_err();
    assert!(error.to_string().contains("this user alone"), "{error}");
}

#[tokio::test]
async fn a_detached_server_stays_and_a_killed_one_is_told_of() {
    let place = Place::new();
    let sandbox = place.builder().detach(true).retries(0).build().unwrap();
    sandbox.create_session("probe").await.unwrap();
    let pid = place.pid();
    let other = place.builder().build().unwrap();
    other.start().await.unwrap();
    drop(other);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(runs(pid), "it does not end with a client");
    signal(pid, 9);
    until("it is gone", || !runs(pid));
    assert!(matches!(sandbox.tools().await.unwrap_err(), ClientError::Connection { .. }));
    let next = place.builder().build().unwrap();
    next.start().await.unwrap();
    // The session was of the other one, and no other takes its place unsaid.
    let error = sandbox.call::<u64>("probe:add", json!({})).await.unwrap_err();
    assert_eq!(error.reason(), Some("server_restarted"), "{error}");
    let pid = place.pid();
    drop(next);
    until("it ends", || !runs(pid));
}

#[tokio::test]
async fn a_start_that_nobody_waits_for_leaves_nothing_half_made() {
    let place = Place::new();
    for patience_ms in [5, 30, 100] {
        let sandbox = place.builder().build().unwrap();
        let _ = tokio::time::timeout(Duration::from_millis(patience_ms), sandbox.start()).await;
    }
    let sandbox = place.builder().build().unwrap();
    sandbox.start().await.unwrap();
    assert_eq!(sandbox.url().unwrap(), format!("http://127.0.0.1:{}", place.port));
    let pid = place.pid();
    // One that has ended meanwhile is replaced by who starts again.
    signal(pid, 9);
    until("it is gone", || !runs(pid));
    assert!(sandbox.tools().await.is_err());
    sandbox.start().await.unwrap();
    assert!(sandbox.tools().await.is_ok());
    let pid = place.pid();
    drop(sandbox);
    until("it ends", || !runs(pid));
}

#[tokio::test]
async fn two_names_of_one_address_are_one_server() {
    let place = Place::new();
    let first = place.builder().build().unwrap();
    first.start().await.unwrap();
    let pid = place.pid();
    let second = place.builder().url(format!("http://localhost:{}", place.port)).build().unwrap();
    second.start().await.unwrap();
    first.close().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(second.tools().await.is_ok() && runs(pid), "it is kept by the one with the other name");
    second.close().await;
    until("it ends", || !runs(pid));
}
