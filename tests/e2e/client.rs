//! The Rust client against a real server.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use sandbox_client::{
    HttpServiceClient, RunEvent,
    types::{ExecuteRequest, RunId, RunState, WorkerId},
};
use serde_json::{Value, json, value::to_raw_value};

use crate::harness::Server;

fn client(address: SocketAddr, worker: &str) -> HttpServiceClient {
    HttpServiceClient::new(format!("http://{address}"), WorkerId::parse(worker).unwrap()).unwrap()
}

fn request(client: &HttpServiceClient, action: &str, params: &Value) -> ExecuteRequest {
    let mut request = ExecuteRequest::new(client.worker().clone(), action);
    request.params = Some(to_raw_value(params).unwrap());
    request
}

/// A way to the server on which every connection breaks after some bytes; counts them.
fn breaking_proxy(server: SocketAddr) -> (SocketAddr, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let breaks = Arc::new(AtomicU32::new(0));
    let counted = breaks.clone();
    thread::spawn(move || {
        let mut random = 98_765_u64;
        for client in listener.incoming() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // The run must be known before the first break, or there is nothing to join.
            let least = if counted.load(Ordering::Relaxed) == 0 { 2000 } else { 200 };
            let left = least + usize::try_from(random >> 33).unwrap() % 6000;
            pass(&client.unwrap(), server, left);
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    (address, breaks)
}

/// Passes requests on, and so many bytes of the answers.
fn pass(client: &TcpStream, server: SocketAddr, mut left: usize) {
    let server = TcpStream::connect(server).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| std::io::copy(&mut &*client, &mut &server));
        let mut bytes = vec![0; 8192];
        while left > 0
            && let Ok(read @ 1..) = (&server).read(&mut bytes[..left.min(8192)])
        {
            // Its pause before it joins again is shortened: there will be many.
            let retry = b"retry: 1000";
            if let Some(at) = bytes[..read].windows(retry.len()).position(|window| window == retry) {
                bytes[at..at + retry.len()].copy_from_slice(b"retry: 0001");
            }
            if (&*client).write_all(&bytes[..read]).is_err() {
                break;
            }
            left -= read;
        }
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    });
}

#[tokio::test]
async fn a_stream_over_connections_that_break_loses_and_doubles_nothing() {
    let server = Server::start(&json!({ "server": { "run_buffer_kib": 16_384 }, "resources": { "probe": {} } }));
    let (address, breaks) = breaking_proxy(server.address);
    let client = client(address, "w");
    let mut stream =
        client.stream(&request(&client, "probe:talk", &json!({ "lines": 5000, "line_bytes": 40 }))).await.unwrap();
    let (mut expected, mut text, mut result) = (1, String::new(), None);
    while let Some(event) = stream.next().await.unwrap() {
        assert!(result.is_none(), "nothing comes after the end");
        assert_eq!(stream.last_event_id(), expected);
        expected += 1;
        match event {
            RunEvent::Start(start) => assert_eq!(stream.run_id(), Some(&start.run_id)),
            RunEvent::Output(output) => {
                assert_eq!(usize::try_from(output.offset).unwrap(), text.len());
                text.push_str(&output.data);
            }
            RunEvent::End(answer) => result = answer.data,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((result, text.len()), (Some(json!(200_000)), 200_000));
    assert!(text.lines().enumerate().all(|(number, line)| line.starts_with(&format!("{number:08} "))));
    assert!(breaks.load(Ordering::Relaxed) >= 50, "{breaks:?}");
}

#[tokio::test]
async fn runs_are_started_listed_waited_for_and_cancelled() {
    let server = Server::probe();
    for worker in ["w", " wörker "] {
        let client = client(server.address, worker);
        let begun = client.detach(&request(&client, "probe:hold", &json!({ "ms": 60_000 }))).await.unwrap();
        assert!(begun.detached && !begun.state.ended(), "{begun:?}");
        assert_eq!(client.runs().await.unwrap()[0].run_id, begun.run_id);
        let cancelled = client.cancel_run(&begun.run_id).await.unwrap();
        assert!(cancelled.cancelled && cancelled.run.run_id == begun.run_id, "{cancelled:?}");
        let run = client.run(&begun.run_id, Some(20.0)).await.unwrap();
        assert_eq!((run.state, run.answer.unwrap().code.number()), (RunState::Cancelled, 5020));
        assert!(!client.cancel_run(&begun.run_id).await.unwrap().cancelled, "it is over");
        let mut stream = client.follow(&begun.run_id, 1).await.unwrap();
        assert!(matches!(stream.next().await.unwrap(), Some(RunEvent::End(_))));
        assert!(stream.next().await.unwrap().is_none());
        let mut again = client.follow(&begun.run_id, stream.last_event_id()).await.unwrap();
        assert!(again.next().await.unwrap().is_none(), "nothing is left to come");
        let refused = client.run(&RunId::parse("run_../1").unwrap(), None).await.unwrap_err();
        assert_eq!(refused.code().unwrap().number(), 4014, "{refused}");
        let refused = client.stream(&request(&client, "probe:nothing", &json!({}))).await.unwrap_err();
        assert_eq!(refused.code().unwrap().number(), 4002, "{refused}");
    }
}
