#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

struct VmSession;

// 1: a name with a capital letter.
#[backend(name = "VM")]
impl Vm {
    // 2: nothing can be taken by value.
    async fn warmup(&self, size: usize) -> Result<()> {
        Ok(())
    }

    // 3: no `initialize`.
    async fn cleanup(&self, session: VmSession) -> Result<()> {
        Ok(())
    }

    // 4: no description.
    #[tool]
    async fn undescribed(&self) -> Result<()> {
        Ok(())
    }

    /// 5: an unknown option.
    #[tool(idempotant)]
    async fn misspelt(&self) -> Result<()> {
        Ok(())
    }

    /// 6: no receiver.
    #[tool]
    async fn alone(text: String) -> Result<()> {
        Ok(())
    }

    /// 7: neither `async` nor `blocking`.
    #[tool]
    fn sync(&self) -> Result<()> {
        Ok(())
    }

    /// 8: a borrow that only the client could send.
    #[tool]
    async fn say(&self, text: &str) -> Result<()> {
        Ok(())
    }

    /// 9: a pattern. 10: a default that is not JSON.
    #[tool]
    async fn click(&self, (x, y): (u32, u32), #[default = Left] button: String) -> Result<()> {
        Ok(())
    }
}

// A further block is judged on its own: no word about `Vm` being no backend.
#[tools]
impl Vm {
    /// Fine.
    #[tool]
    async fn fine(&self, worker: &WorkerId) -> Result<String> {
        Ok(worker.to_string())
    }
}

fn main() {}
