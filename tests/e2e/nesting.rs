//! Tools that call tools.

use serde_json::{Value, json};

use crate::harness::{Server, until};

fn nest(how: &str, action: &str, params: &Value) -> (String, Value) {
    (format!("probe:{how}"), json!({ "action": action, "params": params }))
}

#[test]
fn a_tool_calls_another_for_the_same_worker_and_trace() {
    let server = Server::probe();
    server.create("w", &json!({})).data();
    let (action, params) = nest("nest", "probe:who", &json!({}));
    let reply = server.execute_with("w", &action, &params, &json!({ "trace_id": "t-9" }));
    assert_eq!((&reply.data()["worker"], &reply.data()["trace"]), (&json!("w"), &json!("t-9")));
    let (action, params) = nest("nest", "probe:click", &json!({}));
    let reply = server.execute("w", &action, &params);
    assert_eq!(
        (reply.code(), &reply.body["error"]["parameter"]),
        (4003, &json!("x")),
        "the inner answer is the outer one's"
    );
}

#[test]
fn a_shared_hold_is_shared_and_an_exclusive_one_is_a_conflict() {
    let server = Server::probe();
    server.create("w", &json!({})).data();
    for (how, inner, code) in [
        ("nest_shared", "probe:total", 0),
        ("nest_shared", "probe:add", 4009),
        ("nest_alone", "probe:total", 4009),
        ("nest_alone", "probe:add", 4009),
        ("nest_alone", "probe:wait", 0),
        ("nest", "probe:add", 0),
    ] {
        let params = if inner == "probe:wait" { json!({ "ms": 1 }) } else { json!({}) };
        let (action, params) = nest(how, inner, &params);
        let reply = server.execute("w", &action, &params);
        assert_eq!(reply.code(), code, "{how} -> {inner}: {reply:?}");
    }
    assert_eq!(server.execute("w", "probe:total", &json!({})).data(), 4, "no call broke the session");
}

#[test]
fn a_shared_hold_passes_a_writer_that_waits() {
    let server = Server::probe();
    server.create("w", &json!({})).data();
    std::thread::scope(|scope| {
        // The inner call shares its caller's hold: to lock again would wait behind the writer, and the writer for the caller.
        let (action, inner) = nest("nest_shared", "probe:share", &json!({ "ms": 600 }));
        let server = &server;
        let outer = scope.spawn(move || server.execute("w", &action, &inner));
        std::thread::sleep(std::time::Duration::from_millis(200));
        let writer = scope.spawn(move || server.execute("w", "probe:add", &json!({})));
        assert_eq!(outer.join().unwrap().data(), 0);
        assert_eq!(writer.join().unwrap().data(), 1);
    });
}

#[test]
fn a_temporary_session_is_shared_with_the_calls_of_its_call() {
    let server = Server::probe();
    let (action, params) = nest("nest_shared", "probe:total", &json!({}));
    server.execute("w", &action, &params).data();
    until("one session was made and ended", || server.counts()["ended"]["call_ended"] == 1);
    assert_eq!(server.counts()["initialized"], 1);
}

#[test]
fn calls_nest_eight_deep() {
    let server = Server::probe();
    let wrap = |depth: usize| {
        (0..depth)
            .fold(("probe:wait".to_owned(), json!({ "ms": 1 })), |(action, params), _| nest("nest", &action, &params))
    };
    let (action, params) = wrap(8);
    server.execute("w", &action, &params).data();
    let (action, params) = wrap(9);
    assert_eq!(server.execute("w", &action, &params).code(), 4009);
}

#[test]
fn the_callers_deadline_holds_for_its_calls() {
    let server = Server::probe();
    let (action, params) = nest("nest", "probe:wait", &json!({ "ms": 60_000 }));
    let reply = server.execute_with("w", &action, &params, &json!({ "timeout": 0.5 }));
    assert_eq!(reply.code(), 5006, "{reply:?}");
}

#[test]
fn a_nested_call_that_is_cut_says_why() {
    let server = Server::probe();
    server.create("w", &json!({})).data();
    std::thread::scope(|scope| {
        let server = &server;
        let first = scope.spawn(move || server.execute("w", "probe:hold", &json!({ "ms": 1200 })).status);
        std::thread::sleep(std::time::Duration::from_millis(100));
        let (action, params) = nest("nest_alone", "probe:wait", &json!({ "ms": 60_000 }));
        let reply = server.execute_with("w", &action, &params, &json!({ "timeout": 2 }));
        assert_eq!(reply.code(), 5006, "not that the client left: {reply:?}");
        assert_eq!(first.join().unwrap(), 200);
    });
}

#[test]
fn nested_calls_use_the_session_that_the_request_names() {
    let server = Server::probe();
    let second = json!({ "worker_id": "w", "resource_type": "probe", "session": "second" });
    server.post("/session/create", &second).data();
    let (action, params) = nest("nest", "probe:add", &json!({}));
    for total in 1..=2 {
        assert_eq!(server.execute_with("w", &action, &params, &json!({ "session": "second" })).data(), total);
    }
}

#[test]
fn nested_calls_find_their_session_as_the_request_says() {
    let server = Server::probe();
    let (action, params) = nest("nest", "probe:add", &json!({}));
    let require = json!({ "session_mode": "require" });
    assert_eq!(server.execute_with("w", &action, &params, &require).code(), 4007, "no session is made for it");
    server.create("w", &json!({})).data();
    assert_eq!(server.execute_with("w", &action, &params, &json!({ "session_mode": "temporary" })).data(), 1);
    assert_eq!(server.execute("w", "probe:total", &json!({})).data(), 0, "the worker's own was left alone");
}

#[test]
fn the_calls_of_a_batch_and_theirs_share_its_session() {
    let server = Server::probe();
    let (action, params) = nest("nest", "probe:add", &json!({}));
    let nested = json!({ "action": action, "params": params });
    let body = json!({ "worker_id": "w", "actions": [{ "action": "probe:add" }, nested] });
    let results = server.post("/execute/batch", &body).data()["results"].clone();
    assert_eq!((&results[0]["data"], &results[1]["data"]), (&json!(1), &json!(2)), "{results}");
}

#[test]
fn a_nested_call_waits_for_no_turn_and_needs_none_where_its_caller_has_one() {
    let one = json!({ "backend": "probe", "max_concurrent_calls": 1 });
    let server = Server::start(&json!({ "resources": { "near": one, "far": one } }));
    std::thread::scope(|scope| {
        let server = &server;
        let busy = scope.spawn(move || server.execute("w", "far:wait", &json!({ "ms": 1500 })).status);
        std::thread::sleep(std::time::Duration::from_millis(300));
        let (_, params) = nest("nest", "far:wait", &json!({ "ms": 1 }));
        let reply = server.execute("v", "near:nest", &params);
        assert_eq!(reply.code(), 4029, "to wait while it holds a turn of its own could deadlock: {reply:?}");
        assert_eq!(busy.join().unwrap(), 200);
        server.execute("v", "near:nest", &params).data();
    });
    let there_and_back = json!({
        "action": "far:nest",
        "params": { "action": "near:nest", "params": { "action": "far:wait", "params": { "ms": 1 } } },
    });
    server.execute("w", "near:nest", &there_and_back).data();
}
