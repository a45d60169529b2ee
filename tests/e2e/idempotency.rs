//! Idempotency keys.

use std::{thread, time::Duration};

use serde_json::{Value, json};

use crate::harness::{Reply, Server};

fn keyed(server: &Server, worker: &str, action: &str, params: &Value, key: &str) -> Reply {
    server.execute_with(worker, action, params, &json!({ "idempotency_key": key }))
}

#[test]
fn a_key_runs_the_tool_once_and_replays_its_answer() {
    let server = Server::probe();
    server.create("w", &json!({})).data();
    let first = keyed(&server, "w", "probe:add", &json!({ "by": 5 }), "k");
    assert_eq!(first.data(), 5);
    let again = keyed(&server, "w", "probe:add", &json!({ "by": 5 }), "k");
    assert_eq!(again.body, first.body, "the answer itself, trace and all");
    assert_eq!(server.execute("w", "probe:total", &json!({})).data(), 5);
    let other = keyed(&server, "w", "probe:add", &json!({ "by": 6 }), "k");
    assert_eq!((other.status, other.code()), (409, 4009));
    server.create("v", &json!({})).data();
    assert_eq!(keyed(&server, "v", "probe:add", &json!({ "by": 5 }), "k").data(), 5, "keys belong to workers");
}

#[test]
fn concurrent_duplicates_wait_for_the_first() {
    let server = Server::probe();
    server.create("w", &json!({})).data();
    let totals: Vec<Value> = thread::scope(|scope| {
        let calls: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| keyed(&server, "w", "probe:hold", &json!({ "ms": 300 }), "k").data().clone()))
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert!(totals.iter().all(|total| *total == 1), "{totals:?}");
}

#[test]
fn a_call_that_was_not_entered_leaves_its_key_free() {
    let server = Server::probe();
    assert_eq!(keyed(&server, "w", "probe:click", &json!({}), "k").code(), 4003);
    keyed(&server, "w", "probe:click", &json!({ "x": 1 }), "k").data();
}

#[test]
fn a_keyed_call_outlives_its_client_and_can_be_joined() {
    let server = Server::probe();
    let body = json!({ "worker_id": "w", "action": "probe:hold", "params": { "ms": 1000 }, "idempotency_key": "k" });
    server.abandon("/execute", &body, Duration::from_millis(200));
    let joined = server.post("/execute", &body);
    assert_eq!(joined.data(), 1);
    assert_eq!(server.counts()["initialized"], 1, "its temporary session lived on too");
}

#[test]
fn nobody_joins_and_the_call_is_cancelled() {
    let server = Server::start(&json!({ "server": { "reattach_seconds": 0.2 }, "resources": { "probe": {} } }));
    server.create("w", &json!({})).data();
    let body = json!({ "worker_id": "w", "action": "probe:graceful", "params": {}, "idempotency_key": "k" });
    server.abandon("/execute", &body, Duration::from_millis(200));
    assert_eq!(server.execute("w", "probe:total", &json!({})).data(), 100, "the tool was told to stop");
    assert_eq!(server.post("/execute", &body).data(), "stopped in time", "its answer is kept all the same");
}

#[test]
fn batches_take_a_key_too() {
    let server = Server::probe();
    server.create("w", &json!({})).data();
    let body = json!({ "worker_id": "w", "idempotency_key": "b", "actions": [{ "action": "probe:add" }, { "action": "probe:add" }] });
    let first = server.post("/execute/batch", &body);
    assert_eq!(first.data()["success_count"], 2);
    assert_eq!(server.post("/execute/batch", &body).body, first.body);
    assert_eq!(server.execute("w", "probe:total", &json!({})).data(), 2);
}

#[test]
fn a_client_may_ask_again_under_another_trace_and_limit() {
    let server = Server::probe();
    let ask = |trace: &str, timeout: u32| {
        let more = json!({ "idempotency_key": "k", "trace_id": trace, "timeout": timeout });
        server.execute_with("w", "probe:click", &json!({ "x": 1 }), &more)
    };
    assert_eq!(ask("a", 5).data()["x"], 1);
    assert_eq!(ask("b", 9).body["meta"]["trace_id"], "a", "the answer of the first");
}

#[test]
fn each_time_the_last_client_leaves_the_wait_begins_anew() {
    let server = Server::start(&json!({ "server": { "reattach_seconds": 1.2 }, "resources": { "probe": {} } }));
    let body = json!({ "worker_id": "w", "action": "probe:wait", "params": { "ms": 2600 }, "idempotency_key": "k" });
    server.abandon("/execute", &body, Duration::from_millis(200));
    thread::sleep(Duration::from_millis(700));
    server.abandon("/execute", &body, Duration::from_millis(200));
    thread::sleep(Duration::from_millis(700));
    server.post("/execute", &body).data();
}
