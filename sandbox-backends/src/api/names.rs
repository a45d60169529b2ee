//! Names that a client gave, in errors.

/// As much of a name as an error repeats.
pub(crate) fn quotable(name: &str) -> String {
    name.chars().take(64).collect()
}

/// What is not as near as this is another name.
const NEAR: f64 = 0.6;

/// Names that are all shown, however far from the wanted one, and of many the most that are.
const FEW: usize = 5;

/// Up to five names that may be meant: those with the wanted one in them, or in it, and those that are written like it, in
/// their last parts or as a whole. Where there are no more than five names, and none is like it, all of them.
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
    let (mut near, mut first, mut count) = (Vec::new(), Vec::new(), 0);
    for name in names {
        count += 1;
        near.extend(rank(name));
        if first.len() < FEW {
            first.push(name);
        }
    }
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near: Vec<&str> = near.into_iter().map(|(_, name)| name).take(FEW).collect();
    let shown = if near.is_empty() && count <= FEW { first } else { near };
    shown.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_may_be_meant_come_first() {
        let names = ["orders", "customers", "customer_orders", "manual/guide.txt", "x", "y"];
        let among = |wanted, count| nearest(wanted, names.into_iter().take(count));
        let nearest = |wanted| among(wanted, 6);
        assert_eq!(nearest("order"), ["orders", "customer_orders"]);
        assert_eq!(nearest("Custmers"), ["customers"]);
        assert_eq!(nearest("/data/manual/giude.txt"), ["manual/guide.txt"]);
        assert_eq!(nearest("guide.txt"), ["manual/guide.txt"]);
        assert!(nearest("zebra").is_empty());
        assert_eq!(among("zebra", 2), ["orders", "customers"]);
    }
}
