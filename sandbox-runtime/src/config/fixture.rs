//! Schemas of made-up backends and api sections, for the tests.

use std::collections::BTreeMap;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::SectionSchemas;

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
struct VmConfig {
    pool_size: u32,
    image: String,
    seed: u64,
    enabled_screens: Vec<bool>,
    mode: Mode,
    env: BTreeMap<String, String>,
    labels: Option<BTreeMap<String, Value>>,
    root: Tree,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Mode {
    #[default]
    Fast,
    Exact,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Tree {
    label: String,
    children: Vec<Tree>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WebSearch {
    serper_api_key: String,
    #[serde(default)]
    max_results: u32,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Fetch {
    description: String,
    allow_private: bool,
}

/// A backend `vm` (recursive, camel case) and the sections `websearch` and `fetch`.
pub(crate) struct Fixture {
    backends: BTreeMap<&'static str, Value>,
    apis: BTreeMap<&'static str, Value>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self {
            backends: BTreeMap::from([("vm", schema::<VmConfig>())]),
            apis: BTreeMap::from([("websearch", schema::<WebSearch>()), ("fetch", schema::<Fetch>())]),
        }
    }
}

impl SectionSchemas for Fixture {
    fn backend(&self, backend_name: &str) -> Option<&Value> {
        self.backends.get(backend_name)
    }

    fn api(&self, key: &str) -> Option<&Value> {
        self.apis.get(key)
    }

    fn backend_names(&self) -> Vec<&str> {
        self.backends.keys().copied().collect()
    }

    fn api_keys(&self) -> Vec<&str> {
        self.apis.keys().copied().collect()
    }
}

fn schema<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}
