//! What a hostile session does to the server, and what it cannot: each of these once worked.

use serde_json::json;

use crate::{bytes::WORKER, harness::until, shell::Shell};

fn peak_mib(shell: &Shell) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", shell.server.process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[test]
fn files_do_not_grow_in_the_memory_of_the_server() {
    let shell = Shell::new();
    shell
        .sh("head -c 70000 /dev/zero | tr '\\0' a > g; truncate -s 400M g; head -c 1500000 /dev/zero | tr '\\0' a > e");
    let found = shell.call("grep", &json!({ "pattern": "b", "path": "g", "max_file_bytes": 1_000_000_000 }));
    assert_eq!(found["matches"], json!([]));
    let (code, message) =
        shell.refused("edit", &json!({ "path": "e", "old_text": "a", "new_text": "b".repeat(1000), "count": 0 }));
    assert!(code == 4016 && message.contains("can be edited"), "{code} {message}");
    // Long names, many of them: the answer has an end.
    let deep = "p=$(printf '\\1%.0s' {1..250}); d=.; for i in 1 2 3 4 5 6 7 8 9 10; do d=$d/$p; done; mkdir -p \"$d\"; cd \"$d\"; for i in {1..3000}; do : > $i; done; cd /workspace; mv ./$'\\1'* deep";
    shell.sh(deep);
    let listed =
        shell.server.execute("w", "bash:list", &json!({ "path": "deep", "depth": 64, "max_entries": 100_000 }));
    assert_eq!(listed.data()["truncated"], true);
    assert!(peak_mib(&shell) < 250, "{} MiB", peak_mib(&shell));
}

#[test]
fn the_file_tools_see_no_more_than_the_shell() {
    let shell = Shell::new();
    for (path, glob) in [("/", "maps"), ("/", "kallsyms"), ("/proc", "*")] {
        let reply = shell.server.execute(
            "w",
            "bash:grep",
            &json!({ "path": path, "glob": glob, "pattern": "[0-9a-f]{8}", "max_results": 5 }),
        );
        let text = reply.body.to_string();
        assert!(!text.contains("proc/1/") && !text.contains("commit_creds") && !text.contains("/tmp/"), "{text}");
    }
    let listed = shell.call("list", &json!({ "path": "/", "depth": 3, "max_entries": 100_000 }));
    assert!(!listed.to_string().contains("proc/1/exe"), "links of /proc");
}

#[test]
fn nonsense_on_the_ways_of_the_protocol_holds_nobody_up() {
    let shell = Shell::new();
    let flood = "import subprocess, glob, time\nfor f in glob.glob('/.sbx/*r') + ['/.sbx/j1r']:\n    for _ in range(3): subprocess.Popen(f'cat /dev/zero > {f}', shell=True)\ntime.sleep(60)";
    let outcome = shell.call("code", &json!({ "language": "python", "code": flood, "timeout_ms": 1500 }));
    assert_eq!(outcome["timed_out"], true);
    // A terminal that never falls silent, and a job that never reads.
    let endless =
        shell.call("run", &json!({ "command": "yes > /dev/tty & echo $!", "pty": true, "timeout_ms": 20_000 }));
    assert_eq!(endless["timed_out"], false, "{endless}");
    let job = shell.call("run", &json!({ "command": "sleep 600", "background": true, "stdin": "x".repeat(1 << 20) }));
    assert!(job["job_id"].is_u64());
    assert!(shell.sh("echo still here").contains("still here"));
    let health = shell.server.get("/health");
    assert_eq!(health.body["status"], "healthy");
}

#[test]
fn no_state_but_its_own_comes_back_to_a_shell() {
    let shell = Shell::new();
    let poison = "cat > /.sbx/s <<'X'\necho() { builtin echo LIES; }\n# whole\nX";
    shell.sh(poison);
    shell.call("restart", &json!({}));
    assert_eq!(shell.sh("echo truth"), "truth\n");
    shell.sh(&format!("{poison}\n(sleep 0.2; kill -9 $$) &"));
    std::thread::sleep(std::time::Duration::from_millis(500));
    let outcome = shell.call("run", &json!({ "command": "echo truth" }));
    assert_eq!((&outcome["stdout"], &outcome["state_lost"]), (&json!("truth\n"), &json!(true)));
}

#[test]
fn what_is_counted_for_the_whole_host_is_limited_for_each_sandbox() {
    let shell = Shell::new();
    let outcome = shell.call("code", &json!({ "language": "python", "code":
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n\
         def most(make):\n    n = 0\n    while n < 1000 and make() >= 0: n += 1\n    return n\n\
         def pty():\n    try: return os.open('/dev/ptmx', os.O_RDWR)\n    except OSError: return -1\n\
         print(most(lambda: libc.inotify_init1(0)) <= 64, most(pty) <= 64, libc.syscall(206, 10, ctypes.byref(ctypes.c_long(0))))" }));
    assert_eq!(outcome["stdout"], "True True -1\n", "{outcome}");
    // Jobs, and what commands leave open, have an end too.
    let mut refused = 0;
    for _ in 0..30 {
        let reply = shell.server.execute("w", "bash:run", &json!({ "command": "sleep 600", "background": true }));
        refused += u32::from(reply.code() == 4000);
    }
    assert!(refused > 0);
    for _ in 0..60 {
        shell.sh("sleep 600 &");
    }
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", shell.server.process.id())).unwrap().count();
    assert!(descriptors() < 400, "{}", descriptors());
    shell.server.post("/session/destroy", &json!({ "worker_id": "w", "resource_type": "bash" })).data();
    until("they are given back", || descriptors() < 150);
}

#[test]
fn a_folder_as_deep_as_can_be_is_removed() {
    let work = tempfile::tempdir().unwrap();
    let config = json!({ "resources": { "bash": { "config": { "min_idle": 0, "workspace_dir": work.path() } } } });
    let server = crate::harness::Server::start(&config);
    server.post("/session/create", &json!({ "worker_id": "w", "resource_type": "bash" })).data();
    // Far deeper than folders are held open at once, and than a path may be long.
    let dig = "import os\nfor _ in range(4000):\n    os.mkdir('d'); os.chdir('d')\nos.chmod('.', 0)";
    let outcome = server.execute("w", "bash:code", &json!({ "language": "python", "code": dig }));
    assert_eq!(outcome.data()["exit_code"], 0, "{outcome:?}");
    server.post("/session/destroy", &json!({ "worker_id": "w", "resource_type": "bash" })).data();
    until("the folder is gone", || std::fs::read_dir(work.path()).unwrap().count() == 0);
    assert_eq!(server.raw("GET", "/health", &[WORKER], b"").status, 200);
}

#[test]
fn what_stands_on_the_terminal_is_in_the_answer_of_its_command() {
    let shell = Shell::new();
    // Busy, so that the kernel is late in passing it on.
    shell.sh("for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done 2>/dev/null");
    for number in 0..60 {
        let command = format!("echo a{number}; stty size; /bin/echo z{number}");
        let answer = shell.call("run", &json!({ "command": command, "pty": true }));
        assert_eq!(answer["stdout"], format!("a{number}\r\n40 120\r\nz{number}\r\n"));
    }
    // Neither closed to those that follow, nor halted.
    let python = |code: &str| {
        let command = format!("python3 -c \"import fcntl, sys, termios; {code}\"; echo $?");
        shell.call("run", &json!({ "command": command, "pty": true }))["stdout"].as_str().unwrap().to_owned()
    };
    assert!(python("fcntl.ioctl(0, termios.TIOCEXCL)").ends_with("1\r\n"));
    assert!(python("termios.tcflow(1, termios.TCOOFF)").ends_with("1\r\n"));
    shell.call("run", &json!({ "command": "python3 -c 'import os; os.write(1, b\"\\x13\")'", "pty": true }));
    assert_eq!(shell.call("run", &json!({ "command": "echo on", "pty": true }))["stdout"], "on\r\n");
}

#[test]
fn an_edit_that_nobody_waits_for_ends() {
    let shell = Shell::new();
    shell.sh("yes old | head -c 33000000 > /workspace/f; truncate -s 4T /tmp/h");
    let before = peak_mib(&shell);
    let (code, message) = shell.refused("edit", &json!({ "path": "/tmp/h", "old_text": "a", "new_text": "b" }));
    assert!(code == 4016 && message.contains("can be edited"), "{code} {message}");
    assert!(peak_mib(&shell) < before + 20, "{} MiB", peak_mib(&shell));
    let server = &shell.server;
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(move || {
                let request = json!({
                    "worker_id": WORKER, "action": "bash:edit", "timeout": 1,
                    "params": { "path": "/workspace/f", "old_text": "old", "new_text": "olo", "count": 0 },
                });
                server.post("/execute", &request)
            });
        }
    });
    assert!(peak_mib(&shell) < before + 400, "{} MiB", peak_mib(&shell));
    // All of them have given up their turn.
    assert_eq!(shell.call("write", &json!({ "path": "g", "content": "old" }))["total_bytes"], 3);
    assert_eq!(shell.call("edit", &json!({ "path": "g", "old_text": "old", "new_text": "new" }))["replacements"], 1);
}

#[test]
fn a_removal_of_what_grows_ends_with_its_call() {
    let shell = Shell::new();
    let grow = "import os, sys\nn = 0\nwhile True:\n    n += 1\n    try: os.mkdir(f'grow/{sys.argv[1]}-{n}')\n    except OSError: pass";
    shell.call("write", &json!({ "path": "grow.py", "content": grow }));
    shell.sh("mkdir grow; for n in 1 2 3; do python3 grow.py $n & done; sleep 0.5");
    let request = json!({
        "worker_id": "w", "action": "bash:remove", "timeout": 3, "params": { "path": "grow", "recursive": true },
    });
    let reply = shell.server.post("/execute", &request);
    // Cancelled, or, where the kernel shows of a folder what it held when it was opened, not empty.
    assert!([0, 5020, 4009].contains(&reply.code()), "{reply:?}");
    // The thread is free, and the session lives.
    assert_eq!(shell.sh("kill %1 %2 %3; wait; mkdir -p grow; echo alive").lines().last(), Some("alive"));
    shell.call("remove", &json!({ "path": "grow", "recursive": true }));
}
