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
//!
//! What a tool says while it runs comes as a stream, which joins itself again when its connection breaks:
//!
//! ```no_run
//! # async fn demo(client: sandbox_client::HttpServiceClient) -> Result<(), sandbox_client::ClientError> {
//! use sandbox_client::{RunEvent, types::ExecuteRequest};
//!
//! let request = ExecuteRequest::new(client.worker().clone(), "bash:run");
//! let mut stream = client.stream(&request).await?;
//! while let Some(event) = stream.next().await? {
//!     match event {
//!         RunEvent::Output(output) => print!("{}", output.data),
//!         RunEvent::End(answer) => println!("{:?}", answer.data),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```

// Its sample is compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/usage.md")]
struct Usage;

mod background;
pub mod blocking;
mod builder;
mod client;
mod error;
mod events;
mod inner;
mod retry;
mod runs;
mod sandbox;
mod session;
mod spec;
mod sse;
mod start;
mod stream;
mod transfer;
mod transport;

pub use builder::{DEFAULT_URL, SandboxBuilder};
pub use client::HttpServiceClient;
pub use error::ClientError;
pub use events::RunEvent;
pub use runs::Cancellation;
pub use sandbox::Sandbox;
pub use sandbox_types as types;
pub use session::Session;
pub use spec::{NewSession, Sessions, Which};
pub use stream::{Events, RunStream};
pub use transfer::{Download, Upload};
