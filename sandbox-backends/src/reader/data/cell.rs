//! Values.

use std::{borrow::Cow, cmp::Ordering};

use serde_json::{Number, Value};

/// A value of a row.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell<'a> {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    /// A number whose digits all count, as it is written.
    Decimal(String),
    Text(Cow<'a, str>),
    /// A list or an object.
    Json(Value),
}

/// An integer as JSON; as a text what has no room in a number there.
pub(super) fn integer(value: i128) -> Value {
    match (i64::try_from(value), u64::try_from(value)) {
        (Ok(value), _) => value.into(),
        (_, Ok(value)) => value.into(),
        _ => value.to_string().into(),
    }
}

impl Cell<'_> {
    /// As JSON, a long text cut after so many characters.
    pub(super) fn to_value(&self, max_chars: usize, shortened: &mut bool) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Int(value) => integer(*value),
            // JSON has no word for what is no number.
            Self::Float(value) => Number::from_f64(*value).map_or_else(|| value.to_string().into(), Value::Number),
            Self::Decimal(text) => text.as_str().into(),
            Self::Text(text) => cut(text, max_chars, shortened),
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
            Self::Decimal(text) => text.len() + 3,
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
    Decimal,
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
            Self::Decimal => "decimal",
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
            Cell::Float(_) => Self::Number,
            Cell::Decimal(_) => Self::Decimal,
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
                let whole = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
                if whole { Self::Integer } else { Self::Number }
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
#[rustfmt::skip]
pub(super) const NO_VALUE: &[&str] = &[
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL",
    "NaN", "None", "n/a", "nan", "null",
];

/// A text of a column of this kind as a value; what is not of the kind is a number if it is one in a column of numbers, and
/// else stays a text. In a column whose kind is not known each is what it looks like.
pub(super) fn typed(text: Cow<'_, str>, kind: Option<Kind>) -> Cell<'_> {
    if text.is_empty() {
        return Cell::Null;
    }
    match kind {
        Some(Kind::String) => Cell::Text(text),
        _ if NO_VALUE.contains(&text.as_ref()) => Cell::Null,
        None => {
            let kind = Kind::of_text(&text);
            typed(text, Some(kind))
        }
        Some(Kind::Boolean) if Kind::of_text(&text) == Kind::Boolean => Cell::Bool(text.starts_with(['t', 'T'])),
        Some(Kind::Integer) if is_number(&text) => match text.parse() {
            Ok(whole) => Cell::Int(whole),
            Err(_) => typed(text, Some(Kind::Number)),
        },
        Some(Kind::Number) if is_number(&text) => text.parse().map_or(Cell::Text(text), Cell::Float),
        Some(_) => Cell::Text(text),
    }
}

/// The order of two texts; that of two times by what they mean, whether a `T` or a space stands before the time of day.
pub(super) fn order(a: &str, b: &str) -> Ordering {
    if time(a).is_none() || time(b).is_none() {
        return a.cmp(b);
    }
    day_and_time(a).cmp(&day_and_time(b))
}

/// The parts of a time, which is of ASCII.
fn day_and_time(text: &str) -> (&str, &str) {
    (&text[..10], text.get(11..).unwrap_or_default().trim_end_matches('Z'))
}

/// The order of two numbers of digits, however many; none if one is not written so.
pub(super) fn order_of_decimals(a: &str, b: &str) -> Option<Ordering> {
    fn parts(text: &str) -> Option<(bool, &str, &str)> {
        let (negative, unsigned) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let fraction = fraction.trim_end_matches('0');
        let whole = whole.trim_start_matches('0');
        let zero = whole.is_empty() && fraction.is_empty();
        (digits(whole) && digits(fraction) && !unsigned.is_empty()).then_some((negative && !zero, whole, fraction))
    }
    let ((a_negative, a_whole, a_fraction), (b_negative, b_whole, b_fraction)) = (parts(a)?, parts(b)?);
    let size = a_whole.len().cmp(&b_whole.len()).then(a_whole.cmp(b_whole)).then(a_fraction.cmp(b_fraction));
    Some(match (a_negative, b_negative) {
        (false, false) => size,
        (true, true) => size.reverse(),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
    })
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
            ("99999999999999999999", Kind::Integer),
            ("9.5e3", Kind::Number),
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
        assert_eq!(typed("2.5", Some(Kind::Integer)), Cell::Float(2.5));
        assert_eq!(typed("18446744073709551616", Some(Kind::Integer)), Cell::Int(1 << 64));
        assert_eq!([typed("5", None), typed("NA", None)], [Cell::Int(5), Cell::Null]);
    }

    #[test]
    fn times_and_decimals_have_an_order() {
        assert_eq!(order("2024-01-01T00:00:00Z", "2024-01-01T00:00:00.5Z"), Ordering::Less);
        assert_eq!(order("2024-01-01 11:00", "2024-01-01T09:00"), Ordering::Greater);
        assert_eq!(order("a b", "aTb"), Ordering::Less);
        for (a, b, expected) in [
            ("10.00", "9.5", Some(Ordering::Greater)),
            ("-100", "-0.05", Some(Ordering::Less)),
            ("1.50", "1.5", Some(Ordering::Equal)),
            ("-0.0", "0", Some(Ordering::Equal)),
            ("-1", "1", Some(Ordering::Less)),
            ("1e5", "1", None),
        ] {
            assert_eq!(order_of_decimals(a, b), expected, "{a} {b}");
        }
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
