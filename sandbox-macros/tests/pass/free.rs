//! Free tools, with and without configuration.

use sandbox_runtime::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Deserialize, JsonSchema)]
struct WebSearchConfig {
    key: String,
}

#[derive(Serialize, JsonSchema)]
struct Results {
    titles: Vec<String>,
}

/// Search the web.
#[tool(name = "web:search", config = "apis.websearch", read_only)]
async fn search(
    config: &WebSearchConfig,
    query: String,
    #[default = 10] max_results: u32,
    worker: &WorkerId,
) -> Result<Results> {
    let _ = max_results;
    Ok(Results { titles: vec![query, config.key.clone(), worker.to_string()] })
}

/// Send a message back.
#[tool(name = "util:echo")]
pub async fn echo(message: String) -> Result<String> {
    Ok(message)
}

/// Hash on the blocking pool. By value, `config` is a parameter like any other.
#[tool(name = "util:hash", blocking, alias = ["digest"])]
fn hash(config: Option<String>, context: &ToolContext) -> Result<usize> {
    let _ = context.trace();
    Ok(config.map_or(0, |text| text.len()))
}

/// Only in another world.
#[tool(name = "util:never")]
#[cfg(any())]
async fn never(x: Missing) -> Result<()> {}

mod named_like_the_variables_of_the_glue {
    use super::*;

    /// Call.
    #[tool(name = "odd:call")]
    async fn call(scope: String, call: u32, result: &WorkerId) -> Result<String> {
        Ok(format!("{scope} {call} {result}"))
    }

    /// Params.
    #[tool(name = "odd:params", blocking)]
    fn params(params: String, lent_0: &TraceId) -> Result<String> {
        Ok(format!("{params} {lent_0}"))
    }

    /// Scope.
    #[tool(name = "odd:scope")]
    async fn scope(__rt: u8) -> Result<u8> {
        Ok(__rt)
    }
}

fn main() {}
