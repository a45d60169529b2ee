//! Visits: fetches a page, and makes of it what a model reads.

use std::{sync::LazyLock, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use encoding_rs::UTF_8;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderName, HeaderValue};
use sandbox_runtime::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::{
    Shared,
    client::{Refusal, Request, Service, unreadable},
    config::{VisitMethod, WebConfig},
};
use crate::{
    api::budget::fingerprint,
    outbound::{Download, Rules, charset, crawling, decode, download, essence, host_of, parse},
    reader::{Flaw, Form, Kind, Task, Unreadable},
};

const JINA: Service = Service { name: "the Jina reader", setting: "jina_api_key" };

/// A pause that is longer than this is not waited for.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// What a visit can read; what an octet stream is shows its beginning.
static CONTENT_TYPES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let types = ["text/*", "application/xhtml+xml", "application/pdf", "application/octet-stream", "application/json"];
    let code = ["application/xml", "application/javascript", "application/x-javascript", "application/yaml"];
    let suffixes = ["application/x-ndjson", "+json", "+xml", "+yaml"];
    types.into_iter().chain(code).chain(suffixes).map(str::to_owned).collect()
});

/// In which form a page is wanted.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WantedFormat {
    /// The article of the page, or all of it but its frame, with headings, links, tables and code.
    #[default]
    Markdown,
    /// The same as plain text.
    Text,
    /// The page as it was sent.
    Html,
}

/// The form of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Markdown.
    Markdown,
    /// Plain text; of a PDF with a line `[page N]` before each page.
    Text,
    /// HTML.
    Html,
    /// JSON.
    Json,
    /// A summary towards the goal, written by a model.
    Summary,
}

/// A page that was read.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) final_url: String,
    pub(super) status: u16,
    pub(super) title: Option<String>,
    pub(super) content: String,
    pub(super) format: Format,
    /// Whether the server sent more than is read.
    pub(super) cut: bool,
    /// Of the content, for cursors.
    pub(super) print: String,
}

impl Page {
    fn new(url: &Url, status: u16, format: Format, title: Option<String>, content: String, cut: bool) -> Self {
        let print = fingerprint(&content);
        Self { final_url: url.to_string(), status, title, content, format, cut, print }
    }
}

/// Reads a page, by the configured way, within the time limit.
///
/// # Errors
/// `INVALID_URL_FORMAT`, `PERMISSION_DENIED` (a private address, credentials), `API_REQUEST_FAILED` (no connection, or the
/// Jina reader refuses), `CRAWLING_ERROR` (an answer that cannot be read), `TIMEOUT_ERROR`.
pub(super) async fn visit(
    config: &WebConfig,
    shared: &Shared,
    context: &ToolContext,
    parameter: &str,
    url: &str,
    format: WantedFormat,
) -> Result<Page> {
    let url = parse(parameter, url)?;
    let host = format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
    let worker = context.worker();
    let visit = async {
        let _own = shared.hosts_of_worker.turn(&format!("{worker} {host}")).await?;
        let _turn = shared.hosts.turn(&host).await?;
        match config.visit_method {
            VisitMethod::Direct => Ok(Fetched::Body(direct(config, url.clone()).await?)),
            VisitMethod::Jina => Ok(Fetched::Page(jina(config, shared, context, &url, format).await?)),
        }
    };
    match tokio::time::timeout(config.timeout(), visit).await {
        // What a page is made of is not the site's fault: reading it has a limit of its own.
        Ok(Ok(Fetched::Body(download))) => read(shared, worker, download, format).await,
        Ok(Ok(Fetched::Page(page))) => Ok(page),
        Ok(Err(error)) => Err(error),
        Err(_) => {
            let message = format!("{} sent no whole page within {} s", host_of(&url), config.timeout_seconds);
            Err(ToolError::new(ErrorCode::TIMEOUT_ERROR, message))
        }
    }
}

/// What was fetched.
enum Fetched {
    /// As the site sent it.
    Body(Download),
    /// As the Jina reader made it.
    Page(Page),
}

/// Fetches a page from its own server, again if that is busy or away.
async fn direct(config: &WebConfig, url: Url) -> Result<Download> {
    let rules = Rules {
        timeout: config.timeout(),
        max_bytes: config.max_bytes as usize,
        max_redirects: config.max_redirects,
        user_agent: &config.user_agent,
        accept: "text/html,application/xhtml+xml,application/pdf,application/json,text/*;q=0.9,*/*;q=0.5",
        allow_private: &config.allow_private,
        content_types: &CONTENT_TYPES,
        expected: "a page, a text, JSON or a PDF",
    };
    let pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(250))
        .with_max_delay(MAX_PAUSE)
        .with_jitter()
        .with_max_times(config.retries.into());
    let busy = |download: &Download| {
        matches!(download.status, 429 | 502 | 503 | 504) && download.retry_after.is_none_or(|pause| pause <= MAX_PAUSE)
    };
    // What is still busy at the end is a page of that status.
    let fetch = || async {
        match download(&rules, url.clone()).await {
            Ok(download) if busy(&download) => Err(Ok(download)),
            Ok(download) => Ok(download),
            Err(error) => Err(Err(error)),
        }
    };
    let fetched = fetch
        .retry(pauses)
        .when(|failure: &Result<Download>| match failure {
            Ok(_) => true,
            Err(error) => matches!(error.body().reason.as_deref(), Some("connect" | "connection")),
        })
        .adjust(|failure, pause| {
            pause.map(|pause| failure.as_ref().ok().and_then(|download| download.retry_after).unwrap_or(pause))
        })
        .await;
    match fetched {
        Ok(download) | Err(Ok(download)) => Ok(download),
        Err(Err(error)) => Err(error),
    }
}

/// What a body is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Body {
    Html,
    Pdf,
    Plain(Format),
}

/// What a body is by its content type, or by how it begins.
fn recognize(essence: Option<&str>, body: &[u8]) -> Option<Body> {
    let begins = |mark: &str| {
        let body = body.trim_ascii_start();
        body.get(..mark.len()).is_some_and(|start| start.eq_ignore_ascii_case(mark.as_bytes()))
    };
    match essence {
        Some("text/html" | "application/xhtml+xml") => Some(Body::Html),
        Some("application/pdf") => Some(Body::Pdf),
        None | Some("application/octet-stream") if begins("%PDF-") => Some(Body::Pdf),
        None if begins("<!doctype html") || begins("<html") => Some(Body::Html),
        None | Some("application/octet-stream") if body.contains(&0) => None,
        Some("text/markdown") => Some(Body::Plain(Format::Markdown)),
        Some(essence) if essence.ends_with("json") && essence != "application/x-ndjson" => {
            Some(Body::Plain(Format::Json))
        }
        _ => Some(Body::Plain(Format::Text)),
    }
}

/// Makes of a body what is wanted.
async fn read(shared: &Shared, worker: &WorkerId, download: Download, wanted: WantedFormat) -> Result<Page> {
    let Download { url, status, content_type, body, truncated: cut, .. } = download;
    let essence = content_type.as_deref().map(essence);
    let charset = content_type.as_deref().and_then(charset);
    let Some(kind) = recognize(essence.as_deref(), &body) else {
        return Err(crawling(&url, &format!("answered {status} with neither a page nor a text")));
    };
    let form = if wanted == WantedFormat::Markdown { Form::Markdown } else { Form::Text };
    let (kind, format) = match (kind, wanted) {
        (Body::Html, WantedFormat::Html) => (None, Format::Html),
        (Body::Html, WantedFormat::Markdown) => (Some(Kind::Article), Format::Markdown),
        (Body::Html, WantedFormat::Text) => (Some(Kind::Article), Format::Text),
        (Body::Pdf, _) if cut => {
            return Err(crawling(&url, &format!("has a PDF that is larger than {} bytes", body.len())));
        }
        (Body::Pdf, _) => (Some(Kind::Pdf), Format::Text),
        (Body::Plain(format), _) => (None, format),
    };
    let Some(kind) = kind else {
        let content = decode(charset.unwrap_or(UTF_8), &body, !cut);
        return Ok(Page::new(&url, status, format, None, content, cut));
    };
    let task = Task { kind, form, charset: charset.map(|found| found.name().to_owned()), base: Some(url.to_string()) };
    let bytes = body.len();
    let _own = shared.readings_of_worker.turn(worker.as_str()).await?;
    let reading = shared.reader.read(task, body).await.map_err(|error| unreadable_page(&url, kind, &error))?;
    if reading.content.is_empty() && bytes > 0 && status < 400 {
        let why = "has a page without text; it may be made by scripts, which are not run here";
        return Err(crawling(&url, why).with_reason("no_text"));
    }
    Ok(Page::new(&url, status, format, reading.title, reading.content, cut))
}

fn unreadable_page(url: &Url, kind: Kind, error: &Unreadable) -> ToolError {
    let what = if kind == Kind::Pdf { "PDF" } else { "page" };
    let (reason, why) = match error {
        Unreadable::Flawed(Flaw::Malformed) => ("malformed", format!("has a {what} that is damaged")),
        Unreadable::Flawed(Flaw::Encrypted) => ("encrypted", format!("has a {what} that opens with a password only")),
        Unreadable::Flawed(Flaw::NoText) => {
            ("no_text", format!("has a {what} without text; its pages may be pictures"))
        }
        Unreadable::Flawed(Flaw::TooLong) => ("too_complex", format!("has a {what} with more text than is read")),
        Unreadable::Slow => ("too_complex", format!("has a {what} that takes too long to read")),
        Unreadable::Fatal => ("too_complex", format!("has a {what} that takes too much memory to read")),
        Unreadable::Broken(error) => {
            tracing::error!(%error, "the process that reads documents cannot be started");
            return ToolError::new(ErrorCode::INTERNAL_ERROR, "the process that reads documents cannot be started");
        }
    };
    crawling(url, &why).with_reason(reason)
}

/// What the Jina reader answers: <https://jina.ai/reader>.
#[derive(Deserialize)]
struct JinaAnswer {
    data: JinaPage,
}

#[derive(Deserialize)]
struct JinaPage {
    title: Option<String>,
    url: Option<String>,
    content: Option<String>,
    text: Option<String>,
    html: Option<String>,
    /// Such as `Target URL returned error 404: Not Found`.
    warning: Option<String>,
}

/// Has a page fetched by the Jina reader.
async fn jina(
    config: &WebConfig,
    shared: &Shared,
    context: &ToolContext,
    url: &Url,
    wanted: WantedFormat,
) -> Result<Page> {
    let denied = |why: &str| ToolError::new(ErrorCode::PERMISSION_DENIED, format!("{} {why}", host_of(url)));
    if !url.username().is_empty() || url.password().is_some() {
        return Err(denied("is asked for by a URL with credentials; expected one without"));
    }
    // A name cannot be judged from here: it is the reader that looks it up. What is in the URL can.
    let private = match url.host() {
        Some(Host::Ipv4(ip)) => !crate::address::is_public(ip.into()),
        Some(Host::Ipv6(ip)) => !crate::address::is_public(ip.into()),
        Some(Host::Domain(name)) => name == "localhost" || !name.contains('.'),
        None => true,
    };
    if private {
        return Err(denied("is an address that is not public").with_reason("private_address"));
    }
    let address = format!("{}{url}", config.jina_url.with("/"));
    let mut request = Request::new(Url::parse(&address).map_err(|_| denied("cannot be asked of the Jina reader"))?);
    request.headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    let (form, format) = match wanted {
        WantedFormat::Markdown => ("markdown", Format::Markdown),
        WantedFormat::Text => ("text", Format::Text),
        WantedFormat::Html => ("html", Format::Html),
    };
    request.headers.insert(HeaderName::from_static("x-return-format"), HeaderValue::from_static(form));
    if let Some(key) = &config.jina_api_key {
        request = request.key(AUTHORIZATION, "Bearer ", key);
    }
    // What it cannot fetch it answers with these.
    let explain = |refusal: &Refusal| {
        let unfetched = matches!(refusal.status, 400 | 404 | 409 | 422 | 451);
        let said = if refusal.words.is_empty() { String::new() } else { format!(": {}", refusal.words) };
        unfetched.then(|| crawling(url, &format!("cannot be read by the Jina reader (HTTP {}){said}", refusal.status)))
    };
    let answer: JinaAnswer = shared.client.ask(context, JINA, request, explain).await?;
    let page = answer.data;
    let status =
        page.warning.as_deref().and_then(|warning| warning.split_once("returned error ")?.1.get(..3)?.parse().ok());
    let text = match wanted {
        WantedFormat::Markdown => page.content,
        WantedFormat::Text => page.text.or(page.content),
        WantedFormat::Html => page.html.or(page.content),
    };
    let text = text.ok_or_else(|| unreadable("the answer of the Jina reader has no content".to_owned()))?;
    let found = page.url.as_deref().and_then(|found| Url::parse(found).ok());
    Ok(Page::new(found.as_ref().unwrap_or(url), status.unwrap_or(200), format, page.title, text, false))
}
