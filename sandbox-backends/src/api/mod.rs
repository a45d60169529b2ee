//! Lightweight tools: one family per file.

#[cfg(any(feature = "sql", feature = "web"))]
mod bounds;
#[cfg(any(feature = "sql", feature = "web"))]
mod budget;
#[cfg(feature = "fetch")]
pub mod fetch;
#[cfg(feature = "sql")]
pub mod sql;
#[cfg(feature = "util")]
pub mod util;
#[cfg(all(feature = "web", target_os = "linux"))]
pub mod web;
