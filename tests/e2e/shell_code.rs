//! Python and JavaScript in a shell's sandbox, and its way out, over HTTP.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
};

use serde_json::{Value, json};

use crate::harness::{Server, until};

fn create(server: &Server, config: &Value) {
    server
        .post("/session/create", &json!({ "worker_id": "w", "resource_type": "bash", "session_config": config }))
        .data();
}

fn call(server: &Server, tool: &str, params: &Value) -> Value {
    server.execute("w", &format!("bash:{tool}"), params).data().clone()
}

#[test]
fn python_runs_once_or_with_its_state() {
    let server = Server::start(&json!({ "resources": { "bash": {} } }));
    create(&server, &json!({ "env": { "GIVEN": "yes" } }));
    let code = |params: &Value| {
        let mut all = json!({ "language": "python" });
        all.as_object_mut().unwrap().extend(params.as_object().unwrap().clone());
        call(&server, "code", &all)
    };
    let once = code(&json!({
        "code": "import os, sys, helper\nprint(os.environ['GIVEN'], helper.x)\nprint('err', file=sys.stderr)\nopen('made.txt', 'w').write('abc')\n6 * 7",
        "files": { "helper.py": "x = 1", "raw.bin": { "base64": "AP8=" } },
    }));
    assert_eq!(call(&server, "run", &json!({ "command": "od -An -tx1 raw.bin" }))["stdout"], " 00 ff\n");
    assert_eq!(
        (&once["exit_code"], &once["stdout"], &once["stderr"], &once["result"]),
        (&json!(0), &json!("yes 1\n"), &json!("err\n"), &json!("42"))
    );
    assert!(once["files"].as_array().unwrap().contains(&json!({ "path": "/workspace/made.txt", "size": 3 })), "{once}");
    let failed = code(&json!({ "code": "def f():\n    return 1 / 0\n\nf()" }));
    let text = failed["stderr"].as_str().unwrap();
    assert_eq!(failed["exit_code"], 1);
    assert!(
        text.contains("File \"main.py\", line 4")
            && text.contains("return 1 / 0")
            && text.contains("ZeroDivisionError"),
        "{text}"
    );
    assert!(!text.contains(".sbx"), "{text}");
    assert_eq!(code(&json!({ "code": "import sys; print('bye'); sys.exit(3)" }))["exit_code"], 3);
    assert_eq!(code(&json!({ "code": "input()" }))["exit_code"], 1, "standard input is empty");
    let stateful = |text: &str| code(&json!({ "code": text, "stateful": true }));
    stateful("x = [1]\nimport threading");
    let again = stateful("x.append(2)\nx");
    assert_eq!((&again["result"], &again["state_lost"]), (&json!("[1, 2]"), &json!(false)));
    assert_eq!(stateful("raise ValueError('no')")["exit_code"], 1);
    let slow =
        code(&json!({ "code": "print('begun', flush=True)\nwhile True: pass", "stateful": true, "timeout_ms": 500 }));
    assert_eq!(
        (&slow["timed_out"], &slow["stdout"], &slow["state_lost"]),
        (&json!(true), &json!("begun\n"), &json!(false))
    );
    assert_eq!(stateful("len(x)")["result"], "2", "an interrupt keeps the state");
    let deaf = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass";
    let killed = code(&json!({ "code": deaf, "stateful": true, "timeout_ms": 300 }));
    assert_eq!(
        (&killed["timed_out"], &killed["exit_code"], &killed["state_lost"]),
        (&json!(true), &json!(137), &json!(true))
    );
    assert_eq!(stateful("x")["exit_code"], 1, "a new one");
    let forged = stateful(
        "import glob\nfor f in glob.glob('/.sbx/*r'):\n    try: open(f, 'w').write('{\"nonce\": \"\", \"ok\": true}\\n')\n    except OSError: pass\n'honest'",
    );
    assert_eq!(forged["result"], "'honest'");
    // A copy of the interpreter takes no part in what follows.
    let own = stateful("import os\nchild = os.fork()\nos.getpid()")["result"].clone();
    for _ in 0..5 {
        assert_eq!(stateful("os.getpid()")["result"], own);
    }
    let jobs = call(&server, "jobs", &json!({}));
    assert_eq!(jobs["jobs"], json!([]), "an interpreter is no job");
}

#[test]
fn javascript_runs_once_or_with_its_state() {
    let server = Server::start(&json!({ "resources": { "bash": {} } }));
    create(&server, &json!({}));
    if call(&server, "run", &json!({ "command": "node -v" }))["exit_code"] != 0 {
        let missing = server.execute("w", "bash:code", &json!({ "language": "node", "code": "1" }));
        assert!(missing.code() == 4000 && missing.body["message"].as_str().unwrap().contains("no node"), "{missing:?}");
        return;
    }
    let code = |text: &str, stateful: bool| {
        call(&server, "code", &json!({ "language": "node", "code": text, "stateful": stateful, "timeout_ms": 20_000 }))
    };
    let once = code("const fs = require('fs'); console.log(process.cwd()); console.error('e'); ({ a: [1, 2] })", false);
    assert_eq!(
        (&once["stdout"], &once["stderr"], &once["result"]),
        (&json!("/workspace\n"), &json!("e\n"), &json!("{ a: [ 1, 2 ] }"))
    );
    assert_eq!(code("new Promise(done => setTimeout(() => done('later'), 50))", false)["result"], "'later'");
    let failed = code("function f() { throw new Error('bad') }\nf()", false);
    assert!(failed["exit_code"] == 1 && failed["stderr"].as_str().unwrap().contains("bad"), "{failed}");
    code("let x = 1; const y = 2", true);
    assert_eq!(code("x += y; x", true)["result"], "3");
    let slow =
        call(&server, "code", &json!({ "language": "node", "code": "for(;;);", "stateful": true, "timeout_ms": 400 }));
    assert_eq!((&slow["timed_out"], &slow["state_lost"]), (&json!(true), &json!(false)), "{slow}");
    assert_eq!(code("x", true)["result"], "3");
}

#[test]
fn code_on_its_own_ends_as_a_program_does() {
    let server = Server::start(&json!({ "resources": { "bash": {} } }));
    create(&server, &json!({}));
    let code = |language: &str, code: &str, timeout_ms: u64| {
        call(&server, "code", &json!({ "language": language, "code": code, "timeout_ms": timeout_ms }))
    };
    let python = "import atexit, threading, time\nkept = open('kept', 'w'); kept.write('data')\n\
                  atexit.register(lambda: print('exit'))\n\
                  def late(): time.sleep(0.2); print('late')\nthreading.Thread(target=late).start()\n'value'";
    let outcome = code("python", python, 20_000);
    assert_eq!(
        (&outcome["exit_code"], &outcome["stdout"], &outcome["result"]),
        (&json!(0), &json!("late\nexit\n"), &json!("'value'")),
        "{outcome}"
    );
    assert!(outcome["files"].as_array().unwrap().contains(&json!({ "path": "/workspace/kept", "size": 4 })));
    let node = "const fs = require('fs'); setTimeout(() => console.log('late'), 200);\n\
                fs.writeFile('written', 'data', () => console.log('written'));\n\
                fs.createWriteStream('streamed').end('more'); 7";
    let outcome = code("node", node, 20_000);
    assert_eq!(
        (&outcome["exit_code"], &outcome["stdout"], &outcome["result"]),
        (&json!(0), &json!("written\nlate\n"), &json!("7")),
        "{outcome}"
    );
    for (path, size) in [("written", 4), ("streamed", 4)] {
        assert!(
            outcome["files"]
                .as_array()
                .unwrap()
                .contains(&json!({ "path": format!("/workspace/{path}"), "size": size })),
            "{outcome}"
        );
    }
    // What fails afterwards fails the program.
    let outcome = code("node", "setTimeout(() => { throw new Error('late fault') }, 50); 1", 20_000);
    assert_eq!(outcome["exit_code"], 1);
    assert!(outcome["stderr"].as_str().unwrap().contains("late fault"), "{outcome}");
    let awaited = "setTimeout(() => { throw new Error('beside') }, 50); new Promise(done => setTimeout(done, 5000))";
    let outcome = code("node", awaited, 20_000);
    assert!(outcome["exit_code"] == 1 && outcome["stderr"].as_str().unwrap().contains("beside"), "{outcome}");
    // Its time limit counts for that too.
    let outcome =
        code("python", "import threading, time\nthreading.Thread(target=time.sleep, args=[300]).start()", 400);
    assert!(outcome["timed_out"] == true && outcome["duration_ms"].as_u64().unwrap() < 10_000, "{outcome}");
    let outcome = code("node", "setTimeout(() => {}, 300000)", 400);
    assert_eq!((&outcome["timed_out"], &outcome["exit_code"]), (&json!(true), &json!(130)), "{outcome}");
}

#[test]
fn a_sandbox_reaches_what_its_list_names_and_nothing_else() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, other) = (listener.local_addr().unwrap().port(), TcpListener::bind("127.0.0.1:0").unwrap());
    let closed = other.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // The whole head, which may come in pieces: what is closed with bytes unread resets the connection.
            let mut head = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
            let body = format!("served {}", head.lines().next().unwrap_or_default());
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
                .unwrap();
        }
    });
    let allow = format!("127.0.0.1:{port}");
    let config = json!({ "resources": { "bash": { "config": { "egress": { "allow": [allow, "localhost:*", "*.example.com:443"] } } } } });
    let server = Server::start(&config);
    create(&server, &json!({}));
    let fetch = "import os, urllib.request, urllib.error\n\
                 def get(url):\n    handler = urllib.request.ProxyHandler({'http': os.environ['http_proxy']})\n    try: return urllib.request.build_opener(handler).open(url, timeout=10).read().decode()\n    except urllib.error.HTTPError as error: return str(error.code) + ' ' + error.read().decode().strip()\n";
    let get = |url: &str| {
        let code = format!("{fetch}print(get('{url}'))");
        let outcome = call(&server, "code", &json!({ "language": "python", "code": code }));
        assert_eq!(outcome["exit_code"], 0, "{outcome}");
        outcome["stdout"].as_str().unwrap().trim().to_owned()
    };
    let direct = call(&server, "run", &json!({ "command": "echo $no_proxy $NO_PROXY" }));
    assert_eq!(direct["stdout"], "::1 ::1\n", "what the list names is the host's");
    assert_eq!(get(&format!("http://127.0.0.1:{port}/path?x=1")), "served GET /path?x=1 HTTP/1.1");
    assert!(get(&format!("http://127.0.0.1:{closed}/")).starts_with("403 "), "not on the list");
    assert!(get(&format!("http://localhost:{closed}/")).contains("has no public address"), "on the list by name only");
    assert!(get("http://169.254.169.254/latest/meta-data/").starts_with("403 "));
    // A tunnel.
    let tunnel = format!(
        "exec 3<>/dev/tcp/127.0.0.1/3128; printf 'CONNECT 127.0.0.1:{port} HTTP/1.1\\r\\n\\r\\n' >&3; read -r line <&3; echo \"$line\"; read -r line <&3; printf 'GET /t HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
    );
    let outcome = call(&server, "run", &json!({ "command": tunnel }));
    let text = outcome["stdout"].as_str().unwrap();
    assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("served GET /t HTTP/1.0"), "{outcome}");
    // Not around the proxy, nor from the host.
    assert_ne!(
        call(&server, "run", &json!({ "command": format!("exec 3<>/dev/tcp/127.0.0.1/{port}") }))["exit_code"],
        0
    );
    assert!(std::net::TcpStream::connect("127.0.0.1:3128").is_err());
    // A session can only narrow.
    let wider = server.post(
        "/session/create",
        &json!({ "worker_id": "x", "resource_type": "bash", "session_config": { "egress": { "allow": ["*:443"] } } }),
    );
    assert!(wider.code() == 4000 && wider.body["message"].as_str().unwrap().contains("egress.allow"), "{wider:?}");
    let narrow = json!({ "worker_id": "n", "resource_type": "bash", "session_config": { "egress": { "allow": [] } } });
    server.post("/session/create", &narrow).data();
    let none =
        server.execute("n", "bash:run", &json!({ "command": "echo [$http_proxy]; exec 3<>/dev/tcp/127.0.0.1/3128" }));
    assert!(none.data()["stdout"] == "[]\n" && none.data()["exit_code"] != 0, "{none:?}");
}

#[test]
fn a_session_begins_with_its_files_and_limits() {
    let server =
        Server::start(&json!({ "resources": { "bash": { "config": { "env": { "A": "resource", "B": "b" } } } } }));
    create(
        &server,
        &json!({
            "env": { "A": "session" }, "cwd": "/workspace/sub", "memory_mib": 64,
            "files": { "/workspace/sub/f.txt": "text", "rel/g.txt": "more" },
        }),
    );
    let outcome = call(&server, "run", &json!({ "command": "echo $A $B; pwd; cat f.txt rel/g.txt" }));
    assert_eq!(outcome["stdout"], "session b\n/workspace/sub\ntextmore");
    let facts = &server.get("/ready").body["facts"]["bash"]["isolation"];
    if facts["tier"] == "A" {
        let bomb =
            call(&server, "run", &json!({ "command": "head -c 300000000 /dev/zero | tail; echo ${PIPESTATUS[1]}" }));
        assert_eq!(bomb["stdout"], "137\n");
    }
    for (config, word) in [
        (json!({ "memory_mib": 100_000 }), "memory_mib"),
        (json!({ "cwd": "/nowhere" }), "cwd"),
        (json!({ "cwd": "relative" }), "cwd"),
        (json!({ "env": { "1": "x" } }), "env"),
        (json!({ "files": { "/usr/x": "y" } }), "/usr/x"),
    ] {
        let refused = server
            .post("/session/create", &json!({ "worker_id": "x", "resource_type": "bash", "session_config": config }));
        assert!(
            refused.body["success"] == false && refused.body["message"].as_str().unwrap().contains(word),
            "{config}: {refused:?}"
        );
    }
}

#[test]
fn sandboxes_are_ready_before_they_are_asked_for() {
    let server = Server::start(&json!({ "resources": { "bash": { "config": { "min_idle": 3, "max_sessions": 4 } } } }));
    let zygotes = || {
        std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter(|entry| {
                let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
                let parent =
                    stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1).map(str::to_owned));
                parent == Some(server.process.id().to_string())
            })
            .count()
    };
    until("the zygote runs", || zygotes() == 1);
    for number in 0..4 {
        let body = json!({ "worker_id": format!("w{number}"), "resource_type": "bash" });
        until("there is a place", || server.post("/session/create", &body).body["success"] == true);
    }
    let full = server.post("/session/create", &json!({ "worker_id": "more", "resource_type": "bash" }));
    assert!(full.code() == 4029 && full.body["message"].as_str().unwrap().contains("max_sessions"), "{full:?}");
    server.post("/session/destroy", &json!({ "worker_id": "w0", "resource_type": "bash" })).data();
    until("the place is free again", || {
        server.post("/session/create", &json!({ "worker_id": "more", "resource_type": "bash" })).body["success"] == true
    });
}
