#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

struct Vm<T>(T);

#[backend(name = "vm")]
impl<T: Send> Vm<T> {
    /// Click.
    #[tool]
    async fn click(&self) -> Result<()> {
        Ok(())
    }
}

fn main() {}
