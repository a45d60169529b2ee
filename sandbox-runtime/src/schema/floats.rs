//! Integers that came as floats.

use serde_json::Value;

pub(super) fn mentions_integer(schema: &Value) -> bool {
    match schema {
        Value::Object(object) => {
            object.iter().any(|(key, value)| (key == "type" && allows(value, "integer")) || mentions_integer(value))
        }
        Value::Array(items) => items.iter().any(mentions_integer),
        _ => false,
    }
}

fn allows(type_keyword: &Value, name: &str) -> bool {
    match type_keyword {
        Value::String(one) => one == name,
        Value::Array(many) => many.iter().any(|one| one == name),
        _ => false,
    }
}

/// Turns `3.0` into `3` wherever the schema means an integer: JSON Schema counts it as one, serde does not, models send it.
pub(super) fn with_integers(schema: &Value, value: &mut Value) {
    IntegralFloats { root: schema, steps: 0, depth: 0 }.walk(schema, value);
}

/// Bounded, as a recursive schema could lead round in circles: what is left beyond is what serde refuses.
struct IntegralFloats<'a> {
    root: &'a Value,
    steps: u32,
    depth: u32,
}

impl IntegralFloats<'_> {
    const MAX_STEPS: u32 = 1_000_000;
    const MAX_DEPTH: u32 = 512;

    fn walk(&mut self, schema: &Value, value: &mut Value) {
        let Some(schema) = schema.as_object() else { return };
        if self.steps == Self::MAX_STEPS || self.depth == Self::MAX_DEPTH {
            return;
        }
        self.steps += 1;
        self.depth += 1;
        match value {
            Value::Number(number) if number.is_f64() => {
                let means_integer = schema.get("type").is_some_and(|t| allows(t, "integer") && !allows(t, "number"));
                if let (true, Some(integer)) = (means_integer, number.as_f64().and_then(integral)) {
                    *value = Value::from(integer);
                }
            }
            Value::Array(items) => {
                let fixed = schema.get("prefixItems").and_then(Value::as_array);
                let rest = schema.get("items");
                for (index, item) in items.iter_mut().enumerate() {
                    if let Some(schema) = fixed.and_then(|fixed| fixed.get(index)).or(rest) {
                        self.walk(schema, item);
                    }
                }
            }
            Value::Object(members) => {
                let properties = schema.get("properties");
                let others = schema.get("additionalProperties");
                for (name, member) in members.iter_mut() {
                    if let Some(schema) = properties.and_then(|properties| properties.get(name)).or(others) {
                        self.walk(schema, member);
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::String(_) | Value::Number(_) => {}
        }
        if matches!(value, Value::Array(_) | Value::Object(_)) || value.is_f64() {
            for keyword in ["anyOf", "oneOf", "allOf"] {
                for branch in schema.get(keyword).and_then(Value::as_array).into_iter().flatten() {
                    self.walk(branch, value);
                }
            }
            let reference = schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#'));
            if let Some(target) = reference.and_then(|pointer| self.root.pointer(pointer)) {
                self.walk(target, value);
            }
        }
        self.depth -= 1;
    }
}

/// The integer that a float is, if it is one.
pub(crate) fn integral(float: f64) -> Option<i64> {
    /// 2^53: up to here every integral float is exactly one integer.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    #[expect(clippy::cast_possible_truncation, reason = "integral and within 2^53")]
    (float.fract() == 0.0 && float.abs() <= EXACT).then_some(float as i64)
}
