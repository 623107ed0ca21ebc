//! `autoannotator cold-start`.

use super::train::load_teacher;
use super::tune::labelled;
use crate::annotate::report::wilson;
use crate::controller::cold_start::{Lesson, diverse, slm_id, start};
use crate::hub::{self, Base, Catalogue, Home, packing};
use crate::serve::config::Config;
use crate::serve::panel::{Job, Panel};
use crate::serve::store::Store;
use crate::slm::burn::Backend;
use crate::slm::pack::Precision;
use crate::slm::tokenize::Tokenizer;
use crate::spec::Spec;
use crate::task::Task;
use crate::tune::dataset::{DataFile, Dataset};
use crate::tune::evaluate::majority;
use crate::tune::round::Labelled;
use crate::tune::train::{BaseModel, Running, mean_pooled};
use crate::vote::argmax;
use anyhow::{Context, ensure};
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Makes SLMs for a task that has none, from a few hundred labelled texts
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  autoannotator cold-start --spec tickets.toml --texts tickets.csv --choose 300 --out to-label.csv
                                            chooses 300 texts worth a label; fill in their column `label`
  autoannotator cold-start --spec tickets.toml --texts tickets.csv --choose 300 --out labels.csv --llm
                                            has an LLM label them; what that costs at most is said first
  autoannotator cold-start --spec tickets.toml --seed labels.csv
                                            trains an SLM on each base that is known, and packs them
  autoannotator cold-start --spec tickets.toml --seed labels.csv --unlabelled tickets.csv
                                            the smaller ones learn from the largest's labels of more texts as well
  autoannotator cold-start --spec tickets.toml --seed labels.csv --test test.csv --base all-MiniLM-L6-v2

A training that was stopped goes on by the same command. What is learnt later, from reviews, is learnt in rounds (see
`autoannotator tune`).")]
pub(super) struct Args {
    /// The task's spec in TOML or JSON
    #[arg(long, required_unless_present = "task")]
    spec: Option<PathBuf>,
    /// A built-in task
    #[arg(long, conflicts_with = "spec")]
    task: Option<String>,
    /// A CSV file with the columns text and label, to train on
    #[arg(long, required_unless_present = "texts", conflicts_with = "texts")]
    seed: Option<PathBuf>,
    /// A CSV file with the column text, to choose from
    #[arg(long, requires = "choose")]
    texts: Option<PathBuf>,
    /// So many texts, unlike each other and like many
    #[arg(long, requires_all = ["texts", "out"])]
    choose: Option<usize>,
    /// The file for the chosen texts, which is not there yet
    #[arg(long)]
    out: Option<PathBuf>,
    /// Have an LLM label what was chosen (AUTOANNOTATOR_LLM_URL, _KEY and _MODEL, or --config); what it gives no label stays
    /// without one
    #[arg(long, requires = "choose")]
    llm: bool,
    /// A TOML file that configures the LLM and its budget, as for serve
    #[arg(long, requires = "llm")]
    config: Option<PathBuf>,
    /// Do not ask before the LLM is paid for
    #[arg(long)]
    yes: bool,
    /// Bases to train on [default: all that are known]
    #[arg(long, value_delimiter = ',')]
    base: Vec<String>,
    /// A CSV file with the column text, or FILE=FRACTION: the largest SLM, once trained, labels these for the smaller ones to
    /// learn from; may be given more than once
    #[arg(long, value_name = "FILE[=FRACTION]", requires = "seed")]
    unlabelled: Vec<DataFile>,
    /// A labelled CSV file to score the SLMs on; it changes nothing
    #[arg(long, requires = "seed")]
    test: Option<PathBuf>,
    /// Seed of every choice by chance
    #[arg(long, default_value_t = 0)]
    chance: u64,
    /// The folder with one folder an SLM [default: $AUTOANNOTATOR_MODELS, or models/ here or above]
    #[arg(long)]
    models: Option<PathBuf>,
    /// The data home [default: $AUTOANNOTATOR_HOME, or the platform's cache folder]
    #[arg(long)]
    home: Option<PathBuf>,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let spec = match &args.spec {
        Some(path) => super::read_spec(path)?,
        None => Spec::built_in(args.task.as_deref().unwrap_or_default())?,
    };
    let home = Home::find(args.home.as_deref())?;
    match (&args.seed, &args.texts) {
        (Some(seed), _) => train(&args, &spec.task, seed, &home),
        (None, Some(texts)) => choose(&args, spec, texts, &home),
        (None, None) => anyhow::bail!("give --seed, or --texts and --choose"),
    }
}

fn bases(args: &Args) -> anyhow::Result<Vec<String>> {
    let catalogue = Catalogue::find()?;
    if args.base.is_empty() {
        return Ok(catalogue.bases.into_iter().map(|base| base.id).collect());
    }
    args.base.iter().map(|id| Ok(catalogue.get(id)?.id.clone())).collect()
}

/// Trains on every base, packs, and scores.
fn train(args: &Args, task: &Task, seed: &Path, home: &Home) -> anyhow::Result<()> {
    let rows = labelled(&[seed.to_owned()], &task.labels)?;
    let test = args.test.as_ref().map(|test| labelled(std::slice::from_ref(test), &task.labels)).transpose()?;
    let models = match &args.models {
        Some(models) => models.clone(),
        None => hub::models_dir(None)?,
    };
    // The largest learns first, and the others of it.
    let ids = bases(args)?;
    let known = |id: &String| anyhow::Ok(hub::base(id, home, &super::bar()?)?);
    let mut bases = ids.iter().map(known).collect::<anyhow::Result<Vec<Base>>>()?;
    bases.sort_by_key(|base| std::cmp::Reverse(base.config.num_hidden_layers * base.config.hidden_size.pow(2)));
    let mut slms: Vec<String> = Vec::new();
    for base in bases {
        let progress = super::bar()?;
        let lesson = match slms.first() {
            Some(largest) => {
                Some(Lesson { teacher: load_teacher(largest, home)?, unlabelled: args.unlabelled.clone() })
            }
            None => None,
        };
        let id = base.id.clone();
        let base = BaseModel {
            weights: base.weights()?,
            id: base.id,
            sha256: base.tensors_sha256,
            tokenizer_json: base.tokenizer_json,
        };
        let running = Running {
            backend: Backend::Cpu,
            scratch: home.path().join("train").join(slm_id(&task.name, &id)),
            fresh: false,
            checkpoint_every: Duration::from_secs(120),
            stop_after: None,
        };
        let (slm, figures) = start(task, base, (&rows, lesson), &models, running, args.chance, &progress)?;
        progress.finish_and_clear();
        if !args.json {
            println!("{slm}: accuracy {:.1} % on the fifth of the seed that was held out", figures.accuracy * 100.0);
        }
        packing::pack(
            &models,
            std::slice::from_ref(&slm),
            &[Precision::Int8, Precision::F16],
            home,
            &ProgressBar::hidden(),
        )?;
        slms.push(slm);
    }
    let rank = |slm: &String| ids.iter().position(|id| slm_id(&task.name, id) == *slm);
    slms.sort_by_key(rank);
    let scored = test.map(|test| score(&slms, &test, task.labels.len(), home)).transpose()?;
    if args.json {
        println!("{}", json!({ "slms": slms, "seed": rows.len(), "test": scored }));
        return Ok(());
    }
    if let Some(scored) = scored {
        for (slm, accuracy) in slms.iter().zip(&scored.accuracy) {
            println!("{slm}: {:.1} % of {} test texts right", accuracy * 100.0, scored.texts);
        }
        let [low, high] = scored.interval;
        println!(
            "together: {:.1} % right ({:.1} to {:.1}); all agree on {:.1} %, of which {:.1} % are right",
            scored.together * 100.0,
            low * 100.0,
            high * 100.0,
            scored.agreed * 100.0,
            scored.right_of_agreed * 100.0,
        );
    }
    let list = slms.iter().map(|slm| format!("\"{slm}\"")).collect::<Vec<_>>().join(", ");
    println!("in {}; name them in the spec: slms = [{list}]", models.display());
    Ok(())
}

/// What SLMs come to on labelled texts.
#[derive(Serialize)]
struct Scored {
    texts: usize,
    /// Of each SLM.
    accuracy: Vec<f64>,
    /// Of the label with most votes; of a tie the one with the largest sum of probabilities.
    together: f64,
    /// Its 95 % interval.
    interval: [f64; 2],
    /// The share of texts on which all agree, and that of those whose label is right.
    agreed: f64,
    right_of_agreed: f64,
}

/// Scores packed SLMs in int8, as they are served.
fn score(slms: &[String], test: &[Labelled], labels: usize, home: &Home) -> anyhow::Result<Scored> {
    let texts: Vec<&str> = test.iter().map(|row| row.text.as_str()).collect();
    let probabilities = |id: &String| -> anyhow::Result<Vec<f32>> {
        let mut slm = packing::load(home, id, "int8", rayon::current_num_threads())?;
        let votes = pollster::block_on(slm.vote(&texts))?;
        Ok(votes.into_iter().flat_map(|vote| vote.probabilities).collect())
    };
    let all = slms.iter().map(probabilities).collect::<anyhow::Result<Vec<_>>>()?;
    let mut right = vec![0usize; all.len() + 1];
    let (mut agreed, mut right_of_agreed) = (0usize, 0usize);
    for (at, row) in test.iter().enumerate() {
        let rows: Vec<&[f32]> = all.iter().filter_map(|values| values.chunks_exact(labels).nth(at)).collect();
        let votes: Vec<usize> = rows.iter().map(|row| argmax(row)).collect();
        let label = majority(&rows);
        right
            .iter_mut()
            .zip(votes.iter().chain([&label]))
            .for_each(|(right, vote)| *right += usize::from(*vote == row.label));
        if votes.iter().all(|vote| *vote == label) {
            agreed += 1;
            right_of_agreed += usize::from(label == row.label);
        }
    }
    let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
    let mut accuracy: Vec<f64> = right.iter().map(|right| share(*right, test.len())).collect();
    let together = accuracy.pop().unwrap_or_default();
    let interval = wilson(right.last().copied().unwrap_or_default() as u64, test.len() as u64);
    let right_of_agreed = share(right_of_agreed, agreed);
    Ok(Scored { texts: test.len(), accuracy, together, interval, agreed: share(agreed, test.len()), right_of_agreed })
}

/// Writes the chosen texts, with a label where an LLM gave one.
fn choose(args: &Args, spec: Spec, texts: &Path, home: &Home) -> anyhow::Result<()> {
    let (Some(count), Some(out)) = (args.choose, &args.out) else { anyhow::bail!("give --choose and --out") };
    ensure!(count > 0, "--choose is 0; expected at least 1");
    ensure!(!out.exists(), "{} is there already; name another file, so that no labels are lost", out.display());
    let progress = super::bar()?;
    // The smallest base tells texts apart well enough.
    let id = bases(args)?.into_iter().next().context("no base is known")?;
    let base = hub::base(&id, home, &progress)?;
    let weights = base.weights()?;
    let tokenizer = Tokenizer::from_json(&base.tokenizer_json, weights.config.max_length().min(64))?;
    let file = DataFile { path: texts.to_owned(), fraction: 1.0 };
    let mut set = Dataset::read_texts(&[file], "text", &tokenizer)?;
    distinct(&mut set);
    progress.set_message("reading the texts");
    let vectors = mean_pooled(&weights, &set.ids, &progress)?;
    progress.set_message("choosing");
    let chosen: Vec<String> = diverse(&vectors, weights.config.hidden_size, count, args.chance)
        .into_iter()
        .map(|at| set.texts[at].clone())
        .collect();
    progress.finish_and_clear();
    let labels = if args.llm { review(args, spec, &chosen)? } else { vec![None; chosen.len()] };
    let mut writer = csv::Writer::from_path(out).with_context(|| format!("cannot write {}", out.display()))?;
    writer.write_record(["text", "label"])?;
    for (text, label) in chosen.iter().zip(&labels) {
        writer.write_record([text.as_str(), label.as_deref().unwrap_or_default()])?;
    }
    writer.flush()?;
    let labelled = labels.iter().flatten().count();
    if args.json {
        println!("{}", json!({ "texts": set.len(), "chosen": chosen.len(), "labelled": labelled }));
        return Ok(());
    }
    println!("{} of {} texts are in {}, {labelled} with a label", chosen.len(), set.len(), out.display());
    println!("next: fill in what has none, then autoannotator cold-start ... --seed {}", out.display());
    Ok(())
}

/// Of texts that are the same only the first stays.
fn distinct(set: &mut Dataset) {
    let mut seen = std::collections::HashSet::new();
    let new: Vec<bool> = set.texts.iter().map(|text| seen.insert(text.clone())).collect();
    let mut keep = new.iter();
    set.texts.retain(|_| *keep.next().unwrap_or(&false));
    let mut keep = new.iter();
    set.ids.retain(|_| *keep.next().unwrap_or(&false));
}

/// The LLM's labels, in the order of the texts.
fn review(args: &Args, spec: Spec, texts: &[String]) -> anyhow::Result<Vec<Option<String>>> {
    let file = args.config.as_ref().map(std::fs::read_to_string).transpose().context("cannot read the config")?;
    let config = Config::read(&file.unwrap_or_default(), |name| std::env::var(name).ok())?;
    let llm = config.llm.context("there is no LLM; set AUTOANNOTATOR_LLM_URL and _MODEL, or give --config")?;
    let folder = tempfile::tempdir()?;
    let panel = Panel::new(llm, Store::open(&folder.path().join("store.db"))?)?;
    let job = Job::from(Arc::new(spec));
    let redacted: Vec<String> = texts.iter().map(|text| job.redactor.redact(text).text().to_owned()).collect();
    let most: f64 = redacted
        .iter()
        .map(|text| {
            let prompt = job.template.one(text, &[]);
            panel.prices().usd(prompt.most_tokens(), prompt.reply_tokens)
        })
        .sum();
    eprintln!("{} texts, redacted, go to {}; that costs at most ${most:.4}", texts.len(), panel.models());
    ensure!(args.yes || super::agreed("Send them?")?, "nothing was sent");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let progress = super::bar()?;
    progress.set_length(texts.len() as u64);
    let mut labels = Vec::new();
    for chunk in redacted.chunks(32) {
        let (reviews, _) = runtime.block_on(panel.review(&job, "cold-start", chunk.to_vec()));
        let failed = reviews.iter().filter_map(|review| review.as_ref().err()).next();
        if let (true, Some(error)) = (reviews.iter().all(Result::is_err), failed) {
            eprintln!("the LLM is asked no more, since {error}");
            break;
        }
        labels.extend(reviews.into_iter().map(|review| review.ok().and_then(|review| review.said.label)));
        progress.inc(chunk.len() as u64);
    }
    progress.finish_and_clear();
    eprintln!("spent: ${:.4}", panel.ledger().spent());
    labels.resize(texts.len(), None);
    Ok(labels)
}
