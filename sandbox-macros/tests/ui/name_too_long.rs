#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

#[backend(name = "vm")]
impl Vm {
    /// Click.
    #[tool]
    async fn click_at_a_point_that_is_given_by_its_distance_from_the_top_left(&self) -> Result<()> {
        Ok(())
    }
}

fn main() {}
