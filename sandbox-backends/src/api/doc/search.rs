//! Finds key words in a document.
//!
//! The text is cut into passages, which are ranked with BM25 (Robertson and Zaragoza, "The Probabilistic Relevance
//! Framework", 2009): a rare key word counts for more than a common one, and a passage that repeats one for little more.

use std::{collections::HashSet, ops::Range};

use regex::{Regex, RegexBuilder};
use sandbox_runtime::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;

use super::library::{Document, Format};

/// A passage ends with the line in which it becomes longer than this, in bytes.
const PASSAGE: usize = 500;
/// And at this length in any case.
const LONGEST_PASSAGE: usize = 1000;
/// The longest snippet, in characters; what is before its first key word is at most a third of it.
const SNIPPET: usize = 400;

/// How fast a key word that is repeated counts for less, and how much a long passage does.
const K1: f64 = 1.2;
const B: f64 = 0.75;
/// What a key word counts that is only a part of a word.
const PART_OF_WORD: f64 = 0.5;

/// A passage that has key words.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Hit {
    /// Its rank, from 1.
    position: usize,
    /// The number of the section that has it, for `doc:read`; absent if the document has no headings.
    #[serde(skip_serializing_if = "Option::is_none")]
    section: Option<u32>,
    /// The title of that section.
    #[serde(skip_serializing_if = "Option::is_none")]
    section_title: Option<String>,
    /// The page that has it, for `doc:read`; absent if the document has no pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<u32>,
    /// What it says around the first key word.
    snippet: String,
    /// Which of the key words it has.
    key_words: Vec<String>,
    /// How well it matches; to be compared with others of the same search only.
    score: f64,
}

impl Hit {
    /// Characters in an answer, about.
    pub(super) fn size(&self) -> usize {
        let title = self.section_title.as_deref().map_or(0, |title| title.chars().count());
        self.snippet.chars().count() + title + self.key_words.iter().map(String::len).sum::<usize>() + 60
    }
}

/// Matches between looks at whether anybody still waits.
const MATCHES_BETWEEN_LOOKS: usize = 1024;
/// Hits at most that an answer may have.
const MAX_HITS: usize = 1000;

/// The passages that have any of the key words, best first, and how many there are.
///
/// # Errors
/// `INVALID_INPUT`: a key word is empty, or too long.
pub(super) fn search(
    document: &Document,
    key_words: &[String],
    cancel: &CancellationToken,
) -> Result<(Vec<Hit>, usize)> {
    let mut asked = HashSet::new();
    let key_words: Vec<&String> = key_words.iter().filter(|word| asked.insert(word.trim().to_lowercase())).collect();
    let patterns: Vec<Regex> = key_words.iter().map(|key_word| pattern(key_word)).collect::<Result<_>>()?;
    let text = document.content.as_str();
    let passages = passages(document);
    // For each passage how often it has each key word, and where the first one is.
    let mut counts = vec![0.0; passages.len() * patterns.len()];
    let mut firsts = vec![usize::MAX; passages.len()];
    for (index, pattern) in patterns.iter().enumerate() {
        let (mut passage, mut page) = (0, 0);
        for (number, place) in pattern.find_iter(text).enumerate() {
            if number.is_multiple_of(MATCHES_BETWEEN_LOOKS) && cancel.is_cancelled() {
                return Err(ToolError::new(ErrorCode::CANCELLED, "the search was cancelled, or its time was over"));
            }
            while passages[passage].end <= place.start() {
                passage += 1;
            }
            while document.pages.get(page + 1).is_some_and(|start| *start <= place.start()) {
                page += 1;
            }
            if !is_heading_of_page(document, page, place.start()) {
                counts[passage * patterns.len() + index] +=
                    if is_word(text, &place.range()) { 1.0 } else { PART_OF_WORD };
                firsts[passage] = place.start().min(firsts[passage]);
            }
        }
    }
    let found: Vec<(usize, &[f64], usize)> = counts
        .chunks(patterns.len())
        .zip(firsts)
        .enumerate()
        .filter(|(_, (_, first))| *first != usize::MAX)
        .map(|(passage, (counts, first))| (passage, counts, first))
        .collect();
    let count = as_f64(passages.len());
    let mean = as_f64(text.len()) / count.max(1.0);
    let rarity: Vec<f64> = (0..patterns.len())
        .map(|index| {
            let having = as_f64(found.iter().filter(|(_, counts, _)| counts[index] > 0.0).count());
            (1.0 + (count - having + 0.5) / (having + 0.5)).ln()
        })
        .collect();
    let score = |passage: usize, counts: &[f64]| {
        let length = 1.0 - B + B * as_f64(passages[passage].len()) / mean;
        counts
            .iter()
            .zip(&rarity)
            .map(|(count, rarity)| rarity * count * (K1 + 1.0) / (count + K1 * length))
            .sum::<f64>()
    };
    let mut ranked: Vec<_> =
        found.iter().map(|(passage, counts, first)| (score(*passage, counts), *passage, *counts, *first)).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let hit = |(rank, (score, passage, counts, first)): (usize, (f64, usize, &[f64], usize))| {
        let section = document.section_of(first);
        let had = key_words.iter().zip(counts).filter(|(_, count)| **count > 0.0);
        Hit {
            position: rank + 1,
            section: section.map(|section| section.number),
            section_title: section.and_then(|section| section.title.clone()),
            page: document.page_of(first),
            snippet: snippet(&text[passages[passage].clone()], first - passages[passage].start),
            key_words: had.map(|(key_word, _)| (*key_word).clone()).collect(),
            score: (score * 1000.0).round() / 1000.0,
        }
    };
    let total = ranked.len();
    Ok((ranked.into_iter().take(MAX_HITS).enumerate().map(hit).collect(), total))
}

#[expect(clippy::cast_precision_loss, reason = "lengths of texts")]
fn as_f64(number: usize) -> f64 {
    number as f64
}

/// A key word, in capitals or not; its words may be on two lines.
fn pattern(key_word: &str) -> Result<Regex> {
    let words: Vec<String> = key_word.split_whitespace().map(regex::escape).collect();
    let wrong = |found: String| ToolError::parameter(ErrorCode::INVALID_INPUT, "key_words", "words or phrases", found);
    if words.is_empty() {
        return Err(wrong(format!("{key_word:?}")));
    }
    let pattern = RegexBuilder::new(&words.join(r"\s+")).case_insensitive(true).build();
    pattern.map_err(|_| wrong("one that is too long".to_owned()))
}

/// Whether a place is in the line `[page N]` that stands before a page of a PDF, which the document does not have.
fn is_heading_of_page(document: &Document, page: usize, at: usize) -> bool {
    let start = document.pages.get(page).filter(|_| document.format == Format::Pdf);
    start.is_some_and(|start| at >= *start && !document.content[*start..at].contains('\n'))
}

/// Whether what was found is not a part of a longer word.
fn is_word(text: &str, found: &Range<usize>) -> bool {
    let before = text[..found.start].chars().next_back();
    let after = text[found.end..].chars().next();
    !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
}

/// The passages of a document, one after the other without a gap; none goes over the beginning of a section or a page.
fn passages(document: &Document) -> Vec<Range<usize>> {
    let text = document.content.as_str();
    let mut walls: Vec<usize> =
        document.sections.iter().map(|section| section.start).chain(document.pages.iter().copied()).collect();
    walls.sort_unstable();
    walls.dedup();
    let mut walls = walls.into_iter().peekable();
    let (mut passages, mut start, mut at) = (Vec::new(), 0, 0);
    for line in text.split_inclusive('\n') {
        let end = at + line.len();
        // A page may begin within a line.
        while let Some(wall) = walls.next_if(|wall| *wall < end) {
            if start < wall {
                passages.push(start..wall);
                start = wall;
            }
        }
        while end - start > LONGEST_PASSAGE {
            let whole = text.floor_char_boundary(start + LONGEST_PASSAGE);
            let space = text[start..whole].rfind(char::is_whitespace).filter(|space| *space > 0);
            let cut = space.map_or(whole, |space| start + space);
            passages.push(start..cut);
            start = cut;
        }
        if end - start >= PASSAGE {
            passages.push(start..end);
            start = end;
        }
        at = end;
    }
    if start < text.len() {
        passages.push(start..text.len());
    }
    passages
}

/// What a passage says around a place, on one line.
fn snippet(passage: &str, place: usize) -> String {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (before, after) = passage.split_at(place);
    let space = if before.ends_with(char::is_whitespace) { " " } else { "" };
    let (before, after) = (words(before), words(after));
    let (lead, tail) = (before.chars().count(), after.chars().count());
    let room = SNIPPET - tail.min(SNIPPET - SNIPPET / 3);
    let cut_before: String = before.chars().skip(lead.saturating_sub(room)).collect();
    let cut_after: String = after.chars().take(SNIPPET - room.min(lead)).collect();
    let (first, last) =
        (if lead > room { "\u{2026}" } else { "" }, if cut_after.len() < after.len() { "\u{2026}" } else { "" });
    format!("{first}{cut_before}{space}{cut_after}{last}").trim().to_owned()
}
