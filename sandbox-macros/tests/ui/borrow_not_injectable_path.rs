#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

mod store {
    pub struct Store;
}

#[derive(Default)]
struct Vm;

#[backend(name = "vm")]
impl Vm {
    /// Read.
    #[tool]
    async fn read(&self, store: &store::Store) -> Result<()> {
        Ok(())
    }
}

fn main() {}
