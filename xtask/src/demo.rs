//! `cargo xtask demo-controller`: the meta-controller's whole way, with a stub LLM and a local hub that serves the real SLMs
//! of `models/`, a worker in workerd, cold starts beside TF-IDF, and one line of JSON of what it came to.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What is run, on what.
#[derive(clap::Args)]
pub struct Args {
    /// The built autoannotator; the stubs lie in `examples/` beside it
    #[arg(long)]
    binary: PathBuf,
    /// The folder with the labelled sets
    #[arg(long)]
    data: PathBuf,
    /// The folder for what is made; it is emptied first
    #[arg(long, default_value = "target/demo-controller")]
    out: PathBuf,
    /// A Python with scikit-learn
    #[arg(long)]
    python: PathBuf,
    /// The data home, whose bases are trained on
    #[arg(long)]
    home: PathBuf,
    /// Labelled texts of the cold starts
    #[arg(long, value_delimiter = ',', default_value = "300,1000,3000")]
    sizes: Vec<usize>,
}

/// The file that candidates are measured on, and the file that is labelled: neither was trained on.
const PROBE: &str = "sent_tweet_extraction_test.csv";
const ANNOTATED: &str = "sent_twitter_financial_test.csv";
/// The file that cold starts draw their labelled texts from.
const SEEDS: &str = "sent_twitter_financial_train.csv";
/// The share of it that is read without labels: about 3,000 texts.
const UNLABELLED: &str = "0.32";
/// Rows of the file that is labelled.
const ROWS: usize = 500;
const SENTENCE: &str = "label these tweets by what the writer feels: negative, neutral or positive";
const SLMS: [&str; 3] = [
    "sentiment-minilm-l3=demo/sentiment-minilm-l3",
    "sentiment-minilm-l6=demo/sentiment-minilm-l6",
    "sentiment-mpnet=demo/sentiment-mpnet",
];

/// A process that ends with this value.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    /// Starts a server that prints its address first.
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{:?} does not start", command.get_program()))?;
        let stdout = child.stdout.take().context("no output")?;
        let mut server = Self { child, url: String::new() };
        BufReader::new(stdout).read_line(&mut server.url)?;
        server.url = server.url.trim().to_owned();
        ensure!(server.url.starts_with("http://"), "{:?} printed no address", command.get_program());
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the whole way and prints the line.
pub fn run(args: &Args) -> Result<()> {
    let root = super::root()?;
    let _ = fs::remove_dir_all(&args.out);
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    for file in [PROBE, ANNOTATED, SEEDS] {
        ensure!(
            args.data.join(file).is_file(),
            "{} is not in {}; name the folder: make demo-controller DATA=FOLDER",
            file,
            args.data.display()
        );
    }
    let example = |name: &str| Command::new(args.binary.with_file_name("examples").join(name));
    println!("== a local hub and a stub LLM");
    let hub = Server::start(example("stub_hub").arg(root.join("models")).args(SLMS))?;
    let words =
        ["love=positive", "great=positive", "thanks=positive", "hate=negative", "sad=negative", "sick=negative"];
    let llm = Server::start(example("stub_llm").args(["0", "neutral"]).args(words))?;
    let companion = |command: &str| {
        let mut built = Command::new(&args.binary);
        built.arg(command).env("HF_ENDPOINT", &hub.url).env("AUTOANNOTATOR_LLM_URL", &llm.url);
        built.env("AUTOANNOTATOR_HOME", &args.home);
        built.env("AUTOANNOTATOR_LLM_MODEL", "stub").env_remove("HF_HUB_OFFLINE").env_remove("AUTOANNOTATOR_OFFLINE");
        built
    };

    println!("== plan: labels, catalogue, ranking, measurement, spec");
    let plan = plan(&mut companion("plan"), args)?;
    let spec = args.out.join("plan").join("annotator.toml");
    println!("{}", fs::read_to_string(&spec)?);

    println!("== annotate {ROWS} rows of {ANNOTATED}");
    annotate(&mut companion("annotate"), args, &spec)?;

    println!("== a worker of the spec, in workerd");
    let mut worker = Command::new("node");
    worker.arg(root.join("wasm-tests/edge/demo.mjs")).arg(&spec).arg(args.out.join("worker"));
    worker.env("AUTOANNOTATOR_BINARY", &args.binary).env("AUTOANNOTATOR_HOME", &args.home);
    super::run(&mut worker)?;

    println!("== cold starts from {SEEDS}, tested on {ANNOTATED}");
    let mut found = tfidf(&root, args)?;
    for size in &args.sizes {
        let accuracy = cold_start(companion("cold-start"), args, *size)?;
        println!("{size} labels: {accuracy:.4}, TF-IDF {}", found[format!("tfidf_{size}")]);
        found[format!("cold_start_{size}")] = json!(accuracy);
    }

    println!("{}", line(&plan, &found));
    Ok(())
}

/// Writes the seeds; what TF-IDF and logistic regression come to on each.
fn tfidf(root: &Path, args: &Args) -> Result<Value> {
    let mut command = Command::new(&args.python);
    command.arg(root.join("benches/controller/tfidf.py")).arg("--train").arg(args.data.join(SEEDS));
    command.arg("--test").arg(args.data.join(ANNOTATED)).arg("--out").arg(&args.out).arg("--sizes");
    command.args(args.sizes.iter().map(usize::to_string));
    answer(&mut command)
}

/// The accuracy of the SLMs together, trained on a seed in a home of their own, which shares the bases.
fn cold_start(mut command: Command, args: &Args, size: usize) -> Result<f64> {
    let home = args.out.join(format!("home-{size}"));
    fs::create_dir_all(&home)?;
    let bases = fs::canonicalize(args.home.join("bases")).context("no bases; autoannotator pull brings them")?;
    std::os::unix::fs::symlink(bases, home.join("bases"))?;
    let models = args.out.join(format!("models-{size}"));
    fs::create_dir_all(&models)?;
    let mut unlabelled = args.data.join(SEEDS).into_os_string();
    unlabelled.push(format!("={UNLABELLED}"));
    command.args(["--task", "sentiment", "--json", "--seed"]).arg(args.out.join(format!("seed-{size}.csv")));
    command.arg("--unlabelled").arg(unlabelled).arg("--test").arg(args.data.join(ANNOTATED));
    command.arg("--models").arg(models).arg("--home").arg(home);
    let found = answer(&mut command)?;
    println!("{found}");
    found["test"]["together"].as_f64().context("cold-start told no accuracy")
}

/// The JSON that a command prints.
fn answer(command: &mut Command) -> Result<Value> {
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("{:?} does not start", command.get_program()))?;
    ensure!(output.status.success(), "{:?} failed: {}", command.get_program(), output.status);
    serde_json::from_slice(&output.stdout).with_context(|| format!("{:?} printed no JSON", command.get_program()))
}

fn plan(command: &mut Command, args: &Args) -> Result<Value> {
    command.arg(SENTENCE).arg("--texts").arg(args.data.join(ANNOTATED)).arg("--probe").arg(args.data.join(PROBE));
    command.arg("--out").arg(args.out.join("plan")).args(["--search", "demo", "--no-models", "--shortlist", "6"]);
    command.args(["--usd-per-million", "0.15,0.60", "--budget-usd", "0.10", "--yes", "--json"]);
    answer(command)
}

fn annotate(command: &mut Command, args: &Args, spec: &Path) -> Result<()> {
    let input = args.out.join("texts.csv");
    let text = fs::read_to_string(args.data.join(ANNOTATED))?;
    // The set has one row a line.
    let rows: String = text.split_inclusive('\n').take(1 + ROWS).collect();
    fs::write(&input, rows)?;
    let report = args.out.join("report.json");
    command.arg(&input).arg("--spec").arg(spec).arg("--out").arg(args.out.join("labelled.csv"));
    super::run(command.args(["--review", "none", "--gold", "label", "--report"]).arg(&report))?;
    let report: Value = serde_json::from_slice(&fs::read(&report)?)?;
    let rows = report["rows"].as_u64().unwrap_or_default();
    ensure!(rows == ROWS as u64, "{rows} rows were labelled, expected {ROWS}");
    Ok(())
}

/// What the way came to.
fn line(plan: &Value, found: &Value) -> Value {
    let mut line = json!({
        "candidates": plan["candidates"], "refused": plan["refused"].as_array().map(Vec::len), "chosen": plan["chosen"],
        "ensemble_probe_accuracy": plan["ensemble_probe_accuracy"],
        "best_single_probe_accuracy": plan["best_single_probe_accuracy"],
    });
    if let (Some(line), Some(found)) = (line.as_object_mut(), found.as_object()) {
        line.extend(found.clone());
    }
    line
}
