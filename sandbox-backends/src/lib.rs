//! The stock backends of sandbox.
//!
//! A program that names this crate (`use sandbox_backends as _;`) has them; each has a cargo feature of its own.

#[cfg(any(feature = "outbound", all(feature = "bash", target_os = "linux")))]
mod address;
#[cfg(all(any(feature = "bash", feature = "reader"), target_os = "linux"))]
mod again;
#[cfg(any(feature = "data", feature = "doc", feature = "fetch", feature = "sql", feature = "util", feature = "web"))]
pub mod api;
#[cfg(all(feature = "bash", target_os = "linux"))]
pub mod bash;
#[cfg(feature = "outbound")]
mod outbound;
#[cfg(all(feature = "reader", target_os = "linux"))]
mod reader;
#[cfg(any(feature = "outbound", feature = "sql"))]
mod tls;
