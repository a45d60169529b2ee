#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

struct VmSession;

#[backend(name = "vm")]
impl Vm {
    async fn cleanup(&self, session: VmSession) -> Result<()> {
        Ok(())
    }
}

fn main() {}
