//! From the text of a file to JSON, by the format parsers of the crate `config`.
//!
//! Only its parsers: its builder would read a top-level key such as `a.b` or `x[0]` as a path.

use std::{collections::BTreeSet, fmt, path::Path};

use ::config::{File, FileFormat, Source, ValueKind};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use super::{
    comments::is_comment,
    error::{Report, join},
};

/// The format that a file's extension names; none means JSON.
pub(crate) fn of_path(path: &Path) -> Option<FileFormat> {
    match path.extension().map(|extension| extension.to_string_lossy().to_lowercase()).as_deref() {
        None | Some("json") => Some(FileFormat::Json),
        Some("json5" | "jsonc") => Some(FileFormat::Json5),
        Some("toml") => Some(FileFormat::Toml),
        Some("yaml" | "yml") => Some(FileFormat::Yaml),
        Some(_) => None,
    }
}

/// Parses a text; what is wrong goes to the report, under the path of a value or, if nothing can be read, under the
/// source's name.
pub(crate) fn parse(source: &str, text: &str, format: FileFormat, report: &mut Report) -> Option<Map<String, Value>> {
    // Editors on other systems put a byte order mark first, which no parser here takes.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let twice = if format == FileFormat::Json { first_duplicate(text) } else { None };
    let is_twice = twice.is_some();
    let parsed = match twice {
        Some(message) => Err(message),
        None => File::from_str(text, format).collect().map_err(|error| without_snippet(&error.to_string())),
    };
    match parsed {
        Ok(table) => {
            Some(table.into_iter().map(|(key, value)| (key.clone(), to_json(&key, value.kind, report))).collect())
        }
        Err(message) => {
            let advice = match format {
                FileFormat::Json if is_twice => "keep one of them",
                FileFormat::Json if message.contains("EOF") => "its end is missing",
                FileFormat::Json => "JSON takes no comments and no trailing commas: a file named .json5 does",
                _ => "correct it",
            };
            report.add(source, &format!("one object in {format:?}"), &message, advice);
            None
        }
    }
}

fn to_json(path: &str, kind: ValueKind, report: &mut Report) -> Value {
    let number = match kind {
        ValueKind::Nil => return Value::Null,
        ValueKind::Boolean(value) => return Value::Bool(value),
        ValueKind::String(value) => return Value::String(value),
        ValueKind::Array(items) => {
            let items = items.into_iter().enumerate();
            return items.map(|(index, item)| to_json(&format!("{path}[{index}]"), item.kind, report)).collect();
        }
        ValueKind::Table(table) => {
            let members = table.into_iter();
            return members.map(|(key, value)| (key.clone(), to_json(&join(path, &key), value.kind, report))).collect();
        }
        ValueKind::I64(value) => Some(value.into()),
        ValueKind::U64(value) => Some(value.into()),
        ValueKind::I128(value) => Number::from_i128(value),
        ValueKind::U128(value) => Number::from_u128(value),
        ValueKind::Float(value) if is_rounded_integer(value) => None,
        ValueKind::Float(value) => Number::from_f64(value),
    };
    number.map_or_else(
        || {
            let advice = "write an integer of more than 64 bits (in YAML of more than 63) as a string";
            report.add(path, "a finite number that can be kept exactly", "another one", advice);
            Value::Null
        },
        Value::Number,
    )
}

/// Whether this is in all likelihood a long integer that its parser turned into a float, changing its digits: an
/// identifier that silently becomes another one is worse than an error.
fn is_rounded_integer(value: f64) -> bool {
    /// 2^63: smaller integers arrive as such from every parser.
    const LEAST: f64 = 9_223_372_036_854_775_808.0;
    /// Above, people write an exponent and mean a magnitude.
    const MOST: f64 = 1e21;
    (LEAST..MOST).contains(&value.abs())
}

/// TOML's errors quote the line, which may hold a secret.
fn without_snippet(message: &str) -> String {
    let lines = message.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains('|'));
    lines.collect::<Vec<_>>().join(": ")
}

/// The message about the first key that stands twice in an object: TOML and YAML refuse it, JSON's parser keeps the last.
fn first_duplicate(text: &str) -> Option<String> {
    serde_json::from_str::<Unique>(text).err().filter(serde_json::Error::is_data).map(|error| error.to_string())
}

struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Unique;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_str<E>(self, _: &str) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_unit<E>(self) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Unique, A::Error> {
        while items.next_element::<Unique>()?.is_some() {}
        Ok(Unique)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Unique, A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(key) = members.next_key::<String>()? {
            if is_comment(&key) {
                members.next_value::<IgnoredAny>()?;
                continue;
            }
            members.next_value::<Unique>()?;
            if let Some(key) = seen.replace(key) {
                return Err(A::Error::custom(format!("key `{key}` a second time")));
            }
        }
        Ok(Unique)
    }
}

#[cfg(test)]
mod tests {
    use ::config::FileFormat;
    use serde_json::{Value, json};

    use super::super::error::Report;

    fn parse(text: &str, format: FileFormat) -> Result<Value, String> {
        let mut report = Report::default();
        let value = super::parse("the file", text, format, &mut report);
        report.finish().map(|()| Value::Object(value.expect("is right"))).map_err(|errors| errors.to_string())
    }

    /// What every format can say.
    fn expected() -> Value {
        json!({
            "Top.Key[0]": { "poolSize": 9_223_372_036_854_775_807_i64, "ENV": { "Path_X": "${HOME}" } },
            "list": [[1, [2.5]], [], ["a", true]],
            "text": "123", "float": 3.0, "least": i64::MIN,
        })
    }

    #[test]
    fn json_keeps_case_widths_nulls_and_nesting() {
        let text = r#"{"Top.Key[0]": {"poolSize": 9223372036854775807, "ENV": {"Path_X": "${HOME}"}},
            "list": [[1, [2.5]], [], ["a", true]], "text": "123", "float": 3.0, "least": -9223372036854775808}"#;
        assert_eq!(parse(text, FileFormat::Json), Ok(expected()));
        assert_eq!(
            parse("\u{feff}{\"a\": [null, 18446744073709551615]}", FileFormat::Json),
            Ok(json!({ "a": [null, u64::MAX] }))
        );
    }

    #[test]
    fn json5_keeps_the_same() {
        let text = r"{'Top.Key[0]': {poolSize: 9223372036854775807, ENV: {Path_X: '${HOME}'}}, // a comment
            list: [[1, [2.5]], [], ['a', true],], text: '123', float: 3.0, least: -9223372036854775808}";
        assert_eq!(parse(text, FileFormat::Json5), Ok(expected()));
        assert_eq!(parse("{a: [null, 0xff]}", FileFormat::Json5), Ok(json!({ "a": [null, 255] })));
        assert!(parse("{a: 18446744073709551615}", FileFormat::Json5).is_err(), "refused, not damaged");
    }

    #[test]
    fn toml_keeps_the_same() {
        let text = "list = [[1, [2.5]], [], ['a', true]]\ntext = '123'\nfloat = 3.0\nleast = -9223372036854775808\n\
            ['Top.Key[0]']\npoolSize = 9223372036854775807\n['Top.Key[0]'.ENV]\nPath_X = '${HOME}'\n";
        assert_eq!(parse(text, FileFormat::Toml), Ok(expected()));
        assert!(parse("a = 9223372036854775808", FileFormat::Toml).is_err(), "refused, not damaged");
    }

    #[test]
    fn yaml_keeps_the_same() {
        let text = "Top.Key[0]:\n  poolSize: 9223372036854775807\n  ENV: {Path_X: '${HOME}'}\n\
            list: [[1, [2.5]], [], [a, true]]\ntext: '123'\nfloat: 3.0\nleast: -9223372036854775808\n";
        assert_eq!(parse(text, FileFormat::Yaml), Ok(expected()));
        assert_eq!(
            parse("a:\n  - ~\n  - null\nb: ${X:-y}", FileFormat::Yaml),
            Ok(json!({ "a": [null, null], "b": "${X:-y}" }))
        );
        let error = parse("a: {b: 18446744073709551615}", FileFormat::Yaml).expect_err("must be refused");
        assert!(error.starts_with("a.b: expected a finite number that can be kept exactly"), "{error}");
        assert_eq!(parse("a: 1e300", FileFormat::Yaml), Ok(json!({ "a": 1e300 })));
    }

    #[test]
    fn a_number_that_json_cannot_hold_is_an_error_with_its_place() {
        for (text, format) in [("{a: [1, Infinity]}", FileFormat::Json5), ("a = [1, nan]", FileFormat::Toml)] {
            assert!(parse(text, format).expect_err("must be refused").starts_with("a[1]: expected a finite number"));
        }
    }

    #[test]
    fn a_text_that_does_not_parse_is_one_error_that_names_the_source() {
        for (text, format) in [
            ("{\"a\": 1,}", FileFormat::Json),
            ("[1]", FileFormat::Json),
            ("", FileFormat::Json),
            ("{a:", FileFormat::Json5),
            ("a = ", FileFormat::Toml),
            ("a: [", FileFormat::Yaml),
        ] {
            let error = parse(text, format).expect_err("must be refused");
            assert!(error.starts_with(&format!("the file: expected one object in {format:?}, found ")), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        assert!(parse("{\n// c\n}", FileFormat::Json).expect_err("must be refused").contains(".json5"));
    }

    #[test]
    fn a_parse_error_quotes_no_line() {
        let error = parse("serper_api_key = \"sk-1\nb = 1", FileFormat::Toml).expect_err("must be refused");
        assert!(error.contains("line 1") && !error.contains("sk-1"), "{error}");
    }

    #[test]
    fn a_key_that_stands_twice_is_an_error_unless_it_is_a_comment() {
        let error = parse(r#"{"a": {"b": 1, "b": 2}}"#, FileFormat::Json).expect_err("must be refused");
        assert!(error.contains("key `b` a second time") && error.ends_with("; keep one of them"), "{error}");
        let error = parse(r#"{"a": {"b": 1"#, FileFormat::Json).expect_err("must be refused");
        assert!(error.ends_with("; its end is missing"), "{error}");
        assert_eq!(parse(r#"{"_": 1, "_": 2}"#, FileFormat::Json), Ok(json!({ "_": 2 })));
    }
}
