//! `kv`: a key-value store with a store per session and a count of all writes, which `warmup` makes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sandbox_runtime::prelude::*;

type Store = HashMap<String, String>;

#[derive(Default)]
struct KeyValue;

/// Remembers values by key, one store per session.
#[backend(name = "kv")]
impl KeyValue {
    async fn warmup(&self) -> Result<AtomicU64> {
        Ok(AtomicU64::new(0))
    }

    async fn initialize(&self) -> Result<Store> {
        Ok(Store::new())
    }

    async fn cleanup(&self, store: Store) -> Result<()> {
        drop(store);
        Ok(())
    }

    /// Set a key to a value; answers how many values were set in all sessions together.
    #[tool]
    async fn set(&self, store: &mut Store, writes: &AtomicU64, key: String, value: String) -> Result<u64> {
        store.insert(key, value);
        Ok(writes.fetch_add(1, Relaxed) + 1)
    }

    /// Get the value of a key.
    #[tool(read_only, idempotent)]
    async fn get(&self, store: &Store, key: String) -> Result<String> {
        store.get(&key).cloned().ok_or_else(|| ToolError::business(format!("no key `{key}`")))
    }
}
