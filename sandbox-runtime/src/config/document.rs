//! The JSON Schema of a whole document: of the typed part alone, of one document with its backends, and as published.

use std::{collections::BTreeMap, sync::LazyLock};

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{
    Config, SectionSchemas,
    walk::{Node, Types, own_types},
};

/// Keys that are comments, as a pattern.
const COMMENTS: &str = "^([_$].*|description)$";

static TYPED: LazyLock<Value> = LazyLock::new(|| {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<Config>().to_value()
});

/// The typed part; every setting of a backend or an api section is allowed.
pub(crate) fn typed() -> Node<'static> {
    Node::root(&TYPED)
}

/// The schema of a document whose resources are of the given backends.
pub(crate) fn composed(backends: &BTreeMap<String, String>, sections: &dyn SectionSchemas) -> Value {
    let mut root = TYPED.clone();
    let mut definitions = Map::new();
    let resource = root["properties"]["resources"]["additionalProperties"].clone();
    let mut resources = Map::new();
    for (name, backend) in backends {
        let mut resource = resource.clone();
        if let Some(schema) = sections.backend(backend) {
            resource["properties"]["config"] = define(&mut definitions, &format!("backend.{backend}"), schema);
        }
        resources.insert(name.clone(), resource);
    }
    root["properties"]["resources"]["properties"] = Value::Object(resources);
    root["properties"]["apis"] = api_sections(sections, &mut definitions, Clone::clone);
    root["$defs"] = Value::Object(definitions);
    root
}

/// The schema for editors and for people: it takes what the loader takes, but for keys of resources that are off.
pub(crate) fn published(sections: &dyn SectionSchemas) -> Value {
    let mut root = publish(&TYPED);
    let mut definitions = Map::new();
    let mut resource = root["properties"]["resources"]["additionalProperties"].take();
    let mut by_backend = Vec::new();
    let mut by_name = Map::new();
    for name in sections.backend_names() {
        let Some(schema) = sections.backend(name) else { continue };
        let config = define(&mut definitions, &format!("backend.{name}"), &publish(schema));
        let typed = json!({ "properties": { "config": config } });
        by_backend.push(
            json!({ "if": { "properties": { "backend": { "const": name } }, "required": ["backend"] }, "then": typed }),
        );
        by_name.insert(
            name.to_owned(),
            json!({
                "$ref": "#/$defs/resource",
                "if": { "not": { "anyOf": [{ "required": ["backend"] }, { "required": ["backend_class"] }] } },
                "then": typed,
            }),
        );
    }
    if !by_backend.is_empty() {
        resource["allOf"] = Value::Array(by_backend);
    }
    definitions.insert("resource".into(), resource);
    let resources = &mut root["properties"]["resources"];
    resources["properties"] = Value::Object(by_name);
    resources["additionalProperties"] = json!({ "$ref": "#/$defs/resource" });
    resources["patternProperties"] = json!({ COMMENTS: true });
    let is_name = json!({ "pattern": "^[a-z][a-z0-9_]*$", "not": { "pattern": "__" } });
    resources["propertyNames"] = json!({ "anyOf": [is_name, { "pattern": COMMENTS }] });
    root["properties"]["apis"] = api_sections(sections, &mut definitions, publish);
    root["properties"]["apis"]["patternProperties"] = json!({ COMMENTS: true });
    root["$defs"] = Value::Object(definitions);
    root
}

fn api_sections(
    sections: &dyn SectionSchemas,
    definitions: &mut Map<String, Value>,
    prepare: fn(&Value) -> Value,
) -> Value {
    let mut apis = TYPED["properties"]["apis"].clone();
    let mut known = Map::new();
    for key in sections.api_keys() {
        let Some(schema) = sections.api(key) else { continue };
        known.insert(key.to_owned(), define(definitions, &format!("api.{key}"), &prepare(schema)));
    }
    apis["properties"] = Value::Object(known);
    apis["additionalProperties"] = Value::Bool(false);
    apis
}

/// Puts a schema among the definitions, and answers a reference to it.
fn define(definitions: &mut Map<String, Value>, name: &str, schema: &Value) -> Value {
    let pointer = format!("#/$defs/{}", name.replace('~', "~0").replace('/', "~1"));
    let mut schema = schema.clone();
    relocate(&mut schema, &pointer);
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("$schema");
    }
    definitions.insert(name.to_owned(), schema);
    json!({ "$ref": pointer })
}

/// Makes a schema's references to itself stay right when it moves to `pointer`.
fn relocate(schema: &mut Value, pointer: &str) {
    match schema {
        Value::Object(members) => {
            for (key, member) in members {
                match member {
                    Value::String(reference) if key == "$ref" => {
                        if let Some(inner) = reference.strip_prefix('#') {
                            *reference = format!("{pointer}{inner}");
                        }
                    }
                    _ => relocate(member, pointer),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| relocate(item, pointer)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A schema with what the loader adds to every type: comments, and texts with `${VAR}`; and without what it refuses.
fn publish(schema: &Value) -> Value {
    let mut published = schema.clone();
    open(&mut published, &Node::root(schema), false);
    published
}

fn open(schema: &mut Value, root: &Node<'_>, is_alternative: bool) {
    let types = own_types(schema);
    let Some(members) = schema.as_object_mut() else { return };
    for keyword in ["properties", "$defs"] {
        for (_, member) in members.get_mut(keyword).and_then(Value::as_object_mut).into_iter().flatten() {
            open(member, root, false);
            if keyword == "properties" {
                allow_variables(member, root);
            }
        }
    }
    for keyword in ["items", "additionalProperties", "unevaluatedProperties"] {
        if let Some(member) = members.get_mut(keyword) {
            open(member, root, false);
            allow_variables(member, root);
        }
    }
    for member in members.get_mut("prefixItems").and_then(Value::as_array_mut).into_iter().flatten() {
        open(member, root, false);
        allow_variables(member, root);
    }
    let mut is_composed = is_alternative || members.contains_key("$ref");
    for keyword in ["anyOf", "oneOf", "allOf"] {
        for member in members.get_mut(keyword).and_then(Value::as_array_mut).into_iter().flatten() {
            open(member, root, true);
            is_composed = true;
        }
    }
    // A part of a composition knows only some of the keys, and cannot say that there are no others.
    let is_silent =
        !["additionalProperties", "unevaluatedProperties"].iter().any(|keyword| members.contains_key(*keyword));
    if types != Types::ANY && types.has(Types::OBJECT) && is_silent && !is_composed {
        members.insert("additionalProperties".into(), Value::Bool(false));
    }
    let is_closed = ["additionalProperties", "unevaluatedProperties"]
        .iter()
        .any(|keyword| members.get(*keyword) == Some(&Value::Bool(false)));
    if is_closed {
        let patterns = members.entry("patternProperties").or_insert_with(|| json!({}));
        patterns[COMMENTS] = Value::Bool(true);
    }
}

/// Lets a text with `${VAR}` stand where something else than any text is meant.
fn allow_variables(schema: &mut Value, root: &Node<'_>) {
    let types = root.part(&schema.clone()).types();
    let is_tag = schema.get("const").is_some();
    let is_section = types.without_null() == Types::OBJECT;
    if types == Types::ANY || is_tag || is_section || root.part(&schema.clone()).takes_any_text() {
        return;
    }
    let mut own = schema.take();
    let mut outer = Map::new();
    if let Some(own) = own.as_object_mut() {
        outer.extend(["description", "default"].into_iter().filter_map(|keyword| own.remove_entry(keyword)));
    }
    outer.insert("anyOf".into(), json!([own, { "type": "string", "pattern": "\\$\\{" }]));
    *schema = Value::Object(outer);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::super::{Config, fixture::Fixture};
    use super::{Node, Types, composed};

    #[test]
    fn a_resource_takes_the_schema_of_its_backend_with_its_own_definitions() {
        let backends =
            BTreeMap::from([("small".to_owned(), "vm".to_owned()), ("odd".to_owned(), "unknown".to_owned())]);
        let schema = composed(&backends, &Fixture::new());
        let config = |name: &str| Node::root(&schema).child("resources", None).child(name, None).child("config", None);
        assert_eq!(config("small").child("poolSize", None).types(), Types::INTEGER);
        let nested = config("small").child("root", None).child("children", None).item(0, None).child("label", None);
        assert_eq!(nested.types(), Types::STRING);
        assert!(!config("small").is_open(None) && config("odd").is_open(None));
        let apis = Node::root(&schema).child("apis", None);
        assert_eq!(apis.known_keys(None), ["fetch", "websearch"]);
    }

    #[test]
    fn every_key_of_the_typed_document_is_described() {
        fn undescribed(path: &str, schema: &Value, found: &mut Vec<String>) {
            for (key, property) in schema["properties"].as_object().into_iter().flatten() {
                let path = format!("{path}.{key}");
                let description = property["description"].as_str().unwrap_or_default();
                if description.is_empty() || !description.contains("Default: ") {
                    found.push(path.clone());
                }
                undescribed(&path, property, found);
                undescribed(&path, &property["additionalProperties"], found);
            }
        }
        let mut found = Vec::new();
        undescribed("", &super::TYPED, &mut found);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn defaults_stand_in_the_schema() {
        let server = &super::TYPED["properties"]["server"]["properties"];
        assert_eq!(server["port"]["default"], 18890);
        assert_eq!(server["max_timeout_seconds"]["default"], 3600.0);
        assert_eq!(server["tokens"]["default"], json!([]));
    }

    #[test]
    fn the_published_schema_takes_what_the_loader_takes() {
        let schema = Config::json_schema(&Fixture::new());
        let validator =
            jsonschema::options().with_draft(jsonschema::Draft::Draft202012).build(&schema).expect("a schema");
        for (document, good) in [
            (json!({}), true),
            (json!({ "$schema": "x", "description": "d", "server": { "port": 1, "_note": { "a": 1 } } }), true),
            (
                json!({ "server": { "port": "${PORT:-1}", "log": { "format": "${F}", "$x": 0 }, "tokens": ["${T}"] } }),
                true,
            ),
            (json!({ "server": { "port": "1" } }), false),
            (json!({ "server": { "prot": 1 } }), false),
            (json!({ "server": { "session_ttl": 0 } }), false),
            (json!({ "server": { "log": { "format": "xml" } } }), false),
            (json!({ "resources": { "vm": { "config": { "poolSize": 3, "_x": 1, "mode": "fast" } } } }), true),
            (
                json!({ "resources": { "vm": { "config": { "poolSize": "${N}", "mode": "${M}" } }, "_off": 1, "description": "d" } }),
                true,
            ),
            (json!({ "resources": { "vm": { "config": { "poolSize": "3" } } } }), false),
            (json!({ "resources": { "vm": { "config": { "pool": 3 } } } }), false),
            (json!({ "resources": { "vm": { "config": { "root": { "children": [{ "label": 1 }] } } } } }), false),
            (
                json!({ "resources": { "vm": { "config": { "root": { "children": [{ "label": "a", "_b": 1 }] } } } } }),
                true,
            ),
            (json!({ "resources": { "vm": { "backend": "other", "config": { "pool": 3 } } } }), true),
            (json!({ "resources": { "big": { "backend": "vm", "config": { "pool": 3 } } } }), false),
            (json!({ "resources": { "big": { "backend": "vm", "config": { "poolSize": 3 } } } }), true),
            (json!({ "resources": { "big": { "max_sesions": 3 } } }), false),
            (json!({ "resources": { "a__b": {} } }), false),
            (json!({ "apis": { "websearch": { "serper_api_key": "${KEY}" }, "_x": 1 } }), true),
            (json!({ "apis": { "websearch": { "serper_key": "k" } } }), false),
            (json!({ "apis": { "serch": {} } }), false),
        ] {
            assert_eq!(
                validator.is_valid(&document),
                good,
                "{document}: {:?}",
                validator.iter_errors(&document).next()
            );
        }
    }
}
