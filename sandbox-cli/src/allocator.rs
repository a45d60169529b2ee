//! The allocator of every program that this crate's feature `jemalloc` is on in.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Has freed memory handed back to the system, some seconds later, by a thread of the allocator; [`main`](crate::main)
/// does this for `serve`.
///
/// Not switched on from the start of the process: a sandbox's launcher is this same program and must have one thread.
pub fn give_memory_back() {
    if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
        tracing::warn!("freed memory is kept: the allocator has no background thread: {error}");
    }
}
