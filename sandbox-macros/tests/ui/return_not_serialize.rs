#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

struct Count;

#[backend(name = "vm")]
impl Vm {
    /// Count.
    #[tool]
    async fn count(&self) -> Result<Count> {
        Ok(Count)
    }
}

fn main() {}
