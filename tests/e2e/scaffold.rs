//! `sandbox new`: what it makes compiles and passes its tests, and its server serves it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

use crate::harness::SERVER;

/// Runs a program in a folder; what it builds goes where this test was built.
fn run(folder: &Path, program: &str, arguments: &[&str]) -> Output {
    // <target>/<profile>/deps/<this test>
    let target: PathBuf = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().into();
    let output = Command::new(program).args(arguments).current_dir(folder).env("CARGO_TARGET_DIR", target).output();
    output.unwrap()
}

fn succeeds(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let output = run(folder, program, arguments);
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}:\n{out}\n{error}");
    assert!(!error.contains("warning"), "{program} {arguments:?}:\n{error}");
    out.into_owned()
}

#[test]
fn every_kind_compiles_and_passes_its_tests() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for kind in ["session", "shared", "mixed"] {
        let name = format!("my-{kind}");
        let said = succeeds(folder, SERVER, &["new", "backend", &name, "--kind", kind, "--test"]);
        assert!(said.contains("test result: ok. 2 passed"), "{said}");
    }
    let said = succeeds(folder, SERVER, &["new", "tool", "text:count"]);
    let next = said.lines().find(|line| line.contains("cargo run")).unwrap().trim();
    let count = folder.join("count");
    let said = succeeds(&count, "cargo", &["test", "-q"]);
    assert!(said.contains("2 passed"), "{said}");
    // As it says; and its README says the same.
    assert!(fs::read_to_string(count.join("README.md")).unwrap().contains(next), "{next}");
    let said = succeeds(&count, "sh", &["-c", next]);
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["words"], 2, "{said}");
    let server = fs::read_to_string(count.join("server/src/main.rs")).unwrap();
    assert!(server.contains("use {count as _, sandbox_backends as _};"), "{server}");
}

#[test]
fn what_is_there_is_left_alone_and_bad_names_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("taken")).unwrap();
    fs::write(folder.path().join("taken/file"), "mine").unwrap();
    let refused = |arguments: &[&str]| {
        let output = run(folder.path(), SERVER, &[&["new"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused(&["backend", "taken"]).contains("taken is not empty"));
    assert!(refused(&["backend", "Vm"]).contains("found `Vm`"));
    assert!(refused(&["tool", "a:match"]).contains("`match` is a word of Rust"));
    assert!(refused(&["backend", "fine", "--sandbox", "."]).contains("--sandbox: expected"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(fs::read_dir(folder.path().join("taken")).unwrap().count(), 1);
}
