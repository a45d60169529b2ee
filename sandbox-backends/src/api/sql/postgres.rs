//! PostgreSQL databases. Only reading is possible: each query runs in a transaction of its own that the engine keeps
//! read-only, under a time limit that the engine keeps too, and as a role that a transaction can bind.

use std::{error::Error as _, fmt::Write as _, pin::pin, sync::Arc, time::Duration};

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, Timeouts,
};
use futures_util::{TryStreamExt, future::join};
use rustls::ClientConfig;
use sandbox_runtime::prelude::*;
use serde_json::{Value, value::RawValue};
use tokio::{
    select,
    sync::oneshot,
    time::{sleep, timeout},
};
use tokio_postgres::{
    Config, Error, Row, SimpleQueryMessage, Statement,
    config::SslMode,
    error::SqlState,
    types::{Format, FromSql, IsNull, ToSql, Type, private::BytesMut},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    cell::{Cell, Collector, Column, Query, Table, Until},
    schema::TableInfo,
};
use crate::tls::{self, TLS};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What the engine is given beyond the time limit before its connection is closed.
const GRACE: Duration = Duration::from_secs(2);
/// How long a connection may take to be ready for the next query.
const DRAIN: Duration = Duration::from_millis(500);

/// Ends a transaction, and with it what a query may have left behind in its connection: settings, listeners, cursors,
/// temporary tables; locks of the session too. Then asks for what is left all the same: statements that it has prepared.
const TIDY: &str =
    "ROLLBACK; SELECT pg_advisory_unlock_all(); SELECT count(*) FROM pg_prepared_statements WHERE from_sql";

/// Whether the role is, or can become, one that can do more than a transaction can forbid.
const CAN_LEAVE: &str = "SELECT EXISTS (SELECT FROM pg_roles p WHERE (p.rolsuper OR p.rolname IN \
    ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files')) \
    AND (pg_has_role(session_user, p.oid, 'member') OR pg_has_role(current_user, p.oid, 'member')))";

/// The reason that the pool gives for such a role.
const REFUSED_ROLE: &str = "role";

/// Every table and view that the role may read, with their parts as JSON.
const SCHEMA: &str = "SELECT CASE WHEN n.nspname = 'public' THEN '' ELSE quote_ident(n.nspname) || '.' END || \
    quote_ident(c.relname), CASE WHEN c.relkind IN ('v', 'm') THEN 'view' ELSE 'table' END, \
    obj_description(c.oid, 'pg_class'), \
    (SELECT coalesce(json_agg(json_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), \
        'nullable', NOT a.attnotnull, 'primary_key', coalesce(a.attnum = ANY (k.conkey), false), \
        'default', pg_get_expr(d.adbin, d.adrelid), 'comment', col_description(c.oid, a.attnum)) ORDER BY a.attnum), '[]') \
        FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)::text, \
    (SELECT coalesce(json_agg(json_build_object( \
        'columns', (SELECT json_agg(a.attname ORDER BY o) FROM unnest(f.conkey) WITH ORDINALITY u(n, o) \
            JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = u.n), \
        'references', f.confrelid::regclass::text, \
        'referenced_columns', (SELECT json_agg(a.attname ORDER BY o) FROM unnest(f.confkey) WITH ORDINALITY u(n, o) \
            JOIN pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = u.n)) ORDER BY f.conname), '[]') \
        FROM pg_constraint f WHERE f.conrelid = c.oid AND f.contype = 'f')::text \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    LEFT JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype = 'p' \
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition \
    AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)' \
    AND (has_table_privilege(c.oid, 'SELECT') OR has_any_column_privilege(c.oid, 'SELECT')) ORDER BY n.nspname, c.relname";

/// A database and connections to it, which the runtime that outlives calls drives.
#[derive(Clone)]
pub(super) struct PostgresDatabase {
    /// Its name, for the log.
    name: Arc<str>,
    pool: Pool,
    tls: MakeRustlsConnect,
}

/// What is asked of a database.
enum Ask {
    Rows(Query),
    Schema,
}

/// What came.
enum Came {
    Rows(Table),
    Schema(Vec<TableInfo>),
}

impl PostgresDatabase {
    pub(super) fn new(name: &str, config: &Config, connections: u32, allow_superuser: bool) -> Result<Self> {
        let mut config = config.clone();
        config.connect_timeout(CONNECT_TIMEOUT).application_name("sandbox");
        let tls = MakeRustlsConnect::new(tls_for(config.get_ssl_mode())?);
        let manager_config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(config, tls.clone(), manager_config);
        let mut builder = Pool::builder(manager).max_size(connections as usize).runtime(Runtime::Tokio1);
        if !allow_superuser {
            let check = Hook::async_fn(|client, _| {
                Box::pin(async move {
                    let row = client.query_one(CAN_LEAVE, &[]).await.map_err(HookError::Backend)?;
                    if row.get(0) { Err(HookError::message(REFUSED_ROLE)) } else { Ok(()) }
                })
            });
            builder = builder.post_create(check);
        }
        let pool = builder.build().tool_err(ErrorCode::INTERNAL_ERROR)?;
        Ok(Self { name: name.into(), pool, tls })
    }

    /// Whether there is a connection; on the runtime that is to drive it.
    ///
    /// # Errors
    /// There is none.
    pub(super) async fn probe(&self) -> Result<()> {
        let limit = Some(CONNECT_TIMEOUT);
        let timeouts = Timeouts { wait: limit, create: limit, recycle: limit };
        self.pool.timeout_get(&timeouts).await.map(drop).map_err(|error| no_connection(&self.name, &error))
    }

    /// Closes its connections.
    pub(super) fn close(&self) {
        self.pool.close();
    }

    /// Runs a query.
    ///
    /// # Errors
    /// What [`explain`] makes of the engine's.
    pub(super) async fn query(&self, context: &ToolContext, query: Query, until: Until) -> Result<Table> {
        match self.ask(context, Ask::Rows(query), until).await? {
            Came::Rows(table) => Ok(table),
            Came::Schema(_) => Err(ended()),
        }
    }

    /// The tables and views.
    ///
    /// # Errors
    /// What [`explain`] makes of the engine's.
    pub(super) async fn schema(&self, context: &ToolContext, until: Until) -> Result<Vec<TableInfo>> {
        match self.ask(context, Ask::Schema, until).await? {
            Came::Schema(tables) => Ok(tables),
            Came::Rows(_) => Err(ended()),
        }
    }

    /// Hands the work to the runtime that drives the connections. The answer does not wait for what is tidied after it.
    async fn ask(&self, context: &ToolContext, ask: Ask, until: Until) -> Result<Came> {
        let (answer, answered) = oneshot::channel();
        let until = Until { cancel: until.cancel.child_token(), ..until };
        // Who is dropped has no use for the answer.
        let _left = until.cancel.clone().drop_guard();
        let this = self.clone();
        context.spawn(async move { this.work(ask, until, answer).await });
        answered.await.unwrap_or_else(|_| Err(ended()))
    }

    async fn work(self, ask: Ask, until: Until, answer: oneshot::Sender<Result<Came>>) {
        let timeouts = Timeouts {
            wait: Some(until.left()),
            create: Some(until.left().min(CONNECT_TIMEOUT)),
            recycle: Some(until.left()),
        };
        let client = select! {
            client = self.pool.timeout_get(&timeouts) => client,
            () = until.cancel.cancelled() => return drop(answer.send(Err(cancelled()))),
        };
        let client = match client {
            Ok(client) => client,
            Err(error) => return drop(answer.send(Err(no_connection(&self.name, &error)))),
        };
        let token = client.cancel_token();
        let result = select! {
            result = run(&client, &ask, until.left()) => result.map_err(|error| explain(&error)),
            () = until.cancel.cancelled() => Err((cancelled(), false)),
            () = sleep(until.left() + GRACE) => Err((too_slow(), false)),
        };
        let (result, whole) = match result {
            Ok(came) => (Ok(came), true),
            Err((error, whole)) => (Err(error), whole),
        };
        let _ = answer.send(result);
        // Rows that nobody wanted are still coming, from a query that found more than was asked for; not for long.
        if !(whole && timeout(DRAIN, tidy(&client)).await.unwrap_or(false)) {
            // Not for the next: something may still be running in it.
            drop(Object::take(client));
            let _ = timeout(CONNECT_TIMEOUT, token.cancel_query(self.tls)).await;
        }
    }
}

/// Whether the connection is as it was.
async fn tidy(client: &Object) -> bool {
    let Ok(answers) = client.simple_query(TIDY).await else { return false };
    let last = answers.iter().rev().find_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    last == Some("0")
}

/// Asks within a transaction of its own, which [`TIDY`] ends.
async fn run(client: &Object, ask: &Ask, limit: Duration) -> Result<Came, Failure> {
    // A transaction can be made to write as long as it has read nothing; from here on it cannot. The statement goes out
    // together with that, since each way to the server and back counts.
    let limit = limit.as_millis().clamp(1, i32::MAX as u128);
    let begin = format!("BEGIN READ ONLY; SELECT set_config('statement_timeout', '{limit}', true)");
    let text = match ask {
        Ask::Rows(query) => query.text.as_str(),
        Ask::Schema => SCHEMA,
    };
    let (started, statement) = join(client.batch_execute(&begin), client.prepare(text)).await;
    started?;
    let statement = statement?;
    match ask {
        Ask::Rows(query) => Ok(Came::Rows(rows(client, statement, query).await?)),
        Ask::Schema => {
            let tables = client.query(&statement, &[]).await?;
            Ok(Came::Schema(tables.iter().map(table).collect::<Result<_, _>>()?))
        }
    }
}

fn table(row: &Row) -> Result<TableInfo, Failure> {
    let json = |index: usize| row.try_get::<_, &str>(index);
    let parsed = |error: serde_json::Error| Failure::Unreadable(error.to_string());
    Ok(TableInfo {
        name: row.try_get(0)?,
        kind: row.try_get(1)?,
        comment: row.try_get(2)?,
        columns: serde_json::from_str(json(3)?).map_err(parsed)?,
        foreign_keys: serde_json::from_str(json(4)?).map_err(parsed)?,
    })
}

/// The rows of a statement, as far as they are wanted.
async fn rows(client: &Object, statement: Statement, query: &Query) -> Result<Table, Failure> {
    // What answers no rows reads nothing: it would change the session, or the data.
    if statement.columns().is_empty() {
        let message = "a statement that answers rows is expected, such as a SELECT: the database can only be read";
        return Err(Failure::Tool(ToolError::new(ErrorCode::PERMISSION_DENIED, message).with_reason("read_only")));
    }
    let columns: Vec<Column> = statement
        .columns()
        .iter()
        .map(|column| Column { name: column.name().to_owned(), kind: column.type_().name().to_owned() })
        .collect();
    let params = params(&statement, query.params.as_ref())?;
    let statement = if statement.columns().iter().all(|column| is_plain(column.type_())) {
        statement
    } else {
        let wrapped = client.prepare(&as_json(&query.text, statement.columns())).await;
        wrapped.map_err(|error| Failure::cannot_be_shown(error, &columns))?
    };
    let mut stream = pin!(client.query_raw(&statement, params).await?);
    let mut taken = Collector::new(query, columns);
    let mut skip = query.skip;
    // What follows the last row that is wanted is not waited for: see `work`.
    while let Some(row) = stream.try_next().await? {
        if skip > 0 {
            skip -= 1;
        } else if !taken.take(cells(&row)?) {
            break;
        }
    }
    Ok(taken.into_table())
}

/// Types whose values are read as they come.
fn is_plain(kind: &Type) -> bool {
    is_text(kind)
        || [
            Type::BOOL,
            Type::INT2,
            Type::INT4,
            Type::INT8,
            Type::OID,
            Type::FLOAT4,
            Type::FLOAT8,
            Type::JSON,
            Type::JSONB,
        ]
        .contains(kind)
}

fn is_text(kind: &Type) -> bool {
    [Type::TEXT, Type::VARCHAR, Type::BPCHAR, Type::NAME, Type::UNKNOWN, Type::XML].contains(kind)
}

/// The query with every column of another type written as JSON by the engine, which knows them all: numbers of any size,
/// times as ISO 8601 has them, arrays, records, ranges.
fn as_json(query: &str, columns: &[tokio_postgres::Column]) -> String {
    let mut shown = String::new();
    let mut names = String::new();
    for (index, column) in columns.iter().enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        let name = if is_plain(column.type_()) { format!("c{index}") } else { format!("to_jsonb(c{index})") };
        let _ = write!(shown, "{comma}{name}");
        let _ = write!(names, "{comma}c{index}");
    }
    // A comment at the end of the query ends with its line.
    let query = query.trim_end_matches(|c: char| c.is_whitespace() || c == ';');
    format!("SELECT {shown} FROM (\n{query}\n) AS q({names})")
}

fn cells(row: &Row) -> Result<Vec<Cell>, Error> {
    row.columns()
        .iter()
        .enumerate()
        .map(|(index, column)| {
            let kind = column.type_();
            Ok(match *kind {
                Type::BOOL => row.try_get::<_, Option<bool>>(index)?.map(Cell::Bool),
                Type::INT2 => row.try_get::<_, Option<i16>>(index)?.map(|value| Cell::Int(value.into())),
                Type::INT4 => row.try_get::<_, Option<i32>>(index)?.map(|value| Cell::Int(value.into())),
                Type::INT8 => row.try_get::<_, Option<i64>>(index)?.map(Cell::Int),
                Type::OID => row.try_get::<_, Option<u32>>(index)?.map(|value| Cell::Int(value.into())),
                // By way of its text, so that it does not grow digits.
                Type::FLOAT4 => row
                    .try_get::<_, Option<f32>>(index)?
                    .map(|value| Cell::Float(value.to_string().parse().unwrap_or_else(|_| value.into()))),
                Type::FLOAT8 => row.try_get::<_, Option<f64>>(index)?.map(Cell::Float),
                Type::JSON | Type::JSONB => row.try_get::<_, Option<Json>>(index)?.map(|json| Cell::Json(json.0)),
                _ => row.try_get::<_, Option<Text>>(index)?.map(|text| Cell::Text(text.0)),
            }
            .unwrap_or(Cell::Null))
        })
        .collect()
}

/// JSON as it is written.
struct Json(Box<RawValue>);

impl<'a> FromSql<'a> for Json {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        // `jsonb` has its version in front.
        let text = if *kind == Type::JSONB { raw.get(1..).unwrap_or_default() } else { raw };
        Ok(Self(RawValue::from_string(std::str::from_utf8(text)?.to_owned())?))
    }

    fn accepts(kind: &Type) -> bool {
        [Type::JSON, Type::JSONB].contains(kind)
    }
}

/// Text of any type whose binary form is its text.
struct Text(String);

impl<'a> FromSql<'a> for Text {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(std::str::from_utf8(raw)?.to_owned()))
    }

    fn accepts(kind: &Type) -> bool {
        is_text(kind)
    }
}

/// A parameter, sent as text, which the engine reads as whatever type it expects there.
#[derive(Debug)]
struct Param(Option<String>);

impl ToSql for Param {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match &self.0 {
            None => Ok(IsNull::Yes),
            Some(text) => {
                out.extend_from_slice(text.as_bytes());
                Ok(IsNull::No)
            }
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    tokio_postgres::types::to_sql_checked!();
}

fn params(statement: &Statement, params: Option<&Value>) -> Result<Vec<Param>, Failure> {
    let kinds = statement.params();
    let wrong = |expected: String, found: &str| {
        Failure::Tool(ToolError::parameter(ErrorCode::INVALID_INPUT, "params", expected, found))
    };
    let values = match params {
        None => &[][..],
        Some(Value::Array(values)) => values.as_slice(),
        Some(_) => return Err(wrong("a list, for the placeholders $1, $2 ..".to_owned(), "an object")),
    };
    if values.len() != kinds.len() {
        return Err(wrong(format!("as many values as placeholders, {}", kinds.len()), &values.len().to_string()));
    }
    Ok(values.iter().zip(kinds).map(|(value, kind)| Param(param(value, kind))).collect())
}

/// A value as the engine reads it.
fn param(value: &Value, kind: &Type) -> Option<String> {
    let json = [Type::JSON, Type::JSONB].contains(kind);
    match value {
        Value::Null => None,
        Value::String(text) if !json => Some(text.clone()),
        Value::Array(items) if !json => Some(array(items)),
        other => Some(other.to_string()),
    }
}

/// An array as the engine reads it: <https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO>.
fn array(items: &[Value]) -> String {
    let mut text = "{".to_owned();
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        match item {
            Value::Null => text.push_str("NULL"),
            Value::Array(inner) => text.push_str(&array(inner)),
            other => {
                let plain = other.as_str().map_or_else(|| other.to_string(), str::to_owned);
                let _ = write!(text, "\"{}\"", plain.replace('\\', "\\\\").replace('"', "\\\""));
            }
        }
    }
    text.push('}');
    text
}

/// Why a query failed.
enum Failure {
    Engine(Error),
    Tool(ToolError),
    Unreadable(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl Failure {
    /// The query runs, but not within the one that writes its columns as JSON.
    fn cannot_be_shown(error: Error, columns: &[Column]) -> Self {
        if error.as_db_error().is_none() {
            return Self::Engine(error);
        }
        let expected = "a query whose columns can be shown: a single SELECT, or columns cast to text";
        let kinds: Vec<_> = columns.iter().map(|column| format!("{} {}", column.name, column.kind)).collect();
        Self::Tool(ToolError::parameter(ErrorCode::INVALID_INPUT, "query", expected, kinds.join(", ")))
    }
}

/// What a failure means to the caller, and whether the connection is whole.
fn explain(failure: &Failure) -> (ToolError, bool) {
    let error = match failure {
        Failure::Tool(error) => return (error.clone(), true),
        Failure::Unreadable(why) => {
            tracing::error!(why, "the schema of a database cannot be read");
            return (ToolError::new(ErrorCode::INTERNAL_ERROR, "the schema cannot be read"), true);
        }
        Failure::Engine(error) => error,
    };
    let Some(database) = error.as_db_error() else {
        tracing::warn!(%error, "a connection to a database broke");
        let message = "the connection to the database broke, or the statement is none that answers rows";
        return (ToolError::new(ErrorCode::DEPENDENCY_FAILURE, message), false);
    };
    let state = database.code();
    if *state == SqlState::QUERY_CANCELED {
        return (too_slow(), true);
    }
    let denied = |message: String, reason| ToolError::new(ErrorCode::PERMISSION_DENIED, message).with_reason(reason);
    // As a transaction that has begun to read answers whoever asks it to write.
    if [SqlState::READ_ONLY_SQL_TRANSACTION, SqlState::ACTIVE_SQL_TRANSACTION].contains(state) {
        return (denied("the database can only be read: a SELECT is expected".to_owned(), "read_only"), true);
    }
    if *state == SqlState::INSUFFICIENT_PRIVILEGE {
        return (denied(database.message().to_owned(), "privilege"), true);
    }
    let class = &state.code()[..2];
    let mut found = database.message().to_owned();
    if let Some(tokio_postgres::error::ErrorPosition::Original(position)) = database.position() {
        let _ = write!(found, ", at character {position}");
    }
    if let Some(more) = database.hint().or(database.detail()) {
        let _ = write!(found, " ({more})");
    }
    match class {
        // Connection, resources, shut down, of the system.
        "08" | "53" | "57" | "58" | "XX" => {
            tracing::warn!(%error, "a database failed");
            (
                ToolError::new(ErrorCode::DEPENDENCY_FAILURE, format!("the database failed: {}", database.message())),
                false,
            )
        }
        // A prepared statement that the driver counted on is gone, or not its own.
        _ if *state == SqlState::DUPLICATE_PSTATEMENT || class == "26" => {
            (ToolError::new(ErrorCode::DEPENDENCY_FAILURE, "the connection has lost its statements"), false)
        }
        _ => {
            let expected = "a statement that PostgreSQL can run";
            (ToolError::parameter(ErrorCode::INVALID_INPUT, "query", expected, found), true)
        }
    }
}

/// Why there is no connection; nothing of where it would go.
fn no_connection(database: &str, error: &PoolError) -> ToolError {
    let failed = |why: &str| ToolError::new(ErrorCode::DEPENDENCY_FAILURE, format!("the database {why}"));
    match error {
        PoolError::Timeout(deadpool_postgres::TimeoutType::Wait) => {
            ToolError::new(ErrorCode::TIMEOUT_ERROR, "no connection to the database came free in time")
        }
        PoolError::Timeout(_) => failed("does not answer"),
        PoolError::Closed => failed("is closed"),
        PoolError::PostCreateHook(HookError::Message(message)) if message == REFUSED_ROLE => {
            let message = "the database is configured with a role that could start programs on its host: give it one that is \
                           no superuser, or set `apis.text2sql.allow_superuser`";
            ToolError::new(ErrorCode::PERMISSION_DENIED, message).with_reason("superuser")
        }
        PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
            tracing::warn!(database, %error, cause = error.source().map(tracing::field::display), "no connection to a database");
            match error.code().map(|state| &state.code()[..2]) {
                Some("28") => failed("refuses the user or the password"),
                Some("3D") => failed("server has no database of that name"),
                Some("53" | "57") => failed("takes no connection now"),
                _ => failed("cannot be reached"),
            }
        }
        other => {
            tracing::warn!(database, error = %other, "no connection to a database");
            failed("cannot be reached")
        }
    }
}

fn cancelled() -> ToolError {
    ToolError::new(ErrorCode::CANCELLED, "the query was cancelled")
}

fn too_slow() -> ToolError {
    ToolError::new(ErrorCode::TIMEOUT_ERROR, "the query takes longer than it may")
}

fn ended() -> ToolError {
    ToolError::new(ErrorCode::INTERNAL_ERROR, "the query was ended")
}

/// TLS as the URL asks for it.
fn tls_for(mode: SslMode) -> Result<ClientConfig> {
    // Whoever accepts a connection in the clear gains nothing by refusing one whose certificate nobody vouches for.
    let config = if mode == SslMode::Require { TLS.clone() } else { tls::unverified() };
    config.map_err(|_| ToolError::new(ErrorCode::INTERNAL_ERROR, "the TLS library refuses to start"))
}
