//! Fetches from servers on this machine, and the tables of the guard.

use std::{
    io::Write,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Notify,
};

use super::*;
use crate::outbound::{MAX_URL_BYTES, may_reach, send};
use url::Url;

/// A server that ends with the test's runtime.
struct Server {
    port: u16,
    connections: Arc<AtomicUsize>,
    /// Fires when the client has gone from an endless answer.
    left: Arc<Notify>,
}

impl Server {
    /// Answers each connection with what `answer` makes of the request's head.
    async fn start(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> Self {
        Self::endless(answer, Vec::new(), Duration::ZERO).await
    }

    /// The same, followed by `more` again and again, with a pause before each, if it is not empty.
    async fn endless(answer: impl Fn(&str) -> Vec<u8> + Send + 'static, more: Vec<u8>, pause: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (connections, left) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (count, gone) = (connections.clone(), left.clone());
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match socket.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => break,
                    }
                }
                let mut sent = socket.write_all(&answer(&String::from_utf8_lossy(&head))).await;
                while sent.is_ok() && !more.is_empty() {
                    tokio::time::sleep(pause).await;
                    sent = socket.write_all(&more).await;
                }
                gone.notify_one();
            }
        });
        Self { port, connections, left }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// A configuration that allows this server and nothing else.
    fn config(&self) -> FetchConfig {
        config(json!({ "allow_private": [format!("127.0.0.1:{}", self.port)] }))
    }
}

fn config(value: serde_json::Value) -> FetchConfig {
    serde_json::from_value(value).expect("a configuration")
}

/// A whole answer.
fn answer(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).expect("a buffer");
    encoder.finish().expect("a buffer")
}

async fn get(config: &FetchConfig, url: impl Into<String>) -> Result<Page> {
    fetch(config, &CancellationToken::new(), url.into(), None).await
}

/// The code of a failure, whose text may hold the host and nothing else of the URL.
#[track_caller]
fn code(result: Result<Page>) -> ErrorCode {
    let error = result.expect_err("a failure");
    for secret in ["/secret", "hunter2", "127.0.0.1:", "os error"] {
        assert!(!error.message().contains(secret), "{secret} is in {error:?}");
    }
    error.code()
}

/// What is fetched from a server that sends this one answer.
async fn get_answer(status: u16, headers: &'static str, body: &[u8]) -> Result<Page> {
    let body = body.to_vec();
    let server = Server::start(move |_| answer(status, headers, &body)).await;
    get(&server.config(), server.url("/secret")).await
}

#[tokio::test]
async fn reads_text_in_several_forms() {
    let table: [(&'static str, &[u8], &str); 9] = [
        ("Content-Type: text/plain\r\n", "gr\u{fc}n".as_bytes(), "gr\u{fc}n"),
        ("Content-Type: Application/JSON; charset=utf-8\r\n", b"{\"a\": 1}", "{\"a\": 1}"),
        ("Content-Type: application/ld+json\r\n", b"{}", "{}"),
        ("Content-Type: text/html; a=b; Charset=\"ISO-8859-1\"\r\n", b"gr\xfcn", "gr\u{fc}n"),
        ("Content-Type: text/plain; charset=shift_jis\r\n", b"\x93\xfa", "\u{65e5}"),
        ("Content-Type: text/plain; charset=nonsense\r\n", b"a\xffb", "a\u{fffd}b"),
        ("Content-Type: text/plain\r\n", b"\xff\xfea\0", "a"), // A byte order mark says more than the header.
        ("", b"no type", "no type"),
        ("Content-Type: text/plain\r\nContent-Encoding: identity\r\n", b"plain", "plain"),
    ];
    for (headers, body, text) in table {
        let page = get_answer(200, headers, body).await.expect(headers);
        assert_eq!((page.status, page.text.as_str(), page.bytes, page.truncated), (200, text, body.len(), false));
        assert_eq!(page.content_type.is_none(), headers.is_empty(), "{headers}");
        assert_eq!(page.url, page.final_url);
    }
}

#[tokio::test]
async fn compressed_bodies_are_decoded_and_capped_after_decoding() {
    let zeros = gzip(&vec![b'0'; 20 << 20]);
    assert!(zeros.len() < 100_000, "a bomb");
    let server = Server::start(move |head| {
        assert!(head.to_lowercase().contains("accept-encoding: gzip,br"), "{head}");
        let body = if head.starts_with("GET /bomb") { zeros.clone() } else { gzip(b"unpacked") };
        answer(200, "Content-Type: text/plain\r\nContent-Encoding: gzip\r\n", &body)
    })
    .await;
    let page = get(&server.config(), server.url("/")).await.expect("a page");
    assert_eq!((page.text.as_str(), page.bytes, page.truncated), ("unpacked", 8, false));
    let page = get(&server.config(), server.url("/bomb")).await.expect("a page");
    assert_eq!((page.text.len(), page.bytes, page.truncated), (2 << 20, 2 << 20, true));

    let damaged = get_answer(200, "Content-Type: text/plain\r\nContent-Encoding: gzip\r\n", b"no gzip").await;
    assert_eq!(code(damaged), ErrorCode::API_REQUEST_FAILED);
    let unknown = get_answer(200, "Content-Type: text/plain\r\nContent-Encoding: zstd\r\n", b"(").await;
    assert_eq!(code(unknown), ErrorCode::CRAWLING_ERROR);
}

#[tokio::test]
async fn an_error_status_is_a_success() {
    for status in [404, 500, 304] {
        let page = get_answer(status, "Content-Type: text/html\r\n", b"").await.expect("a page");
        assert_eq!(page.status, status);
    }
    // A redirect to nowhere is a page as well.
    let page = get_answer(302, "Content-Type: text/html\r\n", b"moved").await.expect("a page");
    assert_eq!((page.status, page.text.as_str()), (302, "moved"));
}

#[tokio::test]
async fn answers_that_cannot_be_used_are_named() {
    let error = get_answer(404, "Content-Type: image/png; a=b\r\n", b"").await.expect_err("no text");
    assert_eq!(error.code(), ErrorCode::CRAWLING_ERROR);
    assert_eq!(error.message(), "`127.0.0.1` answered 404 with the content type `image/png`; expected a text type");
    assert_eq!(code(get_answer(200, "", b"a\0b").await), ErrorCode::CRAWLING_ERROR);
    for location in ["ftp://127.0.0.1/\r\n", "file:///etc/passwd\r\n", "http://[\r\n", "data:,x\r\n"] {
        let server = Server::start(move |_| answer(301, &format!("Location: {location}"), b"")).await;
        assert_eq!(code(get(&server.config(), server.url("/")).await), ErrorCode::CRAWLING_ERROR, "{location}");
    }
}

/// `/4` leads to `/3` and so on; `/0` is the page.
async fn countdown() -> Server {
    Server::start(|head| {
        let count: u32 = head[5..].split(' ').next().and_then(|count| count.parse().ok()).expect("a number");
        match count.checked_sub(1) {
            Some(next) => answer(302, &format!("Location: {next}\r\nContent-Type: image/png\r\n"), b"x"),
            None => answer(200, "Content-Type: text/plain\r\n", b"arrived"),
        }
    })
    .await
}

#[tokio::test]
async fn redirects_are_followed_up_to_the_limit() {
    let server = countdown().await;
    let page = get(&server.config(), server.url("/5")).await.expect("a page");
    assert_eq!((page.text.as_str(), page.url, page.final_url), ("arrived", server.url("/5"), server.url("/0")));
    assert_eq!(code(get(&server.config(), server.url("/6")).await), ErrorCode::CRAWLING_ERROR);

    let circle = Server::start(|_| answer(307, "Location: /secret\r\n", b"")).await;
    let error = get(&circle.config(), circle.url("/secret")).await.expect_err("a circle");
    assert_eq!(error.message(), "`127.0.0.1` is reached by more than 5 redirects");
    assert_eq!(circle.connections.load(Ordering::SeqCst), 6);
}

#[tokio::test]
async fn every_hop_is_checked() {
    let inner = Server::start(|_| answer(200, "Content-Type: text/plain\r\n", b"secret")).await;
    let port = inner.port;
    for target in [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("[::ffff:7f00:1]:{port}"),
        format!("0x7f.1:{port}"),
        format!("u:p@127.0.0.1:{port}"),
        "169.254.169.254".to_owned(),
    ] {
        let location = format!("Location: http://{target}/secret\r\n");
        let outer = Server::start(move |_| answer(302, &location, b"")).await;
        assert_eq!(code(get(&outer.config(), outer.url("/")).await), ErrorCode::PERMISSION_DENIED, "{target}");
        assert_eq!(outer.connections.load(Ordering::SeqCst), 1);
    }
    assert_eq!(inner.connections.load(Ordering::SeqCst), 0, "the private server was reached");
    // What is refused above is there.
    assert_eq!(get(&inner.config(), inner.url("/")).await.expect("a page").text, "secret");
}

#[tokio::test]
async fn a_name_is_trusted_and_its_address_is_not() {
    let server = Server::start(|head| {
        let port = head.split("localhost:").nth(1).and_then(|rest| rest.split("\r\n").next()).unwrap_or_default();
        let location = format!("Location: http://127.0.0.1:{port}/\r\n");
        if head.starts_with("GET /away") { answer(302, &location, b"") } else { answer(200, "", b"here") }
    })
    .await;
    let config = config(json!({ "allow_private": ["LocalHost"] }));
    let page = get(&config, format!("http://localhost:{}/", server.port)).await.expect("a page");
    assert_eq!(page.text, "here");
    let away = get(&config, format!("http://localhost:{}/away", server.port)).await;
    assert_eq!(code(away), ErrorCode::PERMISSION_DENIED);
    assert_eq!(code(get(&config, server.url("/")).await), ErrorCode::PERMISSION_DENIED);
}

#[tokio::test]
async fn the_connection_goes_to_the_address_that_was_checked() {
    let server = Server::start(|_| answer(200, "", b"pinned")).await;
    let url = Url::parse(&format!("http://no-such-name.invalid:{}/", server.port)).expect("a URL");
    let address = SocketAddr::from(([127, 0, 0, 1], server.port));
    let response = send(&rules(&server.config()), &url, vec![address]).await.expect("an answer");
    assert_eq!(response.remote_addr(), Some(address));
    assert_eq!(code(get(&server.config(), url).await), ErrorCode::API_REQUEST_FAILED, "the name has no address");
}

#[tokio::test]
async fn an_endless_body_is_cut() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n";
    let server = Server::endless(|_| head.to_vec(), "\u{20ac}".repeat(1000).into_bytes(), Duration::ZERO).await;
    let config = FetchConfig { max_bytes: 100_000, ..server.config() };
    let page = get(&config, server.url("/")).await.expect("a page");
    // The cut goes through a character, which is left out: no U+FFFD.
    assert_eq!((page.bytes, page.truncated, page.text), (100_000, true, "\u{20ac}".repeat(33_333)));
    tokio::time::timeout(Duration::from_secs(5), server.left.notified()).await.expect("the connection was closed");
}

#[tokio::test]
async fn a_text_is_cut_between_characters() {
    let server = Server::start(|_| answer(200, "", "\u{20ac}uro".as_bytes())).await;
    for (max, text, truncated) in
        [(0, "", true), (1, "\u{20ac}", true), (3, "\u{20ac}ur", true), (4, "\u{20ac}uro", false)]
    {
        let page =
            fetch(&server.config(), &CancellationToken::new(), server.url("/"), Some(max)).await.expect("a page");
        assert_eq!((page.text.as_str(), page.truncated, page.bytes), (text, truncated, 6));
    }
}

#[tokio::test]
async fn a_slow_body_times_out_and_a_cancelled_fetch_stops() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n";
    let server = Server::endless(|_| head.to_vec(), b"x".to_vec(), Duration::from_millis(20)).await;
    let started = Instant::now();
    let config = FetchConfig { timeout_seconds: 0.3, ..server.config() };
    assert_eq!(code(get(&config, server.url("/secret")).await), ErrorCode::TIMEOUT_ERROR);
    assert!((0.25..5.0).contains(&started.elapsed().as_secs_f64()), "{:?}", started.elapsed());
    tokio::time::timeout(Duration::from_secs(5), server.left.notified()).await.expect("the connection was closed");

    let (cancel, config) = (CancellationToken::new(), server.config());
    let (result, ()) = tokio::join!(fetch(&config, &cancel, server.url("/secret"), None), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        cancel.cancel();
    });
    assert_eq!(code(result), ErrorCode::CANCELLED);
    tokio::time::timeout(Duration::from_secs(5), server.left.notified()).await.expect("the connection was closed");
    assert_eq!(server.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn broken_connections_are_failed_requests() {
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address").port();
    let all = config(json!({ "allow_private": ["127.0.0.0/8"] }));
    let server = Server::start(|head| {
        let whole = answer(200, "", b"0123456789");
        if head.starts_with("GET /short") { whole[..whole.len() - 5].to_vec() } else { Vec::new() }
    })
    .await;
    let table = [
        (format!("http://127.0.0.1:{closed}/secret"), "connect"),
        (server.url("/short"), "body"),
        (server.url("/none"), "connection"),
    ];
    for (url, reason) in table {
        let error = get(&all, url.clone()).await.expect_err("a failure");
        assert_eq!(
            (error.code(), error.body().reason.as_deref()),
            (ErrorCode::API_REQUEST_FAILED, Some(reason)),
            "{url}"
        );
    }
    // A server that answers a TLS hello in plain text.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("https://127.0.0.1:{}/secret", listener.local_addr().expect("an address").port());
    let (result, ()) = tokio::join!(get(&all, url), async {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        let _ = socket.read(&mut [0; 1024]).await;
        let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    });
    let error = result.expect_err("no TLS");
    assert_eq!((error.code(), error.body().reason.as_deref()), (ErrorCode::API_REQUEST_FAILED, Some("tls")));
}

#[test]
fn several_runtimes_may_fetch() {
    let server_runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    // The server offers to keep its connections open; a runtime that ends must not take another's along.
    let server = server_runtime.block_on(Server::start(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()));
    for _ in 0..3 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        assert_eq!(runtime.block_on(get(&server.config(), server.url("/"))).expect("a page").text, "ok");
    }
}

#[tokio::test]
async fn bad_urls() {
    let none = FetchConfig::default();
    let long = format!("http://example.com/{}", "a".repeat(MAX_URL_BYTES));
    let short = "|example.com|/secret|ftp://example.com/secret|file:///secret|data:,hunter2|http://|\
        http://[::1|http://a b/|http://1.2.3.4.5/|http://0x100000000/|http://example.com:65536/|\
        javascript:alert(1)|http://[fe80::1%25eth0]/";
    for url in short.split('|').chain([long.as_str()]) {
        let error = get(&none, url).await.expect_err(url);
        assert_eq!(error.body().parameter.as_deref(), Some("url"), "{url}");
        assert_eq!(code(Err(error)), ErrorCode::INVALID_URL_FORMAT, "{url}");
    }
    for url in "http://2130706433/ http://0x7f000001/ http://017700000001/ http://127.1/ http://0/ \
         http://0x7f.0.0.1./ http://\u{ff11}\u{ff12}\u{ff17}.0.0.1/ http://[::]/ \
         http://[::ffff:10.0.0.1]/ http://localhost/secret http://LocalHost/ \
         http://169.254.169.254/latest/meta-data/ http://me:hunter2@93.184.216.34/ \
         http://me@93.184.216.34/ http://:hunter2@93.184.216.34/ http://93.184.216.34:0/ https:127.0.0.1/ \
         http:\\\\127.0.0.1\\"
        .split_whitespace()
    {
        assert_eq!(code(get(&none, url).await), ErrorCode::PERMISSION_DENIED, "{url}");
    }
}

#[test]
fn public_addresses() {
    for ip in "1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 168.63.129.15 169.253.255.255 \
         172.15.255.255 172.32.0.0 192.0.1.0 192.167.255.255 198.17.255.255 198.20.0.0 223.255.255.255 \
         2606:4700::1111 2001:200::1 2a00::1 ::ffff:1.1.1.1 64:ff9b::1.1.1.1 2002:101:101::1 \
         2001:0:101:101::fefe:fefe"
        .split_whitespace()
    {
        assert!(crate::address::is_public(ip.parse().expect(ip)), "{ip}");
    }
    for ip in "0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 \
         127.255.255.255 168.63.129.16 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 \
         192.0.0.192 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 \
         224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 :: ::1 ::127.0.0.1 ::1.1.1.1 \
         ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:0:1.1.1.1 64:ff9b::10.0.0.1 \
         64:ff9b::169.254.169.254 64:ff9b:1::1.1.1.1 100::1 2001:db8::1 2001:1::1 2001:20::1 \
         2002:7f00:1::1 2002:a9fe:a9fe::1 2001:0:a00:1::fefe:fefe 2001:0:101:101::80ff:fffe 3fff::1 \
         3fff:fff::1 4000::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1"
        .split_whitespace()
    {
        assert!(!crate::address::is_public(ip.parse().expect(ip)), "{ip}");
    }
}

#[test]
fn one_private_address_is_enough_to_refuse() {
    let table: [(&[&str], &str, bool); 14] = [
        (&[], "10.0.0.1", false),
        (&["10.0.0.1"], "10.0.0.1", true),
        (&["10.0.0.1"], "10.0.0.2", false),
        (&["10.0.0.1:80"], "10.0.0.1", true),
        (&["10.0.0.1:81"], "10.0.0.1", false),
        (&["10.9.9.9/8"], "10.0.0.1", true),
        (&["10.0.0.0/8"], "::ffff:10.0.0.1", true),
        (&["10.0.0.0/8"], "64:ff9b::10.0.0.1", false),
        (&["fd00::/8"], "fd12::1", true),
        (&["[fd12::1]:80"], "fd12::1", true),
        (&["fd12::1"], "fd12::2", false),
        (&["Intra.Example:80"], "10.0.0.1", true),
        (&["intra.example.:81", "example", "xintra.example"], "10.0.0.1", false),
        (&["other.example", "0xa.1"], "10.0.0.1", true),
    ];
    for (allowed, ip, expected) in table {
        let config = config(json!({ "allow_private": allowed }));
        let ip: IpAddr = ip.parse().expect(ip);
        let (private, public) = (SocketAddr::from((ip, 80)), SocketAddr::from(([1, 1, 1, 1], 80)));
        for addresses in [&[private][..], &[public, private], &[private, public]] {
            assert_eq!(
                may_reach(&config.allow_private, "intra.example", addresses),
                expected,
                "{allowed:?} {addresses:?}"
            );
        }
        assert!(may_reach(&config.allow_private, "intra.example", &[public]));
    }
}

#[test]
fn a_wrong_configuration_is_refused() {
    for entry in ["", "10.0.0.0/33", "*.example", "http://intra", "intra:0", "intra:99999", "a b", "[::1", "intra/8"] {
        let error = serde_json::from_value::<FetchConfig>(json!({ "allow_private": [entry] })).expect_err(entry);
        assert!(error.to_string().contains(&format!("found `{entry}`")), "{error}");
    }
    for wrong in [
        json!({ "timeout_seconds": 0 }),
        json!({ "timeout_seconds": -1 }),
        json!({ "timeout_seconds": 1e300 }),
        json!({ "user_agent": "a\nb" }),
        json!({ "max_bytes": -1 }),
        json!({ "timeout": 1 }),
    ] {
        assert!(serde_json::from_value::<FetchConfig>(wrong.clone()).is_err(), "{wrong}");
    }
    let schema = serde_json::to_value(schemars::schema_for!(FetchConfig)).expect("JSON");
    assert_eq!(schema["properties"]["allow_private"]["items"]["type"], "string", "{schema}");
    assert_eq!(schema["properties"]["timeout_seconds"]["default"], 20.0, "{schema}");
}
