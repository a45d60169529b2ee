//! DOCX: headings, paragraphs, lists, tables, links and notes of a Word document (ECMA-376), by way of HTML.

mod body;
mod numbering;
mod parts;
mod styles;

use std::{io::Cursor, mem::take};

use body::Body;
use dom_query::Document;
use numbering::Numbering;
use parts::Parts;
use styles::Styles;

use super::{
    html,
    inside::Draft,
    wire::{Flaw, Form},
};

/// How a compound file begins: a document that is encrypted, or older than DOCX.
const COMPOUND_FILE: &[u8] = &[0xd0, 0xcf, 0x11, 0xe0, 0xa1, 0xb1, 0x1a, 0xe1];

/// The title and the text; a section for each heading, and the pages if the document says where Word broke them last.
pub(super) fn read(form: Form, bytes: &[u8]) -> Result<Draft, Flaw> {
    if bytes.starts_with(COMPOUND_FILE) {
        let name: Vec<u8> = "EncryptedPackage".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let encrypted = bytes.windows(name.len()).any(|part| part == name);
        return Err(if encrypted { Flaw::Encrypted } else { Flaw::Malformed });
    }
    let mut parts = Parts::open(Cursor::new(bytes))?;
    let document = parts.main()?;
    let styles = Styles::read(&parts.related("styles")?);
    let numbering = Numbering::read(&parts.related("numbering")?);
    let mut body = Body::new(&styles, numbering, parts.links());
    body.read(&document)?;
    drop(document);
    for (kind, notes) in [('f', "footnotes"), ('e', "endnotes")] {
        body.read_notes(kind, &parts.related(notes)?)?;
    }
    let page = Document::from(take(&mut body.html));
    let mut draft = html::marked(form, &page);
    if draft.content.is_empty() {
        return Err(Flaw::NoText);
    }
    if !draft.pages.is_empty() {
        draft.pages.insert(0, 0);
    }
    Ok(Draft { title: parts.title().or(draft.title), ..draft })
}
