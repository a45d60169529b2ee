//! TLS for every outgoing request.

use std::sync::{Arc, LazyLock};

use reqwest::{Client, ClientBuilder};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use sandbox_runtime::prelude::*;

/// Ciphers and roots, made once: reading the system's certificates takes milliseconds. TLS sessions are resumed across
/// the clients that share it.
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

/// The beginning of a client that speaks TLS.
///
/// # Errors
/// The TLS library has no safe version of the protocol.
pub(crate) fn client_builder() -> Result<ClientBuilder> {
    Ok(Client::builder().tls_backend_preconfigured(TLS.clone().map_err(|_| broken())?))
}

/// The library refuses what this program asks of it.
pub(super) fn broken() -> ToolError {
    ToolError::new(ErrorCode::INTERNAL_ERROR, "the HTTP client cannot be made")
}
