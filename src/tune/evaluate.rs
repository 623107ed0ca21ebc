//! The paper's protocol (AutoAnnotator, arXiv 2506.16393): a stream of texts is annotated in batches, hard samples are
//! reviewed, a round is held whenever the pool is full, and a test file is scored before and after each round.

use super::TuneError;
use super::agreement::{Agreement, Bin, agreement, calibration_error, interval, reliability};
use super::dataset::Dataset;
use super::gate::Decision;
use super::round::{
    Anchor, FEWEST_SAMPLES, Labelled, Lesson, Material, Member, Report, RoundOptions, contradicted, round, split,
};
use super::train::Running;
use crate::annotate::report::{Confusion, Score, wilson};
use crate::slm::adapter::Method;
use crate::slm::burn::Backend;
use crate::slm::probabilities;
use crate::vote::argmax;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::panic::resume_unwind;
use std::time::Instant;

/// Texts that are voted on before the next ones are reviewed.
const BATCH: usize = 250;

/// Who reviews hard samples.
pub enum Reviewer {
    /// A person: the gold label.
    Gold,
    /// An LLM, whose replies were recorded: the label by text, none where it gave none, and tokens.
    Replies(HashMap<String, Reply>),
}

/// A recorded reply.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Index of the label, where the reply was one.
    pub label: Option<usize>,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the completion.
    pub completion_tokens: u64,
}

impl Reviewer {
    fn review(&self, row: &Labelled) -> Reply {
        let none = Reply { label: None, prompt_tokens: 0, completion_tokens: 0 };
        match self {
            Self::Gold => Reply { label: Some(row.label), ..none },
            Self::Replies(replies) => replies.get(&row.text).cloned().unwrap_or(none),
        }
    }
}

/// One way to label the stream, and what it comes to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Way {
    /// Its name; an SLM's is its id.
    pub name: String,
    /// Accuracy; a text without a label counts as wrong.
    pub accuracy: f64,
    /// The accuracy's 95 % interval.
    pub interval: [f64; 2],
    /// Macro-F1.
    pub macro_f1: f64,
    /// Texts that a reviewer was asked about.
    pub reviews: usize,
    /// Tokens of those prompts.
    pub prompt_tokens: u64,
    /// Tokens of those completions.
    pub completion_tokens: u64,
}

/// Counts a way while the stream goes by.
struct Counted {
    confusion: Confusion,
    right: Vec<f64>,
}

impl Counted {
    fn new(labels: usize) -> Self {
        Self { confusion: Confusion::new(labels), right: Vec::new() }
    }

    fn add(&mut self, gold: usize, label: Option<usize>) {
        self.confusion.add(gold, label);
        self.right.push(f64::from(u8::from(label == Some(gold))));
    }

    fn way(&self, name: &str, (reviews, prompt_tokens, completion_tokens): (usize, u64, u64)) -> Way {
        let Score { accuracy, macro_f1 } = self.confusion.score();
        let interval = interval(&self.right, 0);
        Way { name: name.to_owned(), accuracy, interval, macro_f1, reviews, prompt_tokens, completion_tokens }
    }
}

/// An LLM that labels every text by itself; a person would be right by definition.
fn reviewer_alone(reviewer: &Reviewer, rows: &[Labelled], labels: usize) -> Option<Way> {
    if matches!(reviewer, Reviewer::Gold) {
        return None;
    }
    let (mut counted, mut spent) = (Counted::new(labels), (0, 0, 0));
    for row in rows {
        let Reply { label, prompt_tokens, completion_tokens } = reviewer.review(row);
        counted.add(row.label, label);
        spent = (spent.0 + 1, spent.1 + prompt_tokens, spent.2 + completion_tokens);
    }
    Some(counted.way("reviewer alone", spent))
}

/// What an evaluation runs on. All label indices are those of the SLMs.
pub struct Sets {
    /// Annotated, in an order by chance.
    pub stream: Vec<Labelled>,
    /// Scored at the start and after each round.
    pub test: Vec<Labelled>,
    /// Texts of the old domain that no gate sees, scored likewise.
    pub old_test: Vec<Labelled>,
    /// Older data for rounds to train on besides the pool, by where it comes from.
    pub replay: Vec<Vec<Labelled>>,
    /// What rounds must not make worse; the gate parts of earlier rounds join it.
    pub anchor: Vec<Anchor>,
}

/// How to run it.
#[derive(Clone, Serialize)]
pub struct Settings {
    /// Reviewed samples at which a round is held, at least [`FEWEST_SAMPLES`]; 0 for no rounds.
    pub pool: usize,
    /// The same for the first round.
    pub first_pool: usize,
    /// The share of reviews whose label is replaced by a wrong one.
    pub noise: f64,
    /// Whether the last versions vote again, at the end, on what was agreed on: a text whose majority is another label now is
    /// reviewed too.
    pub look_again: bool,
    /// The share of texts agreed on that is reviewed as well, drawn by chance: it says how many of them are wrong.
    pub audit: f64,
    /// The same until the first round, while nothing is known of how far to trust an agreement on such texts.
    pub first_audit: f64,
    /// How rounds are held.
    pub round: RoundOptions,
    /// Seed of the stream's order and all else by chance.
    pub seed: u64,
}

/// Scores of frozen SLMs on labelled texts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Scores {
    /// The number of texts.
    pub texts: usize,
    /// Each SLM, in order.
    pub slms: Vec<Score>,
    /// The label with most votes; of a tie the one with the largest sum of probabilities.
    pub majority: Score,
    /// The share of texts on which all agree.
    pub agreed: f64,
    /// The share of those whose label is right.
    pub accuracy_on_agreed: f64,
    /// The majority's labels against the gold ones.
    pub confusion: Confusion,
    /// The majority's accuracy, 95 % interval.
    pub majority_interval: [f64; 2],
    /// How far the SLMs agree beyond chance.
    pub agreement: Agreement,
    /// The expected calibration error of each SLM, and last of the mean of their probabilities.
    pub calibration_error: Vec<f64>,
    /// The same without the SLMs' temperatures.
    pub calibration_error_before: Vec<f64>,
    /// The mean's reliability diagram.
    pub reliability: Vec<Bin>,
}

/// What the stream came to.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Stream {
    /// Texts.
    pub texts: usize,
    /// Accuracy of the final labels, accepted and reviewed; a text without a label counts as wrong.
    pub accuracy: f64,
    /// Each SLM as it was when it voted, the best of them, their majority, the reviewer alone where it is an LLM, the paper's rule
    /// (what was agreed on, and reviews of the rest), and what was agreed on or reviewed for any reason: the final labels.
    pub ways: Vec<Way>,
    /// Reviews.
    pub reviews: usize,
    /// The share of each quarter that was reviewed for any reason: hard, drawn for the audit, or looked at again.
    pub review_share: [f64; 4],
    /// The share of each quarter that was hard: the SLMs did not agree when they voted.
    pub hard_share: [f64; 4],
    /// The reviewer's accuracy on hard samples.
    pub reviewer_accuracy: f64,
    /// Tokens of the reviews' prompts.
    pub prompt_tokens: u64,
    /// Tokens of their completions.
    pub completion_tokens: u64,
    /// Texts on which all SLMs agreed on a wrong label when they voted, whoever found out.
    pub agreed_and_wrong: usize,
    /// Hard samples on which the majority was right.
    pub hard_and_majority_right: usize,
    /// Reviews by an LLM that no round trains on, since all SLMs all but ruled them out; a person's count (see the pool).
    pub contradicted: usize,
    /// Reviews of texts that had been agreed on, since the last versions say another label.
    pub second_looks: usize,
    /// After each batch: reviews so far, and the share of the texts so far whose label is right.
    pub course: Vec<(usize, f64)>,
    /// Texts agreed on that were reviewed for the audit, and those of them that were agreed on wrongly by the reviewer's word.
    pub audited: [usize; 2],
    /// The 95 % interval of their share (Wilson).
    pub audit_interval: [f64; 2],
}

/// Everything that was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Evaluation {
    /// Ids of the SLMs, in the order of all figures.
    pub slms: Vec<String>,
    /// The stream.
    pub stream: Stream,
    /// The test file at the start and after each round.
    pub test: Vec<Scores>,
    /// The old domain's, likewise.
    pub old_test: Vec<Scores>,
    /// What each round did, SLM by SLM.
    pub rounds: Vec<Vec<Report>>,
    /// What it took.
    pub seconds: u64,
}

/// Runs the protocol; `members` are the last versions afterwards.
pub fn evaluate(
    members: &mut [Member],
    sets: &Sets,
    settings: &Settings,
    reviewer: &Reviewer,
    running: &Running,
    progress: &ProgressBar,
) -> Result<Evaluation, TuneError> {
    let started = Instant::now();
    let labels = members.first().map_or(0, |member| member.folder.labels.len());
    let mut chance = StdRng::seed_from_u64(settings.seed);
    let mut stream = sets.stream.clone();
    stream.shuffle(&mut chance);
    let mut tally = Tally::new((labels, members.len(), stream.len()), reviewer, settings, chance);
    let mut found = Evaluation {
        slms: members.iter().map(|member| member.folder.id.clone()).collect(),
        stream: Stream::default(),
        test: vec![scores(members, &sets.test)?],
        old_test: vec![scores(members, &sets.old_test)?],
        rounds: Vec::new(),
        seconds: 0,
    };
    let (mut pool, mut decided, mut earlier) = (Vec::new(), Vec::new(), Vec::new());
    let bars = MultiProgress::with_draw_target(match progress.is_hidden() {
        true => ProgressDrawTarget::hidden(),
        false => ProgressDrawTarget::stderr(),
    });
    let progress = &bars.add(progress.clone());
    let mut rounds = Rounds { settings, sets, running, progress, bars: &bars };
    let vote = |members: &mut [Member], rows: &[Labelled]| -> Result<Vec<Vec<f32>>, TuneError> {
        members.iter_mut().map(|member| votes(member, rows)).collect()
    };
    let mut seen = 0;
    while seen < stream.len() {
        progress.set_length(stream.len() as u64);
        progress.set_position(seen as u64);
        progress.set_message(format!("stream; {} in the pool", pool.len()));
        let batch = &stream[seen..(seen + BATCH).min(stream.len())];
        let votes = vote(members, batch)?;
        for (at, row) in batch.iter().enumerate() {
            pool.extend(tally.add(row, &nth(&votes, at, labels)));
        }
        seen += batch.len();
        tally.note(&stream);
        let enough = if found.rounds.is_empty() { settings.first_pool } else { settings.pool };
        let full = settings.pool > 0 && pool.len() >= enough;
        let last = settings.pool > 0 && seen == stream.len() && pool.len() >= FEWEST_SAMPLES;
        if !full && !last {
            continue;
        }
        let mut accepted: Vec<Labelled> = tally.accepted().into_iter().map(|at| stream[at].clone()).collect();
        accepted.shuffle(&mut StdRng::seed_from_u64(settings.seed));
        rounds.hold(members, (&mut pool, &accepted), (&mut decided, &mut earlier), &mut found)?;
        tally.audit = settings.audit;
    }
    let promoted = found.rounds.iter().flatten().any(|report| report.decision == Decision::Promoted);
    if settings.look_again && promoted {
        let accepted = tally.accepted();
        let rows: Vec<Labelled> = accepted.iter().map(|at| stream[*at].clone()).collect();
        let votes = vote(members, &rows)?;
        for (index, at) in accepted.into_iter().enumerate() {
            tally.look_again(at, &stream[at], &nth(&votes, index, labels));
        }
        tally.note(&stream);
    }
    found.stream = tally.finish(&stream, &found.slms);
    found.seconds = started.elapsed().as_secs();
    Ok(found)
}

struct Rounds<'a> {
    settings: &'a Settings,
    sets: &'a Sets,
    running: &'a Running,
    progress: &'a ProgressBar,
    /// What it stands among; those of the SLMs that learn at once come below it.
    bars: &'a MultiProgress,
}

impl Rounds<'_> {
    /// How many of the smaller SLMs learn at once: they leave each other time on every core. burn's chance is one for the whole
    /// process, so where it trains, and not our own kernels, a seed would no longer give the same round.
    fn at_once(&self) -> usize {
        let own = self.running.backend == Backend::Cpu && self.settings.round.method == Method::Lora;
        if own { usize::MAX } else { 1 }
    }

    /// A round of every SLM on the pool, which is empty afterwards; the smaller ones learn of the `accepted` texts what the
    /// largest says. The pool's gate part joins what has `decided` and is held on to, and the rest what later rounds replay.
    fn hold(
        &mut self,
        members: &mut [Member],
        (pool, accepted): (&mut Vec<Labelled>, &[Labelled]),
        (decided, earlier): (&mut Vec<Labelled>, &mut Vec<Labelled>),
        found: &mut Evaluation,
    ) -> Result<(), TuneError> {
        let labels = members.first().map_or(0, |member| member.folder.labels.len());
        let seed = self.settings.seed.wrapping_add(1000 * (found.rounds.len() as u64 + 1));
        let parts = split(pool, labels, seed)?;
        let options = RoundOptions { seed, ..self.settings.round.clone() };
        let number = found.rounds.len() + 1;
        let anchor = [&self.sets.anchor[..], &[Anchor::earlier(decided.clone())]].concat();
        let hold = |(at, member): (usize, &mut Member), lesson: Option<&Lesson>, progress: &ProgressBar| {
            let material = Material { split: &parts, old: &self.sets.replay, earlier, anchor: &anchor, lesson };
            let running = Running { scratch: self.running.scratch.join(&member.folder.id), ..self.running.clone() };
            progress.set_prefix(format!("{} ", member.folder.id));
            let (report, _) = round(member, &material, &options, &running, progress)?;
            progress.set_prefix("");
            progress.suspend(|| tracing::info!("round {number}: {}", line(&report)));
            Ok::<_, TuneError>((at, report))
        };
        let mut order: Vec<_> = members.iter_mut().enumerate().collect();
        order.sort_by_key(|(_, member)| Reverse(member.size()));
        let mut order = order.into_iter();
        let mut reports = Vec::new();
        if let Some((at, largest)) = order.next() {
            reports.push(hold((at, largest), None, self.progress)?);
            let lesson = Lesson::new(largest, &parts, accepted.to_vec())?;
            reports.extend(self.learn(order, |member, progress| hold(member, Some(&lesson), progress))?);
        }
        reports.sort_by_key(|(at, _)| *at);
        let reports = reports.into_iter().map(|(_, report)| report).collect();
        pool.clear();
        decided.extend(parts.gate);
        earlier.extend(parts.training);
        earlier.extend(parts.stopping);
        found.rounds.push(reports);
        found.test.push(scores(members, &self.sets.test)?);
        found.old_test.push(scores(members, &self.sets.old_test)?);
        Ok(())
    }

    /// Takes the smaller SLMs through the round, as many at once as may be, each with a bar of its own.
    fn learn<M: Send, R: Send>(
        &self,
        others: impl Iterator<Item = M>,
        hold: impl Fn(M, &ProgressBar) -> Result<R, TuneError> + Sync,
    ) -> Result<Vec<R>, TuneError> {
        let (mut others, mut reports) = (others.peekable(), Vec::new());
        let bar = || self.bars.add(ProgressBar::new(0).with_style(self.progress.style()));
        while others.peek().is_some() {
            let learnt = std::thread::scope(|scope| {
                let learn = |(other, bar): (M, ProgressBar)| {
                    let hold = &hold;
                    scope.spawn(move || hold(other, &bar).inspect(|_| bar.finish_and_clear()))
                };
                let learning: Vec<_> =
                    others.by_ref().take(self.at_once()).zip(std::iter::repeat_with(bar)).map(learn).collect();
                let ended = learning.into_iter().map(|one| one.join().unwrap_or_else(|panic| resume_unwind(panic)));
                ended.collect::<Result<Vec<_>, TuneError>>()
            });
            reports.extend(learnt?);
        }
        Ok(reports)
    }
}

fn line(report: &Report) -> String {
    let percent = |share: f64| format!("{:.1}", 100.0 * share);
    let (gate, slm) = (&report.gate, &report.slm);
    let anchor = report
        .anchor
        .map_or(String::new(), |anchor| format!(", anchor {} to {}", percent(anchor.before), percent(anchor.after)));
    format!(
        "{slm}: gate {} to {}{anchor}, share {}: {:?}",
        percent(gate.before),
        percent(gate.after),
        report.share,
        report.decision
    )
}

/// Calibrated probabilities of each row, end to end.
fn votes(member: &mut Member, rows: &[Labelled]) -> Result<Vec<f32>, TuneError> {
    let set = member.encode(rows)?;
    member.probabilities(&set)
}

/// Each SLM's probabilities of one text.
fn nth(votes: &[Vec<f32>], at: usize, labels: usize) -> Vec<&[f32]> {
    votes.iter().map(|values| &values[at * labels..][..labels]).collect()
}

/// The label with most votes; of a tie the one with the largest sum of probabilities.
pub fn majority(rows: &[&[f32]]) -> usize {
    let labels = rows.first().map_or(0, |row| row.len());
    let weight = |label: usize| {
        let votes = rows.iter().filter(|row| argmax(row) == label).count() as f32;
        let sum: f32 = rows.iter().map(|row| row[label]).sum();
        votes + sum / (rows.len() as f32 + 1.0)
    };
    argmax(&(0..labels).map(weight).collect::<Vec<_>>())
}

/// The label that all name.
fn unanimous(rows: &[&[f32]]) -> Option<usize> {
    let first = argmax(rows.first()?);
    rows.iter().all(|row| argmax(row) == first).then_some(first)
}

/// Scores frozen SLMs on labelled texts.
pub fn scores(members: &mut [Member], rows: &[Labelled]) -> Result<Scores, TuneError> {
    let labels = members.first().map_or(0, |member| member.folder.labels.len());
    let sets: Vec<Dataset> = members.iter().map(|member| member.encode(rows)).collect::<Result<_, _>>()?;
    let votes: Vec<Vec<f32>> =
        members.iter_mut().zip(&sets).map(|(member, set)| member.probabilities(set)).collect::<Result<_, _>>()?;
    let count = members.len();
    let mut confusions = vec![Confusion::new(labels); count + 1];
    let (mut agreed, mut right) = (0usize, 0usize);
    let mut raters = vec![Vec::with_capacity(rows.len()); count];
    let (mut means, mut majority_right) = (Vec::with_capacity(rows.len() * labels), Vec::with_capacity(rows.len()));
    for (at, row) in rows.iter().enumerate() {
        let of = nth(&votes, at, labels);
        for ((confusion, rater), probabilities) in confusions.iter_mut().zip(&mut raters).zip(&of) {
            confusion.add(row.label, Some(argmax(probabilities)));
            rater.push(argmax(probabilities));
        }
        let label = majority(&of);
        confusions[count].add(row.label, Some(label));
        majority_right.push(f64::from(u8::from(label == row.label)));
        means.extend((0..labels).map(|label| of.iter().map(|row| row[label]).sum::<f32>() / count as f32));
        if let Some(label) = unanimous(&of) {
            agreed += 1;
            right += usize::from(label == row.label);
        }
    }
    let bins =
        |values: &[f32]| reliability(values.chunks_exact(labels.max(1)).zip(rows.iter().map(|row| row.label))).to_vec();
    let raw = without_temperatures(members, &votes, labels);
    let before = raw.iter().map(|values| calibration_error(&bins(values))).collect();
    let mut scores: Vec<Score> = confusions.iter().map(Confusion::score).collect();
    let majority = scores.pop().unwrap_or(Score { accuracy: 0.0, macro_f1: 0.0 });
    let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
    let (agreed, accuracy_on_agreed) = (share(agreed, rows.len()), share(right, agreed));
    Ok(Scores {
        texts: rows.len(),
        slms: scores,
        majority,
        agreed,
        accuracy_on_agreed,
        confusion: confusions.swap_remove(count),
        majority_interval: interval(&majority_right, 0),
        agreement: agreement(&raters, labels),
        calibration_error_before: before,
        calibration_error: votes.iter().chain([&means]).map(|values| calibration_error(&bins(values))).collect(),
        reliability: bins(&means),
    })
}

/// Each SLM's probabilities as they were before its temperature, and last their mean.
fn without_temperatures(members: &[Member], votes: &[Vec<f32>], labels: usize) -> Vec<Vec<f32>> {
    let raw = |(member, values): (&Member, &Vec<f32>)| -> Vec<f32> {
        let mut logits: Vec<f32> =
            values.iter().map(|p| p.max(f32::MIN_POSITIVE).ln() * member.folder.temperature).collect();
        probabilities(&mut logits, labels, 1.0);
        logits
    };
    let mut all: Vec<Vec<f32>> = members.iter().zip(votes).map(raw).collect();
    let texts = all.first().map_or(0, Vec::len);
    let mean = |at: usize| all.iter().map(|values| values[at]).sum::<f32>() / all.len().max(1) as f32;
    all.push((0..texts).map(mean).collect());
    all
}

/// Counts over the stream, and reviews what has to be.
struct Tally<'a> {
    reviewer: &'a Reviewer,
    settings: &'a Settings,
    chance: StdRng,
    /// The share of texts agreed on that is reviewed now.
    audit: f64,
    labels: usize,
    all: usize,
    stream: Stream,
    /// The final label of each text so far, and whether it was reviewed.
    verdicts: Vec<(Option<usize>, bool)>,
    slms: Vec<Counted>,
    majority: Counted,
    /// The paper's rule, and what its reviews took.
    hard: (Counted, (usize, u64, u64)),
    /// Hard samples that the reviewer gave the right label.
    reviewer_right: usize,
    quarters: [Quarter; 4],
}

/// Texts of a quarter of the stream.
#[derive(Default)]
struct Quarter {
    all: usize,
    hard: usize,
    reviewed: usize,
}

impl<'a> Tally<'a> {
    fn new(
        (labels, slms, all): (usize, usize, usize),
        reviewer: &'a Reviewer,
        settings: &'a Settings,
        chance: StdRng,
    ) -> Self {
        Self {
            reviewer,
            settings,
            chance,
            audit: settings.first_audit,
            labels,
            all,
            stream: Stream::default(),
            verdicts: Vec::new(),
            slms: (0..slms).map(|_| Counted::new(labels)).collect(),
            majority: Counted::new(labels),
            hard: (Counted::new(labels), (0, 0, 0)),
            reviewer_right: 0,
            quarters: Default::default(),
        }
    }

    /// Counts a text by the SLMs' probabilities, reviews it if it is hard, and returns what goes into the pool.
    fn add(&mut self, row: &Labelled, votes: &[&[f32]]) -> Option<Labelled> {
        let at = self.verdicts.len();
        self.quarter(at).all += 1;
        for (counted, probabilities) in self.slms.iter_mut().zip(votes) {
            counted.add(row.label, Some(argmax(probabilities)));
        }
        let label = majority(votes);
        self.majority.add(row.label, Some(label));
        let majority_right = label == row.label;
        let agreed = unanimous(votes);
        self.quarter(at).hard += usize::from(agreed.is_none());
        self.stream.agreed_and_wrong += usize::from(agreed.is_some_and(|label| label != row.label));
        if agreed.is_some() && !(self.audit > 0.0 && self.chance.random_bool(self.audit)) {
            self.verdicts.push((agreed, false));
            self.hard.0.add(row.label, agreed);
            return None;
        }
        self.stream.hard_and_majority_right += usize::from(majority_right && agreed.is_none());
        let before = self.spent();
        let (label, pooled) = self.review(at, row, votes);
        self.hard.0.add(row.label, agreed.or(label));
        if agreed.is_none() {
            self.reviewer_right += usize::from(label == Some(row.label));
            let (after, hard) = (self.spent(), &mut self.hard.1);
            *hard = (hard.0 + 1, hard.1 + after.1 - before.1, hard.2 + after.2 - before.2);
        }
        if let (Some(agreed), Some(label)) = (agreed, label) {
            self.stream.audited[0] += 1;
            self.stream.audited[1] += usize::from(agreed != label);
        }
        self.verdicts.push((label.or(agreed), true));
        pooled
    }

    /// Reviews so far, and their tokens.
    fn spent(&self) -> (usize, u64, u64) {
        (self.stream.reviews, self.stream.prompt_tokens, self.stream.completion_tokens)
    }

    /// Notes how far it has come.
    fn note(&mut self, rows: &[Labelled]) {
        let right = self.verdicts.iter().zip(rows).filter(|((label, _), row)| *label == Some(row.label)).count();
        self.stream.course.push((self.stream.reviews, right as f64 / self.verdicts.len().max(1) as f64));
    }

    /// Texts that were agreed on and not reviewed.
    fn accepted(&self) -> Vec<usize> {
        (0..self.verdicts.len()).filter(|at| !self.verdicts[*at].1).collect()
    }

    /// Reviews an accepted text if the majority of the last versions says another label.
    fn look_again(&mut self, at: usize, row: &Labelled, votes: &[&[f32]]) {
        let agreed = self.verdicts[at].0;
        if agreed == Some(majority(votes)) {
            return;
        }
        self.stream.second_looks += 1;
        let (label, _) = self.review(at, row, votes);
        self.verdicts[at] = (label.or(agreed), true);
    }

    /// The quarter of the stream in which a text lies.
    fn quarter(&mut self, at: usize) -> &mut Quarter {
        &mut self.quarters[(4 * at / self.all.max(1)).min(3)]
    }

    /// The reviewer's label of the stream's text `at`, and what goes into the pool.
    fn review(&mut self, at: usize, row: &Labelled, votes: &[&[f32]]) -> (Option<usize>, Option<Labelled>) {
        self.stream.reviews += 1;
        self.quarter(at).reviewed += 1;
        let Reply { label, prompt_tokens, completion_tokens } = self.reviewer.review(row);
        self.stream.prompt_tokens += prompt_tokens;
        self.stream.completion_tokens += completion_tokens;
        let Some(label) = label else { return (None, None) };
        let label = if self.chance.random_bool(self.settings.noise) { self.other(label) } else { label };
        // Whoever errs by chance is no person.
        let person = matches!(self.reviewer, Reviewer::Gold) && self.settings.noise == 0.0;
        if !person && contradicted(label, votes.iter().copied()) {
            self.stream.contradicted += 1;
            return (Some(label), None);
        }
        (Some(label), Some(Labelled { text: row.text.clone(), label }))
    }

    /// A label that is not this one.
    fn other(&mut self, label: usize) -> usize {
        (label + self.chance.random_range(1..self.labels)) % self.labels
    }

    fn finish(self, rows: &[Labelled], ids: &[String]) -> Stream {
        let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
        let mut counted = Counted::new(self.labels);
        self.verdicts.iter().zip(rows).for_each(|((verdict, _), row)| counted.add(row.label, *verdict));
        let last = counted.way("agreed or reviewed", self.spent());
        let free = (0, 0, 0);
        let mut ways: Vec<Way> = self.slms.iter().zip(ids).map(|(counted, id)| counted.way(id, free)).collect();
        if let Some(best) = ways.iter().max_by(|a, b| a.accuracy.total_cmp(&b.accuracy)).cloned() {
            ways.push(Way { name: format!("best single SLM: {}", best.name), ..best });
        }
        ways.push(self.majority.way("majority", free));
        ways.extend(reviewer_alone(self.reviewer, rows, self.labels));
        ways.push(self.hard.0.way("the paper's rule", self.hard.1));
        let accuracy = last.accuracy;
        ways.push(last);
        Stream {
            texts: self.verdicts.len(),
            accuracy,
            ways,
            review_share: self.quarters.each_ref().map(|quarter| share(quarter.reviewed, quarter.all)),
            hard_share: self.quarters.each_ref().map(|quarter| share(quarter.hard, quarter.all)),
            reviewer_accuracy: share(self.reviewer_right, self.hard.1.0),
            audit_interval: wilson(self.stream.audited[1] as u64, self.stream.audited[0] as u64),
            ..self.stream
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tie_goes_to_the_larger_sum() {
        let (a, b, c) = ([0.5f32, 0.3, 0.2], [0.1f32, 0.8, 0.1], [0.3f32, 0.3, 0.4]);
        assert_eq!(majority(&[&a, &b, &c]), 1);
        assert_eq!(majority(&[&a, &a, &b]), 0);
        assert_eq!((unanimous(&[&a, &a]), unanimous(&[&a, &b])), (Some(0), None));
    }

    fn settings(noise: f64, audit: f64) -> Settings {
        let round = RoundOptions::new(crate::slm::adapter::Method::Lora);
        Settings { pool: 0, first_pool: 0, noise, look_again: true, audit, first_audit: audit, round, seed: 0 }
    }

    fn tally<'a>(settings: &'a Settings, all: usize) -> Tally<'a> {
        Tally::new((2, 2, all), &Reviewer::Gold, settings, StdRng::seed_from_u64(0))
    }

    #[test]
    fn the_stream_is_counted() {
        let row = |label| Labelled { text: "t".into(), label };
        let rows = [row(0), row(0), row(1), row(1)];
        let (no, yes) = ([0.9f32, 0.1], [0.2f32, 0.8]);
        let (quiet, noisy) = (settings(0.0, 0.0), settings(1.0, 0.0));
        let mut tally = tally(&quiet, 4);
        assert_eq!(tally.add(&rows[0], &[&no, &no]), None);
        assert_eq!(tally.add(&rows[1], &[&yes, &yes]), None);
        assert_eq!(tally.add(&rows[2], &[&no, &yes]), Some(row(1)));
        tally.settings = &noisy;
        assert_eq!(tally.add(&rows[3], &[&no, &yes]), Some(row(0)));
        let stream = tally.finish(&rows, &["a".into(), "b".into()]);
        assert_eq!((stream.texts, stream.reviews, stream.agreed_and_wrong), (4, 2, 1));
        assert_eq!((stream.accuracy, stream.reviewer_accuracy), (0.5, 0.5));
        assert_eq!((stream.review_share, stream.hard_share), ([0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]));
        let ways: Vec<(&str, f64, usize)> =
            stream.ways.iter().map(|way| (way.name.as_str(), way.accuracy, way.reviews)).collect();
        let best = ("best single SLM: b", 0.75, 0);
        let last = ("agreed or reviewed", 0.5, 2);
        let rule = ("the paper's rule", 0.5, 2);
        assert_eq!(ways, [("a", 0.25, 0), ("b", 0.75, 0), best, ("majority", 0.25, 0), rule, last]);
    }

    #[test]
    fn a_later_version_that_differs_and_an_audit_bring_reviews() {
        let rows = [Labelled { text: "t".into(), label: 1 }];
        let (no, yes) = ([0.9f32, 0.1], [0.2f32, 0.8]);
        let (usual, audited) = (settings(0.0, 0.0), settings(0.0, 1.0));
        let mut plain = tally(&usual, 1);
        assert_eq!(plain.add(&rows[0], &[&no, &no]), None);
        assert_eq!(plain.accepted(), [0]);
        plain.look_again(0, &rows[0], &[&no, &no]);
        assert_eq!(plain.accepted(), [0]);
        plain.look_again(0, &rows[0], &[&yes, &yes]);
        let stream = plain.finish(&rows, &[]);
        assert_eq!((stream.second_looks, stream.reviews, stream.accuracy), (1, 1, 1.0));
        assert_eq!((stream.review_share[0], stream.hard_share[0], stream.agreed_and_wrong), (1.0, 0.0, 1));
        let mut plain = tally(&audited, 1);
        assert_eq!(plain.add(&rows[0], &[&no, &no]), Some(rows[0].clone()));
        let stream = plain.finish(&rows, &[]);
        assert_eq!(stream.audited, [1, 1]);
        let [from, to] = stream.audit_interval;
        assert!(from > 0.2 && to > 0.999, "{from} {to}");
        let ways: Vec<(f64, usize)> = stream.ways.iter().rev().take(2).map(|way| (way.accuracy, way.reviews)).collect();
        assert_eq!(ways, [(1.0, 1), (0.0, 0)], "the paper's rule has no audit");
    }
}
