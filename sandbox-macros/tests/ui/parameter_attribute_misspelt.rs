#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Notes;

#[backend(name = "notes")]
impl Notes {
    /// Count the pages.
    #[tool]
    async fn count(&self, #[schemars(rnge(max = 9))] from: u32) -> Result<u64> {
        Ok(0)
    }
}

fn main() {}
