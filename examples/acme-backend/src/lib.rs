//! Example backends of a third party: a counter (session), a key-value store (mixed) and files (stateless).

mod counter;
mod files;
mod kv;
