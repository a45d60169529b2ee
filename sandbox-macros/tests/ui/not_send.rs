#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

#[backend(name = "vm")]
impl Vm {
    /// Count.
    #[tool]
    async fn count(&self) -> Result<usize> {
        let count = std::rc::Rc::new(1);
        std::future::ready(()).await;
        Ok(*count)
    }
}

fn main() {}
