//! `kv`: a key-value store with a store per session and a count of all writes, which `warmup` makes.

use std::{collections::HashMap, sync::atomic::{AtomicU64, Ordering}};

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct KeyValue;

/// Remembers values by key, one store per session.
#[backend(name = "kv")]
impl KeyValue {
    async fn warmup(&self) -> Result<AtomicU64> { Ok(AtomicU64::new(0)) }

    async fn initialize(&self) -> Result<HashMap<String, String>> { Ok(HashMap::new()) }

    async fn cleanup(&self, store: HashMap<String, String>) -> Result<()> { Ok(drop(store)) }

    /// Set a key to a value; answers how many values were set in all sessions together.
    #[tool]
    async fn set(&self, store: &mut HashMap<String, String>, writes: &AtomicU64, key: String, value: String) -> Result<u64> {
        store.insert(key, value);
        Ok(writes.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Get the value of a key.
    #[tool(read_only, idempotent)]
    async fn get(&self, store: &HashMap<String, String>, key: String) -> Result<String> {
        store.get(&key).cloned().ok_or_else(|| ToolError::business(format!("no key `{key}`")))
    }
}
