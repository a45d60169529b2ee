//! Tables as `sql:get_schema` describes them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A table or view.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct TableInfo {
    /// Its name as a query writes it; with its schema unless that is `public`.
    pub(super) name: String,
    /// `table` or `view`.
    pub(super) kind: String,
    /// What the database says about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) comment: Option<String>,
    /// Its columns, in their order.
    pub(super) columns: Vec<TableColumn>,
    /// What its columns refer to.
    pub(super) foreign_keys: Vec<ForeignKey>,
}

/// A column of a table.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct TableColumn {
    /// Its name.
    pub(super) name: String,
    /// Its type, as the database calls it.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// Whether it can be null.
    pub(super) nullable: bool,
    /// Whether it belongs to the primary key.
    pub(super) primary_key: bool,
    /// Its default, as an expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) default: Option<String>,
    /// What the database says about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) comment: Option<String>,
}

/// Columns that refer to another table.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
pub struct ForeignKey {
    /// The columns.
    pub(super) columns: Vec<String>,
    /// The table that they refer to.
    pub(super) references: String,
    /// Its columns; empty for its primary key.
    pub(super) referenced_columns: Vec<String>,
}

impl TableInfo {
    /// Characters, about, in an answer.
    pub(super) fn size(&self) -> usize {
        let text = |text: &Option<String>| text.as_deref().map_or(0, str::len);
        let column = |column: &TableColumn| {
            80 + column.name.len() + column.kind.len() + text(&column.default) + text(&column.comment)
        };
        let key = |key: &ForeignKey| {
            let names = key.columns.iter().chain(&key.referenced_columns).map(|name| name.len() + 3);
            60 + key.references.len() + names.sum::<usize>()
        };
        60 + self.name.len()
            + text(&self.comment)
            + self.columns.iter().map(column).sum::<usize>()
            + self.foreign_keys.iter().map(key).sum::<usize>()
    }
}
