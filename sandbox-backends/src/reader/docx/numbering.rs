//! The numbers of lists and of numbered headings.

use std::collections::HashMap;

use quick_xml::{Reader, events::Event};

use super::parts::attribute;

/// Levels of a list.
const LEVELS: usize = 9;

/// The lists, and how far each has come.
#[derive(Default)]
pub(super) struct Numbering {
    /// By id: the kind of list. Lists of one kind count on together.
    lists: HashMap<String, String>,
    kinds: HashMap<String, Vec<Level>>,
    counts: HashMap<String, [Option<u64>; LEVELS]>,
    /// Levels at which a list begins anew.
    restarts: HashMap<(String, usize), u64>,
}

#[derive(Clone)]
struct Level {
    /// Such as `decimal`, `lowerLetter` or `bullet`.
    format: String,
    /// Such as `%1.%2.`.
    text: String,
    start: u64,
}

impl Default for Level {
    fn default() -> Self {
        Self { format: "decimal".to_owned(), text: String::new(), start: 1 }
    }
}

/// What stands before an item.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sign {
    Bullet,
    /// A number with a dot or a bracket behind it.
    Number(u64),
    /// Any other label, such as `2.1` or `(a)`.
    Label(String),
}

impl Sign {
    /// As it stands in a line, with a space behind it.
    pub(super) fn in_line(&self) -> String {
        match self {
            Self::Bullet => "- ".to_owned(),
            Self::Number(number) => format!("{number}. "),
            Self::Label(label) => format!("{label} "),
        }
    }
}

impl Numbering {
    pub(super) fn read(xml: &str) -> Self {
        let mut found = Self::default();
        let (mut kind, mut list, mut level, mut reader) = (None, None, 0, Reader::from_str(xml));
        while let Ok(event) = reader.read_event() {
            let (Event::Start(start) | Event::Empty(start)) = event else {
                if matches!(event, Event::Eof) {
                    break;
                }
                continue;
            };
            let value = attribute(&start, "val");
            let number = |name: &str| attribute(&start, name).and_then(|number| number.parse::<usize>().ok());
            match start.name().as_ref() {
                "w:abstractNum" => (kind, list) = (attribute(&start, "abstractNumId"), None),
                "w:num" => list = attribute(&start, "numId"),
                "w:abstractNumId" => found.lists.extend(list.clone().zip(value)),
                "w:lvl" | "w:lvlOverride" => level = number("ilvl").unwrap_or(0).min(LEVELS - 1),
                "w:startOverride" => {
                    let start = value.and_then(|value| value.parse().ok());
                    found.restarts.extend(list.clone().map(|list| (list, level)).zip(start));
                }
                name @ ("w:start" | "w:numFmt" | "w:lvlText") if list.is_none() => {
                    let levels = found.kinds.entry(kind.clone().unwrap_or_default()).or_default();
                    if levels.len() <= level {
                        levels.resize(level + 1, Level::default());
                    }
                    let (of, value) = (&mut levels[level], value.unwrap_or_default());
                    match name {
                        "w:start" => of.start = value.parse().unwrap_or(1),
                        "w:numFmt" => of.format = value,
                        _ => of.text = value,
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// The sign of the next item of a list at a level.
    pub(super) fn next(&mut self, list: &str, level: usize) -> Sign {
        let level = level.min(LEVELS - 1);
        let kind = self.lists.get(list).map_or(list, String::as_str);
        let Some(levels) = self.kinds.get(kind) else { return Sign::Bullet };
        let of = |level: usize| levels.get(level).cloned().unwrap_or_default();
        let this = of(level);
        let counts = self.counts.entry(kind.to_owned()).or_default();
        let restart = self.restarts.remove(&(list.to_owned(), level));
        counts[level] =
            Some(restart.unwrap_or_else(|| counts[level].map_or(this.start, |count| count.saturating_add(1))));
        counts[level + 1..].fill(None);
        if matches!(this.format.as_str(), "bullet" | "none") {
            return Sign::Bullet;
        }
        let number = counts[level].unwrap_or(1);
        if this.format == "decimal" && (this.text.is_empty() || is_plain(&this.text)) {
            return Sign::Number(number);
        }
        let mut label = this.text;
        for (place, count) in counts.iter().enumerate().take(level + 1) {
            let of = of(place);
            let count = count.unwrap_or(of.start);
            label = label.replace(&format!("%{}", place + 1), &written(count, &of.format));
        }
        Sign::Label(label)
    }
}

/// Whether it is one number with at most one character behind it.
fn is_plain(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next() == Some('%')
        && characters.next().is_some_and(|digit| digit.is_ascii_digit())
        && matches!((characters.next(), characters.next()), (None | Some('.' | ')'), None))
}

fn written(number: u64, format: &str) -> String {
    let letters = |first: u8| {
        // As Word does: a, b, .. z, aa, bb.
        let index = usize::try_from(number.saturating_sub(1)).unwrap_or(0);
        let letter = char::from(first + u8::try_from(index % 26).unwrap_or(0));
        std::iter::repeat_n(letter, (index / 26 + 1).min(10)).collect()
    };
    match format {
        "lowerLetter" => letters(b'a'),
        "upperLetter" => letters(b'A'),
        "lowerRoman" => roman(number).to_lowercase(),
        "upperRoman" => roman(number),
        "decimalZero" => format!("{number:02}"),
        "none" => String::new(),
        _ => number.to_string(),
    }
}

fn roman(number: u64) -> String {
    let signs = [
        (1000, "M"),
        (900, "CM"),
        (500, "D"),
        (400, "CD"),
        (100, "C"),
        (90, "XC"),
        (50, "L"),
        (40, "XL"),
        (10, "X"),
        (9, "IX"),
        (5, "V"),
        (4, "IV"),
        (1, "I"),
    ];
    if number >= 4000 {
        return number.to_string();
    }
    let (mut rest, mut text) = (number, String::new());
    for (value, sign) in signs {
        while rest >= value {
            text.push_str(sign);
            rest -= value;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_count_as_word_does() {
        let level = |level: u8, format: &str, text: &str| {
            format!(
                "<w:lvl w:ilvl=\"{level}\"><w:start w:val=\"1\"/><w:numFmt w:val=\"{format}\"/><w:lvlText w:val=\"{text}\"/></w:lvl>"
            )
        };
        let xml = format!(
            "<w:numbering><w:abstractNum w:abstractNumId=\"0\">{}{}{}</w:abstractNum>\
             <w:num w:numId=\"1\"><w:abstractNumId w:val=\"0\"/></w:num>\
             <w:num w:numId=\"2\"><w:abstractNumId w:val=\"0\"/><w:lvlOverride w:ilvl=\"0\"><w:startOverride w:val=\"5\"/>\
             </w:lvlOverride></w:num></w:numbering>",
            level(0, "decimal", "%1."),
            level(1, "lowerLetter", "%1.(%2)"),
            level(2, "bullet", "x")
        );
        let mut numbering = Numbering::read(&xml);
        let mut next = |list, level| numbering.next(list, level);
        let label = |text: &str| Sign::Label(text.to_owned());
        assert_eq!([next("1", 0), next("1", 0)], [Sign::Number(1), Sign::Number(2)]);
        assert_eq!([next("1", 1), next("1", 1), next("1", 2)], [label("2.(a)"), label("2.(b)"), Sign::Bullet]);
        assert_eq!([next("1", 0), next("1", 1)], [Sign::Number(3), label("3.(a)")]);
        assert_eq!([next("2", 0), next("2", 0)], [Sign::Number(5), Sign::Number(6)]);
        assert_eq!(next("9", 0), Sign::Bullet);
        assert_eq!((roman(1994), written(28, "upperLetter")), ("MCMXCIV".to_owned(), "BB".to_owned()));
    }
}
