//! PDF to text, page by page.

use std::{
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
};

use pdf_extract::{Document, PlainTextOutput, output_doc_page};

#[cfg(feature = "doc")]
use super::outline;
use super::{inside::Draft, wire::Flaw};

/// The title and the text, each page under a line that says which it is.
pub(super) fn read(bytes: &[u8]) -> Result<Draft, Flaw> {
    let mut document = Document::load_mem(bytes).map_err(|_| Flaw::Malformed)?;
    // Many documents are encrypted for everybody to read.
    if document.is_encrypted() && document.decrypt("").is_err() {
        return Err(Flaw::Encrypted);
    }
    let (mut draft, mut empty) = (Draft::default(), true);
    for number in document.get_pages().into_keys() {
        let page = page(&document, number);
        let page = page.trim();
        if !draft.content.is_empty() {
            draft.content.push_str("\n\n");
        }
        draft.pages.push(draft.content.len());
        let _ = write!(draft.content, "[page {number}]\n\n{page}");
        empty &= page.is_empty();
    }
    match (draft.content.is_empty(), empty) {
        (true, _) => Err(Flaw::Malformed),
        (_, true) => Err(Flaw::NoText),
        _ => {
            draft.title = title(&document);
            #[cfg(feature = "doc")]
            outline::add(&document, &mut draft);
            Ok(draft)
        }
    }
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

/// `Title` of the document's information.
fn title(document: &Document) -> Option<String> {
    let information = document.trailer.get(b"Info").ok()?;
    let information = match information.as_reference() {
        Ok(id) => document.get_dictionary(id).ok()?,
        Err(_) => information.as_dict().ok()?,
    };
    let title = text(information.get(b"Title").ok()?.as_str().ok()?);
    (!title.is_empty()).then_some(title)
}

/// A text string of a document, without space around it: in UTF-16 or UTF-8 if it begins with such a mark.
pub(super) fn text(bytes: &[u8]) -> String {
    let text = match bytes {
        [0xfe, 0xff, rest @ ..] => encoding_rs::UTF_16BE.decode_without_bom_handling(rest).0,
        [0xff, 0xfe, rest @ ..] => encoding_rs::UTF_16LE.decode_without_bom_handling(rest).0,
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest),
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => encoding_rs::WINDOWS_1252.decode_without_bom_handling(bytes).0,
        },
    };
    text.trim().to_owned()
}
