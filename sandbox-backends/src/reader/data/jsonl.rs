//! JSON Lines: an object on each line.

use std::{
    fmt,
    io::{BufRead as _, BufReader, Read as _},
    ops::ControlFlow,
};

use serde::{Deserialize, Deserializer, de::MapAccess};
use serde_json::Value;

use super::{
    Column, Failure, Source, Table, Visit,
    cell::{Cell, Kind},
    unreadable,
};

/// How much of the file is looked at to find out what its columns are: rows, and bytes.
const SAMPLE_ROWS: usize = 10_000;
const SAMPLE_BYTES: u64 = 4 << 20;
/// The longest line, in bytes.
const MAX_LINE: u64 = 64 << 20;
/// Columns at most.
const MAX_COLUMNS: usize = 10_000;

pub(super) struct Jsonl {
    source: Source,
    columns: Vec<Column>,
    broken: u64,
    first_broken: u64,
    /// Names that the first rows do not have, and the line of the first one.
    late: Vec<(String, u64)>,
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

impl Jsonl {
    pub(super) fn open(source: Source) -> Result<Self, Failure> {
        let mut file = Self { source, columns: Vec::new(), broken: 0, first_broken: 0, late: Vec::new() };
        let (mut kinds, mut rows, mut bytes) = (Vec::<Option<Kind>>::new(), 0, 0);
        let mut columns = std::mem::take(&mut file.columns);
        let mut places = std::collections::HashMap::new();
        file.lines(&mut |_, line, object| {
            if let Some(Object(fields)) = object {
                for (name, value) in fields {
                    let place = *places.entry(name).or_insert_with_key(|name| {
                        columns.push(Column { name: name.clone(), kind: String::new() });
                        kinds.push(None);
                        columns.len() - 1
                    });
                    if let Some(this) = Kind::of(&cell(value)) {
                        kinds[place] = Some(kinds[place].map_or(this, |known| known.with(this)));
                    }
                }
                rows += 1;
            }
            bytes += line as u64;
            if rows >= SAMPLE_ROWS || bytes >= SAMPLE_BYTES || columns.len() >= MAX_COLUMNS {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        for (column, kind) in columns.iter_mut().zip(kinds) {
            kind.map_or("string", Kind::name).clone_into(&mut column.kind);
        }
        if rows == 0 && file.broken > 0 {
            return Err(Failure::Malformed(format!("line {} is no JSON object", file.first_broken)));
        }
        (file.columns, file.broken, file.first_broken) = (columns, 0, 0);
        Ok(file)
    }

    /// Hands each line that is not empty: its number, its length, and its object if it is one.
    fn lines(&mut self, visit: &mut dyn FnMut(u64, usize, Option<Object>) -> ControlFlow<()>) -> Result<(), Failure> {
        let mut reader = BufReader::with_capacity(256 << 10, self.source.from(0));
        let (mut line, mut number) = (Vec::new(), 0);
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
            if text.is_empty() {
                continue;
            }
            let object = serde_json::from_slice(text).ok();
            if object.is_none() {
                self.broken += 1;
                self.first_broken = if self.broken == 1 { number } else { self.first_broken };
            }
            if visit(number, read, object) == ControlFlow::Break(()) {
                return Ok(());
            }
        }
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
            self.columns.len() - 1
        }))
    }

    fn scan(&mut self, wanted: &[usize], skip: u64, visit: &mut Visit<'_>) -> Result<(), Failure> {
        let names: std::collections::HashMap<String, usize> =
            self.columns.iter().enumerate().map(|(index, column)| (column.name.clone(), index)).collect();
        let mut places = vec![None; self.columns.len()];
        for (place, index) in wanted.iter().enumerate() {
            places[*index].get_or_insert(place);
        }
        let mut late: Vec<(String, u64)> = Vec::new();
        let mut number = 0;
        self.lines(&mut |line, _, object| {
            let Some(Object(fields)) = object else { return ControlFlow::Continue(()) };
            number += 1;
            if number <= skip {
                return ControlFlow::Continue(());
            }
            let mut row = vec![Cell::Null; wanted.len()];
            for (name, value) in fields {
                match names.get(&name) {
                    Some(index) => {
                        if let Some(place) = places[*index] {
                            row[place] = cell(value);
                        }
                    }
                    None if late.len() < 10 && !late.iter().any(|(known, _)| *known == name) => late.push((name, line)),
                    None => {}
                }
            }
            // A column that is wanted twice.
            for (place, index) in wanted.iter().enumerate() {
                if let Some(first) = places[*index].filter(|first| *first != place) {
                    row[place] = row[first].clone();
                }
            }
            visit(number - 1, &row)
        })?;
        self.late = late;
        Ok(())
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.broken > 0 {
            let (broken, first) = (self.broken, self.first_broken);
            warnings
                .push(format!("{broken} lines are no JSON objects, the first one is line {first}: they were left out"));
        }
        if !self.late.is_empty() {
            let names: Vec<_> = self.late.iter().map(|(name, line)| format!("`{name}` (line {line})")).collect();
            let names = names.join(", ");
            warnings
                .push(format!("fields that the first rows do not have were left out: {names}; name them in `columns`"));
        }
        warnings
    }
}

fn cell(value: Value) -> Cell<'static> {
    match value {
        Value::Null => Cell::Null,
        Value::Bool(value) => Cell::Bool(value),
        Value::String(text) => Cell::Text(text.into()),
        Value::Number(number) => match (number.as_i64(), number.is_f64()) {
            (Some(whole), _) => Cell::Int(whole),
            (None, true) => Cell::Float(number.as_f64().unwrap_or(f64::NAN)),
            (None, false) => Cell::Json(Value::Number(number)),
        },
        other => Cell::Json(other),
    }
}
