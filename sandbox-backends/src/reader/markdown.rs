//! Markdown, and text without any form.

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use super::{html, inside::Draft, marks::without, wire::Form};

fn options() -> Options {
    Options::ENABLE_TABLES
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_HEADING_ATTRIBUTES
        | Options::ENABLE_YAML_STYLE_METADATA_BLOCKS
        | Options::ENABLE_PLUSES_DELIMITED_METADATA_BLOCKS
}

/// The text as it is, or without its form; a section for each heading.
pub(super) fn read(form: Form, bytes: &[u8]) -> Draft {
    let source = source(bytes);
    let named = title(&source);
    let draft = match form {
        Form::Markdown => as_written(source),
        Form::Text => without_form(&source),
    };
    Draft { title: named.or_else(|| draft.sections.first().map(|first| first.title.clone())), ..draft }
}

/// `title:` of what stands before the text, between lines `---` or `+++`.
fn title(source: &str) -> Option<String> {
    let mark = source.lines().next().filter(|line| matches!(line.trim_end(), "---" | "+++"))?.trim_end();
    let mut lines = source.lines().skip(1).take(200).take_while(|line| line.trim_end() != mark);
    let title = lines.find_map(|line| line.strip_prefix("title").map(str::trim_start)?.strip_prefix([':', '=']))?;
    let title = title.trim().trim_matches(['"', '\'']).trim();
    (!title.is_empty()).then(|| title.to_owned())
}

/// A text without any form.
pub(super) fn plain(bytes: &[u8]) -> Draft {
    Draft { content: source(bytes), ..Draft::default() }
}

fn source(bytes: &[u8]) -> String {
    let text = without(html::decode_plain(bytes));
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text.into_owned() }
}

fn as_written(source: String) -> Draft {
    let mut found = Vec::new();
    let mut heading: Option<(usize, u8, String)> = None;
    for (event, range) in Parser::new_ext(&source, options()).into_offset_iter() {
        match (event, &mut heading) {
            (Event::Start(Tag::Heading { level, .. }), _) => {
                // With what stands before it, in a quotation or a list.
                let line = source[..range.start].rfind('\n').map_or(0, |end| end + 1);
                heading = Some((line, level as u8, String::new()));
            }
            (Event::End(TagEnd::Heading(_)), _) => found.extend(heading.take()),
            (event, Some((_, _, title))) => push_title(title, &event),
            _ => {}
        }
    }
    let mut draft = Draft { content: source, ..Draft::default() };
    for (at, level, title) in found {
        draft.add(at, level, &title);
    }
    draft
}

fn push_title(title: &mut String, event: &Event<'_>) {
    match event {
        Event::Text(text) | Event::Code(text) => title.push_str(text),
        Event::SoftBreak | Event::HardBreak => title.push(' '),
        _ => {}
    }
}

/// What Markdown says, without how it says it.
#[derive(Default)]
struct Plain {
    draft: Draft,
    /// The numbers of the open lists' next items; none of one without numbers.
    lists: Vec<Option<u64>>,
    heading: Option<(usize, u8, String)>,
    /// Whether the line is one of a table that has a cell.
    has_cell: bool,
}

fn without_form(source: &str) -> Draft {
    let mut plain = Plain::default();
    for event in Parser::new_ext(source, options()) {
        plain.add(event);
    }
    let length = plain.draft.content.trim_end().len();
    plain.draft.content.truncate(length);
    plain.draft
}

impl Plain {
    fn add(&mut self, event: Event<'_>) {
        if let Some((_, _, title)) = &mut self.heading {
            push_title(title, &event);
        }
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) | Event::Code(text) | Event::InlineMath(text) | Event::DisplayMath(text) => {
                self.draft.content.push_str(&text);
            }
            Event::Html(html) => {
                let text = without_tags(&html);
                if !text.trim().is_empty() {
                    self.line();
                    self.draft.content.push_str(text.trim());
                }
            }
            Event::InlineHtml(html) => self.draft.content.push_str(&without_tags(&html)),
            Event::FootnoteReference(name) => self.draft.content.extend(["[^", &name, "]"]),
            Event::SoftBreak => self.draft.content.push(' '),
            Event::HardBreak => self.draft.content.push('\n'),
            Event::Rule => self.apart(),
            Event::TaskListMarker(done) => self.draft.content.push_str(if done { "[x] " } else { "[ ] " }),
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Heading { level, .. } => {
                self.apart();
                self.heading = Some((self.draft.content.len(), level as u8, String::new()));
            }
            Tag::Item => {
                self.line();
                let indent = "  ".repeat(self.lists.len().saturating_sub(1));
                let sign = match self.lists.last_mut() {
                    Some(Some(number)) => {
                        *number += 1;
                        format!("{}. ", *number - 1)
                    }
                    _ => "- ".to_owned(),
                };
                self.draft.content.extend([indent, sign]);
            }
            Tag::List(first) => {
                if self.lists.is_empty() {
                    self.apart();
                } else {
                    self.line();
                }
                self.lists.push(first);
            }
            Tag::FootnoteDefinition(name) => {
                self.apart();
                self.draft.content.extend(["[^", &name, "]: "]);
            }
            Tag::TableCell if std::mem::replace(&mut self.has_cell, true) => self.draft.content.push('\t'),
            // The first one of an item or a note stands behind its sign.
            Tag::Paragraph if self.draft.content.ends_with(' ') => {}
            Tag::Paragraph | Tag::CodeBlock(_) | Tag::Table(_) | Tag::HtmlBlock | Tag::BlockQuote(_) => self.apart(),
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(_) => {
                if let Some((at, level, title)) = self.heading.take() {
                    self.draft.add(at, level, &title);
                }
                self.apart();
            }
            TagEnd::List(_) => {
                self.lists.pop();
                if self.lists.is_empty() {
                    self.apart();
                } else {
                    self.line();
                }
            }
            TagEnd::Item => self.line(),
            TagEnd::TableHead | TagEnd::TableRow => {
                self.has_cell = false;
                self.line();
            }
            TagEnd::Paragraph | TagEnd::CodeBlock | TagEnd::Table | TagEnd::HtmlBlock | TagEnd::MetadataBlock(_) => {
                self.apart();
            }
            _ => {}
        }
    }

    /// What follows stands on a line of its own.
    fn line(&mut self) {
        if !self.draft.content.is_empty() && !self.draft.content.ends_with('\n') {
            self.draft.content.push('\n');
        }
    }

    /// What follows is a paragraph of its own.
    fn apart(&mut self) {
        self.line();
        if !self.draft.content.is_empty() && !self.draft.content.ends_with("\n\n") {
            self.draft.content.push('\n');
        }
    }
}

/// What stands between tags.
fn without_tags(html: &str) -> String {
    let (mut text, mut rest) = (String::new(), html);
    while let Some(open) = rest.find('<') {
        text.push_str(&rest[..open]);
        let end = if rest[open..].starts_with("<!--") { "-->" } else { ">" };
        match rest[open..].find(end) {
            Some(length) => rest = &rest[open + length + end.len()..],
            None => return text,
        }
    }
    text + rest
}
