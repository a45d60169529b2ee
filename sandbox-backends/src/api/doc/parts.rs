//! Which part of a document is read.

use std::{borrow::Cow, ops::Range};

use sandbox_runtime::prelude::*;

use super::library::Document;

/// What is asked for.
#[derive(Debug)]
pub(super) enum Wanted {
    Everything,
    Sections(Vec<u32>),
    /// Such as `3-5,8`.
    Pages(String),
}

/// The text that is asked for, in the order of the document and each part once.
pub(super) struct Selection<'a> {
    pub(super) text: Cow<'a, str>,
    /// Where each part begins, in the text and in the document.
    parts: Vec<(usize, usize)>,
}

impl Selection<'_> {
    /// Where something of the text is in the document.
    pub(super) fn place(&self, at: usize) -> usize {
        let before = self.parts.partition_point(|(start, _)| *start <= at).max(1) - 1;
        self.parts.get(before).map_or(0, |(start, place)| place + (at - start))
    }
}

/// # Errors
/// `INVALID_INPUT`: there is no such section or page.
pub(super) fn select<'a>(document: &'a Document, wanted: &Wanted) -> Result<Selection<'a>> {
    let text = document.content.as_str();
    let ranges = match wanted {
        Wanted::Everything => return Ok(Selection { text: text.into(), parts: vec![(0, 0)] }),
        Wanted::Sections(numbers) => sections(document, numbers)?,
        Wanted::Pages(pages) => pages_of(document, pages)?,
    };
    let ranges = united(ranges);
    if let [range] = ranges.as_slice() {
        return Ok(Selection { text: text[range.clone()].trim_end().into(), parts: vec![(0, range.start)] });
    }
    let (mut joined, mut parts) = (String::new(), Vec::with_capacity(ranges.len()));
    for range in ranges {
        if !joined.is_empty() {
            joined.push_str("\n\n");
        }
        parts.push((joined.len(), range.start));
        joined.push_str(text[range].trim_end());
    }
    Ok(Selection { text: joined.into(), parts })
}

fn sections(document: &Document, numbers: &[u32]) -> Result<Vec<Range<usize>>> {
    let wrong = |expected: String, found: String| {
        Err(ToolError::parameter(ErrorCode::INVALID_INPUT, "sections", expected, found))
    };
    if numbers.is_empty() {
        return wrong("at least one number of `doc:outline`".to_owned(), "an empty list".to_owned());
    }
    let (Some(first), Some(last)) = (document.sections.first(), document.sections.last()) else {
        let expected = if document.pages.is_empty() { "none" } else { "none: this document has `pages`" };
        return wrong(format!("{expected}, for it has no headings"), format!("{numbers:?}"));
    };
    let mut ranges = Vec::with_capacity(numbers.len());
    for number in numbers {
        let Ok(index) = document.sections.binary_search_by_key(number, |section| section.number) else {
            let expected = format!("numbers of `doc:outline`, {} to {}", first.number, last.number);
            return wrong(expected, number.to_string());
        };
        ranges.push(document.sections[index].start..document.sections[index].end);
    }
    Ok(ranges)
}

fn pages_of(document: &Document, wanted: &str) -> Result<Vec<Range<usize>>> {
    let count = document.pages.len();
    let wrong = |expected: String| {
        let found = format!("`{}`", wanted.chars().take(64).collect::<String>());
        Err(ToolError::parameter(ErrorCode::INVALID_INPUT, "pages", expected, found))
    };
    if count == 0 {
        return wrong("none, for this document has no pages; `sections` are those of `doc:outline`".to_owned());
    }
    let mut ranges = Vec::new();
    for part in wanted.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
            (Ok(first), Ok(last)) if 1 <= first && first <= last && last <= count => {
                let end = document.pages.get(last).copied().unwrap_or(document.content.len());
                ranges.push(document.pages[first - 1]..end);
            }
            (Ok(first), Ok(last)) if first > last => {
                return wrong(format!("ranges that begin with the lower number, such as `{last}-{first}`"));
            }
            (Ok(_), Ok(_)) => return wrong(format!("pages 1 to {count}")),
            _ => return wrong(format!("numbers and ranges such as `3-5,8`, from 1 to {count}")),
        }
    }
    Ok(ranges)
}

/// Ranges in their order, none of which meets another.
fn united(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    let mut united: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match united.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => united.push(range),
        }
    }
    united
}
