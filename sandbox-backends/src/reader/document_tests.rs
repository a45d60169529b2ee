//! Documents of several formats read by real processes: their text, their sections and their pages.

use std::{io::Write as _, time::Duration};

use pdf_extract::{Object, dictionary};
use zip::{ZipWriter, write::SimpleFileOptions};

use super::{
    tests::{bytes, pdf},
    *,
};

fn task(kind: Kind, form: Form) -> Task {
    Task { kind, form, charset: None, base: None }
}

async fn read(kind: Kind, form: Form, document: impl Into<Vec<u8>>) -> Reading {
    Reader::new(Duration::from_secs(10)).read(task(kind, form), document.into()).await.expect("a document")
}

/// Where sections begin: their levels, titles, and the line there.
fn sections(reading: &Reading) -> Vec<(u8, &str, &str)> {
    let line = |at: usize| reading.content[at..].lines().next().unwrap_or_default();
    reading.sections.iter().map(|section| (section.level, section.title.as_str(), line(section.at))).collect()
}

fn package(parts: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = ZipWriter::new(io::Cursor::new(Vec::new()));
    for (name, text) in parts {
        archive.start_file(*name, SimpleFileOptions::default()).expect("a part");
        archive.write_all(text.as_bytes()).expect("a part");
    }
    archive.finish().expect("a package").into_inner()
}

const TYPE: &str = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";

/// A Word document with this body.
fn docx(body: &str) -> Vec<u8> {
    let relation = |id: &str, kind: &str, target: &str| {
        format!("<Relationship Id=\"{id}\" Type=\"{TYPE}/{kind}\" Target=\"{target}\"/>")
    };
    let main = format!("<Relationships>{}</Relationships>", relation("r1", "officeDocument", "word/document.xml"));
    let related = [
        relation("s", "styles", "styles.xml"),
        relation("n", "numbering", "/word/numbering.xml"),
        relation("f", "footnotes", "footnotes.xml"),
        relation("h", "hyperlink", "https://example.com/?a=1&amp;b=2"),
    ];
    let styles = "<w:styles><w:style w:styleId=\"H1\"><w:name w:val=\"heading 1\"/></w:style>\
        <w:style w:styleId=\"Own\"><w:basedOn w:val=\"H2\"/></w:style>\
        <w:style w:styleId=\"H2\"><w:name w:val=\"Kapitel\"/><w:pPr><w:outlineLvl w:val=\"1\"/></w:pPr></w:style>\
        <w:style w:styleId=\"T1\"><w:name w:val=\"toc 1\"/></w:style>\
        <w:style w:styleId=\"C\"><w:name w:val=\"Source Code\"/></w:style>\
        <w:style w:styleId=\"L\"><w:basedOn w:val=\"L\"/><w:name w:val=\"Loop\"/></w:style></w:styles>";
    let numbering = "<w:numbering><w:abstractNum w:abstractNumId=\"7\"><w:lvl w:ilvl=\"0\"><w:numFmt w:val=\"decimal\"/></w:lvl>\
        <w:lvl w:ilvl=\"1\"><w:numFmt w:val=\"bullet\"/></w:lvl></w:abstractNum>\
        <w:abstractNum w:abstractNumId=\"8\"><w:lvl w:ilvl=\"0\"><w:lvlText w:val=\"%1\"/></w:lvl>\
        <w:lvl w:ilvl=\"1\"><w:lvlText w:val=\"%1.%2\"/></w:lvl></w:abstractNum>\
        <w:num w:numId=\"1\"><w:abstractNumId w:val=\"7\"/></w:num>\
        <w:num w:numId=\"2\"><w:abstractNumId w:val=\"8\"/></w:num></w:numbering>";
    let notes = "<w:footnotes><w:footnote w:id=\"0\" w:type=\"separator\"><w:p><w:r><w:t>separator</w:t></w:r></w:p></w:footnote>\
        <w:footnote w:id=\"9\"><w:p><w:r><w:t>Indeed.</w:t></w:r></w:p></w:footnote></w:footnotes>";
    package(&[
        ("_rels/.rels", &main),
        ("word/_rels/document.xml.rels", &format!("<Relationships>{}</Relationships>", related.concat())),
        ("word/document.xml", &format!("<?xml version=\"1.0\"?><w:document><w:body>{body}</w:body></w:document>")),
        ("word/styles.xml", styles),
        ("word/numbering.xml", numbering),
        ("word/footnotes.xml", notes),
        ("docProps/core.xml", "<cp:coreProperties><dc:title>On &amp; about</dc:title></cp:coreProperties>"),
    ])
}

fn paragraph(properties: &str, text: &str) -> String {
    format!("<w:p><w:pPr>{properties}</w:pPr><w:r><w:t xml:space=\"preserve\">{text}</w:t></w:r></w:p>")
}

fn styled(style: &str, text: &str) -> String {
    paragraph(&format!("<w:pStyle w:val=\"{style}\"/>"), text)
}

fn item(level: u8, text: &str) -> String {
    paragraph(&format!("<w:numPr><w:ilvl w:val=\"{level}\"/><w:numId w:val=\"1\"/></w:numPr>"), text)
}

#[tokio::test]
async fn a_word_document_keeps_its_form() {
    let cell = |text: &str| format!("<w:tc><w:tcPr/>{}</w:tc>", paragraph("", text));
    let body = [
        styled("T1", "First 1"),
        styled("H1", "First"),
        "<w:p><w:r><w:t>A &lt;b&gt; &#8364; </w:t></w:r><w:hyperlink r:id=\"h\"><w:r><w:t>link</w:t></w:r></w:hyperlink>\
         <w:r><w:footnoteReference w:id=\"9\"/></w:r><w:del><w:r><w:delText>gone</w:delText></w:r></w:del>\
         <w:moveFrom><w:r><w:t>moved</w:t></w:r></w:moveFrom><w:ins><w:r><w:t>, new</w:t></w:r></w:ins>\
         <w:r><w:rPr><w:vanish/></w:rPr><w:t>hidden</w:t></w:r><w:r><w:br/><w:t>below</w:t></w:r></w:p>"
            .to_owned(),
        styled("Own", "Second"),
        item(0, "one"),
        item(1, "inner"),
        item(0, "two"),
        styled("C", "if a:"),
        styled("C", "  b()"),
        styled("L", "plain"),
        format!(
            "<w:tbl><w:tr>{}{}</w:tr><w:tr>{}{}</w:tr></w:tbl>",
            cell("Year"),
            cell("Sum"),
            cell("2001"),
            cell("5")
        ),
        "<w:p><w:r><mc:AlternateContent><mc:Choice><wps:txbx><w:txbxContent><w:p><w:r><w:t>boxed</w:t></w:r></w:p>\
         </w:txbxContent></wps:txbx></mc:Choice><mc:Fallback><w:p><w:r><w:t>boxed again</w:t></w:r></w:p></mc:Fallback>\
         </mc:AlternateContent></w:r><w:r><w:t>around</w:t></w:r></w:p>"
            .to_owned(),
    ];
    let document = docx(&body.concat());
    let reading = read(Kind::Docx, Form::Markdown, document.clone()).await;
    assert_eq!(reading.title.as_deref(), Some("On & about"));
    assert_eq!(sections(&reading), [(1, "First", "# First"), (2, "Second", "## Second")]);
    for part in [
        "# First\n\nA <b> \u{20ac} [link](https://example.com/?a=1&b=2)^1, new  \nbelow",
        "1. one\n    - inner\n2. two",
        "```\nif a:\n  b()\n```",
        "plain",
        "| Year | Sum |\n| ---- | --- |\n| 2001 | 5 |",
        "boxed\n\naround",
        "^1 Indeed.",
    ] {
        assert!(reading.content.replace("\\<", "<").contains(part), "{part} is not in {}", reading.content);
    }
    for part in ["First 1", "gone", "moved", "hidden", "again", "separator"] {
        assert!(!reading.content.contains(part), "{part} is in {}", reading.content);
    }
    assert!(reading.pages.is_empty(), "{reading:?}");
    let text = read(Kind::Docx, Form::Text, document).await;
    assert_eq!(sections(&text), [(1, "First", "First"), (2, "Second", "Second")]);
    assert!(text.content.contains("A <b> \u{20ac} link^1, new\nbelow"), "{}", text.content);
}

#[tokio::test]
async fn what_word_numbers_is_numbered() {
    let heading = |level: u8, text: &str| {
        let numbered = format!("<w:numPr><w:ilvl w:val=\"{level}\"/><w:numId w:val=\"2\"/></w:numPr>");
        paragraph(&format!("<w:outlineLvl w:val=\"{level}\"/>{numbered}"), text)
    };
    let body = [
        heading(0, "Scope"),
        heading(0, "Terms"),
        heading(1, "Words"),
        item(0, "a"),
        item(0, "b"),
        paragraph("", "between"),
        item(0, "c"),
        heading(1, "Signs"),
    ];
    let content = read(Kind::Docx, Form::Markdown, docx(&body.concat())).await.content;
    let expected = "# 1. Scope\n\n# 2. Terms\n\n## 2.1 Words\n\n1. a\n2. b\n\nbetween\n\n3. c\n\n## 2.2 Signs";
    assert_eq!(content, expected);
}

#[tokio::test]
async fn what_is_odd_in_word_is_read_as_it_looks() {
    let cell = |text: &str| format!("<w:tc>{}</w:tc>", paragraph("", text));
    let run = |properties: &str, text: &str| format!("<w:r><w:rPr>{properties}</w:rPr><w:t>{text}</w:t></w:r>");
    let gone = "<w:trPr><w:del w:id=\"1\"/></w:trPr>";
    let inner = format!(
        "<w:tbl><w:tr><w:tc><w:tcPr><w:gridSpan w:val=\"3\"/></w:tcPr>{}</w:tc></w:tr></w:tbl>",
        paragraph("", "inner")
    );
    let body = [
        // Paragraphs of which the end between them was deleted.
        "<w:p><w:pPr><w:rPr><w:del/></w:rPr></w:pPr><w:r><w:t>one, </w:t></w:r></w:p>".to_owned() + &paragraph("", "two"),
        format!("<w:p>{}{}</w:p>", run("", "x"), run("<w:vertAlign w:val=\"superscript\"/>", "2")),
        "<w:p><m:oMath><m:f><m:num><m:r><m:t>a+b</m:t></m:r></m:num><m:den><m:r><m:t>c</m:t></m:r></m:den></m:f>\
         <m:nary><m:sub/><m:sup/></m:nary></m:oMath></w:p>"
            .to_owned(),
        "<w:p><w:r><w:ruby><w:rt><w:r><w:t>kan</w:t></w:r></w:rt><w:rubyBase><w:r><w:t>\u{6f22}</w:t></w:r></w:rubyBase></w:ruby>\
         <w:t>5</w:t><w:sym w:font=\"Symbol\" w:char=\"F0B3\"/><w:t>4</w:t></w:r></w:p>"
            .to_owned(),
        styled("C", "a") + &styled("C", "") + &styled("C", "b"),
        format!("<w:tbl><w:tr>{}{}</w:tr><w:tr>{gone}{}</w:tr>", cell("A"), cell("B"), cell("deleted")),
        format!("<w:tr><w:tc>{}{inner}</w:tc>{}</w:tr></w:tbl>", styled("H1", "In a cell"), cell("x")),
    ];
    let reading = read(Kind::Docx, Form::Markdown, docx(&body.concat())).await;
    let expected = "one, two\n\nx^2\n\n(a+b)/(c)\n\n\u{6f22}5\u{fffd}4\n\n```\na\n\nb\n```\n\n\n\
        | A | B |\n| - | - |\n| In a cell inner | x |";
    assert_eq!(reading.content, expected);
    assert_eq!(sections(&reading), [(1, "In a cell", "| In a cell inner | x |")]);
    // With another prefix, as some programs write it.
    let other = "<ns0:document xmlns:ns0=\"http://schemas.openxmlformats.org/wordprocessingml/2006/main\"><ns0:body><ns0:p>\
        <ns0:pPr><ns0:outlineLvl ns0:val=\"0\"/></ns0:pPr><ns0:r><ns0:t>Start</ns0:t></ns0:r></ns0:p></ns0:body></ns0:document>";
    assert_eq!(read(Kind::Docx, Form::Markdown, package(&[("word/document.xml", other)])).await.content, "# Start");
}

#[tokio::test]
async fn pages_of_a_word_document_are_those_of_word() {
    let page = |reading: &Reading| {
        let ends = reading.pages.iter().skip(1).copied().chain([reading.content.len()]);
        reading.pages.iter().zip(ends).map(|(at, end)| reading.content[*at..end].trim().to_owned()).collect::<Vec<_>>()
    };
    let broken = |properties: &str, text: &str| {
        format!("<w:p><w:pPr>{properties}</w:pPr><w:r><w:lastRenderedPageBreak/><w:t>{text}</w:t></w:r></w:p>")
    };
    let list = "<w:numPr><w:numId w:val=\"1\"/></w:numPr>";
    // A row that goes over two pages says so in each of its cells; no page begins before the first text.
    let cell = "<w:tc><w:p><w:r><w:t>a</w:t><w:lastRenderedPageBreak/><w:t>b</w:t></w:r></w:p></w:tc>";
    let body = [
        broken("", "one"),
        broken("<w:pStyle w:val=\"H1\"/>", "Two"),
        item(0, "x"),
        broken(list, "three"),
        format!("<w:tbl><w:tr>{cell}{cell}</w:tr></w:tbl>"),
    ];
    let document = docx(&body.concat());
    let markdown = page(&read(Kind::Docx, Form::Markdown, document.clone()).await);
    assert_eq!(markdown[..3], ["one", "# Two\n\n1. x", "2. three"]);
    assert_eq!(markdown[3], "| ab | ab |\n| ------ | -- |");
    let text = page(&read(Kind::Docx, Form::Text, document).await);
    assert_eq!(text[..2], ["one", "Two\n\nx"]);
    // Where only its author broke pages, nobody knows how many there are.
    let author = "<w:p><w:r><w:t>one</w:t><w:br w:type=\"page\"/><w:t>two</w:t></w:r></w:p>";
    let reading = read(Kind::Docx, Form::Text, docx(author)).await;
    assert_eq!((reading.content.as_str(), reading.pages.len()), ("one two", 0));
}

#[tokio::test]
async fn a_book_is_read_chapter_by_chapter() {
    let entry = |href: &str, title: &str| format!("<li><a href=\"{href}\">{title}</a></li>");
    let contents = [
        entry("one.xhtml", "Chapter one"),
        entry("two.xhtml", "Two"),
        entry("two.xhtml#half", "And a half"),
        entry("two.xhtml#end", "The end"),
        entry("two.xhtml#small", "Small print"),
    ];
    let head =
        "<?xml version=\"1.0\"?><!DOCTYPE html><html xmlns=\"http://www.w3.org/1999/xhtml\"><head><title/></head>";
    let book = package(&[
        ("mimetype", "application/epub+zip"),
        (
            "META-INF/container.xml",
            "<container version=\"1.0\" xmlns=\"urn:oasis:names:tc:opendocument:xmlns:container\"><rootfiles>\
             <rootfile full-path=\"OPS/book.opf\" media-type=\"application/oebps-package+xml\"/></rootfiles></container>",
        ),
        (
            "OPS/book.opf",
            "<package version=\"3.0\" xmlns=\"http://www.idpf.org/2007/opf\" unique-identifier=\"id\">\
             <metadata xmlns:dc=\"http://purl.org/dc/elements/1.1/\"><dc:identifier id=\"id\">x</dc:identifier>\
             <dc:title>A book</dc:title><dc:language>en</dc:language></metadata><manifest>\
             <item id=\"nav\" href=\"nav.xhtml\" media-type=\"application/xhtml+xml\" properties=\"nav\"/>\
             <item id=\"b\" href=\"two.xhtml\" media-type=\"application/xhtml+xml\"/>\
             <item id=\"a\" href=\"one.xhtml\" media-type=\"application/xhtml+xml\"/>\
             <item id=\"lost\" href=\"lost.xhtml\" media-type=\"application/xhtml+xml\"/></manifest>\
             <spine><itemref idref=\"a\"/><itemref idref=\"lost\"/><itemref idref=\"b\"/></spine></package>",
        ),
        (
            "OPS/nav.xhtml",
            &format!(
                "{head}<body><nav xmlns:epub=\"http://www.idpf.org/2007/ops\" epub:type=\"toc\"><ol>{}</ol></nav></body></html>",
                contents.concat()
            ),
        ),
        (
            "OPS/one.xhtml",
            &format!("{head}<body><h1>One</h1><p>Text<br/>of <a id=\"x\"/>one &amp; all.</p></body></html>"),
        ),
        (
            "OPS/two.xhtml",
            &format!(
                "{head}<body><p>Text of two.</p><table id=\"half\">\
            <tr><td colspan=\"2\">More</td></tr><tr><td>of</td><td>it</td></tr></table><img id=\"end\" src=\"x.png\"/>\
            <h4 id=\"small\">Small print</h4><p>x</p></body></html>"
            ),
        ),
    ]);
    let reading = read(Kind::Epub, Form::Markdown, book.clone()).await;
    assert_eq!(reading.title.as_deref(), Some("A book"));
    assert!(reading.content.starts_with("# One\n\nText  \nof one & all.\n\nText of two.\n\n"), "{}", reading.content);
    let expected = [
        (1, "One", "# One"),
        (1, "Two", "Text of two."),
        (1, "And a half", "|   |   |"),
        (1, "The end", "![](x.png)"),
        (4, "Small print", "#### Small print"),
    ];
    assert_eq!(sections(&reading), expected);
    let text = read(Kind::Epub, Form::Text, book).await;
    assert_eq!(
        text.sections.iter().map(|section| section.title.as_str()).collect::<Vec<_>>(),
        ["One", "Two", "And a half", "The end", "Small print"]
    );
}

#[tokio::test]
async fn markdown_is_kept_and_its_headings_found() {
    let source = "---\ntitle: \"A b\"\n---\nintro\r\n\n# On `code` and *more*\n\n```sh\n# no heading\n```\n\nLower\n-----\n\n\
        1. a [b](c)\n2. x\n   - y\n\n> ## Quoted\n> <template> and <title> of <b>it</b>.\n\n| A | B |\n|---|---|\n| 1 | 2 |\n\n\
        <details>\n<summary>More</summary>\n\ninner &amp; *outer*\n\n</details>\n\n# Last\n\nfindable\n\n#\n";
    let reading = read(Kind::Markdown, Form::Markdown, source).await;
    assert_eq!((reading.content.as_str(), reading.title.as_deref()), (source.replace('\r', "").as_str(), Some("A b")));
    let found = [
        (1, "On code and more", "# On `code` and *more*"),
        (2, "Lower", "Lower"),
        (2, "Quoted", "> ## Quoted"),
        (1, "Last", "# Last"),
    ];
    assert_eq!(sections(&reading), found);
    let text = read(Kind::Markdown, Form::Text, source).await;
    let titles: Vec<_> = sections(&text).into_iter().map(|(level, title, line)| (level, title == line)).collect();
    assert_eq!(titles, [(1, true), (2, true), (2, true), (1, true)]);
    let expected = "title: \"A b\"\n\nintro\n\nOn code and more\n\n# no heading\n\nLower\n\n1. a b\n2. x\n  - y\n\n\
        Quoted\n\n and  of it.\n\nA\tB\n1\t2\n\nMore\n\ninner & outer\n\nLast\n\nfindable";
    assert_eq!(text.content, expected);
    let plain = read(Kind::Text, Form::Text, b"gr\xfcn\r\n# no heading".to_vec()).await;
    assert_eq!((plain.content.as_str(), plain.sections.len()), ("gr\u{fc}n\n# no heading", 0));
}

#[tokio::test]
async fn a_page_is_read_whole() {
    let page = "<title>T</title><nav>Menu</nav><p>before \u{F0000}\u{F0001}</p><h2>A<br><i>title</i></h2><p>text</p>\
        <aside>beside</aside><h3> </h3><table><tr><td><h4>In a cell</h4>x</td></tr></table><footer>end</footer>";
    let reading = read(Kind::Html, Form::Markdown, page).await;
    assert_eq!(reading.title.as_deref(), Some("T"));
    let titles: Vec<_> = sections(&reading).into_iter().map(|(level, title, _)| (level, title)).collect();
    assert_eq!(titles, [(2, "A title"), (4, "In a cell")]);
    for part in ["before", "text", "beside", "end"] {
        assert!(reading.content.contains(part), "{part} is not in {}", reading.content);
    }
    assert!(!reading.content.contains("Menu") && !reading.content.contains(['\u{F0000}', '\u{F0001}']));
    assert!(reading.pages.is_empty(), "{reading:?}");
}

#[tokio::test]
async fn bookmarks_of_a_pdf_are_its_sections() {
    let mut document = pdf(&[&["1 Start", "text"], &["Middle", "more", "Notes", "of the middle"], &["Notes", "last"]]);
    let pages: Vec<_> = document.get_pages().into_values().collect();
    let ids: Vec<_> = (0..7).map(|_| document.new_object_id()).collect();
    let root = document.new_object_id();
    let text = |text: &str| Object::string_literal(text);
    let place = |page: Object| Object::Array(vec![page, "Fit".into()]);
    let middle = document.add_object(dictionary! { "D" => place(pages[1].into()) });
    let names = document.add_object(dictionary! { "Names" => vec![text("middle"), middle.into()] });
    let names = document.add_object(dictionary! { "Kids" => vec![names.into()] });
    let go = document.add_object(dictionary! { "S" => "GoTo", "D" => place(2.into()) });
    let mut utf16 = vec![0xfe, 0xff];
    utf16.extend("N\u{f6}te".encode_utf16().flat_map(u16::to_be_bytes));
    let bookmarks = [
        // One that leads nowhere, with one below it; and a circle.
        dictionary! { "Title" => text("All"), "First" => ids[1], "Next" => ids[3] },
        dictionary! { "Title" => text("Start"), "Dest" => place(pages[0].into()), "Next" => ids[2] },
        dictionary! { "Title" => text("Middle"), "Dest" => text("middle"), "First" => ids[4], "Next" => ids[1] },
        dictionary! { "Title" => text("Notes"), "A" => go, "Next" => ids[5] },
        dictionary! { "Title" => text("Notes"), "Dest" => place(pages[1].into()) },
        dictionary! { "Title" => Object::String(utf16, pdf_extract::StringFormat::Literal), "Dest" => place(pages[2].into()), "Next" => ids[6] },
        dictionary! { "Title" => text("Nowhere"), "Dest" => place(99.into()) },
    ];
    for (id, bookmark) in ids.iter().zip(bookmarks) {
        document.objects.insert(*id, Object::Dictionary(bookmark));
    }
    document.objects.insert(root, Object::Dictionary(dictionary! { "First" => ids[0] }));
    let names = document.add_object(dictionary! { "Dests" => names });
    let catalog = document.catalog_mut().expect("a catalog");
    catalog.set("Outlines", root);
    catalog.set("Names", names);
    let reading = read(Kind::Pdf, Form::Text, bytes(document)).await;
    let found = [
        (1, "All", "[page 1]"),
        (2, "Start", "1 Start"),
        (2, "Middle", "Middle"),
        (3, "Notes", "Notes"),
        (1, "Notes", "Notes"),
        (1, "N\u{f6}te", "Notes"),
    ];
    assert_eq!(sections(&reading), found);
    assert_eq!(reading.pages.len(), 3);
    let of = |index: usize| reading.pages.partition_point(|at| *at <= reading.sections[index].at);
    assert_eq!([0, 1, 2, 3, 4, 5].map(of), [1, 1, 2, 2, 3, 3]);
}

#[tokio::test]
async fn what_is_wrong_with_a_document_is_said() {
    let mut locked = vec![0xd0, 0xcf, 0x11, 0xe0, 0xa1, 0xb1, 0x1a, 0xe1];
    let old = locked.clone();
    locked.extend("EncryptedPackage".encode_utf16().flat_map(u16::to_le_bytes));
    let whole = docx(&paragraph("", "text"));
    for (kind, document, flaw) in [
        (Kind::Docx, locked, Flaw::Encrypted),
        (Kind::Docx, old, Flaw::Malformed),
        (Kind::Docx, b"no package".to_vec(), Flaw::Malformed),
        (Kind::Docx, whole[..whole.len() / 2].to_vec(), Flaw::Malformed),
        (Kind::Docx, package(&[("a.txt", "x")]), Flaw::Malformed),
        (Kind::Docx, docx(""), Flaw::NoText),
        (Kind::Docx, docx("<w:p><w:r><w:t>text</w:t></w:r></w:p><w:p>"), Flaw::Malformed),
        (Kind::Text, vec![b'x'; (16 << 20) + 1], Flaw::TooLong),
        (Kind::Epub, whole, Flaw::Malformed),
    ] {
        let read = Reader::new(Duration::from_secs(10)).read(task(kind, Form::Text), document).await;
        assert!(matches!(read, Err(Unreadable::Flawed(found)) if found == flaw), "{kind:?} {flaw:?}: {read:?}");
    }
}

#[tokio::test]
async fn a_bomb_ends_its_process_and_nothing_else() {
    let reader = Reader::new(Duration::from_secs(20));
    // A part that is a thousand times as long as the file; tables in tables in tables.
    let mut archive = ZipWriter::new(io::Cursor::new(Vec::new()));
    archive.start_file("word/document.xml", SimpleFileOptions::default().large_file(true)).expect("a part");
    archive.write_all(b"<w:document><w:p><w:r><w:t>").expect("a part");
    let spaces = vec![b'x'; 1 << 20];
    for _ in 0..130 {
        archive.write_all(&spaces).expect("a part");
    }
    let bomb = archive.finish().expect("a package").into_inner();
    let deep = docx(&"<w:tbl><w:tr><w:tc><w:p><w:r>".repeat(100_000));
    for document in [bomb, deep] {
        assert!(document.len() < 4 << 20);
        let read = reader.read(task(Kind::Docx, Form::Text), document).await;
        assert!(read.is_err(), "{:?}", read.map(|reading| reading.content.len()));
    }
    let reading = reader.read(task(Kind::Docx, Form::Text), docx(&paragraph("", "still there"))).await;
    assert_eq!(reading.expect("a document").content, "still there");
}
