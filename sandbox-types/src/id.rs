//! Ids: who calls, which session, which run, which trace.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $max:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The longest one, in bytes.
            pub const MAX_BYTES: usize = $max;

            /// Takes text that is not empty, not longer than [`Self::MAX_BYTES`] and free of control characters.
            ///
            /// # Errors
            /// Says which of these rules the text breaks.
            pub fn parse(text: &str) -> Result<Self, String> {
                if text.is_empty() || text.len() > $max || text.chars().any(char::is_control) {
                    return Err(format!(
                        concat!($what, ": expected 1 to {} bytes without control characters, found {} bytes"),
                        $max,
                        text.len()
                    ));
                }
                Ok(Self(text.into()))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                // Without control characters, as `parse` demands: C0, DEL and C1.
                schemars::json_schema!({
                    "type": "string",
                    "minLength": 1,
                    "maxLength": $max,
                    "pattern": "^[^\\x00-\\x1f\\x7f-\\x9f]*$"
                })
            }
        }
    };
}

id! {
    /// A client identity, chosen by the client: sessions belong to it.
    WorkerId, 256, "worker id"
}
id! {
    /// The unguessable id of one session.
    SessionId, 512, "session id"
}
id! {
    /// The unguessable id of one run: an execution of a tool, or of a batch.
    RunId, 128, "run id"
}
id! {
    /// Ties together everything that one request caused, in logs and in other systems.
    TraceId, 256, "trace id"
}

#[cfg(test)]
mod tests {
    use super::WorkerId;

    #[test]
    fn bad_ids_are_refused_with_the_rule() {
        for bad in [String::new(), "a\nb".into(), "x".repeat(257)] {
            let error = WorkerId::parse(&bad).expect_err("must be refused");
            assert!(error.contains("1 to 256 bytes"), "{error}");
        }
        assert_eq!(WorkerId::parse("w 1/ä").expect("spaces are fine").as_str(), "w 1/ä");
    }
}
