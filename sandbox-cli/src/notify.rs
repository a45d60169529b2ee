//! Tells systemd that the server takes calls, and while it lives that it does.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use sd_notify::{NotifyState, notify, watchdog_enabled};

/// The server listens. Without systemd nothing happens.
pub(crate) fn ready(address: SocketAddr) {
    if let Err(error) = notify(&[NotifyState::Ready]) {
        tracing::warn!("systemd cannot be told that the server is ready: {error}");
    }
    let Some(limit) = watchdog_enabled() else { return };
    // Half of the limit, as sd_watchdog_enabled(3) recommends.
    let every = limit / 2;
    let watch = move || {
        loop {
            // Over its own port: a server whose workers are all blocked does not live for its clients.
            if is_healthy(address, every) {
                let _ = notify(&[NotifyState::Watchdog]);
            } else {
                tracing::error!("GET /health is not answered; without it systemd will restart the server");
            }
            thread::sleep(every);
        }
    };
    if let Err(error) = thread::Builder::new().name("sandbox-watchdog".into()).spawn(watch) {
        tracing::error!("systemd will restart the server, which has no thread to say that it lives: {error}");
    }
}

fn is_healthy(address: SocketAddr, limit: Duration) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&reachable(address), limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        std::io::Result::Ok(status == *b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

/// An address to connect to; one that stands for all of them is none.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        other => other.ip(),
    };
    SocketAddr::new(ip, address.port())
}
