//! A stream in JSON: small ones as base64, an upload by a mark in its place.

use std::{
    borrow::Cow,
    cell::RefCell,
    fmt::{self, Write as _},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sandbox_types::ErrorCode;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, Visitor},
};
use serde_json::{Value, value::RawValue};
use sha2::{Digest as _, Sha256};

use super::{ByteStream, hex};
use crate::error::{Result, ToolError};

/// Largest result that is put into JSON: there it is held in memory, and a third larger.
const MAX_JSON_BYTES: usize = 8 * 1024 * 1024;

/// By this key a schema tells a stream from other strings and objects.
const KEY: &str = "x-byte-stream";

/// A stream of bytes as a result in JSON.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-byte-stream" = true))]
pub struct Content {
    /// The bytes, as base64.
    #[schemars(extend("contentEncoding" = "base64"))]
    pub content: String,
    /// What they are.
    pub content_type: String,
    /// The name of the file, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_name: Option<String>,
    /// How many bytes.
    pub length: u64,
    /// Their SHA-256, as 64 hex digits.
    pub sha256: String,
}

impl ByteStream {
    /// The `Content-Type` that an answer names.
    pub(crate) fn shown_type(&self) -> &str {
        self.content_type().unwrap_or("application/octet-stream")
    }

    /// As [`Content`]: the base64 is written once, into the text that becomes the answer's.
    ///
    /// # Errors
    /// Those of the stream, and [`ErrorCode::PAYLOAD_TOO_LARGE`].
    pub(crate) async fn into_json(self) -> Result<Box<RawValue>> {
        let content_type = quoted(self.shown_type());
        let file_name = self.file_name().map(quoted);
        let bytes = self.read_to_end(MAX_JSON_BYTES).await.map_err(|error| match error.code() {
            ErrorCode::PAYLOAD_TOO_LARGE => {
                let limit = MAX_JSON_BYTES / 1024 / 1024;
                let message = format!(
                    "the result is larger than the {limit} MiB that go into JSON; stream it: POST /execute/{{tool}}, or \
                     POST /execute with Accept: application/octet-stream"
                );
                ToolError::new(ErrorCode::PAYLOAD_TOO_LARGE, message)
            }
            _ => error,
        })?;
        let encoded = bytes.len().div_ceil(3) * 4;
        let mut text = String::with_capacity(encoded + content_type.len() + 256);
        text.push_str("{\"content\":\"");
        STANDARD.encode_string(&bytes, &mut text);
        let _ = write!(text, "\",\"content_type\":{content_type}");
        if let Some(file_name) = file_name {
            let _ = write!(text, ",\"file_name\":{file_name}");
        }
        let digest = hex(&Sha256::digest(&bytes).into());
        let _ = write!(text, ",\"length\":{},\"sha256\":\"{digest}\"}}", bytes.len());
        RawValue::from_string(text)
            .map_err(|error| ToolError::new(ErrorCode::INTERNAL_ERROR, format!("the result is not JSON: {error}")))
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// An upload on its way into the parameter that stands for it: in the JSON its place is taken by a mark that no client can
/// guess, and that is not base64.
pub(crate) struct Lent {
    mark: String,
    stream: ByteStream,
}

thread_local! {
    /// The upload of the parse that runs on this thread; such a parse has no await in it.
    static LENT: RefCell<Option<Lent>> = const { RefCell::new(None) };
}

/// What stands in the JSON for an upload.
#[cfg(feature = "server")]
pub(crate) fn mark_of(stream: ByteStream) -> (String, Lent) {
    let mark = format!("\u{1}{:032x}", fastrand::u128(..));
    (mark.clone(), Lent { mark, stream })
}

/// The typed parse of parameters of which one is an upload.
pub(crate) fn parse_with<T: DeserializeOwned>(lent: &mut Option<Lent>, params: &Value) -> Result<T> {
    /// Takes back what was not used, also on panic.
    struct Back<'a>(&'a mut Option<Lent>);
    impl Drop for Back<'_> {
        fn drop(&mut self) {
            *self.0 = LENT.take();
        }
    }
    LENT.set(lent.take());
    let _back = Back(lent);
    crate::schema::parse_once(params)
}

impl<'de> Deserialize<'de> for ByteStream {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = ByteStream;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("base64 text")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ByteStream, E> {
                let lent = LENT.with_borrow_mut(|lent| lent.take_if(|lent| lent.mark == text));
                match lent {
                    Some(lent) => Ok(lent.stream),
                    None => STANDARD
                        .decode(text)
                        .map(ByteStream::from_bytes)
                        .map_err(|_| E::custom("text that is not base64")),
                }
            }
        }

        deserializer.deserialize_str(Text)
    }
}

impl JsonSchema for ByteStream {
    fn schema_name() -> Cow<'static, str> {
        "ByteStream".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "contentEncoding": "base64", (KEY): true })
    }
}

/// The parameter of a tool that takes an upload, if one does.
///
/// # Errors
/// Several do: a request has one body.
pub(crate) fn parameter(input_schema: &Value) -> Result<Option<String>, String> {
    let properties = input_schema.get("properties").and_then(Value::as_object);
    let mut uploads = properties.into_iter().flatten().filter(|(_, schema)| is_stream(schema)).map(|(name, _)| name);
    match (uploads.next(), uploads.next()) {
        (Some(first), Some(second)) => Err(format!(
            "expected at most one parameter of type `ByteStream`, found `{first}` and `{second}`: a request has one body; \
             make one of them a tool of its own"
        )),
        (first, _) => Ok(first.cloned()),
    }
}

fn is_stream(schema: &Value) -> bool {
    schema.get(KEY).is_some()
        || schema.get("anyOf").and_then(Value::as_array).is_some_and(|any| any.iter().any(is_stream))
}
