//! HTML to Markdown or plain text: the article of a page, or, where the page is no article, all of it but its frame.

use std::borrow::Cow;

use dom_query::Document;
#[cfg(feature = "web")]
use dom_smoothie::{Config, Readability, TextMode};
use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};
use url::Url;

#[cfg(feature = "doc")]
use super::marks::{Heading, section, without};
#[cfg(feature = "web")]
use super::wire::Task;
use super::{inside::Draft, tables, wire::Form};

/// What nobody reads.
const INVISIBLE: &str = "script, style, noscript, template, svg, canvas, iframe, object, embed, link, input, select, \
                         textarea, dialog, [hidden], [aria-hidden='true'], [style*='display:none'], \
                         [style*='display: none']";

/// What leads elsewhere.
const MENUS: &str = "nav, [role='navigation'], [role='search']";

/// What surrounds the text of a page that is no article.
#[cfg(feature = "web")]
const FRAME: &str = "aside, footer, form button, [role='banner'], [role='contentinfo']";

/// An article that has less than this share of the text is none: the page is a manual, a list or a table.
#[cfg(feature = "web")]
const MIN_SHARE: f64 = 0.3;

/// A page with less text than this is shown as the article, however short, in characters.
#[cfg(feature = "web")]
const SMALL_PAGE: usize = 5_000;

/// A link that would be longer is left as it is, in bytes.
const MAX_LINK: usize = 2048;

/// Stands for `&` in URLs while Markdown is written: a character that no document has a use for.
const AND: &str = "\u{F0002}";

/// How far into a page its encoding may be named, in bytes.
const PRESCAN_BYTES: usize = 1024;

/// The title and the article of a page.
#[cfg(feature = "web")]
pub(super) fn article(task: &Task, bytes: &[u8]) -> Draft {
    let html = decode(task.charset.as_deref(), bytes);
    let page = Document::from(html.as_ref());
    drop(html);
    strip(&page);
    tidy(&page, task.base.as_deref());
    let text = page.body().map_or(0, |body| body.normalized_char_count());
    let (title, article) = readable(page.clone());
    let content = match article.filter(|(_, length)| text <= SMALL_PAGE || share(*length, text) >= MIN_SHARE) {
        Some((article, _)) => write(task.form, &Document::from(article)),
        None => {
            page.select(FRAME).remove();
            write(task.form, &page)
        }
    };
    Draft { title, content, ..Draft::default() }
}

/// The title and all the text of a page, with a section for each heading.
#[cfg(feature = "doc")]
pub(super) fn whole(form: Form, html: &str) -> Draft {
    let page = Document::from(without(html.into()).as_ref());
    clean(&page);
    marked(form, &page)
}

/// The attribute of what begins a section and is no heading: its level, and after a space its title.
#[cfg(feature = "doc")]
pub(super) const BEGINS: &str = "data-section";

/// What a page says, with a section for each heading and each element with [`BEGINS`]; it may have marks of pages.
#[cfg(feature = "doc")]
pub(super) fn marked(form: Form, page: &Document) -> Draft {
    tidy(page, None);
    let title = page.select("head > title").text().trim().to_owned();
    let mut headings: Vec<Heading> = Vec::new();
    for node in page.select("h1, h2, h3, h4, h5, h6, [data-section]").nodes() {
        let own = node.node_name().and_then(|name| name.strip_prefix('h')?.parse::<u8>().ok());
        let own = own.filter(|level| (1..=6).contains(level));
        let own = own.map(|level| (level, without(node.formatted_text().as_ref().into()).into_owned()));
        let given = node.attr(BEGINS).and_then(|given| {
            let (level, title) = given.split_once(' ')?;
            Some((level.parse().ok()?, title.to_owned()))
        });
        for heading in [given, own].into_iter().flatten().filter(|(_, title)| !title.trim().is_empty()) {
            let Some(mark) = section(headings.len()) else { break };
            // An image has nothing in it, and what is in a table or a list but not in its cells and items goes astray.
            let holds_text =
                !["table", "tbody", "thead", "tr", "ul", "ol", "dl", "body"].iter().any(|name| node.has_name(name));
            if holds_text && node.first_child().is_some() {
                node.prepend_html(mark.to_string());
            } else {
                node.before_html(mark.to_string());
            }
            headings.push(heading);
        }
    }
    let title =
        Some(title).filter(|title| !title.is_empty()).or_else(|| headings.first().map(|(_, text)| text.clone()));
    Draft { title, ..Draft::from_marked(&write(form, page), &headings) }
}

/// Takes away what is not read, and what would be taken for our own.
#[cfg(feature = "doc")]
pub(super) fn clean(page: &Document) {
    strip(page);
    page.select("[data-section]").remove_attr(BEGINS);
}

/// Takes away what is not read.
fn strip(page: &Document) {
    page.select(INVISIBLE).remove();
    page.select(MENUS).remove();
}

#[cfg(feature = "web")]
#[expect(clippy::cast_precision_loss, reason = "lengths of texts")]
fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

/// The title, and the HTML of the article with the length of its text.
#[cfg(feature = "web")]
fn readable(page: Document) -> (Option<String>, Option<(String, usize)>) {
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

/// A page in this form.
pub(super) fn write(form: Form, page: &Document) -> String {
    // They would run together with what follows.
    for node in page.select("dt, dd, summary, figcaption").nodes() {
        node.rename("p");
    }
    // The space around them would be lost.
    for node in page.select("a:not([href])").nodes() {
        if node.first_child().is_none() {
            node.remove_from_parent();
        }
    }
    let text = match form {
        Form::Markdown => {
            // In a URL the writer makes `&amp;` of it: Markdown, but not the URL that somebody copies.
            for (elements, attribute) in [("a[href*='&']", "href"), ("img[src*='&']", "src")] {
                for node in page.select(elements).nodes() {
                    node.set_attr(attribute, &node.attr_or(attribute, "").replace('&', AND));
                }
            }
            let text = page.md(Some(&["head"]));
            if text.contains(AND) { text.replace(AND, "&").into() } else { text }
        }
        Form::Text => match page.body() {
            Some(body) => body.formatted_text(),
            None => page.formatted_text(),
        },
    };
    text.trim().to_owned()
}

/// The text of a page: a byte order mark says more than the label that came with it, that more than the page itself.
pub(super) fn decode<'a>(label: Option<&str>, bytes: &'a [u8]) -> Cow<'a, str> {
    let named = label.and_then(|label| Encoding::for_label(label.as_bytes())).or_else(|| named(bytes));
    named.map_or_else(|| decode_plain(bytes), |encoding| encoding.decode(bytes).0)
}

/// A text that does not say what it is encoded in, but for a byte order mark.
pub(super) fn decode_plain(bytes: &[u8]) -> Cow<'_, str> {
    let encoding = if std::str::from_utf8(bytes).is_ok() { UTF_8 } else { WINDOWS_1252 };
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
