#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
pub struct Vm;

struct VmSession;

#[backend(name = "vm")]
impl Vm {
    async fn initialize(&self) -> Result<VmSession> {
        Ok(VmSession)
    }
}

fn main() {}
