//! The files of which a Word document is made.

use std::{
    collections::HashMap,
    io::{Cursor, Read as _},
};

use quick_xml::{
    Reader, XmlVersion,
    events::{BytesStart, Event},
};
use zip::{ZipArchive, result::ZipError};

use crate::reader::{html::decode_plain, wire::Flaw};

/// The longest part, in bytes.
const MAX_PART_BYTES: u64 = 128 << 20;

/// Styles that are based on another at most.
const MAX_CHAIN: usize = 20;

/// The package.
pub(super) struct Parts<'a> {
    archive: ZipArchive<Cursor<&'a [u8]>>,
    /// The folder of the main part, with a slash.
    folder: String,
    /// What the main part is related to.
    relations: Vec<Relation>,
}

struct Relation {
    id: String,
    /// The last word of its type.
    kind: String,
    target: String,
}

impl<'a> Parts<'a> {
    pub(super) fn open(file: Cursor<&'a [u8]>) -> Result<Self, Flaw> {
        let archive = ZipArchive::new(file).map_err(|_| Flaw::Malformed)?;
        Ok(Self { archive, folder: String::new(), relations: Vec::new() })
    }

    /// The text of a part; empty if there is none.
    fn part(&mut self, name: &str) -> Result<String, Flaw> {
        let part = match self.archive.by_name(name) {
            Ok(part) => part,
            Err(ZipError::FileNotFound) => return Ok(String::new()),
            Err(_) => return Err(Flaw::Malformed),
        };
        let mut bytes = Vec::new();
        let read = part.take(MAX_PART_BYTES + 1).read_to_end(&mut bytes).map_err(|_| Flaw::Malformed)?;
        if read as u64 > MAX_PART_BYTES { Err(Flaw::Malformed) } else { Ok(decode_plain(&bytes).into_owned()) }
    }

    /// The main part.
    pub(super) fn main(&mut self) -> Result<String, Flaw> {
        let relations = relations(&self.part("_rels/.rels")?);
        let main = relations.into_iter().find(|relation| relation.kind == "officeDocument");
        let path =
            main.map_or_else(|| "word/document.xml".to_owned(), |main| main.target.trim_start_matches('/').to_owned());
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
        self.folder = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let of_main = format!("{}_rels/{name}.rels", self.folder);
        self.relations = self::relations(&self.part(&of_main)?);
        let main = self.part(&path)?;
        if main.contains("<w:document") { Ok(main) } else { Err(Flaw::Malformed) }
    }

    /// The part of this kind to which the main part is related; empty if there is none.
    pub(super) fn related(&mut self, kind: &str) -> Result<String, Flaw> {
        let Some(relation) = self.relations.iter().find(|relation| relation.kind == kind) else {
            return Ok(String::new());
        };
        let path = match relation.target.strip_prefix('/') {
            Some(path) => path.to_owned(),
            None => format!("{}{}", self.folder, relation.target),
        };
        self.part(&path)
    }

    /// The targets of links by their ids.
    pub(super) fn links(&self) -> HashMap<String, String> {
        let links = self.relations.iter().filter(|relation| relation.kind == "hyperlink");
        links.map(|link| (link.id.clone(), link.target.clone())).collect()
    }

    /// The title of the document's properties.
    pub(super) fn title(&mut self) -> Option<String> {
        let properties = self.part("docProps/core.xml").ok()?;
        let mut reader = Reader::from_str(&properties);
        let (mut inside, mut title) = (false, String::new());
        loop {
            match reader.read_event().ok()? {
                Event::Start(start) => inside = start.local_name().as_ref() == "title",
                Event::End(_) if inside => break,
                Event::Eof => break,
                event if inside => push_text(&mut title, &event),
                _ => {}
            }
        }
        let title = title.trim().to_owned();
        (!title.is_empty()).then_some(title)
    }
}

fn relations(xml: &str) -> Vec<Relation> {
    let mut found = Vec::new();
    let mut reader = Reader::from_str(xml);
    while let Ok(event) = reader.read_event() {
        match event {
            Event::Eof => break,
            Event::Start(start) | Event::Empty(start) if start.local_name().as_ref() == "Relationship" => {
                let [Some(id), Some(kind), Some(target)] = ["Id", "Type", "Target"].map(|name| attribute(&start, name))
                else {
                    continue;
                };
                let kind = kind.rsplit('/').next().unwrap_or_default().to_owned();
                found.push(Relation { id, kind, target });
            }
            _ => {}
        }
    }
    found
}

/// The value of an attribute, by its name with the usual prefix.
pub(super) fn attribute(start: &BytesStart<'_>, name: &str) -> Option<String> {
    let attribute = start.try_get_attribute(name).ok().flatten()?;
    attribute.normalized_value(XmlVersion::Implicit1_0).ok().map(std::borrow::Cow::into_owned)
}

/// Adds what an event has of text.
pub(super) fn push_text(to: &mut String, event: &Event<'_>) {
    match event {
        Event::Text(text) => to.push_str(&text.xml10_content()),
        Event::CData(text) => to.push_str(&text.xml10_content()),
        Event::GeneralRef(entity) => {
            if let Ok(Some(character)) = entity.resolve_char_ref() {
                to.push(character);
            } else if let Some(text) = quick_xml::escape::resolve_predefined_entity(entity) {
                to.push_str(text);
            }
        }
        _ => {}
    }
}

/// What paragraphs are by their styles.
#[derive(Default)]
pub(super) struct Styles {
    styles: HashMap<String, Style>,
    /// By number: which levels of the list have bullets.
    lists: HashMap<String, Vec<bool>>,
}

#[derive(Default)]
struct Style {
    name: String,
    based_on: Option<String>,
    /// 0 for the highest heading, 9 for none.
    outline: Option<u8>,
    list: Option<String>,
}

impl Styles {
    pub(super) fn read(styles: &str, numbering: &str) -> Self {
        let mut found = Self { styles: HashMap::new(), lists: lists(numbering) };
        let (mut id, mut style) = (None, Style::default());
        let mut reader = Reader::from_str(styles);
        while let Ok(event) = reader.read_event() {
            match event {
                Event::Eof => break,
                Event::Start(start) if start.name().as_ref() == "w:style" => {
                    (id, style) = (attribute(&start, "w:styleId"), Style::default());
                }
                Event::End(end) if end.name().as_ref() == "w:style" => {
                    found.styles.extend(id.take().map(|id| (id, std::mem::take(&mut style))));
                }
                Event::Start(start) | Event::Empty(start) => {
                    let value = attribute(&start, "w:val");
                    match start.name().as_ref() {
                        "w:name" => style.name = value.unwrap_or_default().to_lowercase(),
                        "w:basedOn" => style.based_on = value,
                        "w:outlineLvl" => style.outline = value.and_then(|value| value.parse().ok()),
                        "w:numId" => style.list = value,
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// A style and those that it is based on.
    fn chain(&self, id: &str) -> impl Iterator<Item = &Style> {
        let based_on = |style: &&Style| self.styles.get(style.based_on.as_deref()?);
        std::iter::successors(self.styles.get(id), based_on).take(MAX_CHAIN)
    }

    /// The level of a heading.
    pub(super) fn heading(&self, id: &str) -> Option<u8> {
        self.chain(id).find_map(|style| {
            let named = style.name.strip_prefix("heading ").and_then(|level| level.parse().ok());
            let named = named.or((style.name == "title").then_some(1));
            style.outline.map(|level| level + 1).or(named)
        })
    }

    /// The number of the list.
    pub(super) fn list(&self, id: &str) -> Option<&str> {
        self.chain(id).find_map(|style| style.list.as_deref())
    }

    /// Whether it is an entry of the table of contents, which repeats headings.
    pub(super) fn is_contents(&self, id: &str) -> bool {
        self.styles.get(id).is_some_and(|style| style.name.starts_with("toc "))
    }

    /// Whether it is code, each line a paragraph.
    pub(super) fn is_code(&self, id: &str) -> bool {
        let names = ["source code", "code", "code block", "html preformatted", "preformatted text", "plain text"];
        self.styles.get(id).is_some_and(|style| names.contains(&style.name.as_str()))
    }

    /// Whether a list has numbers at this level.
    pub(super) fn is_ordered(&self, list: &str, level: usize) -> bool {
        let bullets = self.lists.get(list);
        bullets.is_some_and(|bullets| !bullets.get(level).copied().unwrap_or(true))
    }
}

/// Which levels of each list have bullets.
fn lists(xml: &str) -> HashMap<String, Vec<bool>> {
    let mut kinds: HashMap<String, Vec<bool>> = HashMap::new();
    let mut lists = HashMap::new();
    let (mut kind, mut list, mut reader) = (None, None, Reader::from_str(xml));
    while let Ok(event) = reader.read_event() {
        let (Event::Start(start) | Event::Empty(start)) = event else {
            if matches!(event, Event::Eof) {
                break;
            }
            continue;
        };
        match start.name().as_ref() {
            "w:abstractNum" => kind = attribute(&start, "w:abstractNumId"),
            "w:numFmt" if list.is_none() => {
                let bullet = attribute(&start, "w:val").is_none_or(|format| format == "bullet" || format == "none");
                kinds.entry(kind.clone().unwrap_or_default()).or_default().push(bullet);
            }
            "w:num" => list = attribute(&start, "w:numId"),
            "w:abstractNumId" => {
                let bullets = attribute(&start, "w:val").and_then(|kind| kinds.get(&kind).cloned());
                lists.extend(list.clone().zip(bullets));
            }
            _ => {}
        }
    }
    lists
}
