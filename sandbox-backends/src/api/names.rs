//! Names that a client gave, in errors.

/// As much of a name as an error repeats.
pub(crate) fn quotable(name: &str) -> String {
    name.chars().take(64).collect()
}

/// What is not as near as this is another name.
const NEAR: f64 = 0.6;

/// Up to five names that may be meant: those with the wanted one in them, or in it, and those that are written like it, in
/// their last parts or as a whole.
pub(crate) fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let last = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    let wanted = quotable(wanted).to_lowercase();
    let wanted_last = last(&wanted);
    let rank = |name: &'a str| {
        let lower = name.to_lowercase();
        let name_last = last(&lower);
        let within = lower.contains(&wanted) || (name_last.len() > 2 && wanted.contains(&name_last));
        let like = strsim::normalized_levenshtein(&wanted, &lower)
            .max(strsim::normalized_levenshtein(&wanted_last, &name_last));
        let near = if within { 1.0 + like } else { like };
        (near >= NEAR).then_some((near, name))
    };
    let mut near: Vec<_> = names.filter_map(rank).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    near.into_iter().take(5).map(|(_, name)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_may_be_meant_come_first() {
        let names = ["orders", "customers", "customer_orders", "manual/guide.txt", "x"];
        let nearest = |wanted| nearest(wanted, names.into_iter());
        assert_eq!(nearest("order"), ["orders", "customer_orders"]);
        assert_eq!(nearest("Custmers"), ["customers"]);
        assert_eq!(nearest("/data/manual/giude.txt"), ["manual/guide.txt"]);
        assert_eq!(nearest("guide.txt"), ["manual/guide.txt"]);
        assert!(nearest("zebra").is_empty());
    }
}
