//! The three-line server runs the stock backends and those of the third party.

use std::process::Command;

fn run(args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_custom-server")).args(args).output().expect("the server starts");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn exec(args: &[&str]) -> (Option<i32>, String) {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/config.json");
    run(&[&["exec"], args, &["--config", config]].concat())
}

#[test]
fn backends_of_both_crates_answer() {
    assert_eq!(exec(&["counter:add", "by=41"]), (Some(0), "41".into()));
    assert_eq!(exec(&["kv:set", "key=a", "value=1", "--session", "s"]), (Some(0), "1".into()));
    assert_eq!(exec(&["kv:get", "key=none"]).0, Some(1), "a business error");
    assert_eq!(exec(&["util:echo", "message=m"]), (Some(0), "{\"message\":\"m\"}".into()));
    assert_eq!(exec(&["counter:add", "by=many"]).0, Some(2), "nothing was run");
}

#[test]
fn what_was_put_can_be_got() {
    let name = format!("name=test-{}", std::process::id());
    let (code, saved) = run(&["exec", "files:put", &name, "file=aGVsbG8="]);
    assert!(code == Some(0) && saved.contains("\"bytes\":5"), "{saved}");
    let (code, content) = run(&["exec", "files:get", &name]);
    let _ = std::fs::remove_file(std::env::temp_dir().join("acme-files").join(&name["name=".len()..]));
    assert!(code == Some(0) && content.contains("\"content\":\"aGVsbG8=\""), "{content}");
    assert_eq!(run(&["exec", "files:get", "name=../passwd"]).0, Some(1));
    assert_eq!(run(&["exec", "files:lines", "file=YQpiCg=="]), (Some(0), "2".into()));
}

#[test]
fn without_a_file_all_of_them_run() {
    assert_eq!(run(&["exec", "counter:add", "by=41"]), (Some(0), "41".into()));
    assert!(run(&["check"]).1.starts_with("ok: 4 resources, "));
    assert!(run(&["--version"]).1.starts_with("custom-server "));
}
