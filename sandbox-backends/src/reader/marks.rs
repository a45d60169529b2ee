//! Marks: characters that stand in a text where a section or a page begins, for as long as it is made, so that whatever
//! writes it carries them along.

use std::borrow::Cow;

use super::{inside::Draft, wire::Section};

/// A page begins. The marks are of a plane that no document has a use for; one that has them all the same loses them.
pub(super) const PAGE: char = '\u{F0000}';
/// The first section begins in this line; those that follow have the next characters, so that one which is lost does not give
/// its title to another.
const FIRST_SECTION: u32 = 0xF_1000;

/// Pages of a document at most; what follows belongs to the last one.
const MAX_PAGES: usize = 20_000;

/// Sections of a document at most.
pub(super) const MAX_SECTIONS: usize = 10_000;
/// The longest title of a section, in characters.
const MAX_TITLE: usize = 200;

/// The level and the title of a section.
pub(super) type Heading = (u8, String);

/// The mark of a section by its number.
pub(super) fn section(index: usize) -> Option<char> {
    char::from_u32(FIRST_SECTION + u32::try_from(index).ok()?).filter(|_| index < MAX_SECTIONS)
}

fn is_mark(c: char) -> bool {
    ('\u{F0000}'..='\u{F3FFF}').contains(&c)
}

impl Draft {
    /// What was written, with marks and these headings for those of sections.
    pub(super) fn from_marked(marked: &str, headings: &[Heading]) -> Self {
        let mut draft = Self::default();
        let mut places = vec![None; headings.len()];
        let mut rest = marked.trim();
        while let Some(at) = rest.find(is_mark) {
            draft.content.push_str(&rest[..at]);
            let mark = rest[at..].chars().next().unwrap_or(PAGE);
            let line = draft.content.rfind('\n').map_or(0, |end| end + 1);
            if mark != PAGE {
                let index = u32::from(mark).checked_sub(FIRST_SECTION).and_then(|index| usize::try_from(index).ok());
                if let Some(place) = index.and_then(|index| places.get_mut(index)) {
                    place.get_or_insert(line);
                }
            } else if !draft.content.trim().is_empty() && draft.pages.len() < MAX_PAGES {
                // What is only the sign of a heading or an item goes with it, and a row of a table is in one piece.
                let before = &draft.content[line..];
                let sign = before.chars().all(|c| "#->|*. ".contains(c) || c.is_ascii_digit());
                draft.pages.push(if sign || before.starts_with('|') { line } else { draft.content.len() });
            }
            rest = &rest[at + mark.len_utf8()..];
            // A line that had nothing else goes with the mark.
            if draft.content.len() == line {
                rest = rest.trim_start_matches('\n');
            }
        }
        draft.content.push_str(rest);
        let mut last = 0;
        for (place, (level, title)) in places.into_iter().zip(headings) {
            // In any form of the document the same section has the same number, whatever became of its mark.
            last = place.unwrap_or(last).max(last);
            draft.add(last, *level, title);
        }
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
    if text.contains(is_mark) { text.replace(is_mark, "").into() } else { text }
}

/// The letters and digits of a text, by which titles are compared.
pub(super) fn bare(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}
