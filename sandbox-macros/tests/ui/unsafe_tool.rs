#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

#[backend(name = "vm")]
impl Vm {
    /// Click.
    #[tool]
    async unsafe fn click(&self) -> Result<()> {
        Ok(())
    }
}

fn main() {}
