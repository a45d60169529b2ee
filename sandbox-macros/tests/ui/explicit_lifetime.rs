#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

#[backend(name = "vm")]
impl Vm {
    /// Click.
    #[tool]
    async fn click<'a>(&'a self, worker: &'a WorkerId) -> Result<()> {
        Ok(())
    }
}

fn main() {}
