//! `autoannotator annotate`.

use super::device::{DeviceChoice, Devices};
use crate::annotate::journal::{Entry, Pins, Progress};
use crate::annotate::report::{Report, ReviewReport, Score, Tally};
use crate::annotate::{self, BLOCK, Voter};
use crate::data::{DataError, Format, ReadOptions, Reader, Row, Writer, find_column};
use crate::hub::Home;
use crate::review::client::review_blocking;
use crate::sample::{Annotation, Review, Sample, Source};
use crate::spec::{ExportFormat, ReviewTo, Spec};
use crate::tune::pool::{Consensus, Pool, Reviewed};
use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

const EXAMPLES: &str = "\
Examples:
  autoannotator annotate tweets.csv --task sentiment --out labelled.csv
  autoannotator annotate test.jsonl --task toxicity --gold label --out out.jsonl --report report.json
  autoannotator annotate tweets.csv --task sentiment --review http://127.0.0.1:8080 --out labelled.csv
  autoannotator annotate notes.txt --spec annotator.toml --out labelled.jsonl
  autoannotator annotate tweets.csv --task sentiment --device auto --out labelled.csv

A run that was killed goes on where it was when the same command is given again; its journal lies beside OUT.";

/// Labels a file: every SLM votes on every text, and hard samples go to a reviewer if one is named.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The file of texts: csv, tsv, jsonl or txt.
    input: PathBuf,
    /// A built-in task: sentiment or toxicity.
    #[arg(long, required_unless_present = "spec")]
    task: Option<String>,
    /// A spec (annotator.toml, or JSON) instead of a built-in task's own.
    #[arg(long)]
    spec: Option<PathBuf>,
    /// The column of the texts; without it, one with an obvious name such as text or tweet.
    #[arg(long)]
    text_column: Option<String>,
    /// The column of gold labels, for the report.
    #[arg(long)]
    gold: Option<String>,
    /// Where hard samples are reviewed: none, or the address of an `autoannotator serve`. They are redacted first.
    #[arg(long, value_name = "none|URL")]
    review: Option<String>,
    /// The labelled file: .csv, .tsv or .jsonl.
    #[arg(long)]
    out: PathBuf,
    /// Where to write the report, one JSON object.
    #[arg(long)]
    report: Option<PathBuf>,
    /// What the SLMs compute in: int8, or f32, the reference, which is slower.
    #[arg(long, default_value = "int8", value_parser = ["int8", "f32"])]
    precision: String,
    /// What the SLMs compute on: cpu, gpu, or auto, which times both and takes the faster, SLM by SLM.
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceChoice,
    /// Threads; without it, one a core.
    #[arg(long)]
    threads: Option<usize>,
    /// The format of INPUT, where its name does not say it: csv, tsv, jsonl, txt.
    #[arg(long)]
    format: Option<String>,
    /// The encoding of INPUT by its web name, such as windows-1252; without it UTF-8, or what a byte order mark says.
    #[arg(long)]
    encoding: Option<String>,
    /// Share of the accepted rows that is reviewed too, drawn by chance: it says how many of them are wrong.
    #[arg(long, default_value_t = 0.0)]
    audit: f64,
    /// Keep reviewed samples, with their texts, in the pool that `autoannotator tune` trains on, and up to 10,000 that the
    /// SLMs surely agree on, to be replayed; the spec has to say `keep_text = true` in [review].
    #[arg(long)]
    rounds: bool,
    /// Start over, even if an unfinished run left a journal.
    #[arg(long)]
    fresh: bool,
    /// Where packed SLMs lie; without it the platform's cache folder.
    #[arg(long, env = "AUTOANNOTATOR_HOME", hide_env_values = true)]
    home: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let spec = spec(&args)?;
    let url = review_url(&args, &spec)?;
    if !(0.0..=1.0).contains(&args.audit) {
        bail!("--audit is {}; expected 0 to 1", args.audit);
    }
    if args.audit > 0.0 && url.is_none() {
        bail!("--audit has accepted rows reviewed, and there is no reviewer; give --review URL");
    }
    let input_format = match &args.format {
        Some(name) => Format::from_extension(name)?,
        None => Format::from_name(&args.input.to_string_lossy()).context("give --format")?,
    };
    let options = ReadOptions { text_column: args.text_column.clone(), encoding: args.encoding.clone() };
    let reader = Reader::new(input_format, &options)?;
    let output_format = Format::from_name(&args.out.to_string_lossy()).unwrap_or(match spec.export.format {
        ExportFormat::Csv => Format::Csv,
        ExportFormat::Jsonl => Format::Jsonl,
    });
    Writer::new(output_format, &[], false, &spec)?;
    let input = File::open(&args.input).with_context(|| format!("cannot open {}", args.input.display()))?;
    if fs::canonicalize(&args.out).is_ok_and(|out| fs::canonicalize(&args.input).is_ok_and(|input| input == out)) {
        bail!("--out is the input itself; give another name, so that nothing is lost");
    }
    let mut voters = load(&args, &spec)?;
    let mut pins = Pins::new();
    pins.insert("autoannotator".into(), env!("CARGO_PKG_VERSION").into());
    pins.insert("input".into(), hash(&args.input)?);
    pins.insert("spec".into(), spec.to_json());
    pins.insert("formats".into(), format!("{input_format:?} to {output_format:?}"));
    pins.insert("review".into(), url.clone().unwrap_or_else(|| "none".into()));
    for (name, value) in [("text column", &args.text_column), ("gold", &args.gold), ("encoding", &args.encoding)] {
        pins.insert(name.into(), value.clone().unwrap_or_else(|| "none".into()));
    }
    for (id, voter) in spec.slms.iter().zip(&mut voters) {
        // What an SLM is it says itself, with a vote.
        let votes = voter.vote(&["ready?"])?;
        let vote = votes.first().with_context(|| format!("{id} does not vote"))?;
        pins.insert(id.clone(), format!("version {}, {}, {}", vote.version, vote.engine, vote.precision));
    }
    if args.audit > 0.0 {
        pins.insert("audit".into(), args.audit.to_string());
    }
    let pool = args.rounds.then(|| pool(&args, &spec)).transpose()?;
    let files = Files::open(&args.out, &pins, args.fresh)?;
    let tally = files.progress.tally.clone().unwrap_or_else(|| Tally::new(&spec, args.gold.is_some()));
    let run = Run {
        spec,
        voters,
        url,
        gold: args.gold.clone(),
        audit: args.audit,
        output_format,
        files,
        tally,
        pool,
        writer: None,
        told: false,
    };
    let journal = journal_path(&args.out);
    let report = run.all(input, reader).inspect_err(|error| {
        // A file that cannot be read further stays so: there is nothing to go on with.
        if error.downcast_ref::<DataError>().is_some() {
            let _ = fs::remove_file(&journal);
            if fs::metadata(&args.out).is_ok_and(|out| out.len() == 0) {
                let _ = fs::remove_file(&args.out);
            }
        }
    })?;
    if let Some(path) = &args.report {
        write_report(path, &report)?;
    }
    fs::remove_file(&journal).with_context(|| format!("cannot remove {}", journal.display()))?;
    print!("{}", table(&report));
    println!("written: {}", args.out.display());
    Ok(())
}

fn spec(args: &Args) -> anyhow::Result<Spec> {
    let Some(path) = &args.spec else { return Ok(Spec::built_in(args.task.as_deref().unwrap_or_default())?) };
    let spec = super::read_spec(path)?;
    match &args.task {
        Some(task) if *task != spec.task.name => {
            bail!("--task says '{task}', {} says '{}'; leave one out", path.display(), spec.task.name)
        }
        _ => Ok(spec),
    }
}

fn review_url(args: &Args, spec: &Spec) -> anyhow::Result<Option<String>> {
    let url = match (args.review.as_deref(), spec.review.to) {
        (Some("none"), _) => None,
        (Some(url), _) => Some(url.to_owned()),
        (None, ReviewTo::Llm) if spec.review.url.is_none() => {
            bail!("the spec sends hard samples to an LLM but has no url; give --review URL or --review none")
        }
        (None, _) => spec.review.url.clone(),
    };
    match url {
        Some(url) if !(url.starts_with("http://") || url.starts_with("https://")) => {
            bail!("--review is '{url}'; expected none or an address with http:// or https://")
        }
        url => Ok(url),
    }
}

/// The packed SLMs of the spec, in its order.
fn load(args: &Args, spec: &Spec) -> anyhow::Result<Vec<Box<dyn Voter>>> {
    let home = Home::find(args.home.as_deref())?;
    let threads = match args.threads {
        Some(0) => bail!("--threads is 0; expected at least 1"),
        Some(threads) => threads,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let devices = Devices::new(args.device)?;
    let load = |id: &String| -> anyhow::Result<Box<dyn Voter>> {
        Ok(Box::new(devices.load(&home, spec, id, &args.precision, threads)?))
    };
    spec.slms.iter().map(load).collect()
}

/// The pool, if the spec lets texts be kept.
fn pool(args: &Args, spec: &Spec) -> anyhow::Result<Pool> {
    if !spec.review.keep_text {
        bail!(
            "--rounds keeps reviewed texts, and the spec does not let them be kept; set keep_text = true in [review]"
        );
    }
    let home = Home::find(args.home.as_deref())?;
    fs::create_dir_all(home.path()).with_context(|| format!("cannot make {}", home.path().display()))?;
    Ok(Pool::open(&home.store())?)
}

/// SHA-256 of a file, hexadecimal.
fn hash(path: &Path) -> anyhow::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    std::io::copy(&mut file, &mut hasher).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn journal_path(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".journal");
    name.into()
}

/// The output and its journal, both open at where an unfinished run left them.
struct Files {
    out: File,
    journal: File,
    progress: Progress,
}

impl Files {
    fn open(out_path: &Path, pins: &Pins, fresh: bool) -> anyhow::Result<Self> {
        let journal_path = journal_path(out_path);
        let open = |path: &Path| {
            File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)
                .with_context(|| format!("cannot write {}", path.display()))
        };
        let mut journal = open(&journal_path)?;
        if matches!(journal.try_lock(), Err(fs::TryLockError::WouldBlock)) {
            bail!("another run is writing {}; wait for it or give another --out", out_path.display());
        }
        let mut bytes = Vec::new();
        if !fresh {
            journal.read_to_end(&mut bytes)?;
        }
        let advice = || format!("{}: start over with --fresh, or give another --out", journal_path.display());
        let progress = Progress::read(&bytes, pins).with_context(advice)?;
        let progress = progress.unwrap_or_default();
        let mut out = open(out_path)?;
        if out.metadata()?.len() < progress.bytes {
            bail!("{} is shorter than its journal says; {}", out_path.display(), advice());
        }
        journal.set_len(progress.valid)?;
        journal.seek(SeekFrom::End(0))?;
        out.set_len(progress.bytes)?;
        out.seek(SeekFrom::End(0))?;
        let mut files = Self { out, journal, progress };
        if files.progress.valid == 0 {
            files.note(&Entry::Pins(pins.clone()))?;
        }
        Ok(files)
    }

    /// Adds a line to the journal and waits until the disk has it.
    fn note(&mut self, entry: &Entry) -> anyhow::Result<()> {
        self.journal.write_all(entry.line().as_bytes()).context("cannot write the journal")?;
        self.journal.sync_data().context("cannot write the journal")
    }
}

/// How much of the input is read at once.
const CHUNK: usize = 256 << 10;

/// Samples of one request for reviews.
pub(super) const REVIEW_BATCH: usize = 16;

struct Run {
    spec: Spec,
    voters: Vec<Box<dyn Voter>>,
    url: Option<String>,
    gold: Option<String>,
    audit: f64,
    output_format: Format,
    files: Files,
    tally: Tally,
    /// Where reviewed hard samples are kept.
    pool: Option<Pool>,
    writer: Option<Writer>,
    /// The person was told that the reviewer fails.
    told: bool,
}

impl Run {
    /// Reads and labels everything that is not done yet.
    fn all(mut self, mut input: File, mut reader: Reader) -> anyhow::Result<Report> {
        let bar = progress_bar(input.metadata()?.len());
        let skip = self.files.progress.rows;
        if skip > 0 {
            eprintln!("going on after row {skip}, where an earlier run stopped");
        }
        let mut buffer = vec![0; CHUNK];
        let mut rows: Vec<Row> = Vec::new();
        let mut since = Instant::now();
        loop {
            let count = input.read(&mut buffer).context("cannot read the input")?;
            let outcome = match count {
                0 => reader.finish(&mut rows),
                count => reader.push(&buffer[..count], &mut rows),
            };
            let end = count == 0 || outcome.is_err();
            rows.retain(|row| row.number > skip);
            bar.inc(count as u64);
            let mut done = 0;
            while rows.len() - done >= BLOCK || (end && rows.len() > done) {
                let block = &rows[done..rows.len().min(done + BLOCK)];
                self.block(block, &reader, &mut since)?;
                done += block.len();
                let rate = self.tally.report().texts_per_second;
                bar.set_message(format!("{} rows, {rate:.0} a second", self.tally.rows()));
            }
            rows.drain(..done);
            outcome.with_context(|| format!("{} rows are labelled and written", self.tally.rows()))?;
            if end {
                bar.finish_and_clear();
                return Ok(self.tally.report());
            }
        }
    }

    /// Labels and writes one block, and notes it.
    fn block(&mut self, rows: &[Row], reader: &Reader, since: &mut Instant) -> anyhow::Result<()> {
        let gold = self.gold.as_deref().map(|gold| find_column(reader.columns(), gold)).transpose()?;
        let mut annotations = annotate::annotate(rows, &mut self.voters, self.spec.rule)?;
        self.review(&mut annotations)?;
        if let Some(pool) = &mut self.pool {
            // Before the block counts as done: a run that goes on tells them again, and the pool keeps each once.
            pool.add(&self.spec.task.name, &annotations.iter().filter_map(Reviewed::of).collect::<Vec<_>>())?;
            let agreed = |one: &&Annotation| one.source == Some(Source::Consensus);
            let sure = |one: &Annotation| Consensus::of(&one.sample.text, &one.verdict);
            pool.add_consensus(
                &self.spec.task.name,
                &annotations.iter().filter(agreed).filter_map(sure).collect::<Vec<_>>(),
            )?;
        }
        let mut bytes = Vec::new();
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let new = Writer::new(self.output_format, reader.columns(), reader.is_json(), &self.spec)?;
                if self.files.progress.rows == 0 {
                    bytes = new.header()?;
                }
                self.writer.insert(new)
            }
        };
        for (row, annotation) in rows.iter().zip(&annotations) {
            bytes.extend(writer.row(row, annotation)?);
            let gold = gold.and_then(|gold| row.value(reader.columns(), gold));
            self.tally.add(annotation, gold.and_then(|gold| self.spec.task.labels.index(&gold)));
        }
        self.files.out.write_all(&bytes).context("cannot write the output")?;
        self.files.out.sync_data().context("cannot write the output")?;
        self.tally.add_seconds(since.elapsed().as_secs_f64());
        *since = Instant::now();
        let progress = &mut self.files.progress;
        progress.rows = rows.last().map_or(progress.rows, |row| row.number);
        progress.bytes += bytes.len() as u64;
        let entry = Entry::Block { rows: progress.rows, bytes: progress.bytes, tally: Box::new(self.tally.clone()) };
        self.files.note(&entry)
    }

    /// Sends the hard samples to the reviewer, if there is one. Reviews that an earlier run paid for are taken from the
    /// journal. Where the reviewer fails, samples stay hard and say why.
    fn review(&mut self, annotations: &mut [Annotation]) -> anyhow::Result<()> {
        let Some(url) = self.url.clone() else { return Ok(()) };
        let paid = std::mem::take(&mut self.files.progress.cost);
        self.tally.add_review(&paid);
        let known = std::mem::take(&mut self.files.progress.reviews);
        let mut open: Vec<&mut Annotation> = annotations
            .iter_mut()
            .filter(|annotation| annotation.is_open() || audited(annotation, self.audit))
            .collect();
        open.retain_mut(|annotation| match known.get(&annotation.sample.id) {
            Some(review) => {
                decide(annotation, review.clone());
                false
            }
            None => true,
        });
        let redactor = self.spec.review.redactor();
        for batch in open.chunks_mut(REVIEW_BATCH) {
            let samples: Vec<Sample> = batch.iter().map(|annotation| annotation.sample.clone()).collect();
            match review_blocking(&url, &self.spec.task, &redactor, &samples) {
                Ok(reviews) => {
                    let cost = cost(&reviews);
                    self.files.note(&Entry::Reviews { reviews: reviews.clone(), cost })?;
                    self.tally.add_review(&cost);
                    for annotation in batch {
                        if let Some((_, review)) = reviews.iter().find(|(id, _)| *id == annotation.sample.id) {
                            decide(annotation, review.clone());
                        }
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.told, true) {
                        eprintln!("the reviewer fails, hard samples stay open: {error}");
                    }
                    for annotation in batch {
                        if let crate::Verdict::Hard { why } = &mut annotation.verdict {
                            why.push_str(&format!("; {error}"));
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether an accepted row is among the share that is reviewed all the same: by a hash, so that a run that goes on draws the
/// same ones.
fn audited(annotation: &Annotation, share: f64) -> bool {
    if !matches!(annotation.verdict, crate::Verdict::Accepted { .. }) {
        return false;
    }
    let hash = Sha256::digest(format!("audit {} {}", annotation.sample.id, annotation.sample.text));
    let draw = hash.iter().take(4).fold(0u32, |number, byte| number << 8 | u32::from(*byte));
    f64::from(draw) < share * f64::from(u32::MAX)
}

fn decide(annotation: &mut Annotation, review: Review) {
    *annotation = annotation.clone().with_review(review);
}

fn cost(reviews: &[(String, Review)]) -> ReviewReport {
    let mut cost = ReviewReport { calls: 1, ..ReviewReport::default() };
    for (_, review) in reviews {
        cost.prompt_tokens += review.prompt_tokens;
        cost.completion_tokens += review.completion_tokens;
        cost.cost_usd += review.cost_usd;
    }
    cost
}

fn progress_bar(bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {percent}% {msg}, {eta} left");
    ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Whole or not at all.
fn write_report(path: &Path, report: &Report) -> anyhow::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let json = serde_json::to_string_pretty(report)? + "\n";
    fs::write(&part, json)
        .and_then(|()| fs::rename(&part, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn table(report: &Report) -> String {
    let mut lines = vec![format!(
        "{} rows: {} accepted, {} hard, {} set aside; coverage {:.1} %; {:.1} s, {:.0} rows a second",
        report.rows,
        report.accepted,
        report.hard,
        report.set_aside.rows,
        100.0 * report.coverage,
        report.seconds,
        report.texts_per_second,
    )];
    for (reason, count) in &report.set_aside.reasons {
        lines.push(format!("  set aside, {reason}: {count}"));
    }
    if report.truncated > 0 {
        lines.push(format!("  longer than an SLM reads, cut: {}", report.truncated));
    }
    let review = &report.review;
    if review.calls > 0 {
        let tokens = review.prompt_tokens + review.completion_tokens;
        lines.push(format!("review: {} calls, {tokens} tokens, ${:.4}", review.calls, review.cost_usd));
    }
    if let Some(audit) = &report.audit {
        let [from, to] = audit.interval.map(|share| 100.0 * share);
        lines.push(format!(
            "audit: {} of {} accepted rows were labelled otherwise: {:.1} % ({from:.1} to {to:.1})",
            audit.wrong,
            audit.rows,
            100.0 * audit.share
        ));
    }
    if let Some(gold) = &report.gold {
        let row = |name: &str, score: Option<Score>| {
            let (accuracy, f1) = score.map_or((0.0, 0.0), |score| (100.0 * score.accuracy, 100.0 * score.macro_f1));
            format!("{name:<32}{accuracy:>10.2}{f1:>10.2}")
        };
        lines.push(format!("{:<32}{:>10}{:>10}", "", "accuracy", "macro-F1"));
        lines.extend(report.slms.iter().map(|slm| row(&slm.id, slm.score)));
        lines.push(row("majority, all rows", report.majority));
        if let Some(accuracy) = report.consensus.accuracy_on_accepted {
            lines.push(format!("{:<32}{:>10.2}", "consensus, accepted rows", 100.0 * accuracy));
        }
        lines.push(row("final", report.final_.score));
        lines.extend(report.final_.note.iter().map(|note| format!("  {note}")));
        lines.push(format!("unanimous but wrong: {}", report.unanimous_wrong.unwrap_or(0)));
        if gold.unknown > 0 {
            lines.push(format!("{} rows have no gold label of the task and are in no score", gold.unknown));
        }
    }
    lines.join("\n") + "\n"
}
