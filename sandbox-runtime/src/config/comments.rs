//! Takes out what is written for people: `description` and keys beginning with `_` or `$`.

use serde_json::Value;

use super::walk::Node;

/// Whether a key of this name is a comment, if the schema does not know it.
pub(crate) fn is_comment(key: &str) -> bool {
    key == "description" || key.starts_with(['_', '$'])
}

/// Takes the comments out of a value, at any depth.
///
/// A key that the schema names is none; nor is a text in a map of free keys to texts, where `_JAVA_OPTIONS` or
/// `description` is as good a key as any, and taking it out would lose data without a word.
pub(crate) fn strip(node: &Node<'_>, value: &mut Value) {
    let shape = value.clone();
    match value {
        Value::Object(members) => {
            members.retain(|key, member| {
                !is_comment(key) || node.declares(key, Some(&shape)) || (member.is_string() && node.is_map_of_text())
            });
            for (key, member) in members.iter_mut() {
                strip(&node.child(key, Some(&shape)), member);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                strip(&node.item(index, Some(&shape)), item);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Node, strip};

    #[test]
    fn comments_go_at_every_depth_and_declared_keys_stay() {
        let schema = json!({ "properties": {
            "description": { "type": "string" },
            "list": { "items": { "properties": { "_id": { "type": "string" } } } },
            "env": { "additionalProperties": { "type": "string" } },
            "sections": { "additionalProperties": { "type": "object", "properties": { "n": {} } } },
        } });
        let mut value = json!({
            "$schema": "x", "_note": { "a": 1 }, "description": "kept",
            "list": [{ "_id": "kept", "_x": 1, "description": "gone" }],
            "env": { "_JAVA_OPTIONS": "kept", "description": "kept", "$x": 1 },
            "sections": { "description": "gone", "_off": { "n": 1 }, "on": { "n": 1, "$y": 2 } },
            "unknown": { "_x": 1, "y": 2 },
        });
        strip(&Node::root(&schema), &mut value);
        assert_eq!(
            value,
            json!({
                "description": "kept", "list": [{ "_id": "kept" }], "env": { "_JAVA_OPTIONS": "kept", "description": "kept" },
                "sections": { "on": { "n": 1 } }, "unknown": { "y": 2 },
            })
        );
    }
}
