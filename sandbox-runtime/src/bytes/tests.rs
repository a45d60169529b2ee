use std::{
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_core::Stream;
use sandbox_types::ErrorCode;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;

use super::{ByteStream, last_part, parameter, parse_with};
use crate::error::{Result, ToolError};

/// So many pieces of so many bytes, and then the end, an error, or a wait for ever.
struct Pieces {
    left: usize,
    bytes: usize,
    end: End,
}

#[derive(Clone, Copy)]
enum End {
    Clean,
    Error,
    Never,
}

impl Stream for Pieces {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        if self.left > 0 {
            self.left -= 1;
            return Poll::Ready(Some(Ok(vec![7; self.bytes].into())));
        }
        match self.end {
            End::Clean => Poll::Ready(None),
            End::Error => Poll::Ready(Some(Err(ToolError::execution("cut off")))),
            End::Never => Poll::Pending,
        }
    }
}

fn pieces(left: usize, bytes: usize, end: End) -> ByteStream {
    ByteStream::from_stream(Pieces { left, bytes, end })
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("target");
    (folder, target)
}

fn names(folder: &tempfile::TempDir) -> Vec<String> {
    let entries = std::fs::read_dir(folder.path()).expect("is there");
    entries.map(|entry| entry.expect("is read").file_name().to_string_lossy().into_owned()).collect()
}

/// Whether this process has a file in the folder open, with a name or without.
fn is_open_in(folder: &tempfile::TempDir) -> bool {
    let open = std::fs::read_dir("/proc/self/fd").expect("is there");
    open.filter_map(|link| std::fs::read_link(link.ok()?.path()).ok()).any(|file| file.starts_with(folder.path()))
}

#[tokio::test]
async fn what_is_saved_is_there_whole_or_not_at_all() {
    let (folder, target) = folder();
    let saved = pieces(50, 40_000, End::Clean).save(&target).await.expect("is written");
    let digest = super::hex(&Sha256::digest(vec![7; 2_000_000]).into());
    assert_eq!((saved.bytes, saved.sha256), (2_000_000, digest));
    assert_eq!(std::fs::read(&target).expect("is there").len(), 2_000_000);
    let empty = pieces(0, 0, End::Clean).save(folder.path().join("empty")).await.expect("is written");
    assert_eq!(empty.bytes, 0);
    std::fs::remove_file(folder.path().join("empty")).expect("is there");

    let right: [u8; 32] = Sha256::digest([7; 10]).into();
    let failures = [
        pieces(50, 40_000, End::Error),
        pieces(1, 10, End::Clean).with_len(11),
        pieces(1, 10, End::Clean).with_len(9),
        pieces(2, 10, End::Clean).with_sha256(right),
    ];
    for stream in failures {
        stream.save(&target).await.expect_err("must fail");
        assert_eq!(names(&folder), ["target"]);
    }
    assert_eq!(std::fs::read(&target).expect("is there").len(), 2_000_000, "the old one stays");
    pieces(1, 10, End::Clean).with_sha256(right).save(&target).await.expect("is written");
    assert_eq!(std::fs::read(&target).expect("is there"), [7; 10]);

    let error = pieces(1, 1, End::Clean).save(folder.path().join("no/such")).await.expect_err("must fail");
    assert!(!error.message().contains("no/such"), "{error}");
}

#[tokio::test]
async fn an_upload_that_is_dropped_leaves_nothing() {
    let (folder, target) = folder();
    for count in [0, 1, 40] {
        let saving = tokio::spawn(pieces(count, 40_000, End::Never).save(target.clone()));
        while !is_open_in(&folder) {
            tokio::task::yield_now().await;
        }
        saving.abort();
        assert!(saving.await.expect_err("was aborted").is_cancelled());
        while is_open_in(&folder) {
            tokio::task::yield_now().await;
        }
        assert!(names(&folder).is_empty());
    }
}

#[tokio::test]
async fn a_file_is_read_to_its_end_and_in_parts() {
    let (_folder, path) = folder();
    let content: Vec<u8> = (0..=250_u8).cycle().take(700_001).collect();
    std::fs::write(&path, &content).expect("is written");
    let open = || async { ByteStream::from_file(&path).await.expect("is there") };
    let all = open().await;
    assert_eq!(all.len(), Some(700_001));
    assert!(all.read_to_end(700_001).await.expect("fits") == content);
    assert_eq!(open().await.read_to_end(700_000).await.expect_err("too large").code(), ErrorCode::PAYLOAD_TOO_LARGE);
    let mut reader = Vec::new();
    std::pin::pin!(open().await.into_reader()).read_to_end(&mut reader).await.expect("is read");
    assert!(reader == content);
    #[cfg(feature = "server")]
    for (start, len) in [(0, 1), (300_000, 300_000), (700_000, 1)] {
        let mut part = open().await;
        part.narrow(start, len);
        let (start, len) = (usize::try_from(start).expect("fits"), usize::try_from(len).expect("fits"));
        assert!(part.read_to_end(len).await.expect("is read") == content[start..start + len]);
    }
    let changing = open().await;
    std::fs::write(&path, "short").expect("is written");
    assert_eq!(changing.read_to_end(800_000).await.expect_err("is cut").body().reason.as_deref(), Some("length"));
    let missing = ByteStream::from_file(path.join("x")).await.expect_err("is none");
    assert!(!missing.message().contains("target"), "{missing}");
    assert!(ByteStream::from_file("/dev/zero").await.is_err(), "no regular file");
}

#[tokio::test]
async fn a_failure_stays_one() {
    let mut stream = pieces(1, 5, End::Error);
    assert!(stream.next().await.expect("comes").is_some());
    for _ in 0..3 {
        assert_eq!(stream.next().await.expect_err("is cut").message(), "cut off");
    }
    let mut whole = ByteStream::from_bytes("abc");
    assert_eq!(whole.next().await.expect("comes").as_deref(), Some(&b"abc"[..]));
    assert!(whole.next().await.expect("ends").is_none() && whole.next().await.expect("ends").is_none());
    let wrong = ByteStream::from_bytes("abc").with_sha256([0; 32]).read_to_end(9).await.expect_err("another");
    assert_eq!(wrong.body().reason.as_deref(), Some("checksum"));
    let read = ByteStream::from_reader(&b"hello"[..]).read_to_end(5).await.expect("fits");
    assert_eq!(read, &b"hello"[..]);
}

#[tokio::test]
async fn in_json_it_is_base64() {
    for (bytes, base64) in [("", ""), ("a", "YQ=="), ("hello", "aGVsbG8=")] {
        let stream = ByteStream::from_bytes(bytes).with_content_type("text/\"x").with_file_name("a/b\"c");
        let json: Value = serde_json::from_str(stream.into_json().await.expect("fits").get()).expect("is JSON");
        assert_eq!(json["content"], base64);
        assert_eq!((&json["content_type"], &json["file_name"]), (&json!("text/\"x"), &json!("b\"c")));
        assert_eq!(json["length"], bytes.len());
        let stream: ByteStream = serde_json::from_value(json!(base64)).expect("is base64");
        assert_eq!(stream.read_to_end(10).await.expect("fits"), bytes);
    }
    let error = pieces(9, 1024 * 1024, End::Clean).into_json().await.expect_err("too large");
    assert_eq!(error.code(), ErrorCode::PAYLOAD_TOO_LARGE);
}

#[cfg(feature = "server")]
#[test]
fn only_the_mark_of_this_call_stands_for_its_upload() {
    #[derive(Deserialize)]
    struct Params {
        file: Option<ByteStream>,
        #[serde(default)]
        count: u32,
    }
    let (mark, lent) = super::mark_of(ByteStream::from_bytes("hello"));
    let mut lent = Some(lent);
    let params = json!({ "file": mark });
    // What stands in the request is only text.
    assert!(serde_json::from_value::<Params>(params.clone()).is_err());
    let other = json!({ "file": "\u{1}00000000000000000000000000000000" });
    let Err(error) = parse_with::<Params>(&mut lent, &other) else { panic!("must be refused") };
    assert_eq!(error.body().parameter.as_deref(), Some("file"));
    assert!(lent.is_some(), "it is still there");
    let parsed = parse_with::<Params>(&mut lent, &params).expect("fits");
    assert_eq!((parsed.file.and_then(|file| file.len()), parsed.count), (Some(5), 0));
    assert!(lent.is_none() && parse_with::<Params>(&mut lent, &params).is_err());
}

#[test]
fn a_tool_takes_one_upload_at_most() {
    #[derive(schemars::JsonSchema)]
    #[expect(dead_code, reason = "only its schema is looked at")]
    struct Params {
        /// Described.
        one: Option<ByteStream>,
        text: String,
        two: ByteStream,
    }
    let schema = crate::schema::generate(<Params as schemars::JsonSchema>::json_schema);
    let error = parameter(&schema).expect_err("two");
    assert!(error.contains("`one` and `two`"), "{error}");
    let mut one = schema;
    one["properties"].as_object_mut().expect("an object").remove("two");
    assert_eq!(parameter(&one), Ok(Some("one".into())));
    assert_eq!(parameter(&json!({})), Ok(None));
}

#[test]
fn a_name_is_no_path() {
    for (given, kept) in [("a.txt", "a.txt"), ("/etc/a", "a"), ("..\\b", "b"), ("a\nb", "ab")] {
        assert_eq!(last_part(given).as_deref(), Some(kept));
    }
    for given in ["", "..", "a/..", "/", "\u{7}"] {
        assert_eq!(last_part(given), None, "{given:?}");
    }
}
