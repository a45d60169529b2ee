//! User ids of the host for sandboxes: two for each, given to no other while it lives.

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Mutex, PoisonError};

/// Ids that no convention gives to anybody (systemd's table of user ids: 1879048192 to 2147483647).
const BASE: u32 = 0x7000_0000;
/// How many pairs there are.
const PAIRS: u32 = 65_536;

/// The pairs in use, and where the search for a free one begins.
static TAKEN: Mutex<(BTreeSet<u32>, u32)> = Mutex::new((BTreeSet::new(), 0));

/// Two host ids, given back by the drop.
#[derive(Debug)]
pub(super) struct HostIds {
    /// The first of them.
    pub(super) first: u32,
}

/// Which ids this process can give: the first one, and how many pairs. None if it is not root, or in a user namespace
/// that has too few.
pub(super) fn available() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    range(&fs::read_to_string("/proc/self/uid_map").ok()?)
}

/// The same from the id map of the process.
fn range(map: &str) -> Option<(u32, u32)> {
    let mut widest = None;
    for line in map.lines() {
        let mut fields = line.split_whitespace().map(str::parse::<u32>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let end = first.saturating_add(count);
        if first <= BASE && end >= BASE + 2 * PAIRS {
            return Some((BASE, PAIRS));
        }
        // In a container the upper half, where no account is.
        if count >= 4096 && widest.is_none_or(|(_, widest)| widest < count / 4) {
            widest = Some((first + count / 2, (count / 4).min(PAIRS)));
        }
    }
    widest
}

impl HostIds {
    /// A pair that no living sandbox has; none if this process has none to give.
    pub(super) fn take() -> Option<Self> {
        let (first, pairs) = available()?;
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = taken.1;
        // Not at once again: what is late to die must not meet its successor.
        let free = (0..pairs).map(|step| (begin + step) % pairs).find(|pair| !taken.0.contains(pair))?;
        taken.0.insert(free);
        taken.1 = (free + 1) % pairs;
        Some(Self { first: first + 2 * free })
    }
}

impl Drop for HostIds {
    fn drop(&mut self) {
        if let Some((first, _)) = available() {
            let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
            taken.0.remove(&((self.first - first) / 2));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_from_what_is_mapped() {
        assert_eq!(range("         0          0 4294967295\n"), Some((BASE, PAIRS)));
        assert_eq!(range("0 100000 65536\n"), Some((32768, 16384)));
        assert_eq!(range("0 1000 1\n1 100000 65536\n"), Some((32769, 16384)));
        assert_eq!(range("0 1000 1\n"), None);
    }
}
