#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Notes;

struct Notebook {
    pages: Vec<String>,
}

#[backend(name = "notes")]
impl Notes {
    async fn initialize(&self) -> Result<Notebook> {
        Ok(Notebook { pages: Vec::new() })
    }

    /// Write a page.
    #[tool]
    async fn write(&self, notebook: Notebook, page: String) -> Result<()> {
        Ok(())
    }
}

fn main() {}
