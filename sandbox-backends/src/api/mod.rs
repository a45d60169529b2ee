//! Lightweight tools: one family per file.

#[cfg(feature = "fetch")]
pub mod fetch;
#[cfg(feature = "util")]
pub mod util;
#[cfg(all(feature = "web", target_os = "linux"))]
pub mod web;
