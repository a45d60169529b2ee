//! Search services: what each is asked and how it answers, by its documentation.
//!
//! - Serper: <https://serper.dev/playground>
//! - Brave Search: <https://api-dashboard.search.brave.com/app/documentation>
//! - Tavily: <https://docs.tavily.com/documentation/api-reference/endpoint/search>
//! - SearXNG: <https://docs.searxng.org/dev/search_api.html>

use reqwest::header::{AUTHORIZATION, HeaderName};
use sandbox_runtime::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    client::{ApiClient, Refusal, Request, Service},
    config::{Base, Provider, Secret, WebConfig},
};

const SERPER: Service = Service { name: "Serper", setting: "serper_api_key" };
const BRAVE: Service = Service { name: "Brave Search", setting: "brave_api_key" };
const TAVILY: Service = Service { name: "Tavily", setting: "tavily_api_key" };
const SEARXNG: Service = Service { name: "SearXNG", setting: "searxng_url" };

const SERPER_KEY: HeaderName = HeaderName::from_static("x-api-key");
const BRAVE_KEY: HeaderName = HeaderName::from_static("x-subscription-token");

/// A page that a search found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Hit {
    /// Its title.
    title: String,
    /// Its URL, for `web:visit`.
    url: String,
    /// The part of it that fits the query.
    snippet: String,
    /// Its rank, from 1.
    position: usize,
}

/// A picture that a search found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[expect(clippy::struct_field_names, reason = "a picture has several URLs")]
pub struct Image {
    /// Its title.
    title: String,
    /// The URL of the picture; null if only a small one is known.
    image_url: Option<String>,
    /// The URL of a small version.
    thumbnail_url: Option<String>,
    /// The URL of the page that shows it.
    page_url: Option<String>,
    /// The site that shows it.
    source: Option<String>,
    /// Pixels from left to right, where the provider says.
    width: Option<u32>,
    /// Pixels from top to bottom, where the provider says.
    height: Option<u32>,
    /// Its rank, from 1.
    position: usize,
}

impl Hit {
    /// Characters, about, in an answer.
    pub(super) fn size(&self) -> usize {
        64 + self.title.len() + self.url.len() + self.snippet.len()
    }
}

impl Image {
    /// Characters, about, in an answer.
    pub(super) fn size(&self) -> usize {
        let parts = [&self.image_url, &self.thumbnail_url, &self.page_url, &self.source];
        128 + self.title.len() + parts.iter().filter_map(|part| part.as_deref().map(str::len)).sum::<usize>()
    }
}

/// How old a hit may be.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TimeRange {
    /// Of the last 24 hours.
    Day,
    /// Of the last seven days.
    Week,
    /// Of the last month.
    Month,
    /// Of the last year.
    Year,
}

impl TimeRange {
    fn word(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }
}

/// What is looked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Query {
    pub(super) text: String,
    pub(super) count: u32,
    pub(super) time_range: Option<TimeRange>,
}

/// A service with what it takes to ask it.
struct Access<'a> {
    service: Service,
    base: Base,
    key: Option<&'a Secret>,
}

impl Access<'_> {
    /// A request to a path, with the key where the service expects it.
    fn request(&self, path: &str) -> Request {
        let request = Request::new(self.base.with(path));
        match (self.key, self.service.setting) {
            (Some(key), "serper_api_key") => request.key(SERPER_KEY, "", key),
            (Some(key), "brave_api_key") => request.key(BRAVE_KEY, "", key),
            (Some(key), _) => request.key(AUTHORIZATION, "Bearer ", key),
            (None, _) => request,
        }
    }
}

/// How the configured provider is reached.
fn access(config: &WebConfig, provider: Provider) -> Result<Access<'_>> {
    let (service, key, url) = match provider {
        Provider::Serper => (SERPER, &config.serper_api_key, "https://google.serper.dev"),
        Provider::Brave => (BRAVE, &config.brave_api_key, "https://api.search.brave.com"),
        Provider::Tavily => (TAVILY, &config.tavily_api_key, "https://api.tavily.com"),
        Provider::Searxng => {
            let base = config.base_url.as_ref().or(config.searxng_url.as_ref());
            let base = base.cloned().ok_or_else(|| not_configured(SEARXNG))?;
            return Ok(Access { service: SEARXNG, base, key: None });
        }
    };
    let key = key.as_ref().filter(|key| !key.expose().is_empty()).ok_or_else(|| not_configured(service))?;
    // The address that is set is that of the provider that is set.
    let base = config.base_url.as_ref().filter(|_| provider == config.provider);
    Ok(Access { service, base: base.cloned().unwrap_or_else(|| Base::known(url)), key: Some(key) })
}

/// Whether searches have what they need.
///
/// # Errors
/// `API_KEY_NOT_CONFIGURED`, naming the setting.
pub(super) fn is_configured(config: &WebConfig) -> Result<()> {
    access(config, config.provider).map(drop)
}

fn not_configured(service: Service) -> ToolError {
    let Service { name, setting } = service;
    let message = format!("{name} needs `apis.websearch.{setting}`, which this server does not have");
    ToolError::new(ErrorCode::API_KEY_NOT_CONFIGURED, message)
}

/// Refusals that mean something else than their status at one of the services.
fn explain(service: Service) -> impl Fn(&Refusal) -> Option<ToolError> {
    move |refusal| {
        let failed = |reason: &str, message: String| {
            Some(ToolError::new(ErrorCode::API_REQUEST_FAILED, message).with_reason(reason))
        };
        let words = refusal.words.to_ascii_lowercase();
        match (service.setting, refusal.status) {
            ("brave_api_key", 422) if words.contains("token") => {
                failed("unauthorized", "Brave Search does not accept the key in `brave_api_key` (HTTP 422)".to_owned())
            }
            ("serper_api_key", 400) if words.contains("credits") => {
                failed("quota", "the plan at Serper is used up (HTTP 400)".to_owned())
            }
            ("searxng_url", 403) => {
                let message =
                    "SearXNG does not answer in JSON (HTTP 403): add `json` to `search.formats` of its settings";
                failed("unauthorized", message.to_owned())
            }
            _ => None,
        }
    }
}

/// Finds pages.
pub(super) async fn search(
    config: &WebConfig,
    client: &ApiClient,
    context: &ToolContext,
    query: &Query,
) -> Result<Vec<Hit>> {
    let access = access(config, config.provider)?;
    let hits: Vec<RawHit> = match config.provider {
        Provider::Serper => {
            ask::<SerperPages>(client, context, &access, serper(&access, "/search", query)).await?.organic
        }
        Provider::Brave => {
            let mut request = brave(&access, "/res/v1/web/search", query);
            // Marks around words that fit are of no use to a model.
            request.url.query_pairs_mut().append_pair("text_decorations", "false");
            let found = ask::<BravePages>(client, context, &access, request).await?;
            found.web.unwrap_or_default().results
        }
        Provider::Tavily => {
            let mut body = json!({ "query": query.text, "max_results": query.count });
            if let Some(range) = query.time_range {
                body["time_range"] = range.word().into();
            }
            ask::<Results<RawHit>>(client, context, &access, access.request("/search").json(body)).await?.results
        }
        Provider::Searxng => {
            ask::<Results<RawHit>>(client, context, &access, searxng(&access, query, None)).await?.results
        }
    };
    let with_address = hits.into_iter().filter_map(|mut hit| Some((hit.url.take().or(hit.link.take())?, hit)));
    let hit = |(index, (url, hit)): (usize, (String, RawHit))| Hit {
        title: text(hit.title).unwrap_or_default(),
        url,
        snippet: text(hit.snippet.or(hit.description).or(hit.content)).unwrap_or_default(),
        position: index + 1,
    };
    Ok(with_address.take(query.count as usize).enumerate().map(hit).collect())
}

/// Finds pictures.
pub(super) async fn images(
    config: &WebConfig,
    client: &ApiClient,
    context: &ToolContext,
    query: &Query,
) -> Result<Vec<Image>> {
    let access = access(config, config.provider)?;
    let images: Vec<Image> = match config.provider {
        Provider::Serper => {
            let found = ask::<SerperImages>(client, context, &access, serper(&access, "/images", query)).await?;
            found.images.into_iter().map(SerperImage::into_image).collect()
        }
        Provider::Brave => {
            let request = brave(&access, "/res/v1/images/search", query);
            let found = ask::<Results<BraveImage>>(client, context, &access, request).await?;
            found.results.into_iter().map(BraveImage::into_image).collect()
        }
        Provider::Tavily => {
            let body = json!({
                "query": query.text, "max_results": query.count, "include_images": true,
                "include_image_descriptions": true,
            });
            let found = ask::<TavilyImages>(client, context, &access, access.request("/search").json(body)).await?;
            found.images.into_iter().map(TavilyImage::into_image).collect()
        }
        Provider::Searxng => {
            let found = ask::<Results<SearxngImage>>(client, context, &access, searxng(&access, query, Some("images")));
            found.await?.results.into_iter().map(SearxngImage::into_image).collect()
        }
    };
    Ok(ranked(images, query.count))
}

/// Finds pages that show a picture. Only Google Lens, by way of Serper, does that.
pub(super) async fn reverse_images(
    config: &WebConfig,
    client: &ApiClient,
    context: &ToolContext,
    image_url: &str,
    count: u32,
) -> Result<Vec<Image>> {
    let access = access(config, Provider::Serper)?;
    let request = access.request("/lens").json(json!({ "url": image_url }));
    let found = ask::<SerperLens>(client, context, &access, request).await?;
    Ok(ranked(found.organic.into_iter().map(SerperImage::into_image).collect(), count))
}

async fn ask<T: serde::de::DeserializeOwned>(
    client: &ApiClient,
    context: &ToolContext,
    access: &Access<'_>,
    request: Request,
) -> Result<T> {
    client.ask(context, access.service, request, explain(access.service)).await
}

fn serper(access: &Access<'_>, path: &str, query: &Query) -> Request {
    let mut body = json!({ "q": query.text, "num": query.count });
    if let Some(range) = query.time_range {
        body["tbs"] = format!("qdr:{}", &range.word()[..1]).into();
    }
    access.request(path).json(body)
}

fn brave(access: &Access<'_>, path: &str, query: &Query) -> Request {
    let mut request = access.request(path);
    let mut pairs = request.url.query_pairs_mut();
    pairs.append_pair("q", &query.text).append_pair("count", &query.count.to_string());
    if let Some(range) = query.time_range {
        pairs.append_pair("freshness", &format!("p{}", &range.word()[..1]));
    }
    drop(pairs);
    request
}

fn searxng(access: &Access<'_>, query: &Query, categories: Option<&str>) -> Request {
    let mut request = access.request("/search");
    let mut pairs = request.url.query_pairs_mut();
    pairs.append_pair("q", &query.text).append_pair("format", "json");
    if let Some(range) = query.time_range {
        pairs.append_pair("time_range", range.word());
    }
    if let Some(categories) = categories {
        pairs.append_pair("categories", categories);
    }
    drop(pairs);
    request
}

/// The first of the pictures that have an address, with their rank.
fn ranked(images: Vec<Image>, count: u32) -> Vec<Image> {
    let shown = images.into_iter().filter(|image| image.image_url.is_some() || image.thumbnail_url.is_some());
    shown.take(count as usize).enumerate().map(|(index, image)| Image { position: index + 1, ..image }).collect()
}

/// A text without its ends, unless there is nothing else.
fn text(text: Option<String>) -> Option<String> {
    text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// A hit under the names that the services have for its parts: Serper's `link` and `snippet`, Brave's `description`, the
/// others' `content`.
#[derive(Deserialize)]
struct RawHit {
    title: Option<String>,
    url: Option<String>,
    link: Option<String>,
    snippet: Option<String>,
    description: Option<String>,
    content: Option<String>,
}

#[derive(Deserialize)]
struct SerperPages {
    /// Left out where nothing is found.
    #[serde(default)]
    organic: Vec<RawHit>,
    /// Each answer has it; what has neither is not from Serper.
    #[serde(rename = "searchParameters")]
    _parameters: serde::de::IgnoredAny,
}

#[derive(Deserialize)]
struct BravePages {
    web: Option<Found<RawHit>>,
    /// `search`.
    #[serde(rename = "type")]
    _type: String,
}

/// A list that may be left out.
#[derive(Deserialize)]
struct Found<T> {
    #[serde(default = "Vec::new")]
    results: Vec<T>,
}

impl<T> Default for Found<T> {
    fn default() -> Self {
        Self { results: Vec::new() }
    }
}

/// A list that must be there.
#[derive(Deserialize)]
struct Results<T> {
    results: Vec<T>,
}

#[derive(Deserialize)]
struct SerperImages {
    #[serde(default)]
    images: Vec<SerperImage>,
    #[serde(rename = "searchParameters")]
    _parameters: serde::de::IgnoredAny,
}

#[derive(Deserialize)]
struct SerperLens {
    #[serde(default)]
    organic: Vec<SerperImage>,
    #[serde(rename = "searchParameters")]
    _parameters: serde::de::IgnoredAny,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SerperImage {
    title: Option<String>,
    image_url: Option<String>,
    image_width: Option<u32>,
    image_height: Option<u32>,
    thumbnail_url: Option<String>,
    source: Option<String>,
    link: Option<String>,
}

impl SerperImage {
    fn into_image(self) -> Image {
        Image {
            title: text(self.title).unwrap_or_default(),
            image_url: self.image_url,
            thumbnail_url: self.thumbnail_url,
            page_url: self.link,
            source: text(self.source),
            width: self.image_width,
            height: self.image_height,
            position: 0,
        }
    }
}

#[derive(Deserialize)]
struct BraveImage {
    title: Option<String>,
    url: Option<String>,
    source: Option<String>,
    thumbnail: Option<BraveThumbnail>,
    properties: Option<BraveProperties>,
}

#[derive(Deserialize)]
struct BraveThumbnail {
    src: Option<String>,
}

#[derive(Deserialize)]
struct BraveProperties {
    url: Option<String>,
    width: Option<u32>,
    height: Option<u32>,
}

impl BraveImage {
    fn into_image(self) -> Image {
        let (image_url, width, height) =
            self.properties.map_or((None, None, None), |picture| (picture.url, picture.width, picture.height));
        Image {
            title: text(self.title).unwrap_or_default(),
            image_url,
            thumbnail_url: self.thumbnail.and_then(|thumbnail| thumbnail.src),
            page_url: self.url,
            source: text(self.source),
            width,
            height,
            position: 0,
        }
    }
}

#[derive(Deserialize)]
struct TavilyImages {
    images: Vec<TavilyImage>,
}

/// A URL, or an object with one if descriptions are asked for.
#[derive(Deserialize)]
#[serde(untagged)]
enum TavilyImage {
    Plain(String),
    Described { url: String, description: Option<String> },
}

impl TavilyImage {
    fn into_image(self) -> Image {
        let (url, title) = match self {
            Self::Plain(url) => (url, None),
            Self::Described { url, description } => (url, description),
        };
        Image {
            title: text(title).unwrap_or_default(),
            image_url: Some(url),
            thumbnail_url: None,
            page_url: None,
            source: None,
            width: None,
            height: None,
            position: 0,
        }
    }
}

#[derive(Deserialize)]
struct SearxngImage {
    title: Option<String>,
    url: Option<String>,
    img_src: Option<String>,
    thumbnail_src: Option<String>,
    source: Option<String>,
    /// Such as `1920 x 1080`.
    resolution: Option<String>,
}

impl SearxngImage {
    fn into_image(self) -> Image {
        let sides = self.resolution.as_deref().and_then(|sides| sides.split_once(['x', '\u{d7}']));
        let side = |side: &str| side.trim().parse().ok();
        // Some engines leave out the scheme.
        let whole = |url: String| if url.starts_with("//") { format!("https:{url}") } else { url };
        Image {
            title: text(self.title).unwrap_or_default(),
            image_url: text(self.img_src).map(whole),
            thumbnail_url: text(self.thumbnail_src).map(whole),
            page_url: self.url,
            source: text(self.source),
            width: sides.and_then(|(width, _)| side(width)),
            height: sides.and_then(|(_, height)| side(height)),
            position: 0,
        }
    }
}
