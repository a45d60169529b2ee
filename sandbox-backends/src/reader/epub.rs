//! EPUB: its chapters in their order, each a page of XHTML.

use std::{collections::HashMap, io::Cursor};

use dom_query::Document;
use quick_xml::{Reader, Writer, events::Event};
use rbook::Epub;

use super::{
    html,
    inside::Draft,
    marks::{Heading, bare, without},
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
    let (mut book, mut unreadable) = (Draft::default(), false);
    for chapter in epub.reader() {
        // One that is missing takes no other with it.
        let Ok(chapter) = chapter else {
            unreadable = true;
            continue;
        };
        let entries = contents.remove(chapter.manifest_entry().href().path().as_str()).unwrap_or_default();
        book.append(read_chapter(form, chapter.content(), &entries));
    }
    if book.content.is_empty() {
        return Err(match (unreadable, is_protected(bytes)) {
            (true, true) => Flaw::Encrypted,
            (true, false) => Flaw::Malformed,
            (false, _) => Flaw::NoText,
        });
    }
    let title = epub.metadata().title().map(|title| title.value().trim().to_owned()).filter(|title| !title.is_empty());
    book.title = title.or_else(|| book.sections.first().map(|first| first.title.clone()));
    Ok(book)
}

fn read_chapter(form: Form, xhtml: &str, entries: &[Entry]) -> Draft {
    let xhtml = without(xhtml.into());
    let page = Document::from(as_html(&xhtml).unwrap_or_else(|| xhtml.clone().into_owned()));
    html::clean(&page);
    let headings: Vec<String> =
        page.select("h1, h2, h3, h4, h5, h6").nodes().iter().map(|heading| bare(&heading.text())).collect();
    let with_ids = page.select("[id]");
    let mut targets = HashMap::new();
    for node in with_ids.nodes() {
        targets.entry(node.id_attr().map(|id| id.to_string()).unwrap_or_default()).or_insert(*node);
    }
    for (fragment, (level, title)) in entries {
        let own = bare(title);
        // One that is a heading of the text, perhaps with a number more or less, is found there.
        let within = |part: &str, whole: &str| part.len() > 2 && whole.contains(part);
        if headings.iter().any(|text| *text == own || within(text, &own) || within(&own, text)) {
            continue;
        }
        let target = fragment.as_deref().and_then(|id| targets.get(id).copied());
        if let Some(node) = target.or_else(|| page.body()?.first_element_child()) {
            node.set_attr(html::BEGINS, &format!("{level} {title}"));
        }
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
