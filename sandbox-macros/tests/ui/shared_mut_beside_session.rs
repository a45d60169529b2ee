#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Notes;

struct Notebook {
    pages: Vec<String>,
}

struct Stats;

#[backend(name = "notes")]
impl Notes {
    async fn warmup(&self) -> Result<Stats> {
        Ok(Stats)
    }

    async fn initialize(&self) -> Result<Notebook> {
        Ok(Notebook { pages: Vec::new() })
    }

    /// Count the pages.
    #[tool]
    async fn count(&self, notebook: &Notebook, stats: &mut Stats) -> Result<()> {
        Ok(())
    }
}

fn main() {}
