#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

struct VmSession;

#[backend(name = "vm")]
impl Vm {
    async fn initialize(&self) -> Result<VmSession> {
        Ok(VmSession)
    }

    /// Click.
    #[tool]
    async fn click(&self, worker: &mut WorkerId) -> Result<()> {
        Ok(())
    }
}

fn main() {}
