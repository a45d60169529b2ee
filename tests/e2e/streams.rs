//! Streams: the events of a run while it runs, joined again, by several, by slow ones.

use std::{
    io::{Read, Write},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    events::{assert_consecutive, output},
    harness::{Server, until},
};

fn names(events: &[crate::events::Event]) -> Vec<&str> {
    events.iter().map(|event| event.name.as_str()).collect()
}

#[test]
fn a_stream_has_a_start_what_the_tool_says_and_one_end() {
    let server = Server::probe();
    let mut stream = server.stream("w", "probe:talk", &json!({ "lines": 3, "line_bytes": 10 }));
    for header in [
        "content-type: text/event-stream",
        "cache-control: no-cache, no-transform",
        "x-accel-buffering: no",
        "transfer-encoding: chunked",
    ] {
        assert!(stream.head.contains(header), "{header}: {}", stream.head);
    }
    let events = stream.rest();
    assert_eq!(stream.retry.as_deref(), Some("1000"));
    assert_eq!(names(&events), ["start", "output", "output", "output", "result"]);
    assert_consecutive(&events, 1);
    assert_eq!(output(&events, "stdout"), "00000000 \n00000001 \n00000002 \n");
    let (start, result) = (&events[0].data, &events[4].data);
    assert_eq!((&start["tool"], &result["data"], &result["success"]), (&json!("probe:talk"), &json!(30), &json!(true)));
    assert_eq!(start["run_id"], result["meta"]["run_id"]);
    assert_eq!(start["trace_id"], result["meta"]["trace_id"]);
}

#[test]
fn an_error_ends_a_stream_too() {
    let server = Server::probe();
    let events = server.stream("w", "probe:talk_and_fail", &json!({})).rest();
    assert_eq!(names(&events), ["start", "output", "error"]);
    assert_eq!((&events[1].data["stream"], &events[2].data["code"]), (&json!("stderr"), &json!(4001)));
    let events = server.stream_with("w", "probe:wait", &json!({ "ms": 20_000 }), &json!({ "timeout": 0.3 })).rest();
    assert_eq!((names(&events), &events[1].data["code"]), (vec!["start", "error"], &json!(5006)));
    let events = server.stream("w", "probe:panic", &json!({})).rest();
    assert_eq!((names(&events), &events[1].data["code"]), (vec!["start", "error"], &json!(5005)));
}

#[test]
fn what_begins_no_run_is_answered_without_a_stream() {
    let server = Server::probe();
    let accept = [("Accept", "text/event-stream"), ("Content-Type", "application/json")];
    let reply = server.raw("POST", "/execute", &accept, br#"{"worker_id":"w","action":"probe:nothing"}"#);
    assert_eq!((reply.status, reply.code()), (400, 4002));
    let reply = server.raw("POST", "/execute", &accept, br#"{"worker_id":"w"}"#);
    assert_eq!((reply.status, reply.code()), (400, 4003));
}

#[test]
fn events_come_while_the_tool_runs() {
    let server = Server::probe();
    server.create("w", &json!({})).data();
    let mut stream = server.stream("w", "probe:wait_for_token", &json!({}));
    let run = stream.started();
    stream.until_output("begun");
    server.raw("POST", &format!("/runs/{run}/cancel"), &[("X-Worker-ID", "w")], b"").data();
    let events = stream.rest();
    assert_eq!(names(&events), ["output", "result"], "the tool was told, and answered in time");
}

#[test]
fn destroy_and_shutdown_end_a_stream_with_its_error() {
    let server = Server::probe();
    server.create("w", &json!({})).data();
    let mut stream = server.stream("w", "probe:hold", &json!({ "ms": 20_000 }));
    stream.started();
    until("it runs", || {
        server.post("/status", &json!({ "worker_id": "w" })).data()["sessions"]["probe"]["status"] == "busy"
    });
    server.post("/session/destroy", &json!({ "worker_id": "w", "resource_type": "probe" })).data();
    let events = stream.rest();
    assert_eq!((names(&events), &events[0].data["code"]), (vec!["error"], &json!(5020)));

    let mut streams: Vec<_> = (0..8)
        .map(|_| server.stream_with("v", "probe:wait", &json!({ "ms": 60_000 }), &json!({ "timeout": 100 })))
        .collect();
    for stream in &mut streams {
        stream.started();
    }
    server.signal(libc::SIGTERM);
    thread::sleep(Duration::from_millis(300));
    server.signal(libc::SIGTERM);
    for mut stream in streams {
        let events = stream.rest();
        assert_eq!((names(&events), &events[0].data["code"]), (vec!["error"], &json!(5021)));
    }
}

#[test]
fn progress_is_told_and_of_what_nobody_read_the_last() {
    let server = Server::probe();
    let events = server.stream("w", "probe:steps", &json!({ "to": 3, "pause_ms": 50 })).rest();
    assert_eq!(names(&events), ["start", "progress", "progress", "progress", "result"]);
    assert_eq!(events[2].data, json!({ "done": 2, "total": 3, "message": "steps" }));
    let events = server.stream("w", "probe:steps", &json!({ "to": 100_000 })).rest();
    assert!(events.len() < 1000, "{}", events.len());
    assert_eq!(events[events.len() - 2].data["done"], 100_000);
    assert_consecutive(&events, 1);
}

#[test]
fn text_is_text_wherever_it_is_cut_and_bytes_are_bytes() {
    let server = Server::probe();
    let euro = "a€😀".as_bytes();
    let chunks: Vec<Vec<u8>> = euro.iter().map(|byte| vec![*byte]).collect();
    let events = server.stream("w", "probe:write", &json!({ "stream": "stdout", "chunks": chunks })).rest();
    assert_eq!(output(&events, "stdout"), "a€😀");
    let events =
        server.stream("w", "probe:write", &json!({ "stream": "out", "chunks": [[0xff, 0x00], [0xe2, 0x82]] })).rest();
    let data: Vec<_> = events[1..3]
        .iter()
        .map(|event| (&event.data["offset"], &event.data["data"], &event.data["encoding"]))
        .collect();
    let base64 = json!("base64");
    assert_eq!(
        data,
        [(&json!(0), &json!("/wA="), &base64), (&json!(2), &json!("4oI="), &base64)],
        "the end is not kept back"
    );
}

#[test]
fn a_cut_stream_is_joined_again_where_it_was() {
    let server = Server::probe();
    let mut stream = server.stream("w", "probe:talk", &json!({ "lines": 300, "pause_ms": 2 }));
    let run = stream.started();
    let mut events = Vec::new();
    for _ in 0..100 {
        events.push(stream.next().unwrap());
    }
    stream.cut();
    let seen = events.last().unwrap().id;
    events.extend(server.join("w", &run, seen).rest());
    assert_consecutive(&events, 2);
    assert_eq!(output(&events, "stdout").lines().count(), 300);
    let all = server.join("w", &run, 0).rest();
    assert_eq!(all[1..], events, "from the beginning, after its end too");
    let end = all.last().unwrap().id;
    let reply = server.raw(
        "GET",
        &format!("/runs/{run}/events"),
        &[("X-Worker-ID", "w"), ("Last-Event-ID", &end.to_string())],
        b"",
    );
    assert_eq!(reply.status, 204, "nothing is left to come");
    for (id, code) in [("x", 4000), (&*(end + 1).to_string(), 4000)] {
        let reply =
            server.raw("GET", &format!("/runs/{run}/events"), &[("X-Worker-ID", "w"), ("Last-Event-ID", id)], b"");
        assert_eq!((reply.code(), &reply.body["error"]["parameter"]), (code, &json!("Last-Event-ID")));
    }
}

#[test]
fn several_read_one_run() {
    let server = Server::probe();
    let mut first = server.stream("w", "probe:talk", &json!({ "lines": 200, "pause_ms": 3 }));
    let run = first.started();
    let others: Vec<_> = thread::scope(|scope| {
        let readers: Vec<_> = (0..4).map(|_| scope.spawn(|| server.join("w", &run, 0).rest())).collect();
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    let events = first.rest();
    assert_consecutive(&events, 2);
    assert!(others.iter().all(|other| other[1..] == events));
}

#[test]
fn who_leaves_may_come_back_and_who_does_not_cancels_it() {
    let server = Server::start(&json!({ "server": { "reattach_seconds": 0.6 }, "resources": { "probe": {} } }));
    server.create("w", &json!({})).data();
    let mut stream = server.stream("w", "probe:wait_for_token", &json!({}));
    let run = stream.started();
    let seen = stream.until_output("begun").id;
    stream.cut();
    thread::sleep(Duration::from_millis(200));
    let again = server.join("w", &run, seen);
    thread::sleep(Duration::from_millis(900));
    let state = || server.raw("GET", &format!("/runs/{run}"), &[("X-Worker-ID", "w")], b"").data()["state"].clone();
    assert_eq!(state(), "running", "someone listens");
    again.cut();
    until("it ended", || state() == "succeeded");
    assert_eq!(server.execute("w", "probe:total", &json!({})).data(), 1, "it was told to stop, and did");
}

#[test]
fn a_detached_stream_goes_on_without_readers() {
    let server = Server::start(&json!({ "server": { "reattach_seconds": 0 }, "resources": { "probe": {} } }));
    let mut stream =
        server.stream_with("w", "probe:talk", &json!({ "lines": 100, "pause_ms": 10 }), &json!({ "detached": true }));
    let run = stream.started();
    stream.cut();
    let events = server.join("w", &run, 0).rest();
    assert_eq!(output(&events, "stdout").lines().count(), 100);
}

#[test]
fn a_stream_is_joined_by_its_key() {
    let server = Server::probe();
    let more = json!({ "idempotency_key": "k" });
    let params = json!({ "lines": 200, "pause_ms": 3 });
    let mut first = server.stream_with("w", "probe:talk", &params, &more);
    let run = first.started();
    first.cut();
    let mut again = server.stream_with("w", "probe:talk", &params, &more);
    assert_eq!(again.started(), run);
    assert_eq!(output(&again.rest(), "stdout").lines().count(), 200);
    let late = server.stream_with("w", "probe:talk", &params, &more).rest();
    assert_eq!((late.len(), &late[0].data["run_id"]), (202, &json!(run)), "all of it, as long as it is kept");
    let plain = server.execute_with("w", "probe:talk", &params, &more);
    assert_eq!(plain.data(), &late[201].data["data"]);
}

#[test]
fn a_slow_reader_does_not_slow_the_tool_and_is_told_of_the_gap() {
    let config = json!({ "server": { "run_buffer_kib": 64 }, "resources": { "probe": {} } });
    let server = Server::start(&config);
    let mut stream = server.stream("w", "probe:talk", &json!({ "lines": 4000, "line_bytes": 8192 }));
    let run = stream.started();
    until("the tool is done", || {
        server.raw("GET", &format!("/runs/{run}"), &[("X-Worker-ID", "w")], b"").data()["state"] == "succeeded"
    });
    let events = stream.rest();
    let gaps: Vec<_> = events.iter().filter(|event| event.name == "gap").collect();
    assert!(!gaps.is_empty(), "32 MB do not fit in the buffers of a connection");
    let mut expected = 2;
    for event in &events {
        if event.name == "gap" {
            assert_eq!((&event.data["from"], &event.data["to"]), (&json!(expected), &json!(event.id)));
        } else {
            assert_eq!(event.id, expected);
        }
        if event.name == "output" {
            assert_eq!(event.data["offset"], (event.id - 2) * 8192, "offsets tell where it goes on");
        }
        expected = event.id + 1;
    }
    assert_eq!(names(&events).last(), Some(&"result"));
}

#[test]
fn a_plain_call_can_be_listened_to_from_when_someone_asks() {
    let server = Server::probe();
    thread::scope(|scope| {
        let call =
            scope.spawn(|| server.execute("w", "probe:talk", &json!({ "lines": 100, "pause_ms": 15 })).data().clone());
        let mut id = String::new();
        until("it is listed", || {
            let runs = server.raw("GET", "/runs", &[("X-Worker-ID", "w")], b"");
            id = runs.data()["runs"][0]["run_id"].as_str().unwrap_or_default().to_owned();
            !id.is_empty()
        });
        thread::sleep(Duration::from_millis(200));
        let events = server.join("w", &id, 0).rest();
        assert_eq!(names(&events)[..2], ["start", "gap"], "what nobody asked for was not kept");
        assert_eq!(events[2].id, events[1].data["to"].as_u64().unwrap() + 1);
        assert_eq!(events[2].data["offset"], (events[2].id - 2) * 16, "offsets count what was not kept");
        assert_eq!(names(&events).last(), Some(&"result"));
        assert_eq!(call.join().unwrap(), 1600);
    });
}

#[test]
fn a_batch_says_whose_events_they_are() {
    let server = Server::probe();
    let talk = json!({ "action": "probe:talk", "params": { "lines": 2 } });
    for parallel in [false, true] {
        let body = json!({ "worker_id": "w", "parallel": parallel,
            "actions": [talk, { "action": "probe:nothing" }, talk], "stop_on_error": false });
        let events = server.open("POST", "/execute/batch", &[], body.to_string().as_bytes()).rest();
        assert_consecutive(&events, 1);
        assert_eq!((names(&events)[0], &events[0].data["actions"]), ("start", &json!(3)));
        let of = |index: u64| events.iter().filter(move |event| event.data["index"] == index);
        for index in [0, 2] {
            assert_eq!(of(index).map(|event| event.name.as_str()).collect::<Vec<_>>(), ["output", "output", "item"]);
            assert_eq!(of(index).nth(1).unwrap().data["offset"], 16);
            assert_eq!(of(index).next_back().unwrap().data["answer"]["data"], 32);
        }
        assert_eq!(of(1).next_back().unwrap().data["answer"]["code"], 4002);
        let end = events.last().unwrap();
        assert_eq!((end.name.as_str(), &end.data["data"]["success_count"]), ("error", &json!(2)), "{end:?}");
        assert_eq!(events.iter().filter(|event| ["result", "error"].contains(&event.name.as_str())).count(), 1);
    }
}

#[test]
fn an_answer_larger_than_the_ring_reaches_who_keeps_up() {
    let server = Server::start(&json!({ "server": { "run_buffer_kib": 16 }, "resources": { "probe": {} } }));
    let nest = json!({ "action": "probe:nest", "params": { "action": "util:echo", "params": { "message": "x".repeat(100_000) } } });
    let wait = json!({ "action": "probe:wait", "params": { "ms": 300 } });
    let body = json!({ "worker_id": "w", "actions": [nest, wait, wait] });
    let events = server.open("POST", "/execute/batch", &[], body.to_string().as_bytes()).rest();
    assert_eq!(names(&events), ["start", "item", "item", "item", "result"]);
}

#[test]
fn a_tool_that_a_tool_calls_reports_under_its_name() {
    let server = Server::probe();
    let params = json!({ "action": "probe:talk", "params": { "lines": 1 } });
    let events = server.stream("w", "probe:nest", &params).rest();
    assert_eq!(names(&events), ["start", "output", "result"]);
    assert_eq!((&events[0].data["tool"], &events[1].data["tool"]), (&json!("probe:nest"), &json!("probe:talk")));
}

#[test]
fn a_command_is_seen_while_it_runs() {
    let server = Server::start(&json!({ "resources": { "bash": {} } }));
    let command = "echo one; sleep 0.2; echo two >&2; sleep 60";
    server.post("/session/create", &json!({ "worker_id": "w", "resource_type": "bash" })).data();
    let mut stream = server.stream("w", "bash:run", &json!({ "command": command, "timeout_ms": 5000 }));
    let run = stream.started();
    let first = [stream.next().unwrap(), stream.next().unwrap()];
    assert_eq!((output(&first, "stdout"), output(&first, "stderr")), ("one\n".into(), "two\n".into()));
    server.raw("POST", &format!("/runs/{run}/cancel"), &[("X-Worker-ID", "w")], b"").data();
    let events = stream.rest();
    assert_eq!((names(&events), &events[0].data["data"]["stdout"]), (vec!["error"], &json!("one\n")));
}

#[test]
fn a_stream_that_says_nothing_shows_that_it_lives() {
    let server = Server::probe();
    let mut stream = server.stream("w", "probe:wait", &json!({ "ms": 11_000 })).with_timeout(Duration::from_secs(20));
    let events = stream.rest();
    assert_eq!((names(&events), stream.comments.len()), (vec!["start", "result"], 1));
}

#[test]
fn without_a_listener_nothing_is_kept() {
    // With room for all of it, if it were.
    let config =
        json!({ "server": { "run_buffer_kib": 1_048_576, "run_memory_mib": 4096 }, "resources": { "probe": {} } });
    let server = Server::start(&config);
    server.execute("w", "probe:talk", &json!({ "lines": 100_000, "line_bytes": 4096 })).data();
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kib < 200_000, "400 MB went through: {peak}");
}

#[test]
fn a_thousand_cuts_lose_and_double_nothing() {
    let server = Server::start(&json!({ "server": { "run_buffer_kib": 16_384 }, "resources": { "probe": {} } }));
    let mut stream = server.stream("w", "probe:talk", &json!({ "lines": 20_000, "line_bytes": 40 }));
    let run = stream.started();
    stream.cut();
    let mut random = 12_345_u64;
    let (mut seen, mut cuts, mut text) = (1, 0, String::new());
    // Hung up after some bytes, wherever that is; what came whole is kept, as a client does it.
    loop {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bytes = 200 + usize::try_from(random >> 33).unwrap() % 4500;
        let mut connection = server.connect();
        let request = format!(
            "GET /runs/{run}/events HTTP/1.1\r\nHost: localhost\r\nX-Worker-ID: w\r\nLast-Event-ID: {seen}\r\nConnection: close\r\n\r\n"
        );
        connection.write_all(request.as_bytes()).unwrap();
        let mut raw = Vec::new();
        (&connection).take(bytes as u64).read_to_end(&mut raw).unwrap();
        drop(connection);
        cuts += 1;
        let mut ended = false;
        for event in whole_events(&raw) {
            assert_eq!(event.0, seen + 1, "the next one, after {cuts} cuts");
            seen = event.0;
            match event.1.as_str() {
                "output" => text.push_str(event.2["data"].as_str().unwrap()),
                "result" => ended = true,
                other => panic!("{other}"),
            }
        }
        if ended {
            break;
        }
    }
    assert!(cuts >= 1000, "{cuts}");
    assert_eq!(text.len(), 800_000);
    assert!(text.lines().enumerate().all(|(number, line)| line.starts_with(&format!("{number:08} "))));
}

/// Id, name and data of the events that are whole in the bytes of an answer.
fn whole_events(raw: &[u8]) -> Vec<(u64, String, Value)> {
    let Some(body) = raw.windows(4).position(|window| window == b"\r\n\r\n") else { return Vec::new() };
    let mut text = String::new();
    let mut rest = &raw[body + 4..];
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        let chunk = &rest[end + 2..];
        text.push_str(&String::from_utf8_lossy(&chunk[..length.min(chunk.len())]));
        if chunk.len() < length + 2 {
            break;
        }
        rest = &chunk[length + 2..];
    }
    let mut blocks: Vec<&str> = text.split("\n\n").collect();
    blocks.pop();
    let field = |block: &str, name: &str| {
        block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned)
    };
    blocks
        .into_iter()
        .filter_map(|block| {
            let data = serde_json::from_str(&field(block, "data")?).unwrap();
            Some((field(block, "id")?.parse().unwrap(), field(block, "event")?, data))
        })
        .collect()
}
