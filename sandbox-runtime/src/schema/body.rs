//! Schemas of request bodies.

use sandbox_types::ErrorCode;
use serde_json::Value;

use super::{ParamsSchema, generate, violation::Violation};
use crate::{
    error::ToolError,
    nearest::{nearest, shown},
};

/// The schema of a request body: what is optional may be `null`, as existing clients send it.
pub(crate) struct BodySchema(ParamsSchema);

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

/// A schema and those among which it gives a choice.
fn alternatives(schema: &Value) -> Vec<&Value> {
    let inner = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|keyword| schema.get(keyword)?.as_array()).flatten();
    std::iter::once(schema).chain(inner.flat_map(alternatives)).collect()
}

fn strings(value: Option<&Value>) -> impl Iterator<Item = String> + '_ {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned)
}
