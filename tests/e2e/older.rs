//! The client against a server of the `/api/v1` contract that has nothing beyond it: its answers are recorded.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use sandbox_client::{
    ClientError, HttpServiceClient, Sandbox, Which,
    types::{RefreshAnswer, ShutdownRequest},
};
use serde_json::{Value, json};

/// Requests with their bodies.
type Asked = Arc<Mutex<Vec<(String, Value)>>>;

/// The recorded server, and what it was asked; it cuts the connections of requests that begin so, after they arrived.
fn recorded(cut: Option<&'static str>) -> (SocketAddr, Asked) {
    let answers: Vec<Value> = serde_json::from_str(include_str!("../fixtures/v1.json")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Asked::default();
    let seen = asked.clone();
    thread::spawn(move || {
        for client in listener.incoming() {
            answer(&client.unwrap(), &answers, cut, &seen);
        }
    });
    (address, asked)
}

fn answer(client: &TcpStream, answers: &[Value], cut: Option<&str>, asked: &Mutex<Vec<(String, Value)>>) {
    let mut reader = BufReader::new(client);
    let (mut line, mut length) = (String::new(), 0);
    reader.read_line(&mut line).unwrap();
    let request = line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        if header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    asked.lock().unwrap().push((request.clone(), serde_json::from_slice(&body).unwrap_or_default()));
    if cut.is_some_and(|cut| request.starts_with(cut)) {
        return;
    }
    let found = answers.iter().find(|one| one["request"] == *request);
    let (status, body) = match found {
        Some(one) => (one["status"].as_u64().unwrap_or(200), one["answer"].to_string()),
        None => (404, r#"{"detail":"Not Found"}"#.to_owned()),
    };
    let head = format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    (&*client).write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes()).unwrap();
}

#[tokio::test]
async fn an_older_server_is_served_by_its_own_contract() {
    let (address, asked) = recorded(None);
    let builder = Sandbox::builder().url(format!("http://{address}")).worker_id("agent").heartbeat(None);
    let sandbox = builder.warmup(["vm"]).build().unwrap();
    sandbox.start().await.unwrap();
    assert!(sandbox.get_warmup_status().await.unwrap().backends["vm"].warmed_up);
    assert_eq!(sandbox.tools().await.unwrap()[0].full_name, "vm:screenshot");
    let created = sandbox.create_session("vm").await.unwrap();
    assert_eq!(created.session_id.unwrap().as_str(), "vm_agent_001_1a2b3c4d");
    let shot: Value = sandbox.call("vm:screenshot", json!({})).await.unwrap();
    assert_eq!(shot["width"], 800);
    let batch = sandbox.execute_batch([("vm:a", json!({})), ("vm:b", json!({}))], true).await.unwrap();
    assert!(batch.success_count == 1 && batch.results[0].success && !batch.results[1].success);
    assert_eq!(sandbox.list_sessions().await.unwrap()[0].session, "default");
    assert_eq!(sandbox.status().await.unwrap().tools_available, 2);
    assert_eq!(sandbox.refresh_sessions(Which::All).await.unwrap()["vm"].status, "refreshed");
    assert_eq!(sandbox.destroy_session("vm").await.unwrap()[0].resource_type, "vm");
    let client: HttpServiceClient = sandbox.client().await.unwrap();
    assert!(client.heartbeat().await.unwrap().success && client.disconnect().await.unwrap().success);
    let request = serde_json::from_value(json!({ "worker_id": "agent" })).unwrap();
    let refreshed = client.refresh_sessions(&request).await.unwrap().data.unwrap();
    let refreshed = serde_json::from_value::<RefreshAnswer>(refreshed).unwrap();
    assert!(matches!(refreshed, RefreshAnswer::All(all) if all.refreshed_count == 1));
    assert!(matches!(client.tool("vm:nothing").await.unwrap_err(), ClientError::Protocol { status: 404, .. }));
    assert!(client.tool("vm:screenshot").await.is_ok());
    assert_eq!(client.shutdown_server(&ShutdownRequest::default()).await.unwrap().status, "success");
    // What it does not know was not sent.
    for (request, body) in asked.lock().unwrap().iter() {
        let fields = body.as_object().cloned().unwrap_or_default();
        let unknown = ["idempotency_key", "incarnation", "answered", "session_mode", "detached"];
        assert!(unknown.iter().all(|field| !fields.contains_key(*field)), "{request}: {body}");
    }
}

#[tokio::test]
async fn what_an_older_server_may_have_run_is_never_sent_again() {
    let (address, asked) = recorded(Some("POST /api/v1/execute"));
    let builder = Sandbox::builder().url(format!("http://{address}")).worker_id("agent").auto_start(false);
    let sandbox = builder.build().unwrap();
    let error = sandbox.call::<Value>("vm:screenshot", json!({})).await.unwrap_err();
    assert!(matches!(error, ClientError::Connection { sent: true, .. }), "{error}");
    let error = sandbox.execute_batch([("vm:a", json!({}))], false).await.unwrap_err();
    assert!(matches!(error, ClientError::Connection { sent: true, .. }), "{error}");
    let executes = asked.lock().unwrap().iter().filter(|(request, _)| request.contains("execute")).count();
    assert_eq!(executes, 2);
}
