//! One entry of the `resources` section: which backend runs under a name, within which limits.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One resource: a running instance of a backend, its limits and its settings.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ResourceConfig {
    /// Whether the resource exists. One that is off needs none of its `${VAR}`. Default: true.
    pub enabled: bool,
    /// The backend that runs under this name. Default: the resource's name.
    pub backend: Option<String>,
    /// Old name of `backend`, which wins where both are given: of a dotted path the last part, less a trailing `Backend`,
    /// in lower case (`sandbox.server.backends.VMBackend` means `vm`). Default: null.
    pub backend_class: Option<String>,
    /// What this resource is for, shown in `/resources`; null: the backend's description. Default: null.
    pub description: Option<String>,
    /// Whether `/ready` waits until this resource is warm. Default: false.
    pub required: bool,
    /// Seconds without use after which a session is destroyed; null: `server.session_ttl`. Default: null.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1_000_000_000))]
    pub session_ttl: Option<f64>,
    /// The most sessions at a time. Default: 16384.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub max_sessions: usize,
    /// The most sessions of one worker at a time. Default: 128.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub max_sessions_per_worker: usize,
    /// The most calls that run at a time. Default: 1024.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub max_concurrent_calls: usize,
    /// The most calls that wait for their turn to run; 0: none waits. Default: 8192.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub max_queued_calls: usize,
    /// Seconds that the making of a session may take. Default: 300.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1_000_000_000))]
    pub initialize_timeout_seconds: f64,
    /// The most calls that wait for one session; 0: none waits. Default: 32.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub max_waiting_calls: usize,
    /// Of the tools that are in a group only those of these groups; null: of all groups. Default: null.
    pub groups: Option<Vec<String>>,
    /// Which tools are offered. Default: all.
    pub tools: ToolChoice,
    /// The settings of the backend. Default: {}.
    #[schemars(with = "Map<String, Value>")]
    pub config: Value,
}

impl Default for ResourceConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            backend: None,
            backend_class: None,
            description: None,
            required: false,
            session_ttl: None,
            max_sessions: 16384,
            max_sessions_per_worker: 128,
            max_concurrent_calls: 1024,
            max_queued_calls: 8192,
            initialize_timeout_seconds: 300.0,
            max_waiting_calls: 32,
            groups: None,
            tools: ToolChoice::default(),
            config: Value::Object(Map::new()),
        }
    }
}

impl ResourceConfig {
    /// The name of the backend that runs under the given resource name.
    pub fn backend_name(&self, resource: &str) -> String {
        backend_name(resource, self.backend.as_deref(), self.backend_class.as_deref())
    }
}

impl fmt::Debug for ResourceConfig {
    /// The backend's settings may hold secrets: no string of theirs is shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = serde_json::to_value(Self { config: without_strings(&self.config), ..self.clone() });
        f.debug_tuple("ResourceConfig").field(&shown.unwrap_or_default()).finish()
    }
}

/// Which tools of a resource are offered, by simple or full name.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct ToolChoice {
    /// Only these tools; null: all. Default: null.
    pub allow: Option<Vec<String>>,
    /// Not these tools, even if they are allowed. Default: [].
    pub deny: Vec<String>,
}

impl ToolChoice {
    /// Whether a tool of this resource is offered.
    pub(crate) fn offers(&self, resource: &str, tool: &str) -> bool {
        let named = |names: &[String]| names.iter().any(|name| Self::simple_name(resource, name) == tool);
        self.allow.as_deref().is_none_or(named) && !named(&self.deny)
    }

    /// The simple name of a tool of this resource that is named by its simple or its full name.
    pub(crate) fn simple_name<'a>(resource: &str, name: &'a str) -> &'a str {
        name.strip_prefix(resource).and_then(|rest| rest.strip_prefix(':')).unwrap_or(name)
    }
}

/// The backend that a resource's keys name.
pub(crate) fn backend_name(resource: &str, backend: Option<&str>, backend_class: Option<&str>) -> String {
    match (backend, backend_class) {
        (Some(backend), _) => backend.to_owned(),
        (None, Some(class)) => {
            let last = class.rsplit('.').next().unwrap_or(class);
            // A class named only `Backend` keeps its name: an empty one would say nothing.
            let stem = last.strip_suffix("Backend").filter(|stem| !stem.is_empty()).unwrap_or(last);
            stem.to_lowercase()
        }
        (None, None) => resource.to_owned(),
    }
}

fn without_strings(value: &Value) -> Value {
    match value {
        Value::String(_) => Value::String("(hidden)".into()),
        Value::Array(items) => items.iter().map(without_strings).collect(),
        Value::Object(members) => members.iter().map(|(key, member)| (key.clone(), without_strings(member))).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::ResourceConfig;
    use crate::naming::is_name;

    #[test]
    fn the_backend_is_named_by_the_new_key_the_old_one_or_the_resource() {
        let name = |backend: Option<&str>, class: Option<&str>| {
            ResourceConfig {
                backend: backend.map(str::to_owned),
                backend_class: class.map(str::to_owned),
                ..Default::default()
            }
            .backend_name("vm_small")
        };
        assert_eq!(name(None, None), "vm_small");
        assert_eq!(name(None, Some("sandbox.server.backends.VMBackend")), "vm");
        assert_eq!(name(None, Some("RAGBackend")), "rag");
        assert_eq!(name(None, Some("my.Browser")), "browser");
        assert_eq!(name(None, Some("a.Backend")), "backend");
        assert_eq!(name(Some("vm"), Some("a.RAGBackend")), "vm");
    }

    #[test]
    fn names_of_resources() {
        for (name, good) in [
            ("vm", true),
            ("vm_2", true),
            ("v", true),
            ("a_", true),
            ("", false),
            ("VM", false),
            ("2vm", false),
            ("_vm", false),
            ("a__b", false),
            ("a-b", false),
            ("a.b", false),
            ("é", false),
        ] {
            assert_eq!(is_name(name), good, "{name}");
        }
    }
}
