//! The wire: envelopes, statuses, names, parameters, access.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::harness::{Reply, Server, receive, send};

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Method, path, headers, body, status, code.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a [u8], u16, u64);

#[test]
fn every_error_is_an_envelope_with_its_status() {
    let server = Server::start(&json!({ "server": { "body_limit_mib": 1 }, "resources": { "probe": {} } }));
    let large = vec![b' '; 2 << 20];
    let cases: [Case<'_>; 12] = [
        ("GET", "/tools?names=a&names=b", &[], b"", 400, 4002),
        ("POST", "/execute", &[JSON], b"{\"worker_id\":", 400, 4002),
        ("POST", "/execute", &[JSON], b"", 400, 4002),
        ("POST", "/execute", &[JSON], b"[1]", 400, 4004),
        ("POST", "/execute", &[JSON], b"{\"worker_id\":\"w\"}", 400, 4003),
        ("POST", "/execute", &[JSON], b"{\"worker_id\":3,\"action\":\"a\"}", 400, 4004),
        ("POST", "/execute", &[], b"{\"worker_id\":\"w\",\"action\":\"a\"}", 415, 4017),
        ("POST", "/execute", &[JSON], &large, 413, 4016),
        ("GET", "/execute", &[], b"", 405, 4015),
        ("GET", "/nothing", &[], b"", 404, 4014),
        ("POST", "/api/v1/nothing", &[JSON], b"{}", 404, 4014),
        ("POST", "/shutdown", &[JSON], b"{}", 403, 4013),
    ];
    for (method, path, headers, body, status, code) in cases {
        let reply = server.raw(method, path, headers, body);
        assert_eq!((reply.status, reply.code()), (status, code), "{method} {path}: {reply:?}");
        assert_eq!(reply.body["success"], false);
        assert!(reply.body["error"]["name"].is_string() && reply.body["meta"].is_object(), "{reply:?}");
        if status == 405 {
            assert!(reply.head.to_lowercase().contains("allow: post"), "{}", reply.head);
        }
    }
}

#[test]
fn tools_are_found_by_every_spelling_and_misses_have_candidates() {
    let server = Server::probe();
    for name in ["probe:click", "click", "probe.click", "probe_click", "probe-click", "probe__click", "press"] {
        let reply = server.execute("w", name, &json!({ "x": 1 }));
        assert_eq!(reply.data()["x"], 1, "{name}");
        assert_eq!(reply.body["meta"]["tool"], "probe:click");
    }
    let reply = server.execute("w", "probe:clik", &json!({}));
    assert_eq!((reply.status, reply.code()), (400, 4002));
    assert_eq!(reply.body["error"]["candidates"][0], "probe:click");
    assert_eq!(reply.body["meta"]["executed"], false);
}

#[test]
fn one_backend_may_run_under_several_names() {
    let server = Server::start(&json!({ "resources": {
        "small": { "backend": "probe" },
        "large": { "backend_class": "acme.backends.ProbeBackend" },
        "off": { "backend": "probe", "enabled": false }
    } }));
    assert_eq!(server.execute("w", "small:click", &json!({ "x": 1 })).body["meta"]["resource_type"], "small");
    let reply = server.execute("w", "click", &json!({ "x": 1 }));
    assert_eq!((reply.code(), reply.reason()), (4002, "ambiguous_tool"));
    assert_eq!(reply.body["error"]["candidates"], json!(["large:click", "small:click"]));
    assert_eq!(server.execute("w", "off:click", &json!({ "x": 1 })).code(), 4002);
}

#[test]
fn what_means_several_tools_hides_no_spelling_of_one() {
    let server = Server::start(&json!({ "resources": { "block": { "backend": "probe" }, "probe": {} } }));
    assert_eq!(server.execute("w", "wait", &json!({})).reason(), "ambiguous_tool");
    let reply = server.execute("w", "block_free", &json!({}));
    assert_eq!(reply.body["meta"]["tool"], "block:free", "{reply:?}");
}

#[test]
fn parameters_are_checked_completed_and_named() {
    let server = Server::probe();
    let click = |params: Value| server.execute("w", "probe:click", &params);
    assert_eq!(
        click(json!({ "x": 3.0, "count": null })).data(),
        &json!({ "x": 3, "count": 1, "button": "left", "delay_ms": null })
    );
    for (params, code, parameter) in [
        (json!({}), 4003, "x"),
        (json!({ "x": "1" }), 4004, "x"),
        (json!({ "x": -1 }), 4000, "x"),
        (json!({ "x": 4_294_967_296_u64 }), 4000, "x"),
        (json!({ "x": 1, "count": 4 }), 4000, "count"),
        (json!({ "x": 1, "button": "middle" }), 4000, "button"),
        (json!({ "x": 1, "worker": "other" }), 4000, "worker"),
        (json!({ "x": 1, "session": "other" }), 4000, "session"),
    ] {
        let reply = click(params.clone());
        let error = &reply.body["error"];
        assert_eq!((reply.code(), &error["parameter"]), (code, &json!(parameter)), "{params}: {reply:?}");
        assert!(error["expected"].is_string() && error["found"].is_string(), "{reply:?}");
        assert_eq!(reply.body["meta"]["executed"], false);
    }
    let reply = server.post("/execute", &json!({ "worker_id": "w", "action": "probe:click", "params": [1] }));
    assert_eq!((reply.code(), &reply.body["error"]["parameter"]), (4004, &json!("params")));
}

#[test]
fn what_is_injected_cannot_be_forged() {
    let server = Server::probe();
    let session = server.create("alice", &json!({})).data()["session_id"].clone();
    let reply = server.execute_with("alice", "probe:who", &json!({}), &json!({ "trace_id": "t-1" }));
    assert_eq!(reply.data(), &json!({ "worker": "alice", "session": session, "trace": "t-1", "resource": "probe" }));
    for forged in ["worker", "worker_id", "session_id", "session", "id", "trace"] {
        let reply = server.execute("alice", "probe:who", &json!({ forged: "mallory" }));
        assert_eq!((reply.code(), &reply.body["error"]["parameter"]), (4000, &json!(forged)));
    }
    let reply = server.execute_with("mallory", "probe:total", &json!({}), &json!({ "session_id": session }));
    assert_eq!((reply.status, reply.code()), (404, 4014), "another worker's session does not exist");
}

#[test]
fn clients_may_send_null_and_unknown_fields() {
    let server = Server::probe();
    let reply = server.post(
        "/api/v1/execute",
        &json!({ "worker_id": "w", "action": "probe:click", "params": { "x": 1 }, "timeout": null, "session": null,
                 "session_id": null, "trace_id": null, "session_mode": null, "timout": 3 }),
    );
    reply.data();
    let warning = reply.body["meta"]["warnings"][0].as_str().unwrap();
    assert!(warning.contains("`timout`") && warning.contains("`timeout`"), "{warning}");
    let created = server.post(
        "/api/v1/session/create",
        &json!({ "worker_id": "w", "resource_type": "probe", "session_config": null, "custom_name": null }),
    );
    assert_eq!(created.data()["session_status"], "active");
    let listed = server.post("/session/list", &json!({ "worker_id": "w", "resourcetype": "probe" }));
    assert!(listed.body["meta"]["warnings"][0].as_str().unwrap().contains("`resource_type`"), "{listed:?}");
}

#[test]
fn what_is_read_may_be_asked_for_by_head() {
    let server = Server::probe();
    let reply = server.raw("HEAD", "/health", &[], b"");
    assert_eq!((reply.status, reply.body), (200, Value::Null));
    let refused = server.raw("DELETE", "/health", &[], b"");
    assert!(refused.status == 405 && refused.head.to_lowercase().contains("allow: get, head"), "{refused:?}");
}

#[test]
fn hidden_tools_are_listed_on_request_and_schemas_found_by_name() {
    let server = Server::probe();
    let names = |query: &str| -> Vec<String> {
        let reply = server.get(&format!("/tools{query}"));
        let tools = reply.body["tools"].as_array().unwrap();
        assert_eq!(reply.body["count"], tools.len());
        tools.iter().map(|tool| tool["full_name"].as_str().unwrap().to_owned()).collect()
    };
    let hidden = "probe:secret".to_owned();
    assert!(!names("").contains(&hidden));
    for yes in ["True", "true", "1"] {
        assert!(names(&format!("?include_hidden={yes}")).contains(&hidden), "{yes}");
    }
    assert!(!names("?include_hidden=False").contains(&hidden));
    assert_eq!(names("?names=probe:click,wait"), ["probe:click", "probe:wait"]);
    assert_eq!(names("?resource_type=nothing"), [""; 0]);
    for path in ["/tools/probe:click/schema", "/api/v1/tools/probe%3Aclick/schema"] {
        let reply = server.get(path);
        assert_eq!(reply.body["input_schema"]["properties"]["button"]["default"], "left", "{reply:?}");
        assert_eq!(reply.body["input_schema"]["properties"]["x"]["description"], "X, in pixels.");
        assert_eq!(reply.body["input_schema"]["required"], json!(["x"]));
    }
    let reply = server.get("/tools/none/schema");
    assert_eq!((reply.status, &reply.body["status"], reply.code()), (404, &json!("error"), 4014));
    assert!(reply.body["message"].is_string());
}

#[test]
fn no_web_page_drives_the_server() {
    let server = Server::probe();
    let body = json!({ "worker_id": "w", "action": "util:echo", "params": { "message": "m" } }).to_string();
    let with = |headers: &[(&str, &str)]| server.raw("POST", "/execute", headers, body.as_bytes());
    assert_eq!(with(&[JSON]).status, 200);
    assert_eq!(with(&[JSON, ("Host", "localhost:1234")]).status, 200);
    for refused in [
        ("Origin", "http://evil.example"),
        ("Origin", "null"),
        ("Host", "evil.example"),
        ("Host", "127.0.0.1.evil.example"),
    ] {
        let reply = with(&[JSON, refused]);
        assert_eq!((reply.status, reply.code()), (403, 4013), "{refused:?}");
    }
}

#[test]
fn who_is_refused_keeps_no_connection() {
    let server = Server::start(&json!({ "server": { "tokens": ["s3cret-token"] }, "resources": { "probe": {} } }));
    for (method, path, status) in
        [("POST", "/execute", 401), ("POST", "/nowhere", 401), ("POST", "/health", 405), ("GET", "/health", 400)]
    {
        let mut stream = server.connect();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        assert_eq!(receive(&mut stream).status, status, "its body never ends, and the connection does");
    }
}

#[test]
fn bodies_are_as_large_as_their_routes_need() {
    let server = Server::probe();
    let long = "m".repeat(2 << 20);
    assert_eq!(server.execute("w", "util:echo", &json!({ "message": long })).status, 200);
    let refused = server.post("/session/list", &json!({ "worker_id": "w", "more": long }));
    assert_eq!((refused.status, refused.code()), (413, 4016));
    let many = json!({ "worker_id": 1, "more": long });
    let refused = server.post("/execute", &many);
    assert_eq!(
        (refused.status, refused.body["message"].as_str().map(str::len) < Some(300)),
        (400, true),
        "{refused:?}"
    );
    let names: Vec<_> = (0..1001).map(|n| n.to_string()).collect();
    assert_eq!(server.post("/warmup", &json!({ "backends": names })).body["error"]["parameter"], "backends");
}

#[test]
fn a_page_of_an_allowed_origin_may_call_and_read() {
    let page = ("Origin", "https://app.example");
    let server = Server::start(&json!({
        "server": { "tokens": ["s3cret-token"], "allowed_origins": ["https://app.example"] }, "resources": { "probe": {} },
    }));
    let has = |reply: &Reply, header: &str| {
        assert!(reply.head.to_lowercase().lines().any(|line| line == header), "{header}: {reply:?}");
    };
    let asks = server.raw("OPTIONS", "/execute", &[page, ("Access-Control-Request-Method", "POST")], b"");
    assert_eq!(asks.status, 204, "asked without the token");
    has(&asks, "access-control-allow-origin: https://app.example");
    has(&asks, "access-control-allow-methods: post");
    let headers = asks.head.lines().find_map(|line| line.strip_prefix("access-control-allow-headers: ")).unwrap();
    for header in ["authorization", "content-type", "range", "x-worker-id", "last-event-id"] {
        assert!(headers.split(", ").any(|allowed| allowed == header), "{header}: {headers}");
    }
    let reads = server.raw("GET", "/tools", &[page, ("Authorization", "Bearer s3cret-token")], b"");
    assert_eq!(reads.status, 200);
    has(&reads, "access-control-allow-origin: https://app.example");
    let without = server.raw("GET", "/tools", &[page], b"");
    assert_eq!(without.status, 401);
    has(&without, "access-control-allow-origin: https://app.example");
    let refused = server.raw(
        "OPTIONS",
        "/execute",
        &[("Origin", "http://evil.example"), ("Access-Control-Request-Method", "POST")],
        b"",
    );
    assert_eq!(refused.status, 403);
}

#[test]
fn with_tokens_everything_but_the_pulse_needs_one() {
    let server = Server::start(&json!({ "server": { "tokens": ["s3cret-token"] }, "resources": { "probe": {} } }));
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.get("/ready").body, json!({ "status": "ready" }), "only the bare status");
    for path in ["/tools", "/resources", "/api/v1/tools", "/warmup/status"] {
        let reply = server.get(path);
        assert_eq!((reply.status, reply.code()), (401, 4011), "{path}");
        for wrong in ["Bearer nope", "Basic s3cret-token", "s3cret-token"] {
            assert_eq!(server.raw("GET", path, &[("Authorization", wrong)], b"").status, 401);
        }
        assert_eq!(server.raw("GET", path, &[("Authorization", "bearer s3cret-token")], b"").status, 200);
    }
    let ready = server.raw("GET", "/ready", &[("Authorization", "Bearer s3cret-token")], b"");
    assert!(ready.body["tools_count"].is_u64());
    assert!(!std::fs::read_to_string(&server.log).unwrap().contains("s3cret"), "no token in the log");
}

#[test]
fn the_contract_of_api_v1_keeps_its_shapes() {
    let server = Server::start(&json!({ "server": { "title": "T" }, "resources": { "probe": {} } }));
    let api = |path: &str, body: Value| server.post(&format!("/api/v1/{path}"), &body);
    let me = json!({ "worker_id": "w-1" });

    let created =
        api("session/create", json!({ "worker_id": "w-1", "resource_type": "probe", "custom_name": "my label" }));
    let data = created.data().clone();
    assert_eq!((&data["session_status"], &data["error"]), (&json!("active"), &Value::Null));
    let name = data["session_name"].as_str().unwrap();
    assert_eq!(name, "probe_w-1_001_my-label");
    let id = data["session_id"].as_str().unwrap();
    let hex = id.strip_prefix(&format!("{name}_")).unwrap();
    assert!(hex.len() >= 8 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    let again = api("session/create", json!({ "worker_id": "w-1", "resource_type": "probe" }));
    assert_eq!((&again.data()["status"], &again.data()["session_id"]), (&json!("exists"), &json!(id)));
    assert_eq!(again.data()["config_matches"], true);

    let list = api("session/list", me.clone());
    let session = &list.data()["sessions"][0];
    assert_eq!(
        (&list.data()["count"], &session["session_id"], &session["auto_created"]),
        (&json!(1), &json!(id), &json!(false))
    );
    for time in ["created_at", "last_activity", "expires_at"] {
        let text = session[time].as_str().unwrap();
        assert!(text.len() == 32 && text.ends_with("+00:00"), "{time}: {text}");
    }
    let refreshed = api("session/refresh", json!({ "worker_id": "w-1", "resource_type": "probe" }));
    assert!(refreshed.data()["expires_at"].is_string() && refreshed.data()["session_id"] == id);
    let all = api("session/refresh", me.clone());
    assert_eq!(
        (&all.data()["refreshed_count"], &all.data()["details"]["probe"]["status"]),
        (&json!(1), &json!("refreshed"))
    );

    let beat = api("lifecycle/heartbeat", me.clone());
    assert_eq!(beat.data()["active_sessions"], json!(["probe"]));
    assert!(beat.data()["timestamp"].is_string());
    let status = api("lifecycle/status", me.clone());
    assert_eq!(
        (&status.data()["active_resources"], &status.data()["sessions"]["probe"]["session_id"]),
        (&json!(["probe"]), &json!(id))
    );
    assert!(status.data()["tools_available"].as_u64().unwrap() > 5);

    let destroyed = api("session/destroy", json!({ "worker_id": "w-1", "resource_type": "probe" }));
    assert_eq!((&destroyed.data()["session_id"], &destroyed.data()["session_name"]), (&json!(id), &json!(name)));
    assert_eq!(api("session/destroy", json!({ "worker_id": "w-1", "resource_type": "probe" })).status, 404);

    let init = api(
        "init/resource",
        json!({ "worker_id": "w-1", "resource_type": "probe", "init_config": { "initialize_ms": 1 } }),
    );
    assert_eq!((&init.data()["session_status"], &init.data()["error"]), (&json!("active"), &Value::Null));
    let batch = api(
        "init/batch",
        json!({ "worker_id": "w-2", "resource_configs": { "probe": { "content": { "cleanup_ms": 1 } }, "nope": {} } }),
    );
    assert_eq!((&batch.data()["total"], &batch.data()["success_count"]), (&json!(2), &json!(1)));
    assert_eq!(batch.data()["results"]["probe"]["status"], "success");
    assert!(batch.data()["results"]["nope"]["error"].is_string());
    assert_eq!(api("init/from-config", json!({ "path": "/etc/passwd" })).code(), 4013);
    assert_eq!(api("worker/disconnect", me).data(), &json!({ "worker_id": "w-1", "sessions_cleaned": 1 }));

    let warmup = api("warmup", json!({ "backends": ["probe", "nope"] })).body;
    assert_eq!(
        (&warmup["status"], &warmup["results"]),
        (&json!("partial_error"), &json!({ "nope": false, "probe": true }))
    );
    assert_eq!(warmup["summary"], json!({ "total": 1, "warmed_up": 1, "pending": 0 }));
    assert!(warmup["errors"]["nope"].is_string());
    let status = server.get("/api/v1/warmup/status").body;
    assert_eq!(
        (&status["backends"]["probe"]["loaded"], &status["backends"]["probe"]["warmed_up"]),
        (&json!(true), &json!(true))
    );
    let health = server.get("/api/v1/health").body;
    assert_eq!((&health["status"], &health["title"]), (&json!("healthy"), &json!("T")));
    let ready = server.get("/api/v1/ready").body;
    assert_eq!(
        (&ready["status"], &ready["active_workers"], &ready["total_sessions"]),
        (&json!("ready"), &json!(1), &json!(1))
    );
    let resources = server.get("/resources").body;
    assert_eq!(
        (&resources["resources"][0]["resource"], &resources["resources"][0]["kind"]),
        (&json!("probe"), &json!("mixed"))
    );
}

#[test]
fn a_keep_alive_connection_serves_many_requests() {
    let server = Server::probe();
    let mut stream = server.connect();
    let body = json!({ "worker_id": "w", "action": "util:echo", "params": { "message": "one\u{1F600}" } }).to_string();
    let head = format!(
        "POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    std::io::Write::write_all(&mut stream, format!("{head}{body}").as_bytes()).unwrap();
    send(&mut stream, "POST", "/execute", &[JSON], body.as_bytes());
    let both = receive(&mut stream);
    assert_eq!(both.status, 200);
}

#[test]
fn a_tool_that_is_off_has_no_schema() {
    let off = Server::probe();
    for path in ["/tools/web:fetch/schema", "/tools/fetch/schema", "/api/v1/tools/web__fetch/schema"] {
        let reply = off.get(path);
        assert_eq!((reply.status, reply.code()), (404, 4014), "{path}: {reply:?}");
        assert_eq!((&reply.body["status"], reply.reason()), (&json!("error"), "not_configured"));
        assert!(reply.body["message"].as_str().unwrap().contains("`apis.fetch`"), "{reply:?}");
    }
    let call = off.execute("w", "web:fetch", &json!({ "url": "https://example.org" }));
    assert_eq!((call.code(), call.reason()), (4002, "not_configured"));
    let on = Server::start(&json!({ "apis": { "fetch": {} } }));
    assert_eq!(on.get("/tools/fetch/schema").body["full_name"], "web:fetch");
}

#[test]
fn the_log_has_one_event_for_each_call_and_never_its_parameters() {
    let config = json!({ "server": { "log": { "format": "json", "level": "info,sandbox=trace,sandbox_runtime=trace" } }, "resources": { "probe": {} } });
    let server = Server::start(&config);
    let id = server.create("w-1", &json!({})).data()["session_id"].clone();
    let trace = |trace: &str| json!({ "trace_id": trace });
    server.execute_with("w-1", "probe_total", &json!({}), &trace("t-ok")).data();
    let secret = json!({ "message": "sk-parameter-1" });
    assert_eq!(server.execute_with("w-1", "util:echo", &secret, &trace("t-echo")).data(), &secret);
    let wrong = json!({ "x": "sk-parameter-2", "sk_parameter_3": 1 });
    assert_eq!(server.execute_with("w-1", "probe:click", &wrong, &trace("t-bad")).status, 400);

    let log = std::fs::read_to_string(&server.log).unwrap();
    assert!(!log.contains("sk-parameter") && !log.contains("sk_parameter"), "{log}");
    let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let event = |trace: &str| {
        let of_call = |event: &&Value| event["target"] == "sandbox::call" && event["trace"] == trace;
        let mut calls = events.iter().filter(of_call);
        let event = calls.next().unwrap_or_else(|| panic!("no event of {trace}: {log}"));
        assert!(calls.next().is_none(), "two events of {trace}: {log}");
        assert!(event["wait_ms"].as_f64().unwrap() >= 0.0 && event["run_ms"].is_number(), "{event}");
        assert!(event["timestamp"].is_string() && event["level"] == "INFO", "{event}");
        event
    };
    let total = event("t-ok");
    assert_eq!(
        [&total["worker"], &total["session"], &total["tool"], &total["code"], &total["bytes"]],
        [&json!("w-1"), &id, &json!("probe:total"), &json!(0), &json!(1)]
    );
    let echo = event("t-echo");
    assert_eq!([&echo["tool"], &echo["session"]], [&json!("util:echo"), &Value::Null]);
    let bad = event("t-bad");
    assert_eq!([&bad["tool"], &bad["code"], &bad["bytes"]], [&json!("probe:click"), &json!(4000), &json!(0)]);
}

#[test]
fn an_upgrade_is_refused() {
    let server = Server::probe();
    let body = json!({ "worker_id": "w", "action": "probe:free" }).to_string();
    let headers = [("Content-Type", "application/json"), ("Upgrade", "WebSocket"), ("Connection", "Upgrade")];
    for (method, path) in [("POST", "/execute"), ("POST", "/execute/probe:measure"), ("GET", "/health")] {
        let refused = server.raw(method, path, &headers, body.as_bytes());
        assert_eq!((refused.status, refused.code()), (400, 4002), "{path}");
    }
}
