//! Downloads: bytes that a tool answers.

use std::{io::Read as _, time::Duration};

use serde_json::{Value, json};

use crate::{
    bytes::{Download, HELLO_DIGEST, HELLO_SHA256, Place, WORKER},
    harness::{send, until},
};

#[test]
fn a_download_says_what_it_is() {
    let place = Place::new();
    place.put("f", b"hello");
    let all = place.download("GET", "/execute/probe:load?name=f&download=a.txt", &[("X-Trace-ID", "t-7")]);
    all.is(200, "hello");
    let header = |name| all.header(name).unwrap_or_default();
    assert_eq!(header("content-type"), "text/plain");
    assert_eq!(header("content-length"), "5");
    assert_eq!(header("content-disposition"), "attachment; filename=\"a.txt\"");
    assert_eq!((header("accept-ranges"), header("x-trace-id")), ("bytes", "t-7"));
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert!(header("etag").starts_with('"') && header("last-modified").ends_with("GMT"), "{}", all.head);
    assert!(header("x-execution-time-ms").parse::<f64>().is_ok());

    let posted = place.download("POST", "/execute/probe:load?name=f", &[]);
    posted.is(200, "hello");
    let memory = place.download("GET", "/execute/probe:say?text=hello", &[]);
    memory.is(200, "hello");
    assert_eq!(memory.header("repr-digest"), Some(HELLO_DIGEST));

    let head = place.download("HEAD", "/execute/probe:load?name=f", &[("Range", "bytes=1-2")]);
    head.is(200, "");
    assert_eq!((head.header("content-length"), head.header("etag")), (Some("5"), Some(header("etag"))));
    place.put("empty", b"");
    place.download("GET", "/execute/probe:load?name=empty", &[]).is(200, "");
    place.download("HEAD", "/execute/probe:drip?bytes=10", &[]).is(200, "");
    let embedded = place.call("GET", "/execute/probe:load?name=f", &[("Sec-Fetch-Site", "cross-site")], b"");
    assert_eq!((embedded.status, embedded.reason()), (403, "origin"));
    let none = place.call("GET", "/execute/probe:load?name=missing", &[], b"");
    assert_eq!((none.status, none.code()), (404, 4014));
    assert!(!none.body.to_string().contains(place.folder.path().to_str().unwrap()));
}

#[test]
fn a_part_of_a_download_can_be_asked_for() {
    let place = Place::new();
    place.put("f", b"0123456789");
    for path in ["/execute/probe:load?name=f", "/execute/probe:say?text=0123456789"] {
        let get = |headers: &[(&str, &str)]| place.download("GET", path, headers);
        let etag = get(&[]).header("etag").unwrap().to_owned();
        for (range, content, named) in [
            ("bytes=0-3", "0123", "bytes 0-3/10"),
            ("bytes=4-6", "456", "bytes 4-6/10"),
            ("bytes=-2", "89", "bytes 8-9/10"),
            ("bytes=7-", "789", "bytes 7-9/10"),
            ("bytes=7-100", "789", "bytes 7-9/10"),
        ] {
            let part = get(&[("Range", range)]);
            part.is(206, content);
            assert_eq!(part.header("content-range"), Some(named));
            assert_eq!(part.header("content-length"), Some(&*content.len().to_string()));
        }
        get(&[("Range", "bytes=0-1,3-4")]).is(200, "0123456789");
        place.download("POST", path, &[("Range", "bytes=4-6")]).is(200, "0123456789");
        get(&[("Range", "bytes=4-6"), ("If-Range", &etag)]).is(206, "456");
        get(&[("Range", "bytes=4-6"), ("If-Range", "\"other\"")]).is(200, "0123456789");
        let outside = get(&[("Range", "bytes=10-")]);
        assert_eq!((outside.status, outside.header("content-range")), (416, Some("bytes */10")));
        assert_eq!(serde_json::from_slice::<Value>(&outside.body).unwrap()["error"]["parameter"], "Range");
        get(&[("If-None-Match", &etag)]).is(304, "");
        get(&[("If-None-Match", "\"other\"")]).is(200, "0123456789");
    }
    let file = place.download("GET", "/execute/probe:load?name=f", &[]);
    let modified = file.header("last-modified").unwrap();
    place.download("GET", "/execute/probe:load?name=f", &[("If-Modified-Since", modified)]).is(304, "");
    let range = [("Range", "bytes=4-6"), ("If-Range", modified)];
    place.download("GET", "/execute/probe:load?name=f", &range).is(206, "456");
}

#[test]
fn a_large_download_is_whole_and_its_parts_are_right() {
    let place = Place::new();
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(|n| n.to_le_bytes()[..1].to_vec()).collect();
    place.put("f", &content);
    let all = place.download("GET", "/execute/probe:load?name=f", &[]);
    assert!(all.body == content);
    let part = place.download("GET", "/execute/probe:load?name=f", &[("Range", "bytes=1000001-2900000")]);
    assert!(part.status == 206 && part.body == content[1_000_001..=2_900_000]);
    let back = place.server.raw("POST", "/execute/probe:store?name=g", &[WORKER], &content);
    assert_eq!(back.data()["bytes"], 3_000_000);
    assert!(place.get("g") == content);
}

#[test]
fn bytes_travel_as_base64_in_json() {
    let place = Place::new();
    let content = json!({ "content": "aGVsbG8=", "content_type": "text/html", "length": 5, "sha256": HELLO_SHA256 });
    let params = json!({ "text": "hello" });
    assert_eq!(place.server.execute("w", "probe:say", &params).data(), &content);
    let nested = json!({ "action": "probe:say", "params": params });
    assert_eq!(place.server.execute("w", "probe:nest", &nested).data(), &content);
    let action = json!({ "action": "probe:say", "params": params });
    let batch = place.server.post("/execute/batch", &json!({ "worker_id": "w", "actions": [action] }));
    assert_eq!(&batch.data()["results"][0]["data"], &content);
    let odd = place.server.execute("w", "probe:echo", &json!({ "file": "AAECAw==" }));
    assert_eq!(odd.data()["content"], "AAECAw==");

    let bad = place.server.execute("w", "probe:echo", &json!({ "file": "no base64!" }));
    assert_eq!((bad.status, &bad.body["error"]["parameter"]), (400, &json!("file")));
    let large = place.server.execute("w", "probe:drip", &json!({ "bytes": 8 * 1024 * 1024 + 1 }));
    assert_eq!((large.status, large.code()), (413, 4016));
    assert!(large.body["message"].as_str().unwrap().contains("Accept: application/octet-stream"));
    let fits = place.server.execute("w", "probe:drip", &json!({ "bytes": 8 * 1024 * 1024 }));
    assert_eq!(fits.data()["length"], 8 * 1024 * 1024);
    until("the session went with the call", || place.sessions() == 0);
}

#[test]
fn execute_answers_bytes_to_who_prefers_them() {
    let place = Place::new();
    let body = json!({ "worker_id": "w", "action": "probe:say", "params": { "text": "hello" } }).to_string();
    let ask = |accept: &str, body: &str| {
        let mut stream = place.server.connect();
        let headers = [("Content-Type", "application/json"), ("Accept", accept)];
        send(&mut stream, "POST", "/execute", &headers, body.as_bytes());
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        Download::of(&bytes)
    };
    ask("application/octet-stream", &body).is(200, "hello");
    for accept in ["*/*", "application/json, application/octet-stream"] {
        let reply: Value = serde_json::from_slice(&ask(accept, &body).body).unwrap();
        assert_eq!(reply["data"]["content"], "aGVsbG8=");
    }
    let odd = ask("application/octet-stream", &body.replace("\"worker_id\"", "\"wörker\":1,\"worker_id\""));
    odd.is(200, "hello");
    assert!(odd.header("x-warning").unwrap().contains("unknown field `w?rker` is ignored"), "{}", odd.head);
    let json = body.replace("probe:say", "probe:nothing");
    assert_eq!(ask("application/octet-stream", &json).status, 400);
    let kept = body.replace("\"worker_id\"", "\"idempotency_key\":\"k\",\"worker_id\"");
    let refused = ask("application/octet-stream", &kept);
    assert!(refused.status == 400 && String::from_utf8_lossy(&refused.body).contains("idempotency_key"));
}

#[test]
fn a_temporary_session_lives_until_the_last_byte() {
    let place = Place::new();
    let mut stream = place.server.connect();
    send(&mut stream, "GET", "/execute/probe:drip?bytes=40000000", &[WORKER], b"");
    let mut first = [0; 1000];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(place.sources(), 1);
    assert!(place.server.counts()["ended"].as_object().unwrap().is_empty(), "its session is needed");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(b"0\r\n\r\n"), "the end is told");
    until("the session is cleaned up", || place.server.counts()["ended"]["call_ended"] == 1);
    assert_eq!((place.sources(), place.sessions()), (0, 0));
}

#[test]
fn a_client_that_leaves_drops_the_source() {
    let place = Place::new();
    let before = place.rss_kib();
    let mut stream = place.server.connect();
    send(&mut stream, "GET", "/execute/probe:drip", &[WORKER], b"");
    let mut first = [0; 1000];
    stream.read_exact(&mut first).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(place.sources(), 1);
    assert!(place.rss_kib() < before + 16 * 1024, "what nobody reads is not made");
    drop(stream);
    until("the source is dropped", || place.sources() == 0);
    until("the session is cleaned up", || place.server.counts()["ended"]["call_ended"] == 1);
}

#[test]
fn a_download_ends_when_no_call_may_take_longer() {
    let place = Place::with(&json!({ "default_timeout_seconds": 1, "max_timeout_seconds": 1 }));
    let began = std::time::Instant::now();
    let cut = place.download("GET", "/execute/probe:drip?pause_ms=20", &[]);
    assert!(cut.status == 200 && !cut.body.ends_with(b"0\r\n\r\n"), "no end is told");
    assert!(began.elapsed() >= Duration::from_secs(1), "not before");
    until("the source is dropped", || place.sources() == 0 && place.sessions() == 0);
}

#[test]
fn a_download_is_a_run_until_its_last_byte_and_can_be_cancelled() {
    let place = Place::new();
    let runs = || place.call("GET", "/runs", &[], b"").data()["runs"].clone();
    for cancelled in [true, false] {
        let mut stream = place.server.connect();
        let path = if cancelled { "/execute/probe:drip?pause_ms=10" } else { "/execute/probe:drip?bytes=40000000" };
        send(&mut stream, "GET", path, &[WORKER], b"");
        let mut first = [0; 1000];
        stream.read_exact(&mut first).unwrap();
        let run = runs()[0].clone();
        assert_eq!((&run["tool"], &run["state"]), (&json!("probe:drip"), &json!("running")));
        let id = run["run_id"].as_str().unwrap();
        if cancelled {
            let body = json!({ "worker_id": "w" });
            assert_eq!(place.server.post(&format!("/runs/{id}/cancel"), &body).data()["cancelled"], true);
        }
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest.ends_with(b"0\r\n\r\n"), !cancelled);
        until("nothing is left of it", || place.sources() == 0 && place.sessions() == 0);
        let state = if cancelled { "cancelled" } else { "succeeded" };
        until("the run is over", || runs()[0]["run_id"] == id && runs()[0]["state"] == state);
    }
}

#[test]
fn a_download_that_began_in_the_grace_of_its_call_can_be_cancelled() {
    let place = Place::new();
    let mut stream = place.server.connect();
    send(&mut stream, "GET", "/execute/probe:drip_late", &[WORKER, ("X-Timeout-Seconds", "1")], b"");
    let mut first = [0; 1000];
    stream.read_exact(&mut first).unwrap();
    let run = place.call("GET", "/runs", &[], b"").data()["runs"][0].clone();
    assert_eq!(run["state"], "running");
    let id = run["run_id"].as_str().unwrap();
    let cancel = place.server.post(&format!("/runs/{id}/cancel"), &json!({ "worker_id": "w" }));
    assert_eq!(cancel.data()["cancelled"], true);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    until("the source is dropped", || place.sources() == 0);
    assert_eq!(place.call("GET", "/runs", &[], b"").data()["runs"][0]["state"], "cancelled");
}

#[test]
fn the_log_has_one_event_of_a_download_with_all_its_bytes() {
    let place = Place::new();
    place.put("f", &vec![7; 1_000_000]);
    place.download("GET", "/execute/probe:load?name=f", &[("X-Trace-ID", "file")]);
    place.download("GET", "/execute/probe:load?name=f", &[("X-Trace-ID", "part"), ("Range", "bytes=0-9")]);
    place.download("HEAD", "/execute/probe:load?name=f", &[("X-Trace-ID", "head")]);
    place.download("GET", "/execute/probe:load?name=f", &[("X-Trace-ID", "none"), ("Range", "bytes=1000000-")]);
    place.download("GET", "/execute/probe:say?text=hello", &[("X-Trace-ID", "memory")]);
    place.download("GET", "/execute/probe:drip?bytes=10&declared=20", &[("X-Trace-ID", "cut")]);
    for (trace, tool, code, bytes) in [
        ("file", "probe:load", 0, 1_000_000),
        ("part", "probe:load", 0, 10),
        ("head", "probe:load", 0, 0),
        ("none", "probe:load", 4000, 0),
        ("memory", "probe:say", 0, 5),
        ("cut", "probe:drip", 5000, 10),
    ] {
        let of = |line: &&str| line.contains(&format!("trace=\"{trace}\""));
        until("the log has it", || place.log().lines().any(|line| of(&line)));
        let log = place.log();
        let lines: Vec<_> = log.lines().filter(of).collect();
        let parts = [format!("tool=\"{tool}\""), format!("code={code} "), "worker=\"w\"".into()];
        assert!(
            lines.len() == 1
                && lines[0].trim_end().ends_with(&format!(" bytes={bytes}"))
                && parts.iter().all(|part| lines[0].contains(part)),
            "{lines:?}"
        );
    }
}

#[test]
fn a_download_that_fails_is_not_taken_for_whole() {
    let place = Place::new();
    // Without a length the last chunk is missing, with one the last bytes are.
    for path in ["/execute/probe:drip?bytes=10&declared=20", "/execute/probe:drip?bytes=30&declared=20"] {
        let cut = place.download("GET", path, &[]);
        assert_eq!((cut.status, cut.header("content-length")), (200, Some("20")));
        assert!(cut.body.len() < 20);
    }
    place.server.create("w", &json!({}));
    let mut stream = place.server.connect();
    send(&mut stream, "GET", "/execute/probe:drip?pause_ms=10", &[WORKER], b"");
    let mut first = [0; 1000];
    stream.read_exact(&mut first).unwrap();
    place.server.post("/session/destroy", &json!({ "worker_id": "w", "resource_type": "probe" })).data();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "no end is told");
    until("the session is cleaned up", || place.server.counts()["ended"]["destroyed"] == 1 && place.sources() == 0);
}
