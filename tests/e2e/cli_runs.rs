//! The command line and runs: what is shown while a tool runs, its interruption, and the runs of a server.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{FromRawFd as _, OwnedFd},
    process::{Child, ChildStderr, Command, Stdio},
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    cli::{cli, stdout},
    harness::{SERVER, Server, kill, signal, until},
};

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs a command with the server named by the environment.
fn on(server: &Server, args: &[&str]) -> std::process::Output {
    let mut command = Command::new(SERVER);
    command.args(args).env("SANDBOX_SERVER", format!("http://{}", server.address)).output().unwrap()
}

/// `on`, left running.
fn begin(server: &Server, args: &[&str]) -> (Child, BufReader<ChildStderr>) {
    let mut command = Command::new(SERVER);
    command.args(args).env("SANDBOX_SERVER", format!("http://{}", server.address));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    (child, stderr)
}

fn line(reader: &mut BufReader<ChildStderr>) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    line
}

/// The end of a command: its code, the JSON it printed, and what it said last.
fn end(mut child: Child, mut stderr: BufReader<ChildStderr>) -> (Option<i32>, Value, String) {
    let (mut result, mut said) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut result).unwrap();
    stderr.read_to_string(&mut said).unwrap();
    (child.wait().unwrap().code(), serde_json::from_str(&result).unwrap_or_default(), said)
}

fn detach(server: &Server, args: &[&str]) -> String {
    let output = on(server, &[&["exec", "--detach"], args].concat());
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""), "{output:?}");
    String::from_utf8(output.stdout).unwrap().strip_suffix('\n').unwrap().to_owned()
}

#[test]
fn in_a_pipe_there_is_the_result_alone_unless_more_is_asked_for() {
    for (more, said) in
        [(&[][..], ""), (&["--quiet"], ""), (&["--live"], "00000000 xxxxxx\n00000001 xxxxxx\n00000002 xxxxxx\n")]
    {
        let output = cli(&[&["exec", "probe:talk", "lines=3"], more].concat());
        assert_eq!((output.status.code(), &*output.stdout, &*stderr(&output)), (Some(0), &b"48\n"[..], said));
    }
    let output = cli(&["exec", "probe:steps", "to=3", "--live"]);
    assert_eq!(
        (&*output.stdout, stderr(&output).lines().last()),
        (&b"3\n"[..], Some("3/3 steps")),
        "a bar is for a terminal"
    );
    let output = cli(&["exec", "probe:talk", "lines=1", "--live", "--json"]);
    assert_eq!((&stdout(&output)["data"], stderr(&output).lines().count()), (&json!(16), 1));
    let output = cli(&["exec", "probe:talk_and_fail", "--live"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "oh\nerror: BUSINESS_FAILURE (4001): no\n", "an open line is ended");
    let output = cli(&["exec", "probe:write", "stream=stdout", "chunks=[[255,27,91,10]]", "--live"]);
    assert_eq!(output.stderr, [255, 27, 91, 10], "bytes as they are");
    assert_eq!(cli(&["exec", "probe:talk", "lines=1", "--live", "--quiet"]).status.code(), Some(2));
}

#[test]
fn a_detached_run_is_looked_after_from_the_command_line() {
    let server = Server::probe();
    let id = detach(&server, &["probe:talk", "lines=20", "pause_ms=20"]);
    let followed = on(&server, &["runs", "follow", &id, "--live"]);
    assert_eq!((followed.status.code(), stdout(&followed)), (Some(0), json!(320)));
    assert_eq!(stderr(&followed).lines().count(), 20);
    let later = on(&server, &["runs", "follow", &id, "--from", "20", "--live", "--json"]);
    assert_eq!((&stdout(&later)["data"], stderr(&later).lines().count()), (&json!(320), 1));
    let quiet = on(&server, &["runs", "follow", &id]);
    assert_eq!((stdout(&quiet), &*stderr(&quiet)), (json!(320), ""));
    let shown = on(&server, &["runs", "show", &id, "--wait", "20", "--json"]);
    assert_eq!((&stdout(&shown)["state"], &stdout(&shown)["answer"]["data"]), (&json!("succeeded"), &json!(320)));
    let last = stdout(&shown)["last_event_id"].to_string();
    let over = on(&server, &["runs", "follow", &id, "--from", &last]);
    assert_eq!((over.status.code(), stdout(&over)), (Some(0), json!(320)), "its answer, where nothing else is left");
    let text = String::from_utf8(on(&server, &["runs", "show", &id]).stdout).unwrap();
    assert!(text.contains("succeeded since") && text.contains("probe:talk") && text.ends_with("320\n"), "{text}");

    let url = format!("http://{}", server.address);
    let held = cli(&["exec", "probe:hold", "ms=60000", "--detach", "--json", "--server", &url]);
    let held = stdout(&held)["run_id"].as_str().unwrap().to_owned();
    until("it runs", || stdout(&on(&server, &["runs", "show", &held, "--json"]))["state"] == "running");
    for listing in [
        &["runs", "--server", &url][..],
        &["runs", "list", "--server", &url],
        &["runs", "--server", &url, "--worker", "cli", "list"],
    ] {
        let text = String::from_utf8(cli(listing).stdout).unwrap();
        let place = |id: &str| text.find(id).unwrap_or_else(|| panic!("{id} is missing in: {text}"));
        assert!(place(&held) < place(&id), "the latest first: {text}");
        assert!(text.contains("running since") && text.contains(", detached"), "{text}");
    }
    assert_eq!(stdout(&on(&server, &["runs", "--json"])).as_array().unwrap().len(), 2);
    let none = on(&server, &["runs", "--worker", "other"]);
    assert_eq!(none.stdout, b"worker `other` has no runs\n");
    let cancelled = on(&server, &["runs", "cancel", &held]);
    assert_eq!(String::from_utf8(cancelled.stdout).unwrap(), format!("{held} was told to end\n"));
    let followed = on(&server, &["runs", "follow", &held]);
    assert_eq!((followed.status.code(), &*followed.stdout), (Some(1), &b""[..]));
    assert!(stderr(&followed).starts_with("error: CANCELLED (5020): "), "{followed:?}");
    let again = on(&server, &["runs", "cancel", &held]);
    assert_eq!(String::from_utf8(again.stdout).unwrap(), format!("{held} is over: cancelled\n"));
    assert_eq!(stdout(&on(&server, &["runs", "cancel", &held, "--json"]))["cancelled"], false);
}

#[test]
fn what_is_wrong_with_a_run_is_said_and_told_by_the_exit_code() {
    let server = Server::start(&json!({ "server": { "tokens": ["secret"] }, "resources": { "probe": {} } }));
    let url = format!("http://{}", server.address);
    for (args, code, expected) in [
        (&["exec", "probe:wait", "ms=1", "--detach"][..], 2, "--detach needs a running server"),
        (&["runs"], 2, "--server URL or SANDBOX_SERVER"),
        (&["runs", "follow", "run_1"], 2, "--server URL or SANDBOX_SERVER"),
        (&["runs", "show"], 2, "<ID>"),
        (&["runs", "show", "run_1", "--wait", "-1", "--server", &url], 2, "--wait"),
        (&["runs", "--server", "http://127.0.0.1:1"], 2, "does not answer"),
        (&["runs", "--server", &url], 1, "--token or SANDBOX_TOKEN"),
        (&["runs", "follow", "run_1", "--server", &url, "--token", "wrong"], 1, "does not know the token"),
        (&["runs", "show", "run_1", "--server", &url, "--token", "secret"], 1, "no run `run_1`"),
        (&["runs", "follow", "run_1", "--server", &url, "--token", "secret"], 1, "no run `run_1`"),
        (&["runs", "cancel", "run_1", "--server", &url, "--token", "secret"], 1, "no run `run_1`"),
        (&["exec", "probe:nothing", "--detach", "--server", &url, "--token", "secret"], 2, "probe:nothing"),
    ] {
        let output = cli(args);
        assert_eq!((output.status.code(), &*output.stdout), (Some(code), &b""[..]), "{args:?}: {output:?}");
        assert!(stderr(&output).contains(expected), "{args:?}: {output:?}");
    }
    let output = cli(&["exec", "probe:talk", "lines=1", "--live", "--server", &url, "--token", "secret"]);
    assert_eq!((&*output.stdout, &*stderr(&output)), (&b"16\n"[..], "00000000 xxxxxx\n"));
}

#[test]
fn an_interrupted_call_is_cancelled_and_its_end_is_shown() {
    let server = Server::probe();
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let (child, mut said) = begin(&server, &["exec", "probe:wait_for_token", "--live"]);
        let mut begun = [0; 5];
        said.read_exact(&mut begun).unwrap();
        assert_eq!(&begun, b"begun");
        kill(&child, signal);
        let (code, result, said) = end(child, said);
        assert_eq!((code, result), (Some(1), json!("told")), "the tool saw its token, and its answer came");
        let lines: Vec<_> = said.lines().collect();
        assert!(lines[1].starts_with("cancelling run_") && lines[1].ends_with("; again to leave at once"), "{said}");
        assert_eq!((lines[0], &lines[2..]), ("", &["told", "error: interrupted"][..]), "{said}");
    }
    let (child, mut said) = begin(&server, &["exec", "probe:hold", "ms=60000"]);
    until("it runs", || stdout(&on(&server, &["runs", "--json"]))[0]["state"] == "running");
    kill(&child, libc::SIGINT);
    let cancelling = line(&mut said);
    assert!(cancelling.starts_with("cancelling run_"), "{cancelling}");
    let (code, _, said) = end(child, said);
    assert_eq!(code, Some(1));
    assert!(said.starts_with("error: CANCELLED (5020): ") && said.ends_with("\nerror: interrupted\n"), "{said}");
    assert_eq!(stdout(&on(&server, &["runs", "--json"]))[0]["state"], "cancelled");
}

/// Stands between a command and the server; what it does when a call comes by decides whether the call goes on.
fn between(server: &Server, on_call: impl Fn() -> bool + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, server, on_call) = (listener.local_addr().unwrap(), server.address, Arc::new(on_call));
    thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut upstream) = (client.unwrap(), TcpStream::connect(server).unwrap());
            let (mut back, mut answers) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut answers, &mut back));
            let on_call = on_call.clone();
            thread::spawn(move || {
                let mut piece = [0; 10_000];
                while let Ok(read @ 1..) = client.read(&mut piece) {
                    if piece.starts_with(b"POST /api/v1/execute") && !on_call() {
                        let _ = client.shutdown(Shutdown::Both);
                        break;
                    }
                    upstream.write_all(&piece[..read]).unwrap();
                }
                let _ = upstream.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

#[test]
fn a_call_that_may_have_run_is_not_taken_for_one_that_has_not() {
    let server = Server::probe();
    let cut = format!("http://{}", between(&server, || false));
    for more in [&[][..], &["--detach"]] {
        let output = cli(&[&["exec", "probe:talk", "--server", &cut], more].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
    }
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = cli(&["exec", "probe:talk", "--server", &format!("http://{nobody}")]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_call_that_is_interrupted_before_it_is_detached_is_cancelled() {
    let server = Server::probe();
    let (known, pid) = (Arc::new(OnceLock::new()), Arc::new(OnceLock::<u32>::new()));
    let (sender, of_command) = (known.clone(), pid.clone());
    let url = format!(
        "http://{}",
        between(&server, move || {
            until("the command is known", || of_command.get().is_some());
            signal(*of_command.get().unwrap(), libc::SIGINT);
            // Its answer comes after the signal.
            thread::sleep(Duration::from_millis(300));
            sender.set(()).is_ok()
        })
    );
    let mut command = Command::new(SERVER);
    command.args(["exec", "--detach", "probe:wait", "ms=60000", "--server", &url, "--worker", "w"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    pid.set(child.id()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b""[..]), "{output:?}");
    assert!(known.get().is_some(), "the call came by");
    let runs = server.raw("GET", "/runs", &[("X-Worker-ID", "w")], b"");
    until("it is cancelled", || {
        let runs = server.raw("GET", "/runs", &[("X-Worker-ID", "w")], b"");
        runs.data()["runs"][0]["state"] == "cancelled"
    });
    assert_eq!(runs.data()["count"], 1);
}

#[test]
fn the_second_signal_leaves_at_once() {
    let server = Server::probe();
    let (child, mut said) = begin(&server, &["exec", "probe:hold", "ms=60000"]);
    until("it runs", || stdout(&on(&server, &["runs", "--json"]))[0]["state"] == "running");
    kill(&child, libc::SIGINT);
    assert!(line(&mut said).starts_with("cancelling run_"));
    kill(&child, libc::SIGINT);
    assert_eq!(end(child, said), (Some(1), Value::Null, "error: interrupted\n".to_owned()));
    until("it ended all the same", || stdout(&on(&server, &["runs", "--json"]))[0]["state"] == "cancelled");
}

#[test]
fn who_stops_following_leaves_the_run_alone() {
    let server = Server::probe();
    let id = detach(&server, &["probe:talk", "lines=100000", "pause_ms=10"]);
    let (child, mut said) = begin(&server, &["runs", "follow", &id, "--live"]);
    assert_eq!(line(&mut said), "00000000 xxxxxx\n");
    kill(&child, libc::SIGINT);
    let (code, result, said) = end(child, said);
    assert_eq!((code, result), (Some(1), Value::Null));
    let last = said.lines().last().unwrap();
    assert_eq!(last, format!("{id} goes on; cancel it with: probe-server runs cancel {id}"));
    assert_eq!(stdout(&on(&server, &["runs", "show", &id, "--json"]))["state"], "running");
    on(&server, &["runs", "cancel", &id]);
}

/// Runs with a terminal as standard error; the exit code, standard output, and what the terminal got.
fn on_terminal(args: &[&str]) -> (Option<i32>, String, String) {
    let size = libc::winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    let (mut master, mut slave) = (-1, -1);
    #[expect(unsafe_code, reason = "a call without a safe wrapper")]
    // SAFETY: both descriptors are written before they are read, the names and settings are left out, and what is opened
    // belongs to nobody else.
    let (master, slave) = unsafe {
        let opened =
            libc::openpty(&raw mut master, &raw mut slave, std::ptr::null_mut(), std::ptr::null(), &raw const size);
        assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
        (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
    };
    let mut command = Command::new(SERVER);
    command.args(args).env("TERM", "xterm-256color").env_remove("NO_COLOR").stdout(Stdio::piped()).stderr(slave);
    let mut child = command.spawn().unwrap();
    // It holds the other end, and as long as that is open the terminal does not end.
    drop(command);
    let reader = thread::spawn(move || {
        let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
        // A terminal that nobody holds any more ends with an error.
        while let Ok(read @ 1..) = File::read(&mut File::from(master.try_clone().unwrap()), &mut piece) {
            bytes.extend_from_slice(&piece[..read]);
        }
        String::from_utf8(bytes).unwrap()
    });
    let mut result = String::new();
    child.stdout.take().unwrap().read_to_string(&mut result).unwrap();
    (child.wait().unwrap().code(), result, reader.join().unwrap())
}

#[test]
fn a_terminal_gets_output_and_a_bar_and_nothing_that_drives_it() {
    let (code, result, shown) = on_terminal(&["exec", "probe:talk", "lines=2"]);
    assert_eq!((code, &*result, &*shown), (Some(0), "32\n", "00000000 xxxxxx\r\n00000001 xxxxxx\r\n"));
    let (_, result, shown) = on_terminal(&["exec", "probe:talk", "lines=2", "--quiet"]);
    assert_eq!((&*result, &*shown), ("32\n", ""));
    let (_, _, shown) = on_terminal(&["exec", "probe:talk_and_fail"]);
    assert!(shown.starts_with("\x1b[2moh\x1b[0m\r\n") && shown.contains("error:"), "{shown:?}");
    // A title, a bell, a colour and a control character in UTF-8, cut within the sequence.
    let chunks = "chunks=[[97,27,93,48],[59,120,7,98,7],[27,91,51,49,109,99,194,155,10]]";
    let (_, _, shown) = on_terminal(&["exec", "probe:write", "stream=stdout", chunks]);
    assert_eq!(shown, "abc\r\n");
    let (_, result, shown) = on_terminal(&["exec", "probe:steps", "to=5", "pause_ms=120"]);
    assert!(shown.contains("] 5/5 steps") || shown.contains("] 4/5 steps"), "{shown:?}");
    assert!(shown.ends_with("\r\x1b[2K") && result == "5\n", "the bar is gone at the end: {shown:?}");
}

#[test]
fn output_stands_above_the_bar() {
    let server = Server::probe();
    let steps = json!({ "action": "probe:steps", "params": { "to": 30, "pause_ms": 30 } });
    let talk = json!({ "action": "probe:talk", "params": { "lines": 15, "pause_ms": 50 } });
    let body = json!({ "worker_id": "cli", "parallel": true, "actions": [steps, talk, { "action": "probe:nothing" }] });
    let mut stream = server.open("POST", "/execute/batch", &[], body.to_string().as_bytes());
    let id = stream.started();
    let url = format!("http://{}", server.address);
    let (code, result, shown) = on_terminal(&["runs", "follow", &id, "--server", &url]);
    assert_eq!(code, Some(1), "an action failed");
    assert_eq!(serde_json::from_str::<Value>(&result).unwrap()["success_count"], 2);
    assert!(shown.contains("] 15/30 action 0 steps") || shown.contains("] 16/30 action 0 steps"), "{shown:?}");
    for number in 0..15 {
        let line = format!("{number:08} xxxxxx\r\n");
        let at = shown.find(&line).unwrap_or_else(|| panic!("{line} is missing in: {shown:?}"));
        let before = &shown[..at];
        assert!(before.is_empty() || before.ends_with(['\n', '\r', 'K', 'm']), "on a line of its own: {shown:?}");
    }
    for note in ["action 0 succeeded", "action 1 succeeded", "action 2 failed: INVALID_REQUEST_FORMAT"] {
        assert!(shown.contains(note), "{note} is missing in: {shown:?}");
    }
}
