#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Notes;

struct Stats;

#[backend(name = "notes")]
impl Notes {
    async fn warmup(&self) -> Result<Stats> {
        Ok(Stats)
    }

    /// Count the pages.
    #[tool]
    async fn count(&self, stats: Stats) -> Result<()> {
        Ok(())
    }
}

fn main() {}
