//! `doc`: reads documents.
//!
//! A shared backend, on when `apis.doc` is there. A document is read by a process that can do nothing else (`reader`) and
//! kept for the calls to come (`library.rs`); what it consists of is found by its headings and pages (`parts.rs`).

mod config;
mod library;
mod parts;
mod search;

pub use config::DocConfig;
use library::KNOWN;
pub use library::{Format, Library};
use parts::{Wanted, select};
use sandbox_runtime::prelude::*;
use schemars::JsonSchema;
pub use search::Hit;
use search::search;
use serde::{Deserialize, Serialize};
use serde_json::json;

pub use super::roots::FileEntry;
use super::{budget, roots::on_thread};
use crate::reader::Form;

/// The backend.
pub struct DocBackend {
    config: DocConfig,
}

/// What `doc:list` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DocumentList {
    /// The documents, by path.
    documents: Vec<FileEntry>,
    /// Whether there are documents for which `max_chars` had no room, or more than 20,000.
    truncated: bool,
    /// Where the others begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// What `doc:outline` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Outline {
    /// The path of the document.
    document: String,
    /// What it is.
    format: Format,
    /// Its title; null if it has none.
    title: Option<String>,
    /// How many pages it has; absent if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pages: Option<usize>,
    /// How many characters of text it has.
    chars: usize,
    /// Its sections, in their order; empty if it has no headings.
    sections: Vec<SectionInfo>,
    /// Whether there are sections for which `max_chars` had no room.
    truncated: bool,
    /// Where the others begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// A section.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SectionInfo {
    /// Its number, for `sections` of `doc:read`; 0 is what stands before the first heading.
    section: u32,
    /// 1 for the highest; those of lower levels that follow are parts of it.
    level: u8,
    /// Its title; null for section 0.
    title: Option<String>,
    /// The page on which it begins; absent if the document has no pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<u32>,
    /// How many characters it has, with its parts.
    chars: usize,
}

impl SectionInfo {
    /// Characters in an answer, about.
    fn size(&self) -> usize {
        self.title.as_deref().map_or(4, |title| title.chars().count()) + 60
    }
}

/// What `doc:search` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DocumentSearch {
    /// The path of the document.
    document: String,
    /// The passages, best first; empty if no key word is in the document.
    results: Vec<Hit>,
    /// How many passages have a key word; of more than 1,000 only the best can be had.
    total: usize,
    /// Whether there are more than these.
    truncated: bool,
    /// Where the others begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// What `doc:read` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DocumentPart {
    /// The path of the document.
    document: String,
    /// Its title; null if it has none.
    title: Option<String>,
    /// The page on which `content` begins; absent if the document has no pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<u32>,
    /// The text.
    content: String,
    /// The form of the content.
    format: TextFormat,
    /// Whether what was asked for has more than `content`.
    truncated: bool,
    /// Where the rest begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// The form of a text.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TextFormat {
    /// Markdown: headings, lists, tables, links, code. A PDF is text all the same.
    #[default]
    Markdown,
    /// Plain text; of a PDF with a line `[page N]` before each page.
    Text,
}

/// Reads documents in configured folders.
#[backend(name = "doc", config = "apis.doc")]
impl DocBackend {
    fn new(config: DocConfig) -> Result<Self> {
        Ok(Self { config })
    }

    async fn warmup(&self, resource: &ResourceContext) -> Result<Library> {
        let library = Library::new(&self.config);
        let roots = library.roots().clone();
        resource.set_facts(json!({ "roots": on_thread(move || Ok(roots.states())).await? }));
        Ok(library)
    }

    /// List the documents that can be read: PDF, DOCX, EPUB, HTML, Markdown and text files, with their sizes.
    #[tool(read_only, idempotent)]
    async fn list(
        &self,
        library: &Library,
        /// Only those in this folder and the folders in it.
        #[default = ""]
        folder: String,
        /// Only those whose name matches, such as `*.pdf`, or whose path below `folder` does, such as `manuals/**/*.md`; `**`
        /// stands for any folders.
        #[schemars(length(min = 1, max = 500))]
        pattern: Option<String>,
        /// Most characters of the answer.
        #[default = 20_000]
        #[schemars(range(min = 1, max = 2_000_000))]
        max_chars: u32,
        /// `next_cursor` of an answer to the same request, for the documents for which it had no room.
        cursor: Option<String>,
    ) -> Result<DocumentList> {
        let listing = library.roots().list(&folder, pattern.as_deref(), &KNOWN).await?;
        let limits = (usize::MAX, max_chars as usize);
        let part = budget::list(&listing.files, &listing.print, limits, cursor.as_deref(), FileEntry::size)?;
        let truncated = part.next.is_some() || listing.more;
        Ok(DocumentList { documents: part.items, truncated, next_cursor: part.next })
    }

    /// Show how a document is built: its title, its number of pages, and its sections with their numbers, titles, pages and
    /// lengths. Look here before reading a long document, and read the sections that matter.
    #[tool(read_only, idempotent, timeout = "10m")]
    async fn outline(
        &self,
        library: &Library,
        worker: &WorkerId,
        /// The document, by its path in `doc:list`.
        #[schemars(length(min = 1))]
        document: String,
        /// Most characters of the sections together.
        #[default = 20_000]
        #[schemars(range(min = 1, max = 2_000_000))]
        max_chars: u32,
        /// `next_cursor` of an answer to the same request, for the sections for which it had no room.
        cursor: Option<String>,
    ) -> Result<Outline> {
        let (path, document) = library.get(worker, document, Form::Text).await?;
        let info = |section: &library::Section| SectionInfo {
            section: section.number,
            level: section.level,
            title: section.title.clone(),
            page: document.page_of(section.start),
            chars: section.chars,
        };
        let sections: Vec<SectionInfo> = document.sections.iter().map(info).collect();
        let print = budget::fingerprint(&format!("outline\0{}", document.print));
        let limits = (usize::MAX, max_chars as usize);
        let part = budget::list(&sections, &print, limits, cursor.as_deref(), SectionInfo::size)?;
        Ok(Outline {
            document: path,
            format: document.format,
            title: document.title.clone(),
            pages: Some(document.pages.len()).filter(|count| *count > 0),
            chars: document.chars,
            sections: part.items,
            truncated: part.next.is_some(),
            next_cursor: part.next,
        })
    }

    /// Find key words in a document. Answers the passages that have them, best first, each with its section and page; read
    /// on there with `doc:read`. Words are found in any case and as parts of longer words, in the text but not in the
    /// addresses of links; no hit is a success with an empty list.
    #[tool(read_only, idempotent, timeout = "10m")]
    async fn search(
        &self,
        library: &Library,
        context: &ToolContext,
        /// The document, by its path in `doc:list`.
        #[schemars(length(min = 1))]
        document: String,
        /// What to look for: words, or phrases whose words stand together. A passage needs only one of them.
        #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 200)))]
        key_words: Vec<String>,
        /// Most results; the server's own setting by default.
        #[schemars(range(min = 1, max = 100))]
        #[serde(alias = "max_search_results")]
        max_results: Option<u32>,
        /// Most characters of the results together.
        #[default = 20_000]
        #[schemars(range(min = 1, max = 2_000_000))]
        max_chars: u32,
        /// `next_cursor` of an answer to the same search, for the results after it.
        cursor: Option<String>,
    ) -> Result<DocumentSearch> {
        let (path, document) = library.get(context.worker(), document, Form::Text).await?;
        let print = budget::fingerprint(&format!("{}\0{key_words:?}", document.print));
        let _turn = library.turn(context.worker()).await?;
        let cancel = context.cancellation().clone();
        let (hits, total) = on_thread(move || search(&document, &key_words, &cancel)).await?;
        let limits = (max_results.unwrap_or(self.config.max_search_results) as usize, max_chars as usize);
        let part = budget::list(&hits, &print, limits, cursor.as_deref(), Hit::size)?;
        let truncated = part.next.is_some() || total > hits.len();
        Ok(DocumentSearch { document: path, results: part.items, total, truncated, next_cursor: part.next })
    }

    /// Read a document, or parts of it: `sections` by their numbers in `doc:outline`, each with the sections below it, or
    /// `pages`. A long text comes in parts: ask again with `next_cursor`.
    #[tool(read_only, idempotent, timeout = "10m")]
    async fn read(
        &self,
        library: &Library,
        worker: &WorkerId,
        /// The document, by its path in `doc:list`.
        #[schemars(length(min = 1))]
        document: String,
        /// Only these sections.
        #[schemars(length(min = 1, max = 1000))]
        #[serde(alias = "section_ids")]
        sections: Option<Vec<u32>>,
        /// Only these pages, such as `3-5,8`; not together with `sections`.
        #[schemars(length(min = 1, max = 1000))]
        pages: Option<String>,
        /// The form of the answer.
        #[default = "markdown"]
        format: TextFormat,
        /// Most characters of `content`.
        #[default = 20_000]
        #[schemars(range(min = 1, max = 2_000_000))]
        max_chars: u32,
        /// `next_cursor` of an answer to the same request, for the text after it.
        cursor: Option<String>,
    ) -> Result<DocumentPart> {
        let wanted = match (sections, pages) {
            (None, None) => Wanted::Everything,
            (Some(sections), None) => Wanted::Sections(sections),
            (None, Some(pages)) => Wanted::Pages(pages),
            (Some(_), Some(_)) => {
                let expected = "either `sections` or `pages`";
                return Err(ToolError::parameter(ErrorCode::INVALID_INPUT, "pages", expected, "both"));
            }
        };
        let form = if format == TextFormat::Markdown { Form::Markdown } else { Form::Text };
        let (path, document) = library.get(worker, document, form).await?;
        let selection = select(&document, &wanted)?;
        let print = budget::fingerprint(&format!("{}\0{wanted:?}", document.print));
        let part = budget::text(&selection.text, &print, max_chars as usize, cursor.as_deref())?;
        let start = cursor.map_or(Ok(0), |cursor| budget::offset(&cursor, &print))?;
        let format = if document.format.form(form) == Form::Text { TextFormat::Text } else { TextFormat::Markdown };
        Ok(DocumentPart {
            document: path,
            title: document.title.clone(),
            page: document.page_of(selection.place(start)),
            content: part.items,
            format,
            truncated: part.next.is_some(),
            next_cursor: part.next,
        })
    }
}
