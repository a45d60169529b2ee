//! Visits to pages of every kind, to sites that refuse, hang and mislead, and by way of the Jina reader.

use std::{
    fmt::Write as _,
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    harness::{Reply, Server},
    site::{Say, Site},
};

/// No answer, log or error may show it.
const KEY: &str = "canary-5f1d8a0c77";

fn server(site: &Site, more: &Value) -> Server {
    let mut config = json!({ "allow_private": [site.address.to_string()] });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Server::start(&json!({ "server": { "log": { "level": "trace" } }, "apis": { "websearch": config } }))
}

fn visit(server: &Server, params: &Value) -> Reply {
    let reply = server.execute("agent", "web:visit", params);
    assert!(!reply.body.to_string().contains(KEY), "{reply:?}");
    reply
}

fn no_key_in_log(server: &Server) {
    let log = std::fs::read_to_string(&server.log).unwrap();
    assert!(!log.is_empty() && !log.contains(KEY), "the key is in the log");
}

const ARTICLE: &str = "<html><head><title>On gulls</title></head><body><nav><a href=/>Home</a></nav><article>\
    <h1>On gulls</h1><p>Gulls are birds of the shore, loud, clever, and fond of chips. They steal what they can.</p>\
    <h2>Food</h2><p>See <a href='food?of=gulls#top'>their food</a>.</p></article><footer>Imprint</footer></body></html>";

/// A PDF of one page with one line of text.
pub(crate) fn pdf(text: &str) -> Vec<u8> {
    let stream = format!("BT /F1 12 Tf 72 700 Td ({text}) Tj ET");
    let objects = [
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        "<< /Type /Pages /Kids [3 0 R] /Count 1 /MediaBox [0 0 595 842] >>".to_owned(),
        "<< /Type /Page /Parent 2 0 R /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>".to_owned(),
        format!("<< /Length {} >>\nstream\n{stream}\nendstream", stream.len()),
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>".to_owned(),
        "<< /Title (On gulls) >>".to_owned(),
    ];
    let mut file = "%PDF-1.4\n".to_owned();
    let mut table = format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1);
    for (index, object) in objects.iter().enumerate() {
        writeln!(table, "{:010} 00000 n ", file.len()).unwrap();
        writeln!(file, "{} 0 obj\n{object}\nendobj", index + 1).unwrap();
    }
    let start = file.len();
    let trailer = "trailer\n<< /Size 7 /Root 1 0 R /Info 6 0 R >>";
    writeln!(file, "{table}{trailer}\nstartxref\n{start}\n%%EOF").unwrap();
    file.into_bytes()
}

#[test]
fn pages_of_every_kind_are_read() {
    let site = Site::start(|asked| match asked.path.as_str() {
        "/moved" => Say::redirect("/article"),
        "/article" => Say::html(ARTICLE),
        "/pdf" => Say::typed("application/pdf", pdf("Gulls on paper")),
        "/unnamed" => Say::typed("application/octet-stream", pdf("Gulls on paper")),
        "/json" => Say::typed("application/json", "{\"gulls\": 3}"),
        "/text" => Say::typed("text/plain; charset=iso-8859-1", b"gr\xfcn".to_vec()),
        "/notes.md" => Say::typed("text/markdown", "# Gulls"),
        "/missing" => Say::html("<title>Gone</title><p>No such gull").status(404),
        _ => Say::typed("image/png", "x"),
    });
    let server = server(&site, &json!({}));
    let page = visit(&server, &json!({ "url": site.url("/moved") })).data().clone();
    let content = page["content"].as_str().unwrap();
    assert_eq!(page["url"], site.url("/moved"));
    assert_eq!(page["final_url"], site.url("/article"));
    assert_eq!(
        (&page["status"], &page["title"], &page["format"]),
        (&json!(200), &json!("On gulls"), &json!("markdown"))
    );
    assert_eq!((&page["truncated"], &page["next_cursor"]), (&json!(false), &Value::Null));
    assert!(content.contains("## Food") && content.contains("fond of chips"), "{content}");
    assert!(content.contains(&format!("[their food]({})", site.url("/food?of=gulls#top"))), "{content}");
    assert!(!content.contains("Home") && !content.contains("Imprint"), "{content}");
    let text = visit(&server, &json!({ "url": site.url("/article"), "format": "text" })).data().clone();
    assert!(text["format"] == "text" && !text["content"].as_str().unwrap().contains('#'), "{text}");
    let html = visit(&server, &json!({ "url": site.url("/article"), "format": "html" })).data().clone();
    assert_eq!((&html["format"], &html["content"]), (&json!("html"), &json!(ARTICLE)));
    for path in ["/pdf", "/unnamed"] {
        let page = visit(&server, &json!({ "url": site.url(path) })).data().clone();
        assert_eq!((&page["title"], &page["format"]), (&json!("On gulls"), &json!("text")));
        assert!(page["content"].as_str().unwrap().contains("Gulls on paper"), "{page}");
    }
    for (path, content, format, status) in [
        ("/json", "{\"gulls\": 3}", "json", 200),
        ("/text", "gr\u{fc}n", "text", 200),
        ("/notes.md", "# Gulls", "markdown", 200),
        ("/missing", "No such gull", "markdown", 404),
    ] {
        let page = visit(&server, &json!({ "url": site.url(path) })).data().clone();
        assert_eq!(
            (&page["content"], &page["format"], &page["status"]),
            (&json!(content), &json!(format), &json!(status))
        );
    }
    let reply = visit(&server, &json!({ "url": site.url("/picture") }));
    assert_eq!(reply.code(), 5007, "{reply:?}");
    assert!(reply.body["message"].as_str().unwrap().contains("`image/png`"), "{reply:?}");
}

#[test]
fn what_cannot_be_read_is_named() {
    let site = Site::start(|asked| match asked.path.as_str() {
        "/broken.pdf" => Say::typed("application/pdf", "%PDF-1.4 and no more"),
        "/bomb" => {
            Say::html((0..9_000).fold(String::new(), |all, id| all + &format!("<b id={id}>")) + &"<p>x".repeat(9_000))
        }
        "/scripts" => Say::html("<body><script>document.write('all of it')</script>"),
        "/zeros" => Say::typed("application/octet-stream", vec![0; 10]),
        "/circle" => Say::redirect("/circle"),
        "/large.pdf" => Say::typed("application/pdf", [pdf("x"), vec![b' '; 200_000]].concat()),
        "/large" => Say::html(format!("<title>L</title><p>{}", "word ".repeat(40_000))),
        _ => Say::Silence(Duration::from_mins(1)),
    });
    let server = server(&site, &json!({ "max_bytes": 150_000, "timeout_seconds": 20 }));
    for (path, reason) in [
        ("/broken.pdf", Some("malformed")),
        ("/zeros", None),
        ("/circle", None),
        ("/large.pdf", None),
        ("/scripts", Some("no_text")),
        ("/bomb", Some("too_complex")),
    ] {
        let reply = visit(&server, &json!({ "url": site.url(path) }));
        assert_eq!((reply.code(), reply.body["error"]["reason"].as_str()), (5007, reason), "{path}: {reply:?}");
        assert!(!reply.body.to_string().contains(path), "{reply:?}");
    }
    // Of a page that is too large there is a part, and it is said that it is one.
    let page = visit(&server, &json!({ "url": site.url("/large"), "max_chars": 1_000_000 })).data().clone();
    assert_eq!((&page["truncated"], &page["next_cursor"]), (&json!(true), &Value::Null));
    assert!(page["content"].as_str().unwrap().len() > 100_000);
    let started = std::time::Instant::now();
    let reply =
        server.execute_with("agent", "web:visit", &json!({ "url": site.url("/hang") }), &json!({ "timeout": 1 }));
    assert!(reply.code() == 5006 || reply.code() == 5020, "{reply:?}");
    assert!(started.elapsed() < Duration::from_secs(15));
}

#[test]
fn urls_that_are_none_and_addresses_that_are_private_are_refused() {
    let inner = Site::start(|_| Say::typed("text/plain", "secret"));
    let target = inner.url("/");
    let outer = Site::start(move |_| Say::redirect(&target));
    let server = server(&outer, &json!({}));
    for url in ["example.com", "ftp://example.com/", "file:///etc/passwd", "http://"] {
        let reply = visit(&server, &json!({ "url": url }));
        assert_eq!((reply.code(), &reply.body["error"]["parameter"]), (4005, &json!("url")), "{url}");
    }
    let metadata = "http://169.254.169.254/latest/meta-data/".to_owned();
    for url in
        [inner.url("/"), outer.url("/"), metadata, "http://[::1]:80/".to_owned(), "http://u:p@1.1.1.1/".to_owned()]
    {
        let reply = visit(&server, &json!({ "url": url }));
        assert_eq!(reply.code(), 4013, "{url}: {reply:?}");
    }
    assert_eq!(inner.asked().len(), 0, "the private site was reached");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = json!({ "apis": { "websearch": { "allow_private": [closed.to_string()] } } });
    let reply = visit(&Server::start(&config), &json!({ "url": format!("http://{closed}/") }));
    assert_eq!((reply.code(), reply.reason()), (5003, "connect"), "{reply:?}");
}

#[test]
fn a_long_page_comes_in_parts() {
    let whole = (0..2000).fold(String::new(), |text, line| text + &format!("line {line} of the text\n"));
    let version = Arc::new(AtomicUsize::new(0));
    let (text, now) = (whole.clone(), version.clone());
    let site = Site::start(move |_| match now.load(Ordering::SeqCst) {
        0 => Say::typed("text/plain", text.clone()),
        _ => Say::typed("text/plain", "another text\n".repeat(1000)),
    });
    let server = server(&site, &json!({ "content_limit": 9_000, "cache_seconds": 0 }));
    let url = site.url("/");
    let (mut read, mut params, mut parts) = (String::new(), json!({ "url": url }), 0);
    loop {
        let page = visit(&server, &params).data().clone();
        read += page["content"].as_str().unwrap();
        parts += 1;
        assert_eq!(page["truncated"].as_bool(), Some(page["next_cursor"].is_string()));
        if page["next_cursor"].is_null() {
            break;
        }
        params["cursor"] = page["next_cursor"].clone();
    }
    assert_eq!((read == whole, parts), (true, 5));
    assert_eq!(site.asked().len(), 5, "nothing is kept");
    // A page that changed in between is not continued.
    version.store(1, Ordering::SeqCst);
    let reply = visit(&server, &params);
    assert_eq!((reply.code(), reply.reason()), (4009, "changed"), "{reply:?}");
    for cursor in ["", "7", "x.y"] {
        let reply = visit(&server, &json!({ "url": url, "cursor": cursor }));
        assert_eq!((reply.code(), &reply.body["error"]["parameter"]), (4000, &json!("cursor")), "{reply:?}");
    }
}

#[test]
fn several_pages_are_one_call() {
    let site = Site::start(|asked| match asked.path.as_str() {
        "/picture" => Say::typed("image/png", "x"),
        path => Say::typed("text/plain", path.to_owned()),
    });
    let server = server(&site, &json!({}));
    let urls = [site.url("/a"), "nothing".to_owned(), site.url("/b"), site.url("/picture")];
    let reply = visit(&server, &json!({ "urls": urls }));
    let pages = reply.data()["pages"].as_array().unwrap();
    assert_eq!((&pages[0]["content"], &pages[2]["content"]), (&json!("/a"), &json!("/b")));
    assert_eq!((&pages[1]["for"], &pages[1]["error"]["name"]), (&json!("nothing"), &json!("INVALID_URL_FORMAT")));
    assert_eq!(pages[3]["error"]["code"], 5007);
    let reply = visit(&server, &json!({ "urls": [urls[1], urls[3]] }));
    assert_eq!((reply.code(), &reply.body["data"]["pages"][1]["for"]), (5009, &json!(urls[3])));
}

#[test]
fn a_site_that_is_busy_is_asked_again_and_never_by_many_at_once() {
    let tries = AtomicUsize::new(0);
    let site = Site::start(move |asked| match asked.path.as_str() {
        "/busy" if tries.fetch_add(1, Ordering::SeqCst) < 2 => Say::html("busy").status(503).with("Retry-After: 0"),
        "/closed" => Say::html("closed").status(503).with("Retry-After: 0"),
        "/busy" => Say::html("<p>at last"),
        path => {
            std::thread::sleep(Duration::from_millis(50));
            Say::typed("text/plain", path.to_owned())
        }
    });
    let server = server(&site, &json!({ "per_host": 2 }));
    assert_eq!(visit(&server, &json!({ "url": site.url("/busy") })).data()["content"], "at last");
    let page = visit(&server, &json!({ "url": site.url("/closed") })).data().clone();
    assert_eq!((&page["status"], &page["content"]), (&json!(503), &json!("closed")));
    assert_eq!(site.asked().len(), 6);
    let urls: Vec<_> = (0..8).map(|page| site.url(&format!("/{page}"))).collect();
    let reply = visit(&server, &json!({ "urls": urls }));
    assert!(reply.data()["pages"].as_array().unwrap().iter().all(|page| page["status"] == 200), "{reply:?}");
    assert_eq!(site.most_at_once(), 2);
}

#[test]
fn a_page_is_fetched_once_for_all_who_want_it() {
    let site = Site::start(|asked| {
        std::thread::sleep(Duration::from_millis(300));
        if asked.path == "/gone" { Say::html("gone").status(410) } else { Say::html(ARTICLE) }
    });
    let server = server(&site, &json!({}));
    let together = Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                together.wait();
                assert_eq!(visit(&server, &json!({ "url": site.url("/") })).data()["title"], "On gulls");
            });
        }
    });
    visit(&server, &json!({ "url": site.url("/"), "max_chars": 10 })).data();
    assert_eq!(site.asked().len(), 1);
    for _ in 0..2 {
        assert_eq!(visit(&server, &json!({ "url": site.url("/gone") })).data()["status"], 410);
    }
    assert_eq!(site.asked().len(), 2, "an error page was kept");
}

/// A reader as documented at <https://jina.ai/reader>.
#[test]
fn the_jina_reader_fetches_pages() {
    let site = Site::start(|asked| {
        let page =
            json!({ "title": "On gulls", "description": "", "url": "https://gulls.example/", "content": "# Gulls" });
        let missing = "Target URL returned error 404: Not Found";
        match asked.path.as_str() {
            "/https://gulls.example/" => Say::json(&json!({ "code": 200, "status": 20000, "data": page })),
            "/https://gulls.example/?a=b" => {
                let page =
                    json!({ "title": "", "url": "https://gulls.example/?a=b", "content": "no", "warning": missing });
                Say::json(&json!({ "code": 200, "status": 20000, "data": page }))
            }
            "/https://nowhere.example/" => {
                Say::error(422, &json!({ "code": 422, "name": "AssertionFailureError", "message": "Domain not found" }))
            }
            "/https://locked.example/" => Say::error(401, &json!({ "code": 401, "message": format!("bad key {KEY}") })),
            "/https://odd.example/" => Say::json(&json!({ "code": 200, "data": {} })),
            "/https://slow.example/" => Say::Silence(Duration::from_secs(20)),
            _ => Say::error(429, &json!({ "code": 429, "message": "Rate limit" })).with("Retry-After: 0"),
        }
    });
    let jina = json!({
        "visit_method": "jina", "jina_url": site.url(""), "jina_api_key": KEY, "timeout_seconds": 4, "cache_seconds": 0
    });
    let server = server(&site, &jina);
    let page = visit(&server, &json!({ "url": "https://gulls.example/" })).data().clone();
    assert_eq!(
        (&page["title"], &page["content"], &page["status"]),
        (&json!("On gulls"), &json!("# Gulls"), &json!(200))
    );
    assert_eq!((&page["format"], &page["final_url"]), (&json!("markdown"), &json!("https://gulls.example/")));
    let asked = site.asked().remove(0);
    assert_eq!(asked.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
    assert_eq!((asked.header("accept"), asked.header("x-return-format")), (Some("application/json"), Some("markdown")));
    assert_eq!(visit(&server, &json!({ "url": "https://gulls.example/?a=b" })).data()["status"], 404);
    for (host, code, reason) in [
        ("nowhere", 5007, None),
        ("locked", 5003, Some("unauthorized")),
        ("odd", 5004, None),
        ("slow", 5006, None),
        ("busy", 5003, Some("rate_limited")),
    ] {
        let reply = visit(&server, &json!({ "url": format!("https://{host}.example/") }));
        assert_eq!((reply.code(), reply.body["error"]["reason"].as_str()), (code, reason), "{host}: {reply:?}");
    }
    site.asked();
    for url in ["http://10.0.0.1/", "http://localhost/", "http://intranet/", "http://u:p@gulls.example/"] {
        assert_eq!(visit(&server, &json!({ "url": url })).code(), 4013, "{url}");
    }
    assert_eq!(site.asked().len(), 0);
    no_key_in_log(&server);
}

/// A model as documented at <https://platform.openai.com/docs/api-reference/chat/create>.
#[test]
fn a_page_is_summed_up_towards_a_goal() {
    let site = Site::start(|asked| {
        if asked.path != "/v1/chat/completions" {
            return Say::html(if asked.path == "/missing" { "gone" } else { ARTICLE }).status(
                match asked.path.as_str() {
                    "/missing" => 404,
                    _ => 200,
                },
            );
        }
        let question = asked.body["messages"][1]["content"].as_str().unwrap();
        let answer = |text: Value| {
            let message = json!({ "role": "assistant", "content": text });
            Say::json(
                &json!({ "id": "1", "object": "chat.completion", "choices": [{ "index": 0, "message": message }] }),
            )
        };
        match question {
            question if question.starts_with("Goal: food\n") => answer(json!(" They eat chips. ")),
            question if question.starts_with("Goal: refused\n") => {
                Say::error(401, &json!({ "error": { "message": format!("Incorrect API key provided: {KEY}") } }))
            }
            question if question.starts_with("Goal: empty\n") => answer(Value::Null),
            question if question.starts_with("Goal: odd\n") => Say::html("odd"),
            _ => Say::Silence(Duration::from_secs(20)),
        }
    });
    let url = site.url("/article");
    let plain = server(&site, &json!({}));
    assert_eq!(visit(&plain, &json!({ "url": url, "goal": "food" })).data()["format"], "markdown");
    let model = json!({ "api_url": site.url("/v1"), "api_key": KEY, "model": "m", "timeout_seconds": 2 });
    let server = server(&site, &json!({ "summary": model, "retries": 0 }));
    site.asked();
    let page = visit(&server, &json!({ "url": url, "goal": "food" })).data().clone();
    assert_eq!((&page["content"], &page["format"]), (&json!("They eat chips."), &json!("summary")));
    assert_eq!(page["title"], "On gulls");
    let asked = site.asked().remove(1);
    assert_eq!(
        (asked.header("authorization"), &asked.body["model"]),
        (Some(format!("Bearer {KEY}").as_str()), &json!("m"))
    );
    assert!(asked.body["messages"][1]["content"].as_str().unwrap().contains("fond of chips"), "{asked:?}");
    for (goal, reason) in [("refused", Some("unauthorized")), ("empty", None), ("odd", None), ("slow", None)] {
        let reply = visit(&server, &json!({ "url": url, "goal": goal }));
        assert_eq!((reply.code(), reply.body["error"]["reason"].as_str()), (5008, reason), "{goal}: {reply:?}");
        // What was read is not lost.
        assert!(reply.body["data"]["content"].as_str().unwrap().contains("fond of chips"), "{reply:?}");
    }
    site.asked();
    let page = visit(&server, &json!({ "url": site.url("/missing"), "goal": "food" })).data().clone();
    assert_eq!((&page["status"], &page["format"]), (&json!(404), &json!("markdown")));
    assert_eq!(site.asked().len(), 1);
    no_key_in_log(&server);
}

#[test]
fn a_wrong_configuration_stops_the_start_and_shows_no_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    let config = json!({ "apis": { "websearch": {
        "provider": "google", "serper_api_key": format!("{KEY}\n"), "base_url": KEY, "max_results": 21, "per_host": 0,
        "allow_private": ["*"], "timeout_seconds": 0
    } } });
    std::fs::write(&file, config.to_string()).unwrap();
    let output =
        std::process::Command::new(crate::harness::SERVER).args(["check", "--config"]).arg(&file).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!output.status.success() && text.contains("apis.websearch"), "{text}");
    assert!(!text.contains(KEY), "{text}");
}
