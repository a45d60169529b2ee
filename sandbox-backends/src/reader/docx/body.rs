//! The text of a Word document as HTML.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
};

use quick_xml::{
    Reader,
    escape::escape,
    events::{BytesStart, Event},
};

use super::parts::{Styles, attribute, push_text};
use crate::reader::marks::{PAGE, without};

/// What is not the document as it stands: what was deleted or moved away, how things looked before, and what readers of
/// old show instead of something newer.
const SKIPPED: &[&str] = &[
    "w:del",
    "w:moveFrom",
    "mc:Fallback",
    "w:pPrChange",
    "w:rPrChange",
    "w:sectPrChange",
    "w:tblPrChange",
    "w:trPrChange",
    "w:tcPrChange",
    "w:numberingChange",
];

/// Lists within lists at most.
const MAX_LIST_DEPTH: usize = 9;

/// What was written so far.
pub(super) struct Body<'a> {
    pub(super) html: String,
    styles: &'a Styles,
    links: HashMap<String, String>,
    /// Whether the document says where its pages ended when it was saved; then breaks of its author are among those.
    rendered: bool,
    /// Open paragraphs: one, and those of a text box that stands in it.
    paragraphs: Vec<Paragraph>,
    /// Open lists, and whether they have numbers.
    lists: Vec<bool>,
    /// Open tables.
    tables: usize,
    /// The columns of a cell that has no text yet.
    cell: Option<String>,
    /// Whether a page has begun in this row of a table.
    broken_row: bool,
    /// Whether the table has a row.
    has_rows: bool,
    /// The numbers of notes by kind and id, in the order in which the text has them.
    notes: HashMap<(char, String), usize>,
    /// What stands before the next paragraph.
    prefix: String,
    in_properties: bool,
    in_run: bool,
    hidden: bool,
    raised: bool,
    in_text: bool,
}

#[derive(Default)]
struct Paragraph {
    html: String,
    style: Option<String>,
    outline: Option<u8>,
    list: Option<String>,
    list_level: usize,
    links: usize,
}

impl<'a> Body<'a> {
    pub(super) fn new(styles: &'a Styles, links: HashMap<String, String>, rendered: bool) -> Self {
        Self {
            html: "<body>".to_owned(),
            styles,
            links,
            rendered,
            paragraphs: Vec::new(),
            lists: Vec::new(),
            tables: 0,
            cell: None,
            broken_row: false,
            has_rows: false,
            notes: HashMap::new(),
            prefix: String::new(),
            in_properties: false,
            in_run: false,
            hidden: false,
            raised: false,
            in_text: false,
        }
    }

    /// Adds what a part says; of one that is damaged, what comes before the damage.
    pub(super) fn read(&mut self, xml: &str) {
        let mut reader = Reader::from_str(xml);
        while let Ok(event) = reader.read_event() {
            match event {
                Event::Start(start) if SKIPPED.contains(&start.name().as_ref()) => {
                    if reader.read_to_end(start.name()).is_err() {
                        break;
                    }
                }
                Event::Empty(start) if start.name().as_ref() == "w:p" => {}
                Event::Empty(start) if start.name().as_ref() == "w:tc" => {
                    self.open(&start);
                    self.close("w:tc");
                }
                Event::Empty(start) if matches!(start.name().as_ref(), "w:pPr" | "w:rPr" | "w:r" | "w:t" | "m:t") => {}
                Event::Start(start) | Event::Empty(start) => self.open(&start),
                Event::End(end) => self.close(end.name().as_ref()),
                Event::Eof => break,
                event => self.text(&event),
            }
        }
        while !self.paragraphs.is_empty() {
            self.end_paragraph();
        }
        self.end_lists(0);
        for _ in 0..std::mem::take(&mut self.tables) {
            self.html.push_str("</table>");
        }
    }

    /// Adds the notes of one kind, each behind its number.
    pub(super) fn read_notes(&mut self, kind: char, xml: &str) {
        let mut notes = BTreeMap::new();
        let mut reader = Reader::from_str(xml);
        while let Ok(event) = reader.read_event() {
            match event {
                Event::Start(start) if matches!(start.name().as_ref(), "w:footnote" | "w:endnote") => {
                    let Ok(inner) = reader.read_text(start.name()) else { break };
                    // Those to which nothing refers are lines between text and notes.
                    let number = attribute(&start, "w:id").and_then(|id| self.notes.get(&(kind, id)).copied());
                    notes.extend(number.map(|number| (number, inner.into_inner())));
                }
                Event::Eof => break,
                _ => {}
            }
        }
        for (number, note) in notes {
            self.prefix = format!("<sup>{number}</sup> ");
            self.read(&note);
        }
    }

    fn open(&mut self, start: &BytesStart<'_>) {
        let value = || attribute(start, "w:val");
        let is_on = || value().is_none_or(|value| !matches!(value.as_str(), "0" | "false"));
        match start.name().as_ref() {
            "w:p" => self.paragraphs.push(Paragraph::default()),
            "w:pPr" => self.in_properties = true,
            "w:r" => (self.in_run, self.hidden, self.raised) = (true, false, false),
            "w:vertAlign" if self.in_run => self.raised = value().is_some_and(|value| value == "superscript"),
            "m:sup" => self.push("^("),
            "m:sub" => self.push("_("),
            "m:den" => self.push("/("),
            "w:t" | "m:t" => self.in_text = !self.hidden,
            "w:vanish" if self.in_run => self.hidden = is_on(),
            "w:tab" | "w:ptab" if !self.in_properties => self.push(" "),
            "w:noBreakHyphen" => self.push("-"),
            "w:cr" => self.push("<br>"),
            "w:br" => match attribute(start, "w:type").as_deref() {
                Some("page") if !self.rendered => self.begin_page(),
                Some("page" | "column") => self.push(" "),
                _ => self.push("<br>"),
            },
            "w:lastRenderedPageBreak" => self.begin_page(),
            "w:pageBreakBefore" if !self.rendered && is_on() => self.begin_page(),
            name @ ("w:footnoteReference" | "w:endnoteReference") => {
                if let Some(id) = attribute(start, "w:id") {
                    let next = self.notes.len() + 1;
                    let number = *self.notes.entry((note_kind(name), id)).or_insert(next);
                    self.push(&format!("<sup>{number}</sup>"));
                }
            }
            "w:hyperlink" => {
                let target = attribute(start, "r:id").and_then(|id| self.links.get(&id).cloned());
                if let (Some(target), Some(paragraph)) = (target, self.paragraphs.last_mut()) {
                    let _ = write!(paragraph.html, "<a href=\"{}\">", escape(target.as_str()));
                    paragraph.links += 1;
                }
            }
            "w:tbl" => {
                self.end_lists(0);
                self.tables += 1;
                if self.tables == 1 {
                    self.html.push_str("<table>");
                    self.has_rows = false;
                }
            }
            "w:tr" if self.tables == 1 => {
                self.html.push_str("<tr>");
                self.broken_row = false;
            }
            "w:tc" if self.tables == 1 => self.cell = Some("1".to_owned()),
            "w:gridSpan" if self.cell.is_some() => self.cell = value(),
            name => {
                let Some(paragraph) = self.paragraphs.last_mut().filter(|_| self.in_properties) else { return };
                match name {
                    "w:pStyle" => paragraph.style = value(),
                    "w:outlineLvl" => paragraph.outline = value().and_then(|value| value.parse().ok()),
                    "w:numId" => paragraph.list = value(),
                    "w:ilvl" => paragraph.list_level = value().and_then(|value| value.parse().ok()).unwrap_or(0),
                    _ => {}
                }
            }
        }
    }

    fn close(&mut self, name: &str) {
        match name {
            "w:p" => self.end_paragraph(),
            "w:pPr" => self.in_properties = false,
            "w:r" => (self.in_run, self.hidden) = (false, false),
            "w:t" | "m:t" => self.in_text = false,
            "w:hyperlink" => {
                if let Some(paragraph) = self.paragraphs.last_mut().filter(|paragraph| paragraph.links > 0) {
                    paragraph.html.push_str("</a>");
                    paragraph.links -= 1;
                }
            }
            "w:tc" if self.tables == 1 => {
                self.begin_cell();
                self.html.push_str(if self.has_rows { "</td>" } else { "</th>" });
            }
            "w:tr" if self.tables == 1 => {
                self.html.push_str("</tr>");
                self.has_rows = true;
            }
            "m:sup" | "m:sub" | "m:den" => self.push(")"),
            "w:tbl" if self.tables > 0 => {
                self.tables -= 1;
                if self.tables == 0 {
                    self.html.push_str("</table>");
                }
            }
            _ => {}
        }
    }

    fn text(&mut self, event: &Event<'_>) {
        if let (true, Some(paragraph)) = (self.in_text, self.paragraphs.last_mut()) {
            let mut text = String::new();
            push_text(&mut text, event);
            let text = without(text.into());
            let text = escape(text.as_ref());
            if self.raised {
                let _ = write!(paragraph.html, "<sup>{text}</sup>");
            } else {
                paragraph.html.push_str(&text);
            }
        }
    }

    fn push(&mut self, html: &str) {
        if let Some(paragraph) = self.paragraphs.last_mut() {
            paragraph.html.push_str(html);
        }
    }

    fn begin_page(&mut self) {
        // Every cell of a row that goes over two pages says so.
        if self.tables == 0 || !std::mem::replace(&mut self.broken_row, true) {
            self.push(PAGE.encode_utf8(&mut [0; 4]));
        }
    }

    fn begin_cell(&mut self) {
        if let Some(columns) = self.cell.take() {
            // The names of columns stand in the first row.
            let cell = if self.has_rows { "td" } else { "th" };
            let _ = write!(self.html, "<{cell} colspan=\"{}\">", escape(columns.as_str()));
        }
    }

    fn end_paragraph(&mut self) {
        let Some(paragraph) = self.paragraphs.pop() else { return };
        self.in_properties = false;
        let style = paragraph.style.as_deref().unwrap_or_default();
        let mut text = paragraph.html;
        if self.styles.is_contents(style) {
            text.retain(|c| c == PAGE);
        }
        if text.trim().is_empty() {
            return;
        }
        text.insert_str(0, &std::mem::take(&mut self.prefix));
        text.push_str(&"</a>".repeat(paragraph.links));
        if self.tables > 0 {
            self.begin_cell();
            let _ = write!(self.html, "{text} ");
            return;
        }
        if self.styles.is_code(style) {
            self.end_lists(0);
            let text = text.replace("<br>", "\n");
            // Every line of it is a paragraph.
            match self.html.strip_suffix("</code></pre>").map(str::len) {
                Some(length) => {
                    self.html.truncate(length);
                    let _ = write!(self.html, "\n{text}</code></pre>");
                }
                None => {
                    let _ = write!(self.html, "<pre><code>{text}</code></pre>");
                }
            }
            return;
        }
        let heading = paragraph.outline.map(|level| level + 1).or_else(|| self.styles.heading(style));
        if let Some(level @ 1..=9) = heading {
            self.end_lists(0);
            let level = level.min(6);
            let _ = write!(self.html, "<h{level}>{text}</h{level}>");
            return;
        }
        let list = paragraph.list.as_deref().or_else(|| self.styles.list(style)).filter(|list| *list != "0");
        if let Some(list) = list {
            let depth = paragraph.list_level.min(MAX_LIST_DEPTH - 1) + 1;
            let ordered = self.styles.is_ordered(list, depth - 1);
            self.end_lists(depth);
            if self.lists.len() == depth && self.lists.last() != Some(&ordered) {
                self.end_lists(depth - 1);
            }
            while self.lists.len() < depth {
                self.html.push_str(if ordered { "<ol>" } else { "<ul>" });
                self.lists.push(ordered);
            }
            // Its end is that of the list, or the next item: a list within it belongs to it.
            let _ = write!(self.html, "<li>{text}");
            return;
        }
        self.end_lists(0);
        let _ = write!(self.html, "<p>{text}</p>");
    }

    /// Closes lists until so many are open.
    fn end_lists(&mut self, depth: usize) {
        while self.lists.len() > depth {
            let ordered = self.lists.pop().unwrap_or_default();
            self.html.push_str(if ordered { "</ol>" } else { "</ul>" });
        }
    }
}

fn note_kind(name: &str) -> char {
    if name.contains("foot") { 'f' } else { 'e' }
}
