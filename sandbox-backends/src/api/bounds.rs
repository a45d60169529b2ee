//! Numbers of a configuration that have bounds.

use serde::{Deserialize, Deserializer, de::Error as _};

/// Reads a whole number from `LEAST` to `MOST`, for `#[serde(deserialize_with = "within::<_, 1, 20>")]`.
pub(crate) fn within<'de, D: Deserializer<'de>, const LEAST: u32, const MOST: u32>(
    deserializer: D,
) -> Result<u32, D::Error> {
    let number = u32::deserialize(deserializer)?;
    if (LEAST..=MOST).contains(&number) {
        return Ok(number);
    }
    let expected = if MOST == u32::MAX { format!("at least {LEAST}") } else { format!("{LEAST} to {MOST}") };
    Err(D::Error::custom(format!("expected {expected}, found {number}")))
}
