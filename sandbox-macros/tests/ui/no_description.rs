#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

#[backend(name = "vm")]
impl Vm {
    #[tool]
    async fn click(&self) -> Result<()> {
        Ok(())
    }
}

fn main() {}
