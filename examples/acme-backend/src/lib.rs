//! Example backends of a third party: a counter (session) and a key-value store (mixed).

mod counter;
mod kv;
