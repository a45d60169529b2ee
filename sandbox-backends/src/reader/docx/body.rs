//! The text of a Word document as HTML.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    mem::{replace, take},
};

use quick_xml::{
    Reader,
    escape::escape,
    events::{BytesStart, Event},
};

use super::{
    numbering::{Numbering, Sign},
    parts::{attribute, is_on, push_text},
    styles::Styles,
};
use crate::reader::{
    html::BEGINS,
    marks::{PAGE, without},
    wire::Flaw,
};

/// What is not the document as it stands: what was deleted or moved away, how things looked before, what readers of old
/// show instead of something newer, and how a word is pronounced.
#[rustfmt::skip]
const SKIPPED: &[&str] = &[
    "w:del", "w:moveFrom", "mc:Fallback", "w:pPrChange", "w:rPrChange", "w:sectPrChange", "w:tblPrChange",
    "w:trPrChange", "w:tcPrChange", "w:numberingChange", "w:rt",
];

/// Lists within lists at most.
const MAX_LIST_DEPTH: usize = 9;

/// What was written so far.
pub(super) struct Body<'a> {
    pub(super) html: String,
    styles: &'a Styles,
    numbering: Numbering,
    links: HashMap<String, String>,
    /// Open paragraphs: one, and those of a text box that stands in it.
    paragraphs: Vec<Paragraph>,
    /// Open lists: their tags, and which they are.
    lists: Vec<(&'static str, String)>,
    table: Table,
    /// The numbers of notes by kind and id, in the order in which the text has them.
    notes: HashMap<(char, String), usize>,
    /// What stands before the next paragraph.
    prefix: String,
}

/// The outermost open table.
#[derive(Default)]
struct Table {
    /// How many are open, one in the other.
    depth: usize,
    /// Whether it has a row.
    has_rows: bool,
    /// Where the open row begins.
    row: usize,
    in_row_properties: bool,
    deleted_row: bool,
    /// Whether a page has begun in the row.
    broken_row: bool,
    /// The columns of a cell that has no text yet.
    cell: Option<String>,
}

#[derive(Default)]
struct Paragraph {
    html: String,
    style: String,
    /// 0 for the highest heading, 9 for none.
    outline: Option<u8>,
    list: Option<String>,
    list_level: Option<usize>,
    /// Open links.
    links: usize,
    /// Whether its end was deleted: the next one goes on in it.
    joined: bool,
    in_properties: bool,
    run: Option<Run>,
}

/// A part of a paragraph that looks the same.
#[derive(Default)]
struct Run {
    hidden: bool,
    raised: bool,
    in_text: bool,
}

impl<'a> Body<'a> {
    pub(super) fn new(styles: &'a Styles, numbering: Numbering, links: HashMap<String, String>) -> Self {
        Self {
            html: "<body>".to_owned(),
            styles,
            numbering,
            links,
            paragraphs: Vec::new(),
            lists: Vec::new(),
            table: Table::default(),
            notes: HashMap::new(),
            prefix: String::new(),
        }
    }

    /// Adds what a part says.
    ///
    /// # Errors
    /// It is damaged.
    pub(super) fn read(&mut self, xml: &str) -> Result<(), Flaw> {
        let mut reader = Reader::from_str(xml);
        reader.config_mut().expand_empty_elements = true;
        let mut depth = 0_usize;
        loop {
            match reader.read_event().map_err(|_| Flaw::Malformed)? {
                Event::Start(start) if SKIPPED.contains(&start.name().as_ref()) => {
                    if start.name().as_ref() == "w:del" {
                        self.delete();
                    }
                    reader.read_to_end(start.name()).map_err(|_| Flaw::Malformed)?;
                }
                Event::Start(start) => {
                    depth += 1;
                    self.open(&start);
                }
                Event::End(end) => {
                    depth = depth.saturating_sub(1);
                    self.close(end.name().as_ref());
                }
                Event::Eof if depth > 0 => return Err(Flaw::Malformed),
                Event::Eof => break,
                event => self.text(&event),
            }
        }
        self.end_lists(0);
        Ok(())
    }

    /// Adds the notes of one kind, each behind its number.
    ///
    /// # Errors
    /// They are damaged.
    pub(super) fn read_notes(&mut self, kind: char, xml: &str) -> Result<(), Flaw> {
        let mut notes = BTreeMap::new();
        let mut reader = Reader::from_str(xml);
        loop {
            match reader.read_event().map_err(|_| Flaw::Malformed)? {
                Event::Start(start) if matches!(start.name().as_ref(), "w:footnote" | "w:endnote") => {
                    let inner = reader.read_text(start.name()).map_err(|_| Flaw::Malformed)?;
                    // Those to which nothing refers are lines between text and notes.
                    let number = attribute(&start, "id").and_then(|id| self.notes.get(&(kind, id)).copied());
                    notes.extend(number.map(|number| (number, inner.into_inner())));
                }
                Event::Eof => break,
                _ => {}
            }
        }
        for (number, note) in notes {
            self.prefix = format!("<sup>{number}</sup> ");
            self.read(&note)?;
        }
        Ok(())
    }

    /// A property says that a row, or the end of a paragraph, was deleted.
    fn delete(&mut self) {
        match self.paragraphs.last_mut() {
            Some(paragraph) => paragraph.joined |= paragraph.in_properties,
            None => self.table.deleted_row |= self.table.in_row_properties,
        }
    }

    fn open(&mut self, start: &BytesStart<'_>) {
        match start.name().as_ref() {
            "w:p" => self.paragraphs.push(Paragraph::default()),
            "w:tbl" => {
                self.end_lists(0);
                self.table.depth += 1;
                if self.table.depth == 1 {
                    self.html.push_str("<table>");
                    self.table.has_rows = false;
                }
            }
            // Those of a table within a cell are text of the cell.
            "w:tr" if self.table.depth == 1 => {
                (self.table.row, self.table.deleted_row, self.table.broken_row) = (self.html.len(), false, false);
                self.html.push_str("<tr>");
            }
            "w:trPr" => self.table.in_row_properties = true,
            "w:tc" if self.table.depth == 1 => self.table.cell = Some("1".to_owned()),
            "w:gridSpan" if self.table.depth == 1 && self.table.cell.is_some() => {
                self.table.cell = attribute(start, "val");
            }
            name => self.open_in_paragraph(name, start),
        }
    }

    fn open_in_paragraph(&mut self, name: &str, start: &BytesStart<'_>) {
        let value = || attribute(start, "val");
        let Some(paragraph) = self.paragraphs.last_mut() else { return };
        if paragraph.in_properties {
            match name {
                "w:pStyle" => paragraph.style = value().unwrap_or_default(),
                "w:outlineLvl" => paragraph.outline = value().and_then(|value| value.parse().ok()),
                "w:numId" => paragraph.list = value(),
                "w:ilvl" => paragraph.list_level = value().and_then(|value| value.parse().ok()),
                _ => {}
            }
            return;
        }
        let is_code = self.styles.is_code(&paragraph.style);
        match name {
            "w:pPr" => paragraph.in_properties = true,
            "w:r" | "m:r" => paragraph.run = Some(Run::default()),
            "w:t" | "m:t" => {
                let run = paragraph.run.get_or_insert_default();
                run.in_text = !run.hidden;
            }
            "w:vanish" => paragraph.run.iter_mut().for_each(|run| run.hidden = is_on(start)),
            "w:vertAlign" => {
                let raised = value().is_some_and(|value| value == "superscript");
                paragraph.run.iter_mut().for_each(|run| run.raised = raised);
            }
            "w:tab" | "w:ptab" => paragraph.html.push_str(if is_code { "\t" } else { " " }),
            "w:noBreakHyphen" => paragraph.html.push('-'),
            // What a font of signs shows for a character is not known here, but that there is one.
            "w:sym" => paragraph.html.push('\u{fffd}'),
            "w:cr" => paragraph.html.push_str("<br>"),
            "w:br" => match attribute(start, "type").as_deref() {
                Some("page" | "column") => paragraph.html.push(' '),
                _ => paragraph.html.push_str("<br>"),
            },
            // Every cell of a row that goes over two pages says so.
            "w:lastRenderedPageBreak" if self.table.depth == 0 || !replace(&mut self.table.broken_row, true) => {
                paragraph.html.push(PAGE);
            }
            "m:num" => paragraph.html.push('('),
            "m:den" => paragraph.html.push_str("/("),
            "m:sup" => paragraph.html.push_str("^("),
            "m:sub" => paragraph.html.push_str("_("),
            "w:footnoteReference" | "w:endnoteReference" => {
                if let Some(id) = attribute(start, "id") {
                    let kind = if name == "w:footnoteReference" { 'f' } else { 'e' };
                    let next = self.notes.len() + 1;
                    let number = *self.notes.entry((kind, id)).or_insert(next);
                    let _ = write!(paragraph.html, "<sup>{number}</sup>");
                }
            }
            "w:hyperlink" => {
                if let Some(target) = attribute(start, "id").and_then(|id| self.links.get(&id)) {
                    let _ = write!(paragraph.html, "<a href=\"{}\">", escape(target.as_str()));
                    paragraph.links += 1;
                }
            }
            _ => {}
        }
    }

    fn close(&mut self, name: &str) {
        match name {
            "w:p" => self.end_paragraph(),
            "w:trPr" => self.table.in_row_properties = false,
            "w:tc" if self.table.depth == 1 => {
                self.begin_cell();
                self.html.push_str(if self.table.has_rows { "</td>" } else { "</th>" });
            }
            "w:tr" if self.table.depth == 1 => {
                if self.table.deleted_row {
                    self.html.truncate(self.table.row);
                } else {
                    self.html.push_str("</tr>");
                    self.table.has_rows = true;
                }
            }
            "w:tbl" => {
                self.table.depth = self.table.depth.saturating_sub(1);
                if self.table.depth == 0 {
                    self.html.push_str("</table>");
                }
            }
            name => {
                let Some(paragraph) = self.paragraphs.last_mut() else { return };
                match name {
                    "w:pPr" => paragraph.in_properties = false,
                    "w:r" | "m:r" => paragraph.run = None,
                    "w:t" | "m:t" => paragraph.run.iter_mut().for_each(|run| run.in_text = false),
                    "m:num" | "m:den" => paragraph.html.push(')'),
                    // Of a limit that is not shown nothing is left.
                    "m:sup" | "m:sub" => {
                        match paragraph.html.strip_suffix("^(").or(paragraph.html.strip_suffix("_(")) {
                            Some(rest) => paragraph.html.truncate(rest.len()),
                            None => paragraph.html.push(')'),
                        }
                    }
                    "w:hyperlink" if paragraph.links > 0 => {
                        paragraph.html.push_str("</a>");
                        paragraph.links -= 1;
                    }
                    _ => {}
                }
            }
        }
    }

    fn text(&mut self, event: &Event<'_>) {
        let Some(paragraph) = self.paragraphs.last_mut() else { return };
        let Some(run) = paragraph.run.as_ref().filter(|run| run.in_text) else { return };
        let mut text = String::new();
        push_text(&mut text, event);
        let text = without(text.into());
        let text = escape(text.as_ref());
        if run.raised {
            let _ = write!(paragraph.html, "<sup>{text}</sup>");
        } else {
            paragraph.html.push_str(&text);
        }
    }

    fn begin_cell(&mut self) {
        if let Some(columns) = self.table.cell.take() {
            // The names of columns stand in the first row.
            let cell = if self.table.has_rows { "td" } else { "th" };
            let _ = write!(self.html, "<{cell} colspan=\"{}\">", escape(columns.as_str()));
        }
    }

    fn end_paragraph(&mut self) {
        let Some(mut paragraph) = self.paragraphs.pop() else { return };
        let mut text = take(&mut paragraph.html);
        text.push_str(&"</a>".repeat(paragraph.links));
        if self.styles.is_contents(&paragraph.style) {
            text.retain(|c| c == PAGE);
        }
        if self.styles.is_code(&paragraph.style) {
            self.code(&text);
            return;
        }
        if text.trim().is_empty() {
            return;
        }
        text.insert_str(0, &take(&mut self.prefix));
        if paragraph.joined {
            self.prefix = text;
            return;
        }
        let outline = paragraph.outline.or_else(|| self.styles.outline(&paragraph.style)).filter(|level| *level < 9);
        let list = paragraph.list.as_deref().or_else(|| self.styles.list(&paragraph.style)).filter(|list| *list != "0");
        let level = paragraph.list_level.or_else(|| self.styles.list_level(&paragraph.style)).unwrap_or(0);
        let sign = list.map(|list| self.numbering.next(list, level));
        if let Some(outline) = outline {
            let label = sign.filter(|sign| *sign != Sign::Bullet).map_or_else(String::new, |sign| sign.in_line());
            self.heading(outline + 1, &format!("{}{text}", escape(label.as_str())));
        } else if self.table.depth > 0 {
            self.begin_cell();
            let label = sign.map_or_else(String::new, |sign| sign.in_line());
            let _ = write!(self.html, "{}{text} ", escape(label.as_str()));
        } else if let (Some(list), Some(sign)) = (list, sign) {
            self.item(list, level, &sign, &text);
        } else {
            self.end_lists(0);
            let _ = write!(self.html, "<p>{text}</p>");
        }
    }

    fn heading(&mut self, level: u8, text: &str) {
        if self.table.depth > 0 {
            // Markdown has no heading in a table, but a section may begin there.
            self.begin_cell();
            let title = dom_query::Document::fragment(text).text().replace(PAGE, "");
            let _ = write!(self.html, "<span {BEGINS}=\"{level} {}\">{text}</span> ", escape(title.as_str()));
        } else {
            self.end_lists(0);
            let level = level.min(6);
            let _ = write!(self.html, "<h{level}>{text}</h{level}>");
        }
    }

    /// Code, of which every line is a paragraph.
    fn code(&mut self, line: &str) {
        let line = line.replace("<br>", "\n");
        if self.table.depth > 0 {
            self.begin_cell();
            let _ = write!(self.html, "{line} ");
            return;
        }
        self.end_lists(0);
        match self.html.strip_suffix("</code></pre>").map(str::len) {
            Some(length) => {
                self.html.truncate(length);
                let _ = write!(self.html, "\n{line}</code></pre>");
            }
            None => {
                let _ = write!(self.html, "<pre><code>{line}</code></pre>");
            }
        }
    }

    fn item(&mut self, list: &str, level: usize, sign: &Sign, text: &str) {
        let depth = level.min(MAX_LIST_DEPTH - 1) + 1;
        let tag = if matches!(sign, Sign::Number(_)) { "ol" } else { "ul" };
        self.end_lists(depth);
        // Another list is not the same going on.
        if self.lists.len() == depth && self.lists.last().is_some_and(|(open, of)| *open != tag || of != list) {
            self.end_lists(depth - 1);
        }
        while self.lists.len() < depth {
            match sign {
                Sign::Number(first) if self.lists.len() + 1 == depth => {
                    let _ = write!(self.html, "<ol start=\"{first}\">");
                }
                _ => {
                    let _ = write!(self.html, "<{tag}>");
                }
            }
            self.lists.push((tag, list.to_owned()));
        }
        let label = if matches!(sign, Sign::Label(_)) { sign.in_line() } else { String::new() };
        // Its end is that of the list, or the next item: a list within it belongs to it.
        let _ = write!(self.html, "<li>{}{text}", escape(label.as_str()));
    }

    /// Closes lists until so many are open.
    fn end_lists(&mut self, depth: usize) {
        while self.lists.len() > depth {
            if let Some((tag, _)) = self.lists.pop() {
                let _ = write!(self.html, "</{tag}>");
            }
        }
    }
}
