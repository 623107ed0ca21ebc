use super::*;
use crate::sample::{Annotation, Review, ReviewedBy, Verdict, Vote};
use crate::spec::Spec;
use proptest::prelude::*;

/// Reads all of `bytes`, cut in pieces of `size`.
fn read_with(
    format: Format,
    options: &ReadOptions,
    bytes: &[u8],
    size: usize,
) -> (Vec<Row>, Vec<String>, Result<(), DataError>) {
    let mut rows = Vec::new();
    let mut reader = Reader::new(format, options).expect("reader");
    let outcome = bytes.chunks(size.max(1)).try_for_each(|piece| reader.push(piece, &mut rows));
    let outcome = outcome.and_then(|()| reader.finish(&mut rows));
    (rows, reader.columns().to_vec(), outcome)
}

fn read(format: Format, bytes: impl AsRef<[u8]>) -> Vec<Row> {
    let (rows, _, outcome) = read_with(format, &ReadOptions::default(), bytes.as_ref(), usize::MAX);
    outcome.expect("good file");
    rows
}

fn error(format: Format, bytes: impl AsRef<[u8]>) -> DataError {
    read_with(format, &ReadOptions::default(), bytes.as_ref(), usize::MAX).2.expect_err("bad file")
}

fn texts(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|row| row.sample.text.as_str()).collect()
}

fn problem(row: &Row) -> &str {
    row.problem.as_deref().unwrap_or_default()
}

#[test]
fn formats_are_told_by_extension() {
    assert_eq!(Format::from_name("a/b.c/tweets.CSV"), Ok(Format::Csv));
    assert_eq!(Format::from_name("x.ndjson"), Ok(Format::Jsonl));
    assert_eq!(Format::from_name("x.tab"), Ok(Format::Tsv));
    assert!(Format::from_name("a.b/tweets").is_err());
    assert!(Format::from_name("x.json").expect_err("json").to_string().contains("one object a line"));
    assert!(Format::from_name("x.xlsx").is_err());
}

#[test]
fn csv_fields_come_out_as_they_are() {
    let rows = read(Format::Csv, "id,text,label\r\n1,\"a, \"\"b\"\"\r\nc\",pos\r\n\r\n2, d ,\n3,e,neg");
    assert_eq!(texts(&rows), ["a, \"b\"\r\nc", " d ", "e"]);
    assert_eq!(rows[0].values, Values::Fields(vec!["1".into(), "a, \"b\"\r\nc".into(), "pos".into()]));
    assert_eq!(rows.iter().map(|row| row.number).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(rows.iter().all(|row| row.problem.is_none()));
}

#[test]
fn semicolons_and_tabs_are_recognised() {
    assert_eq!(texts(&read(Format::Csv, "id;text\n1;a, b\n")), ["a, b"]);
    assert_eq!(texts(&read(Format::Csv, "id\ttext\n1\ta; b\n")), ["a; b"]);
    assert_eq!(texts(&read(Format::Csv, "\"id;x\",text\n1,a\n")), ["a"]);
    assert_eq!(texts(&read(Format::Tsv, "id\ttext\n1\t\"a\tb\"\n")), ["a\tb"]);
}

#[test]
fn the_text_column_is_named_obvious_or_asked_for() {
    let options = |name: &str| ReadOptions { text_column: Some(name.into()), encoding: None };
    let csv = b"Id,Comment,Tweet\n1,a,b\n";
    assert_eq!(texts(&read(Format::Csv, csv)), ["b"]);
    assert_eq!(texts(&read_with(Format::Csv, &options("comment"), csv, 100).0), ["a"]);
    let missing = read_with(Format::Csv, &options("body"), csv, 100).2.expect_err("missing").to_string();
    assert!(missing.contains("no column 'body'") && missing.contains("'Id', 'Comment', 'Tweet'"), "{missing}");
    let none = error(Format::Csv, "a,b\n1,2\n").to_string();
    assert!(none.contains("which column") && none.contains("'a', 'b'"), "{none}");
    assert!(matches!(error(Format::Jsonl, "{\"a\": 1}\n"), DataError::NoTextColumn { .. }));
}

#[test]
fn jsonl_values_are_not_reformatted() {
    let line = r#"{"id": 12345678901234567890, "x": 1.0e5, "text": "a\u00e9\n", "n": {"b": [1,  2]}}"#;
    let rows = read(Format::Jsonl, format!("{line}\n\n  \n{line}"));
    assert_eq!(texts(&rows), ["aé\n", "aé\n"]);
    let Values::Members(members) = &rows[1].values else { panic!("members") };
    let values: Vec<&str> = members.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(values, ["12345678901234567890", "1.0e5", r#""a\u00e9\n""#, r#"{"b": [1,  2]}"#]);
    assert_eq!(rows[0].value(&[], "x").as_deref(), Some("1.0e5"));
    assert_eq!(rows[0].value(&[], "text").as_deref(), Some("aé\n"));
}

#[test]
fn a_bad_line_of_jsonl_is_set_aside() {
    let rows = read(Format::Jsonl, "{\"text\":\"a\"}\n{\"text\":\n[1]\n{\"t\":1}\n{\"text\":5}\n{\"text\":\"b\"}\n");
    assert_eq!(texts(&rows), ["a", "", "", "", "", "b"]);
    let codes: Vec<&str> = rows.iter().map(|row| problem(row).split(':').next().unwrap_or_default()).collect();
    assert_eq!(codes, ["", "not-json", "not-json", "no-text", "no-text", ""]);
    assert!(problem(&rows[1]).ends_with("the line: {\"text\":"));
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let rows = read(Format::Jsonl, format!("{{\"text\":\"a\",\"x\":{deep}}}\n{deep}\n"));
    assert_eq!(rows.len(), 2);
}

#[test]
fn txt_is_one_text_a_line() {
    let rows = read(Format::Txt, "a\r\n\nb, \"c\n\n");
    assert_eq!(texts(&rows), ["a", "", "b, \"c", ""]);
    assert_eq!(rows[2].values, Values::Fields(vec!["b, \"c".into()]));
}

#[test]
fn byte_order_marks_and_utf16_are_decoded() {
    let text = "id,text\n1,añ😀\n";
    let mut utf8 = b"\xEF\xBB\xBF".to_vec();
    utf8.extend(text.bytes());
    let le: Vec<u8> = std::iter::once(0xFEFF).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let be: Vec<u8> = std::iter::once(0xFEFF).chain(text.encode_utf16()).flat_map(u16::to_be_bytes).collect();
    for bytes in [utf8, le.clone(), be] {
        for size in [1, 3, 1000] {
            let (rows, columns, outcome) = read_with(Format::Csv, &ReadOptions::default(), &bytes, size);
            outcome.expect("good file");
            assert_eq!((texts(&rows), columns[0].as_str()), (vec!["añ😀"], "id"));
        }
    }
    assert_eq!(error(Format::Csv, &le[2..]), DataError::Utf16 { encoding: "utf-16le" });
    let options = ReadOptions { text_column: None, encoding: Some("utf-16le".into()) };
    assert_eq!(texts(&read_with(Format::Csv, &options, &le[2..], 5).0), ["añ😀"]);
}

#[test]
fn what_is_not_utf8_is_set_aside_with_its_place() {
    let bytes = b"id,text\n1,good\n2,caf\xE9\n3,also good\n";
    let rows = read(Format::Csv, bytes);
    assert_eq!(texts(&rows), ["good", "", "also good"]);
    assert!(problem(&rows[1]).starts_with("not-utf8: the row that starts at byte 15 "), "{}", problem(&rows[1]));
    let options = ReadOptions { text_column: None, encoding: Some("windows-1252".into()) };
    assert_eq!(texts(&read_with(Format::Csv, &options, bytes, 7).0), ["good", "café", "also good"]);
    let rows = read(Format::Txt, b"\xEF\xBB\xBFa\n\xFFb\n");
    assert!(problem(&rows[1]).contains("byte 5 "), "{}", problem(&rows[1]));
    // Half a surrogate pair in UTF-16 is not replaced silently either.
    let units = [0xFEFFu16, 0x61, 0x0A, 0xD800, 0x62, 0x0A];
    let rows = read(Format::Txt, units.iter().flat_map(|unit| unit.to_le_bytes()).collect::<Vec<u8>>());
    assert_eq!((texts(&rows), problem(&rows[1]).is_empty()), (vec!["a", ""], false));
    assert!(matches!(
        Reader::new(Format::Csv, &ReadOptions { text_column: None, encoding: Some("klingon".into()) }),
        Err(DataError::Encoding { .. })
    ));
    assert!(matches!(error(Format::Csv, b"te\xFFxt\na\n"), DataError::Header { .. }));
}

#[test]
fn a_nul_is_a_character_like_any_other() {
    assert_eq!(texts(&read(Format::Csv, "text\na\0b\n")), ["a\0b"]);
    assert_eq!(texts(&read(Format::Jsonl, "{\"text\":\"a\\u0000b\"}")), ["a\0b"]);
    assert_eq!(texts(&read(Format::Txt, "a\0b\n")), ["a\0b"]);
}

#[test]
fn no_rows_are_an_error() {
    for format in [Format::Csv, Format::Tsv, Format::Jsonl, Format::Txt] {
        assert_eq!(error(format, ""), DataError::Empty { detail: "; the file is empty" });
    }
    assert_eq!(error(Format::Csv, "id,text\n"), DataError::Empty { detail: " below the header line" });
    assert!(matches!(error(Format::Csv, "\n\n"), DataError::Empty { .. }));
    assert!(matches!(error(Format::Csv, b"PK\x03\x04xxxxxxxx"), DataError::Binary { .. }));
}

#[test]
fn ragged_rows_are_set_aside_whole() {
    let rows = read(Format::Csv, "id,text\n1,a\n2\n3,b,c,\"d,e\"\n4,f\n");
    assert_eq!(texts(&rows), ["a", "", "", "f"]);
    assert_eq!(problem(&rows[1]), "ragged-row: line 3 has 1 fields where the header has 2");
    assert_eq!(problem(&rows[2]), r#"ragged-row: line 4 has 4 fields where the header has 2; the rest: ["c","d,e"]"#);
    assert_eq!(rows[2].values, Values::Fields(vec!["3".into(), "b".into(), "c".into(), "d,e".into()]));
}

#[test]
fn an_unclosed_quote_names_its_row_and_spares_the_rows_before() {
    for size in [1, 5, 1000] {
        let bytes = b"id,text\n1,a\n\n2,b\n3,\"never closed\n4,d\n5,e\n";
        let (rows, _, outcome) = read_with(Format::Csv, &ReadOptions::default(), bytes, size);
        assert_eq!(texts(&rows), ["a", "b"]);
        assert_eq!(outcome, Err(DataError::UnclosedQuote { row: 3, line: 5 }));
    }
    assert_eq!(error(Format::Csv, "\"text\na\nb"), DataError::UnclosedQuote { row: 1, line: 1 });
    assert_eq!(texts(&read(Format::Csv, "text\n\"a\"")), ["a"]);
    assert_eq!(texts(&read(Format::Csv, "text\n\"a\nb\"\n")), ["a\nb"]);
}

#[test]
fn a_field_of_ten_megabytes_is_set_aside_and_forgotten() {
    let big = "x".repeat(10 << 20);
    let csv = format!("id,text,note\n1,a,n\n2,\"{big}\",n\n3,c,n\n");
    let jsonl = format!("{{\"text\":\"a\"}}\n{{\"text\":\"{big}\"}}\n{{\"text\":\"c\"}}\n");
    let txt = format!("a\n{big}\nc\n");
    for (format, bytes) in [(Format::Csv, csv), (Format::Jsonl, jsonl), (Format::Txt, txt)] {
        let mut reader = Reader::new(format, &ReadOptions::default()).expect("reader");
        let mut rows = Vec::new();
        let mut most = 0;
        for piece in bytes.as_bytes().chunks(1 << 16) {
            reader.push(piece, &mut rows).expect("push");
            most = most.max(match &reader.source {
                Source::Head(_, head) => head.len(),
                Source::Delimited(records) => records.held(),
                Source::Lines(lines) => lines.held(),
            });
        }
        reader.finish(&mut rows).expect("finish");
        assert_eq!(texts(&rows), ["a", "", "c"], "{format:?}");
        assert!(problem(&rows[1]).starts_with("row-too-long: "), "{format:?}: {}", problem(&rows[1]));
        assert!(serde_json::to_string(&rows).expect("json").len() < 8 * CUT, "{format:?} keeps what it set aside");
        assert!(most <= 2 * MAX_ROW + (1 << 20), "{format:?} held {most} bytes");
    }
}

#[test]
fn many_fields_are_set_aside() {
    let rows = read(Format::Csv, format!("text\n{}\nb\n", "a,".repeat(100_000)));
    assert_eq!(texts(&rows), ["", "b"]);
    assert!(problem(&rows[0]).starts_with("row-too-long: "));
}

proptest! {
    /// Against the csv crate's own reader over the whole file; and however the file is cut.
    #[test]
    fn csv_is_read_like_the_csv_crate_does(text in "(text|b|,|\"|\n|\r\n|é| |\0){0,60}", size in 1usize..20) {
        let bytes = format!("text,b\n{text}").into_bytes();
        let (rows, _, outcome) = read_with(Format::Csv, &ReadOptions::default(), &bytes, size);
        let mut reference = csv::ReaderBuilder::new().flexible(true).from_reader(&bytes[..]);
        let reference: Vec<Vec<String>> =
            reference.records().map(|r| r.expect("utf-8").iter().map(str::to_owned).collect()).collect();
        let fields: Vec<Vec<String>> = rows.into_iter().map(|row| match row.values {
            Values::Fields(fields) => fields,
            Values::Members(_) => Vec::new(),
        }).collect();
        match outcome {
            Err(DataError::UnclosedQuote { row, .. }) => {
                prop_assert_eq!(&fields[..], &reference[..fields.len()]);
                prop_assert_eq!(row as usize, fields.len() + 1);
                prop_assert_eq!(reference.len(), fields.len() + 1);
            }
            Err(DataError::Empty { .. }) => prop_assert!(reference.is_empty()),
            other => {
                prop_assert!(other.is_ok());
                prop_assert_eq!(fields, reference);
            }
        }
    }

    /// Whatever the bytes and however they are cut: no panic, the same rows, numbered without a gap.
    #[test]
    fn any_bytes_make_the_same_rows_however_cut(
        bytes in proptest::collection::vec(prop_oneof![Just(b'"'), Just(b','), Just(b'\n'), Just(b'{'), any::<u8>()], 0..200),
        size in 1usize..30,
    ) {
        let mut bytes = bytes;
        bytes.splice(..0, b"{\"text\":\"a,b\"}\n".iter().copied());
        for format in [Format::Csv, Format::Tsv, Format::Jsonl, Format::Txt] {
            let options = ReadOptions { text_column: (format == Format::Csv).then(|| "b\"}".into()), encoding: None };
            let whole = read_with(format, &options, &bytes, usize::MAX);
            prop_assert_eq!(&whole, &read_with(format, &options, &bytes, size));
            prop_assert!(whole.0.iter().enumerate().all(|(index, row)| row.number == index as u64 + 1));
        }
    }
}

fn annotation(row: &Row) -> Annotation {
    let vote = |slm: &str, probabilities: [f32; 3]| Vote {
        slm: slm.into(),
        version: "abc".into(),
        engine: "cpu".into(),
        precision: "f32".into(),
        label: "positive".into(),
        probabilities: probabilities.into(),
        truncated: slm.ends_with("mpnet"),
    };
    let votes = vec![vote("sentiment-minilm-l3", [0.1, 0.2, 0.7]), vote("sentiment-mpnet", [1e-7, 0.25, 0.75])];
    Annotation::new(row.sample.clone(), votes, Verdict::Accepted { label: "positive".into(), confidence: 0.725 })
}

fn write(format: Format, rows: &[Row], columns: &[String], json: bool) -> String {
    let writer = Writer::new(format, columns, json, &Spec::built_in("sentiment").expect("built in")).expect("writer");
    let mut out = writer.header().expect("header");
    for row in rows {
        out.extend(writer.row(row, &annotation(row)).expect("row"));
    }
    String::from_utf8(out).expect("UTF-8")
}

#[test]
fn columns_are_carried_through_untouched() {
    let input = "id,text,label,=x\n007,\"a,\n\"\"b\"\"\",pos,=1+1\n,\u{1F600}, x ,\"\"\n";
    let (rows, columns, _) = read_with(Format::Csv, &ReadOptions::default(), input.as_bytes(), 9);
    let out = write(Format::Csv, &rows, &columns, false);
    let (again, names, _) = read_with(Format::Csv, &ReadOptions::default(), out.as_bytes(), 9);
    for (row, copy) in rows.iter().zip(&again) {
        let (Values::Fields(row), Values::Fields(copy)) = (&row.values, &copy.values) else { panic!("fields") };
        assert_eq!(row[..], copy[..4]);
    }
    // Our label gives way to the input's.
    assert_eq!(names[..7], ["id", "text", "label", "=x", "aa_label", "source", "verdict"]);
    let value = |name: &str| again[0].value(&names, name).expect("a column").into_owned();
    assert_eq!(value("aa_label"), "positive");
    assert_eq!(value("source"), "consensus");
    assert_eq!(value("confidence"), "0.725");
    assert_eq!(value("sentiment-minilm-l3.p.positive"), "0.7");
    assert_eq!(value("sentiment-minilm-l6.label"), "");
    assert_eq!(value("sentiment-mpnet.p.negative").parse(), Ok(1e-7f32));
    assert_eq!(value("sentiment-mpnet.truncated"), "true");
}

#[test]
fn jsonl_out_keeps_every_member_and_adds_ours() {
    let line = r#"{"id":12345678901234567890,"text":"aé","label":{"b":[1,  2]},"aa_label":1.50}"#;
    let (rows, columns, _) = read_with(Format::Jsonl, &ReadOptions::default(), line.as_bytes(), 9);
    let out = write(Format::Jsonl, &rows, &columns, true);
    assert!(out.starts_with(&line[..line.len() - 1]), "{out}");
    let value: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(value["aa_aa_label"], "positive");
    assert_eq!(value["sentiment-mpnet.p.positive"], 0.75);
    assert_eq!(value["sentiment-minilm-l6.label"], serde_json::Value::Null);
    assert_eq!(value["review.by"], serde_json::Value::Null);
    assert_eq!(value["sentiment-minilm-l3.truncated"], false);
}

#[test]
fn one_format_becomes_another_and_nothing_is_lost() {
    let jsonl = "{\"text\":\"a\",\"n\":1}\n{\"text\":\"b\",\"more\":[1],\"verdict\":\"mine\"}\n";
    let (rows, columns, _) = read_with(Format::Jsonl, &ReadOptions::default(), jsonl.as_bytes(), 9);
    let (again, names, _) =
        read_with(Format::Csv, &ReadOptions::default(), write(Format::Csv, &rows, &columns, true).as_bytes(), 9);
    assert_eq!(again[1].value(&names, "n").as_deref(), Some(""));
    assert_eq!(again[1].value(&names, "aa_other").as_deref(), Some("{\"more\":[1],\"verdict\":\"mine\"}"));
    let out = write(Format::Jsonl, &rows, &columns, true);
    let second: serde_json::Value = serde_json::from_str(out.lines().nth(1).expect("two lines")).expect("JSON");
    assert_eq!((&second["verdict"], &second["aa_verdict"]), (&"mine".into(), &"accepted".into()));

    let (rows, columns, _) = read_with(Format::Csv, &ReadOptions::default(), b"text,,a,a\n1,2,3,4\n", 9);
    let out = write(Format::Jsonl, &rows, &columns, false);
    assert!(out.starts_with(r#"{"text":"1","column_2":"2","a":"3","a_2":"4","label":"#), "{out}");
    assert!(Writer::new(Format::Txt, &[], false, &Spec::built_in("sentiment").expect("built in")).is_err());
}

#[test]
fn reviews_and_rows_set_aside_are_written() {
    let spec = Spec::built_in("sentiment").expect("built in");
    let rows = read(Format::Txt, b"a\n\xFF\n");
    let writer = Writer::new(Format::Jsonl, &["text".into()], false, &spec).expect("writer");
    let review = Review {
        label: Some("neutral".into()),
        by: ReviewedBy::Llm { model: "m".into() },
        why: None,
        prompt_tokens: 12,
        completion_tokens: 3,
        cost_usd: 0.5,
    };
    let hard = Annotation::new(rows[0].sample.clone(), vec![], Verdict::Hard { why: "disagreement".into() });
    let out = writer.row(&rows[0], &hard.with_review(review)).expect("row");
    let value: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
    assert_eq!(
        (&value["label"], &value["source"], &value["verdict"]),
        (&"neutral".into(), &"llm".into(), &"hard".into())
    );
    assert_eq!((&value["review.model"], &value["review.prompt_tokens"]), (&"m".into(), &12.into()));
    let why = rows[1].problem.clone().expect("a problem");
    let aside = Annotation::new(rows[1].sample.clone(), vec![], Verdict::SetAside { why: why.clone() });
    let value: serde_json::Value = serde_json::from_slice(&writer.row(&rows[1], &aside).expect("row")).expect("JSON");
    assert_eq!(
        (&value["verdict"], &value["why"], &value["label"]),
        (&"set-aside".into(), &why.into(), &serde_json::Value::Null)
    );
}
