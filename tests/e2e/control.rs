//! The control port, and the watchdog that says who blocks the others.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::{Reply, SERVER, Server, receive, send, until};

/// A server whose tools block until they are released.
struct Stalling {
    server: Server,
    release: PathBuf,
    _folder: tempfile::TempDir,
}

impl Stalling {
    fn start(workers: usize, server: &Value) -> Self {
        Self::start_with(workers, server, &[])
    }

    fn start_with(workers: usize, server: &Value, env: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let release = folder.path().join("release");
        let mut config = json!({ "server": { "workers": workers, "control_port": 0 }, "resources": { "probe": {} } });
        config["server"].as_object_mut().unwrap().extend(server.as_object().unwrap().clone());
        let env: Vec<_> = env.iter().copied().chain([("PROBE_RELEASE", release.to_str().unwrap())]).collect();
        let server = Server::start_with(&config, &env);
        Self { server, release, _folder: folder }
    }

    /// Calls the tool for `w0`, `w1`, .. on connections of their own, until every worker is blocked.
    fn block<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        workers: u64,
        tool: &'static str,
        params: &Value,
    ) -> Vec<thread::ScopedJoinHandle<'scope, Reply>> {
        let mut calls = Vec::new();
        // A connection may land on a worker that is blocked already: the call then waits there.
        while self.blocked() < workers {
            assert!(calls.len() < 40, "calls do not get to every worker");
            let (worker, params) = (format!("w{}", calls.len()), params.clone());
            calls.push(scope.spawn(move || self.server.execute(&worker, tool, &params)));
            let before = self.blocked();
            let looked = Instant::now();
            while self.blocked() == before && looked.elapsed() < Duration::from_millis(500) {
                thread::sleep(Duration::from_millis(10));
            }
        }
        calls
    }

    fn blocked(&self) -> u64 {
        self.get("/ready").body["blocked_threads"].as_u64().unwrap()
    }

    fn control(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        at(self.server.control.unwrap(), method, path, headers, body)
    }

    fn get(&self, path: &str) -> Reply {
        self.control("GET", path, &[], b"")
    }

    fn post(&self, path: &str, body: &Value) -> Reply {
        self.control("POST", path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
    }

    fn release(&self) {
        std::fs::write(&self.release, "").unwrap();
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.server.log).unwrap()
    }

    /// Waits until the log says who blocks a thread, in a line with all of these.
    fn until_named(&self, parts: &[&str]) {
        let says = |line: &&str| line.contains("blocks its thread") && parts.iter().all(|part| line.contains(part));
        until("the log names it", || self.log().lines().any(|line| says(&line)));
    }
}

fn at(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    send(&mut stream, method, path, headers, body);
    receive(&mut stream)
}

#[test]
fn it_answers_while_tools_block_every_worker_and_the_log_names_them() {
    let stalling = Stalling::start(2, &json!({}));
    let server = &stalling.server;
    let id = server.create("w0", &json!({})).data()["session_id"].clone();
    let of = |worker: &str| json!({ "worker_id": worker, "resource_type": "probe" });
    thread::scope(|scope| {
        let mut calls = stalling.block(scope, 2, "probe:stall", &json!({ "then_ms": 60_000 }));
        assert_eq!(stalling.get("/health").body["status"], "healthy");
        let ready = stalling.get("/ready");
        assert_eq!((ready.status, &ready.body["blocked_threads"]), (200, &json!(2)), "{ready:?}");
        let resources = stalling.get("/resources").body;
        let probe = resources["resources"].as_array().unwrap().iter().find(|one| one["resource"] == "probe");
        assert!(probe.is_some_and(|probe| probe["sessions"].as_u64() >= Some(2)), "{resources}");
        assert_eq!(stalling.get("/warmup/status").body["backends"]["probe"]["warmed_up"], true);

        let list = stalling.post("/session/list", &of("w0"));
        let session = &list.data()["sessions"][0];
        assert_eq!((&session["session_id"], &session["status"]), (&id, &json!("busy")), "{list:?}");
        assert_eq!(stalling.post("/status", &of("w0")).data()["active_resources"], json!(["probe"]));
        assert_eq!(stalling.post("/session/destroy", &of("w0")).data()["session_id"], id);
        assert_eq!(stalling.post("/api/v1/session/list", &of("w0")).data()["count"], 0, "its key is free at once");
        assert_eq!(stalling.post("/session/destroy", &of("w0")).status, 404);
        assert_eq!(stalling.post("/worker/disconnect", &of("w1")).data()["worker_id"], "w1");

        let thread = ["thread=\"actix-rt|", "thread_id="];
        let call = ["WARN", "tool=\"probe:stall\"", "worker=\"w0\"", "trace=", "run=\"run_"];
        stalling.until_named(&[&call[..], &thread].concat());
        let runs = stalling.control("GET", "/runs", &[("X-Worker-ID", "w1")], b"");
        let run = &runs.data()["runs"][0];
        assert_eq!((&run["tool"], &run["state"]), (&json!("probe:stall"), &json!("running")), "{runs:?}");
        let run = run["run_id"].as_str().unwrap();
        until("the log gives its id", || stalling.log().contains(run));
        let cancel = stalling.post(&format!("/runs/{run}/cancel"), &json!({ "worker_id": "w1" }));
        assert_eq!(cancel.data()["cancelled"], true);
        stalling.release();
        let first = calls.remove(0).join().unwrap();
        assert_eq!((first.code(), first.reason()), (5020, "destroyed"), "{first:?}");
        until("nothing is blocked", || stalling.blocked() == 0);
        let free = |line: &str| line.contains("INFO") && line.contains("a thread that a tool blocked is free");
        until("the log says so", || stalling.log().lines().filter(|line| free(line)).count() >= 2);
        until("it was cleaned up", || server.counts()["ended"]["destroyed"] == 1);
        until("the others ended", || {
            for n in 1..=calls.len() {
                stalling.post("/worker/disconnect", &of(&format!("w{n}"))).data();
            }
            calls.iter().all(thread::ScopedJoinHandle::is_finished)
        });
        for call in calls {
            assert_eq!(call.join().unwrap().code(), 5020);
        }
    });
}

#[test]
fn a_body_that_says_it_blocks_is_not_reported_and_a_drop_that_blocks_is() {
    let stalling = Stalling::start(1, &json!({}));
    let server = &stalling.server;
    server.execute("w", "probe:block_free", &json!({ "ms": 400 })).data();
    assert!(!stalling.log().contains("blocks its thread"), "{}", stalling.log());
    thread::scope(|scope| {
        let call =
            scope.spawn(|| server.execute_with("w", "probe:stall_dropped", &json!({}), &json!({ "timeout": 0.3 })));
        until("its drop blocks", || stalling.blocked() == 1);
        stalling.release();
        assert_eq!(call.join().unwrap().code(), 5006);
    });
    assert!(stalling.log().contains("tool=\"probe:stall_dropped\""), "{}", stalling.log());
}

#[test]
fn hooks_that_block_are_named_and_so_are_sources_of_downloads() {
    let stalling = Stalling::start_with(1, &json!({}), &[("PROBE_STALL_WARMUP", "1")]);
    let server = &stalling.server;
    let backends = "thread=\"sandbox-backends\"";
    stalling.until_named(&["tool=\"probe:start\"", backends]);
    stalling.release();
    until("nothing is blocked", || stalling.blocked() == 0 && stalling.get("/ready").status == 200);
    std::fs::remove_file(&stalling.release).unwrap();

    let worker = "worker=\"w\"";
    thread::scope(|scope| {
        let create = scope.spawn(|| server.create("w", &json!({ "stall_initialize": true, "stall_cleanup": true })));
        stalling.until_named(&["tool=\"probe:initialize\"", worker, "trace=", backends]);
        stalling.release();
        create.join().unwrap().data();
    });
    std::fs::remove_file(&stalling.release).unwrap();
    server.post("/session/destroy", &json!({ "worker_id": "w", "resource_type": "probe" })).data();
    stalling.until_named(&["tool=\"probe:cleanup\"", worker, "trace=", backends]);
    stalling.release();
    until("it is cleaned up", || server.counts()["ended"]["destroyed"] == 1);
    std::fs::remove_file(&stalling.release).unwrap();

    let mut download = server.connect();
    send(&mut download, "GET", "/execute/probe:stall_source", &[("X-Worker-ID", "w")], b"");
    stalling.until_named(&["tool=\"probe:stall_source\"", worker, "trace=", "thread=\"actix-rt|"]);
    stalling.release();
    until("nothing is blocked", || stalling.blocked() == 0);
}

#[test]
fn nothing_of_a_backend_runs_on_its_thread() {
    let stalling = Stalling::start(1, &json!({}));
    let server = &stalling.server;
    let destroy = json!({ "worker_id": "w", "resource_type": "probe" });
    // Their cleanups are so quick that they come to run in place.
    for _ in 0..30 {
        server.create("w", &json!({})).data();
        server.post("/session/destroy", &destroy).data();
    }
    let quick = || server.counts()["ended"]["destroyed"] == 30;
    until("they are cleaned up", quick);
    server.create("w", &json!({ "stall_cleanup": true })).data();
    stalling.post("/session/destroy", &destroy).data();
    assert_eq!(stalling.get("/health").status, 200);
    assert!(quick(), "the last one blocks a thread of the backends");
    stalling.release();
    until("it is cleaned up", || server.counts()["ended"]["destroyed"] == 31);
}

#[test]
fn the_same_callers_may_use_it() {
    let stalling = Stalling::start(1, &json!({ "tokens": ["secret"] }));
    let token = ("Authorization", "Bearer secret");
    assert_eq!(stalling.get("/health").status, 200);
    assert_eq!(stalling.get("/ready").body, json!({ "status": "ready" }), "no more without a token");
    let refused = stalling.get("/resources");
    assert_eq!((refused.status, refused.code()), (401, 4011));
    assert_eq!(stalling.control("GET", "/resources", &[token], b"").status, 200);
    assert_eq!(stalling.control("GET", "/ready", &[token], b"").body["blocked_threads"], 0);
    let page = stalling.control("GET", "/resources", &[token, ("Origin", "https://example.org")], b"");
    assert_eq!((page.status, page.reason()), (403, "origin"));

    let open = Stalling::start(1, &json!({}));
    let rebound = open.control("GET", "/resources", &[("Host", "example.org")], b"");
    assert_eq!((rebound.status, rebound.reason()), (403, "host"));
}

#[test]
fn what_waits_is_on_the_main_port_only() {
    let stalling = Stalling::start(1, &json!({}));
    for path in ["/execute", "/api/v1/execute", "/session/create", "/tools", "/nothing"] {
        let reply = stalling.post(path, &json!({ "worker_id": "w" }));
        assert_eq!((reply.status, reply.code()), (404, 4014), "{path}");
        assert!(reply.body["message"].as_str().unwrap().contains("on the control port"), "{reply:?}");
    }
    assert_eq!(stalling.get("/session/list").code(), 4015);
    let off = stalling.post("/shutdown", &json!({}));
    assert_eq!((off.status, off.code()), (403, 4013), "the rule of the main port");
}

#[test]
fn it_can_end_a_server_whose_workers_are_blocked_and_answers_to_the_end() {
    let mut stalling = Stalling::start(1, &json!({ "allow_shutdown": true }));
    let control = stalling.server.control.unwrap();
    thread::scope(|scope| {
        let calls = stalling.block(scope, 1, "probe:stall", &json!({}));
        assert_eq!(stalling.post("/api/v1/server/shutdown", &json!({})).body["status"], "success");
        until("it drains", || stalling.get("/ready").body["status"] == "draining");
        let ready = stalling.get("/ready");
        assert_eq!((ready.status, &ready.body["blocked_threads"]), (503, &json!(1)));
        assert_eq!(stalling.get("/health").status, 200);
        stalling.release();
        for call in calls {
            call.join().unwrap().data();
        }
    });
    assert!(stalling.server.process.wait().unwrap().success());
    TcpListener::bind(control).unwrap();
}

#[test]
fn a_tool_that_never_lets_go_does_not_keep_the_server() {
    let mut stalling = Stalling::start(1, &json!({ "drain_seconds": 0 }));
    let mut call = stalling.server.connect();
    let body = json!({ "worker_id": "w", "action": "probe:stall_free" }).to_string();
    send(&mut call, "POST", "/execute", &[("Content-Type", "application/json")], body.as_bytes());
    until("it is blocked", || stalling.blocked() == 1);
    stalling.server.signal(libc::SIGTERM);
    until("it ended", || stalling.server.process.try_wait().unwrap().is_some_and(|status| status.success()));
    assert!(stalling.log().contains("workers that tools block are left behind"), "{}", stalling.log());
}

#[test]
fn a_port_that_is_taken_or_named_twice_stops_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    for (main, expected) in [
        (0, format!("server.control_port: cannot listen on 127.0.0.1:{port}")),
        (port, "server.control_port: expected another port than `server.port`".to_owned()),
    ] {
        let config = json!({ "server": { "port": main, "control_port": port }, "resources": { "probe": {} } });
        std::fs::write(&file, config.to_string()).unwrap();
        let output = Command::new(SERVER).args(["serve", "--config"]).arg(&file).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), &b""[..]), "{stderr}");
        assert!(stderr.contains(&expected), "{stderr}");
    }
}
