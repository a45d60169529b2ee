//! HTML to Markdown or plain text: the article of a page, or, where the page is no article, all of it but its frame.

use dom_query::Document;
use dom_smoothie::{Config, Readability, TextMode};
use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};
use url::Url;

use super::{
    tables,
    wire::{Form, Task},
};

/// What nobody reads.
const INVISIBLE: &str = "script, style, noscript, template, svg, canvas, iframe, object, embed, link, input, select, \
                         textarea, dialog, [hidden], [aria-hidden='true'], [style*='display:none'], \
                         [style*='display: none']";

/// What leads elsewhere.
const MENUS: &str = "nav, [role='navigation'], [role='search']";

/// What surrounds the text of a page that is no article.
const FRAME: &str = "aside, footer, form button, [role='banner'], [role='contentinfo']";

/// An article that has less than this share of the text is none: the page is a manual, a list or a table.
const MIN_SHARE: f64 = 0.3;

/// A page with less text than this is shown as the article, however short, in characters.
const SMALL_PAGE: usize = 5_000;

/// A link that would be longer is left as it is, in bytes.
const MAX_LINK: usize = 2048;

/// How far into a page its encoding may be named, in bytes.
const PRESCAN_BYTES: usize = 1024;

/// The title and the content of a page.
pub(super) fn read(task: &Task, bytes: &[u8]) -> (Option<String>, String) {
    let html = decode(task.charset.as_deref(), bytes);
    let page = Document::from(html.as_ref());
    drop(html);
    page.select(INVISIBLE).remove();
    page.select(MENUS).remove();
    tidy(&page, task.base.as_deref());
    let text = page.body().map_or(0, |body| body.normalized_char_count());
    let (title, article) = article(page.clone());
    match article.filter(|(_, length)| text <= SMALL_PAGE || share(*length, text) >= MIN_SHARE) {
        Some((article, _)) => (title, write(task.form, &Document::from(article))),
        None => {
            page.select(FRAME).remove();
            (title, write(task.form, &page))
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "lengths of texts")]
fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

/// The title, and the HTML of the article with the length of its text.
fn article(page: Document) -> (Option<String>, Option<(String, usize)>) {
    let config = Config { text_mode: TextMode::Raw, disable_json_ld: true, ..Config::default() };
    let Ok(mut reader) = Readability::with_document(page, None, Some(config)) else { return (None, None) };
    let title = reader.get_article_title().trim().to_owned();
    let title = (!title.is_empty()).then_some(title);
    match reader.parse() {
        Ok(article) => {
            let found = Some(article.title.trim().to_owned()).filter(|title| !title.is_empty());
            (found.or(title), Some((article.content.to_string(), article.length)))
        }
        Err(_) => (title, None),
    }
}

/// Makes links absolute, tables regular, and powers visible.
fn tidy(page: &Document, base: Option<&str>) {
    tables::regular(page);
    for node in page.select("sup").nodes() {
        // Not the ending of an ordinal, and not a mark of a footnote, which is a link.
        let text = node.text().trim().to_owned();
        let is_number = text.chars().all(|c| c.is_ascii_digit() || matches!(c, '+' | '-' | '\u{2212}'));
        if node.element_children().is_empty() && ((is_number && !text.is_empty()) || text.chars().count() == 1) {
            node.set_text(format!("^{text}"));
        }
    }
    for node in page.select("a[href^='#']").nodes() {
        // What manuals put behind headings to copy their address.
        if matches!(node.text().trim(), "" | "#" | "\u{b6}" | "\u{a7}" | "\u{1f517}") {
            node.remove_from_parent();
        }
    }
    let base = base.and_then(|base| Url::parse(base).ok());
    let base = match (base, page.base_uri()) {
        (Some(base), Some(own)) => Some(base.join(&own).unwrap_or(base)),
        (base, _) => base,
    };
    if let Some(base) = base {
        for (elements, attribute) in [("a[href]", "href"), ("img[src]", "src")] {
            for node in page.select(elements).nodes() {
                // A link within the page stays one.
                let value = node.attr_or(attribute, "");
                let whole = base.join(&value).ok().filter(|url| url.as_str().len() <= MAX_LINK);
                if let Some(url) = whole.filter(|_| !value.starts_with('#')) {
                    node.set_attr(attribute, url.as_str());
                }
            }
        }
    }
    // Pictures that are written into the page say nothing as text.
    page.select("img[src^='data:']").remove();
}

fn write(form: Form, page: &Document) -> String {
    // They would run together with what follows.
    for node in page.select("dt, dd, summary, figcaption").nodes() {
        node.rename("p");
    }
    let text = match form {
        Form::Markdown => page.md(Some(&["head"])),
        Form::Text => match page.body() {
            Some(body) => body.formatted_text(),
            None => page.formatted_text(),
        },
    };
    text.trim().to_owned()
}

/// The text of a page: a byte order mark says more than the label that came with it, that more than the page itself.
fn decode<'a>(label: Option<&str>, bytes: &'a [u8]) -> std::borrow::Cow<'a, str> {
    let named = label.and_then(|label| Encoding::for_label(label.as_bytes())).or_else(|| named(bytes));
    let encoding = named.unwrap_or_else(|| if std::str::from_utf8(bytes).is_ok() { UTF_8 } else { WINDOWS_1252 });
    encoding.decode(bytes).0
}

/// The encoding that the head of the page names.
fn named(bytes: &[u8]) -> Option<&'static Encoding> {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(PRESCAN_BYTES)]).to_ascii_lowercase();
    let after = &head[head.find("<meta")?..];
    let label = after[after.find("charset=")? + "charset=".len()..].trim_start_matches(['"', '\'', ' ']);
    let label = label.split(['"', '\'', ' ', ';', '>', '/']).next()?;
    let encoding = Encoding::for_label(label.as_bytes())?;
    // A page whose bytes could be read so far is not in UTF-16, whatever it says.
    Some(if encoding.is_ascii_compatible() { encoding } else { UTF_8 })
}
