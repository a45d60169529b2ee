//! Walks a JSON Schema beside a value: which keys a place knows, and which types it takes.
//!
//! It reads the keywords that schemars writes and follows `$ref`, `allOf`, `anyOf` and `oneOf`. Where it cannot tell, it
//! allows: a validator and the typed parse come after it.

use std::{collections::BTreeSet, ops::BitOr};

use serde_json::{Map, Value};

use super::expand::mentions_variable;

static ANYTHING: Value = Value::Bool(true);

/// Keywords that say something about a value; a schema without any of them takes everything.
const CONSTRAINTS: [&str; 16] = [
    "type",
    "const",
    "enum",
    "properties",
    "required",
    "additionalProperties",
    "patternProperties",
    "items",
    "prefixItems",
    "$ref",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "unevaluatedProperties",
];

/// A set of JSON types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Types(u8);

impl Types {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const STRING: Self = Self(1);
    pub(crate) const INTEGER: Self = Self(1 << 1);
    pub(crate) const NUMBER: Self = Self(1 << 2);
    pub(crate) const BOOLEAN: Self = Self(1 << 3);
    pub(crate) const ARRAY: Self = Self(1 << 4);
    pub(crate) const OBJECT: Self = Self(1 << 5);
    pub(crate) const NULL: Self = Self(1 << 6);
    pub(crate) const ANY: Self = Self(0x7f);

    pub(crate) fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The types of which a value is one: an integer is also a number.
    fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::NULL,
            Value::Bool(_) => Self::BOOLEAN,
            Value::Number(number) if number.is_f64() => Self::NUMBER,
            Value::Number(_) => Self::INTEGER | Self::NUMBER,
            Value::String(_) => Self::STRING,
            Value::Array(_) => Self::ARRAY,
            Value::Object(_) => Self::OBJECT,
        }
    }

    /// Whether a value is of one of these types.
    pub(crate) fn take(self, value: &Value) -> bool {
        self.0 & Self::of(value).0 != 0
    }

    pub(crate) fn without_null(self) -> Self {
        Self(self.0 & !Self::NULL.0)
    }

    fn named(name: &str) -> Self {
        match name {
            "string" => Self::STRING,
            "integer" => Self::INTEGER,
            "number" => Self::NUMBER,
            "boolean" => Self::BOOLEAN,
            "array" => Self::ARRAY,
            "object" => Self::OBJECT,
            "null" => Self::NULL,
            _ => Self::ANY,
        }
    }

    /// In the words of an error, such as `an integer or null`.
    pub(crate) fn words(self) -> String {
        let names = [
            (Self::STRING, "a string"),
            // A number includes the integers.
            (if self.has(Self::NUMBER) { Self::NONE } else { Self::INTEGER }, "an integer"),
            (Self::NUMBER, "a number"),
            (Self::BOOLEAN, "a boolean"),
            (Self::ARRAY, "an array"),
            (Self::OBJECT, "an object"),
            (Self::NULL, "null"),
        ];
        let names: Vec<_> =
            names.iter().filter(|(one, _)| *one != Self::NONE && self.has(*one)).map(|(_, name)| *name).collect();
        names.join(" or ")
    }
}

impl BitOr for Types {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A place in a document, as its schema sees it: every schema that speaks about it.
#[derive(Clone)]
pub(crate) struct Node<'s> {
    root: &'s Value,
    schemas: Vec<&'s Value>,
}

impl<'s> Node<'s> {
    /// The whole document of a schema; `$ref` is resolved within it.
    pub(crate) fn root(schema: &'s Value) -> Self {
        Self { root: schema, schemas: vec![schema] }
    }

    /// A part of the same schema.
    pub(crate) fn part(&self, schema: &'s Value) -> Self {
        Self { root: self.root, schemas: vec![schema] }
    }

    fn anything(&self) -> Self {
        self.part(&ANYTHING)
    }

    /// Every schema that applies, combinators followed. With a value, alternatives which cannot be meant by it are left out.
    pub(crate) fn leaves(&self, value: Option<&Value>) -> Vec<&'s Value> {
        let mut leaves = Vec::new();
        for schema in &self.schemas {
            self.gather(schema, value, &mut leaves);
        }
        leaves
    }

    fn gather(&self, schema: &'s Value, value: Option<&Value>, leaves: &mut Vec<&'s Value>) {
        // Also what ends the walk around a recursive `$ref`.
        if leaves.iter().any(|leaf| std::ptr::eq(*leaf, schema)) {
            return;
        }
        leaves.push(schema);
        let Some(schema) = schema.as_object() else { return };
        if let Some(target) = self.reference(schema) {
            self.gather(target, value, leaves);
        }
        for part in members(schema, "allOf").chain(["then", "else"].iter().filter_map(|keyword| schema.get(*keyword))) {
            self.gather(part, value, leaves);
        }
        for keyword in ["anyOf", "oneOf"] {
            let all: Vec<_> = members(schema, keyword).collect();
            let meant: Vec<_> = match value {
                Some(value) => {
                    all.iter().copied().filter(|alternative| self.can_be_meant(alternative, value)).collect()
                }
                None => Vec::new(),
            };
            for alternative in if meant.is_empty() { all } else { meant } {
                self.gather(alternative, value, leaves);
            }
        }
    }

    fn reference(&self, schema: &Map<String, Value>) -> Option<&'s Value> {
        let pointer = schema.get("$ref")?.as_str()?.strip_prefix('#')?;
        self.root.pointer(pointer)
    }

    /// Whether a value may be of this alternative: its type, and the tags that it carries.
    fn can_be_meant(&self, alternative: &'s Value, value: &Value) -> bool {
        let is_open_text = |value: &Value| value.as_str().is_some_and(mentions_variable);
        let mut schema = alternative;
        // A short chain of references; a longer one is left undecided.
        for _ in 0..4 {
            schema = schema.as_object().and_then(|schema| self.reference(schema)).unwrap_or(schema);
        }
        if is_open_text(value) || ["anyOf", "oneOf", "$ref"].iter().any(|keyword| schema.get(keyword).is_some()) {
            return true;
        }
        let types = own_types(schema);
        let is_tagged_otherwise = value.as_object().into_iter().flatten().any(|(key, member)| {
            let tag =
                properties(schema).find(|(known, _)| *known == key).and_then(|(_, property)| property.get("const"));
            tag.is_some_and(|tag| tag != member && !is_open_text(member))
        });
        (types == Types::NONE || types.take(value)) && !is_tagged_otherwise
    }

    /// The types that this place takes.
    pub(crate) fn types(&self) -> Types {
        let types = self.leaves(None).into_iter().map(own_types).fold(Types::NONE, BitOr::bitor);
        if types == Types::NONE { Types::ANY } else { types }
    }

    /// Whether every string fits: none of the schemas about strings limits them.
    pub(crate) fn takes_any_text(&self) -> bool {
        let leaves = self.leaves(None);
        let mut about = leaves.iter().filter(|leaf| own_types(leaf).has(Types::STRING)).peekable();
        let limits = ["const", "enum", "pattern", "minLength", "maxLength", "format"];
        about.peek().is_some() && about.all(|leaf| !limits.iter().any(|keyword| leaf.get(keyword).is_some()))
    }

    /// The keys that are known here.
    pub(crate) fn known_keys(&self, value: Option<&Value>) -> Vec<&'s str> {
        let leaves = self.leaves(value);
        let keys: BTreeSet<_> = leaves.into_iter().flat_map(properties).map(|(key, _)| key.as_str()).collect();
        keys.into_iter().collect()
    }

    /// Whether the schema names this key itself.
    pub(crate) fn declares(&self, key: &str, value: Option<&Value>) -> bool {
        self.leaves(value).into_iter().any(|leaf| properties(leaf).any(|(known, _)| known == key))
    }

    /// Whether other keys than the known ones may stand here: only where the schema says so, or nothing at all.
    pub(crate) fn is_open(&self, value: Option<&Value>) -> bool {
        self.leaves(value).into_iter().any(|leaf| {
            let patterns =
                leaf.get("patternProperties").and_then(Value::as_object).is_some_and(|patterns| !patterns.is_empty());
            own_types(leaf) == Types::ANY || patterns || additional(leaf).next().is_some()
        })
    }

    /// Whether this is a map from free keys to text, such as environment variables or headers.
    pub(crate) fn is_map_of_text(&self) -> bool {
        self.leaves(None).into_iter().flat_map(additional).any(|schema| {
            let types = self.part(schema).types();
            types != Types::ANY && types.has(Types::STRING)
        })
    }

    /// The member `key`.
    pub(crate) fn child(&self, key: &str, value: Option<&Value>) -> Self {
        let leaves = self.leaves(value);
        let named: Vec<_> = leaves
            .iter()
            .flat_map(|leaf| properties(leaf))
            .filter(|(known, _)| *known == key)
            .map(|(_, schema)| schema)
            .collect();
        let schemas = if named.is_empty() { leaves.iter().flat_map(|leaf| additional(leaf)).collect() } else { named };
        if schemas.is_empty() { self.anything() } else { Self { root: self.root, schemas } }
    }

    /// The item at `index`.
    pub(crate) fn item(&self, index: usize, value: Option<&Value>) -> Self {
        let item = |leaf: &'s Value| {
            let fixed = leaf.get("prefixItems").and_then(|fixed| fixed.get(index));
            fixed.or_else(|| leaf.get("items")).filter(|schema| schema.is_object())
        };
        let schemas: Vec<_> = self.leaves(value).into_iter().filter_map(item).collect();
        if schemas.is_empty() { self.anything() } else { Self { root: self.root, schemas } }
    }
}

fn members<'s>(schema: &'s Map<String, Value>, keyword: &str) -> impl Iterator<Item = &'s Value> + use<'s> {
    schema.get(keyword).and_then(Value::as_array).into_iter().flatten()
}

fn properties(leaf: &Value) -> impl Iterator<Item = (&String, &Value)> {
    leaf.get("properties").and_then(Value::as_object).into_iter().flatten()
}

/// The schemas of keys that are not named; none where such keys may not stand.
fn additional(leaf: &Value) -> impl Iterator<Item = &Value> {
    let keywords = ["additionalProperties", "unevaluatedProperties"].into_iter();
    keywords
        .filter_map(|keyword| leaf.get(keyword))
        .filter(|schema| schema.is_object() || **schema == Value::Bool(true))
}

/// The types that one schema names itself: none if only others (its `$ref`, its alternatives) do.
pub(crate) fn own_types(leaf: &Value) -> Types {
    let Some(schema) = leaf.as_object() else {
        return if *leaf == Value::Bool(true) { Types::ANY } else { Types::NONE };
    };
    match schema.get("type") {
        Some(Value::String(name)) => return Types::named(name),
        Some(Value::Array(names)) => {
            return names.iter().filter_map(Value::as_str).map(Types::named).fold(Types::NONE, BitOr::bitor);
        }
        _ => {}
    }
    if let Some(value) = schema.get("const") {
        return Types::of(value);
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return values.iter().map(Types::of).fold(Types::NONE, BitOr::bitor);
    }
    if ["properties", "additionalProperties", "patternProperties", "required"]
        .iter()
        .any(|keyword| schema.contains_key(*keyword))
    {
        return Types::OBJECT;
    }
    if ["items", "prefixItems"].iter().any(|keyword| schema.contains_key(*keyword)) {
        return Types::ARRAY;
    }
    if CONSTRAINTS.iter().any(|keyword| schema.contains_key(*keyword)) { Types::NONE } else { Types::ANY }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Node, Types};

    #[test]
    fn types_come_from_every_keyword_that_names_them() {
        let schema = json!({ "$defs": { "a": { "type": "integer" } } });
        let cases = [
            (json!({ "type": ["integer", "null"] }), Types::INTEGER | Types::NULL),
            (json!({ "$ref": "#/$defs/a", "description": "" }), Types::INTEGER),
            (json!({ "anyOf": [{ "$ref": "#/$defs/a" }, { "type": "null" }] }), Types::INTEGER | Types::NULL),
            (json!({ "allOf": [{ "$ref": "#/$defs/a" }] }), Types::INTEGER),
            (json!({ "oneOf": [{ "const": "x" }, { "enum": [1, true] }] }), Types(0b1111)),
            (json!({ "properties": {} }), Types::OBJECT),
            (json!({ "description": "anything" }), Types::ANY),
            (json!(true), Types::ANY),
            (json!({ "$ref": "elsewhere.json" }), Types::ANY),
        ];
        for (part, types) in cases {
            assert_eq!(Node::root(&schema).part(&part).types(), types, "{part}");
        }
        assert_eq!((Types::INTEGER | Types::NULL).words(), "an integer or null");
        assert_eq!((Types::INTEGER | Types::NUMBER).words(), "a number");
    }

    fn keys(schema: &Value, value: &Value) -> (Vec<String>, bool) {
        let node = Node::root(schema);
        (node.known_keys(Some(value)).into_iter().map(str::to_owned).collect(), node.is_open(Some(value)))
    }

    #[test]
    fn keys_are_a_closed_list_unless_the_schema_opens_it() {
        for (schema, known, open) in [
            (json!({ "properties": { "a": {} } }), vec!["a"], false),
            (json!({ "type": "object" }), vec![], false),
            (json!({ "properties": { "a": {} }, "additionalProperties": false }), vec!["a"], false),
            (json!({ "properties": { "a": {} }, "additionalProperties": true }), vec!["a"], true),
            (json!({ "additionalProperties": { "type": "string" } }), vec![], true),
            (json!({ "properties": { "a": {} }, "unevaluatedProperties": {} }), vec!["a"], true),
            (json!({ "allOf": [{ "properties": { "a": {} } }, { "properties": { "b": {} } }] }), vec!["a", "b"], false),
            (
                json!({ "properties": { "a": {} }, "anyOf": [{ "properties": { "b": {} } }, true] }),
                vec!["a", "b"],
                true,
            ),
            (json!({}), vec![], true),
        ] {
            assert_eq!(keys(&schema, &json!({})), (known.iter().map(ToString::to_string).collect(), open), "{schema}");
        }
    }

    #[test]
    fn an_alternative_is_chosen_by_its_tag_and_type() {
        let schema = json!({ "oneOf": [
            { "type": "null" },
            { "type": "object", "properties": { "kind": { "const": "a" }, "x": {} } },
            { "$ref": "#/$defs/b" },
        ], "$defs": { "b": { "type": "object", "properties": { "kind": { "const": "b" }, "y": {} } } } });
        assert_eq!(keys(&schema, &json!({ "kind": "a" })).0, ["kind", "x"]);
        assert_eq!(keys(&schema, &json!({ "kind": "b" })).0, ["kind", "y"]);
        assert_eq!(keys(&schema, &json!({ "kind": "${KIND}" })).0, ["kind", "x", "y"]);
        assert_eq!(keys(&schema, &json!({ "kind": "c" })).0, ["kind", "x", "y"]);
    }

    #[test]
    fn members_and_items_are_followed_through_a_recursive_schema() {
        let schema = json!({ "$ref": "#/$defs/tree", "$defs": { "tree": { "type": "object", "properties": {
            "n": { "type": "integer" },
            "kids": { "type": "array", "items": { "anyOf": [{ "$ref": "#/$defs/tree" }, { "type": "null" }] } },
            "pair": { "prefixItems": [{ "type": "string" }, { "type": "boolean" }] },
        } } } });
        let root = Node::root(&schema);
        assert_eq!(
            root.child("kids", None).item(3, None).child("kids", None).item(0, None).child("n", None).types(),
            Types::INTEGER
        );
        assert_eq!(root.child("pair", None).item(1, None).types(), Types::BOOLEAN);
        let looped = json!({ "$ref": "#" });
        assert_eq!(Node::root(&looped).types(), Types::ANY);
    }

    #[test]
    fn a_map_of_text_is_told_from_a_map_of_sections() {
        for (schema, text) in [
            (json!({ "additionalProperties": { "type": "string" } }), true),
            (json!({ "additionalProperties": { "type": ["string", "null"] } }), true),
            (json!({ "additionalProperties": { "type": "object" } }), false),
            (json!({ "additionalProperties": true }), false),
        ] {
            assert_eq!(Node::root(&schema).is_map_of_text(), text, "{schema}");
        }
    }
}
