//! `apis.ds`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::api::{bounds::within, roots::Roots};

/// Which data may be read, and how much of them at once.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Folders whose files may be read, with those of the folders in them. A relative path is relative to where the server
    /// was started. Links that lead out of a folder are not followed; the folder itself may be one.
    #[schemars(with = "Vec<PathBuf>", length(min = 1))]
    pub(super) roots: Roots,
    /// Rows of an answer whose request does not say how many.
    #[serde(default = "max_rows", deserialize_with = "within::<_, 1, 10_000>")]
    #[schemars(range(min = 1, max = 10_000))]
    pub(super) max_rows: u32,
    /// Seconds that a file may be looked through for one call.
    #[serde(default = "timeout_seconds", deserialize_with = "within::<_, 1, 600>")]
    #[schemars(range(min = 1, max = 600))]
    pub(super) timeout_seconds: u32,
    /// The resource of the shell backend in whose sandboxes `data:run_python` runs.
    #[serde(default = "shell")]
    pub(super) shell: String,
    /// Files that `data:run_python` copies into the sandbox, in MiB together. Larger ones are read where they are, if the
    /// folder is one of the shell's `read_only_paths`.
    #[serde(default = "max_copy_mib", deserialize_with = "within::<_, 1, 256>")]
    #[schemars(range(min = 1, max = 256))]
    pub(super) max_copy_mib: u32,
}

fn max_rows() -> u32 {
    50
}

fn timeout_seconds() -> u32 {
    30
}

fn shell() -> String {
    "bash".to_owned()
}

fn max_copy_mib() -> u32 {
    32
}
