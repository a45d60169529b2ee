//! The attribute macros of `sandbox`: parse, check against a model, expand.
//!
//! Authors reach them through `sandbox_runtime::prelude`. The whole manual: **by value = a parameter that the client
//! sends; by reference = injected by the runtime; `&mut` session = alone on the session, `&` session = in parallel with
//! other readers.** All mistakes of a block are reported at once, each on its own token.

mod attr;
mod docs;
mod errors;
mod expand;
mod model;

use proc_macro::TokenStream;

/// Makes a type a backend: the methods marked [`#[tool]`](macro@tool) become its tools, and `new`, `warmup`,
/// `shutdown`, `initialize` and `cleanup`, each optional, its lifecycle. Other methods are left alone.
///
/// Options: `name = "vm"` (required), `config = "apis.key"` (a lightweight backend, on when that section of the
/// configuration is there), `version = ".."` (the crate's, if left out). The block's doc comment is the description.
///
/// ```
/// use sandbox_runtime::prelude::*;
///
/// #[derive(Default)]
/// struct Counter;
///
/// /// Counts, one counter per session.
/// #[backend(name = "counter")]
/// impl Counter {
///     async fn initialize(&self) -> Result<u64> {
///         Ok(0)
///     }
///
///     /// Add to the counter.
///     #[tool]
///     async fn add(
///         &self,
///         total: &mut u64,
///         /// How much to add.
///         #[default = 1]
///         by: u64,
///     ) -> Result<u64> {
///         *total += by;
///         Ok(*total)
///     }
/// }
/// # fn main() {}
/// ```
///
/// | method | arguments beside what is injected by `&` | returns |
/// |---|---|---|
/// | `new`, sync or async, no receiver | the configuration by value | `Result<Self>` |
/// | `warmup` | | `Result<Shared>`, lent as `&Shared` to tools and hooks |
/// | `shutdown` | the shared state by value | `Result<()>` |
/// | `initialize` | the session's configuration by value | `Result<Session>` |
/// | `cleanup` | the session by value, or by `&mut` to have a failed cleanup tried again | `Result<()>` |
#[proc_macro_attribute]
pub fn backend(options: TokenStream, item: TokenStream) -> TokenStream {
    expand::backend(options.into(), &item.into()).into()
}

/// Adds a further block of tools to a backend, so that it can be written in several files.
///
/// ```
/// use sandbox_runtime::prelude::*;
///
/// #[derive(Default)]
/// struct Browser;
///
/// #[backend(name = "browser")]
/// impl Browser {}
///
/// #[tools]
/// impl Browser {
///     /// Say which worker calls.
///     #[tool(read_only)]
///     async fn who(&self, worker: &WorkerId) -> Result<String> {
///         Ok(worker.to_string())
///     }
/// }
/// # fn main() {}
/// ```
#[proc_macro_attribute]
pub fn tools(options: TokenStream, item: TokenStream) -> TokenStream {
    expand::tools(&options.into(), &item.into()).into()
}

/// Makes a function a tool: a method of a [`#[backend]`](macro@backend) or [`#[tools]`](macro@tools) block, or a free
/// function. Its doc comment, required, is the description; doc comments of arguments describe the parameters.
///
/// Options: `name` (the function's, if left out; of a free tool `"group:tool"`, required), `hidden`, `timeout = "10s"`,
/// `idempotent`, `read_only`, `blocking` (a synchronous body, run on the blocking pool), `alias = ["other"]`,
/// `group = ".."`, and for a free tool `config = "apis.key"`, lent as the argument `config`.
///
/// On arguments: `#[default = 10]` or `#[default([1, 2])]`, the JSON that the client would have sent; `#[serde(..)]` and
/// `#[schemars(..)]`.
///
/// ```
/// use sandbox_runtime::prelude::*;
///
/// /// Say something, several times.
/// #[tool(name = "text:repeat", idempotent, timeout = "500ms")]
/// async fn repeat(
///     /// What to say.
///     text: String,
///     #[default = 2]
///     #[schemars(range(max = 100))]
///     times: usize,
/// ) -> Result<String> {
///     Ok(text.repeat(times))
/// }
/// # fn main() {}
/// ```
#[proc_macro_attribute]
pub fn tool(options: TokenStream, item: TokenStream) -> TokenStream {
    expand::tool(options.into(), &item.into()).into()
}
