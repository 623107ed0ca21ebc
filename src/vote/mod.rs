//! Consensus: from votes to a verdict. Votes are made by a [`Ballot`].

mod ballot;

pub use ballot::{Ballot, BallotError, LabelMap, THRESHOLD, Uncovered};

use crate::sample::{Verdict, Vote};
use serde::{Deserialize, Serialize};

/// When the votes of k SLMs make a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// All SLMs name the same label (AutoAnnotator, arXiv 2506.16393, section 3).
    #[default]
    Unanimous,
    /// One label has more votes than any other; a tie is hard.
    Majority,
}

/// The verdict of `rule` over the votes of one sample. No votes are a hard sample, never a label. A vote without a label
/// counts: by it no unanimity comes about, and where such votes are the most nothing is accepted.
pub fn verdict(rule: Rule, votes: &[Vote]) -> Verdict {
    let hard = |why: &str| Verdict::Hard { why: why.to_owned() };
    let Some((label, count, tied)) = leader(votes) else { return hard("no-votes") };
    let unlabelled = votes.iter().any(|vote| vote.label.is_empty());
    match rule {
        _ if label.is_empty() => hard("no-label"),
        Rule::Unanimous if unlabelled => hard("no-label"),
        Rule::Unanimous if count < votes.len() => hard("disagreement"),
        Rule::Majority if tied => hard("tie"),
        _ => Verdict::Accepted { label: label.to_owned(), confidence: confidence(votes, label) },
    }
}

/// The label with the most votes, how many, and whether another has as many.
fn leader(votes: &[Vote]) -> Option<(&str, usize, bool)> {
    let count = |label: &str| votes.iter().filter(|vote| vote.label == label).count();
    let best = votes.iter().map(|vote| count(&vote.label)).max()?;
    let first = votes.iter().find(|vote| count(&vote.label) == best)?;
    let tied = votes.iter().any(|vote| vote.label != first.label && count(&vote.label) == best);
    Some((&first.label, best, tied))
}

/// The mean over all SLMs of the probability given to `label`. The label's index is read off a vote that names it.
fn confidence(votes: &[Vote], label: &str) -> f32 {
    let Some(index) = votes.iter().find(|vote| vote.label == label).map(|vote| argmax(&vote.probabilities)) else {
        return 0.0;
    };
    let sum: f32 = votes.iter().map(|vote| vote.probabilities.get(index).copied().unwrap_or(0.0)).sum();
    sum / votes.len() as f32
}

/// The index of the largest value, the first of equals; 0 for an empty slice.
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LABELS: [&str; 3] = ["negative", "neutral", "positive"];

    fn vote(label: usize, probability: f32) -> Vote {
        let mut probabilities = vec![(1.0 - probability) / 2.0; 3];
        probabilities[label] = probability;
        Vote {
            slm: "s".into(),
            version: "v".into(),
            engine: "cpu".into(),
            precision: "f32".into(),
            label: LABELS[label].into(),
            probabilities,
            truncated: false,
        }
    }

    #[test]
    fn unanimity_accepts_with_the_mean_confidence() {
        let votes = [vote(2, 0.9), vote(2, 0.6), vote(2, 0.75)];
        let Verdict::Accepted { label, confidence } = verdict(Rule::Unanimous, &votes) else { panic!("hard") };
        assert_eq!(label, "positive");
        assert!((confidence - 0.75).abs() < 1e-6);
    }

    #[test]
    fn no_votes_are_hard() {
        assert_eq!(verdict(Rule::Majority, &[]), Verdict::Hard { why: "no-votes".into() });
    }

    #[test]
    fn votes_without_a_label_make_none() {
        let none = || Vote { label: String::new(), ..vote(0, 0.4) };
        let hard = |why: &str| Verdict::Hard { why: why.into() };
        let of = |rule, votes: &[Vote]| verdict(rule, votes);
        for rule in [Rule::Unanimous, Rule::Majority] {
            assert_eq!(of(rule, &[none(), none()]), hard("no-label"));
            assert_eq!(of(rule, &[none()]), hard("no-label"));
            assert_eq!(of(rule, &[none(), none(), vote(1, 0.9)]), hard("no-label"));
        }
        assert_eq!(of(Rule::Unanimous, &[vote(1, 0.9), none()]), hard("no-label"));
        assert_eq!(of(Rule::Majority, &[vote(1, 0.9), none()]), hard("tie"));
        assert!(matches!(of(Rule::Majority, &[vote(1, 0.9), none(), vote(1, 0.8)]), Verdict::Accepted { .. }));
    }

    proptest! {
        /// Against a count over the three labels, written the plain way.
        #[test]
        fn rules_agree_with_a_plain_count(labels in proptest::collection::vec(0usize..3, 1..6)) {
            let votes: Vec<Vote> = labels.iter().map(|l| vote(*l, 0.8)).collect();
            let counts: Vec<usize> = (0..3).map(|l| labels.iter().filter(|x| **x == l).count()).collect();
            let most = *counts.iter().max().expect("three counts");
            let unanimous = most == labels.len();
            let tie = counts.iter().filter(|c| **c == most).count() > 1;
            let accepted = |v: Verdict| matches!(v, Verdict::Accepted { .. });
            prop_assert_eq!(accepted(verdict(Rule::Unanimous, &votes)), unanimous);
            prop_assert_eq!(accepted(verdict(Rule::Majority, &votes)), !tie);
            if let Verdict::Accepted { label, .. } = verdict(Rule::Majority, &votes) {
                let index = LABELS.iter().position(|l| *l == label).expect("a label");
                prop_assert_eq!(counts[index], most);
            }
        }
    }
}
