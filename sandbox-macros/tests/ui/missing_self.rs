#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

#[backend(name = "vm")]
impl Vm {
    /// Say hello.
    #[tool]
    async fn hello(name: String) -> Result<String> {
        Ok(name)
    }
}

fn main() {}
