//! Shared state from `warmup`, hooks with injections, a public backend, an author's own injected type.

use std::{collections::HashMap, sync::Mutex};

use sandbox_runtime::prelude::*;

pub struct Store(Mutex<HashMap<String, String>>);

pub struct Cursor(usize);

/// The worker's name in upper case.
struct Shout(String);

impl Inject for Shout {
    fn inject(context: &ToolContext) -> Result<Self> {
        Ok(Self(context.worker().to_string().to_uppercase()))
    }
}

#[derive(Default)]
pub struct KeyValue;

/// Keys and values.
#[backend(name = "kv", config = "apis.kv")]
impl KeyValue {
    async fn warmup(&self, resource: &ResourceContext) -> Result<Store> {
        let _ = resource;
        Ok(Store(Mutex::default()))
    }

    async fn shutdown(&self, shared: Store, _: &ResourceContext) -> Result<()> {
        drop(shared);
        Ok(())
    }

    async fn initialize(&self, store: &Store, shout: &Shout) -> Result<Cursor> {
        Ok(Cursor(store.0.lock().map_or(0, |map| map.len()) + shout.0.len()))
    }

    async fn cleanup(&self, cursor: Cursor, store: &Store, reason: &EndReason) -> Result<()> {
        let _ = (cursor.0, store, reason.as_str());
        Ok(())
    }

    /// Read a key.
    #[tool(read_only)]
    async fn get(&self, store: &Store, cursor: &Cursor, key: String) -> Result<Option<String>> {
        let _ = cursor.0;
        Ok(store.0.lock().ok().and_then(|map| map.get(&key).cloned()))
    }

    /// Write a key.
    #[tool]
    async fn set(&self, key: String, store: &Store, value: String, shout: &Shout, cursor: &mut Cursor) -> Result<()> {
        cursor.0 += shout.0.len();
        if let Ok(mut map) = store.0.lock() {
            map.insert(key, value);
        }
        Ok(())
    }
}

struct Plain;

/// Synchronous hooks, a failing `new`, `shutdown` alone.
#[backend(name = "plain")]
impl Plain {
    fn new() -> Result<Self, ToolError> {
        Ok(Self)
    }

    fn shutdown(&self) -> Result<()> {
        Ok(())
    }

    /// Nothing at all.
    #[tool]
    async fn nothing(&self) -> Result<()> {
        Ok(())
    }
}

struct Uncleaned;

#[backend(name = "uncleaned")]
impl Uncleaned {
    fn new() -> Result<Self> {
        Ok(Self)
    }

    async fn initialize(&self) -> Result<String> {
        Ok(String::new())
    }

    /// Both kinds of text: the borrowed one is the session, the owned one comes from the client.
    #[tool]
    async fn push(&self, session: &mut String, text: String) -> Result<usize> {
        session.push_str(&text);
        Ok(session.len())
    }
}

fn main() {}
