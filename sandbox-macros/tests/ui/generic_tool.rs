#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

#[backend(name = "vm")]
impl Vm {
    /// Say it.
    #[tool]
    async fn say<T: ToString + Send>(&self, what: T) -> Result<String> {
        Ok(what.to_string())
    }
}

fn main() {}
