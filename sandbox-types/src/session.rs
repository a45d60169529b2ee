//! Sessions: what is asked about them, and what is answered.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{SessionId, WorkerId, null_is_default};

/// Body of `POST /session/create`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CreateSession {
    /// Whose session.
    pub worker_id: WorkerId,
    /// The resource.
    pub resource_type: String,
    /// Name of the session; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// What `initialize` gets.
    #[serde(default, deserialize_with = "null_is_default")]
    pub session_config: Map<String, Value>,
    /// A label inside `session_name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_name: Option<String>,
    /// Idle time after which the session is destroyed, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0)))]
    pub ttl_seconds: Option<f64>,
}

/// Body of `POST /session/destroy`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DestroySession {
    /// Whose session.
    pub worker_id: WorkerId,
    /// The resource; needed unless `session_id` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_type: Option<String>,
    /// Name of the session; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Id of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
}

/// Body of `POST /session/refresh`: one session, or all of the worker's.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RefreshSessions {
    /// Whose sessions.
    pub worker_id: WorkerId,
    /// The resource; all of them when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_type: Option<String>,
    /// Name of the session; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Id of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
}

/// `data` of `POST /session/create`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CreatedSession {
    /// The resource.
    pub resource_type: String,
    /// Name of the session; absent on a resource without sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Id of the session; null on a resource without sessions.
    pub session_id: Option<SessionId>,
    /// A name for people; null on a resource without sessions.
    #[serde(default)]
    pub session_name: Option<String>,
    /// `active`.
    #[serde(default)]
    pub session_status: String,
    /// When it is destroyed if nothing uses it (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// `exists` where the session was there already; absent where it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Whether the one that was there had been made with the same `session_config`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_matches: Option<bool>,
    /// True on a resource without sessions, whose tools are called as if it had one; absent otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compatibility_mode: bool,
    /// Always null: a failure is the error of the envelope. For clients of the `/api/v1` contract.
    #[serde(default)]
    pub error: Option<String>,
}

impl CreatedSession {
    /// Whether it was there already.
    pub fn existed(&self) -> bool {
        self.status.as_deref() == Some("exists")
    }
}

/// `data` of `POST /session/destroy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DestroyedSession {
    /// What was done, in words.
    #[serde(default)]
    pub message: String,
    /// The resource.
    pub resource_type: String,
    /// Id of the session; null where it had not been made to its end.
    pub session_id: Option<SessionId>,
    /// Its name for people.
    #[serde(default)]
    pub session_name: Option<String>,
    /// True on a resource without sessions; absent otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compatibility_mode: bool,
}

/// `data` of `POST /session/list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SessionList {
    /// Whose they are.
    pub worker_id: WorkerId,
    /// How many.
    pub count: usize,
    /// The sessions.
    pub sessions: Vec<SessionInfo>,
}

/// One session of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(inline))]
pub struct SessionInfo {
    /// The resource.
    pub resource_type: String,
    /// Name of the session.
    #[serde(default = "default_session")]
    pub session: String,
    /// Its id.
    pub session_id: SessionId,
    /// Its name for people.
    #[serde(default)]
    pub session_name: String,
    /// `active`, or `busy` while calls use it.
    pub status: String,
    /// Whether a call made it for itself.
    #[serde(default)]
    pub auto_created: bool,
    /// When it was made (RFC 3339).
    #[serde(default)]
    pub created_at: String,
    /// When it was used last (RFC 3339).
    #[serde(default)]
    pub last_activity: String,
    /// When it is destroyed if nothing uses it (RFC 3339).
    #[serde(default)]
    pub expires_at: String,
}

fn default_session() -> String {
    "default".to_owned()
}

/// `data` of `POST /session/refresh`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum RefreshAnswer {
    /// Of the session that was asked for.
    One(RefreshedSession),
    /// Of all of the worker's.
    All(RefreshedSessions),
}

/// `data` of `POST /session/refresh` for one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RefreshedSession {
    /// What was done, in words.
    #[serde(default)]
    pub message: String,
    /// The resource.
    pub resource_type: String,
    /// Id of the session.
    pub session_id: SessionId,
    /// When it is destroyed if nothing uses it (RFC 3339).
    pub expires_at: String,
}

/// `data` of `POST /session/refresh` for all sessions of the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RefreshedSessions {
    /// What was done, in words.
    #[serde(default)]
    pub message: String,
    /// Whose they are.
    pub worker_id: WorkerId,
    /// How many.
    pub refreshed_count: usize,
    /// Each, by resource; by `resource/session` where it is not the default one.
    pub details: BTreeMap<String, Refreshed>,
}

/// What became of one session of several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(inline))]
pub struct Refreshed {
    /// `refreshed`.
    pub status: String,
    /// When it is destroyed if nothing uses it (RFC 3339).
    #[serde(default)]
    pub expires_at: Option<String>,
}
