//! Sessions: creation, sharing, ends, and the faults that comparable servers have.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::{Server, until};

#[test]
fn a_session_keeps_its_state_and_workers_do_not_share_it() {
    let server = Server::probe();
    server.create("a", &json!({})).data();
    server.create("b", &json!({})).data();
    for (worker, by, total) in [("a", 1, 1), ("a", 2, 3), ("b", 10, 10), ("a", 1, 4)] {
        assert_eq!(server.execute(worker, "probe:add", &json!({ "by": by })).data(), total);
    }
    let second = json!({ "worker_id": "a", "resource_type": "probe", "session": "second" });
    server.post("/session/create", &second).data();
    let in_second = json!({ "session": "second" });
    assert_eq!(server.execute_with("a", "probe:add", &json!({}), &in_second).data(), 1);
    assert_eq!(server.execute("a", "probe:total", &json!({})).data(), 4);
    let status = server.post("/status", &json!({ "worker_id": "a" }));
    assert_eq!(status.data()["active_resources"], json!(["probe", "probe/second"]));
}

#[test]
fn without_a_session_a_call_gets_a_temporary_one_that_ends_with_it() {
    let server = Server::probe();
    for _ in 0..3 {
        let reply = server.execute("w", "probe:add", &json!({}));
        assert_eq!(reply.data(), 1, "each call has a fresh one");
        assert_eq!(
            (&reply.body["temporary_session"], &reply.body["meta"]["temporary_session"]),
            (&json!(true), &json!(true))
        );
    }
    let reply = server.execute("w", "probe:panic", &json!({}));
    assert_eq!((reply.status, reply.code()), (500, 5005));
    assert!(!reply.body.to_string().contains("secret"), "a panic's text stays inside: {reply:?}");
    server.execute_with("w", "probe:hold", &json!({ "ms": 5000 }), &json!({ "timeout": 0.3 }));
    server.abandon(
        "/execute",
        &json!({ "worker_id": "w", "action": "probe:hold", "params": { "ms": 60_000 } }),
        Duration::from_millis(200),
    );
    until("six sessions made and six ended", || {
        let counts = server.counts();
        let ended: u64 = counts["ended"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
        counts["initialized"] == 6 && ended == 6
    });
    assert_eq!(server.get("/ready").body["total_sessions"], 0);
}

#[test]
fn session_modes() {
    let server = Server::probe();
    let mode = |mode: &str| server.execute_with("w", "probe:add", &json!({}), &json!({ "session_mode": mode }));
    let refused = mode("require");
    assert_eq!((refused.status, refused.code()), (409, 4007));
    server.create("w", &json!({})).data();
    assert_eq!(mode("require").body["temporary_session"], false);
    assert_eq!(mode("temporary").body["temporary_session"], true);
    assert_eq!(mode("auto").data(), 2);
}

#[test]
fn concurrent_creations_make_one_session() {
    let server = Server::probe();
    let ids: Vec<Value> = thread::scope(|scope| {
        let creations: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| server.create("w", &json!({ "initialize_ms": 200 })).data()["session_id"].clone()))
            .collect();
        creations.into_iter().map(|creation| creation.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(server.counts()["initialized"], 1);
}

#[test]
fn a_creation_survives_its_caller() {
    let server = Server::probe();
    let body = json!({ "worker_id": "w", "resource_type": "probe", "session_config": { "initialize_ms": 500 } });
    server.abandon("/session/create", &body, Duration::from_millis(100));
    let joined = server.post("/session/create", &body);
    assert_eq!(joined.data()["status"], "exists");
    assert_eq!(server.counts()["initialized"], 1);
}

#[test]
fn a_slow_hook_of_one_worker_delays_no_other() {
    let server = Server::probe();
    thread::scope(|scope| {
        let slow = scope.spawn(|| server.create("slow", &json!({ "initialize_ms": 3000, "cleanup_ms": 3000 })));
        thread::sleep(Duration::from_millis(100));
        let began = Instant::now();
        for n in 0..20 {
            let worker = format!("w{n}");
            server.create(&worker, &json!({})).data();
            server.execute(&worker, "probe:add", &json!({})).data();
            server.post("/session/destroy", &json!({ "worker_id": worker, "resource_type": "probe" })).data();
        }
        assert!(
            !slow.is_finished(),
            "twenty workers came and went while one session was being made: {:?}",
            began.elapsed()
        );
        slow.join().unwrap().data();
    });
    server.post("/session/destroy", &json!({ "worker_id": "slow", "resource_type": "probe" })).data();
    assert_eq!(
        server.create("slow", &json!({})).data()["error"],
        Value::Null,
        "the key is free while the old cleanup runs"
    );
    assert_eq!(server.counts()["ended"]["destroyed"], 20, "the slow cleanup still runs");
}

#[test]
fn a_failed_initialize_leaves_nothing_behind() {
    let server = Server::probe();
    let reply = server.create("w", &json!({ "fail": "no disk" }));
    assert_eq!((reply.status, reply.code()), (500, 5000));
    assert!(reply.body["message"].as_str().unwrap().contains("no disk"));
    assert_eq!(server.create("w", &json!({ "panic": true })).code(), 5005);
    assert_eq!(server.post("/session/list", &json!({ "worker_id": "w" })).data()["count"], 0);
    server.create("w", &json!({})).data();
    assert_eq!(server.execute("w", "probe:add", &json!({})).data(), 1);
}

#[test]
fn a_wrong_session_config_names_the_key() {
    let server = Server::probe();
    let reply = server.create("w", &json!({ "initialise_ms": 1 }));
    assert_eq!((reply.code(), &reply.body["error"]["parameter"]), (4000, &json!("session_config.initialise_ms")));
    assert!(reply.body["message"].as_str().unwrap().contains("initialize_ms"), "{reply:?}");
    assert_eq!(server.post("/session/create", &json!({ "worker_id": "w", "resource_type": "prob" })).status, 404);
}

#[test]
fn readers_share_and_writers_exclude() {
    let server = Server::probe();
    server.create("w", &json!({})).data();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| server.execute("w", "probe:share", &json!({ "ms": 400 })).data().clone());
        }
    });
    assert_eq!(server.counts()["most_readers"], 4);
    // Each holds the session while it waits and counts after it: without exclusion two would read the same total.
    let mut totals: Vec<u64> = thread::scope(|scope| {
        let calls: Vec<_> = (0..5)
            .map(|_| scope.spawn(|| server.execute("w", "probe:hold", &json!({ "ms": 50 })).data().as_u64().unwrap()))
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    totals.sort_unstable();
    assert_eq!(totals, [1, 2, 3, 4, 5]);
}

#[test]
fn an_idle_session_expires_and_its_worker_is_told_once() {
    let server = Server::start(&json!({ "resources": { "probe": { "session_ttl": 0.5 } } }));
    let id = server.create("w", &json!({})).data()["session_id"].clone();
    until("the sweep came by", || server.counts()["ended"]["expired"] == 1);
    let require = json!({ "session_mode": "require" });
    for _ in 0..2 {
        let reply = server.execute_with("w", "probe:add", &json!({}), &require);
        assert_eq!(
            (reply.status, reply.code(), reply.reason()),
            (410, 4010, "expired"),
            "`require` acknowledges nothing"
        );
    }
    let told = server.execute("w", "probe:add", &json!({}));
    assert_eq!((told.code(), told.reason()), (4010, "expired"));
    assert_eq!(told.body["meta"]["executed"], false);
    assert_eq!(server.execute("w", "probe:add", &json!({})).body["temporary_session"], true, "told once");
    for _ in 0..2 {
        let by_id = server.execute_with("w", "probe:add", &json!({}), &json!({ "session_id": id }));
        assert_eq!((by_id.code(), by_id.reason()), (4010, "expired"), "named by its id it stays gone");
    }
}

#[test]
fn the_time_to_live_is_checked_on_use_and_use_renews_it() {
    let server = Server::probe();
    let create = json!({ "worker_id": "w", "resource_type": "probe", "ttl_seconds": 0.4 });
    server.post("/session/create", &create).data();
    for n in 1..=4 {
        thread::sleep(Duration::from_millis(200));
        assert_eq!(server.execute("w", "probe:add", &json!({})).data(), n, "each use renews it");
    }
    thread::sleep(Duration::from_millis(450));
    assert_eq!(server.execute("w", "probe:add", &json!({})).reason(), "expired", "between two sweeps too");
}

#[test]
fn the_sweep_leaves_a_busy_session_alone() {
    let server = Server::probe();
    let create = json!({ "worker_id": "w", "resource_type": "probe", "ttl_seconds": 0.3 });
    server.post("/session/create", &create).data();
    let reply = server.execute("w", "probe:hold", &json!({ "ms": 2500 }));
    assert_eq!(reply.data(), 1, "held for eight times its time to live");
    assert_eq!(server.execute("w", "probe:total", &json!({})).data(), 1);
}

#[test]
fn destroy_frees_the_key_and_cancels_the_calls() {
    let server = Server::probe();
    let id = server.create("w", &json!({})).data()["session_id"].clone();
    thread::scope(|scope| {
        let call = scope.spawn(|| server.execute("w", "probe:hold", &json!({ "ms": 30_000 })));
        thread::sleep(Duration::from_millis(300));
        server.post("/session/destroy", &json!({ "worker_id": "w", "resource_type": "probe" })).data();
        assert_ne!(server.create("w", &json!({})).data()["session_id"], id);
        let cancelled = call.join().unwrap();
        assert_eq!((cancelled.status, cancelled.code(), cancelled.reason()), (499, 5020, "destroyed"));
    });
    let by_id = server.execute_with("w", "probe:add", &json!({}), &json!({ "session_id": id }));
    assert_eq!((by_id.code(), by_id.reason()), (4010, "destroyed"));
    until("the old one is cleaned up", || server.counts()["ended"]["destroyed"] == 1);
}

#[test]
fn destroying_a_session_that_is_being_made_stops_its_making() {
    let server = Server::probe();
    thread::scope(|scope| {
        let creation = scope.spawn(|| server.create("w", &json!({ "initialize_ms": 30_000 })));
        thread::sleep(Duration::from_millis(200));
        server.post("/session/destroy", &json!({ "worker_id": "w", "resource_type": "probe" })).data();
        assert_eq!(creation.join().unwrap().code(), 5020);
    });
    assert_eq!(server.counts()["initialized"], 0);
    server.create("w", &json!({})).data();
}

#[test]
fn a_panic_or_timeout_with_the_session_alone_breaks_it() {
    let server = Server::probe();
    for (worker, action, params, more) in [
        ("p", "probe:panic", json!({}), json!({})),
        ("t", "probe:hold", json!({ "ms": 30_000 }), json!({ "timeout": 0.3 })),
    ] {
        server.create(worker, &json!({})).data();
        let reply = server.execute_with(worker, action, &params, &more);
        assert!(matches!(reply.code(), 5005 | 5006), "{reply:?}");
        assert_eq!(reply.body["meta"]["executed"], true);
        let gone = server.execute(worker, "probe:total", &json!({}));
        assert_eq!((gone.code(), gone.reason()), (4010, "broken"));
    }
    // A shared session survives a reader that was cut off.
    server.create("r", &json!({})).data();
    assert_eq!(
        server.execute_with("r", "probe:share", &json!({ "ms": 30_000 }), &json!({ "timeout": 0.3 })).code(),
        5006
    );
    server.execute("r", "probe:total", &json!({})).data();
}

#[test]
fn a_session_can_be_failed_from_outside() {
    let server = Server::probe();
    server.create("w", &json!({})).data();
    let reply = server.execute("w", "probe:kill", &json!({ "why": "the screen went dark" }));
    assert!(matches!(reply.code(), 0 | 4010), "{reply:?}");
    let gone = server.execute("w", "probe:total", &json!({}));
    assert_eq!((gone.code(), gone.reason()), (4010, "broken"));
    assert!(gone.body["message"].as_str().unwrap().contains("the screen went dark"));
}

#[test]
fn a_failed_cleanup_is_tried_again_and_keeps_its_slot() {
    for panics in [false, true] {
        let server = Server::start(&json!({ "resources": { "probe": { "max_sessions": 1 } } }));
        server.create("w", &json!({ "fail_cleanup": 1, "panic_cleanup": panics })).data();
        server.post("/session/destroy", &json!({ "worker_id": "w", "resource_type": "probe" })).data();
        until("it counts as orphaned", || server.get("/ready").body["orphaned_sessions"] == 1);
        assert_eq!(server.create("other", &json!({})).code(), 4029, "the slot is not free");
        until("the second try succeeded", || server.get("/ready").body["orphaned_sessions"] == 0);
        server.create("other", &json!({})).data();
        assert_eq!(server.counts()["ended"]["destroyed"], 1);
    }
}

#[test]
fn workers_that_left_cost_nothing() {
    let server = Server::probe();
    for n in 0..300 {
        let worker = format!("w{n}");
        server.create(&worker, &json!({})).data();
        server.execute(&worker, "probe:add", &json!({})).data();
        server.post("/worker/disconnect", &json!({ "worker_id": worker })).data();
    }
    let ready = server.get("/ready").body;
    assert_eq!((&ready["active_workers"], &ready["total_sessions"]), (&json!(0), &json!(0)));
    until("all are cleaned up", || server.counts()["ended"]["disconnected"] == 300);
}
