//! The shell backend, over HTTP.

use serde_json::{Value, json};

use crate::harness::{Server, until};

/// A server with a session of worker `w`.
pub(crate) struct Shell {
    pub(crate) server: Server,
}

impl Shell {
    pub(crate) fn new() -> Self {
        Self::with(&json!({}))
    }

    /// With a configuration of the resource.
    pub(crate) fn with(config: &Value) -> Self {
        let server = Server::start(&json!({ "resources": { "bash": { "config": config } } }));
        create(&server, "w", &json!({}));
        Self { server }
    }

    /// The result of a tool.
    pub(crate) fn call(&self, tool: &str, params: &Value) -> Value {
        self.server.execute("w", &format!("bash:{tool}"), params).data().clone()
    }

    /// The code and the message of a tool's error.
    pub(crate) fn refused(&self, tool: &str, params: &Value) -> (u64, String) {
        let reply = self.server.execute("w", &format!("bash:{tool}"), params);
        (reply.code(), reply.body["message"].as_str().unwrap_or_default().to_owned())
    }

    /// What a command writes.
    pub(crate) fn sh(&self, command: &str) -> String {
        run(&self.server, "w", command)["stdout"].as_str().unwrap().to_owned()
    }
}

fn server() -> Server {
    Server::start(&json!({ "resources": { "bash": {} } }))
}

fn run(server: &Server, worker: &str, command: &str) -> Value {
    server.execute(worker, "bash:run", &json!({ "command": command })).data().clone()
}

fn create(server: &Server, worker: &str, config: &Value) {
    server
        .post("/session/create", &json!({ "worker_id": worker, "resource_type": "bash", "session_config": config }))
        .data();
}

#[test]
fn two_calls_on_one_session_share_the_shell() {
    let server = server();
    create(&server, "w", &json!({ "env": { "COLOUR": "red" }, "cwd": "/tmp" }));
    let first = run(
        &server,
        "w",
        "pwd; greet() { echo \"hello $1, $COLOUR\"; }; export N=41; mkdir -p /workspace/a; cd /workspace/a",
    );
    assert_eq!(
        (&first["stdout"], &first["exit_code"], &first["cwd"]),
        (&json!("/tmp\n"), &json!(0), &json!("/workspace/a"))
    );
    let second = run(&server, "w", "greet you; echo $((N + 1)); pwd; echo oops >&2; false");
    assert_eq!(second["stdout"], "hello you, red\n42\n/workspace/a\n");
    assert_eq!(
        (&second["stderr"], &second["exit_code"], &second["timed_out"]),
        (&json!("oops\n"), &json!(1), &json!(false))
    );
    assert!(second["duration_ms"].is_u64());
    let elsewhere = run(&server, "other", "echo \"[$N]\"; ls /workspace");
    assert_eq!(elsewhere["stdout"], "[]\n", "a temporary session knows nothing of it");
}

#[test]
fn the_sandbox_hides_the_host() {
    let server = Server::start_with(&json!({ "resources": { "bash": {} } }), &[("API_KEY", "canary-7f3a")]);
    create(&server, "w", &json!({}));
    assert_eq!(run(&server, "w", "whoami")["stdout"], "sandbox\n");
    let root = run(&server, "w", "ls /")["stdout"].as_str().unwrap().to_owned();
    assert!(!root.contains("root") && !root.contains("home") && root.contains("workspace"), "{root}");
    for (attack, allowed) in [
        ("cat /etc/shadow", false),
        ("touch /usr/x", false),
        ("mount -t tmpfs none /tmp", false),
        ("unshare -U true", false),
        ("kill -0 $PPID_OF_SERVER 2>&1", false),
        ("exec 3<>/dev/tcp/127.0.0.1/1", false),
        ("echo ok > /workspace/f && cat /workspace/f", true),
    ] {
        let outcome = run(&server, "w", attack);
        assert_eq!(outcome["exit_code"] == 0, allowed, "{attack}: {outcome}");
    }
    let pids =
        run(&server, "w", "ls /proc | grep -c '^[0-9]'")["stdout"].as_str().unwrap().trim().parse::<u32>().unwrap();
    assert!(pids < 10, "only its own processes: {pids}");
    let port = server.address.port();
    assert_ne!(
        run(&server, "w", &format!("(echo > /dev/tcp/127.0.0.1/{port}) 2>&1"))["exit_code"],
        0,
        "its loopback is its own"
    );
    assert!(
        !run(&server, "w", "env; cat /proc/*/environ")["stdout"].to_string().contains("canary"),
        "no variable of the server"
    );
}

#[test]
fn a_command_that_takes_too_long_is_interrupted_and_the_shell_lives() {
    let server = server();
    create(&server, "w", &json!({}));
    let slow = server.execute("w", "bash:run", &json!({ "command": "x=kept; sleep 60", "timeout_ms": 400 }));
    assert_eq!((&slow.data()["timed_out"], &slow.data()["exit_code"]), (&json!(true), &json!(130)));
    assert_eq!(run(&server, "w", "echo $x")["stdout"], "kept\n");
    let limited = server.execute_with("w", "bash:run", &json!({ "command": "sleep 60" }), &json!({ "timeout": 2 }));
    assert_eq!(limited.data()["timed_out"], true, "the call's own limit leaves time to answer");
    assert_eq!(run(&server, "w", "echo $x")["stdout"], "kept\n");
}

#[test]
fn a_shell_that_ended_is_started_again_and_says_so() {
    let server = server();
    create(&server, "w", &json!({}));
    let outcome = run(&server, "w", "echo bye; exit 3");
    assert_eq!(
        (&outcome["exit_code"], &outcome["stdout"], &outcome["shell_restarted"]),
        (&json!(3), &json!("bye\n"), &json!(true))
    );
    assert_eq!(run(&server, "w", "echo again")["stdout"], "again\n");
}

#[test]
fn long_output_is_cut_and_said_to_be() {
    let server = server();
    let outcome = run(&server, "w", "yes 0123456789abcdef | head -c 3000000; echo the-end");
    assert_eq!(outcome["stdout_truncated"]["total_bytes"], 3_000_008);
    assert_eq!(outcome["stderr_truncated"], Value::Null);
    let text = outcome["stdout"].as_str().unwrap();
    assert!(text.len() < 40_000 && text.ends_with("the-end\n"), "{} bytes", text.len());
}

#[test]
fn the_end_of_a_session_and_of_the_server_ends_its_processes() {
    let mark = format!("{}", 1_000_000 + std::process::id());
    let alive = || {
        let mut found = 0;
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            found += usize::from(String::from_utf8_lossy(&command).contains(&mark));
        }
        found
    };
    let mut server = server();
    create(&server, "a", &json!({}));
    create(&server, "b", &json!({}));
    for worker in ["a", "b"] {
        run(&server, worker, &format!("setsid sleep {mark} >/dev/null 2>&1 & disown"));
    }
    until("both daemons run", || alive() == 2);
    server.post("/session/destroy", &json!({ "worker_id": "a", "resource_type": "bash" })).data();
    until("the session's daemon is gone", || alive() == 1);
    server.process.kill().unwrap();
    server.process.wait().unwrap();
    until("kill -9 of the server leaves none", || alive() == 0);
}

#[test]
fn a_command_cut_by_the_end_of_its_session_or_server_did_not_time_out() {
    for end in ["destroy", "shutdown"] {
        let server = Server::start(&json!({ "server": { "drain_seconds": 0 }, "resources": { "bash": {} } }));
        create(&server, "w", &json!({}));
        let reply = std::thread::scope(|scope| {
            let call =
                scope.spawn(|| server.execute("w", "bash:run", &json!({ "command": "echo begun; sleep 61.7; echo" })));
            until("the command runs", || {
                std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
                    std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == b"sleep\x0061.7\0")
                })
            });
            if end == "destroy" {
                server.post("/session/destroy", &json!({ "worker_id": "w", "resource_type": "bash" })).data();
            } else {
                server.signal(libc::SIGTERM);
            }
            call.join().unwrap()
        });
        assert_eq!((&reply.body["success"], reply.code()), (&json!(false), 5020), "{end}: {reply:?}");
        assert_eq!(
            (&reply.body["data"]["stdout"], &reply.body["data"]["timed_out"]),
            (&json!("begun\n"), &json!(false)),
            "{end}: {reply:?}"
        );
    }
}
