#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

#[backend(name = "vm")]
impl Vm {
    /// Say hello.
    #[tool]
    fn hello(&self) -> Result<()> {
        Ok(())
    }
}

fn main() {}
