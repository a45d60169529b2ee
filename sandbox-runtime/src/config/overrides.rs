//! Overrides from the environment: `SANDBOX__SERVER__PORT=9000` sets `server.port`.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::nearest::nearest;

use super::{
    comments::is_comment,
    error::{Report, did_you_mean, join},
    expand::{Variables, escape},
    text,
    walk::{Node, Types},
};

const PREFIX: &str = "SANDBOX__";
const SEPARATOR: &str = "__";

/// One variable that sets a key.
#[derive(Debug)]
pub(crate) struct Override<'e> {
    pub(crate) variable: &'e str,
    parts: Vec<&'e str>,
    text: &'e str,
}

/// What is needed to place an override.
pub(crate) struct Target<'t> {
    pub(crate) document: &'t mut Value,
    pub(crate) node: Node<'t>,
    /// The names of linked backends: a resource that exists only by an override must be one of them, or name its backend.
    pub(crate) backends: &'t [&'t str],
}

/// The overrides among variables: those that say which resources there are and of which backend, and the others, which can
/// only be read when that is known. Outer keys come before inner ones.
pub(crate) fn find(variables: &Variables) -> (Vec<Override<'_>>, Vec<Override<'_>>) {
    let mut all: Vec<_> = variables
        .iter()
        .filter_map(|(variable, text)| {
            let prefix = variable.get(..PREFIX.len()).filter(|prefix| prefix.eq_ignore_ascii_case(PREFIX))?;
            Some(Override { variable, parts: variable[prefix.len()..].split(SEPARATOR).collect(), text })
        })
        .collect();
    all.sort_by_key(|one| (one.parts.len(), one.variable));
    all.into_iter().partition(Override::is_selecting)
}

impl Override<'_> {
    /// Whether it says which resources there are, and of which backend.
    fn is_selecting(&self) -> bool {
        self.parts.len() <= 2
            || (self.resource().is_some()
                && self.parts.len() == 3
                && (self.names_backend() || is_same(self.parts[2], "enabled")))
    }

    fn names_backend(&self) -> bool {
        self.parts.get(2).is_some_and(|part| is_same(part, "backend") || is_same(part, "backend_class"))
    }

    /// The resource that it is about, as written.
    pub(crate) fn resource(&self) -> Option<&str> {
        self.parts.first().filter(|section| is_same(section, "resources")).and(self.parts.get(1)).copied()
    }

    /// Sets the key; what is wrong goes to the report.
    pub(crate) fn apply(&self, target: &mut Target<'_>, report: &mut Report) {
        let Some((keys, node)) = self.resolve(target, report) else { return };
        let path = keys.join(".");
        let types = node.types();
        let Some(value) = text::parse(types, self.text) else {
            let found = report.describe(&path, &Value::String(self.text.to_owned()));
            return self.report(report, &path, &text::expected(types), &found, "correct the variable");
        };
        if let Some(other) = report.set_by(&path, self.variable) {
            self.report(report, &path, "one variable for a key", &format!("also {other}"), "unset one of them");
        }
        set(target.document, &keys, escaped(value));
    }

    /// The keys from the outside in, as the document or the schema spells them.
    fn resolve<'t>(&self, target: &Target<'t>, report: &mut Report) -> Option<(Vec<String>, Node<'t>)> {
        let mut here = Some(&*target.document);
        let mut node = target.node.clone();
        let (mut keys, mut path) = (Vec::new(), String::new());
        for (depth, part) in self.parts.iter().enumerate() {
            let value = here.filter(|value| !value.is_null());
            if value.is_some_and(|value| !value.is_object()) || !node.types().has(Types::OBJECT) {
                let found = value.map_or_else(|| node.types().words(), |value| report.describe(&path, value));
                let advice = if node.types().has(Types::ARRAY) {
                    "set the array as a whole, in JSON"
                } else {
                    "leave out what follows"
                };
                self.report(report, &path, &format!("a section with the key `{part}`"), &found, advice);
                return None;
            }
            let members = value.and_then(Value::as_object);
            let key = match find_key(&node, value, members, part) {
                Found::Key(key) => key,
                Found::Nothing if !node.is_open(value) || part.is_empty() => {
                    let known = node.known_keys(value);
                    let advice = match nearest(part, known.iter().copied()) {
                        Some(near) => format!("did you mean {}?", self.variable_with(depth, near)),
                        None => did_you_mean(part, &known),
                    };
                    self.report(report, &join(&path, part), "a known key", "an unknown one", &advice);
                    return None;
                }
                Found::Nothing if path == "resources" => part.to_lowercase(),
                Found::Nothing => (*part).to_owned(),
                Found::Several(keys) => {
                    let expected = format!("one of {} in its exact spelling", keys.join(", "));
                    self.report(
                        report,
                        &join(&path, part),
                        &expected,
                        &format!("`{part}`"),
                        "write the key as it is spelt",
                    );
                    return None;
                }
            };
            if path == "resources" && self.would_invent(&key, members, target.backends) {
                let mut known: BTreeSet<&str> = members
                    .into_iter()
                    .flat_map(Map::keys)
                    .map(String::as_str)
                    .filter(|key| !is_comment(key))
                    .collect();
                known.extend(target.backends);
                let known: Vec<_> = known.into_iter().collect();
                let expected = "a configured resource or a linked backend";
                self.report(report, &join(&path, &key), expected, "neither", &did_you_mean(&key, &known));
                return None;
            }
            node = node.child(&key, value);
            here = members.and_then(|members| members.get(&key));
            path = join(&path, &key);
            keys.push(key);
        }
        Some((keys, node))
    }

    /// Whether setting this would make a resource that nobody asked for, as a slip in its name does.
    fn would_invent(&self, key: &str, resources: Option<&Map<String, Value>>, backends: &[&str]) -> bool {
        let exists = resources.is_some_and(|resources| resources.contains_key(key));
        !exists && self.parts.len() > 2 && !self.names_backend() && !backends.contains(&key)
    }

    /// The variable as it should have been written.
    fn variable_with(&self, depth: usize, key: &str) -> String {
        let mut parts: Vec<_> = self.parts.iter().map(ToString::to_string).collect();
        parts[depth] = key.to_uppercase().replace('-', "_");
        format!("{PREFIX}{}", parts.join(SEPARATOR))
    }

    fn report(&self, report: &mut Report, path: &str, expected: &str, found: &str, advice: &str) {
        report.add_of(Some(self.variable.to_owned()), path, expected, found, advice);
    }
}

enum Found {
    Key(String),
    Nothing,
    Several(Vec<String>),
}

/// The key that a part of a variable's name means.
fn find_key(node: &Node<'_>, value: Option<&Value>, members: Option<&Map<String, Value>>, part: &str) -> Found {
    let known = node.known_keys(value);
    let existing = members.into_iter().flat_map(Map::keys).map(String::as_str).filter(|key| !is_comment(key));
    let meant: BTreeSet<&str> = existing.chain(known).filter(|key| is_same(part, key)).collect();
    match (meant.len(), meant.first()) {
        (1, Some(key)) => Found::Key((*key).to_owned()),
        (0, _) | (_, None) => Found::Nothing,
        _ if meant.contains(part) => Found::Key(part.to_owned()),
        _ => Found::Several(meant.into_iter().map(str::to_owned).collect()),
    }
}

/// Names of variables have no case and no hyphens.
fn is_same(part: &str, key: &str) -> bool {
    part.replace('-', "_").eq_ignore_ascii_case(&key.replace('-', "_"))
}

fn set(document: &mut Value, keys: &[String], value: Value) {
    let mut place = document;
    for key in keys {
        if place.is_null() {
            *place = Value::Object(Map::new());
        }
        // The keys were resolved against this document, so that every place on the way is an object or missing.
        let Some(members) = place.as_object_mut() else { return };
        place = members.entry(key.as_str()).or_insert(Value::Null);
    }
    *place = value;
}

/// The environment is final: a `$` in an override is no reference, least of all in a password.
fn escaped(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(escape(&text)),
        Value::Array(items) => items.into_iter().map(escaped).collect(),
        Value::Object(members) => members.into_iter().map(|(key, member)| (key, escaped(member))).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Node, Report, Target, Variables, find};

    fn apply(mut document: Value, variables: &[(&str, &str)]) -> Result<Value, Vec<String>> {
        let schema = json!({ "type": "object", "properties": {
            "server": { "type": "object", "properties": {
                "port": { "type": "integer" }, "title": { "type": "string" }, "poolSize": { "type": "integer" },
                "hosts": { "type": "array", "items": { "type": "string" } }, "allow": { "type": "boolean" },
                "api_key": { "type": "integer" }, "web-search": { "type": "object", "properties": { "n": { "type": "number" } } },
                "env": { "type": "object", "additionalProperties": { "type": "string" } },
            } },
            "resources": { "type": "object", "additionalProperties": { "type": "object", "properties": {
                "enabled": { "type": "boolean" }, "backend": { "type": "string" }, "max": { "type": "integer" } } } },
        } });
        let variables: Variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut report = Report::default();
        let mut target = Target { document: &mut document, node: Node::root(&schema), backends: &["vm"] };
        let (selecting, others) = find(&variables);
        selecting.iter().chain(&others).for_each(|one| one.apply(&mut target, &mut report));
        match report.finish() {
            Ok(()) => Ok(document),
            Err(errors) => Err(errors.0.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn a_key_is_found_without_regard_to_case_and_set_by_its_type() {
        for (before, variable, text, after) in [
            (json!({}), "SANDBOX__SERVER__PORT", "9000", json!({ "server": { "port": 9000 } })),
            (
                json!({ "server": { "port": 1, "title": "t" } }),
                "SANDBOX__SERVER__PORT",
                "2",
                json!({ "server": { "port": 2, "title": "t" } }),
            ),
            (json!({}), "sandbox__server__title", "123", json!({ "server": { "title": "123" } })),
            (json!({ "server": null }), "SANDBOX__SERVER__POOLSIZE", "3", json!({ "server": { "poolSize": 3 } })),
            (json!({}), "SANDBOX__SERVER__ALLOW", "yes", json!({ "server": { "allow": true } })),
            (json!({}), "SANDBOX__SERVER__HOSTS", r#"["a"]"#, json!({ "server": { "hosts": ["a"] } })),
            (json!({}), "SANDBOX__SERVER", r#"{"title": "a$b"}"#, json!({ "server": { "title": "a$$b" } })),
            (json!({}), "SANDBOX__SERVER__TITLE", "${X} $$", json!({ "server": { "title": "$${X} $$$$" } })),
            (json!({}), "SANDBOX__SERVER__WEB_SEARCH__N", ".5", json!({ "server": { "web-search": { "n": 0.5 } } })),
            (json!({}), "SANDBOX__SERVER__ENV__Path", "/bin", json!({ "server": { "env": { "Path": "/bin" } } })),
            (
                json!({ "server": { "env": { "PATH": "x" } } }),
                "SANDBOX__SERVER__ENV__Path",
                "y",
                json!({ "server": { "env": { "PATH": "y" } } }),
            ),
            (json!({}), "SANDBOX__RESOURCES__VM__MAX", "1", json!({ "resources": { "vm": { "max": 1 } } })),
            (
                json!({ "resources": { "big": {} } }),
                "SANDBOX__RESOURCES__BIG__MAX",
                "1",
                json!({ "resources": { "big": { "max": 1 } } }),
            ),
            (
                json!({}),
                "SANDBOX__RESOURCES__BIG__BACKEND",
                "vm",
                json!({ "resources": { "big": { "backend": "vm" } } }),
            ),
            (json!({}), "SANDBOX_SERVER_PORT", "x", json!({})),
        ] {
            assert_eq!(apply(before, &[(variable, text)]), Ok(after), "{variable}");
        }
    }

    #[test]
    fn outer_keys_are_set_before_inner_ones_whatever_the_names_order() {
        let variables = [("SANDBOX__server__PORT", "2"), ("SANDBOX__server", r#"{"port": 1, "title": "x"}"#)];
        assert_eq!(apply(json!({}), &variables), Ok(json!({ "server": { "port": 2, "title": "x" } })));
        let variables =
            [("SANDBOX__RESOURCES__X__BACKEND", "vm"), ("SANDBOX__resources__X", r#"{"backend": "a", "max": 1}"#)];
        assert_eq!(apply(json!({}), &variables), Ok(json!({ "resources": { "x": { "backend": "vm", "max": 1 } } })));
        let variables = [("SANDBOX__RESOURCES__BIG__MAX", "2"), ("SANDBOX__RESOURCES__BIG__BACKEND", "vm")];
        assert_eq!(apply(json!({}), &variables), Ok(json!({ "resources": { "big": { "backend": "vm", "max": 2 } } })));
    }

    #[test]
    fn an_override_that_fits_nothing_names_its_variable_and_the_nearest() {
        for (variable, text, error) in [
            (
                "SANDBOX__SERVER__PROT",
                "1",
                "server.PROT (set by SANDBOX__SERVER__PROT): expected a known key, found an unknown one; did you mean SANDBOX__SERVER__PORT?",
            ),
            (
                "SANDBOX__ZZZ",
                "1",
                "ZZZ (set by SANDBOX__ZZZ): expected a known key, found an unknown one; known are resources, server",
            ),
            (
                "SANDBOX__",
                "1",
                " (set by SANDBOX__): expected a known key, found an unknown one; known are resources, server",
            ),
            (
                "SANDBOX__SERVER__PORT",
                "x",
                "server.port (set by SANDBOX__SERVER__PORT): expected an integer, found string \"x\"; correct the variable",
            ),
            (
                "SANDBOX__SERVER__API_KEY",
                "sk-1",
                "server.api_key (set by SANDBOX__SERVER__API_KEY): expected an integer, found a string; correct the variable",
            ),
            (
                "SANDBOX__SERVER__PORT__X",
                "1",
                "server.port (set by SANDBOX__SERVER__PORT__X): expected a section with the key `X`, found an integer; leave out what follows",
            ),
            (
                "SANDBOX__SERVER__HOSTS__0",
                "a",
                "server.hosts (set by SANDBOX__SERVER__HOSTS__0): expected a section with the key `0`, found an array; set the array as a whole, in JSON",
            ),
            (
                "SANDBOX__RESOURCES__VN__MAX",
                "1",
                "resources.vn (set by SANDBOX__RESOURCES__VN__MAX): expected a configured resource or a linked backend, found neither; known are vm",
            ),
        ] {
            assert_eq!(apply(json!({}), &[(variable, text)]), Err(vec![error.to_owned()]));
        }
    }

    #[test]
    fn a_comment_is_no_key_to_override() {
        assert!(apply(json!({ "server": { "_note": "x" } }), &[("SANDBOX__SERVER___NOTE", "y")]).is_err());
    }

    #[test]
    fn keys_that_differ_only_in_case_need_the_exact_spelling_and_a_key_has_one_variable() {
        let document = || json!({ "server": { "env": { "ab": "1", "AB": "2" } } });
        assert_eq!(
            apply(document(), &[("SANDBOX__SERVER__ENV__AB", "3")]),
            Ok(json!({ "server": { "env": { "ab": "1", "AB": "3" } } }))
        );
        assert!(
            apply(document(), &[("SANDBOX__SERVER__ENV__Ab", "3")]).expect_err("must be refused")[0]
                .contains("one of AB, ab")
        );
        let twice = apply(json!({}), &[("SANDBOX__SERVER__PORT", "1"), ("SANDBOX__Server__Port", "2")]);
        assert!(twice.expect_err("must be refused")[0].contains("expected one variable for a key"));
    }
}
