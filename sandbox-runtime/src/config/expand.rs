//! Replaces `${VAR}` and `${VAR:-default}` in strings.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    comments,
    error::{Report, join},
    text,
    walk::Node,
};

/// Variables by name.
pub(crate) type Variables = BTreeMap<String, String>;

/// What a string became.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Expanded {
    pub(crate) text: String,
    /// The string was one whole `${..}`.
    pub(crate) is_whole: bool,
    /// Something of it came from a variable or its default.
    pub(crate) used_variable: bool,
}

/// Why a string cannot be expanded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A required variable is not set.
    Missing(String),
    /// `${` without its `}`.
    Unclosed,
    /// Neither `${NAME}` nor `${NAME:-default}`.
    NoVariable,
}

/// Whether a string holds a `${`.
pub(crate) fn mentions_variable(text: &str) -> bool {
    text.contains("${")
}

/// A text that expands to the given one.
pub(crate) fn escape(text: &str) -> String {
    text.replace('$', "$$")
}

/// Expands one string.
///
/// A variable's value is taken as it is, a default is expanded in its turn. Braces in a default count in pairs, so that it
/// may hold JSON or another `${..}`.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn expand_text(text: &str, variables: &Variables) -> Result<Expanded, Vec<Fault>> {
    let mut done = String::with_capacity(text.len());
    let (mut faults, mut used_variable, mut is_whole) = (Vec::new(), false, false);
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        done.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('$') {
            done.push('$');
            rest = after;
        } else if let Some(after) = after.strip_prefix('{') {
            let Some(end) = closing_brace(after) else {
                faults.push(Fault::Unclosed);
                return Err(faults);
            };
            used_variable = true;
            is_whole = rest.len() == text.len() && end + 1 == after.len();
            match variable(&after[..end], variables) {
                Ok(value) => done.push_str(&value),
                Err(more) => faults.extend(more),
            }
            rest = &after[end + 1..];
        } else {
            done.push('$');
            rest = after;
        }
    }
    done.push_str(rest);
    if faults.is_empty() { Ok(Expanded { text: done, is_whole, used_variable }) } else { Err(faults) }
}

/// The value of what stands between `${` and `}`.
fn variable(inner: &str, variables: &Variables) -> Result<String, Vec<Fault>> {
    let (name, default) = inner.split_once(":-").map_or((inner, None), |(name, default)| (name, Some(default)));
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_name {
        return Err(vec![Fault::NoVariable]);
    }
    match (variables.get(name), default) {
        // As in a shell: an empty variable is set for `${X}` and not for `${X:-default}`.
        (Some(value), None) => Ok(value.clone()),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value.clone()),
        (_, Some(default)) => expand_text(default, variables).map(|expanded| expanded.text),
        (None, None) => Err(vec![Fault::Missing(name.to_owned())]),
    }
}

fn closing_brace(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => open += 1,
            '}' if open == 0 => return Some(at),
            '}' => open -= 1,
            _ => {}
        }
    }
    None
}

/// Expands every string of a value, at any depth; one that is a whole `${..}` becomes what its key takes.
pub(crate) fn expand(node: &Node<'_>, path: &str, value: &mut Value, variables: &Variables, report: &mut Report) {
    if let Value::String(text) = value {
        match expand_text(text, variables) {
            Ok(expanded) => {
                if expanded.used_variable {
                    report.hide(path);
                }
                let wanted = node.types();
                let mut typed = if expanded.is_whole { text::parse(wanted, &expanded.text) } else { None };
                if expanded.is_whole && typed.is_none() {
                    let found = if expanded.text.is_empty() { "an empty text" } else { "another text" };
                    report.add(path, &text::expected(wanted), found, "correct the variable or its default");
                }
                // It may be a whole section, which has not been through that step.
                if let Some(typed) = &mut typed {
                    comments::strip(node, typed);
                }
                *value = typed.unwrap_or(Value::String(expanded.text));
            }
            Err(faults) => faults.iter().for_each(|fault| add(fault, path, report)),
        }
        return;
    }
    let shape = value.clone();
    match value {
        Value::Object(members) => {
            for (key, member) in members.iter_mut() {
                expand(&node.child(key, Some(&shape)), &join(path, key), member, variables, report);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                expand(&node.item(index, Some(&shape)), &format!("{path}[{index}]"), item, variables, report);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn add(fault: &Fault, path: &str, report: &mut Report) {
    match fault {
        Fault::Missing(name) => report.add(
            path,
            &format!("the environment variable {name} to be set"),
            "it is not",
            &format!("set it, or give a default: ${{{name}:-default}}"),
        ),
        Fault::Unclosed => report.add(path, "a `}` for every `${`", "none", "close it, or write a literal `$` as `$$`"),
        Fault::NoVariable => report.add(
            path,
            "`${NAME}` or `${NAME:-default}`",
            "something else between `${` and `}`",
            "correct it, or write a literal `$` as `$$`",
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Fault, Node, Report, Variables, escape, expand, expand_text};

    fn variables() -> Variables {
        [("A", "1"), ("B", "two"), ("EMPTY", ""), ("RAW", "${A} $$ {}")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into()
    }

    #[test]
    fn strings_are_expanded_like_this() {
        for (text, expanded, whole) in [
            ("plain", "plain", false),
            ("", "", false),
            ("${A}", "1", true),
            ("x${A}y${B}z", "x1ytwoz", false),
            ("${A}${B}", "1two", false),
            ("${A:-9}", "1", true),
            ("${NO:-9}", "9", true),
            ("${NO:-}", "", true),
            ("${EMPTY}", "", true),
            ("${EMPTY:-d}", "d", true),
            ("${NO:-a:-b}", "a:-b", true),
            ("${NO:-${B}!}", "two!", true),
            ("${NO:-${NO2:-${A}}}", "1", true),
            ("${NO:-{\"a\": {}}}", "{\"a\": {}}", true),
            ("${NO:-$$x}", "$x", true),
            ("$$", "$", false),
            ("$${A}", "${A}", false),
            ("$$${A}", "$1", false),
            ("a$b $5 $", "a$b $5 $", false),
            ("}{", "}{", false),
            ("${RAW}", "${A} $$ {}", true),
            ("é${A}é", "é1é", false),
        ] {
            let found = expand_text(text, &variables()).expect("is right");
            assert_eq!((found.text.as_str(), found.is_whole), (expanded, whole), "{text}");
            assert_eq!(found.used_variable, text.contains("${") && !["$${A}"].contains(&text), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let missing = |name: &str| Fault::Missing(name.to_owned());
        for (text, faults) in [
            ("${NO}", vec![missing("NO")]),
            ("${NO} ${NO2} ${A}", vec![missing("NO"), missing("NO2")]),
            ("${NO:-${NO2}}", vec![missing("NO2")]),
            ("${A", vec![Fault::Unclosed]),
            ("${NO} ${", vec![missing("NO"), Fault::Unclosed]),
            ("${}", vec![Fault::NoVariable]),
            ("${1A}", vec![Fault::NoVariable]),
            ("${A-x}", vec![Fault::NoVariable]),
            ("${ A }", vec![Fault::NoVariable]),
        ] {
            assert_eq!(expand_text(text, &variables()), Err(faults), "{text}");
        }
    }

    #[test]
    fn an_escaped_text_comes_back() {
        for text in ["${A}", "$$", "a$b$", ""] {
            assert_eq!(expand_text(&escape(text), &Variables::new()).expect("is right").text, text);
        }
    }

    #[test]
    fn a_whole_variable_takes_the_type_of_its_key_and_only_then() {
        let schema = json!({ "properties": {
            "n": { "type": "integer" }, "s": { "type": "string" }, "list": { "items": { "type": "boolean" } },
            "o": { "type": ["object", "null"] }, "either": { "type": ["string", "integer"] },
        } });
        let mut value = json!({
            "n": "${A}", "s": "${A}", "either": "${A}", "list": ["${A}", "${NO:-off}"], "o": "${NO:-{\"x\": 1, \"_y\": 2}}",
            "unknown": "${A}", "deep": [{ "x": ["a${A}"] }],
        });
        let mut report = Report::default();
        expand(&Node::root(&schema), "", &mut value, &variables(), &mut report);
        assert_eq!(
            value,
            json!({
                "n": 1, "s": "1", "either": "1", "list": [true, false], "o": { "x": 1 }, "unknown": "1", "deep": [{ "x": ["a1"] }],
            })
        );
        assert!(
            report.came_from_variable("o.x")
                && report.came_from_variable("deep[0].x[0]")
                && !report.came_from_variable("deep[0]")
        );
        assert_eq!(report.finish(), Ok(()));
    }

    #[test]
    fn a_text_of_the_wrong_type_is_an_error_that_does_not_show_it() {
        let schema = json!({ "properties": { "n": { "type": "integer" } } });
        let mut report = Report::default();
        expand(&Node::root(&schema), "apis.x", &mut json!({ "n": "${B}" }), &variables(), &mut report);
        let error = report.finish().expect_err("must be refused").to_string();
        assert_eq!(error, "apis.x.n: expected an integer, found another text; correct the variable or its default");
    }
}
