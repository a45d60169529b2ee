//! Requests to addresses that a caller chose, without letting the caller reach the server's own network.
//!
//! Each hop of a redirect chain is checked anew: the host is resolved once, every address must be public (or listed in
//! `allow_private`), and the connection goes to exactly those addresses. A second look-up could be answered otherwise.

mod guard;

use std::{error::Error, io, iter::successors, net::SocketAddr, time::Duration};

use encoding_rs::Encoding;
pub(crate) use guard::Allowed;
use reqwest::{
    Client, ClientBuilder, Response,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER},
    redirect::Policy,
};
use sandbox_runtime::prelude::*;
use serde::{Deserialize, Deserializer, de::Error as _};
use url::{Host, Url};

use crate::tls::TLS;

/// The longest URL that is followed, in bytes; servers rarely take more.
pub(crate) const MAX_URL_BYTES: usize = 8192;

/// How much of a word that someone else chose is put into an error, in characters.
const MAX_QUOTED_CHARS: usize = 255;

/// What a download may do.
pub(crate) struct Rules<'a> {
    /// For the whole of it, redirects and body included; the caller's to keep.
    pub(crate) timeout: Duration,
    /// Bytes of the decompressed body that are kept; what follows is not read.
    pub(crate) max_bytes: usize,
    /// Redirects that are followed.
    pub(crate) max_redirects: u32,
    /// The header `User-Agent`.
    pub(crate) user_agent: &'a str,
    /// The header `Accept`.
    pub(crate) accept: &'static str,
    /// What may be reached although it is not public.
    pub(crate) allow_private: &'a [Allowed],
    /// Content types that are read: a type, a prefix that ends in `*`, or a suffix that starts with `+`.
    pub(crate) content_types: &'a [String],
    /// What those are, for an error.
    pub(crate) expected: &'static str,
}

/// What came.
pub(crate) struct Download {
    /// Where from, after redirects.
    pub(crate) url: Url,
    /// The HTTP status.
    pub(crate) status: u16,
    /// The header `Content-Type`.
    pub(crate) content_type: Option<String>,
    /// The body, decompressed.
    pub(crate) body: Vec<u8>,
    /// Whether the body goes on.
    pub(crate) truncated: bool,
    /// How long to wait before asking again, if the site says so in seconds.
    #[cfg_attr(not(feature = "web"), expect(dead_code, reason = "`web:fetch` asks once"))]
    pub(crate) retry_after: Option<Duration>,
}

/// Follows redirects from `url` and reads the body at their end.
///
/// # Errors
/// Of the site or of the way to it; see [`check`] for what is refused.
pub(crate) async fn download(rules: &Rules<'_>, mut url: Url) -> Result<Download> {
    for _ in 0..=rules.max_redirects {
        let response = send(rules, &url, check(rules.allow_private, &url).await?).await?;
        match redirect(&url, &response)? {
            Some(next) => url = next,
            None => return read(rules, url, response).await,
        }
    }
    Err(crawling(&url, &format!("is reached by more than {} redirects", rules.max_redirects)))
}

/// A parameter, if it is a URL that may be followed at all.
///
/// # Errors
/// `INVALID_URL_FORMAT`, without the URL, which may hold a secret.
pub(crate) fn parse(parameter: &str, text: &str) -> Result<Url> {
    let expected = || format!("an http or https URL of at most {MAX_URL_BYTES} bytes");
    let wrong = |found| ToolError::parameter(ErrorCode::INVALID_URL_FORMAT, parameter, expected(), found);
    if text.len() > MAX_URL_BYTES {
        return Err(wrong(format!("{} bytes", text.len())));
    }
    // The parser's own words hold nothing of the URL, which may hold a secret.
    let url = Url::parse(text).map_err(|error| match error {
        url::ParseError::RelativeUrlWithoutBase => wrong("one that does not begin with https:// or http://".to_owned()),
        error => wrong(format!("what is no URL: {error}")),
    })?;
    if matches!(url.scheme(), "http" | "https") { Ok(url) } else { Err(wrong("another scheme".to_owned())) }
}

/// The addresses of the URL's host, if the URL may be fetched from each of them.
///
/// # Errors
/// `PERMISSION_DENIED` for credentials in the URL, and with the reason `private_address` for an address that is not public
/// and not allowed; `API_REQUEST_FAILED` for a name without an address.
pub(crate) async fn check(allow_private: &[Allowed], url: &Url) -> Result<Vec<SocketAddr>> {
    let denied = |why: &str| ToolError::new(ErrorCode::PERMISSION_DENIED, format!("{} {why}", host_of(url)));
    let port = url.port_or_known_default().unwrap_or_default();
    if !url.username().is_empty() || url.password().is_some() {
        return Err(denied("is asked for by a URL with credentials; expected one without"));
    }
    if port == 0 {
        return Err(denied("has no port 0"));
    }
    let (name, addresses) = match url.host() {
        Some(Host::Ipv4(ip)) => (String::new(), vec![SocketAddr::from((ip, port))]),
        Some(Host::Ipv6(ip)) => (String::new(), vec![SocketAddr::from((ip, port))]),
        Some(Host::Domain(name)) => {
            let found = tokio::net::lookup_host((name, port)).await.map(Iterator::collect).unwrap_or_default();
            (name.to_owned(), found)
        }
        None => (String::new(), Vec::new()),
    };
    if addresses.is_empty() {
        let message = format!("the name {} has no address", host_of(url));
        return Err(ToolError::new(ErrorCode::API_REQUEST_FAILED, message));
    }
    if may_reach(allow_private, &name, &addresses) {
        return Ok(addresses);
    }
    Err(denied("is an address that is not public, and that `allow_private` does not name")
        .with_reason("private_address"))
}

/// Whether the addresses that `name` resolved to may be connected to.
///
/// One private address among public ones is enough to refuse: which one is tried is not ours to say.
pub(crate) fn may_reach(allow_private: &[Allowed], name: &str, addresses: &[SocketAddr]) -> bool {
    addresses.iter().all(|address| {
        let (ip, port) = (address.ip(), address.port());
        crate::address::is_public(ip) || allow_private.iter().any(|entry| entry.allows(name, ip, port))
    })
}

/// Answers every look-up with the addresses that were checked.
struct Pinned(Vec<SocketAddr>);

impl Resolve for Pinned {
    fn resolve(&self, _: Name) -> Resolving {
        let addresses: Addrs = Box::new(self.0.clone().into_iter());
        Box::pin(std::future::ready(Ok(addresses)))
    }
}

/// The beginning of a client that speaks TLS.
///
/// # Errors
/// The TLS library has no safe version of the protocol.
pub(crate) fn client_builder() -> Result<ClientBuilder> {
    let mut tls = TLS.clone().map_err(|_| broken())?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Client::builder().tls_backend_preconfigured(tls))
}

/// The library refuses what this program asks of it.
fn broken() -> ToolError {
    ToolError::new(ErrorCode::INTERNAL_ERROR, "the HTTP client cannot be made")
}

/// Asks for the URL at one of the addresses and returns with the head of the answer.
///
/// # Errors
/// What [`request_failed`] makes of the failure.
pub(crate) async fn send(rules: &Rules<'_>, url: &Url, addresses: Vec<SocketAddr>) -> Result<Response> {
    // A connection belongs to the runtime that opened it, and tools run on several; it also was checked for one
    // configuration. So each hop has a client of its own, which costs microseconds.
    let client: Client = client_builder()?
        .dns_resolver(Pinned(addresses))
        .redirect(Policy::none())
        .no_proxy()
        .referer(false)
        .pool_max_idle_per_host(0)
        .user_agent(rules.user_agent)
        // Half, so that a dead address leaves time for the next; the connector divides it among them.
        .connect_timeout(rules.timeout / 2)
        .build()
        .map_err(|_| broken())?;
    let request = client.get(url.clone()).header(ACCEPT, rules.accept);
    request.send().await.map_err(|error| request_failed(&host_of(url), &error))
}

/// Where the answer leads, if it is a redirect.
fn redirect(url: &Url, response: &Response) -> Result<Option<Url>> {
    let (301 | 302 | 303 | 307 | 308, Some(location)) = (response.status().as_u16(), response.headers().get(LOCATION))
    else {
        return Ok(None);
    };
    let next = url.join(&String::from_utf8_lossy(location.as_bytes())).ok();
    match next.filter(|next| matches!(next.scheme(), "http" | "https") && next.as_str().len() <= MAX_URL_BYTES) {
        Some(next) => Ok(Some(next)),
        None => {
            Err(crawling(url, &format!("redirects to what is no http or https URL of at most {MAX_URL_BYTES} bytes")))
        }
    }
}

/// Reads the body, as far as it may be read.
async fn read(rules: &Rules<'_>, url: Url, mut response: Response) -> Result<Download> {
    let status = response.status().as_u16();
    let content_type = header(response.headers(), &CONTENT_TYPE);
    let retry_after = retry_after(response.headers());
    if let Some(essence) = content_type.as_deref().map(essence).filter(|found| !is_one_of(rules.content_types, found)) {
        let why = format!("answered {status} with the content type {}; expected {}", quoted(&essence), rules.expected);
        return Err(crawling(&url, &why));
    }
    // The client has removed the header where it decodes the body.
    if let Some(coding) = header(response.headers(), &CONTENT_ENCODING).filter(|coding| coding != "identity") {
        let why = format!("answered {status} in the encoding {}; expected gzip or br", quoted(&coding));
        return Err(crawling(&url, &why));
    }
    let (body, truncated) = read_body(&host_of(&url), &mut response, rules.max_bytes).await?;
    Ok(Download { url, status, content_type, body, truncated, retry_after })
}

/// At most `max` bytes of the decompressed body, and whether there are more.
///
/// # Errors
/// What [`request_failed`] makes of the failure.
pub(crate) async fn read_body(host: &str, response: &mut Response, max: usize) -> Result<(Vec<u8>, bool)> {
    // A length that is not true must not cost memory.
    let announced = response.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    let mut body = Vec::with_capacity(announced.min(max).min(1 << 20));
    while let Some(chunk) = response.chunk().await.map_err(|error| request_failed(host, &error))? {
        let room = max - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            return Ok((body, true));
        }
    }
    Ok((body, false))
}

/// How long a server asks to be left alone, if it says so in seconds.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    header(headers, &RETRY_AFTER)?.parse().ok().map(Duration::from_secs)
}

/// Text of `body`; bytes that stand for nothing become U+FFFD, except for a character that the end cuts in two.
pub(crate) fn decode(charset: &'static Encoding, body: &[u8], whole: bool) -> String {
    let mut decoder = charset.new_decoder();
    // The length can only overflow for a body that fills the memory.
    let mut text = String::with_capacity(decoder.max_utf8_buffer_length(body.len()).unwrap_or(body.len()));
    let _ = decoder.decode_to_string(body, &mut text, whole);
    text.shrink_to_fit();
    text
}

/// Whether a content type is one of those that are read.
fn is_one_of(patterns: &[String], essence: &str) -> bool {
    patterns.iter().map(|pattern| pattern.to_ascii_lowercase()).any(|pattern| {
        match (pattern.strip_suffix('*'), pattern.starts_with('+')) {
            (Some(prefix), _) => essence.starts_with(prefix),
            (None, true) => essence.ends_with(&pattern),
            (None, false) => essence == pattern,
        }
    })
}

/// A content type without its parameters.
pub(crate) fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The encoding that a content type names, if it is known.
pub(crate) fn charset(content_type: &str) -> Option<&'static Encoding> {
    let mut parameters = content_type.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let (_, label) = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))?;
    Encoding::for_label(label.trim().trim_matches(['"', '\'']).as_bytes())
}

/// A header as text, if it is there and not empty.
fn header(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let value = String::from_utf8_lossy(headers.get(name)?.as_bytes()).trim().to_owned();
    Some(value).filter(|value| !value.is_empty())
}

/// The failure of a request to `host`: which step failed, and nothing of how the server is connected.
pub(crate) fn request_failed(host: &str, error: &reqwest::Error) -> ToolError {
    let causes = || successors(error.source(), |error| cause(*error));
    let tls = causes().find_map(|error| error.downcast_ref::<rustls::Error>());
    let mut io_errors = causes().filter_map(|error| error.downcast_ref::<io::Error>());
    if error.is_timeout() || io_errors.any(|error| error.kind() == io::ErrorKind::TimedOut) {
        return ToolError::new(ErrorCode::TIMEOUT_ERROR, format!("{host} does not answer"));
    }
    let (reason, message) = match tls {
        Some(rustls::Error::InvalidCertificate(_)) => {
            ("certificate", format!("the certificate of {host} is not valid"))
        }
        Some(_) => ("tls", format!("{host} does not speak TLS as expected")),
        None if error.is_connect() => ("connect", format!("{host} takes no connection")),
        None if error.is_decode() => ("body", format!("the body that {host} sent is damaged")),
        None => ("connection", format!("the connection to {host} broke before the answer was whole")),
    };
    ToolError::new(ErrorCode::API_REQUEST_FAILED, message).with_reason(reason)
}

/// What an error stems from.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    // An I/O error hides what it holds from `source`.
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(held) => Some(held),
        None => error.source(),
    }
}

/// An answer that cannot be used.
pub(crate) fn crawling(url: &Url, why: &str) -> ToolError {
    ToolError::new(ErrorCode::CRAWLING_ERROR, format!("{} {why}", host_of(url)))
}

/// The host of a URL as errors name it.
pub(crate) fn host_of(url: &Url) -> String {
    quoted(url.host_str().unwrap_or_default())
}

/// A word in backticks, cut where it is longer than an error should be.
pub(crate) fn quoted(word: &str) -> String {
    format!("`{}`", word.chars().take(MAX_QUOTED_CHARS).collect::<String>())
}

/// Reads a number of seconds that a timer takes.
pub(crate) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    if Duration::try_from_secs_f64(seconds).is_ok_and(|duration| !duration.is_zero()) {
        return Ok(seconds);
    }
    Err(D::Error::custom(format!("expected a number of seconds above 0, found {seconds}")))
}

/// Reads a text that can be sent as a header.
pub(crate) fn header_value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    match HeaderValue::from_str(&text) {
        Ok(_) => Ok(text),
        Err(_) => Err(D::Error::custom(format!("expected visible ASCII characters, found `{text}`"))),
    }
}
