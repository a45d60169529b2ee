#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

#[backend(name = "vm")]
impl Vm {
    /// Say it.
    #[tool]
    async fn say(&self) -> Result<impl ToString> {
        Ok(1)
    }
}

fn main() {}
