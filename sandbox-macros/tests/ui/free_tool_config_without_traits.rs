#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

struct SearchConfig;

/// Search.
#[tool(name = "web:search", config = "apis.search")]
async fn search(config: &SearchConfig) -> Result<()> {
    Ok(())
}

fn main() {}
