#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

struct VmSession;

#[backend(name = "vm")]
impl Vm {
    /// Click.
    #[tool]
    async fn click(&self, session: &mut VmSession) -> Result<()> {
        Ok(())
    }
}

fn main() {}
