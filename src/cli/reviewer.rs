//! `autoannotator reviewer`.

use super::tune::labelled;
use crate::annotate::report::wilson;
use crate::hub::{Home, packing};
use crate::review::protocol::Usage;
use crate::serve::config::Config;
use crate::serve::examples::Examples;
use crate::serve::near::Embed;
use crate::serve::panel::{Job, Panel, Review};
use crate::serve::store::Store;
use crate::serve::upstream::UpstreamError;
use crate::spec::{MAX_SIMILAR, Spec};
use crate::tune::agreement::interval;
use crate::tune::round::Labelled;
use anyhow::{Context, ensure};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Times that a busy LLM is waited for.
const WAITS: usize = 12;

/// Says how often an LLM labels texts right whose labels are known, and what it takes
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  AUTOANNOTATOR_LLM_URL=http://127.0.0.1:11434 AUTOANNOTATOR_LLM_MODEL=my-model autoannotator reviewer test.csv --task sentiment
  autoannotator reviewer test.csv --spec tickets.toml --config server.toml --limit 200
  autoannotator reviewer test.csv --spec tickets.toml --shown reviewed.csv --similar 8
                                            the same texts again, with the 8 reviewed samples shown that are most like each

The prompt is the server's: labels, definitions, style and examples of the spec. Rows are taken evenly over the file. A text that
is given no label counts as wrong. What is spent is in no server's ledger. The last line is one of JSON.")]
pub(super) struct Args {
    /// A CSV file with the columns text and label
    file: PathBuf,
    /// A built-in task
    #[arg(long, required_unless_present = "spec")]
    task: Option<String>,
    /// A spec in TOML or JSON
    #[arg(long, conflicts_with = "task")]
    spec: Option<PathBuf>,
    /// Ask about so many texts
    #[arg(long)]
    limit: Option<usize>,
    /// A CSV file with the columns text and label: reviewed samples, of which those most like a text are shown with it
    #[arg(long)]
    shown: Option<PathBuf>,
    /// How many of them
    #[arg(long, default_value_t = 8, requires = "shown")]
    similar: usize,
    /// A TOML file that configures the LLM, as for serve
    #[arg(long)]
    config: Option<PathBuf>,
    /// The data home [default: $AUTOANNOTATOR_HOME, or the platform's cache folder]
    #[arg(long)]
    home: Option<PathBuf>,
}

/// What an LLM did.
struct Tally {
    right: Vec<bool>,
    unlabelled: usize,
    usage: Usage,
}

impl Tally {
    fn accuracy(&self) -> f64 {
        self.right.iter().filter(|right| **right).count() as f64 / self.right.len().max(1) as f64
    }

    fn print(&self, how: &str) {
        let right = self.right.iter().filter(|right| **right).count();
        let [low, high] = wilson(right as u64, self.right.len() as u64);
        println!(
            "{how}: {:.1} % right (95 % interval {:.1} to {:.1}), {} without a label; {} tokens a text, ${:.4} in all",
            100.0 * self.accuracy(),
            100.0 * low,
            100.0 * high,
            self.unlabelled,
            (self.usage.prompt_tokens + self.usage.completion_tokens) / self.right.len().max(1) as u64,
            self.usage.cost_usd
        );
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let mut spec = match &args.spec {
        Some(path) => super::read_spec(path)?,
        None => Spec::built_in(args.task.as_deref().unwrap_or_default())?,
    };
    ensure!((1..=MAX_SIMILAR).contains(&args.similar), "--similar is {}; expected 1 to {MAX_SIMILAR}", args.similar);
    spec.review.similar = 0;
    let rows = labelled(std::slice::from_ref(&args.file), &spec.task.labels)?;
    let count = args.limit.unwrap_or(rows.len()).clamp(1, rows.len());
    let rows: Vec<Labelled> = (0..count).map(|at| rows[at * rows.len() / count].clone()).collect();
    let shown = args.shown.as_ref().map(|file| labelled(std::slice::from_ref(file), &spec.task.labels)).transpose()?;
    let alone = ask(&args, &spec, &rows, Examples::default())?;
    alone.print("the LLM");
    let Some(shown) = shown else {
        println!(
            "{}",
            json!({ "texts": count, "accuracy": percent(alone.accuracy()), "unlabelled": alone.unlabelled })
        );
        return Ok(());
    };
    let examples = examples(&args, &spec, shown)?;
    let with = ask(&args, &spec, &rows, examples)?;
    with.print(&format!("with {} reviewed samples shown", args.similar));
    let gain: Vec<f64> =
        alone.right.iter().zip(&with.right).map(|(a, b)| f64::from(u8::from(*b)) - f64::from(u8::from(*a))).collect();
    let [low, high] = interval(&gain, 0);
    println!(
        "{}",
        json!({
            "texts": count, "accuracy": percent(alone.accuracy()), "accuracy_with_samples": percent(with.accuracy()),
            "gain_interval": [percent(low), percent(high)], "unlabelled": alone.unlabelled,
            "unlabelled_with_samples": with.unlabelled,
        })
    );
    Ok(())
}

fn percent(share: f64) -> f64 {
    (1000.0 * share).round() / 10.0
}

/// Reviewed samples, none of which is a text of the file.
fn examples(args: &Args, spec: &Spec, shown: Vec<Labelled>) -> anyhow::Result<Examples> {
    let home = Home::find(args.home.as_deref())?;
    let id = spec.slms.first().context("the spec names no SLM, by which texts are told apart")?;
    let embedder = Box::new(packing::load(&home, id, "int8", 1)?) as Box<dyn Embed>;
    let examples = Examples::new([(spec.task.name.clone(), embedder, args.similar)]);
    let job = Job::from(Arc::new(spec.clone()));
    let name = |label| spec.task.labels.name(label).unwrap_or_default();
    examples.add(&spec.task.name, shown.iter().filter_map(|row| job.example(&row.text, name(row.label))));
    Ok(examples)
}

/// Waits for an LLM that is busy, or still loads its model. What it has answered is not asked again.
async fn reviewed(panel: &Panel, job: &Job, texts: Vec<String>, spent: &mut Usage) -> Vec<Review> {
    let mut waits = 0..WAITS;
    loop {
        let (reviews, usage) = panel.review(job, "reviewer", texts.clone()).await;
        spent.add(&usage);
        let busy = reviews.iter().find_map(|review| match review {
            Err(UpstreamError::Busy { retry_after }) => Some(*retry_after),
            _ => None,
        });
        let Some(seconds) = busy.filter(|_| waits.next().is_some()) else { return reviews };
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
}

fn ask(args: &Args, spec: &Spec, rows: &[Labelled], examples: Examples) -> anyhow::Result<Tally> {
    let file = args.config.as_ref().map(std::fs::read_to_string).transpose().context("cannot read the config")?;
    let config = Config::read(&file.unwrap_or_default(), |name| std::env::var(name).ok())?;
    let mut llm = config.llm.context("there is no LLM; set AUTOANNOTATOR_LLM_URL and _MODEL, or give --config")?;
    llm.examples = examples;
    let folder = tempfile::tempdir()?;
    let panel = Panel::new(llm, Store::open(&folder.path().join("store.db"))?)?;
    let job = Job::from(Arc::new(spec.clone()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let bar = super::bar()?;
    bar.set_length(rows.len() as u64);
    let mut tally = Tally { right: Vec::new(), unlabelled: 0, usage: Usage::default() };
    for chunk in rows.chunks(spec.review.batch.max(8)) {
        let texts = chunk.iter().map(|row| job.redactor.redact(&row.text).text().to_owned()).collect();
        for (row, review) in chunk.iter().zip(runtime.block_on(reviewed(&panel, &job, texts, &mut tally.usage))) {
            let label = review?.said.label;
            tally.unlabelled += usize::from(label.is_none());
            tally.right.push(label.as_deref() == spec.task.labels.name(row.label));
        }
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    Ok(tally)
}
