//! `apis.websearch`.

use std::{fmt, time::Duration};

use reqwest::header::HeaderValue;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use url::Url;

use crate::{
    api::bounds::within,
    outbound::{Allowed, header_value, seconds},
};

/// Which services answer, with which keys, and what a visit may do.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WebConfig {
    /// Who answers searches.
    pub(super) provider: Provider,
    /// The key for Serper; also `web:reverse_image_search` needs it.
    pub(super) serper_api_key: Option<Secret>,
    /// The key for Brave Search.
    pub(super) brave_api_key: Option<Secret>,
    /// The key for Tavily.
    pub(super) tavily_api_key: Option<Secret>,
    /// The address of a SearXNG instance whose `search.formats` has `json`; it needs no key.
    #[schemars(with = "Option<String>")]
    pub(super) searxng_url: Option<Base>,
    /// Another address for the provider's API, such as that of a proxy.
    #[schemars(with = "Option<String>")]
    pub(super) base_url: Option<Base>,
    /// The key for the Jina reader; without one it answers less often.
    pub(super) jina_api_key: Option<Secret>,
    /// The address of the Jina reader.
    #[schemars(with = "String")]
    pub(super) jina_url: Base,
    /// How pages are fetched: by this server, or by the Jina reader, which also runs their scripts.
    pub(super) visit_method: VisitMethod,
    /// Hits of a search that does not say how many; no provider gives more than 20 in one answer.
    #[schemars(range(min = 1, max = 20))]
    #[serde(deserialize_with = "within::<_, 1, 20>")]
    pub(super) max_results: u32,
    /// Characters of a page in an answer whose request does not say how many; the rest is fetched with a cursor.
    #[schemars(range(min = 1, max = 2_000_000))]
    #[serde(deserialize_with = "within::<_, 1, 2_000_000>")]
    pub(super) content_limit: u32,
    /// What may be visited although it is not public: hosts, `host:port`, IP addresses, `address:port` or CIDR blocks. A host
    /// is trusted with every address that its name has.
    #[schemars(with = "Vec<String>")]
    pub(super) allow_private: Vec<Allowed>,
    /// The model that sums up pages for a visit with a `goal`; without one a visit answers the page itself.
    pub(super) summary: Option<SummaryConfig>,
    /// Seconds for one search or one page, with redirects, retries and waiting for a turn; above 0.
    #[serde(deserialize_with = "seconds")]
    #[schemars(range(min = 0.001))]
    pub(super) timeout_seconds: f64,
    /// How often a request is made again that found the host busy or away.
    #[schemars(range(max = 10))]
    pub(super) retries: u8,
    /// Searches at the provider at once; others wait.
    #[schemars(range(min = 1))]
    #[serde(deserialize_with = "within::<_, 1, { u32::MAX }>")]
    pub(super) concurrent_searches: u32,
    /// Visits to one host at once; others wait.
    #[schemars(range(min = 1))]
    #[serde(deserialize_with = "within::<_, 1, { u32::MAX }>")]
    pub(super) per_host: u32,
    /// Bytes of a page, decompressed, that are read.
    pub(super) max_bytes: u32,
    /// Redirects that are followed.
    pub(super) max_redirects: u32,
    /// The header `User-Agent` of visits.
    #[serde(deserialize_with = "header_value")]
    pub(super) user_agent: String,
    /// Seconds that an answer is kept for the next who asks the same; 0 keeps none.
    pub(super) cache_seconds: u32,
    /// Memory for answers that are kept, in MiB.
    pub(super) cache_mib: u32,
}

impl Default for WebConfig {
    fn default() -> Self {
        Self {
            provider: Provider::Serper,
            serper_api_key: None,
            brave_api_key: None,
            tavily_api_key: None,
            searxng_url: None,
            base_url: None,
            jina_api_key: None,
            jina_url: Base::known("https://r.jina.ai/"),
            visit_method: VisitMethod::Direct,
            max_results: 10,
            content_limit: 40_000,
            allow_private: Vec::new(),
            summary: None,
            timeout_seconds: 30.0,
            retries: 2,
            concurrent_searches: 64,
            per_host: 4,
            max_bytes: 5 << 20,
            max_redirects: 5,
            user_agent: format!("Mozilla/5.0 (compatible; sandbox/{})", env!("CARGO_PKG_VERSION")),
            cache_seconds: 300,
            cache_mib: 32,
        }
    }
}

impl WebConfig {
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout_seconds)
    }
}

/// A search service.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// <https://serper.dev>: what Google finds.
    Serper,
    /// <https://api-dashboard.search.brave.com>.
    Brave,
    /// <https://docs.tavily.com>.
    Tavily,
    /// <https://docs.searxng.org>, an instance of one's own.
    Searxng,
}

impl Provider {
    /// Its name, as the configuration spells it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Serper => "serper",
            Self::Brave => "brave",
            Self::Tavily => "tavily",
            Self::Searxng => "searxng",
        }
    }
}

/// Who fetches pages.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VisitMethod {
    /// This server.
    Direct,
    /// <https://jina.ai/reader>.
    Jina,
}

/// A model behind an API like that of OpenAI.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SummaryConfig {
    /// The API's address, such as `https://api.openai.com/v1`; `/chat/completions` is added.
    #[schemars(with = "String")]
    pub(super) api_url: Base,
    /// The key, if it needs one.
    #[serde(default)]
    pub(super) api_key: Option<Secret>,
    /// The model's name.
    pub(super) model: String,
    /// Characters of a page that the model is shown.
    #[serde(default = "default_input")]
    pub(super) max_input_chars: u32,
    /// Seconds for a summary; above 0.
    #[serde(default = "default_summary_seconds", deserialize_with = "seconds")]
    #[schemars(range(min = 0.001))]
    pub(super) timeout_seconds: f64,
}

const fn default_input() -> u32 {
    100_000
}

const fn default_summary_seconds() -> f64 {
    30.0
}

/// A key: sent in a header, shown to nobody.
#[derive(Clone, JsonSchema)]
#[schemars(with = "String")]
pub(super) struct Secret(String);

impl Secret {
    pub(super) fn expose(&self) -> &str {
        &self.0
    }

    /// The header's value, which logs of the HTTP library leave out.
    pub(super) fn header(&self, prefix: &str) -> HeaderValue {
        // What cannot be sent was refused when it was read.
        let mut value = HeaderValue::from_str(&format!("{prefix}{}", self.0)).unwrap_or(HeaderValue::from_static(""));
        value.set_sensitive(true);
        value
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match HeaderValue::from_str(&text) {
            Ok(_) => Ok(Self(text)),
            // Without the key.
            Err(_) => Err(D::Error::custom("expected visible ASCII characters, found others")),
        }
    }
}

/// The address of an API: `http` or `https`, without credentials, a query or a fragment.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Base(Url);

impl Base {
    /// An address that is known to be one.
    #[expect(clippy::expect_used, reason = "a constant of this program")]
    pub(super) fn known(text: &str) -> Self {
        Self(Url::parse(text).expect("a URL"))
    }

    /// The address with a path added to its own.
    pub(super) fn with(&self, path: &str) -> Url {
        let mut url = self.0.clone();
        let own = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{own}{path}"));
        url
    }

    pub(super) fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl<'de> Deserialize<'de> for Base {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let plain = |url: &Url| {
            matches!(url.scheme(), "http" | "https")
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
        };
        // Without the text: what is no URL may be a key in the wrong place.
        let expected = "expected an http or https URL without credentials, query and fragment";
        Url::parse(&text).ok().filter(plain).map(Self).ok_or_else(|| D::Error::custom(expected))
    }
}
