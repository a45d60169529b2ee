//! Documents: where they are, what they are, and what was read of them lately.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use sandbox_runtime::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;

use super::config::DocConfig;
use crate::{
    api::{
        budget,
        roots::{Found, Known, Roots, Version, on_thread},
        turns::{Turn, Turns},
    },
    reader::{Content, Flaw, Form, Kind, Reader, Reading, Section as Mark, Task, Unreadable},
};

/// Documents that are read at once for one worker; there are turns for at least one more.
const READINGS_OF_WORKER: u32 = 2;

/// What documents are here.
pub(super) const KNOWN: Known = Known {
    noun: "document",
    what: "a PDF, DOCX, EPUB, HTML, Markdown or text file",
    lister: "doc:list",
    format: |path| Format::of(path).map(Format::name),
};

/// What a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// PDF.
    Pdf,
    /// Word.
    Docx,
    /// An electronic book.
    Epub,
    /// HTML.
    Html,
    /// Markdown.
    Markdown,
    /// Text without any form.
    Text,
}

impl Format {
    /// By the end of its name.
    fn of(path: &str) -> Option<Self> {
        let (stem, extension) = path.rsplit('/').next()?.rsplit_once('.')?;
        Some(match extension.to_ascii_lowercase().as_str() {
            _ if stem.is_empty() => return None,
            "pdf" => Self::Pdf,
            "docx" | "docm" | "dotx" => Self::Docx,
            "epub" => Self::Epub,
            "html" | "htm" | "xhtml" => Self::Html,
            "md" | "markdown" | "mdx" => Self::Markdown,
            "txt" | "text" | "rst" | "adoc" | "org" | "tex" | "log" => Self::Text,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Pdf => "pdf",
            Self::Docx => "docx",
            Self::Epub => "epub",
            Self::Html => "html",
            Self::Markdown => "markdown",
            Self::Text => "text",
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Pdf => Kind::Pdf,
            Self::Docx => Kind::Docx,
            Self::Epub => Kind::Epub,
            Self::Html => Kind::Html,
            Self::Markdown => Kind::Markdown,
            Self::Text => Kind::Text,
        }
    }

    /// The form in which it can be had if this one is wanted.
    pub(super) fn form(self, wanted: Form) -> Form {
        if matches!(self, Self::Pdf | Self::Text) { Form::Text } else { wanted }
    }
}

/// A document that was read.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) format: Format,
    pub(super) title: Option<String>,
    pub(super) content: String,
    /// In their order; before the first one what no heading stands above, as number 0.
    pub(super) sections: Vec<Section>,
    /// Where each page begins; empty if there are no pages.
    pub(super) pages: Vec<usize>,
    /// Characters of the content.
    pub(super) chars: usize,
    /// Of the content, for cursors.
    pub(super) print: String,
}

/// A section: a heading and all below it, with the sections of lower levels.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) number: u32,
    /// 1 for the highest.
    pub(super) level: u8,
    pub(super) title: Option<String>,
    pub(super) start: usize,
    pub(super) end: usize,
    /// How many characters it has.
    pub(super) chars: usize,
}

impl Document {
    fn new(format: Format, reading: Reading) -> Self {
        let Reading { title, content, sections, pages } = reading;
        let print = budget::fingerprint(&content);
        // Whoever made them may have been misled: a place that is none is no place.
        let is_place = |at: &usize| content.is_char_boundary(*at);
        let mut pages: Vec<usize> = pages.into_iter().filter(is_place).collect();
        pages.sort_unstable();
        let mut marks: Vec<Mark> = sections.into_iter().filter(|mark| is_place(&mark.at)).collect();
        marks.sort_by_key(|mark| mark.at);
        let mut sections = sections_of(marks, &content, &pages);
        let chars = count(&content, &mut sections);
        Self { format, title, content, sections, pages, chars, print }
    }

    /// The page, from 1, on which something is.
    pub(super) fn page_of(&self, at: usize) -> Option<u32> {
        let pages = self.pages.partition_point(|start| *start <= at).max(1);
        (!self.pages.is_empty()).then_some(u32::try_from(pages).unwrap_or(u32::MAX))
    }

    /// The innermost section in which something is.
    pub(super) fn section_of(&self, at: usize) -> Option<&Section> {
        let before = self.sections.partition_point(|section| section.start <= at);
        self.sections[..before].last()
    }

    /// Bytes in memory, about.
    fn weight(&self) -> usize {
        let titles: usize = self.sections.iter().filter_map(|section| section.title.as_ref()).map(String::len).sum();
        self.content.len() + titles + self.sections.len() * size_of::<Section>() + self.pages.len() * 8 + 256
    }
}

/// Sections from where they begin.
fn sections_of(marks: Vec<Mark>, content: &str, pages: &[usize]) -> Vec<Section> {
    let mut sections = Vec::with_capacity(marks.len() + 1);
    let first = marks.first().map_or(0, |mark| mark.at);
    if !content[..first].trim().is_empty() {
        sections.push(Section { number: 0, level: 1, title: None, start: 0, end: first, chars: 0 });
    }
    // Those that are open, innermost last.
    let mut open: Vec<usize> = Vec::new();
    for (number, mark) in (1..).zip(marks) {
        while let Some(index) = open.pop_if(|index| sections[*index].level >= mark.level) {
            sections[index].end = mark.at;
        }
        open.push(sections.len());
        let (level, title, start) = (mark.level, Some(mark.title), mark.at);
        sections.push(Section { number, level, title, start, end: content.len(), chars: 0 });
    }
    // A title that was not found on its page, before another one: where the page ends it does.
    for section in &mut sections {
        if section.end <= section.start {
            let next = pages.partition_point(|start| *start <= section.start);
            section.end = pages.get(next).copied().unwrap_or(content.len());
        }
    }
    sections
}

/// Counts the characters of a text and of its sections, looking at each once.
fn count(content: &str, sections: &mut [Section]) -> usize {
    let mut places: Vec<usize> = sections.iter().flat_map(|section| [section.start, section.end]).collect();
    places.sort_unstable();
    places.dedup();
    let (mut before, mut at, mut chars) = (Vec::with_capacity(places.len()), 0, 0);
    for place in &places {
        chars += content[at..*place].chars().count();
        before.push(chars);
        at = *place;
    }
    let until = |place: usize| before[places.partition_point(|known| *known < place)];
    for section in sections {
        section.chars = until(section.end) - until(section.start);
    }
    chars + content[at..].chars().count()
}

/// All documents.
pub struct Library {
    roots: Roots,
    reader: Reader,
    /// Documents of one worker that are being read.
    readings: Turns,
    kept: Cache<(Version, Format, Form), Arc<Document>>,
    max_mib: u32,
    timeout_seconds: u32,
}

impl Library {
    pub(super) fn new(config: &DocConfig) -> Self {
        Self {
            roots: config.roots.clone(),
            reader: Reader::new(Duration::from_secs(config.timeout_seconds.into())),
            readings: Turns::new(READINGS_OF_WORKER),
            kept: Cache::builder()
                .max_capacity(u64::from(config.cache_mib) << 20)
                .weigher(|_, document: &Arc<Document>| document.weight().try_into().unwrap_or(u32::MAX))
                .build(),
            max_mib: config.max_mib,
            timeout_seconds: config.timeout_seconds,
        }
    }

    pub(super) fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Waits for a turn of a worker: one may not keep all threads.
    ///
    /// # Errors
    /// None.
    pub(super) async fn turn(&self, worker: &WorkerId) -> Result<Turn> {
        self.readings.turn(worker.as_str()).await
    }

    /// A document in a form, if it can be had in that, and its path.
    ///
    /// # Errors
    /// Those of [`Roots::open`]; `BUSINESS_FAILURE`: it cannot be read.
    pub(super) async fn get(&self, worker: &WorkerId, path: String, form: Form) -> Result<(String, Arc<Document>)> {
        let found = self.roots.open("document", &path, &KNOWN).await?;
        let Some(format) = Format::of(&found.path) else {
            return Err(ToolError::parameter(
                ErrorCode::INVALID_INPUT,
                "document",
                KNOWN.what,
                format!("`{}`", found.path),
            ));
        };
        if found.version.bytes > u64::from(self.max_mib) << 20 {
            let expected = format!("a file of at most {} MiB", self.max_mib);
            let found = format!("{} bytes", found.version.bytes);
            return Err(ToolError::parameter(ErrorCode::INVALID_INPUT, "document", expected, found));
        }
        let (path, version, form) = (found.path.clone(), found.version, format.form(form));
        if !found.version.is_settled() {
            // Whether it changes while it is read would not show.
            let _turn = self.turn(worker).await?;
            return Ok((path, Arc::new(self.read(found, format, form).await?)));
        }
        let key = (version, format, form);
        if let Some(kept) = self.kept.get(&key).await {
            return Ok((path, kept));
        }
        // Before somebody else may come to wait for this reading.
        let _turn = self.turn(worker).await?;
        let reading = async { self.read(found, format, form).await.map(Arc::new) };
        Ok((path, self.kept.try_get_with(key, reading).await.map_err(Arc::unwrap_or_clone)?))
    }

    async fn read(&self, found: Found, format: Format, form: Form) -> Result<Document> {
        let task = Task { kind: format.kind(), form, charset: None, base: None };
        match self.reader.read(task, Content::File(found.file, found.version.bytes)).await {
            Ok(reading) => on_thread(move || Ok(Document::new(format, reading))).await,
            Err(error) => Err(self.unreadable(&error)),
        }
    }

    fn unreadable(&self, error: &Unreadable) -> ToolError {
        let (reason, why) = match error {
            Unreadable::Flawed(Flaw::Malformed) => ("malformed", "it is damaged, or not what its name says".to_owned()),
            Unreadable::Flawed(Flaw::Encrypted) => ("encrypted", "it opens with a password only".to_owned()),
            Unreadable::Flawed(Flaw::NoText) => ("no_text", "it has no text; what it shows may be pictures".to_owned()),
            Unreadable::Flawed(Flaw::TooLong) => ("too_long", "it has more than 16 MiB of text".to_owned()),
            Unreadable::Slow => ("too_complex", format!("it takes more than {} s to read", self.timeout_seconds)),
            Unreadable::Fatal => ("too_complex", "it needs more memory than a document may".to_owned()),
            Unreadable::Broken(error) => {
                tracing::error!(%error, "a document, or the process that reads it, cannot be opened");
                return ToolError::new(ErrorCode::INTERNAL_ERROR, "the document cannot be opened by what reads it");
            }
        };
        ToolError::new(ErrorCode::BUSINESS_FAILURE, format!("the document cannot be read: {why}")).with_reason(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(at: usize, level: u8) -> Mark {
        Mark { at, level, title: format!("at {at}") }
    }

    #[test]
    fn a_section_ends_where_one_of_its_level_begins() {
        let reading =
            |sections, pages| Reading { title: None, content: "0123456789\u{e4}".to_owned(), sections, pages };
        let ranges = |sections, pages| {
            let document = Document::new(Format::Pdf, reading(sections, pages));
            document.sections.iter().map(|section| (section.number, section.start, section.end)).collect::<Vec<_>>()
        };
        assert_eq!(ranges(vec![], vec![]), []);
        let nested = vec![mark(2, 1), mark(4, 2), mark(6, 3), mark(7, 2), mark(8, 1)];
        assert_eq!(ranges(nested, vec![]), [(0, 0, 2), (1, 2, 8), (2, 4, 7), (3, 6, 7), (4, 7, 8), (5, 8, 12)]);
        let same_place = vec![mark(0, 1), mark(0, 1), mark(5, 1)];
        assert_eq!(ranges(same_place, vec![0, 5]), [(1, 0, 5), (2, 0, 5), (3, 5, 12)]);
        let none = vec![mark(11, 1), mark(99, 1), mark(3, 1)];
        assert_eq!(ranges(none, vec![4, 2, 77]), [(0, 0, 3), (1, 3, 12)]);
    }

    #[test]
    fn a_place_has_a_page_and_a_section() {
        let content = "ab\ncd\nef".to_owned();
        let reading = Reading { title: None, content, sections: vec![mark(3, 1), mark(6, 2)], pages: vec![0, 6] };
        let document = Document::new(Format::Docx, reading);
        let places: Vec<_> =
            [0, 3, 6].map(|at| (document.section_of(at).map(|s| s.number), document.page_of(at))).into();
        assert_eq!(places, [(Some(0), Some(1)), (Some(1), Some(1)), (Some(2), Some(2))]);
    }

    #[test]
    fn formats_are_known_by_names() {
        for (path, format) in [
            ("a/b.PDF", Some("pdf")),
            ("x.tar.docx", Some("docx")),
            ("README.md", Some("markdown")),
            (".md", None),
            ("a.pdf/b", None),
            ("a.exe", None),
        ] {
            assert_eq!((KNOWN.format)(path), format, "{path}");
        }
    }
}
