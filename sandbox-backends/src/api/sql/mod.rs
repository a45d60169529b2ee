//! `sql`: reads databases.
//!
//! A shared backend, on when `apis.text2sql` is there. That nothing is written is the engines' doing (`sqlite.rs`,
//! `postgres.rs`): the text of a query is never judged.

mod cell;
mod config;
mod postgres;
mod schema;
mod sqlite;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

pub use cell::Column;
use cell::{Cell, Query, Until};
use config::Source;
pub use config::SqlConfig;
use futures_util::future::join_all;
use postgres::PostgresDatabase;
use sandbox_runtime::prelude::*;
pub use schema::{ForeignKey, TableColumn, TableInfo};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sqlite::SqliteFile;

use super::{
    budget,
    names::{nearest, quotable},
};

/// What a call keeps back to answer in time.
const ANSWER_MARGIN: Duration = Duration::from_millis(500);

/// How long a file is looked at when the server starts.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// The backend.
pub struct SqlBackend {
    config: SqlConfig,
}

/// The databases by name.
pub struct Databases(BTreeMap<String, Database>);

enum Database {
    Sqlite(SqliteFile),
    Postgres(PostgresDatabase),
}

/// The language of a database.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// SQLite.
    Sqlite,
    /// PostgreSQL.
    Postgresql,
}

/// What `sql:list_databases` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DatabaseList {
    /// The databases, by name.
    databases: Vec<DatabaseInfo>,
}

/// A database.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DatabaseInfo {
    /// Its name, for `db`.
    name: String,
    /// Which SQL it understands.
    dialect: Dialect,
}

/// What `sql:get_schema` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SchemaPart {
    /// The database.
    db: String,
    /// Which SQL it understands.
    dialect: Dialect,
    /// Its tables and views, by name.
    tables: Vec<TableInfo>,
    /// Whether there are tables for which `max_chars` had no room.
    truncated: bool,
    /// Where the others begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// What `sql:execute` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct QueryResult {
    /// The columns, in their order.
    columns: Vec<Column>,
    /// The rows, each a list of values in the order of the columns. Times are texts, `BLOB` of SQLite is base64, `bytea`
    /// of PostgreSQL hexadecimal; a number that JSON has no word for, such as infinity, is a text.
    #[schemars(with = "Vec<Vec<Value>>")]
    rows: Vec<Vec<Cell>>,
    /// How many rows these are.
    row_count: usize,
    /// Whether the result has more than these: rows that `next_cursor` fetches, or the end of a long value, which says so.
    truncated: bool,
    /// Where the other rows begin. The query runs again for them: give it an `ORDER BY`.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// Values for placeholders.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Params {
    /// By position.
    List(Vec<Value>),
    /// By name.
    Named(Map<String, Value>),
}

impl Params {
    fn into_value(self) -> Value {
        match self {
            Self::List(values) => values.into(),
            Self::Named(values) => values.into(),
        }
    }
}

/// Reads databases with SQL.
#[backend(name = "sql", config = "apis.text2sql")]
impl SqlBackend {
    fn new(config: SqlConfig) -> Result<Self> {
        Ok(Self { config })
    }

    async fn warmup(&self, resource: &ResourceContext) -> Result<Databases> {
        let SqlConfig { connections, allow_superuser, .. } = self.config;
        let open = |(name, source): (&String, &Source)| {
            let database = match source {
                Source::Sqlite(path) => Database::Sqlite(SqliteFile::new(name, path.clone(), connections)),
                Source::Postgres(config) => {
                    Database::Postgres(PostgresDatabase::new(name, config, connections, allow_superuser)?)
                }
            };
            Ok((name.clone(), database))
        };
        let databases: BTreeMap<String, Database> = self.config.databases.iter().map(open).collect::<Result<_>>()?;
        // One that is away now may come back: it is said, and stops nothing.
        let states = join_all(databases.iter().map(async |(name, database)| {
            let state = match database.probe().await {
                Ok(()) => "ready".to_owned(),
                Err(error) => error.message().to_owned(),
            };
            (name.clone(), state)
        }));
        resource.set_facts(json!({ "databases": states.await.into_iter().collect::<BTreeMap<_, _>>() }));
        Ok(Databases(databases))
    }

    async fn shutdown(&self, databases: Databases) -> Result<()> {
        for database in databases.0.values() {
            if let Database::Postgres(database) = database {
                database.close();
            }
        }
        Ok(())
    }

    /// List the databases that can be queried, with the SQL dialect of each.
    #[tool(read_only, idempotent, alias = ["text2sql:list_databases"])]
    async fn list_databases(&self, databases: &Databases) -> Result<DatabaseList> {
        let info =
            |(name, database): (&String, &Database)| DatabaseInfo { name: name.clone(), dialect: database.dialect() };
        Ok(DatabaseList { databases: databases.0.iter().map(info).collect() })
    }

    /// Describe the tables and views of a database: columns with their types, primary and foreign keys. Look here before
    /// writing a query.
    #[tool(read_only, idempotent, alias = ["text2sql:get_schema"])]
    async fn get_schema(
        &self,
        databases: &Databases,
        context: &ToolContext,
        /// The database, by its name in `sql:list_databases`.
        #[serde(alias = "db_id")]
        db: String,
        /// Only these tables; all by default.
        #[serde(alias = "table_names")]
        tables: Option<Vec<String>>,
        /// Most characters of the answer.
        #[default = 40_000]
        #[schemars(range(min = 1, max = 2_000_000))]
        max_chars: u32,
        /// `next_cursor` of an answer to the same request, for the tables for which it had no room.
        cursor: Option<String>,
    ) -> Result<SchemaPart> {
        let database = databases.get(&db)?;
        let until = self.until(context, None);
        let mut found = match database {
            Database::Sqlite(file) => file.schema(until).await?,
            Database::Postgres(database) => database.schema(context, until).await?,
        };
        if let Some(wanted) = tables {
            for name in &wanted {
                if !found.iter().any(|table| is_called(table, name)) {
                    let message = format!("database `{db}` has no table `{}`", quotable(name));
                    let names = nearest(name, found.iter().map(|table| table.name.as_str()));
                    return Err(ToolError::new(ErrorCode::NO_RESULTS_FOUND, message).with_candidates(names));
                }
            }
            found.retain(|table| wanted.iter().any(|name| is_called(table, name)));
        }
        let print = budget::fingerprint(&format!("{db}\0{found:?}"));
        let part = budget::list(&found, &print, (usize::MAX, max_chars as usize), cursor.as_deref(), TableInfo::size)?;
        let truncated = part.next.is_some();
        Ok(SchemaPart { db, dialect: database.dialect(), tables: part.items, truncated, next_cursor: part.next })
    }

    /// Run a query and answer its rows. Databases can only be read: one SELECT (or WITH, VALUES, EXPLAIN) at a time. Write
    /// values that come from elsewhere as `params`, not into the query.
    #[tool(read_only, idempotent, timeout = "10m", alias = ["text2sql:execute"])]
    async fn execute(
        &self,
        databases: &Databases,
        context: &ToolContext,
        /// The database, by its name in `sql:list_databases`.
        #[serde(alias = "db_id")]
        db: String,
        /// One statement, in the dialect of the database.
        #[schemars(length(min = 1))]
        query: String,
        /// Values for the query's placeholders: a list for `?` of SQLite or `$1` of PostgreSQL, or with SQLite an object for
        /// `:name`.
        params: Option<Params>,
        /// Most rows; the server's own setting by default.
        #[schemars(range(min = 1, max = 10_000))]
        max_rows: Option<u32>,
        /// After this time the query is ended, in milliseconds; the server's own setting by default.
        #[schemars(range(min = 1))]
        timeout_ms: Option<u64>,
        /// Most characters of the rows together.
        #[default = 40_000]
        #[schemars(range(min = 1, max = 2_000_000))]
        max_chars: u32,
        /// `next_cursor` of an answer to the same query, for the rows after it.
        cursor: Option<String>,
    ) -> Result<QueryResult> {
        let database = databases.get(&db)?;
        let params = params.map(Params::into_value);
        let print = budget::fingerprint(&format!("{db}\0{query}\0{}", params.as_ref().unwrap_or(&Value::Null)));
        let skip = match cursor.as_deref() {
            None => 0,
            Some(cursor) => budget::offset(cursor, &print)?,
        };
        let max_rows = max_rows.unwrap_or(self.config.max_rows) as usize;
        let query = Query { text: query, params, skip, max_rows, max_chars: max_chars as usize };
        let until = self.until(context, timeout_ms);
        let table = match database {
            Database::Sqlite(file) => file.query(query, until).await?,
            Database::Postgres(database) => database.query(context, query, until).await?,
        };
        let row_count = table.rows.len();
        let next_cursor = table.more.then(|| format!("{print}.{}", skip + row_count));
        let truncated = table.more || table.shortened;
        Ok(QueryResult { columns: table.columns, rows: table.rows, row_count, truncated, next_cursor })
    }
}

impl SqlBackend {
    /// When a query must be over: in time for the call's answer.
    fn until(&self, context: &ToolContext, timeout_ms: Option<u64>) -> Until {
        let asked = timeout_ms.map_or(Duration::from_secs_f64(self.config.timeout_seconds), Duration::from_millis);
        let call = context.deadline().into_std().saturating_duration_since(Instant::now());
        let left = call.saturating_sub(ANSWER_MARGIN).max(call / 2);
        Until { deadline: Instant::now() + asked.min(left), cancel: context.cancellation().clone() }
    }
}

impl Databases {
    fn get(&self, name: &str) -> Result<&Database> {
        self.0.get(name).ok_or_else(|| {
            let message = format!("there is no database `{}`; `sql:list_databases` names them", quotable(name));
            let names = nearest(name, self.0.keys().map(String::as_str));
            ToolError::new(ErrorCode::NO_RESULTS_FOUND, message).with_candidates(names)
        })
    }
}

impl Database {
    /// Whether it can be read now.
    async fn probe(&self) -> Result<()> {
        match self {
            Self::Sqlite(file) => {
                let until = Until { deadline: Instant::now() + PROBE_LIMIT, cancel: CancellationToken::new() };
                file.probe(until).await
            }
            Self::Postgres(database) => database.probe().await,
        }
    }

    fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgresql,
        }
    }
}

/// Whether a table is meant by a name, with or without quotes and the schema `public`.
fn is_called(table: &TableInfo, name: &str) -> bool {
    let bare = |name: &str| name.trim_start_matches("public.").replace('"', "");
    bare(&table.name).eq_ignore_ascii_case(&bare(name))
}
