//! JSON Lines: an object on each line.

use std::{
    collections::HashMap,
    fmt,
    io::{BufRead as _, BufReader, Read as _},
    ops::ControlFlow,
};

use serde::{Deserialize, Deserializer, de::MapAccess};
use serde_json::Value;

use super::{
    Column, Failure, MAX_COLUMNS, Odd, SAMPLE_BYTES, SAMPLE_ROWS, Source, Table, Visit,
    cell::{Cell, Kind},
    too_wide, unreadable,
};

/// The longest line, in bytes.
const MAX_LINE: u64 = 64 << 20;
/// Fields that are named in a warning.
const MAX_NAMED: usize = 10;

pub(super) struct Jsonl {
    source: Source,
    columns: Vec<Column>,
    /// Those that the first rows do not have, and that were asked for: whether they came.
    later: HashMap<usize, bool>,
    /// Lines that are no objects.
    broken: Odd,
    /// Fields that are neither among the columns nor asked for, and the line of the first one.
    left_out: Vec<(String, u64)>,
}

/// An object whose fields stand in the order in which it has them.
struct Object(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// A line that is not empty.
struct Line {
    /// Where it begins.
    place: u64,
    /// From where reading began.
    number: u64,
    object: Option<Object>,
}

impl Jsonl {
    pub(super) fn open(source: Source) -> Result<Self, Failure> {
        let mut columns: Vec<Column> = Vec::new();
        let (mut kinds, mut places, mut rows) = (Vec::<Option<Kind>>::new(), HashMap::new(), 0);
        let mut broken = Odd::default();
        lines(&source, 0, &mut |line| {
            match line.object {
                None => broken.note(line.number),
                Some(Object(fields)) => {
                    rows += 1;
                    for (name, value) in fields {
                        let place = *places.entry(name).or_insert_with_key(|name| {
                            columns.push(Column { name: name.clone(), kind: String::new() });
                            kinds.push(None);
                            columns.len() - 1
                        });
                        if let Some(this) = Kind::of(&cell(value)) {
                            kinds[place] = Some(kinds[place].map_or(this, |known| known.with(this)));
                        }
                        if columns.len() > MAX_COLUMNS {
                            return ControlFlow::Break(());
                        }
                    }
                }
            }
            let enough = rows >= SAMPLE_ROWS || line.place >= SAMPLE_BYTES;
            if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if columns.len() > MAX_COLUMNS {
            return Err(too_wide());
        }
        if rows == 0 && broken.count > 0 {
            return Err(Failure::Malformed(format!("line {} is no JSON object", broken.line)));
        }
        for (column, kind) in columns.iter_mut().zip(kinds) {
            kind.map_or("string", Kind::name).clone_into(&mut column.kind);
        }
        Ok(Self { source, columns, later: HashMap::new(), broken: Odd::default(), left_out: Vec::new() })
    }
}

/// Hands each line that is not empty, from a place on.
fn lines(source: &Source, from: u64, visit: &mut dyn FnMut(Line) -> ControlFlow<()>) -> Result<(), Failure> {
    let mut reader = BufReader::with_capacity(256 << 10, source.from(from));
    let (mut line, mut number, mut place) = (Vec::new(), 0, from);
    loop {
        line.clear();
        let read =
            reader.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut line).map_err(|error| unreadable(&error))?;
        if read == 0 {
            return Ok(());
        }
        number += 1;
        if read as u64 > MAX_LINE {
            return Err(Failure::Malformed(format!("line {number} has more than {} MiB", MAX_LINE >> 20)));
        }
        let text = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line).trim_ascii();
        if !text.is_empty() {
            let object = serde_json::from_slice(text).ok();
            if visit(Line { place, number, object }) == ControlFlow::Break(()) {
                return Ok(());
            }
        }
        place += read as u64;
    }
}

impl Table for Jsonl {
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// One that the first rows do not have may come later.
    fn find(&mut self, name: &str) -> Option<usize> {
        Some(self.columns.iter().position(|column| column.name == name).unwrap_or_else(|| {
            self.columns.push(Column { name: name.to_owned(), kind: "string".to_owned() });
            self.later.insert(self.columns.len() - 1, false);
            self.columns.len() - 1
        }))
    }

    fn unknown(&self) -> Option<String> {
        let missing = self.later.iter().find(|(_, came)| !**came).map(|(index, _)| *index);
        missing.map(|index| self.columns[index].name.clone())
    }

    fn scan(&mut self, wanted: &[usize], from: u64, visit: &mut Visit<'_>) -> Result<(), Failure> {
        let Self { source, columns, later, broken, left_out } = self;
        let names: HashMap<&str, usize> =
            columns.iter().enumerate().map(|(index, column)| (column.name.as_str(), index)).collect();
        let mut places = vec![None; columns.len()];
        for (place, index) in wanted.iter().enumerate() {
            places[*index].get_or_insert(place);
        }
        // Whoever chose columns wants no others.
        let all = wanted.len() >= columns.len();
        lines(source, from, &mut |line| {
            // Lines are counted from where reading began.
            let number = if from == 0 { line.number } else { 0 };
            let Some(Object(fields)) = line.object else {
                broken.note(number);
                return ControlFlow::Continue(());
            };
            let mut row = vec![Cell::Null; wanted.len()];
            for (name, value) in fields {
                match names.get(name.as_str()) {
                    Some(index) => {
                        later.entry(*index).and_modify(|came| *came = true);
                        if let Some(place) = places[*index] {
                            row[place] = cell(value);
                        }
                    }
                    None if all && left_out.len() <= MAX_NAMED && !left_out.iter().any(|(known, _)| *known == name) => {
                        left_out.push((name, number));
                    }
                    None => {}
                }
            }
            // A column that is wanted twice.
            for (place, index) in wanted.iter().enumerate() {
                if let Some(first) = places[*index].filter(|first| *first != place) {
                    row[place] = row[first].clone();
                }
            }
            visit(line.place, &row)
        })
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(broken) = self.broken.words("lines") {
            warnings.push(format!("{broken} are no JSON objects: they were left out"));
        }
        if !self.left_out.is_empty() {
            let fields =
                self.left_out.iter().take(MAX_NAMED).map(|(name, line)| {
                    if *line > 0 { format!("`{name}` (line {line})") } else { format!("`{name}`") }
                });
            let more = if self.left_out.len() > MAX_NAMED { ", and more" } else { "" };
            let names = fields.collect::<Vec<_>>().join(", ");
            warnings.push(format!(
                "fields that the first rows do not have were left out: {names}{more}; `columns` of `data:read` may name them"
            ));
        }
        warnings
    }
}

fn cell(value: Value) -> Cell<'static> {
    match value {
        Value::Null => Cell::Null,
        Value::Bool(value) => Cell::Bool(value),
        Value::String(text) => Cell::Text(text.into()),
        Value::Number(number) => {
            let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
            whole.map_or_else(|| Cell::Float(number.as_f64().unwrap_or(f64::NAN)), Cell::Int)
        }
        other => Cell::Json(other),
    }
}
