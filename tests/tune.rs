//! `tune` as a command, on the real L3: killed in each phase of a round it ends with what it would have come to; what was
//! promoted is packed, and rolled back. `evaluate`, killed, goes on.
#![cfg(feature = "native")]

use autoannotator::hub::Home;
use autoannotator::tune::pool::{Pool, Reviewed};
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

    let mut reached = 0;
    // The pool is drawn; it trains; the gate; the version is there; it packs.
    for sign in ["\"pool\"", "loss", "\"gate\"", "\"slm\"", "packing"] {
        let house = House::new();
        if !kill_at(house.tune(), sign) {
            continue;
        }
        reached += 1;
        if sign == "\"slm\"" {
            // As if the kill had come between the new version and the note of it.
            fs::remove_file(house.scratch().join("done.json")).ok();
        }
        let counts = house.pool().counts("sentiment").expect("counts");
        assert_eq!((counts.unused, counts.rounds), (150, 0), "killed at {sign}");
        well(&house.tune().output().expect("the binary"));
        assert_eq!(house.outcome(), expected, "killed at {sign}");
        let counts = house.pool().counts("sentiment").expect("counts");
        assert_eq!((counts.unused, counts.used, counts.rounds), (0, 150, 1), "killed at {sign}");
    }
    assert!(reached >= 3, "only {reached} phases were seen");

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
