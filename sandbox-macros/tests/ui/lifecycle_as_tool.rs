#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

#[backend(name = "vm")]
impl Vm {
    /// Warm up.
    #[tool]
    async fn warmup(&self) -> Result<()> {
        Ok(())
    }
}

fn main() {}
