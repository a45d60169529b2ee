#![allow(unused_variables)]

use sandbox_runtime::prelude::*;
use schemars::JsonSchema;

#[derive(Default)]
struct Vm;

#[derive(JsonSchema)]
enum Button {
    Left,
}

#[backend(name = "vm")]
impl Vm {
    /// Click.
    #[tool]
    async fn click(&self, #[default = "left"] button: Button) -> Result<()> {
        Ok(())
    }
}

fn main() {}
