#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

#[backend(name = "vm")]
impl Vm {
    /// Click.
    #[tool]
    async fn click(&self) -> Result<()> {
        Ok(())
    }

    /// Click twice.
    #[tool(name = "click")]
    async fn double_click(&self) -> Result<()> {
        Ok(())
    }
}

fn main() {}
