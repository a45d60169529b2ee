//! Checks JSON against a schema before the typed parse: ranges, lengths and patterns that serde does not enforce, and
//! errors that name the parameter, what was expected and what came.

use std::fmt::Write as _;

use jsonschema::{
    JsonType, Validator,
    error::{TypeKind, ValidationError, ValidationErrorKind},
};
use sandbox_types::ErrorCode;
use schemars::{Schema, SchemaGenerator, generate::SchemaSettings};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, value::RawValue};

use crate::{
    error::{Result, ToolError},
    nearest::{nearest, shown},
    tool::ParameterDefault,
};

/// Longest piece of a value that an error shows, in characters.
const SHOWN_CHARACTERS: usize = 60;

/// The generator of every schema: draft 2020-12, subschemas in place, as the model APIs want it.
pub(crate) fn generator() -> SchemaGenerator {
    SchemaSettings::draft2020_12()
        .with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        })
        .into_generator()
}

/// Runs one `json_schema` function; recursive types keep their definitions beside.
pub(crate) fn generate(make: impl FnOnce(&mut SchemaGenerator) -> Schema) -> Value {
    let mut generator = generator();
    let mut schema = make(&mut generator).to_value();
    let definitions = generator.take_definitions(true);
    if let (Some(object), false) = (schema.as_object_mut(), definitions.is_empty()) {
        object.insert("$defs".into(), Value::Object(definitions));
    }
    schema
}

/// The parameters of one tool, or one kind of request body: checked, completed, ready for the typed parse.
pub(crate) struct ParamsSchema {
    /// As clients see it.
    pub(crate) published: Value,
    validator: Validator,
    defaults: Vec<(&'static str, Value)>,
    has_integers: bool,
}

impl ParamsSchema {
    /// Prepares a tool's parameters.
    ///
    /// # Errors
    /// One text for each default that is wrong, and for a schema that is no schema.
    pub(crate) fn new(
        make: fn(&mut SchemaGenerator) -> Schema,
        defaults: &'static [ParameterDefault],
    ) -> Result<Self, Vec<String>> {
        let mut parsed = Vec::new();
        let mut errors = Vec::new();
        for default in defaults {
            match (default.check)(default.json)
                .and_then(|()| serde_json::from_str(default.json).map_err(|e| e.to_string()))
            {
                Ok(value) => parsed.push((default.parameter, value)),
                Err(error) => errors.push(format!(
                    "default of parameter `{}`: `{}` is not a value of its type: {error}",
                    default.parameter, default.json
                )),
            }
        }
        // schemars calls default functions of the types themselves: first the checks.
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut published = generate(make);
        publish(&mut published, &parsed);
        let this = Self::from_value(published, parsed)?;
        for (parameter, value) in &this.defaults {
            let mut probe = Map::new();
            probe.insert((*parameter).to_owned(), value.clone());
            let about = |violation: &Violation| violation.parameter.split(['.', '[']).next() == Some(*parameter);
            let probe = Value::Object(probe);
            for violation in this.validator.iter_errors(&probe).map(|error| Violation::of(&error)).filter(about) {
                errors.push(format!(
                    "default of parameter `{parameter}`: expected {}, found {}",
                    violation.expected, violation.found
                ));
            }
        }
        if errors.is_empty() { Ok(this) } else { Err(errors) }
    }

    /// Prepares a schema without defaults of its own.
    ///
    /// # Errors
    /// It is no schema.
    pub(crate) fn of_value(mut published: Value) -> Result<Self, Vec<String>> {
        publish(&mut published, &[]);
        Self::from_value(published, Vec::new())
    }

    fn from_value(published: Value, defaults: Vec<(&'static str, Value)>) -> Result<Self, Vec<String>> {
        let validator = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .build(&published)
            .map_err(|error| vec![format!("its schema is not valid: {error}")])?;
        let has_integers = mentions_integer(&published);
        Ok(Self { published, validator, defaults, has_integers })
    }

    /// The raw parameters of a call as a value that satisfies the schema, defaults filled in.
    ///
    /// # Errors
    /// The first violation, naming the parameter, what was expected and what came.
    pub(crate) fn check(&self, params: Option<&RawValue>) -> Result<Value> {
        let mut value = match params.map(RawValue::get) {
            None | Some("null" | "{}") => Value::Object(Map::new()),
            Some(text) if is_hoard(text) => {
                let expected = format!("at most {MAX_VALUES} values, {MAX_CONTAINERS} of them objects or arrays");
                return Err(ToolError::parameter(ErrorCode::INVALID_INPUT, "params", expected, "more"));
            }
            Some(text) => serde_json::from_str(text)
                .map_err(|error| ToolError::new(ErrorCode::INVALID_REQUEST_FORMAT, format!("params: {error}")))?,
        };
        let Some(object) = value.as_object_mut() else {
            return Err(ToolError::parameter(
                ErrorCode::INVALID_PARAMETER_TYPE,
                "params",
                "an object",
                describe(&value),
            ));
        };
        for (parameter, default) in &self.defaults {
            if object.get(*parameter).is_none_or(Value::is_null) {
                object.insert((*parameter).to_owned(), default.clone());
            }
        }
        // Without a point or an exponent there is no float to look for.
        let has_floats =
            params.is_some_and(|params| params.get().bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E')));
        if self.has_integers && has_floats {
            IntegralFloats { root: &self.published, steps: 0, depth: 0 }.walk(&self.published, &mut value);
        }
        if self.validator.is_valid(&value) { Ok(value) } else { Err(self.violation(&value)) }
    }

    fn violation(&self, value: &Value) -> ToolError {
        let known = self.published.get("properties").and_then(Value::as_object);
        if let (None, Some(name)) = (known, value.as_object().and_then(|members| members.keys().next())) {
            // Without any parameter the validator has no word for what came, only that it must not.
            return Violation::unknown(name).into_error("parameter", None);
        }
        match self.validator.validate(value) {
            Err(error) => Violation::of(&error).into_error("parameter", known),
            Ok(()) => ToolError::new(ErrorCode::INVALID_INPUT, "the parameters do not fit the schema"),
        }
    }
}

/// The schema of a request body: what is optional may be `null`, as existing clients send it.
#[cfg(feature = "server")]
pub(crate) struct BodySchema(ParamsSchema);

#[cfg(feature = "server")]
impl BodySchema {
    /// Prepares the schema of `T`.
    pub(crate) fn of<T: schemars::JsonSchema>() -> Self {
        let mut published = generate(T::json_schema);
        let required: Vec<String> = strings(published.get("required")).collect();
        if let Some(properties) = published.get_mut("properties").and_then(Value::as_object_mut) {
            for (_, property) in properties.iter_mut().filter(|(name, _)| !required.contains(name)) {
                let own = property.take();
                *property = serde_json::json!({ "anyOf": [own, { "type": "null" }] });
            }
        }
        #[expect(clippy::expect_used, reason = "the schemas of the wire types are fixed, and each is built by a test")]
        Self(ParamsSchema::from_value(published, Vec::new()).expect("a wire type has a schema"))
    }

    /// What is wrong with a body that did not parse.
    pub(crate) fn violation(&self, body: &Value) -> ToolError {
        let Err(error) = self.0.validator.validate(body) else {
            let message = "the body does not fit the schema of this route";
            return ToolError::new(ErrorCode::INVALID_REQUEST_FORMAT, message);
        };
        let violation = Violation::of(&error);
        let missing = violation.parameter.rsplit('.').next().unwrap_or_default().to_owned();
        let is_missing = violation.code == ErrorCode::MISSING_REQUIRED_FIELD;
        let error = violation.into_error("field", None);
        // The field may be there under a name that the route does not know.
        let known = &self.0.published["properties"];
        let meant = body.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
        let meant = meant.filter(|name| is_missing && known.get(*name).is_none());
        match meant.into_iter().find(|name| nearest(name, [missing.as_str()]).is_some()) {
            Some(name) => {
                let message = format!("{}; `{}` came, which is not known", error.message(), shown(name));
                error.with_message(message).with_candidates([missing])
            }
            None => error,
        }
    }

    /// The fields that the route knows at a level: `path` is that of an object, its items numbered.
    pub(crate) fn fields<'s>(&'s self, path: &[&str]) -> Vec<&'s str> {
        let mut here = vec![&self.0.published];
        for part in path {
            let inside = here.iter().flat_map(|schema| alternatives(schema)).filter_map(|schema| {
                let is_index = part.bytes().all(|byte| byte.is_ascii_digit());
                if is_index { schema.get("items") } else { schema.get("properties").and_then(|all| all.get(*part)) }
            });
            here = inside.collect();
        }
        let properties = here.into_iter().flat_map(alternatives).filter_map(|schema| schema.get("properties"));
        properties.filter_map(Value::as_object).flatten().map(|(name, _)| name.as_str()).collect()
    }
}

/// Most objects and arrays that the parameters of one call may hold: in memory an empty one takes a hundred times its text.
const MAX_CONTAINERS: usize = 100_000;

/// Most values that the parameters of one call may hold.
const MAX_VALUES: usize = 2_000_000;

/// Whether a JSON text holds more values than it may; what stands in strings does not count.
fn is_hoard(text: &str) -> bool {
    if text.len() <= MAX_CONTAINERS {
        return false;
    }
    let (mut containers, mut values) = (0, 0);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => loop {
                match bytes.next() {
                    Some(b'\\') => drop(bytes.next()),
                    Some(b'"') | None => break,
                    Some(_) => {}
                }
            },
            b'{' | b'[' => {
                containers += 1;
                values += 1;
            }
            b',' => values += 1,
            _ => {}
        }
    }
    containers > MAX_CONTAINERS || values > MAX_VALUES
}

/// A schema and those among which it gives a choice.
#[cfg(feature = "server")]
fn alternatives(schema: &Value) -> Vec<&Value> {
    let inner = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|keyword| schema.get(keyword)?.as_array()).flatten();
    std::iter::once(schema).chain(inner.flat_map(alternatives)).collect()
}

/// The typed parse of a checked value.
pub(crate) fn parse<T: DeserializeOwned>(value: &Value) -> Result<T> {
    // The path is tracked only when it is needed: that costs as much again as the parse.
    T::deserialize(value).or_else(|_| serde_path_to_error::deserialize(value)).map_err(|error| {
        let path = error.path().to_string();
        let parameter = if path == "." { "params".to_owned() } else { path };
        ToolError::parameter(ErrorCode::INVALID_INPUT, parameter, "a value of its type", error.into_inner().to_string())
    })
}

/// Puts defaults into the schema that clients see, and takes out what only Rust readers need.
fn publish(schema: &mut Value, defaults: &[(&'static str, Value)]) {
    let Some(object) = schema.as_object_mut() else { return };
    object.remove("title");
    object.entry("type").or_insert_with(|| "object".into());
    for (parameter, default) in defaults {
        if let Some(property) = object.get_mut("properties").and_then(|p| p.get_mut(*parameter))
            && let Some(property) = property.as_object_mut()
        {
            property.insert("default".into(), default.clone());
        }
        if let Some(required) = object.get_mut("required").and_then(Value::as_array_mut) {
            required.retain(|name| name != parameter);
        }
    }
    if object.get("required").and_then(Value::as_array).is_some_and(Vec::is_empty) {
        object.remove("required");
    }
}

#[cfg(feature = "server")]
fn strings(value: Option<&Value>) -> impl Iterator<Item = String> + '_ {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned)
}

fn mentions_integer(schema: &Value) -> bool {
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
///
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

fn integral(float: f64) -> Option<i64> {
    /// 2^53: up to here every integral float is exactly one integer.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    #[expect(clippy::cast_possible_truncation, reason = "integral and within 2^53")]
    (float.fract() == 0.0 && float.abs() <= EXACT).then_some(float as i64)
}

/// One thing that is wrong, in the words of an answer.
struct Violation {
    code: ErrorCode,
    parameter: String,
    expected: String,
    found: String,
    unknown: bool,
}

impl Violation {
    fn of(error: &ValidationError<'_>) -> Self {
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

    fn unknown(parameter: &str) -> Self {
        Self {
            code: ErrorCode::INVALID_INPUT,
            parameter: shown(parameter).into_owned(),
            expected: "a known name".into(),
            found: "an unknown one".into(),
            unknown: true,
        }
    }

    fn into_error(self, noun: &str, known: Option<&Map<String, Value>>) -> ToolError {
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

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde::Deserialize;
    use serde_json::{json, value::to_raw_value};

    use super::{ParameterDefault, ParamsSchema};
    use sandbox_types::ErrorCode;

    #[derive(Debug, Deserialize, JsonSchema, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Button {
        Left,
        Right,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Params {
        #[schemars(range(min = 1, max = 10))]
        count: u32,
        button: Button,
        delay_ms: Option<u32>,
        #[serde(default)]
        points: Vec<(i32, f64)>,
    }

    static DEFAULTS: &[ParameterDefault] = &[ParameterDefault::of::<Button>("button", "\"left\"")];

    fn schema() -> ParamsSchema {
        ParamsSchema::new(<Params as JsonSchema>::json_schema, DEFAULTS).expect("the defaults are right")
    }

    fn check(params: &serde_json::Value) -> Result<Params, crate::ToolError> {
        let raw = to_raw_value(params).expect("json");
        super::parse(&schema().check(Some(&raw))?)
    }

    #[test]
    fn null_and_absence_take_the_default_and_integral_floats_are_integers() {
        let params =
            check(&json!({"count": 3.0, "button": null, "delay_ms": null, "points": [[1.0, 2.0]]})).expect("fits");
        assert_eq!((params.count, params.button, params.delay_ms), (3, Button::Left, None));
        assert_eq!(params.points, [(1, 2.0)]);
        assert_eq!(check(&json!({"count": 1, "button": "right", "delay_ms": 5.0})).expect("fits").delay_ms, Some(5));
    }

    #[test]
    fn an_enum_with_described_variants_is_one_choice() {
        #[derive(Deserialize, JsonSchema)]
        #[serde(rename_all = "lowercase")]
        enum Level {
            Normal,
            High,
            /// Later.
            Low,
        }
        #[derive(JsonSchema)]
        #[expect(dead_code, reason = "only its schema is of interest")]
        struct Levels {
            level: Level,
            other: Option<Level>,
        }
        let schema = ParamsSchema::new(<Levels as JsonSchema>::json_schema, &[]).expect("a schema");
        for (params, found) in [
            (json!({ "level": "lo" }), "string \"lo\""),
            (json!({ "level": 5 }), "number 5"),
            (json!({ "level": "low", "other": "lo" }), "string \"lo\""),
        ] {
            let error = schema.check(Some(&to_raw_value(&params).expect("json"))).expect_err("must be refused");
            let body = error.body();
            assert_eq!(body.expected.as_deref(), Some(r#"one of ["normal","high","low"]"#), "{params}: {error}");
            assert_eq!(body.found.as_deref(), Some(found), "{params}");
        }
    }

    #[test]
    fn the_published_schema_shows_the_default_and_does_not_require_it() {
        let published = schema().published;
        assert_eq!(published["properties"]["button"]["default"], "left");
        assert_eq!(published["required"], json!(["count"]));
    }

    #[test]
    fn an_error_names_parameter_expectation_and_finding() {
        let cases = [
            (json!({}), ErrorCode::MISSING_REQUIRED_FIELD, "count", "a value", "nothing"),
            (json!({"count": "3"}), ErrorCode::INVALID_PARAMETER_TYPE, "count", "an integer", "string \"3\""),
            (json!({"count": 11}), ErrorCode::INVALID_INPUT, "count", "a number of at most 10", "number 11"),
            (json!({"count": 1.5}), ErrorCode::INVALID_PARAMETER_TYPE, "count", "an integer", "number 1.5"),
            (
                json!({"count": 1, "delay_ms": -1}),
                ErrorCode::INVALID_INPUT,
                "delay_ms",
                "a number of at least 0",
                "number -1",
            ),
            (
                json!({"count": 1, "points": [[1, "x"]]}),
                ErrorCode::INVALID_PARAMETER_TYPE,
                "points[0][1]",
                "a number",
                "string \"x\"",
            ),
            (
                json!({"count": 1, "dealy_ms": 4}),
                ErrorCode::INVALID_INPUT,
                "dealy_ms",
                "a known name",
                "an unknown one",
            ),
        ];
        for (params, code, parameter, expected, found) in cases {
            let error = check(&params).expect_err("must be refused");
            let body = error.body();
            assert_eq!(
                (error.code(), body.parameter.as_deref(), body.expected.as_deref(), body.found.as_deref()),
                (code, Some(parameter), Some(expected), Some(found)),
                "{params}: {error}"
            );
        }
        let error = check(&json!({"count": 1, "dealy_ms": 4})).expect_err("must be refused");
        assert!(error.message().contains("did you mean `delay_ms`"), "{error}");
    }

    #[test]
    fn too_many_values_are_refused_unparsed_and_long_texts_are_not() {
        let all = ParamsSchema::of_value(json!({})).expect("a schema");
        let of = |text: String| serde_json::value::RawValue::from_string(text).expect("json");
        for hoard in [
            format!("{{\"a\":[{}0]}}", "{},".repeat(super::MAX_CONTAINERS)),
            format!("{{\"a\":[{}0]}}", "0,".repeat(super::MAX_VALUES)),
        ] {
            let error = all.check(Some(&of(hoard))).expect_err("must be refused");
            assert_eq!(error.body().parameter.as_deref(), Some("params"), "{error}");
        }
        let code = "{\\\"[,".repeat(super::MAX_VALUES);
        assert!(all.check(Some(&of(format!("{{\"a\":\"{code}\"}}")))).is_ok(), "braces in a string are no objects");
    }

    #[test]
    fn a_schema_that_leads_round_in_circles_is_left() {
        let circle = json!({ "$ref": "#", "anyOf": [{ "$ref": "#" }, { "type": "integer" }] });
        let mut value = json!(3.0);
        super::IntegralFloats { root: &circle, steps: 0, depth: 0 }.walk(&circle, &mut value);
        assert_eq!(value, json!(3));
    }

    #[test]
    fn a_tool_without_parameters_names_the_first_that_came() {
        let none = ParamsSchema::new(<crate::backend::NoConfig as JsonSchema>::json_schema, &[]).expect("a schema");
        let raw = to_raw_value(&json!({ "worker": 1 })).expect("json");
        let error = none.check(Some(&raw)).expect_err("must be refused");
        assert_eq!(error.body().parameter.as_deref(), Some("worker"));
        assert_eq!(error.message(), "parameter `worker` is not known; the tool takes none");
    }

    #[test]
    fn a_wrong_default_is_an_error_of_the_tool() {
        static OUT_OF_RANGE: &[ParameterDefault] = &[ParameterDefault::of::<u32>("count", "99")];
        static WRONG: &[ParameterDefault] = &[ParameterDefault::of::<Button>("button", "\"middle\"")];
        let errors = ParamsSchema::new(<Params as JsonSchema>::json_schema, WRONG).err().expect("must be refused");
        assert!(errors[0].contains("`button`"), "{errors:?}");
        let errors =
            ParamsSchema::new(<Params as JsonSchema>::json_schema, OUT_OF_RANGE).err().expect("must be refused");
        assert!(errors[0].contains("at most 10"), "{errors:?}");
    }
}
