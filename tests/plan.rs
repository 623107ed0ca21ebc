//! `autoannotator plan` against a local hub and a stub LLM: what is chosen, what is refused and why, and what bad input does.
#![cfg(feature = "native")]

#[path = "support/keyword_slm.rs"]
mod keyword_slm;
#[path = "support/stub_hub.rs"]
mod stub_hub;
#[path = "support/stub_llm.rs"]
mod stub_llm;

use autoannotator::Spec;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use stub_hub::{Hub, Lie, Mood, Repo};
use stub_llm::Stub;

const LABELS: [&str; 3] = ["bug", "praise", "question"];
/// Words and the labels that they mean.
const WORDS: [(&str, usize); 9] = [
    ("crash", 0),
    ("error", 0),
    ("freeze", 0),
    ("love", 1),
    ("great", 1),
    ("thanks", 1),
    ("how", 2),
    ("why", 2),
    ("where", 2),
];

/// A repository of an SLM that takes some words for what they are not.
fn repo(id: &str, downloads: u64, labels: &[&str], wrong: &[&str]) -> Repo {
    let words = WORDS.map(|(word, _)| word);
    // Under other labels, or in another order, it means the same by the same place.
    let says = WORDS.map(|(word, label)| (word, if wrong.contains(&word) { (label + 1) % 3 } else { label }));
    let says: Vec<(&str, usize)> = match labels {
        ["praise", "question", "bug"] => says.iter().map(|(word, label)| (*word, (label + 2) % 3)).collect(),
        _ => says.to_vec(),
    };
    let packed = keyword_slm::packed(id.rsplit('/').next().unwrap_or(id), labels, &says);
    let config = keyword_slm::config_json(labels, &words);
    Repo::new(id, downloads, &config, &keyword_slm::tokenizer(&words), packed)
}

/// What every hub of these tests has: three that are each wrong on other words, one that is wrong on most and very popular,
/// one whose labels stand in another order, and all that has to be refused.
fn repos() -> Vec<Repo> {
    let good = || repo("lab/good", 1, &LABELS, &[]);
    let mut custom = good().with("id", json!("bad/custom-code"));
    custom.files.insert("config.json".into(), br#"{"auto_map": {"AutoModel": "evil.Model"}}"#.to_vec());
    let regression = json!({ "model_type": "bert", "problem_type": "regression" });
    let mut regression_repo = good().with("id", json!("bad/regression"));
    let mut config = keyword_slm::config_json(&LABELS, &WORDS.map(|(word, _)| word));
    config["problem_type"] = regression["problem_type"].clone();
    regression_repo.files.insert("config.json".into(), config.to_string().into_bytes());
    vec![
        repo("lab/one", 50, &LABELS, &["crash", "great", "where"]),
        repo("lab/two", 40, &LABELS, &["error", "thanks", "how"]),
        repo("lab/three", 30, &["praise", "question", "bug"], &["freeze", "love"]),
        repo("lab/popular", 9000, &LABELS, &["crash", "error", "love", "great", "why"]),
        good().with("id", json!("bad/pickle")).renamed("model.safetensors", "pytorch_model.bin"),
        good().with("id", json!("bad/nothing")).renamed("model.safetensors", "README.md"),
        good().with("id", json!("bad/gated")).with("gated", json!("manual")),
        custom,
        regression_repo,
        repo("bad/other-labels", 10, &["spam", "ham", "eggs"], &[]),
        repo("bad/numbers", 10, &["LABEL_0", "LABEL_1", "LABEL_2"], &[]),
        repo("bad/senseless", 5, &LABELS, &["crash", "error", "love", "great", "why", "how"]),
    ]
}

struct House {
    folder: tempfile::TempDir,
    hub: Arc<Hub>,
    llm: Arc<Stub>,
    hub_url: String,
    llm_url: String,
    _runtime: tokio::runtime::Runtime,
}

impl House {
    fn new(repos: Vec<Repo>) -> Self {
        let keywords: Vec<(&str, &str)> = WORDS.iter().map(|(word, label)| (*word, LABELS[*label])).collect();
        let (hub, llm) = (Hub::new(repos), Stub::new(&keywords, "question", false));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let serve = |app: axum::Router| {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
                let url = format!("http://{}", listener.local_addr().expect("an address"));
                tokio::spawn(async move { axum::serve(listener, app).await });
                url
            })
        };
        let (hub_url, llm_url) = (serve(hub.router()), serve(llm.router()));
        let folder = tempfile::tempdir().expect("a folder");
        let house = Self { folder, hub, llm, hub_url, llm_url, _runtime: runtime };
        let rows: Vec<(String, &str)> =
            (0..90).map(|n| (format!("it is {} number {n}", WORDS[n % 9].0), LABELS[WORDS[n % 9].1])).collect();
        let csv: String = rows.iter().map(|(text, label)| format!("{text},{label}\n")).collect();
        std::fs::write(house.path("probe.csv"), format!("text,label\n{csv}")).expect("a probe");
        let texts: String = rows.iter().map(|(text, _)| format!("{text}\n")).collect();
        std::fs::write(house.path("texts.txt"), texts).expect("texts");
        house
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_autoannotator"));
        command
            .env("AUTOANNOTATOR_HOME", self.path("home"))
            .env("HF_HOME", self.path("hf"))
            .current_dir(self.folder.path());
        command.env("HF_ENDPOINT", &self.hub_url).env("HF_TOKEN", "hf_secret");
        for name in ["HF_HUB_OFFLINE", "AUTOANNOTATOR_OFFLINE", "AUTOANNOTATOR_LLM_KEY", "AUTOANNOTATOR_BUDGET_USD"] {
            command.env_remove(name);
        }
        command.env("AUTOANNOTATOR_LLM_URL", &self.llm_url).env("AUTOANNOTATOR_LLM_MODEL", "stub");
        command.arg("plan").args(args).args(["--no-models", "--json"]).stdin(std::process::Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary")
    }

    /// The plan's result and what it told; it must succeed.
    fn planned(&self, args: &[&str]) -> (Value, String) {
        let output = self.run(args);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{told}");
        (serde_json::from_slice(&output.stdout).expect("one JSON object"), told)
    }

    /// What a plan says that fails.
    fn refused(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        told
    }

    fn spec(&self) -> Spec {
        Spec::from_toml(&std::fs::read_to_string(self.path("plan/annotator.toml")).expect("a spec")).expect("valid")
    }
}

/// A plan by flags alone.
const FLAGS: [&str; 7] = ["--task", "reviews", "--labels", "bug,praise,question", "--probe", "probe.csv", "--no-llm"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&FLAGS[..], more].concat()
}

fn why(found: &Value, id: &str) -> String {
    let all = found["refused"].as_array().expect("a list");
    let one = all.iter().find(|one| one["id"] == id).unwrap_or_else(|| panic!("{id} is not refused: {found}"));
    one["why"].as_str().expect("a reason").to_owned()
}

fn ids(found: &Value) -> Vec<&str> {
    found["measured"].as_array().expect("a list").iter().filter_map(|one| one["id"].as_str()).collect()
}

#[test]
fn the_ensemble_that_is_right_together_is_chosen_and_written() {
    let house = House::new(repos());
    let (found, told) = house.planned(&with(&["--search", "lab", "--search", "bad"]));
    assert_eq!(found["chosen"], json!(["lab--one", "lab--two", "lab--three"]), "{told}");
    assert_eq!((&found["ensemble_probe_accuracy"], &found["exact"]), (&json!(1.0), &json!(true)));
    assert_eq!(ids(&found), ["lab/popular", "lab/one", "lab/two", "lab/three"], "ranked by downloads");
    assert!((found["best_single_probe_accuracy"].as_f64().expect("a number") - 7.0 / 9.0).abs() < 1e-9);
    assert!((found["hard"].as_f64().expect("a number") - 8.0 / 9.0).abs() < 1e-9, "they agree on one word of nine");
    for (id, code) in [
        ("bad/pickle", "catalogue-pickle"),
        ("bad/nothing", "catalogue-weights"),
        ("bad/gated", "catalogue-gated"),
        ("bad/custom-code", "catalogue-custom-code"),
        ("bad/regression", "catalogue-regression"),
        ("bad/other-labels", "map-labels"),
        ("bad/numbers", "map-labels"),
        ("bad/senseless", "measure-accuracy: it is right on 33.3 % of the probe"),
    ] {
        assert!(why(&found, id).starts_with(code), "{id}: {}", why(&found, id));
        assert!(told.contains(&format!("refused: {id}: ")), "{told}");
    }
    assert!(why(&found, "bad/numbers").contains("--map 'bad/numbers:LABEL_0=bug'"));
    let log = house.hub.log();
    assert!(log.iter().all(|line| !line.contains(".bin")), "a pickle is not even brought");
    assert!(log.iter().any(|line| line.contains("cursor=4")), "pages are turned");
    assert!(log.iter().filter(|line| line.starts_with("/api/models?")).all(|line| line.ends_with("Bearer hf_secret")));
    let spec = house.spec();
    assert_eq!((spec.task.name.as_str(), spec.slms.len()), ("reviews", 3));
    assert_eq!(spec.task.labels.names(), LABELS);

    // What was written labels a file.
    let mut annotate = Command::new(env!("CARGO_BIN_EXE_autoannotator"));
    annotate.env("AUTOANNOTATOR_HOME", house.path("home")).current_dir(house.folder.path());
    annotate.args([
        "annotate",
        "probe.csv",
        "--spec",
        "plan/annotator.toml",
        "--gold",
        "label",
        "--report",
        "report.json",
    ]);
    let output = annotate.args(["--out", "labelled.csv", "--review", "none"]).output().expect("the binary");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value =
        serde_json::from_slice(&std::fs::read(house.path("report.json")).expect("a report")).expect("JSON");
    assert_eq!(report["majority"]["accuracy"], json!(1.0), "the plan's accuracy is the run's: {report}");
    assert_eq!(report["accepted"], json!(10));
}

#[test]
fn a_persons_word_and_limits_are_kept() {
    let house = House::new(repos());
    let map = [
        "--map",
        "bad/numbers:LABEL_0=bug",
        "--map",
        "bad/numbers:LABEL_1=praise",
        "--map",
        "bad/numbers:LABEL_2=question",
    ];
    let (found, told) =
        house.planned(&with(&[&map[..], &["--search", "bad", "-k", "1", "--rule", "majority"][..]].concat()));
    assert_eq!(found["chosen"], json!(["bad--numbers"]), "{told}");
    let spec = house.spec();
    assert_eq!(spec.rule, autoannotator::vote::Rule::Majority);
    assert_eq!(spec.label_maps["bad--numbers"].labels["LABEL_1"], "praise");
    // Nothing is overwritten, and that is known before anything is done.
    let told = house.refused(&with(&[]));
    assert!(told.contains("--force"), "{told}");
    let before = house.hub.log().len();
    let (found, _) =
        house.planned(&with(&["--force", "--search", "lab", "--candidate", "lab/two", "--candidate", "lab/one"]));
    assert_eq!(ids(&found), ["lab/two", "lab/one"]);
    assert!(house.hub.log().len() > before && found["notes"].to_string().contains("only 2 candidates"));
    assert!(house.refused(&with(&["--force", "--search", "lab", "--candidate", "lab/seven"])).contains("lab/seven"));
    assert!(house.refused(&with(&["--force", "--search", "lab", "--max-mb", "0.0001"])).contains("plan-size"));
    let licence = house.refused(&with(&["--force", "--search", "lab", "--licence", "mit", "--limit", "41"]));
    assert!(licence.contains("plan-candidates"), "{licence}");
}

#[test]
fn a_bad_hub_is_told_and_a_snapshot_serves_without_one() {
    let house = House::new(repos());
    let mood = |mood: Mood| *house.hub.mood.lock().expect("mood") = mood;
    for (bad, word) in
        [(Mood::Down, "status 503"), (Mood::Garbage, "no list of models"), (Mood::Hanging, "no answer in time")]
    {
        mood(bad);
        let told = house.refused(&with(&["--search", "lab"]));
        assert!(told.contains("plan-hub") && told.contains(word) && told.contains("--catalogue"), "{told}");
    }
    mood(Mood::Limited(99, 3600));
    let told = house.refused(&with(&["--search", "lab"]));
    assert!(told.contains("rate-limited") && told.contains("3600 s"), "{told}");
    // A short wait is waited.
    mood(Mood::Limited(2, 1));
    let (found, _) = house.planned(&with(&["--search", "lab"]));
    assert_eq!(found["chosen"].as_array().map(Vec::len), Some(3));
    // What was listed and brought serves without a hub, by the cache and by the snapshot.
    mood(Mood::Down);
    let before = house.hub.log().len();
    let (again, _) = house.planned(&with(&["--search", "lab", "--force", "--offline"]));
    assert_eq!(again["chosen"], found["chosen"]);
    let (again, _) = house.planned(&with(&["--catalogue", "plan/catalogue.json", "--out", "other", "--offline"]));
    assert_eq!((again["chosen"] == found["chosen"], house.hub.log().len()), (true, before));
    std::fs::write(house.path("broken.json"), "{\"models\": 5}").expect("a file");
    assert!(house.refused(&with(&["--catalogue", "broken.json", "--force"])).contains("not a catalogue snapshot"));
    // Nobody listens there.
    let mut command = house.command(&with(&["--search", "other", "--force"]));
    let output = command.env("HF_ENDPOINT", "http://127.0.0.1:9").output().expect("the binary");
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot be reached"));
}

#[test]
fn a_hub_that_lies_about_its_files_is_found_out() {
    let mut all = repos();
    for (id, lie) in [("lie/size", Lie::Size), ("lie/hash", Lie::Hash), ("lie/half", Lie::Half)] {
        all.push(repo("lab/x", 99, &LABELS, &[]).with("id", json!(id)).lying(lie));
    }
    let mut foreign = repo("lab/x", 98, &LABELS, &[]).with("id", json!("lie/weights"));
    foreign.files.insert("model.safetensors".into(), b"not safetensors at all".to_vec());
    let mut labels = repo("lab/x", 97, &LABELS, &[]).with("id", json!("lie/labels"));
    let config = keyword_slm::config_json(&["question", "praise", "bug"], &WORDS.map(|(word, _)| word));
    labels.files.insert("config.json".into(), config.to_string().into_bytes());
    all.extend([foreign, labels]);
    let house = House::new(all);
    let (found, _) = house.planned(&with(&["--search", "lie", "--search", "lab"]));
    assert_eq!(found["chosen"], json!(["lab--one", "lab--two", "lab--three"]));
    for (id, word) in [
        ("lie/size", "longer than"),
        ("lie/hash", "SHA-256"),
        ("lie/half", "broke"),
        ("lie/weights", "safetensors"),
        ("lie/labels", "other labels"),
    ] {
        assert!(why(&found, id).contains(word), "{id}: {}", why(&found, id));
    }
    let kept = |id: &str| house.path("home/hub").join(id).join(stub_hub::COMMIT).join("model.safetensors").exists();
    assert!(!kept("lie--size") && !kept("lie--hash") && !kept("lie--half") && kept("lab--one"));
}

#[test]
fn probes_that_measure_nothing_are_refused() {
    let house = House::new(repos());
    let probe = |text: &str| std::fs::write(house.path("probe.csv"), text).expect("a probe");
    let rows = |label: &str| (0..40).map(|n| format!("text {n},{label}\n")).collect::<String>();
    probe(&format!("text,label\n{}", rows("bug")));
    let told = house.refused(&with(&[]));
    assert!(told.contains("plan-probe") && told.contains("'bug'") && told.contains("praise, question"), "{told}");
    probe(&format!("text,label\n{}", rows("joy")));
    assert!(house.refused(&with(&[])).contains("'joy'"));
    probe("text,label\na,bug\nb,praise\n");
    assert!(house.refused(&with(&[])).contains("2 labelled texts"));
    probe(&format!("text,kind\n{}", rows("bug")));
    assert!(house.refused(&with(&[])).contains("--label-column"));
    assert_eq!(house.hub.log(), Vec::<String>::new(), "it is known before the hub is asked");
    assert!(house.refused(&["--task", "reviews", "--labels", "bug,praise", "--no-llm"]).contains("--probe FILE"));
    // Labels that have nothing to do with the words: no ensemble is better than the commonest one.
    let by_chance: String = (0..60).map(|n| format!("{} {n},{}\n", WORDS[n % 9].0, LABELS[(n / 9) % 3])).collect();
    probe(&format!("text,label\n{by_chance}"));
    let told = house.refused(&with(&["--search", "lab"]));
    assert!(told.contains("plan-none-passes") && told.contains("cold-start") && told.contains("--probe"), "{told}");
    assert!(!house.path("plan/annotator.toml").exists());
}

const SENTENCE: &str = "label these app reviews as bug, praise or question";
const PRICES: [&str; 4] = ["--usd-per-million", "0.15,0.60", "--budget-usd", "0.5"];

fn proposal() -> String {
    let labels = LABELS.map(|name| json!({ "name": name, "definition": format!("a {name}"), "edge_cases": ["one"] }));
    json!({ "name": "reviews", "search": ["lab"], "labels": labels }).to_string()
}

#[test]
fn an_llm_proposes_ranks_and_labels_and_a_person_decides() {
    let house = House::new(repos());
    house.llm.script("labels", &[&proposal()]);
    house.llm.script("ranking", &[r#"{"ranking": [
        {"id": "lab/three", "reason": "fits\u001b[31m best"}, {"id": "evil/model", "reason": "x"}, {"id": "lab/three", "reason": "again"},
        {"id": "lab/two", "reason": "import os; os.system('touch hacked')"}]}"#]);
    let args =
        |more: &[&'static str]| [&[SENTENCE, "--texts", "texts.txt", "--shortlist", "3"][..], &PRICES, more].concat();
    // Nothing is spent without consent.
    let told = house.refused(&args(&[]));
    assert!(told.contains("plan-consent") && told.contains("about $0.00") && house.llm.log().is_empty(), "{told}");
    let (found, told) = house.planned(&args(&["--yes"]));
    assert_eq!(ids(&found), ["lab/three", "lab/two", "lab/popular"], "{told}");
    assert_eq!(found["measured"][0]["ranked"], "fits [31m best");
    assert!(told.contains("'evil/model', which is not on the list") && told.contains("'lab/three' twice"), "{told}");
    assert!(!house.path("hacked").exists());
    assert_eq!(found["probe_texts"], json!(90));
    let spent = &found["spent"];
    assert_eq!(spent["prompt_tokens"], json!(92 * 100), "90 texts, the labels and the ranking");
    let definition = house.spec().task.labels.iter().next().and_then(|label| label.definition.clone());
    assert_eq!(definition.as_deref(), Some("a bug (edge cases: one)"));
    let asked = house.llm.log().len();
    // A plan that was stopped goes on: nothing is asked or brought twice.
    std::fs::remove_file(house.path("plan/annotator.toml")).expect("removed");
    let brought = house.hub.log().len();
    let (again, _) = house.planned(&args(&["--yes"]));
    assert_eq!(again["chosen"], found["chosen"]);
    assert_eq!(again["measured"], found["measured"], "also the times are the ones measured");
    assert_eq!((house.llm.log().len(), house.hub.log().len()), (asked, brought));
    // What a person edits counts.
    let labels = std::fs::read_to_string(house.path("plan/labels.toml")).expect("labels");
    std::fs::write(house.path("plan/labels.toml"), labels.replace("a praise", "a kind word")).expect("edited");
    house.planned(&args(&["--yes", "--force", "--probe", "probe.csv"]));
    assert!(std::fs::read_to_string(house.path("plan/annotator.toml")).expect("a spec").contains("a kind word"));
}

#[test]
fn an_llm_that_answers_something_else_is_asked_once_more_and_never_obeyed() {
    let house = House::new(repos());
    let args = |out: &'static str| {
        [&[SENTENCE, "--probe", "probe.csv", "--yes", "--out", out, "--shortlist", "3"][..], &PRICES].concat()
    };
    for (out, reply) in [
        ("a", "Sure! I suggest the labels bug and praise."),
        ("b", "import os\nos.system('touch hacked')"),
        ("c", r#"{"name": "x", "labels": [{"name": "a"}, {"name": "b"}], "run": "touch hacked"}"#),
        ("d", "```json\n{}\n```"),
    ] {
        house.llm.script("labels", &[reply]);
        let before = house.llm.log().len();
        let told = house.refused(&args(out));
        assert!(told.contains("plan-reply") && told.contains("asked twice for labels"), "{told}");
        assert_eq!(house.llm.log().len() - before, 2);
        assert!(!house.path(out).join("labels.toml").exists());
    }
    // The second time it may be right.
    house.llm.script("labels", &["prose", &proposal()]);
    house.llm.script("ranking", &["I like the first one best."]);
    let (found, _) = house.planned(&args("e"));
    assert!(found["notes"].to_string().contains("ranked by downloads instead"), "{found}");
    assert_eq!(ids(&found)[0], "lab/popular");
    let log = house.llm.log();
    let last = |asked: &str| {
        log.iter().rev().find(|one| one["body"].to_string().contains(&format!("\\\"asked\\\":\\\"{asked}"))).cloned()
    };
    assert!(last("labels").expect("asked")["body"].to_string().contains("your_last_reply_was_refused"));
    assert!(!house.path("hacked").exists() && !house.path("e/hacked").exists());
}

#[test]
fn the_budget_holds() {
    let house = House::new(repos());
    house.llm.script("labels", &[&proposal()]);
    let args = |out: &'static str, budget: &'static str| {
        [SENTENCE, "--texts", "texts.txt", "--out", out, "--yes", "--usd-per-million", "10,10", "--budget-usd", budget]
    };
    let told = house.refused(&args("a", "0.0001"));
    assert!(
        told.contains("plan-consent") && told.contains("more than the budget") && house.llm.log().is_empty(),
        "{told}"
    );
    let (found, told) = house.planned(&args("b", "0.12"));
    assert!(told.contains("the budget reaches"), "{told}");
    let spent = found["spent"]["cost_usd"].as_f64().expect("a number");
    assert!(spent <= 0.12 && found["probe_texts"].as_u64().is_some_and(|texts| (20..90).contains(&texts)), "{found}");
    let told = house.refused(&[SENTENCE, "--budget-usd", "1", "--yes", "--out", "c"]);
    assert!(told.contains("--usd-per-million"), "{told}");
}

#[test]
fn a_folder_in_the_hubs_layout_is_a_candidate() {
    let house = House::new(Vec::new());
    for (name, wrong) in [("mine", &[][..]), ("mine2", &["how"][..])] {
        let files = repo("lab/mine", 1, &LABELS, wrong).files;
        std::fs::create_dir_all(house.path(name)).expect("a folder");
        files.iter().for_each(|(file, bytes)| std::fs::write(house.path(name).join(file), bytes).expect("a file"));
    }
    let folders = ["--folder", "mine", "--folder", "mine2", "--folder", "nowhere", "--no-hub", "-k", "1"];
    let (found, _) = house.planned(&with(&folders));
    assert_eq!(found["chosen"], json!(["folder--mine"]));
    assert!(why(&found, "nowhere").contains("catalogue-folder"));
    assert_eq!(house.hub.log(), Vec::<String>::new());
}

#[test]
fn every_architecture_is_brought_packed_and_measured() {
    let house = House::new(Vec::new());
    let words = WORDS.map(|(word, _)| word);
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/architectures");
    let folders: Vec<PathBuf> =
        tiny.read_dir().expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    let mut args: Vec<String> =
        ["--task", "sentiment", "--probe", "probe.csv", "--no-llm", "--no-hub", "--shortlist", "99"]
            .map(String::from)
            .into();
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        let own = house.path(&folder.file_name().expect("a name").to_string_lossy());
        std::fs::create_dir_all(&own).expect("a folder");
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(folder.join(file), own.join(file)).expect("copied");
        }
        std::fs::write(own.join("tokenizer.json"), keyword_slm::tokenizer(&words)).expect("a tokenizer");
        args.extend(["--folder".to_owned(), own.display().to_string()]);
    }
    let names = ["negative", "neutral", "positive"];
    let rows: String = (0..60).map(|n| format!("{} number {n},{}\n", words[n % 9], names[n % 3])).collect();
    std::fs::write(house.path("probe.csv"), format!("text,label\n{rows}")).expect("a probe");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let output = house.run(&args);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    // Weights by chance may or may not pass; the result is told all the same.
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{told}"));
    let refused = found["refused"].as_array().expect("a list");
    assert!(
        refused.iter().all(|one| one["why"].as_str().is_some_and(|why| why.starts_with("measure-accuracy"))),
        "{told}"
    );
    assert_eq!(ids(&found).len() + refused.len(), folders.iter().filter(|folder| folder.is_dir()).count());
}

#[test]
fn a_killed_plan_goes_on_where_it_was() {
    let house = House::new(repos());
    // Killed while the third candidate is brought, which never comes.
    let repos = house.hub.repos.lock().expect("repos").clone();
    let args =
        with(&["--search", "lab", "--candidate", "lab/one", "--candidate", "lab/two", "--candidate", "lab/three"]);
    house.planned(&[&args[..], &["--out", "warm", "--shortlist", "1"][..]].concat());
    *house.hub.mood.lock().expect("mood") = Mood::Hanging;
    let mut child = house
        .command(&args)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("starts");
    let waited = std::time::Instant::now();
    while !house.hub.log().iter().any(|line| line.contains("lab/two/revision")) {
        assert!(waited.elapsed().as_secs() < 30, "{:?}", house.hub.log());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
    *house.hub.mood.lock().expect("mood") = Mood::Well;
    assert_eq!(repos.len(), house.hub.repos.lock().expect("repos").len());
    let brought = |id: &str| house.hub.log().iter().filter(|line| line.contains(&format!("/storage/{id}/"))).count();
    let (found, _) = house.planned(&args);
    assert_eq!(found["chosen"], json!(["lab--one", "lab--two", "lab--three"]));
    assert_eq!(brought("lab/one"), 1, "what was measured is not brought again");
    assert!(Path::new(&house.path("home/measurements")).read_dir().expect("a folder").count() >= 3);
}
