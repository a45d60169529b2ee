//! Bytes in JSON.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use sha2::{Digest, Sha256};

/// How bytes are written in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) enum Encoding {
    /// As text.
    #[serde(rename = "utf-8")]
    Utf8,
    /// In base64.
    #[serde(rename = "base64")]
    Base64,
}

/// A file that is to be written: its text, or an object with its bytes in base64.
#[derive(Clone, Debug)]
pub enum NewFile {
    /// Its text.
    Text(String),
    /// Its bytes.
    Bytes(Vec<u8>),
}

/// How one comes.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "the shape of a schema")]
enum NewFileForm {
    /// Its text.
    Text(String),
    /// Its bytes.
    Bytes {
        /// In base64.
        base64: String,
    },
}

impl JsonSchema for NewFile {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "NewFile".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        NewFileForm::json_schema(generator)
    }
}

impl<'de> Deserialize<'de> for NewFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "expected a text, or an object such as {\"base64\": \"..\"}";
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Ok(Self::Text(text)),
            serde_json::Value::Object(fields) if fields.len() == 1 => {
                let text = fields.get("base64").and_then(serde_json::Value::as_str);
                let bytes = BASE64_STANDARD.decode(text.ok_or_else(|| D::Error::custom(EXPECTED))?);
                bytes.map(Self::Bytes).map_err(|error| D::Error::custom(format!("`base64` is none: {error}")))
            }
            _ => Err(D::Error::custom(EXPECTED)),
        }
    }
}

impl NewFile {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// Bytes as text if they are text, else in base64.
pub(crate) fn encode(bytes: Vec<u8>) -> (String, Encoding) {
    match String::from_utf8(bytes) {
        Ok(text) => (text, Encoding::Utf8),
        Err(error) => (BASE64_STANDARD.encode(error.as_bytes()), Encoding::Base64),
    }
}

/// Leaves a character that is cut in two at the end for the next part.
pub(super) fn cut_between_characters(bytes: &mut Vec<u8>) {
    if let Err(error) = std::str::from_utf8(bytes)
        && error.error_len().is_none()
        && error.valid_up_to() > 0
    {
        bytes.truncate(error.valid_up_to());
    }
}

/// SHA-256 in hexadecimal digits.
pub(super) fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
