//! `autoannotator evaluate`.

use super::annotate::REVIEW_BATCH;
use super::tune::{RoundArgs, anchors, labelled, load_member, wanted};
use crate::hub::{Home, write_atomically};
use crate::review::client::review_blocking;
use crate::sample::{Review, Sample};
use crate::slm::adapter::{hex, sha256_hex};
use crate::slm::burn::Backend;
use crate::spec::{Prices, Spec};
use crate::task::LabelSet;
use crate::tune::agreement::{Estimate, agreements};
use crate::tune::charts;
use crate::tune::evaluate::{Evaluation, Reply, Reviewer, Scores, Sets, Settings, evaluate};
use crate::tune::round::{Anchor, FEWEST_SAMPLES, Labelled, Member, hold_out};
use crate::tune::train::Running;
use anyhow::{Context, bail, ensure};
use indicatif::ProgressBar;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Says in numbers what the ensemble, the reviews and the rounds are worth on labelled files.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  autoannotator evaluate --task sentiment --stream train.csv --test test.csv --out results
  autoannotator evaluate ... --pool 0                             no rounds: the SLMs as they are
  autoannotator evaluate ... --reviewer replies:replies.jsonl     an LLM's recorded replies in place of the gold labels
  autoannotator evaluate ... --rows 500 --reviewer http://127.0.0.1:8080     the LLM behind an `autoannotator serve`
  autoannotator evaluate ... --replay old.csv --anchor val.csv --old-test old-test.csv --seeds 3

The stream is annotated by the SLMs in an order by chance, hard samples are reviewed, and whenever --pool reviews have come
together each SLM goes through a round. Results are printed and written to evaluate.json, and
as pictures to evaluate.html, after each seed. One that was interrupted goes on behind the last seed that stands there, if
build, files and options are the same.")]
pub(super) struct Args {
    /// The task, which gives the labels: sentiment or toxicity
    #[arg(long, required_unless_present = "spec")]
    task: Option<String>,
    /// A spec, of which the task, the SLMs and the LLM's prices are taken
    #[arg(long, conflicts_with = "task")]
    spec: Option<PathBuf>,
    /// Labelled CSV file to annotate
    #[arg(long)]
    stream: PathBuf,
    /// Labelled CSV file to score before and after each round; never trained on
    #[arg(long)]
    test: Option<PathBuf>,
    /// gold (the labels of the file); replies:FILE with an LLM's recorded replies (JSON Lines: text_sha256, reply), the stream
    /// is then the texts that have one; or the URL of an `autoannotator serve`, whose LLM is asked about every text once, since
    /// what it does alone is told too: its replies are recorded in --out
    #[arg(long, default_value = "gold")]
    reviewer: String,
    /// SLMs by id [default: those of the spec]
    #[arg(long, value_delimiter = ',')]
    slms: Vec<String>,
    /// Reviewed samples at which a round is held; 0 for none
    #[arg(long, default_value_t = 2000)]
    pool: usize,
    /// The same for the first round, which may come earlier [default: --pool]
    #[arg(long)]
    first_pool: Option<usize>,
    /// Share of reviews whose label is made wrong
    #[arg(long, default_value_t = 0.0)]
    noise: f64,
    /// At the end vote again on what was agreed on, and review what the last versions label otherwise
    #[arg(long)]
    look_again: bool,
    /// Share of the texts agreed on that is reviewed too, by chance
    #[arg(long, default_value_t = 0.0)]
    audit: f64,
    /// The same until the first round, while nobody knows how far to trust the SLMs on such texts [default: --audit]
    #[arg(long)]
    first_audit: Option<f64>,
    /// Labelled CSV file of the SLMs' old training data, of which rounds replay a part; may be given more than once
    #[arg(long)]
    replay: Vec<PathBuf>,
    /// Labelled CSV file that no round may make worse; may be given more than once
    #[arg(long)]
    anchor: Vec<PathBuf>,
    /// Labelled CSV file of the old domain that no gate sees; may be given more than once
    #[arg(long)]
    old_test: Vec<PathBuf>,
    /// So many rows of the stream, by chance, the same for every seed
    #[arg(long)]
    rows: Option<usize>,
    #[command(flatten)]
    round: RoundArgs,
    /// Runs, each with the next seed
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Seed of the first run
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder for evaluate.json and evaluate.html
    #[arg(long)]
    out: PathBuf,
    /// Measure every seed again; without it those that stand in --out, by the same build, files and options, are kept
    #[arg(long)]
    fresh: bool,
    /// The folder with one folder an SLM [default: $AUTOANNOTATOR_MODELS, or models/ here or above]
    #[arg(long)]
    models: Option<PathBuf>,
    /// The data home [default: $AUTOANNOTATOR_HOME, or the platform's cache folder]
    #[arg(long)]
    home: Option<PathBuf>,
}

/// Comes before the file of a reviewer whose replies were recorded.
const REPLIES: &str = "replies:";

#[derive(Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    what: &'a What<'a>,
    /// Hash over what the runs follow from.
    key: &'a str,
    runs: &'a [Evaluation],
}

/// What is evaluated, and how.
#[derive(Serialize)]
struct What<'a> {
    autoannotator: &'static str,
    task: &'a str,
    stream: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    test: Option<&'a Path>,
    reviewer: &'a str,
    /// With the first seed.
    #[serde(flatten)]
    settings: &'a Settings,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    ensure!((0.0..=1.0).contains(&args.noise), "--noise is {}, expected 0 to 1", args.noise);
    let (first_pool, first_audit) = (args.first_pool.unwrap_or(args.pool), args.first_audit.unwrap_or(args.audit));
    for (name, audit) in [("--audit", args.audit), ("--first-audit", first_audit)] {
        ensure!((0.0..=1.0).contains(&audit), "{name} is {audit}, expected 0 to 1");
    }
    ensure!(args.seeds > 0, "--seeds is 0, expected at least 1");
    for (name, pool) in [("--pool", args.pool), ("--first-pool", first_pool)] {
        ensure!(args.pool == 0 || pool >= FEWEST_SAMPLES, "{name} is {pool}, expected 0 or at least {FEWEST_SAMPLES}");
    }
    let spec = match &args.spec {
        Some(path) => super::read_spec(path)?,
        None => Spec::built_in(args.task.as_deref().unwrap_or_default())?,
    };
    let task = &spec.task;
    let home = Home::find(args.home.as_deref())?;
    let progress = super::bar()?;
    let read = |paths| labelled(paths, &task.labels);
    let mut stream = read(std::slice::from_ref(&args.stream))?;
    let who = Who::new(&args.reviewer)?;
    let mut reviewer = Reviewer::Gold;
    if let Who::Recorded(path) = &who {
        reviewer = recorded(path, &task.labels, &mut stream)?;
    }
    if let Some(rows) = args.rows {
        stream.shuffle(&mut StdRng::seed_from_u64(0));
        stream.truncate(rows);
    }
    if let Who::Server(url) = &who {
        let path = args.out.join(format!("replies-{}.jsonl", &sha256_hex(url.as_bytes())[..12]));
        if args.fresh {
            std::fs::remove_file(&path).ok();
        }
        ask(url, &spec, &stream, &path, &progress)?;
        reviewer = recorded(&path, &task.labels, &mut stream)?;
    }
    let mut sets = Sets {
        stream,
        test: read(args.test.as_slice())?,
        old_test: read(&args.old_test)?,
        replay: Vec::new(),
        anchor: anchors(&args.anchor, &task.labels)?,
    };
    for path in &args.replay {
        let (replay, held_out) = hold_out(read(std::slice::from_ref(path))?);
        sets.replay.push(replay);
        sets.anchor.push(Anchor::held_out(path.display(), held_out));
    }
    let wanted =
        wanted(args.models.as_deref(), &home, if args.slms.is_empty() { &spec.slms } else { &args.slms }, task)?;
    args.round.fits(&wanted)?;
    let loaded = wanted.iter().map(|folder| load_member(folder, &args.round, &home, &progress));
    let loaded = loaded.collect::<anyhow::Result<Vec<_>>>()?;
    let settings = Settings {
        pool: args.pool,
        first_pool,
        noise: args.noise,
        look_again: args.look_again,
        audit: args.audit,
        first_audit,
        round: args.round.options(),
        seed: args.seed,
    };
    let what = What {
        autoannotator: env!("CARGO_PKG_VERSION"),
        task: &task.name,
        stream: &args.stream,
        test: args.test.as_deref(),
        reviewer: &args.reviewer,
        settings: &settings,
    };
    let key = key(&what, &args.round, &loaded, &sets, &reviewer)?;
    let results = Results { folder: &args.out, labels: &task.labels, what: &what, key: &key };
    let mut runs = if args.fresh { Vec::new() } else { results.so_far() };
    if !runs.is_empty() {
        // Whoever was interrupted may have left the older page.
        results.write(&runs)?;
    }
    for (seed, found) in (args.seed..).zip(&runs) {
        println!("seed {seed} stands in {}; --fresh measures it anew", args.out.display());
        print(found, seed, spec.review.usd_per_million);
    }
    for seed in args.seed + runs.len() as u64..args.seed + args.seeds {
        let mut members: Vec<Member> = loaded.iter().map(Member::twin).collect();
        let settings = Settings { seed, ..settings.clone() };
        let running = Running {
            backend: Backend::Cpu,
            scratch: home.path().join("evaluate").join(std::process::id().to_string()),
            fresh: true,
            checkpoint_every: Duration::MAX,
            stop_after: None,
        };
        let found = evaluate(&mut members, &sets, &settings, &reviewer, &running, &progress);
        std::fs::remove_dir_all(&running.scratch).ok();
        let found = found?;
        progress.suspend(|| print(&found, seed, spec.review.usd_per_million));
        runs.push(found);
        results.write(&runs)?;
    }
    progress.finish_and_clear();
    println!("written to {} and {}", results.json().display(), results.html().display());
    Ok(())
}

/// Names everything that the runs follow from: this build, the options, the SLMs and the texts.
fn key(
    what: &What<'_>,
    round: &RoundArgs,
    members: &[Member],
    sets: &Sets,
    reviewer: &Reviewer,
) -> anyhow::Result<String> {
    let build = std::env::current_exe().and_then(std::fs::read).context("cannot read this program's own file")?;
    let mut hash = Sha256::new();
    hash.update(Sha256::digest(build));
    hash.update(serde_json::to_vec(what)?);
    for Member { folder, .. } in members {
        hash.update(serde_json::to_vec(&(folder, round.layers(&folder.id)))?);
    }
    if let Reviewer::Replies(replies) = reviewer {
        sets.stream.iter().for_each(|row| hash.update(format!("{:?}\n", replies.get(&row.text))));
    }
    let Sets { stream, test, old_test, replay, anchor } = sets;
    for rows in [stream, test, old_test].into_iter().chain(replay).chain(anchor.iter().map(|part| &part.rows)) {
        hash.update(rows.len().to_le_bytes());
        rows.iter().for_each(|row| hash.update(format!("{} {}\n", row.label, row.text)));
    }
    Ok(hex(&hash.finalize()))
}

/// The folder with the results of an evaluation.
struct Results<'a> {
    folder: &'a Path,
    labels: &'a LabelSet,
    what: &'a What<'a>,
    key: &'a str,
}

impl Results<'_> {
    fn json(&self) -> PathBuf {
        self.folder.join("evaluate.json")
    }

    fn html(&self) -> PathBuf {
        self.folder.join("evaluate.html")
    }

    /// The runs that stand there, if they follow from the same.
    fn so_far(&self) -> Vec<Evaluation> {
        #[derive(Deserialize)]
        struct Read {
            key: String,
            runs: Vec<Evaluation>,
        }
        let Ok(bytes) = std::fs::read(self.json()) else { return Vec::new() };
        match serde_json::from_slice::<Read>(&bytes) {
            Ok(read) if read.key == self.key => read.runs,
            _ => {
                let path = self.json();
                eprintln!("{}: of another build, other files or options; all is measured anew", path.display());
                Vec::new()
            }
        }
    }

    fn write(&self, runs: &[Evaluation]) -> anyhow::Result<()> {
        let Self { labels, what, key, .. } = *self;
        let title = format!("{} on {}", what.task, what.stream.file_stem().unwrap_or_default().to_string_lossy());
        let json = serde_json::to_string_pretty(&Written { what, key, runs })?;
        write_atomically(&self.json(), json.as_bytes())?;
        Ok(write_atomically(&self.html(), charts::page(&title, &labels.names(), runs).as_bytes())?)
    }
}

/// The reviewer that was asked for.
enum Who {
    Gold,
    Recorded(PathBuf),
    /// The address of a server.
    Server(String),
}

impl Who {
    fn new(name: &str) -> anyhow::Result<Self> {
        match name.strip_prefix(REPLIES) {
            Some(path) => Ok(Self::Recorded(path.into())),
            None if name == "gold" => Ok(Self::Gold),
            None if name.starts_with("http://") || name.starts_with("https://") => Ok(Self::Server(name.to_owned())),
            None => bail!("--reviewer is '{name}', expected gold, replies:FILE or the URL of an `autoannotator serve`"),
        }
    }
}

/// A recorded reply of an LLM.
#[derive(Serialize, Deserialize)]
struct Record {
    text_sha256: String,
    reply: String,
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

fn records(path: &Path) -> anyhow::Result<Vec<Record>> {
    let lines = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let read =
        |(number, line)| serde_json::from_str(line).with_context(|| format!("{}, line {}", path.display(), number + 1));
    lines.lines().enumerate().map(read).collect()
}

/// Recorded replies as the reviewer; the stream is cut to the texts that have one.
fn recorded(path: &Path, labels: &LabelSet, stream: &mut Vec<Labelled>) -> anyhow::Result<Reviewer> {
    let mut by_hash = HashMap::new();
    for Record { text_sha256, reply, prompt_tokens, completion_tokens } in records(path)? {
        by_hash.insert(text_sha256, Reply { label: labels.index(&reply), prompt_tokens, completion_tokens });
    }
    let of = |row: &Labelled| Some((row.text.clone(), by_hash.get(&sha256_hex(row.text.as_bytes()))?.clone()));
    let replies: HashMap<String, Reply> = stream.iter().filter_map(of).collect();
    stream.retain(|row| replies.contains_key(&row.text));
    ensure!(!stream.is_empty(), "{} has no reply to any text of the stream", path.display());
    Ok(Reviewer::Replies(replies))
}

/// Has a server's LLM label the texts that have no reply in the file yet, redacted as the spec says, and records what it says.
fn ask(url: &str, spec: &Spec, stream: &[Labelled], path: &Path, progress: &ProgressBar) -> anyhow::Result<()> {
    let mut records = if path.exists() { records(path)? } else { Vec::new() };
    let mut known: HashSet<String> = records.iter().map(|record| record.text_sha256.clone()).collect();
    let open: Vec<Sample> = stream
        .iter()
        .map(|row| Sample { id: sha256_hex(row.text.as_bytes()), text: row.text.clone() })
        .filter(|sample| known.insert(sample.id.clone()))
        .collect();
    progress.set_length(open.len() as u64);
    progress.set_position(0);
    progress.set_message("the LLM labels the stream");
    for batch in open.chunks(REVIEW_BATCH) {
        let reviews = review_blocking(url, &spec.task, &spec.review.redactor(), batch)
            .context("the reviewer fails; the same command goes on behind the replies that are there")?;
        records.extend(reviews.into_iter().map(|(text_sha256, review)| {
            let Review { label, prompt_tokens, completion_tokens, .. } = review;
            Record { text_sha256, reply: label.unwrap_or_default(), prompt_tokens, completion_tokens }
        }));
        // Whole each time, so that a kill leaves no half a line.
        let lines = records.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?.join("\n");
        write_atomically(path, lines.as_bytes())?;
        progress.inc(batch.len() as u64);
    }
    Ok(())
}

fn print(found: &Evaluation, seed: u64, prices: Option<Prices>) {
    let percent = |share: f64| format!("{:.1}", 100.0 * share);
    let line = |name: &str, values: Vec<String>| {
        println!("{name:<34}{}", values.iter().map(|value| format!("{value:>9}")).collect::<String>());
    };
    let stream = &found.stream;
    println!(
        "seed {seed}: {} texts, {} reviewed, {} rounds, {:.1} minutes",
        stream.texts,
        stream.reviews,
        found.rounds.len(),
        found.seconds as f64 / 60.0
    );
    println!("\nOn the stream, percent");
    line("", ["accuracy", "from", "to", "macro-F1", "reviews", "tokens", "dollars"].map(str::to_owned).to_vec());
    for way in &stream.ways {
        let shares = [way.accuracy, way.interval[0], way.interval[1], way.macro_f1].map(percent);
        let tokens = way.prompt_tokens + way.completion_tokens;
        let usd = match prices {
            Some(prices) => format!("{:.4}", prices.usd(way.prompt_tokens, way.completion_tokens)),
            None if tokens == 0 => "0".to_owned(),
            None => "?".to_owned(),
        };
        line(&way.name, [&shares[..], &[way.reviews.to_string(), tokens.to_string(), usd]].concat());
    }
    println!();
    line("hard, by quarter", stream.hard_share.iter().copied().map(percent).collect());
    line("reviewed, by quarter", stream.review_share.iter().copied().map(percent).collect());
    line("reviewed, in all", vec![percent(stream.reviews as f64 / stream.texts.max(1) as f64)]);
    if stream.second_looks > 0 {
        let share = stream.second_looks as f64 / stream.texts.max(1) as f64;
        line("of it agreed on before", vec![percent(share)]);
    }
    let [audited, wrong] = stream.audited;
    if audited > 0 {
        let [from, to] = stream.audit_interval.map(percent);
        let share = percent(wrong as f64 / audited as f64);
        line("audit: agreed and wrong (from, to)", vec![share, from, to, format!("of {audited}")]);
    }
    let of_all = |count: usize| vec![percent(count as f64 / stream.texts.max(1) as f64)];
    line("agreed and wrong", of_all(stream.agreed_and_wrong));
    line("hard, and the majority right", of_all(stream.hard_and_majority_right));
    line("reviewer, on hard samples", vec![percent(stream.reviewer_accuracy)]);
    line("reviews that all SLMs contradict", vec![stream.contradicted.to_string()]);
    let table = |name: &str, scores: &[Scores]| {
        if scores.first().is_none_or(|scores| scores.texts == 0) {
            return;
        }
        println!("\n{name}, accuracy in percent before the first round and after each");
        for (at, id) in found.slms.iter().enumerate() {
            line(id, scores.iter().map(|scores| percent(scores.slms[at].accuracy)).collect());
        }
        line("majority", scores.iter().map(|scores| percent(scores.majority.accuracy)).collect());
        line("majority, macro-F1", scores.iter().map(|scores| percent(scores.majority.macro_f1)).collect());
        line("its 95 % interval, from", scores.iter().map(|scores| percent(scores.majority_interval[0])).collect());
        line("to", scores.iter().map(|scores| percent(scores.majority_interval[1])).collect());
        line("calibration error of", Vec::new());
        for (at, id) in found.slms.iter().map(String::as_str).chain(["the mean"]).enumerate() {
            let of = |errors: &[f64]| errors.get(at).copied().map(percent).unwrap_or_default();
            line(&format!("  {id}"), scores.iter().map(|scores| of(&scores.calibration_error)).collect());
            let before = scores.iter().map(|scores| of(&scores.calibration_error_before));
            line("    without temperatures", before.collect());
        }
        let all: Vec<_> = scores.iter().map(|scores| agreements(&scores.agreement)).collect();
        for (at, (name, _)) in all[0].iter().enumerate() {
            let of = |value: fn(&Estimate) -> f64| all.iter().map(|all| percent(value(&all[at].1))).collect();
            line(name, of(|estimate| estimate.value));
            line("  its 95 % interval, from", of(|estimate| estimate.interval[0]));
            line("  to", of(|estimate| estimate.interval[1]));
        }
        line("agreed", scores.iter().map(|scores| percent(scores.agreed)).collect());
        line("right where agreed", scores.iter().map(|scores| percent(scores.accuracy_on_agreed)).collect());
    };
    table("Test file", &found.test);
    table("Old domain", &found.old_test);
    println!();
}
