//! What the columns of a file hold.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashSet, hash_map::DefaultHasher},
    hash::{Hash as _, Hasher as _},
    ops::ControlFlow,
    time::Instant,
};

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

use super::{
    Clock, Failure, Table,
    cell::{Cell, Kind, NO_VALUE, integer, order, order_of_decimals, typed},
};

/// Different values of a column that are told apart.
const MAX_DISTINCT: usize = 1000;
/// The longest text of a summary, in characters.
const MAX_TEXT: usize = 100;

/// What a file holds.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Inspection<C> {
    pub(crate) rows: Option<u64>,
    /// Rows that were looked at.
    pub(crate) rows_seen: u64,
    pub(crate) complete: bool,
    /// What stands between values, where something does.
    pub(crate) delimiter: Option<char>,
    pub(crate) columns: C,
    /// The first column for which there was no room.
    pub(crate) next: Option<usize>,
    pub(crate) warnings: Vec<String>,
}

/// What a column holds.
#[derive(Clone, Debug, Deserialize, Serialize, schemars::JsonSchema)]
pub(crate) struct ColumnSummary {
    /// Its name.
    pub(crate) name: String,
    /// What all its values are: `boolean`, `integer`, `number`, `decimal`, `date`, `datetime`, `time`, `string`, `binary`
    /// (in base64), `list` or `object`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// How many rows have no value.
    pub(crate) nulls: u64,
    /// How many different values there are; absent if there are more than 1,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) distinct: Option<usize>,
    /// The least value; of strings, the first one in the order of their characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) min: Option<Value>,
    /// The greatest value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max: Option<Value>,
    /// The mean, of numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mean: Option<f64>,
    /// The first different values; long ones are cut.
    pub(crate) samples: Vec<Value>,
}

/// What was seen of a column so far.
struct Seen {
    nulls: u64,
    /// Words that may mean that there is no value, and how often each stood there.
    maybe: BTreeMap<&'static str, u64>,
    kind: Option<Kind>,
    numbers: u64,
    /// Integers are compared as such, and all numbers as doubles.
    integers: Option<(i128, i128)>,
    range: Option<(f64, f64)>,
    sum: f64,
    texts: Option<(String, String)>,
    decimals: Option<(String, String)>,
    distinct: Option<HashSet<u64>>,
    samples: Vec<Value>,
}

impl Seen {
    fn new() -> Self {
        Self {
            nulls: 0,
            maybe: BTreeMap::new(),
            kind: None,
            numbers: 0,
            integers: None,
            range: None,
            sum: 0.0,
            texts: None,
            decimals: None,
            distinct: Some(HashSet::new()),
            samples: Vec::new(),
        }
    }

    /// `of_text`: whether a text may be a number or a boolean, for it has no type of its own.
    fn add(&mut self, cell: &Cell<'_>, of_text: bool, samples: usize) {
        let kind = match cell {
            Cell::Null => {
                self.nulls += 1;
                return;
            }
            Cell::Text(text) if of_text => {
                if let Some(word) = NO_VALUE.iter().find(|word| **word == text.as_ref()) {
                    *self.maybe.entry(word).or_default() += 1;
                    return;
                }
                Kind::of_text(text)
            }
            cell => Kind::of(cell).unwrap_or(Kind::String),
        };
        self.kind = Some(self.kind.map_or(kind, |known| known.with(kind)));
        let mut hasher = DefaultHasher::new();
        match cell {
            Cell::Int(value) => {
                self.integer(*value);
                value.hash(&mut hasher);
            }
            Cell::Float(value) => {
                self.number(*value);
                value.to_bits().hash(&mut hasher);
            }
            Cell::Decimal(text) => {
                self.decimal(text);
                text.hash(&mut hasher);
            }
            Cell::Text(text) => {
                match kind {
                    Kind::Integer if of_text => text.parse().map_or((), |value| self.integer(value)),
                    Kind::Number if of_text => text.parse().map_or((), |value| self.number(value)),
                    _ => {}
                }
                self.text(text);
                text.hash(&mut hasher);
            }
            other => other.to_value(usize::MAX, &mut false).to_string().hash(&mut hasher),
        }
        let Some(distinct) = &mut self.distinct else { return };
        if distinct.insert(hasher.finish()) && self.samples.len() < samples {
            self.samples.push(cell.to_value(MAX_TEXT, &mut false));
        }
        if distinct.len() > MAX_DISTINCT {
            self.distinct = None;
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "the integer itself is kept beside it")]
    fn integer(&mut self, value: i128) {
        self.integers = Some(self.integers.map_or((value, value), |(least, most)| (least.min(value), most.max(value))));
        self.number(value as f64);
    }

    fn number(&mut self, value: f64) {
        if value.is_finite() {
            self.range = Some(self.range.map_or((value, value), |(least, most)| (least.min(value), most.max(value))));
            self.numbers += 1;
            self.sum += value;
        }
    }

    fn text(&mut self, text: &str) {
        widen(&mut self.texts, text, order);
    }

    fn decimal(&mut self, text: &str) {
        widen(&mut self.decimals, text, |a, b| order_of_decimals(a, b).unwrap_or(Ordering::Equal));
        self.number(text.parse().unwrap_or(f64::NAN));
    }

    /// `declared`: what the file itself says that the column is.
    fn summary(mut self, name: String, declared: Option<String>, of_text: bool) -> ColumnSummary {
        if declared.is_none() && self.kind == Some(Kind::String) {
            // Among words they are words.
            for word in std::mem::take(&mut self.maybe).into_keys() {
                let mut hasher = DefaultHasher::new();
                word.hash(&mut hasher);
                self.text(word);
                if let Some(distinct) = &mut self.distinct {
                    distinct.insert(hasher.finish());
                }
            }
        }
        self.nulls += self.maybe.values().sum::<u64>();
        let kind = self.kind;
        if of_text {
            // Now it is known what they are.
            for sample in &mut self.samples {
                if let Value::String(text) = sample {
                    *sample = typed(text.as_str().into(), kind).to_value(MAX_TEXT, &mut false);
                }
            }
        }
        let kind_name = declared.unwrap_or_else(|| kind.map_or("string", Kind::name).to_owned());
        let real = |value: f64| Number::from_f64(value).map_or(Value::Null, Value::Number);
        let range = match kind {
            Some(Kind::Integer) => self.integers.map(|(least, most)| (integer(least), integer(most))),
            Some(Kind::Number) => self.range.map(|(least, most)| (real(least), real(most))),
            Some(Kind::Decimal) => self.decimals.map(|(least, most)| (least.into(), most.into())),
            Some(Kind::Date | Kind::Datetime | Kind::String) => self.texts.map(|(least, most)| {
                let short = |text: String| Cell::Text(text.into()).to_value(MAX_TEXT, &mut false);
                (short(least), short(most))
            }),
            _ => None,
        };
        #[expect(clippy::cast_precision_loss, reason = "a mean")]
        let mean =
            matches!(kind, Some(Kind::Integer | Kind::Number | Kind::Decimal)).then(|| self.sum / self.numbers as f64);
        let (min, max) = range.unzip();
        ColumnSummary {
            name,
            kind: kind_name,
            nulls: self.nulls,
            distinct: self.distinct.map(|distinct| distinct.len()),
            min,
            max,
            mean: mean.filter(|mean| mean.is_finite()),
            samples: self.samples,
        }
    }
}

/// Makes a range hold a text.
fn widen(range: &mut Option<(String, String)>, text: &str, order: impl Fn(&str, &str) -> Ordering) {
    match range {
        None => *range = Some((text.to_owned(), text.to_owned())),
        Some((least, most)) => {
            if order(text, least) == Ordering::Less {
                text.clone_into(least);
            } else if order(text, most) == Ordering::Greater {
                text.clone_into(most);
            }
        }
    }
}

/// Looks at all rows, or as many as there is time for.
pub(super) fn inspect(
    table: &mut dyn Table,
    samples: usize,
    (skip, max_chars): (usize, usize),
    until: Instant,
) -> Result<Inspection<Vec<ColumnSummary>>, Failure> {
    let wanted: Vec<usize> = (0..table.columns().len()).collect();
    let mut seen: Vec<Seen> = wanted.iter().map(|_| Seen::new()).collect();
    let (mut clock, mut complete, mut rows) = (Clock { until, rows: 0 }, true, 0);
    let of_text = table.is_text();
    table.scan(&wanted, 0, &mut |_, cells| {
        if clock.is_over() {
            complete = false;
            return ControlFlow::Break(());
        }
        rows += 1;
        for (seen, cell) in seen.iter_mut().zip(cells) {
            seen.add(cell, of_text, samples);
        }
        ControlFlow::Continue(())
    })?;
    let declares = table.declares_types();
    let (mut columns, mut next, mut room) = (Vec::new(), None, max_chars);
    for (index, (seen, column)) in seen.into_iter().zip(table.columns()).enumerate().skip(skip) {
        let summary = seen.summary(column.name.clone(), declares.then(|| column.kind.clone()), of_text);
        let size = serde_json::to_string(&summary).map_or(0, |text| text.len());
        if size > room && !columns.is_empty() {
            next = Some(index);
            break;
        }
        room = room.saturating_sub(size);
        columns.push(summary);
    }
    let total = table.rows().or(complete.then_some(rows));
    let (delimiter, warnings) = (table.delimiter(), table.warnings());
    Ok(Inspection { rows: total, rows_seen: rows, complete, delimiter, columns, next, warnings })
}
