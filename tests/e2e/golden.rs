//! Documents that must not change unnoticed: `UPDATE_GOLDEN=1` accepts what they are now.

use std::{path::Path, process::Command};

use serde_json::json;

use crate::harness::{SERVER, Server};

/// Compares a file of the project with what it would be now.
pub(crate) fn is_as_accepted(path: &str, now: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, now).unwrap();
    }
    let accepted = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(accepted == now, "{} is not what the code says; run `just golden`, and look at git diff", path.display());
}

#[test]
fn the_listing_of_the_stock_tools() {
    // What a warm resource says of itself depends on the machine.
    let cold = json!({ "enabled": false });
    let roots = json!({ "roots": ["."] });
    let apis = json!({ "fetch": {}, "websearch": {}, "text2sql": {}, "doc": roots, "ds": roots });
    let server = Server::start(&json!({ "resources": { "bash": {} }, "apis": apis, "warmup": cold }));
    let listing = serde_json::to_string_pretty(&server.get("/tools").body).unwrap() + "\n";
    is_as_accepted("tests/golden/tools.json", &listing);
}

#[test]
fn every_ready_configuration_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut checked = 0;
    let files = ["config", "deploy"].map(|folder| std::fs::read_dir(root.join(folder)).unwrap());
    for entry in files.into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.to_string_lossy();
        if name.ends_with(".schema.json") || name.ends_with(".service") {
            continue;
        }
        let output = Command::new(SERVER).arg("check").arg("--config").arg(&path).output().unwrap();
        assert!(output.status.success(), "{}: {output:?}", path.display());
        checked += 1;
    }
    assert!(checked > 0);
}
