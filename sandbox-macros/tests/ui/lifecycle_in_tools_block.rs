#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

#[backend(name = "vm")]
impl Vm {}

#[tools]
impl Vm {
    async fn warmup(&self) -> Result<()> {
        Ok(())
    }
}

fn main() {}
