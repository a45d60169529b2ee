//! Behaviour of the shell, seen from its interface; needs a kernel that permits user namespaces, as root or not.

use std::fs;
use std::time::{Duration, Instant};

use sandbox_runtime::prelude::CancellationToken;

mod attacks;
mod life;
mod shell;
mod walls;

use super::command::{RunOutcome, RunRequest};
use super::config::{BashConfig, Tier};
use super::error::ShellError;
use super::inside::landlock_version;
use super::pool::{Made, Pool};
use super::tier;

const LONG: Duration = Duration::from_mins(1);
const SHORT: Duration = Duration::from_millis(300);

async fn pool(config: &BashConfig) -> Pool {
    let (pool, isolation) = tier::find(config).await.unwrap();
    assert!(isolation.tier <= Tier::B, "{isolation:?}");
    pool
}

async fn start_with(config: &BashConfig) -> Made {
    pool(config).await.make(config.memory_mib).await.unwrap()
}

async fn start() -> Made {
    start_with(&BashConfig::default()).await
}

async fn sh(made: &mut Made, command: &str) -> RunOutcome {
    let outcome = sh_for(made, command, LONG).await;
    assert!(!outcome.timed_out, "{command}: {outcome:?}");
    outcome
}

/// A request with a time limit.
fn request(command: &str, timeout: Duration) -> RunRequest<'_> {
    RunRequest {
        timeout,
        deadline: tokio::time::Instant::now() + LONG,
        max_output_bytes: 65536,
        ..RunRequest::small(command)
    }
}

async fn sh_for(made: &mut Made, command: &str, timeout: Duration) -> RunOutcome {
    made.shell.run(request(command, timeout), &CancellationToken::new()).await.unwrap()
}

async fn stdout(made: &mut Made, command: &str) -> String {
    sh(made, command).await.stdout.text
}

/// The command lines of all processes that this one can see; zombies have none.
fn command_lines() -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned()).collect()
}

fn runs(marker: &str) -> bool {
    command_lines().iter().any(|line| line == marker)
}

fn zygote_runs(id: u32) -> bool {
    fs::read_to_string(format!("/proc/{id}/cmdline")).is_ok_and(|line| line.starts_with("sandbox-zygote"))
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} never happened");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A `sleep` command that nothing else on the machine runs.
fn marker(number: u32) -> String {
    format!("sleep {}.{number}", 100_000 + std::process::id())
}
