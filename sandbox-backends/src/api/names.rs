//! Names that a client gave, in errors.

/// As much of a name as an error repeats.
pub(crate) fn quotable(name: &str) -> String {
    name.chars().take(64).collect()
}

/// Up to five names, those that hold the wanted one, or are held by it, first.
pub(crate) fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let wanted = wanted.to_lowercase();
    let mut names: Vec<_> = names.map(str::to_owned).collect();
    names.sort_by_key(|name| {
        let name = name.to_lowercase();
        !(name.contains(&wanted) || wanted.contains(&name))
    });
    names.truncate(5);
    names
}
