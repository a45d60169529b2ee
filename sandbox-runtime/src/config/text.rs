//! Parses the text of a variable as the type which its key has in the schema; never guesses.

use serde_json::{Number, Value};

use super::walk::Types;

/// The value that a text means for a key of these types; `None` if it means none.
///
/// A key that takes strings, or anything, takes the text as it is.
pub(crate) fn parse(types: Types, text: &str) -> Option<Value> {
    if types.has(Types::STRING) {
        return Some(Value::String(text.to_owned()));
    }
    let text = text.trim();
    let word = text.to_ascii_lowercase();
    if types.has(Types::NULL) && (text.is_empty() || word == "null") {
        return Some(Value::Null);
    }
    let numeric = types.has(Types::INTEGER) || types.has(Types::NUMBER);
    if types.has(Types::BOOLEAN) {
        match word.as_str() {
            "true" | "yes" | "on" => return Some(Value::Bool(true)),
            "false" | "no" | "off" => return Some(Value::Bool(false)),
            "1" if !numeric => return Some(Value::Bool(true)),
            "0" if !numeric => return Some(Value::Bool(false)),
            _ => {}
        }
    }
    let integer = || text.parse::<i64>().map(Number::from).or_else(|_| text.parse::<u64>().map(Number::from)).ok();
    let float = || text.parse::<f64>().ok().and_then(Number::from_f64).filter(|_| types.has(Types::NUMBER));
    if let Some(number) = integer().or_else(float).filter(|_| numeric) {
        return Some(Value::Number(number));
    }
    if types.has(Types::ARRAY) || types.has(Types::OBJECT) {
        let value = serde_json::from_str::<Value>(text).ok()?;
        return ((value.is_array() && types.has(Types::ARRAY)) || (value.is_object() && types.has(Types::OBJECT)))
            .then_some(value);
    }
    None
}

/// What a text for a key of these types may be, in the words of an error.
pub(crate) fn expected(types: Types) -> String {
    let mut words = types.words();
    if types.has(Types::BOOLEAN) {
        words = words.replace("a boolean", "a boolean (true, false, 1, 0, yes, no, on, off)");
    }
    if types.has(Types::ARRAY) {
        words = words.replace("an array", "an array in JSON such as [\"a\", \"b\"]");
    }
    if types.has(Types::OBJECT) {
        words = words.replace("an object", "an object in JSON such as {\"a\": 1}");
    }
    words
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Types, parse};

    #[test]
    fn a_text_is_what_its_key_takes() {
        let nullable = Types::INTEGER | Types::NULL;
        let cases: [(Types, &str, Option<Value>); 34] = [
            (Types::STRING, "123", Some(json!("123"))),
            (Types::STRING | Types::NULL, "null", Some(json!("null"))),
            (Types::STRING | Types::INTEGER, "1", Some(json!("1"))),
            (Types::STRING, " a ", Some(json!(" a "))),
            (Types::ANY, "true", Some(json!("true"))),
            (Types::INTEGER, "9000", Some(json!(9000))),
            (Types::INTEGER, " -7\n", Some(json!(-7))),
            (Types::INTEGER, "18446744073709551615", Some(json!(u64::MAX))),
            (Types::INTEGER, "18446744073709551616", None),
            (Types::INTEGER, "3.0", None),
            (Types::INTEGER, "", None),
            (Types::INTEGER, "0x10", None),
            (Types::INTEGER, "true", None),
            (nullable, "", Some(json!(null))),
            (nullable, "null", Some(json!(null))),
            (nullable, "4", Some(json!(4))),
            (Types::NUMBER, "0.5", Some(json!(0.5))),
            (Types::NUMBER, "5", Some(json!(5))),
            (Types::NUMBER, "1e3", Some(json!(1000.0))),
            (Types::NUMBER, "inf", None),
            (Types::NUMBER, "NaN", None),
            (Types::BOOLEAN, "Yes", Some(json!(true))),
            (Types::BOOLEAN, "1", Some(json!(true))),
            (Types::BOOLEAN, "on", Some(json!(true))),
            (Types::BOOLEAN, "OFF", Some(json!(false))),
            (Types::BOOLEAN, "0", Some(json!(false))),
            (Types::BOOLEAN, "no", Some(json!(false))),
            (Types::BOOLEAN, "2", None),
            (Types::BOOLEAN | Types::INTEGER, "1", Some(json!(1))),
            (Types::ARRAY, r#"["a", 1]"#, Some(json!(["a", 1]))),
            (Types::ARRAY, "a,b", None),
            (Types::ARRAY, "{}", None),
            (Types::OBJECT, r#"{"a": {"b": null}}"#, Some(json!({ "a": { "b": null } }))),
            (Types::OBJECT, "3", None),
        ];
        for (types, text, value) in cases {
            assert_eq!(parse(types, text), value, "{types:?} {text:?}");
        }
    }
}
