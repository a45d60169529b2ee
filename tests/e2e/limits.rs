//! Time limits, disconnects, blocking bodies, quotas and queues.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::harness::{Server, until};

#[test]
fn the_request_limits_the_call_and_answers_before_it_is_over() {
    let server = Server::probe();
    let began = Instant::now();
    let reply = server.execute_with("w", "probe:wait", &json!({ "ms": 60_000 }), &json!({ "timeout": 1.0 }));
    assert_eq!((reply.status, reply.code()), (504, 5006));
    assert!(reply.body["message"].as_str().unwrap().contains("1 s"), "{reply:?}");
    // No claim on speed: the call would take a minute if nothing limited it.
    assert!(began.elapsed() < Duration::from_secs(30));
    for bad in [json!(0), json!(-1), json!("5")] {
        let reply = server.execute_with("w", "probe:wait", &json!({ "ms": 0 }), &json!({ "timeout": bad }));
        assert_eq!((reply.status, &reply.body["error"]["parameter"]), (400, &json!("timeout")), "{bad}");
    }
}

#[test]
fn a_tool_has_a_limit_of_its_own_which_the_request_overrides() {
    let server = Server::probe();
    assert_eq!(server.execute("w", "probe:limited", &json!({ "ms": 20_000 })).code(), 5006);
    let longer = json!({ "timeout": 30 });
    server.execute_with("w", "probe:limited", &json!({ "ms": 600 }), &longer).data();
}

#[test]
fn what_a_tool_returns_in_its_grace_is_the_answer() {
    let server = Server::probe();
    server.create("w", &json!({})).data();
    let reply = server.execute_with("w", "probe:graceful", &json!({}), &json!({ "timeout": 1.0 }));
    assert_eq!(reply.data(), "stopped in time");
    assert_eq!(server.execute("w", "probe:total", &json!({})).data(), 100, "the session is whole");
}

#[test]
fn a_client_that_leaves_cancels_its_call() {
    let server = Server::probe();
    server.create("w", &json!({})).data();
    let body = json!({ "worker_id": "w", "action": "probe:graceful", "params": {}, "timeout": 50 });
    server.abandon("/execute", &body, Duration::from_millis(300));
    // The call had the session to itself: this one waits for it, and sees that the tool was told.
    assert_eq!(server.execute("w", "probe:total", &json!({})).data(), 100);
}

#[test]
fn blocking_bodies_stall_nobody() {
    let server = Server::start(&json!({ "server": { "workers": 1 }, "resources": { "probe": {} } }));
    thread::scope(|scope| {
        let blocked: Vec<_> = (0..8)
            .map(|n| {
                let (server, worker) = (&server, format!("b{n}"));
                scope.spawn(move || server.execute(&worker, "probe:block_free", &json!({ "ms": 2000 })).data().clone())
            })
            .collect();
        thread::sleep(Duration::from_millis(200));
        for _ in 0..20 {
            server.execute("w", "util:echo", &json!({ "message": "m" })).data();
            assert_eq!(server.get("/health").status, 200);
        }
        assert!(
            blocked.iter().all(|call| !call.is_finished()),
            "twenty calls went by while eight threads were blocked"
        );
    });
}

#[test]
fn a_blocking_body_cannot_outlast_its_limit_and_breaks_its_session() {
    let server = Server::probe();
    server.create("w", &json!({})).data();
    let reply = server.execute_with("w", "probe:block", &json!({ "ms": 3000 }), &json!({ "timeout": 0.5 }));
    assert_eq!(reply.code(), 5006);
    assert_eq!(server.execute("w", "probe:total", &json!({})).reason(), "broken");
    assert!(server.counts()["ended"].as_object().unwrap().is_empty(), "its cleanup waits for the thread");
    until("the thread came back and the session was cleaned up", || server.counts()["ended"]["broken"] == 1);
}

#[test]
fn at_most_64_blocking_bodies_run_at_once() {
    let server = Server::probe();
    thread::scope(|scope| {
        for n in 0..64 {
            let server = &server;
            scope.spawn(move || {
                server.execute(&format!("w{n}"), "probe:block_free", &json!({ "ms": 4000 })).data().clone()
            });
        }
        thread::sleep(Duration::from_millis(1500));
        let reply = server.execute("late", "probe:block_free", &json!({ "ms": 1 }));
        assert_eq!((reply.status, reply.code()), (429, 4029));
        assert!(reply.head.to_lowercase().contains("retry-after:"), "{}", reply.head);
    });
    server.execute("late", "probe:block_free", &json!({ "ms": 1 })).data();
}

#[test]
fn one_session_leaves_threads_to_the_others() {
    let server = Server::probe();
    for worker in ["many", "few"] {
        server.create(worker, &json!({})).data();
    }
    let block = |worker: &str, ms: u64| server.execute(worker, "probe:block_beside", &json!({ "ms": ms }));
    thread::scope(|scope| {
        // 16 run, 32 wait, and the last of those begin after two rounds.
        let calls: Vec<_> = (0..50).map(|_| scope.spawn(|| block("many", 3000))).collect();
        until("two are refused", || calls.iter().filter(|call| call.is_finished()).count() == 2);
        block("few", 1).data();
        let (answered, refused): (Vec<_>, Vec<_>) =
            calls.into_iter().map(|call| call.join().unwrap()).partition(|reply| reply.status == 200);
        assert_eq!((answered.len(), refused.len()), (48, 2));
        for refused in refused {
            assert_eq!((refused.status, refused.code()), (429, 4029));
            assert!(refused.body["message"].as_str().unwrap().contains("32 calls wait"), "{}", refused.body);
        }
    });
    block("many", 1).data();
}

#[test]
fn sessions_are_limited_by_resource_and_worker() {
    let server =
        Server::start(&json!({ "resources": { "probe": { "max_sessions": 3, "max_sessions_per_worker": 2 } } }));
    let create = |worker: &str, session: &str| {
        server.post("/session/create", &json!({ "worker_id": worker, "resource_type": "probe", "session": session }))
    };
    create("a", "1").data();
    create("a", "2").data();
    let refused = create("a", "3");
    assert_eq!((refused.status, refused.code()), (429, 4029));
    assert!(refused.body["message"].as_str().unwrap().contains("max_sessions_per_worker"));
    create("b", "1").data();
    assert!(create("c", "1").body["message"].as_str().unwrap().contains("(max_sessions)"));
    assert_eq!(server.execute("c", "probe:add", &json!({})).code(), 4029, "temporary ones count");
    server.post("/session/destroy", &json!({ "worker_id": "b", "resource_type": "probe", "session": "1" })).data();
    until("the slot is free", || create("c", "1").status == 200);
}

#[test]
fn calls_beyond_the_queue_are_refused_and_those_in_it_are_served() {
    let config = json!({ "resources": { "probe": { "max_concurrent_calls": 1, "max_queued_calls": 2 } } });
    let server = Server::start(&config);
    server.execute("w", "probe:wait", &json!({ "ms": 1 })).data();
    thread::scope(|scope| {
        let calls: Vec<_> = (0..3)
            .map(|n| {
                let server = &server;
                let call =
                    scope.spawn(move || server.execute(&format!("w{n}"), "probe:wait", &json!({ "ms": 700 })).status);
                thread::sleep(Duration::from_millis(100));
                call
            })
            .collect();
        let refused = server.execute("late", "probe:wait", &json!({ "ms": 1 }));
        assert_eq!((refused.code(), &refused.body["meta"]["executed"]), (4029, &json!(false)));
        assert!(calls.into_iter().all(|call| call.join().unwrap() == 200));
    });
}

#[test]
fn calls_that_wait_for_one_session_are_limited() {
    let server = Server::start(&json!({ "resources": { "probe": { "max_waiting_calls": 1 } } }));
    server.create("w", &json!({})).data();
    // Twice: a refusal leaves the number of those that wait as it was.
    for _ in 0..2 {
        thread::scope(|scope| {
            let calls: Vec<_> = (0..2)
                .map(|_| {
                    let call = scope.spawn(|| server.execute("w", "probe:hold", &json!({ "ms": 700 })).status);
                    thread::sleep(Duration::from_millis(150));
                    call
                })
                .collect();
            let refused = server.execute("w", "probe:hold", &json!({ "ms": 1 }));
            assert_eq!((refused.code(), &refused.body["meta"]["executed"]), (4029, &json!(false)));
            assert!(calls.into_iter().all(|call| call.join().unwrap() == 200));
        });
    }
}

#[test]
fn calls_that_wait_for_a_session_being_made_are_limited() {
    let server = Server::start(&json!({ "resources": { "probe": { "max_waiting_calls": 1 } } }));
    thread::scope(|scope| {
        let creation = scope.spawn(|| server.create("w", &json!({ "initialize_ms": 1500 })).status);
        thread::sleep(Duration::from_millis(200));
        let waits = scope.spawn(|| server.execute("w", "probe:total", &json!({})).status);
        thread::sleep(Duration::from_millis(200));
        assert_eq!(server.execute("w", "probe:total", &json!({})).code(), 4029);
        assert_eq!((creation.join().unwrap(), waits.join().unwrap()), (200, 200));
    });
}

#[test]
fn a_blocking_call_that_is_refused_leaves_its_session_whole() {
    let server = Server::probe();
    server.create("w", &json!({})).data();
    thread::scope(|scope| {
        for n in 0..64 {
            let server = &server;
            scope.spawn(move || {
                server.execute(&format!("b{n}"), "probe:block_free", &json!({ "ms": 4000 })).data().clone()
            });
        }
        thread::sleep(Duration::from_millis(1500));
        let refused = server.execute("w", "probe:block", &json!({ "ms": 1 }));
        assert_eq!((refused.code(), &refused.body["meta"]["executed"]), (4029, &json!(false)));
        assert_eq!(server.execute("w", "probe:total", &json!({})).data(), 0);
    });
}

#[test]
fn who_waits_for_a_session_takes_nobodys_turn() {
    let server = Server::start(&json!({ "resources": { "probe": { "max_concurrent_calls": 2 } } }));
    server.create("w", &json!({})).data();
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| server.execute("w", "probe:hold", &json!({ "ms": 1500 })).data().clone()))
            .collect();
        thread::sleep(Duration::from_millis(300));
        server.execute("other", "probe:wait", &json!({ "ms": 1 })).data();
        assert!(waiting.iter().all(|call| !call.is_finished()), "one holds the session, two wait for it");
    });
}

#[test]
fn long_names_and_long_batches_are_refused_briefly() {
    let server = Server::probe();
    let long = "x".repeat(2 << 20);
    let reply = server.execute("w", &long, &json!({}));
    assert_eq!(reply.code(), 4002);
    assert!(reply.body.to_string().len() < 2_000, "it is not sent back whole");
    let reply = server.execute_with("w", "probe:click", &json!({ "x": 1 }), &json!({ long.as_str(): 1 }));
    assert_eq!(reply.data()["x"], 1);
    assert!(reply.body.to_string().len() < 2_000, "nor is an unknown field");
    let reply = server.execute("w", "probe:click", &json!({ long.as_str(): 1, "x": 1 }));
    assert!(reply.code() == 4000 && reply.body.to_string().len() < 2_000, "nor an unknown parameter");
    let actions = vec![json!({ "action": "util:echo" }); 1_001];
    let reply = server.post("/execute/batch", &json!({ "worker_id": "w", "actions": actions }));
    assert_eq!((reply.code(), &reply.body["error"]["parameter"]), (4000, &json!("actions")));
}
