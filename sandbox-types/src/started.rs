//! How the clients of one machine share a server that one of them has started: a folder of their user's own.
//!
//! Whoever looks for the server, starts it or ends it for want of clients holds a lock on [`LOCK`] meanwhile. A client that
//! uses the server keeps [`CLIENTS`], a named pipe, open for writing, and the system closes it when the client ends, however
//! it does: so the server knows when the last one has gone.

use serde::{Deserialize, Serialize};

/// File to lock while looking for the server, starting it, or ending it.
pub const LOCK: &str = "lock";
/// Named pipe that every client keeps open, and the server reads.
pub const CLIENTS: &str = "clients";
/// File that says where the server is, a [`StartedServer`]; it is there while the server takes clients.
pub const SERVER: &str = "server.json";
/// What the server has logged.
pub const LOG: &str = "server.log";

/// Where a server is that a client has started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartedServer {
    /// Its address, such as `http://127.0.0.1:18890`.
    pub url: String,
    /// Its process.
    pub pid: u32,
}
