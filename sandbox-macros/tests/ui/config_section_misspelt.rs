#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

/// Search.
#[tool(name = "web:search", config = "search")]
async fn search(config: &String, query: String) -> Result<()> {
    Ok(())
}

fn main() {}
