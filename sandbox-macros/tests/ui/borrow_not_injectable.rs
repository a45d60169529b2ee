#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

#[backend(name = "vm")]
impl Vm {
    /// Click.
    #[tool]
    async fn click(&self, x: &u32) -> Result<()> {
        Ok(())
    }
}

fn main() {}
