//! Databases that are read, and that nothing can write: SQLite files, and a real PostgreSQL.

use std::{path::Path, time::Duration};

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::{
    harness::{Reply, Server, until},
    postgres::Postgres,
};

const SHOP: &str = "
    CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email VARCHAR(80) DEFAULT 'none');
    CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customers (id), total REAL, note BLOB);
    CREATE VIEW big_orders AS SELECT * FROM orders WHERE total > 100;
    INSERT INTO customers VALUES (1, 'Ada', 'ada@example.com'), (2, 'Grace', NULL);
    INSERT INTO orders VALUES (1, 1, 250.5, x'00ff'), (2, 2, 12, NULL);
    CREATE TABLE numbers (n INTEGER);
    CREATE INDEX by_name ON customers (name);
    CREATE VIRTUAL TABLE words USING fts5(body);
    INSERT INTO words VALUES ('a gull on the shore');
    CREATE VIRTUAL TABLE places USING rtree(id, low, high);
    INSERT INTO places VALUES (1, 4, 6);
    CREATE VIEW broken AS SELECT nope FROM missing;
    WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 1000) INSERT INTO numbers SELECT n FROM c;
";

/// A server with a database `shop` in a file.
fn sqlite(folder: &Path, more: &Value) -> Server {
    let file = folder.join("shop.db");
    Connection::open(&file).unwrap().execute_batch(SHOP).unwrap();
    let mut config = json!({ "databases": { "shop": file } });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Server::start(&json!({ "apis": { "text2sql": config } }))
}

fn execute(server: &Server, params: &Value) -> Reply {
    let mut all = json!({ "db": "shop" });
    all.as_object_mut().unwrap().extend(params.as_object().unwrap().clone());
    server.execute("agent", "sql:execute", &all)
}

/// The rows of a query that succeeds.
fn rows(server: &Server, query: &str) -> Value {
    execute(server, &json!({ "query": query })).data()["rows"].clone()
}

#[test]
fn rows_come_with_columns_and_types() {
    let folder = tempfile::tempdir().unwrap();
    let server = sqlite(folder.path(), &json!({}));
    let query = "SELECT c.name, o.total, o.note, o.id * 2 AS twice, NULL AS empty FROM orders o \
                 JOIN customers c ON c.id = o.customer_id ORDER BY o.id;";
    let reply = execute(&server, &json!({ "query": query }));
    let expected = json!({
        "columns": [
            { "name": "name", "type": "TEXT" }, { "name": "total", "type": "REAL" }, { "name": "note", "type": "BLOB" },
            { "name": "twice", "type": "INTEGER" }, { "name": "empty", "type": "" },
        ],
        "rows": [["Ada", 250.5, "AP8=", 2, null], ["Grace", 12.0, null, 4, null]],
        "row_count": 2, "truncated": false
    });
    assert_eq!(*reply.data(), expected);
    let none = execute(&server, &json!({ "query": "SELECT id FROM orders WHERE id > 9" })).data().clone();
    let columns = json!([{ "name": "id", "type": "INTEGER" }]);
    assert_eq!(none, json!({ "columns": columns, "rows": [], "row_count": 0, "truncated": false }));
    assert_eq!(
        rows(&server, "SELECT 9007199254740993, 1e999, 'gr\u{fc}n'"),
        json!([[9_007_199_254_740_993_i64, "inf", "gr\u{fc}n"]])
    );
    // By the names of existing clients, too.
    let params = json!({ "db_id": "shop", "query": "SELECT count(*) FROM numbers" });
    assert_eq!(server.execute("agent", "text2sql:execute", &params).data()["rows"], json!([[1000]]));
    assert_eq!(server.execute("agent", "text2sql__execute", &params).data()["rows"], json!([[1000]]));
    let both = json!({ "db": "shop", "db_id": "shop", "query": "SELECT 1" });
    let reply = server.execute("agent", "sql:execute", &both);
    assert_eq!((reply.code(), &reply.body["error"]["parameter"]), (4000, &json!("db_id")));
}

#[test]
fn parameters_are_bound_by_position_or_name() {
    let folder = tempfile::tempdir().unwrap();
    let server = sqlite(folder.path(), &json!({}));
    let run = |query: &str, params: Value| execute(&server, &json!({ "query": query, "params": params }));
    assert_eq!(run("SELECT ?, ?2, typeof(?1)", json!([1.5, "it's"])).data()["rows"], json!([[1.5, "it's", "real"]]));
    let named = run("SELECT :a, @b, $c", json!({ "a": true, "b": null, ":c": 1, "$c": ["x"] }));
    assert_eq!(named.code(), 4000, "four values for three: {named:?}");
    let named = run("SELECT :a, @b, $c", json!({ "a": true, "b": null, "c": ["x"] }));
    assert_eq!(named.data()["rows"], json!([[1, null, "[\"x\"]"]]));
    for (query, params) in [
        ("SELECT ?", json!([])),
        ("SELECT ?", json!([1, 2])),
        ("SELECT :a", json!({ "b": 1 })),
        ("SELECT ?", json!({ "a": 1 })),
        ("SELECT 1", json!([1])),
    ] {
        let reply = run(query, params.clone());
        assert_eq!((reply.code(), &reply.body["error"]["parameter"]), (4000, &json!("params")), "{query} {params}");
    }
    assert_eq!(execute(&server, &json!({ "query": "SELECT ?" })).code(), 4000);
    assert_eq!(run("SELECT ?", json!("x")).code(), 4004);
}

#[test]
fn a_schema_is_described() {
    let folder = tempfile::tempdir().unwrap();
    let server = sqlite(folder.path(), &json!({}));
    let list = server.execute("agent", "sql:list_databases", &json!({}));
    assert_eq!(*list.data(), json!({ "databases": [{ "name": "shop", "dialect": "sqlite" }] }));
    let schema = server.execute("agent", "sql:get_schema", &json!({ "db": "shop" })).data().clone();
    let names: Vec<_> =
        schema["tables"].as_array().unwrap().iter().map(|table| table["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["big_orders", "broken", "customers", "numbers", "orders", "places", "words"]);
    assert_eq!((&schema["tables"][0]["kind"], &schema["dialect"]), (&json!("view"), &json!("sqlite")));
    assert!(schema["tables"][1]["comment"].as_str().unwrap().contains("missing"), "{}", schema["tables"][1]);
    let params = json!({ "db_id": "shop", "table_names": ["Customers", "orders"] });
    let schema = server.execute("agent", "text2sql:get_schema", &params).data().clone();
    let column = |name: &str, kind: &str, nullable: bool, primary_key: bool| json!({ "name": name, "type": kind, "nullable": nullable, "primary_key": primary_key });
    let mut email = column("email", "VARCHAR(80)", true, false);
    email["default"] = "'none'".into();
    let expected = json!([
        { "name": "customers", "kind": "table", "foreign_keys": [], "columns": [
            column("id", "INTEGER", false, true), column("name", "TEXT", false, false), email,
        ] },
        { "name": "orders", "kind": "table", "columns": [
            column("id", "INTEGER", false, true), column("customer_id", "INTEGER", true, false),
            column("total", "REAL", true, false), column("note", "BLOB", true, false),
        ], "foreign_keys": [
            { "columns": ["customer_id"], "references": "customers", "referenced_columns": ["id"] },
        ] },
    ]);
    assert_eq!(schema["tables"], expected);
    // In parts, if there is little room.
    let (mut cursor, mut names) = (Value::Null, Vec::new());
    loop {
        let params = json!({ "db": "shop", "max_chars": 10, "cursor": cursor });
        let part = server.execute("agent", "sql:get_schema", &params).data().clone();
        names.extend(part["tables"].as_array().unwrap().iter().map(|table| table["name"].as_str().unwrap().to_owned()));
        cursor = part["next_cursor"].clone();
        if cursor.is_null() {
            break;
        }
    }
    assert_eq!(names.len(), 7);
    let reply = server.execute("agent", "sql:get_schema", &json!({ "db": "shop", "tables": ["order"] }));
    assert_eq!(
        (reply.code(), &reply.body["error"]["candidates"]),
        (4006, &json!(["orders", "big_orders"])),
        "{reply:?}"
    );
    let reply = server.execute("agent", "sql:execute", &json!({ "db": "shops", "query": "SELECT 1" }));
    assert_eq!((reply.code(), &reply.body["error"]["candidates"]), (4006, &json!(["shop"])), "{reply:?}");
}

#[test]
fn nothing_can_write_to_a_file_or_leave_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = sqlite(folder.path(), &json!({}));
    let file = folder.path().join("shop.db");
    let other = folder.path().join("other.db");
    Connection::open(&other).unwrap().execute_batch("CREATE TABLE secret (x); INSERT INTO secret VALUES (1)").unwrap();
    let before = std::fs::read(&file).unwrap();
    let attach = format!("ATTACH '{}' AS other", other.display());
    let vacuum = format!("VACUUM INTO '{}'", folder.path().join("copy.db").display());
    for query in [
        "INSERT INTO numbers VALUES (0)",
        "UPDATE numbers SET n = 0",
        "DELETE FROM numbers",
        "WITH x AS (SELECT 1) DELETE FROM numbers",
        "DELETE FROM numbers RETURNING n",
        "REPLACE INTO numbers VALUES (1)",
        "DROP TABLE numbers",
        "CREATE TABLE t (x)",
        "CREATE TEMP TABLE t (x)",
        "CREATE TEMP VIEW v AS SELECT 1",
        "CREATE VIRTUAL TABLE t USING fts5(x)",
        "ALTER TABLE numbers RENAME TO n",
        "REINDEX",
        "ANALYZE",
        "VACUUM",
        &vacuum,
        &attach,
        "DETACH main",
        "BEGIN",
        "BEGIN IMMEDIATE",
        "COMMIT",
        "SAVEPOINT s",
        "PRAGMA query_only = OFF",
        "PRAGMA writable_schema = ON",
        "PRAGMA journal_mode = WAL",
        "PRAGMA user_version = 7",
        "PRAGMA temp_store_directory = '/tmp'",
        "PRAGMA database_list",
        "SELECT * FROM pragma_database_list",
        "SELECT load_extension('/tmp/x.so')",
        "EXPLAIN INSERT INTO numbers VALUES (0)",
    ] {
        let reply = execute(&server, &json!({ "query": query }));
        // Some are no statement at all as long as nothing can be attached.
        let unknown = ["DETACH main"].contains(&query) && reply.code() == 4000;
        assert!(unknown || (reply.code() == 4013 && reply.reason() == "read_only"), "{query}: {reply:?}");
        let text = reply.body.to_string();
        assert!(!text.contains(folder.path().to_str().unwrap()), "{text}");
    }
    assert!(std::fs::read(&file).unwrap() == before, "the file has changed");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    // What only looks is allowed.
    for query in [
        "EXPLAIN QUERY PLAN SELECT * FROM numbers",
        "PRAGMA table_info(numbers)",
        "SELECT name FROM sqlite_schema",
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 3) SELECT * FROM c",
        "VALUES (1), (2)",
        "SELECT json_extract('{\"a\": 1}', '$.a'), value FROM json_each('[1, 2]')",
        "SELECT body FROM words WHERE words MATCH 'gull'",
        "SELECT id FROM places WHERE low <= 5",
    ] {
        assert_ne!(rows(&server, query), json!([]), "{query}");
    }
    for (query, found) in [
        ("SELECT 1; SELECT 2", "several statements"),
        ("SELECT nam FROM customers", "no such column: nam"),
        ("SELEC 1", "near \"SELEC\""),
        ("-- nothing", ""),
        ("SELECT zeroblob(100000000)", "too big"),
    ] {
        let reply = execute(&server, &json!({ "query": query }));
        assert_eq!((reply.code(), &reply.body["error"]["parameter"]), (4000, &json!("query")), "{query}: {reply:?}");
        assert!(reply.body["error"]["found"].as_str().unwrap().contains(found), "{reply:?}");
    }
}

#[test]
fn what_takes_too_long_or_is_not_wanted_ends() {
    let folder = tempfile::tempdir().unwrap();
    let server = sqlite(folder.path(), &json!({ "connections": 1 }));
    let endless = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c";
    let reply = execute(&server, &json!({ "query": endless, "timeout_ms": 200 }));
    assert_eq!(reply.code(), 5006, "{reply:?}");
    // Also within one step of the engine.
    let product = "SELECT instr(hex(zeroblob(3000000)), hex(zeroblob(1500000)) || '1')";
    assert_eq!(rows(&server, product), json!([[0]]));
    let functions = "SELECT instr('gr\u{fc}n und rot', 'und'), instr(x'00ff', x'ff'), instr('a', NULL), instr(123, 3), \
                     replace('aXbX', 'X', '--'), replace('a', '', 'b'), replace(NULL, 'a', 'b'), replace(1.0, '.', ',')";
    assert_eq!(rows(&server, functions), json!([[6, 2, null, 3, "a--b--", "a", null, "1,0"]]));
    // The client leaves; the only connection is free again.
    let body = json!({ "worker_id": "agent", "action": "sql:execute", "params": { "db": "shop", "query": endless } });
    server.abandon("/execute", &body, Duration::from_millis(300));
    assert_eq!(rows(&server, "SELECT 1"), json!([[1]]));
    // Who waits for the connection waits no longer than asked for.
    std::thread::scope(|scope| {
        scope.spawn(|| execute(&server, &json!({ "query": endless, "timeout_ms": 4000 })));
        until("it runs", || {
            let reply = execute(&server, &json!({ "query": "SELECT 1", "timeout_ms": 100 }));
            reply.code() == 5006
        });
    });
    // Nor for a writer.
    let writer = Connection::open(folder.path().join("shop.db")).unwrap();
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let reply = execute(&server, &json!({ "query": "SELECT * FROM numbers", "timeout_ms": 200 }));
    assert_eq!((reply.code(), reply.reason()), (5012, "busy"), "{reply:?}");
    writer.execute_batch("ROLLBACK").unwrap();
    // The call's own limit holds as well.
    let params = json!({ "db": "shop", "query": endless });
    let reply = server.execute_with("agent", "sql:execute", &params, &json!({ "timeout": 1 }));
    assert!([5006, 5020].contains(&reply.code()), "{reply:?}");
}

#[test]
fn a_long_result_comes_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let server = sqlite(folder.path(), &json!({ "max_rows": 300 }));
    let query = "SELECT n FROM numbers ORDER BY n";
    let (mut params, mut read) = (json!({ "query": query }), Vec::new());
    let mut parts = 0;
    loop {
        let part = execute(&server, &params).data().clone();
        parts += 1;
        assert_eq!(part["truncated"].as_bool(), Some(part["next_cursor"].is_string()));
        read.extend(part["rows"].as_array().unwrap().iter().map(|row| row[0].as_u64().unwrap()));
        if part["next_cursor"].is_null() {
            break;
        }
        params["cursor"] = part["next_cursor"].clone();
    }
    assert_eq!((parts, read), (4, (1..=1000).collect()));
    let part = execute(&server, &json!({ "query": query, "max_rows": 10_000, "max_chars": 120 })).data().clone();
    assert_eq!((part["row_count"].as_u64(), &part["truncated"]), (Some(10), &json!(true)));
    let long = execute(&server, &json!({ "query": "SELECT hex(zeroblob(5000)), 1", "max_chars": 200 })).data().clone();
    let text = long["rows"][0][0].as_str().unwrap();
    assert!(text.ends_with("00 .. (of 10000 bytes)") && text.len() < 200, "{text}");
    let wide = (0..20).map(|_| "zeroblob(8000000)").collect::<Vec<_>>().join(", ");
    let wide = execute(&server, &json!({ "query": format!("SELECT {wide}"), "max_chars": 100 }));
    assert!(wide.data()["rows"][0][19].as_str().unwrap().ends_with("(of 8000000 bytes)"), "{wide:?}");
    assert_eq!((&long["truncated"], &long["next_cursor"]), (&json!(true), &Value::Null));
    let reply = execute(&server, &json!({ "query": "SELECT 1", "cursor": params["cursor"] }));
    assert_eq!(reply.code(), 4009, "{reply:?}");
}

#[test]
fn a_file_that_is_replaced_or_missing_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let server = sqlite(folder.path(), &json!({}));
    assert_eq!(rows(&server, "SELECT count(*) FROM customers"), json!([[2]]));
    let (file, new) = (folder.path().join("shop.db"), folder.path().join("new.db"));
    Connection::open(&new)
        .unwrap()
        .execute_batch("CREATE TABLE customers (id); INSERT INTO customers VALUES (1)")
        .unwrap();
    std::fs::rename(&new, &file).unwrap();
    assert_eq!(rows(&server, "SELECT count(*) FROM customers"), json!([[1]]));
    std::fs::write(&new, "this is no database").unwrap();
    std::fs::rename(&new, &file).unwrap();
    assert_eq!(execute(&server, &json!({ "query": "SELECT 1" })).code(), 5012);
    std::fs::remove_file(&file).unwrap();
    let reply = execute(&server, &json!({ "query": "SELECT 1" }));
    assert_eq!(reply.code(), 5012, "{reply:?}");
    assert!(!reply.body.to_string().contains(folder.path().to_str().unwrap()), "{reply:?}");
}

const PG_SHOP: &str = "
    CREATE ROLE reader LOGIN PASSWORD 'canary-reader';
    CREATE TYPE mood AS ENUM ('sad', 'happy');
    CREATE DOMAIN percent AS integer CHECK (VALUE BETWEEN 0 AND 100);
    CREATE TABLE customers (id serial PRIMARY KEY, name varchar(80) NOT NULL, mood mood DEFAULT 'happy');
    COMMENT ON TABLE customers IS 'Who buys';
    COMMENT ON COLUMN customers.name IS 'As on the bill';
    CREATE TABLE orders (id bigint PRIMARY KEY, customer_id integer REFERENCES customers (id), total numeric(12, 2));
    CREATE VIEW big_orders AS SELECT * FROM orders WHERE total > 100;
    CREATE SCHEMA stock;
    CREATE TABLE stock.items (sku text, shelf text, PRIMARY KEY (sku, shelf));
    CREATE TABLE hidden (x text);
    INSERT INTO customers (name) VALUES ('Ada'), ('Grace');
    INSERT INTO orders VALUES (1, 1, 250.50), (2, 2, 12);
    CREATE TABLE numbers AS SELECT n FROM generate_series(1, 1000) n;
    CREATE SEQUENCE tickets;
    CREATE FUNCTION leave_a_statement() RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN EXECUTE 'PREPARE left_behind AS SELECT 1'; RETURN 1; END $$;
    CREATE FUNCTION forget_statements() RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN EXECUTE 'DEALLOCATE ALL'; RETURN 1; END $$;
    CREATE FUNCTION hold_a_lock() RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_advisory_lock(1); RETURN 1; END $$;
    GRANT USAGE ON SCHEMA stock TO reader;
    GRANT SELECT, INSERT, UPDATE, DELETE ON customers, orders, big_orders, numbers, stock.items TO reader;
    GRANT ALL ON SEQUENCE tickets TO reader;
    GRANT CREATE ON SCHEMA public TO reader;
";

fn postgres(url: &str, more: &Value) -> Server {
    let mut config = json!({ "databases": { "shop": url } });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Server::start(&json!({ "server": { "log": { "level": "trace" } }, "apis": { "text2sql": config } }))
}

#[test]
fn postgres_is_read_in_all_its_types() {
    let postgres_server = Postgres::start(PG_SHOP);
    let server = postgres(&postgres_server.url("reader", "canary-reader"), &json!({ "max_rows": 300 }));
    let list = server.execute("agent", "sql:list_databases", &json!({}));
    assert_eq!(*list.data(), json!({ "databases": [{ "name": "shop", "dialect": "postgresql" }] }));
    let query = "SELECT c.name, o.total, o.id FROM orders o JOIN customers c ON c.id = o.customer_id ORDER BY o.id; ";
    let expected = json!({
        "columns": [
            { "name": "name", "type": "varchar" }, { "name": "total", "type": "numeric" }, { "name": "id", "type": "int8" },
        ],
        "rows": [["Ada", 250.50, 1], ["Grace", 12.00, 2]], "row_count": 2, "truncated": false
    });
    assert_eq!(*execute(&server, &json!({ "query": query })).data(), expected);
    for (expression, value) in [
        ("true", json!(true)),
        ("1::int2", json!(1)),
        ("9223372036854775807", json!(i64::MAX)),
        ("0.1::float4", json!(0.1)),
        ("'Infinity'::float8", json!("inf")),
        ("'x'::char(3)", json!("x  ")),
        ("current_user", json!("reader")),
        ("null", json!(null)),
        ("null::numeric", json!(null)),
        ("'{\"a\": [1]}'::jsonb", json!({ "a": [1] })),
        ("'[1, 2]'::json", json!([1, 2])),
        ("'NaN'::numeric", json!("NaN")),
        ("date '2024-02-29'", json!("2024-02-29")),
        ("timestamp '2024-02-29 12:00:00.5'", json!("2024-02-29T12:00:00.5")),
        ("timestamptz '2024-02-29 12:00:00+00' at time zone 'UTC'", json!("2024-02-29T12:00:00")),
        ("interval '1 day 2 hours'", json!("1 day 02:00:00")),
        ("'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid", json!("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")),
        ("'\\x00ff'::bytea", json!("\\x00ff")),
        ("ARRAY[[1, 2], [3, null]]", json!([[1, 2], [3, null]])),
        ("ROW(1, 'x')", json!({ "f1": 1, "f2": "x" })),
        ("int4range(1, 5)", json!("[1,5)")),
        ("point(1, 2)", json!("(1,2)")),
        ("'sad'::mood", json!("sad")),
        ("50::percent", json!(50)),
        ("inet '10.0.0.1'", json!("10.0.0.1")),
        ("to_tsvector('simple', 'gulls')", json!("'gulls':1")),
    ] {
        assert_eq!(rows(&server, &format!("SELECT {expression} AS v")), json!([[value]]), "{expression}");
    }
    // Every digit of a number is there.
    let exact = "12345678901234567890.123456789";
    let body = json!({ "worker_id": "a", "action": "sql:execute", "params": {
        "db": "shop", "query": format!("SELECT {exact} -- to the last") } });
    let mut stream = server.connect();
    let headers = [("Content-Type", "application/json")];
    crate::harness::send(&mut stream, "POST", "/execute", &headers, body.to_string().as_bytes());
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    assert!(answer.contains(&format!("[[{exact}]]")), "{answer}");
    let run = |query: &str, params: Value| execute(&server, &json!({ "query": query, "params": params }));
    let params = json!([7, "2024-01-01", ["a", "b\"c", null], { "k": 1 }, 1.5, true, null]);
    let query = "SELECT $1::int, $2::date, $3::text[], $4::jsonb, $5::numeric, $6::boolean, $7::text";
    let expected = json!([[7, "2024-01-01", ["a", "b\"c", null], { "k": 1 }, 1.5, true, null]]);
    assert_eq!(run(query, params).data()["rows"], expected);
    assert_eq!(run("SELECT name FROM customers WHERE id = $1", json!(["2"])).data()["rows"], json!([["Grace"]]));
    for (query, params) in
        [("SELECT $1::int", json!([])), ("SELECT $1::int", json!({ "a": 1 })), ("SELECT 1", json!([1]))]
    {
        let reply = run(query, params);
        assert_eq!((reply.code(), &reply.body["error"]["parameter"]), (4000, &json!("params")), "{reply:?}");
    }
    assert_eq!(run("SELECT $1::int", json!(["x"])).code(), 4000);
    // A long result in parts.
    let (mut params, mut read) = (json!({ "query": "SELECT n FROM numbers ORDER BY n" }), Vec::new());
    loop {
        let part = execute(&server, &params).data().clone();
        read.extend(part["rows"].as_array().unwrap().iter().map(|row| row[0].as_u64().unwrap()));
        if part["next_cursor"].is_null() {
            break;
        }
        params["cursor"] = part["next_cursor"].clone();
    }
    assert_eq!(read, (1..=1000).collect::<Vec<_>>());
    // What the role may read, with what is known about it.
    let schema = server.execute("agent", "sql:get_schema", &json!({ "db": "shop" })).data().clone();
    let tables = schema["tables"].as_array().unwrap();
    let names: Vec<_> = tables.iter().map(|table| table["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["big_orders", "customers", "numbers", "orders", "stock.items"]);
    assert_eq!((&tables[0]["kind"], &tables[1]["comment"]), (&json!("view"), &json!("Who buys")));
    let name = json!({
        "name": "name", "type": "character varying(80)", "nullable": false, "primary_key": false, "comment": "As on the bill"
    });
    assert_eq!(tables[1]["columns"][1], name);
    assert_eq!(tables[1]["columns"][2]["default"], "'happy'::mood");
    let key = json!({ "columns": ["customer_id"], "references": "customers", "referenced_columns": ["id"] });
    assert_eq!(tables[3]["foreign_keys"], json!([key]));
    let keys = tables[4]["columns"].as_array().unwrap().iter().map(|column| &column["primary_key"]);
    assert!(keys.eq([&json!(true), &json!(true)]));
}

#[test]
fn nothing_can_write_to_postgres_or_hold_it() {
    let postgres_server = Postgres::start(PG_SHOP);
    let server = postgres(&postgres_server.url("reader", "canary-reader"), &json!({ "connections": 1 }));
    let sums = "SELECT (SELECT count(*) FROM customers), (SELECT sum(total) FROM orders), (SELECT count(*) FROM pg_class \
                WHERE relnamespace = 'public'::regnamespace), (SELECT last_value FROM tickets), \
                (SELECT count(*) FROM pg_largeobject_metadata)";
    let before = postgres_server.psql("shop", sums).unwrap();
    for query in [
        "INSERT INTO customers (name) VALUES ('x')",
        "UPDATE orders SET total = 0",
        "DELETE FROM orders",
        "WITH gone AS (DELETE FROM orders RETURNING *) SELECT * FROM gone",
        "TRUNCATE orders",
        "CREATE TABLE t (x int)",
        "CREATE TABLE t AS SELECT 1",
        "SELECT 1 INTO t",
        "DROP TABLE customers",
        "SELECT nextval('tickets')",
        "SELECT setval('tickets', 9)",
        "SELECT * FROM orders FOR UPDATE",
        "SET TRANSACTION READ WRITE",
        "SELECT set_config('transaction_read_only', 'off', false)",
        "COMMIT; DELETE FROM orders",
        "SELECT * FROM hidden",
        "COPY customers TO '/tmp/customers'",
        "COPY customers TO PROGRAM 'cat'",
        "SELECT pg_read_file('/etc/passwd')",
        "DO $$ BEGIN DELETE FROM orders; END $$",
        "CALL missing()",
        "SELEC 1",
        "SELECT nam FROM customers",
        "",
    ] {
        let reply = execute(&server, &json!({ "query": query }));
        assert!([4000, 4013].contains(&reply.code()), "{query}: {reply:?}");
        assert_eq!(rows(&server, "SELECT 1"), json!([[1]]), "after {query}");
    }
    // What would end or change the transaction, or leave something for the next, is not run, or does no more than that.
    for query in [
        "COMMIT",
        "ROLLBACK",
        "BEGIN",
        "SET default_transaction_read_only = off",
        "SET statement_timeout = 0",
        "COPY customers TO STDOUT",
        "SELECT pg_advisory_lock(1)",
        "LISTEN gulls",
        "DEALLOCATE ALL",
        "RESET ALL",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "SELECT lo_create(0)",
        "PREPARE p AS DELETE FROM orders",
        "EXECUTE p",
    ] {
        let _ = execute(&server, &json!({ "query": query }));
        let reply = execute(&server, &json!({ "query": "DELETE FROM orders" }));
        assert_eq!((reply.code(), reply.reason()), (4013, "read_only"), "after {query}: {reply:?}");
    }
    // Not by way of a function either.
    for function in ["leave_a_statement", "forget_statements", "hold_a_lock"] {
        let _ = execute(&server, &json!({ "query": format!("SELECT {function}()") }));
        assert_eq!(
            rows(&server, "SELECT count(*) FROM pg_prepared_statements WHERE from_sql"),
            json!([[0]]),
            "{function}"
        );
        assert_eq!(
            rows(&server, "SELECT 'sad'::mood, ARRAY['happy'::mood]"),
            json!([["sad", ["happy"]]]),
            "{function}"
        );
    }
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    until("the lock is let go", || postgres_server.psql("shop", locks).unwrap() == "0");
    assert_eq!(postgres_server.psql("shop", sums).unwrap(), before);
    // A time limit ends the query on the server too, and so does a client that leaves.
    let running = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'reader' AND state = 'active'";
    let reply = execute(&server, &json!({ "query": "SELECT pg_sleep(60)", "timeout_ms": 300 }));
    assert_eq!(reply.code(), 5006, "{reply:?}");
    until("the query ends", || postgres_server.psql("shop", running).unwrap() == "0");
    let query = json!({ "db": "shop", "query": "SELECT pg_sleep(60)" });
    let body = json!({ "worker_id": "agent", "action": "sql:execute", "params": query });
    server.abandon("/execute", &body, Duration::from_millis(500));
    until("the query ends", || postgres_server.psql("shop", running).unwrap() == "0");
    assert_eq!(rows(&server, "SELECT 1"), json!([[1]]));
    // Of a result without end only what is wanted is fetched.
    let part = execute(&server, &json!({ "query": "SELECT generate_series(1, 1000000000)" })).data().clone();
    assert_eq!((part["row_count"].as_u64(), &part["truncated"]), (Some(200), &json!(true)));
    assert_eq!(rows(&server, "SELECT 1"), json!([[1]]));
    until("the query ends", || postgres_server.psql("shop", running).unwrap() == "0");
    // Connections that the server has closed are made again.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'reader'";
    postgres_server.psql("shop", end).unwrap();
    until("there is a connection again", || execute(&server, &json!({ "query": "SELECT 1" })).code() == 0);
    let log = std::fs::read_to_string(&server.log).unwrap();
    assert!(!log.contains("canary-reader"), "the password is in the log");
}

#[test]
fn a_database_that_cannot_be_reached_or_trusted_says_so() {
    let postgres_server = Postgres::start(PG_SHOP);
    let refused = postgres(&postgres_server.super_url(), &json!({}));
    let reply = execute(&refused, &json!({ "query": "SELECT 1" }));
    assert_eq!((reply.code(), reply.reason()), (4013, "superuser"), "{reply:?}");
    assert!(reply.body["message"].as_str().unwrap().contains("allow_superuser"));
    let accepted = postgres(&postgres_server.super_url(), &json!({ "allow_superuser": true }));
    assert_eq!(rows(&accepted, "SELECT 1"), json!([[1]]));
    postgres_server
        .psql("shop", "CREATE ROLE runner LOGIN PASSWORD 'r'; GRANT pg_execute_server_program TO runner")
        .unwrap();
    let runner = postgres(&postgres_server.url("runner", "r"), &json!({}));
    assert_eq!(execute(&runner, &json!({ "query": "SELECT 1" })).code(), 4013);
    // Nor one that could become such a role.
    postgres_server
        .psql("shop", "CREATE ROLE boss SUPERUSER; CREATE ROLE sneaky LOGIN PASSWORD 's'; GRANT boss TO sneaky")
        .unwrap();
    let sneaky = postgres(&postgres_server.url("sneaky", "s"), &json!({}));
    assert_eq!(execute(&sneaky, &json!({ "query": "SELECT 1" })).code(), 4013);
    let disguised = postgres(&(postgres_server.super_url() + "?options=-c%20role%3Dreader"), &json!({}));
    assert_eq!(execute(&disguised, &json!({ "query": "SELECT 1" })).code(), 4013);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (url, words) in [
        (postgres_server.url("reader", "canary-wrong"), "refuses the user or the password"),
        (postgres_server.url("reader", "canary-reader").replace("/shop", "/shops"), "no database of that name"),
        (format!("postgres://reader:canary-reader@{closed}/shop"), "cannot be reached"),
        (postgres_server.url("reader", "canary-reader") + "?sslmode=require", "cannot be reached"),
    ] {
        let server = postgres(&url, &json!({}));
        let reply = execute(&server, &json!({ "query": "SELECT 1" }));
        assert_eq!(reply.code(), 5012, "{url}: {reply:?}");
        let message = reply.body["message"].as_str().unwrap();
        assert!(message.contains(words), "{url}: {message}");
        let log = std::fs::read_to_string(&server.log).unwrap();
        assert!(!reply.body.to_string().contains("canary") && !log.contains("canary"), "{reply:?} {log}");
    }
}
