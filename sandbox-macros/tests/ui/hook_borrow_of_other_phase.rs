#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

#[backend(name = "vm")]
impl Vm {
    async fn warmup(&self, worker: &WorkerId) -> Result<()> {
        Ok(())
    }
}

fn main() {}
