//! Runs: their listing, their answers, and their ends.

use std::{thread, time::Duration};

use serde_json::{Value, json};

use crate::harness::{Reply, Server, until};

impl Server {
    fn runs(&self, worker: &str) -> Vec<Value> {
        let reply = self.raw("GET", "/runs", &[("X-Worker-ID", worker)], b"");
        assert_eq!(reply.data()["count"], reply.data()["runs"].as_array().unwrap().len());
        reply.data()["runs"].as_array().unwrap().clone()
    }

    fn run(&self, worker: &str, id: &str) -> Reply {
        self.raw("GET", &format!("/runs/{id}"), &[("X-Worker-ID", worker)], b"")
    }

    fn cancel(&self, worker: &str, id: &str) -> Reply {
        self.post(&format!("/runs/{id}/cancel"), &json!({ "worker_id": worker }))
    }

    fn detach(&self, worker: &str, action: &str, params: &Value) -> String {
        let reply = self.execute_with(worker, action, params, &json!({ "detached": true }));
        assert_eq!((reply.status, reply.code()), (202, 0), "{reply:?}");
        assert_eq!(reply.body["data"]["run_id"], reply.body["meta"]["run_id"]);
        reply.body["data"]["run_id"].as_str().unwrap().to_owned()
    }
}

#[test]
fn a_detached_call_answers_at_once_and_its_answer_is_there_later() {
    let server = Server::probe();
    let id = server.detach("w", "probe:hold", &json!({ "ms": 700 }));
    let run = server.run("w", &id);
    assert!(["waiting", "running"].contains(&run.data()["state"].as_str().unwrap()), "{run:?}");
    assert_eq!((&run.data()["tool"], &run.data()["detached"]), (&json!("probe:hold"), &json!(true)));
    assert!(run.data().get("answer").is_none());
    let waited = server.raw("GET", &format!("/runs/{id}?wait_seconds=20&worker_id=w"), &[], b"");
    assert_eq!((&waited.data()["state"], &waited.data()["answer"]["data"]), (&json!("succeeded"), &json!(1)));
    assert_eq!(waited.data()["answer"]["meta"]["run_id"], json!(id));
    until("its temporary session ended with it", || server.counts()["ended"]["call_ended"] == 1);
    assert!(server.runs("w").iter().any(|run| run["run_id"] == json!(id)));
}

#[test]
fn a_detached_call_outlives_its_client() {
    let server = Server::start(&json!({ "server": { "reattach_seconds": 0 }, "resources": { "probe": {} } }));
    let body = json!({ "worker_id": "w", "action": "probe:hold", "params": { "ms": 800 }, "detached": true });
    server.abandon("/execute", &body, Duration::from_millis(100));
    let id = server.runs("w")[0]["run_id"].as_str().unwrap().to_owned();
    until("it ended", || server.run("w", &id).data()["state"] == "succeeded");
}

#[test]
fn a_detached_call_that_cannot_begin_says_so() {
    let server = Server::probe();
    let reply = server.execute_with("w", "probe:nothing", &json!({}), &json!({ "detached": true }));
    assert_eq!((reply.status, reply.code()), (400, 4002));
    let id = server.detach("w", "probe:click", &json!({ "x": "left" }));
    until("it failed", || server.run("w", &id).data()["state"] == "failed");
    let answer = &server.run("w", &id).data()["answer"].clone();
    assert_eq!((&answer["code"], &answer["error"]["parameter"]), (&json!(4004), &json!("x")));
}

#[test]
fn a_plain_call_is_listed_while_it_waits_and_says_what_for() {
    let server = Server::start(&json!({ "resources": { "probe": { "max_concurrent_calls": 2 } } }));
    server.create("w", &json!({})).data();
    thread::scope(|scope| {
        let call = |worker: &'static str, action: &'static str| {
            scope.spawn(|| server.execute(worker, action, &json!({ "ms": 1500 })).status)
        };
        call("w", "probe:hold");
        until("it runs", || server.runs("w").iter().any(|run| run["state"] == "running"));
        call("w", "probe:hold");
        until("it waits", || server.runs("w").iter().any(|run| run["waiting_for"] == "session"));
        call("v", "probe:wait");
        until("it runs", || server.runs("v").iter().any(|run| run["state"] == "running"));
        call("u", "probe:wait");
        until("it waits", || server.runs("u").iter().any(|run| run["waiting_for"] == "turn"));
        let run = server.runs("u")[0].clone();
        assert_eq!(
            (&run["state"], &run["tool"], &run["actions"]),
            (&json!("waiting"), &json!("probe:wait"), &Value::Null)
        );
        assert!(run["since"].as_str().unwrap() >= run["started_at"].as_str().unwrap());
    });
    let runs = server.runs("w");
    assert_eq!(runs.len(), 2, "kept for a while");
    assert!(runs.iter().all(|run| run["state"] == "succeeded" && run["session_id"].is_string()));
    let id = runs[0]["run_id"].as_str().unwrap();
    assert!(server.run("w", id).data().get("answer").is_none(), "that went to its caller");
    let events = server.raw("GET", &format!("/runs/{id}/events"), &[("X-Worker-ID", "w")], b"");
    assert_eq!((events.status, events.reason()), (404, "not_kept"));
}

#[test]
fn a_call_that_waits_for_a_session_being_made_says_so() {
    let server = Server::probe();
    thread::scope(|scope| {
        scope.spawn(|| server.create("w", &json!({ "initialize_ms": 1500 })).status);
        thread::sleep(Duration::from_millis(200));
        scope.spawn(|| server.execute("w", "probe:total", &json!({})).status);
        until("it waits", || server.runs("w").iter().any(|run| run["waiting_for"] == "session_creation"));
    });
}

#[test]
fn runs_belong_to_workers() {
    let server = Server::probe();
    let id = server.detach("w", "probe:wait", &json!({ "ms": 20_000 }));
    for reply in [
        server.run("mallory", &id),
        server.cancel("mallory", &id),
        server.raw("GET", &format!("/runs/{id}/events"), &[("X-Worker-ID", "mallory")], b""),
        server.run("w", "run_0"),
    ] {
        assert_eq!((reply.status, reply.code()), (404, 4014), "{reply:?}");
    }
    assert!(server.runs("mallory").is_empty());
    let none = server.raw("GET", "/runs", &[], b"");
    assert_eq!((none.code(), &none.body["error"]["parameter"]), (4003, &json!("X-Worker-ID")));
    assert_eq!(server.run("w", &id).data()["state"], "running");
    server.cancel("w", &id).data();
}

#[test]
fn a_run_of_an_earlier_server_is_known_to_be_gone() {
    let id = Server::probe().detach("w", "probe:wait", &json!({ "ms": 1 }));
    let reply = Server::probe().run("w", &id);
    assert_eq!((reply.status, reply.reason()), (404, "server_restarted"));
}

#[test]
fn cancelling_a_run_tells_its_tool_and_its_caller() {
    let server = Server::probe();
    server.create("w", &json!({})).data();
    let reply = thread::scope(|scope| {
        let call = scope.spawn(|| server.execute("w", "probe:graceful", &json!({})));
        until("it runs", || server.runs("w").iter().any(|run| run["state"] == "running"));
        let id = server.runs("w")[0]["run_id"].as_str().unwrap().to_owned();
        let cancelled = server.cancel("w", &id);
        assert_eq!(cancelled.data()["cancelled"], true);
        call.join().unwrap()
    });
    assert_eq!(reply.data(), "stopped in time", "what the tool answers in time counts");
    let id = server.detach("w", "probe:hold", &json!({ "ms": 20_000 }));
    until("it runs", || server.run("w", &id).data()["state"] == "running");
    server.raw("POST", &format!("/runs/{id}/cancel"), &[("X-Worker-ID", "w")], b"").data();
    until("it ended", || server.run("w", &id).data()["state"] == "cancelled");
    let run = server.run("w", &id);
    assert_eq!(
        (&run.data()["answer"]["code"], &run.data()["answer"]["error"]["reason"]),
        (&json!(5020), &json!("cancelled"))
    );
    assert_eq!(server.cancel("w", &id).data()["cancelled"], false, "it is over");
    assert_eq!(server.execute("w", "probe:total", &json!({})).reason(), "broken", "it was cut midway");
}

#[test]
fn a_detached_call_takes_a_key_too() {
    let server = Server::probe();
    server.create("w", &json!({})).data();
    let ask = |detached: bool| {
        let more = json!({ "detached": detached, "idempotency_key": "k" });
        server.execute_with("w", "probe:hold", &json!({ "ms": 400 }), &more)
    };
    let first = ask(true);
    let again = ask(true);
    assert_eq!((first.status, again.status), (202, 202));
    assert_eq!(first.body["data"]["run_id"], again.body["data"]["run_id"]);
    assert_eq!(ask(false).data(), 1, "joined, and its answer waited for");
    let late = ask(true);
    assert_eq!((late.status, &late.body["data"]["run_id"]), (202, &first.body["data"]["run_id"]));
    assert_eq!(late.body["data"]["state"], "succeeded");
    assert_eq!(server.execute("w", "probe:total", &json!({})).data(), 1, "it ran once");
}

#[test]
fn who_detaches_a_run_that_another_waits_for_keeps_it_alive() {
    let server = Server::start(&json!({ "server": { "reattach_seconds": 0.2 }, "resources": { "probe": {} } }));
    let body = json!({ "worker_id": "w", "action": "probe:hold", "params": { "ms": 1500 }, "idempotency_key": "k" });
    thread::scope(|scope| {
        scope.spawn(|| server.abandon("/execute", &body, Duration::from_millis(500)));
        until("it runs", || server.runs("w").iter().any(|run| run["state"] == "running"));
        let mut body = body.clone();
        body["detached"] = true.into();
        let detached = server.post("/execute", &body);
        assert_eq!((detached.status, &detached.body["data"]["detached"]), (202, &json!(true)));
    });
    let id = server.runs("w")[0]["run_id"].as_str().unwrap().to_owned();
    until("it ended", || server.run("w", &id).data()["state"] == "succeeded");
}

#[test]
fn a_batch_is_one_run() {
    let server = Server::probe();
    let wait = json!({ "action": "probe:wait", "params": { "ms": 20_000 } });
    let body = json!({ "worker_id": "w", "actions": [wait, wait, wait] });
    let reply = thread::scope(|scope| {
        let batch = scope.spawn(|| server.post("/execute/batch", &body));
        until("it runs", || server.runs("w").iter().any(|run| run["state"] == "running"));
        let runs = server.runs("w");
        assert_eq!((runs.len(), &runs[0]["tool"], &runs[0]["actions"]), (1, &Value::Null, &json!(3)));
        server.cancel("w", runs[0]["run_id"].as_str().unwrap()).data();
        batch.join().unwrap()
    });
    assert_eq!(server.runs("w")[0]["state"], "cancelled");
    assert_eq!(reply.body["data"]["results"][0]["code"], 5020, "{reply:?}");
    assert_eq!(reply.body["data"]["executed"], 1);
}
