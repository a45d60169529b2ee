//! PDF to text, page by page.

use std::{
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
};

use pdf_extract::{Document, PlainTextOutput, output_doc_page};

use super::wire::Flaw;

/// The title and the text, each page under a line that says which it is.
pub(super) fn read(bytes: &[u8]) -> Result<(Option<String>, String), Flaw> {
    let mut document = Document::load_mem(bytes).map_err(|_| Flaw::Malformed)?;
    // Many documents are encrypted for everybody to read.
    if document.is_encrypted() && document.decrypt("").is_err() {
        return Err(Flaw::Encrypted);
    }
    let (mut text, mut empty) = (String::new(), true);
    for number in document.get_pages().into_keys() {
        let page = page(&document, number);
        let page = page.trim();
        if !text.is_empty() {
            text.push_str("\n\n");
        }
        let _ = write!(text, "[page {number}]\n\n{page}");
        empty &= page.is_empty();
    }
    if text.is_empty() {
        return Err(Flaw::Malformed);
    }
    if empty { Err(Flaw::NoText) } else { Ok((title(&document), text)) }
}

/// The text of one page; where its layout cannot be followed, the words as they stand in the file.
fn page(document: &Document, number: u32) -> String {
    let laid_out = catch_unwind(AssertUnwindSafe(|| {
        let mut text = String::new();
        output_doc_page(document, &mut PlainTextOutput::new(&mut text), number).map(|()| text)
    }));
    match laid_out {
        Ok(Ok(text)) => text,
        _ => {
            catch_unwind(AssertUnwindSafe(|| document.extract_text(&[number]).unwrap_or_default())).unwrap_or_default()
        }
    }
}

/// `Title` of the document's information, which is in UTF-16 if it begins with a mark.
fn title(document: &Document) -> Option<String> {
    let information = document.trailer.get(b"Info").ok()?;
    let information = match information.as_reference() {
        Ok(id) => document.get_dictionary(id).ok()?,
        Err(_) => information.as_dict().ok()?,
    };
    let bytes = information.get(b"Title").ok()?.as_str().ok()?;
    let title = match bytes {
        [0xfe, 0xff, rest @ ..] => encoding_rs::UTF_16BE.decode_without_bom_handling(rest).0,
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => encoding_rs::WINDOWS_1252.decode_without_bom_handling(bytes).0,
        },
    };
    let title = title.trim();
    (!title.is_empty()).then(|| title.to_owned())
}
