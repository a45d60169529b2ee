//! `web:fetch`: reads the text behind a URL without letting the caller reach the server's own network.

#[cfg(test)]
mod tests;

use std::time::Duration;

use encoding_rs::UTF_8;
use sandbox_runtime::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::outbound::{
    Allowed, Download, Rules, charset, crawling, decode, download, header_value, host_of, parse, seconds,
};

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
    let first = parse("url", &url)?;
    let host = host_of(&first);
    let rules = rules(config);
    let page = tokio::time::timeout(rules.timeout, async { read(download(&rules, first).await?) });
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

/// What a fetch may do.
fn rules(config: &FetchConfig) -> Rules<'_> {
    Rules {
        timeout: Duration::from_secs_f64(config.timeout_seconds),
        max_bytes: config.max_bytes,
        max_redirects: config.max_redirects,
        user_agent: &config.user_agent,
        accept: "*/*",
        allow_private: &config.allow_private,
        content_types: &config.content_types,
        expected: "a text type",
    }
}

/// Makes text of the body.
fn read(download: Download) -> Result<Page> {
    let Download { url, status, content_type, body, truncated, .. } = download;
    if content_type.is_none() && body.contains(&0) {
        return Err(crawling(&url, &format!("answered {status} with no content type and no text")));
    }
    let charset = content_type.as_deref().and_then(charset).unwrap_or(UTF_8);
    Ok(Page {
        url: String::new(),
        final_url: url.to_string(),
        status,
        content_type,
        text: decode(charset, &body, !truncated),
        bytes: body.len(),
        truncated,
    })
}
