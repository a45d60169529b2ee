//! Queries as they are asked, and rows as they are answered.

use std::time::{Duration, Instant};

use sandbox_runtime::prelude::*;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use serde_json::{Value, value::RawValue};

/// A column of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Column {
    /// Its name; names may stand twice.
    pub(super) name: String,
    /// Its type, as the database calls it.
    #[serde(rename = "type")]
    pub(super) kind: String,
}

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Cell {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// The beginning of a text that has so many bytes.
    Cut(String, usize),
    /// What the database itself wrote as JSON.
    Json(Box<RawValue>),
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Int(value) => serializer.serialize_i64(*value),
            // JSON has no word for them.
            Self::Float(value) if !value.is_finite() => serializer.collect_str(value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Cut(begin, whole) => serializer.collect_str(&format_args!("{begin} .. (of {whole} bytes)")),
            Self::Json(json) => json.serialize(serializer),
        }
    }
}

impl Cell {
    /// Characters, about.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Null | Self::Bool(_) => 5,
            Self::Int(_) | Self::Float(_) => 12,
            Self::Text(text) => text.len() + 3,
            Self::Cut(begin, _) => begin.len() + 24,
            Self::Json(json) => json.get().len() + 1,
        }
    }

    /// Shortens a long text, and says so where it ends.
    fn shorten(&mut self, max: usize) {
        let (text, whole) = match self {
            Self::Text(text) => (text.as_str(), text.len()),
            Self::Json(json) => (json.get(), json.get().len()),
            Self::Cut(begin, whole) => (begin.as_str(), *whole),
            _ => return,
        };
        if let Some((end, _)) = text.char_indices().nth(max) {
            *self = Self::Cut(text[..end].to_owned(), whole);
        }
    }
}

/// A query, with how much of its result is wanted.
#[derive(Clone, Debug)]
pub(super) struct Query {
    pub(super) text: String,
    pub(super) params: Option<Value>,
    pub(super) skip: usize,
    pub(super) max_rows: usize,
    pub(super) max_chars: usize,
}

/// When a query must be over.
#[derive(Clone)]
pub(super) struct Until {
    pub(super) deadline: Instant,
    pub(super) cancel: CancellationToken,
}

impl Until {
    pub(super) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    pub(super) fn is_over(&self) -> bool {
        self.cancel.is_cancelled() || Instant::now() >= self.deadline
    }
}

/// A part of a result.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Vec<Cell>>,
    /// Whether there are more rows.
    pub(super) more: bool,
    /// Whether a value was shortened.
    pub(super) shortened: bool,
}

/// Takes rows until there are enough.
pub(super) struct Collector {
    table: Table,
    max_rows: usize,
    max_chars: usize,
    left: usize,
}

impl Collector {
    pub(super) fn new(query: &Query, columns: Vec<Column>) -> Self {
        let table = Table { columns, rows: Vec::new(), more: false, shortened: false };
        Self { table, max_rows: query.max_rows, max_chars: query.max_chars, left: query.max_chars }
    }

    /// Takes a row if there is room for it; the first one is shortened rather than left out. Answers whether it was taken.
    pub(super) fn take(&mut self, mut row: Vec<Cell>) -> bool {
        let mut size: usize = row.iter().map(Cell::size).sum();
        if size > self.left && self.table.rows.is_empty() {
            let each = (self.max_chars / row.len().max(1)).max(20);
            for cell in &mut row {
                cell.shorten(each);
            }
            size = self.left;
        }
        if self.table.rows.len() >= self.max_rows || size > self.left {
            self.table.more = true;
            return false;
        }
        self.left -= size;
        self.table.shortened |= row.iter().any(|cell| matches!(cell, Cell::Cut(..)));
        self.table.rows.push(row);
        true
    }

    pub(super) fn into_table(self) -> Table {
        self.table
    }
}
