#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

struct Pool;

#[backend(name = "vm")]
impl Vm {
    async fn warmup(&self) -> Result<Pool> {
        Ok(Pool)
    }

    async fn shutdown(&self, shared: String) -> Result<()> {
        Ok(())
    }
}

fn main() {}
