//! The connection under a request: the HTTP library looks at it only when it wants more of a body, and gives no way to say
//! how much at once.

use std::{
    any::Any,
    cell::Cell,
    io,
    mem::size_of,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
    time::Duration,
};

use actix_web::{HttpRequest, dev::Extensions, rt::net::TcpStream};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How often it is looked whether a client that is held back is still there.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How much of an upload in bulk is to come before its reader is woken: each piece that is read as it arrives costs the
/// connection an acknowledgement, and both sides a wake-up, several times what moving it costs.
const GATHERED_BYTES: libc::c_int = 256 * 1024;

/// The socket, by its number: it is open for as long as a request of it is handled.
struct Connection(RawFd);

/// Keeps what its requests need of a new connection.
pub(super) fn keep(connection: &dyn Any, extensions: &mut Extensions) {
    if let Some(connection) = connection.downcast_ref::<TcpStream>() {
        extensions.insert(Connection(connection.as_raw_fd()));
    }
}

/// A handle of its own on a request's connection.
pub(super) struct Socket {
    socket: OwnedFd,
    gathers: Cell<bool>,
}

impl Socket {
    /// None where the system has no more handles, or the request came another way: all goes on without it.
    #[expect(unsafe_code, reason = "the library lends the socket only when the connection begins")]
    pub(super) fn of(request: &HttpRequest) -> Option<Self> {
        let Connection(number) = request.conn_data::<Connection>()?;
        // SAFETY: the dispatcher that polls the handlers of a connection owns its socket, and this is called by a handler.
        let socket = unsafe { BorrowedFd::borrow_raw(*number) };
        Some(Self { socket: socket.try_clone_to_owned().ok()?, gathers: Cell::new(false) })
    }

    /// Waits until the client has left, as far as the system knows: a farewell stands behind all that the client has sent. By
    /// a clock and not by an event: the events are the library's.
    pub(super) async fn left(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let mut look = [PollFd::new(&self.socket, PollFlags::RDHUP)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            if poll(&mut look, Some(&now)).is_ok() && !look[0].revents().is_empty() {
                return;
            }
        }
    }

    /// From now on much has to come before its reader is woken, or, as usual, anything.
    pub(super) fn gather(&self, much: bool) {
        if self.gathers.replace(much) == much {
            return;
        }
        let bytes = if much { GATHERED_BYTES } else { 1 };
        if let Err(error) = set_low_water(self.socket.as_fd(), bytes) {
            tracing::debug!(%error, "uploads are read in small pieces");
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The connection's next request may be a small one.
        self.gather(false);
    }
}

/// `SO_RCVLOWAT`: the reader is woken when so many bytes are there; setting it wakes one that waits for fewer.
#[expect(unsafe_code, reason = "rustix has no call for this option")]
fn set_low_water(socket: BorrowedFd<'_>, bytes: libc::c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0);
    // SAFETY: the value is a `c_int` that lives through the call, and the length is its own.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            std::ptr::from_ref(&bytes).cast(),
            length,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
