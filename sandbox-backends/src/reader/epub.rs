//! EPUB: its chapters in their order, each a page of XHTML.

use std::{collections::HashMap, io::Cursor};

use dom_query::Document;
use quick_xml::{Reader, Writer, events::Event};
use rbook::Epub;

use super::{
    html,
    inside::Draft,
    marks::{Heading, SECTION, without},
    wire::{Flaw, Form},
};

/// Elements of HTML that have no end.
const VOID: &[&[u8]] = &[
    b"area", b"base", b"br", b"col", b"embed", b"hr", b"img", b"input", b"link", b"meta", b"param", b"source",
    b"track", b"wbr",
];

/// An entry of the table of contents: the element to which it leads, if not to the whole file, its level and its title.
type Entry = (Option<String>, Heading);

/// The title and the text; a section for each heading, or in a file without any for each entry of the table of contents.
pub(super) fn read(form: Form, bytes: &[u8]) -> Result<Draft, Flaw> {
    let epub = Epub::options().strict(false).read(Cursor::new(bytes.to_vec())).map_err(|_| Flaw::Malformed)?;
    let mut contents: HashMap<String, Vec<Entry>> = HashMap::new();
    if let Some(root) = epub.toc().contents() {
        for entry in root.flatten() {
            let Some(href) = entry.href() else { continue };
            let level = u8::try_from(entry.depth().clamp(1, 6)).unwrap_or(6);
            let fragment = href.fragment().map(str::to_owned);
            contents
                .entry(href.path().as_str().to_owned())
                .or_default()
                .push((fragment, (level, entry.label().to_owned())));
        }
    }
    let mut book = Draft::default();
    for chapter in epub.reader() {
        let chapter = chapter.map_err(|_| if is_protected(bytes) { Flaw::Encrypted } else { Flaw::Malformed })?;
        let entries = contents.remove(chapter.manifest_entry().href().path().as_str()).unwrap_or_default();
        book.append(read_chapter(form, chapter.content(), &entries));
    }
    if book.content.is_empty() {
        return Err(Flaw::NoText);
    }
    book.title = epub.metadata().title().map(|title| title.value().trim().to_owned()).filter(|title| !title.is_empty());
    Ok(book)
}

fn read_chapter(form: Form, xhtml: &str, entries: &[Entry]) -> Draft {
    let xhtml = without(xhtml.into());
    let page = Document::from(as_html(&xhtml).unwrap_or_else(|| xhtml.clone().into_owned()));
    html::strip(&page);
    if page.select("h1, h2, h3, h4, h5, h6").is_empty() {
        let mut headings: Vec<(usize, Heading)> = Vec::new();
        let mut at_start = None;
        // In the order of the text, whatever that of the table of contents.
        let places: HashMap<String, usize> = page
            .select("[id]")
            .nodes()
            .iter()
            .enumerate()
            .filter_map(|(place, node)| Some((node.attr("id")?.to_string(), place)))
            .collect();
        for (fragment, heading) in entries {
            match fragment.as_ref().and_then(|id| Some((id, *places.get(id)?))) {
                Some((_, place)) => headings.push((place, heading.clone())),
                None => at_start = at_start.or(Some(heading.clone())),
            }
        }
        headings.sort_by_key(|(place, _)| *place);
        headings.dedup_by_key(|(place, _)| *place);
        let nodes = page.select("[id]");
        for (place, _) in &headings {
            if let Some(node) = nodes.nodes().get(*place) {
                node.prepend_html(SECTION.to_string());
            }
        }
        let headings = headings.into_iter().map(|(_, heading)| heading).collect();
        let mut draft = Draft::from_marked(&html::write(form, &page), headings);
        if let Some((level, title)) = at_start.filter(|_| !draft.content.is_empty()) {
            draft.add(0, level, &title);
            draft.sections.rotate_right(1);
        }
        return draft;
    }
    html::marked(form, &page)
}

/// XHTML as HTML: `<title/>` and the like, which HTML takes for an element that is left open, have an end.
fn as_html(xhtml: &str) -> Option<String> {
    let mut reader = Reader::from_str(xhtml);
    reader.config_mut().expand_empty_elements = true;
    let mut writer = Writer::new(Vec::with_capacity(xhtml.len()));
    loop {
        match reader.read_event().ok()? {
            Event::Eof => break,
            Event::Decl(_) | Event::PI(_) => {}
            Event::End(end) if VOID.contains(&end.name().as_ref().as_bytes()) => {}
            event => writer.write_event(event).ok()?,
        }
    }
    String::from_utf8(writer.into_inner()).ok()
}

/// Whether somebody's key is needed to read it.
fn is_protected(bytes: &[u8]) -> bool {
    ["META-INF/rights.xml", "META-INF/sinf.xml", "META-INF/license.lcpl"]
        .iter()
        .any(|name| bytes.windows(name.len()).any(|part| part == name.as_bytes()))
}
