//! Registration of descriptors with the runtime that polls the caller.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor that something else may own too.
#[expect(unsafe_code, reason = "tokio cannot know that the descriptor stays open")]
pub(super) fn register<T: AsFd + AsRawFd>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: every `T` here (a borrowed descriptor, an owned one, a shared owned one) keeps one and the same descriptor
    // open while it lives, and it lives in the registration.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}
