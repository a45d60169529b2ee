//! `util`: tools that need nothing.

use sandbox_runtime::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;

/// What `util:echo` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Echo {
    /// The message that came.
    message: String,
}

/// Send a message back, to see that the server is there.
#[tool(name = "util:echo", read_only, idempotent)]
async fn echo(
    /// Any text.
    message: String,
) -> Result<Echo> {
    Ok(Echo { message })
}
