//! What is wrong with a value, in the words of an answer.

use std::fmt::Write as _;

use jsonschema::{
    JsonType,
    error::{TypeKind, ValidationError, ValidationErrorKind},
};
use sandbox_types::ErrorCode;
use serde_json::{Map, Value};

use crate::{
    error::ToolError,
    nearest::{nearest, shown},
};

/// Longest piece of a value that an error shows, in characters.
const SHOWN_CHARACTERS: usize = 60;

/// One thing that is wrong, in the words of an answer.
pub(super) struct Violation {
    pub(super) code: ErrorCode,
    pub(super) parameter: String,
    pub(super) expected: String,
    pub(super) found: String,
    unknown: bool,
}

impl Violation {
    pub(super) fn of(error: &ValidationError<'_>) -> Self {
        use ValidationErrorKind as Kind;
        let path = dotted(error.instance_path().as_str());
        let found = describe(error.instance());
        let invalid = |expected: String| Self {
            code: ErrorCode::INVALID_INPUT,
            parameter: or_params(&path),
            expected,
            found: found.clone(),
            unknown: false,
        };
        match error.kind() {
            Kind::Required { property } => Self {
                code: ErrorCode::MISSING_REQUIRED_FIELD,
                parameter: join(&path, property.as_str().unwrap_or_default()),
                expected: "a value".into(),
                found: "nothing".into(),
                unknown: false,
            },
            Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
                Self::unknown(&join(&path, unexpected.first().map_or("", String::as_str)))
            }
            Kind::Type { kind } => Self { code: ErrorCode::INVALID_PARAMETER_TYPE, ..invalid(types(kind)) },
            Kind::AnyOf { context } | Kind::OneOfNotValid { context } => {
                if let Some(choices) = choices(error.instance_path().as_str(), context) {
                    return invalid(format!("one of {}", Value::Array(choices)));
                }
                // An optional value is a choice between its type and null: the type's own complaint is the useful one.
                let complaint = context.iter().find_map(|branch| {
                    branch
                        .first()
                        .filter(|inner| !matches!(inner.kind(), Kind::Type { kind: TypeKind::Single(JsonType::Null) }))
                });
                complaint.map_or_else(|| invalid("another shape".into()), Self::of)
            }
            Kind::Enum { options } => invalid(format!("one of {options}")),
            Kind::Constant { expected_value } => invalid(format!("{expected_value}")),
            Kind::Minimum { limit } => invalid(format!("a number of at least {limit}")),
            Kind::Maximum { limit } => invalid(format!("a number of at most {limit}")),
            Kind::ExclusiveMinimum { limit } => invalid(format!("a number above {limit}")),
            Kind::ExclusiveMaximum { limit } => invalid(format!("a number below {limit}")),
            Kind::MultipleOf { multiple_of } => invalid(format!("a multiple of {multiple_of}")),
            Kind::MinLength { limit } => invalid(format!("a string of at least {limit} characters")),
            Kind::MaxLength { limit } => invalid(format!("a string of at most {limit} characters")),
            Kind::MinItems { limit } => invalid(format!("an array of at least {limit} items")),
            Kind::MaxItems { limit } => invalid(format!("an array of at most {limit} items")),
            Kind::Pattern { pattern } => invalid(format!("a string that matches `{pattern}`")),
            Kind::Format { format } => invalid(format!("a string in the format `{format}`")),
            Kind::UniqueItems => invalid("items that are all different".into()),
            _ => invalid("another value".into()),
        }
    }

    pub(super) fn unknown(parameter: &str) -> Self {
        Self {
            code: ErrorCode::INVALID_INPUT,
            parameter: shown(parameter).into_owned(),
            expected: "a known name".into(),
            found: "an unknown one".into(),
            unknown: true,
        }
    }

    pub(super) fn into_error(self, noun: &str, known: Option<&Map<String, Value>>) -> ToolError {
        if self.unknown {
            let near = known.and_then(|known| nearest(&self.parameter, known.keys().map(String::as_str)));
            let mut message = format!("{noun} `{}` is not known", self.parameter);
            let names: Vec<_> = known.into_iter().flat_map(Map::keys).map(String::as_str).collect();
            let _ = match (near, names.is_empty()) {
                (Some(near), _) => write!(message, "; did you mean `{near}`?"),
                (None, true) => write!(message, "; the tool takes none"),
                (None, false) => write!(message, "; known are {}", names.join(", ")),
            };
            let error =
                ToolError::parameter(self.code, self.parameter, self.expected, self.found).with_message(message);
            return match near {
                Some(near) => error.with_candidates([near.to_owned()]),
                None => error,
            };
        }
        if self.code == ErrorCode::MISSING_REQUIRED_FIELD {
            let message = format!("{noun} `{}` is required", self.parameter);
            return ToolError::parameter(self.code, self.parameter, self.expected, self.found).with_message(message);
        }
        let message = format!("{noun} `{}`: expected {}, found {}", self.parameter, self.expected, self.found);
        ToolError::parameter(self.code, self.parameter, self.expected, self.found).with_message(message)
    }
}

/// The values that alternatives for one place take, if all are choices of fixed values, or null: an enum in which some
/// variants are described is split like this.
fn choices(place: &str, alternatives: &[Vec<ValidationError<'_>>]) -> Option<Vec<Value>> {
    use ValidationErrorKind as Kind;
    let mut choices = Vec::new();
    for errors in alternatives {
        let own = errors.iter().filter(|error| error.instance_path().as_str() == place);
        let taken = own.clone().find_map(|error| match error.kind() {
            Kind::Enum { options } => options.as_array().cloned(),
            Kind::Constant { expected_value } => Some(vec![(**expected_value).clone()]),
            Kind::AnyOf { context } | Kind::OneOfNotValid { context } => self::choices(place, context),
            Kind::Type { kind: TypeKind::Single(JsonType::Null) } => Some(Vec::new()),
            _ => None,
        });
        choices.extend(taken?);
    }
    (!choices.is_empty()).then_some(choices)
}

fn types(kind: &TypeKind) -> String {
    let name = |one: JsonType| match one {
        JsonType::Array => "an array",
        JsonType::Boolean => "a boolean",
        JsonType::Integer => "an integer",
        JsonType::Null => "null",
        JsonType::Number => "a number",
        JsonType::Object => "an object",
        JsonType::String => "a string",
    };
    match kind {
        TypeKind::Single(one) => name(*one).to_owned(),
        TypeKind::Multiple(many) => many.iter().map(name).collect::<Vec<_>>().join(" or "),
    }
}

/// The value that came: its type, and a short piece of it.
pub(crate) fn describe(value: &Value) -> String {
    let mut text = match value {
        Value::Null => return "null".into(),
        Value::Object(_) => return "an object".into(),
        Value::Array(items) => return format!("an array of {} items", items.len()),
        Value::String(text) => format!("string {:?}", text.chars().take(SHOWN_CHARACTERS + 1).collect::<String>()),
        Value::Bool(_) => format!("boolean {value}"),
        Value::Number(_) => format!("number {value}"),
    };
    if text.chars().count() > SHOWN_CHARACTERS {
        text = text.chars().take(SHOWN_CHARACTERS).chain("…".chars()).collect();
    }
    text
}

/// `/items/2/name` as `items[2].name`.
fn dotted(pointer: &str) -> String {
    let mut path = String::new();
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        if part.chars().all(|c| c.is_ascii_digit()) {
            let _ = write!(path, "[{part}]");
        } else {
            path = join(&path, &part);
        }
    }
    path
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn or_params(path: &str) -> String {
    if path.is_empty() { "params".to_owned() } else { path.to_owned() }
}
