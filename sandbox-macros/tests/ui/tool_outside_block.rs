#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

// No attribute here.
impl Vm {
    /// Click.
    #[tool]
    async fn click(&self) -> Result<()> {
        Ok(())
    }
}

fn main() {}
