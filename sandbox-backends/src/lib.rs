//! The stock backends of sandbox.
//!
//! A program that names this crate (`use sandbox_backends as _;`) has them; each has a cargo feature of its own.

#[cfg(any(feature = "fetch", all(feature = "bash", target_os = "linux")))]
mod address;
#[cfg(any(feature = "fetch", feature = "util"))]
pub mod api;
#[cfg(all(feature = "bash", target_os = "linux"))]
pub mod bash;
