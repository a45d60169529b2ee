#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

struct Point;

#[backend(name = "vm")]
impl Vm {
    /// Draw.
    #[tool(blocking)]
    fn draw(&self, points: Vec<Point>, since: Option<std::time::Instant>, width: u32) -> Result<()> {
        Ok(())
    }
}

/// Draw.
#[tool(name = "draw:one")]
async fn draw(point: Point) -> Result<()> {
    Ok(())
}

fn main() {}
