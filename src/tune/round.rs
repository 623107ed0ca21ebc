//! A round: an SLM goes on from its current version on reviewed hard samples and on older data, and is promoted only if
//! it is better; see [`gate`](super::gate).

use super::TuneError;
use super::activations::Frozen;
use super::dataset::Dataset;
use super::gate::{Change, Decision, FEWEST_TEXTS, Paired, brier, decide};
use super::metrics::{fit_temperature, metrics};
use super::train::{Choice, Options, Running, Start, by_batches, fine_tune, interpolate, lengths, serialize};
use crate::slm::adapter::{AdapterFile, Method, SlmFolder, sha256_hex};
use crate::slm::burn::Trained;
use crate::slm::cpu::{CpuEncoder, CpuEngine};
use crate::slm::probabilities;
use crate::slm::tokenize::Tokenizer;
use crate::slm::weights::{EncoderWeights, Head};
use crate::vote::argmax;
use indicatif::ProgressBar;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt::Display;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shares of the way from the current version to what was trained that are tried where the whole way loses too much on the
/// anchor set, until it holds.
const SMALLER_SHARES: [f32; 6] = [0.8, 0.7, 0.6, 0.5, 0.4, 0.25];

/// The least pool: of fewer samples the gate's fifth decides nothing.
pub const FEWEST_SAMPLES: usize = 5 * FEWEST_TEXTS;

/// Below this calibrated probability of every SLM a review counts as contradicted.
const CONTRADICTED: f32 = 0.02;

/// An SLM that votes, in int8 as it is served, and can be trained: a version in memory.
pub struct Member {
    /// What `slm.toml` says of it.
    pub folder: SlmFolder,
    /// Names the version; the layers that no round trains are the same in all versions of it.
    pub key: String,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    weights: EncoderWeights,
    head: Head,
    /// The layers that no round trains, shared by all versions.
    frozen: Arc<Mutex<Frozen>>,
    /// The layers above them.
    engine: CpuEngine,
    /// Raw logits of each text that this version has met, by its ids.
    said: Arc<Mutex<HashMap<Vec<u32>, Vec<f32>>>>,
}

impl Member {
    /// About how many weights its layers have: the largest SLM's round comes first.
    pub fn size(&self) -> usize {
        self.weights.config.num_hidden_layers * self.weights.config.hidden_size.pow(2)
    }

    /// An SLM from its merged weights, of which rounds train at most the `layers` upper layers.
    pub fn new(
        folder: SlmFolder,
        key: String,
        tokenizer: Arc<Tokenizer>,
        weights: EncoderWeights,
        head: Head,
        layers: usize,
    ) -> Self {
        let frozen = weights.layers.len().saturating_sub(layers.max(1));
        let engine = upper(&weights, frozen, &head);
        let frozen = Arc::new(Mutex::new(Frozen::new(&weights, frozen)));
        Self { folder, key, tokenizer, weights, head, frozen, engine, said: Arc::default() }
    }

    /// The same version once more; the layers that no round trains are shared, and so is what it has said.
    pub fn twin(&self) -> Self {
        let engine = upper(&self.weights, self.frozen().layers(), &self.head);
        let Self { folder, key, tokenizer, weights, head, frozen, said, .. } = self;
        Self {
            folder: folder.clone(),
            key: key.clone(),
            tokenizer: tokenizer.clone(),
            weights: weights.clone(),
            head: head.clone(),
            frozen: frozen.clone(),
            engine,
            said: said.clone(),
        }
    }

    fn frozen(&self) -> MutexGuard<'_, Frozen> {
        self.frozen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Token ids of texts, with labels.
    pub fn encode(&self, rows: &[Labelled]) -> Result<Dataset, TuneError> {
        let ids = rows.iter().map(|row| Ok(self.tokenizer.encode(&row.text)?.ids)).collect::<Result<_, TuneError>>()?;
        let texts = rows.iter().map(|row| row.text.clone()).collect();
        Ok(Dataset { texts, ids, labels: rows.iter().map(|row| row.label).collect(), files: Vec::new() })
    }

    /// Calibrated probabilities `[texts x labels]`, in order.
    pub fn probabilities(&mut self, set: &Dataset) -> Result<Vec<f32>, TuneError> {
        self.probabilities_at(set, self.folder.temperature)
    }

    /// The same at another temperature.
    fn probabilities_at(&mut self, set: &Dataset, temperature: f32) -> Result<Vec<f32>, TuneError> {
        let mut values = self.logits(set)?;
        probabilities(&mut values, self.folder.labels.len(), temperature);
        Ok(values)
    }

    /// Raw logits `[texts x labels]`, in order; of a text that it has met, what it said then.
    fn logits(&mut self, set: &Dataset) -> Result<Vec<f32>, TuneError> {
        let labels = self.folder.labels.len();
        let said = self.said.clone();
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ids: Vec<Vec<u32>> = set.ids.iter().filter(|ids| !said.contains_key(*ids)).cloned().collect();
        ids.sort_unstable();
        ids.dedup();
        let new = Dataset { ids, ..Dataset::default() };
        let states = self.frozen().activations(&new.ids, &ProgressBar::hidden())?;
        let logits = by_batches(&new, labels, (4096, usize::MAX), |group| {
            Ok(self.engine.logits_from(&states.gather(group), &lengths(&new, group))?)
        })?;
        said.extend(new.ids.into_iter().zip(logits.chunks_exact(labels).map(<[f32]>::to_vec)));
        Ok(set.ids.iter().filter_map(|ids| said.get(ids)).flatten().copied().collect())
    }

    /// The [`brier`] score of each text, its probabilities taken at a temperature.
    fn losses(&mut self, set: &Dataset, temperature: f32) -> Result<Vec<f64>, TuneError> {
        let values = self.probabilities_at(set, temperature)?;
        let rows = values.chunks_exact(self.folder.labels.len());
        Ok(rows.zip(&set.labels).map(|(row, gold)| brier(row, *gold)).collect())
    }

    /// Which texts it labels right.
    fn right(&mut self, set: &Dataset) -> Result<Vec<bool>, TuneError> {
        let labels = self.folder.labels.len();
        let logits = self.logits(set)?;
        Ok(logits.chunks_exact(labels).zip(&set.labels).map(|(row, gold)| argmax(row) == *gold).collect())
    }
}

/// A text and its label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    /// The text.
    pub text: String,
    /// Index of the label.
    pub label: usize,
}

/// How to hold a round.
#[derive(Debug, Clone, Serialize)]
pub struct RoundOptions {
    /// LoRA or all parameters of the layers.
    pub method: Method,
    /// Peak learning rate.
    pub lr: f64,
    /// Passes over the pool's training part; a small one is gone through more often.
    pub epochs: usize,
    /// Texts a step.
    pub batch: usize,
    /// Texts of older data for each one of the pool's training part; beside a small one more, with 0 none.
    pub replay: f64,
    /// Seed of every choice by chance.
    pub seed: u64,
}

impl RoundOptions {
    /// The defaults of a method: the paper's for all parameters.
    pub fn new(method: Method) -> Self {
        let (lr, epochs, batch) = match method {
            Method::Lora => (5e-4, 3, 16),
            Method::Full => (2e-5, 3, 16),
        };
        Self { method, lr, epochs, batch, replay: 2.0, seed: 0 }
    }

    fn training(&self, member: &Member) -> Options {
        let layers = member.weights.layers.len() - member.frozen().layers();
        Options {
            id: member.folder.id.clone(),
            method: self.method,
            rank: 16,
            alpha: 32.0,
            embedding_rank: 0,
            layers,
            lr: self.lr,
            epochs: 1,
            batch: self.batch,
            weight_decay: 0.01,
            warmup: 0.06,
            train_length: member.folder.max_length,
            max_length: member.folder.max_length,
            class_weights: false,
            dropout: 0.1,
            teacher_weight: 0.0,
            interpolation: 1.0,
            // The last state: few texts cannot tell which one is best, and a likelihood on them prefers those that have learnt little.
            choice: Choice::Likelihood,
            evaluations: 1,
            patience: 1,
            seed: self.seed,
        }
    }
}

/// The pool's samples by what they are for.
pub struct Split {
    /// 70 %: trained on.
    pub training: Vec<Labelled>,
    /// 10 %: calibrates the new version.
    pub stopping: Vec<Labelled>,
    /// 20 %: decides at the gate, and is part of later anchor sets.
    pub gate: Vec<Labelled>,
}

/// Splits a pool, label by label. One that no round can be held on is an error: empty, of one label, or with fewer than
/// [`FEWEST_SAMPLES`].
pub fn split(pool: &[Labelled], labels: usize, seed: u64) -> Result<Split, TuneError> {
    let of = |label| pool.iter().filter(move |row| row.label == label);
    let present = (0..labels).filter(|label| of(*label).next().is_some()).count();
    let problem = match (pool.len(), present) {
        (0, _) => "the pool is empty: review hard samples first".to_owned(),
        (few @ 1..FEWEST_SAMPLES, _) => format!("the pool has {few} samples, a round needs at least {FEWEST_SAMPLES}"),
        (_, 1) => "all samples of the pool have the same label: a round would teach it for every text".to_owned(),
        _ => String::new(),
    };
    if !problem.is_empty() {
        return Err(TuneError::Pool(problem));
    }
    let mut chance = StdRng::seed_from_u64(seed);
    let mut split = Split { training: Vec::new(), stopping: Vec::new(), gate: Vec::new() };
    for label in 0..labels {
        let mut rows: Vec<Labelled> = of(label).cloned().collect();
        rows.shuffle(&mut chance);
        let count = rows.len();
        let gate = rows.split_off(count - (count as f64 * 0.2).round() as usize);
        let stopping = rows.split_off(rows.len() - (count as f64 * 0.1).round() as usize);
        split.training.extend(rows);
        split.stopping.extend(stopping);
        split.gate.extend(gate);
    }
    Ok(split)
}

/// `count` rows by chance, each label in its share of all rows.
pub fn stratified(rows: &[Labelled], labels: usize, count: usize, seed: u64) -> Vec<Labelled> {
    let mut chance = StdRng::seed_from_u64(seed);
    let mut taken = Vec::new();
    for label in 0..labels {
        let mut of: Vec<&Labelled> = rows.iter().filter(|row| row.label == label).collect();
        let share = of.len() as f64 / rows.len().max(1) as f64;
        of.shuffle(&mut chance);
        taken.extend(of.into_iter().take((share * count as f64).round() as usize).cloned());
    }
    taken.shuffle(&mut chance);
    taken
}

/// Whether every SLM holds a review's label for all but impossible; `probabilities` has a row an SLM.
pub fn contradicted<'a>(label: usize, probabilities: impl IntoIterator<Item = &'a [f32]>) -> bool {
    let mut rows = probabilities.into_iter().peekable();
    rows.peek().is_some() && rows.all(|row| row.get(label).is_some_and(|probability| *probability < CONTRADICTED))
}

/// What a round of one SLM trains and is held against.
#[derive(Clone, Copy)]
pub struct Material<'a> {
    /// The pool's samples, by what they are for.
    pub split: &'a Split,
    /// Older data to train on beside it, as much as [`RoundOptions::replay`] asks for and of each source the same number:
    /// the original training data by where it comes from.
    pub old: &'a [Vec<Labelled>],
    /// One more source: earlier pools.
    pub earlier: &'a [Labelled],
    /// What the largest SLM teaches the others, once it was through its own round.
    pub lesson: Option<&'a Lesson>,
    /// What must not get worse: validation data, the gate parts of earlier rounds, and what was held out of the old data;
    /// never trained on.
    pub anchor: &'a [Anchor],
}

/// A part of the anchor set.
#[derive(Debug, Clone)]
pub struct Anchor {
    /// Where it comes from, for the report.
    pub name: String,
    /// Its texts.
    pub rows: Vec<Labelled>,
}

impl Anchor {
    /// A labelled file.
    pub fn file(path: &Path, rows: Vec<Labelled>) -> Self {
        Self { name: format!("the anchor file {}", path.display()), rows }
    }

    /// What was held out of old data that is replayed; see [`hold_out`].
    pub fn held_out(source: impl Display, rows: Vec<Labelled>) -> Self {
        Self { name: format!("what was held out of {source}"), rows }
    }

    /// The gate parts of earlier rounds.
    pub fn earlier(rows: Vec<Labelled>) -> Self {
        Self { name: "what decided at earlier rounds".to_owned(), rows }
    }
}

/// What an SLM says, after its round, of the new domain's texts: the smaller ones learn from it too (distillation,
/// arXiv 1503.02531).
pub struct Lesson {
    /// Which texts of the pool's gate part it labels right.
    gate: Vec<bool>,
    /// Its probabilities of the pool's training part, `[texts x labels]`.
    pool: Vec<f32>,
    /// Texts of the pool's kind that nobody reviewed; their labels are not used.
    more: Vec<Labelled>,
    /// Its probabilities of those, `[texts x labels]`.
    of_more: Vec<f32>,
}

impl Lesson {
    /// What `teacher` says of the pool and of `more` texts of its kind.
    pub fn new(teacher: &mut Member, split: &Split, more: Vec<Labelled>) -> Result<Self, TuneError> {
        let mut said = |rows: &[Labelled]| teacher.encode(rows).and_then(|set| teacher.probabilities(&set));
        let (pool, of_more) = (said(&split.training)?, said(&more)?);
        let gate = teacher.encode(&split.gate)?;
        Ok(Self { gate: teacher.right(&gate)?, pool, more, of_more })
    }

    /// Whether there is something to learn from it for an SLM that labels these of the pool's gate part right.
    fn is_of_use(&self, right: &[bool]) -> bool {
        let count = |right: &[bool]| right.iter().filter(|right| **right).count();
        count(&self.gate) > count(right)
    }
}

/// The texts of the pool that a round goes through at least: a small pool in so many more passes.
const LEAST_POOL: usize = 1200;

/// The older texts that it goes through at least: with fewer different ones it forgets more of the rest than the gate bears.
const LEAST_OLD: usize = 4000;

/// Seed of what is replayed: the same texts in every round, so that the frozen layers run over them once.
const REPLAYED: u64 = 0;

/// The most texts that a lesson adds for each one of the pool's training part.
const MOST_MORE: usize = 2;

/// The most texts that are held out of a source of old data.
const MOST_HELD_OUT: usize = 700;

/// Holds a tenth of a source of old data out of what is replayed, the same texts whatever others there are: returns what may
/// be replayed, and of the tenth at most [`MOST_HELD_OUT`]; none of a source of which it would decide nothing.
pub fn hold_out(rows: Vec<Labelled>) -> (Vec<Labelled>, Vec<Labelled>) {
    let draw = |row: &Labelled| {
        let hash = Sha256::digest(row.text.as_bytes());
        u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
    };
    if rows.len() < 10 * FEWEST_SAMPLES {
        return (rows, Vec::new());
    }
    let (mut held, replayed): (Vec<Labelled>, Vec<Labelled>) =
        rows.into_iter().partition(|row| draw(row) < u32::MAX / 10);
    held.sort_by_cached_key(draw);
    held.truncate(MOST_HELD_OUT);
    (replayed, held)
}

/// What a round did to one SLM.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// The SLM's id.
    pub slm: String,
    /// What the gate said.
    #[serde(flatten)]
    pub decision: Decision,
    /// On the pool's gate part.
    pub gate: Paired,
    /// On the anchor set, where there is one and the gate part let it come so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<Paired>,
    /// The share of the way to what was trained that the candidate went.
    pub share: f32,
    /// Texts that were trained on: of the pool, and older ones.
    pub trained_on: [usize; 2],
}

/// Holds a round of one SLM; it is the new version afterwards if the gate says so, else what it was. The adapter of a new
/// version, on top of the version before, is returned as bytes.
pub fn round(
    member: &mut Member,
    material: &Material<'_>,
    options: &RoundOptions,
    running: &Running,
    progress: &ProgressBar,
) -> Result<(Report, Option<Vec<u8>>), TuneError> {
    let gate = Scored::new(member, &material.split.gate)?;
    let lesson = material.lesson.filter(|lesson| lesson.is_of_use(&gate.before));
    let Texts { rows, ends, stopping, trained_on } = texts(material, lesson, options, member.folder.labels.len());
    let (data, stopping) = (member.encode(&rows)?, member.encode(&stopping)?);
    let judge = Judge::new(member, gate, &stopping, material.anchor, options.seed)?;
    let targets = targets(member, &data, &rows, ends, lesson)?;
    let training = options.training(member);
    let start =
        Start { key: &member.key, weights: &member.weights, head: Some(&member.head), frozen: Some(&member.frozen) };
    let parts = fine_tune(&start, &training, running, (&data, &stopping), targets, progress)?;
    progress.set_message("gate");
    let (found, version, bytes) = judge.furthest(|share| candidate(member, &parts, share, &training, &stopping))?;
    let Found { decision, gate, anchor, share, .. } = found;
    let report = Report { slm: member.folder.id.clone(), decision, gate, anchor, share, trained_on };
    if report.decision != Decision::Promoted {
        return Ok((report, None));
    }
    *member = version;
    Ok((report, Some(bytes)))
}

/// What a round trains on.
struct Texts {
    rows: Vec<Labelled>,
    /// Where in them the pool's texts end, the lesson's and the old data; behind them are those of earlier pools.
    ends: [usize; 3],
    /// To calibrate on.
    stopping: Vec<Labelled>,
    /// See [`Report::trained_on`].
    trained_on: [usize; 2],
}

/// Several passes over the pool's texts, and over other old ones each time: the more different old texts it holds on to, the
/// less it forgets of the rest.
fn texts(material: &Material<'_>, lesson: Option<&Lesson>, options: &RoundOptions, labels: usize) -> Texts {
    let Material { split, old, earlier, .. } = *material;
    let passes = options.epochs.max(LEAST_POOL.div_ceil(split.training.len().max(1)));
    let sources: Vec<&[Labelled]> =
        old.iter().map(Vec::as_slice).chain([earlier]).filter(|rows| !rows.is_empty()).collect();
    let replayed = if options.replay > 0.0 { LEAST_OLD.div_ceil(passes) } else { 0 };
    let share = replayed.max((split.training.len() as f64 * options.replay) as usize) / sources.len().max(1);
    let (mut rows, mut stopping) = (vec![&split.training[..]; passes].concat(), split.stopping.clone());
    let pool_end = rows.len();
    if let Some(Lesson { more, .. }) = lesson {
        let a_pass = more.len().min(MOST_MORE * split.training.len());
        rows.extend(more.iter().cycle().take(a_pass * passes).cloned());
    }
    let mut ends = [pool_end, rows.len(), rows.len()];
    for source in sources {
        // A ninth part of a pass more, to calibrate on as well.
        let mut taken = stratified(source, labels, share * passes + share / 9, REPLAYED);
        stopping.extend(taken.split_off(taken.len() - (share / 9).min(taken.len() / 10)));
        rows.extend(taken.iter().cycle().take(share * passes * usize::from(!taken.is_empty())).cloned());
        if !std::ptr::eq(source, earlier) {
            ends[2] = rows.len();
        }
    }
    let trained_on = [split.training.len(), (rows.len() - ends[0]) / passes];
    Texts { rows, ends, stopping, trained_on }
}

/// What decides on a candidate.
struct Judge<'a> {
    gate: Scored,
    /// The [`brier`] scores of the version before, on the gate part.
    losses: Vec<f64>,
    anchor: Held<'a>,
    seed: u64,
}

/// What was found of a candidate.
struct Found {
    decision: Decision,
    gate: Paired,
    /// None where it was not asked.
    anchor: Option<Paired>,
    /// Which texts of the anchor set it labels right, where it was asked.
    right: Vec<bool>,
    share: f32,
}

impl Found {
    /// Whether the anchor set alone refuses it.
    fn lost(&self) -> bool {
        self.anchor.is_some() && self.decision != Decision::Promoted
    }
}

impl<'a> Judge<'a> {
    /// The version before is calibrated on the same texts as its candidates are: that alone makes nothing better.
    fn new(
        member: &mut Member,
        gate: Scored,
        stopping: &Dataset,
        anchor: &'a [Anchor],
        seed: u64,
    ) -> Result<Self, TuneError> {
        let temperature = fit_temperature(&member.logits(stopping)?, &stopping.labels, member.folder.labels.len());
        let losses = member.losses(&gate.set, temperature)?;
        Ok(Self { gate, losses, anchor: Held::new(member, anchor)?, seed })
    }

    fn judge(&self, version: &mut Member, share: f32) -> Result<Found, TuneError> {
        let losses = version.losses(&self.gate.set, version.folder.temperature)?;
        let before = (&self.gate.before[..], &self.losses[..]);
        let gate = Paired::by_loss(before, (&version.right(&self.gate.set)?, &losses), self.seed);
        let decision = decide(&gate, None);
        // What is not surely better need not be held against the anchor set.
        if decision != Decision::Promoted || self.anchor.is_empty() {
            return Ok(Found { decision, gate, anchor: None, right: Vec::new(), share });
        }
        let right = version.right(&self.anchor.all.set)?;
        tracing::debug!("share {share}: gate {gate:?}, anchor {:?}", self.anchor.changes(&right));
        let decision = decide(&gate, self.anchor.lost(&right));
        let anchor = Some(Paired::new(&self.anchor.all.before, &right, self.seed));
        Ok(Found { decision, gate, anchor, right, share })
    }

    /// Judges the candidate that went the whole way to what was trained and, as long as the anchor set alone refuses it, those of
    /// smaller shares of it, as `at` makes them. Where none is promoted it is the first again, whose figures say most.
    fn furthest(
        &self,
        mut at: impl FnMut(f32) -> Result<(Member, Vec<u8>), TuneError>,
    ) -> Result<(Found, Member, Vec<u8>), TuneError> {
        let (mut whole, bytes) = at(1.0)?;
        let found = self.judge(&mut whole, 1.0)?;
        if !found.lost() {
            return Ok((found, whole, bytes));
        }
        let turned = self.anchor.all.turned(&found.right);
        for &share in smaller_shares(self.anchor.spent(&found.right)) {
            let (mut less, bytes) = at(share)?;
            // Nearly all that turns on a part of the way turns on the whole: where too many of these few are lost, the others
            // are not asked, though they might explain a part's loss by chance.
            let few = less.right(&self.anchor.all.set.only(&turned))?;
            if self.anchor.lost(&self.anchor.all.with(&turned, &few)).is_some() {
                continue;
            }
            let found = self.judge(&mut less, share)?;
            if found.decision == Decision::Promoted {
                return Ok((found, less, bytes));
            }
            if !found.lost() {
                // Not surely better any more, and with less of the way still less.
                break;
            }
        }
        Ok((found, whole, bytes))
    }
}

/// The shares to try where the whole way `spent` more than it may on the anchor set, less the ones that would lose too much by
/// far if the loss grew with the share's square.
fn smaller_shares(spent: f64) -> &'static [f32] {
    let most = (1.5 / spent).sqrt().max(0.4) as f32;
    &SMALLER_SHARES[SMALLER_SHARES.iter().take_while(|share| **share > most).count()..]
}

/// Texts, and which of them the version before labels right.
struct Scored {
    set: Dataset,
    before: Vec<bool>,
}

impl Scored {
    fn new(member: &mut Member, rows: &[Labelled]) -> Result<Self, TuneError> {
        let set = member.encode(rows)?;
        Ok(Self { before: member.right(&set)?, set })
    }

    /// The texts that a candidate, which labels these right, labels right and the version before does not, or the other way round.
    fn turned(&self, after: &[bool]) -> Vec<usize> {
        (0..after.len()).filter(|text| after[*text] != self.before[*text]).collect()
    }

    /// Which texts a candidate labels right if it labels these `texts` so, and the others as the version before.
    fn with(&self, texts: &[usize], after: &[bool]) -> Vec<bool> {
        let mut all = self.before.clone();
        texts.iter().zip(after).for_each(|(text, right)| all[*text] = *right);
        all
    }
}

/// Where each part lies among all texts, by its name.
fn places(parts: &[Anchor]) -> Vec<(&str, Range<usize>)> {
    let mut end = 0;
    let place = |part| {
        let Anchor { name, rows }: &Anchor = part;
        end += rows.len();
        (&name[..], end - rows.len()..end)
    };
    parts.iter().map(place).collect()
}

/// The anchor set, its parts end to end.
struct Held<'a> {
    all: Scored,
    parts: Vec<(&'a str, Range<usize>)>,
}

impl<'a> Held<'a> {
    fn new(member: &mut Member, parts: &'a [Anchor]) -> Result<Self, TuneError> {
        let rows: Vec<Labelled> = parts.iter().flat_map(|part| &part.rows).cloned().collect();
        Ok(Self { all: Scored::new(member, &rows)?, parts: places(parts) })
    }

    fn is_empty(&self) -> bool {
        self.all.before.is_empty()
    }

    /// What a candidate, which labels these right, does to each part, and how much of what may be lost there that is; of all
    /// texts first.
    fn changes(&self, right: &[bool]) -> Vec<(&'a str, Change, f64)> {
        let all = Change::new(&self.all.before, right);
        let of = |(name, texts): &(&'a str, Range<usize>)| {
            let part = Change::new(&self.all.before[texts.clone()], &right[texts.clone()]);
            (*name, part, part.spent_of_part())
        };
        std::iter::once(("the anchor set", all, all.spent())).chain(self.parts.iter().map(of)).collect()
    }

    /// The most of it that it loses of all texts or of a part.
    fn spent(&self, right: &[bool]) -> f64 {
        self.changes(right).into_iter().map(|(_, _, spent)| spent).fold(0.0, f64::max)
    }

    /// What loses too much, if anything does: all texts or a part, whichever lost the most of what it may.
    fn lost(&self, right: &[bool]) -> Option<(&'a str, Change)> {
        let worst = self.changes(right).into_iter().max_by(|(_, _, a), (_, _, b)| a.total_cmp(b));
        worst.filter(|(_, _, spent)| *spent > 1.0).map(|(name, change, _)| (name, change))
    }
}

/// What to train towards, `[texts x labels]`: the label of the pool's texts, which come first, with a lesson half of it and half
/// of what the teacher says; what it says of the lesson's own; of the old data, behind them, what the current version says, so
/// that it changes little there (learning without forgetting, arXiv 1606.09282); of earlier pools half of each (DER,
/// arXiv 2004.07211).
fn targets(
    member: &mut Member,
    data: &Dataset,
    rows: &[Labelled],
    [pool_end, more_end, old_end]: [usize; 3],
    lesson: Option<&Lesson>,
) -> Result<Vec<f32>, TuneError> {
    let labels = member.folder.labels.len();
    let replayed = member.encode(&rows[more_end..])?;
    let mut targets = match lesson {
        None => vec![0.0; pool_end * labels],
        Some(Lesson { pool, of_more, .. }) => {
            let of_pool = pool.iter().cycle().take(pool_end * labels);
            of_pool.chain(of_more.iter().cycle().take((more_end - pool_end) * labels)).copied().collect()
        }
    };
    // As the loss takes them, without a temperature.
    targets.extend(member.probabilities_at(&replayed, 1.0)?);
    for (at, (row, label)) in targets.chunks_exact_mut(labels).zip(&data.labels).enumerate() {
        let kept = match at {
            _ if at < pool_end => lesson.map_or(0.0, |_| 0.5),
            _ if at < old_end => 1.0,
            _ => 0.5,
        };
        row.iter_mut().for_each(|target| *target *= kept);
        row[*label] += 1.0 - kept;
    }
    Ok(targets)
}

/// The version that lies `share` of the way from the current one to what was trained, and its adapter.
fn candidate(
    member: &Member,
    parts: &[Trained],
    share: f32,
    training: &Options,
    stopping: &Dataset,
) -> Result<(Member, Vec<u8>), TuneError> {
    let mut weights = member.weights.clone();
    let mut parts = parts.to_vec();
    interpolate(&mut parts, &mut weights, share, Some(&member.head));
    let bytes = serialize(&parts, Dtype::F16)?;
    let (rank, alpha) = if training.method == Method::Lora { (training.rank, training.alpha) } else { (0, 0.0) };
    let adapter = AdapterFile {
        file: format!("round-{}.safetensors", &sha256_hex(&bytes)[..12]),
        sha256: sha256_hex(&bytes),
        method: training.method,
        rank,
        alpha,
    };
    let mut folder = member.folder.clone();
    let head = folder.merge_one(&adapter, &bytes, &mut weights)?;
    folder.rounds.push(adapter);
    let labels = folder.labels.len();
    let (key, tokenizer) = (member.key.clone(), member.tokenizer.clone());
    let layers = member.frozen().layers();
    // With no layer frozen, the embeddings may have been trained.
    let frozen = match layers {
        0 => Arc::new(Mutex::new(Frozen::new(&weights, 0))),
        _ => member.frozen.clone(),
    };
    let engine = upper(&weights, layers, &head);
    let mut candidate = Member { folder, key, tokenizer, weights, head, frozen, engine, said: Arc::default() };
    let logits = candidate.logits(stopping)?;
    let temperature = fit_temperature(&logits, &stopping.labels, labels);
    candidate.folder.temperature = temperature;
    candidate.folder.validation = metrics(&logits, &stopping.labels, labels, temperature);
    candidate.head.temperature = temperature;
    Ok((candidate, bytes))
}

/// The layers from `first` on, with the head.
fn upper(weights: &EncoderWeights, first: usize, head: &Head) -> CpuEngine {
    CpuEngine::from_encoder(CpuEncoder::upper(weights, first), head.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows(counts: &[usize]) -> Vec<Labelled> {
        let of = |(label, count): (usize, &usize)| {
            (0..*count).map(move |at| Labelled { text: format!("{label} {at}"), label }).collect::<Vec<_>>()
        };
        counts.iter().enumerate().flat_map(of).collect()
    }

    proptest! {
        /// Nothing is lost or doubled, and each label is split in the same shares.
        #[test]
        fn a_split_has_every_sample_once(counts in proptest::collection::vec(50usize..120, 2..4), seed in 0u64..100) {
            let pool = rows(&counts);
            let parts = split(&pool, counts.len(), seed).expect("splits");
            let mut all: Vec<Labelled> = [&parts.training, &parts.stopping, &parts.gate].into_iter().flatten().cloned().collect();
            all.sort_by(|a, b| a.text.cmp(&b.text));
            let mut wanted = pool;
            wanted.sort_by(|a, b| a.text.cmp(&b.text));
            prop_assert_eq!(all, wanted);
            for (label, count) in counts.iter().enumerate() {
                let gate = parts.gate.iter().filter(|row| row.label == label).count();
                prop_assert_eq!(gate, (*count as f64 * 0.2).round() as usize);
            }
        }
    }

    #[test]
    fn pools_that_teach_nothing_are_errors() {
        let problem =
            |counts: &[usize]| split(&rows(counts), 3, 0).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(problem(&[]).contains("empty"));
        assert!(problem(&[5, 5]).contains("10 samples"));
        assert!(problem(&[0, 150]).contains("the same label"));
        assert_eq!(problem(&[60, 60]), "");
    }

    #[test]
    fn what_is_held_out_is_not_replayed() {
        let mut all = rows(&[1000, 1000]);
        all.extend(all.clone());
        let (replayed, held) = hold_out(all.clone());
        assert!((300..500).contains(&held.len()), "{}", held.len());
        assert!(held.iter().all(|row| !replayed.contains(row)));
        // The same ones of more rows.
        let (more, again) = hold_out([all.clone(), rows(&[1500, 1500])[..].to_vec()].concat());
        assert!(held.iter().all(|row| !more.contains(row)) && again.len() > held.len());
        assert_eq!(hold_out(all[..900].to_vec()), (all[..900].to_vec(), Vec::new()));
    }

    #[test]
    fn shares_that_would_lose_too_much_by_far_are_not_tried() {
        assert_eq!(smaller_shares(1.4), SMALLER_SHARES);
        assert_eq!(smaller_shares(2.2), SMALLER_SHARES);
        assert_eq!(smaller_shares(4.0), [0.6, 0.5, 0.4, 0.25]);
        assert_eq!(smaller_shares(f64::INFINITY), [0.4, 0.25]);
    }

    #[test]
    fn a_loss_is_found_on_the_texts_that_turned() {
        let before: Vec<bool> = (0..1000).map(|text| text < 700).collect();
        let mut whole = before.clone();
        whole[690..700].fill(false);
        whole[700..702].fill(true);
        let all = Scored { set: Dataset::default(), before };
        let turned = all.turned(&whole);
        assert_eq!(turned, (690..702).collect::<Vec<_>>());
        let held = Held { all, parts: vec![("a", 0..1000)] };
        let lost = |right: usize| {
            let few: Vec<bool> = (0..12).map(|text| text < right).collect();
            held.lost(&held.all.with(&turned, &few)).map(|(name, _)| name)
        };
        // 10 of them were right before; 5 of 1,000 may be lost.
        assert_eq!((lost(5), lost(4)), (None, Some("the anchor set")));
    }

    #[test]
    fn a_part_s_loss_is_not_hidden_by_another_s_gain() {
        let before: Vec<bool> = (0..2000).map(|text| !(1000..1400).contains(&text)).collect();
        let anchor = [
            Anchor::earlier(Vec::new()),
            Anchor::file("lost.csv".as_ref(), rows(&[1000])),
            Anchor::held_out("won.csv", rows(&[500, 500])),
        ];
        let all = Scored { set: Dataset::default(), before: before.clone() };
        let held = Held { all, parts: places(&anchor) };
        let after = |lost: usize| {
            let mut right = before.clone();
            right[..lost].fill(false);
            right[1000..1100].fill(true);
            held.lost(&right).map(|(name, _)| name)
        };
        assert_eq!((after(10), after(11)), (None, Some("the anchor file lost.csv")));
    }

    #[test]
    fn a_stratified_sample_keeps_the_shares() {
        let taken = stratified(&rows(&[100, 300]), 2, 40, 7);
        assert_eq!(taken.iter().filter(|row| row.label == 1).count(), 30);
        assert_eq!(taken.len(), 40);
        assert_eq!(stratified(&rows(&[3, 1]), 2, 40, 7).len(), 4);
    }

    #[test]
    fn only_what_every_slm_denies_is_contradicted() {
        let (sure, unsure) = ([0.99f32, 0.01], [0.9f32, 0.1]);
        assert!(contradicted(1, [&sure[..], &sure]));
        assert!(!contradicted(1, [&sure[..], &unsure]));
        assert!(!contradicted(0, [&sure[..], &sure]));
        assert!(!contradicted(0, []));
    }
}
