//! The files of a shell's sandbox, over HTTP.

use serde_json::json;

use crate::{bytes::WORKER, shell::Shell};

#[test]
fn files_are_written_and_read_as_the_shells_user() {
    let shell = Shell::new();
    let written = shell.call("write", &json!({ "path": "a/b/f.txt", "content": "häl\nlo\n" }));
    assert_eq!(written["total_bytes"], 8);
    assert_eq!(shell.sh("stat -c '%U %a' a/b/f.txt a/b; cat a/b/f.txt"), "sandbox 644\nsandbox 755\nhäl\nlo\n");
    let read = shell.call("read", &json!({ "path": "/workspace/a/b/f.txt" }));
    assert_eq!(
        (&read["content"], &read["encoding"], &read["truncated"]),
        (&json!("häl\nlo\n"), &json!("utf-8"), &json!(false))
    );
    assert_eq!(read["sha256"], written["sha256"]);
    // A part that would end within a character ends before it.
    let part = shell.call("read", &json!({ "path": "a/b/f.txt", "limit": 2 }));
    assert_eq!((&part["content"], &part["next_offset"], &part["truncated"]), (&json!("h"), &json!(1), &json!(true)));
    shell.sh("cd a; printf '\\x00\\xff' > bin; chmod 755 bin");
    let binary = shell.call("read", &json!({ "path": "bin" }));
    assert_eq!((&binary["content"], &binary["encoding"]), (&json!("AP8="), &json!("base64")));
    shell.call("write", &json!({ "path": "bin", "content": "AP8A", "encoding": "base64" }));
    assert_eq!(shell.sh("stat -c '%s %a' bin"), "3 755\n", "the mode stays");
    shell.call("write", &json!({ "path": "log", "content": "one\n", "append": true }));
    shell.call("write", &json!({ "path": "log", "content": "two\n", "append": true, "mode": "600" }));
    assert_eq!(shell.sh("cat log; ls -A"), "one\ntwo\nb\nbin\nlog\n", "nothing is left beside them");
    assert_eq!(
        shell.sh("cat /usr/lib/os-release | head -c 3"),
        shell.call("read", &json!({ "path": "/usr/lib/os-release", "limit": 3 }))["content"]
    );
    for (params, code) in [
        (json!({ "path": "nothing" }), 4014),
        (json!({ "path": "." }), 4000),
        (json!({ "path": "/proc/1/environ" }), 4000),
        (json!({ "path": "/dev/zero" }), 4000),
        (json!({ "path": "" }), 4000),
    ] {
        assert_eq!(shell.refused("read", &params).0, code, "{params}");
    }
    for path in ["/usr/x", "/x", "/etc/passwd", "/.sbx/c", "/proc/sys/kernel/core_pattern"] {
        let (code, message) = shell.refused("write", &json!({ "path": path, "content": "x" }));
        assert!([4000, 4013].contains(&code), "{path}: {code} {message}");
    }
}

#[test]
fn no_link_leads_out_of_the_sandbox() {
    let shell = Shell::new();
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(outside.path(), "canary").unwrap();
    let path = outside.path().to_str().unwrap();
    shell.sh(&format!(
        "ln -s {path} file; ln -s / root; ln -s ../../../../../../.. up; ln -s /workspace/real abs; ln -s loop loop; mkfifo fifo; echo good > real"
    ));
    for link in ["/proc/1/root/etc/shadow", "/proc/self/root/etc/shadow", "loop", "/etc/shadow"] {
        let (code, message) = shell.refused("read", &json!({ "path": link }));
        assert!([4000, 4013, 4014, 5000].contains(&code), "{link}: {code} {message}");
    }
    // They lead to places inside, where there may be something or not.
    for link in ["file", &format!("root{path}"), &format!("up{path}")] {
        let before = shell.server.execute("w", "bash:read", &json!({ "path": link })).body;
        let written = shell.server.execute("w", "bash:write", &json!({ "path": link, "content": "inside" })).body;
        let after = shell.server.execute("w", "bash:read", &json!({ "path": link })).body;
        assert!(!format!("{before}{written}{after}").contains("canary"), "{link}: {before} {written} {after}");
    }
    assert_eq!(std::fs::read_to_string(outside.path()).unwrap(), "canary");
    assert_eq!(shell.call("read", &json!({ "path": "abs" }))["content"], "good\n", "a link inside is followed");
    shell.call("write", &json!({ "path": "abs", "content": "better\n" }));
    assert_eq!(shell.sh("cat real; [ -L abs ] && echo still"), "better\nstill\n");
    let (code, message) = shell.refused("read", &json!({ "path": "fifo" }));
    assert!(code == 4000 && message.contains("a fifo is there"), "{message}");
    // While the sandbox swaps a folder for a link to the outside, again and again.
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().to_str().unwrap();
    let swap = format!("mkdir d; while :; do mv d e; ln -s {target} d; rm d; mv e d; done");
    shell.call("run", &json!({ "command": swap, "background": true }));
    for _ in 0..300 {
        let _ = shell.server.execute("w", "bash:write", &json!({ "path": "d/f", "content": "escaped" }));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn edits_are_exact() {
    let shell = Shell::new();
    shell.call("write", &json!({ "path": "f", "content": "one\ntwo\none\n" }));
    let (code, message) = shell.refused("edit", &json!({ "path": "f", "old_text": "one", "new_text": "1" }));
    assert!(code == 4000 && message.contains("2 times, in lines 1, 3"), "{message}");
    let edited = shell.call("edit", &json!({ "path": "f", "old_text": "one", "new_text": "1", "count": 2 }));
    assert_eq!((&edited["replacements"], &edited["total_bytes"]), (&json!(2), &json!(8)));
    let (code, _) =
        shell.refused("edit", &json!({ "path": "f", "old_text": "two", "new_text": "2", "expected_sha256": "00" }));
    assert_eq!(code, 4009);
    shell
        .call("edit", &json!({ "path": "f", "old_text": "two", "new_text": "2", "expected_sha256": edited["sha256"] }));
    assert_eq!(shell.sh("cat f"), "1\n2\n1\n");
    let (code, message) = shell.refused("edit", &json!({ "path": "f", "old_text": "three", "new_text": "" }));
    assert!(code == 4000 && message.contains("is not in"), "{message}");
    // Edits at once: none is lost.
    let words: Vec<_> = (10..40).map(|number| format!("w{number}")).collect();
    shell.call("write", &json!({ "path": "f", "content": words.join("\n") }));
    std::thread::scope(|scope| {
        for word in &words {
            let shell = &shell;
            scope.spawn(move || shell.call("edit", &json!({ "path": "f", "old_text": word, "new_text": "x" })));
        }
    });
    assert_eq!(shell.sh("sort f | uniq -c | xargs"), "30 x\n");
}

#[test]
fn diffs_change_all_their_files_or_none() {
    let shell = Shell::new();
    shell.sh("printf 'a\\nb\\nc\\n' > one; printf 'x\\n' > two; printf 'run\\n' > old");
    let diff = "--- a/one\n+++ b/one\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n--- /dev/null\n+++ b/dir/new\n@@ -0,0 +1 @@\n+fresh\n\
                --- a/two\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n";
    let patched = shell.call("patch", &json!({ "patch": diff }));
    assert_eq!(patched["files"].as_array().unwrap().len(), 3, "{patched}");
    assert_eq!(shell.sh("cat one dir/new; ls"), "a\nB\nc\nfresh\ndir\nold\none\n");
    let (code, message) = shell.refused("patch", &json!({ "patch": diff }));
    assert!(code == 4000, "{message}");
    let bad = "--- a/old\n+++ b/old\n@@ -1 +1 @@\n-run\n+ran\n--- a/one\n+++ b/one\n@@ -1 +1 @@\n-nowhere\n+x\n";
    let (code, message) = shell.refused("patch", &json!({ "patch": bad }));
    assert!(code == 4000 && message.contains("one") && message.contains("nothing was changed"), "{message}");
    assert_eq!(shell.sh("cat old"), "run\n");
    let git = "diff --git a/old b/renamed\nsimilarity index 50%\nrename from old\nrename to renamed\n--- a/old\n+++ b/renamed\n@@ -1 +1 @@\n-run\n+ran\n";
    let moved = shell.call("patch", &json!({ "patch": git }));
    assert_eq!(moved["files"][0]["change"], "moved", "{moved}");
    assert_eq!(shell.sh("cat renamed; ls old 2>&1 | wc -l; ls"), "ran\n1\ndir\none\nrenamed\n");
    shell.sh("printf 'x\\nmore\\n' > grown");
    let removal = "--- a/grown\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n";
    let (code, message) = shell.refused("patch", &json!({ "patch": removal }));
    assert!(code == 4000 && message.contains("more than it takes away"), "{message}");
    assert_eq!(shell.sh("cat grown; rm grown"), "x\nmore\n");
    assert_eq!(shell.refused("patch", &json!({ "patch": "no diff" })).0, 4000);
}

#[test]
fn folders_are_listed_and_searched() {
    let shell = Shell::new();
    shell.sh("mkdir -p src/deep .hidden; echo 'fn main() {}' > src/main.rs; printf 'one\\nTwo\\nthree two\\n' > src/deep/text.txt; echo secret > .hidden/s.rs; ln -s main.rs src/link; printf 'two\\0' > src/bin");
    let listed = shell.call("list", &json!({ "path": "src", "depth": 5 }));
    let names: Vec<_> = listed["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| format!("{} {}", entry["path"].as_str().unwrap(), entry["kind"].as_str().unwrap()))
        .collect();
    assert_eq!(names, ["bin file", "deep folder", "deep/text.txt file", "link link", "main.rs file"]);
    assert_eq!(listed["entries"][3]["target"], "main.rs");
    let few = shell.call("list", &json!({ "max_entries": 1 }));
    assert_eq!((few["entries"].as_array().unwrap().len(), &few["truncated"]), (1, &json!(true)));
    for pattern in ["/etc/pass*", "../*", "a/../b"] {
        let (code, message) = shell.refused("glob", &json!({ "pattern": pattern }));
        assert!(code == 4000 && message.contains("`pattern`"), "{message}");
    }
    assert_eq!(shell.call("glob", &json!({ "pattern": "**/*.rs" }))["paths"], json!(["src/main.rs"]));
    assert_eq!(
        shell.call("glob", &json!({ "pattern": "**/*.rs", "hidden": true }))["paths"],
        json!([".hidden/s.rs", "src/main.rs"])
    );
    let found = shell.call("grep", &json!({ "pattern": "^t[a-z]+", "ignore_case": true, "context": 1 }));
    assert_eq!(found["matches"].as_array().unwrap().len(), 2, "{found}");
    assert_eq!(
        found["matches"][0],
        json!({ "path": "src/deep/text.txt", "line": 2, "text": "Two", "before": ["one"], "after": ["three two"] })
    );
    assert_eq!((&found["files_searched"], &found["files_skipped"]), (&json!(2), &json!(1)));
    assert_eq!(
        shell.call("grep", &json!({ "pattern": "main()", "fixed": true, "glob": "*.rs" }))["matches"][0]["line"],
        1
    );
    assert_eq!(
        shell.call("grep", &json!({ "pattern": "two", "path": "src/deep/text.txt" }))["matches"][0]["text"],
        "three two"
    );
    assert_eq!(shell.refused("grep", &json!({ "pattern": "(" })).0, 4000);
}

#[test]
fn entries_are_made_moved_and_removed() {
    let shell = Shell::new();
    assert_eq!(shell.call("mkdir", &json!({ "path": "a/b/c" }))["created"], true);
    assert_eq!(shell.call("mkdir", &json!({ "path": "a/b/c" }))["created"], false);
    assert_eq!(shell.refused("mkdir", &json!({ "path": "a", "parents": false })).0, 4009);
    shell.sh("echo x > a/f; echo y > g");
    assert_eq!(shell.refused("move", &json!({ "from": "a/f", "to": "g" })).0, 4009);
    shell.call("move", &json!({ "from": "a/f", "to": "g", "overwrite": true }));
    shell.call("move", &json!({ "from": "g", "to": "/tmp/g" }));
    assert_eq!(shell.sh("cat /tmp/g; ls a"), "x\nb\n", "also to another file system");
    assert_eq!(shell.refused("remove", &json!({ "path": "a" })).0, 4009);
    assert_eq!(shell.call("remove", &json!({ "path": "a", "recursive": true }))["removed"], 3);
    shell.sh("python3 -c 'import os\nfor _ in range(3000): os.mkdir(\"deep\"); os.chdir(\"deep\")'");
    assert_eq!(shell.call("remove", &json!({ "path": "deep", "recursive": true }))["removed"], 3000);
    assert_eq!(shell.refused("remove", &json!({ "path": "a" })).0, 4014);
    let stat = shell.call("stat", &json!({ "path": "/tmp/g", "sha256": true }));
    assert_eq!((&stat["kind"], &stat["size"], &stat["mode"]), (&json!("file"), &json!(2), &json!("644")));
    assert_eq!(stat["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(shell.refused("remove", &json!({ "path": "/" })).0, 4000);
    shell.call("mkdir", &json!({ "path": "own/inner" }));
    let (code, message) = shell.refused("move", &json!({ "from": "own", "to": "own/inner/own" }));
    assert!(code == 4000 && message.contains("into itself"), "{message}");
}

#[test]
fn a_full_sandbox_is_no_matter_of_waiting() {
    let shell = Shell::with(&json!({ "workspace_mib": 1 }));
    let large = json!({ "path": "large", "content": "x".repeat(2 << 20) });
    let reply = shell.server.execute("w", "bash:write", &large);
    assert_eq!((reply.code(), &reply.body["error"]["retryable"]), (4001, &json!(false)), "{reply:?}");
    assert!(reply.body["message"].as_str().unwrap().contains("no space is left"), "{reply:?}");
    assert_eq!(shell.sh("ls"), "", "nothing of it is there");
}

#[test]
fn files_of_any_size_go_in_and_out_as_bytes() {
    let shell = Shell::new();
    let content: Vec<u8> = (0..5_000_000_u32).map(|number| (number % 251) as u8).collect();
    let session = ("X-Session", "default");
    let stored =
        shell.server.raw("POST", "/execute/bash:upload?path=in/big.bin&mode=755", &[WORKER, session], &content);
    assert_eq!(stored.data()["total_bytes"], 5_000_000, "{stored:?}");
    let sum = shell.sh("sha256sum < in/big.bin; stat -c '%U %a' in/big.bin; ls -A in");
    assert!(
        sum.starts_with(stored.data()["sha256"].as_str().unwrap()) && sum.ends_with("sandbox 755\nbig.bin\n"),
        "{sum}"
    );
    let headers = [WORKER, session, ("Range", "bytes=4999990-")];
    let part = shell.server.raw("GET", "/execute/bash:download?path=in/big.bin", &headers, b"");
    assert_eq!(part.status, 206);
    let small = shell.call("download", &json!({ "path": "in/big.bin" }));
    assert!(small["content"].as_str().unwrap().len() > 6_000_000, "beside it a JSON form");
}
