//! Turns, sessions and threads: who waits for one keeps none of the others from those who need it.

use std::{thread, time::Duration};

use serde_json::{Value, json};

use crate::harness::Server;

fn one_turn() -> Server {
    Server::start(&json!({ "resources": { "probe": { "max_concurrent_calls": 1 } } }))
}

#[test]
fn a_call_that_gives_up_before_its_turn_leaves_its_session_whole() {
    let server = one_turn();
    server.create("w", &json!({})).data();
    thread::scope(|scope| {
        let busy = scope.spawn(|| server.execute("other", "probe:wait", &json!({ "ms": 2000 })).status);
        thread::sleep(Duration::from_millis(200));
        let late = server.execute_with("w", "probe:add", &json!({}), &json!({ "timeout": 0.4 }));
        assert_eq!((late.code(), &late.body["meta"]["executed"]), (5006, &json!(false)));
        let body = json!({ "worker_id": "w", "action": "probe:add", "params": {} });
        server.abandon("/execute", &body, Duration::from_millis(200));
        assert_eq!(busy.join().unwrap(), 200);
    });
    assert_eq!(server.execute("w", "probe:total", &json!({})).data(), 0, "neither was entered, and nothing is broken");
}

#[test]
fn a_call_in_the_queue_does_not_keep_its_session_from_the_tool_whose_turn_it_is() {
    let server = one_turn();
    server.create("w", &json!({})).data();
    let limit = json!({ "timeout": 20 });
    let totals = thread::scope(|scope| {
        let (server, limit) = (&server, &limit);
        let busy = scope.spawn(move || server.execute("other", "probe:wait", &json!({ "ms": 800 })).status);
        thread::sleep(Duration::from_millis(200));
        let inner = json!({ "action": "probe:add", "params": {} });
        let nesting = scope.spawn(move || server.execute_with("w", "probe:nest", &inner, limit).data().clone());
        thread::sleep(Duration::from_millis(200));
        let direct = scope.spawn(move || server.execute_with("w", "probe:add", &json!({}), limit).data().clone());
        assert_eq!(busy.join().unwrap(), 200);
        [nesting.join().unwrap(), direct.join().unwrap()]
    });
    assert_eq!(totals, [Value::from(1), Value::from(2)], "served in turn, neither waited for the other's end");
}

#[test]
fn who_waited_for_a_session_that_broke_does_not_run_on_it() {
    let server = Server::probe();
    server.create("w", &json!({})).data();
    thread::scope(|scope| {
        let server = &server;
        let cut = scope.spawn(move || {
            server.execute_with("w", "probe:hold", &json!({ "ms": 60_000 }), &json!({ "timeout": 1.5 })).code()
        });
        thread::sleep(Duration::from_millis(300));
        let waited = server.execute("w", "probe:add", &json!({}));
        assert_eq!((waited.code(), waited.reason()), (4010, "broken"), "{waited:?}");
        assert_eq!(waited.body["meta"]["executed"], false);
        assert_eq!(cut.join().unwrap(), 5006);
    });
}

#[test]
fn calls_that_wait_for_a_session_take_no_threads() {
    let server = Server::probe();
    for worker in ["a", "b"] {
        server.create(worker, &json!({})).data();
    }
    thread::scope(|scope| {
        let server = &server;
        let waiting: Vec<_> = (0..66)
            .map(|n| {
                let worker = if n % 2 == 0 { "a" } else { "b" };
                scope.spawn(move || server.execute(worker, "probe:block", &json!({ "ms": 100 })).status)
            })
            .collect();
        thread::sleep(Duration::from_millis(800));
        assert!(waiting.iter().any(|call| !call.is_finished()));
        server.execute("c", "probe:block_free", &json!({ "ms": 1 })).data();
        assert!(waiting.into_iter().all(|call| call.join().unwrap() == 200));
    });
}

#[test]
fn the_calls_of_a_call_that_names_its_session_by_id_mean_that_session() {
    let server = Server::probe();
    let body = json!({ "worker_id": "w", "resource_type": "probe", "session": "second" });
    let id = server.post("/session/create", &body).data()["session_id"].clone();
    let by_id = json!({ "session_id": id });
    let inner = |action: &str| json!({ "action": action, "params": {} });
    let who = server.execute_with("w", "probe:nest_shared", &inner("probe:who"), &by_id);
    assert_eq!(who.data()["session"], id);
    assert_eq!(server.execute_with("w", "probe:nest_alone", &inner("probe:add"), &by_id).code(), 4009);
}

#[test]
fn an_initialize_that_needs_its_own_session_is_told_so() {
    let server = Server::probe();
    let reply = server.create("w", &json!({ "call": "probe:total" }));
    assert_eq!(reply.code(), 4009, "{reply:?}");
    assert!(reply.body["message"].as_str().unwrap().contains("is being made"), "{reply:?}");
    server.create("w", &json!({ "call": "probe:counts" })).data();
}
