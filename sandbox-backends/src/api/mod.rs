//! Lightweight tools: one family per file.

#[cfg(any(feature = "data", feature = "doc", feature = "sql", feature = "web"))]
mod bounds;
#[cfg(any(feature = "data", feature = "doc", feature = "sql", feature = "web"))]
mod budget;
#[cfg(all(feature = "data", target_os = "linux"))]
pub mod data;
#[cfg(all(feature = "doc", target_os = "linux"))]
pub mod doc;
#[cfg(feature = "fetch")]
pub mod fetch;
#[cfg(any(feature = "data", feature = "doc", feature = "sql"))]
mod names;
#[cfg(all(any(feature = "data", feature = "doc"), target_os = "linux"))]
mod roots;
#[cfg(feature = "sql")]
pub mod sql;
#[cfg(any(feature = "data", feature = "doc", feature = "web"))]
mod turns;
#[cfg(feature = "util")]
pub mod util;
#[cfg(all(feature = "web", target_os = "linux"))]
pub mod web;
