//! Times on the wire: RFC 3339 with `+00:00` and six decimals.

use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};

/// A point in time, such as `2026-01-31T12:00:00.000000+00:00`.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Micros, false)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    #[test]
    fn six_decimals_and_an_offset() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_001);
        assert_eq!(super::rfc3339(time), "2023-11-14T22:13:20.000001+00:00");
    }
}
