#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

struct VmConfig;

#[backend(name = "vm")]
impl Vm {
    async fn new(config: VmConfig) -> Result<Self> {
        Ok(Self)
    }
}

fn main() {}
