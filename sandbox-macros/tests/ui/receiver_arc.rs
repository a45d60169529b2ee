#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

#[backend(name = "vm")]
impl Vm {
    /// Say hello.
    #[tool]
    async fn hello(self: std::sync::Arc<Self>) -> Result<()> {
        Ok(())
    }
}

fn main() {}
