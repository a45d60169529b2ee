//! The name that was probably meant.

/// The known name nearest to `name`, if it is near enough to be meant.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Nobody means a name of this length; comparing it would take long.
    const LONGEST: usize = 128;
    if name.len() > LONGEST {
        return None;
    }
    let name = name.to_lowercase();
    let similarity = |candidate: &str| {
        // One slip in a short name weighs too much for the measure of whole words.
        let is_one_slip = name.len() > 2 && strsim::osa_distance(&name, candidate) <= 1;
        strsim::jaro_winkler(&name, candidate).max(if is_one_slip { 0.9 } else { 0.0 })
    };
    known
        .into_iter()
        .map(|candidate| (similarity(&candidate.to_lowercase()), candidate))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// A name that a client sent, as an error shows it.
pub(crate) fn shown(name: &str) -> std::borrow::Cow<'_, str> {
    const SHOWN_CHARACTERS: usize = 64;
    match name.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &name[..end]).into(),
        None => name.into(),
    }
}
