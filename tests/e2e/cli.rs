//! The command line.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::harness::{SERVER, Server};

fn cli(args: &[&str]) -> Output {
    Command::new(SERVER).args(args).output().unwrap()
}

fn stdout(output: &Output) -> Value {
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
    assert_eq!((failed.status.code(), stdout(&failed)["code"].as_u64()), (Some(1), Some(4003)));
    let unknown = cli(&["exec", "util:ecko", "message=m"]);
    assert_eq!(unknown.status.code(), Some(1));
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
