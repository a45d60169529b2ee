//! The outline of a PDF: its bookmarks, each with the place on its page that has its title.

use std::collections::{HashMap, HashSet};

use pdf_extract::{Dictionary, Document, Object, ObjectId};

use super::{
    inside::Draft,
    marks::{MAX_SECTIONS, bare},
    pdf,
};

/// Bookmarks within bookmarks at most.
const MAX_DEPTH: u8 = 32;
/// Destinations with names at most, and nodes of the tree that has them.
const MAX_NAMES: usize = 100_000;

/// A bookmark: its level, its title, and its page if it has one.
type Bookmark = (u8, String, Option<usize>);

/// Adds a section for each bookmark to a draft that has the pages.
pub(super) fn add(document: &Document, draft: &mut Draft) {
    let mut bookmarks = bookmarks(document);
    // One that leads nowhere stands for those below it.
    let mut next = None;
    for (_, _, page) in bookmarks.iter_mut().rev() {
        *page = page.or(next);
        next = *page;
    }
    let mut placed: Vec<_> = bookmarks
        .into_iter()
        .filter_map(|(level, title, page)| Some((level, title, page?)))
        .filter(|(_, _, page)| *page < draft.pages.len())
        .collect();
    placed.sort_by_key(|(_, _, page)| *page);
    let mut open: Option<(usize, Page)> = None;
    for (level, title, number) in placed {
        if open.as_ref().is_none_or(|(known, _)| *known != number) {
            let start = draft.pages[number];
            let end = draft.pages.get(number + 1).copied().unwrap_or(draft.content.len());
            open = Some((number, Page::new(start, &draft.content[start..end])));
        }
        if let Some((_, page)) = &mut open {
            draft.add(page.find(&title), level, &title);
        }
    }
}

/// A page in which titles are looked for, one after the other.
struct Page {
    /// Where each line begins, and its letters and digits.
    lines: Vec<(usize, String)>,
    /// The line behind that of the last title.
    next: usize,
    /// Where the last title is.
    last: usize,
}

impl Page {
    fn new(start: usize, text: &str) -> Self {
        let mut at = start;
        let mut lines = Vec::new();
        for line in text.split_inclusive('\n') {
            lines.push((at, bare(line)));
            at += line.len();
        }
        Self { lines, next: 0, last: start }
    }

    /// Where the line is that has a title, with or without a number before it; if there is none, where the last title is.
    fn find(&mut self, title: &str) -> usize {
        let title = bare(title);
        let is_it = |(_, line): &(usize, String)| {
            let same = line.len() <= title.len() + 12 && (line.ends_with(&title) || line.starts_with(&title));
            // A long title goes over several lines.
            same || (line.len() >= 24 && title.starts_with(line.as_str()))
        };
        let found = self.lines[self.next..].iter().position(|line| !title.is_empty() && is_it(line));
        if let Some(index) = found {
            self.next += index + 1;
            self.last = self.lines[self.next - 1].0;
        }
        self.last
    }
}

fn bookmarks(document: &Document) -> Vec<Bookmark> {
    let mut found = Vec::new();
    let Ok(catalog) = document.catalog() else { return found };
    let Some(outlines) = dictionary(document, catalog.get(b"Outlines").ok()) else { return found };
    let pages: HashMap<ObjectId, usize> =
        document.get_pages().into_values().enumerate().map(|(index, id)| (id, index)).collect();
    let names = named(document, catalog);
    let mut seen = HashSet::new();
    let mut open: Vec<(ObjectId, u8)> = reference(outlines, b"First").map(|first| (first, 1)).into_iter().collect();
    while let Some((id, level)) = open.pop() {
        if !seen.insert(id) || found.len() >= MAX_SECTIONS {
            continue;
        }
        let Ok(node) = document.get_dictionary(id) else { continue };
        open.extend(reference(node, b"Next").map(|next| (next, level)));
        open.extend(reference(node, b"First").filter(|_| level < MAX_DEPTH).map(|first| (first, level + 1)));
        let title = direct(document, node.get(b"Title").ok()).and_then(|title| title.as_str().ok()).map(pdf::text);
        if let Some(title) = title.filter(|title| !title.is_empty()) {
            found.push((level, title, page(document, &names, &pages, node)));
        }
    }
    found
}

/// The page to which a bookmark leads, by its place among the pages.
fn page(
    document: &Document,
    names: &HashMap<Vec<u8>, &Object>,
    pages: &HashMap<ObjectId, usize>,
    node: &Dictionary,
) -> Option<usize> {
    let action = || {
        let action = dictionary(document, node.get(b"A").ok())?;
        let goes = action.get(b"S").and_then(Object::as_name).is_ok_and(|kind| kind == b"GoTo");
        action.get(b"D").ok().filter(|_| goes)
    };
    let mut target = direct(document, node.get(b"Dest").ok().or_else(action))?;
    if let Object::Name(name) | Object::String(name, _) = target {
        target = direct(document, names.get(name).copied())?;
    }
    if let Object::Dictionary(inner) = target {
        target = direct(document, inner.get(b"D").ok())?;
    }
    match target.as_array().ok()?.first()? {
        Object::Reference(id) => pages.get(id).copied(),
        Object::Integer(index) => usize::try_from(*index).ok(),
        _ => None,
    }
}

/// The destinations that have names.
fn named<'a>(document: &'a Document, catalog: &'a Dictionary) -> HashMap<Vec<u8>, &'a Object> {
    let mut found = HashMap::new();
    if let Some(old) = dictionary(document, catalog.get(b"Dests").ok()) {
        found.extend(old.iter().map(|(name, target)| (name.clone(), target)));
    }
    let tree = dictionary(document, catalog.get(b"Names").ok())
        .and_then(|names| dictionary(document, names.get(b"Dests").ok()));
    let mut open: Vec<&Dictionary> = tree.into_iter().collect();
    let mut nodes = 0;
    while let Some(node) = open.pop() {
        nodes += 1;
        if nodes + found.len() > MAX_NAMES {
            break;
        }
        if let Some(Object::Array(kids)) = direct(document, node.get(b"Kids").ok()) {
            open.extend(kids.iter().filter_map(|kid| dictionary(document, Some(kid))).take(MAX_NAMES));
        }
        if let Some(Object::Array(names)) = direct(document, node.get(b"Names").ok()) {
            for pair in names.chunks_exact(2) {
                if let Ok(name) = pair[0].as_str() {
                    found.insert(name.to_owned(), &pair[1]);
                }
            }
        }
    }
    found
}

fn reference(node: &Dictionary, key: &[u8]) -> Option<ObjectId> {
    node.get(key).ok()?.as_reference().ok()
}

/// What an object is, if it is a reference that to which it leads.
fn direct<'a>(document: &'a Document, object: Option<&'a Object>) -> Option<&'a Object> {
    document.dereference(object?).ok().map(|(_, object)| object)
}

fn dictionary<'a>(document: &'a Document, object: Option<&'a Object>) -> Option<&'a Dictionary> {
    direct(document, object)?.as_dict().ok()
}
