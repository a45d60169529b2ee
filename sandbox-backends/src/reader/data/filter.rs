//! Which rows are wanted.

use std::cmp::Ordering;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Failure,
    cell::{Cell, order, order_of_decimals},
};

/// A condition that a row must meet.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Condition {
    /// The column, by its name.
    pub(crate) column: String,
    /// How its value compares. No value (null) meets `is_null` only.
    pub(crate) op: Op,
    /// With what: a number, a string or a boolean; for `in` a list of them. Not for `is_null` and `is_not_null`.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(crate) value: Value,
}

/// A comparison. A number is compared as such, also with what is written in a text; texts by their characters, ISO 8601 times in
/// their order.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) enum Op {
    /// Equal.
    #[serde(rename = "=", alias = "==")]
    Equal,
    /// Not equal.
    #[serde(rename = "!=")]
    NotEqual,
    /// Less.
    #[serde(rename = "<")]
    Less,
    /// Less or equal.
    #[serde(rename = "<=")]
    LessOrEqual,
    /// Greater.
    #[serde(rename = ">")]
    Greater,
    /// Greater or equal.
    #[serde(rename = ">=")]
    GreaterOrEqual,
    /// The text has the value in it, in the same case.
    #[serde(rename = "contains")]
    Contains,
    /// One of the list.
    #[serde(rename = "in")]
    In,
    /// There is no value.
    #[serde(rename = "is_null")]
    IsNull,
    /// There is a value.
    #[serde(rename = "is_not_null")]
    IsNotNull,
}

impl Condition {
    /// # Errors
    /// The value is none for the comparison.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let is_plain = |value: &Value| value.is_number() || value.is_string() || value.is_boolean();
        let (fits, expected) = match self.op {
            Op::IsNull | Op::IsNotNull => (self.value.is_null(), "no `value` for `is_null` and `is_not_null`"),
            Op::In => {
                (self.value.as_array().is_some_and(|list| list.iter().all(is_plain)), "a list as `value` for `in`")
            }
            Op::Contains => (self.value.is_string(), "a string as `value` for `contains`"),
            _ => (is_plain(&self.value), "a number, a string or a boolean as `value`"),
        };
        if fits {
            return Ok(());
        }
        let found: String = self.value.to_string().chars().take(64).collect();
        Err(Failure::Filter { expected: expected.to_owned(), found: format!("`{found}` for column `{}`", self.column) })
    }

    pub(super) fn holds(&self, cell: &Cell<'_>) -> bool {
        if *cell == Cell::Null {
            return self.op == Op::IsNull;
        }
        let order = || compare(cell, &self.value);
        match self.op {
            Op::IsNull => false,
            Op::IsNotNull => true,
            Op::Equal => order() == Some(Ordering::Equal),
            Op::NotEqual => order() != Some(Ordering::Equal),
            Op::Less => order() == Some(Ordering::Less),
            Op::LessOrEqual => order().is_some_and(Ordering::is_le),
            Op::Greater => order() == Some(Ordering::Greater),
            Op::GreaterOrEqual => order().is_some_and(Ordering::is_ge),
            Op::In => {
                let list = self.value.as_array();
                list.is_some_and(|list| list.iter().any(|value| compare(cell, value) == Some(Ordering::Equal)))
            }
            Op::Contains => {
                let wanted = self.value.as_str().unwrap_or_default();
                match cell {
                    Cell::Text(text) => text.contains(wanted),
                    Cell::Json(value) => value.to_string().contains(wanted),
                    Cell::Int(value) => value.to_string().contains(wanted),
                    Cell::Float(value) => value.to_string().contains(wanted),
                    Cell::Decimal(text) => text.contains(wanted),
                    Cell::Bool(_) | Cell::Null => false,
                }
            }
        }
    }
}

/// How a value compares with one that was asked for, which a model may have put in quotes; not at all if they have nothing in
/// common.
fn compare(cell: &Cell<'_>, value: &Value) -> Option<Ordering> {
    match cell {
        Cell::Null => None,
        Cell::Bool(cell) => {
            let value = value.as_bool().or_else(|| value.as_str()?.to_lowercase().parse().ok())?;
            Some(cell.cmp(&value))
        }
        Cell::Int(cell) => {
            let whole = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
            match whole.or_else(|| value.as_str()?.trim().parse().ok()) {
                Some(value) => Some(cell.cmp(&value)),
                #[expect(clippy::cast_precision_loss, reason = "the value is no integer")]
                None => (*cell as f64).partial_cmp(&number(value)?),
            }
        }
        Cell::Float(cell) => cell.partial_cmp(&number(value)?),
        Cell::Decimal(cell) => {
            let text = value.as_str().map_or_else(|| value.to_string(), |text| text.trim().to_owned());
            order_of_decimals(cell, &text).or_else(|| cell.parse::<f64>().ok()?.partial_cmp(&number(value)?))
        }
        Cell::Text(cell) => match value {
            Value::String(value) => Some(order(cell, value)),
            Value::Bool(value) => (cell.as_ref() == if *value { "true" } else { "false" }).then_some(Ordering::Equal),
            value => cell.trim().parse::<f64>().ok()?.partial_cmp(&number(value)?),
        },
        Cell::Json(cell) => (cell == value).then_some(Ordering::Equal),
    }
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_compare_as_what_they_are() {
        let holds = |cell: &Cell<'_>, op: &str, value: Value| {
            let condition: Condition =
                serde_json::from_value(json!({ "column": "c", "op": op, "value": value })).expect(op);
            condition.check().expect(op);
            condition.holds(cell)
        };
        let text = |text: &'static str| Cell::Text(text.into());
        for (cell, op, value, expected) in [
            (Cell::Int(5), "=", json!(5), true),
            (Cell::Int(5), "==", json!("5"), true),
            (Cell::Int(5), "<", json!(5.5), true),
            (Cell::Int(9_007_199_254_740_993), "=", json!(9_007_199_254_740_992_i64), false),
            (Cell::Int(10), ">", json!(9), true),
            (Cell::Float(2.5), ">=", json!(2.5), true),
            (Cell::Float(f64::NAN), "!=", json!(1), true),
            (text("10"), ">", json!("9"), false),
            (text("007"), "=", json!("007"), true),
            (text("7"), "=", json!(7), true),
            (text("10"), ">", json!(9), true),
            (text("ten"), "<", json!(99), false),
            (Cell::Decimal("10.00".to_owned()), ">", json!(9), true),
            (Cell::Decimal("10.00".to_owned()), "=", json!("10"), true),
            (Cell::Int(u64::MAX.into()), "=", json!(u64::MAX - 1), false),
            (text("2024-01-01 11:00"), "<", json!("2024-01-01T12:00"), true),
            (text("2024-03-01"), ">=", json!("2024-02"), true),
            (text("a long text"), "contains", json!("long"), true),
            (text("a long text"), "contains", json!("Long"), false),
            (text("b"), "in", json!(["a", "b"]), true),
            (Cell::Int(3), "in", json!([1, 2]), false),
            (Cell::Bool(true), "=", json!(true), true),
            (Cell::Bool(true), "=", json!("True"), true),
            (Cell::Bool(true), "=", json!(1), false),
            (Cell::Null, "!=", json!(1), false),
            (Cell::Null, "is_null", json!(null), true),
            (Cell::Int(0), "is_not_null", json!(null), true),
            (Cell::Json(json!([1, 2])), "=", json!("[1,2]"), false),
        ] {
            assert_eq!(holds(&cell, op, value.clone()), expected, "{cell:?} {op} {value}");
        }
    }

    #[test]
    fn a_value_must_fit_its_comparison() {
        for condition in [
            json!({ "column": "c", "op": "=" }),
            json!({ "column": "c", "op": "=", "value": [1] }),
            json!({ "column": "c", "op": "in", "value": 1 }),
            json!({ "column": "c", "op": "contains", "value": 1 }),
            json!({ "column": "c", "op": "is_null", "value": 1 }),
        ] {
            let condition: Condition = serde_json::from_value(condition.clone()).expect("a condition");
            assert!(condition.check().is_err(), "{condition:?}");
        }
    }
}
