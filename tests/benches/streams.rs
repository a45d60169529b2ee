//! Streams: how soon an event is there, what an open stream takes, large output, and cancelling.
//!
//! `cargo bench -p sandbox-tests --bench streams`.
#![expect(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss, reason = "a benchmark program")]

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

use sandbox_runtime::{linked::Linked, prelude::*, slice::BackendEntry};
use serde_json::{Value, json};

#[path = "client.rs"]
mod client;
#[path = "process.rs"]
mod process;

use client::{call, request};
use process::Process;

const OPEN_STREAMS: u64 = 1000;
const LARGE_BYTES: u64 = 100 << 20;

#[derive(Default)]
struct Talker;

/// Says what is asked for.
#[backend(name = "talker")]
impl Talker {
    /// Say what time it is, again and again.
    #[tool]
    async fn clock(&self, progress: &Progress, times: u64, pause_us: u64) -> Result<()> {
        for _ in 0..times {
            tokio::time::sleep(Duration::from_micros(pause_us)).await;
            progress.output("clock", format!("{}\n", now_ns()));
        }
        Ok(())
    }

    /// Write many bytes, and give way after each piece.
    #[tool]
    async fn pour(&self, progress: &Progress, bytes: u64, piece: usize) -> Result<()> {
        let text = "x".repeat(piece);
        let mut left = bytes;
        while left > 0 {
            progress.output("stdout", &text);
            left = left.saturating_sub(piece as u64);
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Wait for the token; the time when it came.
    #[tool]
    async fn until_cancelled(&self, token: &CancellationToken) -> Result<u64> {
        token.cancelled().await;
        Ok(now_ns())
    }
}

fn now_ns() -> u64 {
    u64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

fn main() {
    if std::env::args().any(|arg| arg == "--serve") {
        return serve();
    }
    println!("| figure | value | goal |\n|---|---|---|");
    latency();
    open_streams();
    for slow in [false, true] {
        pour(slow);
    }
    cancel();
}

fn serve() {
    sandbox_cli::give_memory_back();
    let config = json!({ "server": { "port": 0 }, "resources": { "talker": { "max_concurrent_calls": 2000 } } });
    process::serve(config, Linked::of([BackendEntry::of::<Talker>()], []));
}

struct Server {
    process: Process,
}

impl Server {
    fn start() -> Self {
        Self { process: Process::start("streams", &[]) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.process.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    fn stream(&self, worker: &str, action: &str, params: &Value) -> BufReader<TcpStream> {
        let body = json!({ "worker_id": worker, "action": action, "params": params, "timeout": 600 }).to_string();
        let mut stream = self.connect();
        let head = format!(
            "POST /execute HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        BufReader::with_capacity(64 * 1024, stream)
    }

    fn memory_kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
    }
}

fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[values.len() * 99 / 100], values[values.len() - 1])
}

/// From the tool's report to the reader's line.
fn latency() {
    let server = Server::start();
    let mut us = Vec::new();
    let stream = server.stream("w", "talker:clock", &json!({ "times": 3000, "pause_us": 1000 }));
    for line in stream.lines() {
        let line = line.unwrap();
        let now = now_ns();
        if line.starts_with("event: result") {
            break;
        }
        if let Some(time) = line.split("\"data\":\"").nth(1).and_then(|rest| rest.split('\\').next()) {
            us.push((now - time.parse::<u64>().unwrap()) as f64 / 1e3);
        }
    }
    assert!(us.len() == 3000);
    let (median, p99, max) = spread(us.split_off(100));
    println!("| event from `Progress` to a reader | median {median:.0}, p99 {p99:.0}, max {max:.0} us | 300 us |");
}

/// What a stream takes that says nothing.
fn open_streams() {
    let server = Server::start();
    let before = server.memory_kib("VmRSS");
    let began = Instant::now();
    let mut streams: Vec<_> = (0..OPEN_STREAMS)
        .map(|number| {
            server.stream(&format!("w{number}"), "talker:clock", &json!({ "times": 1, "pause_us": 60_000_000 }))
        })
        .collect();
    for stream in &mut streams {
        let mut line = String::new();
        while !line.starts_with("event: start") {
            line.clear();
            assert!(stream.read_line(&mut line).unwrap() > 0);
        }
    }
    let opened = began.elapsed().as_secs_f64();
    thread::sleep(Duration::from_secs(1));
    let each = (server.memory_kib("VmRSS") - before) as f64 / OPEN_STREAMS as f64;
    println!("| {OPEN_STREAMS} open streams, RSS each (opened in {opened:.2} s) | {each:.1} KiB | 20 KiB |");
}

/// Much output through one stream, to a reader that keeps up or does not.
fn pour(slow: bool) {
    let server = Server::start();
    call(
        &mut server.connect(),
        &request("/execute", br#"{"worker_id":"w","action":"talker:pour","params":{"bytes":1000000,"piece":1000}}"#),
    );
    let before = server.memory_kib("VmRSS");
    let began = Instant::now();
    let mut stream = server.stream("w", "talker:pour", &json!({ "bytes": LARGE_BYTES, "piece": 8192 }));
    let (done, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    let (bytes, gaps) = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(server.memory_kib("VmRSS"), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
        });
        if slow {
            thread::sleep(Duration::from_secs(1));
        }
        let (mut bytes, mut gaps) = (0_u64, 0_u64);
        let mut line = Vec::new();
        loop {
            line.clear();
            assert!(stream.read_until(b'\n', &mut line).unwrap() > 0);
            if line.starts_with(b"event: result") {
                break;
            }
            if line.starts_with(b"event: gap") {
                gaps += 1;
            }
            if line.starts_with(b"data: {\"stream\"") {
                bytes += 8192;
            }
        }
        done.store(true, Ordering::Relaxed);
        (bytes, gaps)
    });
    let seconds = began.elapsed().as_secs_f64();
    let above = peak.load(Ordering::Relaxed).saturating_sub(before) as f64 / 1024.0;
    let how = if slow { "a reader that sleeps for 1 s" } else { "a reader that keeps up" };
    println!(
        "| 100 MiB of output, {how}: {:.0} MiB read in {seconds:.2} s, {gaps} gaps | RSS +{above:.1} MiB | bounded |",
        bytes as f64 / f64::from(1 << 20)
    );
}

/// From sending the cancel to the tool's token.
fn cancel() {
    let server = Server::start();
    let mut ms = Vec::new();
    for number in 0..100 {
        let worker = format!("w{number}");
        let mut stream = server.stream(&worker, "talker:until_cancelled", &json!({}));
        let mut line = String::new();
        while !line.starts_with("data: ") {
            line.clear();
            stream.read_line(&mut line).unwrap();
        }
        let start: Value = serde_json::from_str(&line["data: ".len()..]).unwrap();
        thread::sleep(Duration::from_millis(2));
        let body = format!(r#"{{"worker_id":"{worker}"}}"#);
        let path = format!("/runs/{}/cancel", start["run_id"].as_str().unwrap());
        let mut connection = server.connect();
        let sent = now_ns();
        call(&mut connection, &request(&path, body.as_bytes()));
        let mut lines = stream.lines().map(Result::unwrap).skip_while(|line| !line.starts_with("event: result"));
        let end = lines.nth(1).unwrap();
        let end: Value = serde_json::from_str(&end["data: ".len()..]).unwrap();
        ms.push((end["data"].as_u64().unwrap() - sent) as f64 / 1e6);
    }
    let (median, p99, max) = spread(ms);
    println!("| cancel sent to the token in the tool | median {median:.2}, p99 {p99:.2}, max {max:.2} ms | 5 ms |");
}
