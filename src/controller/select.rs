//! The ensemble of the best accuracy on the probe, and what that figure is worth.
//!
//! An ensemble's label is the one with most votes, of tied ones that of the largest sum of probabilities: the rule by which a
//! run's report scores a majority. It counts on every text of the probe, hard or not. A text is hard where the spec's rule
//! makes no label of the votes; the share of hard texts stands beside the accuracy, and decides between equals.

use crate::vote::Rule;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use std::cmp::Reverse;

/// Ensembles up to which all are looked at.
pub const EXACT: usize = 5000;
/// Resamples of the bootstrap, fewer where there is much to look at.
const RESAMPLES: usize = 200;
/// Votes counted in all of them at most.
const WORK: usize = 300_000_000;

/// What the candidates said of the probe.
#[derive(Debug, Clone)]
pub struct Field {
    /// `[candidates][texts]`: the label voted for, none where a candidate gave none of the task's.
    votes: Vec<Vec<Option<usize>>>,
    /// `[candidates][texts][labels]`.
    probabilities: Vec<Vec<Vec<f32>>>,
    /// The right label of each text.
    gold: Vec<usize>,
    /// Bytes of each candidate.
    bytes: Vec<u64>,
    labels: usize,
    rule: Rule,
}

/// How an ensemble did: of equally right ones the one with fewer hard texts is better, then the smaller one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Standing {
    right: u64,
    accepted: u64,
    small: Reverse<u64>,
}

/// Which candidates vote together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// Their indices, ascending.
    pub members: Vec<usize>,
    /// Whether every ensemble of that size was looked at.
    pub exact: bool,
}

/// What an ensemble comes to on the probe.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// The share of right labels over all texts.
    pub accuracy: f64,
    /// Its 95 % interval, by the bootstrap.
    pub interval: [f64; 2],
    /// The share of texts that would be reviewed.
    pub hard: f64,
    /// The share of right labels among the others.
    pub accepted_accuracy: f64,
    /// What the same search would come to on texts that it has not seen: it is repeated on resamples of the probe, and
    /// each choice scored on the texts left out (the bootstrap's out-of-bag estimate, Breiman 1996).
    pub unseen: f64,
    /// The same of the best single candidate.
    pub unseen_single: f64,
    /// The share of resamples that chose the same ensemble.
    pub again: f64,
}

impl Field {
    /// Of each candidate its probabilities `[texts][labels]` and bytes; a row that is all zero is no vote. Rows that do not
    /// fit the gold labels or each other are none either.
    pub fn new(candidates: Vec<(Vec<Vec<f32>>, u64)>, gold: Vec<usize>, labels: usize, rule: Rule) -> Self {
        let (mut probabilities, bytes): (Vec<_>, Vec<_>) = candidates.into_iter().unzip();
        for rows in &mut probabilities {
            rows.resize(gold.len(), Vec::new());
            rows.iter_mut().for_each(|row| row.resize(labels, 0.0));
        }
        let vote = |row: &Vec<f32>| (row.iter().any(|p| *p > 0.0)).then(|| crate::vote::argmax(row));
        let votes = probabilities.iter().map(|rows| rows.iter().map(vote).collect()).collect();
        Self { votes, probabilities, gold, bytes, labels, rule }
    }

    /// The number of candidates.
    pub fn len(&self) -> usize {
        self.votes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.votes.is_empty()
    }

    /// The label of an ensemble for a text, and whether the rule accepts it.
    fn decide(&self, members: &[usize], text: usize) -> (Option<usize>, bool) {
        let mut counts = vec![0usize; self.labels];
        for member in members {
            if let Some(label) = self.votes[*member][text] {
                counts[label] += 1;
            }
        }
        let most = counts.iter().copied().max().unwrap_or(0);
        if most == 0 {
            return (None, false);
        }
        let leaders: Vec<usize> = (0..self.labels).filter(|label| counts[*label] == most).collect();
        let sum = |label: usize| members.iter().map(|member| self.probabilities[*member][text][label]).sum::<f32>();
        // The first of equals.
        let label = leaders.iter().copied().reduce(|best, label| if sum(label) > sum(best) { label } else { best });
        let accepted = match self.rule {
            Rule::Unanimous => most == members.len(),
            Rule::Majority => leaders.len() == 1,
        };
        (label, accepted)
    }

    /// How an ensemble does where each text counts so often.
    fn standing(&self, members: &[usize], weights: &[u32]) -> Standing {
        let (mut right, mut accepted) = (0, 0);
        for (text, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0) {
            let (label, stands) = self.decide(members, text);
            right += u64::from(*weight) * u64::from(label == Some(self.gold[text]));
            accepted += u64::from(*weight) * u64::from(stands);
        }
        Standing { right, accepted, small: Reverse(self.size(members)) }
    }

    fn size(&self, members: &[usize]) -> u64 {
        members.iter().map(|member| self.bytes[*member]).sum()
    }

    fn fits(&self, members: &[usize], max_bytes: Option<u64>) -> bool {
        max_bytes.is_none_or(|max| self.size(members) <= max)
    }

    /// The best `k` candidates of at most `max_bytes` together; none where no `k` fit. Up to [`EXACT`] ensembles all are
    /// looked at, else one grows candidate by candidate and is improved by swaps.
    pub fn search(&self, k: usize, max_bytes: Option<u64>) -> Option<Choice> {
        self.weighted(k, max_bytes, &vec![1; self.gold.len()])
    }

    fn weighted(&self, k: usize, max_bytes: Option<u64>, weights: &[u32]) -> Option<Choice> {
        if k == 0 || k > self.len() {
            return None;
        }
        match combinations(self.len(), k) <= EXACT {
            true => self.exact(k, max_bytes, weights, |_| true).map(|members| Choice { members, exact: true }),
            false => self.greedy(k, max_bytes, weights).map(|members| Choice { members, exact: false }),
        }
    }

    fn exact(
        &self,
        k: usize,
        max_bytes: Option<u64>,
        weights: &[u32],
        may: impl Fn(&[usize]) -> bool,
    ) -> Option<Vec<usize>> {
        let mut best: Option<(Standing, Vec<usize>)> = None;
        let mut members: Vec<usize> = (0..k).collect();
        loop {
            if may(&members) && self.fits(&members, max_bytes) {
                let standing = self.standing(&members, weights);
                if best.as_ref().is_none_or(|(known, _)| standing > *known) {
                    best = Some((standing, members.clone()));
                }
            }
            // The next in the order of words: the last place that can still move on does.
            let Some(place) = (0..k).rev().find(|place| members[*place] < self.len() - k + place) else { break };
            members[place] += 1;
            for later in place + 1..k {
                members[later] = members[later - 1] + 1;
            }
        }
        best.map(|(_, members)| members)
    }

    fn greedy(&self, k: usize, max_bytes: Option<u64>, weights: &[u32]) -> Option<Vec<usize>> {
        let mut smallest: Vec<usize> = (0..self.len()).collect();
        smallest.sort_by_key(|member| self.bytes[*member]);
        smallest.truncate(k);
        if !self.fits(&smallest, max_bytes) {
            return None;
        }
        let mut members = self.grown(k, max_bytes, weights).unwrap_or(smallest);
        let mut standing = self.standing(&members, weights);
        loop {
            let mut better = None;
            for (place, new) in (0..k).flat_map(|place| (0..self.len()).map(move |new| (place, new))) {
                let mut swapped = members.clone();
                if members.contains(&new) {
                    continue;
                }
                swapped[place] = new;
                let found = self.standing(&swapped, weights);
                if self.fits(&swapped, max_bytes) && found > better.as_ref().map_or(standing, |(known, _)| *known) {
                    better = Some((found, swapped));
                }
            }
            let Some((found, swapped)) = better else { break };
            (standing, members) = (found, swapped);
        }
        members.sort_unstable();
        Some(members)
    }

    /// Candidate by candidate, the one that helps most; none where that ends before `k`.
    fn grown(&self, k: usize, max_bytes: Option<u64>, weights: &[u32]) -> Option<Vec<usize>> {
        let mut members: Vec<usize> = Vec::with_capacity(k);
        while members.len() < k {
            let with = |new: usize| [&members[..], &[new]].concat();
            let open = (0..self.len()).filter(|new| !members.contains(new)).map(with);
            let best = open.filter(|all| self.fits(all, max_bytes)).max_by_key(|all| self.standing(all, weights))?;
            members = best;
        }
        Some(members)
    }

    /// The accuracy of the best ensemble of that size with a candidate, or without it; none where there is none, or where
    /// there are too many to look at.
    pub fn best(&self, candidate: usize, with: bool, k: usize, max_bytes: Option<u64>) -> Option<f64> {
        if k == 0 || k > self.len() || combinations(self.len(), k) > EXACT {
            return None;
        }
        let weights = vec![1; self.gold.len()];
        let members = self.exact(k, max_bytes, &weights, |members| members.contains(&candidate) == with)?;
        Some(self.standing(&members, &weights).right as f64 / self.gold.len().max(1) as f64)
    }

    /// What a choice comes to, and what to think of it.
    pub fn outcome(&self, choice: &Choice, max_bytes: Option<u64>) -> Outcome {
        let texts = self.gold.len();
        let share = |part: usize, all: usize| if all == 0 { 0.0 } else { part as f64 / all as f64 };
        let decided: Vec<(bool, bool)> = (0..texts)
            .map(|text| {
                let (label, accepted) = self.decide(&choice.members, text);
                (label == Some(self.gold[text]), accepted)
            })
            .collect();
        let right: Vec<f64> = decided.iter().map(|(right, _)| f64::from(u8::from(*right))).collect();
        let accepted = decided.iter().filter(|(_, accepted)| *accepted).count();
        let right_accepted = decided.iter().filter(|(right, accepted)| *right && *accepted).count();
        let [unseen, unseen_single, again] = self.unseen(choice, max_bytes);
        Outcome {
            accuracy: share(right.iter().filter(|right| **right > 0.0).count(), texts),
            interval: crate::tune::agreement::interval(&right, 0),
            hard: 1.0 - share(accepted, texts),
            accepted_accuracy: share(right_accepted, accepted),
            unseen,
            unseen_single,
            again,
        }
    }

    /// The accuracies out of the bag, of ensembles and of single candidates, and how often the choice was the same.
    fn unseen(&self, choice: &Choice, max_bytes: Option<u64>) -> [f64; 3] {
        let (k, texts) = (choice.members.len(), self.gold.len());
        let cost = combinations(self.len(), k).min(EXACT) * texts.max(1) * k.max(1);
        let resamples = (WORK / cost.max(1)).clamp(20, RESAMPLES);
        let mut chance = StdRng::seed_from_u64(0);
        let (mut right, mut left_out, mut same, mut done) = ([0u64; 2], 0u64, 0, 0);
        for _ in 0..resamples {
            let mut weights = vec![0u32; texts];
            (0..texts).for_each(|_| weights[chance.random_range(0..texts)] += 1);
            let rest: Vec<u32> = weights.iter().map(|weight| u32::from(*weight == 0)).collect();
            let chosen = self.weighted(k, max_bytes, &weights).zip(self.weighted(1, max_bytes, &weights));
            let Some((ensemble, single)) = chosen else { continue };
            done += 1;
            same += u32::from(ensemble.members == choice.members);
            left_out += rest.iter().map(|weight| u64::from(*weight)).sum::<u64>();
            for (right, choice) in right.iter_mut().zip([ensemble, single]) {
                *right += self.standing(&choice.members, &rest).right;
            }
        }
        let share = |part: u64| part as f64 / left_out.max(1) as f64;
        [share(right[0]), share(right[1]), f64::from(same) / f64::from(done.max(1))]
    }

    /// The correlation (phi) of two candidates' errors, from -1 to 1; 0 where one is always right or always wrong.
    pub fn error_correlation(&self, a: usize, b: usize) -> f64 {
        let wrong = |member: usize, text: usize| self.votes[member][text] != Some(self.gold[text]);
        let mut counts = [[0f64; 2]; 2];
        (0..self.gold.len()).for_each(|text| counts[usize::from(wrong(a, text))][usize::from(wrong(b, text))] += 1.0);
        let [[neither, only_b], [only_a, both]] = counts;
        let product = (both + only_a) * (neither + only_b) * (both + only_b) * (neither + only_a);
        if product == 0.0 { 0.0 } else { (both * neither - only_a * only_b) / product.sqrt() }
    }
}

/// `n` over `k`, no larger than one past [`EXACT`].
fn combinations(n: usize, k: usize) -> usize {
    let mut count: usize = 1;
    for step in 1..=k.min(n.saturating_sub(k)) {
        count = count.saturating_mul(n - k.min(n - k) + step) / step;
        if count > EXACT {
            return EXACT + 1;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Verdict, Vote};
    use proptest::prelude::*;
    use rand::Rng;

    /// Accuracy in counts and hard texts of an ensemble, by the crate's own verdicts and a plain count.
    fn plain(field: &Field, members: &[usize]) -> (u64, u64) {
        let (mut right, mut accepted) = (0, 0);
        for text in 0..field.gold.len() {
            let votes: Vec<Vote> = members
                .iter()
                .map(|member| {
                    let probabilities = field.probabilities[*member][text].clone();
                    let label = crate::vote::argmax(&probabilities).to_string();
                    let [slm, version, engine, precision] = [0; 4].map(|_| String::new());
                    Vote { slm, version, engine, precision, label, probabilities, truncated: false }
                })
                .collect();
            accepted += u64::from(matches!(crate::vote::verdict(field.rule, &votes), Verdict::Accepted { .. }));
            let key = |label: &usize| {
                let count = votes.iter().filter(|vote| vote.label == label.to_string()).count();
                (count, votes.iter().map(|vote| vote.probabilities[*label]).sum::<f32>())
            };
            let mut best = 0;
            for label in 1..field.labels {
                if key(&label) > key(&best) {
                    best = label;
                }
            }
            right += u64::from(best == field.gold[text]);
        }
        (right, accepted)
    }

    /// Candidates, texts, labels; probabilities in eighths, so that sums are exact and ties happen.
    fn fields() -> impl Strategy<Value = Field> {
        (1usize..7, 1usize..12, 2usize..4, any::<bool>()).prop_flat_map(|(candidates, texts, labels, unanimous)| {
            let row = proptest::collection::vec(1u8..8, labels);
            let rows = proptest::collection::vec(row, texts);
            let all = proptest::collection::vec((rows, 1u64..20), candidates);
            let gold = proptest::collection::vec(0..labels, texts);
            (all, gold).prop_map(move |(all, gold)| {
                let float = |row: Vec<u8>| row.into_iter().map(|value| f32::from(value) / 8.0).collect();
                let all = all.into_iter().map(|(rows, bytes)| (rows.into_iter().map(float).collect(), bytes));
                let rule = if unanimous { Rule::Unanimous } else { Rule::Majority };
                Field::new(all.collect(), gold, labels, rule)
            })
        })
    }

    proptest! {
        /// Over all subsets, as bit masks.
        #[test]
        fn the_search_finds_what_trying_everything_finds(field in fields(), k in 1usize..5, max in proptest::option::of(1u64..40)) {
            let mut best: Option<(u64, u64, Reverse<u64>)> = None;
            for mask in 0u32..1 << field.len() {
                let members: Vec<usize> = (0..field.len()).filter(|member| mask >> member & 1 == 1).collect();
                let size = members.iter().map(|member| field.bytes[*member]).sum::<u64>();
                if members.len() == k && max.is_none_or(|max| size <= max) {
                    let (right, accepted) = plain(&field, &members);
                    best = best.max(Some((right, accepted, Reverse(size))));
                }
            }
            let found = field.search(k, max);
            prop_assert_eq!(found.is_some(), best.is_some());
            if let (Some(choice), Some(best)) = (found, best) {
                let (right, accepted) = plain(&field, &choice.members);
                prop_assert!(choice.exact);
                prop_assert_eq!((right, accepted, Reverse(field.size(&choice.members))), best);
                let outcome = field.outcome(&choice, max);
                prop_assert!((outcome.accuracy * field.gold.len() as f64 - right as f64).abs() < 1e-9);
                prop_assert!(((1.0 - outcome.hard) * field.gold.len() as f64 - accepted as f64).abs() < 1e-9);
                prop_assert!((0.0..=1.0).contains(&outcome.unseen) && (0.0..=1.0).contains(&outcome.again));
            }
        }

        /// It may be worse than the best, never over the size, and never worse than what it began with.
        #[test]
        fn growing_and_swapping_keeps_to_the_size(field in fields(), k in 1usize..5, max in proptest::option::of(1u64..40)) {
            let weights = vec![1; field.gold.len()];
            prop_assume!(k <= field.len());
            let (grown, exact) = (field.greedy(k, max, &weights), field.exact(k, max, &weights, |_| true));
            prop_assert_eq!(grown.is_some(), exact.is_some());
            if let (Some(grown), Some(exact)) = (grown, exact) {
                prop_assert!(field.fits(&grown, max) && grown.len() == k);
                prop_assert!(grown.windows(2).all(|pair| pair[0] < pair[1]));
                prop_assert!(field.standing(&grown, &weights) <= field.standing(&exact, &weights));
            }
        }
    }

    #[test]
    fn combinations_are_counted() {
        assert_eq!((combinations(8, 3), combinations(20, 3), combinations(3, 3)), (56, 1140, 1));
        assert_eq!((combinations(5, 1), combinations(100, 50)), (5, EXACT + 1));
    }

    #[test]
    fn errors_that_come_together_are_correlated() {
        let sure = |label: usize| if label == 0 { vec![1.0, 0.0] } else { vec![0.0, 1.0] };
        let of = |labels: [usize; 4]| (labels.map(sure).to_vec(), 1);
        let all = vec![of([0, 0, 1, 1]), of([0, 0, 1, 1]), of([1, 1, 0, 0]), of([0, 0, 0, 0])];
        let field = Field::new(all, vec![0, 0, 0, 0], 2, Rule::Unanimous);
        assert_eq!(field.error_correlation(0, 1), 1.0);
        assert_eq!(field.error_correlation(0, 2), -1.0);
        assert_eq!(field.error_correlation(0, 3), 0.0);
    }

    #[test]
    fn who_gives_none_of_the_labels_does_not_vote() {
        let field = Field::new(vec![(vec![vec![0.0, 0.0]], 1), (vec![vec![0.2, 0.8]], 1)], vec![1], 2, Rule::Unanimous);
        assert_eq!(field.decide(&[0], 0), (None, false));
        assert_eq!(field.decide(&[0, 1], 0), (Some(1), false));
    }

    #[test]
    fn a_lucky_choice_is_seen_through() {
        // Candidates that guess: the best of many looks good on the probe and is not.
        let mut chance = StdRng::seed_from_u64(7);
        let candidates = (0..16).map(|_| {
            let rows = (0..60).map(|_| if chance.random_bool(0.5) { vec![0.9, 0.1] } else { vec![0.1, 0.9] });
            (rows.collect(), 1)
        });
        let candidates: Vec<_> = candidates.collect();
        let gold = (0..60).map(|_| chance.random_range(0..2)).collect();
        let field = Field::new(candidates, gold, 2, Rule::Unanimous);
        let choice = field.search(3, None).expect("three");
        let outcome = field.outcome(&choice, None);
        assert!(outcome.accuracy > 0.6, "{outcome:?}");
        assert!(outcome.unseen < outcome.accuracy - 0.08, "{outcome:?}");
    }
}
