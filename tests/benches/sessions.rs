//! Sessions: many at once, their memory, and the start of the server.
//!
//! `cargo bench -p sandbox-tests --bench sessions [-- ROUNDS]`.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark program")]

use std::{
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

#[path = "client.rs"]
mod client;
#[path = "process.rs"]
mod process;
#[path = "servers.rs"]
mod servers;

use client::{call, request};
use process::Process;

const WORKERS: usize = 100;
const SESSIONS: usize = 10_000;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(mode) = args.iter().position(|arg| arg == "--serve").and_then(|at| args.get(at + 1)) {
        return servers::serve(mode);
    }
    let rounds = args.iter().find_map(|arg| arg.parse::<usize>().ok()).unwrap_or(5);
    println!("| figure | median of {rounds} (min-max) | goal |");
    println!("|---|---|---|");
    storm(rounds);
    memory(rounds);
    start(rounds * 4);
}

fn row(figure: &str, unit: &str, mut values: Vec<f64>, goal: &str) {
    values.sort_by(f64::total_cmp);
    let (first, last) = (values[0], values[values.len() - 1]);
    println!("| {figure} | {:.2} ({first:.2}-{last:.2}) {unit} | {goal} |", values[values.len() / 2]);
}

/// One hundred workers create a session of 100 ms at once, while another worker calls a tool.
fn storm(rounds: usize) {
    let (mut all_s, mut p99_ms) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let server = Server::start();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                let body = server.execute("other");
                let mut stream = server.connect();
                let mut times = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    assert!(call(&mut stream, &body).contains("\"success\":true"));
                    times.push(began.elapsed().as_secs_f64() * 1e3);
                }
                times.sort_by(f64::total_cmp);
                times[times.len() * 99 / 100]
            });
            let mut streams: Vec<_> = (0..WORKERS).map(|_| server.connect()).collect();
            thread::sleep(Duration::from_millis(50));
            let began = Instant::now();
            thread::scope(|scope| {
                for (n, stream) in streams.iter_mut().enumerate() {
                    let body = server.create(&format!("w{n}"), 100);
                    scope.spawn(move || assert!(call(stream, &body).contains("\"active\"")));
                }
            });
            all_s.push(began.elapsed().as_secs_f64());
            done.store(true, Ordering::Relaxed);
            p99_ms.push(other.join().unwrap());
        });
    }
    row("100 workers create a session of 100 ms at once, all done", "s", all_s, "<= 0.25 s");
    row("another worker's no-op meanwhile, p99", "ms", p99_ms, "<= 5 ms");
}

/// Ten thousand live sessions of an empty backend, and after their end.
fn memory(rounds: usize) {
    let (mut live, mut left) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let server = Server::start();
        let mut stream = server.connect();
        // Idle, but used once: what the first request allocates is not the sessions'.
        for n in 0..200 {
            call(&mut stream, &server.create(&format!("first{n}"), 0));
            call(&mut stream, &server.disconnect(&format!("first{n}")));
        }
        thread::sleep(Duration::from_millis(1500));
        let idle = server.rss_mib();
        for n in 0..SESSIONS {
            assert!(call(&mut stream, &server.create(&format!("worker-{n}"), 0)).contains("\"active\""));
        }
        live.push(server.rss_mib() - idle);
        for n in 0..SESSIONS {
            call(&mut stream, &server.disconnect(&format!("worker-{n}")));
        }
        // The allocator gives pages back in the course of ten seconds after they were freed, and looks in between.
        thread::sleep(Duration::from_secs(25));
        left.push((server.rss_mib() - idle) / idle * 100.0);
    }
    row("10,000 live sessions of an empty backend, RSS above idle", "MiB", live, "<= 15 MiB");
    row("RSS above idle after their end", "% of idle", left, "<= 20 %");
}

/// From the start of the process to the first answer of `/health`.
fn start(rounds: usize) {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let began = Instant::now();
        let mut process = Command::new(env!("CARGO_BIN_EXE_probe-server"))
            .args(["serve", "--port", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stream = loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => break stream,
                Err(_) => thread::sleep(Duration::from_micros(500)),
            }
        };
        assert!(call(&mut stream, b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").contains("healthy"));
        times.push(began.elapsed().as_secs_f64() * 1e3);
        process.kill().unwrap();
        process.wait().unwrap();
    }
    row("`serve` answers /health after its start", "ms", times, "<= 100 ms");
}

struct Server {
    process: Process,
}

impl Server {
    fn start() -> Self {
        Self { process: Process::start("sessions", &[]) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.process.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    fn create(&self, worker: &str, initialize_ms: u64) -> Vec<u8> {
        let body = format!(
            r#"{{"worker_id":"{worker}","resource_type":"bench","session_config":{{"initialize_ms":{initialize_ms}}}}}"#
        );
        request("/session/create", body.as_bytes())
    }

    fn disconnect(&self, worker: &str) -> Vec<u8> {
        request("/worker/disconnect", format!(r#"{{"worker_id":"{worker}"}}"#).as_bytes())
    }

    fn execute(&self, worker: &str) -> Vec<u8> {
        let body = format!(
            r#"{{"worker_id":"{worker}","action":"bench:noop","params":{{"x":1,"y":2,"button":"left","text":"t"}}}}"#
        );
        request("/execute", body.as_bytes())
    }

    fn rss_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }
}
