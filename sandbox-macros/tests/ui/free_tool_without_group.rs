#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

/// Say hello.
#[tool(name = "hello")]
async fn hello() -> Result<()> {
    Ok(())
}

fn main() {}
