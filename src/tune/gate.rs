//! The gate: whether a candidate may take its predecessor's place.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// Resamples of the bootstrap.
const RESAMPLES: usize = 2000;

/// The most that a candidate may lose on the anchor set, as a share of its texts.
pub const MOST_LOST: f64 = 0.005;

/// Fewer gate texts than this say nothing.
pub const FEWEST_TEXTS: usize = 20;

/// Two versions' accuracy on the same texts, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// The number of texts.
    pub texts: usize,
    /// The current version's accuracy.
    pub before: f64,
    /// The candidate's.
    pub after: f64,
    /// The gain that is exceeded in 95 % of the resamples.
    pub least_gain: f64,
}

impl Paired {
    /// Compares which texts the current version and the candidate label right, by a paired bootstrap over the texts (Efron
    /// and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 16).
    pub fn new(before: &[bool], after: &[bool], seed: u64) -> Self {
        let texts = before.len();
        let share = |right: &[bool]| right.iter().filter(|right| **right).count() as f64 / texts.max(1) as f64;
        let gains: Vec<i32> = before.iter().zip(after).map(|(b, a)| i32::from(*a) - i32::from(*b)).collect();
        let mut chance = StdRng::seed_from_u64(seed);
        let mut resample =
            || (0..texts).map(|_| gains[chance.random_range(0..texts)]).sum::<i32>() as f64 / texts.max(1) as f64;
        let mut means: Vec<f64> = (0..RESAMPLES).map(|_| resample()).collect();
        means.sort_by(f64::total_cmp);
        Self { texts, before: share(before), after: share(after), least_gain: means[RESAMPLES / 20] }
    }

    /// Whether the candidate [`lost`] too many.
    pub fn lost(&self) -> bool {
        lost(((self.before - self.after) * self.texts as f64).round() as isize, self.texts)
    }
}

/// Whether so many fewer of the texts being right are more than [`MOST_LOST`]; whole texts are compared, not rounded shares.
pub fn lost(fewer: isize, texts: usize) -> bool {
    fewer as f64 > (MOST_LOST * texts as f64).floor()
}

/// What the gate said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome", content = "why")]
pub enum Decision {
    /// The candidate is the new version.
    Promoted,
    /// The current version stays, for this reason.
    Kept(String),
}

/// A candidate is promoted if it is better on the pool's gate part, with 95 % confidence, and loses no more than
/// [`MOST_LOST`] on the anchor set.
pub fn decide(pool: &Paired, anchor: Option<&Paired>) -> Decision {
    let percent = |share: f64| 100.0 * share;
    if pool.texts < FEWEST_TEXTS {
        return Decision::Kept(format!("the gate part has {} texts, expected at least {FEWEST_TEXTS}", pool.texts));
    }
    if pool.least_gain <= 0.0 {
        return Decision::Kept(format!(
            "not surely better on the pool's gate part: {:.1} % before, {:.1} % after, of {} texts",
            percent(pool.before),
            percent(pool.after),
            pool.texts
        ));
    }
    match anchor {
        Some(anchor) if anchor.lost() => Decision::Kept(format!(
            "worse on the anchor set: {:.1} % before, {:.1} % after, of {} texts",
            percent(anchor.before),
            percent(anchor.after),
            anchor.texts
        )),
        _ => Decision::Promoted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` texts of which the first `right` are right.
    fn first(right: usize, n: usize) -> Vec<bool> {
        (0..n).map(|text| text < right).collect()
    }

    #[test]
    fn a_clear_gain_passes_and_a_doubtful_one_does_not() {
        let clear = Paired::new(&first(200, 400), &first(260, 400), 1);
        assert_eq!((clear.before, clear.after), (0.5, 0.65));
        assert!(clear.least_gain > 0.1, "{clear:?}");
        assert_eq!(decide(&clear, None), Decision::Promoted);
        let doubtful = Paired::new(&first(200, 400), &first(202, 400), 1);
        assert!(matches!(decide(&doubtful, None), Decision::Kept(why) if why.contains("not surely better")));
    }

    #[test]
    fn the_bound_is_that_of_the_normal_approximation() {
        // 60 of 400 texts become right and 20 wrong: mean 0.1, standard deviation of the mean sqrt(0.2 - 0.01) / 20.
        let before: Vec<bool> = (0..400).map(|text| (60..200).contains(&text)).collect();
        let after: Vec<bool> = (0..400).map(|text| text < 180).collect();
        let expected = 0.1 - 1.645 * (0.19f64).sqrt() / 20.0;
        let found = Paired::new(&before, &after, 3).least_gain;
        assert!((found - expected).abs() < 0.006, "{found} against {expected}");
    }

    #[test]
    fn what_is_lost_on_the_anchor_set_refuses() {
        let pool = Paired::new(&first(200, 400), &first(300, 400), 1);
        let anchor = |after| Paired::new(&first(700, 1000), &first(after, 1000), 1);
        assert_eq!(decide(&pool, Some(&anchor(695))), Decision::Promoted);
        assert!(matches!(decide(&pool, Some(&anchor(694))), Decision::Kept(why) if why.contains("anchor")));
    }

    #[test]
    fn few_texts_decide_nothing() {
        let pool = Paired::new(&first(0, 10), &first(10, 10), 1);
        assert!(matches!(decide(&pool, None), Decision::Kept(why) if why.contains("10 texts")));
        assert!(matches!(decide(&Paired::new(&[], &[], 1), None), Decision::Kept(_)));
    }
}
