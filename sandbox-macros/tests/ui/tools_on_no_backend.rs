#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

#[tools]
impl Vm {
    /// Click.
    #[tool]
    async fn click(&self, worker: &WorkerId, x: u32) -> Result<()> {
        Ok(())
    }
}

fn main() {}
