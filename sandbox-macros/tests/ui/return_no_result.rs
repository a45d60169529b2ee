#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

#[backend(name = "vm")]
impl Vm {
    /// Count.
    #[tool]
    async fn count(&self) -> u32 {
        1
    }
}

fn main() {}
