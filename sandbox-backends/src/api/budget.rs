//! How much of something an answer has, and where the rest begins.

use std::fmt::Write as _;

use sandbox_runtime::prelude::*;
use sha2::{Digest, Sha256};

/// A part of a text, or of a list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part<T> {
    pub(crate) items: T,
    /// The cursor of what follows.
    pub(crate) next: Option<String>,
}

/// What tells one version of a text from another, in a cursor.
pub(crate) fn fingerprint(text: &str) -> String {
    let digest = Sha256::digest(text);
    digest.iter().take(6).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Where a cursor points, if it was given for what has this print.
///
/// # Errors
/// `CONFLICT` for a cursor of something else, `INVALID_INPUT` for what is no cursor.
pub(crate) fn offset(cursor: &str, print: &str) -> Result<usize> {
    let (of, offset) = cursor.split_once('.').ok_or_else(|| no_cursor(cursor))?;
    let offset = offset.parse().map_err(|_| no_cursor(cursor))?;
    if of == print {
        return Ok(offset);
    }
    let message = "`cursor` belongs to something else, or to what this was before it changed: begin without one";
    Err(ToolError::new(ErrorCode::CONFLICT, message).with_reason("changed"))
}

/// At most `max` characters of a text, from where a cursor points; whole lines where that costs little.
///
/// # Errors
/// `CONFLICT` for a cursor of another version of the text, `INVALID_INPUT` for what is no cursor.
#[cfg(any(feature = "doc", feature = "web"))]
pub(crate) fn text(text: &str, print: &str, max: usize, cursor: Option<&str>) -> Result<Part<String>> {
    let start = cursor.map_or(Ok(0), |cursor| {
        let start = offset(cursor, print)?;
        if text.is_char_boundary(start) { Ok(start) } else { Err(no_cursor(cursor)) }
    })?;
    let rest = &text[start..];
    let Some((cut, _)) = rest.char_indices().nth(max) else {
        return Ok(Part { items: rest.to_owned(), next: None });
    };
    // Not in the middle of a line, unless that line is most of the part.
    let end = rest[..cut].rfind('\n').map(|at| at + 1).filter(|at| at * 4 >= cut * 3).unwrap_or(cut);
    Ok(Part { items: rest[..end].to_owned(), next: Some(format!("{print}.{}", start + end)) })
}

/// The items of a list from where a cursor points, as many as have room in `max` characters, but at least one and at most
/// `most`.
///
/// # Errors
/// `CONFLICT` for a cursor of another list, `INVALID_INPUT` for what is no cursor.
pub(crate) fn list<T: Clone>(
    all: &[T],
    print: &str,
    (most, max): (usize, usize),
    cursor: Option<&str>,
    size: impl Fn(&T) -> usize,
) -> Result<Part<Vec<T>>> {
    let start = match cursor {
        None => 0,
        Some(cursor) => offset(cursor, print)
            .and_then(|start| if start <= all.len() { Ok(start) } else { Err(no_cursor(cursor)) })?,
    };
    let mut used = 0;
    let fits = |item: &&T| {
        used += size(item);
        used <= max
    };
    let count = all[start..].iter().take(most).take_while(fits).count().max(1).min(all.len() - start);
    let end = start + count;
    let next = (end < all.len()).then(|| format!("{print}.{end}"));
    Ok(Part { items: all[start..end].to_vec(), next })
}

fn no_cursor(found: &str) -> ToolError {
    let found = format!("`{}`", found.chars().take(64).collect::<String>());
    ToolError::parameter(
        ErrorCode::INVALID_INPUT,
        "cursor",
        "the `next_cursor` of an answer to the same request",
        found,
    )
}

#[cfg(all(test, any(feature = "doc", feature = "web")))]
mod tests {
    use super::*;

    #[test]
    fn a_text_comes_whole_in_parts() {
        let whole = "first line\nsecond line\n\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\nend";
        let print = fingerprint(whole);
        for max in 1..40 {
            let (mut read, mut cursor) = (String::new(), None);
            loop {
                let part = text(whole, &print, max, cursor.as_deref()).expect("a part");
                assert!((1..=max).contains(&part.items.chars().count()), "{max}: {part:?}");
                read.push_str(&part.items);
                cursor = part.next;
                if cursor.is_none() {
                    break;
                }
            }
            assert_eq!(read, whole, "{max}");
        }
        assert_eq!(text(whole, &print, 14, None).expect("a part").items, "first line\n");
        assert_eq!(text(whole, &print, 20, None).expect("a part").items, "first line\nsecond li");
        assert_eq!(text("", &print, 5, None).expect("a part"), Part { items: String::new(), next: None });
    }

    #[test]
    fn a_wrong_cursor_is_refused() {
        let print = fingerprint("\u{20ac}uro");
        for cursor in ["", "x", "7", ".1", &format!("{print}.1"), &format!("{print}.99"), &format!("{print}.-1")] {
            let error = text("\u{20ac}uro", &print, 5, Some(cursor)).expect_err(cursor);
            let expected = if cursor == ".1" { ErrorCode::CONFLICT } else { ErrorCode::INVALID_INPUT };
            assert_eq!(error.code(), expected, "{cursor}");
        }
        let stale = format!("{}.0", fingerprint("another"));
        assert_eq!(text("x", &print, 5, Some(&stale)).expect_err("stale").code(), ErrorCode::CONFLICT);
        for cursor in ["", "x", "p.-1", "p.4"] {
            assert_eq!(
                list(&[1, 2, 3], "p", (9, 9), Some(cursor), |_| 1).expect_err(cursor).code(),
                ErrorCode::INVALID_INPUT
            );
        }
    }

    #[test]
    fn a_list_comes_whole_in_parts() {
        let all = [5, 5, 20, 1];
        let size = |item: &usize| *item;
        let part = |max, cursor| list(&all, "p", (3, max), cursor, size).expect("a part");
        assert_eq!(part(10, None), Part { items: vec![5, 5], next: Some("p.2".to_owned()) });
        assert_eq!(part(10, Some("p.2")), Part { items: vec![20], next: Some("p.3".to_owned()) });
        assert_eq!(part(10, Some("p.3")), Part { items: vec![1], next: None });
        assert_eq!(part(100, None), Part { items: vec![5, 5, 20], next: Some("p.3".to_owned()) });
        assert_eq!(list(&[], "p", (1, 1), None, size).expect("a part"), Part { items: vec![], next: None });
    }
}
