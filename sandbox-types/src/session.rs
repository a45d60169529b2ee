//! Requests about sessions, workers and the server's life.

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
