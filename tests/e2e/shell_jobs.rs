//! Commands that run beside the shell, on a terminal, or longer than they should, over HTTP.

use serde_json::{Value, json};

use crate::{harness::until, shell::Shell};

#[test]
fn a_job_runs_beside_the_shell_with_its_state() {
    let shell = Shell::new();
    shell.call("run", &json!({ "command": "cd /tmp; secret=42; greet() { echo \"hello $1\"; }; export PLACE=here" }));
    let command = "greet $secret; pwd; echo $PLACE $EXTRA; cat; echo err >&2; exit 7";
    let started = shell.call("run", &json!({ "command": command, "background": true, "env": { "EXTRA": "more" } }));
    let job = started["job_id"].as_u64().unwrap();
    assert_eq!((&started["exit_code"], &started["cwd"]), (&Value::Null, &json!("/tmp")));
    // The shell is free meanwhile, and knows nothing of it.
    assert_eq!(shell.call("run", &json!({ "command": "echo free; jobs; wait" }))["stdout"], "free\n");
    let first = shell.call("output", &json!({ "job_id": job, "wait_ms": 20_000 }));
    assert_eq!(first["stdout"]["content"].as_str().unwrap().lines().next(), Some("hello 42"));
    assert_eq!(first["status"], "running");
    shell.call("input", &json!({ "job_id": job, "text": "typed\n" }));
    shell.call("input", &json!({ "job_id": job, "text": "last\n", "eof": true }));
    until("the job ends", || {
        let output = shell.call("output", &json!({ "job_id": job }));
        output["status"] == "finished"
    });
    let output = shell.call("output", &json!({ "job_id": job }));
    assert_eq!(output["stdout"]["content"], "hello 42\n/tmp\nhere more\ntyped\nlast\n");
    assert_eq!((&output["stderr"]["content"], &output["exit_code"]), (&json!("err\n"), &json!(7)));
    let part = shell.call("output", &json!({ "job_id": job, "offset": 6, "max_bytes": 2 }));
    assert_eq!((&part["stdout"]["content"], &part["stdout"]["next_offset"]), (&json!("42"), &json!(8)));
    let refused = shell.server.execute("w", "bash:input", &json!({ "job_id": job, "text": "x" }));
    assert_eq!(refused.code(), 4000, "{refused:?}");
    let unknown = shell.server.execute("w", "bash:output", &json!({ "job_id": 99 }));
    assert!(unknown.code() == 4000 && unknown.body["message"].as_str().unwrap().contains("there are 1"), "{unknown:?}");
}

#[test]
fn jobs_are_listed_interrupted_and_killed() {
    let shell = Shell::new();
    let start = |command: &str| {
        shell.call("run", &json!({ "command": command, "background": true }))["job_id"].as_u64().unwrap()
    };
    let polite = start("trap 'echo bye; exit 3' INT; echo ready; while :; do sleep 0.05; done");
    let stubborn = start("trap '' INT TERM; echo ready; sleep 300 & wait; sleep 300");
    for job in [polite, stubborn] {
        until("it is ready", || shell.call("output", &json!({ "job_id": job }))["stdout"]["content"] == "ready\n");
    }
    shell.call("interrupt", &json!({ "job_id": polite }));
    until("the polite one has ended", || shell.call("jobs", &json!({}))["jobs"][0]["status"] == "finished");
    shell.call("interrupt", &json!({ "job_id": stubborn, "signal": "TERM" }));
    assert_eq!(shell.call("jobs", &json!({}))["jobs"][1]["status"], "running");
    let killed = shell.call("kill", &json!({ "job_id": stubborn }));
    assert_eq!((&killed["exit_code"], &killed["signal"]), (&json!(137), &json!("KILL")));
    let jobs = shell.call("jobs", &json!({}));
    assert_eq!((&jobs["jobs"][0]["exit_code"], &jobs["jobs"][0]["background"]), (&json!(3), &json!(true)));
    until("what it started is gone too", || {
        shell.call("run", &json!({ "command": "grep -lx sleep /proc/[0-9]*/comm | wc -l" }))["stdout"] == "0\n"
    });
}

#[test]
fn a_killed_job_takes_what_it_has_started_in_whatever_session() {
    let shell = Shell::new();
    let command = "setsid sleep 301 & setsid bash -c 'sleep 302; :' & echo ready; sleep 303";
    let job = shell.call("run", &json!({ "command": command, "background": true }))["job_id"].as_u64().unwrap();
    let count = || shell.call("run", &json!({ "command": "pgrep -c sleep" }))["stdout"].clone();
    until("all of it runs", || count() == "3\n");
    // An interrupt is for what Ctrl-C would reach, and reaches it once.
    let twice = "import signal, time, os\nseen = []\nsignal.signal(2, lambda *_: seen.append(1))\n\
                 print(flush=True)\nwhile not seen: time.sleep(0.01)\ntime.sleep(0.2)\nprint(len(seen))";
    shell.call("write", &json!({ "path": "twice.py", "content": twice }));
    let start = json!({ "command": "python3 twice.py", "background": true });
    let counter = shell.call("run", &start)["job_id"].as_u64().unwrap();
    let output = || shell.call("output", &json!({ "job_id": counter }));
    until("it waits for a signal", || output()["stdout"]["content"] == "\n");
    shell.call("interrupt", &json!({ "job_id": counter }));
    until("it has counted", || output()["status"] == "finished");
    assert_eq!(output()["stdout"]["content"], "\n1\n");
    assert_eq!(count(), "3\n");
    shell.call("kill", &json!({ "job_id": job }));
    until("nothing of it is left", || count() == "0\n");
}

#[test]
fn a_job_has_time_limits_of_its_own() {
    let shell = Shell::new();
    let start = |more: Value| {
        let mut all = json!({ "background": true });
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        shell.call("run", &all)["job_id"].as_u64().unwrap()
    };
    let end = |job: u64| {
        until("it ends", || shell.call("output", &json!({ "job_id": job }))["status"] == "finished");
        let output = shell.call("output", &json!({ "job_id": job }));
        (output["exit_code"].clone(), output["timed_out"].clone(), output["stdout"]["content"].clone())
    };
    let timed_out = |code: i32, text: &str| (json!(code), json!(true), json!(text));
    let polite = "trap 'echo bye; exit 3' INT; while :; do sleep 0.05; done";
    let stubborn = "trap '' INT; while :; do sleep 0.05; done";
    // Beside each other, with time enough to set their traps.
    let jobs = [
        (json!({ "command": polite, "timeout_ms": 3000 }), timed_out(3, "bye\n")),
        (json!({ "command": stubborn, "timeout_ms": 3000, "hard_timeout_ms": 3300 }), timed_out(137, "")),
        (json!({ "command": polite, "hard_timeout_ms": 3000 }), timed_out(137, "")),
        (
            json!({ "command": "for i in 1 2 3 4; do echo $i; sleep 0.9; done; sleep 300", "idle_timeout_ms": 3000 }),
            timed_out(130, "1\n2\n3\n4\n"),
        ),
    ];
    let started: Vec<_> = jobs.into_iter().map(|(job, expected)| (start(job), expected)).collect();
    for (job, expected) in started {
        assert_eq!(end(job), expected);
    }
    // Longer than the call that starts it, and over before.
    let quick = json!({ "command": "echo done", "timeout_ms": 10_000_000, "idle_timeout_ms": 10_000_000 });
    assert_eq!(end(start(quick)), (json!(0), json!(false), json!("done\n")));
}

#[test]
fn how_a_job_ended_is_known_when_its_output_had_to_give_way() {
    let shell = Shell::with(&json!({ "output_mib": 4 }));
    let ended = |job: u64| {
        until("it ends", || shell.call("output", &json!({ "job_id": job }))["status"] == "finished");
        shell.call("output", &json!({ "job_id": job }))
    };
    let start = |command: &str| {
        let job = shell.call("run", &json!({ "command": command, "background": true }))["job_id"].as_u64().unwrap();
        ended(job);
        job
    };
    let small = start("echo keep; exit 3");
    let large = start("head -c 2000000 /dev/zero; exit 4");
    for _ in 0..3 {
        start("head -c 2000000 /dev/zero");
    }
    let (small, large) = (ended(small), ended(large));
    assert_eq!((&small["exit_code"], &small["stdout"]["content"]), (&json!(3), &json!("keep\n")));
    assert_eq!((&large["exit_code"], &large["stdout"]["content"]), (&json!(4), &json!("")));
    assert_eq!((&large["stdout"]["offset"], &large["stdout"]["total_bytes"]), (&json!(2_000_000), &json!(2_000_000)));
    // What still writes is still read, with nowhere to keep it.
    let writer = "(head -c 1000000 /dev/zero; sleep 1; head -c 1000000 /dev/zero; echo through > done) & sleep 0.3";
    shell.call("run", &json!({ "command": writer }));
    for _ in 0..3 {
        start("head -c 2000000 /dev/zero");
    }
    until("the writer is through", || shell.sh("cat done 2>/dev/null") == "through\n");
}

#[test]
fn a_terminal_for_a_command_and_for_a_job() {
    let shell = Shell::new();
    let plain = shell.call("run", &json!({ "command": "[ -t 1 ] && echo tty || echo no" }));
    assert_eq!(plain["stdout"], "no\n");
    let terminal = shell.call(
        "run",
        &json!({ "command": "x=kept; [ -t 0 ] && [ -t 1 ] && tput cols; stty size; echo err >&2", "pty": true }),
    );
    assert_eq!((&terminal["stdout"], &terminal["stderr"]), (&json!("120\r\n40 120\r\nerr\r\n"), &json!("")));
    assert_eq!(shell.call("run", &json!({ "command": "echo $x" }))["stdout"], "kept\n", "the same shell");
    let job = shell.call("run", &json!({ "command": "read -p 'name? ' name; echo hi $name; stty size; sleep 300", "pty": true, "background": true }));
    let job = job["job_id"].as_u64().unwrap();
    let shown = || shell.call("output", &json!({ "job_id": job }))["stdout"]["content"].as_str().unwrap().to_owned();
    until("it asks", || shown() == "name? ");
    shell.call("resize", &json!({ "job_id": job, "columns": 77, "rows": 11 }));
    shell.call("input", &json!({ "job_id": job, "text": "world\n" }));
    until("it answers", || shown() == "name? world\r\nhi world\r\n11 77\r\n");
    // Ctrl-C, as a person would type it.
    shell.call("input", &json!({ "job_id": job, "text": "\u{3}" }));
    until("it is interrupted", || shell.call("jobs", &json!({}))["jobs"][0]["signal"] == "INT");
    // A command in the foreground takes input while it runs.
    std::thread::scope(|scope| {
        let running = scope
            .spawn(|| shell.call("run", &json!({ "command": "read -p 'more? ' line; echo got $line", "pty": true })));
        until("the command reads", || shell.server.execute("w", "bash:input", &json!({ "text": "" })).code() == 0);
        shell.call("input", &json!({ "text": "this\n" }));
        let outcome = running.join().unwrap();
        assert!(outcome["stdout"].as_str().unwrap().ends_with("got this\r\n"), "{outcome}");
    });
    let none = shell.server.execute("w", "bash:input", &json!({ "text": "x" }));
    assert!(none.body["message"].as_str().unwrap().contains("`pty`"), "{none:?}");
}

#[test]
fn what_a_command_left_running_writes_into_its_own_job() {
    let shell = Shell::new();
    let outcome = shell.call("run", &json!({ "command": "(sleep 0.3; echo late; echo later >&2) & echo now" }));
    assert_eq!(outcome["stdout"], "now\n");
    let job = outcome["job_id"].as_u64().unwrap();
    assert_eq!(shell.call("run", &json!({ "command": "sleep 0.6; echo mine" }))["stdout"], "mine\n");
    let output = shell.call("output", &json!({ "job_id": job }));
    assert_eq!(output["stdout"]["content"], "now\nlate\n");
    assert_eq!((&output["stderr"]["content"], &output["status"]), (&json!("later\n"), &json!("finished")));
}

#[test]
fn the_rest_of_a_long_output_can_be_fetched() {
    let shell = Shell::new();
    let outcome = shell.call("run", &json!({ "command": "seq 1 200000", "max_output_bytes": 1000 }));
    let total = outcome["stdout_truncated"]["total_bytes"].as_u64().unwrap();
    assert!(outcome["stdout"].as_str().unwrap().len() <= 1000 && total == 1_288_895, "{outcome}");
    let expected = (1..=200_000).map(|number| number.to_string()).collect::<Vec<_>>().join("\n") + "\n";
    let (mut fetched, mut offset) = (String::new(), 0);
    while offset < total {
        let part =
            shell.call("output", &json!({ "job_id": outcome["job_id"], "offset": offset, "max_bytes": 500_000 }));
        fetched.push_str(part["stdout"]["content"].as_str().unwrap());
        offset = part["stdout"]["next_offset"].as_u64().unwrap();
    }
    assert!(fetched == expected, "{} bytes", fetched.len());
    // A part that is shorter than its character goes on all the same.
    let wide = shell.call("run", &json!({ "command": "printf 'ä%.0s' {1..100}", "max_output_bytes": 10 }));
    let part = shell.call("output", &json!({ "job_id": wide["job_id"], "max_bytes": 1 }));
    assert_eq!((&part["stdout"]["next_offset"], &part["stdout"]["encoding"]), (&json!(1), &json!("base64")));
    // Bytes that are no text.
    let outcome = shell
        .call("run", &json!({ "command": "printf '\\xff\\xfe'; head -c 3000 /dev/zero", "max_output_bytes": 100 }));
    let part = shell.call("output", &json!({ "job_id": outcome["job_id"], "max_bytes": 3 }));
    assert_eq!((&part["stdout"]["content"], &part["stdout"]["encoding"]), (&json!("//4A"), &json!("base64")));
}

#[test]
fn wishes_of_one_call() {
    let shell = Shell::new();
    let outcome = shell.call("run", &json!({ "command": "cat; wc -c", "stdin": "two\nlines" }));
    assert_eq!(outcome["stdout"], "two\nlines0\n");
    let outcome = shell.call(
        "run",
        &json!({ "command": "echo $A; bash -c 'echo $A'; pwd", "env": { "A": "it's \"x\"\n$B" }, "cwd": "/tmp" }),
    );
    assert_eq!(outcome["stdout"], "it's \"x\" $B\nit's \"x\" $B\n/tmp\n");
    assert_eq!(
        shell.call("run", &json!({ "command": "echo [$A]; pwd" }))["stdout"],
        "[]\n/tmp\n",
        "the folder stays, as with cd"
    );
    let outcome = shell.call("run", &json!({ "command": "echo never", "cwd": "/nonexistent" }));
    assert!(outcome["exit_code"] == 1 && outcome["stdout"] == "", "{outcome}");
    assert!(outcome["stderr"].as_str().unwrap().contains("/nonexistent"), "{outcome}");
    let bad = shell.server.execute("w", "bash:run", &json!({ "command": "x", "env": { "A B": "1" } }));
    assert!(bad.code() == 4000 && bad.body["message"].as_str().unwrap().contains("`env`"), "{bad:?}");
    let long = shell.server.execute("w", "bash:run", &json!({ "command": "x", "timeout_ms": 60_000 }));
    let message = long.body["message"].as_str().unwrap().to_owned();
    assert!(
        long.code() == 4000 && message.contains("`timeout_ms` is 60000") && message.contains("`timeout`"),
        "{message}"
    );
}

#[test]
fn time_limits_of_a_command() {
    let shell = Shell::new();
    let idle = shell.call(
        "run",
        &json!({ "command": "x=1; for i in 1 2 3 4; do echo $i; sleep 0.2; done; sleep 60", "idle_timeout_ms": 700 }),
    );
    assert_eq!((&idle["timed_out"], &idle["stdout"]), (&json!(true), &json!("1\n2\n3\n4\n")));
    let graceful = shell.call("run", &json!({
        "command": "bash -c \"trap 'sleep 1.5; echo saved; exit' INT; sleep 60\"", "timeout_ms": 300, "hard_timeout_ms": 8000,
    }));
    assert!(graceful["stdout"] == "saved\n" && graceful["timed_out"] == true, "{graceful}");
    let began = std::time::Instant::now();
    let killed =
        shell.call("run", &json!({ "command": "(trap '' INT; sleep 60)", "timeout_ms": 200, "hard_timeout_ms": 600 }));
    assert_eq!(
        (&killed["exit_code"], &killed["signal"], &killed["state_lost"]),
        (&json!(137), &json!("KILL"), &json!(false))
    );
    assert!(began.elapsed().as_millis() >= 600);
    assert_eq!(shell.call("run", &json!({ "command": "echo $x" }))["stdout"], "1\n");
    // Deaf to the interrupt, and so is what it calls: the state goes with it, and that is said.
    let deaf = shell.call("run", &json!({ "command": "trap '' INT; while :; do sleep 60; done", "timeout_ms": 200 }));
    assert_eq!(
        (&deaf["timed_out"], &deaf["shell_restarted"], &deaf["state_lost"]),
        (&json!(true), &json!(true), &json!(true))
    );
    assert_eq!(shell.call("run", &json!({ "command": "echo [$x]" }))["stdout"], "[]\n");
}

#[test]
fn the_state_survives_the_end_of_the_shell() {
    let shell = Shell::new();
    let setup = "cd /tmp; a='it'\"'\"'s'; b=(1 'two words'); declare -A c=([k]=v); export D=d; f() { echo f $a; }; alias hi='echo hi'; umask 027; shopt -s nullglob; set -u";
    shell.call("run", &json!({ "command": setup }));
    for (command, code) in [("exit 3", 3), ("set -e; false", 1)] {
        let ended = shell.call("run", &json!({ "command": command }));
        assert_eq!(
            (&ended["exit_code"], &ended["shell_restarted"], &ended["state_lost"]),
            (&json!(code), &json!(true), &json!(false)),
            "{command}"
        );
        let kept = shell.call("run", &json!({ "command": "f; echo \"${b[1]} ${c[k]} $D\"; bash -c 'echo $D'; hi; umask; pwd; shopt -q nullglob && echo ok; echo $-" }));
        let text = kept["stdout"].as_str().unwrap();
        assert!(text.starts_with("f it's\ntwo words v d\nd\nhi\n0027\n/tmp\nok\n"), "{command}: {kept}");
        let options = text.lines().last().unwrap();
        assert!(options.contains('u') && !options.contains('e'), "{command}: {options}");
    }
    let killed = shell.call("run", &json!({ "command": "kill -9 $$" }));
    assert_eq!(
        (&killed["exit_code"], &killed["state_lost"], &killed["cwd"]),
        (&json!(137), &json!(true), &json!("/tmp"))
    );
    shell.call("run", &json!({ "command": "a=again" }));
    shell.call("restart", &json!({}));
    assert_eq!(shell.call("run", &json!({ "command": "echo ${a-none}; pwd" }))["stdout"], "none\n/tmp\n");
}

#[test]
fn an_interrupt_from_another_call_reaches_the_command() {
    let shell = Shell::new();
    let outcome = std::thread::scope(|scope| {
        let running = scope.spawn(|| shell.call("run", &json!({ "command": "touch /tmp/runs; sleep 60; echo never" })));
        until("it runs", || shell.server.execute("w", "bash:stat", &json!({ "path": "/tmp/runs" })).code() == 0);
        std::thread::sleep(std::time::Duration::from_millis(100));
        shell.call("interrupt", &json!({}));
        running.join().unwrap()
    });
    assert_eq!(
        (&outcome["exit_code"], &outcome["timed_out"], &outcome["stdout"]),
        (&json!(130), &json!(false), &json!(""))
    );
}
