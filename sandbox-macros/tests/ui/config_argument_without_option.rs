#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

struct SearchConfig;

/// Search.
#[tool(name = "web:search")]
async fn search(config: &SearchConfig, query: String) -> Result<()> {
    Ok(())
}

fn main() {}
