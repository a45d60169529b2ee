//! Workers, and the server itself: what is asked, and what is answered.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{SessionId, WorkerId, null_is_default};

/// Body of `POST /session/list`, `/heartbeat`, `/status` and `/worker/disconnect`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WorkerRequest {
    /// Who calls.
    pub worker_id: WorkerId,
    /// Only this resource, where the route lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_type: Option<String>,
}

/// Body of `POST /api/v1/init/resource`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct InitResource {
    /// Whose session.
    pub worker_id: WorkerId,
    /// The resource.
    pub resource_type: String,
    /// What `initialize` gets.
    #[serde(default, deserialize_with = "null_is_default")]
    pub init_config: Map<String, Value>,
}

/// Body of `POST /api/v1/init/batch`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct InitBatch {
    /// Whose sessions.
    pub worker_id: WorkerId,
    /// Resource -> `{"content": {..}}` or the configuration itself.
    #[serde(default, deserialize_with = "null_is_default")]
    pub resource_configs: BTreeMap<String, Option<Map<String, Value>>>,
}

/// Body of `POST /warmup`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WarmupRequest {
    /// Names of the resources; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backends: Option<Vec<String>>,
}

/// Body of `POST /shutdown`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ShutdownRequest {
    /// Do not wait for running calls.
    #[serde(default, deserialize_with = "null_is_default")]
    pub force: bool,
    /// Whether sessions get their cleanup; true when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleanup_sessions: Option<bool>,
}

/// `data` of `POST /heartbeat`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Heartbeat {
    /// Who is alive.
    pub worker_id: WorkerId,
    /// The sessions whose time to live begins anew, by resource; by `resource/session` where it is not the default one.
    pub active_sessions: Vec<String>,
    /// When (RFC 3339).
    pub timestamp: String,
}

/// `data` of `POST /status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WorkerStatus {
    /// Who.
    pub worker_id: WorkerId,
    /// The keys of `sessions`.
    pub active_resources: Vec<String>,
    /// The sessions that were asked for, by resource; by `resource/session` where it is not the default one.
    pub sessions: BTreeMap<String, SessionStatus>,
    /// How many tools can be called, without the hidden ones.
    pub tools_available: usize,
}

/// One session, as `POST /status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(inline))]
pub struct SessionStatus {
    /// Its id.
    pub session_id: SessionId,
    /// `active`, or `busy` while calls use it.
    pub status: String,
    /// When it was made (RFC 3339).
    pub created_at: String,
    /// When it was used last (RFC 3339).
    pub last_activity: String,
}

/// `data` of `POST /worker/disconnect`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Disconnected {
    /// Who left.
    pub worker_id: WorkerId,
    /// How many sessions ended by that.
    pub sessions_cleaned: usize,
}

/// What `POST /warmup` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WarmupAnswer {
    /// `success`, or `partial_error`.
    pub status: String,
    /// Whether each resource that was asked for is ready.
    pub results: BTreeMap<String, bool>,
    /// Of all resources.
    pub summary: WarmupSummary,
    /// Why some are not; absent where all are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, String>,
}

/// What `GET /warmup/status` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WarmupStatus {
    /// How far each resource is.
    pub backends: BTreeMap<String, BackendStatus>,
    /// Of all of them.
    pub summary: WarmupSummary,
}

/// How far a resource is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(inline))]
pub struct BackendStatus {
    /// Whether its backend is there.
    pub loaded: bool,
    /// Whether it is ready for its first call.
    pub warmed_up: bool,
    /// Why the last start failed, if it did.
    #[serde(default)]
    pub error: Option<String>,
}

/// How many resources are ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(inline))]
pub struct WarmupSummary {
    /// How many there are.
    pub total: usize,
    /// How many are ready.
    pub warmed_up: usize,
    /// How many are not.
    pub pending: usize,
}

/// What `GET /health` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Health {
    /// `healthy`.
    pub status: String,
    /// When (RFC 3339).
    #[serde(default)]
    pub timestamp: String,
    /// `server.title`.
    #[serde(default)]
    pub title: String,
    /// Version of the server.
    #[serde(default)]
    pub version: String,
    /// Tells this start of the server from the next: [`ExecuteRequest::incarnation`](crate::ExecuteRequest) names it.
    #[serde(default)]
    pub incarnation: Option<String>,
    /// What it can do beyond the `/api/v1` contract.
    #[serde(default)]
    pub features: Vec<String>,
}

/// What `GET /ready` answers; without a token, where one is needed, only `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Ready {
    /// `ready` (200), or `warming_up` or `draining` (503).
    pub status: String,
    /// Tools that can be called.
    #[serde(default)]
    pub tools_count: usize,
    /// Workers that have sessions.
    #[serde(default)]
    pub active_workers: usize,
    /// Sessions of all workers.
    #[serde(default)]
    pub total_sessions: usize,
    /// Sessions whose cleanup has not ended in time, and goes on.
    #[serde(default)]
    pub orphaned_sessions: usize,
    /// Cleanups that failed.
    #[serde(default)]
    pub failed_cleanups: usize,
    /// Threads that a tool or a hook blocks now.
    #[serde(default)]
    pub blocked_threads: usize,
    /// Required resources that are not ready.
    #[serde(default)]
    pub waiting_for: Vec<String>,
    /// Of all resources.
    #[serde(default)]
    pub warmup: WarmupSummary,
    /// What backends say of their resources.
    #[serde(default)]
    pub facts: Map<String, Value>,
}

/// What `POST /shutdown` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ShutdownBegun {
    /// `success`.
    pub status: String,
    /// What happens now, in words.
    #[serde(default)]
    pub message: String,
    /// How many sessions are cleaned up.
    #[serde(default)]
    pub sessions_cleaned: usize,
}
