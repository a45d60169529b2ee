#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

struct VmSession;

#[backend(name = "vm")]
impl Vm {
    /// Look.
    #[tool]
    async fn look(&self, session: &VmSession) -> Result<()> {
        Ok(())
    }
}

fn main() {}
