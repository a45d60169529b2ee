//! What is wrong with a configuration: one error per place, all of them collected, no secret in any.

use crate::nearest::nearest;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Longest piece of a value that an error shows, in characters.
const SHOWN_CHARACTERS: usize = 60;

/// Parts of a key's name that mark its value as one that must not be shown.
const SECRET_NAMES: [&str; 4] = ["key", "token", "secret", "password"];

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.line())]
pub struct ConfigError {
    /// The place, such as `resources.vm.config.pool_size` or `server.tokens[0]`; the file's name if it cannot be read.
    pub path: String,
    /// The environment variable of the override that set the value, if one did.
    pub variable: Option<String>,
    /// What the place takes.
    pub expected: String,
    /// What stands there; of a secret only its type.
    pub found: String,
    /// What to do; may be empty.
    pub advice: String,
}

impl ConfigError {
    fn line(&self) -> String {
        let Self { path, variable, expected, found, advice } = self;
        let set_by = variable.as_ref().map(|variable| format!(" (set by {variable})")).unwrap_or_default();
        let advice = if advice.is_empty() { String::new() } else { format!("; {advice}") };
        // One error, one line: also where a parser's own message has several.
        format!("{path}{set_by}: expected {expected}, found {found}{advice}").replace(['\n', '\r'], " ")
    }
}

/// Everything that is wrong with a configuration; shown one per line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.0.iter().map(ConfigError::line).collect::<Vec<_>>().join("\n"))]
pub struct ConfigErrors(
    /// At least one.
    pub Vec<ConfigError>,
);

/// Collects errors on the way of a configuration from its file to its types.
#[derive(Default)]
pub(crate) struct Report {
    errors: Vec<ConfigError>,
    /// Places whose values came from `${VAR}`.
    hidden: BTreeSet<String>,
    /// Places that an override set, with its variable.
    variables: BTreeMap<String, String>,
}

impl Report {
    pub(crate) fn add(&mut self, path: &str, expected: &str, found: &str, advice: &str) {
        let variable =
            self.variables.iter().filter(|(place, _)| is_within(path, place)).max_by_key(|(place, _)| place.len());
        let variable = variable.map(|(_, variable)| variable.clone());
        self.add_of(variable, path, expected, found, advice);
    }

    /// The same about a value that the named variable would have set.
    pub(crate) fn add_of(&mut self, variable: Option<String>, path: &str, expected: &str, found: &str, advice: &str) {
        self.errors.push(ConfigError {
            path: path.to_owned(),
            variable,
            expected: expected.to_owned(),
            found: found.to_owned(),
            advice: advice.to_owned(),
        });
    }

    /// Marks a place whose value must not be shown.
    pub(crate) fn hide(&mut self, path: &str) {
        self.hidden.insert(path.to_owned());
    }

    /// Notes that an override set this place; answers the variable that did so before, if any.
    pub(crate) fn set_by(&mut self, path: &str, variable: &str) -> Option<String> {
        self.variables.insert(path.to_owned(), variable.to_owned())
    }

    /// The variables of all overrides, sorted.
    pub(crate) fn overrides(&self) -> Vec<String> {
        self.variables.values().cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Whether nothing was wrong so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// Whether this very place has an error already.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.errors.iter().any(|error| error.path == path)
    }

    /// Whether this place, or one inside it, has an error already.
    pub(crate) fn has_within(&self, path: &str) -> bool {
        self.errors.iter().any(|error| is_within(&error.path, path))
    }

    /// Whether nothing of the value at this place may be shown.
    pub(crate) fn is_secret(&self, path: &str) -> bool {
        let name = path.to_lowercase();
        SECRET_NAMES.iter().any(|part| name.contains(part)) || self.came_from_variable(path)
    }

    /// Whether the value at this place came from `${VAR}`.
    pub(crate) fn came_from_variable(&self, path: &str) -> bool {
        self.hidden.iter().any(|place| is_within(path, place))
    }

    /// The value at this place in the words of an error.
    pub(crate) fn describe(&self, path: &str, value: &Value) -> String {
        if self.is_secret(path) { type_name(value).to_owned() } else { describe(value) }
    }

    /// # Errors
    /// All that was collected.
    pub(crate) fn finish(self) -> Result<(), ConfigErrors> {
        if self.errors.is_empty() { Ok(()) } else { Err(ConfigErrors(self.errors)) }
    }
}

/// What to do about an unknown name.
pub(crate) fn did_you_mean(name: &str, known: &[&str]) -> String {
    match (nearest(name, known.iter().copied()), known) {
        (Some(near), _) => format!("did you mean `{near}`?"),
        (None, []) => "there are no keys here: remove it".to_owned(),
        (None, _) => format!("known are {}", known.join(", ")),
    }
}

/// `key` inside `path`.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Whether `path` is `place` or inside it.
fn is_within(path: &str, place: &str) -> bool {
    path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(text) if text.is_empty() => "an empty string",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null | Value::Object(_) => type_name(value).to_owned(),
        Value::Array(items) => format!("an array of {} items", items.len()),
        Value::Bool(_) => format!("boolean {value}"),
        Value::Number(_) => format!("number {value}"),
        Value::String(text) if text.chars().count() > SHOWN_CHARACTERS => {
            format!("string {:?}…", text.chars().take(SHOWN_CHARACTERS).collect::<String>())
        }
        Value::String(text) => format!("string {text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Report;
    use crate::nearest::nearest;

    #[test]
    fn errors_stand_one_on_a_line_and_name_the_variable_that_set_the_place() {
        let mut report = Report::default();
        report.set_by("server.log", "SANDBOX__SERVER__LOG");
        report.add("server.log.format", "one of\ntwo", "string \"x\"", "");
        report.add("server.logs", "a known key", "an unknown one", "remove it");
        assert_eq!(
            report.finish().expect_err("must be refused").to_string(),
            "server.log.format (set by SANDBOX__SERVER__LOG): expected one of two, found string \"x\"\n\
             server.logs: expected a known key, found an unknown one; remove it"
        );
    }

    #[test]
    fn a_secret_is_shown_by_its_type_only() {
        let mut report = Report::default();
        report.hide("apis.x");
        let shown = |path| report.describe(path, &json!("abc"));
        assert_eq!(shown("server.host"), "string \"abc\"");
        for path in ["apis.x", "apis.x.a[1]", "y.API_KEY", "y.tokens[0]", "y.clientSecret", "y.password"] {
            assert_eq!(shown(path), "a string", "{path}");
        }
        assert_eq!(shown("apis.xy"), "string \"abc\"");
    }

    #[test]
    fn only_a_near_name_is_proposed() {
        assert_eq!(nearest("prot", ["host", "port"]), Some("port"));
        assert_eq!(nearest("POOL_SIZE", ["poolSize", "x"]), Some("poolSize"));
        assert_eq!(nearest("rga", ["vm", "rag"]), Some("rag"));
        assert_eq!(nearest("zzz", ["host", "port"]), None);
    }
}
