//! The command line.

use std::{
    io::Read as _,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::harness::{SERVER, Server, kill, until};

pub(crate) fn cli(args: &[&str]) -> Output {
    Command::new(SERVER).args(args).output().unwrap()
}

pub(crate) fn stdout(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn config(value: &Value) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
    std::fs::write(file.path(), value.to_string()).unwrap();
    file
}

#[test]
fn exec_runs_a_tool_on_a_server_of_its_own() {
    let output = cli(&["exec", "bash:run", "command=cd /tmp; pwd; whoami; ls /"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let result = stdout(&output);
    assert!(result["stdout"].as_str().unwrap().starts_with("/tmp\nsandbox\n"), "{result}");
    assert_eq!(result["cwd"], "/tmp");
}

#[test]
fn exec_exits_by_what_happened() {
    let echo = cli(&["exec", "util:echo", "{\"message\": \"a=b\"}"]);
    assert_eq!((echo.status.code(), stdout(&echo)), (Some(0), json!({ "message": "a=b" })));
    let failed = cli(&["exec", "util:echo", "--json"]);
    assert_eq!((failed.status.code(), stdout(&failed)["code"].as_u64()), (Some(2), Some(4003)));
    let unknown = cli(&["exec", "util:ecko", "message=m"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("util:echo"), "{unknown:?}");
    assert!(!String::from_utf8_lossy(&unknown.stderr).contains('\x1b'), "no colours in a pipe");
    for not_run in [
        &["exec", "util:echo", "nonsense"][..],
        &["exec", "util:echo", "--server", "http://127.0.0.1:1"],
        &["exec"],
        &["nonsense"],
    ] {
        assert_eq!(cli(not_run).status.code(), Some(2), "{not_run:?}");
    }
}

#[test]
fn exec_and_sessions_work_on_a_running_server() {
    let server = Server::start(&json!({ "resources": { "bash": {} } }));
    let url = format!("http://{}", server.address);
    let run = |command: &str| {
        let output = cli(&["exec", "bash:run", &format!("command={command}"), "--session", "build", "--server", &url]);
        assert!(output.status.success(), "{output:?}");
        stdout(&output)["stdout"].clone()
    };
    run("x=kept");
    assert_eq!(run("echo $x"), "kept\n");
    let listed = stdout(&cli(&["sessions", "--server", &url, "--json"]));
    assert_eq!((&listed["count"], &listed["sessions"][0]["session"]), (&json!(1), &json!("build")));
    let id = listed["sessions"][0]["session_id"].as_str().unwrap();
    let by_id = cli(&["exec", "bash:run", "command=echo $x", "--session-id", id, "--server", &url]);
    assert_eq!(stdout(&by_id)["stdout"], "kept\n");
    assert!(String::from_utf8_lossy(&cli(&["sessions", "--server", &url]).stdout).contains("bash/build"));
}

#[test]
fn check_reports_every_fault_with_its_place() {
    let good = config(&json!({ "resources": { "probe": {} } }));
    let output = cli(&["check", "--config", good.path().to_str().unwrap()]);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("ok:"), "{output:?}");
    let bad = config(&json!({
        "server": { "prot": 1 },
        "resources": { "probe": { "config": { "x": 1 } }, "vm": { "backend": "nothing" }, "bash": { "config": { "pids": "many" } } }
    }));
    let output = cli(&["check", "--config", bad.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    for expected in ["server.prot", "`port`", "resources.probe.config.x", "resources.bash.config.pids"] {
        assert!(text.contains(expected), "{expected} is missing in: {text}");
    }
    assert!(text.starts_with(&format!("error: {}:\n  ", bad.path().display())), "{text}");
    assert!(text.contains("resources.vm: backend `nothing` is not linked"), "together with the others: {text}");
    let unlinked =
        config(&json!({ "resources": { "vm": { "backend": "nothing" }, "probe": { "tools": { "deny": ["clck"] } } } }));
    let output = cli(&["check", "--config", unlinked.path().to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    for expected in [
        "resources.vm",
        "`nothing` is not linked",
        "`bash` (crate sandbox-backends)",
        "use nothing_backend as _;",
        "did you mean `click`",
    ] {
        assert!(text.contains(expected), "{expected} is missing in: {text}");
    }
}

#[test]
fn tools_are_listed_for_people_and_programs() {
    let file = config(&json!({ "resources": { "probe": {} } }));
    let path = file.path().to_str().unwrap();
    let text = String::from_utf8(cli(&["tools", "--config", path]).stdout).unwrap();
    assert!(text.contains("probe:click button?, count?, delay_ms?, x") && !text.contains("probe:secret"), "{text}");
    let tools = stdout(&cli(&["tools", "--json", "--config", path]));
    let click = tools.as_array().unwrap().iter().find(|tool| tool["full_name"] == "probe:click").unwrap();
    assert_eq!(click["aliases"], json!(["press"]));
    assert!(!String::from_utf8(cli(&["--help"]).stdout).unwrap().is_empty());
}

#[test]
fn faults_of_the_configuration_and_of_the_backends_come_together() {
    let bad = config(&json!({
        "server": { "tokens": [""], "log": { "level": "loud" } },
        "resources": {
            "probe": { "max_sesions": 1, "tools": { "deny": ["clck"] } },
            "bash": { "config": { "pids": "many" }, "tools": { "allow": ["rnu"] } },
            "vm": { "backend": "nothing" }, "odd": { "backend": 5 },
        },
        "apis": { "fetch": { "max_byts": 1 } },
        "warmup": { "resources": ["odd", "vn"] },
    }));
    for command in ["check", "serve", "tools"] {
        let output = cli(&[command, "--config", bad.path().to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(if command == "check" { 1 } else { 2 }));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let mut places: Vec<_> =
            text.lines().skip(1).map(|line| line.trim().split(": ").next().unwrap().to_owned()).collect();
        places.sort_unstable();
        assert_eq!(
            places,
            [
                "apis.fetch.max_byts",
                "resources.bash.config.pids",
                "resources.bash.tools.allow[0]",
                "resources.odd.backend",
                "resources.probe.max_sesions",
                "resources.probe.tools.deny[0]",
                "resources.vm",
                "server.log.level",
                "server.tokens[0]",
                "warmup.resources[1]",
            ],
            "{text}"
        );
    }
}

#[test]
fn without_a_file_every_backend_that_needs_no_configuration_runs() {
    let output = cli(&["check"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.starts_with("ok: 2 resources"), "{output:?}");
    assert_eq!(stdout(&cli(&["exec", "probe:add", "by=2"])), 2);
    let file = config(&json!({ "resources": { "bash": {} } }));
    let text = String::from_utf8(cli(&["check", "--config", file.path().to_str().unwrap()]).stdout).unwrap();
    assert!(text.starts_with("ok: 1 resource, "), "{text}");
    assert!(
        text.contains("\nlinked, not configured: probe, apis.")
            && text.contains(", apis.fetch,")
            && text.contains("\noff: ")
            && text.contains("web:fetch"),
        "{text}"
    );
}

#[test]
fn a_reader_that_left_and_a_full_disk_are_no_panic() {
    for args in
        [&["tools", "--json"][..], &["tools"], &["check"], &["check", "--schema"], &["exec", "util:echo", "message=m"]]
    {
        let mut child = Command::new(SERVER).args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), &*output.stderr), (Some(141), &b""[..]), "{args:?}: {output:?}");
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = Command::new(SERVER).args(args).stdout(full).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), text.lines().count()), (Some(2), 1), "{args:?}: {output:?}");
        assert!(text.starts_with("error: standard output"), "{text}");
    }
}

#[test]
fn an_interrupted_exec_cleans_up_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::probe();
    let url = format!("http://{}", server.address);
    for (number, signal) in [libc::SIGINT, libc::SIGTERM].into_iter().enumerate() {
        for own in [true, false] {
            let (begun, trace) = (folder.path().join(format!("{number}{own}")), folder.path().join("trace"));
            let mut command = Command::new(SERVER);
            command.args(["exec", "probe:hold", "ms=120000", "--timeout", "100"]).env("PROBE_TRACE", &trace);
            command.env("PROBE_BEGUN", &begun).stderr(Stdio::piped());
            if !own {
                command.args(["--server", &url]);
            }
            let mut child = command.stdout(Stdio::null()).spawn().unwrap();
            if own {
                until("the tool runs", || begun.exists());
            } else {
                until("the tool runs", || server.counts()["initialized"] == number + 1);
            }
            kill(&child, signal);
            assert_eq!(child.wait().unwrap().code(), Some(1));
            let mut text = String::new();
            child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
            assert!(text.starts_with("cancelling run_") && text.ends_with("error: interrupted\n"), "{text}");
            if own {
                assert!(!std::fs::read_to_string(&trace).unwrap().is_empty(), "the session was cleaned up");
                std::fs::remove_file(&trace).unwrap();
            }
        }
    }
}

#[test]
fn what_is_wrong_with_the_server_is_said_in_words_of_the_command_line() {
    let server = Server::start(&json!({ "server": { "tokens": ["secret"] }, "resources": { "probe": {} } }));
    let url = format!("http://{}", server.address);
    let file = config(&json!({}));
    for (args, code, expected) in [
        (&["exec", "probe:add", "--server", &url][..], 2, "--token or SANDBOX_TOKEN"),
        (&["sessions", "--server", &url], 1, "--token or SANDBOX_TOKEN"),
        (&["sessions", "--server", &url, "--token", "wrong"], 1, "does not know the token"),
        (&["sessions", "--server", "127.0.0.1:1"], 2, "such as http://127.0.0.1:18890"),
        (&["exec", "a:b", "--server", &url, "--config", file.path().to_str().unwrap()], 2, "--config is for"),
    ] {
        let output = cli(args);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(text.contains(expected) && !text.contains("Bearer"), "{args:?}: {text}");
    }
    let help = String::from_utf8(cli(&["exec", "--help"]).stdout).unwrap();
    assert!(help.contains("Exit codes: 0"), "{help}");
    assert!(String::from_utf8(cli(&["--version"]).stdout).unwrap().starts_with("probe-server "));
    let refused = server.post("/execute", &json!({ "worker_id": "w", "action": "probe:add" }));
    assert!(
        refused.status == 401 && refused.head.to_lowercase().contains("\r\nwww-authenticate: bearer"),
        "{refused:?}"
    );
}

#[test]
fn doctor_starts_every_resource_and_says_what_is_missing() {
    let fine = cli(&["doctor", "--json"]);
    let found = stdout(&fine);
    let bash = found.as_array().unwrap().iter().find(|resource| resource["resource"] == "bash").unwrap().clone();
    assert_eq!((fine.status.code(), &bash["last_error"]), (Some(0), &Value::Null), "{found}");
    let isolation = &bash["facts"]["isolation"];
    assert_eq!(isolation["tier"] == "A", isolation["missing"] == json!([]), "{isolation}");
    let text = cli(&["doctor"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("bash starts") && text.contains("tier: "), "{text}");
    for (path, reason) in [("/nonexistent", "something that exists"), ("/tmp", "would be hidden")] {
        let config = config(&json!({ "resources": { "bash": { "config": { "read_only_paths": [path] } } } }));
        let ill = cli(&["doctor", "--config", config.path().to_str().unwrap()]);
        let text = String::from_utf8(ill.stdout).unwrap();
        assert!(ill.status.code() == Some(1) && text.contains("bash does not start"), "{text}");
        assert!(text.contains(reason), "{text}");
    }
}

#[test]
fn a_server_that_asks_for_more_isolation_than_there_is_does_not_start_it() {
    let config = config(&json!({ "resources": { "bash": { "config": { "strict": "A" } } } }));
    // As an ordinary user, who has no control group.
    let output = Command::new("unshare")
        .args(["-U", "--map-user=1234", "--map-group=1234", SERVER, "doctor", "--config"])
        .arg(config.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    for expected in ["bash does not start", "tier B", "`strict` asks for A", "Delegate=yes"] {
        assert!(text.contains(expected), "{expected} is missing in: {text}");
    }
}

#[test]
fn tools_of_a_running_server_are_its_own() {
    let server = Server::start(&json!({ "resources": { "only": { "backend": "probe" } } }));
    let url = format!("http://{}", server.address);
    let listed = stdout(&cli(&["tools", "--json", "--server", &url]));
    let names: Vec<_> = listed.as_array().unwrap().iter().map(|tool| tool["full_name"].as_str().unwrap()).collect();
    assert!(names.contains(&"only:add") && !names.contains(&"bash:run"), "{names:?}");
    let nobody = cli(&["tools", "--server", "http://127.0.0.1:1"]);
    assert_eq!(nobody.status.code(), Some(2), "{nobody:?}");
    let both = cli(&["tools", "--server", &url, "--config", "x.json"]);
    assert!(String::from_utf8_lossy(&both.stderr).contains("--config is for"), "{both:?}");
}

#[test]
fn shells_complete_the_commands() {
    for (shell, holds) in [("bash", "complete -F"), ("zsh", "#compdef"), ("fish", "complete -c")] {
        let output = cli(&["completions", shell]);
        let script = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && script.contains(holds) && script.contains("doctor"), "{shell}: {script}");
        if shell == "bash" {
            // What it says is taken by the shell itself.
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), script).unwrap();
            assert!(Command::new("bash").arg("-n").arg(file.path()).status().unwrap().success());
        }
    }
    assert_eq!(cli(&["completions", "tcsh"]).status.code(), Some(2));
}
