//! The configuration of a server: its types, its JSON Schema, and the way from a file and the environment to them.
//!
//! Data flows one way: [`Loader`] parses the file (`format`), applies the overrides of the environment (`overrides`),
//! strips comments (`comments`), replaces `${VAR}` (`expand`), checks every key and value against the schema (`check`),
//! parses the typed document and checks what concerns several keys (`validate`). Each step puts what is wrong into one
//! report and goes on, so that all errors come together.

use std::{collections::BTreeMap, fmt};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

mod check;
mod comments;
mod document;
mod error;
mod expand;
#[cfg(test)]
mod fixture;
mod format;
mod load;
mod overrides;
mod resource;
mod server;
mod text;
mod validate;
mod walk;

pub use ::config::FileFormat;
pub use error::{ConfigError, ConfigErrors};
pub use load::{Loaded, Loader, Origin};
pub use resource::{ResourceConfig, ToolChoice};
pub use server::{InvalidToken, LogConfig, LogFormat, ServerConfig, TokenHash};

/// The JSON Schemas of the parts of a configuration that belong to what is linked into the program.
///
/// A schema is draft 2020-12 as schemars makes it: subschemas in place or behind `$ref` into its own `$defs`.
pub trait SectionSchemas {
    /// The schema of `resources.<name>.config` for resources of this backend; `None` if the backend is not linked.
    fn backend(&self, backend_name: &str) -> Option<&Value>;

    /// The schema of `apis.<key>`; `None` if no linked tool reads that section.
    fn api(&self, key: &str) -> Option<&Value>;

    /// The names for which [`Self::backend`] has a schema.
    fn backend_names(&self) -> Vec<&str>;

    /// The keys for which [`Self::api`] has a schema.
    fn api_keys(&self) -> Vec<&str>;
}

/// The configuration of a server and of everything that runs in it.
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The server itself: where it listens, who may call it, its time limits. Default: see its keys.
    pub server: ServerConfig,
    /// The resources by name; a name is `[a-z][a-z0-9_]*` without `__`. What is not listed does not exist. Default: none.
    pub resources: BTreeMap<String, ResourceConfig>,
    /// Settings of tools that call web APIs, by section; a tool that reads `apis.<key>` is on if the section is present.
    /// Default: none.
    pub apis: BTreeMap<String, Value>,
    /// What is warmed up in the background when the server starts. Default: everything.
    pub warmup: WarmupConfig,
}

/// Which resources are warmed up in the background when the server starts.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct WarmupConfig {
    /// Whether to warm up at the start; otherwise a resource is warmed up on its first use. Default: true.
    pub enabled: bool,
    /// The resources to warm up, each configured and enabled; null: all of them. Default: null.
    pub resources: Option<Vec<String>>,
}

impl Default for WarmupConfig {
    fn default() -> Self {
        Self { enabled: true, resources: None }
    }
}

impl Config {
    /// Checks ranges and the rules between keys, for a configuration that was made or changed in code; [`Loader`] has
    /// done so for what it returns.
    ///
    /// # Errors
    /// All that is wrong. The contents of `apis.*` and `resources.*.config` are not looked at.
    pub fn validate(&self) -> Result<(), ConfigErrors> {
        let mut report = error::Report::default();
        match serde_json::to_value(self) {
            Ok(mut value) => check::check(&document::typed(), &mut value, &mut report),
            Err(error) => report.add("", "a configuration that JSON can hold", &error.to_string(), ""),
        }
        validate::server(&self.server, &mut report);
        validate::resources(&self.resources, &mut report);
        validate::warmup(&self.warmup, &self.resources, &mut report);
        report.finish()
    }

    /// The document that stands for a file where none is given: every linked backend that needs no configuration, under
    /// its own name.
    ///
    /// Left out is a backend with required settings; one that reads a section of `apis` is off without that section.
    pub fn default_document(sections: &dyn SectionSchemas) -> Value {
        let is_enough =
            |schema: &Value| jsonschema::draft202012::new(schema).is_ok_and(|validator| validator.is_valid(&json!({})));
        let names = sections.backend_names().into_iter();
        let resources: serde_json::Map<_, _> = names
            .filter(|name| sections.backend(name).is_some_and(is_enough))
            .map(|name| (name.to_owned(), json!({})))
            .collect();
        json!({ "resources": resources })
    }

    /// The JSON Schema of a whole configuration file, with the sections of what is linked.
    ///
    /// It knows what the loader knows: comments are allowed at every level, and where a number, boolean or choice is
    /// meant a text with `${VAR}` may stand.
    pub fn json_schema(sections: &dyn SectionSchemas) -> Value {
        document::published(sections)
    }
}

impl fmt::Debug for Config {
    /// Sections of `apis` hold secrets: only their keys are shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("server", &self.server)
            .field("resources", &self.resources)
            .field("apis", &self.apis.keys())
            .field("warmup", &self.warmup)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::{Config, Loader, ResourceConfig, SectionSchemas};

    #[test]
    fn debug_shows_no_secret() {
        let mut config = Config::default();
        config.server.tokens = vec!["plain-token".parse().expect("is right")];
        config.apis.insert("websearch".into(), json!({ "serper_api_key": "sk-1" }));
        config.resources.insert(
            "vm".into(),
            ResourceConfig { config: json!({ "password": "sk-2", "n": 7 }), ..Default::default() },
        );
        let shown = format!("{config:?}");
        assert!(shown.contains("websearch") && shown.contains("password"), "{shown}");
        for secret in ["plain-token", "sk-1", "sk-2"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(!serde_json::to_string(&config.server).expect("is right").contains("plain-token"));
    }

    #[test]
    fn the_default_document_has_every_backend_that_needs_no_configuration() {
        struct Schemas(BTreeMap<&'static str, Value>);
        impl SectionSchemas for Schemas {
            fn backend(&self, backend_name: &str) -> Option<&Value> {
                self.0.get(backend_name)
            }
            fn api(&self, _: &str) -> Option<&Value> {
                None
            }
            fn backend_names(&self) -> Vec<&str> {
                self.0.keys().copied().collect()
            }
            fn api_keys(&self) -> Vec<&str> {
                vec!["fetch"]
            }
        }
        let schemas = Schemas(BTreeMap::from([
            ("free", json!({ "type": "object", "properties": { "size": { "type": "integer" } } })),
            ("needy", json!({ "type": "object", "properties": { "key": {} }, "required": ["key"] })),
            ("nested", json!({ "allOf": [{ "required": ["key"] }] })),
        ]));
        assert_eq!(Config::default_document(&schemas), json!({ "resources": { "free": {} } }));
        let loaded = Loader::new(&schemas).load().expect("is right");
        assert_eq!(loaded.config.resources.keys().collect::<Vec<_>>(), ["free"]);
    }

    #[test]
    fn a_configuration_changed_in_code_is_checked_like_a_loaded_one() {
        assert_eq!(Config::default().validate(), Ok(()));
        let mut config = Config::default();
        config.server.host = "0.0.0.0".into();
        config.server.default_timeout_seconds = f64::NAN;
        config.server.reattach_seconds = -1.0;
        config.resources.insert("a__b".into(), ResourceConfig { max_sessions: 0, ..Default::default() });
        config.warmup.resources = Some(vec!["rag".into()]);
        let errors = config.validate().expect_err("must be refused");
        let paths: Vec<_> = errors.0.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "resources.a__b.max_sessions",
                "server.default_timeout_seconds",
                "server.reattach_seconds",
                "server.tokens",
                "resources.a__b",
                "warmup.resources[0]",
            ],
            "{errors}"
        );
    }
}
