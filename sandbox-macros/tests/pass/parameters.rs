//! Parameters whose types only look like something else, or are read in a way of their own, and their schema.

use std::time::Duration;

use sandbox_runtime::{backend::Backend, prelude::*};
use schemars::{JsonSchema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize};

#[derive(Default)]
struct Notes;

#[derive(Clone, Default, Deserialize, Serialize, JsonSchema)]
struct Page {
    number: u32,
}

/// Not the runtime's.
#[derive(Deserialize, JsonSchema)]
struct SessionHandle {
    name: String,
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Wait, D::Error> {
    u64::deserialize(deserializer).map(|seconds| Wait(Duration::from_secs(seconds)))
}

/// Neither `Deserialize` nor `JsonSchema`.
struct Wait(Duration);

fn last() -> Page {
    Page { number: 9 }
}

/// Notes.
#[backend(name = "notes")]
impl Notes {
    async fn initialize(&self) -> Result<u64> {
        Ok(0)
    }

    async fn warmup(&self) -> Result<Page> {
        Ok(Page::default())
    }

    /// Nothing that `clean_up` or `cleanup` would be.
    async fn clean(&self) -> Result<()> {
        Ok(())
    }

    fn initialised(&self) -> bool {
        true
    }

    /// Read.
    #[tool]
    async fn read(
        &self,
        total: &mut u64,
        by: u64,
        shared: &Page,
        page: Page,
        handle: SessionHandle,
        #[serde(deserialize_with = "seconds")]
        #[schemars(with = "u64")]
        wait: Wait,
        #[serde(default = "last")] last: Page,
        #[serde(default)] first: Page,
        /// How many.
        #[schemars(range(max = 9), title = "Many")]
        #[serde(rename = "many")]
        count: Option<u8>,
        #[schemars(inner(length(min = 1)))] names: Vec<String>,
    ) -> Result<u64> {
        self.clean().await?;
        *total +=
            by + u64::from(shared.number + page.number + last.number + first.number + u32::from(self.initialised()));
        Ok(*total + wait.0.as_secs() + u64::from(count.unwrap_or(0)) + (handle.name.len() + names.len()) as u64)
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code)]
struct ByHand {
    by: u64,
    page: Page,
    handle: SessionHandle,
    #[serde(deserialize_with = "seconds")]
    #[schemars(with = "u64")]
    wait: Wait,
    #[serde(default = "last")]
    last: Page,
    #[serde(default)]
    first: Page,
    /// How many.
    #[schemars(range(max = 9), title = "Many")]
    #[serde(rename = "many")]
    count: Option<u8>,
    #[schemars(inner(length(min = 1)))]
    names: Vec<String>,
}

fn main() {
    let schema = (Notes::TOOLS[0].input_schema)(&mut SchemaGenerator::default());
    assert_eq!(schema, ByHand::json_schema(&mut SchemaGenerator::default()));
    assert_eq!(
        schema.get("properties").and_then(|all| all.get("last")?.get("default")?.get("number")?.as_u64()),
        Some(9)
    );
}
