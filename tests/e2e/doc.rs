//! Documents in folders: found, outlined, searched and read; and nothing outside of the folders.

use std::{fs, io::Write as _, os::unix::fs::symlink, path::Path, time::Duration};

use serde_json::{Value, json};

use crate::{
    harness::{Reply, Server},
    web_visit::pdf,
};

const MANUAL: &str = "# Gulls\n\nGulls are birds of the shore. See [food](#food).\n\n## Food\n\nThey eat **chips**, and steal\n\
    what they can: chips, fish, chips.\n\n## Nests\n\nOn cliffs.\n\n### Eggs\n\nThree of them, speckled.\n\n## Voice\n\nLoud.\n";

/// A server whose documents are in this folder.
fn server(root: &Path, more: &Value) -> Server {
    let mut config = json!({ "roots": [root] });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Server::start(&json!({ "apis": { "doc": config } }))
}

fn call(server: &Server, tool: &str, params: &Value) -> Reply {
    server.execute("agent", &format!("doc:{tool}"), params)
}

/// Folders of a server: one that may be read, beside one that may not.
fn folders() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("library");
    fs::create_dir_all(root.join("birds")).unwrap();
    fs::write(folder.path().join("secret.md"), "# Secret\n").unwrap();
    fs::write(root.join("birds/gulls.md"), MANUAL).unwrap();
    fs::write(root.join("birds/note.pdf"), pdf("Hello gulls")).unwrap();
    fs::write(root.join("birds/picture.png"), "png").unwrap();
    (folder, root)
}

fn docx() -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    archive.start_file("word/document.xml", zip::write::SimpleFileOptions::default()).unwrap();
    let paragraph = |text: &str| format!("<w:p><w:r><w:lastRenderedPageBreak/><w:t>{text}</w:t></w:r></w:p>");
    let heading = "<w:p><w:pPr><w:outlineLvl w:val=\"0\"/></w:pPr><w:r><w:t>Start</w:t></w:r></w:p>";
    let body =
        format!("<w:document><w:body>{heading}{}{}</w:body></w:document>", paragraph("gannets"), paragraph("terns"));
    archive.write_all(body.as_bytes()).unwrap();
    archive.finish().unwrap().into_inner()
}

#[test]
fn documents_are_listed() {
    let (_folder, root) = folders();
    fs::write(root.join("z.docx"), docx()).unwrap();
    let server = server(&root, &json!({}));
    let list = call(&server, "list", &json!({})).data().clone();
    let found: Vec<_> = list["documents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| (d["path"].as_str().unwrap(), d["format"].as_str().unwrap()))
        .collect();
    assert_eq!(found, [("birds/gulls.md", "markdown"), ("birds/note.pdf", "pdf"), ("z.docx", "docx")]);
    assert_eq!((&list["documents"][0]["bytes"], &list["truncated"]), (&json!(MANUAL.len()), &json!(false)));
    let count = |params: Value| call(&server, "list", &params).data()["documents"].as_array().unwrap().len();
    assert_eq!(count(json!({ "folder": "birds" })), 2);
    assert_eq!(count(json!({ "pattern": "*.PDF" })), 1);
    assert_eq!(count(json!({ "pattern": "birds/*.{pdf,docx}" })), 1);
    assert_eq!(count(json!({ "pattern": "*/*.{pdf,docx}" })), 1);
    assert_eq!(count(json!({ "pattern": "birds/*", "folder": "birds" })), 0);
    assert_eq!(call(&server, "list", &json!({ "folder": "nowhere" })).code(), 4014);
    for folder in ["../..", "/etc"] {
        assert_eq!(call(&server, "list", &json!({ "folder": folder })).reason(), "outside");
    }
    let reply = call(&server, "list", &json!({ "pattern": "[" }));
    assert_eq!((reply.code(), &reply.body["error"]["parameter"]), (4000, &json!("pattern")));
    // What `max_chars` has no room for comes with the cursor.
    let part = call(&server, "list", &json!({ "max_chars": 100 })).data().clone();
    assert_eq!((part["documents"].as_array().unwrap().len(), &part["truncated"]), (1, &json!(true)));
    let rest = call(&server, "list", &json!({ "cursor": part["next_cursor"] })).data().clone();
    assert_eq!((rest["documents"].as_array().unwrap().len(), &rest["truncated"]), (2, &json!(false)));
}

#[test]
fn a_document_is_outlined_and_read_by_its_sections() {
    let (_folder, root) = folders();
    let server = server(&root, &json!({}));
    let outline = call(&server, "outline", &json!({ "document": "birds/gulls.md" })).data().clone();
    assert_eq!(
        (&outline["title"], &outline["format"], outline.get("pages")),
        (&json!("Gulls"), &json!("markdown"), None)
    );
    let sections: Vec<_> =
        outline["sections"].as_array().unwrap().iter().map(|s| json!([s["section"], s["level"], s["title"]])).collect();
    let expected = json!([[1, 1, "Gulls"], [2, 2, "Food"], [3, 2, "Nests"], [4, 3, "Eggs"], [5, 2, "Voice"]]);
    assert_eq!(Value::from(sections), expected);
    let read = |params: &Value| {
        let mut all = json!({ "document": "birds/gulls.md" });
        all.as_object_mut().unwrap().extend(params.as_object().unwrap().clone());
        call(&server, "read", &all)
    };
    let content = |params: Value| read(&params).data()["content"].clone();
    assert_eq!(content(json!({})), MANUAL);
    assert_eq!(content(json!({ "sections": [3] })), "## Nests\n\nOn cliffs.\n\n### Eggs\n\nThree of them, speckled.");
    assert_eq!(content(json!({ "section_ids": [5, 4] })), "### Eggs\n\nThree of them, speckled.\n\n## Voice\n\nLoud.");
    let apart = content(json!({ "sections": [5, 2, 2], "format": "text" }));
    assert_eq!(apart, "Food\n\nThey eat chips, and steal what they can: chips, fish, chips.\n\nVoice\n\nLoud.");
    for (params, parameter) in [
        (json!({ "sections": [6] }), "sections"),
        (json!({ "pages": "1" }), "pages"),
        (json!({ "sections": [1], "pages": "1" }), "pages"),
    ] {
        let reply = read(&params);
        assert_eq!((reply.code(), &reply.body["error"]["parameter"]), (4000, &json!(parameter)), "{params}: {reply:?}");
    }
    // In parts, which are the whole.
    let (mut whole, mut cursor) = (String::new(), Value::Null);
    loop {
        let part = read(&json!({ "max_chars": 50, "cursor": cursor })).data().clone();
        whole.push_str(part["content"].as_str().unwrap());
        cursor = part["next_cursor"].clone();
        assert_eq!(part["truncated"], json!(!cursor.is_null()));
        if cursor.is_null() {
            break;
        }
    }
    assert_eq!(whole, MANUAL);
    // A cursor of what was there before says so.
    let part = read(&json!({ "max_chars": 50 })).data().clone();
    fs::write(root.join("birds/gulls.md"), "# Gone\n").unwrap();
    assert_eq!(read(&json!({ "cursor": part["next_cursor"] })).code(), 4009);
    assert_eq!(content(json!({})), "# Gone\n");
}

#[test]
fn a_document_is_read_by_its_pages() {
    let (_folder, root) = folders();
    fs::write(root.join("z.docx"), docx()).unwrap();
    let server = server(&root, &json!({}));
    let read = |document: &str, pages: &str| call(&server, "read", &json!({ "document": document, "pages": pages }));
    let page = read("birds/note.pdf", "1").data().clone();
    let expected = json!(["[page 1]\n\nHello gulls", 1, "text", "On gulls"]);
    assert_eq!(json!([page["content"], page["page"], page["format"], page["title"]]), expected);
    let page = read("z.docx", "2 - 3").data().clone();
    assert_eq!(
        (&page["content"], &page["page"], &page["format"]),
        (&json!("gannets\n\nterns"), &json!(2), &json!("markdown"))
    );
    assert_eq!(read("z.docx", "3,1").data()["content"], "# Start\n\nterns");
    for pages in ["0", "4", "3-2", "1-", "x", "1,,2", "1-2-3", "99999999999999999999"] {
        let reply = read("z.docx", pages);
        assert_eq!((reply.code(), &reply.body["error"]["parameter"]), (4000, &json!("pages")), "{pages}: {reply:?}");
    }
    let outline = call(&server, "outline", &json!({ "document": "z.docx" })).data().clone();
    assert_eq!((&outline["pages"], &outline["sections"][0]["page"]), (&json!(3), &json!(1)));
}

#[test]
fn key_words_are_found_with_their_places() {
    let (_folder, root) = folders();
    fs::write(root.join("z.docx"), docx()).unwrap();
    let server = server(&root, &json!({ "max_search_results": 2 }));
    let search = |document: &str, key_words: Value| {
        call(&server, "search", &json!({ "document": document, "key_words": key_words })).data().clone()
    };
    let found = search("birds/gulls.md", json!(["CHIPS", "cliffs", "steal what"]));
    let first = &found["results"][0];
    let place =
        json!([first["position"], first["section"], first["section_title"], first["key_words"], first.get("page")]);
    assert_eq!(place, json!([1, 2, "Food", ["CHIPS", "steal what"], null]));
    assert_eq!(first["snippet"], "Food They eat chips, and steal what they can: chips, fish, chips.");
    assert_eq!((&found["results"][1]["section_title"], &found["total"]), (&json!("Nests"), &json!(2)));
    let found = search("z.docx", json!(["terns"]));
    assert_eq!((&found["results"][0]["page"], &found["results"][0]["section"]), (&json!(3), &json!(1)));
    let found = search("birds/note.pdf", json!(["gull"]));
    assert_eq!(
        (&found["results"][0]["page"], found["results"][0].get("section")),
        (&json!(1), None),
        "a part of a word"
    );
    assert_eq!(search("birds/gulls.md", json!(["albatross"]))["results"], json!([]));
    // More than are wanted come with the cursor.
    let params = json!({ "document": "birds/gulls.md", "key_words": ["chips", "cliffs", "loud"], "max_results": 1 });
    let found = call(&server, "search", &params).data().clone();
    assert_eq!(
        (found["results"].as_array().unwrap().len(), &found["total"], &found["truncated"]),
        (1, &json!(3), &json!(true))
    );
    let mut next = params.clone();
    next["cursor"] = found["next_cursor"].clone();
    assert_eq!(call(&server, "search", &next).data()["results"][0]["position"], 2);
    next["key_words"] = json!(["other"]);
    assert_eq!(call(&server, "search", &next).code(), 4009);
    // The line before a page of a PDF is not in the document.
    assert_eq!(search("birds/note.pdf", json!(["page", "page 1"]))["total"], 0);
    for key_words in [json!([]), json!(["  "]), json!([""])] {
        let reply = call(&server, "search", &json!({ "document": "birds/gulls.md", "key_words": key_words }));
        assert_eq!(reply.code(), 4000, "{reply:?}");
    }
}

#[test]
fn nothing_outside_of_the_folders_is_read() {
    let (folder, root) = folders();
    let secret = folder.path().join("secret.md");
    symlink(&secret, root.join("link.md")).unwrap();
    symlink("../secret.md", root.join("up.md")).unwrap();
    symlink(folder.path(), root.join("out")).unwrap();
    symlink("birds/gulls.md", root.join("within.md")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, root.join("pipe.md"), 0o644.into()).unwrap();
    let server = server(&root, &json!({}));
    let reply = |path: &str| call(&server, "read", &json!({ "document": path }));
    let absolute = secret.to_str().unwrap();
    for path in [
        "link.md",
        "up.md",
        "out/secret.md",
        "../secret.md",
        "birds/../../secret.md",
        absolute,
        "/etc/hosts",
        "/proc/self/root/etc/hosts",
    ] {
        let reply = reply(path);
        assert_eq!((reply.code(), reply.reason()), (4013, "outside"), "{path}: {reply:?}");
    }
    for path in ["pipe.md", "birds", ".", "birds/picture.png", "", "a\0b"] {
        let reply = reply(path);
        assert_eq!((reply.code(), &reply.body["error"]["parameter"]), (4000, &json!("document")), "{path}: {reply:?}");
        assert!(!reply.body.to_string().contains(folder.path().to_str().unwrap()), "a path of the host: {reply:?}");
    }
    assert_eq!(reply("within.md").data()["content"], MANUAL);
    assert_eq!(reply("./birds//gulls.md").data()["document"], "birds/gulls.md");
    // By the whole path too.
    assert_eq!(reply(root.join("birds/gulls.md").to_str().unwrap()).data()["document"], "birds/gulls.md");
    assert_eq!(reply(root.join("none.md").to_str().unwrap()).code(), 4014);
    let missing = reply("gull.md");
    assert_eq!(
        (missing.code(), &missing.body["error"]["candidates"][0]),
        (4014, &json!("birds/gulls.md")),
        "{missing:?}"
    );
    let list = call(&server, "list", &json!({})).data().clone();
    let paths: Vec<_> = list["documents"].as_array().unwrap().iter().map(|d| d["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["birds/gulls.md", "birds/note.pdf", "within.md"]);
}

#[test]
fn of_two_folders_the_first_one_counts() {
    let (folder, root) = folders();
    let other = folder.path().join("other");
    fs::create_dir_all(other.join("birds")).unwrap();
    fs::write(other.join("birds/gulls.md"), "another").unwrap();
    fs::write(other.join("more.txt"), "more").unwrap();
    let missing = folder.path().join("missing");
    let server = Server::start(&json!({ "apis": { "doc": { "roots": [missing, root, other] } } }));
    let content = |path: &str| call(&server, "read", &json!({ "document": path })).data()["content"].clone();
    assert_eq!((content("birds/gulls.md"), content("more.txt")), (json!(MANUAL), json!("more")));
    assert_eq!(content(other.join("birds/gulls.md").to_str().unwrap()), "another");
    assert_eq!(call(&server, "list", &json!({})).data()["documents"].as_array().unwrap().len(), 3);
    let facts = server.get("/resources").body.to_string();
    assert!(facts.contains("cannot be opened") && !facts.contains(folder.path().to_str().unwrap()), "{facts}");
    let server = Server::start(&json!({ "apis": { "doc": { "roots": [missing] } } }));
    assert_eq!(call(&server, "list", &json!({})).code(), 5012);
    assert_eq!(call(&server, "read", &json!({ "document": "a.md" })).code(), 5012);
    // A file that is missing is missing, however many folders there are.
    let server = Server::start(&json!({ "apis": { "doc": { "roots": [root, other] } } }));
    assert_eq!(call(&server, "read", &json!({ "document": root.join("none.md") })).code(), 4014);
}

#[test]
fn what_cannot_be_read_says_why() {
    let (_folder, root) = folders();
    fs::write(root.join("broken.pdf"), "%PDF-1.4\nnothing").unwrap();
    fs::write(root.join("broken.epub"), "nothing").unwrap();
    fs::write(root.join("empty.txt"), "").unwrap();
    fs::File::create(root.join("large.md")).unwrap().set_len(2 << 20).unwrap();
    let server = server(&root, &json!({ "max_mib": 1 }));
    let read = |path: &str| call(&server, "read", &json!({ "document": path }));
    for path in ["broken.pdf", "broken.epub"] {
        let reply = read(path);
        assert_eq!((reply.code(), reply.reason()), (4001, "malformed"), "{reply:?}");
        assert!(!reply.body.to_string().contains(root.to_str().unwrap()), "a path of the host: {reply:?}");
    }
    assert_eq!(read("empty.txt").data()["content"], "");
    assert_eq!(
        (read("large.md").code(), &read("large.md").body["error"]["expected"]),
        (4000, &json!("a file of at most 1 MiB"))
    );
}

#[test]
fn a_document_is_read_once_for_all_who_ask() {
    let (_folder, root) = folders();
    let text = "# T\n\nSome words of a long text, again and again.\n\n".repeat(5_000);
    fs::write(root.join("long.md"), &text).unwrap();
    // So that it counts as one that is not being written.
    std::thread::sleep(Duration::from_millis(100));
    let server = server(&root, &json!({}));
    let ask = || call(&server, "search", &json!({ "document": "long.md", "key_words": ["again"], "max_results": 1 }));
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        for answer in asked {
            assert_eq!(answer.join().unwrap().data()["total"], 5_000);
        }
    });
    let threads = fs::read_dir(format!("/proc/{}/task", server.process.id())).unwrap();
    let children: String =
        threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("children")).unwrap_or_default()).collect();
    assert_eq!(children.split_whitespace().count(), 1, "one process has read it");
}
