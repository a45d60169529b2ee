//! Code that works on data files, in a sandbox of the shell backend.

use std::{collections::BTreeMap, io::Read as _};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use sandbox_runtime::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::KNOWN;
use crate::api::{
    names::quotable,
    roots::{Found, Known, Roots, on_thread},
};

/// Whatever lies in the folders may be of use to code.
const ANY: Known = Known { what: "a file", noun: "file", ..KNOWN };

/// What became of the code.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
pub struct PythonRun {
    /// 0 if it ran to its end, 1 if it ended with an error; the interpreter's exit code if that ended.
    exit_code: i32,
    /// The value of its last expression, as Python writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<String>,
    /// What it wrote to standard output; of a long output the head and the tail.
    stdout: String,
    /// What it wrote to standard error; of a long output the head and the tail.
    stderr: String,
    /// How many bytes standard output has; present if `stdout` is not all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stdout_total_bytes: Option<u64>,
    /// How many bytes standard error has; present if `stderr` is not all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stderr_total_bytes: Option<u64>,
    /// How long it ran, in milliseconds.
    duration_ms: u64,
    /// Whether the time limit ended it.
    timed_out: bool,
    /// Files of the working directory that were made or changed.
    files: Vec<MadeFile>,
}

/// A file that was made or changed.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
pub struct MadeFile {
    /// Its path in the sandbox.
    path: String,
    /// Size in bytes.
    size: u64,
}

/// Reads files that are to be copied, as the shell backend takes them.
///
/// # Errors
/// Those of [`Roots::open`]; `INVALID_INPUT`: they are too large together.
pub(super) async fn read(roots: &Roots, files: Vec<String>, most: u64) -> Result<BTreeMap<String, Value>> {
    let (mut found, mut total) = (Vec::new(), 0);
    for path in files {
        let file = roots.open("files", &path, &ANY).await?;
        total += file.version.bytes;
        if total > most {
            let expected = format!("files of at most {} MiB together", most >> 20);
            return Err(ToolError::parameter(
                ErrorCode::INVALID_INPUT,
                "files",
                expected,
                format!("more with `{}`", quotable(&path)),
            ));
        }
        found.push(file);
    }
    on_thread(move || {
        let mut copies = BTreeMap::new();
        for Found { path, file, version } in found {
            let mut bytes = Vec::new();
            file.take(version.bytes).read_to_end(&mut bytes).tool_err(ErrorCode::EXECUTION_ERROR)?;
            copies.insert(path, json!({ "base64": BASE64_STANDARD.encode(bytes) }));
        }
        Ok(copies)
    })
    .await
}

/// Runs code in a sandbox of this resource.
///
/// # Errors
/// Those of `bash:code`; `DEPENDENCY_FAILURE`: there is no such resource.
pub(super) async fn run(
    context: &ToolContext,
    shell: &str,
    code: &str,
    files: BTreeMap<String, Value>,
    timeout_ms: Option<u64>,
    max_bytes: u32,
) -> Result<PythonRun> {
    let mut params = json!({ "language": "python", "code": code, "files": files, "max_output_bytes": max_bytes });
    if let Some(timeout_ms) = timeout_ms {
        params["timeout_ms"] = timeout_ms.into();
    }
    let answer = context.call(&format!("{shell}:code"), params).await.map_err(|error| {
        if error.code() != ErrorCode::INVALID_REQUEST_FORMAT {
            return error;
        }
        let message = format!(
            "Python runs in a sandbox of the resource `{shell}`, and there is none: add one of the shell backend to \
             `resources`, or name another in `shell`"
        );
        ToolError::new(ErrorCode::DEPENDENCY_FAILURE, message).with_reason("no_shell")
    })?;
    serde_json::from_str(answer.get()).tool_err(ErrorCode::INTERNAL_ERROR)
}
