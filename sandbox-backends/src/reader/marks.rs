//! Marks: characters that stand in a text where a section or a page begins, for as long as it is made, so that whatever
//! writes it carries them along.

use std::borrow::Cow;

use super::{inside::Draft, wire::Section};

/// A page begins. The marks are of a plane that no document has a use for; one that has them all the same loses them.
pub(super) const PAGE: char = '\u{F0000}';
/// A section begins in this line.
pub(super) const SECTION: char = '\u{F0001}';

/// Sections of a document at most.
pub(super) const MAX_SECTIONS: usize = 10_000;
/// The longest title of a section, in characters.
const MAX_TITLE: usize = 200;

/// The level and the title of a section whose mark is in a text.
pub(super) type Heading = (u8, String);

impl Draft {
    /// What was written, with marks and these headings for those of sections.
    pub(super) fn from_marked(marked: &str, headings: Vec<Heading>) -> Self {
        let mut draft = Self::default();
        let mut headings = headings.into_iter();
        let mut rest = marked.trim();
        while let Some(at) = rest.find([PAGE, SECTION]) {
            draft.content.push_str(&rest[..at]);
            let mark = rest[at..].chars().next().unwrap_or(PAGE);
            if mark == PAGE {
                draft.pages.push(draft.content.len());
            } else if let Some((level, title)) = headings.next() {
                let line = draft.content.rfind('\n').map_or(0, |end| end + 1);
                draft.add(line, level, &title);
            }
            rest = &rest[at + mark.len_utf8()..];
        }
        draft.content.push_str(rest);
        draft
    }

    /// Adds a section, unless it has no title.
    pub(super) fn add(&mut self, at: usize, level: u8, title: &str) {
        let title = title.split_whitespace().collect::<Vec<_>>().join(" ");
        if self.sections.len() < MAX_SECTIONS && !title.is_empty() {
            self.sections.push(Section { at, level, title: title.chars().take(MAX_TITLE).collect() });
        }
    }

    /// Adds another draft behind this one.
    pub(super) fn append(&mut self, other: Self) {
        if !self.content.is_empty() && !other.content.is_empty() {
            self.content.push_str("\n\n");
        }
        let start = self.content.len();
        self.content.push_str(&other.content);
        let room = MAX_SECTIONS.saturating_sub(self.sections.len());
        let moved = other.sections.into_iter().map(|section| Section { at: section.at + start, ..section });
        self.sections.extend(moved.take(room));
        self.pages.extend(other.pages.into_iter().map(|at| at + start));
    }
}

/// A text without marks of its own.
pub(super) fn without(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.contains([PAGE, SECTION]) { text.replace([PAGE, SECTION], "").into() } else { text }
}
