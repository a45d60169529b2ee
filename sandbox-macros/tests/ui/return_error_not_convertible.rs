#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

#[backend(name = "vm")]
impl Vm {
    /// Count.
    #[tool]
    async fn count(&self) -> Result<u32, std::io::Error> {
        Ok(1)
    }
}

fn main() {}
