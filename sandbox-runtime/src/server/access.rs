//! Who may talk to the server: origins, hosts, tokens.

use std::{collections::HashSet, sync::Arc};

use actix_web::{
    HttpMessage as _,
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method,
        header::{
            ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION,
            HOST, HeaderMap, HeaderValue, ORIGIN, TRANSFER_ENCODING, UPGRADE, VARY,
        },
    },
    web,
};
use sandbox_types::ErrorCode;
use sha2::{Digest, Sha256};

use super::lifeline::Activity;
use crate::{config::ServerConfig, error::ToolError};

/// What a page may read of a download beside its body.
const EXPOSED_HEADERS: &str = "accept-ranges, content-disposition, content-range, etag, repr-digest, x-execution-time-ms, \
                               x-session-id, x-trace-id, x-warning";

/// The rules, prepared.
pub(super) struct Access {
    /// SHA-256 of the tokens: a look-up by digest tells nothing by its time.
    tokens: HashSet<[u8; 32]>,
    hosts: Vec<String>,
    origins: Vec<String>,
    /// Where somebody wants to know when the server was used last.
    activity: Option<Arc<Activity>>,
}

/// Set on a request of an open route that came with a valid token, or needs none: it is told more.
#[derive(Clone, Copy)]
pub(super) struct Trusted;

impl Access {
    pub(super) fn new(config: &ServerConfig, activity: Option<Arc<Activity>>) -> Self {
        let loopback = ["localhost", "127.0.0.1", "[::1]", "::1"].map(str::to_owned).to_vec();
        let lower = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase()).collect::<Vec<_>>();
        Self {
            tokens: config.tokens.iter().map(|token| *token.as_bytes()).collect(),
            hosts: if config.allowed_hosts.is_empty() { loopback } else { lower(&config.allowed_hosts) },
            origins: lower(&config.allowed_origins),
            activity,
        }
    }

    /// No web page may drive a local server: its requests carry an `Origin`, or, by a name that was made to point
    /// here, a foreign `Host`.
    fn refuse_foreign(&self, headers: &HeaderMap) -> Result<(), ToolError> {
        if let Some(origin) = headers.get(ORIGIN)
            && !self.origins.iter().any(|known| origin.as_bytes().eq_ignore_ascii_case(known.as_bytes()))
        {
            let message = "this Origin is not among server.allowed_origins";
            return Err(ToolError::new(ErrorCode::PERMISSION_DENIED, message).with_reason("origin"));
        }
        if self.tokens.is_empty()
            && let Some(host) = headers.get(HOST)
        {
            let host = host.to_str().unwrap_or_default();
            let name = without_port(host);
            let is = |known: &String| known.eq_ignore_ascii_case(name) || known.eq_ignore_ascii_case(host);
            if !self.hosts.iter().any(is) {
                let message = "this Host is not among server.allowed_hosts";
                return Err(ToolError::new(ErrorCode::PERMISSION_DENIED, message).with_reason("host"));
            }
        }
        Ok(())
    }

    fn has_token(&self, headers: &HeaderMap) -> bool {
        if self.tokens.is_empty() {
            return true;
        }
        let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        token.is_some_and(|token| self.tokens.contains(&<[u8; 32]>::from(Sha256::digest(token))))
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    }
}

/// Why a request may not pass, and the web page that may be told so.
pub(super) struct Refused {
    pub(super) error: ToolError,
    pub(super) page: Option<HeaderValue>,
}

/// Whether a request may pass; the origin of the web page that it comes from, if it does.
///
/// # Errors
/// Why it may not.
pub(super) fn check(request: &ServiceRequest) -> Result<Option<HeaderValue>, Refused> {
    let refuse = |error, page| Err(Refused { error, page });
    let Some(access) = request.app_data::<web::Data<Access>>() else {
        return refuse(ToolError::new(ErrorCode::INTERNAL_ERROR, "the access rules are missing"), None);
    };
    let headers = request.headers();
    let is_socket =
        |value: &HeaderValue| value.as_bytes().to_ascii_lowercase().windows(9).any(|part| part == b"websocket");
    if headers.get_all(UPGRADE).any(is_socket) {
        // The HTTP library takes all that follows for the body of such a request, whatever length it has.
        let message = "expected no `Upgrade`: there are no WebSockets here";
        return refuse(ToolError::new(ErrorCode::INVALID_REQUEST_FORMAT, message), None);
    }
    if matches!(*request.method(), Method::GET | Method::HEAD) && headers.contains_key(TRANSFER_ENCODING) {
        // It may be without end, and nobody would read it.
        let message = format!("expected no body: {} takes none", request.method());
        return refuse(ToolError::new(ErrorCode::INVALID_REQUEST_FORMAT, message), None);
    }
    if let Err(error) = access.refuse_foreign(headers) {
        return refuse(error, None);
    }
    let page = headers.get(ORIGIN).cloned();
    if page.is_some() && request.method() == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        // A browser asks without the token whether it may send it.
        return Ok(page);
    }
    let trusted = access.has_token(headers);
    let path = request.path();
    let path = path.strip_prefix("/api/v1").unwrap_or(path);
    let open = matches!(path, "/health" | "/ready");
    match (trusted, open) {
        (false, false) => {
            let message = "a valid token is needed: Authorization: Bearer <token>";
            return refuse(ToolError::new(ErrorCode::UNAUTHENTICATED, message), page);
        }
        (true, true) => {
            request.extensions_mut().insert(Trusted);
        }
        (true, false) => {
            if let Some(activity) = &access.activity {
                activity.note();
            }
        }
        (false, true) => {}
    }
    Ok(page)
}

/// Names the page's origin in the answer, or its browser would keep it from the page.
pub(super) async fn for_page<B>(
    answer: impl Future<Output = Result<ServiceResponse<B>, actix_web::Error>>,
    page: HeaderValue,
) -> Result<ServiceResponse<B>, actix_web::Error> {
    let mut answer = answer.await?;
    name_page(answer.headers_mut(), page);
    Ok(answer)
}

/// The headers by which the browser lets the page read the answer.
pub(super) fn name_page(headers: &mut HeaderMap, page: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, page);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED_HEADERS));
    headers.append(VARY, HeaderValue::from_static("Origin"));
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderValue};

    use super::Access;
    use crate::config::ServerConfig;

    #[test]
    fn a_token_is_presented_plain_whichever_way_it_is_configured() {
        let hash = "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
        for configured in ["secret", hash] {
            let tokens = vec![configured.parse().expect("is right")];
            let access = Access::new(&ServerConfig { tokens, ..ServerConfig::default() }, None);
            let has = |presented: &str| {
                let value = HeaderValue::from_str(&format!("Bearer {presented}")).expect("is right");
                access.has_token(&HeaderMap::from_iter([(AUTHORIZATION, value)]))
            };
            assert!(has("secret") && !has("secreT") && !has(hash) && !has(""), "{configured}");
        }
    }

    #[test]
    fn a_port_is_no_part_of_a_host() {
        for (host, name) in [("localhost:80", "localhost"), ("[::1]:8080", "[::1]"), ("[::1]", "[::1]"), ("a.b", "a.b")]
        {
            assert_eq!(super::without_port(host), name);
        }
    }
}
