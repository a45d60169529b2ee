//! What clients ask of sessions, workers and resources, apart from running tools.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use sandbox_types::{
    BackendStatus, CreateSession, CreatedSession, DestroySession, DestroyedSession, Disconnected, ErrorCode, Heartbeat,
    InitBatch, InitResource, Ready, RefreshAnswer, RefreshSessions, Refreshed, RefreshedSession, RefreshedSessions,
    ResourceInfo, SessionInfo, SessionList, SessionStatus, WarmupAnswer, WarmupStatus, WarmupSummary, WorkerId,
    WorkerStatus,
};
use serde_json::{Map, Value, json};

use crate::{
    context::SessionChoice,
    creation::{Created, SessionSpec},
    error::{Result, ToolError},
    executor::ToolExecutor,
    naming::{label, parse_key},
    nearest::shown,
    resource::{Resource, new_trace},
    router::Found,
    session::{EndReason, Session},
    time::rfc3339,
};

/// Status of a session that is there.
const ACTIVE: &str = "active";
/// Longest time to live that can be asked for: a year.
const MAX_TTL: Duration = Duration::from_hours(8760);

impl ToolExecutor {
    /// Makes a session, or finds the one that is there.
    ///
    /// # Errors
    /// What `initialize` answered, a limit, an unknown resource, a wrong `session_config`.
    pub async fn create_session(self: &Arc<Self>, request: CreateSession) -> Result<CreatedSession> {
        if self.draining() {
            return Err(ToolError::shutting_down());
        }
        let resource = self.registry.resource(&request.resource_type)?.clone();
        if !resource.about.kind.has_sessions() {
            resource.ensure_started().await?;
            // Clients written for services where everything has sessions go on as if this had one.
            return Ok(CreatedSession {
                resource_type: resource.name.to_string(),
                session: None,
                session_id: None,
                session_name: None,
                session_status: ACTIVE.to_owned(),
                expires_at: None,
                status: None,
                config_matches: None,
                compatibility_mode: true,
                error: None,
            });
        }
        let key = parse_key(request.session.as_deref())?.into();
        let ttl = match request.ttl_seconds {
            None => None,
            Some(seconds) => Some(
                Duration::try_from_secs_f64(seconds).ok().filter(|ttl| !ttl.is_zero() && *ttl <= MAX_TTL).ok_or_else(
                    || {
                        ToolError::parameter(
                            ErrorCode::INVALID_INPUT,
                            "ttl_seconds",
                            "a time of at most a year",
                            seconds.to_string(),
                        )
                    },
                )?,
            ),
        };
        let created = self
            .make_session(request.worker_id, resource, key, request.session_config, request.custom_name, ttl)
            .await?;
        Ok(created_data(&created))
    }

    async fn make_session(
        self: &Arc<Self>,
        worker: WorkerId,
        resource: Arc<Resource>,
        key: Arc<str>,
        config: Map<String, Value>,
        label: Option<String>,
        ttl: Option<Duration>,
    ) -> Result<Created> {
        let raw = serde_json::value::to_raw_value(&config)
            .map_err(|error| ToolError::new(ErrorCode::INVALID_INPUT, format!("session_config: {error}")))?;
        let config = resource.session_schema.check(Some(&raw)).map_err(|error| error.inside("session_config"))?;
        let nested = Some(self.clone() as _);
        self.table
            .create(SessionSpec {
                worker,
                resource,
                choice: SessionChoice::named(key),
                config,
                label,
                ttl,
                trace: new_trace(),
                nested,
                depth: 0,
                frames: None,
                passed: None,
                reports: None,
            })
            .await
    }

    /// Destroys a session; its cleanup goes on behind.
    ///
    /// # Errors
    /// [`ErrorCode::NOT_FOUND`] when there is none, [`ErrorCode::SESSION_GONE`] when it ended by itself.
    pub fn destroy_session(&self, request: &DestroySession) -> Result<DestroyedSession> {
        let worker = &request.worker_id;
        let session = match (&request.session_id, &request.resource_type) {
            (Some(id), _) => {
                let session = self.table.find_id(worker, id)?.session.clone();
                // This one, and not what may stand under its name by now.
                self.table.end(&session, &EndReason::Destroyed);
                Some(session)
            }
            (None, Some(resource)) => {
                let resource = self.registry.resource(resource)?;
                if !resource.about.kind.has_sessions() {
                    return Ok(DestroyedSession {
                        message: "the resource has no sessions".to_owned(),
                        resource_type: resource.name.to_string(),
                        session_id: None,
                        session_name: None,
                        compatibility_mode: true,
                    });
                }
                self.table.destroy(worker, &resource.name, parse_key(request.session.as_deref())?)?
            }
            (None, None) => {
                return Err(ToolError::parameter(
                    ErrorCode::MISSING_REQUIRED_FIELD,
                    "resource_type",
                    "a resource, or a session_id",
                    "neither",
                ));
            }
        };
        let resource = session
            .as_ref()
            .map_or_else(|| request.resource_type.clone().unwrap_or_default(), |s| s.resource.name.to_string());
        Ok(DestroyedSession {
            message: "session destroyed".to_owned(),
            resource_type: resource,
            session_id: session.as_ref().map(|session| session.id().clone()),
            session_name: session.as_ref().map(|session| session.name.to_string()),
            compatibility_mode: false,
        })
    }

    /// The worker's sessions.
    pub fn list_sessions(&self, worker: &WorkerId, resource_type: Option<&str>) -> SessionList {
        let sessions = self.table.sessions_of(worker).into_iter();
        let sessions: Vec<_> = sessions
            .filter(|session| resource_type.is_none_or(|wanted| *session.resource.name == *wanted))
            .map(|session| SessionInfo {
                resource_type: session.resource.name.to_string(),
                session: session.key.to_string(),
                session_id: session.id().clone(),
                session_name: session.name.to_string(),
                status: status(&session),
                auto_created: session.temporary,
                created_at: rfc3339(session.created_at),
                last_activity: rfc3339(last_activity(&session)),
                expires_at: expires_at(&session),
            })
            .collect();
        SessionList { worker_id: worker.clone(), count: sessions.len(), sessions }
    }

    /// Renews the time to live of one session, or of all.
    ///
    /// # Errors
    /// [`ErrorCode::NOT_FOUND`] when the one asked for does not exist, [`ErrorCode::SESSION_GONE`] when it ended.
    pub fn refresh_sessions(&self, request: &RefreshSessions) -> Result<RefreshAnswer> {
        let worker = &request.worker_id;
        let one = match (&request.session_id, &request.resource_type) {
            (Some(id), _) => Some(self.table.find_id(worker, id)?.session.clone()),
            (None, Some(resource)) => {
                let resource = self.registry.resource(resource)?;
                let key = parse_key(request.session.as_deref())?;
                match self.table.find(worker, resource, key, false) {
                    Found::Live(lease) => Some(lease.session.clone()),
                    Found::Gone(error) => return Err(error),
                    Found::Creating(_) | Found::Nothing => {
                        let message = format!("the worker has no session `{}`", label(&resource.name, key));
                        return Err(ToolError::new(ErrorCode::NOT_FOUND, message));
                    }
                }
            }
            (None, None) => None,
        };
        if let Some(session) = one {
            session.touch();
            return Ok(RefreshAnswer::One(RefreshedSession {
                message: "session refreshed".to_owned(),
                resource_type: session.resource.name.to_string(),
                session_id: session.id().clone(),
                expires_at: expires_at(&session),
            }));
        }
        let sessions = self.explicit_sessions(worker);
        let refreshed = |session: &Arc<Session>| {
            session.touch();
            let label = label(&session.resource.name, &session.key).into_owned();
            (label, Refreshed { status: "refreshed".to_owned(), expires_at: Some(expires_at(session)) })
        };
        let details: BTreeMap<_, _> = sessions.iter().map(refreshed).collect();
        Ok(RefreshAnswer::All(RefreshedSessions {
            message: "sessions refreshed".to_owned(),
            worker_id: worker.clone(),
            refreshed_count: details.len(),
            details,
        }))
    }

    fn explicit_sessions(&self, worker: &WorkerId) -> Vec<Arc<Session>> {
        let mut sessions = self.table.sessions_of(worker);
        sessions.retain(|session| !session.temporary);
        sessions
    }

    /// The worker is alive: its sessions' times to live are renewed.
    pub fn heartbeat(&self, worker: &WorkerId) -> Heartbeat {
        let sessions = self.explicit_sessions(worker);
        let renew = |session: &Arc<Session>| {
            session.touch();
            label(&session.resource.name, &session.key).into_owned()
        };
        Heartbeat {
            worker_id: worker.clone(),
            active_sessions: sessions.iter().map(renew).collect(),
            timestamp: rfc3339(SystemTime::now()),
        }
    }

    /// What a worker has.
    pub fn worker_status(&self, worker: &WorkerId) -> WorkerStatus {
        let of = |session: &Arc<Session>| SessionStatus {
            session_id: session.id().clone(),
            status: status(session),
            created_at: rfc3339(session.created_at),
            last_activity: rfc3339(last_activity(session)),
        };
        let sessions = self.explicit_sessions(worker);
        let sessions: BTreeMap<_, _> = sessions
            .iter()
            .map(|session| (label(&session.resource.name, &session.key).into_owned(), of(session)))
            .collect();
        WorkerStatus {
            worker_id: worker.clone(),
            active_resources: sessions.keys().cloned().collect(),
            sessions,
            tools_available: self.registry.tools().filter(|tool| tool.is_on() && !tool.info.hidden).count(),
        }
    }

    /// Ends every session the worker has, and with them the calls that run on them.
    pub fn disconnect(&self, worker: &WorkerId) -> Disconnected {
        Disconnected { worker_id: worker.clone(), sessions_cleaned: self.table.disconnect(worker) }
    }

    /// `session/create` in the words of the `/api/v1` contract.
    ///
    /// # Errors
    /// As [`Self::create_session`].
    pub async fn init_resource(self: &Arc<Self>, request: InitResource) -> Result<Value> {
        let created = self.create_session(CreateSession {
            worker_id: request.worker_id,
            resource_type: request.resource_type,
            session: None,
            session_config: request.init_config,
            custom_name: None,
            ttl_seconds: None,
        });
        let created = created.await?;
        Ok(json!({
            "session_id": created.session_id,
            "session_name": created.session_name,
            "resource_type": created.resource_type,
            "session_status": created.session_status,
            "error": null,
        }))
    }

    /// Several sessions at once; what failed is told beside what did not.
    ///
    /// # Errors
    /// [`ErrorCode::INVALID_INPUT`] for more than a thousand.
    pub async fn init_batch(self: &Arc<Self>, request: InitBatch) -> Result<Value> {
        few("resource_configs", request.resource_configs.len())?;
        let tasks: Vec<_> = request
            .resource_configs
            .into_iter()
            .map(|(resource_type, config)| {
                let mut config = config.unwrap_or_default();
                let init_config = match config.remove("content") {
                    Some(Value::Object(content)) => content,
                    Some(Value::Null) => Map::new(),
                    Some(other) => {
                        config.insert("content".into(), other);
                        config
                    }
                    None => config,
                };
                let request = InitResource {
                    worker_id: request.worker_id.clone(),
                    resource_type: resource_type.clone(),
                    init_config,
                };
                let executor = self.clone();
                (resource_type, tokio::spawn(async move { executor.init_resource(request).await }))
            })
            .collect();
        let total = tasks.len();
        let mut results = BTreeMap::new();
        let mut success_count = 0;
        for (resource_type, task) in tasks {
            let result = task.await.unwrap_or_else(|_| Err(ToolError::shutting_down()));
            success_count += usize::from(result.is_ok());
            let result = match result {
                Ok(data) => json!({
                    "status": "success", "session_id": data["session_id"], "session_status": data["session_status"], "error": null,
                }),
                Err(error) => json!({
                    "status": "error", "session_id": null, "session_status": "error", "error": error.message(),
                }),
            };
            results.insert(resource_type, result);
        }
        Ok(json!({
            "worker_id": request.worker_id, "results": results, "total": total, "success_count": success_count,
        }))
    }

    /// Starts resources, all at once.
    ///
    /// # Errors
    /// [`ErrorCode::INVALID_INPUT`] for more than a thousand names.
    pub async fn warmup(self: &Arc<Self>, names: Option<Vec<String>>) -> Result<WarmupAnswer> {
        let mut results = BTreeMap::new();
        let mut errors = BTreeMap::new();
        let names = names.unwrap_or_else(|| self.named_resources().map(|resource| resource.name.to_string()).collect());
        few("backends", names.len())?;
        let mut tasks = Vec::new();
        for name in names.into_iter().collect::<BTreeSet<_>>() {
            match self.registry.resource(&name).cloned() {
                Ok(resource) => tasks.push((name, self.runtime.spawn(async move { resource.ensure_started().await }))),
                Err(error) => {
                    let name = shown(&name).into_owned();
                    results.insert(name.clone(), false);
                    errors.insert(name, error.message().to_owned());
                }
            }
        }
        for (name, task) in tasks {
            let result = task.await.unwrap_or_else(|_| Err(ToolError::shutting_down()));
            results.insert(name.clone(), result.is_ok());
            if let Err(error) = result {
                errors.insert(name, error.message().to_owned());
            }
        }
        Ok(WarmupAnswer {
            status: if errors.is_empty() { "success" } else { "partial_error" }.to_owned(),
            results,
            summary: self.warmup_summary(),
            errors,
        })
    }

    /// Which resources are ready.
    pub fn warmup_status(&self) -> WarmupStatus {
        let status = |resource: &Arc<Resource>| BackendStatus {
            loaded: true,
            warmed_up: resource.started(),
            error: resource.last_error(),
        };
        WarmupStatus {
            backends: self.named_resources().map(|resource| (resource.name.to_string(), status(resource))).collect(),
            summary: self.warmup_summary(),
        }
    }

    fn warmup_summary(&self) -> WarmupSummary {
        let total = self.named_resources().count();
        let warmed_up = self.named_resources().filter(|resource| resource.started()).count();
        WarmupSummary { total, warmed_up, pending: total - warmed_up }
    }

    fn named_resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.registry.resources().filter(|resource| resource.about.free_tool_group.is_none())
    }

    /// Every resource.
    pub fn resources(&self) -> Vec<ResourceInfo> {
        self.named_resources().map(|resource| resource.info()).collect()
    }

    /// What backends say of their resources, by resource; those that say nothing are left out.
    pub fn facts(&self) -> Map<String, Value> {
        let facts = self.registry.resources().map(|resource| (resource.name.to_string(), resource.context.facts()));
        facts.filter(|(_, facts)| !facts.is_null()).collect()
    }

    /// Whether new work is welcome, and the figures of `GET /ready`.
    pub fn readiness(&self) -> (bool, Ready) {
        let waiting: Vec<_> = self
            .registry
            .resources()
            .filter(|resource| resource.required && !resource.started())
            .map(|resource| resource.name.to_string())
            .collect();
        let draining = self.draining();
        let (active_workers, total_sessions) = self.table.totals();
        let status = match (draining, waiting.is_empty()) {
            (true, _) => "draining",
            (false, false) => "warming_up",
            (false, true) => "ready",
        };
        let body = Ready {
            status: status.to_owned(),
            tools_count: self.registry.tools().filter(|tool| tool.is_on()).count(),
            active_workers,
            total_sessions,
            orphaned_sessions: self.table.faults.orphaned.load(Ordering::Relaxed),
            failed_cleanups: self.table.faults.failed.load(Ordering::Relaxed),
            blocked_threads: self.watchdog.blocked(),
            waiting_for: waiting.clone(),
            warmup: self.warmup_summary(),
            facts: self.facts(),
        };
        (!draining && waiting.is_empty(), body)
    }
}

/// Whether a list is of a size that the server has resources for.
fn few(parameter: &str, found: usize) -> Result<()> {
    const MAX: usize = 1_000;
    if found <= MAX {
        return Ok(());
    }
    let expected = format!("at most {MAX} resources");
    Err(ToolError::parameter(ErrorCode::INVALID_INPUT, parameter, expected, found.to_string()))
}

fn created_data(created: &Created) -> CreatedSession {
    let session = &created.session;
    CreatedSession {
        resource_type: session.resource.name.to_string(),
        session: Some(session.key.to_string()),
        session_id: Some(session.id().clone()),
        session_name: Some(session.name.to_string()),
        session_status: ACTIVE.to_owned(),
        expires_at: Some(expires_at(session)),
        status: created.existed.then(|| "exists".to_owned()),
        config_matches: created.existed.then_some(created.config_matches),
        compatibility_mode: false,
        error: None,
    }
}

fn status(session: &Session) -> String {
    if session.busy() { "busy" } else { ACTIVE }.to_owned()
}

fn last_activity(session: &Session) -> SystemTime {
    SystemTime::now() - session.idle()
}

/// When the session ends if nothing uses it.
fn expires_at(session: &Session) -> String {
    rfc3339(last_activity(session) + session.ttl)
}
