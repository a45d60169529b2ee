//! What runs inside, as `/proc` shows it.

use std::fs;

use rustix::process::Pid;

/// A process of the sandbox that has not ended.
pub(super) struct Process {
    pub(super) id: Pid,
    /// None where it is outside of the namespace, as with what follows.
    pub(super) parent: Option<Pid>,
    pub(super) group: Option<Pid>,
    pub(super) session: Option<Pid>,
}

/// What runs inside, but for PID 1; nothing where there is no `/proc`.
pub(super) fn processes() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes =
        entries.filter(|entry| entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit));
    // A name may be no text.
    processes.filter_map(|entry| parse(&String::from_utf8_lossy(&fs::read(entry.path().join("stat")).ok()?)))
}

/// A line of `/proc/<id>/stat`.
fn parse(stat: &str) -> Option<Process> {
    let (id, rest) = stat.split_once(' ')?;
    // After the name, which may hold anything: state, parent, group, session; the number of threads is the 18th.
    let fields: Vec<_> = rest.rsplit_once(')')?.1.split_whitespace().collect();
    let pid = |text: &str| Pid::from_raw(text.parse().ok()?);
    let threads: u32 = fields.get(17)?.parse().ok()?;
    let id = pid(id).filter(|id| *id != Pid::INIT)?;
    // One whose first thread has ended looks like one that has, and others of it may run.
    let ended = fields[0] == "Z" && threads <= 1;
    (!ended).then_some(Process { id, parent: pid(fields[1]), group: pid(fields[2]), session: pid(fields[3]) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_ended_in_all_its_threads_is_left_out() {
        let stat = |state: &str, threads: u32| {
            format!("7 (a) b (x) {state} 3 4 5 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 {threads} 0 100 0 0")
        };
        let found = parse(&stat("S", 1)).unwrap();
        let ids = [Some(found.id), found.parent, found.group, found.session];
        assert_eq!(ids.map(Pid::as_raw), [7, 3, 4, 5]);
        // Of a leader in a namespace above, the number is 0.
        assert!(parse(&stat("S", 1).replace(" 5 0 -1", " 0 0 -1")).unwrap().session.is_none());
        assert!(parse(&stat("Z", 1)).is_none() && parse(&stat("Z", 2)).is_some());
        assert!(parse(&stat("S", 1).replacen('7', "1", 1)).is_none() && parse("nonsense").is_none());
        let this = rustix::process::getpid();
        assert!(processes().any(|process| process.id == this));
    }
}
