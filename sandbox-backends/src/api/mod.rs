//! Lightweight tools: one family per file.

#[cfg(feature = "util")]
pub mod util;
