//! How fast the control port answers while a bad tool blocks every worker.
//!
//! `cargo bench -p sandbox-tests --bench control [-- ROUNDS]`. In each round every worker is blocked for 5 s; what is timed
//! is one request after the other, each on a connection of its own, as whoever looks after a stuck server would send it.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark program")]

use std::{
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

#[path = "client.rs"]
mod client;

use client::{call, request};

const WORKERS: usize = 2;
const BLOCKED: Duration = Duration::from_secs(5);
/// Less than that: nothing is timed after the first worker is free.
const TIMED: Duration = Duration::from_millis(4_300);
const GOAL_MS: f64 = 20.0;
/// More than a round gets to destroy.
const SESSIONS: usize = 2_000;

const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
const READY: &[u8] = b"GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

fn main() {
    let rounds = std::env::args().find_map(|arg| arg.parse::<usize>().ok()).unwrap_or(3);
    let server = &Server::start();
    let [mut health, mut list, mut destroy] = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        for n in 0..SESSIONS {
            assert!(server.main("/session/create", &of(n)).contains("\"success\":true"));
        }
        thread::scope(|scope| {
            // The first ones hold sessions that are destroyed below.
            let blocked: Vec<_> = (0..WORKERS).map(|n| scope.spawn(move || server.stall(n))).collect();
            let all = format!("\"blocked_threads\":{WORKERS}");
            while !server.control(READY).0.contains(&all) {
                assert!(!blocked[0].is_finished(), "one worker got both calls; start again");
            }
            let began = Instant::now();
            for n in 0..SESSIONS {
                if began.elapsed() > TIMED {
                    break;
                }
                timed(&mut health, server.control(HEALTH), "healthy");
                timed(&mut list, server.control(&request("/session/list", of(n).as_bytes())), "\"count\":1");
                timed(
                    &mut destroy,
                    server.control(&request("/session/destroy", of(n).as_bytes())),
                    "session destroyed",
                );
                // A client that asks without a pause measures itself.
                thread::sleep(Duration::from_millis(2));
            }
            assert!(server.control(READY).0.contains(&all), "a worker got loose");
        });
        for n in 0..SESSIONS {
            server.main("/worker/disconnect", &of(n));
        }
    }
    println!(
        "{WORKERS} workers, each blocked for {} s by a tool, {rounds} rounds; ms on a new connection\n",
        BLOCKED.as_secs()
    );
    println!("| control port | requests | median | p99 | max | goal |");
    println!("|---|---|---|---|---|---|");
    for (route, times) in [("GET /health", health), ("POST /session/list", list), ("POST /session/destroy", destroy)] {
        let mut times = times;
        times.sort_by(f64::total_cmp);
        let at = |hundredths: usize| times[(times.len() - 1) * hundredths / 100];
        println!("| {route} | {} | {:.2} | {:.2} | {:.2} | {GOAL_MS} |", times.len(), at(50), at(99), at(100));
    }
}

fn timed(times: &mut Vec<f64>, (answer, ms): (String, f64), expected: &str) {
    assert!(answer.contains(expected), "{answer}");
    times.push(ms);
}

/// The session of the worker with this number.
fn of(n: usize) -> String {
    format!(r#"{{"worker_id":"w{n}","resource_type":"probe"}}"#)
}

struct Server {
    process: Child,
    address: SocketAddr,
    control: SocketAddr,
}

impl Server {
    fn start() -> Self {
        let file = std::env::temp_dir().join(format!("sandbox-control-{}.json", std::process::id()));
        let config = format!(
            r#"{{"server":{{"port":0,"control_port":0,"workers":{WORKERS},"log":{{"level":"off"}}}},
                "resources":{{"probe":{{"max_sessions":{}}}}}}}"#,
            SESSIONS * 2
        );
        std::fs::write(&file, config).unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_probe-server"))
            .args(["serve", "--config"])
            .arg(&file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut address = || lines.next().unwrap().unwrap().rsplit('/').next().unwrap().parse().unwrap();
        let (address, control) = (address(), address());
        std::fs::remove_file(&file).unwrap();
        Self { process, address, control }
    }

    fn main(&self, path: &str, body: &str) -> String {
        call(&mut TcpStream::connect(self.address).unwrap(), &request(path, body.as_bytes()))
    }

    fn stall(&self, n: usize) {
        let body =
            format!(r#"{{"worker_id":"w{n}","action":"probe:stall_for","params":{{"ms":{}}}}}"#, BLOCKED.as_millis());
        assert!(self.main("/execute", &body).contains("\"meta\""));
    }

    /// The answer and the milliseconds until it was there, connecting included.
    fn control(&self, request: &[u8]) -> (String, f64) {
        let began = Instant::now();
        let answer = call(&mut TcpStream::connect(self.control).unwrap(), request);
        (answer, began.elapsed().as_secs_f64() * 1e3)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
