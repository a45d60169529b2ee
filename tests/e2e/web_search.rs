//! Searches at services that answer as their documentation says, and as services answer when something is wrong.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use crate::{
    harness::Server,
    site::{Asked, Say, Site},
};

/// No answer, log or error may show it.
const KEY: &str = "canary-5f1d8a0c77";

/// A provider, and the setting that holds its key.
const PROVIDERS: [(&str, Option<&str>); 4] = [
    ("serper", Some("serper_api_key")),
    ("brave", Some("brave_api_key")),
    ("tavily", Some("tavily_api_key")),
    ("searxng", None),
];

/// A server that searches at a site, with a key.
fn server(provider: &str, site: &Site, more: &Value) -> Server {
    let mut config = json!({ "provider": provider, "base_url": site.url("") });
    if let Some((_, Some(setting))) = PROVIDERS.iter().find(|(name, _)| *name == provider) {
        config[*setting] = KEY.into();
    }
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Server::start(&json!({ "server": { "log": { "level": "trace" } }, "apis": { "websearch": config } }))
}

/// Ends the test if the key is anywhere in the log.
fn no_key_in_log(server: &Server) {
    let log = std::fs::read_to_string(&server.log).unwrap();
    assert!(!log.is_empty() && !log.contains(KEY), "the key is in the log");
}

fn search(server: &Server, params: &Value) -> crate::harness::Reply {
    let reply = server.execute("agent", "web:search", params);
    assert!(!reply.body.to_string().contains(KEY), "{reply:?}");
    reply
}

/// What each service answers to a search that finds two pages.
fn found(provider: &str, asked: &Asked) -> Say {
    let (one, two) = ("https://one.example/a", "https://two.example/");
    Say::json(&match provider {
        "serper" => json!({
            "searchParameters": { "q": asked.body["q"], "type": "search", "engine": "google" },
            "organic": [
                { "title": "One", "link": one, "snippet": "The first.", "position": 1, "sitelinks": [] },
                { "title": "Two", "link": two, "position": 2 },
            ],
            "credits": 1
        }),
        "brave" => json!({
            "type": "search",
            "query": { "original": "x", "more_results_available": true },
            "web": { "type": "search", "results": [
                { "title": "One", "url": one, "description": "The first.", "meta_url": { "hostname": "one.example" } },
                { "title": "Two", "url": two, "description": "" },
            ] }
        }),
        "tavily" => json!({
            "query": asked.body["query"], "answer": null, "images": [],
            "results": [
                { "title": "One", "url": one, "content": "The first.", "score": 0.9, "raw_content": null },
                { "title": "Two", "url": two, "content": "", "score": 0.1, "raw_content": null },
            ],
            "response_time": 1.2, "request_id": "a"
        }),
        _ => json!({
            "query": "x", "number_of_results": 2,
            "results": [
                { "url": one, "title": "One", "content": "The first.", "engine": "e", "score": 1.0, "link": null },
                { "url": two, "title": "Two", "content": null, "engine": "e", "score": 0.5 },
            ],
            "answers": [], "corrections": [], "infoboxes": [], "suggestions": [], "unresponsive_engines": []
        }),
    })
}

#[test]
fn every_provider_is_asked_as_documented_and_answers_alike() {
    for (provider, _) in PROVIDERS {
        let site = Site::start(move |asked| found(provider, asked));
        let server = server(provider, &site, &json!({}));
        let params = json!({ "query": "r\u{e9}sum\u{e9} & co", "max_results": 2, "time_range": "week" });
        let reply = search(&server, &params);
        let expected = json!({
            "query": "r\u{e9}sum\u{e9} & co",
            "results": [
                { "title": "One", "url": "https://one.example/a", "snippet": "The first.", "position": 1 },
                { "title": "Two", "url": "https://two.example/", "snippet": "", "position": 2 },
            ],
            "provider": provider, "truncated": false
        });
        assert_eq!(*reply.data(), expected, "{provider}");
        let asked = site.asked().remove(0);
        let encoded = "r%C3%A9sum%C3%A9+%26+co";
        match provider {
            "serper" => {
                assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/search"));
                assert_eq!(asked.header("x-api-key"), Some(KEY));
                assert_eq!(asked.body, json!({ "q": "r\u{e9}sum\u{e9} & co", "num": 2, "tbs": "qdr:w" }));
            }
            "brave" => {
                let path = format!("/res/v1/web/search?q={encoded}&count=2&freshness=pw&text_decorations=false");
                assert_eq!((asked.method.as_str(), asked.path.as_str()), ("GET", path.as_str()));
                assert_eq!(asked.header("x-subscription-token"), Some(KEY));
            }
            "tavily" => {
                assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/search"));
                assert_eq!(asked.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
                let body = json!({ "query": "r\u{e9}sum\u{e9} & co", "max_results": 2, "time_range": "week" });
                assert_eq!(asked.body, body);
            }
            _ => {
                let path = format!("/search?q={encoded}&format=json&time_range=week");
                assert_eq!((asked.method.as_str(), asked.path.as_str()), ("GET", path.as_str()));
            }
        }
        // The same again is answered from memory; other numbers are another question.
        search(&server, &params);
        assert_eq!(site.asked().len(), 0, "{provider}");
        assert_eq!(search(&server, &json!({ "query": "x", "max_results": 1 })).data()["results"][1], Value::Null);
        assert_eq!(site.asked().len(), 1);
        no_key_in_log(&server);
    }
}

#[test]
fn nothing_found_is_a_success() {
    for (provider, _) in PROVIDERS {
        let site = Site::start(move |_| {
            Say::json(&match provider {
                "serper" => json!({ "searchParameters": { "q": "x" }, "credits": 1 }),
                "brave" => json!({ "type": "search", "query": { "original": "x" } }),
                "tavily" => json!({ "query": "x", "results": [] }),
                _ => json!({ "query": "x", "results": [], "unresponsive_engines": [["google", "timeout"]] }),
            })
        });
        let server = server(provider, &site, &json!({}));
        let expected = json!({ "query": "x", "results": [], "provider": provider, "truncated": false });
        assert_eq!(*search(&server, &json!({ "query": "x" })).data(), expected);
    }
}

/// What a provider of this name says.
type Answer = Arc<dyn Fn(&str) -> Say + Send + Sync>;

#[test]
fn failures_say_what_they_are() {
    let unauthorized = |provider: &str| match provider {
        "serper" => Say::error(403, &json!({ "message": "Unauthorized.", "statusCode": 403 })),
        "brave" => {
            let detail = format!("The provided subscription token {KEY} is invalid.");
            let error = json!({ "code": "SUBSCRIPTION_TOKEN_INVALID", "detail": detail, "status": 422 });
            Say::error(422, &json!({ "type": "ErrorResponse", "error": error }))
        }
        "tavily" => Say::error(401, &json!({ "detail": { "error": format!("Unauthorized: invalid API key {KEY}") } })),
        _ => Say::typed("text/html", "<h1>Forbidden</h1>").status(403),
    };
    let table: Vec<(&str, Answer, u64, Option<&str>, usize)> = vec![
        ("wrong key", Arc::new(unauthorized), 5003, Some("unauthorized"), 1),
        (
            "asked too often",
            Arc::new(|_| Say::error(429, &json!({ "message": "Too many requests" })).with("Retry-After: 0")),
            5003,
            Some("rate_limited"),
            3,
        ),
        (
            "asked too often, for long",
            Arc::new(|_| Say::error(429, &json!({})).with("Retry-After: 3600")),
            5003,
            Some("rate_limited"),
            1,
        ),
        (
            "plan used up",
            Arc::new(|_| Say::error(432, &json!({ "detail": { "error": "limit" } }))),
            5003,
            Some("quota"),
            1,
        ),
        ("away", Arc::new(|_| Say::error(503, &json!({})).with("Retry-After: 0")), 5003, Some("unavailable"), 3),
        (
            "bad request",
            Arc::new(|_| Say::error(400, &json!({ "message": "Query too long" }))),
            5003,
            Some("refused"),
            1,
        ),
        ("no JSON", Arc::new(|_| Say::html("<h1>Welcome</h1>")), 5004, None, 1),
        ("another JSON", Arc::new(|_| Say::json(&json!({ "hello": "world" }))), 5004, None, 1),
        ("half of it", Arc::new(|_| Say::typed("application/json", "{\"results\": [{\"ti")), 5004, None, 1),
        (
            "huge",
            Arc::new(|_| Say::typed("application/json", format!("{{\"results\": [\"{}\"]}}", "x".repeat(9 << 20)))),
            5004,
            Some("too_large"),
            1,
        ),
        ("elsewhere", Arc::new(|_| Say::redirect("http://127.0.0.1:1/")), 5003, Some("refused"), 1),
        ("silent", Arc::new(|_| Say::Silence(Duration::from_secs(20))), 5006, None, 1),
    ];
    for (provider, _) in PROVIDERS {
        let names: Vec<_> = table.iter().map(|(name, answer, ..)| (*name, answer.clone())).collect();
        let site = Site::start(move |asked| {
            let question = format!("{}{}", asked.path, asked.body).replace("%20", "+").replace(' ', "+");
            let means = |name: &str| {
                question.contains(&format!("<{}>", name.replace(' ', "+")))
                    || question.contains(&format!("%3C{}%3E", name.replace(' ', "+").replace(',', "%2C")))
            };
            let (_, answer) = names.iter().find(|(name, _)| means(name)).unwrap();
            answer(provider)
        });
        let server = server(provider, &site, &json!({ "timeout_seconds": 5 }));
        for (name, _, code, reason, requests) in &table {
            let reply = search(&server, &json!({ "query": format!("<{name}>") }));
            assert_eq!(reply.code(), *code, "{provider}, {name}: {reply:?}");
            assert_eq!(reply.body["error"]["reason"].as_str(), *reason, "{provider}, {name}: {reply:?}");
            assert_eq!(site.asked().len(), *requests, "{provider}, {name}");
        }
        no_key_in_log(&server);
    }
}

/// A key that is a word changes no answer that holds that word.
#[test]
fn an_answer_is_not_searched_for_the_key() {
    let site = Site::start(|asked| found("tavily", asked));
    for key in ["One", "*", "results"] {
        let server = server("tavily", &site, &json!({ "tavily_api_key": key }));
        let reply = server.execute("agent", "web:search", &json!({ "query": "x" }));
        assert_eq!(reply.data()["results"][0]["title"], "One");
    }
}

#[test]
fn a_failure_is_not_kept_and_may_pass() {
    let busy = std::sync::atomic::AtomicUsize::new(0);
    let site = Site::start(move |asked| match busy.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
        0 => Say::error(503, &json!({})).with("Retry-After: 0"),
        2 => Say::error(400, &json!({})),
        _ => found("tavily", asked),
    });
    let server = server("tavily", &site, &json!({}));
    assert_eq!(search(&server, &json!({ "query": "x" })).data()["results"].as_array().unwrap().len(), 2);
    assert_eq!(site.asked().len(), 2);
    assert_eq!(search(&server, &json!({ "query": "y" })).code(), 5003);
    assert_eq!(search(&server, &json!({ "query": "y" })).code(), 0);
}

#[test]
fn without_a_key_its_setting_is_named() {
    let site = Site::start(|asked| found("serper", asked));
    for (provider, setting) in PROVIDERS {
        let setting = setting.unwrap_or("searxng_url");
        let config = json!({ "apis": { "websearch": { "provider": provider } } });
        let server = Server::start(&config);
        for tool in ["web:search", "web:image_search"] {
            let reply = server.execute("agent", tool, &json!({ "query": "x" }));
            assert_eq!(reply.code(), 5002, "{reply:?}");
            assert!(reply.body["message"].as_str().unwrap().contains(setting), "{reply:?}");
        }
    }
    let server = server("tavily", &site, &json!({}));
    let reply = server.execute("agent", "web:reverse_image_search", &json!({ "image_url": "https://a.example/b.png" }));
    assert_eq!(reply.code(), 5002, "{reply:?}");
    assert!(reply.body["message"].as_str().unwrap().contains("serper_api_key"), "{reply:?}");
    assert_eq!(site.asked().len(), 0);
}

#[test]
fn several_searches_are_one_call() {
    let site = Site::start(|asked| match asked.body["query"].as_str().unwrap() {
        "bad" => Say::error(400, &json!({})),
        "odd" => Say::html("odd"),
        _ => found("tavily", asked),
    });
    let server = server("tavily", &site, &json!({}));
    let reply = search(&server, &json!({ "queries": ["a", "bad", "b"] }));
    let searches = reply.data()["searches"].as_array().unwrap();
    assert_eq!((&searches[0]["query"], &searches[2]["query"]), (&json!("a"), &json!("b")));
    assert_eq!(searches[0]["results"].as_array().unwrap().len(), 2);
    assert_eq!((&searches[1]["for"], &searches[1]["error"]["code"]), (&json!("bad"), &json!(5003)));
    // If all of them fail, so does the call: alike, or for different reasons.
    let reply = search(&server, &json!({ "queries": ["bad", "bad"] }));
    assert_eq!(reply.code(), 5003);
    let reply = search(&server, &json!({ "queries": ["bad", "odd"] }));
    assert_eq!(reply.code(), 5009, "{reply:?}");
    assert_eq!(reply.body["data"]["searches"][1]["error"]["name"], "API_RESPONSE_PARSE_ERROR");
    for (params, code) in [
        (json!({}), 4003),
        (json!({ "query": "a", "queries": ["b"] }), 4000),
        (json!({ "queries": ["b"], "cursor": "1" }), 4000),
        (json!({ "query": "a", "cursor": "x" }), 4000),
        (json!({ "query": "" }), 4000),
        (json!({ "queries": [] }), 4000),
        (json!({ "query": "a", "max_results": 21 }), 4000),
        (json!({ "query": "a", "time_range": "hour" }), 4000),
    ] {
        assert_eq!(search(&server, &params).code(), code, "{params}");
    }
}

#[test]
fn results_beyond_the_budget_are_fetched_with_a_cursor() {
    let site = Site::start(|asked| found("serper", asked));
    let server = server("serper", &site, &json!({}));
    let first = search(&server, &json!({ "query": "x", "max_chars": 1 })).data().clone();
    assert_eq!((first["results"][0]["position"].as_u64(), &first["truncated"]), (Some(1), &json!(true)));
    let second =
        search(&server, &json!({ "query": "x", "max_chars": 1, "cursor": first["next_cursor"] })).data().clone();
    assert_eq!((second["results"][0]["position"].as_u64(), &second["truncated"]), (Some(2), &json!(false)));
    assert_eq!(second["next_cursor"], Value::Null);
    assert_eq!(site.asked().len(), 1);
    let reply = search(&server, &json!({ "query": "y", "cursor": first["next_cursor"] }));
    assert_eq!((reply.code(), reply.reason()), (4009, "changed"));
}

#[test]
fn pictures_are_found_at_every_provider() {
    let (picture, page) = ("https://one.example/p.png", "https://one.example/a");
    for (provider, _) in PROVIDERS {
        let site = Site::start(move |_| {
            Say::json(&match provider {
                "serper" => json!({ "searchParameters": { "q": "x", "type": "images" }, "images": [
                    { "title": "P", "imageUrl": picture, "imageWidth": 640, "imageHeight": 480, "link": page,
                      "thumbnailUrl": "https://t.example/1", "source": "One", "domain": "one.example", "position": 1 },
                    { "title": "no address" },
                ] }),
                "brave" => json!({ "type": "images", "query": { "original": "x" }, "results": [
                    { "type": "image_result", "title": "P", "url": page, "source": "One",
                      "thumbnail": { "src": "https://t.example/1" },
                      "properties": { "url": picture, "width": 640, "height": 480 } },
                ] }),
                "tavily" => json!({ "query": "x", "results": [], "images": [{ "url": picture, "description": "P" }] }),
                _ => json!({ "query": "x", "results": [
                    { "title": "P", "url": page, "img_src": "//one.example/p.png", "source": "One",
                      "thumbnail_src": "https://t.example/1", "resolution": "640 x 480" },
                ] }),
            })
        });
        let server = server(provider, &site, &json!({}));
        let reply = server.execute("agent", "web:image_search", &json!({ "query": "x", "max_results": 5 }));
        let results = reply.data()["results"].as_array().unwrap();
        assert_eq!(results.len(), 1, "{reply:?}");
        let mut expected = json!({
            "title": "P", "image_url": picture, "thumbnail_url": "https://t.example/1", "page_url": page, "source": "One",
            "width": 640, "height": 480, "position": 1
        });
        if provider == "tavily" {
            for unknown in ["thumbnail_url", "page_url", "source", "width", "height"] {
                expected[unknown] = Value::Null;
            }
        }
        assert_eq!(results[0], expected, "{provider}");
        let path = site.asked().remove(0).path;
        let expected = match provider {
            "serper" => "/images",
            "brave" => "/res/v1/images/search?q=x&count=5",
            "tavily" => "/search",
            _ => "/search?q=x&format=json&categories=images",
        };
        assert_eq!(path, expected);
    }
}

#[test]
fn a_picture_is_looked_for() {
    let site = Site::start(|_| {
        Say::json(&json!({ "searchParameters": { "type": "lens" }, "organic": [
            { "title": "A lighthouse", "source": "One", "link": "https://one.example/a",
              "imageUrl": "https://one.example/p.png", "thumbnailUrl": "https://t.example/1" },
        ], "credits": 3 }))
    });
    let server = server("serper", &site, &json!({}));
    let image = "https://a.example/lighthouse.jpg";
    let reply = server.execute("agent", "web:reverse_image_search", &json!({ "image_url": image }));
    assert_eq!((&reply.data()["query"], &reply.data()["provider"]), (&json!(image), &json!("serper")));
    assert_eq!(reply.data()["results"][0]["page_url"], "https://one.example/a");
    let asked = site.asked().remove(0);
    assert_eq!((asked.path.as_str(), asked.body), ("/lens", json!({ "url": image })));
    let reply = server.execute("agent", "web:reverse_image_search", &json!({ "image_url": "lighthouse.jpg" }));
    assert_eq!((reply.code(), &reply.body["error"]["parameter"]), (4005, &json!("image_url")));
}
