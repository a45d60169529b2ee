//! The `server` section: where it listens, who may call it, its time limits and its log.

use std::{borrow::Cow, fmt, net::IpAddr, path::PathBuf, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest, Sha256};

/// The server itself: where it listens, who may call it, its time limits.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// The address to listen on. One that is not loopback needs `tokens`. Default: "127.0.0.1".
    pub host: String,
    /// The TCP port; 0 takes any free one. Default: 18890.
    pub port: u16,
    /// The name of this server, shown in `/health`. Default: "Sandbox HTTP Service".
    pub title: String,
    /// Threads that serve HTTP; null: one for each CPU. Default: null.
    #[schemars(range(min = 1, max = 1024))]
    pub workers: Option<usize>,
    /// Seconds without use after which a session is destroyed, unless its resource says otherwise. Default: 300.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1_000_000_000))]
    pub session_ttl: f64,
    /// Seconds a call may take if neither the request nor the tool says so. Default: 55.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1_000_000_000))]
    pub default_timeout_seconds: f64,
    /// The most seconds a request may ask for, and a download may last. Default: 3600.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1_000_000_000))]
    pub max_timeout_seconds: f64,
    /// Seconds that a call with an idempotency key, or a stream, lives on after its client left; 0: not at all. Default: 30.
    #[schemars(extend("minimum" = 0, "maximum" = 1_000_000_000))]
    pub reattach_seconds: f64,
    /// The latest events of one run that are kept for readers that come late or again, in KiB. Default: 1024.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub run_buffer_kib: usize,
    /// What the events of all runs, and the answers of those that ended in the last ten minutes, take together, in MiB;
    /// beyond it the oldest are forgotten first, and events of running ones beyond 64 KiB each. Default: 256.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub run_memory_mib: usize,
    /// Seconds that running calls get to finish at shutdown; 0: none. Default: 30.
    #[schemars(extend("minimum" = 0, "maximum" = 1_000_000_000))]
    pub drain_seconds: f64,
    /// The largest request body, in MiB. Default: 32.
    #[schemars(range(min = 1, max = 4096))]
    pub body_limit_mib: usize,
    /// The largest upload, in MiB: a body that a tool takes as a stream. Default: 4096.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub upload_limit_mib: u64,
    /// A folder for what must outlive the server, such as the journal of explicit sessions; null: nothing is kept.
    /// Default: null.
    pub data_dir: Option<PathBuf>,
    /// The names that a `Host` header may have when there are no tokens; empty: the loopback names. Default: [].
    pub allowed_hosts: Vec<String>,
    /// The origins (`https://host[:port]`) that web pages may call from; empty: none. Default: [].
    pub allowed_origins: Vec<String>,
    /// The bearer tokens that callers may use, each as `sha256:<64 hex digits>` or as the plain token, of which only the
    /// hash is kept. Empty: no token is needed. Default: [].
    pub tokens: Vec<TokenHash>,
    /// A second TCP port of `host`, on which health, listing, cancelling and destroying answer even while tools block every
    /// worker; 0 takes any free one, null none. Default: null.
    pub control_port: Option<u16>,
    /// Whether `POST /shutdown` may stop the server. Default: false.
    pub allow_shutdown: bool,
    /// What is logged, how, and where to. Default: see its keys.
    pub log: LogConfig,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 18890,
            title: "Sandbox HTTP Service".into(),
            workers: None,
            session_ttl: 300.0,
            default_timeout_seconds: 55.0,
            max_timeout_seconds: 3600.0,
            reattach_seconds: 30.0,
            run_buffer_kib: 1024,
            run_memory_mib: 256,
            drain_seconds: 30.0,
            body_limit_mib: 32,
            upload_limit_mib: 4096,
            data_dir: None,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            tokens: Vec::new(),
            control_port: None,
            allow_shutdown: false,
            log: LogConfig::default(),
        }
    }
}

impl ServerConfig {
    /// Whether `host` can be reached from this machine only.
    pub fn is_loopback(&self) -> bool {
        let host = self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&self.host);
        host.eq_ignore_ascii_case("localhost")
            || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
    }
}

/// What is logged, how, and where to.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// The least level that is logged (off, error, warn, info, debug, trace), also by target: `info,sandbox_runtime=debug`.
    /// Default: "info".
    pub level: String,
    /// How an event is written. Default: "text".
    pub format: LogFormat,
    /// A file to append to; null: standard error. Default: null.
    pub file: Option<PathBuf>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text, file: None }
    }
}

/// How an event of the log is written.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line for people.
    #[default]
    Text,
    /// One JSON object for programs.
    Json,
}

/// The SHA-256 hash of a bearer token; the token itself is not kept.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

/// A text that is neither a token nor the hash of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {}, found {found}", TokenHash::EXPECTED)]
pub struct InvalidToken {
    found: &'static str,
}

impl InvalidToken {
    /// What came; nothing of the text.
    pub(crate) fn found(&self) -> &'static str {
        self.found
    }
}

impl TokenHash {
    /// What can be parsed, in the words of an error.
    pub(crate) const EXPECTED: &'static str = "a token or `sha256:` and 64 hex digits";

    /// The hash.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for TokenHash {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        if text.trim().is_empty() {
            return Err(InvalidToken { found: "an empty string" });
        }
        let Some(digits) = text.strip_prefix("sha256:") else {
            return Ok(Self(Sha256::digest(text.as_bytes()).into()));
        };
        let digits: Option<Vec<u8>> =
            digits.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
        let digits =
            digits.filter(|digits| digits.len() == 64).ok_or(InvalidToken { found: "`sha256:` and something else" })?;
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks(2)) {
            *byte = pair.iter().fold(0, |byte, digit| byte << 4 | digit);
        }
        Ok(Self(hash))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(hidden)")
    }
}

impl Serialize for TokenHash {
    /// Never the hash: a printed configuration must not let anybody try tokens at home. It does not parse back.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("sha256:(hidden)")
    }
}

impl<'de> Deserialize<'de> for TokenHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for TokenHash {
    fn schema_name() -> Cow<'static, str> {
        "TokenHash".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::{ServerConfig, TokenHash};

    #[test]
    fn a_token_is_the_same_given_plain_or_as_its_hash() {
        let hash = "sha256:2BB80D537B1DA3E38BD30361AA855686BDE0EACD7162FEF6A25FE97BF527A25B";
        for text in ["secret", hash] {
            let token: TokenHash = text.parse().expect("is right");
            assert!(
                token == "secret".parse().expect("is right") && token != "secreT".parse().expect("is right"),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_token_is_refused_without_showing_it() {
        let long = format!("sha256:{}", "a".repeat(65));
        for text in ["", "  ", "sha256:", "sha256:zz", "sha256:(hidden)", &long[..70], &long] {
            let error = text.parse::<TokenHash>().expect_err("must be refused").to_string();
            assert!(!error.contains("zz") && !error.contains("aaa"), "{error}");
        }
    }

    #[test]
    fn loopback_is_told_from_the_rest() {
        for (host, loopback) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("[::1]", true),
            ("LocalHost", true),
            ("::ffff:127.0.0.1", true),
            ("0.0.0.0", false),
            ("::", false),
            ("", false),
            ("localhost.example.org", false),
        ] {
            assert_eq!(ServerConfig { host: host.into(), ..Default::default() }.is_loopback(), loopback, "{host}");
        }
    }
}
