//! Files that are not as they should be, through the real binary: told clearly, or set aside with the reason.

mod common;

use common::Bench;
use serde_json::Value;

fn why(row: &Value) -> &str {
    row["why"].as_str().unwrap_or_default()
}

/// The rows' verdicts, shortened to whether they were set aside and with what code.
fn aside(rows: &[Value]) -> Vec<&str> {
    let code = |row| if row_is_aside(row) { why(row).split(':').next().unwrap_or_default() } else { "" };
    rows.iter().map(code).collect()
}

fn row_is_aside(row: &Value) -> bool {
    row["verdict"] == "set-aside"
}

#[test]
fn not_utf8() {
    let bench = Bench::new();
    bench.file("a.csv", b"id,text\n1,good\n2,caf\xE9\n3,fine\n");
    let rows = bench.labelled("a.csv", &[]);
    assert_eq!(aside(&rows), ["", "not-utf8", ""]);
    assert!(why(&rows[1]).contains("byte 15"), "{}", why(&rows[1]));
    assert!(rows[1]["label"].is_null() && rows[1]["id"] == "2");
    let rows = bench.labelled("a.csv", &["--encoding", "windows-1252"]);
    assert_eq!((aside(&rows), &rows[1]["text"]), (vec!["", "", ""], &Value::from("café")));
    assert!(bench.refused("a.csv", &["--encoding", "klingon"]).contains("no encoding 'klingon'"));
}

#[test]
fn byte_order_mark_and_utf16() {
    let bench = Bench::new();
    bench.file("bom.csv", "\u{FEFF}text\ngood\n");
    assert_eq!(bench.labelled("bom.csv", &[])[0]["text"], "good");
    let units: Vec<u8> = "\u{FEFF}text\ngöod\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    bench.file("utf16.csv", &units);
    assert_eq!(bench.labelled("utf16.csv", &[])[0]["text"], "göod");
    bench.file("unmarked.csv", &units[2..]);
    assert!(bench.refused("unmarked.csv", &[]).contains("utf-16le"));
}

#[test]
fn a_nul_byte() {
    let bench = Bench::new();
    bench.file("a.csv", "text\ngo\0od\n");
    let rows = bench.labelled("a.csv", &[]);
    assert_eq!((aside(&rows), &rows[0]["text"]), (vec![""], &Value::from("go\0od")));
}

#[test]
fn no_rows() {
    let bench = Bench::new();
    for (name, bytes) in [("a.csv", ""), ("b.csv", "id,text\n"), ("c.jsonl", "\n"), ("d.txt", "")] {
        bench.file(name, bytes);
        assert!(bench.refused(name, &[]).contains("there are no rows"), "{name}");
        assert!(!bench.path("labelled.jsonl").exists() && !bench.path("labelled.jsonl.journal").exists());
    }
    assert!(bench.refused("missing.csv", &[]).contains("cannot open missing.csv"));
    bench.file("x.xlsx", b"PK\x03\x04");
    assert!(bench.refused("x.xlsx", &[]).contains("csv, tsv, jsonl, txt"));
}

#[test]
fn a_missing_column() {
    let bench = Bench::new();
    bench.file("a.csv", "id,remark\n1,good\n");
    let said = bench.refused("a.csv", &[]);
    assert!(said.contains("which column") && said.contains("'id', 'remark'"), "{said}");
    assert!(bench.refused("a.csv", &["--text-column", "tweet"]).contains("no column 'tweet'"));
    let said = bench.refused("a.csv", &["--text-column", "remark", "--gold", "label"]);
    assert!(said.contains("no column 'label'"), "{said}");
    assert_eq!(bench.labelled("a.csv", &["--text-column", "remark"]).len(), 1);
}

#[test]
fn ragged_rows() {
    let bench = Bench::new();
    bench.file("a.csv", "id,text\n1,good\n2\n3,c,extra\n4,fine\n");
    let rows = bench.labelled("a.csv", &[]);
    assert_eq!(aside(&rows), ["", "ragged-row", "ragged-row", ""]);
    assert!(why(&rows[2]).contains("line 4") && why(&rows[2]).contains("extra"), "{}", why(&rows[2]));
}

#[test]
fn an_unclosed_quote() {
    let bench = Bench::new();
    bench.file("a.csv", "id,text\n1,good\n2,fine\n3,\"oh\n4,lost\n");
    let said = bench.refused("a.csv", &[]);
    assert!(said.contains("row 3 (line 4)") && said.contains("2 rows are labelled"), "{said}");
    assert_eq!(common::read(&bench.path("labelled.jsonl")).len(), 2);
}

#[test]
fn a_field_of_ten_megabytes() {
    let bench = Bench::new();
    bench.file("a.csv", format!("id,text\n1,good\n2,{}\n3,fine\n", "x".repeat(10 << 20)));
    let rows = bench.labelled("a.csv", &[]);
    assert_eq!(aside(&rows), ["", "row-too-long", ""]);
}

#[test]
fn duplicate_ids() {
    let bench = Bench::new();
    bench.file("a.csv", "id,text\n7,good\n7,fine\n");
    let rows = bench.labelled("a.csv", &[]);
    assert_eq!((rows.len(), &rows[0]["id"], &rows[1]["id"]), (2, &"7".into(), &"7".into()));
    assert_eq!((&rows[0]["text"], &rows[1]["text"]), (&"good".into(), &"fine".into()));
}

#[test]
fn only_whitespace_and_ten_thousand_words() {
    let bench = Bench::new();
    bench.file("a.csv", format!("text\n\" \t\u{3000}\"\n{}\nshort\n", "word ".repeat(10_000)));
    let rows = bench.labelled("a.csv", &[]);
    assert_eq!(aside(&rows), ["blank-text", "", ""]);
    assert!(rows[0]["label"].is_null() && rows[0]["sentiment-mpnet.label"].is_null());
    for slm in common::SLMS {
        assert_eq!(rows[1][format!("{slm}.truncated")], true);
        assert_eq!(rows[2][format!("{slm}.truncated")], false);
    }
}

#[test]
fn missing_slms_say_which_command_brings_them() {
    let bench = Bench::new();
    bench.file("a.csv", "text\ngood\n");
    std::fs::remove_dir_all(bench.path("home")).expect("removed");
    let said = bench.refused("a.csv", &[]);
    assert!(said.contains("autoannotator pull && autoannotator pack") && said.contains("make run"), "{said}");
    let output = bench.run("a.csv", "a.csv", &[]);
    assert!(!output.status.success() && std::fs::read(bench.path("a.csv")).expect("input") == b"text\ngood\n");
}

/// The reader's and the writer's memory does not grow with the rows: a million are made, labelled by nobody, and written
/// away, and the process is as large at the end as after the first tenth.
#[cfg(target_os = "linux")]
#[test]
fn a_million_rows_in_flat_memory() {
    use autoannotator::annotate::report::Tally;
    use autoannotator::data::{Format, ReadOptions, Reader, Writer};
    use autoannotator::{Annotation, Spec, Verdict};

    let resident = || {
        let status = std::fs::read_to_string("/proc/self/statm").expect("statm");
        status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("pages") * 4096
    };
    let spec = Spec::built_in("sentiment").expect("built in");
    let mut reader = Reader::new(Format::Csv, &ReadOptions::default()).expect("reader");
    let mut tally = Tally::new(&spec, false);
    let mut writer = None;
    let (mut rows, mut written, mut number, mut early) = (Vec::new(), 0u64, 0u64, 0u64);
    reader.push(b"id,text\n", &mut rows).expect("header");
    for chunk in 0..1000 {
        let lines: String =
            (0..1000).map(|row| format!("{chunk}-{row},\"this is \"\"row\"\" number {row}\"\n")).collect();
        reader.push(lines.as_bytes(), &mut rows).expect("push");
        let writer = writer.get_or_insert_with(|| {
            Writer::new(Format::Jsonl, reader.columns(), reader.is_json(), &spec).expect("writer")
        });
        for row in rows.drain(..) {
            number += 1;
            assert_eq!(row.number, number);
            let annotation = Annotation::new(row.sample.clone(), vec![], Verdict::Hard { why: "disagreement".into() });
            tally.add(&annotation, None);
            written += writer.row(&row, &annotation).expect("row").len() as u64;
        }
        if chunk == 100 {
            early = resident();
        }
    }
    reader.finish(&mut rows).expect("finish");
    assert_eq!((number, tally.rows()), (1_000_000, 1_000_000));
    assert!(written > 100_000_000);
    let grown = resident().saturating_sub(early);
    assert!(grown < 32 << 20, "grew by {grown} bytes over 900,000 rows");
}
