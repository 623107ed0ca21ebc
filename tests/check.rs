//! `autoannotator check` through the real binary: what is wrong with a spec, on which line, and what to do.

mod common;

use common::{Bench, SLMS};
use serde_json::Value;
use std::process::{Command, Output, Stdio};

fn check(bench: &Bench, spec: &str, more: &[&str]) -> Output {
    bench.file("annotator.toml", spec);
    let mut command = Command::new(env!("CARGO_BIN_EXE_autoannotator"));
    command.env("AUTOANNOTATOR_HOME", bench.path("home")).env("AUTOANNOTATOR_MODELS", bench.path("models"));
    command.current_dir(bench.path("")).arg("check").args(more).output().expect("the binary")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The problems in JSON: severity, line, code and message.
fn problems(bench: &Bench, spec: &str) -> Vec<(String, Option<u64>, String, String)> {
    let output = check(bench, spec, &["--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let text = |problem: &Value, key: &str| problem[key].as_str().expect(key).to_owned();
    let all: Vec<_> = found["problems"]
        .as_array()
        .expect("problems")
        .iter()
        .map(|one| (text(one, "severity"), one["line"].as_u64(), text(one, "code"), text(one, "message")))
        .collect();
    let ok = all.iter().all(|(severity, ..)| severity != "error");
    assert_eq!(found["ok"], ok);
    assert_eq!(output.status.code(), Some(if ok { 0 } else { 1 }));
    all
}

#[track_caller]
fn one(bench: &Bench, spec: &str, severity: &str, line: u64, code: &str, part: &str) {
    let found = problems(bench, spec);
    let fits = |(s, l, c, m): &(String, Option<u64>, String, String)| {
        s == severity && *l == Some(line) && c == code && m.contains(part)
    };
    assert!(found.iter().any(fits), "{found:?}");
}

fn bench() -> Bench {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("models")).expect("a folder");
    bench
}

#[test]
fn a_sound_spec_has_no_problem() {
    let bench = bench();
    let output = check(&bench, "task = \"sentiment\"\n", &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = said(&output);
    assert!(text.starts_with("annotator.toml: task 'sentiment' (negative, neutral, positive), unanimous\n"), "{text}");
    assert!(text.ends_with("nothing is wrong\n"), "{text}");
    assert_eq!(text.matches("  packed ").count(), 3, "{text}");
    assert_eq!(problems(&bench, "task = \"sentiment\"\n"), []);
    let output = check(&bench, "", &["--spec", "other.toml"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && error.contains("cannot read the spec other.toml"), "{error}");
}

#[test]
fn a_spec_that_is_none_is_told_with_its_line() {
    let bench = bench();
    one(&bench, "task = \"sentiment\"\nrule = \n", "error", 2, "spec-syntax", "");
    one(&bench, "task = \"sentiment\"\nrul = \"majority\"\n", "error", 2, "spec-key", "unknown key 'rul'");
    one(
        &bench,
        "task = \"sentiment\"\n\nslms = [\"../../etc/passwd\"]\n",
        "error",
        3,
        "spec-value",
        "an id is made of letters",
    );
    one(
        &bench,
        "task = \"sentiment\"\nslms = [\"/tmp/model\"]\n",
        "error",
        2,
        "spec-value",
        "an id is made of letters",
    );
    one(&bench, "task = \"t\"\nslms = [\"a\"]\n[[labels]]\nname = \"a\"\n", "error", 3, "spec-labels", "at least two");
}

#[test]
fn an_slm_that_is_not_there_is_told_with_those_that_are() {
    let bench = bench();
    let spec = "task = \"sentiment\"\nslms = [\n  \"sentiment-mpnet\",\n  \"sentiment-bert\",\n]\n";
    one(
        &bench,
        spec,
        "error",
        4,
        "check-slm-unknown",
        "there are: sentiment-minilm-l3, sentiment-minilm-l6, sentiment-mpnet",
    );
    let text = said(&check(&bench, spec, &[]));
    assert!(text.contains("error    line 4: there is no SLM 'sentiment-bert'"), "{text}");
    let output = check(&bench, "task = \"sentiment\"\n", &["--precision", "f32"]);
    assert!(said(&output).contains("is packed in int8 only"), "{output:?}");
}

#[test]
fn a_broken_slm_is_told_with_what_to_do() {
    let bench = bench();
    let folder = bench.path("home/packed").join(SLMS[0]);
    let version = std::fs::read_dir(&folder).expect("a folder").next().expect("a version").expect("a version").path();
    let tokenizer = version.join("tokenizer.json");
    std::fs::write(&tokenizer, std::fs::read_to_string(&tokenizer).expect("read").replace("[UNK]", "[ONK]"))
        .expect("written");
    let found = problems(&bench, "task = \"sentiment\"\n");
    assert!(
        matches!(&found[..], [(severity, Some(1), _, message)]
        if severity == "error" && message.contains(SLMS[0]) && message.contains("pack it again")),
        "{found:?}"
    );
}

/// A task of its own for the SLMs, which know negative, neutral and positive.
fn mood(rest: &str) -> String {
    format!(
        "task = \"mood\"\nslms = [\"{}\"]\nrule = \"majority\"\nlabels = [{{ name = \"good\" }}, {{ name = \"bad\" }}]\n{rest}",
        SLMS[0]
    )
}

#[test]
fn labels_without_a_counterpart_are_told() {
    let bench = bench();
    one(&bench, &mood(""), "error", 2, "slm-labels", "no label of the model is one of the task");
    let spec = mood("[label_map.sentiment-minilm-l3.labels]\npositive = \"good\"\nnegative = \"bad\"\n");
    one(
        &bench,
        &spec,
        "warning",
        5,
        "check-uncovered",
        "labels of 'sentiment-minilm-l3' that are none of the task: neutral",
    );
    let spec =
        mood("[label_map.sentiment-minilm-l3.labels]\npositive = \"good\"\nneutral = \"good\"\nnegative = \"good\"\n");
    let found = problems(&bench, &spec);
    assert!(found.iter().any(|(.., message)| message.contains("no SLM ever names 'bad'")), "{found:?}");
    assert!(found.iter().all(|(severity, ..)| severity == "warning"), "{found:?}");
    // Aliases need no map.
    let spec = mood("")
        .replace("name = \"good\"", "name = \"good\", aliases = [\"Positive\", \"neutral\"]")
        .replace("name = \"bad\"", "name = \"bad\", aliases = [\"negative\"]");
    assert_eq!(problems(&bench, &spec), []);
}

#[test]
fn a_map_that_names_unknown_labels_is_told_with_its_line() {
    let bench = bench();
    let spec = mood("[label_map.sentiment-minilm-l3.labels]\npositive = \"good\"\nhappy = \"good\"\n");
    one(
        &bench,
        &spec,
        "error",
        7,
        "slm-labels",
        "the map names 'happy', and the model knows the labels: negative, neutral, positive",
    );
    let spec = mood("[label_map.sentiment-minilm-l3.labels]\npositive = \"great\"\n");
    one(&bench, &spec, "error", 6, "spec-value", "names the label 'great'; the task has: good, bad");
    let spec = mood("[label_map.sentiment-minilm-l3]\nlabels = { positive = \"good\" }\nthreshold = 0.4\n");
    one(&bench, &spec, "error", 7, "slm-labels", "'threshold' is for a model that may give a text several labels");
    let spec = mood("[label_map.sentiment-mpnet.labels]\npositive = \"good\"\n");
    one(&bench, &spec, "error", 5, "spec-value", "is for an SLM that does not vote");
}

#[test]
fn a_label_that_cannot_be_unanimous_is_told() {
    let bench = bench();
    let spec = format!(
        "task = \"mood\"\nslms = [\"{}\", \"{}\"]\nlabels = [{{ name = \"positive\" }}, {{ name = \"negative\" }}, {{ name = \"neutral\" }}]\n\
        [label_map.sentiment-minilm-l6.labels]\nneutral = \"negative\"\n",
        SLMS[0], SLMS[1]
    );
    one(&bench, &spec, "warning", 4, "check-uncovered", "'neutral' is never unanimous");
    assert!(
        problems(&bench, &spec.replace("task =", "rule = \"majority\"\ntask ="))
            .iter()
            .all(|(.., m)| !m.contains("unanimous"))
    );
}

#[test]
fn an_llm_without_prices_definitions_or_a_priced_budget_is_told() {
    let bench = bench();
    one(&bench, "task = \"sentiment\"\n[review]\nto = \"llm\"\n", "warning", 2, "check-prices", "usd_per_million");
    let priced = "[review]\nto = \"llm\"\nusd_per_million = { prompt = 0.1, completion = 0.2 }\n";
    assert_eq!(problems(&bench, &format!("task = \"sentiment\"\n{priced}")), []);
    let spec = mood(priced);
    one(&bench, &spec, "warning", 4, "check-definition", "good, bad");
    let spec = format!(
        "task = \"sentiment\"\n{priced}style = \"few-shot\"\n[[review.examples]]\ntext = \"oh\"\nlabel = \"neg\"\n"
    );
    one(&bench, &spec, "warning", 6, "check-examples", "neutral, positive");
    bench.file("server.toml", "[llm]\nurl = \"http://a\"\nmodel = \"m\"\nbudget_usd = 1.0\n");
    let output = check(&bench, "task = \"sentiment\"\n", &["--config", "server.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("server.toml: a budget needs prices"), "{}", said(&output));
}

#[test]
fn annotate_votes_by_the_map() {
    let bench = bench();
    bench.file("texts.csv", "text\ngood day\nbad day\nno idea at all\nx\n");
    let plain = bench.labelled("texts.csv", &[]);
    let maps: String = SLMS
        .iter()
        .map(|id| format!("[label_map.{id}.labels]\npositive = \"good\"\nneutral = \"good\"\nnegative = \"bad\"\n"))
        .collect();
    let slms = SLMS.map(|id| format!("\"{id}\"")).join(", ");
    bench.file(
        "mood.toml",
        format!("task = \"mood\"\nslms = [{slms}]\nlabels = [{{ name = \"good\" }}, {{ name = \"bad\" }}]\n{maps}"),
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_autoannotator"));
    command.env("AUTOANNOTATOR_HOME", bench.path("home")).current_dir(bench.path(""));
    let output = command
        .args(["annotate", "texts.csv", "--spec", "mood.toml", "--out", "mood.jsonl"])
        .output()
        .expect("the binary");
    assert!(output.status.success(), "{output:?}");
    let mapped = common::read(&bench.path("mood.jsonl"));
    assert_eq!(mapped.len(), plain.len());
    for (mapped, plain) in mapped.iter().zip(&plain) {
        for id in SLMS {
            let p = |row: &Value, label: &str| row[format!("{id}.p.{label}")].as_f64().expect("a probability");
            let difference = p(mapped, "good") - p(plain, "positive") - p(plain, "neutral");
            assert!(difference.abs() < 1e-3, "{mapped} {plain}");
        }
        if plain["verdict"] == "accepted" {
            let expected = if plain["label"] == "negative" { "bad" } else { "good" };
            // Two labels that became one may have more than the third together.
            assert!(
                mapped["label"] == expected || mapped["label"] == "good" || mapped["verdict"] == "hard",
                "{mapped} {plain}"
            );
        }
    }
}

#[test]
#[cfg(unix)]
fn it_ends_quietly_where_nobody_reads_what_it_says() {
    use std::os::unix::process::ExitStatusExt;
    let bench = bench();
    bench.file("annotator.toml", "task = \"sentiment\"\n");
    let mut command = Command::new(env!("CARGO_BIN_EXE_autoannotator"));
    command.env("AUTOANNOTATOR_HOME", bench.path("home")).env("AUTOANNOTATOR_MODELS", bench.path("models"));
    command.current_dir(bench.path("")).arg("check").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().expect("the binary");
    drop(running.stdout.take());
    let output = running.wait_with_output().expect("it ends");
    assert_eq!(output.status.signal(), Some(13), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
