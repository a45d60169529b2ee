#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

struct Pool;

#[backend(name = "vm")]
impl Vm {
    async fn shutdown(&self, shared: Pool) -> Result<()> {
        Ok(())
    }
}

fn main() {}
