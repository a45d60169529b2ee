//! The end of the server, and what its workers learn after a restart.

use std::{thread, time::Duration};

use serde_json::json;

use crate::harness::{Server, until};

#[test]
fn sigterm_lets_calls_finish_cleans_up_and_exits_well() {
    let mut server = Server::probe();
    server.create("w", &json!({ "cleanup_ms": 300 })).data();
    let reply = thread::scope(|scope| {
        let call = scope.spawn(|| server.execute("w", "probe:hold", &json!({ "ms": 1500 })));
        thread::sleep(Duration::from_millis(400));
        server.signal(libc::SIGTERM);
        call.join().unwrap()
    });
    assert_eq!(reply.data(), 1, "the call in flight has its answer");
    assert!(server.process.wait().unwrap().success());
    let log = std::fs::read_to_string(&server.log).unwrap();
    assert!(log.contains("sessions cleaned up") && !log.contains("could not be cleaned up"), "{log}");
}

#[test]
fn a_second_signal_hurries_it() {
    let mut server = Server::probe();
    let reply = thread::scope(|scope| {
        let call = scope
            .spawn(|| server.execute_with("w", "probe:hold", &json!({ "ms": 120_000 }), &json!({ "timeout": 100 })));
        thread::sleep(Duration::from_millis(400));
        server.signal(libc::SIGINT);
        thread::sleep(Duration::from_millis(200));
        server.signal(libc::SIGINT);
        call.join().unwrap()
    });
    assert_eq!((reply.status, reply.code()), (503, 5021));
    assert!(server.process.wait().unwrap().success());
}

#[test]
fn shutdown_over_http_is_off_unless_enabled() {
    let mut server = Server::start(&json!({ "server": { "allow_shutdown": true }, "resources": { "probe": {} } }));
    server.create("w", &json!({})).data();
    let reply = server.post("/api/v1/server/shutdown", &json!({ "force": true }));
    assert_eq!((&reply.body["status"], &reply.body["sessions_cleaned"]), (&json!("success"), &json!(1)));
    assert!(server.process.wait().unwrap().success());
}

#[test]
fn after_a_restart_workers_learn_that_their_sessions_are_gone() {
    for how in [libc::SIGKILL, libc::SIGTERM] {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({ "server": { "data_dir": folder.path() }, "resources": { "probe": {} } });
        let mut first = Server::start(&config);
        let id = first.create("kept", &json!({})).data()["session_id"].clone();
        first.create("ended", &json!({})).data();
        first.post("/session/destroy", &json!({ "worker_id": "ended", "resource_type": "probe" })).data();
        first.signal(how);
        first.process.wait().unwrap();
        drop(first);

        let second = Server::start(&config);
        assert_eq!(second.execute("ended", "probe:add", &json!({})).data(), 1, "this one asked for the end itself");
        let by_id = second.execute_with("kept", "probe:add", &json!({}), &json!({ "session_id": id }));
        assert_eq!((by_id.code(), by_id.reason()), (4010, "server_restarted"));
        assert_eq!(second.execute("kept", "probe:add", &json!({})).reason(), "server_restarted");
        assert_eq!(second.execute("kept", "probe:add", &json!({})).data(), 1, "told once");
        let other = second.execute_with("mallory", "probe:add", &json!({}), &json!({ "session_id": id }));
        assert_eq!(other.status, 404);
    }
}

#[test]
fn a_draining_server_says_so() {
    let server = Server::probe();
    thread::scope(|scope| {
        let call = scope.spawn(|| server.execute("w", "probe:wait", &json!({ "ms": 1500 })).status);
        thread::sleep(Duration::from_millis(300));
        server.signal(libc::SIGTERM);
        thread::sleep(Duration::from_millis(300));
        let ready = server.get("/ready");
        assert_eq!((ready.status, &ready.body["status"]), (503, &json!("draining")));
        assert_eq!(server.execute("w", "probe:wait", &json!({ "ms": 1 })).code(), 5021);
        assert_eq!(server.create("w", &json!({})).code(), 5021);
        assert_eq!(call.join().unwrap(), 200);
    });
    let mut server = server;
    until("it ended", || server.process.try_wait().unwrap().is_some());
}

#[test]
fn what_was_accepted_before_the_drain_gets_its_sessions() {
    let server = Server::probe();
    let wait = json!({ "action": "probe:wait", "params": { "ms": 800 } });
    let body = json!({ "worker_id": "w", "actions": [wait, { "action": "probe:add" }] });
    let reply = thread::scope(|scope| {
        let batch = scope.spawn(|| server.post("/execute/batch", &body));
        thread::sleep(Duration::from_millis(300));
        server.signal(libc::SIGTERM);
        batch.join().unwrap()
    });
    assert_eq!(reply.data()["results"][1]["data"], 1, "{reply:?}");
}

#[test]
fn sessions_can_be_left_without_cleanup() {
    let mut server = Server::start(&json!({ "server": { "allow_shutdown": true }, "resources": { "probe": {} } }));
    server.create("w", &json!({ "cleanup_ms": 3_600_000 })).data();
    let reply = server.post("/shutdown", &json!({ "cleanup_sessions": false }));
    assert_eq!(reply.body["sessions_cleaned"], 0);
    assert!(server.process.wait().unwrap().success());
    let log = std::fs::read_to_string(&server.log).unwrap();
    assert!(!log.contains("could not be cleaned up") && !log.contains("still use the shared state"), "{log}");
}

#[test]
fn a_keyed_batch_is_waited_for_too() {
    let server = Server::probe();
    let hold = json!({ "action": "probe:hold", "params": { "ms": 500 } });
    let body = json!({ "worker_id": "w", "idempotency_key": "k", "actions": [hold, hold, hold] });
    let reply = thread::scope(|scope| {
        let batch = scope.spawn(|| server.post("/execute/batch", &body));
        thread::sleep(Duration::from_millis(300));
        server.signal(libc::SIGTERM);
        batch.join().unwrap()
    });
    assert_eq!(reply.body["data"]["results"][0]["data"], 1, "{reply:?}");
    assert_eq!(reply.body["data"]["results"][2]["data"], 3, "{reply:?}");
}
