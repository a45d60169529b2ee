//! `data`: looks at data files, and works on them with Python.
//!
//! A shared backend, on when `apis.ds` is there. Files are read by processes that can do nothing else (`reader`), code runs
//! in a sandbox of the shell backend (`python.rs`).

mod config;
mod python;

use std::time::{Duration, Instant};

pub use config::DataConfig;
pub use python::{MadeFile, PythonRun};
use sandbox_runtime::prelude::*;
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json, value::RawValue};

pub use super::roots::FileEntry;
use super::{
    budget,
    names::{nearest, quotable},
    roots::{Found, Known, Roots, Version, on_thread},
    turns::Turns,
};
use crate::reader::{
    Ask, Column, ColumnSummary, Condition, DataFormat, Failure, Flaw, Inspection, Reader, Rows, RowsWanted, Scan,
    Unreadable,
};

/// Files that are read at once for one worker; there are turns for at least one more.
const SCANS_OF_WORKER: u32 = 2;

/// What a process has beyond the time that a file may take, to say that it takes longer.
const GRACE: Duration = Duration::from_secs(5);

/// What a call keeps back to answer in time.
const ANSWER_MARGIN: Duration = Duration::from_millis(500);

/// What files are known here.
const KNOWN: Known = Known {
    noun: "data file",
    what: "a CSV, TSV, JSON Lines or Parquet file",
    lister: "data:list",
    format: |path| format_of(path).map(|(name, ..)| name),
};

/// The backend.
pub struct DataBackend {
    config: DataConfig,
}

/// What its calls share.
pub struct Shared {
    roots: Roots,
    reader: Reader,
    /// Files of one worker that are being read.
    scans: Turns,
}

/// What `data:list` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct FileList {
    /// The files, by path.
    files: Vec<FileEntry>,
    /// Whether there are files for which `max_chars` had no room, or more than 20,000.
    truncated: bool,
    /// Where the others begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// What `data:inspect` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DataSummary {
    /// The path of the file.
    path: String,
    /// What it is: `csv`, `tsv`, `jsonl` or `parquet`.
    format: &'static str,
    /// Its size in bytes.
    bytes: u64,
    /// How many rows it has; absent if there was no time to count them.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<u64>,
    /// Whether all rows were looked at; if not, columns are described by the first `rows_seen`.
    complete: bool,
    /// How many rows were looked at.
    rows_seen: u64,
    /// Of a CSV file: what stands between its values.
    #[serde(skip_serializing_if = "Option::is_none")]
    delimiter: Option<char>,
    /// The columns, in their order.
    columns: Vec<ColumnSummary>,
    /// What is odd about the file.
    warnings: Vec<String>,
    /// Whether there are columns for which `max_chars` had no room.
    truncated: bool,
    /// Where the others begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// What `data:read` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DataRows {
    /// The path of the file.
    path: String,
    /// The columns, in the order of the values. Of CSV and JSON Lines `type` is what the first 10,000 rows have; later values
    /// may be of another.
    columns: Vec<DataColumn>,
    /// The rows, each a list of values in the order of the columns. Times are ISO 8601 texts, decimals texts, bytes base64; a
    /// value that is not of the column's type, or is no number, is a text.
    #[schemars(with = "Vec<Vec<Value>>")]
    rows: Box<RawValue>,
    /// How many rows these are.
    row_count: usize,
    /// What is odd about the rows that were looked at.
    warnings: Vec<String>,
    /// Whether there are more than these: rows that `next_cursor` fetches, or the end of a long value, which says so.
    truncated: bool,
    /// Where the other rows begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// A column of rows.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DataColumn {
    /// Its name.
    name: String,
    /// What its values are.
    #[serde(rename = "type")]
    kind: String,
}

impl From<Column> for DataColumn {
    fn from(Column { name, kind }: Column) -> Self {
        Self { name, kind }
    }
}

/// Looks at tables in files, and works on them with Python.
#[backend(name = "data", config = "apis.ds")]
impl DataBackend {
    fn new(config: DataConfig) -> Result<Self> {
        Ok(Self { config })
    }

    async fn warmup(&self, resource: &ResourceContext) -> Result<Shared> {
        let roots = self.config.roots.clone();
        let states = {
            let roots = roots.clone();
            on_thread(move || Ok(roots.states())).await?
        };
        resource.set_facts(json!({ "roots": states }));
        let reader = Reader::new(Duration::from_secs(self.config.timeout_seconds.into()) + GRACE);
        Ok(Shared { roots, reader, scans: Turns::new(SCANS_OF_WORKER) })
    }

    /// List the data files that can be read: CSV, TSV, JSON Lines and Parquet, with their sizes.
    #[tool(read_only, idempotent)]
    async fn list(
        &self,
        shared: &Shared,
        /// Only those in this folder and the folders in it.
        #[default = ""]
        folder: String,
        /// Only those whose name matches, such as `*.csv`, or whose path below `folder` does, such as `sales/**/*.parquet`;
        /// `**` stands for any folders.
        #[schemars(length(min = 1, max = 500))]
        pattern: Option<String>,
        /// Most characters of the answer.
        #[default = 20_000]
        #[schemars(range(min = 1, max = 2_000_000))]
        max_chars: u32,
        /// `next_cursor` of an answer to the same request, for the files for which it had no room.
        cursor: Option<String>,
    ) -> Result<FileList> {
        let listing = shared.roots.list(&folder, pattern.as_deref(), &KNOWN).await?;
        let limits = (usize::MAX, max_chars as usize);
        let part = budget::list(&listing.files, &listing.print, limits, cursor.as_deref(), FileEntry::size)?;
        let truncated = part.next.is_some() || listing.more;
        Ok(FileList { files: part.items, truncated, next_cursor: part.next })
    }

    /// Describe a data file (CSV, TSV, JSON Lines, Parquet): how many rows it has, and of each column the type, missing
    /// values, number of different values, range, mean and samples. Look here before reading rows or writing code.
    #[tool(read_only, idempotent, timeout = "10m")]
    async fn inspect(
        &self,
        shared: &Shared,
        context: &ToolContext,
        /// The file, by its path in `data:list`.
        #[schemars(length(min = 1))]
        path: String,
        /// Samples of each column.
        #[default = 5]
        #[schemars(range(max = 50))]
        samples: u32,
        /// Of a CSV file: whether its first row has the names of the columns.
        #[default = true]
        header: bool,
        /// Of a CSV file: what stands between its values, one character; found out by default.
        #[schemars(length(min = 1, max = 1))]
        delimiter: Option<String>,
        /// Most characters of the columns together.
        #[default = 20_000]
        #[schemars(range(min = 1, max = 2_000_000))]
        max_chars: u32,
        /// `next_cursor` of an answer to the same request, for the columns for which it had no room.
        cursor: Option<String>,
    ) -> Result<DataSummary> {
        let file = self.open(shared, path).await?;
        let print = budget::fingerprint(&format!("{:?}\0{samples}\0{header}\0{delimiter:?}", file.found.version));
        let skip = cursor.map_or(Ok(0), |cursor| budget::offset(&cursor, &print))?;
        let ask = Ask::Inspect { samples: samples as usize, skip, max_chars: max_chars as usize };
        let (path, format, bytes) = (file.found.path.clone(), file.name, file.found.version.bytes);
        let csv = CsvForm::new(&file, header, delimiter.as_deref())?;
        let seen: Inspection<Vec<ColumnSummary>> = self.run(shared, context, file, csv, ask).await?;
        Ok(DataSummary {
            path,
            format,
            bytes,
            rows: seen.rows,
            complete: seen.complete,
            rows_seen: seen.rows_seen,
            delimiter: seen.delimiter,
            columns: seen.columns,
            warnings: seen.warnings,
            truncated: seen.next.is_some(),
            next_cursor: seen.next.map(|next| format!("{print}.{next}")),
        })
    }

    /// Read rows of a data file (CSV, TSV, JSON Lines, Parquet), all or those that meet every condition of `filter`.
    #[tool(read_only, idempotent, timeout = "10m", alias = ["data:read_csv", "data:read_jsonl", "data:read_parquet"])]
    async fn read(
        &self,
        shared: &Shared,
        context: &ToolContext,
        /// The file, by its path in `data:list`.
        #[schemars(length(min = 1))]
        #[serde(alias = "csv_file")]
        path: String,
        /// Most rows; the server's own setting by default.
        #[schemars(range(min = 1, max = 10_000))]
        max_rows: Option<u32>,
        /// Only these columns, in this order.
        #[schemars(length(min = 1, max = 1000))]
        columns: Option<Vec<String>>,
        /// Conditions, all of which must hold, such as `[{"column": "year", "op": ">=", "value": 2020}]`.
        #[default([])]
        #[schemars(length(max = 100))]
        filter: Vec<Condition>,
        /// Of a CSV file: whether its first row has the names of the columns.
        #[default = true]
        header: bool,
        /// Of a CSV file: what stands between its values, one character; found out by default.
        #[schemars(length(min = 1, max = 1))]
        delimiter: Option<String>,
        /// Most characters of the rows together.
        #[default = 20_000]
        #[schemars(range(min = 1, max = 2_000_000))]
        max_chars: u32,
        /// `next_cursor` of an answer to the same request, for the rows after it.
        cursor: Option<String>,
    ) -> Result<DataRows> {
        let file = self.open(shared, path).await?;
        let asked = format!("{columns:?}\0{filter:?}\0{header}\0{delimiter:?}");
        let print = budget::fingerprint(&format!("{:?}\0{asked}", file.found.version));
        let from = cursor.map_or(Ok(0), |cursor| budget::offset(&cursor, &print))? as u64;
        let max_rows = max_rows.unwrap_or(self.config.max_rows) as usize;
        let ask = Ask::Rows(RowsWanted { columns, filter, from, max_rows, max_chars: max_chars as usize });
        let path = file.found.path.clone();
        let csv = CsvForm::new(&file, header, delimiter.as_deref())?;
        let rows: Rows<Box<RawValue>> = self.run(shared, context, file, csv, ask).await?;
        Ok(DataRows {
            path,
            columns: rows.columns.into_iter().map(DataColumn::from).collect(),
            rows: rows.values,
            row_count: rows.row_count,
            warnings: rows.warnings,
            truncated: rows.next.is_some() || rows.shortened,
            next_cursor: rows.next.map(|next| format!("{print}.{next}")),
        })
    }

    /// Run Python in an isolated sandbox, with data files at hand: each of `files` lies under its path in the working
    /// directory. Print what you want to see; the value of a last expression is answered as `result`. With a session of the
    /// shell backend the sandbox is that of the session, else it is gone after the call.
    #[tool(timeout = "10m")]
    async fn run_python(
        &self,
        shared: &Shared,
        context: &ToolContext,
        /// The code.
        #[schemars(length(min = 1))]
        code: String,
        /// Data files to copy into the sandbox first, by their paths in `data:list`.
        #[default([])]
        #[schemars(length(max = 100))]
        files: Vec<String>,
        /// After this time the code is interrupted, in milliseconds; what is left of the call's own limit by default.
        #[schemars(range(min = 1))]
        timeout_ms: Option<u64>,
        /// Most characters (bytes) of each of its outputs in the answer; of longer ones the head and the tail.
        #[default = 20_000]
        #[schemars(range(max = 1_000_000))]
        max_chars: u32,
    ) -> Result<PythonRun> {
        let turn = shared.scans.turn(context.worker().as_str()).await?;
        let files = python::read(&shared.roots, files, u64::from(self.config.max_copy_mib) << 20).await?;
        drop(turn);
        python::run(context, &self.config.shell, &code, files, timeout_ms, max_chars).await
    }
}

/// A file that is to be read.
struct DataFile {
    found: Found,
    /// What it is called.
    name: &'static str,
    format: DataFormat,
    /// What stands between its values, by its name.
    delimiter: Option<u8>,
}

impl DataBackend {
    async fn open(&self, shared: &Shared, path: String) -> Result<DataFile> {
        let found = shared.roots.open("path", &path, &KNOWN).await?;
        let Some((name, format, delimiter)) = format_of(&found.path) else {
            let found = format!("`{}`", quotable(&found.path));
            return Err(ToolError::parameter(ErrorCode::INVALID_INPUT, "path", KNOWN.what, found));
        };
        Ok(DataFile { found, name, format, delimiter })
    }

    /// Has a file read.
    async fn run<T: DeserializeOwned>(
        &self,
        shared: &Shared,
        context: &ToolContext,
        file: DataFile,
        csv: CsvForm,
        ask: Ask,
    ) -> Result<T> {
        let _turn = shared.scans.turn(context.worker().as_str()).await?;
        let limit = Duration::from_secs(self.config.timeout_seconds.into());
        let call = context.deadline().into_std().saturating_duration_since(Instant::now());
        let limit = limit.min(call.saturating_sub(ANSWER_MARGIN).max(call / 2));
        let DataFile { found: Found { path, file, version }, format, .. } = file;
        let CsvForm { delimiter, header } = csv;
        let scan = Scan { format, bytes: version.bytes, delimiter, header, limit, ask };
        let same = file.try_clone().tool_err(ErrorCode::INTERNAL_ERROR)?;
        let answer = shared.reader.scan(scan, file).await.map_err(|error| self.unreadable(&path, &error))?;
        if Version::of(&same.metadata().tool_err(ErrorCode::EXECUTION_ERROR)?) != version {
            let message = format!("`{}` changed while it was read: try again", quotable(&path));
            return Err(ToolError::new(ErrorCode::CONFLICT, message).with_reason("changed"));
        }
        let answer: Result<T, Failure> = serde_json::from_str(&answer).tool_err(ErrorCode::INTERNAL_ERROR)?;
        answer.map_err(|failure| failed(&path, failure))
    }

    fn unreadable(&self, path: &str, error: &Unreadable) -> ToolError {
        let (reason, why) = match error {
            Unreadable::Flawed(Flaw::TooLong) => ("too_long", "the answer is too long; ask for fewer columns or rows"),
            Unreadable::Flawed(_) => ("malformed", "it is damaged, or not what its name says"),
            Unreadable::Slow => {
                let seconds = self.config.timeout_seconds;
                let message = format!("`{}` cannot be looked through within {seconds} s", quotable(path));
                return ToolError::new(ErrorCode::TIMEOUT_ERROR, message);
            }
            Unreadable::Fatal => {
                ("too_complex", "a row of it needs more memory than it may; a quote may not be closed")
            }
            Unreadable::Broken(error) => {
                tracing::error!(%error, "the process that reads files cannot be started");
                return ToolError::new(ErrorCode::INTERNAL_ERROR, "the process that reads files cannot be started");
            }
        };
        let message = format!("`{}` cannot be read: {why}", quotable(path));
        ToolError::new(ErrorCode::BUSINESS_FAILURE, message).with_reason(reason)
    }
}

/// Why a file cannot be read as it was asked.
fn failed(path: &str, failure: Failure) -> ToolError {
    let path = quotable(path);
    match failure {
        Failure::Malformed(why) => {
            let message = format!("`{path}` cannot be read: {why}");
            ToolError::new(ErrorCode::BUSINESS_FAILURE, message).with_reason("malformed")
        }
        Failure::Column { parameter, name, known } => {
            let found = format!("`{}`", quotable(&name));
            let names = nearest(&name, known.iter().map(String::as_str));
            let expected = format!("a column of `{path}`; `data:inspect` names them");
            ToolError::parameter(ErrorCode::INVALID_INPUT, parameter, expected, found).with_candidates(names)
        }
        Failure::Filter { expected, found } => {
            ToolError::parameter(ErrorCode::INVALID_INPUT, "filter", expected, found)
        }
    }
}

/// How a CSV file is written.
struct CsvForm {
    /// What stands between its values; found out if absent.
    delimiter: Option<u8>,
    /// Whether its first row has the names of the columns.
    header: bool,
}

impl CsvForm {
    fn new(file: &DataFile, header: bool, delimiter: Option<&str>) -> Result<Self> {
        let wrong = |parameter: &str, expected: &str, found: String| {
            Err(ToolError::parameter(ErrorCode::INVALID_INPUT, parameter, expected, found))
        };
        if file.format != DataFormat::Csv && (!header || delimiter.is_some()) {
            let parameter = if header { "delimiter" } else { "header" };
            return wrong(parameter, "none: it is for CSV files", format!("one for a file of {}", file.name));
        }
        let delimiter = match delimiter.map(str::as_bytes) {
            None => file.delimiter,
            Some([byte]) if !matches!(byte, b'"' | b'\n' | b'\r') => Some(*byte),
            Some(_) => {
                let expected = "one ASCII character that is neither a quote nor the end of a line";
                return wrong("delimiter", expected, format!("{:?}", delimiter.unwrap_or_default()));
            }
        };
        Ok(Self { delimiter, header })
    }
}

/// What a file is by its name: what that is called, and what stands between its values.
fn format_of(path: &str) -> Option<(&'static str, DataFormat, Option<u8>)> {
    let (stem, extension) = path.rsplit('/').next()?.rsplit_once('.')?;
    Some(match extension.to_ascii_lowercase().as_str() {
        _ if stem.is_empty() => return None,
        "csv" => ("csv", DataFormat::Csv, None),
        "tsv" | "tab" => ("tsv", DataFormat::Csv, Some(b'\t')),
        "jsonl" | "ndjson" => ("jsonl", DataFormat::Jsonl, None),
        "parquet" | "pq" => ("parquet", DataFormat::Parquet, None),
        _ => return None,
    })
}
