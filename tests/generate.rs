//! `autoannotator generate`, and the batch job that it writes at work. The page and the worker are built and run by
//! `wasm-tests/edge/generate.test.mjs`.
#![cfg(unix)]

mod common;

use common::Bench;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A spec for the three tiny SLMs whose words would be commands where anything took them for some.
const HOSTILE: &str = r#"
task = "'; touch pwned; ' $(touch pwned) `touch pwned` </script> %h \n[Service]\nExecStart=/bin/false\n ../../x"
slms = ["sentiment-minilm-l3", "sentiment-minilm-l6", "sentiment-mpnet"]
[[labels]]
name = "negative"
aliases = ["$(touch pwned)", "'; touch pwned; '"]
definition = "\"; touch pwned #"
[[labels]]
name = "neutral"
[[labels]]
name = "positive"
definition = "`touch pwned`\n\ttouch pwned"
"#;

/// A folder that a script or a unit would stumble over, were it not quoted.
const FOLDER: &str = "it's $(touch pwned) `x` 100% \"q\" $HOME";

fn generate(bench: &Bench, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_autoannotator"));
    command.arg("generate").args(args).current_dir(bench.path(""));
    // An empty models/: nothing is packed, and nothing fetched.
    fs::create_dir_all(bench.path("none")).expect("a folder");
    command.env("AUTOANNOTATOR_HOME", bench.path("home")).env("AUTOANNOTATOR_MODELS", bench.path("none"));
    command.output().expect("the binary")
}

#[track_caller]
fn generated(bench: &Bench, args: &[&str]) -> String {
    let output = generate(bench, args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[track_caller]
fn refused(bench: &Bench, args: &[&str]) -> String {
    let output = generate(bench, args);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).expect("UTF-8")
}

/// Every file below a folder, with its bytes.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.clone(), fs::read(&path).expect("a file")));
        }
    }
    found.sort();
    found
}

/// A batch job of the hostile spec in its folder.
fn batch(bench: &Bench) -> PathBuf {
    bench.file("annotator.toml", HOSTILE);
    generated(bench, &["cli", "--spec", "annotator.toml", "--out", FOLDER]);
    bench.path(FOLDER)
}

fn script(bench: &Bench, folder: &Path) -> Command {
    let mut command = Command::new(folder.join("annotate.sh"));
    command.env("AUTOANNOTATOR_HOME", bench.path("home")).current_dir("/");
    command
}

#[track_caller]
fn runs(command: &mut Command) -> String {
    let output = command.output().expect("the script");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// Rows of different words.
fn rows(count: usize) -> String {
    (0..count)
        .fold(String::from("id,text\n"), |csv, row| csv + &format!("{row},{:x} word{row} and so on\n", row * 7919))
}

#[test]
fn the_batch_job_labels_what_is_new_and_nothing_twice() {
    let bench = Bench::new();
    let folder = batch(&bench);
    fs::create_dir(folder.join("inbox")).expect("a folder");
    let inbox = |name: &str| folder.join("inbox").join(name);
    let labelled = |name: &str| folder.join("labelled").join(name);
    let strange = "a b'\"$(touch pwned).csv";
    fs::write(inbox("tweets.csv"), rows(60)).expect("a file");
    fs::write(inbox(strange), rows(5)).expect("a file");
    fs::write(inbox("notes.docx"), "no texts").expect("a file");
    let said = runs(&mut script(&bench, &folder));
    assert!(said.contains("labelled: tweets.csv") && said.contains("left alone: inbox/notes.docx"), "{said}");

    // The same as without the script.
    bench.file("tweets.csv", rows(60));
    let more = ["--spec", "annotator.toml", "--out", "direct.jsonl"];
    let mut direct = Command::new(env!("CARGO_BIN_EXE_autoannotator"));
    direct.args(["annotate", "tweets.csv"]).args(more).env("AUTOANNOTATOR_HOME", bench.path("home"));
    assert!(direct.current_dir(bench.path("")).output().expect("the binary").status.success());
    let first = fs::read(labelled("tweets.csv.jsonl")).expect("labelled");
    assert!(first == fs::read(bench.path("direct.jsonl")).expect("labelled"));
    assert_eq!(common::read(&labelled(&format!("{strange}.jsonl"))).len(), 5);
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(labelled("tweets.csv.report.json")).expect("a report")).expect("JSON");
    assert_eq!(report["rows"], 60);

    // A second run changes nothing; the consumer may have taken a result away.
    fs::remove_file(labelled(&format!("{strange}.jsonl"))).expect("a file");
    let before = files(&folder);
    let said = runs(&mut script(&bench, &folder));
    assert!(!said.contains("labelled: "), "{said}");
    assert!(files(&folder) == before);

    // What changed is done again, and the earlier results are kept, so many of them.
    for count in [61, 62, 63] {
        fs::write(inbox("tweets.csv"), rows(count)).expect("a file");
        runs(script(&bench, &folder).env("KEEP", "2"));
    }
    let counts = ["jsonl", "jsonl.1", "jsonl.2"].map(|end| common::read(&labelled(&format!("tweets.csv.{end}"))).len());
    assert_eq!(counts, [63, 62, 61]);
    assert!(!labelled("tweets.csv.jsonl.3").exists());
    assert!(fs::read(labelled("tweets.csv.report.json.2")).is_ok());

    // A file that cannot be labelled fails alone, and is tried again.
    fs::write(inbox("broken.csv"), "a,b\n1,2\n").expect("a file");
    fs::write(inbox("new.csv"), rows(3)).expect("a file");
    for again in [false, true] {
        let output = script(&bench, &folder).output().expect("the script");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("not labelled: inbox/broken.csv"), "{said}");
        assert_eq!(said.contains("labelled: new.csv"), !again, "{said}");
    }
    // Of a file whose column nobody can guess it is told.
    fs::create_dir(bench.path("other")).expect("a folder");
    fs::copy(inbox("broken.csv"), bench.path("other/columns.csv")).expect("a file");
    runs(script(&bench, &folder).env("INBOX", bench.path("other")).env("TEXT_COLUMN", "b"));
    let told = &common::read(&labelled("columns.csv.jsonl"))[0];
    assert_eq!((told["b"].as_str(), told["verdict"].as_str().is_some()), (Some("2"), true));
    let output = script(&bench, &folder).env("KEEP", "$(id)").output().expect("the script");
    assert_eq!(output.status.code(), Some(2));
    for place in [bench.path(""), folder.clone(), folder.join("inbox")] {
        assert!(!place.join("pwned").exists(), "something was run in {}", place.display());
    }
}

#[test]
fn a_killed_batch_goes_on_and_two_never_work_at_once() {
    let bench = Bench::new();
    let folder = batch(&bench);
    fs::create_dir(folder.join("inbox")).expect("a folder");
    fs::write(folder.join("inbox/big.csv"), rows(12_000)).expect("a file");
    let journal = folder.join(".state/big.csv.jsonl.journal");
    let mut child =
        script(&bench, &folder).process_group(0).stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("it");
    let deadline = Instant::now() + Duration::from_secs(120);
    while !fs::read_to_string(&journal).unwrap_or_default().contains("{\"rows\":512,") {
        assert!(Instant::now() < deadline && child.try_wait().expect("a child").is_none(), "it never came so far");
        std::thread::sleep(Duration::from_micros(500));
    }
    // While it works, another one goes away.
    let said = runs(&mut script(&bench, &folder));
    assert!(said.contains("another run is at work"), "{said}");
    let group = format!("-{}", child.id());
    assert!(Command::new("kill").args(["-KILL", "--", &group]).status().expect("kill").success());
    child.wait().expect("a child");
    assert!(journal.exists() && !folder.join("labelled/big.csv.jsonl").exists(), "nothing half is published");

    let said = runs(&mut script(&bench, &folder));
    assert!(said.contains("going on after row"), "{said}");
    bench.file("big.csv", rows(12_000));
    let whole = bench.run("big.csv", "whole.jsonl", &[]);
    assert!(whole.status.success());
    assert!(
        fs::read(folder.join("labelled/big.csv.jsonl")).expect("labelled")
            == fs::read(bench.path("whole.jsonl")).expect("whole")
    );

    // The lock is the system's: it goes with whoever held it.
    let lock = File::options().write(true).open(folder.join(".state/lock")).expect("the lock");
    lock.lock().expect("the lock");
    fs::write(folder.join("inbox/more.csv"), rows(3)).expect("a file");
    assert!(runs(&mut script(&bench, &folder)).contains("another run is at work"));
    drop(lock);
    assert!(runs(&mut script(&bench, &folder)).contains("labelled: more.csv"));
}

/// Whether a program is here; where it is not, what needs it is left out, and says so.
fn here(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("{program} is not here: what it would say is not tested");
    }
    found
}

#[test]
fn the_script_and_the_units_are_sound() {
    let bench = Bench::new();
    let folder = batch(&bench);
    if here("shellcheck") {
        let output = Command::new("shellcheck").arg(folder.join("annotate.sh")).output().expect("shellcheck");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    for shell in ["sh", "dash", "bash"].into_iter().filter(|shell| *shell == "sh" || here(shell)) {
        let output = Command::new(shell).arg("-n").arg(folder.join("annotate.sh")).output().expect("a shell");
        assert!(output.status.success() && output.stderr.is_empty(), "{shell}");
    }
    let units: Vec<PathBuf> = files(&folder)
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| path.extension().is_some_and(|end| end == "service" || end == "timer"))
        .collect();
    assert_eq!(units.len(), 2);
    if here("systemd-analyze") {
        let output = Command::new("systemd-analyze").arg("verify").args(&units).output().expect("systemd-analyze");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
        // What systemd itself makes of the line, written by it as a shell would take it; it halves `$$` when it starts it.
        let mut dump = Command::new("systemd-analyze");
        let output =
            dump.arg("verify").args(&units).env("SYSTEMD_LOG_LEVEL", "debug").output().expect("systemd-analyze");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines: Vec<&str> = said.lines().filter_map(|line| line.trim().strip_prefix("Command Line: ")).collect();
        let [line] = lines[..] else { panic!("{said}") };
        let words = Command::new("sh").arg("-c").arg(format!("printf '%s\\0' {line}")).output().expect("a shell");
        let path = folder.join("annotate.sh").to_str().expect("UTF-8").replace('$', "$$");
        assert_eq!(String::from_utf8_lossy(&words.stdout), format!("/bin/sh\0{path}\0"));
    }
}

#[test]
fn a_page_and_a_worker_are_written_whole_and_never_over_changes() {
    let bench = Bench::new();
    bench.file("annotator.toml", HOSTILE);
    for kind in ["page", "worker"] {
        let args = [kind, "--spec", "annotator.toml", "--out", kind];
        let with = |more: &[&'static str]| [&args[..], more].concat();
        let said = generated(&bench, &with(&["--dry-run"]));
        assert!(said.contains("new        public/models/index.json"), "{said}");
        assert!(!bench.path(kind).exists(), "a dry run writes nothing");
        let said = generated(&bench, &args);
        assert!(said.contains("new        src/project.json"), "{said}");
        let before = files(&bench.path(kind));
        assert!(before.len() > 12);
        let home = files(&bench.path("home/packed"));
        let shards = |files: &[(PathBuf, Vec<u8>)]| {
            let weights = files.iter().filter(|(path, _)| path.extension().is_some_and(|end| end == "bin"));
            weights.map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>()
        };
        assert!(shards(&before) == shards(&home));

        let said = generated(&bench, &args);
        assert!(
            said.lines()
                .filter(|line| line.contains("public/") || line.contains("src/"))
                .all(|l| l.starts_with("unchanged ")),
            "{said}"
        );
        fs::write(bench.path(kind).join("README.md"), "mine").expect("a file");
        let said = refused(&bench, &args);
        assert!(
            said.contains("generate-differs: ") && said.contains("README.md") && !said.contains("package.json"),
            "{said}"
        );
        assert_eq!(fs::read_to_string(bench.path(kind).join("README.md")).expect("a file"), "mine");
        assert!(generated(&bench, &with(&["--dry-run"])).contains("differs    README.md"));
        assert!(generated(&bench, &with(&["--force"])).contains("replaced   README.md"));
        assert!(files(&bench.path(kind)) == before);
    }
    // A folder of models by its path; the same.
    generated(&bench, &["page", "--spec", "annotator.toml", "--out", "page", "--models", "home/packed"]);
}

#[test]
fn bad_input_is_refused_and_leaves_nothing() {
    let bench = Bench::new();
    let spec = |name: &str, text: &str| {
        bench.file(name, text);
        name.to_owned()
    };
    let outside = spec("outside.toml", "task = \"sentiment\"\nslms = [\"../../etc/passwd\"]\n");
    let unknown = spec("unknown.toml", "task = \"sentiment\"\nslms = [\"sentiment-minilm-l3\", \"nothing\"]\n");
    let other = spec("other.toml", "task = \"toxicity\"\nslms = [\"sentiment-minilm-l3\"]\n");
    let nowhere = spec("nowhere.toml", "task = \"sentiment\"\n[review]\nto = \"llm\"\n");
    let policy = spec("policy.toml", "task = \"sentiment\"\n[review]\nto = \"llm\"\nurl = \"https://a;script-src\"\n");
    let good = spec("good.toml", "task = \"sentiment\"\n");
    let fails = |args: &[&str], code: &str| {
        let said = refused(&bench, &[args, &["--out", "out"]].concat());
        assert!(said.contains(code), "{args:?}: {said}");
        assert!(!bench.path("out").exists(), "{args:?}");
    };
    for kind in ["page", "worker", "cli"] {
        fails(&[kind, "--spec", &outside], "an id is made of");
        fails(&[kind, "--spec", &nowhere], "generate-review: ");
        fails(&[kind, "--spec", &policy], "generate-address: ");
        fails(&[kind, "--spec", "missing.toml"], "cannot read");
    }
    for kind in ["page", "worker"] {
        fails(&[kind, "--spec", &unknown], "generate-slm: 'nothing'");
        fails(&[kind, "--spec", &other], "generate-labels: ");
        fails(&[kind, "--spec", &good, "--models", "ftp://models.example"], "generate-address: ");
        fails(&[kind, "--spec", &good, "--models", "none"], "generate-disk: ");
        fails(&[kind, "--spec", &good, "--package", "../package"], "generate-package: ");
    }
    // A file of a model that is not what its manifest says.
    let shard = files(&bench.path("home/packed"))
        .into_iter()
        .find(|(path, _)| path.extension().is_some_and(|end| end == "bin"));
    let (path, mut bytes) = shard.expect("a shard");
    bytes[100] ^= 1;
    fs::write(path, bytes).expect("a shard");
    fails(&["page", "--spec", &good], "SHA-256");
    assert!(
        fs::read_dir(bench.path("")).expect("a folder").all(|entry| !entry
            .expect("an entry")
            .file_name()
            .to_string_lossy()
            .starts_with(".generate"))
    );
}
