//! Data files in folders: inspected, read and filtered, and worked on by Python in a sandbox.

use std::{fmt::Write as _, fs, path::Path, sync::Arc};

use parquet::{
    data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int32Type, Int64Type},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};
use serde_json::{Value, json};

use crate::harness::{Reply, Server};

const SALES: &str = "id,name,amount,paid,day,code,note\n\
    1,Ada,250.5,true,2024-01-05,007,\"a, b\"\n\
    2,Grace,12,false,2024-02-01,010,\n\
    3,NA,NA,true,2023-12-31,011,\"two\nlines\"\n\
    4,Lin,-3,NA,2024-02-29,012,gr\u{fc}n\n";

/// A server whose data are in this folder.
fn server(root: &Path, more: &Value) -> Server {
    let mut config = json!({ "roots": [root] });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Server::start(&json!({ "apis": { "ds": config } }))
}

fn call(server: &Server, tool: &str, params: &Value) -> Reply {
    server.execute("agent", &format!("data:{tool}"), params)
}

/// The columns of an inspection, by name.
fn column<'a>(summary: &'a Value, name: &str) -> &'a Value {
    let columns = summary["columns"].as_array().unwrap();
    columns.iter().find(|column| column["name"] == name).unwrap_or_else(|| panic!("no {name} in {summary}"))
}

/// A Parquet file of three row groups with four rows each, in a column of every common kind.
fn parquet(path: &Path) {
    let schema = "message table { required int64 n; optional binary word (STRING); optional double x; \
        required boolean odd; required int32 day (DATE); required int64 at (TIMESTAMP(NANOS,true)); \
        required int64 seen (TIMESTAMP(MICROS,false)); required int32 price (DECIMAL(9,2)); required binary raw; \
        optional group tags (LIST) { repeated group list { optional binary element (STRING); } } }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let file = fs::File::create(path).unwrap();
    let properties = WriterProperties::builder().set_compression(parquet::basic::Compression::SNAPPY).build();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    for group in 0..3_i64 {
        let numbers: Vec<i64> = (0..4).map(|n| group * 4 + n).collect();
        let mut rows = writer.next_row_group().unwrap();
        let mut column = 0;
        while let Some(mut next) = rows.next_column().unwrap() {
            match column {
                0 => next.typed::<Int64Type>().write_batch(&numbers, None, None).map(drop).unwrap(),
                1 => {
                    // No value in the first row of each group.
                    let words: Vec<ByteArray> = numbers[1..].iter().map(|n| format!("w{n}").as_str().into()).collect();
                    next.typed::<ByteArrayType>().write_batch(&words, Some(&[0, 1, 1, 1]), None).map(drop).unwrap();
                }
                2 => {
                    let halves = [0.5, f64::NAN, 1.5];
                    next.typed::<DoubleType>().write_batch(&halves, Some(&[1, 1, 0, 1]), None).map(drop).unwrap();
                }
                3 => {
                    let odd: Vec<bool> = numbers.iter().map(|n| n % 2 == 1).collect();
                    next.typed::<BoolType>().write_batch(&odd, None, None).map(drop).unwrap();
                }
                4 => next.typed::<Int32Type>().write_batch(&[0, 19_782, -1, 1], None, None).map(drop).unwrap(),
                5 => {
                    let nanos = [0, 1_700_000_000_123_456_789, -1, 1_000];
                    next.typed::<Int64Type>().write_batch(&nanos, None, None).map(drop).unwrap();
                }
                6 => {
                    let micros = [0, 1_700_000_000_123_456, -1, 1_000];
                    next.typed::<Int64Type>().write_batch(&micros, None, None).map(drop).unwrap();
                }
                7 => next.typed::<Int32Type>().write_batch(&[125, -1, 0, 99_999], None, None).map(drop).unwrap(),
                8 => {
                    let raw = vec![ByteArray::from(vec![0, 255]); 4];
                    next.typed::<ByteArrayType>().write_batch(&raw, None, None).map(drop).unwrap();
                }
                _ => {
                    // ["a", "b"], [], null, [null]
                    let values: Vec<ByteArray> = ["a", "b"].map(ByteArray::from).into();
                    let (levels, starts) = ([3, 3, 1, 0, 2], [0, 1, 0, 0, 0]);
                    next.typed::<ByteArrayType>().write_batch(&values, Some(&levels), Some(&starts)).map(drop).unwrap();
                }
            }
            next.close().unwrap();
            column += 1;
        }
        rows.close().unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn a_csv_is_inspected() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("sales.csv"), SALES).unwrap();
    let server = server(root.path(), &json!({}));
    let summary = call(&server, "inspect", &json!({ "path": "sales.csv", "samples": 2 })).data().clone();
    let about = json!([summary["format"], summary["bytes"], summary["rows"], summary["complete"], summary["warnings"]]);
    assert_eq!(about, json!(["csv", SALES.len(), 4, true, []]));
    let expected = json!({ "name": "amount", "type": "number", "nulls": 1, "distinct": 3, "min": -3.0, "max": 250.5,
        "mean": 86.5, "samples": [250.5, 12.0] });
    assert_eq!(*column(&summary, "amount"), expected);
    let expected = json!({ "name": "id", "type": "integer", "nulls": 0, "distinct": 4, "min": 1, "max": 4, "mean": 2.5,
        "samples": [1, 2] });
    assert_eq!(*column(&summary, "id"), expected);
    // Among words `NA` is one.
    let name = column(&summary, "name");
    assert_eq!(json!([name["type"], name["nulls"], name["distinct"], name["max"]]), json!(["string", 0, 4, "NA"]));
    let kinds: Vec<_> = ["paid", "day", "code", "note"].map(|name| column(&summary, name)["type"].clone()).into();
    assert_eq!(json!(kinds), json!(["boolean", "date", "string", "string"]));
    let day = column(&summary, "day");
    assert_eq!((&day["min"], &day["max"]), (&json!("2023-12-31"), &json!("2024-02-29")));
    assert_eq!(column(&summary, "paid")["nulls"], 1);
    // Columns that have no room come with the cursor.
    let part = call(&server, "inspect", &json!({ "path": "sales.csv", "max_chars": 250 })).data().clone();
    assert_eq!((part["columns"].as_array().unwrap().len(), &part["truncated"]), (2, &json!(true)));
    let rest = json!({ "path": "sales.csv", "cursor": part["next_cursor"] });
    assert_eq!(call(&server, "inspect", &rest).data()["columns"][0]["name"], "amount");
}

#[test]
fn rows_of_a_csv_are_read() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("sales.csv"), SALES).unwrap();
    let server = server(root.path(), &json!({ "max_rows": 3 }));
    let read = |params: Value| {
        let mut all = json!({ "path": "sales.csv" });
        all.as_object_mut().unwrap().extend(params.as_object().unwrap().clone());
        call(&server, "read", &all)
    };
    let part = read(json!({})).data().clone();
    let columns: Vec<_> = part["columns"].as_array().unwrap().iter().map(|c| json!([c["name"], c["type"]])).collect();
    assert_eq!(json!(columns[..3]), json!([["id", "integer"], ["name", "string"], ["amount", "number"]]));
    let rows = json!([
        [1, "Ada", 250.5, true, "2024-01-05", "007", "a, b"],
        [2, "Grace", 12.0, false, "2024-02-01", "010", null],
        [3, "NA", null, true, "2023-12-31", "011", "two\nlines"],
    ]);
    assert_eq!(json!([part["rows"], part["row_count"], part["truncated"]]), json!([rows, 3, true]));
    let rest = read(json!({ "cursor": part["next_cursor"] })).data().clone();
    assert_eq!(json!([rest["rows"][0][1], rest["row_count"], rest["truncated"]]), json!(["Lin", 1, false]));
    let rows = |filter: Value| read(json!({ "columns": ["id"], "filter": filter })).data()["rows"].clone();
    for (filter, expected) in [
        (json!([{ "column": "amount", "op": ">", "value": 12 }]), json!([[1]])),
        (
            json!([{ "column": "amount", "op": ">=", "value": "12" }, { "column": "paid", "op": "=", "value": false }]),
            json!([[2]]),
        ),
        (json!([{ "column": "amount", "op": "is_null" }]), json!([[3]])),
        (json!([{ "column": "day", "op": ">=", "value": "2024-02" }]), json!([[2], [4]])),
        (json!([{ "column": "code", "op": "in", "value": ["007", "012"] }]), json!([[1], [4]])),
        (json!([{ "column": "note", "op": "contains", "value": "\u{fc}" }]), json!([[4]])),
        (json!([{ "column": "id", "op": "=", "value": 99 }]), json!([])),
    ] {
        assert_eq!(rows(filter.clone()), expected, "{filter}");
    }
    assert_eq!(
        read(json!({ "columns": ["paid", "id", "paid"], "max_rows": 1 })).data()["rows"],
        json!([[true, 1, true]])
    );
    // By the names that clients know from elsewhere.
    let reply = server.execute("agent", "data:read_csv", &json!({ "csv_file": "sales.csv", "max_rows": 1 }));
    assert_eq!(reply.data()["row_count"], 1);
    for (params, parameter) in [
        (json!({ "columns": ["ammount"] }), "columns"),
        (json!({ "filter": [{ "column": "x", "op": "=", "value": 1 }] }), "filter"),
        (json!({ "filter": [{ "column": "id", "op": "=" }] }), "filter"),
        (json!({ "delimiter": "\"" }), "delimiter"),
        (json!({ "path": "sales.xlsx" }), "path"),
    ] {
        let reply = read(params.clone());
        let code = if parameter == "path" { 4014 } else { 4000 };
        assert_eq!(reply.code(), code, "{params}: {reply:?}");
        if code == 4000 {
            assert_eq!(reply.body["error"]["parameter"], parameter, "{params}: {reply:?}");
        }
    }
    assert_eq!(read(json!({ "columns": ["ammount"] })).body["error"]["candidates"][0], "amount");
    // Long values are cut, and rows that have no room come with the cursor.
    let part = read(json!({ "columns": ["name", "note"], "max_chars": 3 })).data().clone();
    assert_eq!(json!([part["rows"], part["truncated"]]), json!([[["A .. (of 3 bytes)", "a .. (of 4 bytes)"]], true]));
    let stale = json!({ "cursor": part["next_cursor"], "columns": ["name", "note"] });
    fs::write(root.path().join("sales.csv"), "name,note\n1,2\n").unwrap();
    assert_eq!(read(stale).code(), 4009);
}

#[test]
fn odd_csv_files_are_read_with_warnings() {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(root.path().join(name), bytes).unwrap();
    write("german.csv", b"\xef\xbb\xbfname;preis\nM\xfcller;1,5\n");
    write("ragged.csv", b"a,b,,a\n1,2\n1,2,3,4,5\n");
    write("tabs.tsv", b"a\tb c\n1\tx,y\n");
    write("plain.csv", b"1,2\n3,4\n");
    write("late.csv", format!("n\n{}five\n", "1\n".repeat(12_000)).as_bytes());
    write("grows.csv", format!("n,m\n{}2.5,7\n", "1,NA\n".repeat(12_000)).as_bytes());
    write("many.csv", format!("{}\n", "a,".repeat(60_000)).as_bytes());
    write("empty.csv", b"");
    write("wide.csv", &[0xff, 0xfe, b'a', 0]);
    write("binary.csv", b"\0\x01\x02");
    let server = server(root.path(), &json!({}));
    let read = |params: Value| call(&server, "read", &params).data().clone();
    let german = read(json!({ "path": "german.csv" }));
    assert_eq!(json!([german["columns"][0]["name"], german["rows"]]), json!(["name", [["M\u{fc}ller", "1,5"]]]));
    assert!(german["warnings"][0].as_str().unwrap().contains("line 2"), "{german}");
    let ragged = read(json!({ "path": "ragged.csv" }));
    let names: Vec<_> = ragged["columns"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
    assert_eq!(
        json!([names, ragged["rows"]]),
        json!([["a", "b", "column_3", "a_2"], [[1, 2, null, null], [1, 2, 3, 4]]])
    );
    assert!(ragged["warnings"][0].as_str().unwrap().starts_with("2 rows (the first one in line 2) have not 4 values"));
    assert_eq!(read(json!({ "path": "tabs.tsv" }))["rows"], json!([[1, "x,y"]]));
    let plain = read(json!({ "path": "plain.csv", "header": false }));
    assert_eq!(json!([plain["columns"][1]["name"], plain["rows"]]), json!(["column_2", [[1, 2], [3, 4]]]));
    let forced = read(json!({ "path": "german.csv", "delimiter": ",", "header": false }));
    assert_eq!(forced["rows"][1], json!(["M\u{fc}ller;1", 5]));
    // The first rows say what a column is; what is not stays as it is, and an inspection knows.
    let filter = json!([{ "column": "n", "op": "=", "value": "five" }]);
    let late = read(json!({ "path": "late.csv", "filter": filter }));
    assert_eq!(json!([late["columns"][0]["type"], late["rows"]]), json!(["integer", [["five"]]]));
    let summary = call(&server, "inspect", &json!({ "path": "late.csv" })).data().clone();
    assert_eq!(json!([summary["rows"], summary["columns"][0]["type"]]), json!([12_001, "string"]));
    let filter = json!([{ "column": "n", "op": ">", "value": 2 }, { "column": "m", "op": "=", "value": 7 }]);
    assert_eq!(read(json!({ "path": "grows.csv", "filter": filter }))["rows"], json!([[2.5, 7]]));
    assert_eq!(read(json!({ "path": "grows.csv", "max_rows": 1 }))["rows"], json!([[1, null]]));
    let summary = call(&server, "inspect", &json!({ "path": "german.csv" })).data().clone();
    assert_eq!(summary["delimiter"], ";");
    assert_eq!(read(json!({ "path": "empty.csv" }))["rows"], json!([]));
    for path in ["wide.csv", "binary.csv", "many.csv"] {
        let reply = call(&server, "inspect", &json!({ "path": path }));
        assert_eq!((reply.code(), reply.reason()), (4001, "malformed"), "{reply:?}");
    }
}

#[test]
fn json_lines_are_read() {
    let root = tempfile::tempdir().unwrap();
    let lines = "{\"b\": 1, \"a\": \"x\", \"tags\": [1, 2]}\n\nnot json\n{\"a\": null, \"b\": 2.5, \"more\": {\"k\": true}}\n[1]\n\
        {\"b\": 18446744073709551615, \"a\": \"2024-01-01\"}\n";
    fs::write(root.path().join("events.jsonl"), lines).unwrap();
    let late = "{\"a\": 1}\n".repeat(12_000) + "{\"a\": 2, \"late\": 3}\n";
    fs::write(root.path().join("late.ndjson"), late).unwrap();
    let once = "{\"a\": 1}\n".repeat(12_000) + "{\"a\": 0, \"once\": 1}\n" + &"{\"a\": 2}\n".repeat(20);
    fs::write(root.path().join("once.jsonl"), once).unwrap();
    fs::write(root.path().join("none.jsonl"), "a\nb\n").unwrap();
    let server = server(root.path(), &json!({}));
    let read = |params: Value| call(&server, "read", &params).data().clone();
    let events = read(json!({ "path": "events.jsonl" }));
    let columns: Vec<_> = events["columns"].as_array().unwrap().iter().map(|c| json!([c["name"], c["type"]])).collect();
    assert_eq!(json!(columns), json!([["b", "number"], ["a", "string"], ["tags", "list"], ["more", "object"]]));
    let rows = json!([
        [1, "x", [1, 2], null],
        [2.5, null, null, { "k": true }],
        [18_446_744_073_709_551_615_u64, "2024-01-01", null, null],
    ]);
    assert_eq!(events["rows"], rows);
    assert!(
        events["warnings"][0].as_str().unwrap().starts_with("2 lines (the first one in line 3) are no JSON objects")
    );
    let filter = json!([{ "column": "b", "op": ">", "value": 2 }]);
    assert_eq!(read(json!({ "path": "events.jsonl", "columns": ["b"], "filter": filter }))["row_count"], 2);
    let summary = call(&server, "inspect", &json!({ "path": "events.jsonl" })).data().clone();
    let b = column(&summary, "b");
    assert_eq!(
        json!([summary["rows"], b["nulls"], b["min"], column(&summary, "tags")["nulls"]]),
        json!([3, 0, 1.0, 2])
    );
    let filter = json!([{ "column": "a", "op": "=", "value": 2 }]);
    let rows = read(json!({ "path": "late.ndjson", "filter": filter }));
    assert!(rows["warnings"][0].as_str().unwrap().contains("`late` (line 12001)"), "{rows}");
    assert_eq!(read(json!({ "path": "late.ndjson", "columns": ["late"], "filter": filter }))["rows"], json!([[3]]));
    // The last page need not have what an earlier one had.
    let more = read(json!({ "path": "events.jsonl", "columns": ["more", "b"], "max_rows": 2 }));
    let last = json!({ "path": "events.jsonl", "columns": ["more", "b"], "cursor": more["next_cursor"] });
    assert_eq!(read(last)["rows"], json!([[null, 18_446_744_073_709_551_615_u64]]));
    let filter = json!([{ "column": "a", "op": "!=", "value": 1 }]);
    let part = read(json!({ "path": "once.jsonl", "columns": ["once"], "filter": filter, "max_rows": 1 }));
    assert_eq!(part["rows"], json!([[1]]));
    let rest = json!({ "path": "once.jsonl", "columns": ["once"], "filter": filter, "cursor": part["next_cursor"] });
    assert_eq!(read(rest)["row_count"], 20);
    // A name that no row has is a mistake.
    for (params, parameter) in [
        (json!({ "path": "events.jsonl", "columns": ["mroe"] }), "columns"),
        (json!({ "path": "events.jsonl", "filter": [{ "column": "mroe", "op": "is_null" }] }), "filter"),
        (json!({ "path": "events.jsonl", "delimiter": "," }), "delimiter"),
        (json!({ "path": "events.jsonl", "header": false }), "header"),
    ] {
        let reply = call(&server, "read", &params);
        assert_eq!((reply.code(), &reply.body["error"]["parameter"]), (4000, &json!(parameter)), "{params}: {reply:?}");
    }
    let reply = call(&server, "read", &json!({ "path": "none.jsonl" }));
    assert_eq!((reply.code(), reply.reason()), (4001, "malformed"), "{reply:?}");
}

#[test]
fn parquet_is_read() {
    let root = tempfile::tempdir().unwrap();
    parquet(&root.path().join("t.parquet"));
    let whole = fs::read(root.path().join("t.parquet")).unwrap();
    fs::write(root.path().join("half.parquet"), &whole[..whole.len() / 2]).unwrap();
    let server = server(root.path(), &json!({}));
    let read = |params: Value| {
        let mut all = json!({ "path": "t.parquet" });
        all.as_object_mut().unwrap().extend(params.as_object().unwrap().clone());
        call(&server, "read", &all).data().clone()
    };
    let rows = read(json!({ "max_rows": 4 }));
    let kinds: Vec<_> = rows["columns"].as_array().unwrap().iter().map(|c| c["type"].clone()).collect();
    let expected =
        ["integer", "string", "number", "boolean", "date", "datetime", "datetime", "decimal", "binary", "list"];
    assert_eq!(json!(kinds), json!(expected));
    let expected = json!([
        [0, null, 0.5, false, "1970-01-01", "1970-01-01T00:00:00Z", "1970-01-01T00:00:00", "1.25", "AP8=", ["a", "b"]],
        [
            1,
            "w1",
            "NaN",
            true,
            "2024-02-29",
            "2023-11-14T22:13:20.123456789Z",
            "2023-11-14T22:13:20.123456",
            "-0.01",
            "AP8=",
            []
        ],
        [
            2,
            "w2",
            null,
            false,
            "1969-12-31",
            "1969-12-31T23:59:59.999999999Z",
            "1969-12-31T23:59:59.999999",
            "0.00",
            "AP8=",
            null
        ],
        [
            3,
            "w3",
            1.5,
            true,
            "1970-01-02",
            "1970-01-01T00:00:00.000001Z",
            "1970-01-01T00:00:00.001",
            "999.99",
            "AP8=",
            [null]
        ],
    ]);
    assert_eq!(rows["rows"], expected);
    // Over the ends of row groups.
    let filter = json!([{ "column": "odd", "op": "=", "value": true }]);
    let part = read(json!({ "columns": ["word", "n"], "filter": filter, "max_rows": 3 }));
    assert_eq!(part["rows"], json!([["w1", 1], ["w3", 3], ["w5", 5]]));
    let rest =
        read(json!({ "columns": ["word", "n"], "filter": filter, "max_rows": 9, "cursor": part["next_cursor"] }));
    assert_eq!(json!([rest["rows"], rest["truncated"]]), json!([[["w7", 7], ["w9", 9], ["w11", 11]], false]));
    let summary = call(&server, "inspect", &json!({ "path": "t.parquet" })).data().clone();
    assert_eq!(json!([summary["format"], summary["rows"], summary["complete"]]), json!(["parquet", 12, true]));
    let (n, at) = (column(&summary, "n"), column(&summary, "at"));
    assert_eq!(
        json!([n["min"], n["max"], n["mean"], at["type"], column(&summary, "word")["nulls"]]),
        json!([0, 11, 5.5, "datetime", 3])
    );
    let price = column(&summary, "price");
    assert_eq!(
        json!([price["type"], price["min"], price["max"], price["mean"]]),
        json!(["decimal", "-0.01", "999.99", 250.3075])
    );
    let filter = json!([{ "column": "price", "op": ">", "value": 1 }, { "column": "at", "op": "<", "value": "1970-01-01T00:00:01Z" }]);
    assert_eq!(
        read(json!({ "columns": ["price"], "filter": filter, "max_rows": 3 }))["rows"],
        json!([["1.25"], ["999.99"], ["1.25"]])
    );
    let reply = call(&server, "read", &json!({ "path": "half.parquet" }));
    assert_eq!((reply.code(), reply.reason()), (4001, "malformed"), "{reply:?}");
    assert!(!reply.body.to_string().contains(root.path().to_str().unwrap()), "a path of the host: {reply:?}");
}

#[test]
fn files_are_listed_and_none_outside_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("data");
    fs::create_dir_all(root.join("more")).unwrap();
    fs::write(folder.path().join("secret.csv"), "a\n1\n").unwrap();
    fs::write(root.join("more/a.csv"), "a\n1\n").unwrap();
    fs::write(root.join("notes.txt"), "text").unwrap();
    std::os::unix::fs::symlink("../secret.csv", root.join("link.csv")).unwrap();
    let server = server(&root, &json!({}));
    let list = call(&server, "list", &json!({})).data().clone();
    assert_eq!(json!([list["files"][0]["path"], list["files"].as_array().unwrap().len()]), json!(["more/a.csv", 1]));
    for path in ["link.csv", "../secret.csv", "/etc/passwd"] {
        let reply = call(&server, "read", &json!({ "path": path }));
        assert_eq!((reply.code(), reply.reason()), (4013, "outside"), "{path}: {reply:?}");
    }
    let reply = call(&server, "read", &json!({ "path": "notes.txt" }));
    assert_eq!((reply.code(), &reply.body["error"]["parameter"]), (4000, &json!("path")), "{reply:?}");
}

#[test]
fn a_scan_ends_in_time_and_says_so() {
    let root = tempfile::tempdir().unwrap();
    let mut rows = "n,text\n".to_owned();
    for n in 0..400_000 {
        writeln!(rows, "{n},some text that takes its time {n}").unwrap();
    }
    fs::write(root.path().join("long.csv"), rows.repeat(8)).unwrap();
    let server = server(root.path(), &json!({ "timeout_seconds": 1 }));
    let summary = call(&server, "inspect", &json!({ "path": "long.csv" })).data().clone();
    assert_eq!((&summary["complete"], summary.get("rows")), (&json!(false), None), "{summary}");
    assert!(summary["rows_seen"].as_u64().unwrap() > 0);
    let filter = json!([{ "column": "text", "op": "=", "value": "not there" }]);
    // What was found so far, and where it goes on.
    let part = call(&server, "read", &json!({ "path": "long.csv", "filter": filter })).data().clone();
    assert_eq!(json!([part["row_count"], part["truncated"]]), json!([0, true]));
    assert!(part["warnings"][0].as_str().unwrap().contains("time was over"), "{part}");
    let rest = json!({ "path": "long.csv", "filter": filter, "cursor": part["next_cursor"] });
    let place = |part: &Value| part["next_cursor"].as_str().unwrap().split_once('.').unwrap().1.parse::<u64>().unwrap();
    let rest = call(&server, "read", &rest).data().clone();
    assert!(place(&rest) > place(&part), "{rest}");
    assert_eq!(call(&server, "read", &json!({ "path": "long.csv", "max_rows": 1 })).data()["row_count"], 1);
}

#[test]
fn python_works_on_files_in_a_sandbox() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("more")).unwrap();
    fs::write(root.path().join("sales.csv"), SALES).unwrap();
    fs::write(root.path().join("more/raw.bin"), [0, 159, 146, 150]).unwrap();
    let apis = json!({ "ds": { "roots": [root.path()], "max_copy_mib": 1 } });
    let server = Server::start(&json!({ "resources": { "bash": {} }, "apis": apis }));
    let run = |params: Value| call(&server, "run_python", &params);
    let code = "import csv\nrows = list(csv.DictReader(open('sales.csv')))\nprint(len(rows))\nopen('out.txt', 'w').write('x')\n\
        (len(open('more/raw.bin', 'rb').read()), rows[0]['name'])";
    let answer = run(json!({ "code": code, "files": ["sales.csv", "more/raw.bin"] })).data().clone();
    assert_eq!(
        json!([answer["exit_code"], answer["stdout"], answer["result"]]),
        json!([0, "4\n", "(4, 'Ada')"]),
        "{answer}"
    );
    let made: Vec<_> = answer["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert!(made.iter().any(|path| path.ends_with("/out.txt")), "{made:?}");
    // Only what was asked for is there, and nothing of the call before.
    let failed = run(json!({ "code": "open('sales.csv')" })).data().clone();
    assert_eq!(failed["exit_code"], 1);
    assert!(failed["stderr"].as_str().unwrap().contains("FileNotFoundError"), "{failed}");
    let late = run(json!({ "code": "while True: pass", "timeout_ms": 300 })).data().clone();
    assert_eq!(late["timed_out"], true);
    assert_eq!(run(json!({ "code": "1", "files": ["../x"] })).reason(), "outside");
    fs::write(root.path().join("large.csv"), vec![b'x'; 2 << 20]).unwrap();
    let reply = run(json!({ "code": "1", "files": ["large.csv"] }));
    assert_eq!((reply.code(), &reply.body["error"]["parameter"]), (4000, &json!("files")), "{reply:?}");
    // In the session of the worker, if it has one.
    let session = json!({ "worker_id": "agent", "resource_type": "bash" });
    server.post("/session/create", &session).data();
    run(json!({ "code": "1", "files": ["sales.csv"] })).data();
    let head = server.execute("agent", "bash:run", &json!({ "command": "head -c 7 sales.csv" }));
    assert_eq!(head.data()["stdout"], "id,name");
}

#[test]
fn python_needs_a_shell() {
    let root = tempfile::tempdir().unwrap();
    let server = server(root.path(), &json!({}));
    let reply = call(&server, "run_python", &json!({ "code": "1" }));
    assert_eq!((reply.code(), reply.reason()), (5012, "no_shell"), "{reply:?}");
}
