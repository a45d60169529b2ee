//! The shell backend: how fast a sandbox is made, handed out and used, and what it takes and leaves.
//!
//! `cargo bench -p sandbox-tests --bench bash [-- ROUNDS] [PART...]`. Beside ours, in the same run: `posix_spawn` of a plain bash, the
//! same lines in a bare bash, and, where `SWEREX_PYTHON` names a Python that has it, swe-rex's `LocalRuntime`.
#![expect(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss, reason = "a benchmark program")]

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::FileExt as _,
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

#[path = "client.rs"]
mod client;
#[path = "process.rs"]
mod process;

use client::{call, request};
use process::Process;
use sandbox_backends as _;
use sandbox_runtime::{
    executor::ToolExecutor,
    host::Host,
    linked::Linked,
    types::{CreateSession, DestroySession, ExecuteRequest, WorkerId},
};
use serde_json::{json, value::RawValue};

const SESSIONS: usize = 1000;

/// A part of the table, by name; it is told how many rounds to do.
type Part = (&'static str, fn(usize));

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.iter().any(|arg| arg == "--serve") {
        return serve(args.last().map_or("2", String::as_str));
    }
    let rounds = args.iter().find_map(|arg| arg.parse::<usize>().ok()).unwrap_or(5);
    println!("| figure | p10 | median (min-max of {rounds} rounds) | goal |");
    println!("|---|---|---|---|");
    let parts: [Part; 8] = [
        ("cold", cold),
        ("warm", warm),
        ("swerex", swerex),
        ("http", http),
        ("throughput", throughput),
        ("flood", flood),
        ("kill", kill_9),
        ("thousand", thousand),
    ];
    let named = |name: &str| args.iter().any(|arg| arg == name);
    let all = !parts.iter().any(|(name, _)| named(name));
    for (_, part) in parts.iter().filter(|(name, _)| all || named(name)) {
        part(rounds);
    }
}

/// A server of the stock backends, with so many sandboxes kept ready.
fn serve(min_idle: &str) {
    let config = json!({
        "server": { "port": 0, "workers": 2, "log": { "level": "error" } },
        "resources": { "bash": {
            "max_sessions_per_worker": 4096,
            "config": { "min_idle": min_idle.parse::<usize>().unwrap(), "max_sessions": 2000 },
        } },
    });
    process::serve(config, Linked::discover());
}

/// Times of one round, and their quantiles.
#[derive(Default)]
struct Times {
    p10: Vec<f64>,
    medians: Vec<f64>,
}

impl Times {
    fn round(&mut self, mut times: Vec<f64>) {
        times.sort_by(f64::total_cmp);
        self.p10.push(times[times.len() / 10]);
        self.medians.push(times[times.len() / 2]);
    }

    /// The least of the rounds: what the machine does when it is left alone.
    fn best(&self) -> f64 {
        self.p10.iter().copied().fold(f64::MAX, f64::min)
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn row(figure: &str, unit: &str, times: &Times, goal: &str) {
    let (least, most) = times.medians.iter().fold((f64::MAX, 0.0_f64), |(a, b), x| (a.min(*x), b.max(*x)));
    let (best, middle) = (times.best(), median(&times.medians));
    println!("| {figure} | {best:.2} {unit} | {middle:.2} ({least:.2}-{most:.2}) {unit} | {goal} |");
}

fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}

/// The runtime of hooks, in this process.
struct Ours {
    host: Host,
    executor: Arc<ToolExecutor>,
}

impl Ours {
    fn start(min_idle: usize) -> Self {
        let config = json!({ "resources": { "bash": { "config": { "min_idle": min_idle } } } });
        let host = Host::start(&serde_json::from_value(config).unwrap(), &Linked::discover()).unwrap();
        let executor = host.executor().clone();
        host.handle().block_on(executor.warmup(None)).unwrap();
        Self { host, executor }
    }

    fn create(&self, worker: &str) {
        let request = json!({ "worker_id": worker, "resource_type": "bash" });
        let request: CreateSession = serde_json::from_value(request).unwrap();
        self.host.handle().block_on(self.executor.create_session(request)).unwrap();
    }

    fn destroy(&self, worker: &str) {
        let request = json!({ "worker_id": worker, "resource_type": "bash" });
        let request: DestroySession = serde_json::from_value(request).unwrap();
        let _runtime = self.host.handle().enter();
        self.executor.destroy_session(&request).unwrap();
    }

    fn end(self) {
        self.host.handle().block_on(self.executor.shutdown(Duration::from_secs(5), true));
    }
}

/// A sandbox made from nothing, against a plain bash; both until the first answer of the shell.
fn cold(rounds: usize) {
    let ours = Ours::start(0);
    let (mut plain, mut sandboxed) = (Times::default(), Times::default());
    for _ in 0..rounds {
        let (mut plain_ms, mut ours_ms) = (Vec::new(), Vec::new());
        for _ in 0..60 {
            let began = Instant::now();
            let mut bash = Command::new("/bin/bash")
                .args(["--norc", "--noprofile"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            bash.stdin.as_mut().unwrap().write_all(b"echo ready\n").unwrap();
            bash.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
            plain_ms.push(ms(began));
            drop(bash.stdin.take());
            bash.wait().unwrap();
            let began = Instant::now();
            ours.create("cold");
            ours_ms.push(ms(began));
            ours.destroy("cold");
            // The old one dies beside it otherwise.
            thread::sleep(Duration::from_millis(40));
        }
        plain.round(plain_ms);
        sandboxed.round(ours_ms);
    }
    ours.end();
    row("plain `posix_spawn` of bash until it answers", "ms", &plain, "");
    row("cold session, until its shell answers", "ms", &sandboxed, "");
    println!(
        "| cold session over plain bash | {:.2} x | {:.2} x | <= 3 x |",
        sandboxed.best() / plain.best(),
        median(&sandboxed.medians) / median(&plain.medians)
    );
}

/// A bash without a sandbox that is told the same lines as ours, by fifos of its own: the floor.
struct Bare {
    bash: std::process::Child,
    folder: std::path::PathBuf,
    command: File,
    fifos: [File; 3],
}

impl Bare {
    fn start() -> Self {
        // In memory, as the sandbox's own.
        let folder = std::path::Path::new("/dev/shm").join(format!("sandbox-bench-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let fifos = ["o", "e", "r"].map(|name| {
            let path = folder.join(name);
            assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
            OpenOptions::new().read(true).write(true).open(path).unwrap()
        });
        let command = File::create(folder.join("c")).unwrap();
        // Away from the terminal that this program may have.
        let bash = Command::new("setsid")
            .args(["/bin/bash", "--norc", "--noprofile", "--noediting", "-i"])
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut bare = Self { bash, folder, command, fifos };
        std::fs::write(bare.folder.join("q"), "\\builtin printf '%s\\t%s\\t%s\\0' \"$1\" \"$?\" \"${PWD-}\" >|r\n")
            .unwrap();
        bare.tell("set +o history +H\n");
        bare
    }

    fn tell(&mut self, lines: &str) {
        self.bash.stdin.as_mut().unwrap().write_all(lines.as_bytes()).unwrap();
    }

    fn echo(&mut self) {
        self.command.set_len(0).unwrap();
        self.command.write_all_at(b"echo hi", 0).unwrap();
        self.tell("\\. ./c </dev/null >|o 2>|e\n\\. ./q 0123456789abcdef\n");
        let mut record = [0; 256];
        assert!(self.fifos[2].read(&mut record).unwrap() > 0);
        self.fifos[0].read_exact(&mut [0; 3]).unwrap();
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        drop(self.bash.stdin.take());
        let _ = self.bash.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// `echo hi` in a warm shell, without HTTP, against the same lines in a bare bash, and against what any call takes.
fn warm(rounds: usize) {
    let ours = Ours::start(1);
    ours.create("w");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut cat = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut bare = Bare::start();
    let [mut pipes, mut floor, mut call, mut shell] = [(); 4].map(|()| Times::default());
    for _ in 0..rounds {
        let [mut pipes_us, mut floor_us] = [(); 2].map(|()| Vec::new());
        for _ in 0..2000 {
            let began = Instant::now();
            cat.stdin.as_mut().unwrap().write_all(b"x").unwrap();
            cat.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
            pipes_us.push(ms(began) * 1e3);
        }
        for _ in 0..2000 {
            let began = Instant::now();
            bare.echo();
            floor_us.push(ms(began) * 1e3);
        }
        pipes.round(pipes_us);
        floor.round(floor_us);
        for (action, params, times) in
            [("bash:jobs", "{}", &mut call), ("bash:run", r#"{"command":"echo hi"}"#, &mut shell)]
        {
            let mut times_us = Vec::new();
            runtime.block_on(async {
                for _ in 0..2000 {
                    let mut request = ExecuteRequest::new(WorkerId::parse("w").unwrap(), action);
                    request.params = Some(RawValue::from_string(params.into()).unwrap());
                    let began = Instant::now();
                    let answer = ours.executor.execute(request, Vec::new()).await;
                    times_us.push(ms(began) * 1e3);
                    assert_eq!(answer.code.number(), 0);
                }
            });
            times.round(times_us);
        }
    }
    drop(cat.stdin.take());
    cat.wait().unwrap();
    ours.end();
    row("a byte through `cat` and back", "us", &pipes, "");
    row("the same lines in a bare bash, no sandbox, no server", "us", &floor, "");
    row("a call that asks the shell nothing (`bash:jobs`), without HTTP", "us", &call, "");
    row("warm `echo hi`, without HTTP", "us", &shell, "<= 60 us");
    println!(
        "| warm `echo hi` over the bare bash | {:.2} x | {:.2} x | |",
        shell.best() / floor.best(),
        median(&shell.medians) / median(&floor.medians)
    );
}

/// The same in swe-rex.
fn swerex(_: usize) {
    let Some(python) = std::env::var_os("SWEREX_PYTHON") else {
        return println!("| swe-rex LocalRuntime, `echo hi` | not measured: SWEREX_PYTHON is not set | | |");
    };
    let code = r"
import asyncio, time
from swerex.runtime.local import LocalRuntime
from swerex.runtime.abstract import CreateBashSessionRequest, BashAction
async def main():
    runtime = LocalRuntime()
    began = time.time()
    await runtime.create_session(CreateBashSessionRequest())
    print(f'{(time.time() - began) * 1e3:.1f}')
    times = []
    for _ in range(15):
        began = time.time()
        await runtime.run_in_session(BashAction(command='echo hi'))
        times.append((time.time() - began) * 1e3)
    times.sort()
    print(f'{times[1]:.1f} {times[len(times) // 2]:.1f}')
    await runtime.close()
asyncio.run(main())
";
    let output = Command::new(python).args(["-c", code]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let words: Vec<_> = text.split_whitespace().collect();
    println!("| swe-rex LocalRuntime, a session | | {} ms | |", words[0]);
    println!("| swe-rex LocalRuntime, `echo hi` | {} ms | {} ms | |", words[1], words[2]);
}

/// A client of a server under test.
struct Client {
    stream: TcpStream,
}

impl Client {
    fn of(server: &Process) -> Self {
        let stream = TcpStream::connect(server.address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    fn post(&mut self, path: &str, body: &serde_json::Value) -> String {
        call(&mut self.stream, &request(path, body.to_string().as_bytes()))
    }

    fn create(&mut self, worker: &str) {
        let answer = self.post("/session/create", &json!({ "worker_id": worker, "resource_type": "bash" }));
        assert!(answer.contains("\"active\""), "{answer}");
    }

    fn run(&mut self, worker: &str, command: &str) -> String {
        let params = json!({ "command": command, "max_output_bytes": 1000 });
        self.post("/execute", &json!({ "worker_id": worker, "action": "bash:run", "params": params, "timeout": 50 }))
    }
}

/// Sessions from the pool, and `echo hi`, both over HTTP.
fn http(rounds: usize) {
    let server = Process::start("8", &[]);
    let mut client = Client::of(&server);
    client.create("w");
    let (mut create, mut echo) = (Times::default(), Times::default());
    for round in 0..rounds {
        let (mut create_ms, mut echo_us) = (Vec::new(), Vec::new());
        for number in 0..40 {
            // Until the pool is full again.
            thread::sleep(Duration::from_millis(25));
            let worker = format!("p{round}-{number}");
            let began = Instant::now();
            client.create(&worker);
            create_ms.push(ms(began));
            client.post("/worker/disconnect", &json!({ "worker_id": worker }));
        }
        let body = request("/execute", br#"{"worker_id":"w","action":"bash:run","params":{"command":"echo hi"}}"#);
        for _ in 0..2000 {
            let began = Instant::now();
            assert!(call(&mut client.stream, &body).contains("\"stdout\":\"hi\\n\""));
            echo_us.push(ms(began) * 1e3);
        }
        create.round(create_ms);
        echo.round(echo_us);
    }
    row("session from the pool, over HTTP", "ms", &create, "<= 1 ms");
    row("warm `echo hi`, over HTTP", "us", &echo, "<= 200 us");
}

/// Sixteen sessions at once.
fn throughput(rounds: usize) {
    let server = Process::start("2", &[]);
    let mut rates = Times::default();
    for number in 0..16 {
        Client::of(&server).create(&format!("t{number}"));
    }
    for _ in 0..rounds {
        let began = Instant::now();
        let done: usize = thread::scope(|scope| {
            let clients: Vec<_> = (0..16)
                .map(|number| {
                    let mut client = Client::of(&server);
                    scope.spawn(move || {
                        let body = json!({ "worker_id": format!("t{number}"), "action": "bash:run", "params": { "command": "echo hi" } });
                        let body = request("/execute", body.to_string().as_bytes());
                        let mut done = 0;
                        while began.elapsed() < Duration::from_secs(2) {
                            assert!(call(&mut client.stream, &body).contains("hi"));
                            done += 1;
                        }
                        done
                    })
                })
                .collect();
            clients.into_iter().map(|client| client.join().unwrap()).sum()
        });
        let rate = done as f64 / began.elapsed().as_secs_f64();
        rates.p10.push(rate);
        rates.medians.push(rate);
    }
    let best = rates.p10.iter().copied().fold(0.0, f64::max);
    let (least, most) = rates.medians.iter().fold((f64::MAX, 0.0_f64), |(a, b), x| (a.min(*x), b.max(*x)));
    println!(
        "| commands/s of 16 sessions, over HTTP, client on the same cores | best {best:.0} | {:.0} ({least:.0}-{most:.0}) | >= 8000 |",
        median(&rates.medians)
    );
}

fn memory_kib(pid: u32, field: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// One gigabyte through one call.
fn flood(_: usize) {
    let server = Process::start("1", &[]);
    let mut client = Client::of(&server);
    client.create("f");
    client.run("f", "head -c 50M /dev/zero | tr '\\0' x");
    let before = memory_kib(server.id(), "VmRSS:");
    let began = Instant::now();
    let answer = client.run("f", "head -c 1000000000 /dev/zero | tr '\\0' x");
    let seconds = began.elapsed().as_secs_f64();
    assert!(answer.contains("\"total_bytes\":1000000000"), "{answer}");
    let grown = (memory_kib(server.id(), "VmHWM:") - before) / 1024.0;
    println!(
        "| 1 GB of output through one call, peak RSS of the server above before | | {grown:.1} MiB, in {seconds:.1} s | <= 5 MiB |"
    );
}

/// What is left of a server that was killed, and for how long.
fn kill_9(rounds: usize) {
    let mut times = Times::default();
    for _ in 0..rounds {
        let server = Process::start("2", &[]);
        let mut client = Client::of(&server);
        for number in 0..20 {
            client.create(&format!("k{number}"));
            client.run(&format!("k{number}"), "setsid sleep 1000 >/dev/null 2>&1 & sleep 1000 >/dev/null 2>&1 &");
        }
        let children = descendants(server.id());
        assert!(children.len() > 80, "{}", children.len());
        Command::new("kill").args(["-9", &server.id().to_string()]).status().unwrap();
        let began = Instant::now();
        while children.iter().any(|pid| is_alive(*pid)) {
            thread::sleep(Duration::from_micros(500));
        }
        times.p10.push(ms(began));
        times.medians.push(ms(began));
    }
    row("80 processes of 20 sessions gone after `kill -9` of the server", "ms", &times, "<= 200 ms");
}

/// A zombie is none: who reaps the zygote of a dead server is the machine's first process, in its own time.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, fields)| !fields.trim_start().starts_with('Z'))
}

fn descendants(of: u32) -> Vec<u32> {
    let mut found = vec![of];
    let mut next = 0;
    while next < found.len() {
        for task in std::fs::read_dir(format!("/proc/{}/task", found[next])).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        next += 1;
    }
    found.remove(0);
    found
}

/// A thousand sessions alive: how long their making takes, that all answer, and what they take.
fn thousand(_: usize) {
    let server = Process::start("2", &[]);
    let available = || {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap();
        let line = text.lines().find(|line| line.starts_with("MemAvailable:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap()
    };
    let mut client = Client::of(&server);
    client.create("first");
    client.run("first", "echo hi");
    thread::sleep(Duration::from_secs(1));
    let before = available();
    let began = Instant::now();
    thread::scope(|scope| {
        for lane in 0..8 {
            let mut client = Client::of(&server);
            scope.spawn(move || (0..SESSIONS / 8).for_each(|number| client.create(&format!("m{lane}-{number}"))));
        }
    });
    let seconds = began.elapsed().as_secs_f64();
    thread::sleep(Duration::from_secs(1));
    let each = (before - available()) / 1024.0 / SESSIONS as f64;
    // The first connection may have been idle for too long.
    let mut client = Client::of(&server);
    let began = Instant::now();
    for lane in 0..8 {
        for number in 0..SESSIONS / 8 {
            assert!(client.run(&format!("m{lane}-{number}"), "echo alive").contains("alive"));
        }
    }
    let answered = began.elapsed().as_secs_f64();
    println!(
        "| 1,000 sessions made, 8 clients | | {seconds:.2} s; all answer one after the other in {answered:.2} s | <= 5 s |"
    );
    println!("| memory of an idle session, all of the machine's | | {each:.2} MiB | <= 0.8 MB |");
    let began = Instant::now();
    drop(client);
    drop(server);
    println!("| the end of a server with 1,000 sessions | | {:.2} s | |", began.elapsed().as_secs_f64());
}
