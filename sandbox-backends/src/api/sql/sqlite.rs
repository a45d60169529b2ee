//! SQLite files. Only reading is possible: the file is opened for reading, every statement is judged by the engine's own
//! authorizer when it is compiled, and a progress handler ends what takes too long.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use memchr::memmem;
use rusqlite::{
    Connection, Error, ErrorCode as Sqlite, OpenFlags, Statement,
    config::DbConfig,
    functions::FunctionFlags,
    hooks::{AuthAction, AuthContext, Authorization},
    limits::Limit,
    types::{ToSqlOutput, Value as SqlValue, ValueRef},
};
use sandbox_runtime::prelude::*;
use serde_json::Value;
use tokio::{select, sync::Semaphore, task::spawn_blocking, time::sleep_until};

use super::{
    cell::{Cell, Collector, Column, Query, Table, Until},
    schema::{ForeignKey, TableColumn, TableInfo},
};

/// The longest value, and row, in bytes.
const MAX_VALUE_BYTES: i32 = 8 << 20;
/// The most columns of a result.
const MAX_COLUMNS: i32 = 500;
/// The most memory of all queries together, sorted rows included, in bytes.
const HEAP_BYTES: i64 = 512 << 20;
/// The longest pattern of `LIKE` and `GLOB`, in bytes.
const MAX_PATTERN_BYTES: i32 = 256;
/// The longest statement, in bytes.
const MAX_STATEMENT_BYTES: i32 = 1 << 20;
/// How many steps of the engine's machine pass between two looks at the clock.
const STEPS: i32 = 1000;
/// What is read of a value however little room there is, in bytes.
const MIN_CELL_BYTES: usize = 64;
/// How long a writer is waited for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What may be asked about the database itself; the others change the connection or name the server's files.
const PRAGMAS: [&str; 9] = [
    "table_info",
    "table_xinfo",
    "table_list",
    "index_list",
    "index_info",
    "index_xinfo",
    "foreign_key_list",
    "user_version",
    "encoding",
];

/// Functions that reach out of the database.
const REFUSED_FUNCTIONS: [&str; 2] = ["load_extension", "fts3_tokenizer"];

/// A file, and connections to it that wait for a query.
pub(super) struct SqliteFile {
    /// Its name, for the log.
    name: Arc<str>,
    path: PathBuf,
    idle: Arc<Mutex<Vec<Opened>>>,
    turns: Arc<Semaphore>,
}

/// A connection, and the file that it is to: a file that is replaced has another number.
struct Opened {
    connection: Connection,
    file: (u64, u64),
}

impl SqliteFile {
    pub(super) fn new(name: &str, path: PathBuf, connections: u32) -> Self {
        Self { name: name.into(), path, idle: Arc::default(), turns: Arc::new(Semaphore::new(connections as usize)) }
    }

    /// Runs a query.
    ///
    /// # Errors
    /// What [`explain`] makes of the engine's.
    pub(super) async fn query(&self, query: Query, until: Until) -> Result<Table> {
        self.run(until, move |connection| execute(connection, &query)).await
    }

    /// Whether it can be opened.
    ///
    /// # Errors
    /// It cannot.
    pub(super) async fn probe(&self, until: Until) -> Result<()> {
        self.run(until, |_| Ok(())).await
    }

    /// The tables and views.
    ///
    /// # Errors
    /// What [`explain`] makes of the engine's.
    pub(super) async fn schema(&self, until: Until) -> Result<Vec<TableInfo>> {
        self.run(until, |connection| schema(connection).map_err(|error| explain(&error))).await
    }

    /// Works with a connection, on a thread that may wait.
    async fn run<T: Send + 'static>(
        &self,
        until: Until,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let turn = select! {
            turn = self.turns.clone().acquire_owned() => turn.tool_err(ErrorCode::INTERNAL_ERROR)?,
            () = until.cancel.cancelled() => return Err(ToolError::new(ErrorCode::CANCELLED, "the query was cancelled")),
            () = sleep_until(until.deadline.into()) => {
                let message = "no connection to the database came free in time";
                return Err(ToolError::new(ErrorCode::TIMEOUT_ERROR, message));
            }
        };
        let (name, path, idle) = (self.name.clone(), self.path.clone(), self.idle.clone());
        // Who is dropped has no use for the answer.
        let until = Until { cancel: until.cancel.child_token(), ..until };
        let _left = until.cancel.clone().drop_guard();
        let job = spawn_blocking(move || {
            let _turn = turn;
            let warn = |error: &dyn std::error::Error| {
                tracing::warn!(database = &*name, %error, "a database file cannot be opened");
            };
            let found = std::fs::metadata(&path).map_err(|error| {
                warn(&error);
                ToolError::new(ErrorCode::DEPENDENCY_FAILURE, "the database file cannot be opened")
            })?;
            let file = (found.dev(), found.ino());
            let waiting = {
                let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
                idle.retain(|opened| opened.file == file);
                idle.pop()
            };
            let mut opened = match waiting {
                Some(opened) => opened,
                None => Opened {
                    connection: open(&path, until.left()).map_err(|error| {
                        warn(&error);
                        explain(&error)
                    })?,
                    file,
                },
            };
            let _ = opened.connection.busy_timeout(until.left().min(BUSY_TIMEOUT));
            let over = until.clone();
            opened.connection.progress_handler(STEPS, Some(move || over.is_over())).map_err(|error| explain(&error))?;
            let answer = work(&opened.connection);
            let whole = opened.connection.progress_handler(0, None::<fn() -> bool>).is_ok();
            if whole && opened.connection.is_autocommit() {
                idle.lock().unwrap_or_else(PoisonError::into_inner).push(opened);
            }
            match answer {
                Err(_) if until.cancel.is_cancelled() => {
                    Err(ToolError::new(ErrorCode::CANCELLED, "the query was cancelled"))
                }
                answer => answer,
            }
        });
        job.await.tool_err(ErrorCode::INTERNAL_ERROR)?
    }
}

/// Opens the file so that nothing but reading is possible.
fn open(path: &Path, left: Duration) -> rusqlite::Result<Connection> {
    let mut connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(left.min(BUSY_TIMEOUT))?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)?;
    connection.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, MAX_STATEMENT_BYTES)?;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    connection.set_limit(Limit::SQLITE_LIMIT_COLUMN, MAX_COLUMNS)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, MAX_PATTERN_BYTES)?;
    linear_functions(&connection)?;
    // What is sorted must not fill the disk either.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.query_row(&format!("PRAGMA hard_heap_limit = {HEAP_BYTES}"), [], |_| Ok(()))?;
    // Opening looks at nothing: what is no database shows itself now.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    connection.authorizer(Some(authorize))?;
    Ok(connection)
}

/// Functions of the engine whose time grows with the product of two lengths: the progress handler is not asked within a
/// function, so nothing could end them.
fn linear_functions(connection: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    let text = |value: ValueRef<'_>| match value {
        ValueRef::Null => None,
        ValueRef::Integer(value) => Some(value.to_string().into_bytes()),
        // With its point, as the engine writes it.
        ValueRef::Real(value) => Some(format!("{value:?}").into_bytes()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes.to_vec()),
    };
    connection.create_scalar_function("instr", 2, flags, move |context| {
        let (Some(hay), Some(needle)) = (text(context.get_raw(0)), text(context.get_raw(1))) else { return Ok(None) };
        let blobs = [0, 1].iter().all(|index| matches!(context.get_raw(*index), ValueRef::Blob(_)));
        let before = memmem::find(&hay, &needle).map(|at| &hay[..at]);
        // In characters, which begin with a byte that continues none; of blobs in bytes.
        let count =
            |before: &[u8]| if blobs { before.len() } else { before.iter().filter(|b| *b & 0xc0 != 0x80).count() };
        Ok(Some(before.map_or(0, |before| i64::try_from(count(before) + 1).unwrap_or(i64::MAX))))
    })?;
    connection.create_scalar_function("replace", 3, flags, move |context| {
        let parts = [0, 1, 2].map(|index| text(context.get_raw(index)));
        let [Some(hay), Some(needle), Some(with)] = parts else { return Ok(None) };
        let mut out = Vec::new();
        let mut from = 0;
        let found = if needle.is_empty() { None } else { Some(memmem::find_iter(&hay, &needle)) };
        for at in found.into_iter().flatten() {
            out.extend_from_slice(&hay[from..at]);
            out.extend_from_slice(&with);
            from = at + needle.len();
            if out.len() > MAX_VALUE_BYTES.unsigned_abs() as usize {
                return Err(Error::UserFunctionError("string or blob too big".into()));
            }
        }
        out.extend_from_slice(&hay[from..]);
        Ok(Some(String::from_utf8_lossy(&out).into_owned()))
    })
}

/// Judges each thing that a statement would do.
fn authorize(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Function { function_name } => {
            let refused = REFUSED_FUNCTIONS.iter().any(|name| name.eq_ignore_ascii_case(function_name));
            if refused { Authorization::Deny } else { Authorization::Allow }
        }
        // The pragma is what FTS5 asks for before it searches.
        AuthAction::Select
        | AuthAction::Read { .. }
        | AuthAction::Recursive
        | AuthAction::Pragma { pragma_name: "data_version", pragma_value: None } => Authorization::Allow,
        // What an R*Tree prepares and does not do: the file is open for reading.
        AuthAction::Insert { table_name }
        | AuthAction::Delete { table_name }
        | AuthAction::Update { table_name, .. }
            if ["_node", "_rowid", "_parent"].iter().any(|end| table_name.ends_with(end)) =>
        {
            Authorization::Allow
        }
        AuthAction::Pragma { pragma_name, .. } => {
            let allowed = PRAGMAS.iter().any(|name| name.eq_ignore_ascii_case(pragma_name));
            if allowed { Authorization::Allow } else { Authorization::Deny }
        }
        _ => Authorization::Deny,
    }
}

fn execute(connection: &Connection, query: &Query) -> Result<Table> {
    let mut statement = connection.prepare(&query.text).map_err(|error| explain(&error))?;
    bind(&mut statement, query.params.as_ref())?;
    let mut columns: Vec<Column> = statement
        .columns()
        .map(|column| Column {
            name: column.name().to_owned(),
            kind: column.decl_type().unwrap_or_default().to_ascii_uppercase(),
        })
        .collect();
    let count = columns.len();
    let mut rows = statement.raw_query();
    let mut taken = Collector::new(query, Vec::new());
    let mut skip = query.skip;
    while let Some(row) = rows.next().map_err(|error| explain(&error))? {
        if skip > 0 {
            skip -= 1;
            continue;
        }
        let mut cells = Vec::with_capacity(count);
        let mut room = query.max_chars;
        for (index, column) in columns.iter_mut().enumerate() {
            let value = row.get_ref(index).map_err(|error| explain(&error))?;
            if column.kind.is_empty() {
                // An expression has the type that its values have.
                kind(value).clone_into(&mut column.kind);
            }
            let cell = cell(value, room.max(MIN_CELL_BYTES));
            room = room.saturating_sub(cell.size());
            cells.push(cell);
        }
        if !taken.take(cells) {
            break;
        }
    }
    Ok(Table { columns, ..taken.into_table() })
}

/// Gives the statement its parameters: a list by position, an object by name.
fn bind(statement: &mut Statement<'_>, params: Option<&Value>) -> Result<()> {
    let wanted = statement.parameter_count();
    let wrong =
        |expected: String, found: String| ToolError::parameter(ErrorCode::INVALID_INPUT, "params", expected, found);
    match params {
        None if wanted == 0 => {}
        None => return Err(wrong(format!("{wanted} values, for the placeholders of the query"), "none".to_owned())),
        Some(Value::Array(values)) => {
            if values.len() != wanted {
                return Err(wrong(format!("as many values as placeholders, {wanted}"), values.len().to_string()));
            }
            for (index, value) in values.iter().enumerate() {
                statement.raw_bind_parameter(index + 1, Param(value)).map_err(|error| explain(&error))?;
            }
        }
        Some(Value::Object(values)) => {
            for index in 1..=wanted {
                let name = statement.parameter_name(index).map(str::to_owned);
                let Some(name) = name else {
                    return Err(wrong(
                        "a list, since the query has placeholders without a name".to_owned(),
                        "an object".to_owned(),
                    ));
                };
                let bare = name.trim_start_matches([':', '@', '$']);
                let value = values.get(bare).or_else(|| values.get(&name));
                let value = value.ok_or_else(|| wrong(format!("a value for `{bare}`"), "none".to_owned()))?;
                statement.raw_bind_parameter(index, Param(value)).map_err(|error| explain(&error))?;
            }
            if values.len() > wanted {
                return Err(wrong(
                    format!("values for the {wanted} placeholders of the query"),
                    values.len().to_string(),
                ));
            }
        }
        // The tool takes nothing else.
        Some(_) => return Err(wrong("a list or an object".to_owned(), "another value".to_owned())),
    }
    Ok(())
}

/// A parameter; what is neither a number nor a text is bound as its JSON.
struct Param<'a>(&'a Value);

impl rusqlite::ToSql for Param<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.0 {
            Value::Null => ToSqlOutput::Owned(SqlValue::Null),
            Value::Bool(value) => i64::from(*value).into(),
            Value::Number(number) => match number.as_i64() {
                Some(number) => number.into(),
                None => number.as_f64().unwrap_or(f64::NAN).into(),
            },
            Value::String(text) => text.as_str().into(),
            other => other.to_string().into(),
        })
    }
}

fn kind(value: ValueRef<'_>) -> &'static str {
    match value {
        ValueRef::Null => "",
        ValueRef::Integer(_) => "INTEGER",
        ValueRef::Real(_) => "REAL",
        ValueRef::Text(_) => "TEXT",
        ValueRef::Blob(_) => "BLOB",
    }
}

/// A value; of a long one little more than there is room for, which is then shortened like any other.
fn cell(value: ValueRef<'_>, room: usize) -> Cell {
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(value) => Cell::Int(value),
        ValueRef::Real(value) => Cell::Float(value),
        // A character takes at most four bytes.
        ValueRef::Text(text) if text.len() > room * 4 => {
            let begin = String::from_utf8_lossy(&text[..room * 4]).chars().take(room).collect::<String>();
            Cell::Cut(begin, text.len())
        }
        ValueRef::Text(text) => Cell::Text(String::from_utf8_lossy(text).into_owned()),
        // Base64 has four characters for three bytes.
        ValueRef::Blob(bytes) if bytes.len() > room => {
            Cell::Cut(BASE64_STANDARD.encode(&bytes[..room / 4 * 3]), bytes.len())
        }
        ValueRef::Blob(bytes) => Cell::Text(BASE64_STANDARD.encode(bytes)),
    }
}

fn schema(connection: &Connection) -> rusqlite::Result<Vec<TableInfo>> {
    const TABLES: &str = "SELECT name, type FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'view', \
        'virtual') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name";
    const COLUMNS: &str =
        "SELECT name, type, \"notnull\", dflt_value, pk FROM pragma_table_xinfo(?1) WHERE hidden <> 1";
    const KEYS: &str = "SELECT id, \"table\", \"from\", \"to\" FROM pragma_foreign_key_list(?1) ORDER BY id, seq";
    let mut tables = connection.prepare_cached(TABLES)?;
    let mut columns = connection.prepare_cached(COLUMNS)?;
    let mut keys = connection.prepare_cached(KEYS)?;
    let names = tables.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    names
        .map(|table| {
            let (name, kind) = table?;
            let column = |row: &rusqlite::Row<'_>| {
                let primary_key = row.get::<_, i64>(4)? > 0;
                Ok(TableColumn {
                    name: row.get(0)?,
                    kind: row.get::<_, String>(1)?.to_ascii_uppercase(),
                    nullable: !(row.get::<_, bool>(2)? || primary_key),
                    primary_key,
                    default: row.get(3)?,
                    comment: None,
                })
            };
            // A view of what is gone has no columns, and hides no other.
            let described = columns.query_map([&name], column).and_then(Iterator::collect);
            let (columns, comment) = match described {
                Ok(columns) => (columns, None),
                Err(error) => (Vec::new(), Some(format!("cannot be read: {error}"))),
            };
            let mut foreign_keys: Vec<(i64, ForeignKey)> = Vec::new();
            let mut parts = keys.query([&name])?;
            while let Some(row) = parts.next()? {
                let (id, references): (i64, String) = (row.get(0)?, row.get(1)?);
                if foreign_keys.last().is_none_or(|(last, _)| *last != id) {
                    foreign_keys.push((id, ForeignKey { references, ..ForeignKey::default() }));
                }
                if let Some((_, key)) = foreign_keys.last_mut() {
                    key.columns.push(row.get(2)?);
                    // Absent where it is the other table's primary key.
                    key.referenced_columns.extend(row.get::<_, Option<String>>(3)?);
                }
            }
            let kind = if kind == "view" { "view" } else { "table" };
            let foreign_keys = foreign_keys.into_iter().map(|(_, key)| key).collect();
            Ok(TableInfo { name, kind: kind.to_owned(), comment, columns, foreign_keys })
        })
        .collect()
}

/// What an error of the engine means to the caller.
fn explain(error: &Error) -> ToolError {
    let query = |found: String| {
        ToolError::parameter(ErrorCode::INVALID_INPUT, "query", "a statement that SQLite can run", found)
    };
    match error.sqlite_error_code() {
        Some(Sqlite::OperationInterrupted) => {
            ToolError::new(ErrorCode::TIMEOUT_ERROR, "the query takes longer than it may")
        }
        Some(Sqlite::ReadOnly)
            if error.sqlite_error().is_some_and(|error| error.extended_code & 0xff != error.extended_code) =>
        {
            // A writer has crashed, and only another writer can mend that.
            ToolError::new(ErrorCode::DEPENDENCY_FAILURE, "the database has to be mended by a writer first")
        }
        Some(Sqlite::AuthorizationForStatementDenied | Sqlite::ReadOnly) => {
            let message = "the database can only be read: a SELECT is expected";
            ToolError::new(ErrorCode::PERMISSION_DENIED, message).with_reason("read_only")
        }
        Some(Sqlite::DatabaseBusy | Sqlite::DatabaseLocked) => {
            ToolError::new(ErrorCode::DEPENDENCY_FAILURE, "the database is busy with a writer").with_reason("busy")
        }
        Some(Sqlite::NotADatabase | Sqlite::DatabaseCorrupt | Sqlite::CannotOpen | Sqlite::SystemIoFailure) => {
            ToolError::new(ErrorCode::DEPENDENCY_FAILURE, "the database file cannot be read")
        }
        _ => match error {
            Error::SqlInputError { msg, .. } if msg.starts_with("not authorized") => {
                ToolError::new(ErrorCode::PERMISSION_DENIED, msg.clone()).with_reason("read_only")
            }
            Error::SqlInputError { msg, offset, .. } if *offset >= 0 => query(format!("{msg}, at byte {offset}")),
            Error::SqlInputError { msg, .. } | Error::SqliteFailure(_, Some(msg)) => query(msg.clone()),
            Error::MultipleStatement => query("several statements; send them one by one".to_owned()),
            other => query(other.to_string()),
        },
    }
}
