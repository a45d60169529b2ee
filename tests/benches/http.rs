//! What the server costs over a bare actix-web handler that parses the same body and writes the same envelope.
//!
//! `cargo bench -p sandbox-tests --bench http [-- SECONDS_PER_ROUND ROUNDS]`. The program starts itself once per server
//! under test, drives each in turn over 32 keep-alive connections, and reads the CPU time of the server's process.
#![expect(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss, reason = "a benchmark program")]

use std::{
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
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

const CONNECTIONS: usize = 32;

/// Name, the tool it calls, the environment of its server, the CPU it may cost over bare, in microseconds.
const CASES: [(&str, &str, Option<f64>); 6] = [
    ("bare", "bench:noop", None),
    ("stateless", "bench:noop", Some(3.0)),
    ("session", "bench:touch", Some(4.0)),
    ("temporary", "bench:touch", Some(10.0)),
    ("json-log", "bench:noop", Some(8.0)),
    ("bare-again", "bench:noop", None),
];

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(mode) = args.iter().position(|arg| arg == "--serve").and_then(|at| args.get(at + 1)) {
        return servers::serve(mode);
    }
    let mut numbers = args.iter().filter_map(|arg| arg.parse::<u64>().ok());
    let round = Duration::from_secs(numbers.next().unwrap_or(2));
    let rounds = numbers.next().unwrap_or(7);

    let mut servers: Vec<Server> = CASES.iter().map(|(name, tool, _)| Server::start(name, tool)).collect();
    for server in &mut servers {
        drive(server, Duration::from_millis(500));
    }
    for _ in 0..rounds {
        for server in &mut servers {
            let (cpu, rate) = drive(server, round);
            server.cpu_us.push(cpu);
            server.rate.push(rate);
        }
    }
    println!("{rounds} interleaved rounds of {} s, {CONNECTIONS} connections, one worker thread\n", round.as_secs());
    println!(
        "| server | CPU/request, p10 (us) | median (min-max) | over bare, median (us) | goal | requests/s, median | x bare |"
    );
    println!("|---|---|---|---|---|---|---|");
    let (bare_cpu, bare_rate) = (median(&servers[0].cpu_us), median(&servers[0].rate));
    for (server, (name, _, goal)) in servers.iter().zip(CASES) {
        let (cpu, rate) = (median(&server.cpu_us), median(&server.rate));
        let sorted = sorted(&server.cpu_us);
        println!(
            "| {name} | {:.2} | {cpu:.2} ({:.2}-{:.2}) | {:+.2} | {} | {rate:.0} | {:.2} |",
            sorted[sorted.len() / 10],
            sorted[0],
            sorted[sorted.len() - 1],
            cpu - bare_cpu,
            goal.map_or_else(String::new, |goal| format!("<= +{goal}")),
            rate / bare_rate,
        );
    }
}

struct Server {
    process: Process,
    body: Vec<u8>,
    cpu_us: Vec<f64>,
    rate: Vec<f64>,
}

impl Server {
    fn start(mode: &str, tool: &str) -> Self {
        let mode = mode.trim_end_matches("-again");
        let process = Process::start(mode, &[]);
        let address = process.address;
        let worker = "bench-worker-0001";
        if mode == "session" {
            let body = format!(r#"{{"worker_id":"{worker}","resource_type":"bench"}}"#);
            let answer = call(&mut TcpStream::connect(address).unwrap(), &request("/session/create", body.as_bytes()));
            assert!(answer.contains("\"success\":true"), "{answer}");
        }
        let body = format!(
            r#"{{"worker_id":"{worker}","action":"{tool}","params":{{"x":12,"y":34,"button":"left","text":"hello there"}},"timeout":null,"trace_id":"0af7651916cd43dd8448eb211c80319c"}}"#
        );
        let body = request("/execute", body.as_bytes());
        let answer = call(&mut TcpStream::connect(address).unwrap(), &body);
        assert!(answer.contains("\"success\":true"), "{mode}: {answer}");
        Self { process, body, cpu_us: Vec::new(), rate: Vec::new() }
    }

    fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
        // USER_HZ is 100 on Linux.
        ticks / 100.0
    }
}

/// CPU microseconds per request, and requests per second.
fn drive(server: &Server, time: Duration) -> (f64, f64) {
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let threads: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (stop, done, body, address) = (stop.clone(), done.clone(), server.body.clone(), server.process.address);
            std::thread::spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.set_nodelay(true).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    call(&mut stream, &body);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let (cpu, began) = (server.cpu_seconds(), Instant::now());
    std::thread::sleep(time);
    let count = done.load(Ordering::Relaxed) as f64;
    let (cpu, elapsed) = (server.cpu_seconds() - cpu, began.elapsed().as_secs_f64());
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
    (cpu * 1e6 / count, count / elapsed)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

fn median(values: &[f64]) -> f64 {
    let values = sorted(values);
    values[values.len() / 2]
}
