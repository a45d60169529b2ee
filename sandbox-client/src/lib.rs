//! Client of the sandbox HTTP API.
//!
//! ```no_run
//! # async fn demo() -> Result<(), sandbox_client::ClientError> {
//! use sandbox_client::{HttpServiceClient, types::WorkerId};
//!
//! let worker = WorkerId::parse("agent-7").expect("a valid id");
//! let client = HttpServiceClient::new("http://127.0.0.1:18890", worker)?;
//! let answer = client.execute("bash:run", serde_json::json!({ "command": "uname" })).await?;
//! println!("{:?}", answer.data);
//! # Ok(())
//! # }
//! ```

mod client;

pub use client::{ClientError, HttpServiceClient};
pub use sandbox_types as types;
