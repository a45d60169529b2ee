//! The way of a configuration from its file and the environment to its types.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use ::config::FileFormat;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    Config, ConfigErrors, ResourceConfig, SectionSchemas, check,
    comments::{self, is_comment},
    document,
    error::{Report, join},
    expand::{self, Variables, expand_text},
    format,
    overrides::{self, Override, Target},
    resource::backend_name,
    text, validate,
    walk::{Node, Types},
};

/// Loads a configuration: a file (or a text, or else what [`Config::default_document`] says) and the overrides of the environment.
///
/// ```
/// # use serde_json::Value;
/// # use sandbox_runtime::config::{FileFormat, Loader, SectionSchemas};
/// # struct Nothing;
/// # impl SectionSchemas for Nothing {
/// #     fn backend(&self, _: &str) -> Option<&Value> { None }
/// #     fn api(&self, _: &str) -> Option<&Value> { None }
/// #     fn backend_names(&self) -> Vec<&str> { Vec::new() }
/// #     fn api_keys(&self) -> Vec<&str> { Vec::new() }
/// # }
/// let env = [("SANDBOX__SERVER__PORT".to_owned(), "9000".to_owned())];
/// let loaded = Loader::new(&Nothing).text(r#"{ "server": { "title": "Mine" } }"#, FileFormat::Json).env(env).load()?;
/// assert_eq!((loaded.config.server.port, loaded.config.server.title.as_str()), (9000, "Mine"));
/// # Ok::<(), sandbox_runtime::config::ConfigErrors>(())
/// ```
#[must_use]
pub struct Loader<'a> {
    sections: &'a dyn SectionSchemas,
    source: Option<Source>,
    variables: Variables,
}

enum Source {
    File(PathBuf),
    Text(String, FileFormat),
}

/// Where a configuration came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This file.
    File(PathBuf),
    /// A text that was given.
    Text,
    /// The default configuration of the program.
    Embedded,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Text => f.write_str("given text"),
            Self::Embedded => f.write_str("embedded default configuration"),
        }
    }
}

/// A configuration, and where it came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration, complete and checked.
    pub config: Config,
    /// Where its text came from.
    pub origin: Origin,
    /// The environment variables that changed it, sorted.
    pub overrides: Vec<String>,
}

impl<'a> Loader<'a> {
    /// A loader that checks sections against these schemas.
    pub fn new(sections: &'a dyn SectionSchemas) -> Self {
        Self { sections, source: None, variables: Variables::new() }
    }

    /// Reads a file; its extension names the format: `json` (also without one), `json5`, `toml`, `yaml`, `yml`.
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.source = Some(Source::File(path.into()));
        self
    }

    /// Reads a text.
    pub fn text(mut self, text: impl Into<String>, format: FileFormat) -> Self {
        self.source = Some(Source::Text(text.into(), format));
        self
    }

    /// The variables for overrides and `${VAR}`; nothing else of the environment is read. Later calls add to it.
    pub fn env(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.variables.extend(variables);
        self
    }

    /// The variables of this process; those that are no UTF-8 do not count.
    pub fn process_env(self) -> Self {
        let variables =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        self.env(variables)
    }

    /// Loads, completes and checks the configuration.
    ///
    /// # Errors
    /// Everything that is wrong with it, together.
    pub fn load(self) -> Result<Loaded, ConfigErrors> {
        match self.load_what_is_right() {
            (loaded, None) => Ok(loaded),
            (_, Some(errors)) => Err(errors),
        }
    }

    /// What is right of the configuration, beside everything that is wrong with it, so that what else checks it can
    /// report its own faults together with these and none that only follow from them.
    ///
    /// With errors it is not to be run: members with a fault have their defaults, resources of which not even the
    /// backend is sure are left out, and no resource is named for the warmup.
    pub fn load_what_is_right(self) -> (Loaded, Option<ConfigErrors>) {
        let mut report = Report::default();
        let (origin, text, format) = self.source(&mut report);
        let table = text.and_then(|text| format::parse(&origin.to_string(), &text, format, &mut report));
        let mut config = table.map(|table| self.complete(Value::Object(table), &mut report)).unwrap_or_default();
        let overrides = report.overrides();
        let is_sure = |name: &str| {
            let place = join("resources", name);
            !report.has(&place)
                && !["enabled", "backend", "backend_class"].iter().any(|key| report.has(&join(&place, key)))
        };
        if !report.is_empty() {
            config.resources.retain(|name, _| is_sure(name));
            config.apis.retain(|key, _| !report.has(&join("apis", key)));
            config.warmup.resources = None;
        }
        (Loaded { config, origin, overrides }, report.finish().err())
    }

    fn source(&self, report: &mut Report) -> (Origin, Option<String>, FileFormat) {
        match &self.source {
            None => {
                let text = Config::default_document(self.sections).to_string();
                (Origin::Embedded, Some(text), FileFormat::Json)
            }
            Some(Source::Text(text, format)) => (Origin::Text, Some(text.clone()), *format),
            Some(Source::File(path)) => {
                let format = format::of_path(path);
                let text = if format.is_some() { read(path, report) } else { None };
                if format.is_none() {
                    let name = path.display().to_string();
                    report.add(
                        &name,
                        "a file named .json, .json5, .toml, .yaml or .yml",
                        "another extension",
                        "rename it",
                    );
                }
                (Origin::File(path.clone()), text, format.unwrap_or(FileFormat::Json))
            }
        }
    }

    /// All steps between the parsed file and the types.
    fn complete(&self, mut document: Value, report: &mut Report) -> Config {
        let linked = self.sections.backend_names();
        let (selecting, others) = overrides::find(&self.variables);
        let schema = document::composed(&BTreeMap::new(), self.sections);
        apply(&selecting, &mut document, &schema, &linked, report);
        // What is disabled must not even be looked at: it may need variables that nobody has set.
        let disabled = take_disabled(&mut document, &self.variables);
        let is_live = |one: &&Override<'_>| {
            !one.resource().is_some_and(|name| disabled.keys().any(|off| off.eq_ignore_ascii_case(name)))
        };
        let others: Vec<_> = others.iter().filter(is_live).collect();
        let schema = document::composed(&self.backends(&document, &others), self.sections);
        apply(others, &mut document, &schema, &linked, report);

        let node = Node::root(&schema);
        comments::strip(&node, &mut document);
        expand::expand(&node, "", &mut document, &self.variables, report);
        check::check(&node, &mut document, report);
        typed(&document, disabled, report)
    }

    /// The backend of each resource that the document or an override names.
    fn backends(&self, document: &Value, overrides: &[&Override<'_>]) -> BTreeMap<String, String> {
        let mut backends = BTreeMap::new();
        for (name, resource) in document.get("resources").and_then(Value::as_object).into_iter().flatten() {
            let text = |key| resource.get(key).and_then(Value::as_str).map(|text| self.expanded(text));
            backends
                .insert(name.clone(), backend_name(name, text("backend").as_deref(), text("backend_class").as_deref()));
        }
        for name in overrides.iter().filter_map(|one| one.resource()) {
            if !backends.keys().any(|known| known.eq_ignore_ascii_case(name)) {
                backends.insert(name.to_lowercase(), name.to_lowercase());
            }
        }
        backends
    }

    /// The text itself where it cannot be expanded: that is reported in its turn.
    fn expanded(&self, text: &str) -> String {
        expand_text(text, &self.variables).map_or_else(|_| text.to_owned(), |expanded| expanded.text)
    }
}

fn read(path: &Path, report: &mut Report) -> Option<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) => {
            report.add(
                &path.display().to_string(),
                "a file that can be read",
                &error.to_string(),
                "correct the path or its rights",
            );
            None
        }
    }
}

fn apply<'o, 'e: 'o>(
    overrides: impl IntoIterator<Item = &'o Override<'e>>,
    document: &mut Value,
    schema: &Value,
    linked: &[&str],
    report: &mut Report,
) {
    let mut target = Target { document, node: Node::root(schema), backends: linked };
    for one in overrides {
        one.apply(&mut target, report);
    }
}

/// Takes the resources out that are not enabled; of them only what says what they are is kept.
fn take_disabled(document: &mut Value, variables: &Variables) -> BTreeMap<String, ResourceConfig> {
    let Some(resources) = document.get_mut("resources").and_then(Value::as_object_mut) else { return BTreeMap::new() };
    let is_disabled = |resource: &Value| match resource.get("enabled") {
        Some(Value::Bool(enabled)) => !enabled,
        Some(Value::String(text)) => {
            let expanded = expand_text(text, variables).ok().filter(|expanded| expanded.is_whole);
            expanded.and_then(|expanded| text::parse(Types::BOOLEAN, &expanded.text)) == Some(Value::Bool(false))
        }
        _ => false,
    };
    let names: Vec<_> = resources
        .iter()
        .filter(|(name, resource)| !is_comment(name) && is_disabled(resource))
        .map(|(name, _)| name.clone())
        .collect();
    let mut disabled = BTreeMap::new();
    for name in names {
        let Some(resource) = resources.remove(&name) else { continue };
        let text = |key| {
            resource
                .get(key)
                .and_then(Value::as_str)
                .and_then(|text| expand_text(text, variables).ok())
                .map(|found| found.text)
        };
        let (backend, backend_class, description) = (text("backend"), text("backend_class"), text("description"));
        disabled
            .insert(name, ResourceConfig { enabled: false, backend, backend_class, description, ..Default::default() });
    }
    disabled
}

/// The typed parse, section by section, so that an error in one does not hide those in another; then the last rules.
fn typed(document: &Value, disabled: BTreeMap<String, ResourceConfig>, report: &mut Report) -> Config {
    let mut config = Config { resources: disabled, ..Config::default() };
    validate::tokens(document, report);
    if let Some(server) = parse(document.get("server"), "server", report) {
        config.server = server;
        validate::server(&config.server, report);
    }
    for (name, resource) in document.get("resources").and_then(Value::as_object).into_iter().flatten() {
        let resource = parse(Some(resource), &join("resources", name), report);
        config.resources.insert(name.clone(), resource.unwrap_or_default());
    }
    validate::resources(&config.resources, report);
    if let Some(warmup) = parse(document.get("warmup"), "warmup", report) {
        config.warmup = warmup;
        // Without the resources there is nothing to hold the names against.
        if !report.has("resources") {
            validate::warmup(&config.warmup, &config.resources, report);
        }
    }
    if let Some(apis) = document.get("apis").and_then(Value::as_object) {
        let right = |key: &str, section| without_errors(section, &join("apis", key), report);
        config.apis = apis.iter().map(|(key, section)| (key.clone(), right(key, section))).collect();
    }
    config
}

/// Parses what is right of a section, so that its other rules can be checked too; `None` if nothing is.
fn parse<T: DeserializeOwned>(value: Option<&Value>, path: &str, report: &mut Report) -> Option<T> {
    if report.has(path) {
        return None;
    }
    match serde_path_to_error::deserialize(without_errors(value?, path, report)) {
        Ok(parsed) => Some(parsed),
        Err(error) => {
            let place = error.path().to_string();
            // The schema comes from the same types and has been checked: hardly anything is left to fail here.
            let place = if place == "." { path.to_owned() } else { join(path, &place) };
            let found = if report.is_secret(&place) { "another".to_owned() } else { error.into_inner().to_string() };
            report.add(&place, "a value of its type", &found, "");
            None
        }
    }
}

/// A value less the members that have been reported.
fn without_errors(value: &Value, path: &str, report: &Report) -> Value {
    let Value::Object(members) = value else { return value.clone() };
    let right = members.iter().map(|(key, member)| (key, join(path, key), member)).filter(|(_, place, member)| {
        // An array is right or wrong as a whole: without one item the others would have other places.
        if member.is_array() { !report.has_within(place) } else { !report.has(place) }
    });
    right.map(|(key, place, member)| (key.clone(), without_errors(member, &place, report))).collect()
}

#[cfg(test)]
mod tests;
