//! Checks every key and value of a document against its schema: unknown keys, types, choices and ranges.

use serde_json::Value;

use crate::{nearest::nearest, schema::integral};

use super::{
    error::{Report, did_you_mean, join},
    text,
    walk::{Node, Types, own_types},
};

/// Checks a whole document without comments; a float without fraction becomes an integer where one is meant.
pub(crate) fn check(node: &Node<'_>, document: &mut Value, report: &mut Report) {
    visit(node, "", document, report);
}

fn visit(node: &Node<'_>, path: &str, value: &mut Value, report: &mut Report) {
    // What could not be expanded or set has been reported.
    if report.has(path) {
        return;
    }
    let types = node.types();
    if !types.take(value) {
        match value.as_f64().and_then(integral).filter(|_| types.has(Types::INTEGER)) {
            Some(integer) => *value = integer.into(),
            None => return report.add(path, &types.words(), &report.describe(path, value), advice(types, value)),
        }
    }
    let leaves = node.leaves(Some(value));
    if let Some(expected) = wrong_choice(&leaves, value).or_else(|| out_of_range(&leaves, value)) {
        return report.add(path, &expected, &report.describe(path, value), "");
    }
    let shape = value.clone();
    match value {
        Value::Object(members) => {
            let known = node.known_keys(Some(&shape));
            let is_open = node.is_open(Some(&shape));
            for (key, member) in members.iter_mut() {
                let place = join(path, key);
                if is_open || known.contains(&key.as_str()) {
                    visit(&node.child(key, Some(&shape)), &place, member, report);
                } else if path == "apis" {
                    let near = nearest(key, known.iter().copied())
                        .map(|near| format!("did you mean `{near}`? "))
                        .unwrap_or_default();
                    let advice = if known.is_empty() {
                        "there are none: remove it".to_owned()
                    } else {
                        format!("{near}linked tools read: {}", known.join(", "))
                    };
                    report.add(&place, "a section that a linked tool reads", "one that none reads", &advice);
                } else if !report.has(&place) {
                    let advice = match inner_key(node, path, key, &shape) {
                        Some(inner) => format!("did you mean `{inner}`?"),
                        None => did_you_mean(key, &known),
                    };
                    report.add(&place, "a known key", "an unknown one", &advice);
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                visit(&node.item(index, Some(&shape)), &format!("{path}[{index}]"), item, report);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A setting of the backend that stands beside `config` instead of inside.
fn inner_key(resource: &Node<'_>, path: &str, key: &str, value: &Value) -> Option<String> {
    let is_resource = path.strip_prefix("resources.").is_some_and(|name| !name.contains('.'));
    let is_setting = || resource.child("config", Some(value)).declares(key, None);
    (is_resource && is_setting()).then(|| format!("config.{key}"))
}

fn advice(types: Types, value: &Value) -> &'static str {
    match value {
        Value::String(text) if text::parse(types, text).is_some_and(|meant| types.take(&meant)) => {
            "write it without quotes"
        }
        Value::Number(_) | Value::Bool(_) if types.has(Types::STRING) => "put it in quotes",
        Value::Null => "remove it, or give it a value",
        _ => "",
    }
}

/// The schemas that speak about values of this type; none if one of them takes anything.
fn relevant<'s>(leaves: &[&'s Value], value: &Value) -> Vec<&'s Value> {
    let about: Vec<_> = leaves.iter().copied().filter(|leaf| own_types(leaf).take(value)).collect();
    if about.iter().any(|leaf| own_types(leaf) == Types::ANY) { Vec::new() } else { about }
}

/// What is expected, if only certain values are taken and this is none of them.
fn wrong_choice(leaves: &[&Value], value: &Value) -> Option<String> {
    let mut choices = Vec::new();
    for leaf in relevant(leaves, value) {
        match (leaf.get("const"), leaf.get("enum").and_then(Value::as_array)) {
            (Some(one), _) => choices.push(one),
            (None, Some(several)) => choices.extend(several),
            (None, None) => return None,
        }
    }
    let is_wrong = !choices.is_empty() && !choices.contains(&value);
    is_wrong.then(|| format!("one of {}", choices.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")))
}

/// What is expected, if a number is outside of every range that is given.
fn out_of_range(leaves: &[&Value], value: &Value) -> Option<String> {
    let number = value.as_f64()?;
    let mut expected = None;
    for leaf in relevant(leaves, value) {
        let bound = |keyword| leaf.get(keyword).and_then(Value::as_f64);
        let is_inside = bound("minimum").is_none_or(|least| number >= least)
            && bound("exclusiveMinimum").is_none_or(|least| number > least)
            && bound("maximum").is_none_or(|most| number <= most)
            && bound("exclusiveMaximum").is_none_or(|most| number < most);
        if is_inside {
            return None;
        }
        let words = [
            ("exclusiveMinimum", "above"),
            ("minimum", "at least"),
            ("exclusiveMaximum", "below"),
            ("maximum", "at most"),
        ];
        let words =
            words.iter().filter_map(|(keyword, words)| leaf.get(*keyword).map(|bound| format!("{words} {bound}")));
        expected =
            Some(format!("{} {}", own_types(leaf).without_null().words(), words.collect::<Vec<_>>().join(" and ")));
    }
    expected
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Node, Report, check};

    fn errors(schema: &Value, mut value: Value) -> (Value, Vec<String>) {
        let mut report = Report::default();
        check(&Node::root(schema), &mut value, &mut report);
        (
            value,
            report.finish().map_or_else(|errors| errors.0.iter().map(ToString::to_string).collect(), |()| Vec::new()),
        )
    }

    #[test]
    fn unknown_keys_are_found_at_every_depth_through_every_combinator() {
        let schema = json!({
            "properties": {
                "list": { "type": "array", "items": { "$ref": "#/$defs/item" } },
                "map": { "additionalProperties": { "$ref": "#/$defs/item" } },
                "maybe": { "anyOf": [{ "$ref": "#/$defs/item" }, { "type": "null" }] },
                "all": { "allOf": [{ "$ref": "#/$defs/item" }, { "properties": { "more": {} } }] },
                "tagged": { "oneOf": [
                    { "properties": { "kind": { "const": "a" }, "width": {} } },
                    { "properties": { "kind": { "const": "b" }, "height": {} } },
                ] },
                "free": {}, "open": { "properties": { "a": {} }, "additionalProperties": true },
            },
            "$defs": { "item": { "type": "object", "properties": { "size": { "type": "integer" } } } },
        });
        let unknown =
            |path: &str, advice: &str| format!("{path}: expected a known key, found an unknown one; {advice}");
        let size = "did you mean `size`?";
        for (value, expected) in [
            (json!({ "list": [{ "size": 1 }, { "sise": 1 }] }), vec![unknown("list[1].sise", size)]),
            (json!({ "map": { "Any": { "siez": 1 } } }), vec![unknown("map.Any.siez", size)]),
            (json!({ "maybe": { "siz": 1 } }), vec![unknown("maybe.siz", size)]),
            (json!({ "maybe": null }), vec![]),
            (json!({ "all": { "size": 1, "more": 2, "zzz": 3 } }), vec![unknown("all.zzz", "known are more, size")]),
            (
                json!({ "tagged": { "kind": "a", "height": 1 } }),
                vec![unknown("tagged.height", "known are kind, width")],
            ),
            (json!({ "tagged": { "kind": "b", "height": 1 } }), vec![]),
            (json!({ "free": { "x": { "y": 1 } }, "open": { "b": { "c": 1 } } }), vec![]),
        ] {
            assert_eq!(errors(&schema, value.clone()).1, expected, "{value}");
        }
    }

    #[test]
    fn types_choices_and_ranges_are_checked() {
        let schema = json!({ "properties": {
            "n": { "type": ["integer", "null"], "minimum": 0, "maximum": 9 },
            "f": { "type": "number", "exclusiveMinimum": 0 },
            "s": { "type": "string" },
            "e": { "oneOf": [{ "const": "text", "type": "string" }, { "enum": ["json"] }] },
            "many": { "type": "array", "items": { "type": "string" } },
        } });
        for (value, expected) in [
            (json!({ "n": 9, "f": 1, "s": "", "e": "json", "many": [] }), ""),
            (json!({ "n": null, "f": 0.1, "e": "text" }), ""),
            (json!({ "n": 10 }), "n: expected an integer at least 0 and at most 9, found number 10"),
            (json!({ "n": "5" }), "n: expected an integer or null, found string \"5\"; write it without quotes"),
            (json!({ "n": "x" }), "n: expected an integer or null, found string \"x\""),
            (json!({ "n": 1.5 }), "n: expected an integer or null, found number 1.5"),
            (json!({ "f": 0 }), "f: expected a number above 0, found number 0"),
            (json!({ "f": null }), "f: expected a number, found null; remove it, or give it a value"),
            (json!({ "s": 5 }), "s: expected a string, found number 5; put it in quotes"),
            (json!({ "e": "xml" }), "e: expected one of \"text\", \"json\", found string \"xml\""),
            (json!({ "many": ["a", 1] }), "many[1]: expected a string, found number 1; put it in quotes"),
            (json!({ "many": {} }), "many: expected an array, found an object"),
        ] {
            assert_eq!(errors(&schema, value.clone()).1.join("\n"), expected, "{value}");
        }
        assert_eq!(errors(&schema, json!({ "n": 3.0, "f": 3.0 })).0.to_string(), r#"{"f":3.0,"n":3}"#);
    }
}
