//! `Sandbox` against real servers: sessions, guards, retries, streams, and the twin without `async`.

use std::{
    collections::BTreeMap,
    io::Write as _,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use sandbox_client::{
    ClientError, NewSession, RunEvent, Sandbox, Upload, Which, blocking,
    types::{RunState, SessionMode},
};
use serde_json::{Value, json};

use crate::harness::{Server, until};

fn sandbox(address: SocketAddr, worker: &str) -> Sandbox {
    let builder = Sandbox::builder().url(format!("http://{address}")).worker_id(worker).auto_start(false);
    builder.heartbeat(None).build().unwrap()
}

/// What a request meets on its way.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Passes,
    /// It arrives, and nobody hears of its answer.
    IsCutAfterDelivery,
    /// It arrives, and what is in the way says that it could not reach the server.
    IsDenied,
    /// It arrives, and only the head of its answer comes back.
    HasOnlyItsHead,
}

/// A way to a server that decides on each request to run a tool; where it leads, and how many of these it has seen.
struct Way {
    address: SocketAddr,
    to: Arc<Mutex<SocketAddr>>,
    executes: Arc<AtomicUsize>,
}

/// One request on each connection.
fn way(to: SocketAddr, fate: impl Fn(usize) -> Fate + Send + Sync + 'static) -> Way {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (to, executes) = (Arc::new(Mutex::new(to)), Arc::new(AtomicUsize::new(0)));
    let (leads, counted, fate) = (to.clone(), executes.clone(), Arc::new(fate));
    thread::spawn(move || {
        for client in listener.incoming() {
            let (leads, counted, fate) = (leads.clone(), counted.clone(), fate.clone());
            thread::spawn(move || pass(client.unwrap(), &leads, &counted, &*fate));
        }
    });
    Way { address, to, executes }
}

fn pass(mut client: TcpStream, leads: &Mutex<SocketAddr>, executes: &AtomicUsize, fate: &dyn Fn(usize) -> Fate) {
    let request = whole_request(&mut client);
    if request.is_empty() {
        return;
    }
    let is_execute = request.starts_with(b"POST /api/v1/execute");
    let fate = if is_execute { fate(executes.fetch_add(1, Ordering::SeqCst)) } else { Fate::Passes };
    let mut server = TcpStream::connect(*leads.lock().unwrap()).unwrap();
    server.write_all(&request).unwrap();
    let answer = whole_answer(&mut server);
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
    let passed = match fate {
        Fate::Passes => &answer[..],
        Fate::IsCutAfterDelivery => b"",
        Fate::IsDenied => b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        Fate::HasOnlyItsHead => &answer[..head],
    };
    let _ = client.write_all(passed);
    let _ = client.shutdown(Shutdown::Both);
}

/// A request with its body, told to be the last one of its connection.
fn whole_request(client: &mut TcpStream) -> Vec<u8> {
    let bytes = whole(client);
    let Some(at) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return Vec::new() };
    [&bytes[..at], b"\r\nConnection: close", &bytes[at..]].concat()
}

fn whole_answer(server: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(server, &mut bytes).unwrap();
    bytes
}

/// A head, and as much as it says that follows.
fn whole(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let read = std::io::Read::read(stream, &mut buffer).unwrap_or_default();
        bytes.extend_from_slice(&buffer[..read]);
        let head = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let length = head.map(|head| {
            let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: ").map(str::to_owned));
            head + 4 + length.map_or(0, |length| length.parse::<usize>().unwrap())
        });
        if read == 0 || length.is_some_and(|length| bytes.len() >= length) {
            return bytes;
        }
    }
}

#[tokio::test]
async fn a_cut_connection_neither_loses_a_call_nor_runs_it_twice() {
    let server = Server::probe();
    // Of three attempts two are cut.
    let way = way(server.address, |number| if number % 3 == 2 { Fate::Passes } else { Fate::IsCutAfterDelivery });
    let sandbox = sandbox(way.address, "w");
    sandbox.create_session("probe").await.unwrap();
    for expected in 1..=10 {
        assert_eq!(sandbox.call::<u64>("probe:add", json!({})).await.unwrap(), expected);
    }
    assert_eq!(way.executes.load(Ordering::SeqCst), 30);
    let batch = sandbox.execute_batch([("probe:add", json!({})), ("probe:add", json!({}))], false).await.unwrap();
    assert_eq!((batch.success_count, batch.results[1].data.clone()), (2, Some(json!(12))));
    // A stream that is cut before its first event finds its run again.
    let mut stream = sandbox.stream("probe:add", json!({})).await.unwrap();
    let mut result = None;
    while let Some(event) = stream.next().await.unwrap() {
        if let RunEvent::End(answer) = event {
            result = answer.data;
        }
    }
    assert_eq!(result, Some(json!(13)));
    // Without retries the call is lost, and that it may have run is said.
    let hasty = Sandbox::builder().url(format!("http://{}", way.address)).worker_id("w").auto_start(false).retries(0);
    let error = hasty.build().unwrap().call::<u64>("probe:add", json!({})).await.unwrap_err();
    assert!(matches!(error, ClientError::Connection { sent: true, .. }), "{error}");
}

/// How often a tool ran on a server, by what it logs.
fn ran(server: &Server, tool: &str) -> usize {
    let log = std::fs::read_to_string(&server.log).unwrap();
    log.lines().filter(|line| line.contains(&format!("tool=\"{tool}\"")) && line.contains("code=0")).count()
}

#[tokio::test]
async fn a_call_that_a_server_took_with_it_is_not_run_by_the_next_one() {
    for fate in [Fate::IsCutAfterDelivery, Fate::IsDenied, Fate::HasOnlyItsHead] {
        let (first, second) = (Server::probe(), Server::probe());
        let to_second = second.address;
        let way = way(first.address, move |number| if number == 1 { fate } else { Fate::Passes });
        let sandbox = sandbox(way.address, "w");
        assert_eq!(sandbox.call::<Value>("probe:free", json!({})).await.unwrap(), Value::Null);
        let moved = thread::spawn({
            let (to, executes) = (way.to.clone(), way.executes.clone());
            move || {
                until("it was delivered", || executes.load(Ordering::SeqCst) == 2);
                *to.lock().unwrap() = to_second;
            }
        });
        let request = sandbox.request("probe:wait", json!({ "ms": 100 })).unwrap();
        let error = if fate == Fate::HasOnlyItsHead {
            let mut stream = sandbox.stream_request(&request).await.unwrap();
            stream.next().await.unwrap_err()
        } else {
            sandbox.execute_request(&request).await.unwrap_err()
        };
        moved.join().unwrap();
        assert!(error.may_have_run() && error.to_string().contains("restarted"), "{error}");
        assert_eq!((ran(&first, "probe:wait"), ran(&second, "probe:wait")), (1, 0));
        // One that was not delivered is run: that the server is another one changes nothing.
        assert_eq!(sandbox.call::<Value>("probe:free", json!({})).await.unwrap(), Value::Null);
        *way.to.lock().unwrap() = first.address;
        assert_eq!(sandbox.call::<Value>("probe:free", json!({})).await.unwrap(), Value::Null);
    }
}

#[tokio::test]
async fn what_earlier_attempts_may_have_done_is_said_of_the_last_one_too() {
    let server = Server::probe();
    let sandbox = sandbox(server.address, "w");
    let calling = sandbox.clone();
    let call = tokio::spawn(async move { calling.call::<Value>("probe:wait", json!({ "ms": 20_000 })).await });
    let observer = sandbox.client().await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while observer.runs().await.unwrap().is_empty() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.signal(9);
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, ClientError::Connection { sent: true, .. }) && error.may_have_run(), "{error}");
    let error = sandbox.call::<Value>("probe:free", json!({})).await.unwrap_err();
    assert!(!error.may_have_run(), "{error}");
}

#[tokio::test]
async fn a_key_of_the_callers_is_held_to_the_start_that_it_names() {
    let server = Server::probe();
    let client = sandbox(server.address, "w").client().await.unwrap();
    let mut request = client.request("probe:free", json!({})).unwrap();
    request.idempotency_key = Some("mine".into());
    request.incarnation = Some("another".into());
    let answer = client.execute_request(&request).await.unwrap();
    assert_eq!((answer.code.number(), answer.meta.executed), (4009, false));
    assert_eq!(answer.error.unwrap().reason.as_deref(), Some("server_restarted"));
    request.incarnation = None;
    let answers = [client.execute_request(&request).await.unwrap(), client.execute_request(&request).await.unwrap()];
    assert_eq!(answers[0].meta.trace_id, answers[1].meta.trace_id, "the second is the first one's");
    assert_eq!(ran(&server, "probe:free"), 1);
    request.timeout = Some(f64::NAN);
    assert!(matches!(client.execute_request(&request).await.unwrap_err(), ClientError::Invalid(_)));
}

#[tokio::test]
async fn what_was_refused_for_now_is_asked_for_again_when_the_server_says() {
    let limits = json!({ "max_concurrent_calls": 1, "max_queued_calls": 0 });
    let server = Server::start(&json!({ "resources": { "probe": limits } }));
    let sandbox = sandbox(server.address, "w");
    let other = sandbox.clone();
    let long = tokio::spawn(async move { other.call::<Value>("probe:wait", json!({ "ms": 700 })).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = Instant::now();
    sandbox.call::<Value>("probe:wait", json!({ "ms": 1 })).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "`Retry-After` is a second");
    long.await.unwrap().unwrap();
}

#[tokio::test]
async fn answered_keys_and_plain_calls_are_not_kept() {
    let server = Server::probe();
    let sandbox = sandbox(server.address, "w");
    for _ in 0..5 {
        sandbox.call::<Value>("probe:free", json!({})).await.unwrap();
    }
    let runs = sandbox.client().await.unwrap().runs().await.unwrap();
    assert!(runs.len() <= 1, "all but the last are forgotten: {runs:?}");
    // What was detached stays.
    let client = sandbox.client().await.unwrap();
    let begun = client.detach(&client.request("probe:free", json!({})).unwrap()).await.unwrap();
    let ended = client.run(&begun.run_id, Some(20.0)).await.unwrap();
    assert_eq!(ended.state, RunState::Succeeded);
    for _ in 0..3 {
        sandbox.call::<Value>("probe:free", json!({})).await.unwrap();
    }
    assert!(client.run(&begun.run_id, None).await.unwrap().answer.is_some());
}

#[tokio::test]
async fn sessions_are_made_one_by_one_together_and_by_map() {
    let server = Server::start(&json!({ "resources": { "probe": {}, "more": { "backend": "probe" } } }));
    let sandbox = sandbox(server.address, "w");
    let one = sandbox.create_session("probe").await.unwrap();
    assert!(!one.existed() && one.session.as_deref() == Some("default"));
    let several = sandbox.create_session(["probe", "probe/second", "more"]).await.unwrap();
    assert!(several[0].existed() && several[0].session_id == one.session_id);
    assert_eq!((several[1].session.as_deref(), &*several[2].resource_type), (Some("second"), "more"));
    let map = BTreeMap::from([("probe/third", json!({ "initialize_ms": 1 }))]);
    assert_eq!(sandbox.create_session(map).await.unwrap()["probe/third"].session.as_deref(), Some("third"));
    assert_eq!(sandbox.status().await.unwrap().sessions.len(), 4);

    // All or none.
    let fails = BTreeMap::from([("more/a", json!({})), ("more/b", json!({ "fail": "not today" }))]);
    let error = sandbox.create_session(fails).await.unwrap_err();
    assert!(error.to_string().contains("not today") && !error.retryable(), "{error}");
    assert_eq!(sandbox.list_sessions().await.unwrap().len(), 4);

    assert_eq!(sandbox.call::<u64>("probe:add", json!({})).await.unwrap(), 1);
    let anew = sandbox.reinitialize("probe").await.unwrap();
    assert_ne!(anew.session_id, one.session_id);
    assert_eq!(sandbox.call::<u64>("probe:total", json!({})).await.unwrap(), 0);

    let refreshed = sandbox.refresh_sessions(Which::All).await.unwrap();
    assert_eq!(refreshed.keys().collect::<Vec<_>>(), ["more", "probe", "probe/second", "probe/third"]);
    assert!(sandbox.refresh_sessions("probe/second").await.unwrap()["probe/second"].expires_at.is_some());
    assert_eq!(sandbox.refresh_sessions("probe/no").await.unwrap_err().code().unwrap().number(), 4014);
    assert_eq!(sandbox.destroy_session(["probe/second", "more"]).await.unwrap().len(), 2);
    assert_eq!(sandbox.destroy_session("more").await.unwrap_err().code().unwrap().number(), 4014);
    assert_eq!(sandbox.destroy_session(Which::All).await.unwrap().len(), 2);
    assert!(sandbox.list_sessions().await.unwrap().is_empty());
    assert!(sandbox.tools().await.unwrap().iter().any(|tool| tool.full_name == "more:add"));
    assert!(sandbox.get_warmup_status().await.unwrap().backends["probe"].warmed_up);
    assert!(sandbox.warmup(&["probe"]).await.unwrap().results["probe"]);
    let error = sandbox.warmup(&["absent"]).await.unwrap_err();
    assert!(matches!(&error, ClientError::NotReady(why) if why.contains_key("absent")), "{error}");
}

#[tokio::test]
async fn a_guard_has_a_session_of_its_own_and_ends_it() {
    let server = Server::probe();
    let sandbox = sandbox(server.address, "w");
    let sessions = async || sandbox.list_sessions().await.unwrap().len();
    let (one, two) = (sandbox.session("probe").await.unwrap(), sandbox.session("probe").await.unwrap());
    assert_ne!(one.id(), two.id());
    assert_eq!(one.call::<u64>("add", json!({ "by": 5 })).await.unwrap(), 5);
    assert_eq!(two.call::<u64>("probe:total", json!({})).await.unwrap(), 0);
    let mut stream = one.stream("add", json!({})).await.unwrap();
    let mut last = None;
    while let Some(event) = stream.next().await.unwrap() {
        last = Some(event);
    }
    assert!(matches!(last, Some(RunEvent::End(answer)) if answer.data == Some(json!(6))));
    assert!(one.refresh().await.unwrap().is_some());
    one.close().await.unwrap();
    assert_eq!(sessions().await, 1);
    drop(two);
    let deadline = Instant::now() + Duration::from_secs(20);
    while sessions().await > 0 {
        assert!(Instant::now() < deadline, "the dropped one is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // One that is gone says so, each time, and is closed without an error.
    let gone = sandbox.session(NewSession::of("probe").ttl_seconds(0.2)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    for _ in 0..2 {
        let error = gone.call::<u64>("total", json!({})).await.unwrap_err();
        assert!(matches!(error, ClientError::SessionGone(_)) && error.reason() == Some("expired"), "{error}");
    }
    gone.close().await.unwrap();
}

#[tokio::test]
async fn a_remembered_session_that_is_gone_is_told_by_its_id_and_once_by_its_name() {
    let server = Server::probe();
    let sandbox = sandbox(server.address, "w");
    sandbox.create_session(NewSession::of("probe").ttl_seconds(0.2)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    for _ in 0..2 {
        let error = sandbox.call::<u64>("probe:add", json!({})).await.unwrap_err();
        assert_eq!(error.reason(), Some("expired"), "{error}");
    }
    let answer = sandbox.execute("probe:add", json!({})).await.unwrap();
    assert!(answer.temporary_session, "from now on there is none");
}

#[tokio::test]
async fn a_heartbeat_keeps_sessions_that_nothing_uses() {
    let server = Server::start(&json!({ "resources": { "probe": { "session_ttl": 1 } } }));
    let url = format!("http://{}", server.address);
    let builder = Sandbox::builder().url(&url).worker_id("w").auto_start(false);
    let sandbox = builder.heartbeat(Duration::from_millis(200)).build().unwrap();
    sandbox.create_session("probe").await.unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(sandbox.call::<u64>("probe:add", json!({})).await.unwrap(), 1);
    sandbox.close().await;
    assert!(matches!(sandbox.call::<u64>("probe:add", json!({})).await.unwrap_err(), ClientError::Closed));
    tokio::time::sleep(Duration::from_millis(2500)).await;
    sandbox.start().await.unwrap();
    let error = sandbox.call::<u64>("probe:add", json!({})).await.unwrap_err();
    assert_eq!(error.reason(), Some("expired"), "closed, it does not beat: {error}");
}

#[tokio::test]
async fn failures_say_what_they_are() {
    let server = Server::probe();
    let sandbox = sandbox(server.address, "w");
    let error = sandbox.call::<u64>("probe:nothing", json!({})).await.unwrap_err();
    assert!(matches!(&error, ClientError::Failed(answer) if answer.error.is_some()), "{error}");
    assert_eq!((error.code().unwrap().number(), error.retryable()), (4002, false));
    let error = sandbox.call::<String>("probe:total", json!({})).await.unwrap_err();
    assert!(error.to_string().contains("probe:total is not of the type"), "{error}");
    let mut request = sandbox.request("probe:wait", json!({ "ms": 60_000 })).unwrap();
    request.timeout = Some(0.3);
    let begun = Instant::now();
    let error = sandbox.execute_request(&request).await.unwrap_err();
    assert_eq!((error.code().unwrap().number(), error.retryable()), (5006, true), "the server gives up first");
    assert!(begun.elapsed() < Duration::from_secs(30));
    request.session_mode = SessionMode::Require;
    request.action = "probe:total".into();
    request.params = None;
    assert_eq!(sandbox.execute_request(&request).await.unwrap_err().code().unwrap().number(), 4007);
    let short = Sandbox::builder().url(format!("http://{}", server.address)).timeout(Duration::from_millis(300));
    let short = short.auto_start(false).build().unwrap();
    let error = short.call::<Value>("probe:wait", json!({ "ms": 5000 })).await.unwrap_err();
    assert_eq!(error.code().unwrap().number(), 5006, "also by the builder's limit");
    assert!(short.worker_id().as_str().starts_with("sandbox_"));
    let batch = [("probe:free", json!({})), ("probe:nothing", json!({})), ("probe:free", json!({}))];
    let batch = sandbox.execute_batch(batch, false).await.unwrap();
    assert_eq!((batch.total, batch.executed, batch.success_count), (3, 2, 1));
    for (builder, what) in [(Sandbox::builder().url("nowhere"), "URL"), (Sandbox::builder().worker_id(""), "worker id")]
    {
        let error = builder.build().unwrap_err();
        assert!(matches!(&error, ClientError::Invalid(why) if why.contains(what)), "{error}");
    }
    let nobody = Sandbox::builder().url("http://127.0.0.1:1").auto_start(false).retries(1).build().unwrap();
    let error = nobody.start().await.unwrap_err();
    assert!(matches!(error, ClientError::Connection { sent: false, .. }) && error.retryable(), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_calls_at_once_from_one_client() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let server = Server::start(&json!({ "resources": { "probe": { "max_concurrent_calls": 2000 } } }));
    // Without a second attempt.
    let url = format!("http://{}", server.address);
    let sandbox = Sandbox::builder().url(&url).auto_start(false).retries(0).build().unwrap();
    let calls: Vec<_> = (0..1000)
        .map(|_| {
            let sandbox = sandbox.clone();
            tokio::spawn(async move { sandbox.call::<Value>("probe:wait", json!({ "ms": 500 })).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[test]
fn the_twin_works_on_threads_without_a_runtime_and_within_one() {
    let server = Server::probe();
    let url = format!("http://{}", server.address);
    let work = move |worker: &str| {
        let settings = blocking::Sandbox::builder().url(&url).worker_id(worker).auto_start(false);
        let sandbox = settings.build().unwrap();
        sandbox.start().unwrap();
        sandbox.create_session("probe").unwrap();
        assert_eq!(sandbox.call::<u64>("probe:add", json!({})).unwrap(), 1);
        assert_eq!(sandbox.execute("probe:add", json!({})).unwrap().data, Some(json!(2)));
        let guard = sandbox.session("probe").unwrap();
        assert_eq!(guard.call::<u64>("add", json!({ "by": 7 })).unwrap(), 7);
        drop(guard);
        assert_eq!(sandbox.list_sessions().unwrap().len(), 1, "the drop waited");
        sandbox.session("probe").unwrap().close().unwrap();
        let events: Vec<_> = sandbox.stream("probe:add", json!({})).unwrap().map(Result::unwrap).collect();
        assert!(matches!(events.last(), Some(RunEvent::End(answer)) if answer.data == Some(json!(3))));
        let batch = sandbox.execute_batch([("probe:add", json!({}))], true).unwrap();
        assert_eq!(batch.results[0].data, Some(json!(4)));
        assert_eq!(sandbox.reinitialize(["probe"]).unwrap().len(), 1);
        assert!(sandbox.warmup::<&str>(&[]).is_ok() && sandbox.get_warmup_status().is_ok());
        assert!(sandbox.tools().is_ok() && sandbox.status().is_ok() && sandbox.refresh_sessions("probe").is_ok());
        assert_eq!(sandbox.client().unwrap().health().unwrap().status, "healthy");
        assert_eq!(sandbox.destroy_session("probe").unwrap().len(), 1);
        let refused = sandbox.shutdown_server().unwrap_err();
        assert_eq!(refused.code().unwrap().number(), 4013, "it was not asked for");
        sandbox.close();
        assert!(matches!(sandbox.tools().unwrap_err(), ClientError::Closed));
    };
    work("plain");
    thread::scope(|scope| {
        for worker in ["a", "b"] {
            let work = &work;
            scope.spawn(move || work(worker));
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { work("within") });
}

#[test]
fn a_guard_that_is_dropped_with_its_runtime_ends_its_session() {
    let server = Server::probe();
    for multi in [false, true] {
        let sandbox = sandbox(server.address, "w");
        let mut runtime = if multi {
            tokio::runtime::Builder::new_multi_thread()
        } else {
            tokio::runtime::Builder::new_current_thread()
        };
        let runtime = runtime.enable_all().build().unwrap();
        runtime.block_on(async {
            let guard = sandbox.session("probe").await.unwrap();
            guard.call::<u64>("add", json!({})).await.unwrap();
        });
        drop(runtime);
        let left = || server.post("/session/list", &json!({ "worker_id": "w" })).data()["count"] != 0;
        until("its session is destroyed", || !left());
        // One whose making nobody waits for.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let slow = NewSession::of("probe").config(json!({ "initialize_ms": 500 })).unwrap();
        let cut = runtime.block_on(async {
            sandbox.start().await.unwrap();
            tokio::time::timeout(Duration::from_millis(200), sandbox.session(slow)).await
        });
        assert!(cut.is_err());
        thread::sleep(Duration::from_millis(700));
        until("that is destroyed too", || !left());
    }
}

#[test]
fn the_twin_does_not_wait_for_connections_of_a_runtime_that_waits_for_it() {
    let server = Server::probe();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = sandbox(server.address, "w").client().await.unwrap();
        assert!(client.health().await.is_ok(), "its connection is kept");
        let begun = Instant::now();
        let twin = blocking::HttpServiceClient::of(&client).unwrap();
        assert!(twin.execute("probe:free", json!({})).unwrap().success);
        assert!(begun.elapsed() < Duration::from_secs(4));
    });
}

#[tokio::test]
async fn files_of_any_size_go_up_and_down() {
    let folder = tempfile::tempdir().unwrap();
    let env = [("PROBE_FOLDER", folder.path().to_str().unwrap())];
    let server = Server::start_with(&json!({ "resources": { "probe": {} } }), &env);
    let sandbox = sandbox(server.address, "w");
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let (from, to) = (folder.path().join("from.bin"), folder.path().join("to.bin"));
    std::fs::write(&from, &content).unwrap();
    let file = Upload::file(&from).await.unwrap();
    let answer = sandbox.upload("probe:measure", json!({ "most_pieces": null }), "file", file).await.unwrap();
    let seen = answer.data.unwrap();
    assert_eq!((&seen["bytes"], &seen["file_name"]), (&json!(12_000_000), &json!("from.bin")));
    sandbox.create_session("probe").await.unwrap();
    let params = json!({ "name": "stored.bin" });
    sandbox.upload("probe:store_in", &params, "file", Upload::bytes(content.clone())).await.unwrap();
    assert_eq!(sandbox.call::<u64>("probe:total", json!({})).await.unwrap(), 1, "on the session");
    let mut download = sandbox.download("probe:load", &params).await.unwrap();
    assert_eq!((download.content_length(), download.content_type()), (Some(12_000_000), Some("text/plain")));
    assert!(!download.next().await.unwrap().unwrap().is_empty());
    drop(download);
    let bytes = sandbox.download("probe:load", &params).await.unwrap().save(&to).await.unwrap();
    assert!(bytes == 12_000_000 && std::fs::read(&to).unwrap() == content);
    let said = sandbox.download("probe:say", json!({ "text": "hello" })).await.unwrap();
    assert_eq!(said.read_to_end(5).await.unwrap(), b"hello");
    let said = sandbox.download("probe:say", json!({ "text": "hello" })).await.unwrap();
    assert!(said.read_to_end(4).await.is_err());

    // What is cut off leaves no file.
    let cut = sandbox.download("probe:drip", json!({ "bytes": 2_000_000, "declared": 3_000_000 })).await.unwrap();
    assert!(cut.save(folder.path().join("cut")).await.is_err());
    let error = sandbox.download("probe:free", json!({})).await.unwrap_err();
    assert!(error.to_string().contains("no download"), "{error}");
    let error = sandbox.download("probe:say", json!({})).await.unwrap_err();
    assert_eq!(error.code().unwrap().number(), 4003, "{error}");
    let error =
        sandbox.upload("probe:measure", json!({ "wait_ms": "x" }), "file", Upload::bytes("x")).await.unwrap_err();
    assert_eq!(error.code().unwrap().number(), 4004, "{error}");
    assert!(Upload::file(folder.path().join("absent")).await.is_err());
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");

    let settings = Sandbox::builder().url(format!("http://{}", server.address)).auto_start(false);
    let (twin, copy) = (blocking::Builder::from(settings).build().unwrap(), folder.path().join("copy.bin"));
    twin.upload_file("probe:store", json!({ "name": "again.bin" }), "file", &from).unwrap();
    assert_eq!(twin.download_file("probe:load", json!({ "name": "again.bin" }), &copy).unwrap(), 12_000_000);
}
