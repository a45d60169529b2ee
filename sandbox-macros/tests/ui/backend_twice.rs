#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Notes;

#[backend(name = "notes")]
impl Notes {
    /// Count the pages.
    #[tool]
    async fn count(&self) -> Result<u64> {
        Ok(0)
    }
}

#[backend(name = "notes")]
impl Notes {
    /// Count the lines.
    #[tool]
    async fn lines(&self) -> Result<u64> {
        Ok(0)
    }
}

fn main() {}
