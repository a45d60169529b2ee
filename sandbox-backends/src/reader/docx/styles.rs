//! What paragraphs are by their styles.

use std::collections::HashMap;

use quick_xml::{Reader, events::Event};

use super::parts::attribute;

/// Styles that are based on another at most.
const MAX_CHAIN: usize = 20;

/// The styles of paragraphs, by their ids.
#[derive(Default)]
pub(super) struct Styles(HashMap<String, Style>);

#[derive(Default)]
struct Style {
    name: String,
    based_on: Option<String>,
    /// 0 for the highest heading, 9 for none.
    outline: Option<u8>,
    list: Option<String>,
    list_level: Option<usize>,
}

impl Styles {
    pub(super) fn read(xml: &str) -> Self {
        let mut found = HashMap::new();
        let (mut id, mut style) = (None, Style::default());
        let mut reader = Reader::from_str(xml);
        while let Ok(event) = reader.read_event() {
            match event {
                Event::Eof => break,
                Event::Start(start) if start.name().as_ref() == "w:style" => {
                    (id, style) = (attribute(&start, "styleId"), Style::default());
                }
                Event::End(end) if end.name().as_ref() == "w:style" => {
                    found.extend(id.take().map(|id| (id, std::mem::take(&mut style))));
                }
                Event::Start(start) | Event::Empty(start) => {
                    let value = attribute(&start, "val");
                    match start.name().as_ref() {
                        "w:name" => style.name = value.unwrap_or_default().to_lowercase(),
                        "w:basedOn" => style.based_on = value,
                        "w:outlineLvl" => style.outline = value.and_then(|value| value.parse().ok()),
                        "w:numId" => style.list = value,
                        "w:ilvl" => style.list_level = value.and_then(|value| value.parse().ok()),
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        Self(found)
    }

    /// A style and those that it is based on.
    fn chain(&self, id: &str) -> impl Iterator<Item = &Style> {
        let based_on = |style: &&Style| self.0.get(style.based_on.as_deref()?);
        std::iter::successors(self.0.get(id), based_on).take(MAX_CHAIN)
    }

    /// The level of a heading, from 0; 9 for none.
    pub(super) fn outline(&self, id: &str) -> Option<u8> {
        self.chain(id).find_map(|style| {
            let named = style.name.strip_prefix("heading ").and_then(|level| level.parse::<u8>().ok());
            let named = named.and_then(|level| level.checked_sub(1)).or((style.name == "title").then_some(0));
            style.outline.or(named)
        })
    }

    /// The list.
    pub(super) fn list(&self, id: &str) -> Option<&str> {
        self.chain(id).find_map(|style| style.list.as_deref())
    }

    /// The level within the list.
    pub(super) fn list_level(&self, id: &str) -> Option<usize> {
        self.chain(id).find_map(|style| style.list_level)
    }

    /// Whether it is an entry of the table of contents, which repeats headings.
    pub(super) fn is_contents(&self, id: &str) -> bool {
        self.0.get(id).is_some_and(|style| style.name.starts_with("toc "))
    }

    /// Whether it is code, each line a paragraph.
    pub(super) fn is_code(&self, id: &str) -> bool {
        let names = ["source code", "code", "code block", "html preformatted", "preformatted text", "plain text"];
        self.0.get(id).is_some_and(|style| names.contains(&style.name.as_str()))
    }
}
