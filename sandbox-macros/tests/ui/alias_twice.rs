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

    /// Press.
    #[tool(alias = ["click"])]
    async fn press(&self) -> Result<()> {
        Ok(())
    }
}

fn main() {}
