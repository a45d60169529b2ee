//! `apis.doc`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::api::{bounds::within, roots::Roots};

/// Which documents may be read, and how much of them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DocConfig {
    /// Folders whose documents may be read, with those of the folders in them. A relative path is relative to where the
    /// server was started. Links that lead out of a folder are not followed; the folder itself may be one.
    #[schemars(with = "Vec<PathBuf>", length(min = 1))]
    pub(super) roots: Roots,
    /// Results of a search that does not say how many.
    #[serde(default = "max_search_results", deserialize_with = "within::<_, 1, 100>")]
    #[schemars(range(min = 1, max = 100))]
    pub(super) max_search_results: u32,
    /// The largest document, in MiB.
    #[serde(default = "max_mib", deserialize_with = "within::<_, 1, 256>")]
    #[schemars(range(min = 1, max = 256))]
    pub(super) max_mib: u32,
    /// Seconds that a document may take to be read the first time; 16 MiB of text are made of it at most.
    #[serde(default = "timeout_seconds", deserialize_with = "within::<_, 1, 600>")]
    #[schemars(range(min = 1, max = 600))]
    pub(super) timeout_seconds: u32,
    /// Texts of documents that are kept in memory, in MiB together.
    #[serde(default = "cache_mib", deserialize_with = "within::<_, 0, 65_536>")]
    #[schemars(range(max = 65_536))]
    pub(super) cache_mib: u32,
}

fn max_search_results() -> u32 {
    10
}

fn max_mib() -> u32 {
    64
}

fn timeout_seconds() -> u32 {
    60
}

fn cache_mib() -> u32 {
    128
}
