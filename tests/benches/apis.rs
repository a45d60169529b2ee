//! What the API tools cost over the crates and drivers that they stand on.
//!
//! `cargo bench -p sandbox-tests --bench apis [-- ROUNDS]`. A page server in this process; the server under test is a process of
//! its own. Visits against fetching and reading the same page here with the same crates, in turn; 200 visits at once and the
//! memory of the server with its reading processes; queries against the same queries on a connection of the driver's; documents
//! and data files against the same work by the same crates here.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark program"
)]

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use dom_query::Document;
use dom_smoothie::Readability;
use parquet::{
    data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type},
    file::reader::{FileReader as _, SerializedFileReader},
};
use sandbox_backends as _;
use sandbox_runtime::linked::Linked;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

#[path = "process.rs"]
mod process;

use process::Process;

const AT_ONCE: usize = 200;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.iter().any(|arg| arg == "--serve") {
        let config = serde_json::from_str(&std::env::var("CONFIG").unwrap()).unwrap();
        return process::serve(config, Linked::discover());
    }
    let rounds = args.iter().find_map(|arg| arg.parse::<usize>().ok()).unwrap_or(40);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    visits(&runtime, rounds);
    at_once(&runtime);
    let folder = tempfile::tempdir().unwrap();
    queries(&runtime, folder.path(), rounds * 25);
    files(&runtime, folder.path(), rounds);
}

fn start(apis: &Value) -> Process {
    let config = json!({ "server": { "port": 0 }, "apis": apis }).to_string();
    Process::start("apis", &[("CONFIG", config.as_ref())])
}

/// Pages of about 280 kB: an article with its frame, and a manual that is no article.
fn pages() -> [(&'static str, String); 2] {
    let words = "The quick brown fox, which nobody had seen for days, jumps over the lazy dog and into the river. ";
    let mut article = "<html><head><title>A long story</title></head><body><nav>".to_owned();
    for link in 0..400 {
        write!(article, "<li class=menu-item><a class='nav-link' href='/section/{link}'>Section {link}</a></li>")
            .unwrap();
    }
    article.push_str("</nav><article><h1>A long story</h1>");
    for part in 0..500 {
        let text = words.repeat(5);
        write!(article, "<p class='text part-{part}'>{text}<a href='../see/{part}'>See {part}</a>.</p>").unwrap();
    }
    article.push_str("</article><footer>Imprint</footer></body></html>");
    let mut manual = "<html><head><title>Options</title></head><body><nav><a href=/>Home</a></nav><table>".to_owned();
    for option in 0..1500 {
        write!(
            manual,
            "<tr id='o{option}'><td><code>--option-{option}</code></td><td>What option {option} does, and why one would \
             want that. See <a href='#o{option}'>there</a>.</td><td><pre>tool --option-{option} file</pre></td></tr>"
        )
        .unwrap();
    }
    manual.push_str("</table></body></html>");
    [("article", article), ("manual", manual)]
}

/// Serves the pages by their names, whatever the query.
fn site(pages: Vec<(&'static str, String)>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let pages = Arc::new(pages);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (mut stream, pages) = (stream, pages.clone());
            thread::spawn(move || {
                let mut head = [0; 4096];
                let read = stream.read(&mut head).unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                let (_, page) = pages.iter().find(|(name, _)| head.contains(&format!("/{name}"))).unwrap();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nConnection: \
                     close\r\n\r\n{page}",
                    page.len()
                );
                let _ = stream.write_all(answer.as_bytes());
            });
        }
    });
    address
}

/// The same page with the same crates, and nothing around them.
async fn fetch_and_parse(client: &reqwest::Client, url: &str) -> usize {
    let html = client.get(url).send().await.unwrap().text().await.unwrap();
    let page = Document::from(html.as_str());
    let text = page.body().unwrap().normalized_char_count();
    let article = Readability::with_document(page.clone(), Some(url), None).unwrap().parse();
    match article {
        Ok(article) if article.length * 10 >= text * 3 => Document::from(article.content).md(None).len(),
        _ => page.md(Some(&["script", "style", "nav", "footer"])).len(),
    }
}

async fn call(client: &reqwest::Client, server: &Process, tool: &str, params: &Value) -> (String, Duration) {
    let body = json!({ "worker_id": "bench", "action": tool, "params": params }).to_string();
    let started = Instant::now();
    let request = client.post(format!("http://{}/execute", server.address)).header("Content-Type", "application/json");
    let text = request.body(body).send().await.unwrap().text().await.unwrap();
    let time = started.elapsed();
    assert!(text.starts_with("{\"success\":true"), "{}", &text[..text.len().min(500)]);
    (text, time)
}

/// p10, median, least and most, in milliseconds.
fn spread(times: &mut [f64]) -> [f64; 4] {
    times.sort_by(f64::total_cmp);
    [times[times.len() / 10], times[times.len() / 2], times[0], times[times.len() - 1]]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn visits(runtime: &Runtime, rounds: usize) {
    let pages = pages();
    let address = site(pages.to_vec());
    let server = start(&json!({ "websearch": {
        "allow_private": [address.to_string()], "cache_seconds": 0, "content_limit": 2_000_000
    } }));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    println!("{rounds} interleaved rounds\n");
    println!(
        "| page | fetch + parse, p10 (ms) | median (min-max) | web:visit, p10 (ms) | median (min-max) | ratio of p10 (goal 1.3) | of medians |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (name, page) in &pages {
        let url = format!("http://{address}/{name}");
        let (mut alone, mut ours) = (Vec::new(), Vec::new());
        for round in 0..=rounds {
            let started = Instant::now();
            let length = runtime.block_on(fetch_and_parse(&client, &url));
            let took = started.elapsed();
            let (text, visit) = runtime.block_on(call(&client, &server, "web:visit", &json!({ "url": url })));
            assert!(text.len() > length * 9 / 10, "{} of {length}", text.len());
            // The first is for connections, and for the start of a reading process.
            if round > 0 {
                alone.push(ms(took));
                ours.push(ms(visit));
            }
        }
        let ([a10, a50, a0, a100], [v10, v50, v0, v100]) = (spread(&mut alone), spread(&mut ours));
        println!(
            "| {name}, {} kB | {a10:.2} | {a50:.2} ({a0:.2}-{a100:.2}) | {v10:.2} | {v50:.2} ({v0:.2}-{v100:.2}) | {:.2} | {:.2} |",
            page.len() / 1000,
            v10 / a10,
            v50 / a50
        );
    }
}

/// RSS of a process, in KiB: `VmRSS` or `VmHWM`.
fn memory(id: u32, what: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap_or_default();
    line.trim_matches([':', ' ', '\t', 'k', 'B']).trim().parse().unwrap_or(0)
}

/// Children of a process.
fn children(id: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten() {
        let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(list.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
    }
    found
}

fn at_once(runtime: &Runtime) {
    let address = site(pages().to_vec());
    let server = start(&json!({ "websearch": {
        "allow_private": [address.to_string()], "per_host": AT_ONCE, "content_limit": 2_000_000
    } }));
    let idle = memory(server.id(), "VmRSS");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let urls: Vec<_> =
        (0..AT_ONCE).map(|index| format!("http://{address}/{}?{index}", ["article", "manual"][index % 2])).collect();
    let started = Instant::now();
    runtime.block_on(async {
        let local = tokio::task::LocalSet::new();
        let (client, server) = (std::rc::Rc::new(client), std::rc::Rc::new(&server));
        local
            .run_until(async {
                let calls: Vec<_> = urls
                    .iter()
                    .map(|url| {
                        let (client, server) = (client.clone(), server.clone());
                        async move { call(&client, &server, "web:visit", &json!({ "url": url })).await }
                    })
                    .collect();
                futures_util::future::join_all(calls).await;
            })
            .await;
    });
    let took = started.elapsed();
    let readers: Vec<u64> = children(server.id()).into_iter().map(|id| memory(id, "VmHWM")).collect();
    let peak = memory(server.id(), "VmHWM");
    let sum = (peak + readers.iter().sum::<u64>()) / 1024;
    println!(
        "\n{AT_ONCE} visits at once, all different: {:.2} s; RSS of the server {} MiB idle, {} MiB at most, of its {} reading \
        processes {:?} MiB at most; together {sum} MiB (goal 200)",
        took.as_secs_f64(),
        idle / 1024,
        peak / 1024,
        readers.len(),
        readers.iter().map(|kib| kib / 1024).collect::<Vec<_>>()
    );
}

fn queries(runtime: &Runtime, folder: &Path, rounds: usize) {
    let file = folder.join("shop.db");
    let alone = rusqlite::Connection::open(&file).unwrap();
    alone
        .execute_batch(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, name TEXT, total REAL);
             WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 10000)
             INSERT INTO orders SELECT n, 'customer ' || n, n * 1.5 FROM c;",
        )
        .unwrap();
    let mut databases = json!({ "file": file });
    let url = std::env::var("POSTGRES_URL").ok();
    if let Some(url) = &url {
        databases["server"] = url.as_str().into();
    }
    let server = start(&json!({ "text2sql": { "databases": databases, "allow_superuser": true } }));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    println!("\n{rounds} interleaved rounds\n");
    println!(
        "| query | driver, p10 (us) | median (min-max) | sql:execute in the server, p10 (us) | median (min-max) | over the driver, p10 (goal 100) | median | with HTTP, p10 |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let cases = [
        ("SQLite, 1 row", "SELECT id, name, total FROM orders WHERE id = 77"),
        ("SQLite, 100 rows", "SELECT id, name, total FROM orders LIMIT 100"),
    ];
    for (name, query) in cases {
        let driver = || {
            let mut statement = alone.prepare(query).unwrap();
            let mut rows = statement.query([]).unwrap();
            let mut out = Vec::new();
            while let Some(row) = rows.next().unwrap() {
                out.push(json!([
                    row.get::<_, i64>(0).unwrap(),
                    row.get::<_, String>(1).unwrap(),
                    row.get::<_, f64>(2).unwrap()
                ]));
            }
            serde_json::to_string(&out).unwrap().len()
        };
        compare(runtime, &client, &server, rounds, name, &json!({ "db": "file", "query": query }), || {
            let started = Instant::now();
            driver();
            started.elapsed()
        });
    }
    let Some(url) = url else {
        println!("\n(no POSTGRES_URL: PostgreSQL is not measured)");
        return;
    };
    let (postgres, connection) = runtime.block_on(tokio_postgres::connect(&url, tokio_postgres::NoTls)).unwrap();
    runtime.spawn(async move { drop(connection.await) });
    let cases = [
        ("PostgreSQL, 1 row", "SELECT n, 'customer ' || n AS name, n * 1.5::float8 FROM generate_series(77, 77) n"),
        ("PostgreSQL, 100 rows", "SELECT n, 'customer ' || n AS name, n * 1.5::float8 FROM generate_series(1, 100) n"),
    ];
    for (name, query) in cases {
        compare(runtime, &client, &server, rounds, name, &json!({ "db": "server", "query": query }), || {
            runtime.block_on(async {
                let started = Instant::now();
                let rows = postgres.query(query, &[]).await.unwrap();
                let out: Vec<_> = rows
                    .iter()
                    .map(|row| json!([row.get::<_, i32>(0), row.get::<_, &str>(1), row.get::<_, f64>(2)]))
                    .collect();
                assert!(!serde_json::to_string(&out).unwrap().is_empty());
                started.elapsed()
            })
        });
    }
}

fn compare(
    runtime: &Runtime,
    client: &reqwest::Client,
    server: &Process,
    rounds: usize,
    name: &str,
    params: &Value,
    driver: impl Fn() -> Duration,
) {
    let (mut alone, mut inside, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds + 10 {
        let took = driver();
        let (text, http) = runtime.block_on(call(client, server, "sql:execute", params));
        let answer: Value = serde_json::from_str(&text).unwrap();
        if round >= 10 {
            alone.push(ms(took) * 1e3);
            inside.push(answer["meta"]["execution_time_ms"].as_f64().unwrap() * 1e3);
            whole.push(ms(http) * 1e3);
        }
    }
    let ([a10, a50, a0, a100], [i10, i50, i0, i100], [w10, ..]) =
        (spread(&mut alone), spread(&mut inside), spread(&mut whole));
    println!(
        "| {name} | {a10:.0} | {a50:.0} ({a0:.0}-{a100:.0}) | {i10:.0} | {i50:.0} ({i0:.0}-{i100:.0}) | {:+.0} | {:+.0} | {w10:.0} |",
        i10 - a10,
        i50 - a50
    );
}

/// A manual in Markdown, and rows as CSV and as Parquet.
fn write_files(folder: &Path) {
    let mut manual = String::new();
    for chapter in 0..400 {
        write!(manual, "## Chapter {chapter}\n\n").unwrap();
        for option in 0..20 {
            write!(
                manual,
                "Option {option} of chapter {chapter} sets the pressure of valve {option}, **not** its [flow](#f).\n\n"
            )
            .unwrap();
        }
    }
    fs::write(folder.join("manual.md"), manual).unwrap();
    let mut rows = "id,name,amount,day\n".to_owned();
    for id in 0..200_000 {
        writeln!(rows, "{id},customer {},{}.25,2024-01-{:02}", id % 1000, id * 7 % 5000, id % 28 + 1).unwrap();
    }
    fs::write(folder.join("rows.csv"), rows).unwrap();
    let schema = "message rows { required int64 id; required binary name (STRING); required double amount; }";
    let schema = Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    let file = fs::File::create(folder.join("rows.parquet")).unwrap();
    let mut writer = parquet::file::writer::SerializedFileWriter::new(file, schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let ids: Vec<i64> = (0..200_000).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&ids, None, None).unwrap();
    column.close().unwrap();
    let names: Vec<ByteArray> = ids.iter().map(|id| format!("customer {}", id % 1000).as_str().into()).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&names, None, None).unwrap();
    column.close().unwrap();
    let amounts: Vec<f64> = ids.iter().map(|id| (id * 7 % 5000) as f64 + 0.25).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<DoubleType>().write_batch(&amounts, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

fn files(runtime: &Runtime, folder: &Path, rounds: usize) {
    write_files(folder);
    let roots = json!({ "roots": [folder] });
    let server = start(&json!({ "doc": roots, "ds": roots }));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let text = fs::read_to_string(folder.join("manual.md")).unwrap();
    let words = ["pressure of valve 7", "chapter 77"];
    let look = || {
        let patterns = words.map(|word| regex::RegexBuilder::new(word).case_insensitive(true).build().unwrap());
        patterns.iter().map(|pattern| pattern.find_iter(&text).count()).sum::<usize>()
    };
    let csv = || {
        let mut reader = csv::Reader::from_path(folder.join("rows.csv")).unwrap();
        let (mut record, mut least) = (csv::ByteRecord::new(), f64::MAX);
        while reader.read_byte_record(&mut record).unwrap() {
            least = least.min(std::str::from_utf8(&record[2]).unwrap().parse().unwrap());
        }
        least as usize
    };
    let parquet = || {
        let reader = SerializedFileReader::new(fs::File::open(folder.join("rows.parquet")).unwrap()).unwrap();
        reader.get_row_iter(None).unwrap().map(|row| row.unwrap().len()).sum::<usize>()
    };
    let nothing = json!([{ "column": "amount", "op": "<", "value": 0 }]);
    let cases: [(&str, &str, &dyn Fn() -> usize, Value); 5] = [
        (
            "matches of two phrases in 0.64 MB",
            "doc:search",
            &look,
            json!({ "document": "manual.md", "key_words": words }),
        ),
        ("all rows of a CSV of 7.6 MB, one number parsed", "data:inspect", &csv, json!({ "path": "rows.csv" })),
        ("the same", "data:read", &csv, json!({ "path": "rows.csv", "filter": nothing })),
        ("all rows of a Parquet of 200,000", "data:inspect", &parquet, json!({ "path": "rows.parquet" })),
        ("the same", "data:read", &parquet, json!({ "path": "rows.parquet", "filter": nothing })),
    ];
    println!("\n{rounds} interleaved rounds\n");
    println!("| alone | p10 (ms) | median (min-max) | tool over HTTP | p10 (ms) | median (min-max) | ratio of p10 |");
    println!("|---|---|---|---|---|---|---|");
    for (what, tool, alone, params) in cases {
        let (mut by_itself, mut ours) = (Vec::new(), Vec::new());
        for round in 0..=rounds {
            let started = Instant::now();
            std::hint::black_box(alone());
            let took = started.elapsed();
            let (_, call) = runtime.block_on(call(&client, &server, tool, &params));
            if round > 0 {
                by_itself.push(ms(took));
                ours.push(ms(call));
            }
        }
        let ([a10, a50, a0, a100], [t10, t50, t0, t100]) = (spread(&mut by_itself), spread(&mut ours));
        println!(
            "| {what} | {a10:.2} | {a50:.2} ({a0:.2}-{a100:.2}) | `{tool}` | {t10:.2} | {t50:.2} ({t0:.2}-{t100:.2}) | {:.2} |",
            t10 / a10
        );
    }
}
