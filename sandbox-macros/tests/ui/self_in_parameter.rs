#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

#[backend(name = "vm")]
impl Vm {
    /// Compare.
    #[tool]
    async fn compare(&self, other: Option<Self>) -> Result<bool> {
        Ok(other.is_some())
    }
}

fn main() {}
