#![allow(unused_variables)]

use sandbox_runtime::prelude::*;
use std::rc::Rc;

#[derive(Default)]
struct Notes;

struct Notebook {
    pages: Rc<Vec<String>>,
}

#[backend(name = "notes")]
impl Notes {
    async fn initialize(&self) -> Result<Notebook> {
        Ok(Notebook { pages: Rc::default() })
    }

    async fn cleanup(&self, notebook: Notebook) -> Result<()> {
        Ok(())
    }

    /// Read all pages.
    #[tool]
    async fn read(&self, notebook: &Notebook) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Write a page.
    #[tool]
    async fn write(&self, notebook: &mut Notebook, page: String) -> Result<()> {
        Ok(())
    }
}

fn main() {}
