//! Markdown, and text without any form.

use dom_query::Document;
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd, html::push_html};

use super::{
    html,
    inside::Draft,
    marks::{Heading, SECTION, without},
    wire::Form,
};

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
    let draft = match form {
        Form::Markdown => as_written(source),
        Form::Text => without_form(&source),
    };
    Draft { title: draft.sections.first().map(|first| first.title.clone()), ..draft }
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
            (Event::Start(Tag::Heading { level, .. }), _) => heading = Some((range.start, level as u8, String::new())),
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

fn without_form(source: &str) -> Draft {
    let mut headings: Vec<Heading> = Vec::new();
    let mut open = false;
    let mut events = Vec::new();
    for event in Parser::new_ext(source, options()) {
        match (&event, headings.last_mut()) {
            (Event::Start(Tag::Heading { level, .. }), _) => {
                headings.push((*level as u8, String::new()));
                open = true;
                events.push(event);
                events.push(Event::Text(SECTION.to_string().into()));
                continue;
            }
            (Event::End(TagEnd::Heading(_)), _) => open = false,
            (event, Some((_, title))) if open => push_title(title, event),
            _ => {}
        }
        events.push(event);
    }
    let mut page = String::new();
    push_html(&mut page, events.into_iter());
    Draft::from_marked(&html::write(Form::Text, &Document::from(page)), headings)
}

fn push_title(title: &mut String, event: &Event<'_>) {
    match event {
        Event::Text(text) | Event::Code(text) => title.push_str(text),
        Event::SoftBreak | Event::HardBreak => title.push(' '),
        _ => {}
    }
}
