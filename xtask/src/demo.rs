//! `cargo xtask demo-controller`: the meta-controller's whole way, with a stub LLM and a local hub that serves the real SLMs
//! of `models/`, and one line of JSON of what it came to.

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
}

/// The file that candidates are measured on, and the file that is labelled: neither was trained on.
const PROBE: &str = "sent_tweet_extraction_test.csv";
const ANNOTATED: &str = "sent_twitter_financial_test.csv";
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
    for file in [PROBE, ANNOTATED] {
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
        built.env("AUTOANNOTATOR_LLM_MODEL", "stub").env_remove("HF_HUB_OFFLINE").env_remove("AUTOANNOTATOR_OFFLINE");
        built
    };

    println!("== plan: labels, catalogue, ranking, measurement, spec");
    let plan = plan(&mut companion("plan"), args)?;
    let spec = args.out.join("plan").join("annotator.toml");
    println!("{}", fs::read_to_string(&spec)?);

    println!("== annotate {ROWS} rows of {ANNOTATED}");
    annotate(&mut companion("annotate"), args, &spec)?;

    println!("{}", line(&plan));
    Ok(())
}

fn plan(command: &mut Command, args: &Args) -> Result<Value> {
    command.arg(SENTENCE).arg("--texts").arg(args.data.join(ANNOTATED)).arg("--probe").arg(args.data.join(PROBE));
    command.arg("--out").arg(args.out.join("plan")).args(["--search", "demo", "--no-models", "--shortlist", "6"]);
    command.args(["--usd-per-million", "0.15,0.60", "--budget-usd", "0.10", "--yes", "--json"]);
    let output = command.stderr(Stdio::inherit()).output().context("autoannotator plan does not start")?;
    ensure!(output.status.success(), "autoannotator plan failed: {}", output.status);
    serde_json::from_slice(&output.stdout).context("autoannotator plan printed no JSON object")
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
fn line(plan: &Value) -> Value {
    json!({
        "candidates": plan["candidates"], "refused": plan["refused"].as_array().map(Vec::len), "chosen": plan["chosen"],
        "ensemble_probe_accuracy": plan["ensemble_probe_accuracy"],
        "best_single_probe_accuracy": plan["best_single_probe_accuracy"],
    })
}
