#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

#[backend(name = "vm")]
impl Vm {
    /// A copy.
    #[tool]
    async fn copy(&self) -> Result<Self> {
        Ok(Self)
    }
}

fn main() {}
