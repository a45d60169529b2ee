#![allow(unused_variables)]

use sandbox_runtime::prelude::*;
use serde::Deserialize;

#[derive(Default)]
struct Vm;

#[derive(Deserialize)]
struct Point {}

#[backend(name = "vm")]
impl Vm {
    /// Click.
    #[tool]
    async fn click(&self, point: Point, #[default = 3] times: u32) -> Result<()> {
        Ok(())
    }
}

fn main() {}
