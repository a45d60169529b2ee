//! Behaviour of the shell, seen from its interface; needs a kernel that permits user namespaces, as root or not.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::error::{ShellError, Step};
use super::options::{RunOutcome, RunRequest, ShellOptions};
use super::session::Shell;

const LONG: Duration = Duration::from_mins(1);
const SHORT: Duration = Duration::from_millis(300);

async fn start() -> Shell {
    Shell::start(&ShellOptions::default()).await.unwrap()
}

async fn sh(shell: &mut Shell, command: &str) -> RunOutcome {
    let outcome = sh_for(shell, command, LONG).await;
    assert!(!outcome.timed_out, "{command}: {outcome:?}");
    outcome
}

async fn sh_for(shell: &mut Shell, command: &str, timeout: Duration) -> RunOutcome {
    let request = RunRequest { command, timeout, max_output_bytes: 65536, live: None };
    shell.run(request, &CancellationToken::new()).await.unwrap()
}

async fn stdout(shell: &mut Shell, command: &str) -> String {
    sh(shell, command).await.stdout.text
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

fn launcher_runs(id: u32) -> bool {
    fs::read_to_string(format!("/proc/{id}/cmdline")).is_ok_and(|line| line.starts_with("sbx-init"))
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

#[tokio::test]
async fn state_persists() {
    let mut shell = start().await;
    sh(&mut shell, "cd /tmp; export A=1; B=(x y); f() { echo \"$A ${B[1]}\"; }; alias greet='echo hello'; umask 077")
        .await;
    let outcome = sh(&mut shell, "f; pwd; greet; umask; bash -c 'echo $A'").await;
    assert_eq!(outcome.stdout.text, "1 y\n/tmp\nhello\n0077\n1\n");
    assert_eq!((outcome.cwd.as_str(), outcome.exit_code, outcome.stderr.text.as_str()), ("/tmp", 0, ""));
    assert!(!outcome.shell_restarted && !outcome.timed_out && !outcome.cancelled);
    let odd = sh(&mut shell, "mkdir -p $'/workspace/a\\tb\\nc ä' && cd $'/workspace/a\\tb\\nc ä'").await;
    assert_eq!(odd.cwd, "/workspace/a\tb\nc ä");
    shell.close().await.unwrap();
}

#[tokio::test]
async fn exit_codes_and_streams() {
    let mut shell = start().await;
    for (command, code) in [
        ("true", 0),
        ("false", 1),
        ("(exit 42)", 42),
        ("nosuchcommand", 127),
        ("bash -c 'kill -9 $$'", 137),
        ("", 0),
        ("return 5", 5),
    ] {
        let outcome = sh(&mut shell, command).await;
        assert_eq!((outcome.exit_code, outcome.shell_restarted), (code, false), "{command}");
    }
    let outcome = sh(&mut shell, "echo out; echo err >&2; printf 'no newline'; echo direct > /dev/stderr").await;
    assert_eq!(outcome.stdout.text, "out\nno newline");
    assert_eq!(outcome.stderr.text, "err\ndirect\n");
    assert_eq!(stdout(&mut shell, "cat; read x; echo done").await, "done\n");
    assert_eq!(stdout(&mut shell, "cat <<'E'\nhere $A !!\nE").await, "here $A !!\n");
    assert_eq!(
        stdout(&mut shell, "echo '0123456789abcdef\t0\t/' > /tmp/f; cat /tmp/f > /.sbx/r; echo still here").await,
        "still here\n"
    );
    let flood = "head -c 5000000 /dev/zero > /.sbx/r; head -c 5000000 /dev/urandom > /.sbx/r; echo still here";
    assert_eq!(stdout(&mut shell, flood).await, "still here\n");
    assert_eq!(stdout(&mut shell, "echo logged > >(cat)").await, "logged\n");
    let long = "x".repeat(1_000_000);
    assert_eq!(stdout(&mut shell, &format!("v='{long}'; echo ${{#v}}")).await, "1000000\n");
    shell.close().await.unwrap();
}

#[tokio::test]
async fn errors_do_not_end_the_shell() {
    let mut shell = start().await;
    sh(&mut shell, "keep=kept").await;
    let outcome = sh(&mut shell, "echo before\necho 'unclosed").await;
    assert_ne!(outcome.exit_code, 0);
    assert!(outcome.stderr.text.contains("unexpected EOF"), "{}", outcome.stderr.text);
    for command in
        ["if true; then", "set -u; echo $unset; set +u", "echo ${unset:?message}", "break", ")", "set -u", "set +u"]
    {
        assert!(!sh(&mut shell, command).await.shell_restarted, "{command}");
    }
    for command in [
        "set -x",
        "set +x",
        "alias builtin=false printf=false",
        "IFS=0123456789",
        "set -f -C",
        "exec 2>/dev/null",
        "shopt -s nullglob",
        "PROMPT_COMMAND='echo noise'",
    ] {
        assert_eq!(sh(&mut shell, command).await.exit_code, 0, "{command}");
    }
    assert_eq!(stdout(&mut shell, "echo $keep").await, "kept\n");
    let long = "x".repeat(5 << 20);
    let request = |command| RunRequest { command, timeout: LONG, max_output_bytes: 100, live: None };
    let token = CancellationToken::new();
    assert!(matches!(shell.run(request("a\0b"), &token).await, Err(ShellError::NulInCommand { offset: 1 })));
    assert!(matches!(shell.run(request(&long), &token).await, Err(ShellError::CommandTooLong { .. })));
    assert_eq!(stdout(&mut shell, "echo $keep").await, "kept\n");
    shell.close().await.unwrap();
}

#[tokio::test]
async fn a_shell_that_ends_is_started_again() {
    let mut shell = start().await;
    sh(&mut shell, "cd /tmp; echo file > file").await;
    for (command, code, output) in [
        ("exit 3", 3, ""),
        ("set -e; false", 1, ""),
        ("exec ls", 0, "file\n"),
        ("kill -9 $$", 137, ""),
        ("exit 0", 0, ""),
    ] {
        let outcome = sh(&mut shell, command).await;
        assert_eq!(
            (outcome.exit_code, outcome.shell_restarted, outcome.stdout.text.as_str()),
            (code, true, output),
            "{command}"
        );
        let outcome = sh(&mut shell, "cat file; echo $-").await;
        assert!(
            outcome.stdout.text.starts_with("file\n") && !outcome.shell_restarted && outcome.cwd == "/tmp",
            "{command}: {outcome:?}"
        );
        assert!(
            !outcome.stdout.text.contains('e') || !outcome.stdout.text[5..].contains('e'),
            "{command}: {outcome:?}"
        );
    }
    sh(&mut shell, "mkdir gone; cd gone").await;
    sh(&mut shell, "rmdir /tmp/gone; exit 0").await;
    assert_eq!(stdout(&mut shell, "pwd").await, "/workspace\n");
    // Ends between two calls.
    assert!(!sh(&mut shell, "pid=$$; (sleep 0.1; kill -9 $pid) &").await.shell_restarted);
    tokio::time::sleep(SHORT).await;
    let outcome = sh(&mut shell, "sleep 0.2; echo alive").await;
    // The signal comes before this command, or, on a slow machine, during it.
    assert!(outcome.shell_restarted && (outcome.exit_code == 137 || outcome.stdout.text == "alive\n"), "{outcome:?}");
    shell.close().await.unwrap();
}

#[tokio::test]
async fn a_timeout_keeps_the_state() {
    let mut shell = start().await;
    sh(&mut shell, "keep=kept; cd /tmp").await;
    for command in [
        "echo partial; sleep 300",
        "echo partial; while :; do :; done",
        "echo partial; x=$(sleep 300)",
        "echo partial; sleep 300; sleep 300",
        "echo partial; for i in 1 2 3; do sleep 300; done",
        "echo partial; sleep 300 | cat | cat",
        "f() { sleep 300 || sleep 300; }; echo partial; f; f",
        "echo partial; bash -c 'sleep 300; sleep 300'",
        "echo partial; kill -STOP $BASHPID; :",
    ] {
        let outcome = sh_for(&mut shell, command, SHORT).await;
        assert!(outcome.timed_out && !outcome.cancelled && !outcome.shell_restarted, "{command}: {outcome:?}");
        assert_eq!(outcome.stdout.text, "partial\n", "{command}");
        if !command.contains("STOP") {
            assert_eq!(outcome.exit_code, 130, "{command}");
        }
        assert_eq!(stdout(&mut shell, "echo $keep; pwd").await, "kept\n/tmp\n", "{command}");
    }
    shell.close().await.unwrap();
}

#[tokio::test]
async fn commands_that_ignore_the_interrupt_are_killed() {
    let mut shell = start().await;
    sh(&mut shell, "keep=kept; cd /tmp").await;
    let outcome = sh_for(&mut shell, "trap '' INT; sleep 300", SHORT).await;
    assert_eq!((outcome.exit_code, outcome.timed_out, outcome.shell_restarted), (137, true, false));
    assert_eq!(stdout(&mut shell, "echo $keep; trap - INT").await, "kept\n");
    for command in [
        "PROMPT_COMMAND='cat >/dev/null'",
        "PROMPT_COMMAND='sleep 300'",
        "trap '' INT; while :; do :; done",
        "trap '' INT; while :; do sleep 300; done",
    ] {
        let outcome = sh_for(&mut shell, command, SHORT).await;
        assert!(
            outcome.timed_out && (outcome.shell_restarted || command.starts_with("PROMPT")),
            "{command}: {outcome:?}"
        );
        sh_for(&mut shell, "PROMPT_COMMAND=", SHORT).await;
        assert_eq!(stdout(&mut shell, "pwd; jobs").await, "/tmp\n", "{command}");
    }
    shell.close().await.unwrap();
}

#[tokio::test]
async fn cancellation_ends_the_command() {
    let mut shell = start().await;
    let token = CancellationToken::new();
    let trigger = token.clone();
    sh(&mut shell, "keep=kept").await;
    let request = RunRequest { command: "echo first; sleep 300", timeout: LONG, max_output_bytes: 100, live: None };
    let (outcome, ()) = tokio::join!(shell.run(request, &token), async move {
        tokio::time::sleep(SHORT).await;
        trigger.cancel();
    });
    let outcome = outcome.unwrap();
    assert_eq!((outcome.exit_code, outcome.cancelled, outcome.timed_out), (130, true, false));
    assert_eq!(outcome.stdout.text, "first\n");
    // Cancelled before it began.
    assert!(shell.run(RunRequest { command: "sleep 300", ..request }, &token).await.unwrap().cancelled);
    assert_eq!(stdout(&mut shell, "echo $keep").await, "kept\n");
    shell.close().await.unwrap();
}

#[tokio::test]
async fn background_jobs_neither_hold_the_call_nor_speak_later() {
    let mut shell = start().await;
    let command = "(until [ -e /tmp/go ]; do sleep 0.01; done; echo late; echo late >&2; head -c 1000000 /dev/zero; touch /tmp/done) & echo now";
    assert_eq!(stdout(&mut shell, command).await, "now\n");
    for _ in 0..3 {
        let outcome = sh(&mut shell, "sleep 300 & echo again").await;
        assert_eq!((outcome.stdout.text.as_str(), outcome.timed_out), ("again\n", false));
    }
    let mut outcome = sh(&mut shell, "touch /tmp/go; until [ -e /tmp/done ]; do sleep 0.01; done; echo mine").await;
    // Only bash's own notice that the job is done.
    assert!(outcome.stdout.text == "mine\n" && !outcome.stderr.text.lines().any(|line| line == "late"), "{outcome:?}");
    outcome = sh(&mut shell, "jobs -r | wc -l; exec 7>&1; yes & echo $?").await;
    assert!(outcome.stdout.text.starts_with("3\n"), "{outcome:?}");
    assert_eq!(stdout(&mut shell, "echo lost >&7; echo kept").await, "kept\n");
    shell.close().await.unwrap();
}

#[tokio::test]
async fn output_is_bounded() {
    fn resident_kib() -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap()
    }
    let mut shell = start().await;
    let before = resident_kib();
    let command = "echo first; head -c 100000000 /dev/zero | tr '\\0' x; echo; echo last; head -c 1000 /dev/zero >&2";
    let outcome = sh(&mut shell, command).await;
    assert!(resident_kib() < before + 60_000);
    assert_eq!((outcome.stdout.total_bytes, outcome.stdout.truncated), (100_000_012, true));
    assert!(
        outcome.stdout.text.len() <= 65536
            && outcome.stdout.text.starts_with("first\nxxx")
            && outcome.stdout.text.ends_with("xxx\nlast\n")
    );
    assert_eq!((outcome.stderr.total_bytes, outcome.stderr.truncated), (1000, false));
    shell.close().await.unwrap();
}

#[tokio::test]
async fn the_host_is_hidden() {
    let mut shell = start().await;
    assert_eq!(stdout(&mut shell, "whoami; hostname; id -u").await, "sandbox\nsandbox\n1000\n");
    let root = stdout(&mut shell, "echo /*").await;
    for entry in root.split_whitespace() {
        assert!(
            "/bin /dev /etc /lib /lib32 /lib64 /libx32 /proc /run /sbin /tmp /usr /var /workspace".contains(entry),
            "{entry}"
        );
    }
    let absent =
        "for f in /etc/shadow /root /home /sys /boot /opt /srv /mnt /var/log /etc/ssh; do [ -e $f ] && echo $f; done";
    assert_eq!(stdout(&mut shell, absent).await, "");
    assert_eq!(stdout(&mut shell, "ls -d /proc/[0-9]* | wc -l; cat /proc/cmdline").await, "4\n");
    assert_eq!(
        stdout(&mut shell, "tail -n +3 /proc/net/dev | wc -l; tail -n +2 /proc/net/route | wc -l").await,
        "1\n0\n"
    );
    for file in ["environ", "mem", "maps", "fd/", "root/", "cwd/"] {
        assert_ne!(
            sh(&mut shell, &format!("ls -d /proc/1/{file} && cat /proc/1/{file} && ls /proc/1/{file}")).await.exit_code,
            0,
            "{file}"
        );
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let outcome = sh(&mut shell, &format!("(exec 3<>/dev/tcp/127.0.0.1/{port})")).await;
    // Refused by the sandbox's own loopback interface, which is therefore up.
    assert!(outcome.exit_code != 0 && outcome.stderr.text.contains("Connection refused"), "{outcome:?}");
    let outcome = sh(&mut shell, "(exec 3<>/dev/tcp/169.254.169.254/80)").await;
    assert!(outcome.exit_code != 0 && outcome.stderr.text.contains("unreachable"), "{outcome:?}");
    shell.close().await.unwrap();
}

#[tokio::test]
async fn nothing_of_the_server_is_inherited() {
    let options = ShellOptions {
        env: [("GIVEN".to_owned(), "a b\n'c'".to_owned())].into(),
        cwd: Some("/tmp".into()),
        ..Default::default()
    };
    let mut shell = Shell::start(&options).await.unwrap();
    assert_eq!(stdout(&mut shell, "pwd; echo \"$GIVEN\"").await, "/tmp\na b\n'c'\n");
    let names = stdout(&mut shell, "compgen -e | sort | tr '\\n' ' '").await;
    assert_eq!(
        names,
        "GIVEN HOME LANG LOGNAME OLDPWD PATH PWD SHELL SHLVL TERM TMPDIR USER _ "
            .replace("OLDPWD ", if names.contains("OLDPWD") { "OLDPWD " } else { "" })
            .replace(" _ ", if names.ends_with("_ ") { " _ " } else { " " })
    );
    assert_eq!(stdout(&mut shell, "bash -c 'ls /proc/$$/fd; :'").await, "0\n1\n2\n");
    assert_eq!(
        stdout(
            &mut shell,
            "grep -E 'CapPrm|CapEff|CapBnd|NoNewPrivs|Seccomp:|SigIgn' /proc/self/status | tr -d '\\t\\n'"
        )
        .await,
        "SigIgn:0000000000000000CapPrm:0000000000000000CapEff:0000000000000000CapBnd:0000000000000000NoNewPrivs:1Seccomp:2"
    );
    shell.close().await.unwrap();
    let options = ShellOptions { cwd: Some("/nonexistent".into()), ..Default::default() };
    let error = Shell::start(&options).await.unwrap_err();
    assert!(matches!(error, ShellError::Isolation { step: Step::WorkingDirectory, .. }), "{error}");
    for options in [
        ShellOptions { cwd: Some("relative".into()), ..Default::default() },
        ShellOptions { env: [("A=B".to_owned(), String::new())].into(), ..Default::default() },
        ShellOptions { env: [("A".to_owned(), "x".repeat(200_000))].into(), ..Default::default() },
        ShellOptions { pids: 0, ..Default::default() },
    ] {
        assert!(matches!(Shell::start(&options).await, Err(ShellError::InvalidOption { .. })));
    }
}

#[tokio::test]
async fn the_sandbox_cannot_be_left_or_changed() {
    let mut shell = start().await;
    for command in [
        "touch /x",
        "touch /usr/x",
        "touch /etc/x",
        "echo x >> /etc/passwd",
        "touch /dev/x",
        "mkdir /proc/x",
        "mount -t tmpfs x /tmp",
        "mount -o remount,rw /",
        "umount /proc",
        "unshare -U true",
        "unshare -m true",
        "unshare -n true",
        "chroot / true",
        "mknod /tmp/null c 1 3",
        "su -c true",
        "renice -5 $$",
        "echo 1 > /proc/sys/kernel/core_pattern",
        "ulimit -Hn 1000000",
        "setpriv --reuid 0 true",
        "dmesg",
    ] {
        let outcome = sh(&mut shell, &format!("({command})")).await;
        assert_ne!(outcome.exit_code, 0, "{command}: {outcome:?}");
    }
    assert_eq!(
        stdout(&mut shell, "{ kill -9 1; kill -STOP 1; } 2>/dev/null; sleep 0.1; echo alive; ulimit -c").await,
        "alive\n0\n"
    );
    // ptrace; vsock, raw and packet sockets; io_uring; an x32 call.
    let calls: &[(&str, &str)] = if cfg!(target_arch = "x86_64") {
        &[
            ("101,0,0,0,0", "EPERM"),
            ("41,40,1,0", "EPERM"),
            ("41,2,3,1", "EPERM"),
            ("41,17,3,0", "EPERM"),
            ("425,1,0", "ENOSYS"),
            ("0x40000027", "ENOSYS"),
            ("435,0,0", "ENOSYS"),
            ("56,0x10000000|17,0,0,0,0", "EPERM"),
        ]
    } else {
        &[("117,0,0,0,0", "EPERM"), ("198,40,1,0", "EPERM"), ("425,1,0", "ENOSYS")]
    };
    if sh(&mut shell, "perl -MErrno -e 1").await.exit_code == 0 {
        for (call, error) in calls {
            let outcome = sh(
                &mut shell,
                &format!("perl -MErrno -e 'exit(syscall({call})==-1 && $!{{{error}}} ? 0 : print \"$!\")'"),
            )
            .await;
            assert_eq!(outcome.exit_code, 0, "{call}: {outcome:?}");
        }
    }
    shell.close().await.unwrap();
}

#[tokio::test]
async fn resources_are_limited() {
    let options = ShellOptions { workspace_mib: 8, tmp_mib: 4, pids: 50, memory_mib: Some(256), ..Default::default() };
    let mut shell = Shell::start(&options).await.unwrap();
    let outcome =
        sh(&mut shell, "head -c 20000000 /dev/zero > /workspace/f; stat -c %s /workspace/f; rm /workspace/f").await;
    assert_eq!(outcome.stdout.text, "8388608\n");
    let outcome = sh(&mut shell, "head -c 20000000 /dev/zero > /tmp/f; stat -c %s /tmp/f; rm /tmp/f").await;
    assert_eq!(outcome.stdout.text, "4194304\n");
    assert_eq!(sh(&mut shell, "dd if=/dev/zero of=/dev/null bs=1G count=1").await.exit_code, 1);
    let outcome = sh_for(&mut shell, "b() { b | b & }; b; sleep 300", Duration::from_secs(1)).await;
    assert!(outcome.timed_out || outcome.exit_code != 0, "{outcome:?}");
    let outcome = sh(&mut shell, "kill -9 -1; echo alive").await;
    assert!(outcome.stdout.text == "alive\n" || outcome.shell_restarted, "{outcome:?}");
    shell.close().await.unwrap();
}

#[tokio::test]
async fn close_and_drop_leave_nothing() {
    for (number, close) in [(1, true), (2, false)] {
        let mut shell = start().await;
        let (marker, launcher) = (marker(number), shell.launcher_id());
        sh(&mut shell, &format!("setsid {marker} & disown; (setsid nohup {marker} &)")).await;
        eventually("the start of the daemons", || runs(&marker));
        assert!(launcher_runs(launcher));
        if close {
            shell.close().await.unwrap();
            assert!(!runs(&marker) && !fs::exists(format!("/proc/{launcher}")).unwrap());
        } else {
            drop(shell);
            eventually("the end of all processes", || {
                !runs(&marker) && !fs::exists(format!("/proc/{launcher}")).unwrap()
            });
        }
    }
}

#[tokio::test]
async fn a_dropped_run_makes_the_shell_unusable_but_closable() {
    let mut shell = start().await;
    let request = RunRequest { command: "sleep 300", timeout: LONG, max_output_bytes: 100, live: None };
    let token = CancellationToken::new();
    assert!(tokio::time::timeout(SHORT, shell.run(request, &token)).await.is_err());
    assert!(matches!(shell.run(request, &token).await, Err(ShellError::Abandoned)));
    let launcher = shell.launcher_id();
    shell.close().await.unwrap();
    assert!(!fs::exists(format!("/proc/{launcher}")).unwrap());
    // A start that is dropped midway.
    assert!(tokio::time::timeout(Duration::ZERO, Shell::start(&ShellOptions::default())).await.is_err());
}

#[test]
fn a_run_works_on_any_runtime() {
    fn assert_send<T: Send>(value: T) -> T {
        value
    }
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let mut shell = first.block_on(start());
    let token = CancellationToken::new();
    let request = RunRequest { command: "sleep 0.05; echo hi", timeout: LONG, max_output_bytes: 100, live: None };
    for _ in 0..2 {
        let outcome = runtime().block_on(assert_send(shell.run(request, &token))).unwrap();
        assert_eq!(outcome.stdout.text, "hi\n");
    }
    runtime().block_on(assert_send(shell.close())).unwrap();
}

/// Set in a process that a test starts of this same program, which is to play a part in that test.
const PART: &str = "SANDBOX_TEST_PART";

/// This program, running just the test of this name, in a part of its own.
fn in_part(test: &str) -> [String; 3] {
    ["--exact".into(), "--nocapture".into(), format!("bash::tests::{test}")]
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
    let launcher = lines.find_map(|line| line.split_once("held ").and_then(|(_, id)| id.trim().parse().ok())).unwrap();
    eventually("the start of the daemons", || runs(&marker));
    holder.kill().unwrap();
    holder.wait().unwrap();
    eventually("the end of all processes", || !runs(&marker) && !launcher_runs(launcher));
}

/// The server that is killed.
#[tokio::main(flavor = "current_thread")]
async fn hold_a_shell(marker: &str) {
    let mut shell = start().await;
    sh(&mut shell, &format!("setsid {marker} & disown; (setsid nohup {marker} &)")).await;
    println!("held {}", shell.launcher_id());
    sh(&mut shell, "sleep 300").await;
}

#[tokio::test]
async fn a_sandbox_whose_processes_are_killed_is_gone() {
    let mut shell = start().await;
    let (marker, launcher) = (marker(4), shell.launcher_id());
    sh(&mut shell, &format!("setsid {marker} & disown")).await;
    eventually("the start of the daemon", || runs(&marker));
    let id = rustix::process::Pid::from_raw(launcher.cast_signed()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
    let request = RunRequest { command: "sleep 300", timeout: LONG, max_output_bytes: 100, live: None };
    assert!(matches!(shell.run(request, &CancellationToken::new()).await, Err(ShellError::Gone)));
    eventually("the end of the daemon", || !runs(&marker));
    shell.close().await.unwrap();
    assert!(!fs::exists(format!("/proc/{launcher}")).unwrap());
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
    let error = Shell::start(&ShellOptions::default()).await.unwrap_err();
    assert!(matches!(error, ShellError::Isolation { step: Step::Namespaces, .. }), "{error:?}");
    println!("{error}");
}
