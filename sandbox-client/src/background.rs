//! The runtime of what outlives its caller, and of callers that have none.

use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle, Runtime};

/// Runs a future to its end, unless the process ends before: the caller's runtime may end with the caller.
pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    if let Some(handle) = handle() {
        drop(handle.spawn(future));
    }
}

/// The runtime of this crate, made when it is first needed; none where the system has no thread for it. It lives as long as the
/// process: to end a runtime inside of another one would panic.
pub(crate) fn handle() -> Option<&'static Handle> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let make = || Builder::new_multi_thread().worker_threads(1).thread_name("sandbox-client").enable_all().build().ok();
    RUNTIME.get_or_init(make).as_ref().map(Runtime::handle)
}
