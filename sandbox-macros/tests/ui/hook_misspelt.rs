#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Notes;

struct Notebook {
    pages: Vec<String>,
}

#[backend(name = "notes")]
impl Notes {
    async fn initialise(&self) -> Result<Notebook> {
        Ok(Notebook { pages: Vec::new() })
    }

    /// Read all pages.
    #[tool]
    async fn read(&self, notebook: &Notebook) -> Result<Vec<String>> {
        Ok(notebook.pages.clone())
    }

    /// Write a page.
    #[tool]
    async fn write(&self, notebook: &mut Notebook, page: String) -> Result<()> {
        Ok(())
    }
}

fn main() {}
