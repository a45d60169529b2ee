#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

struct Point;

#[backend(name = "vm")]
impl Vm {
    /// Click.
    #[tool]
    async fn click(&self, point: Point) -> Result<()> {
        Ok(())
    }
}

fn main() {}
