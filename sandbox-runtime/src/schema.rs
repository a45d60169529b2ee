//! Checks JSON against a schema before the typed parse: ranges, lengths and patterns that serde does not enforce, and
//! errors that name the parameter, what was expected and what came.

#[cfg(feature = "server")]
mod body;
mod floats;
mod violation;

use jsonschema::Validator;
use sandbox_types::ErrorCode;
use schemars::{Schema, SchemaGenerator, generate::SchemaSettings};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, value::RawValue};

use crate::{
    error::{Result, ToolError},
    tool::ParameterDefault,
};

#[cfg(feature = "server")]
pub(crate) use body::BodySchema;
pub(crate) use floats::integral;
use floats::{mentions_integer, with_integers};
use violation::Violation;
pub(crate) use violation::describe;

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
    /// Other names of parameters, and what they stand for.
    aliases: Vec<(String, String)>,
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

    fn from_value(mut published: Value, defaults: Vec<(&'static str, Value)>) -> Result<Self, Vec<String>> {
        let aliases = take_aliases(&mut published);
        let validator = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .build(&published)
            .map_err(|error| vec![format!("its schema is not valid: {error}")])?;
        let has_integers = mentions_integer(&published);
        Ok(Self { published, validator, defaults, aliases, has_integers })
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
        for (alias, parameter) in &self.aliases {
            // Beside the parameter itself it stays, and is not known.
            if let Some(value) = object.remove(alias) {
                let name = if object.contains_key(parameter) { alias } else { parameter };
                object.insert(name.clone(), value);
            }
        }
        for (parameter, default) in &self.defaults {
            if object.get(*parameter).is_none_or(Value::is_null) {
                object.insert((*parameter).to_owned(), default.clone());
            }
        }
        // In JSON a point or an exponent follows a digit; without any there is no float to look for.
        let is_float = |pair: &[u8]| pair[0].is_ascii_digit() && matches!(pair[1], b'.' | b'e' | b'E');
        let has_floats = params.is_some_and(|params| params.get().as_bytes().windows(2).any(is_float));
        if self.has_integers && has_floats {
            with_integers(&self.published, &mut value);
        }
        if self.validator.is_valid(&value) { Ok(value) } else { Err(self.violation(&value)) }
    }

    fn violation(&self, value: &Value) -> ToolError {
        let known = self.published.get("properties").and_then(Value::as_object);
        let takes_none = self.published.get("additionalProperties") == Some(&Value::Bool(false))
            && ["oneOf", "anyOf", "allOf", "$ref"].iter().all(|keyword| self.published.get(*keyword).is_none());
        if let (None, true, Some(name)) =
            (known, takes_none, value.as_object().and_then(|members| members.keys().next()))
        {
            // Without any parameter the validator has no word for what came, only that it must not.
            return Violation::unknown(name).into_error("parameter", None);
        }
        match self.validator.validate(value) {
            Err(error) => Violation::of(&error).into_error("parameter", known),
            Ok(()) => ToolError::new(ErrorCode::INVALID_INPUT, "the parameters do not fit the schema"),
        }
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

/// The typed parse of a checked value.
pub(crate) fn parse<T: DeserializeOwned>(value: &Value) -> Result<T> {
    // The path is tracked only when it is needed: that costs as much again as the parse.
    T::deserialize(value).or_else(|_| parse_once(value))
}

/// [`parse`] for a value that can be read only once.
pub(crate) fn parse_once<T: DeserializeOwned>(value: &Value) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|error: serde_path_to_error::Error<serde_json::Error>| {
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

/// Takes out of a schema the other names of its parameters, which the macros put there: clients are to see one name.
fn take_aliases(schema: &mut Value) -> Vec<(String, String)> {
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return Vec::new() };
    let mut aliases = Vec::new();
    for (parameter, property) in properties {
        let names = property.as_object_mut().and_then(|property| property.remove("x-aliases"));
        let names = names.as_ref().and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        aliases.extend(names.map(|name| (name.to_owned(), parameter.clone())));
    }
    aliases
}

#[cfg(test)]
mod tests;
