#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

struct VmSession;

type Machine = VmSession;

#[backend(name = "vm")]
impl Vm {
    async fn initialize(&self) -> Result<VmSession> {
        Ok(VmSession)
    }

    async fn warmup(&self) -> Result<Machine> {
        Ok(VmSession)
    }

    /// Look.
    #[tool]
    async fn look(&self, session: &VmSession) -> Result<()> {
        Ok(())
    }
}

fn main() {}
