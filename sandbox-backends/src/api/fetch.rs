//! `web:fetch`: reads the text behind a URL without letting the caller reach the server's own network.
//!
//! Each hop of a redirect chain is checked anew: the host is resolved once, every address must be public (or listed in
//! `allow_private`), and the connection goes to exactly those addresses. A second look-up could be answered otherwise.

mod guard;
#[cfg(test)]
mod tests;

use std::{
    error::Error,
    io,
    iter::successors,
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use encoding_rs::{Encoding, UTF_8};
use guard::Allowed;
use reqwest::{
    Client, Response,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION},
    redirect::Policy,
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use sandbox_runtime::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use url::{Host, Url};

/// The longest URL that is followed, in bytes; servers rarely take more.
const MAX_URL_BYTES: usize = 8192;

/// How much of a word that someone else chose is put into an error, in characters.
const MAX_QUOTED_CHARS: usize = 255;

/// The configuration of `web:fetch`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FetchConfig {
    /// Seconds for the whole fetch, redirects and body included; above 0.
    #[serde(deserialize_with = "seconds")]
    #[schemars(range(min = 0.001))]
    timeout_seconds: f64,
    /// Bytes of the decompressed body that are kept; what follows is not read.
    max_bytes: usize,
    /// Redirects that are followed.
    max_redirects: u32,
    /// The header `User-Agent`.
    #[serde(deserialize_with = "header_value")]
    user_agent: String,
    /// What may be reached although it is not public: hosts, `host:port`, IP addresses, `address:port` or CIDR blocks.
    /// A host is trusted with every address that its name has.
    #[schemars(with = "Vec<String>")]
    allow_private: Vec<Allowed>,
    /// Content types that are read: a type, a prefix that ends in `*`, or a suffix that starts with `+`.
    content_types: Vec<String>,
}

impl Default for FetchConfig {
    fn default() -> Self {
        let types = ["text/*", "application/json", "application/xml", "application/javascript"];
        let more = ["application/x-javascript", "application/yaml", "application/x-ndjson", "+json", "+xml", "+yaml"];
        Self {
            timeout_seconds: 20.0,
            max_bytes: 2 << 20,
            max_redirects: 5,
            user_agent: format!("Mozilla/5.0 (compatible; sandbox/{})", env!("CARGO_PKG_VERSION")),
            allow_private: Vec::new(),
            content_types: types.into_iter().chain(more).map(str::to_owned).collect(),
        }
    }
}

/// What `web:fetch` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Page {
    /// The URL that was asked for.
    url: String,
    /// The URL that answered, after redirects.
    final_url: String,
    /// The HTTP status; 400 and above are the site's refusal, `text` is then its error page.
    status: u16,
    /// The header `Content-Type`; null if the site sent none.
    content_type: Option<String>,
    /// The body as text.
    text: String,
    /// Bytes of the decompressed body that were read.
    bytes: usize,
    /// Whether the page has more text than `text`.
    truncated: bool,
}

/// Read a web page or another text behind an http or https URL. Redirects are followed; private addresses are refused.
#[tool(name = "web:fetch", config = "apis.fetch", read_only, idempotent)]
pub async fn fetch(
    config: &FetchConfig,
    cancel: &CancellationToken,
    /// An http or https URL without credentials.
    url: String,
    /// Characters of text to return at most; all by default.
    max_chars: Option<u32>,
) -> Result<Page> {
    let first = parse(&url)?;
    let host = quoted(first.host_str().unwrap_or_default());
    let limit = Duration::from_secs_f64(config.timeout_seconds);
    let page = tokio::time::timeout(limit, download(config, first));
    let mut page = match cancel.run_until_cancelled(page).await {
        None => return Err(ToolError::new(ErrorCode::CANCELLED, format!("the fetch from {host} was cancelled"))),
        Some(Err(_)) => {
            let message = format!("{host} sent no whole answer within {} s", config.timeout_seconds);
            return Err(ToolError::new(ErrorCode::TIMEOUT_ERROR, message));
        }
        Some(Ok(page)) => page?,
    };
    page.url = url;
    let cut = max_chars.and_then(|max| page.text.char_indices().nth(usize::try_from(max).unwrap_or(usize::MAX)));
    if let Some((end, _)) = cut {
        page.text.truncate(end);
        page.truncated = true;
    }
    Ok(page)
}

/// Follows redirects from `url` and reads the body at their end.
async fn download(config: &FetchConfig, mut url: Url) -> Result<Page> {
    for _ in 0..=config.max_redirects {
        let response = send(config, &url, check(config, &url).await?).await?;
        match redirect(&url, &response)? {
            Some(next) => url = next,
            None => return read(config, &url, response).await,
        }
    }
    Err(crawling(&url, &format!("is reached by more than {} redirects", config.max_redirects)))
}

/// The parameter `url`, if it is one that may be followed at all.
fn parse(text: &str) -> Result<Url> {
    let expected = || format!("an http or https URL of at most {MAX_URL_BYTES} bytes");
    let wrong = |found| ToolError::parameter(ErrorCode::INVALID_URL_FORMAT, "url", expected(), found);
    if text.len() > MAX_URL_BYTES {
        return Err(wrong(format!("{} bytes", text.len())));
    }
    // The parser's own words hold nothing of the URL, which may hold a secret.
    let url = Url::parse(text).map_err(|error| wrong(format!("what is no URL: {error}")))?;
    if matches!(url.scheme(), "http" | "https") { Ok(url) } else { Err(wrong("another scheme".to_owned())) }
}

/// The addresses of the URL's host, if the URL may be fetched from each of them.
async fn check(config: &FetchConfig, url: &Url) -> Result<Vec<SocketAddr>> {
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
    if may_reach(config, &name, &addresses) {
        return Ok(addresses);
    }
    Err(denied("is or leads to an address that is not public").with_reason("private_address"))
}

/// Whether the addresses that `name` resolved to may be connected to.
///
/// One private address among public ones is enough to refuse: which one is tried is not ours to say.
fn may_reach(config: &FetchConfig, name: &str, addresses: &[SocketAddr]) -> bool {
    addresses.iter().all(|address| {
        let (ip, port) = (address.ip(), address.port());
        crate::address::is_public(ip) || config.allow_private.iter().any(|entry| entry.allows(name, ip, port))
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

/// Ciphers and roots, made once: reading the system's certificates takes milliseconds.
///
/// TLS sessions are all that calls share. A connection belongs to the runtime that opened it, and tools run on several;
/// it also was checked for one configuration. So each hop has a client of its own, which costs microseconds.
static TLS: LazyLock<Result<ClientConfig, rustls::Error>> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        // A slim container has no certificates of its own.
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let mut tls = builder.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
});

/// Asks for the URL at one of the addresses and returns with the head of the answer.
async fn send(config: &FetchConfig, url: &Url, addresses: Vec<SocketAddr>) -> Result<Response> {
    let broken = || ToolError::new(ErrorCode::INTERNAL_ERROR, "the HTTP client cannot be made");
    let client = Client::builder()
        .tls_backend_preconfigured(TLS.clone().map_err(|_| broken())?)
        .dns_resolver(Pinned(addresses))
        .redirect(Policy::none())
        .no_proxy()
        .referer(false)
        .pool_max_idle_per_host(0)
        .user_agent(&config.user_agent)
        // Half, so that a dead address leaves time for the next; the connector divides it among them.
        .connect_timeout(Duration::from_secs_f64(config.timeout_seconds / 2.0))
        .build()
        .map_err(|_| broken())?;
    client.get(url.clone()).send().await.map_err(|error| request_failed(url, &error))
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

/// Reads the body, as far as it may be read, and makes text of it.
async fn read(config: &FetchConfig, url: &Url, mut response: Response) -> Result<Page> {
    let status = response.status().as_u16();
    let content_type = header(response.headers(), &CONTENT_TYPE);
    let essence = content_type.as_deref().map(essence);
    if let Some(essence) = essence.as_deref().filter(|essence| !is_text(&config.content_types, essence)) {
        let why = format!("answered {status} with the content type {}; expected a text type", quoted(essence));
        return Err(crawling(url, &why));
    }
    // The client has removed the header where it decodes the body.
    if let Some(coding) = header(response.headers(), &CONTENT_ENCODING).filter(|coding| coding != "identity") {
        let why = format!("answered {status} in the encoding {}; expected gzip or br", quoted(&coding));
        return Err(crawling(url, &why));
    }
    let (mut body, mut truncated) = (Vec::new(), false);
    while let Some(chunk) = response.chunk().await.map_err(|error| request_failed(url, &error))? {
        let room = config.max_bytes - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            truncated = true;
            break;
        }
    }
    if essence.is_none() && body.contains(&0) {
        return Err(crawling(url, &format!("answered {status} with no content type and no text")));
    }
    let charset = content_type.as_deref().and_then(charset).unwrap_or(UTF_8);
    let text = decode(charset, &body, !truncated);
    Ok(Page {
        url: String::new(),
        final_url: url.to_string(),
        status,
        content_type,
        text,
        bytes: body.len(),
        truncated,
    })
}

/// Text of `body`; bytes that stand for nothing become U+FFFD, except for a character that the end cuts in two.
fn decode(charset: &'static Encoding, body: &[u8], whole: bool) -> String {
    let mut decoder = charset.new_decoder();
    // The length can only overflow for a body that fills the memory.
    let mut text = String::with_capacity(decoder.max_utf8_buffer_length(body.len()).unwrap_or(body.len()));
    let _ = decoder.decode_to_string(body, &mut text, whole);
    text.shrink_to_fit();
    text
}

/// Whether a content type is one of those that are read.
fn is_text(patterns: &[String], essence: &str) -> bool {
    patterns.iter().map(|pattern| pattern.to_ascii_lowercase()).any(|pattern| {
        match (pattern.strip_suffix('*'), pattern.starts_with('+')) {
            (Some(prefix), _) => essence.starts_with(prefix),
            (None, true) => essence.ends_with(&pattern),
            (None, false) => essence == pattern,
        }
    })
}

/// A content type without its parameters.
fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The encoding that a content type names, if it is known.
fn charset(content_type: &str) -> Option<&'static Encoding> {
    let mut parameters = content_type.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let (_, label) = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))?;
    Encoding::for_label(label.trim().trim_matches(['"', '\'']).as_bytes())
}

/// A header as text, if it is there and not empty.
fn header(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let value = String::from_utf8_lossy(headers.get(name)?.as_bytes()).trim().to_owned();
    Some(value).filter(|value| !value.is_empty())
}

/// The failure of a request: which step failed, and nothing of how the server is connected.
fn request_failed(url: &Url, error: &reqwest::Error) -> ToolError {
    let host = host_of(url);
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
fn crawling(url: &Url, why: &str) -> ToolError {
    ToolError::new(ErrorCode::CRAWLING_ERROR, format!("{} {why}", host_of(url)))
}

/// The host of a URL as errors name it.
fn host_of(url: &Url) -> String {
    quoted(url.host_str().unwrap_or_default())
}

/// A word in backticks, cut where it is longer than an error should be.
fn quoted(word: &str) -> String {
    format!("`{}`", word.chars().take(MAX_QUOTED_CHARS).collect::<String>())
}

/// Reads a number of seconds that a timer takes.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    if Duration::try_from_secs_f64(seconds).is_ok_and(|duration| !duration.is_zero()) {
        return Ok(seconds);
    }
    Err(D::Error::custom(format!("expected a number of seconds above 0, found {seconds}")))
}

/// Reads a text that can be sent as a header.
fn header_value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    match HeaderValue::from_str(&text) {
        Ok(_) => Ok(text),
        Err(_) => Err(D::Error::custom(format!("expected visible ASCII characters, found `{text}`"))),
    }
}
