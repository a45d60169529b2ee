use ::config::FileFormat;
use serde_json::json;

use super::super::{LogFormat, SectionSchemas as _, fixture::Fixture};
use super::{ConfigErrors, Loaded, Loader, Origin};

fn load_as(text: &str, format: FileFormat, env: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Loader::new(&Fixture::new()).text(text, format).env(env).load()
}

fn load(text: &str, env: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    load_as(text, FileFormat::Json, env)
}

fn errors(text: &str, env: &[(&str, &str)]) -> Vec<String> {
    load(text, env).expect_err("must be refused").0.iter().map(ToString::to_string).collect()
}

/// The same configuration in every format.
const JSON: &str = r#"{
    "$schema": "schema.json", "description": "a comment",
    "server": { "port": 0, "session_ttl": 60, "log": { "format": "json" }, "_why": "a comment" },
    "resources": { "vm": { "config": {
        "poolSize": 3, "seed": 9007199254740993, "enabledScreens": [true, false], "env": { "Path_X": "a", "_Y": "b" },
        "labels": { "Deep": [[1, [null]], { "K": 18446744073709551615 }] }, "root": { "children": [{ "label": "${NAME}" }] }
    } } },
    "apis": { "websearch": { "serper_api_key": "${KEY}", "max_results": "${MAX:-10}" } },
    "warmup": { "resources": ["vm"] }
}"#;

const JSON5: &str = r"{
    server: { port: 0, session_ttl: 60, log: { format: 'json' } }, // a comment
    resources: { vm: { config: {
        poolSize: 3, seed: 9007199254740993, enabledScreens: [true, false], env: { Path_X: 'a', _Y: 'b' },
        labels: { Deep: [[1, [null]], { K: 0x7f }] }, root: { children: [{ label: '${NAME}' }] },
    } } },
    apis: { websearch: { serper_api_key: '${KEY}', max_results: '${MAX:-10}' } },
    warmup: { resources: ['vm'] },
}";

const TOML: &str = r#"
[server]
port = 0
session_ttl = 60
log.format = "json"
[resources.vm.config]
poolSize = 3
seed = 9007199254740993
enabledScreens = [true, false]
env = { Path_X = "a", _Y = "b" }
labels = { Deep = [[1, []], { K = 5 }] }
root.children = [{ label = "${NAME}" }]
[apis.websearch]
serper_api_key = "${KEY}"
max_results = "${MAX:-10}"
[warmup]
resources = ["vm"]
"#;

const YAML: &str = "
server: { port: 0, session_ttl: 60, log: { format: json } }
resources:
  vm:
    description: a virtual machine
    config:
      poolSize: 3
      seed: 9007199254740993
      enabledScreens: [true, false]
      env: { Path_X: a, _Y: b }
      labels: { Deep: [[1, [~]], { K: 5 }] }
      root: { children: [ { label: '${NAME}' } ] }
apis:
  websearch:
    serper_api_key: ${KEY}
    max_results: ${MAX:-10}
warmup:
  resources: [vm]
";

#[test]
fn a_file_of_each_format_arrives_whole() {
    let folder = tempfile::tempdir().expect("is right");
    let labels = |k: u64, inner: serde_json::Value| json!({ "Deep": [[1, inner], { "K": k }] });
    for (name, text, labels) in [
        ("c.json", JSON, labels(u64::MAX, json!([null]))),
        ("c", JSON, labels(u64::MAX, json!([null]))),
        ("c.json5", JSON5, labels(127, json!([null]))),
        ("c.toml", TOML, labels(5, json!([]))),
        ("c.yaml", YAML, labels(5, json!([null]))),
        ("c.YML", YAML, labels(5, json!([null]))),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("is right");
        let env = [("KEY", "sk-1"), ("NAME", "007")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let loaded = Loader::new(&Fixture::new())
            .file(&path)
            .env(env)
            .load()
            .unwrap_or_else(|errors| panic!("{name}: {errors}"));
        assert_eq!((&loaded.origin, loaded.overrides.len()), (&Origin::File(path), 0));
        let config = loaded.config;
        assert_eq!((config.server.port, config.server.log.format), (0, LogFormat::Json), "{name}");
        assert!((config.server.session_ttl - 60.0).abs() < f64::EPSILON);
        assert_eq!(
            config.resources["vm"].config,
            json!({
                "poolSize": 3, "seed": 9_007_199_254_740_993_u64, "enabledScreens": [true, false], "env": { "Path_X": "a", "_Y": "b" },
                "labels": labels, "root": { "children": [{ "label": "007" }] },
            }),
            "{name}"
        );
        assert_eq!(config.apis["websearch"], json!({ "serper_api_key": "sk-1", "max_results": 10 }));
        assert_eq!(config.warmup.resources, Some(vec!["vm".to_owned()]));
    }
}

#[test]
fn with_no_file_the_embedded_default_is_used_and_with_one_it_is_not() {
    let schemas = Fixture::new();
    let without = Loader::new(&schemas).load().expect("is right");
    assert_eq!(without.origin, Origin::Embedded);
    let names: Vec<_> = without.config.resources.keys().cloned().collect();
    assert!(
        !names.is_empty() && names.iter().all(|name| schemas.backend_names().contains(&name.as_str())),
        "{names:?}"
    );
    assert_eq!(without.config.server.port, 18890);
    let with = Loader::new(&schemas).text("{}", FileFormat::Json).load().expect("is right");
    assert_eq!((with.origin, with.config.resources.len()), (Origin::Text, 0));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let schemas = Fixture::new();
    let error = Loader::new(&schemas).file("/no/such.json").load().expect_err("must be refused").to_string();
    assert!(error.starts_with("/no/such.json: expected a file that can be read, found No such file"), "{error}");
    let error = Loader::new(&schemas).file("/no/such.ini").load().expect_err("must be refused").to_string();
    assert!(error.contains("another extension") && error.lines().count() == 1, "{error}");
}

#[test]
fn overrides_reach_the_typed_part_backends_and_apis() {
    let text = r#"{ "resources": { "big": { "backend": "vm", "config": { "poolSize": 1 } } } }"#;
    let env = [
        ("SANDBOX__SERVER__PORT", "9000"),
        ("SANDBOX__SERVER__LOG__FORMAT", "json"),
        ("SANDBOX__SERVER__WORKERS", "2"),
        ("SANDBOX__SERVER__TITLE", "123"),
        ("SANDBOX__RESOURCES__BIG__CONFIG__POOLSIZE", "3"),
        ("SANDBOX__RESOURCES__BIG__CONFIG__IMAGE", "1.0"),
        ("SANDBOX__RESOURCES__VM__CONFIG__ENABLEDSCREENS", "[true]"),
        ("SANDBOX__RESOURCES__VM__CONFIG__ENV__HTTP_PROXY", "p$$w${d"),
        ("SANDBOX__APIS__WEBSEARCH__SERPER_API_KEY", "0042"),
        ("SANDBOX__WARMUP__ENABLED", "off"),
        ("OTHER", "x"),
    ];
    let loaded = load(text, &env).expect("is right");
    let config = loaded.config;
    assert_eq!((config.server.port, config.server.workers, config.server.title.as_str()), (9000, Some(2), "123"));
    assert_eq!((config.server.log.format, config.warmup.enabled), (LogFormat::Json, false));
    assert_eq!(config.resources["big"].config, json!({ "poolSize": 3, "image": "1.0" }));
    assert_eq!(config.resources["vm"].config, json!({ "enabledScreens": [true], "env": { "HTTP_PROXY": "p$$w${d" } }));
    assert_eq!(config.apis["websearch"], json!({ "serper_api_key": "0042" }));
    assert_eq!(loaded.overrides.len(), 10);
}

#[test]
fn an_override_of_the_backend_decides_what_the_settings_are() {
    let text = r#"{ "resources": { "x": { "backend": "other", "config": {} } } }"#;
    let env = [("SANDBOX__RESOURCES__X__BACKEND", "vm"), ("SANDBOX__RESOURCES__X__CONFIG__POOLSIZE", "3")];
    assert_eq!(load(text, &env).expect("is right").config.resources["x"].config, json!({ "poolSize": 3 }));
    let text = r#"{ "resources": { "x": { "backend": "${B:-vm}", "config": { "pool": 1 } } } }"#;
    assert_eq!(
        errors(text, &[]),
        ["resources.x.config.pool: expected a known key, found an unknown one; did you mean `poolSize`?"]
    );
    assert!(load(text, &[("B", "other")]).is_ok(), "the registry knows what to say about an unknown backend");
    let text = r#"{ "resources": { "x": { "backend_class": "a.b.VMBackend", "config": { "pool": 1 } } } }"#;
    assert_eq!(errors(text, &[]).len(), 1);
}

#[test]
fn an_override_is_checked_like_the_file_and_named() {
    assert_eq!(
        errors("{}", &[("SANDBOX__SERVER__PORT", "99999"), ("SANDBOX__RESOURCES__VM__CONFIG__MODE", "slow")]),
        [
            "resources.vm.config.mode (set by SANDBOX__RESOURCES__VM__CONFIG__MODE): expected one of \"fast\", \"exact\", found string \"slow\"",
            "server.port (set by SANDBOX__SERVER__PORT): expected an integer at least 0 and at most 65535, found number 99999",
        ]
    );
    assert_eq!(
        errors("{}", &[("SANDBOX__APIS__WEBSERCH__X", "1")]),
        [
            "apis.WEBSERCH (set by SANDBOX__APIS__WEBSERCH__X): expected a known key, found an unknown one; did you mean SANDBOX__APIS__WEBSEARCH__X?"
        ]
    );
}

#[test]
fn variables_are_replaced_anywhere_and_take_the_type_of_their_key() {
    let text = r#"{
        "server": { "port": "${PORT}", "title": "${A}-$$-${B:-b}", "allow_shutdown": "${YES}", "workers": "${EMPTY}",
                    "allowed_hosts": ["${A}"], "allowed_origins": "${LIST}", "log": "${NO:-{\"level\": \"warn\"}}" },
        "resources": { "vm": { "enabled": "${YES}", "max_sessions": "${NO:-5}", "config": { "env": { "K": "${PORT}" } } } },
        "apis": { "fetch": { "description": "${A}", "allow_private": "${YES}" } }
    }"#;
    let env = [("PORT", "9000"), ("A", "a"), ("YES", "yes"), ("EMPTY", ""), ("LIST", r#"["https://x"]"#)];
    let config = load(text, &env).expect("is right").config;
    assert_eq!((config.server.port, config.server.title.as_str(), config.server.workers), (9000, "a-$-b", None));
    assert_eq!((config.server.allow_shutdown, config.server.log.level.as_str()), (true, "warn"));
    assert_eq!(
        (config.server.allowed_hosts, config.server.allowed_origins),
        (vec!["a".to_owned()], vec!["https://x".to_owned()])
    );
    assert_eq!(
        (config.resources["vm"].max_sessions, &config.resources["vm"].config),
        (5, &json!({ "env": { "K": "9000" } }))
    );
    assert_eq!(config.apis["fetch"], json!({ "description": "a", "allow_private": true }));
}

#[test]
fn a_missing_variable_is_named_with_its_place() {
    assert_eq!(
        errors(r#"{ "apis": { "websearch": { "serper_api_key": "${SERPER_API_KEY}" } } }"#, &[]),
        [
            "apis.websearch.serper_api_key: expected the environment variable SERPER_API_KEY to be set, found it is not; \
          set it, or give a default: ${SERPER_API_KEY:-default}"
        ]
    );
}

#[test]
fn a_disabled_resource_needs_nothing_and_still_is_listed() {
    let text = |enabled: &str| {
        format!(
            r#"{{ "resources": {{ "x": {{ "enabled": {enabled}, "backend": "vm", "tpyo": 1, "max_sessions": "${{NO}}",
                  "config": {{ "image": "${{NO}}", "pool": 1 }} }} }} }}"#
        )
    };
    for (enabled, env) in [
        ("false", None),
        ("\"${ON:-false}\"", None),
        ("\"${ON}\"", Some(("ON", "0"))),
        ("true", Some(("SANDBOX__RESOURCES__X__ENABLED", "no"))),
    ] {
        let mut env: Vec<_> = env.into_iter().collect();
        env.push(("SANDBOX__RESOURCES__X__CONFIG__NOPE", "1"));
        let config = load(&text(enabled), &env).unwrap_or_else(|errors| panic!("{enabled}: {errors}")).config;
        assert!(!config.resources["x"].enabled);
        assert_eq!(config.resources["x"].backend_name("x"), "vm");
    }
    assert_eq!(errors(&text("true"), &[]).len(), 4);
    assert_eq!(errors(&text("false"), &[("SANDBOX__RESOURCES__X__ENABLED", "on")]).len(), 4);
}

#[test]
fn an_unknown_section_of_apis_names_those_that_linked_tools_read() {
    assert_eq!(
        errors(r#"{ "apis": { "websarch": {}, "zzz": { "a": "${A:-}" }, "_off": { "b": "${B}" } } }"#, &[]),
        [
            "apis.websarch: expected a section that a linked tool reads, found one that none reads; \
             did you mean `websearch`? linked tools read: fetch, websearch",
            "apis.zzz: expected a section that a linked tool reads, found one that none reads; linked tools read: fetch, websearch",
        ]
    );
}

#[test]
fn the_rules_between_keys_hold_after_loading() {
    assert_eq!(
        errors(
            r#"{ "server": { "host": "0.0.0.0", "default_timeout_seconds": 10, "max_timeout_seconds": 5 },
                 "resources": { "vm": { "enabled": false }, "Big": {} }, "warmup": { "resources": ["vm", "rag"] } }"#,
            &[]
        )
        .iter()
        .map(|error| error.split(':').next().expect("is right"))
        .collect::<Vec<_>>(),
        [
            "server.tokens",
            "server.default_timeout_seconds",
            "resources.Big",
            "warmup.resources[0]",
            "warmup.resources[1]"
        ]
    );
    let open = r#"{ "server": { "host": "0.0.0.0", "tokens": ["${T}"] } }"#;
    let loaded = load(open, &[("T", "secret")]).expect("is right");
    assert_eq!(loaded.config.server.tokens, ["secret".parse().expect("is right")]);
    assert_eq!(
        errors(open, &[("T", "")]),
        ["server.tokens[0]: expected a token or `sha256:` and 64 hex digits, found an empty string"]
    );
}

#[test]
fn a_wrong_token_or_warmup_hides_no_other_fault() {
    let text = r#"{ "server": { "tokens": ["", "good", "sha256:zz"], "log": { "level": "loud" }, "allowed_origins": ["x"],
                                "default_timeout_seconds": 10, "max_timeout_seconds": 5 },
                    "resources": { "vm": { "max_sessoins": 1 } }, "warmup": { "resources": "vm" } }"#;
    let found = errors(text, &[]);
    let mut places: Vec<_> = found.iter().map(|error| error.split(':').next().expect("is right")).collect();
    places.sort_unstable();
    assert_eq!(
        places,
        [
            "resources.vm.max_sessoins",
            "server.allowed_origins[0]",
            "server.default_timeout_seconds",
            "server.log.level",
            "server.tokens[0]",
            "server.tokens[2]",
            "warmup.resources",
        ],
        "{found:?}"
    );
    assert_eq!(errors(r#"{ "resources": [], "warmup": { "resources": ["vm"] } }"#, &[]).len(), 1);
}

#[test]
fn what_is_right_is_handed_out_beside_the_errors() {
    let text = r#"{
        "server": { "prot": 1, "title": "Mine" }, "warmup": { "resources": ["vm", "odd"] },
        "resources": { "vm": { "max_sessoins": 1, "config": { "poolSize": "x", "image": "i" } }, "odd": { "backend": 5 },
                       "Big": {}, "off": { "enabled": "perhaps" }, "other": { "backend": "nothing" } }
    }"#;
    let (loaded, errors) = Loader::new(&Fixture::new()).text(text, FileFormat::Json).load_what_is_right();
    assert_eq!(errors.expect("there are some").0.len(), 6);
    let config = loaded.config;
    assert_eq!((config.server.title.as_str(), config.warmup.resources), ("Mine", None));
    assert_eq!(config.resources.keys().collect::<Vec<_>>(), ["other", "vm"]);
    assert_eq!(config.resources["vm"].config, json!({ "image": "i" }));
}

#[test]
fn a_setting_of_the_backend_beside_its_config_is_sent_inside() {
    assert_eq!(
        errors(r#"{ "resources": { "vm": { "poolSize": 1 } } }"#, &[]),
        ["resources.vm.poolSize: expected a known key, found an unknown one; did you mean `config.poolSize`?"]
    );
}

#[test]
fn all_errors_come_together_and_show_no_secret() {
    let text = r#"{
        "server": { "prot": 1, "port": "x", "tokens": ["sha256:topsecret"], "workers": 0 },
        "resources": { "vm": { "backend": "vm", "config": { "poolSize": "topsecret", "root": { "children": [{ "lable": 1 }] } } },
                       "a__b": { "required": "topsecret ${S} ${NO}" } },
        "apis": { "websearch": { "serper_api_key": 42, "max_results": "${S}" }, "fetch": { "allow_private": "topsecret${" }, "nope": {} },
        "warmup": { "resources": ["zz"] }, "sever": {}
    }"#;
    let text = text.replace("\"poolSize\": \"topsecret\"", "\"poolSize\": \"${S}\"");
    let found = errors(
        &text,
        &[("S", "topsecret"), ("SANDBOX__SERVER__TOKENZ", "topsecret"), ("SANDBOX__WARMUP__ENABLED", "maybe")],
    );
    let mut places: Vec<_> = found.iter().map(|error| error.split([':', ' ']).next().expect("is right")).collect();
    places.sort_unstable();
    assert_eq!(
        places,
        [
            "apis.fetch.allow_private",
            "apis.nope",
            "apis.websearch.max_results",
            "apis.websearch.serper_api_key",
            "resources.a__b",
            "resources.a__b.required",
            "resources.vm.config.poolSize",
            "resources.vm.config.root.children[0].lable",
            "server.TOKENZ",
            "server.port",
            "server.prot",
            "server.tokens[0]",
            "server.workers",
            "sever",
            "warmup.enabled",
            "warmup.resources[0]",
        ],
        "{}",
        found.join("\n")
    );
    let all = found.join("\n");
    assert!(!all.contains("topsecret") && !all.contains("42"), "{all}");
    assert!(all.contains("sever: expected a known key, found an unknown one; did you mean `server`?"), "{all}");
}

#[test]
fn sections_of_the_wrong_shape_are_errors_and_no_panic() {
    for (text, place) in [
        (r#"{ "server": 5 }"#, "server: expected an object"),
        (r#"{ "resources": [] }"#, "resources: expected an object"),
        (r#"{ "resources": { "vm": null } }"#, "resources.vm: expected an object, found null"),
        (r#"{ "resources": { "vm": { "config": [] } } }"#, "resources.vm.config: expected an object"),
        (
            r#"{ "resources": { "x": { "backend": 5, "config": 5 } } }"#,
            "resources.x.backend: expected a string or null",
        ),
        (r#"{ "apis": { "fetch": true } }"#, "apis.fetch: expected an object"),
        (r#"{ "warmup": "" }"#, "warmup: expected an object"),
    ] {
        let found = errors(text, &[]);
        assert!(
            found[0].starts_with(place) && found.len() == 1 + usize::from(text.contains("config\": 5")),
            "{text}: {found:?}"
        );
        // An override of something inside finds the same.
        let env = [("SANDBOX__SERVER__LOG__LEVEL", "warn"), ("SANDBOX__RESOURCES__VM__CONFIG__IMAGE", "x")];
        let place = place.split_once(':').expect("is right").0;
        if !text.contains("null") {
            assert!(errors(text, &env).iter().any(|error| error.starts_with(place)), "{text}");
        }
    }
}

#[test]
fn a_rule_between_keys_is_not_held_against_a_key_that_could_not_be_read() {
    let text = r#"{ "server": { "host": "0.0.0.0", "tokens": ["${NO}"], "max_timeout_seconds": "x", "default_timeout_seconds": 9999 } }"#;
    assert_eq!(errors(text, &[]).len(), 2);
    assert_eq!(errors(r#"{ "warmup": { "resources": ["${NO}"] } }"#, &[]).len(), 1);
    let text = r#"{ "server": { "host": "0.0.0.0", "prot": 1 } }"#;
    assert_eq!(errors(text, &[]).len(), 2, "both the unknown key and the missing token");
}
