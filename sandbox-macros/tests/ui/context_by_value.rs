#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Notes;

#[backend(name = "notes")]
impl Notes {
    /// Count the pages.
    #[tool]
    async fn count(&self, context: ToolContext) -> Result<()> {
        Ok(())
    }
}

fn main() {}
