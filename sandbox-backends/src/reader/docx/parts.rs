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
        if read as u64 > MAX_PART_BYTES { Err(Flaw::TooLong) } else { Ok(usual(decode_plain(&bytes).into_owned())) }
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

/// The value of an attribute, by its name without a prefix.
pub(super) fn attribute(start: &BytesStart<'_>, name: &str) -> Option<String> {
    let attribute = start.attributes().flatten().find(|attribute| attribute.key.local_name().into_inner() == name)?;
    attribute.normalized_value(XmlVersion::Implicit1_0).ok().map(std::borrow::Cow::into_owned)
}

/// Whether a property that has no value, or one, is on.
pub(super) fn is_on(start: &BytesStart<'_>) -> bool {
    attribute(start, "val").is_none_or(|value| !matches!(value.as_str(), "0" | "false" | "off"))
}

/// The namespaces of text, as most and as strict documents have them.
const TEXT: [&str; 2] = [
    "\"http://schemas.openxmlformats.org/wordprocessingml/2006/main\"",
    "\"http://purl.oclc.org/ooxml/wordprocessingml/main\"",
];

/// How far into a part its namespaces are named, in bytes.
const NAMESPACES: usize = 16 << 10;

/// A part whose elements of text have the prefix `w`, as nearly all have; some programs give them another.
fn usual(xml: String) -> String {
    let head = xml.get(..NAMESPACES).unwrap_or(&xml);
    let prefix = TEXT.iter().find_map(|name| {
        let before = head[..head.find(name)?].strip_suffix('=')?;
        let (_, prefix) = before.rsplit_once("xmlns:")?;
        Some(prefix.trim().to_owned())
    });
    match prefix {
        Some(prefix) if prefix != "w" && !prefix.is_empty() => {
            xml.replace(&format!("<{prefix}:"), "<w:").replace(&format!("</{prefix}:"), "</w:")
        }
        _ => xml,
    }
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
