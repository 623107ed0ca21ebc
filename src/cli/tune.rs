//! `autoannotator tune`.

use super::pool::{add, may_keep};
use crate::hub::packing::{Folder, current, folders, pack};
use crate::hub::{self, Home, models_dir, versions};
use crate::slm::adapter::{Method, SlmFolder, hex, sha256_hex};
use crate::slm::burn::Backend;
use crate::slm::pack::Precision;
use crate::slm::tokenize::Tokenizer;
use crate::task::{LabelSet, Task};
use crate::tune::event::{ANOTHER_ROUND, Event, Progress};
use crate::tune::gate::{Decision, Paired};
use crate::tune::pool::{Pool, now};
use crate::tune::round::{
    Anchor, Labelled, Lesson, Material, Member, Report, RoundOptions, Split, hold_out, round, split,
};
use crate::tune::train::Running;
use anyhow::{Context, bail, ensure};
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Holds a round: trains each SLM on the pool's reviewed hard samples, and promotes it if it became better.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  autoannotator tune --task sentiment --replay old-train.csv --anchor old-validation.csv
  autoannotator tune --task sentiment --add reviewed.csv --keep-text ...
                                                       add the reviews of a labelled file first
  autoannotator tune --task sentiment --method full ...
                                                       all parameters, with the paper's settings

Of the pool 70 % are trained on, 10 % calibrate and 20 % decide: an SLM is promoted only if its Brier score is better on
them with 95 % confidence, it labels no fewer of them right, and it loses at most half a point on the anchor set, and on
each part of it a point or what chance explains: the anchor files, what decided at earlier rounds, and a tenth of each
--replay file that is held out of it. The largest SLM goes first, and the others learn from it as well, also of the
pool's texts with a sure consensus; without a --replay file these are replayed instead. What is promoted is packed, and
`autoannotator versions` lists it and goes back. A round that was stopped goes on by the same command. Where somebody
goes to another version of an SLM while a round runs, that one stays current, and the round's is only listed.")]
pub(super) struct Args {
    /// The task, which gives the labels: sentiment or toxicity
    #[arg(long, required_unless_present = "spec")]
    task: Option<String>,
    /// The spec of a task of your own
    #[arg(long, conflicts_with = "task")]
    spec: Option<PathBuf>,
    /// The pool's file [default: pool.db in the data home]
    #[arg(long)]
    pool: Option<PathBuf>,
    /// A file that the page or `annotate` wrote, whose reviews go into the pool first; may be given more than once
    #[arg(long)]
    add: Vec<PathBuf>,
    /// Keep the texts of the files to add although no spec says keep_text = true in [review]
    #[arg(long, requires = "add")]
    keep_text: bool,
    /// SLMs by id [default: all of the task]
    #[arg(long, value_delimiter = ',')]
    slms: Vec<String>,
    /// Labelled CSV file of the SLMs' old training data, of which a part is replayed; may be given more than once
    #[arg(long)]
    replay: Vec<PathBuf>,
    /// Labelled CSV file on which an SLM may not become worse; may be given more than once
    #[arg(long)]
    anchor: Vec<PathBuf>,
    #[command(flatten)]
    round: RoundArgs,
    /// What trains: cpu; or wgpu, wgpu:N (a GPU) in a build with the feature gpu-burn
    #[arg(long, default_value = "cpu")]
    device: Backend,
    /// Start anew even if a round was stopped
    #[arg(long)]
    fresh: bool,
    /// Write what happens as one JSON object a line, for a program to read
    #[arg(long)]
    json: bool,
    /// The folder with one folder an SLM [default: $AUTOANNOTATOR_MODELS, or models/ here or above]
    #[arg(long)]
    models: Option<PathBuf>,
    /// The data home [default: $AUTOANNOTATOR_HOME, or the platform's cache folder]
    #[arg(long)]
    home: Option<PathBuf>,
}

/// How rounds are held.
#[derive(clap::Args)]
pub(super) struct RoundArgs {
    /// How rounds train: lora or full
    #[arg(long, default_value = "lora", value_parser = super::train::parse_method)]
    method: Method,
    /// The most layers that a round trains, from the top
    #[arg(long, default_value_t = 6)]
    layers: usize,
    /// Another number of layers for an SLM, as ID=N: those of a wide one cost most of a round's time; may be given more than once
    #[arg(long, value_name = "ID=N", value_parser = parse_layers_of)]
    layers_of: Vec<(String, usize)>,
    /// Peak learning rate [default: 5e-4 for lora, 2e-5 for full]
    #[arg(long)]
    lr: Option<f64>,
    /// Passes over the pool, at least: a small one is gone through more often
    #[arg(long, default_value_t = 3)]
    epochs: usize,
    /// Replayed texts for each one of the pool, for a small one more; 0 for none
    #[arg(long, default_value_t = 2.0)]
    replay_ratio: f64,
}

fn parse_layers_of(text: &str) -> Result<(String, usize), String> {
    let parsed = text.split_once('=').and_then(|(id, layers)| Some((id.to_owned(), layers.parse().ok()?)));
    parsed.filter(|(id, _)| !id.is_empty()).ok_or_else(|| "expected ID=N, say sentiment-mpnet=2".to_owned())
}

impl RoundArgs {
    /// Whether the SLMs that it names are among those that a round is held of.
    pub(super) fn fits(&self, slms: &[Folder]) -> anyhow::Result<()> {
        let known = |id: &str| slms.iter().any(|folder| folder.slm.id == id);
        match self.layers_of.iter().find(|(id, _)| !known(id)) {
            Some((id, _)) => bail!("--layers-of names {id}, which is none of the SLMs here"),
            None => Ok(()),
        }
    }

    /// The most layers that a round of an SLM trains.
    pub(super) fn layers(&self, id: &str) -> usize {
        self.layers_of.iter().find(|(of, _)| of == id).map_or(self.layers, |(_, layers)| *layers)
    }

    pub(super) fn options(&self) -> RoundOptions {
        let usual = RoundOptions::new(self.method);
        let lr = self.lr.unwrap_or(usual.lr);
        RoundOptions { lr, epochs: self.epochs, replay: self.replay_ratio, ..usual }
    }
}

/// The SLMs that were through when a round was stopped, each by its name in the round; see [`names`].
type Done = BTreeMap<String, Report>;

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let task = super::task_of(args.task.as_deref(), args.spec.as_deref())?;
    if !args.add.is_empty() {
        may_keep(args.spec.as_deref(), args.keep_text)?;
    }
    let (home, models) = (Home::find(args.home.as_deref())?, models_dir(args.models.as_deref())?);
    let path = args.pool.clone().unwrap_or_else(|| home.store());
    std::fs::create_dir_all(home.path()).with_context(|| format!("cannot make {}", home.path().display()))?;
    let scratch = Scratch::open(&home, &task.name)?;
    let mut pool = Pool::open(&path)?;
    for file in &args.add {
        let added = add(&mut pool, &task, file)?;
        // With --json standard output is a program's.
        if args.json { eprintln!("{added}") } else { println!("{added}") }
    }
    let folders = wanted(args.models.as_deref(), &home, &args.slms, &task)?;
    args.round.fits(&folders)?;
    let begun = if args.fresh { Begun::default() } else { scratch.begun() };
    let mut drawn = pool.draw(&task.name, &task.labels, begun.last)?;
    if drawn.rows.is_empty() {
        drawn = pool.draw(&task.name, &task.labels, None)?;
    }
    ensure!(
        !drawn.rows.is_empty() || drawn.contradicted == 0,
        "tune-pool: all {} reviews of the pool were contradicted by all SLMs, so there is nothing to train on; let a \
         person review these samples, whose labels count in any case",
        drawn.contradicted
    );
    let earlier = pool.earlier(&task.name, &task.labels)?;
    let read = |paths: &[PathBuf]| labelled(paths, &task.labels);
    let mut old =
        args.replay.iter().map(|path| read(std::slice::from_ref(path))).collect::<anyhow::Result<Vec<_>>>()?;
    let mut consensus = pool.consensus(&task.name, &task.labels)?;
    consensus.truncate(begun.consensus.unwrap_or(usize::MAX));
    scratch.begin(&Begun { last: drawn.last(), consensus: Some(consensus.len()) })?;
    if old.is_empty() {
        old.push(std::mem::take(&mut consensus));
    }
    let (old, held_out): (Vec<_>, Vec<_>) = old.into_iter().map(hold_out).unzip();
    let mut anchor = anchors(&args.anchor, &task.labels)?;
    anchor.push(Anchor::earlier(earlier.gate));
    // Without a file to replay it is the consensus of which a part was held out.
    let replayed = args.replay.iter().map(|path| path.display().to_string()).chain(["the SLMs' own consensus".into()]);
    anchor.extend(replayed.zip(held_out).map(|(source, rows)| Anchor::held_out(source, rows)));
    if anchor.iter().all(|part| part.rows.is_empty()) {
        eprintln!("no --anchor file: nothing will show if an SLM becomes worse on other texts than the pool's");
    }
    let options = args.round.options();
    let parts = split(&drawn.rows, task.labels.len(), options.seed)?;
    let trained: HashSet<&str> = parts.training.iter().chain(&parts.stopping).map(|row| row.text.as_str()).collect();
    anchor.iter_mut().for_each(|part| part.rows.retain(|row| !trained.contains(row.text.as_str())));
    let teller = Teller::new(args.json)?;
    teller.tell(&Event::Pool(drawn.counts()));
    let material = Material { split: &parts, old: &old, earlier: &earlier.trained, anchor: &anchor, lesson: None };
    let held = pool.counts(&task.name)?.rounds;
    let name = name(&args.round, &material, &consensus, held)?;
    let reports = hold(&args, (&home, &models), &folders, (&material, consensus), (&name, &scratch, &teller))?;
    let number = pool.mark(&task.name, &drawn, &parts.gate, &reports)?;
    scratch.remove();
    teller.tell(&Event::Done { round: number });
    Ok(())
}

/// What a round drew: samples up to this one, and so many texts with a sure consensus.
#[derive(Default, Serialize, Deserialize)]
struct Begun {
    last: Option<i64>,
    consensus: Option<usize>,
}

/// Where a round leaves what it has done; nobody else holds a round of the task as long as this is there.
struct Scratch {
    folder: PathBuf,
    _lock: File,
}

impl Scratch {
    fn open(home: &Home, task: &str) -> anyhow::Result<Self> {
        let folder = home.path().join("tune").join(task);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.with_extension("lock");
        let lock = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => bail!("{ANOTHER_ROUND} {task} is running; wait for it"),
            Err(TryLockError::Error(error)) => Err(error).with_context(|| path.display().to_string()),
            Ok(()) => Ok(Self { folder, _lock: lock }),
        }
    }

    /// What a round that was stopped had drawn: the pool may have grown since.
    fn begun(&self) -> Begun {
        let json = std::fs::read(self.folder.join("draw.json")).unwrap_or_default();
        serde_json::from_slice(&json).unwrap_or_default()
    }

    fn begin(&self, begun: &Begun) -> anyhow::Result<()> {
        Ok(hub::write_atomically(&self.folder.join("draw.json"), &serde_json::to_vec(begun)?)?)
    }

    fn remove(&self) {
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

/// How often progress is told to a program, but for another stage, which is told at once.
const TOLD_EVERY: Duration = Duration::from_millis(500);

/// How often it is looked at.
const LOOKED_AT_EVERY: Duration = Duration::from_millis(20);

/// Tells a person, by lines and a bar, or a program, by JSON.
struct Teller {
    json: bool,
    bar: ProgressBar,
}

impl Teller {
    fn new(json: bool) -> anyhow::Result<Self> {
        let bar = if json { ProgressBar::hidden() } else { super::bar()? };
        Ok(Self { json, bar })
    }

    fn tell(&self, event: &Event) {
        if self.json {
            println!("{}", serde_json::to_string(event).unwrap_or_default());
            return;
        }
        self.bar.suspend(|| match event {
            Event::Pool(draw) => println!("pool: {draw}"),
            Event::Slm(report) => println!("{}", line(report)),
            Event::Done { round } => println!("round {round} is done"),
            Event::Progress(_) => {}
        });
    }

    /// Tells, of a version that was added and the current one, where they are not the same.
    fn tell_if_not_current(&self, slm: &str, (added, current): (usize, usize)) {
        if added != current {
            self.bar.suspend(|| {
                eprintln!(
                    "{slm}: somebody went to version {current} while the round ran, so that stays the current one; \
                     `autoannotator versions --roll-back {slm} --to {added}` takes the round's"
                );
            });
        }
    }

    /// Tells a program how far an SLM has come for as long as the result lives; the bar tells a person.
    fn follow(&self, slm: &str) -> Option<Following> {
        if !self.json {
            return None;
        }
        // What the SLM before was at is not said of this one.
        self.bar.set_message("");
        self.bar.set_length(0);
        self.bar.set_position(0);
        let (stop, stopped) = mpsc::channel::<()>();
        let (bar, slm) = (self.bar.clone(), slm.to_owned());
        let thread = std::thread::spawn(move || {
            let (mut last, mut told): (Option<Progress>, _) = (None, Instant::now());
            loop {
                // Once more at the end, so that no last stage is missed.
                let goes_on = stopped.recv_timeout(LOOKED_AT_EVERY) == Err(RecvTimeoutError::Timeout);
                let (stage, done, all) = (bar.message(), bar.position(), bar.length().unwrap_or_default());
                let now = Progress { slm: slm.clone(), stage, done, all };
                let another = last.as_ref().is_none_or(|last| kind(last) != kind(&now));
                if another || told.elapsed() >= TOLD_EVERY && last.as_ref() != Some(&now) {
                    println!("{}", serde_json::to_string(&Event::Progress(now.clone())).unwrap_or_default());
                    (last, told) = (Some(now), Instant::now());
                }
                if !goes_on {
                    return;
                }
            }
        });
        Some(Following { stop: Some(stop), thread: Some(thread) })
    }
}

/// The kind of a stage, whose other words are figures.
fn kind(progress: &Progress) -> &str {
    progress.stage.split(' ').next().unwrap_or_default()
}

struct Following {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.stop.take();
        self.thread.take().map(JoinHandle::join);
    }
}

/// Takes every SLM through the round, and packs those that were promoted.
fn hold(
    args: &Args,
    (home, models): (&Home, &Path),
    wanted: &[Folder],
    (material, consensus): (&Material<'_>, Vec<Labelled>),
    (round_name, scratch, teller): (&str, &Scratch, &Teller),
) -> anyhow::Result<Vec<Report>> {
    let (progress, options) = (&teller.bar, args.round.options());
    let path = scratch.folder.join("done.json");
    let noted = std::fs::read(&path).ok().filter(|_| !args.fresh);
    let mut done: Done = noted.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
    let root = folders(models)?;
    let load = |folder| Ok((folder, load_member(folder, &args.round, home, progress)?));
    let mut members = wanted.iter().map(load).collect::<anyhow::Result<Vec<_>>>()?;
    members.sort_by_key(|(_, member)| Reverse(member.size()));
    let (mut lesson, mut more) = (None, Some(consensus).filter(|_| members.len() > 1));
    let mut reports = Vec::new();
    for (folder, member) in &mut members {
        let id = &folder.slm.id;
        let Some(root) = root.iter().find(|root| root.slm.id == *id) else { continue };
        let names = names(round_name, &folder.slm);
        let kept = if args.fresh { None } else { kept(&done, home, &root.slm, &names)? };
        if let Some(report) = kept {
            teller.tell(&Event::Slm(report.clone()));
            reports.push(report);
            teach(member, material, &mut more, &mut lesson)?;
            continue;
        }
        let following = teller.follow(id);
        let [name, _] = names;
        let place = scratch.folder.join(format!("{id}-{}", &name[..12]));
        let running = Running {
            backend: args.device,
            scratch: place,
            fresh: args.fresh,
            checkpoint_every: Duration::from_secs(60),
            stop_after: None,
        };
        let taught = Material { lesson: lesson.as_ref(), ..*material };
        let (report, adapter) = round(member, &taught, &options, &running, progress)?;
        if let Some(adapter) = adapter {
            let added = versions::add(home, &root.slm, &member.folder, &adapter, (&name, &report), now())?;
            teller.tell_if_not_current(id, added);
        }
        drop(following);
        // Noted first: who hears of it finds it there after a kill.
        done.insert(name, report.clone());
        hub::write_atomically(&path, &serde_json::to_vec(&done)?)?;
        teller.tell(&Event::Slm(report.clone()));
        reports.push(report);
        teach(member, material, &mut more, &mut lesson)?;
    }
    pack_promoted((home, models), wanted, &root, teller)?;
    progress.finish_and_clear();
    Ok(reports)
}

/// Packs what this round promoted, and what an earlier one left unpacked; what is packed already is left as it is.
fn pack_promoted(
    (home, models): (&Home, &Path),
    wanted: &[Folder],
    root: &[Folder],
    teller: &Teller,
) -> anyhow::Result<()> {
    let mut changed = Vec::new();
    for folder in wanted {
        let root = root.iter().find(|root| root.slm.id == folder.slm.id);
        if root.map(|root| versions::read(home, &root.slm)).transpose()?.is_some_and(|versions| versions.current > 0) {
            changed.push(folder.slm.id.clone());
        }
    }
    if !changed.is_empty() {
        let _following = teller.follow(&changed.join(", "));
        teller.bar.set_message("packing");
        pack(models, &changed, &[Precision::Int8, Precision::F16], home, &teller.bar)?;
    }
    Ok(())
}

/// Names a round: by the rows that it trains on and is held against, by its options, and by how many were held before, so that
/// it is another one where the same reviews are added again after a purge.
fn name(args: &RoundArgs, material: &Material<'_>, consensus: &[Labelled], held: usize) -> anyhow::Result<String> {
    let Split { training, stopping, gate } = material.split;
    let pool = [training, stopping, gate].map(|rows| hash_of(rows));
    let old: Vec<String> = material.old.iter().map(|rows| hash_of(rows)).collect();
    let anchor: Vec<String> = material.anchor.iter().map(|part| hash_of(&part.rows)).collect();
    let rows = (pool, old, hash_of(material.earlier), anchor, hash_of(consensus));
    let options = (args.options(), args.layers, &args.layers_of);
    Ok(sha256_hex(serde_json::to_string(&(rows, options, held))?.as_bytes()))
}

/// The SHA-256 of rows, hexadecimal.
fn hash_of(rows: &[Labelled]) -> String {
    let mut hash = Sha256::new();
    for Labelled { text, label } in rows {
        hash.update((*label as u64).to_le_bytes());
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    hex(&hash.finalize())
}

/// What a round is called for an SLM, after the version that it goes on from: the one that is here, or the one before, from
/// which the round may have made it.
fn names(round: &str, slm: &SlmFolder) -> [String; 2] {
    let hashes: Vec<&str> = slm.adapters().map(|adapter| adapter.sha256.as_str()).collect();
    let name = |from: &[&str]| sha256_hex(format!("{round} {}", from.join(" ")).as_bytes());
    [name(&hashes), name(&hashes[..hashes.len() - 1])]
}

/// The first SLM that is through its round has a lesson for the others, on the pool and on `more` texts.
fn teach(
    member: &mut Member,
    material: &Material<'_>,
    more: &mut Option<Vec<Labelled>>,
    lesson: &mut Option<Lesson>,
) -> anyhow::Result<()> {
    if let Some(more) = more.take() {
        *lesson = Some(Lesson::new(member, material.split, more)?);
    }
    Ok(())
}

/// The report of an SLM that was through this round before it was stopped: as it was noted, or as a version has it that the
/// round made before it was killed.
fn kept(done: &Done, home: &Home, root: &SlmFolder, names: &[String; 2]) -> anyhow::Result<Option<Report>> {
    if let Some(report) = done.get(&names[0]) {
        return Ok(Some(report.clone()));
    }
    let versions = versions::read(home, root)?;
    let made = versions.all.into_iter().rfind(|version| names.contains(&version.round));
    Ok(made.map(|version| serde_json::from_value(version.report)).transpose()?)
}

/// What a round came to for an SLM, for a person.
pub(super) fn line(report: &Report) -> String {
    let pair = |paired: &Paired| {
        format!("{:.1} to {:.1} % of {} texts", 100.0 * paired.before, 100.0 * paired.after, paired.texts)
    };
    let anchor = report.anchor.as_ref().map(|anchor| format!("; anchor {}", pair(anchor))).unwrap_or_default();
    let what = match &report.decision {
        Decision::Promoted => "promoted".to_owned(),
        Decision::Kept(why) => format!("stays as it is: {why}"),
    };
    format!("{}: gate {}{anchor}; {what}", report.slm, pair(&report.gate))
}

/// The SLMs that were asked for, or all of the task, in their current versions.
pub(super) fn wanted(models: Option<&Path>, home: &Home, ids: &[String], task: &Task) -> anyhow::Result<Vec<Folder>> {
    let models = models_dir(models)?;
    let of_task: Vec<Folder> = current(&models, home)?
        .into_iter()
        .filter(|folder| folder.slm.task == task.name && folder.slm.labels == task.labels.names())
        .collect();
    let known = || of_task.iter().map(|folder| folder.slm.id.as_str()).collect::<Vec<_>>().join(", ");
    if of_task.is_empty() {
        bail!("{} holds no SLM of the task {}; train one with `autoannotator train`", models.display(), task.name);
    }
    if let Some(id) = ids.iter().find(|id| of_task.iter().all(|folder| folder.slm.id != **id)) {
        bail!("there is no SLM '{id}' of the task {}; there are: {}", task.name, known());
    }
    Ok(of_task.into_iter().filter(|folder| ids.is_empty() || ids.contains(&folder.slm.id)).collect())
}

/// An SLM in f32, with the adapters of all its rounds.
pub(super) fn load_member(
    folder: &Folder,
    rounds: &RoundArgs,
    home: &Home,
    progress: &ProgressBar,
) -> anyhow::Result<Member> {
    let slm = &folder.slm;
    let layers = rounds.layers(&slm.id);
    let base = hub::base(&slm.base, home, progress)?;
    let mut weights = base.weights()?;
    let head = slm.merge(&folder.adapters()?, &mut weights)?;
    let tokenizer = Arc::new(Tokenizer::from_json(&base.tokenizer_json, slm.max_length)?);
    let hashes: Vec<&str> = slm.adapters().map(|adapter| adapter.sha256.as_str()).collect();
    Ok(Member::new(slm.clone(), format!("{} {}", slm.base_sha256, hashes.join(" ")), tokenizer, weights, head, layers))
}

/// Labelled files as parts of the anchor set.
pub(super) fn anchors(paths: &[PathBuf], labels: &LabelSet) -> anyhow::Result<Vec<Anchor>> {
    paths.iter().map(|path| Ok(Anchor::file(path, labelled(std::slice::from_ref(path), labels)?))).collect()
}

/// The rows of CSV files with the columns `text` and `label`; those without a text or one of the
/// task's labels are left out, and told.
pub(super) fn labelled(paths: &[PathBuf], labels: &LabelSet) -> anyhow::Result<Vec<Labelled>> {
    #[derive(Deserialize)]
    struct Row {
        text: String,
        label: String,
    }
    let mut all = Vec::new();
    for path in paths {
        let (mut rows, mut left_out) = (Vec::new(), 0);
        let mut reader = csv::Reader::from_path(path).with_context(|| format!("cannot read {}", path.display()))?;
        for row in reader.deserialize::<Row>() {
            let Row { text, label } = row.with_context(|| path.display().to_string())?;
            match labels.index(&label) {
                Some(label) if !text.trim().is_empty() => rows.push(Labelled { text, label }),
                _ => left_out += 1,
            }
        }
        ensure!(
            !rows.is_empty(),
            "{}: no row has a text and one of the labels {}",
            path.display(),
            labels.names().join(", ")
        );
        if left_out > 0 {
            eprintln!("{}: {left_out} rows left out, without a text or one of the labels", path.display());
        }
        all.extend(rows);
    }
    Ok(all)
}
