#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

#[backend(name = "vm")]
impl Vm {
    async fn warmup(&self) -> Result<()> {
        let count = std::rc::Rc::new(1);
        std::future::ready(()).await;
        drop(count);
        Ok(())
    }
}

fn main() {}
