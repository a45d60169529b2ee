use super::*;

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
    shell.sandbox.close().await.unwrap();
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
    let logged = sh(&mut shell, "echo logged > >(cat)").await;
    if logged.stdout.text != "logged\n" {
        // It came too late for the answer, as on a busy machine.
        let job = shell.jobs.get(logged.job.unwrap()).unwrap();
        let [(piece, _), _] = job.output([0, 0], 100, tokio::time::Instant::now() + LONG).await;
        assert_eq!((logged.stdout.text.as_str(), piece.bytes.as_slice()), ("", b"logged\n".as_slice()));
    }
    let long = "x".repeat(1_000_000);
    assert_eq!(stdout(&mut shell, &format!("v='{long}'; echo ${{#v}}")).await, "1000000\n");
    shell.sandbox.close().await.unwrap();
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
    let token = CancellationToken::new();
    for refused in ["a\0b", &long] {
        let outcome = shell.shell.run(request(refused, LONG), &token).await;
        assert!(matches!(outcome, Err(ShellError::Invalid { option: "command", .. })));
    }
    assert_eq!(stdout(&mut shell, "echo $keep").await, "kept\n");
    shell.sandbox.close().await.unwrap();
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
    shell.sandbox.close().await.unwrap();
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
    shell.sandbox.close().await.unwrap();
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
    shell.sandbox.close().await.unwrap();
}

#[tokio::test]
async fn cancellation_ends_the_command() {
    let mut shell = start().await;
    let token = CancellationToken::new();
    let trigger = token.clone();
    sh(&mut shell, "keep=kept").await;
    let running = request("echo first; sleep 300", LONG);
    let (outcome, ()) = tokio::join!(shell.shell.run(running, &token), async move {
        tokio::time::sleep(SHORT).await;
        trigger.cancel();
    });
    let outcome = outcome.unwrap();
    assert_eq!((outcome.exit_code, outcome.cancelled, outcome.timed_out), (130, true, false));
    assert_eq!(outcome.stdout.text, "first\n");
    // Cancelled before it began.
    assert!(shell.shell.run(request("sleep 300", LONG), &token).await.unwrap().cancelled);
    assert_eq!(stdout(&mut shell, "echo $keep").await, "kept\n");
    shell.sandbox.close().await.unwrap();
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
    shell.sandbox.close().await.unwrap();
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
    shell.sandbox.close().await.unwrap();
}
