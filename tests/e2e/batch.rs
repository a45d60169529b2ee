//! Batches.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Reply, Server, until};

fn batch(server: &Server, worker: &str, actions: &Value, more: &Value) -> Reply {
    let mut body = json!({ "worker_id": worker, "actions": actions });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    server.post("/api/v1/execute/batch", &body)
}

fn add(by: u64) -> Value {
    json!({ "action": "probe:add", "params": { "by": by } })
}

#[test]
fn a_batch_shares_one_temporary_session_and_ends_it() {
    let server = Server::probe();
    for parallel in [false, true] {
        let reply = batch(&server, "w", &json!([add(1), add(2), add(4)]), &json!({ "parallel": parallel }));
        let data = reply.data();
        let mut totals: Vec<_> =
            data["results"].as_array().unwrap().iter().map(|r| r["data"].as_u64().unwrap()).collect();
        totals.sort_unstable();
        assert_eq!(totals.last(), Some(&7), "all three used one session: {data}");
        assert_eq!(
            (&data["total"], &data["executed"], &data["success_count"], &data["failed_count"]),
            (&json!(3), &json!(3), &json!(3), &json!(0))
        );
        assert!(data["results"][0]["meta"]["temporary_session"] == true);
    }
    until("both were ended, once", || server.counts()["ended"]["call_ended"] == 2);
    assert_eq!(server.counts()["initialized"], 2);
}

#[test]
fn codes_of_whole_and_partial_batches() {
    let server = Server::probe();
    let fail = json!({ "action": "probe:click", "params": {} });
    let empty = batch(&server, "w", &json!([]), &json!({}));
    assert_eq!((empty.data()["total"].as_u64(), empty.data()["results"].as_array().map(Vec::len)), (Some(0), Some(0)));

    let stopped = batch(&server, "w", &json!([add(1), fail, add(1)]), &json!({}));
    assert_eq!((stopped.status, stopped.code()), (207, 5010));
    let data = &stopped.body["data"];
    assert_eq!((&data["executed"], &data["success_count"], &data["failed_count"]), (&json!(2), &json!(1), &json!(1)));
    assert_eq!(data["results"].as_array().unwrap().len(), 2, "a prefix");

    let all = batch(&server, "w", &json!([add(1), fail, add(1)]), &json!({ "stop_on_error": false }));
    assert_eq!(
        (all.status, &all.body["data"]["success_count"], &all.body["data"]["executed"]),
        (207, &json!(2), &json!(3))
    );
    let parallel = batch(&server, "w", &json!([fail, add(1)]), &json!({ "parallel": true, "stop_on_error": true }));
    assert_eq!(
        (parallel.status, &parallel.body["data"]["executed"]),
        (207, &json!(2)),
        "parallel ignores stop_on_error"
    );
    assert_eq!(parallel.body["data"]["results"][0]["code"], 4003, "results are in the order of the actions");

    let none = batch(&server, "w", &json!([fail, fail]), &json!({ "stop_on_error": false }));
    assert_eq!((none.status, none.code()), (500, 5009));
}

#[test]
fn a_batch_uses_the_workers_session_when_there_is_one() {
    let server = Server::probe();
    server.create("w", &json!({})).data();
    batch(&server, "w", &json!([add(1), add(1)]), &json!({ "parallel": true })).data();
    assert_eq!(server.execute("w", "probe:total", &json!({})).data(), 2);
    let other = json!([{ "action": "probe:add", "session": "other" }]);
    assert_eq!(batch(&server, "w", &other, &json!({})).data()["results"][0]["temporary_session"], true);
}

#[test]
fn overlapping_temporary_calls_do_not_end_each_others_sessions() {
    let server = Server::probe();
    let hold = |ms: u64| json!({ "action": "probe:hold", "params": { "ms": ms } });
    std::thread::scope(|scope| {
        let batches: Vec<_> = (0..4)
            .map(|_| {
                scope
                    .spawn(|| batch(&server, "w", &json!([hold(30), hold(30), hold(30)]), &json!({ "parallel": true })))
            })
            .collect();
        let calls: Vec<_> = (0..8)
            .map(|n| {
                let server = &server;
                scope.spawn(move || server.execute("w", "probe:hold", &json!({ "ms": n * 20 })))
            })
            .collect();
        for batch in batches {
            let totals: Vec<_> =
                batch.join().unwrap().data()["results"].as_array().unwrap().iter().map(|r| r["data"].clone()).collect();
            assert!(totals.contains(&json!(3)), "{totals:?}");
        }
        for call in calls {
            assert_eq!(call.join().unwrap().data(), 1);
        }
    });
    until("each was ended once", || server.counts()["ended"]["call_ended"] == 12);
    assert_eq!(server.counts()["initialized"], 12);
}

#[test]
fn a_batch_whose_client_left_is_cancelled_and_leaves_nothing() {
    let server = Server::probe();
    let actions = json!([add(1), { "action": "probe:hold", "params": { "ms": 60_000 } }, add(1)]);
    server.abandon("/execute/batch", &json!({ "worker_id": "w", "actions": actions }), Duration::from_millis(300));
    until("its session ended", || server.get("/ready").body["total_sessions"] == 0);
}
