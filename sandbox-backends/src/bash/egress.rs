//! The way out of a sandbox: an HTTP proxy in the server, behind a socket that listens inside.
//!
//! The sandbox has no network but its own loopback interface. PID 1 listens there and hands the socket over, so what
//! connects inside is accepted here, and reaches what the allow-list names and nothing else: names are resolved by the
//! server, and a name with an address that is not public is refused unless the list names that address itself.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::error::ShellError;
use crate::address::is_public;

/// Where the proxy is inside.
pub(super) const PROXY_URL: &str = "http://127.0.0.1:3128";
/// Names that are resolved at once, for all sessions: the system's resolver holds a thread for each.
static LOOKUPS: Semaphore = Semaphore::const_new(32);
/// Connections of one session at once.
const MAX_CONNECTIONS: usize = 64;
/// Longest head of a request.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// How long a client may take to send its head, and a server to take the connection.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
const CONNECT_LIMIT: Duration = Duration::from_secs(15);
/// How long a connection may be without traffic in either direction.
const IDLE_LIMIT: Duration = Duration::from_mins(5);
/// Bytes that are passed on at once.
const COPY_BYTES: usize = 32 * 1024;

/// What sandboxes may reach; nothing by default.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EgressConfig {
    /// Servers as `host:port`; `*.example.com` is every name below it, `*` every public server, and a port `*` every port.
    /// An address that is not public must be named itself. What sandboxes reach, they reach by the proxy that
    /// `HTTPS_PROXY` names.
    pub allow: Vec<String>,
    /// Bytes that a session may send and receive, together, in MiB.
    #[schemars(range(min = 1))]
    pub max_mib: u64,
}

impl Default for EgressConfig {
    fn default() -> Self {
        Self { allow: Vec::new(), max_mib: 1024 }
    }
}

/// An entry of an allow-list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    host: Host,
    /// Every port if absent.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Any,
    Name(String),
    /// Names that end with this, which begins with a dot.
    Below(String),
    Address(IpAddr),
}

/// The entries of an allow-list.
pub(super) fn rules(allow: &[String]) -> Result<Vec<Rule>, ShellError> {
    allow
        .iter()
        .map(|entry| entry.parse())
        .collect::<Result<_, _>>()
        .map_err(|reason| ShellError::Invalid { option: "egress.allow", reason })
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("`{text}`: `host:port` was expected, such as `pypi.org:443` or `*.example.com:*`");
        let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
        let port = match port {
            "*" => None,
            port => Some(port.parse().ok().filter(|port| *port != 0).ok_or_else(refuse)?),
        };
        let host = host.to_ascii_lowercase();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
        let host = if let Ok(address) = bare.parse::<IpAddr>() {
            Host::Address(address.to_canonical())
        } else if host == "*" {
            Host::Any
        } else {
            let (below, name) = host.strip_prefix("*.").map_or((false, host.as_str()), |name| (true, name));
            if !is_name(name) {
                return Err(refuse());
            }
            if below { Host::Below(format!(".{name}")) } else { Host::Name(name.to_owned()) }
        };
        Ok(Self { host, port })
    }
}

impl Rule {
    /// Whether everything that the other permits is permitted by this one.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let host = match (&self.host, &other.host) {
            (Host::Any, Host::Address(address)) => is_public(*address),
            (Host::Any, _) => true,
            (Host::Below(end), Host::Below(name)) => name == end || name.ends_with(end.as_str()),
            (Host::Below(end), Host::Name(name)) => name.ends_with(end.as_str()),
            (own, other) => own == other,
        };
        host && (self.port.is_none() || self.port == other.port)
    }

    /// Whether it names this host itself, with whatever port.
    pub(super) fn is_for(&self, name: &str) -> bool {
        match &self.host {
            Host::Name(own) => own == name,
            Host::Address(own) => name.parse() == Ok(*own),
            Host::Any | Host::Below(_) => false,
        }
    }

    /// Whether a server of this name may be asked for.
    fn permits_name(&self, name: &str, port: u16) -> bool {
        let host = match &self.host {
            Host::Any => true,
            Host::Name(own) => own == name,
            Host::Below(end) => name.len() > end.len() && name.ends_with(end.as_str()),
            Host::Address(own) => name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical() == *own),
        };
        host && self.port.is_none_or(|own| own == port)
    }

    /// Whether it names this address itself.
    fn names(&self, address: IpAddr, port: u16) -> bool {
        self.host == Host::Address(address.to_canonical()) && self.port.is_none_or(|own| own == port)
    }
}

/// The proxy of one session. Dropping it ends it with its connections.
#[derive(Debug)]
pub(super) struct Egress(AbortHandle);

impl Drop for Egress {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the connections of a session share.
#[derive(Debug)]
struct Policy {
    rules: Vec<Rule>,
    /// Bytes that may still pass.
    left: AtomicU64,
    connections: Semaphore,
    /// The session, for the log.
    label: String,
}

impl Egress {
    /// Begins to accept. To be called on the runtime that outlives calls.
    pub(super) fn start(
        listener: OwnedFd,
        rules: Vec<Rule>,
        max_bytes: u64,
        label: String,
    ) -> Result<Self, ShellError> {
        let listener = std::net::TcpListener::from(listener);
        listener.set_nonblocking(true).map_err(ShellError::io("configuring the egress proxy"))?;
        let listener = TcpListener::from_std(listener).map_err(ShellError::io("starting the egress proxy"))?;
        let connections = Semaphore::new(MAX_CONNECTIONS);
        let policy = Arc::new(Policy { rules, left: AtomicU64::new(max_bytes), connections, label });
        let accepting = tokio::spawn(async move {
            // Ended with this task.
            let mut running = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((client, _)) => drop(running.spawn(serve(client, policy.clone()))),
                        // Out of descriptors, perhaps; the client waits.
                        Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    },
                    Some(_) = running.join_next() => {}
                }
            }
        });
        Ok(Self(accepting.abort_handle()))
    }
}

/// A refusal: status line and reason.
struct Refusal(&'static str, String);

/// What a client asks for.
struct Wanted {
    host: String,
    port: u16,
    /// What is to be sent to the server first; nothing for a tunnel.
    head: Option<Vec<u8>>,
    /// What came behind the head.
    rest: Vec<u8>,
}

/// Serves one connection.
async fn serve(mut client: TcpStream, policy: Arc<Policy>) {
    let Ok(_place) = policy.connections.try_acquire() else {
        let refusal =
            Refusal("503 Service Unavailable", format!("{MAX_CONNECTIONS} connections of this sandbox are open"));
        return refuse(&mut client, &refusal).await;
    };
    let wanted = match timeout(HEAD_LIMIT, read_head(&mut client)).await {
        Ok(Ok(Some(wanted))) => wanted,
        Ok(Ok(None)) | Err(_) => return,
        Ok(Err(refusal)) => return refuse(&mut client, &refusal).await,
    };
    let (host, port) = (wanted.host.clone(), wanted.port);
    match connect(&policy, &host, port).await {
        Err(refusal) => {
            tracing::info!(target: "sandbox::egress", session = policy.label, host, port, "refused: {}", refusal.1);
            refuse(&mut client, &refusal).await;
        }
        Ok(server) => {
            let (sent, received) = pass_on(client, server, wanted, &policy).await;
            tracing::info!(target: "sandbox::egress", session = policy.label, host, port, sent, received, "closed");
        }
    }
}

/// Reads the head of a request; nothing if the client leaves.
async fn read_head(client: &mut (impl AsyncRead + Unpin)) -> Result<Option<Wanted>, Refusal> {
    let bad = |reason: &str| Refusal("400 Bad Request", reason.to_owned());
    let (mut bytes, mut seen, mut parsed) = (Vec::new(), 0_usize, 0);
    loop {
        // One that comes byte by byte is not read from its beginning each time.
        let fresh = &bytes[seen.saturating_sub(2)..];
        let ends = [&b"\n\r\n"[..], b"\n\n"].iter().any(|end| memchr::memmem::find(fresh, end).is_some());
        seen = bytes.len();
        if !ends && bytes.len() < (2 * parsed).clamp(1, MAX_HEAD_BYTES) {
            if !read_more(client, &mut bytes).await {
                return Ok(None);
            }
            continue;
        }
        parsed = bytes.len();
        let mut headers = [httparse::EMPTY_HEADER; 128];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&bytes) {
            Ok(httparse::Status::Complete(length)) => {
                let method = request.method.unwrap_or_default();
                let target = request.path.unwrap_or_default();
                if method == "CONNECT" {
                    let (host, port) = authority(target, None).ok_or_else(|| bad("CONNECT takes host:port"))?;
                    return Ok(Some(Wanted { host, port, head: None, rest: bytes[length..].to_vec() }));
                }
                let rest = target
                    .strip_prefix("http://")
                    .ok_or_else(|| bad("this is a proxy: CONNECT, or a URL with http://, was expected"))?;
                let (name, path) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
                // A user's name and password are nobody's business here.
                let name = name.rsplit_once('@').map_or(name, |(_, name)| name);
                let (host, port) = authority(name, Some(80)).ok_or_else(|| bad("the URL names no server"))?;
                let slash = if path.starts_with('/') { "" } else { "/" };
                let mut head =
                    format!("{method} {slash}{path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n").into_bytes();
                for header in request.headers.iter() {
                    // The name in the URL counts, and what is between the client and the proxy stays there.
                    let between = ["host", "connection", "proxy-connection", "proxy-authorization", "keep-alive"];
                    if !between.contains(&header.name.to_ascii_lowercase().as_str()) {
                        head.extend_from_slice(header.name.as_bytes());
                        head.extend_from_slice(b": ");
                        head.extend_from_slice(header.value);
                        head.extend_from_slice(b"\r\n");
                    }
                }
                head.extend_from_slice(b"\r\n");
                return Ok(Some(Wanted { host, port, head: Some(head), rest: bytes[length..].to_vec() }));
            }
            Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD_BYTES => {}
            Ok(httparse::Status::Partial) => return Err(bad("the head of the request is too long")),
            Err(error) => return Err(bad(&format!("this is no HTTP request: {error}"))),
        }
        if !read_more(client, &mut bytes).await {
            return Ok(None);
        }
    }
}

/// Appends what comes next; says whether anything did.
async fn read_more(client: &mut (impl AsyncRead + Unpin), bytes: &mut Vec<u8>) -> bool {
    let mut piece = [0; 4096];
    match client.read(&mut piece).await {
        Ok(0) | Err(_) => false,
        Ok(length) => {
            bytes.extend_from_slice(&piece[..length]);
            true
        }
    }
}

/// Whether it can be the name of a host; underscores are in use, too.
fn is_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    host.len() <= 253 && host.split('.').all(label)
}

/// Host and port of an authority; names in lower case, without a final dot.
fn authority(text: &str, default_port: Option<u16>) -> Option<(String, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => {
            // `parse` alone takes a sign.
            (host, Some(port).filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()?)
        }
        _ => (text, default_port?),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    (port != 0 && (is_name(&host) || host.parse::<IpAddr>().is_ok())).then_some((host, port))
}

/// Connects to a server that the list names, at an address that was checked.
async fn connect(policy: &Policy, host: &str, port: u16) -> Result<TcpStream, Refusal> {
    let forbidden = |reason: String| Refusal("403 Forbidden", reason);
    if !policy.rules.iter().any(|rule| rule.permits_name(host, port)) {
        return Err(forbidden(format!("{host}:{port} is not on the allow-list of this sandbox")));
    }
    if policy.left.load(Ordering::Relaxed) == 0 {
        return Err(forbidden("the traffic that this sandbox may have is used up".into()));
    }
    let unreachable = |reason: String| Refusal("502 Bad Gateway", reason);
    // A task of its own, which holds its place until the system's resolver is done, however long nobody waits for it.
    let name = host.to_owned();
    let found = tokio::spawn(async move {
        let _place = LOOKUPS.acquire().await.ok()?;
        tokio::net::lookup_host((name.as_str(), port)).await.ok().map(Iterator::collect)
    });
    let found: Vec<SocketAddr> = match timeout(CONNECT_LIMIT, found).await {
        Ok(Ok(Some(found))) => found,
        _ => return Err(unreachable(format!("the name {host} could not be resolved"))),
    };
    let permitted = |address: &&SocketAddr| {
        is_public(address.ip()) || policy.rules.iter().any(|rule| rule.names(address.ip(), port))
    };
    let permitted: Vec<_> = found.iter().filter(permitted).collect();
    if permitted.is_empty() {
        return Err(forbidden(format!("{host} has no public address")));
    }
    for address in permitted {
        // The checked address, not the name: it could be another one by now.
        if let Ok(Ok(server)) = timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
            return Ok(server);
        }
    }
    Err(unreachable(format!("{host}:{port} cannot be reached")))
}

/// Passes bytes on in both directions until both are at their end; answers how many.
async fn pass_on(mut client: TcpStream, mut server: TcpStream, wanted: Wanted, policy: &Policy) -> (u64, u64) {
    let begun = match &wanted.head {
        None => client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await,
        Some(head) => server.write_all(head).await,
    };
    if begun.is_err() || server.write_all(&wanted.rest).await.is_err() {
        return (0, 0);
    }
    let head = wanted.head.map_or(0, |head| head.len()) + wanted.rest.len();
    policy.take(head);
    let ((client_in, client_out), (server_in, server_out)) = (client.split(), server.split());
    let traffic = Traffic::begin();
    let (sent, received) =
        tokio::join!(copy(client_in, server_out, policy, &traffic), copy(server_in, client_out, policy, &traffic));
    (sent + head as u64, received)
}

/// When bytes have passed last, in either direction.
struct Traffic {
    began: Instant,
    last_ms: AtomicU64,
}

impl Traffic {
    fn begin() -> Self {
        Self { began: Instant::now(), last_ms: AtomicU64::new(0) }
    }

    fn passed(&self) {
        let since = self.began.elapsed().as_millis();
        self.last_ms.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// When there has been none for too long.
    fn limit(&self) -> Instant {
        self.began + Duration::from_millis(self.last_ms.load(Ordering::Relaxed)) + IDLE_LIMIT
    }
}

/// Passes bytes on in one direction.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    policy: &Policy,
    traffic: &Traffic,
) -> u64 {
    let mut bytes = vec![0; COPY_BYTES];
    let mut total = 0;
    loop {
        let limit = traffic.limit();
        let length = match timeout_at(limit, from.read(&mut bytes)).await {
            Ok(Ok(length)) if length > 0 && policy.take(length) => length,
            // The other direction was busy meanwhile.
            Err(_) if traffic.limit() > limit => continue,
            _ => break,
        };
        traffic.passed();
        if !matches!(timeout(IDLE_LIMIT, to.write_all(&bytes[..length])).await, Ok(Ok(()))) {
            break;
        }
        traffic.passed();
        total += length as u64;
    }
    let _ = to.shutdown().await;
    total
}

impl Policy {
    /// Takes so many bytes of what may still pass; says whether there were so many.
    fn take(&self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        if taken.is_err() {
            self.left.store(0, Ordering::Relaxed);
        }
        taken.is_ok()
    }
}

/// Tells the client why not.
async fn refuse(client: &mut TcpStream, Refusal(status, reason): &Refusal) {
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{reason}\n",
        reason.len() + 1
    );
    let _ = client.write_all(answer.as_bytes()).await;
    let _ = client.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        text.parse().unwrap()
    }

    #[test]
    fn rules_name_hosts_and_ports() {
        for (entry, host, port, permitted) in [
            ("pypi.org:443", "pypi.org", 443, true),
            ("PyPI.org:443", "pypi.org", 443, true),
            ("pypi.org:443", "pypi.org", 80, false),
            ("pypi.org:443", "evil-pypi.org", 443, false),
            ("pypi.org:*", "pypi.org", 1, true),
            ("*.example.com:443", "a.b.example.com", 443, true),
            ("*.example.com:443", "example.com", 443, false),
            ("*.example.com:443", "badexample.com", 443, false),
            ("*:443", "anything", 443, true),
            ("10.0.0.1:80", "10.0.0.1", 80, true),
            ("[::1]:80", "::1", 80, true),
            ("10.0.0.1:80", "::ffff:10.0.0.1", 80, true),
        ] {
            assert_eq!(rule(entry).permits_name(host, port), permitted, "{entry} {host}:{port}");
        }
        for entry in
            ["", "pypi.org", "pypi.org:0", "pypi.org:x", ":443", "a b:1", "*example.com:1", "a.*.b:1", "http://a:1"]
        {
            assert!(entry.parse::<Rule>().is_err(), "{entry}");
        }
    }

    #[test]
    fn a_session_can_only_narrow() {
        for (own, other, covered) in [
            ("*:*", "pypi.org:443", true),
            ("*:443", "*:443", true),
            ("*:443", "*:80", false),
            ("*:443", "pypi.org:*", false),
            ("*:*", "10.0.0.1:80", false),
            ("*.a.com:443", "b.a.com:443", true),
            ("*.a.com:443", "*.b.a.com:443", true),
            ("*.a.com:443", "a.com:443", false),
            ("a.com:443", "*:443", false),
        ] {
            assert_eq!(rule(own).covers(&rule(other)), covered, "{own} {other}");
        }
    }

    #[test]
    fn only_an_address_that_is_named_itself_may_be_private() {
        let private = "127.0.0.1".parse().unwrap();
        assert!(rule("127.0.0.1:80").names(private, 80));
        assert!(!rule("127.0.0.1:80").names(private, 81));
        assert!(!rule("localhost:80").names(private, 80) && !rule("*:80").names(private, 80));
    }

    #[test]
    fn authorities() {
        assert_eq!(authority("A.b.:443", None), Some(("a.b".into(), 443)));
        assert_eq!(authority("[::1]:80", None), Some(("::1".into(), 80)));
        for text in
            ["", ":80", "host:0", "host:x", "host:+80", "a b:80", "a..b:80", "u:p@host:80", "a/b:80", "fe80::1%1:80"]
        {
            assert_eq!(authority(text, Some(80)), None, "{text}");
        }
        assert_eq!(authority("host", None), None);
    }
    #[tokio::test]
    async fn what_the_server_is_told_names_no_user() {
        let request =
            b"GET http://me:secret@a.com:81/x HTTP/1.1\r\nHost: b\r\nProxy-Authorization: c\r\nAccept: d\r\n\r\nrest";
        let Ok(Some(wanted)) = read_head(&mut request.as_slice()).await else { panic!("a request") };
        let head = String::from_utf8(wanted.head.unwrap()).unwrap();
        assert_eq!(head, "GET /x HTTP/1.1\r\nHost: a.com:81\r\nConnection: close\r\nAccept: d\r\n\r\n");
        assert_eq!((wanted.host.as_str(), wanted.port, wanted.rest.as_slice()), ("a.com", 81, b"rest".as_slice()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_when_both_directions_are() {
        let policy = Policy {
            rules: Vec::new(),
            left: AtomicU64::new(u64::MAX),
            connections: Semaphore::new(1),
            label: String::new(),
        };
        let ((_silent, client), (mut server, from_server)) = (tokio::io::duplex(64), tokio::io::duplex(64));
        let traffic = Traffic::begin();
        let began = Instant::now();
        let pause = IDLE_LIMIT * 9 / 10;
        let (mut closed, to_server) = tokio::io::duplex(64);
        let sending = async {
            for _ in 0..4 {
                tokio::time::sleep(pause).await;
                server.write_all(b"x").await.unwrap();
            }
            // The silent direction is open as long as the other is used.
            assert_eq!(closed.read(&mut [0]).await.unwrap(), 0);
            began.elapsed()
        };
        let (sent, received, closed_after) = tokio::join!(
            copy(client, to_server, &policy, &traffic),
            copy(from_server, tokio::io::sink(), &policy, &traffic),
            sending
        );
        assert_eq!((sent, received), (0, 4));
        assert_eq!(closed_after.as_secs(), (4 * pause + IDLE_LIMIT).as_secs());
    }
}
