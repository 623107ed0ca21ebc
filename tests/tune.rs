//! `tune` as a command, on the real L3: killed in each phase of a round it ends with what it would have come to; what was
//! promoted is packed, and rolled back; what may be kept, and what is told of rounds. `evaluate`, killed, goes on.
#![cfg(feature = "native")]

#[path = "support/reviewer.rs"]
mod reviewer;

use autoannotator::hub::Home;
use autoannotator::tune::gate::{Decision, Paired};
use autoannotator::tune::pool::{Pool, PooledVote, Reviewed};
use autoannotator::tune::round::Report;
use reviewer::reviewer;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const SLM: &str = "sentiment-minilm-l3";

/// What the domain calls good, bad and neither; the SLM, which knows tweets, takes most of it for neutral.
const TEXTS: [(&str, [&str; 4]); 3] = [
    ("positive", ["guidance raised to", "order intake above", "margin widened past", "dividend lifted to"]),
    ("negative", ["guidance cut to", "order intake below", "margin narrowed under", "dividend trimmed to"]),
    ("neutral", ["annual meeting on day", "report number", "listing moved to desk", "auditor appointed for year"]),
];

fn reviews() -> Vec<Reviewed> {
    let one = |number: usize| {
        let (label, phrases) = TEXTS[number % 3];
        let text = format!("{} {number}", phrases[number / 3 % 4]);
        Reviewed { text, label: label.into(), reviewer: "human".into(), at: 1, votes: Vec::new() }
    };
    (0..150).map(one).collect()
}

/// A review by an LLM that the SLM all but rules out.
fn contradicted(number: usize) -> Reviewed {
    let vote = PooledVote { slm: SLM.into(), version: "0".into(), probabilities: vec![0.998, 0.001, 0.001] };
    let text = format!("a text that nobody believes {number}");
    Reviewed { text, label: "positive".into(), reviewer: "llm:m".into(), at: 1, votes: vec![vote] }
}

/// A home of its own, with the real bases and a pool that is ready for a round.
struct House {
    folder: tempfile::TempDir,
}

impl House {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let bases = Home::find(None).expect("a home").path().join("bases");
        assert!(bases.is_dir(), "{} is missing: run `autoannotator pull` first, as `make test` does", bases.display());
        link(&bases, &folder.path().join("bases"));
        let mut pool = Pool::open(&folder.path().join("pool.db")).expect("a pool");
        pool.add("sentiment", &reviews()).expect("adds");
        Self { folder }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_autoannotator"));
        command.args(arguments).arg("--home").arg(self.folder.path());
        command.arg("--models").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("models"));
        command
    }

    fn tune(&self) -> Command {
        let mut command = self.command(&["tune", "--task", "sentiment", "--slms", SLM, "--json"]);
        command.args(["--layers-of", &format!("{SLM}=1"), "--epochs", "6", "--lr", "2e-3"]);
        command
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&fs::read(self.folder.path().join(path)).expect("a file")).expect("JSON")
    }

    /// What the round came to: the SLM's versions, without the time, and what is packed.
    fn outcome(&self) -> (Value, Value) {
        let store = rusqlite::Connection::open(self.folder.path().join("pool.db")).expect("opens");
        let query = "SELECT record FROM versions WHERE slm = ?";
        let record: String = store.query_row(query, [SLM], |row| row.get(0)).expect("a record");
        let mut versions: Value = serde_json::from_str(&record).expect("JSON");
        versions["all"].as_array_mut().expect("versions").iter_mut().for_each(|version| version["at"] = Value::Null);
        (versions, self.json("packed/index.json"))
    }

    fn pool(&self) -> Pool {
        Pool::open(&self.folder.path().join("pool.db")).expect("opens")
    }

    fn scratch(&self) -> PathBuf {
        self.folder.path().join("tune/sentiment")
    }
}

#[cfg(unix)]
fn link(from: &Path, to: &Path) {
    std::os::unix::fs::symlink(from, to).expect("a link");
}

#[cfg(windows)]
fn link(from: &Path, to: &Path) {
    std::os::windows::fs::symlink_dir(from, to).expect("a link");
}

fn well(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Kills it as soon as it says this. False where it never did.
fn kill_at(mut command: Command, sign: &str) -> bool {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the binary");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let reached = lines.any(|line| line.contains(sign));
    child.kill().expect("SIGKILL");
    child.wait().expect("ends");
    reached
}

#[test]
fn a_round_killed_in_any_phase_ends_the_same() {
    let whole = House::new();
    let said = well(&whole.tune().output().expect("the binary"));
    let last: Value = serde_json::from_str(said.lines().last().unwrap_or_default()).expect("JSON");
    assert_eq!((&last["event"], &last["round"]), (&"done".into(), &1.into()), "{said}");
    let expected = whole.outcome();
    assert_eq!(expected.0["current"], 1, "it was not promoted: {said}");
    assert!(!whole.scratch().exists());

    // The pool is drawn; it trains; the gate; the version is there; it packs.
    let version = r#""event":"slm""#;
    for sign in [r#""event":"pool""#, r#""stage":"loss"#, r#""stage":"gate""#, version, r#""stage":"packing"#] {
        let house = House::new();
        assert!(kill_at(house.tune(), sign), "it never said {sign}");
        if sign == version {
            // As if the kill had come between the new version and the note of it.
            fs::remove_file(house.scratch().join("done.json")).expect("the note");
        }
        let counts = house.pool().counts("sentiment").expect("counts");
        assert_eq!((counts.unused, counts.rounds), (150, 0), "killed at {sign}");
        well(&house.tune().output().expect("the binary"));
        assert_eq!(house.outcome(), expected, "killed at {sign}");
        let counts = house.pool().counts("sentiment").expect("counts");
        assert_eq!((counts.unused, counts.used, counts.rounds), (0, 150, 1), "killed at {sign}");
    }

    // What decided is not trained on by the next round, but part of its anchor set.
    let labels = autoannotator::task::Task::built_in("sentiment").expect("a task").labels;
    let earlier = whole.pool().earlier("sentiment", &labels).expect("reads");
    assert_eq!((earlier.gate.len(), earlier.trained.len()), (30, 120));

    // A second round on the same, empty, pool says so; and the way back is one command.
    let empty = whole.tune().output().expect("the binary");
    assert!(String::from_utf8_lossy(&empty.stderr).contains("the pool is empty"));
    let packed = whole.json("packed/index.json")["slms"][0]["version"].clone();
    let back = whole.command(&["versions", "--roll-back", SLM]).output().expect("the binary");
    assert!(well(&back).contains("version 0"));
    let index = whole.json("packed/index.json");
    assert_ne!(index["slms"][0]["version"], packed);
    assert!(index["slms"].as_array().is_some_and(|slms| slms.iter().all(|slm| slm["id"] == SLM)));
}

#[test]
fn two_rounds_of_a_task_do_not_run_at_once() {
    let house = House::new();
    let mut first = house.tune();
    let mut child = first.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the binary");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("says something");
    let second = house.tune().output().expect("the binary");
    child.kill().expect("SIGKILL");
    child.wait().expect("ends");
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && said.contains("another round"), "{said}");
}

#[test]
fn a_round_that_promoted_nothing_is_listed_with_its_reason() {
    let house = House::new();
    let labels = autoannotator::task::Task::built_in("sentiment").expect("a task").labels;
    let mut pool = house.pool();
    pool.add("sentiment", &[contradicted(0)]).expect("adds");
    let drawn = pool.draw("sentiment", &labels, None).expect("draws");
    let gate = Paired { texts: 30, before: 0.5, after: 0.5, least_gain: 0.0 };
    let decision = Decision::Kept("not surely better".into());
    let report = Report { slm: SLM.into(), decision, gate, anchor: None, share: 1.0, trained_on: [105, 0] };
    pool.mark("sentiment", &drawn, &[], &[report]).expect("marks");
    let said = well(&house.command(&["versions"]).output().expect("the binary"));
    for line in [
        "round 1 of sentiment, 20",
        ": 150 samples (1 contradicted by all SLMs, 0 overruled)\n",
        &format!("  {SLM}: gate 50.0 to 50.0 % of 30 texts; stays as it is: not surely better\n"),
    ] {
        assert!(said.contains(line), "no {line:?} in {said}");
    }
}

#[test]
fn a_pool_of_contradicted_reviews_is_not_called_empty() {
    let house = House::new();
    let path = house.folder.path().join("contradicted.db");
    let reviews: Vec<Reviewed> = (0..3).map(contradicted).collect();
    Pool::open(&path).expect("a pool").add("sentiment", &reviews).expect("adds");
    let output = house.tune().arg("--pool").arg(&path).output().expect("the binary");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("all 3 reviews of the pool were contradicted by all SLMs"), "{said}");
}

#[test]
fn texts_are_added_only_where_they_may_be_kept() {
    let house = House::new();
    let at = |name: &str| house.folder.path().join(name).display().to_string();
    let (file, spec, pool) = (at("reviewed.csv"), at("spec.toml"), at("added.db"));
    fs::write(&file, "text,review.by,review.label\na text of mine,human,neutral\n").expect("writes");
    fs::write(&spec, "task = \"sentiment\"\n[review]\nto = \"person\"\nkeep_text = true\n").expect("writes");
    let mut seen = Vec::new();
    for more in [&["--task", "sentiment"][..], &["--task", "sentiment", "--keep-text"], &["--spec", &spec]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_autoannotator"));
        let add = command.args(["pool", "add", &file, "--pool", &pool]).args(more).output().expect("the binary");
        let refused =
            String::from_utf8_lossy(&add.stderr).contains("set keep_text = true in [review], or give --keep-text");
        assert_ne!(add.status.success(), refused, "{add:?}");
        seen.push((refused, Path::new(&pool).exists()));
    }
    assert_eq!(seen, [(true, false), (false, true), (false, true)]);

    // The same with `tune`, which ends here for want of samples; what a program reads of it is JSON.
    let tune = |more: &[&str]| {
        let output = house.tune().args(["--add", &file, "--pool", &pool]).args(more).output().expect("the binary");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{said}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(tune(&[]).contains("or give --keep-text"));
    let said = tune(&["--keep-text"]);
    assert!(
        said.contains("1 reviewed hard samples, 0 of them new") && said.contains("a round needs at least"),
        "{said}"
    );
}

#[test]
fn layers_of_another_slm_are_an_error() {
    let house = House::new();
    let output = house.tune().args(["--layers-of", "sentiment-mpnet=2"]).output().expect("the binary");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("names sentiment-mpnet, which is none of the SLMs here"),
        "{said}"
    );
}

#[test]
fn an_evaluation_goes_on_behind_the_seeds_that_are_there() {
    let house = House::new();
    let (file, out) = (house.folder.path().join("texts.csv"), house.folder.path().join("out"));
    let rows: String = reviews().iter().map(|row| format!("{},{}\n", row.text, row.label)).collect();
    fs::write(&file, format!("text,label\n{rows}")).expect("writes");
    let command = |more: &[&str]| {
        let mut command = house.command(&["evaluate", "--task", "sentiment", "--slms", SLM, "--pool", "0"]);
        command
            .args(["--audit", "0.2", "--stream"])
            .arg(&file)
            .arg("--test")
            .arg(&file)
            .arg("--out")
            .arg(&out)
            .args(more);
        command
    };
    // How many seeds it found, and the reviews of each that stand there then.
    let evaluate = |more: &[&str]| {
        let said = well(&command(more).output().expect("the binary"));
        let runs = house.json("out/evaluate.json")["runs"].as_array().cloned().unwrap_or_default();
        let reviews = runs.iter().map(|run| run["stream"]["reviews"].as_u64().unwrap_or(0)).collect::<Vec<_>>();
        (said.matches("stands in").count(), reviews)
    };
    assert!(kill_at(command(&["--seeds", "9"]), "seed 1:"));
    let (found, resumed) = evaluate(&["--seeds", "4"]);
    assert!(found > 0, "nothing was kept of the one that was killed");
    let (found, whole) = evaluate(&["--seeds", "4", "--fresh"]);
    assert_eq!((found, &resumed[..4]), (0, &whole[..]));
    assert!(whole.iter().any(|reviews| *reviews != whole[0]), "each seed audits other texts: {whole:?}");
    assert_eq!(evaluate(&["--seeds", "1"]), (4, whole));
    assert_eq!(evaluate(&["--seeds", "1", "--noise", "0.5"]).0, 0, "another evaluation");
    fs::write(&file, format!("text,label\n{rows}one more text,neutral\n")).expect("writes");
    assert_eq!(evaluate(&["--seeds", "1", "--noise", "0.5"]).0, 0, "of other texts");
}

/// A server's LLM is asked once about each text, and does not see again what is recorded; all it says is `neutral`.
#[test]
fn an_evaluation_asks_a_server_once_about_each_text() {
    let house = House::new();
    let (file, out) = (house.folder.path().join("texts.csv"), house.folder.path().join("out"));
    let rows: Vec<String> = reviews().iter().take(40).map(|row| format!("{},{}\n", row.text, row.label)).collect();
    let write = |rows: &[String]| fs::write(&file, format!("text,label\n{}", rows.concat())).expect("writes");
    let (url, asked) = reviewer();
    let evaluate = |who: &str| {
        let mut command = house.command(&["evaluate", "--task", "sentiment", "--slms", SLM, "--pool", "0"]);
        command.args(["--reviewer", who, "--audit", "1"]);
        command.arg("--stream").arg(&file).arg("--out").arg(&out).output().expect("the binary")
    };
    let texts = || asked.lock().expect("lock").values().map(Vec::len).sum::<usize>();
    write(&rows[..20]);
    well(&evaluate(&url));
    assert_eq!(texts(), 20);
    write(&rows);
    let said = well(&evaluate(&url));
    assert_eq!(texts(), 40, "what is recorded was asked again");
    assert!(said.contains("reviewer alone"), "{said}");
    let run = house.json("out/evaluate.json")["runs"][0].clone();
    assert_eq!(run["test"][0]["texts"], 0, "no test file was named");
    let neutral = reviews().iter().take(40).filter(|row| row.label == "neutral").count() as f64 / 40.0;
    assert!(run["stream"]["accuracy"].as_f64().is_some_and(|accuracy| (accuracy - neutral).abs() < 1e-9), "{run}");
    // 160 tokens a batch of at most 16 texts: 20 texts in two, 20 more in two.
    assert_eq!(run["stream"]["prompt_tokens"], 640);
    let refused = evaluate("http://127.0.0.1:9");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("the same command goes on"));
    let refused = evaluate("nobody");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("expected gold, replies:FILE or the URL"));
}
