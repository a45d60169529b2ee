#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

#[backend(name = "vm")]
impl Vm {
    /// Click.
    #[tool]
    async fn click(&self, (x, y): (u32, u32)) -> Result<u32> {
        Ok(x + y)
    }
}

fn main() {}
