#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

struct Shell;

/// Say hello.
#[tool(name = "util:hello")]
async fn hello(shell: &mut Shell) -> Result<()> {
    Ok(())
}

fn main() {}
