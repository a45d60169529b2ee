//! STUB
#![allow(missing_docs, clippy::all)]
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
pub trait SectionSchemas { fn backend(&self, backend_name: &str) -> Option<&Value>; fn api(&self, key: &str) -> Option<&Value>; }
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Config { pub server: ServerConfig, pub resources: BTreeMap<String, ResourceConfig>, pub apis: BTreeMap<String, Value>, pub warmup: WarmupConfig }
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerConfig { pub host: String, pub port: u16, pub title: String, pub workers: Option<usize>, pub session_ttl: f64, pub default_timeout_seconds: f64, pub max_timeout_seconds: f64, pub reattach_seconds: f64, pub drain_seconds: f64, pub body_limit_mib: usize, pub data_dir: Option<PathBuf>, pub allowed_hosts: Vec<String>, pub allowed_origins: Vec<String>, pub tokens: Vec<String>, pub control_port: Option<u16>, pub allow_shutdown: bool }
impl Default for ServerConfig { fn default() -> Self { Self { host: "127.0.0.1".into(), port: 18890, title: "Sandbox HTTP Service".into(), workers: None, session_ttl: 300.0, default_timeout_seconds: 55.0, max_timeout_seconds: 3600.0, reattach_seconds: 30.0, drain_seconds: 30.0, body_limit_mib: 32, data_dir: None, allowed_hosts: vec![], allowed_origins: vec![], tokens: vec![], control_port: None, allow_shutdown: false } } }
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceConfig { pub enabled: bool, pub backend: Option<String>, pub description: Option<String>, pub required: bool, pub session_ttl: Option<f64>, pub max_sessions: usize, pub max_sessions_per_worker: usize, pub max_concurrent_calls: usize, pub max_queued_calls: usize, pub initialize_timeout_seconds: f64, pub max_waiting_calls: usize, pub groups: Option<Vec<String>>, pub tools: ToolChoice, pub config: Value }
impl Default for ResourceConfig { fn default() -> Self { Self { enabled: true, backend: None, description: None, required: false, session_ttl: None, max_sessions: 16384, max_sessions_per_worker: 128, max_concurrent_calls: 1024, max_queued_calls: 8192, initialize_timeout_seconds: 300.0, max_waiting_calls: 32, groups: None, tools: ToolChoice::default(), config: Value::Object(Default::default()) } } }
impl ResourceConfig { pub fn backend_name(&self, r: &str) -> String { self.backend.clone().unwrap_or_else(|| r.into()) } }
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ToolChoice { pub allow: Option<Vec<String>>, pub deny: Vec<String> }
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct WarmupConfig { pub enabled: bool, pub resources: Option<Vec<String>> }
impl Default for WarmupConfig { fn default() -> Self { Self { enabled: true, resources: None } } }

impl ServerConfig { pub fn token_digests(&self) -> impl Iterator<Item=[u8;32]> + '_ { self.tokens.iter().map(|t| { use sha2::Digest; sha2::Sha256::digest(t).into() }) } }
