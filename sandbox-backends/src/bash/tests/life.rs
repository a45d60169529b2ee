//! What begins and ends with a sandbox, its zygote and its server.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;

#[tokio::test]
async fn close_and_drop_leave_nothing() {
    for (number, close) in [(1, true), (2, false)] {
        let pool = pool(&BashConfig::default()).await;
        let mut shell = pool.make(None).await.unwrap();
        let (marker, zygote) = (marker(number), pool.zygote_id().await);
        sh(&mut shell, &format!("setsid {marker} & disown; (setsid nohup {marker} &)")).await;
        eventually("the start of the daemons", || runs(&marker));
        if close {
            shell.sandbox.close().await.unwrap();
            assert!(!runs(&marker));
            drop(shell);
        } else {
            drop(shell);
            eventually("the end of all processes", || !runs(&marker));
        }
        assert!(zygote_runs(zygote));
        drop(pool);
        // The sandboxes are gone, and each was the last to need it.
        eventually("the end of the zygote", || !zygote_runs(zygote));
    }
}

#[tokio::test]
async fn after_a_dropped_run_the_shell_is_started_again() {
    let mut shell = start().await;
    let token = CancellationToken::new();
    let running = shell.shell.run(request("lost=1; cd /tmp; echo old; sleep 300", LONG), &token);
    assert!(tokio::time::timeout(SHORT, running).await.is_err());
    let outcome = sh(&mut shell, "echo new $lost").await;
    assert_eq!((outcome.stdout.text.as_str(), outcome.shell_restarted, outcome.state_lost), ("new\n", true, true));
    shell.sandbox.close().await.unwrap();
    // A start that is dropped midway.
    let pool = pool(&BashConfig::default()).await;
    assert!(tokio::time::timeout(Duration::ZERO, pool.make(None)).await.is_err());
}

#[tokio::test]
async fn a_zygote_that_dies_is_replaced() {
    let pool = pool(&BashConfig::default()).await;
    let mut shell = pool.make(None).await.unwrap();
    let zygote = pool.zygote_id().await;
    let id = rustix::process::Pid::from_raw(zygote.cast_signed()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
    let outcome = shell.shell.run(request("sleep 300", LONG), &CancellationToken::new()).await;
    assert!(matches!(outcome, Err(ShellError::Gone)), "{outcome:?}");
    let mut next = pool.make(None).await.unwrap();
    assert_eq!(stdout(&mut next, "echo hi").await, "hi\n");
    assert_ne!(pool.zygote_id().await, zygote);
    next.sandbox.close().await.unwrap();
    shell.sandbox.close().await.unwrap();
}

#[test]
fn a_run_works_on_any_runtime() {
    fn assert_send<T: Send>(value: T) -> T {
        value
    }
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut shell = first.block_on(start());
    let token = CancellationToken::new();
    for _ in 0..2 {
        let command = request("sleep 0.05; echo hi; sleep 0.1 &", LONG);
        let outcome = runtime().block_on(assert_send(shell.shell.run(command, &token))).unwrap();
        assert_eq!(outcome.stdout.text, "hi\n");
    }
    runtime().block_on(assert_send(shell.sandbox.close())).unwrap();
}

/// Set in a process that a test starts of this same program, which is to play a part in that test.
const PART: &str = "SANDBOX_TEST_PART";

/// This program, running just the test of this name, in a part of its own.
fn in_part(test: &str) -> [String; 3] {
    ["--exact".into(), "--nocapture".into(), format!("bash::tests::life::{test}")]
}

#[test]
fn a_killed_server_leaves_nothing() {
    if let Ok(marker) = std::env::var(PART) {
        return hold_a_shell(&marker);
    }
    let marker = marker(3);
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(in_part("a_killed_server_leaves_nothing"))
        .env(PART, &marker)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines().map_while(Result::ok);
    let zygote = lines.find_map(|line| line.split_once("held ").and_then(|(_, id)| id.trim().parse().ok())).unwrap();
    eventually("the start of the daemons", || runs(&marker));
    holder.kill().unwrap();
    holder.wait().unwrap();
    eventually("the end of all processes", || !runs(&marker) && !zygote_runs(zygote));
}

/// The server that is killed.
#[tokio::main(flavor = "current_thread")]
async fn hold_a_shell(marker: &str) {
    let pool = pool(&BashConfig::default()).await;
    let mut shell = pool.make(None).await.unwrap();
    sh(&mut shell, &format!("setsid {marker} & disown; (setsid nohup {marker} &)")).await;
    println!("held {}", pool.zygote_id().await);
    sh(&mut shell, "sleep 300").await;
}

#[tokio::test]
async fn jobs_that_never_begin_leave_no_files() {
    let mut made = start().await;
    let token = CancellationToken::new();
    // Three files each, of which there can be a thousand.
    for _ in 0..400 {
        // Given up while they are made.
        let given_up = tokio::time::timeout(Duration::ZERO, made.shell.start_job(request("true", LONG), &token)).await;
        assert!(given_up.is_err());
    }
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    assert!(made.shell.start_job(request("true", LONG), &cancelled).await.is_err());
    assert_eq!(stdout(&mut made, "echo still here").await, "still here\n");
    let (job, restarts) = made.shell.start_job(request("echo job", LONG), &CancellationToken::new()).await.unwrap();
    assert!(job.ended(LONG).await.is_some() && !restarts.restarted);
    made.sandbox.close().await.unwrap();
}

#[test]
fn a_refusal_of_user_namespaces_is_named() {
    if std::env::var_os(PART).is_some() {
        return start_without_namespaces();
    }
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" \"$@\"";
    let output = Command::new("unshare")
        .args(["-Ur", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(in_part("a_refusal_of_user_namespaces_is_named"))
        .env(PART, "")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    for expected in ["creating the namespaces failed: No space left on device", "sysctl user.max_user_namespaces"] {
        assert!(text.contains(expected), "{expected} is missing in: {text}");
    }
}

/// The server on a host that refuses user namespaces.
#[tokio::main(flavor = "current_thread")]
async fn start_without_namespaces() {
    let found = tier::find(&BashConfig::default()).await;
    if landlock_version() < 6 {
        let error = found.unwrap_err().to_string();
        assert!(error.contains("needs landlock of version 6"), "{error}");
        return println!("{error}");
    }
    let (pool, isolation) = found.unwrap();
    assert_eq!(isolation.tier, Tier::D, "{isolation:?}");
    println!("{isolation:?}");
    let mut shell = pool.make(None).await.unwrap();
    assert_eq!(stdout(&mut shell, "x=1; echo hi > f; cat f").await, "hi\n");
    shell.sandbox.close().await.unwrap();
}
