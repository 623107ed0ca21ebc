//! What a run amounts to.

use crate::sample::{Annotation, Verdict, Vote};
use crate::spec::Spec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Counts of gold label against given label.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confusion {
    /// `[gold][given]`; the last column counts rows that were given no label.
    counts: Vec<Vec<u64>>,
}

impl Confusion {
    /// No counts yet, for a number of labels.
    pub fn new(labels: usize) -> Self {
        Self { counts: vec![vec![0; labels + 1]; labels] }
    }

    /// Counts one row by the indices of its gold label and of the label it was given, if any.
    pub fn add(&mut self, gold: usize, given: Option<usize>) {
        if let Some(row) = self.counts.get_mut(gold) {
            let given = given.unwrap_or(row.len().saturating_sub(1));
            if let Some(count) = row.get_mut(given) {
                *count += 1;
            }
        }
    }

    /// `[gold][given]`; the last column counts rows that were given no label.
    pub fn counts(&self) -> &[Vec<u64>] {
        &self.counts
    }

    /// How good the labels are.
    pub fn score(&self) -> Score {
        let count =
            |gold: usize, given: usize| self.counts.get(gold).and_then(|row| row.get(given)).copied().unwrap_or(0);
        let labels = self.counts.len();
        let all: u64 = self.counts.iter().flatten().sum();
        let right: u64 = (0..labels).map(|label| count(label, label)).sum();
        let f1: Vec<f64> = (0..labels)
            .filter_map(|label| {
                let gold: u64 = (0..=labels).map(|given| count(label, given)).sum();
                let given: u64 = (0..labels).map(|gold| count(gold, label)).sum();
                (gold + given > 0).then(|| 2.0 * count(label, label) as f64 / (gold + given) as f64)
            })
            .collect();
        Score {
            accuracy: ratio(right, all),
            macro_f1: if f1.is_empty() { 0.0 } else { f1.iter().sum::<f64>() / f1.len() as f64 },
        }
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// How good labels are against the gold ones, from 0 to 1, over all rows that have a gold label; a row without a label is
/// one missed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The share of rows whose label is the gold one.
    pub accuracy: f64,
    /// The mean F1 of the task's labels, without those that neither stand in gold nor were given.
    pub macro_f1: f64,
}

/// One SLM in a report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SlmReport {
    /// Its id.
    pub id: String,
    /// Its score, with gold labels.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub score: Option<Score>,
}

/// What the SLMs agreed on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConsensusReport {
    /// The share of accepted rows (with a gold label) whose label is right; with gold labels and at least one such row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_on_accepted: Option<f64>,
    /// The share of all rows that was accepted.
    pub coverage: f64,
}

/// The final labels.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FinalReport {
    /// Their score, with gold labels.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub score: Option<Score>,
    /// Hard rows that no reviewer gave a label.
    pub hard_without_review: u64,
    /// How those are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What the reviews cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ReviewReport {
    /// Requests to the reviewer.
    pub calls: u64,
    /// Tokens of the prompts.
    pub prompt_tokens: u64,
    /// Tokens of the completions.
    pub completion_tokens: u64,
    /// US dollars.
    pub cost_usd: f64,
}

/// Accepted rows that were reviewed all the same, drawn by chance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AuditReport {
    /// How many.
    pub rows: u64,
    /// How many of them the reviewer labelled otherwise.
    pub wrong: u64,
    /// Their share, an estimate of the error among all accepted rows.
    pub share: f64,
    /// Its 95 % interval, by Wilson's score (Wilson, Journal of the American Statistical Association 22, 1927).
    pub interval: [f64; 2],
}

/// The 95 % interval of a share by Wilson's score.
pub fn wilson(part: u64, all: u64) -> [f64; 2] {
    const Z: f64 = 1.959_964;
    let (n, p) = (all as f64, ratio(part, all));
    let (middle, scale) = (p + Z * Z / (2.0 * n), 1.0 + Z * Z / n);
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    [((middle - half) / scale).max(0.0), ((middle + half) / scale).min(1.0)]
}

/// Rows that were not voted on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SetAsideReport {
    /// How many.
    pub rows: u64,
    /// How many for each reason, by its stable code.
    pub reasons: BTreeMap<String, u64>,
}

/// Gold labels in the input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GoldReport {
    /// Rows whose gold label is one of the task's.
    pub rows: u64,
    /// Rows whose gold label is none of the task's; no score counts them.
    pub unknown: u64,
}

/// What a run amounts to: the object that `--report` writes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// All rows; accepted, hard and set aside ones sum to it.
    pub rows: u64,
    /// Rows that the SLMs agreed on.
    pub accepted: u64,
    /// Rows that a reviewer has to decide, or decided.
    pub hard: u64,
    /// Rows that were not voted on.
    pub set_aside: SetAsideReport,
    /// The share of all rows that was accepted.
    pub coverage: f64,
    /// Rows of which at least one SLM saw only the start.
    pub truncated: u64,
    /// The gold labels, where a column of them was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gold: Option<GoldReport>,
    /// Each SLM alone, in the spec's order.
    pub slms: Vec<SlmReport>,
    /// The label with most votes, over all rows, with gold labels. Of tied labels the one with the highest sum of
    /// probabilities counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub majority: Option<Score>,
    /// What the SLMs agreed on.
    pub consensus: ConsensusReport,
    /// The final labels.
    #[serde(rename = "final")]
    pub final_: FinalReport,
    /// Rows on which all SLMs named the same label and it is not the gold one, with gold labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unanimous_wrong: Option<u64>,
    /// Accepted rows that were reviewed all the same, where there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditReport>,
    /// What the reviews cost.
    pub review: ReviewReport,
    /// Wall-clock seconds of labelling, all attempts of a resumed run together.
    pub seconds: f64,
    /// Rows a second.
    pub texts_per_second: f64,
}

/// Counts a run up; bounded, whatever the number of rows. It is kept in the journal, so a resumed run goes on counting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    labels: Vec<String>,
    gold: bool,
    rows: u64,
    accepted: u64,
    hard: u64,
    open: u64,
    truncated: u64,
    set_aside: BTreeMap<String, u64>,
    gold_rows: u64,
    gold_unknown: u64,
    slms: Vec<(String, Confusion)>,
    majority: Confusion,
    last: Confusion,
    accepted_gold: u64,
    accepted_right: u64,
    unanimous_wrong: u64,
    review: ReviewReport,
    /// Accepted rows that were reviewed, and those labelled otherwise.
    #[serde(default)]
    audited: [u64; 2],
    seconds: f64,
}

impl Tally {
    /// Nothing yet. `gold`: gold labels will be given.
    pub fn new(spec: &Spec, gold: bool) -> Self {
        let labels = spec.task.labels.names();
        let empty = Confusion::new(labels.len());
        Self {
            gold,
            rows: 0,
            accepted: 0,
            hard: 0,
            open: 0,
            truncated: 0,
            set_aside: BTreeMap::new(),
            gold_rows: 0,
            gold_unknown: 0,
            slms: spec.slms.iter().map(|id| (id.clone(), empty.clone())).collect(),
            majority: empty.clone(),
            last: empty,
            accepted_gold: 0,
            accepted_right: 0,
            unanimous_wrong: 0,
            review: ReviewReport::default(),
            audited: [0; 2],
            seconds: 0.0,
            labels,
        }
    }

    /// Adds one row. `gold`: the index of its gold label; none where that is none of the task's, or not asked for.
    pub fn add(&mut self, annotation: &Annotation, gold: Option<usize>) {
        self.rows += 1;
        self.truncated += u64::from(annotation.votes.iter().any(|vote| vote.truncated));
        match &annotation.verdict {
            Verdict::Accepted { label, .. } => {
                self.accepted += 1;
                if let Some(reviewed) = annotation.review.as_ref().and_then(|review| review.label.as_ref()) {
                    self.audited[0] += 1;
                    self.audited[1] += u64::from(reviewed != label);
                }
            }
            Verdict::Hard { .. } => {
                self.hard += 1;
                self.open += u64::from(annotation.label.is_none());
            }
            Verdict::SetAside { why } => {
                let code = why.split(':').next().unwrap_or(why);
                *self.set_aside.entry(code.to_owned()).or_default() += 1;
            }
        }
        match gold {
            Some(gold) => self.judge(annotation, gold),
            None => self.gold_unknown += u64::from(self.gold),
        }
    }

    fn judge(&mut self, annotation: &Annotation, gold: usize) {
        let labels = &self.labels;
        let index = |label: &str| labels.iter().position(|name| name == label);
        self.gold_rows += 1;
        for (id, confusion) in &mut self.slms {
            let vote = annotation.votes.iter().find(|vote| vote.slm == *id);
            confusion.add(gold, vote.and_then(|vote| index(&vote.label)));
        }
        self.majority.add(gold, majority(labels, &annotation.votes));
        self.last.add(gold, annotation.label.as_deref().and_then(index));
        if let Verdict::Accepted { label, .. } = &annotation.verdict {
            self.accepted_gold += 1;
            self.accepted_right += u64::from(index(label) == Some(gold));
        }
        if let Some((first, others)) = annotation.votes.split_first() {
            let same = !first.label.is_empty() && others.iter().all(|vote| vote.label == first.label);
            self.unanimous_wrong += u64::from(same && index(&first.label) != Some(gold));
        }
    }

    /// Adds what reviews cost.
    pub fn add_review(&mut self, cost: &ReviewReport) {
        self.review.calls += cost.calls;
        self.review.prompt_tokens += cost.prompt_tokens;
        self.review.completion_tokens += cost.completion_tokens;
        self.review.cost_usd += cost.cost_usd;
    }

    /// Adds seconds of work.
    pub fn add_seconds(&mut self, seconds: f64) {
        self.seconds += seconds;
    }

    fn audit(&self) -> Option<AuditReport> {
        let [rows, wrong] = self.audited;
        (rows > 0).then(|| AuditReport { rows, wrong, share: ratio(wrong, rows), interval: wilson(wrong, rows) })
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// What it amounts to so far.
    pub fn report(&self) -> Report {
        let score = |confusion: &Confusion| self.gold.then(|| confusion.score());
        let coverage = ratio(self.accepted, self.rows);
        let note = (self.gold && self.open > 0)
            .then(|| format!("{} hard rows have no review; each counts as wrong", self.open));
        Report {
            rows: self.rows,
            accepted: self.accepted,
            hard: self.hard,
            set_aside: SetAsideReport { rows: self.set_aside.values().sum(), reasons: self.set_aside.clone() },
            coverage,
            truncated: self.truncated,
            gold: self.gold.then_some(GoldReport { rows: self.gold_rows, unknown: self.gold_unknown }),
            slms: self.slms.iter().map(|(id, c)| SlmReport { id: id.clone(), score: score(c) }).collect(),
            majority: score(&self.majority),
            consensus: ConsensusReport {
                accuracy_on_accepted: (self.accepted_gold > 0).then(|| ratio(self.accepted_right, self.accepted_gold)),
                coverage,
            },
            final_: FinalReport { score: score(&self.last), hard_without_review: self.open, note },
            unanimous_wrong: self.gold.then_some(self.unanimous_wrong),
            audit: self.audit(),
            review: self.review,
            seconds: self.seconds,
            texts_per_second: if self.seconds > 0.0 { self.rows as f64 / self.seconds } else { 0.0 },
        }
    }
}

/// The label with most votes; of tied ones the one with the highest sum of probabilities, of those still tied the first.
fn majority(labels: &[String], votes: &[Vote]) -> Option<usize> {
    let mut best: Option<(usize, f32, usize)> = None;
    for (index, label) in labels.iter().enumerate() {
        let count = votes.iter().filter(|vote| vote.label == *label).count();
        let sum: f32 = votes.iter().filter_map(|vote| vote.probabilities.get(index)).sum();
        if count > 0 && best.is_none_or(|(most, highest, _)| count > most || (count == most && sum > highest)) {
            best = Some((count, sum, index));
        }
    }
    best.map(|(.., index)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilsons_interval_is_that_of_the_tables() {
        // 10 of 50: 0.1124 to 0.3304 (Newcombe, Statistics in Medicine 17, 1998, gives such tables).
        let [from, to] = wilson(10, 50);
        assert!((from - 0.1124).abs() < 1e-3 && (to - 0.3304).abs() < 1e-3, "{from} {to}");
        assert_eq!(wilson(0, 20)[0], 0.0);
        assert!(wilson(20, 20)[1] > 0.999);
    }
    use crate::sample::{Review, ReviewedBy, Sample};
    use crate::vote::{Rule, verdict};
    use proptest::prelude::*;

    const LABELS: [&str; 3] = ["negative", "neutral", "positive"];

    fn annotation(votes: &[(usize, f32)]) -> Annotation {
        let votes: Vec<Vote> = Spec::built_in("sentiment")
            .expect("built in")
            .slms
            .iter()
            .zip(votes)
            .map(|(slm, (label, p))| {
                let mut probabilities = vec![(1.0 - p) / 2.0; 3];
                probabilities[*label] = *p;
                Vote {
                    slm: slm.clone(),
                    version: "1".into(),
                    engine: "cpu".into(),
                    precision: "f32".into(),
                    label: LABELS[*label].into(),
                    probabilities,
                    truncated: false,
                }
            })
            .collect();
        let verdict = verdict(Rule::Unanimous, &votes);
        Annotation::new(Sample { id: "1".into(), text: "t".into() }, votes, verdict)
    }

    #[test]
    fn a_report_has_the_fields_that_were_promised() {
        let mut tally = Tally::new(&Spec::built_in("sentiment").expect("built in"), true);
        tally.add(&annotation(&[(2, 0.9), (2, 0.9), (2, 0.9)]), Some(2));
        tally.add(&annotation(&[(0, 0.9), (0, 0.9), (0, 0.9)]), Some(1));
        tally.add(&annotation(&[(0, 0.9), (1, 0.9), (1, 0.9)]), Some(1));
        let review = |label: Option<&str>| Review {
            label: label.map(str::to_owned),
            by: ReviewedBy::Human { id: None },
            why: None,
            prompt_tokens: 0,
            completion_tokens: 0,
            cost_usd: 0.0,
        };
        tally.add(&annotation(&[(0, 0.9), (1, 0.9), (1, 0.9)]).with_review(review(Some("negative"))), Some(0));
        let aside = Verdict::SetAside { why: "blank-text: x".into() };
        tally.add(&Annotation::new(Sample { id: "5".into(), text: " ".into() }, vec![], aside), None);
        tally.add_review(&ReviewReport { calls: 1, prompt_tokens: 7, completion_tokens: 2, cost_usd: 0.5 });
        tally.add_seconds(2.0);
        let report = serde_json::to_value(tally.report()).expect("JSON");
        for (path, value) in [
            ("/rows", 5.0),
            ("/accepted", 2.0),
            ("/hard", 2.0),
            ("/coverage", 0.4),
            ("/set_aside/rows", 1.0),
            ("/set_aside/reasons/blank-text", 1.0),
            ("/gold/rows", 4.0),
            ("/gold/unknown", 1.0),
            ("/slms/0/accuracy", 0.5),
            ("/slms/1/accuracy", 0.5),
            ("/majority/accuracy", 0.5),
            ("/consensus/accuracy_on_accepted", 0.5),
            ("/consensus/coverage", 0.4),
            ("/final/accuracy", 0.5),
            ("/final/hard_without_review", 1.0),
            ("/unanimous_wrong", 1.0),
            ("/review/calls", 1.0),
            ("/review/prompt_tokens", 7.0),
            ("/review/completion_tokens", 2.0),
            ("/review/cost_usd", 0.5),
            ("/seconds", 2.0),
            ("/texts_per_second", 2.5),
        ] {
            assert_eq!(report.pointer(path).and_then(serde_json::Value::as_f64), Some(value), "{path}: {report}");
        }
        assert_eq!(report["slms"][2]["id"], "sentiment-mpnet");
        assert!(report["final"]["note"].as_str().is_some_and(|note| note.contains("wrong")));
    }

    #[test]
    fn without_gold_there_are_no_accuracies() {
        let mut tally = Tally::new(&Spec::built_in("sentiment").expect("built in"), false);
        tally.add(&annotation(&[(2, 0.9), (2, 0.9), (2, 0.9)]), None);
        let report = serde_json::to_string(&tally.report()).expect("JSON");
        assert!(
            !report.contains("accuracy") && !report.contains("f1") && !report.contains("unanimous_wrong"),
            "{report}"
        );
        assert!(report.contains("\"coverage\":1.0"), "{report}");
    }

    #[test]
    fn a_tie_goes_to_the_highest_sum_of_probabilities() {
        let labels: Vec<String> = LABELS.map(String::from).into();
        let tied = annotation(&[(0, 0.5), (1, 0.6), (2, 0.9)]).votes;
        assert_eq!(majority(&labels, &tied), Some(2));
        assert_eq!(majority(&labels, &annotation(&[(0, 0.4), (0, 0.4), (2, 0.99)]).votes), Some(0));
        assert_eq!(majority(&labels, &[]), None);
    }

    /// Precision and recall the long way, from the list of pairs.
    fn plain_macro_f1(pairs: &[(usize, Option<usize>)]) -> f64 {
        let mut f1 = Vec::new();
        for label in 0..3 {
            let hits = pairs.iter().filter(|(gold, given)| *gold == label && *given == Some(label)).count() as f64;
            let relevant = pairs.iter().filter(|(gold, _)| *gold == label).count() as f64;
            let retrieved = pairs.iter().filter(|(_, given)| *given == Some(label)).count() as f64;
            if relevant + retrieved == 0.0 {
                continue;
            }
            let precision = if retrieved == 0.0 { 0.0 } else { hits / retrieved };
            let recall = if relevant == 0.0 { 0.0 } else { hits / relevant };
            f1.push(if precision + recall == 0.0 { 0.0 } else { 2.0 * precision * recall / (precision + recall) });
        }
        f1.iter().sum::<f64>() / f1.len() as f64
    }

    proptest! {
        #[test]
        fn scores_agree_with_a_plain_computation(
            pairs in proptest::collection::vec((0usize..3, proptest::option::of(0usize..3)), 1..40),
        ) {
            let mut confusion = Confusion::new(3);
            pairs.iter().for_each(|(gold, given)| confusion.add(*gold, *given));
            let right = pairs.iter().filter(|(gold, given)| *given == Some(*gold)).count();
            let score = confusion.score();
            prop_assert!((score.accuracy - right as f64 / pairs.len() as f64).abs() < 1e-12);
            prop_assert!((score.macro_f1 - plain_macro_f1(&pairs)).abs() < 1e-12);
        }
    }
}
