//! How much of what is personal redaction finds, and how much of what it finds is personal, on a corpus that was written
//! without knowledge of the redactor: `tests/redaction/corpus.jsonl`, one `{"id", "text", "spans": [{"kind", "start",
//! "end"}]}` a line, in bytes. The figures by kind: `cargo test --release --test redaction -- --nocapture`.

use autoannotator::review::redact::{Kind, redact};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;

/// One text of the corpus and what is personal in it.
#[derive(Deserialize)]
struct Text {
    id: serde_json::Value,
    text: String,
    spans: Vec<Personal>,
}

#[derive(Deserialize)]
struct Personal {
    kind: Kind,
    start: usize,
    end: usize,
}

/// What was counted of one kind: of personal data by theirs, of finds by the redactor's.
#[derive(Default, Clone, Copy)]
struct Counts {
    /// Personal data.
    data: usize,
    /// Of them, those with every byte replaced, as whatever kind.
    covered: usize,
    /// Of them, those replaced as what they are, with at most two bytes more.
    right: usize,
    /// Finds of the redactor.
    finds: usize,
    /// Of them, those that touch a personal datum.
    true_finds: usize,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.data += other.data;
        self.covered += other.covered;
        self.right += other.right;
        self.finds += other.finds;
        self.true_finds += other.true_finds;
    }

    fn covered_recall(&self) -> f64 {
        share(self.covered, self.data)
    }

    fn precision(&self) -> f64 {
        share(self.true_finds, self.finds)
    }
}

/// Of nothing, all.
fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

/// The counts by kind, and what was missed or found in vain.
#[derive(Default)]
struct Measured {
    kinds: BTreeMap<Kind, Counts>,
    missed: Vec<String>,
    vain: Vec<String>,
}

impl Measured {
    fn all(&self) -> Counts {
        let mut all = Counts::default();
        self.kinds.values().for_each(|counts| all.add(counts));
        all
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "kind          data  covered     right   finds  precision")?;
        let total = [("all".to_owned(), self.all())];
        let kinds = self.kinds.iter().map(|(kind, counts)| (name(*kind), *counts));
        for (name, counts) in kinds.chain(total) {
            let percent = |part, whole| format!("{:.1} %", 100.0 * share(part, whole));
            let (covered, right) = (percent(counts.covered, counts.data), percent(counts.right, counts.data));
            let precision = percent(counts.true_finds, counts.finds);
            writeln!(f, "{name:12} {:5} {covered:>8} {right:>9} {:7} {precision:>10}", counts.data, counts.finds)?;
        }
        Ok(())
    }
}

fn name(kind: Kind) -> String {
    serde_json::to_value(kind).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Redacts each text and compares.
fn measure(corpus: &[Text]) -> Measured {
    let mut measured = Measured::default();
    for Text { id, text, spans } in corpus {
        let redacted = redact(text);
        for datum in spans {
            let written =
                text.get(datum.start..datum.end).expect("a span within its text, on boundaries of characters");
            let counts = measured.kinds.entry(datum.kind).or_default();
            counts.data += 1;
            let replaced = |at| redacted.spans().iter().any(|find| (find.start..find.end).contains(&at));
            if (datum.start..datum.end).all(replaced) {
                counts.covered += 1;
            } else {
                measured.missed.push(format!("{id} {}: {written:?} in {text:?}", name(datum.kind)));
            }
            counts.right += usize::from(redacted.spans().iter().any(|find| {
                let around = find.start <= datum.start && datum.end <= find.end;
                find.kind == datum.kind && around && (find.end - find.start) - (datum.end - datum.start) <= 2
            }));
        }
        for find in redacted.spans() {
            let counts = measured.kinds.entry(find.kind).or_default();
            counts.finds += 1;
            if spans.iter().any(|datum| datum.start < find.end && find.start < datum.end) {
                counts.true_finds += 1;
            } else {
                let written = redacted.original(find);
                measured.vain.push(format!("{id} {}: {written:?} in {text:?}", name(find.kind)));
            }
        }
    }
    measured
}

fn read(lines: &str) -> Vec<Text> {
    let line = |(at, line): (usize, &str)| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("line {} of the corpus: {error}", at + 1))
    };
    lines.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(line).collect()
}

#[test]
fn personal_data_is_found_and_little_else() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/redaction/corpus.jsonl");
    let lines = std::fs::read_to_string(path).unwrap_or_else(|error| {
        panic!("tests/redaction/corpus.jsonl, which this test measures on, is not there: {error}")
    });
    let measured = measure(&read(&lines));
    println!("{measured}");
    measured.missed.iter().for_each(|line| println!("missed: {line}"));
    measured.vain.iter().for_each(|line| println!("in vain: {line}"));
    let all = measured.all();
    assert!(all.data > 0, "the corpus is empty");
    assert!(all.covered_recall() >= 0.98, "{:.4} of personal data is covered", all.covered_recall());
    assert!(all.precision() >= 0.95, "{:.4} of finds are personal data", all.precision());
}

#[test]
fn what_is_measured_is_what_it_says() {
    let corpus = read(concat!(
        // Right.
        "{\"id\": 1, \"text\": \"to a@b.org now\", \"spans\": [{\"kind\": \"email\", \"start\": 3, \"end\": 10}]}\n",
        // Covered, as another kind, and more than it.
        "{\"id\": \"2\", \"text\": \"a@b.org\", \"spans\": [{\"kind\": \"handle\", \"start\": 1, \"end\": 3}]}\n\n",
        // Missed; and a find in vain.
        "{\"id\": 3, \"text\": \"né @bob\", \"spans\": [{\"kind\": \"national-id\", \"start\": 0, \"end\": 3}]}\n",
        // Half covered is missed, but the find is none in vain.
        "{\"id\": 4, \"text\": \"x @bob\", \"spans\": [{\"kind\": \"handle\", \"start\": 0, \"end\": 6}]}\n",
    ));
    let measured = measure(&corpus);
    let all = measured.all();
    assert_eq!((all.data, all.covered, all.right, all.finds, all.true_finds), (4, 2, 1, 4, 3));
    assert_eq!((measured.missed.len(), measured.vain.len()), (2, 1));
    assert_eq!((all.covered_recall(), all.precision()), (0.5, 0.75));
    let table = measured.to_string();
    assert!(table.contains("national-id      1    0.0 %"), "{table}");
    assert_eq!(Counts::default().precision(), 1.0);
}
