//! `cargo xtask evaluate`: the paper's protocol on the public sets, and one line of JSON of what it came to.

use super::run;
use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the sets are and how much of them to run.
#[derive(clap::Args)]
pub struct Args {
    /// The built autoannotator
    #[arg(long)]
    binary: PathBuf,
    /// The folder with the labelled sets
    #[arg(long)]
    data: PathBuf,
    /// The folder with an LLM's recorded replies; without it there is no LLM row
    #[arg(long)]
    replies: Option<PathBuf>,
    /// Two SLMs and 1,000 rows a set
    #[arg(long)]
    quick: bool,
    /// Seeds of each set with a person as the reviewer [default: 3; of jpp2000 and the quick form 1]
    #[arg(long)]
    seeds: Option<usize>,
    /// Rows of each stream in the full form; jpp2000 has 6,000
    #[arg(long, default_value_t = 2000)]
    rows: usize,
    /// Reviewed samples at which a round is held in the full form, with a person as the reviewer; the first at 0.7 of them
    #[arg(long, default_value_t = 500)]
    pool: usize,
    /// The sets to run: jpp, mteb, toxicity, llm, and in the full form jpp2000, which waits for 2,000 reviews [default: all]
    #[arg(long, value_delimiter = ',')]
    sets: Vec<String>,
    /// Folder for the results; seeds that stand there, by the same build, data and options, are not measured again
    #[arg(long, default_value = "target/evaluate")]
    out: PathBuf,
    /// Measure them again
    #[arg(long)]
    fresh: bool,
}

/// A set: the stream and its test file, and the SLMs' old domain.
struct Set {
    name: &'static str,
    task: &'static str,
    stream: &'static str,
    test: &'static str,
    replay: &'static [&'static str],
    anchor: &'static str,
    old_test: &'static str,
}

const SETS: [Set; 3] = [
    Set {
        name: "jpp",
        task: "sentiment",
        stream: "sent_twitter_financial_train",
        test: "sent_twitter_financial_test",
        replay: &["sent_semeval2013_2016_train", "sent_sst2_train"],
        anchor: "sent_tweeteval_val",
        old_test: "sent_sst2_dev",
    },
    Set {
        name: "mteb",
        task: "sentiment",
        stream: "sent_tweet_extraction_train",
        test: "sent_tweet_extraction_test",
        replay: &["sent_semeval2013_2016_train", "sent_sst2_train"],
        anchor: "sent_tweeteval_val",
        old_test: "sent_sst2_dev",
    },
    Set {
        name: "toxicity",
        task: "toxicity",
        stream: "tox_diasafety_train",
        test: "tox_diasafety_test",
        replay: &["tox_tweeteval_offensive_train"],
        anchor: "tox_tweeteval_offensive_val",
        old_test: "tox_tweeteval_offensive_test",
    },
];

/// The paper's own setting: its pool, for the first round too, and a stream that fills it.
const PAPER_POOL: usize = 2000;
const PAPER_ROWS: usize = 6000;

/// The texts of other sets that have an LLM's recorded replies: what it is worth alone and by the paper's rule, without rounds.
const ASKED: [(&str, &str, &str); 4] = [
    ("llm_jpp_test", "sentiment", "sent_twitter_financial_test"),
    ("llm_mteb_test", "sentiment", "sent_tweet_extraction_test"),
    ("llm_toxicity_test", "toxicity", "tox_diasafety_test"),
    ("llm_offensive_test", "toxicity", "tox_tweeteval_offensive_test"),
];

/// What an LLM's tokens are counted at: gpt-4o-mini's list prices, in US dollars a million.
const PRICES: &str = "usd_per_million = { prompt = 0.15, completion = 0.60 }";

/// How a set is run.
struct Setting<'a> {
    /// Names the figures and the folder of the results.
    name: &'a str,
    /// The folder of an LLM's recorded replies, if not a person reviews.
    replies: Option<&'a Path>,
    /// Reviewed samples at which a round is held; 0 for none.
    pool: usize,
    /// The same for the first round.
    first_pool: usize,
    rows: usize,
    seeds: usize,
}

/// Where the sets come from, for people who have none of them.
const SOURCES: &str = "Labelled CSV files with the columns text and label are needed, made of public sets: \
twitter-financial-news-sentiment, Tweet Sentiment Extraction, TweetEval (sentiment, offensive), SemEval 2013 to 2016, \
SST-2 and DiaSafety. Name their folder: make evaluate DATA=FOLDER";

/// Runs all sets and prints the table and the line.
pub fn all(args: &Args) -> Result<()> {
    ensure!(
        args.data.join(format!("{}.csv", SETS[0].stream)).exists(),
        "{}: no sets there. {SOURCES}",
        args.data.display()
    );
    let mut found: Vec<(&str, Vec<Value>)> = Vec::new();
    let asked = |name: &str| args.sets.is_empty() || args.sets.iter().any(|set| set == name);
    let quick = args.quick;
    let [pool, rows] = if quick { [300, 1000] } else { [args.pool, args.rows] };
    // A person's first round comes early; of fewer than 100 reviews none is held.
    let first_pool = if quick { pool } else { (pool * 7 / 10).max(pool.min(100)) };
    let seeds = args.seeds.unwrap_or(if quick { 1 } else { 3 });
    for set in SETS.iter().filter(|set| asked(set.name)) {
        println!("== {}", set.name);
        let setting = Setting { name: set.name, replies: None, pool, first_pool, rows, seeds };
        found.push((set.name, one(args, set, &setting)?));
    }
    if let Some(replies) = args.replies.as_deref().filter(|_| asked("llm")) {
        println!("== jpp, an LLM's recorded replies as the reviewer");
        // Of a small ensemble an LLM's few labels, many of them wrong, are worth no round.
        let pool = if quick { 0 } else { 250 };
        // Its pool is smaller, so there are more rounds of it: one seed must do.
        let setting = Setting { name: "llm", replies: Some(replies), pool, first_pool: pool, rows, seeds: 1 };
        found.push(("llm", one(args, &SETS[0], &setting)?));
    }
    for (name, task, stream) in ASKED {
        let Some(replies) = args.replies.as_deref().filter(|_| asked("llm")) else { break };
        println!("== {stream}, an LLM's recorded replies as the reviewer, no rounds");
        found.push((name, vec![replied(args, replies, (name, task, stream))?]));
    }
    if !quick && asked("jpp2000") {
        println!("== jpp, a pool of {PAPER_POOL}");
        let (pool, rows, seeds) = (PAPER_POOL, PAPER_ROWS, args.seeds.unwrap_or(1));
        let setting = Setting { name: "jpp2000", replies: None, pool, first_pool: pool, rows, seeds };
        found.push(("jpp2000", one(args, &SETS[0], &setting)?));
    }
    ensure!(!found.is_empty(), "none of the sets {} is in this form", args.sets.join(", "));
    let seconds = found.iter().flat_map(|(_, runs)| runs).filter_map(|run| run["seconds"].as_f64());
    let (figures, minutes) = (figures(&found), seconds.sum::<f64>() / 60.0);
    table(&figures);
    println!("{}", summary(&figures, minutes));
    Ok(())
}

/// Runs a set and returns its runs, one a seed.
fn one(args: &Args, set: &Set, setting: &Setting<'_>) -> Result<Vec<Value>> {
    let Setting { name, replies, pool, first_pool, rows, seeds } = *setting;
    let file = |name: &str| args.data.join(format!("{name}.csv"));
    let out = args.out.join(if args.quick { "quick" } else { "full" }).join(name);
    let mut command = command(args, set.task, &out)?;
    let files =
        [("--stream", set.stream), ("--test", set.test), ("--anchor", set.anchor), ("--old-test", set.old_test)];
    files.iter().for_each(|(option, name)| {
        command.arg(option).arg(file(name));
    });
    set.replay.iter().for_each(|name| {
        command.arg("--replay").arg(file(name));
    });
    for (option, number) in [("--pool", pool), ("--first-pool", first_pool), ("--rows", rows), ("--seeds", seeds)] {
        command.arg(option).arg(number.to_string());
    }
    match replies {
        Some(replies) => command.arg("--reviewer").arg(recorded(replies, set.stream)),
        None if args.quick => command.args(["--look-again", "--audit", "0.1"]),
        // A person looks closely until the first round, which comes early, and at a few of what is agreed on after it.
        None => command.args(["--look-again", "--first-audit", "0.3", "--audit", "0.03"]),
    };
    run(&mut command)?;
    let mut runs = runs(&out)?;
    runs.truncate(seeds);
    Ok(runs)
}

/// Runs the texts that have an LLM's recorded replies, without rounds.
fn replied(args: &Args, replies: &Path, (name, task, stream): (&str, &str, &str)) -> Result<Value> {
    let out = args.out.join(if args.quick { "quick" } else { "full" }).join(name);
    let mut command = command(args, task, &out)?;
    command.arg("--stream").arg(args.data.join(format!("{stream}.csv")));
    command.args(["--pool", "0", "--reviewer"]).arg(recorded(replies, stream));
    run(&mut command)?;
    runs(&out)?.into_iter().next().context("a run")
}

/// The command of a set's evaluation, with the SLMs of the form and the LLM's prices.
fn command(args: &Args, task: &str, out: &Path) -> Result<Command> {
    let slms = if args.quick { &["minilm-l3", "minilm-l6"][..] } else { &["minilm-l3", "minilm-l6", "mpnet"] };
    let slms: Vec<String> = slms.iter().map(|slm| format!("\"{task}-{slm}\"")).collect();
    let spec = format!("task = \"{task}\"\nslms = [{}]\n\n[review]\nto = \"none\"\n{PRICES}\n", slms.join(", "));
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let path = out.join("spec.toml");
    std::fs::write(&path, spec).with_context(|| format!("cannot write {}", path.display()))?;
    let mut command = Command::new(&args.binary);
    command.arg("evaluate").arg("--spec").arg(path).arg("--out").arg(out);
    command.args(["--layers", if args.quick { "2" } else { "4" }]);
    if args.fresh {
        command.arg("--fresh");
    }
    Ok(command)
}

/// The reviewer that recorded replies are.
fn recorded(replies: &Path, stream: &str) -> String {
    format!("replies:{}", replies.join(format!("{stream}.jsonl")).display())
}

/// The runs that stand in a folder.
fn runs(out: &Path) -> Result<Vec<Value>> {
    let path = out.join("evaluate.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut written: Value = serde_json::from_str(&text)?;
    Ok(serde_json::from_value(written["runs"].take())?)
}

/// A figure of a set: its name, and its value in each run.
type Figure = (String, Vec<f64>);

/// Figures of which the largest counts, not the mean: the most that any round took from any SLM on texts of the old domain, and
/// from their majority.
const DROPS: [&str; 2] = ["anchor_drop_max", "majority_drop_max"];

/// The figures of all sets, as fractions.
fn figures(found: &[(&str, Vec<Value>)]) -> Vec<Figure> {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    // Of a set without such a file there is nothing to tell.
    let of = |run: &Value, file: &str, value: f64| if run[file][0]["texts"] == 0 { f64::NAN } else { value };
    let test = |run: &Value, last: bool| {
        let scores = run["test"].as_array().and_then(|all| if last { all.last() } else { all.first() }).cloned();
        of(run, "test", number(&scores.unwrap_or_default()["majority"]["accuracy"]))
    };
    let share = |run: &Value, name: &str, quarter: usize| number(&run["stream"][name][quarter]);
    let way = |run: &Value, name: &str| {
        let ways = run["stream"]["ways"].as_array().cloned().unwrap_or_default();
        ways.into_iter().find(|way| way["name"] == name).unwrap_or_default()
    };
    let saved = |run: &Value, reviews: &Value| 1.0 - number(reviews) / number(&run["stream"]["texts"]);
    let tokens = |way: Value| number(&way["prompt_tokens"]) + number(&way["completion_tokens"]);
    let mut all = Vec::new();
    for (name, runs) in found {
        let mut put = |key: &str, of: &dyn Fn(&Value) -> f64| {
            let values: Vec<f64> = runs.iter().map(of).collect();
            if values.iter().all(|value| value.is_finite()) {
                all.push((format!("{name}_{key}"), values));
            }
        };
        put("stream_accuracy", &|run| number(&run["stream"]["accuracy"]));
        put("test_before", &|run| test(run, false));
        put("test_after", &|run| test(run, true));
        put("test_gain", &|run| test(run, true) - test(run, false));
        for key in ["review_share", "hard_share"] {
            put(&format!("{key}_last_over_first"), &|run| share(run, key, 3) / share(run, key, 0));
        }
        put("majority_accuracy", &|run| number(&way(run, "majority")["accuracy"]));
        put("rule_accuracy", &|run| number(&way(run, "the paper's rule")["accuracy"]));
        put("llm_calls_saved", &|run| saved(run, &run["stream"]["reviews"]));
        put("calls_saved_by_rule", &|run| saved(run, &way(run, "the paper's rule")["reviews"]));
        put("best_single_slm", &|run| of(run, "test", best(&run["test"])));
        put(DROPS[0], &|run| of(run, "old_test", most_lost(&accuracies(&run["old_test"]))));
        put(DROPS[1], &|run| of(run, "old_test", most_lost(&majorities(&run["old_test"]))));
        if name.starts_with("llm") {
            put("alone", &|run| number(&way(run, "reviewer alone")["accuracy"]));
            let share = |run: &Value| tokens(way(run, "agreed or reviewed")) / tokens(way(run, "reviewer alone"));
            put("tokens_saved", &|run| 1.0 - share(run));
        }
    }
    all
}

/// Means with the ranges over the seeds, one a line, in percent.
fn table(figures: &[Figure]) {
    println!("\n{:<38}{:>8}{:>10}{:>8}", "percent", "mean", "from", "to");
    for (name, values) in figures {
        let [mean, from, to] = [mean(values), smallest(values), largest(values)].map(|value| 100.0 * value);
        println!("{name:<38}{mean:>8.1}{from:>10.1}{to:>8.1}");
    }
    println!();
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn smallest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// The figures as one object, each the mean over its runs, and the minutes that all runs took.
fn summary(figures: &[Figure], minutes: f64) -> Value {
    let mut line = Map::new();
    let round = |value: f64| json!((value * 1e4).round() / 1e4);
    for (name, values) in figures {
        let is_drop = DROPS.iter().any(|drop| name.ends_with(drop));
        let value = if is_drop { largest(values) } else { mean(values) };
        line.insert(name.clone(), round(value));
    }
    // Those of the first set stand for all, and the largest drop is that of any.
    for key in [
        "review_share_last_over_first",
        "hard_share_last_over_first",
        "llm_calls_saved",
        "calls_saved_by_rule",
        "best_single_slm",
    ] {
        if let Some(value) = line.get(&format!("jpp_{key}")).cloned() {
            line.insert(key.to_owned(), value);
        }
    }
    for drop in DROPS {
        let all = figures.iter().filter(|(name, _)| name.ends_with(drop)).map(|(_, values)| largest(values));
        line.insert(drop.to_owned(), round(all.fold(0.0, f64::max)));
    }
    line.insert("minutes".to_owned(), json!((minutes * 10.0).round() / 10.0));
    Value::Object(line)
}

/// Each SLM's accuracy after each round.
fn accuracies(scores: &Value) -> Vec<Vec<f64>> {
    let of = |one: &Value| -> Vec<f64> {
        one["slms"].as_array().into_iter().flatten().filter_map(|slm| slm["accuracy"].as_f64()).collect()
    };
    scores.as_array().into_iter().flatten().map(of).collect()
}

/// The best SLM's accuracy after the last round.
fn best(scores: &Value) -> f64 {
    accuracies(scores).last().into_iter().flatten().copied().fold(0.0, f64::max)
}

/// The majority's accuracy after each round.
fn majorities(scores: &Value) -> Vec<Vec<f64>> {
    scores
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| one["majority"]["accuracy"].as_f64().into_iter().collect())
        .collect()
}

/// The most that one of these fell by from one round to the next.
fn most_lost(accuracies: &[Vec<f64>]) -> f64 {
    let pairs = accuracies.windows(2).flat_map(|pair| pair[0].iter().zip(&pair[1]));
    pairs.map(|(before, after)| before - after).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_means_gains_and_the_largest_drop() {
        let scores = |accuracy: f64, slms: [f64; 2]| json!({ "majority": { "accuracy": accuracy }, "slms": slms.map(|accuracy| json!({ "accuracy": accuracy })) });
        let run = |accuracy: f64| {
            json!({
                "stream": {
                    "texts": 100, "reviews": 20, "accuracy": accuracy, "review_share": [0.4, 0.3, 0.2, 0.1],
                    "hard_share": [0.2, 0.2, 0.2, 0.1], "ways": [{ "name": "the paper's rule", "reviews": 15, "accuracy": 0.7 }],
                },
                "test": [scores(0.5, [0.4, 0.45]), scores(0.6, [0.55, 0.5])],
                "old_test": [scores(0.7, [0.7, 0.7]), scores(0.7, [0.72, 0.68]), scores(0.69, [0.6, 0.69])],
            })
        };
        let line = summary(&figures(&[("jpp", vec![run(0.8), run(0.9)])]), 12.34);
        for (key, value) in [
            ("jpp_stream_accuracy", 0.85),
            ("jpp_test_gain", 0.1),
            ("review_share_last_over_first", 0.25),
            ("hard_share_last_over_first", 0.5),
            ("jpp_rule_accuracy", 0.7),
            ("llm_calls_saved", 0.8),
            ("calls_saved_by_rule", 0.85),
            ("best_single_slm", 0.55),
            ("anchor_drop_max", 0.12),
            ("majority_drop_max", 0.01),
            ("minutes", 12.3),
        ] {
            assert_eq!(line[key], json!(value), "{key} of {line}");
        }
    }
}
