//! The stock binary, and the files of `config/` that are made for it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use sandbox_backends as _;
use sandbox_runtime::{config::Loader, linked::Linked};
use serde_json::Value;

fn ready(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(file)
}

fn schema() -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_sandbox")).args(["check", "--schema"]).output().expect("it starts");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn the_golden_schema_of_the_configuration() {
    let path = ready("sandbox.schema.json");
    let now = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let accepted = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(accepted == now, "{} differs; look at it with UPDATE_GOLDEN=1 and git diff", path.display());
}

#[test]
fn every_reference_of_the_schema_leads_somewhere() {
    fn check(part: &Value, root: &Value, checked: &mut usize) {
        match part {
            Value::Object(members) => {
                if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                    let target = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
                    assert!(target.is_some(), "{reference}");
                    *checked += 1;
                }
                members.values().for_each(|member| check(member, root, checked));
            }
            Value::Array(items) => items.iter().for_each(|item| check(item, root, checked)),
            _ => {}
        }
    }
    let (root, mut checked) = (schema(), 0);
    check(&root, &root, &mut checked);
    assert!(checked > 0);
}

#[test]
fn the_default_file_says_what_holds_without_a_file() {
    let linked = Linked::discover();
    let without = Loader::new(&linked).load().unwrap().config;
    let with = Loader::new(&linked).file(ready("default.json")).load().unwrap().config;
    assert_eq!(serde_json::to_value(&with).unwrap(), serde_json::to_value(&without).unwrap());
    assert_eq!(with.resources.keys().collect::<Vec<_>>(), ["bash"]);
}
