#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Notes;

struct Stats;

#[backend(name = "notes")]
impl Notes {
    async fn warm_up(&self) -> Result<Stats> {
        Ok(Stats)
    }

    async fn shutdown(&self, stats: Stats) -> Result<()> {
        Ok(())
    }

    /// Count the pages.
    #[tool]
    async fn count(&self, stats: &Stats) -> Result<u64> {
        Ok(0)
    }
}

fn main() {}
