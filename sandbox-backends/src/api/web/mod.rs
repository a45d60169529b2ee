//! `web`: finds pages and pictures, and reads pages.
//!
//! A shared backend, on when `apis.websearch` is there: its tools share connections, turns at hosts, the processes that
//! read documents, and what was found within the last minutes.

mod client;
mod config;
mod providers;
mod summary;
mod visit;

use std::{future::Future, hash::Hash, sync::Arc, time::Duration};

use client::ApiClient;
pub use config::{Provider, SummaryConfig, VisitMethod, WebConfig};
use futures_util::future::join_all;
use moka::future::Cache;
pub use providers::{Hit, Image, TimeRange};
use providers::{Query, images, reverse_images, search};
use sandbox_runtime::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
pub use visit::{Format, WantedFormat};
use visit::{Page, visit};

use crate::{
    api::{budget, turns::Turns},
    outbound::parse,
    reader::Reader,
};

/// How long a page may take to read.
const READING_LIMIT: Duration = Duration::from_secs(10);

/// Documents that are read at once for one worker; there are turns for at least one more.
const READINGS_OF_WORKER: u32 = 2;

/// The backend.
pub struct WebBackend {
    config: WebConfig,
}

/// What its calls share.
pub struct Shared {
    client: ApiClient,
    /// Turns at the provider.
    searches: Semaphore,
    /// Turns at the hosts of pages.
    hosts: Turns,
    /// Those of one worker, which must leave some to the others.
    hosts_of_worker: Turns,
    /// Documents of one worker that are being read, for the same reason.
    readings_of_worker: Turns,
    reader: Reader,
    kept: Cache<Question, Kept>,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Question {
    Search(Query),
    Images(Query),
    ReverseImages(String, u32),
    Page(String, WantedFormat),
}

impl Question {
    /// Bytes in memory, about.
    fn weight(&self) -> usize {
        match self {
            Self::Search(query) | Self::Images(query) => query.text.len(),
            Self::ReverseImages(url, _) | Self::Page(url, _) => url.len(),
        }
    }
}

/// What was found.
#[derive(Clone)]
enum Kept {
    Hits(Arc<Vec<Hit>>),
    Images(Arc<Vec<Image>>),
    Page(Arc<Page>),
}

impl Kept {
    /// Bytes in memory, about.
    fn weight(&self) -> usize {
        match self {
            Self::Hits(hits) => hits.iter().map(Hit::size).sum(),
            Self::Images(images) => images.iter().map(Image::size).sum(),
            Self::Page(page) => page.content.len() + page.final_url.len() + page.title.as_deref().map_or(0, str::len),
        }
    }
}

/// What `web:search` answers for one query.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Search {
    /// The query.
    query: String,
    /// What was found, best first; empty if nothing was.
    results: Vec<Hit>,
    /// Who searched.
    provider: &'static str,
    /// Whether there are results for which `max_chars` had no room.
    truncated: bool,
    /// Where the others begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// What `web:image_search` and `web:reverse_image_search` answer.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ImageSearch {
    /// The query, or the URL of the picture.
    query: String,
    /// What was found, best first; empty if nothing was.
    results: Vec<Image>,
    /// Who searched.
    provider: &'static str,
    /// Whether there are results for which `max_chars` had no room.
    truncated: bool,
    /// Where the others begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// What `web:visit` answers for one URL.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Visit {
    /// The URL that was asked for.
    url: String,
    /// The URL that answered, after redirects.
    final_url: String,
    /// The HTTP status; 400 and above are the site's refusal, `content` is then its error page.
    status: u16,
    /// The title; null if it has none.
    title: Option<String>,
    /// The content, or a part of it.
    content: String,
    /// The form of the content.
    format: Format,
    /// Whether the page has more than `content`. The rest begins at `next_cursor`; without that it is longer than this
    /// server reads.
    truncated: bool,
    /// Where the rest begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// Something that may have failed while others did not.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Outcome<T> {
    /// What it brought.
    Done(T),
    /// Why it brought nothing.
    Failed {
        /// The query or URL.
        #[serde(rename = "for")]
        of: String,
        /// What happened.
        error: Failed,
    },
}

/// Why one of several failed.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Failed {
    /// The error code.
    code: u16,
    /// Its name.
    name: &'static str,
    /// What happened.
    message: String,
    /// The reason, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// What had been done so far: the page that could not be summed up.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

/// One search, or several.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Searches {
    /// For `query`.
    One(Search),
    /// For `queries`.
    Several {
        /// One for each query, in their order.
        searches: Vec<Outcome<Search>>,
    },
}

/// One page, or several.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Visits {
    /// For `url`.
    One(Visit),
    /// For `urls`.
    Several {
        /// One for each URL, in their order.
        pages: Vec<Outcome<Visit>>,
    },
}

/// Searches the web and reads its pages.
#[backend(name = "web", config = "apis.websearch")]
impl WebBackend {
    fn new(config: WebConfig) -> Result<Self> {
        Ok(Self { config })
    }

    async fn warmup(&self, resource: &ResourceContext) -> Result<Shared> {
        let config = &self.config;
        let search = match providers::is_configured(config) {
            Ok(()) => "ready".to_owned(),
            Err(error) => error.message().to_owned(),
        };
        resource.set_facts(json!({ "provider": config.provider.name(), "search": search }));
        Ok(Shared {
            client: ApiClient::new(config.retries)?,
            searches: Semaphore::new(config.concurrent_searches as usize),
            hosts: Turns::new(config.per_host),
            hosts_of_worker: Turns::new(config.per_host - config.per_host / 4),
            readings_of_worker: Turns::new(READINGS_OF_WORKER),
            reader: Reader::new(READING_LIMIT),
            kept: Cache::builder()
                .max_capacity(u64::from(config.cache_mib) << 20)
                .weigher(|question: &Question, kept: &Kept| {
                    (question.weight() + kept.weight() + 256).try_into().unwrap_or(u32::MAX)
                })
                .time_to_live(Duration::from_secs(config.cache_seconds.into()))
                .build(),
        })
    }

    /// Search the web. Answers titles, URLs and snippets, best first; read a page with `web:visit`. Zero results are a
    /// success with an empty list. Give `query` for one search, or `queries` for several at once.
    #[tool(read_only, idempotent)]
    async fn search(
        &self,
        shared: &Shared,
        context: &ToolContext,
        /// What to search for.
        #[schemars(length(min = 1, max = 1000))]
        query: Option<String>,
        /// Several searches at once instead; the answer then has `searches`, one for each, in their order.
        #[schemars(length(min = 1, max = 20), inner(length(min = 1, max = 1000)))]
        queries: Option<Vec<String>>,
        /// Most results of each search; the server's own setting by default.
        #[schemars(range(min = 1, max = 20))]
        max_results: Option<u32>,
        /// Only pages that are at most this old.
        time_range: Option<TimeRange>,
        /// Most characters of the results of each search together.
        #[default = 20_000]
        #[schemars(range(min = 1, max = 2_000_000))]
        max_chars: u32,
        /// `next_cursor` of an answer to the same `query`, for the results for which it had no room.
        cursor: Option<String>,
    ) -> Result<Searches> {
        let count = max_results.unwrap_or(self.config.max_results);
        let cursor = cursor.as_deref();
        let one = async |text: String, cursor: Option<&str>| {
            let query = Query { text: text.clone(), count, time_range };
            let hits = self.hits(shared, context, query).await?;
            let print = budget::fingerprint(&format!("{text}\0{hits:?}"));
            let part = budget::list(&hits, &print, (usize::MAX, max_chars as usize), cursor, Hit::size)?;
            let truncated = part.next.is_some();
            let provider = self.config.provider.name();
            Ok(Search { query: text, results: part.items, provider, truncated, next_cursor: part.next })
        };
        match one_or_several("query", query, "queries", queries, cursor)? {
            Wanted::One(query) => stopped(context, one(query, cursor)).await.map(Searches::One),
            Wanted::Several(queries) => {
                let searches = join_all(queries.into_iter().map(async |query| (query.clone(), one(query, None).await)));
                let searches = together(stopped(context, async { Ok(searches.await) }).await?, "searches")?;
                Ok(Searches::Several { searches })
            }
        }
    }

    /// Read a web page: its article as Markdown, without menus and advertisements; where a page is no article, all of it.
    /// Reads plain text, JSON and PDF too; does not run scripts. Private addresses are refused. A long page comes in parts:
    /// ask again with `next_cursor`. Give `url` for one page, or `urls` for several at once.
    #[tool(read_only, idempotent)]
    async fn visit(
        &self,
        shared: &Shared,
        context: &ToolContext,
        /// The page: an http or https URL without credentials.
        url: Option<String>,
        /// Several pages at once instead; the answer then has `pages`, one for each, in their order.
        #[schemars(length(min = 1, max = 20))]
        urls: Option<Vec<String>>,
        /// What the page is read for. Where the server has a model for it, the answer is a summary of the page towards this
        /// goal (`format` is then `summary`), else the page itself.
        #[schemars(length(min = 1, max = 2000))]
        goal: Option<String>,
        /// The form of an HTML page; other documents come as they are, a PDF as plain text.
        #[default = "markdown"]
        format: WantedFormat,
        /// Most characters of each page; the server's own setting by default.
        #[schemars(range(min = 1, max = 2_000_000))]
        max_chars: Option<u32>,
        /// `next_cursor` of an answer for the same `url`, for what follows it.
        cursor: Option<String>,
    ) -> Result<Visits> {
        let cursor = cursor.as_deref();
        let max = max_chars.unwrap_or(self.config.content_limit) as usize;
        let one = async |parameter: &str, url: String, cursor: Option<&str>| {
            let page = self.page(shared, context, parameter, &url, format).await?;
            let answer = |content: String, format, next: Option<String>, more| Visit {
                url: url.clone(),
                final_url: page.final_url.clone(),
                status: page.status,
                title: page.title.clone(),
                content,
                format,
                truncated: more || next.is_some(),
                next_cursor: next,
            };
            let part = budget::text(&page.content, &page.print, max, cursor)?;
            let unsummed = answer(part.items, page.format, part.next, page.cut);
            let (Some(config), Some(goal)) = (&self.config.summary, &goal) else { return Ok(unsummed) };
            // An error page serves no goal, and who turns pages wants the page.
            if page.status >= 400 || page.content.is_empty() || cursor.is_some() {
                return Ok(unsummed);
            }
            match Box::pin(summary::summarize(config, shared, context, &page, goal)).await {
                Ok(text) => {
                    let beyond = page.cut || page.content.chars().nth(config.max_input_chars as usize).is_some();
                    let part = budget::text(&text, "", max, None)?;
                    Ok(answer(part.items, Format::Summary, None, beyond || part.next.is_some()))
                }
                Err(error) => Err(match serde_json::to_value(&unsummed) {
                    Ok(page) => error.with_data(page),
                    Err(_) => error,
                }),
            }
        };
        match one_or_several("url", url, "urls", urls, cursor)? {
            Wanted::One(url) => stopped(context, one("url", url, cursor)).await.map(Visits::One),
            Wanted::Several(urls) => {
                let pages = join_all(urls.into_iter().map(async |url| (url.clone(), one("urls", url, None).await)));
                let pages = together(stopped(context, async { Ok(pages.await) }).await?, "pages")?;
                Ok(Visits::Several { pages })
            }
        }
    }

    /// Search the web for pictures. Answers their URLs and the pages that show them, best first. Zero results are a success
    /// with an empty list.
    #[tool(read_only, idempotent)]
    async fn image_search(
        &self,
        shared: &Shared,
        context: &ToolContext,
        /// What the picture shows.
        #[schemars(length(min = 1, max = 1000))]
        query: String,
        /// Most results; the server's own setting by default.
        #[schemars(range(min = 1, max = 20))]
        max_results: Option<u32>,
        /// Most characters of the results together.
        #[default = 20_000]
        #[schemars(range(min = 1, max = 2_000_000))]
        max_chars: u32,
        /// `next_cursor` of an answer to the same query, for the results for which it had no room.
        cursor: Option<String>,
    ) -> Result<ImageSearch> {
        let count = max_results.unwrap_or(self.config.max_results);
        let asked = Query { text: query.clone(), count, time_range: None };
        let find = images(&self.config, &shared.client, context, &asked);
        let found = async { Ok(Kept::Images(Arc::new(self.at_provider(shared, find).await?))) };
        let kept = shared.keep(Question::Images(asked.clone()), found);
        self.image_answer(stopped(context, kept).await?, query, self.config.provider, max_chars, cursor.as_deref())
    }

    /// Find pages on the web that show a picture, or one like it. Zero results are a success with an empty list.
    #[tool(read_only, idempotent)]
    async fn reverse_image_search(
        &self,
        shared: &Shared,
        context: &ToolContext,
        /// The picture: an http or https URL that everybody can reach.
        image_url: String,
        /// Most results; the server's own setting by default.
        #[schemars(range(min = 1, max = 20))]
        max_results: Option<u32>,
        /// Most characters of the results together.
        #[default = 20_000]
        #[schemars(range(min = 1, max = 2_000_000))]
        max_chars: u32,
        /// `next_cursor` of an answer for the same picture, for the results for which it had no room.
        cursor: Option<String>,
    ) -> Result<ImageSearch> {
        parse("image_url", &image_url)?;
        let count = max_results.unwrap_or(self.config.max_results);
        let find = reverse_images(&self.config, &shared.client, context, &image_url, count);
        let found = async { Ok(Kept::Images(Arc::new(self.at_provider(shared, find).await?))) };
        let kept = shared.keep(Question::ReverseImages(image_url.clone(), count), found);
        self.image_answer(stopped(context, kept).await?, image_url, Provider::Serper, max_chars, cursor.as_deref())
    }
}

impl WebBackend {
    /// What a search finds.
    async fn hits(&self, shared: &Shared, context: &ToolContext, query: Query) -> Result<Arc<Vec<Hit>>> {
        let find = search(&self.config, &shared.client, context, &query);
        let found = async { Ok(Kept::Hits(Arc::new(self.at_provider(shared, find).await?))) };
        match shared.keep(Question::Search(query.clone()), found).await? {
            Kept::Hits(hits) => Ok(hits),
            _ => Err(mixed_up()),
        }
    }

    /// A page.
    async fn page(
        &self,
        shared: &Shared,
        context: &ToolContext,
        parameter: &str,
        url: &str,
        format: WantedFormat,
    ) -> Result<Arc<Page>> {
        let question = Question::Page(url.to_owned(), format);
        let found = async {
            let page = visit(&self.config, shared, context, parameter, url, format).await?;
            Ok(Kept::Page(Arc::new(page)))
        };
        match shared.keep(question.clone(), found).await? {
            Kept::Page(page) => {
                // The next who asks may have more luck.
                if page.status != 200 {
                    shared.kept.invalidate(&question).await;
                }
                Ok(page)
            }
            _ => Err(mixed_up()),
        }
    }

    /// Waits for a turn at the provider, and not longer than configured.
    async fn at_provider<T>(&self, shared: &Shared, find: impl Future<Output = Result<T>>) -> Result<T> {
        let ask = async {
            let _turn = shared.searches.acquire().await.tool_err(ErrorCode::INTERNAL_ERROR)?;
            find.await
        };
        match tokio::time::timeout(self.config.timeout(), Box::pin(ask)).await {
            Ok(found) => found,
            Err(_) => {
                let message = format!("the search brought no answer within {} s", self.config.timeout_seconds);
                Err(ToolError::new(ErrorCode::TIMEOUT_ERROR, message))
            }
        }
    }

    fn image_answer(
        &self,
        kept: Kept,
        query: String,
        provider: Provider,
        max_chars: u32,
        cursor: Option<&str>,
    ) -> Result<ImageSearch> {
        let Kept::Images(images) = kept else { return Err(mixed_up()) };
        let print = budget::fingerprint(&format!("{query}\0{images:?}"));
        let part = budget::list(&images, &print, (usize::MAX, max_chars as usize), cursor, Image::size)?;
        let truncated = part.next.is_some();
        Ok(ImageSearch { query, results: part.items, provider: provider.name(), truncated, next_cursor: part.next })
    }
}

impl Shared {
    /// What was found lately, or is found now; who asks the same at the same time waits for one answer. A failure is not
    /// kept.
    async fn keep(&self, question: Question, find: impl Future<Output = Result<Kept>>) -> Result<Kept> {
        self.kept.try_get_with(question, Box::pin(find)).await.map_err(|error| (*error).clone())
    }
}

/// One thing, or a list of them.
enum Wanted {
    One(String),
    Several(Vec<String>),
}

fn one_or_several(
    name: &str,
    one: Option<String>,
    names: &str,
    several: Option<Vec<String>>,
    cursor: Option<&str>,
) -> Result<Wanted> {
    match (one, several) {
        (Some(one), None) => Ok(Wanted::One(one)),
        (None, Some(_)) if cursor.is_some() => {
            let expected = format!("none beside `{names}`: each of them has its own; ask with `{name}`");
            Err(ToolError::parameter(ErrorCode::INVALID_INPUT, "cursor", expected, "a cursor"))
        }
        (None, Some(several)) => Ok(Wanted::Several(several)),
        (None, None) => {
            let expected = format!("`{name}` or `{names}`");
            Err(ToolError::parameter(ErrorCode::MISSING_REQUIRED_FIELD, name, expected, "neither"))
        }
        (Some(_), Some(_)) => {
            let expected = format!("`{name}` or `{names}`");
            Err(ToolError::parameter(ErrorCode::INVALID_INPUT, name, expected, "both"))
        }
    }
}

/// What came of each of several; an error if nothing came of any.
fn together<T: Serialize>(results: Vec<(String, Result<T>)>, key: &str) -> Result<Vec<Outcome<T>>> {
    let failed = results.iter().all(|(_, result)| result.is_err());
    let one_code = |(_, result): &(String, Result<T>)| result.as_ref().err().map(ToolError::code);
    let first = results.first().and_then(one_code);
    let alike = results.iter().map(one_code).all(|code| code == first);
    let first_error = results.first().and_then(|(_, result)| result.as_ref().err().cloned());
    let outcome = |(of, result): (String, Result<T>)| match result {
        Ok(done) => Outcome::Done(done),
        Err(error) => {
            let (code, name) = (error.code().number(), error.code().name());
            let (reason, data) = (error.body().reason.clone(), error.data().cloned());
            Outcome::Failed { of, error: Failed { code, name, message: error.message().to_owned(), reason, data } }
        }
    };
    let outcomes: Vec<_> = results.into_iter().map(outcome).collect();
    let Some(error) = first_error.filter(|_| failed) else { return Ok(outcomes) };
    let data = json!({ key: outcomes });
    // One reason is worth more than the news that there are several.
    let error = if alike {
        error
    } else {
        ToolError::new(ErrorCode::ALL_REQUESTS_FAILED, format!("none of the {} requests succeeded", outcomes.len()))
    };
    Err(error.with_data(data))
}

/// Ends with the call.
async fn stopped<T>(context: &ToolContext, work: impl Future<Output = Result<T>>) -> Result<T> {
    match context.cancellation().run_until_cancelled(work).await {
        Some(result) => result,
        None => Err(ToolError::new(ErrorCode::CANCELLED, "the request was ended before there was an answer")),
    }
}

fn mixed_up() -> ToolError {
    ToolError::new(ErrorCode::INTERNAL_ERROR, "an answer was kept for another question")
}
