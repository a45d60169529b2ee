//! `apis.text2sql`.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::api::bounds::within;

/// Which databases may be read, and how much of them at once.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SqlConfig {
    /// The databases by name: the path of an SQLite file (a relative one is
    /// relative to where the server was started), or a URL `postgres://user:password@host:5432/database`. With
    /// `sslmode=require` the server must have a valid certificate; otherwise the connection is encrypted if it can be.
    #[schemars(with = "BTreeMap<String, String>")]
    pub(super) databases: BTreeMap<String, Source>,
    /// Rows of an answer whose request does not say how many.
    #[schemars(range(min = 1, max = 10_000))]
    #[serde(deserialize_with = "within::<_, 1, 10_000>")]
    pub(super) max_rows: u32,
    /// Seconds for a query that does not say how long; above 0.
    #[serde(deserialize_with = "seconds")]
    #[schemars(range(min = 0.001))]
    pub(super) timeout_seconds: f64,
    /// Connections to each database; further queries wait.
    #[schemars(range(min = 1))]
    #[serde(deserialize_with = "within::<_, 1, { u32::MAX }>")]
    pub(super) connections: u32,
    /// Whether a PostgreSQL role that can do more than a transaction can forbid is accepted: a superuser, or a member of
    /// `pg_execute_server_program`, `pg_read_server_files` or `pg_write_server_files`, starts programs and reads files of the
    /// database's host also when it can write nothing.
    pub(super) allow_superuser: bool,
}

impl Default for SqlConfig {
    fn default() -> Self {
        Self {
            databases: BTreeMap::new(),
            max_rows: MAX_ROWS_BY_DEFAULT,
            timeout_seconds: 30.0,
            connections: 8,
            allow_superuser: false,
        }
    }
}

const MAX_ROWS_BY_DEFAULT: u32 = 200;

/// Where a database is.
#[derive(Clone)]
pub(super) enum Source {
    Sqlite(PathBuf),
    Postgres(Box<tokio_postgres::Config>),
}

/// Without the URL, which may hold a password.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite(_) => "Sqlite(..)",
            Self::Postgres(_) => "Postgres(..)",
        })
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            let expected = "expected a URL such as postgres://user:password@host:5432/database";
            return text.parse().map(|config| Self::Postgres(Box::new(config))).map_err(|_| D::Error::custom(expected));
        }
        // `sqlite:///shop.db` is relative, and with one slash more absolute, as SQLAlchemy has it.
        let path = text.strip_prefix("sqlite:///").or_else(|| text.strip_prefix("sqlite:")).unwrap_or(&text);
        if path.is_empty() || path.contains("://") {
            return Err(D::Error::custom("expected the path of an SQLite file, or a URL that begins with postgres://"));
        }
        Ok(Self::Sqlite(path.into()))
    }
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    let expected = format!("expected a number of seconds above 0 and at most 86400, found {seconds}");
    (seconds > 0.0 && seconds <= 86_400.0).then_some(seconds).ok_or_else(|| D::Error::custom(expected))
}
