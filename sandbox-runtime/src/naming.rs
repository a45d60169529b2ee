//! Names of sessions: the request field, labels, ids.

use std::borrow::Cow;

use sandbox_types::{ErrorCode, SessionId, WorkerId};

use crate::error::{Result, ToolError};

/// Whether this can be the name of a resource, and so of a backend, a tool, an alias or a group: `[a-z][a-z0-9_]*` without
/// `__`.
pub(crate) fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !name.contains("__")
}

/// Longest name of a session (the request field `session`), in bytes.
const MAX_KEY_BYTES: usize = 128;

/// The name of a session when the request names none.
pub(crate) const DEFAULT_SESSION: &str = "default";

/// The name under which maps keyed by resource show a session: `vm`, or `vm/second`.
pub(crate) fn label<'a>(resource: &'a str, key: &str) -> Cow<'a, str> {
    if key == DEFAULT_SESSION { Cow::Borrowed(resource) } else { Cow::Owned(format!("{resource}/{key}")) }
}

/// The request field `session`.
///
/// # Errors
/// It is empty, too long, or has control characters.
pub(crate) fn parse_key(key: Option<&str>) -> Result<&str> {
    match key {
        None => Ok(DEFAULT_SESSION),
        Some(key) if key.is_empty() || key.len() > MAX_KEY_BYTES || key.chars().any(char::is_control) => {
            let expected = format!("1 to {MAX_KEY_BYTES} bytes without control characters");
            Err(ToolError::parameter(ErrorCode::INVALID_INPUT, "session", expected, format!("{} bytes", key.len())))
        }
        Some(key) => Ok(key),
    }
}

pub(crate) fn session_name(resource: &str, worker: &WorkerId, number: u32, label: Option<&str>) -> String {
    let worker = sanitize(worker.as_str());
    match label.filter(|label| !label.is_empty()) {
        Some(label) => format!("{resource}_{worker}_{number:03}_{}", sanitize(label)),
        None => format!("{resource}_{worker}_{number:03}"),
    }
}

/// At most 32 characters, others than `[A-Za-z0-9_-]` as `-`.
pub(crate) fn sanitize(text: &str) -> String {
    text.chars().take(32).map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '-' }).collect()
}

/// Incarnation and random part of an id that a server of this kind made.
pub(crate) fn parse_id(id: &SessionId) -> Option<(u32, u128)> {
    let (_, hex) = id.as_str().rsplit_once('_')?;
    if hex.len() != 40 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    Some((u32::from_str_radix(&hex[..8], 16).ok()?, u128::from_str_radix(&hex[8..], 16).ok()?))
}

/// Whether an id may be that of a session which this worker had on an earlier server: its name says so.
pub(crate) fn may_be_of(id: &SessionId, worker: &WorkerId) -> bool {
    let Some((name, _)) = id.as_str().rsplit_once('_') else { return false };
    let mark = format!("_{}_", sanitize(worker.as_str()));
    let is_number = |text: &str| {
        let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
        text.len() - rest.len() >= 3 && (rest.is_empty() || rest.starts_with('_'))
    };
    name.match_indices(&mark).any(|(at, _)| is_name(&name[..at]) && is_number(&name[at + mark.len()..]))
}

#[cfg(test)]
mod tests {
    use super::{may_be_of, parse_id, session_name};
    use sandbox_types::{SessionId, WorkerId};

    #[test]
    fn names_are_safe_and_ids_parse() {
        let worker = WorkerId::parse("agent 7/ä@host-with-a-very-long-name-indeed").expect("a good id");
        let name = session_name("vm", &worker, 7, Some("my label"));
        assert_eq!(name, "vm_agent-7---host-with-a-very-long-_007_my-label");
        let id = SessionId::parse(&format!("{name}_{:08x}{:032x}", 1, 2)).expect("a good id");
        assert_eq!(parse_id(&id), Some((1, 2)));
        assert_eq!(parse_id(&SessionId::parse("vm_x_001_ff").expect("a good id")), None);
        assert!(may_be_of(&id, &worker));
        let id = SessionId::parse(&format!("vm_small_victim-a_001_{:040x}", 7)).expect("a good id");
        for (worker, own) in [("victim-a", true), ("001", false), ("a", false), ("small", false), ("vm", false)] {
            assert_eq!(may_be_of(&id, &WorkerId::parse(worker).expect("a good id")), own, "{worker}");
        }
    }
}
