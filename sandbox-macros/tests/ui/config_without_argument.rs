#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

/// Search.
#[tool(name = "web:search", config = "apis.search")]
async fn search(query: String) -> Result<()> {
    Ok(())
}

fn main() {}
