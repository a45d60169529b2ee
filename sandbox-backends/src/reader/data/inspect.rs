//! What the columns of a file hold.

use std::{
    collections::{BTreeMap, HashSet, hash_map::DefaultHasher},
    hash::{Hash as _, Hasher as _},
    ops::ControlFlow,
    time::Instant,
};

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

use super::{
    Clock, Failure, Table,
    cell::{Cell, Kind, NO_VALUE, typed},
};

/// Different values of a column that are told apart.
const MAX_DISTINCT: usize = 1000;
/// The longest text of a summary, in characters.
const MAX_TEXT: usize = 100;

/// What a file holds.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Inspection<C> {
    pub(crate) rows: Option<u64>,
    /// Rows that were looked at, if there was no time for all.
    pub(crate) rows_seen: u64,
    pub(crate) complete: bool,
    pub(crate) columns: C,
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
    integers: Option<(i64, i64)>,
    range: Option<(f64, f64)>,
    sum: f64,
    texts: Option<(String, String)>,
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
        let (mut hasher, mut cut) = (DefaultHasher::new(), false);
        match cell {
            Cell::Int(value) => {
                self.integer(*value);
                value.hash(&mut hasher);
            }
            Cell::Float(value) => {
                self.number(*value);
                value.to_bits().hash(&mut hasher);
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
            other => other.to_value(usize::MAX, &mut cut).to_string().hash(&mut hasher),
        }
        let Some(distinct) = &mut self.distinct else { return };
        if distinct.insert(hasher.finish()) && self.samples.len() < samples {
            self.samples.push(cell.to_value(MAX_TEXT, &mut cut));
        }
        if distinct.len() > MAX_DISTINCT {
            self.distinct = None;
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "the integer itself is kept beside it")]
    fn integer(&mut self, value: i64) {
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
        match &mut self.texts {
            None => self.texts = Some((text.to_owned(), text.to_owned())),
            Some((least, most)) => {
                if text < least.as_str() {
                    text.clone_into(least);
                } else if text > most.as_str() {
                    text.clone_into(most);
                }
            }
        }
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
        let whole = |value: i64| Value::from(value);
        let real = |value: f64| Number::from_f64(value).map_or(Value::Null, Value::Number);
        let range = match kind {
            Some(Kind::Integer) => self.integers.map(|(least, most)| (whole(least), whole(most))),
            Some(Kind::Number) => self.range.map(|(least, most)| (real(least), real(most))),
            Some(Kind::Date | Kind::Datetime | Kind::String) => self.texts.map(|(least, most)| {
                let mut cut = false;
                let short = |text: String, cut: &mut bool| Cell::Text(text.into()).to_value(MAX_TEXT, cut);
                (short(least, &mut cut), short(most, &mut cut))
            }),
            _ => None,
        };
        #[expect(clippy::cast_precision_loss, reason = "a mean")]
        let mean = matches!(kind, Some(Kind::Integer | Kind::Number)).then(|| self.sum / self.numbers as f64);
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

/// Looks at all rows, or as many as there is time for.
pub(super) fn inspect(
    table: &mut dyn Table,
    samples: usize,
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
    let summary = |(seen, column): (Seen, &super::Column)| {
        seen.summary(column.name.clone(), declares.then(|| column.kind.clone()), of_text)
    };
    let columns = seen.into_iter().zip(table.columns()).map(summary).collect();
    let total = table.rows().or(complete.then_some(rows));
    Ok(Inspection { rows: total, rows_seen: rows, complete, columns, warnings: table.warnings() })
}
