//! Values.

use std::borrow::Cow;

use serde_json::{Number, Value};

/// A value of a row.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Cow<'a, str>),
    /// A list or an object, or a number that is none of the others.
    Json(Value),
}

impl Cell<'_> {
    /// As JSON, a long text cut after so many characters.
    pub(super) fn to_value(&self, max_chars: usize, shortened: &mut bool) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Int(value) => (*value).into(),
            // JSON has no word for what is no number.
            Self::Float(value) => Number::from_f64(*value).map_or_else(|| value.to_string().into(), Value::Number),
            Self::Text(text) => cut(text, max_chars, shortened),
            Self::Json(value) if value.is_number() => value.clone(),
            Self::Json(value) => {
                let text = value.to_string();
                if text.len() > max_chars { cut(&text, max_chars, shortened) } else { value.clone() }
            }
        }
    }

    /// Characters in an answer, about.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Null | Self::Bool(_) => 5,
            Self::Int(_) | Self::Float(_) => 12,
            Self::Text(text) => text.len() + 3,
            Self::Json(value) => value.to_string().len() + 1,
        }
    }
}

fn cut(text: &str, max_chars: usize, shortened: &mut bool) -> Value {
    match text.char_indices().nth(max_chars) {
        None => text.into(),
        Some((end, _)) => {
            *shortened = true;
            format!("{} .. (of {} bytes)", &text[..end], text.len()).into()
        }
    }
}

/// What values of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Boolean,
    Integer,
    Number,
    Date,
    Datetime,
    String,
    List,
    Object,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Date => "date",
            Self::Datetime => "datetime",
            Self::String => "string",
            Self::List => "list",
            Self::Object => "object",
        }
    }

    /// What a value is that has a type of its own; of a text, whether it is a time.
    pub(super) fn of(cell: &Cell<'_>) -> Option<Self> {
        Some(match cell {
            Cell::Null => return None,
            Cell::Bool(_) => Self::Boolean,
            Cell::Int(_) => Self::Integer,
            Cell::Float(_) | Cell::Json(Value::Number(_)) => Self::Number,
            Cell::Text(text) => time(text).unwrap_or(Self::String),
            Cell::Json(Value::Array(_)) => Self::List,
            Cell::Json(_) => Self::Object,
        })
    }

    /// What a text is that has no type of its own.
    pub(super) fn of_text(text: &str) -> Self {
        match text {
            "true" | "false" | "True" | "False" | "TRUE" | "FALSE" => Self::Boolean,
            _ if is_number(text) => {
                if text.parse::<i64>().is_ok() {
                    Self::Integer
                } else {
                    Self::Number
                }
            }
            _ => time(text).unwrap_or(Self::String),
        }
    }

    /// What both are; a string, or whatever it is, where they have nothing in common.
    pub(super) fn with(self, other: Self) -> Self {
        match (self, other) {
            (a, b) if a == b => a,
            (Self::Integer | Self::Number, Self::Integer | Self::Number) => Self::Number,
            (Self::Date | Self::Datetime, Self::Date | Self::Datetime) => Self::Datetime,
            _ => Self::String,
        }
    }
}

/// Words for a value that is not there, in columns whose other values are not words; those of pandas.
pub(super) const NO_VALUE: &[&str] = &["NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "#N/A", "-"];

/// A text of a column of this kind as a value; what is not of the kind stays a text.
pub(super) fn typed(text: Cow<'_, str>, kind: Option<Kind>) -> Cell<'_> {
    if text.is_empty() {
        return Cell::Null;
    }
    match kind {
        None | Some(Kind::String) => Cell::Text(text),
        Some(_) if NO_VALUE.contains(&text.as_ref()) => Cell::Null,
        Some(Kind::Boolean) if Kind::of_text(&text) == Kind::Boolean => Cell::Bool(text.starts_with(['t', 'T'])),
        Some(Kind::Integer) if is_number(&text) => text.parse().map_or(Cell::Text(text), Cell::Int),
        Some(Kind::Number) if is_number(&text) => text.parse().map_or(Cell::Text(text), Cell::Float),
        Some(_) => Cell::Text(text),
    }
}

/// Whether it is written as a number, and not as a name made of digits: `007` and `+1` are none.
fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix('-').unwrap_or(text).as_bytes();
    let plain = unsigned.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'));
    let begins = match unsigned {
        [b'0', next, ..] => !next.is_ascii_digit(),
        [first, ..] => first.is_ascii_digit() || (*first == b'.' && unsigned.len() > 1),
        [] => false,
    };
    plain && begins && text.parse::<f64>().is_ok_and(f64::is_finite)
}

/// Whether it is a date, or a date with a time of day, as ISO 8601 has them.
fn time(text: &str) -> Option<Kind> {
    let bytes = text.as_bytes();
    let digits =
        |range: std::ops::Range<usize>| bytes.get(range).is_some_and(|part| part.iter().all(u8::is_ascii_digit));
    let number = |range: std::ops::Range<usize>| text.get(range).and_then(|part| part.parse::<u8>().ok());
    let is_date = bytes.len() >= 10
        && digits(0..4)
        && bytes[4] == b'-'
        && bytes[7] == b'-'
        && number(5..7).is_some_and(|month| (1..=12).contains(&month))
        && number(8..10).is_some_and(|day| (1..=31).contains(&day));
    if !is_date {
        return None;
    }
    match bytes.get(10) {
        None => Some(Kind::Date),
        Some(b'T' | b' ') => {
            let clock = digits(11..13) && bytes.get(13) == Some(&b':') && digits(14..16);
            let rest = bytes.get(16..).unwrap_or_default();
            let known = rest.iter().all(|byte| byte.is_ascii_digit() || b":.+-Z ".contains(byte));
            (clock && known && bytes.len() <= 40).then_some(Kind::Datetime)
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_of_a_kind() {
        for (text, kind) in [
            ("1", Kind::Integer),
            ("-12", Kind::Integer),
            ("0", Kind::Integer),
            ("0.5", Kind::Number),
            ("-.5", Kind::Number),
            ("1e9", Kind::Number),
            ("99999999999999999999", Kind::Number),
            ("007", Kind::String),
            ("+1", Kind::String),
            ("1-2", Kind::String),
            (".", Kind::String),
            ("-", Kind::String),
            ("inf", Kind::String),
            ("NaN", Kind::String),
            ("1e999", Kind::String),
            ("true", Kind::Boolean),
            ("FALSE", Kind::Boolean),
            ("2024-02-29", Kind::Date),
            ("2024-13-01", Kind::String),
            ("2024-02-29T10:30", Kind::Datetime),
            ("2024-02-29 10:30:00.5+02:00", Kind::Datetime),
            ("2024-02-29 at ten", Kind::String),
            ("2024-0\u{e4}-01", Kind::String),
        ] {
            assert_eq!(Kind::of_text(text), kind, "{text}");
        }
    }

    #[test]
    fn what_is_not_of_its_column_stays_a_text() {
        let typed = |text: &'static str, kind| typed(text.into(), kind);
        assert_eq!(typed("5", Some(Kind::Integer)), Cell::Int(5));
        assert_eq!(typed("5", Some(Kind::Number)), Cell::Float(5.0));
        assert_eq!(typed("5", Some(Kind::String)), Cell::Text("5".into()));
        assert_eq!(typed("NA", Some(Kind::Integer)), Cell::Null);
        assert_eq!(typed("NA", Some(Kind::String)), Cell::Text("NA".into()));
        assert_eq!(typed("", Some(Kind::String)), Cell::Null);
        assert_eq!(typed("five", Some(Kind::Integer)), Cell::Text("five".into()));
        assert_eq!(typed("True", Some(Kind::Boolean)), Cell::Bool(true));
    }

    #[test]
    fn long_values_say_how_long_they_are() {
        let mut shortened = false;
        assert_eq!(Cell::Text("abc".into()).to_value(3, &mut shortened), "abc");
        assert!(!shortened);
        assert_eq!(Cell::Text("a\u{e4}c".into()).to_value(2, &mut shortened), "a\u{e4} .. (of 4 bytes)");
        assert!(shortened);
        assert_eq!(Cell::Float(f64::NAN).to_value(9, &mut shortened), "NaN");
    }
}
