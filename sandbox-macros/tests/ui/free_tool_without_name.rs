#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

/// Say hello.
#[tool]
async fn hello() -> Result<()> {
    Ok(())
}

fn main() {}
