//! Parameters checked, completed and refused.

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
    let params = check(&json!({"count": 3.0, "button": null, "delay_ms": null, "points": [[1.0, 2.0]]})).expect("fits");
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
        (json!({"count": 1, "dealy_ms": 4}), ErrorCode::INVALID_INPUT, "dealy_ms", "a known name", "an unknown one"),
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
    super::with_integers(&circle, &mut value);
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
    let errors = ParamsSchema::new(<Params as JsonSchema>::json_schema, OUT_OF_RANGE).err().expect("must be refused");
    assert!(errors[0].contains("at most 10"), "{errors:?}");
}
