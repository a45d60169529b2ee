//! Uploads: bytes that a tool takes beside its JSON.

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    time::Duration,
};

use serde_json::json;

use crate::{
    bytes::{Download, HELLO_DIGEST, HELLO_SHA256, MULTIPART, Place, WORKER, begin, multipart, reset},
    harness::{Reply, receive, send, until},
};

#[test]
fn an_upload_arrives_whichever_way_it_is_sent() {
    let place = Place::new();
    let saved = json!({ "bytes": 5, "sha256": HELLO_SHA256 });

    let raw = place.call("POST", "/execute/probe:store?name=raw", &[("Content-Type", "text/plain")], b"hello");
    assert_eq!(raw.data(), &saved);
    let v1 = place.call("POST", "/api/v1/execute/store?name=v1&worker_id=w", &[], b"hello");
    assert_eq!(v1.data(), &saved);

    let mut stream = begin(&place.server, "/execute/probe:store?name=chunked", "Transfer-Encoding: chunked\r\n");
    for piece in ["2\r\nhe\r\n", "3\r\nllo\r\n", "0\r\n\r\n"] {
        stream.write_all(piece.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(receive(&mut stream).data(), &saved);

    let request = r#"{"worker_id": "w", "params": {"name": "parts"}, "trace_id": "t-1"}"#;
    let body = multipart(&[("name=\"request\"", request), ("name=\"file\"; filename=\"a.txt\"", "hello")]);
    let parts = place.server.raw("POST", "/execute/probe:store", &[MULTIPART], &body);
    assert_eq!((parts.data(), &parts.body["meta"]["trace_id"]), (&saved, &json!("t-1")));

    let alone = multipart(&[("name=\"file\"; filename=\"a.txt\"", "hello")]);
    let form = place.call("POST", "/execute/probe:store?name=form", &[MULTIPART], &alone);
    assert_eq!(form.data(), &saved);

    // Servers are to ignore a part's length, here one that is wrong.
    let request = r#"{"worker_id": "w", "params": {"name": "lengths"}}"#;
    let body = multipart(&[
        ("name=\"request\"\r\nContent-Length: 9000", request),
        ("name=\"file\"\r\nContent-Length: 2", "hello"),
    ]);
    assert_eq!(place.server.raw("POST", "/execute/probe:store", &[MULTIPART], &body).data(), &saved);

    let params = json!({ "name": "base64", "file": "aGVsbG8=" });
    assert_eq!(place.server.execute("w", "probe:store", &params).data(), &saved);

    let mut names = place.names();
    names.sort();
    assert_eq!(names, ["base64", "chunked", "form", "lengths", "parts", "raw", "v1"]);
    assert!(names.iter().all(|name| place.get(name) == b"hello"));
}

#[test]
fn what_is_known_of_an_upload_reaches_the_tool() {
    let place = Place::new();
    let headers = [("Content-Type", "text/csv"), ("Content-Disposition", "attachment; filename=\"../../x/table.csv\"")];
    let seen = place.call("POST", "/execute/probe:measure", &headers, b"a,b").data().clone();
    assert_eq!(
        seen,
        json!({ "bytes": 3, "pieces": 1, "declared": 3, "content_type": "text/csv", "file_name": "table.csv" })
    );
    let empty = place.call("POST", "/execute/probe:measure", &[("Content-Type", "text/csv")], b"");
    assert_eq!(empty.data()["bytes"], 0);
    let body = multipart(&[
        ("name=\"request\"", "{}"),
        ("name=\"file\"; filename=\"t.bin\"\r\nContent-Type: application/x-t", ""),
    ]);
    let parts = place.call("POST", "/execute/probe:measure", &[MULTIPART], &body).data().clone();
    assert_eq!((&parts["file_name"], &parts["content_type"]), (&json!("t.bin"), &json!("application/x-t")));
}

#[test]
fn an_optional_upload_may_be_left_out() {
    let place = Place::new();
    assert_eq!(place.call("POST", "/execute/probe:maybe", &[], b"").data(), "nothing");
    assert_eq!(place.call("POST", "/execute/probe:maybe?times=2", &[], b"hi").data(), "hihi");
    let body = multipart(&[("name=\"request\"", "{}")]);
    assert_eq!(place.call("POST", "/execute/probe:maybe", &[MULTIPART], &body).data(), "nothing");
    assert_eq!(place.server.execute("w", "probe:maybe", &json!({})).data(), "nothing");
    assert_eq!(place.server.execute("w", "probe:maybe", &json!({ "file": "aGk=" })).data(), "hi");
}

#[test]
fn a_checksum_is_held_to() {
    let place = Place::new();
    let right = place.call("POST", "/execute/probe:store?name=a", &[("Content-Digest", HELLO_DIGEST)], b"hello");
    assert_eq!(right.data()["sha256"], HELLO_SHA256);
    for path in ["/execute/probe:store?name=b", "/execute/probe:measure"] {
        let wrong = place.call("POST", path, &[("Content-Digest", HELLO_DIGEST)], b"hallo");
        assert_eq!((wrong.status, wrong.reason()), (400, "checksum"));
    }
    let other = place.call("POST", "/execute/probe:measure", &[("Content-Digest", "sha-512=:AAAA:")], b"hello");
    assert!(other.body["meta"]["warnings"][0].as_str().unwrap().contains("sha-256"), "{other:?}");
    let lines =
        [("Content-Digest", "sha-512=:AAAA:"), ("Repr-Digest", "sha-1=:AA==:"), ("Content-Digest", HELLO_DIGEST)];
    let listed = place.call("POST", "/execute/probe:measure", &lines, b"hallo");
    assert_eq!((listed.status, listed.reason()), (400, "checksum"), "lines of one name are one list");
    let none = place.call("POST", "/execute/probe:store?name=b", &[("Content-Digest", "sha-256=:x:")], b"hello");
    assert_eq!(none.body["error"]["parameter"], "Content-Digest");
    assert_eq!(place.names(), ["a"]);
}

#[test]
fn an_upload_that_is_too_large_is_refused_and_leaves_nothing() {
    let place = Place::with(&json!({ "upload_limit_mib": 1 }));
    let large = vec![7; 1024 * 1024 + 1];
    let known = place.call("POST", "/execute/probe:store?name=a", &[], &large);
    assert_eq!((known.status, known.code()), (413, 4016));

    let mut stream = begin(&place.server, "/execute/probe:store?name=a", "Transfer-Encoding: chunked\r\n");
    stream.write_all(format!("{:x}\r\n", large.len()).as_bytes()).unwrap();
    stream.write_all(&large).unwrap();
    let unknown = receive(&mut stream);
    assert_eq!((unknown.status, unknown.code()), (413, 4016));

    let text = "x".repeat(1024 * 1024 + 1);
    let body = multipart(&[("name=\"request\"", r#"{"params":{"name":"a"}}"#), ("name=\"file\"", &text)]);
    let part = place.call("POST", "/execute/probe:store", &[MULTIPART], &body);
    assert_eq!((part.status, part.code()), (413, 4016));

    let fits = place.call("POST", "/execute/probe:store?name=fits", &[], &large[1..]);
    assert_eq!(fits.data()["bytes"], 1024 * 1024);
    until("only what fits is there", || place.names() == ["fits"]);
}

#[test]
fn an_upload_that_is_cut_off_leaves_nothing() {
    let place = Place::new();
    let request = "--XX\r\nContent-Disposition: form-data; name=\"request\"\r\n\r\n{\"params\":{\"name\":\"a\"}}\r\n\
                   --XX\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nhalf";
    let multipart = format!("Content-Type: multipart/form-data; boundary=XX\r\nContent-Length: {}\r\n", request.len());
    let cases = [
        ("/execute/probe:store?name=a", "Content-Length: 1000000\r\n", "half"),
        ("/execute/probe:store_in?name=a", "Content-Length: 1000000\r\n", "half"),
        ("/execute/probe:store_in?name=a", "Transfer-Encoding: chunked\r\n", "4\r\nhalf\r\n"),
        ("/execute/probe:store", &*multipart, request),
    ];
    for (index, (path, headers, body)) in cases.into_iter().enumerate() {
        let mut stream = begin(&place.server, path, headers);
        stream.write_all(body.as_bytes()).unwrap();
        if index < 3 {
            until("the upload has begun", || place.is_open());
            // Also without a word of farewell.
            let _ = stream.shutdown(if index == 0 { Shutdown::Write } else { Shutdown::Both });
            drop(stream);
        } else {
            let reply = receive(&mut stream);
            assert_eq!((reply.status, reply.reason()), (400, "upload_cut"));
        }
        until("nothing is left of it", || !place.is_open() && place.names().is_empty() && place.sessions() == 0);
    }
    assert_eq!(place.server.counts()["initialized"], 2);
    until("the sessions are cleaned up", || place.server.counts()["ended"]["call_ended"] == 2);
}

#[test]
fn an_upload_to_a_server_that_is_killed_leaves_nothing() {
    let mut place = Place::new();
    place.put("a", b"old");
    let mut stream = begin(&place.server, "/execute/probe:store?name=a", "Content-Length: 10000000\r\n");
    stream.write_all(&vec![7; 2_000_000]).unwrap();
    until("the upload has begun", || place.is_open());
    place.server.process.kill().unwrap();
    place.server.process.wait().unwrap();
    assert_eq!((place.names(), place.get("a")), (vec!["a".to_owned()], b"old".to_vec()));
}

#[test]
fn a_client_that_leaves_while_it_is_held_back_is_noticed() {
    // A tool that never reads, and one that reads what there is afterwards, and is told why there is no more.
    for read in ["wait_ms=60000", "wait_ms=1500"] {
        let place = Place::new();
        let path = format!("/execute/probe:measure?{read}");
        let mut stream = begin(&place.server, &path, "Content-Length: 209715200\r\n");
        stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
        let piece = vec![0; 1024 * 1024];
        until("it is held back", || stream.write(&piece).is_err());
        let ended = || place.log().lines().any(|line| line.contains("probe:measure") && line.contains("code="));
        assert!(!ended());
        reset(stream);
        until("its call is over", ended);
        assert!(place.log().contains("code=5020"), "{}", place.log());
    }
}

#[test]
fn what_comes_slowly_in_a_large_upload_is_read_at_once() {
    let place = Place::new();
    let few = 3 * 1024 * 1024 + 10;
    let path = format!("/execute/probe:measure?most_bytes={few}");
    let mut stream = begin(&place.server, &path, "Content-Length: 100000000\r\n");
    stream.write_all(&vec![0; few - 10]).unwrap();
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(60));
        stream.write_all(&[0]).unwrap();
    }
    assert_eq!(receive(&mut stream).data()["bytes"], few);

    // The connection is as it was for what comes after: here all but the head of the request is in one large part.
    let mut stream = place.server.connect();
    let padding = " ".repeat(2 * 1024 * 1024);
    let large = multipart(&[
        ("name=\"request\"", &format!("{{\"params\":{{}}{padding}}}")),
        ("name=\"file\"", &"x".repeat(few)),
    ]);
    for (content_type, body, bytes) in
        [(MULTIPART.1, &*large, few), ("text/plain", b"hello", 5), (MULTIPART.1, &*large, few)]
    {
        let head = format!(
            "Host: 127.0.0.1\r\nX-Worker-ID: w\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n",
            body.len()
        );
        stream.write_all(format!("POST /execute/probe:measure HTTP/1.1\r\n{head}\r\n").as_bytes()).unwrap();
        let (most, last) = body.split_at(body.len() - 3);
        stream.write_all(most).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        stream.write_all(last).unwrap();
        let mut answer = [0; 4096];
        let read = stream.read(&mut answer).unwrap();
        assert!(String::from_utf8_lossy(&answer[..read]).contains(&format!("\"bytes\":{bytes},")));
    }
}

#[test]
fn a_tool_that_reads_slowly_holds_the_client_back() {
    let place = Place::new();
    place.call("POST", "/execute/probe:measure", &[], &vec![0; 100_000]).data();
    for path in ["/execute/probe:measure?wait_ms=60000", "/execute/probe:measure?pause_ms=50"] {
        let mut stream = begin(&place.server, path, "Content-Length: 209715200\r\n");
        let before = place.rss_kib();
        let mut most = before;
        stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
        let (piece, mut sent, mut held) = (vec![0; 1024 * 1024], 0, 0);
        while sent < 200 * 1024 * 1024 && held < 20 {
            match stream.write(&piece) {
                Ok(written) => sent += written,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => held += 1,
                Err(error) => panic!("{error}"),
            }
            most = most.max(place.rss_kib());
        }
        assert!(held == 20 && sent < 100 * 1024 * 1024, "{sent} bytes were taken");
        assert!(most < before + 8 * 1024, "{before} KiB grew to {most} KiB");
    }
}

#[test]
fn an_upload_can_be_a_download() {
    let place = Place::new();
    let content = vec![42; 1_000_000];
    let mut stream = place.server.connect();
    let body = content.clone();
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || send(&mut writer, "POST", "/execute/probe:echo", &[WORKER], &body));
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    writing.join().unwrap();
    let back = Download::of(&bytes);
    assert_eq!((back.status, back.header("content-length")), (200, Some("1000000")));
    assert!(back.body == content);
}

#[test]
fn a_mistake_is_named() {
    let place = Place::with(&json!({ "upload_limit_mib": 1 }));
    let parameter = |reply: &Reply| reply.body["error"]["parameter"].as_str().unwrap_or_default().to_owned();
    let wrong = place.call("POST", "/execute/probe:measure?pause_ms=soon", &[], b"hello");
    assert_eq!((wrong.status, &*parameter(&wrong)), (400, "pause_ms"));
    let unknown = place.call("POST", "/execute/probe:measure?pause=1", &[], b"hello");
    assert!(unknown.body["message"].as_str().unwrap().contains("did you mean `pause_ms`?"), "{unknown:?}");
    let twice = place.call("POST", "/execute/probe:measure?file=aGk%3D", &[], b"hello");
    assert_eq!((twice.status, &*parameter(&twice)), (400, "file"));
    let again = place.call("POST", "/execute/probe:measure?wait_ms=1&wait_ms=2", &[], b"hello");
    assert_eq!((again.status, &*parameter(&again)), (400, "wait_ms"));
    let none = place.call("POST", "/execute/probe:measure", &[], b"");
    assert_eq!((none.status, none.code(), &*parameter(&none)), (400, 4003, "file"));
    let taken = place.call("POST", "/execute/probe:say?text=a", &[("Content-Type", "text/plain")], b"hello");
    assert_eq!((taken.status, taken.code()), (415, 4017));
    let json = place.call("POST", "/execute/probe:say", &[("Content-Type", "application/json")], br#"{"text":"a"}"#);
    assert_eq!(json.status, 200);
    let missing = place.call("POST", "/execute/probe:nothing", &[], b"hello");
    assert_eq!((missing.status, missing.reason()), (400, "unknown_tool"));
    let nobody = place.server.raw("POST", "/execute/probe:measure", &[], b"hello");
    assert_eq!((nobody.status, &*parameter(&nobody)), (400, "X-Worker-ID"));
    let two = place.call("POST", "/execute/probe:measure", &[("X-Worker-ID", "v")], b"hello");
    assert_eq!((two.status, &*parameter(&two)), (400, "X-Worker-ID"));
    let writes = place.call("GET", "/execute/probe:store?name=a", &[], b"");
    assert_eq!((writes.status, writes.code()), (405, 4015));
    assert!(writes.head.to_lowercase().contains("\r\nallow: post"), "{}", writes.head);
    let method = place.call("PUT", "/execute/probe:store?name=a", &[], b"hello");
    assert_eq!((method.status, method.code()), (405, 4015));
    let packed = place.call("POST", "/execute/probe:store?name=a", &[("Content-Encoding", "gzip")], b"hello");
    assert_eq!((packed.status, packed.code()), (415, 4017));
    let kept = place.call("POST", "/execute/probe:store?name=a", &[("Idempotency-Key", "k")], b"hello");
    assert_eq!((kept.status, &*parameter(&kept)), (400, "Idempotency-Key"));
    for (header, value) in [("X-Timeout-Seconds", "soon"), ("X-Session-Mode", "some"), ("X-Session-ID", "\u{1}")] {
        let bad = place.call("POST", "/execute/probe:store?name=a", &[(header, value)], b"hello");
        assert_eq!(bad.status, 400, "{header}");
    }
    for parts in [
        &[("name=\"other\"", "hello"), ("name=\"request\"", "{}")][..],
        &[("name=\"request\"", "{}"), ("name=\"other\"", "hello")],
        &[
            ("name=\"request\"", "{\"params\":{\"name\":\"a\"}}"),
            ("name=\"file\"", "hello"),
            ("name=\"more\"", "hello"),
        ],
        &[("name=\"request\"", "no json"), ("name=\"file\"", "hello")],
        &[],
    ] {
        let reply = place.call("POST", "/execute/probe:store", &[MULTIPART], &multipart(parts));
        assert_eq!((reply.status, reply.code()), (400, 4002), "{parts:?}: {reply:?}");
    }
    let late = multipart(&[("name=\"file\"", "hello"), ("name=\"request\"", "{}")]);
    let late = place.call("POST", "/execute/probe:store?name=a", &[MULTIPART], &late);
    assert_eq!((late.status, late.code()), (400, 4002), "{late:?}");
    let unknown = place.call("POST", "/execute/probe:nothing", &[MULTIPART], &multipart(&[("name=\"file\"", "hello")]));
    assert_eq!((unknown.status, unknown.reason()), (400, "unknown_tool"));
    until("nothing was stored", || place.names().is_empty());
}

#[test]
fn an_upload_may_take_long_and_its_call_may_not_wait_long() {
    let place = Place::with(&json!({ "default_timeout_seconds": 0.5 }));
    let mut stream = begin(&place.server, "/execute/probe:measure", "Content-Length: 3\r\n");
    for byte in [b"a", b"b", b"c"] {
        std::thread::sleep(Duration::from_millis(300));
        stream.write_all(byte).unwrap();
    }
    assert_eq!(receive(&mut stream).data()["bytes"], 3);
    place.server.create("w", &json!({})).data();
    std::thread::scope(|scope| {
        let busy = || {
            place.server.post("/session/list", &json!({ "worker_id": "w" })).data()["sessions"][0]["status"] == "busy"
        };
        let held = scope
            .spawn(|| place.server.execute_with("w", "probe:hold", &json!({ "ms": 2000 }), &json!({ "timeout": 10 })));
        until("the session is held", busy);
        let waits = place.call("POST", "/execute/probe:store_in?name=a", &[], b"hello");
        assert_eq!((waits.status, waits.code(), &waits.body["meta"]["executed"]), (504, 5006, &json!(false)));
        held.join().unwrap().data();
    });
}

#[test]
fn a_body_that_is_left_before_its_end_ends_its_connection() {
    let place = Place::new();
    let whole = multipart(&[("name=\"request\"", r#"{"params":{"name":"a"}}"#), ("name=\"file\"", "hello")]);
    let request = multipart(&[("name=\"request\"", "{}")]);
    // Long after the tool has let go of it, the rest is still there.
    let dismissed = multipart(&[("name=\"request\"", r#"{"params":{"ms":1500}}"#), ("name=\"file\"", "hello")]);
    for (path, body, status) in [
        ("/execute/probe:store", &*whole, 200),
        ("/execute/probe:maybe", &request, 200),
        ("/execute/probe:nothing", &whole, 400),
        ("/execute/probe:dismiss", &dismissed, 200),
    ] {
        let mut stream = place.server.connect();
        let head = "Host: 127.0.0.1\r\nX-Worker-ID: w\r\nTransfer-Encoding: chunked\r\nContent-Type";
        stream
            .write_all(
                format!("POST {path} HTTP/1.1\r\n{head}: {}\r\n\r\n{:x}\r\n", MULTIPART.1, body.len()).as_bytes(),
            )
            .unwrap();
        stream.write_all(body).unwrap();
        // The last chunk never comes; the connection is closed all the same.
        let reply = receive(&mut stream);
        assert_eq!(reply.status, status, "{path}: {reply:?}");
    }
}

#[test]
fn content_of_many_line_breaks_costs_no_more_than_other_content() {
    let place = Place::new();
    let content = "\r\n--".repeat(500_000);
    let body = multipart(&[("name=\"request\"", r#"{"params":{"name":"a"}}"#), ("name=\"file\"", &content)]);
    let before = place.peak_kib();
    assert_eq!(place.call("POST", "/execute/probe:store", &[MULTIPART], &body).data()["bytes"], 2_000_000);
    assert!(place.peak_kib() < before + 32 * 1024, "{before} KiB grew to {} KiB", place.peak_kib());
    assert!(place.get("a") == content.as_bytes());
}

#[test]
fn a_session_is_chosen_by_headers() {
    let place = Place::new();
    let required = place.call("POST", "/execute/probe:store_in?name=a", &[("X-Session-Mode", "require")], b"hello");
    assert_eq!((required.status, required.code()), (409, 4007));
    let id = place.server.create("w", &json!({})).data()["session_id"].as_str().unwrap().to_owned();
    for header in [("X-Session-ID", &*id), ("X-Session-Mode", "require"), ("X-Session", "default")] {
        let stored = place.call("POST", "/execute/probe:store_in?name=a", &[header], b"hello");
        assert_eq!((stored.data()["bytes"].as_u64(), &stored.body["meta"]["session_id"]), (Some(5), &json!(id)));
    }
    assert_eq!(place.server.execute("w", "probe:total", &json!({})).data(), 3);
    let late = place.call("POST", "/execute/probe:measure?wait_ms=5000", &[("X-Timeout-Seconds", "0.2")], b"hello");
    assert_eq!((late.status, late.code()), (504, 5006));
}
