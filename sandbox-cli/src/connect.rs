//! The server that a command talks to.

use sandbox_client::{HttpServiceClient, types::WorkerId};
use tokio::runtime::Runtime;

use crate::args::{DEFAULT_WORKER, Server};

/// A client of the server at `url`.
///
/// # Errors
/// The worker's name is no valid id, or the address no URL.
pub(crate) fn client(url: &str, server: &Server) -> Result<HttpServiceClient, String> {
    let worker = WorkerId::parse(&server.worker).map_err(|error| format!("--worker: {error}"))?;
    let client = HttpServiceClient::new(url, worker).map_err(|error| error.to_string())?;
    // Who waits at a terminal, or in a script, is told at once; and a call is cancelled when its command is killed.
    let client = client.with_retries(0);
    Ok(match &server.token {
        Some(token) => client.with_token(token),
        None => client,
    })
}

/// A client of the running server that is named.
///
/// # Errors
/// None is, or as with [`client`].
pub(crate) fn named(what: &str, server: &Server) -> Result<HttpServiceClient, String> {
    match &server.url {
        Some(url) => client(url, server),
        None => Err(format!("{what} live on a running server: name it with --server URL or SANDBOX_SERVER")),
    }
}

/// Another command that reaches the same server for the same worker, to be typed next.
pub(crate) fn command(words: &str, server: &Server) -> String {
    let mut command = format!("{} {words}", crate::program());
    if let Some(url) = &server.url
        && std::env::var_os("SANDBOX_SERVER").is_none()
    {
        command = format!("{command} --server {url}");
    }
    if server.worker != DEFAULT_WORKER {
        command = format!("{command} --worker '{}'", server.worker);
    }
    command
}

/// A runtime for the few requests of one command.
///
/// # Errors
/// The system refuses it.
pub(crate) fn runtime() -> Result<Runtime, String> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())
}
