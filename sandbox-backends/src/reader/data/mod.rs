//! Tables: CSV, JSON Lines and Parquet, row by row from an open file.
//!
//! A file is read as far as it must be and never as a whole; what is made of it is written as JSON.

mod cell;
mod csv;
mod filter;
mod inspect;
mod jsonl;
mod parquet;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    ops::ControlFlow,
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

use cell::Cell;
pub(crate) use filter::Condition;
pub(crate) use inspect::{ColumnSummary, Inspection};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Rows between looks at the clock.
const ROWS_BETWEEN_LOOKS: u64 = 256;

/// How much of a file is looked at to find out what its columns are: rows, and bytes.
const SAMPLE_ROWS: usize = 10_000;
const SAMPLE_BYTES: u64 = 4 << 20;

/// What is odd: how often, and the line of the first time, if it is known.
#[derive(Default)]
struct Odd {
    count: u64,
    line: u64,
}

impl Odd {
    fn note(&mut self, line: u64) {
        self.count += 1;
        self.line = if self.count == 1 { line } else { self.line };
    }

    /// In words, if there was anything.
    fn words(&self, what: &str) -> Option<String> {
        let Self { count, line } = self;
        let first = if *line > 0 { format!(" (the first one in line {line})") } else { String::new() };
        (*count > 0).then(|| format!("{count} {what}{first}"))
    }
}

/// What a file is.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) enum DataFormat {
    Csv,
    Jsonl,
    Parquet,
}

/// What is to be done with a file.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Scan {
    pub(crate) format: DataFormat,
    /// The file's length; what is added meanwhile is not read.
    pub(crate) bytes: u64,
    /// Of a CSV file: between its values; found out if absent.
    pub(crate) delimiter: Option<u8>,
    /// Of a CSV file: whether its first row has the names of the columns.
    pub(crate) header: bool,
    pub(crate) limit: Duration,
    pub(crate) ask: Ask,
}

/// What is asked of a file.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) enum Ask {
    /// What its columns hold.
    Inspect {
        /// Values of each column to be shown.
        samples: usize,
        /// Columns before the first one that is described.
        skip: usize,
        max_chars: usize,
    },
    Rows(RowsWanted),
}

/// Which rows.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct RowsWanted {
    pub(crate) columns: Option<Vec<String>>,
    pub(crate) filter: Vec<Condition>,
    /// Where to begin: what `next` of an answer to the same question was, or 0.
    pub(crate) from: u64,
    pub(crate) max_rows: usize,
    pub(crate) max_chars: usize,
}

/// A column.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Column {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
}

/// Rows of a file.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Rows<V> {
    pub(crate) columns: Vec<Column>,
    /// In JSON, in the order of the columns.
    pub(crate) values: V,
    pub(crate) row_count: usize,
    /// Where the next ones begin.
    pub(crate) next: Option<u64>,
    /// Whether a value was shortened.
    pub(crate) shortened: bool,
    pub(crate) warnings: Vec<String>,
}

/// Why a file cannot be read as it is asked.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub(crate) enum Failure {
    /// It is not what its name says, or damaged.
    Malformed(String),
    /// There is no such column.
    Column { parameter: String, name: String, known: Vec<String> },
    /// A condition of the filter is none.
    Filter { expected: String, found: String },
}

/// Columns at most.
const MAX_COLUMNS: usize = 10_000;

fn too_wide() -> Failure {
    Failure::Malformed(format!("it has more than {MAX_COLUMNS} columns"))
}

/// Hands rows, each with its place in the file.
type Visit<'v> = dyn FnMut(u64, &[Cell<'_>]) -> ControlFlow<()> + 'v;

/// A file as a table.
trait Table {
    fn columns(&self) -> &[Column];

    /// The column of this name.
    fn find(&mut self, name: &str) -> Option<usize> {
        self.columns().iter().position(|column| column.name == name)
    }

    /// Hands these columns of each row, from a place on that a row had, or 0.
    fn scan(&mut self, wanted: &[usize], from: u64, visit: &mut Visit<'_>) -> Result<(), Failure>;

    /// Whether all its values are texts.
    fn is_text(&self) -> bool {
        false
    }

    /// Whether the file says what its columns are.
    fn declares_types(&self) -> bool {
        false
    }

    /// How many rows there are, if that is known without reading them.
    fn rows(&self) -> Option<u64> {
        None
    }

    /// What stands between values, where something does.
    fn delimiter(&self) -> Option<char> {
        None
    }

    /// A column that was asked for and is not there after all.
    fn unknown(&self) -> Option<String> {
        None
    }

    /// What is odd about the rows that were read.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Does what is asked, and writes the answer.
pub(super) fn run(scan: &Scan, file: File) -> Vec<u8> {
    let until = Instant::now() + scan.limit;
    let answer = open(scan, file).and_then(|mut table| match &scan.ask {
        Ask::Inspect { samples, skip, max_chars } => {
            inspect::inspect(table.as_mut(), *samples, (*skip, *max_chars), until).map(json)
        }
        Ask::Rows(wanted) => rows(table.as_mut(), wanted, until).map(json),
    });
    match answer.and_then(|answer| answer.map_err(|error| Failure::Malformed(error.to_string()))) {
        Ok(answer) => [b"{\"Ok\":".as_slice(), &answer, b"}"].concat(),
        Err(failure) => serde_json::to_vec(&Err::<(), _>(failure)).unwrap_or_default(),
    }
}

fn json(answer: impl Serialize) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&answer)
}

fn open(scan: &Scan, file: File) -> Result<Box<dyn Table>, Failure> {
    let source = Source { file: std::sync::Arc::new(file), at: 0, bytes: scan.bytes };
    Ok(match scan.format {
        DataFormat::Csv => Box::new(csv::Csv::open(source, scan)?),
        DataFormat::Jsonl => Box::new(jsonl::Jsonl::open(source)?),
        DataFormat::Parquet => Box::new(parquet::ParquetFile::open(source)?),
    })
}

/// Looks at the clock now and then.
struct Clock {
    until: Instant,
    rows: u64,
}

impl Clock {
    fn is_over(&mut self) -> bool {
        self.rows += 1;
        self.rows.is_multiple_of(ROWS_BETWEEN_LOOKS) && Instant::now() >= self.until
    }
}

/// The rows that are wanted.
fn rows(table: &mut dyn Table, wanted: &RowsWanted, until: Instant) -> Result<Rows<Vec<Vec<Value>>>, Failure> {
    let mut scanned: Vec<usize> = match &wanted.columns {
        None => (0..table.columns().len()).collect(),
        Some(names) => names.iter().map(|name| column(table, "columns", name, true)).collect::<Result<_, _>>()?,
    };
    let shown = scanned.len();
    let mut conditions = Vec::with_capacity(wanted.filter.len());
    for condition in &wanted.filter {
        condition.check()?;
        let column = column(table, "filter", &condition.column, true)?;
        let place = scanned.iter().position(|known| *known == column).unwrap_or_else(|| {
            scanned.push(column);
            scanned.len() - 1
        });
        conditions.push((place, condition));
    }
    let columns = scanned[..shown].iter().map(|index| table.columns()[*index].clone()).collect();
    let mut answer = Rows::<Vec<Vec<Value>>> { columns, ..Rows::default() };
    let (mut clock, mut slow, mut room) = (Clock { until, rows: 0 }, false, wanted.max_chars);
    table.scan(&scanned, wanted.from, &mut |place, cells| {
        if clock.is_over() {
            (slow, answer.next) = (true, Some(place));
            return ControlFlow::Break(());
        }
        if !conditions.iter().all(|(place, condition)| condition.holds(&cells[*place])) {
            return ControlFlow::Continue(());
        }
        let cells = &cells[..shown];
        let size = cells.iter().map(Cell::size).sum::<usize>() + 2;
        if answer.values.len() >= wanted.max_rows || (size > room && !answer.values.is_empty()) {
            answer.next = Some(place);
            return ControlFlow::Break(());
        }
        room = room.saturating_sub(size);
        // A row that has no room itself shares it among its values.
        let each = if size > wanted.max_chars { wanted.max_chars / shown.max(1) } else { wanted.max_chars };
        answer.values.push(cells.iter().map(|cell| cell.to_value(each, &mut answer.shortened)).collect());
        ControlFlow::Continue(())
    })?;
    // Of one that was met before the place where reading began, nothing is known here.
    if let Some(name) = table.unknown().filter(|_| wanted.from == 0 && answer.next.is_none()) {
        let is_shown = wanted.columns.as_ref().is_some_and(|columns| columns.contains(&name));
        column(table, if is_shown { "columns" } else { "filter" }, &name, false)?;
    }
    answer.row_count = answer.values.len();
    answer.warnings = table.warnings();
    if slow {
        answer
            .warnings
            .push("the time was over before all rows were looked at; `next_cursor` goes on from there".to_owned());
    }
    Ok(answer)
}

/// The place of a column. One that the beginning of the file does not have may come later, in files that allow that.
fn column(table: &mut dyn Table, parameter: &str, name: &str, may_come: bool) -> Result<usize, Failure> {
    let found = if may_come { table.find(name) } else { None };
    found.ok_or_else(|| Failure::Column {
        parameter: parameter.to_owned(),
        name: name.to_owned(),
        known: table
            .columns()
            .iter()
            .map(|column| column.name.clone())
            .filter(|known| known != name)
            .take(1000)
            .collect(),
    })
}

/// The file, from a place on. Whoever else reads it is not disturbed.
#[derive(Clone)]
struct Source {
    file: std::sync::Arc<File>,
    at: u64,
    bytes: u64,
}

impl Source {
    fn from(&self, at: u64) -> Self {
        Self { at, ..self.clone() }
    }

    /// At most so many bytes of the beginning.
    fn head(&self, bytes: u64) -> Result<Vec<u8>, Failure> {
        let mut head = Vec::new();
        self.from(0).take(bytes).read_to_end(&mut head).map_err(|error| unreadable(&error))?;
        Ok(head)
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.bytes.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let room = buffer.len().min(left);
        let read = self.file.read_at(&mut buffer[..room], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

fn unreadable(error: &io::Error) -> Failure {
    Failure::Malformed(format!("it cannot be read: {}", error.kind()))
}

/// Names that are all there and different: `column_3` for one that is not, `name_2` for one that was there before.
fn distinct_names(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut unique = Vec::new();
    for (index, name) in names.enumerate() {
        let name = name.trim();
        let base = if name.is_empty() { format!("column_{}", index + 1) } else { name.to_owned() };
        let mut name = base.clone();
        while counts.contains_key(&name) {
            let count = counts.entry(base.clone()).or_insert(1);
            *count += 1;
            name = format!("{base}_{count}");
        }
        counts.insert(name.clone(), 1);
        unique.push(name);
    }
    unique
}
