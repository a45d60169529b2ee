//! Upload and download of a large file, over a bare actix-web handler that does the same to the same disk.
//!
//! `cargo bench -p sandbox-tests --bench bytes [-- MIB ROUNDS]`. The program starts itself once per server under test, moves
//! the file over one connection at a time, and reads the memory and the CPU time of the server's process.
#![expect(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss, reason = "a benchmark program")]

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

#[path = "process.rs"]
mod process;
#[path = "bytes_servers.rs"]
mod servers;

use process::Process;

/// What is written, or read, at once by the client.
const CLIENT_BYTES: usize = 1024 * 1024;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(mode) = args.iter().position(|arg| arg == "--serve").and_then(|at| args.get(at + 1)) {
        return servers::serve(mode);
    }
    let mut numbers = args.iter().filter_map(|arg| arg.parse::<u64>().ok());
    let mib = numbers.next().unwrap_or(1024);
    let rounds = numbers.next().unwrap_or(5);

    let folder = std::env::temp_dir().join(format!("sandbox-bench-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let _removed = Removed(&folder);
    let piece: Vec<u8> = (0..=250).cycle().take(CLIENT_BYTES).collect();
    let mut file = std::fs::File::create(folder.join("source")).unwrap();
    (0..mib).for_each(|_| file.write_all(&piece).unwrap());
    drop(file);

    let mut servers = ["bare", "ours"].map(|mode| Server::start(mode, &folder));
    for server in &mut servers {
        // Small ones first: what a server needs at all is not growth.
        server.upload(&piece, 16);
        server.download(16);
    }
    let (mut uploads, mut downloads) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for _ in 0..rounds {
        for (index, server) in servers.iter_mut().enumerate() {
            uploads[index].push(server.upload(&piece, mib));
            downloads[index].push(server.download(mib));
        }
    }
    println!("{rounds} interleaved rounds of {mib} MiB, one connection, one worker thread\n");
    println!(
        "| transfer | server | MiB/s, median (min-max) | x bare, median (goal 0.7) | CPU s | RSS growth, most (MiB, goal 8) |"
    );
    println!("|---|---|---|---|---|---|");
    for (what, figures) in [("upload", &uploads), ("download", &downloads)] {
        let bare = median(figures[0].iter().map(|one| one.rate));
        for (server, figures) in ["bare", "ours"].iter().zip(figures) {
            let rate = median(figures.iter().map(|one| one.rate));
            let least = figures.iter().map(|one| one.rate).fold(f64::MAX, f64::min);
            let most = figures.iter().map(|one| one.rate).fold(0.0, f64::max);
            let cpu = median(figures.iter().map(|one| one.cpu_seconds));
            let growth = figures.iter().map(|one| one.growth_kib).max().unwrap() as f64 / 1024.0;
            println!(
                "| {what} | {server} | {rate:.0} ({least:.0}-{most:.0}) | {:.2} | {cpu:.2} | {growth:.1} |",
                rate / bare
            );
        }
    }
}

struct Removed<'a>(&'a Path);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0);
    }
}

struct Server {
    process: Process,
    /// What it has of the last upload.
    uploaded: PathBuf,
}

/// What one transfer cost.
struct Figures {
    rate: f64,
    cpu_seconds: f64,
    growth_kib: u64,
}

impl Server {
    fn start(mode: &str, folder: &Path) -> Self {
        Self { process: Process::start(mode, &[("BENCH_FOLDER", folder.as_os_str())]), uploaded: folder.join(mode) }
    }

    fn upload(&mut self, piece: &[u8], mib: u64) -> Figures {
        let bytes = piece.len() as u64 * mib;
        // One writes in place, the other beside: each shall find as much free memory, and neither pays for the last round.
        let _ = std::fs::remove_file(&self.uploaded);
        self.measure(bytes, |stream| {
            let head = format!(
                "POST /execute/files:put HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Worker-ID: w\r\nConnection: close\r\n\
                 Content-Type: application/octet-stream\r\nContent-Length: {bytes}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).unwrap();
            (0..mib).for_each(|_| stream.write_all(piece).unwrap());
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            bytes
        })
    }

    fn download(&mut self, mib: u64) -> Figures {
        let bytes = CLIENT_BYTES as u64 * mib;
        self.measure(bytes, |stream| {
            let head = format!(
                "GET /execute/files:get HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Worker-ID: w\r\nConnection: close\r\n\
                 Range: bytes=0-{}\r\n\r\n",
                bytes - 1
            );
            stream.write_all(head.as_bytes()).unwrap();
            let (mut buffer, mut read) = (vec![0; CLIENT_BYTES], 0);
            loop {
                match stream.read(&mut buffer).unwrap() {
                    0 => return read,
                    more => read += more as u64,
                }
            }
        })
    }

    fn measure(&self, bytes: u64, transfer: impl FnOnce(&mut TcpStream) -> u64) -> Figures {
        let pid = self.process.id();
        let before = rss_kib(pid);
        let (over, cpu) = (Arc::new(AtomicBool::new(false)), cpu_seconds(pid));
        let watching = std::thread::spawn({
            let over = over.clone();
            move || {
                let mut most = 0;
                while !over.load(Ordering::Relaxed) {
                    most = most.max(rss_kib(pid));
                    std::thread::sleep(Duration::from_millis(5));
                }
                most
            }
        });
        let mut stream = TcpStream::connect(self.process.address).unwrap();
        let began = Instant::now();
        let moved = transfer(&mut stream);
        let elapsed = began.elapsed().as_secs_f64();
        assert!(moved >= bytes && moved < bytes + 10_000, "{moved} of {bytes}");
        over.store(true, Ordering::Relaxed);
        let most = watching.join().unwrap();
        Figures {
            rate: bytes as f64 / 1024.0 / 1024.0 / elapsed,
            cpu_seconds: cpu_seconds(pid) - cpu,
            growth_kib: most.saturating_sub(before),
        }
    }
}

fn rss_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // USER_HZ is 100 on Linux.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
