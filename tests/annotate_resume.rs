//! A run that is killed goes on where it was and ends with the same output, byte for byte.

mod common;
#[path = "support/reviewer.rs"]
mod reviewer;

use common::{Bench, Random, read};
use reviewer::reviewer;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Rows of random words; some of only whitespace.
fn input(rows: usize) -> String {
    let mut random = Random(5);
    let mut csv = String::from("id,text,label\n");
    for row in 0..rows {
        let words: Vec<String> = (0..random.bits() % 9)
            .map(|_| (0..1 + random.bits() % 6).map(|_| char::from(b'a' + (random.bits() % 26) as u8)).collect())
            .collect();
        let gold = ["negative", "neutral", "positive"][(random.bits() % 3) as usize];
        csv.push_str(&format!("{row},\"{}\",{gold}\n", words.join(" ")));
    }
    csv
}

/// Starts it, waits until it committed `rows` rows, kills it with SIGKILL. False where it was done before.
fn kill_after(bench: &Bench, command: Command, rows: u64, extra: Duration) -> bool {
    let line = format!("{{\"rows\":{rows},");
    kill_when(bench, command, extra, |journal| {
        rows == 0 && !journal.is_empty() || journal.lines().any(|entry| entry.contains(&line))
    })
}

/// The same, when `reached` says so of the journal.
fn kill_when(bench: &Bench, mut command: Command, extra: Duration, reached: impl Fn(&str) -> bool) -> bool {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary");
    let journal = bench.path("out.csv.journal");
    let deadline = Instant::now() + Duration::from_secs(120);
    let reached = || reached(&fs::read_to_string(&journal).unwrap_or_default());
    while child.try_wait().expect("a child").is_none() && !reached() {
        assert!(Instant::now() < deadline, "it never came so far");
        std::thread::sleep(Duration::from_micros(200));
    }
    std::thread::sleep(extra);
    let alive = child.try_wait().expect("a child").is_none();
    child.kill().expect("SIGKILL");
    child.wait().expect("a child");
    alive
}

#[test]
fn a_killed_run_ends_with_the_same_bytes() {
    let bench = Bench::new();
    bench.file("in.csv", input(12_000));
    let more = ["--gold", "label", "--report", "report.json"];
    let whole = bench.run("in.csv", "whole.csv", &more);
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let whole = fs::read(bench.path("whole.csv")).expect("output");
    let mut expected: serde_json::Value =
        serde_json::from_slice(&fs::read(bench.path("report.json")).expect("report")).expect("JSON");

    let mut killed = 0;
    for (rows, extra) in [(0, 0), (512, 0), (512 * 3, 900), (512 * 8, 2_300), (512 * 15, 100), (512 * 20, 0)] {
        let alive = kill_after(&bench, bench.command("in.csv", "out.csv", &more), rows, Duration::from_micros(extra));
        killed += u32::from(alive);
        if alive {
            // As if the kill had come between writing the output and noting it.
            let mut torn = fs::read(bench.path("out.csv")).expect("output");
            torn.extend_from_slice(b"half a ro");
            fs::write(bench.path("out.csv"), torn).expect("output");
        }
    }
    assert!(killed >= 3, "only {killed} runs were killed in time");
    let last = bench.run("in.csv", "out.csv", &more);
    assert!(last.status.success(), "{}", String::from_utf8_lossy(&last.stderr));
    assert!(String::from_utf8_lossy(&last.stderr).contains("going on after row"));
    assert!(fs::read(bench.path("out.csv")).expect("output") == whole, "the outputs differ");
    assert!(!bench.path("out.csv.journal").exists());

    // The report counts every row once, whatever was killed.
    let mut report: serde_json::Value =
        serde_json::from_slice(&fs::read(bench.path("report.json")).expect("report")).expect("JSON");
    for key in ["seconds", "texts_per_second"] {
        expected[key] = 0.into();
        report[key] = 0.into();
    }
    assert_eq!(report, expected);
    assert_eq!(report["rows"], 12_000);
    let count = |key: &str| report[key].as_u64().expect("a count");
    assert!(count("accepted") > 100 && count("hard") > 100, "{report}");
}

#[test]
fn a_journal_of_another_run_is_refused() {
    let bench = Bench::new();
    bench.file("in.csv", input(4_000));
    assert!(kill_after(&bench, bench.command("in.csv", "out.csv", &[]), 512, Duration::ZERO), "it was too fast");
    bench.file("in.csv", input(4_001));
    let refused = bench.run("in.csv", "out.csv", &[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("--fresh") && said.contains("input was"), "{said}");
    let fresh = bench.run("in.csv", "out.csv", &["--fresh"]);
    assert!(fresh.status.success(), "{}", String::from_utf8_lossy(&fresh.stderr));
    assert_eq!(fs::read_to_string(bench.path("out.csv")).expect("UTF-8").lines().count(), 4_002);
}

#[test]
fn threads_do_not_change_the_output() {
    let bench = Bench::new();
    bench.file("in.csv", input(700));
    let one = bench.labelled("in.csv", &["--threads", "1"]);
    let two = bench.labelled("in.csv", &["--threads", "2"]);
    assert_eq!((one.len(), &one), (700, &two));
    let probabilities: f64 = ["negative", "neutral", "positive"]
        .iter()
        .map(|l| one[0][format!("sentiment-mpnet.p.{l}")].as_f64().unwrap_or(0.0))
        .sum();
    assert!((probabilities - 1.0).abs() < 1e-5);
}

#[test]
fn an_unreachable_reviewer_leaves_rows_hard_and_says_why() {
    let bench = Bench::new();
    bench.file("in.csv", input(40));
    let rows = bench.labelled("in.csv", &["--review", "http://127.0.0.1:9"]);
    let hard: Vec<_> = rows.iter().filter(|row| row["verdict"] == "hard").collect();
    assert!(!hard.is_empty());
    for row in hard {
        assert!(row["aa_label"].is_null() && row["why"].as_str().is_some_and(|why| why.contains("review-")), "{row}");
    }
    assert_eq!(read(&bench.path("labelled.jsonl")).len(), 40);
}

#[test]
fn a_killed_run_asks_for_no_review_twice() {
    let bench = Bench::new();
    bench.file("in.csv", input(1_500));
    let (url, asked) = reviewer();
    let more = ["--review", &url, "--gold", "label", "--report", "report.json"];
    let mut killed = 0;
    for reviews in [2, 5, 9] {
        let reached =
            |journal: &str| journal.lines().filter(|line| line.starts_with("{\"reviews\"")).count() >= reviews;
        killed += u32::from(kill_when(&bench, bench.command("in.csv", "out.csv", &more), Duration::ZERO, reached));
    }
    assert!(killed > 0, "no run was killed in time");
    let last = bench.run("in.csv", "out.csv", &more);
    assert!(last.status.success(), "{}", String::from_utf8_lossy(&last.stderr));
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(bench.path("report.json")).expect("report")).expect("JSON");
    let asked = asked.lock().expect("lock").clone();
    let mut ids: Vec<&String> = asked.values().flatten().collect();
    let all = ids.len();
    ids.sort();
    ids.dedup();
    // Every hard row under one key only: a server that remembers its keys is paid once for each.
    assert_eq!((all, Some(all as u64)), (ids.len(), report["hard"].as_u64()), "{report}");
    assert_eq!(report["review"]["calls"].as_u64(), Some(asked.len() as u64));
    assert_eq!(report["review"]["prompt_tokens"].as_u64(), Some(160 * asked.len() as u64));
    assert_eq!(report["final"]["hard_without_review"], 0);

    let resumed = fs::read(bench.path("out.csv")).expect("output");
    let whole = bench.run("in.csv", "whole.csv", &more);
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    assert!(fs::read(bench.path("whole.csv")).expect("output") == resumed, "the outputs differ");
}

#[test]
fn an_audit_has_accepted_rows_reviewed_and_says_how_many_are_wrong() {
    let bench = Bench::new();
    bench.file("in.csv", input(600));
    let (url, asked) = reviewer();
    let more = ["--review", &url, "--audit", "0.25", "--report", "report.json"];
    let rows = bench.labelled("in.csv", &more);
    let accepted: Vec<_> = rows.iter().filter(|row| row["verdict"] == "accepted").collect();
    let audited: Vec<_> = accepted.iter().filter(|row| !row["review.label"].is_null()).collect();
    let share = audited.len() as f64 / accepted.len() as f64;
    assert!((0.15..0.35).contains(&share), "{} of {}", audited.len(), accepted.len());
    assert!(
        audited.iter().all(|row| row["aa_label"] == "neutral" && row["source"] == "llm"),
        "its label is the final one"
    );
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(bench.path("report.json")).expect("report")).expect("JSON");
    assert_eq!(report["audit"]["rows"].as_u64(), Some(audited.len() as u64));
    let wrong = audited.iter().filter(|row| row["sentiment-mpnet.label"] != "neutral").count();
    assert_eq!(report["audit"]["wrong"].as_u64(), Some(wrong as u64), "{report}");
    let hard = rows.iter().filter(|row| row["verdict"] == "hard").count();
    let asked = asked.lock().expect("lock").values().map(Vec::len).sum::<usize>();
    assert_eq!(asked, hard + audited.len());
    let again = bench.labelled("in.csv", &[&more[..], &["--fresh"]].concat());
    let ids = |rows: &[serde_json::Value]| {
        rows.iter().map(|row| (row["id"].clone(), row["review.label"].is_null())).collect::<Vec<_>>()
    };
    assert_eq!(ids(&again), ids(&rows), "the same rows are drawn again");
    assert!(bench.refused("in.csv", &["--audit", "0.1"]).contains("--review"));
}
