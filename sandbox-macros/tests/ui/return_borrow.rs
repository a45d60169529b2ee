#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

#[backend(name = "vm")]
impl Vm {
    /// The name.
    #[tool]
    async fn name(&self) -> Result<&str> {
        Ok("vm")
    }
}

fn main() {}
