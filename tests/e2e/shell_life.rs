//! What is left of shells: nothing, whatever ends them.

use std::{collections::BTreeMap, fs, process::Command};

use serde_json::json;

use crate::harness::{Server, until};

/// What a server has now.
#[derive(Debug, PartialEq, Eq)]
struct Belongings {
    descriptors: usize,
    processes: usize,
    mounts: usize,
    groups: usize,
    work_folders: usize,
}

/// The processes that descend from this one, itself left out.
fn descendants(of: u32) -> Vec<u32> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        parents.insert(pid, parent.unwrap_or(0));
    }
    let mut found = vec![of];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(parents.iter().filter(|(_, of)| **of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.remove(0);
    found
}

/// The control groups of this server's sandboxes.
fn groups(server: u32) -> usize {
    let name = format!("sandbox-{server}-");
    let found = Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-path", &format!("*/{name}*")]).output();
    String::from_utf8(found.unwrap().stdout).unwrap().lines().count()
}

impl Belongings {
    fn of(server: &Server, work: &std::path::Path) -> Self {
        let pid = server.process.id();
        let processes = descendants(pid);
        let mounts = processes.iter().filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok());
        Self {
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
            mounts: mounts.map(|mounts| mounts.lines().count()).sum(),
            processes: processes.len(),
            groups: groups(pid),
            work_folders: fs::read_dir(work).unwrap().count(),
        }
    }
}

#[test]
fn a_thousand_sessions_leave_nothing() {
    let work = tempfile::tempdir().unwrap();
    let config = json!({ "min_idle": 1, "workspace_dir": work.path() });
    let server = Server::start(&json!({ "resources": { "bash": { "config": config } } }));
    let cycle = |number: usize| {
        let worker = format!("w{}", number % 4);
        server.post("/session/create", &json!({ "worker_id": worker, "resource_type": "bash" })).data();
        // A daemon, a job, a file, long output.
        let command = "setsid sleep 1000 >/dev/null 2>&1 & sleep 1000 & echo x > f; seq 1 20000; echo done";
        let outcome = server.execute(&worker, "bash:run", &json!({ "command": command, "max_output_bytes": 100 }));
        assert!(outcome.data()["stdout"].as_str().unwrap().ends_with("done\n"), "{outcome:?}");
        server.post("/session/destroy", &json!({ "worker_id": worker, "resource_type": "bash" })).data();
    };
    // What is made once, and what the first calls leave in caches.
    (0..40).for_each(cycle);
    let mut before = None;
    until("the server is at rest", || {
        let now = Belongings::of(&server, work.path());
        let rests = before.as_ref() == Some(&now) && now.work_folders == 1;
        before = Some(now);
        std::thread::sleep(std::time::Duration::from_millis(300));
        rests
    });
    let before = before.unwrap();
    (0..1000).for_each(cycle);
    let mut after = Belongings::of(&server, work.path());
    until("everything is given back", || {
        after = Belongings::of(&server, work.path());
        // Keep-alive connections come and go with the client.
        after.descriptors <= before.descriptors + 4
            && (after.processes, after.mounts, after.groups, after.work_folders)
                == (before.processes, before.mounts, before.groups, before.work_folders)
    });
}

#[test]
fn kill_9_of_the_server_leaves_nothing() {
    let work = tempfile::tempdir().unwrap();
    let config = json!({ "resources": { "bash": { "config": { "min_idle": 2, "workspace_dir": work.path() } } } });
    let mut server = Server::start(&config);
    for worker in ["a", "b"] {
        server.post("/session/create", &json!({ "worker_id": worker, "resource_type": "bash" })).data();
        let command = "setsid sleep 1000 >/dev/null 2>&1 & (setsid nohup sleep 1000 >/dev/null 2>&1 &) ; echo x > f";
        server.execute(worker, "bash:run", &json!({ "command": command })).data();
    }
    let pid = server.process.id();
    let processes = descendants(pid);
    // The zygote, and for each of four sandboxes PID 1 and a shell, and four daemons.
    assert!(processes.len() >= 9, "{processes:?}");
    server.process.kill().unwrap();
    server.process.wait().unwrap();
    until("all processes are gone", || processes.iter().all(|pid| !fs::exists(format!("/proc/{pid}")).unwrap()));
    until("no work folder is left", || fs::read_dir(work.path()).unwrap().count() == 0);
    until("no control group is left", || groups(pid) == 0);
}

#[test]
fn a_killed_zygote_is_replaced_and_its_sessions_are_said_to_be_gone() {
    let server = Server::start(&json!({ "resources": { "bash": {} } }));
    server.post("/session/create", &json!({ "worker_id": "w", "resource_type": "bash" })).data();
    let zygote = descendants(server.process.id())[0];
    crate::harness::signal(zygote, libc::SIGKILL);
    until("the session is known to be gone", || {
        server.execute("w", "bash:run", &json!({ "command": "true" })).code() == 4010
    });
    server.post("/session/create", &json!({ "worker_id": "w", "resource_type": "bash" })).data();
    let outcome = server.execute("w", "bash:run", &json!({ "command": "echo again" }));
    assert_eq!(outcome.data()["stdout"], "again\n");
}
