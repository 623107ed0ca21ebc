//! `autoannotator estimate`.

use super::device::{DeviceChoice, Devices};
use crate::annotate::report::wilson;
use crate::annotate::{self, Voter};
use crate::controller::probe::draw;
use crate::data::Row;
use crate::hub::Home;
use crate::review::prompt::Template;
use crate::sample::Verdict;
use crate::spec::{Prices, PromptStyle, Spec};
use anyhow::ensure;
use std::path::PathBuf;

/// Bytes of a token of an LLM, about: English in today's vocabularies.
const BYTES: f64 = 4.0;
/// Tokens of a reply that is a label in JSON, of a chain of thought before it, and of an id beside it.
const REPLY: f64 = 10.0;
const THOUGHT: f64 = 80.0;
const ID: f64 = 12.0;

/// Says before a run how many rows an LLM would review, and what that would cost
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  autoannotator estimate tweets.csv --task sentiment --usd-per-million 0.15,0.60
  autoannotator estimate tickets.jsonl --spec tickets.toml --sample 500

The SLMs vote on some rows, drawn evenly over the file; the intervals (95 %) are those of the share that they disagree on.
Nothing is sent and nothing is written. Prices are those of the spec's [review] usd_per_million where none are given.")]
pub(super) struct Args {
    /// A csv, tsv, jsonl or txt file
    input: PathBuf,
    /// A built-in task
    #[arg(long, required_unless_present = "spec")]
    task: Option<String>,
    /// A spec in TOML or JSON
    #[arg(long, conflicts_with = "task")]
    spec: Option<PathBuf>,
    /// The column of the text, where it cannot be guessed
    #[arg(long)]
    text_column: Option<String>,
    /// Rows that are voted on
    #[arg(long, default_value_t = 200)]
    sample: usize,
    /// US dollars for a million tokens of the prompt and of the reply
    #[arg(long, value_name = "PROMPT,REPLY", value_delimiter = ',', num_args = 1)]
    usd_per_million: Option<Vec<f64>>,
    /// The data home [default: $AUTOANNOTATOR_HOME, or the platform's cache folder]
    #[arg(long)]
    home: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let spec = match &args.spec {
        Some(path) => super::read_spec(path)?,
        None => Spec::built_in(args.task.as_deref().unwrap_or_default())?,
    };
    let prices = match args.usd_per_million.as_deref() {
        None => spec.review.usd_per_million,
        Some([prompt, completion]) => Some(Prices { prompt: *prompt, completion: *completion }),
        Some(_) => anyhow::bail!("--usd-per-million takes two numbers, such as 0.15,0.60"),
    };
    ensure!(args.sample > 0, "--sample is 0; expected at least 1");
    let (count, rows, _) = draw(&args.input, args.text_column.as_deref(), args.sample)?;
    ensure!(!rows.is_empty(), "{} has no row with a text", args.input.display());
    let hard = hard(&args, &spec, &rows)?;
    let [from, to] = wilson(hard.len() as u64, rows.len() as u64);
    let share = hard.len() as f64 / rows.len() as f64;
    println!(
        "of {} rows that were voted on, the SLMs disagree on {} ({:.1} %, 95 % interval {:.1} to {:.1} %)",
        rows.len(),
        hard.len(),
        100.0 * share,
        100.0 * from,
        100.0 * to
    );
    let of = |share: f64| share * count as f64;
    println!("of {count} rows, about {:.0} ({:.0} to {:.0}) would go to the reviewer", of(share), of(from), of(to));
    let (prompt, reply) = (prompt_tokens(&spec, if hard.is_empty() { &rows } else { &hard }), reply_tokens(&spec));
    let tokens = |share: f64| of(share) * (prompt + reply);
    println!(
        "about {:.0} tokens a row ({BYTES} bytes a token): {:.0} ({:.0} to {:.0}) in all",
        prompt + reply,
        tokens(share),
        tokens(from),
        tokens(to)
    );
    match prices {
        Some(prices) => {
            let usd = |share: f64| of(share) * (prompt * prices.prompt + reply * prices.completion) / 1e6;
            println!("about ${:.4} (${:.4} to ${:.4})", usd(share), usd(from), usd(to));
        }
        None => println!("what that costs: give --usd-per-million, or usd_per_million in the spec's [review]"),
    }
    Ok(())
}

/// The rows that the SLMs disagree on.
fn hard(args: &Args, spec: &Spec, rows: &[Row]) -> anyhow::Result<Vec<Row>> {
    let home = Home::find(args.home.as_deref())?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let devices = Devices::new(DeviceChoice::Cpu)?;
    let load = |id: &String| -> anyhow::Result<Box<dyn Voter>> {
        Ok(Box::new(devices.load(&home, spec, id, "int8", threads)?))
    };
    let mut voters = spec.slms.iter().map(load).collect::<anyhow::Result<Vec<_>>>()?;
    let annotations = annotate::annotate(rows, &mut voters, spec.rule)?;
    let is_hard = |verdict: &Verdict| matches!(verdict, Verdict::Hard { .. });
    Ok(rows.iter().zip(&annotations).filter(|(_, one)| is_hard(&one.verdict)).map(|(row, _)| row.clone()).collect())
}

fn reply_tokens(spec: &Spec) -> f64 {
    let thinks = spec.review.style == PromptStyle::ChainOfThought;
    REPLY + if thinks { THOUGHT } else { 0.0 } + if spec.review.batch > 1 { ID } else { 0.0 }
}

/// Tokens of a row's part of a prompt, on the average.
fn prompt_tokens(spec: &Spec, rows: &[Row]) -> f64 {
    let template = Template::new(spec);
    let redactor = spec.review.redactor();
    let texts: Vec<String> = rows.iter().map(|row| redactor.redact(&row.sample.text).text().to_owned()).collect();
    let bytes: usize = texts
        .chunks(spec.review.batch.max(1))
        .map(|chunk| match chunk {
            [text] => template.one(text).sent_bytes(),
            texts => {
                let texts: Vec<(&str, &str)> = texts.iter().map(|text| ("01234567", text.as_str())).collect();
                template.many(&texts).sent_bytes()
            }
        })
        .sum();
    bytes as f64 / BYTES / rows.len().max(1) as f64
}
