//! What the server says of its tools and resources.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One tool, as `GET /tools` lists it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ToolInfo {
    /// Simple name: the part behind the colon.
    pub name: String,
    /// `resource:tool`, or `group:tool` for a free tool.
    pub full_name: String,
    /// Name for APIs that take only `[A-Za-z0-9_-]{1,64}`: `resource__tool`.
    #[serde(default)]
    pub api_name: String,
    /// The resource; null for a free tool.
    pub resource_type: Option<String>,
    /// Whether the tool runs without a session.
    #[serde(default)]
    pub stateless: bool,
    /// What the tool does.
    #[serde(default)]
    pub description: String,
    /// Other names the tool answers to.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Group of tools that a configuration can choose; null for one that is always there.
    #[serde(default)]
    pub group: Option<String>,
    /// JSON Schema (draft 2020-12) of `params`.
    #[serde(default)]
    pub input_schema: Value,
    /// JSON Schema (draft 2020-12) of the result.
    #[serde(default)]
    pub output_schema: Value,
    /// Whether the tool changes nothing.
    #[serde(default)]
    pub read_only: bool,
    /// Whether calling twice does what calling once does.
    #[serde(default)]
    pub idempotent: bool,
    /// Whether the tool is left out of listings.
    #[serde(default)]
    pub hidden: bool,
}

impl ToolInfo {
    /// The value of a parameter that was given as text, on a command line or in a query: text where its schema takes a
    /// string, else JSON, and text again where it is none, so that the schema has the last word.
    pub fn value_of(&self, parameter: &str, text: &str) -> Value {
        if takes_text(&self.input_schema["properties"][parameter]) {
            return Value::from(text);
        }
        serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
    }
}

fn takes_text(schema: &Value) -> bool {
    match &schema["type"] {
        Value::String(one) => one == "string",
        Value::Array(many) => many.iter().any(|one| one == "string"),
        _ => {
            schema.get("enum").is_some()
                || schema.get("anyOf").is_some_and(|any| any.as_array().into_iter().flatten().any(takes_text))
        }
    }
}

/// One resource, as `GET /resources` lists it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ResourceInfo {
    /// Name of the resource.
    pub resource: String,
    /// The backend it runs.
    pub backend: String,
    /// What it is.
    pub description: String,
    /// Version of the backend.
    pub version: String,
    /// `stateless`, `shared`, `session` or `mixed`.
    pub kind: String,
    /// Whether it is ready for its first call.
    pub warmed_up: bool,
    /// Why the last start failed, if it did.
    pub last_error: Option<String>,
    /// What the backend says of it since it is ready, such as how well its sessions are isolated; null for nothing.
    #[serde(default)]
    pub facts: Value,
    /// Sessions that exist now, those under cleanup included.
    pub sessions: usize,
    /// Its limits.
    pub limits: ResourceLimits,
}

/// Limits of a resource.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ResourceLimits {
    /// Idle time after which a session is destroyed, in seconds.
    pub session_ttl: f64,
    /// Sessions at once.
    pub max_sessions: usize,
    /// Sessions at once of one worker.
    pub max_sessions_per_worker: usize,
    /// Calls that run at once.
    pub max_concurrent_calls: usize,
    /// Calls that wait for one of these to end.
    pub max_queued_calls: usize,
    /// Calls that wait for one session.
    pub max_waiting_calls: usize,
    /// Limit of `initialize`, in seconds.
    pub initialize_timeout_seconds: f64,
}
