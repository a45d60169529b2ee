//! Documents read by real processes: what becomes of honest ones, and what hostile ones cannot do.

use std::{fmt::Write as _, fs, process::Stdio};

use pdf_extract::{
    Document, EncryptionState, EncryptionVersion, Object, Permissions, Stream,
    content::{Content, Operation},
    dictionary,
};

use super::*;

fn html(form: Form) -> Task {
    Task { kind: Kind::Article, form, charset: None, base: Some("https://example.com/docs/".to_owned()) }
}

fn pdf_task() -> Task {
    Task { kind: Kind::Pdf, form: Form::Text, charset: None, base: None }
}

async fn read(task: Task, document: impl Into<Vec<u8>>) -> Result<Reading, Unreadable> {
    Reader::new(Duration::from_secs(10)).read(task, Into::<Vec<u8>>::into(document)).await
}

/// A PDF with these pages, each a list of lines.
pub(super) fn pdf(pages: &[&[&str]]) -> Document {
    let mut document = Document::with_version("1.5");
    let tree = document.new_object_id();
    let font = document.add_object(dictionary! { "Type" => "Font", "Subtype" => "Type1", "BaseFont" => "Courier" });
    let resources = document.add_object(dictionary! { "Font" => dictionary! { "F1" => font } });
    let kids: Vec<Object> = pages
        .iter()
        .map(|lines| {
            let mut operations = vec![Operation::new("BT", vec![]), Operation::new("Tf", vec!["F1".into(), 12.into()])];
            operations.push(Operation::new("Td", vec![72.into(), 700.into()]));
            for line in *lines {
                operations.push(Operation::new("Tj", vec![Object::string_literal(*line)]));
                operations.push(Operation::new("Td", vec![0.into(), (-14).into()]));
            }
            operations.push(Operation::new("ET", vec![]));
            let content = Content { operations }.encode().expect("a content stream");
            let content = document.add_object(Stream::new(dictionary! {}, content));
            let page = dictionary! { "Type" => "Page", "Parent" => tree, "Contents" => content };
            document.add_object(page).into()
        })
        .collect();
    let count = i64::try_from(kids.len()).expect("few pages");
    let media = vec![0.into(), 0.into(), 595.into(), 842.into()];
    let pages = dictionary! {
        "Type" => "Pages", "Kids" => kids, "Count" => count, "Resources" => resources, "MediaBox" => media,
    };
    document.objects.insert(tree, Object::Dictionary(pages));
    let catalog = document.add_object(dictionary! { "Type" => "Catalog", "Pages" => tree });
    let information = document.add_object(dictionary! { "Title" => Object::string_literal("A manual") });
    document.trailer.set("Root", catalog);
    document.trailer.set("Info", information);
    document
}

pub(super) fn bytes(mut document: Document) -> Vec<u8> {
    let mut bytes = Vec::new();
    document.save_to(&mut bytes).expect("a file in memory");
    bytes
}

#[tokio::test]
async fn an_article_loses_its_frame_and_keeps_its_form() {
    let words = "Some words that make this paragraph long enough, with commas, to be taken for text. ".repeat(4);
    let page = format!(
        "<html><head><title>On words</title><script>tracker()</script></head><body>\
         <nav><a href='/'>Home</a><a href='/shop'>Shop</a></nav>\
         <article><h1>On words</h1><p>{words}</p><p>{words}</p><h2>Code</h2><pre>let  a = 1;\n    b()</pre>\
         <p>{words} See <a href='../next?a=1&amp;b=2'>the next</a> and <a href='#top'>the top</a>.</p>\
         <table><tr><th>Name</th><th>Value</th></tr><tr><td>one</td><td>1</td></tr></table>\
         <ul><li>first</li><li>second</li></ul><p hidden>nothing to see</p></article>\
         <footer>Imprint</footer></body></html>"
    );
    let reading = read(html(Form::Markdown), page.clone()).await.expect("an article");
    assert_eq!(reading.title.as_deref(), Some("On words"));
    let content = reading.content;
    for part in [
        "## Code",
        "```\nlet  a = 1;\n    b()\n```",
        "[the next](https://example.com/next?a=1&b=2)",
        "| Name | Value |\n| ---- | ----- |\n| one | 1 |",
        "- first\n- second",
    ] {
        assert!(content.contains(part), "{part} is not in {content}");
    }
    for part in ["Shop", "tracker", "Imprint", "nothing to see"] {
        assert!(!content.contains(part), "{part} is in {content}");
    }
    let text = read(html(Form::Text), page).await.expect("an article").content;
    assert!(
        text.contains("Some words") && text.contains("let  a = 1;") && !text.contains("](") && !text.contains("##")
    );
}

#[tokio::test]
async fn a_table_is_a_grid() {
    let table = "<p>x<sup>2</sup><sup><a href=#f1>1</a></sup><h2>H<a href=#h>\u{b6}</a></h2>\
        <table><caption>Sales</caption><tr><th>Year<th>Region<th>Sales\
        <tr><td rowspan=2>2001<td>EU<td>1<tr><td>US<td>2<tr><td colspan=2>all<td>3<tr><td>2002</table>\
        <table><tr><td rowspan=0>a<td colspan=999999>b</table>";
    let content = read(html(Form::Markdown), table).await.expect("a table").content;
    let grid = "| Year | Region | Sales |\n| ---- | ------ | ----- |\n| 2001 | EU | 1 |\n| 2001 | US | 2 |\n\
                | all |  | 3 |\n| 2002 |  |  |";
    for part in [grid, "Sales\n\n", "x^2", "## H\n"] {
        assert!(content.contains(part), "{part} is not in {content}");
    }
}

#[tokio::test]
async fn a_manual_keeps_its_body() {
    let mut page = "<title>Options</title><nav>Home</nav><div class=intro>".to_owned();
    let words = "This paragraph introduces the options, at some length, so that it may be taken for an article. ";
    write!(page, "<p>{words}{words}</p><p>{words}{words}</p></div>").expect("a string");
    for option in 0..300 {
        write!(page, "<dl><dt>--option-{option}</dt><dd>What option {option} does.</dd></dl>").expect("a string");
    }
    let reading = read(html(Form::Markdown), page).await.expect("a manual");
    assert!(reading.content.contains("--option-0\n\nWhat option 0 does."), "{}", &reading.content[..500]);
    assert!(reading.content.contains("--option-299"), "the end is missing");
    assert!(!reading.content.contains("Home"));
}

#[tokio::test]
async fn pages_are_decoded_as_they_say() {
    let table: [(Option<&str>, &[u8], &str); 6] = [
        (None, b"<p>gr\xc3\xbcn", "gr\u{fc}n"),
        (None, b"<p>gr\xfcn", "gr\u{fc}n"),
        (Some("iso-8859-1"), b"<p>gr\xfcn", "gr\u{fc}n"),
        (None, b"<meta charset='koi8-r'><p>\xc4\xc1", "\u{434}\u{430}"),
        (None, b"<META http-equiv=content-type content=\"text/html; charset=shift_jis\"><p>\x93\xfa", "\u{65e5}"),
        (Some("shift_jis"), b"\xef\xbb\xbf<p>\xe6\x97\xa5", "\u{65e5}"),
    ];
    for (charset, page, text) in table {
        let task = Task { charset: charset.map(str::to_owned), ..html(Form::Text) };
        assert_eq!(read(task, page).await.expect("a page").content, text);
    }
    assert_eq!(read(html(Form::Text), "").await.expect("nothing").content, "");
}

#[tokio::test]
async fn a_pdf_is_read_page_by_page() {
    let document = bytes(pdf(&[&["One line", "and another"], &["Second page"]]));
    let reading = read(pdf_task(), document).await.expect("a PDF");
    assert_eq!(reading.title.as_deref(), Some("A manual"));
    let words: Vec<_> = reading.content.split_whitespace().collect();
    assert_eq!(words.join(" "), "[page 1] One line and another [page 2] Second page");
    assert!(reading.content.contains("One line\nand another"), "{}", reading.content);
}

#[tokio::test]
async fn what_is_wrong_with_a_pdf_is_said() {
    let whole = bytes(pdf(&[&["text"]]));
    let empty = bytes(pdf(&[&[], &[]]));
    let mut locked = pdf(&[&["text"]]);
    locked.trailer.set("ID", vec![Object::string_literal("a"), Object::string_literal("b")]);
    let version = EncryptionVersion::V2 {
        document: &locked,
        owner_password: "owner",
        user_password: "user",
        key_length: 128,
        permissions: Permissions::all(),
    };
    let state = EncryptionState::try_from(version).expect("a key");
    locked.encrypt(&state).expect("a locked document");
    for (document, flaw) in [
        (whole[..whole.len() / 2].to_vec(), Flaw::Malformed),
        (b"no PDF at all".to_vec(), Flaw::Malformed),
        (empty, Flaw::NoText),
        (bytes(locked), Flaw::Encrypted),
    ] {
        let error = read(pdf_task(), document).await.expect_err("a failure");
        assert!(matches!(error, Unreadable::Flawed(found) if found == flaw), "{error:?}, not {flaw:?}");
    }
}

#[tokio::test]
async fn hostile_pages_end_their_process_and_nothing_else() {
    let reader = Reader { limit: Duration::from_secs(5), ..Reader::new(Duration::from_secs(10)) };
    // Deep enough to overflow any stack.
    let deep = "<div>".repeat(150_000);
    // Every paragraph repeats every open element before it.
    let mut many = String::new();
    for open in 0..20_000 {
        write!(many, "<b id={open}>").expect("a string");
    }
    many.push_str(&"<p>x".repeat(20_000));
    for page in [deep, many] {
        let result = reader.read(html(Form::Markdown), page.into_bytes()).await;
        assert!(matches!(result, Err(Unreadable::Fatal | Unreadable::Slow)), "{:?}", result.map(|r| r.content.len()));
    }
    let reading = reader.read(html(Form::Text), b"<p>still there".to_vec()).await.expect("a page");
    assert_eq!(reading.content, "still there");
}

#[tokio::test]
async fn a_process_is_kept_and_replaced() {
    // A process begins with the peak of who started it, which says nothing of its own.
    drop(std::hint::black_box(vec![1_u8; usize::try_from(KEEP_BELOW_KIB).expect("fits") << 10]));
    let reader = Reader::new(Duration::from_secs(10));
    let read = || async { reader.read(html(Form::Text), b"<p>x".to_vec()).await.expect("a page") };
    let idle =
        || reader.idle.lock().unwrap_or_else(PoisonError::into_inner).iter().map(Process::id).collect::<Vec<_>>();
    read().await;
    let first = idle();
    assert_eq!(first.len(), 1);
    read().await;
    assert_eq!(idle(), first, "it was started again");
    let pid = rustix::process::Pid::from_raw(first[0].try_into().expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("our child");
    read().await;
    assert_ne!(idle(), first);
    let last = idle()[0];
    drop(reader);
    assert!(!fs::exists(format!("/proc/{last}")).expect("a folder"), "it is left behind");
}

#[tokio::test]
async fn who_leaves_ends_the_reading() {
    let reader = Reader::new(Duration::from_secs(10));
    let endless = "<a href=x><table>".repeat(400_000).into_bytes();
    let reading = reader.read(html(Form::Markdown), endless);
    assert!(timeout(Duration::from_millis(100), reading).await.is_err(), "too easy");
    // The turn comes back when the process has ended.
    let all = u32::try_from(available_parallelism().expect("a machine").get() + SPARE).expect("few");
    timeout(Duration::from_secs(10), reader.turns.acquire_many(all)).await.expect("turns").expect("turns").forget();
    assert!(reader.idle.lock().unwrap_or_else(PoisonError::into_inner).is_empty());
}

#[test]
fn a_reading_process_can_open_nothing() {
    use std::os::unix::process::ExitStatusExt;
    // The filter is set in a process that was started for it: this test, again.
    if std::env::var_os("CONFINED").is_some() {
        confine::confine().expect("confined");
        let refused = |result: io::Result<()>| result.expect_err("refused").raw_os_error() == Some(libc::EPERM);
        let all = refused(File::open("/etc/passwd").map(drop))
            && refused(std::net::UdpSocket::bind("127.0.0.1:0").map(drop))
            && refused(std::os::unix::net::UnixStream::pair().map(drop))
            && refused(std::process::Command::new("/bin/true").spawn().map(drop));
        // Not through the harness, which would write a report.
        std::process::exit(if all { 42 } else { 1 });
    }
    let name = "reader::tests::a_reading_process_can_open_nothing";
    let status = std::process::Command::new("/proc/self/exe")
        .args([name, "--exact", "--nocapture"])
        .env("CONFINED", "1")
        .stdout(Stdio::null())
        .status()
        .expect("this test");
    assert_eq!(status.code(), Some(42), "{:?}", status.signal());
}
