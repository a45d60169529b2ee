//! What the Rust client costs over a bare HTTP call of the same body, in CPU of the caller.
//!
//! `cargo bench -p sandbox-tests --bench caller [-- ROUNDS]`. One thread calls a tool that does nothing, 16 calls at once, by each
//! way in turn; the server is a process of its own. At the end a thousand calls at once from one client.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark program")]

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use sandbox_client::{
    HttpServiceClient, Sandbox,
    types::{ExecuteRequest, WorkerId},
};
use serde_json::{Value, json};

#[path = "process.rs"]
mod process;
#[path = "servers.rs"]
mod servers;

use process::Process;

const CALLS: u32 = 3_200;
const AT_ONCE: u32 = 16;
const WAYS: [&str; 4] = ["bare reqwest, same body", "execute_request, no retries", "execute_request", "Sandbox::call"];

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(mode) = args.iter().position(|arg| arg == "--serve").and_then(|at| args.get(at + 1)) {
        return servers::serve(mode);
    }
    let rounds = args.iter().find_map(|arg| arg.parse::<usize>().ok()).unwrap_or(15);
    let server = Process::start("stateless", &[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure(&server, rounds));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(a_thousand_at_once(&format!("http://{}", server.address)));
}

async fn measure(server: &Process, rounds: usize) {
    let url = &format!("http://{}", server.address);
    let worker = WorkerId::parse("bench-worker-0001").unwrap();
    let client = HttpServiceClient::new(url, worker.clone()).unwrap();
    let hasty = client.clone().with_retries(0);
    let sandbox = Sandbox::builder().url(url).worker_id(worker.as_str()).auto_start(false).build().unwrap();
    let params = json!({ "x": 12, "y": 34, "button": "left", "text": "hello there" });
    let request = client.request("bench:noop", &params).unwrap();
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let bare = reqwest::Client::builder().no_proxy().build().unwrap();
    // What the client sends: keys have about this length.
    let sent = ExecuteRequest {
        idempotency_key: Some("0123456789abcdef-12345".into()),
        incarnation: client.health().await.unwrap().incarnation,
        answered: vec!["0123456789abcdef-12344".into()],
        ..request.clone()
    };
    let url = format!("{url}/api/v1/execute");
    let ways = Rc::new(Ways { bare, url, sent, client, hasty, sandbox, request, params });
    let key = Rc::new(Cell::new(0_u64));
    let mut costs: [Vec<f64>; 4] = Default::default();
    let mut of_server = [0.0; 4];
    for round in 0..=rounds {
        for (way, costs) in costs.iter_mut().enumerate() {
            let (before, ticks) = (cpu(), server_ticks(server));
            // On this thread, at once: so the cost of waking up is shared, by all ways alike.
            let at_once = tokio::task::LocalSet::new();
            for _ in 0..AT_ONCE {
                let (ways, key) = (ways.clone(), key.clone());
                at_once.spawn_local(async move {
                    for _ in 0..CALLS / AT_ONCE {
                        ways.call(way, &key).await;
                    }
                });
            }
            at_once.await;
            // The first round is for connections and caches.
            if round > 0 {
                costs.push(cpu().saturating_sub(before).as_secs_f64() * 1e6 / f64::from(CALLS));
                of_server[way] += server_ticks(server) - ticks;
            }
        }
    }
    println!("{rounds} interleaved rounds of {CALLS} calls, {AT_ONCE} at once on one thread\n");
    println!(
        "| way | CPU/call, p10 (us) | median (min-max) | over bare, median (us) | goal | CPU of the server (us) |"
    );
    println!("|---|---|---|---|---|---|");
    let median = |costs: &[f64]| costs[costs.len() / 2];
    for costs in &mut costs {
        costs.sort_by(f64::total_cmp);
    }
    for ((way, all), ticks) in WAYS.iter().zip(&costs).zip(of_server) {
        let over = median(all) - median(&costs[0]);
        let goal = if over == 0.0 { "" } else { "<= +15" };
        let (p10, least, most) = (all[all.len() / 10], all[0], all[all.len() - 1]);
        // USER_HZ is 100 on Linux.
        let their_cpu = ticks * 1e4 / (f64::from(CALLS) * f64::from(u32::try_from(all.len()).unwrap()));
        let spread = format!("{:.1} ({least:.1}-{most:.1})", median(all));
        println!("| {way} | {p10:.1} | {spread} | {over:+.1} | {goal} | {their_cpu:.0} |");
    }
}

/// The ways to call, and what they need.
struct Ways {
    bare: reqwest::Client,
    url: String,
    sent: ExecuteRequest,
    client: HttpServiceClient,
    hasty: HttpServiceClient,
    sandbox: Sandbox,
    request: ExecuteRequest,
    params: Value,
}

impl Ways {
    async fn call(&self, way: usize, key: &Cell<u64>) {
        match way {
            0 => {
                key.set(key.get() + 1);
                let mut sent = self.sent.clone();
                sent.idempotency_key = Some(format!("0123456789abcdef-{:05}", key.get()));
                sent.answered = vec![format!("0123456789abcdef-{:05}", key.get() - 1)];
                let body = serde_json::to_vec(&sent).unwrap();
                let call = self.bare.post(&self.url).header("content-type", "application/json").body(body);
                let answer = call.send().await.unwrap().bytes().await.unwrap();
                assert!(answer.starts_with(b"{\"success\":true"), "{answer:?}");
            }
            1 => assert!(self.hasty.execute_request(&self.request).await.unwrap().success),
            2 => assert!(self.client.execute_request(&self.request).await.unwrap().success),
            _ => drop(self.sandbox.call::<Value>("bench:noop", &self.params).await.unwrap()),
        }
    }
}

/// CPU time of the server's process, in ticks.
fn server_ticks(server: &Process) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

async fn a_thousand_at_once(url: &str) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let sandbox = Sandbox::builder().url(url).auto_start(false).retries(0).build().unwrap();
    let begun = Instant::now();
    let calls: Vec<_> = (0..1000)
        .map(|_| {
            let sandbox = sandbox.clone();
            tokio::spawn(async move {
                sandbox
                    .call::<Value>("bench:noop", json!({ "x": 12, "y": 34, "button": "left", "text": "hello there" }))
                    .await
            })
        })
        .collect();
    let mut failed = 0;
    for call in calls {
        failed += usize::from(call.await.unwrap().is_err());
    }
    let ms = begun.elapsed().as_secs_f64() * 1e3;
    println!("\n1000 calls at once from one client: {failed} failed, {ms:.0} ms ({:.0}/s)", 1e6 / ms);
}
