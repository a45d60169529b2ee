//! Documents that follow from the code: `UPDATE_GOLDEN=1` writes them anew.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use sandbox_client::types::{
    BatchRequest, BatchResult, CancelRun, CreateSession, CreatedSession, DestroySession, DestroyedSession,
    Disconnected, Envelope, ErrorCode, ExecuteRequest, GapEvent, Health, Heartbeat, InitBatch, InitResource, ItemEvent,
    OutputEvent, ProgressEvent, Ready, RefreshAnswer, RefreshSessions, ResourceInfo, RunInfo, SessionList,
    ShutdownBegun, ShutdownRequest, StartEvent, ToolInfo, WarmupAnswer, WarmupRequest, WarmupStatus, WorkerRequest,
    WorkerStatus,
};
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::{golden::is_as_accepted, harness::Server};

const INTRODUCTION: &str = "\
# HTTP API

Written by `just golden` from the types of `sandbox-types`; change those. JSON over HTTP, by default at
`http://127.0.0.1:18890`. A body needs `Content-Type: application/json`; with `server.tokens`, everything but `GET /health`
and the bare status of `GET /ready` needs `Authorization: Bearer <token>`. Every route is also there under `/api/v1`; those
of older clients are written with it, and only there. Where **data** is said, the answer is an [envelope](#envelope), on success with that in its
field `data`; where **answer**, it is the body itself. Every failure of every route is an envelope, with the HTTP status of
its [code](#error-codes). A field that is not known is ignored, and named in `meta.warnings`; `null` is as good as absent.
Times are RFC 3339.
";

const STREAMS: &str = "\
## Streams

With `Accept: text/event-stream`, `/execute` and `/execute/batch` answer a stream of server-sent events, as
`/runs/{id}/events` does: each has an `id`, an `event` and `data`, a JSON object. `start` comes first; `result`, or `error`,
comes last, and its data is the [envelope](#envelope). A comment each ten seconds shows that the connection lives. A stream
that broke is joined again at `/runs/{id}/events` with `Last-Event-ID`, or by the same request with its `idempotency_key`.
";

const TRANSFERS: &str = "\
## Uploads and downloads

A tool with a parameter of the type `ByteStream` takes it as the body of `POST /execute/{tool}`, raw, or as the part of
`multipart/form-data` that has the parameter's name; the other parameters come from the query, or from a part `request` before
it; a tool that returns one answers the bytes. In the JSON of `/execute` an upload is a base64 string, and a download
`{content, content_type, file_name, length, sha256}` with base64 in `content`. `GET` is for tools marked `read_only`, with `Range`, `If-Range` and `If-None-Match`.

| header | does what this field of `/execute` does |
|---|---|
| `X-Worker-ID` | `worker_id` |
| `X-Session`, `X-Session-ID`, `X-Session-Mode` | `session`, `session_id`, `session_mode` |
| `X-Timeout-Seconds` | `timeout` |
| `X-Trace-ID` | `trace_id` |
| `Content-Digest: sha-256=:..:` | the upload must have this digest |
";

/// A route, and what goes in and out.
struct Route {
    method: &'static str,
    /// The first one is the plain one.
    paths: &'static [&'static str],
    does: &'static str,
    takes: Option<Shape>,
    data: bool,
    gives: Option<Shape>,
}

struct Shape {
    name: &'static str,
    schema: fn(&mut SchemaGenerator) -> schemars::Schema,
}

fn shape<T: JsonSchema>(name: &'static str) -> Option<Shape> {
    Some(Shape { name, schema: SchemaGenerator::subschema_for::<T> })
}

fn route(method: &'static str, paths: &'static [&'static str], does: &'static str) -> Route {
    Route { method, paths, does, takes: None, data: false, gives: None }
}

impl Route {
    fn takes<T: JsonSchema>(self, name: &'static str) -> Self {
        Self { takes: shape::<T>(name), ..self }
    }

    fn data<T: JsonSchema>(self, name: &'static str) -> Self {
        Self { data: true, gives: shape::<T>(name), ..self }
    }

    fn answers<T: JsonSchema>(self, name: &'static str) -> Self {
        Self { gives: shape::<T>(name), ..self }
    }
}

fn groups() -> Vec<(&'static str, Vec<Route>)> {
    vec![
        (
            "Tools",
            vec![
                route("POST", &["/execute"], "Runs a tool; the data is its result. 202 for a detached call, whose data is the [run](#runinfo).").takes::<ExecuteRequest>("ExecuteRequest"),
                route("POST", &["/execute/batch"], "Runs several tools, one after the other or all at once; 207 where some failed.").takes::<BatchRequest>("BatchRequest").data::<BatchResult>("BatchResult"),
                route("POST, GET", &["/execute/{tool}"], "Runs a tool with its upload as the body, its download as the answer: [uploads and downloads](#uploads-and-downloads)."),
                route("GET", &["/tools"], "Lists the tools. Query: `resource_type`, `group`, `names` (separated by commas), `include_hidden`. Answer: `{count, tools, facts}`, the tools each as here, the facts by resource.").answers::<ToolInfo>("ToolInfo"),
                route("GET", &["/tools/{name}/schema"], "One tool, by any of its names.").answers::<ToolInfo>("ToolInfo"),
            ],
        ),
        (
            "Runs",
            vec![
                route("GET", &["/runs"], "The worker's calls, the latest first: those that run, and for ten minutes those that ended, but for plain ones of one tool that never had to wait. The worker is named by `X-Worker-ID` or `?worker_id=`, here and below. Data: `{worker_id, count, runs}`.").data::<RunInfo>("RunInfo"),
                route("GET", &["/runs/{id}"], "How far one is, and its answer; `?wait_seconds=` waits for its end, 60 at most.").data::<RunInfo>("RunInfo"),
                route("GET", &["/runs/{id}/events"], "Its events, after `Last-Event-ID`: a [stream](#streams)."),
                route("POST", &["/runs/{id}/cancel"], "Asks it to end. Data: the run, and `cancelled`, whether it still ran.").takes::<CancelRun>("CancelRun").data::<RunInfo>("RunInfo"),
            ],
        ),
        (
            "Sessions",
            vec![
                route("POST", &["/session/create"], "Makes a session, or finds the one that is there.").takes::<CreateSession>("CreateSession").data::<CreatedSession>("CreatedSession"),
                route("POST", &["/session/destroy"], "Ends a session; its cleanup goes on behind.").takes::<DestroySession>("DestroySession").data::<DestroyedSession>("DestroyedSession"),
                route("POST", &["/session/list"], "The worker's sessions.").takes::<WorkerRequest>("WorkerRequest").data::<SessionList>("SessionList"),
                route("POST", &["/session/refresh"], "Begins the time to live of one session, or of all, anew.").takes::<RefreshSessions>("RefreshSessions").data::<RefreshAnswer>("RefreshAnswer"),
                route("POST", &["/init/resource"], "`/session/create` in the words of older clients. Data: `{session_id, session_name, resource_type, session_status, error}`.").takes::<InitResource>("InitResource"),
                route("POST", &["/init/batch"], "Makes several sessions; what failed is told beside what did not. Data: `{worker_id, results: {resource: {status, session_id, session_status, error}}, total, success_count}`.").takes::<InitBatch>("InitBatch"),
                route("POST", &["/init/from-config"], "Refused (4013): the server reads no files for clients."),
            ],
        ),
        (
            "Workers",
            vec![
                route("POST", &["/heartbeat", "/lifecycle/heartbeat"], "The worker is alive: the time to live of all its sessions begins anew.").takes::<WorkerRequest>("WorkerRequest").data::<Heartbeat>("Heartbeat"),
                route("POST", &["/status", "/lifecycle/status"], "What the worker has.").takes::<WorkerRequest>("WorkerRequest").data::<WorkerStatus>("WorkerStatus"),
                route("POST", &["/worker/disconnect"], "Ends every session of the worker, and the calls on them.").takes::<WorkerRequest>("WorkerRequest").data::<Disconnected>("Disconnected"),
            ],
        ),
        (
            "The server",
            vec![
                route("GET", &["/health"], "That the server is there, and what it is able to.").answers::<Health>("Health"),
                route("GET", &["/ready"], "Whether it takes calls; 503 where not.").answers::<Ready>("Ready"),
                route("GET", &["/resources"], "What runs, and its limits. Answer: `{count, resources}`.").answers::<ResourceInfo>("ResourceInfo"),
                route("POST", &["/warmup"], "Gets resources ready; the body may be left out.").takes::<WarmupRequest>("WarmupRequest").answers::<WarmupAnswer>("WarmupAnswer"),
                route("GET", &["/warmup/status"], "How far each resource is.").answers::<WarmupStatus>("WarmupStatus"),
                route("POST", &["/shutdown", "/server/shutdown"], "Ends the server, if `server.allow_shutdown` is true; the body may be left out.").takes::<ShutdownRequest>("ShutdownRequest").answers::<ShutdownBegun>("ShutdownBegun"),
            ],
        ),
    ]
}

/// A table of the fields of an object.
fn fields(schema: &Value, out: &mut String) {
    let Some(properties) = schema["properties"].as_object() else { return };
    if properties.is_empty() {
        return;
    }
    out.push_str("\n| field | type | |\n|---|---|---|\n");
    rows(schema, "", out);
}

fn rows(schema: &Value, prefix: &str, out: &mut String) {
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let needed = if required.iter().any(|one| one == name) { "" } else { "?" };
        let default = match &field["default"] {
            Value::Null => String::new(),
            default => format!(" Default: `{default}`."),
        };
        let says = text(field).replace('|', "\\|");
        writeln!(out, "| `{prefix}{name}`{needed} | {} | {says}{default} |", kind(field)).unwrap();
        // What has no name of its own stands here.
        rows(field, &format!("{prefix}{name}."), out);
        rows(&field["items"], &format!("{prefix}{name}[]."), out);
        rows(&field["additionalProperties"], &format!("{prefix}{name}.*."), out);
    }
}

/// What a schema says in words, on one line.
fn text(schema: &Value) -> String {
    let says = schema["description"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    // Links of the source lead nowhere here.
    let says = says.replace("](crate::ExecuteRequest)", "]").replace("[`", "`").replace("`]", "`");
    let variants = schema["oneOf"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| Some(format!("`{}`: {}", one["const"].as_str()?, text(one).trim_end_matches('.'))));
    let variants = variants.collect::<Vec<_>>().join("; ");
    if variants.is_empty() { says } else { format!("{says} {variants}.") }
}

/// The type of a value, in words.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    let options = |key: &str| schema[key].as_array().cloned().unwrap_or_default();
    // A text that names a variable may stand for any value.
    let is_variable = |option: &&Value| option["pattern"] == r"\$\{";
    let any = options("anyOf");
    let any: Vec<_> =
        any.iter().filter(|option| !is_variable(option)).map(kind).filter(|kind| kind != "null").collect();
    if !any.is_empty() {
        return any.join(" or ");
    }
    if !options("oneOf").is_empty() {
        return "string".to_owned();
    }
    let name = match &schema["type"] {
        Value::String(one) => one.clone(),
        Value::Array(many) => {
            many.iter().filter_map(Value::as_str).filter(|one| *one != "null").collect::<Vec<_>>().join(" or ")
        }
        _ => "any".to_owned(),
    };
    let allowed: Vec<_> = options("enum").iter().filter_map(Value::as_str).map(|one| format!("`{one}`")).collect();
    if !allowed.is_empty() {
        return allowed.join(", ");
    }
    let bound = |key: &str| schema[key].as_f64();
    let least = bound("minimum").map(|least| format!("at least {least}"));
    let above = bound("exclusiveMinimum").map(|least| format!("above {least}"));
    let most = bound("maximum").filter(|most| *most < 1e15).map(|most| format!("at most {most}"));
    // Of every unsigned number.
    let bounds: Vec<_> = [least, above, most].into_iter().flatten().filter(|bound| bound != "at least 0").collect();
    if !bounds.is_empty() {
        return format!("{name}, {}", bounds.join(", "));
    }
    match name.as_str() {
        "array" => format!("array of {}", kind(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("object of {}", kind(&schema["additionalProperties"]))
        }
        _ => name,
    }
}

fn http_api() -> String {
    // By what is sent, and without the `$schema` of each.
    let mut generator = SchemaSettings::draft2020_12().for_deserialize().into_generator();
    let mut out = INTRODUCTION.to_owned();
    let mut named: BTreeMap<&str, Value> = BTreeMap::new();
    for (group, routes) in groups() {
        writeln!(out, "\n## {group}\n\n| route | | takes | gives |\n|---|---|---|---|").unwrap();
        for route in routes {
            let paths = route.paths.iter().map(|path| {
                let only_v1 = ["/init/", "/lifecycle/", "/server/"].iter().any(|begin| path.starts_with(begin));
                format!("`{}{path}`", if only_v1 { "/api/v1" } else { "" })
            });
            let paths = paths.collect::<Vec<_>>().join(", ");
            let mut link = |shape: &Option<Shape>| {
                shape.as_ref().map_or(String::new(), |shape| {
                    let schema = (shape.schema)(&mut generator);
                    named.insert(shape.name, schema.to_value());
                    format!("[{0}](#{1})", shape.name, shape.name.to_lowercase())
                })
            };
            let (takes, gives) = (link(&route.takes), link(&route.gives));
            let how = match (gives.is_empty(), route.data) {
                (true, _) => "",
                (false, true) => "data: ",
                (false, false) => "answer: ",
            };
            writeln!(out, "| {} {paths} | {} | {takes} | {how}{gives} |", route.method, route.does).unwrap();
        }
    }
    writeln!(out, "\n{STREAMS}\n| event | data |\n|---|---|").unwrap();
    let events = [
        ("start", shape::<StartEvent>("StartEvent")),
        ("output", shape::<OutputEvent<'_>>("OutputEvent")),
        ("progress", shape::<ProgressEvent<'_>>("ProgressEvent")),
        ("item", shape::<ItemEvent>("ItemEvent")),
        ("gap", shape::<GapEvent>("GapEvent")),
    ];
    for (event, shape) in events {
        let shape = shape.unwrap();
        named.insert(shape.name, (shape.schema)(&mut generator).to_value());
        writeln!(out, "| `{event}` | [{0}](#{1}) |", shape.name, shape.name.to_lowercase()).unwrap();
    }
    named.insert("Envelope", generator.subschema_for::<Envelope>().to_value());
    out.push('\n');
    out.push_str(TRANSFERS);
    out.push_str("\n## Types\n\n`?` marks a field that may be left out.\n");
    let definitions: Map<String, Value> = generator.take_definitions(true).into_iter().collect();
    let mut shown: BTreeMap<String, &Value> = definitions.iter().map(|(name, schema)| (name.clone(), schema)).collect();
    for (name, schema) in &named {
        let inline = schema.get("$ref").is_none();
        if inline {
            shown.insert((*name).to_owned(), schema);
        }
    }
    for (name, schema) in shown {
        writeln!(out, "\n### {name}\n\n{}", text(schema)).unwrap();
        let options: Vec<_> = schema["anyOf"].as_array().into_iter().flatten().map(kind).collect();
        if !options.is_empty() {
            writeln!(out, "\nOne of {}.", options.join(", ")).unwrap();
        }
        fields(schema, &mut out);
    }
    out.push_str("\n## Error codes\n\n| code | name | HTTP | may help to try again | means |\n|---|---|---|---|---|\n");
    for code in ErrorCode::ALL {
        let again = if code.retryable() { "yes" } else { "" };
        let (number, name, status) = (code.number(), code.name(), code.http_status());
        writeln!(out, "| {number} | {name} | {status} | {again} | {} |", code.description()).unwrap();
    }
    out
}

#[test]
fn golden_http_api() {
    is_as_accepted("docs/http-api.md", &http_api());
}

#[test]
fn every_route_is_described_and_every_described_route_is_there() {
    let source = include_str!("../../sandbox-runtime/src/server/routes.rs");
    let mounted: Vec<_> = ["post(\"", "get(\"", "call(\""]
        .iter()
        .flat_map(|begin| source.split(begin).skip(1).filter_map(|rest| rest.split('"').next()))
        .filter(|path| path.starts_with('/'))
        .collect();
    assert!(mounted.len() > 20, "{mounted:?}");
    let described: Vec<_> = groups().into_iter().flat_map(|(_, routes)| routes).collect();
    for path in &mounted {
        assert!(described.iter().any(|route| route.paths.contains(path)), "{path} is not in docs/http-api.md");
    }
    let server = Server::probe();
    for route in described {
        for path in route.paths {
            let path = path.replace("{tool}", "probe:say").replace("{name}", "probe:free").replace("{id}", "run_x");
            let method = route.method.split(',').next().unwrap();
            let reply = server.raw(method, &format!("/api/v1{path}"), &[("Content-Type", "application/json")], b"{}");
            let absent = reply.body["message"].as_str().is_some_and(|message| message.contains("there is no route"));
            assert!(!absent && reply.status != 405, "{method} {path}: {reply:?}");
        }
    }
}

/// The first block of a language in a document.
fn sample(document: &str, language: &str) -> String {
    let block = document.split(&format!("```{language}\n")).nth(1).unwrap();
    block.split("```").next().unwrap().to_owned()
}

#[test]
fn the_samples_of_usage_run() {
    let server = Server::start(&json!({ "resources": { "bash": {} } }));
    let python = sample(include_str!("../../docs/usage.md"), "python");
    let python = python.replace("http://127.0.0.1:18890", &format!("http://{}", server.address));
    let output = std::process::Command::new("/usr/bin/python3").args(["-c", &python]).output().unwrap();
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(said.starts_with("/tmp\n42\n") && said.contains("4000"), "{output:?}");
    assert!(said.contains("['command']"), "{said}");
}

/// What the compiler says of each mistake: the message and the line that it points at.
fn macro_errors() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sandbox-macros/tests/ui");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "stderr"));
    files.sort();
    let mut rows = BTreeMap::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for block in text.split("\n\n") {
            let Some(message) = block.strip_prefix("error").and_then(|rest| rest.split_once(": ")) else { continue };
            let message = message.1.lines().next().unwrap();
            // `10 |     async fn ..`, the first line that is shown of the source.
            let shown = block.lines().find_map(|line| {
                let (number, code) = line.split_once('|')?;
                number.trim().parse::<u32>().ok().map(|_| code.trim())
            });
            rows.entry(message.to_owned()).or_insert_with(|| shown.unwrap_or_default().to_owned());
        }
    }
    let mut out =
        "# What the macros say\n\nWritten by `just golden` from the tests of `sandbox-macros`: each message, and \
                   the line that it points at.\n\n| the compiler says | of |\n|---|---|\n"
            .to_owned();
    for (message, line) in rows {
        let code = if line.is_empty() { String::new() } else { format!("`` {} ``", line.replace('|', "\\|")) };
        writeln!(out, "| {} | {code} |", message.replace('|', "\\|").replace('<', "&lt;")).unwrap();
    }
    out
}

#[test]
fn golden_macro_errors() {
    is_as_accepted("docs/macro-errors.md", &macro_errors());
}

/// The keys of an object of the configuration, with their defaults.
fn keys(schema: &Value, definitions: &Value, prefix: &str, out: &mut String) {
    for (name, key) in schema["properties"].as_object().into_iter().flatten() {
        let key = match key["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
            Some(definition) => {
                let mut whole = definitions[definition].clone();
                // What stands beside the reference says more of this key.
                for (word, value) in key.as_object().into_iter().flatten().filter(|(word, _)| *word != "$ref") {
                    whole[word] = value.clone();
                }
                whole
            }
            None => key.clone(),
        };
        let name = format!("{prefix}{name}");
        if key["properties"].is_object() {
            keys(&key, definitions, &format!("{name}."), out);
            continue;
        }
        let default = match &key["default"] {
            Value::Null => "none".to_owned(),
            default => format!("`{default}`"),
        };
        // Its words end with the default too.
        let says = text(&key).replace('|', "\\|");
        let says = says.split(" Default: ").next().unwrap_or_default();
        writeln!(out, "| `{name}` | {} | {default} | {says} |", kind(&key)).unwrap();
    }
}

#[test]
fn golden_configuration_keys() {
    let schema: Value = serde_json::from_str(include_str!("../../config/sandbox.schema.json")).unwrap();
    let (definitions, table) = (&schema["$defs"], "\n| key | type | default | |\n|---|---|---|---|\n");
    let mut out = String::new();
    for (section, what) in [("server", "### `server`"), ("warmup", "### `warmup`")] {
        write!(out, "\n{what}\n{table}").unwrap();
        let wrapped = json!({ "properties": { section: schema["properties"][section] } });
        keys(&wrapped, definitions, "", &mut out);
    }
    write!(out, "\n### `resources.<name>`\n{table}").unwrap();
    let resource = &schema["properties"]["resources"]["additionalProperties"];
    keys(&json!({ "properties": { "<name>": resource } }), definitions, "resources.", &mut out);
    let sections = [
        ("backend.bash", "resources.bash.config"),
        ("api.fetch", "apis.fetch"),
        ("api.websearch", "apis.websearch"),
        ("api.text2sql", "apis.text2sql"),
        ("api.doc", "apis.doc"),
        ("api.ds", "apis.ds"),
    ];
    for (definition, section) in sections {
        write!(out, "\n### `{section}`\n{table}").unwrap();
        keys(&definitions[definition], definitions, &format!("{section}."), &mut out);
    }
    let path = "docs/deploying.md";
    let (begin, end) = ("<!-- written by just golden -->\n", "<!-- end -->");
    let whole = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap();
    let (before, rest) = whole.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    is_as_accepted(path, &format!("{before}{begin}{out}\n{end}{after}"));
}
