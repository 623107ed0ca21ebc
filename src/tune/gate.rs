//! The gate: whether a candidate may take its predecessor's place.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// Resamples of the bootstrap.
const RESAMPLES: usize = 2000;

/// The most that a candidate may lose on the anchor set, as a share of its texts.
pub const MOST_LOST: f64 = 0.005;

/// The most that it may lose on a part of the set, likewise, where chance does not explain more: what one kind of text loses,
/// others' gains would hide.
const MOST_LOST_OF_PART: f64 = 0.01;

/// Fewer gate texts than this say nothing.
pub const FEWEST_TEXTS: usize = 20;

/// Two versions on the same texts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// The number of texts.
    pub texts: usize,
    /// The current version's accuracy, from 0 to 1.
    pub before: f64,
    /// The candidate's.
    pub after: f64,
    /// The gain that is exceeded in 95 % of the resamples: of accuracy on the anchor set, on the pool of the Brier score.
    pub least_gain: f64,
}

/// The Brier score of a text's probabilities: their squared distance from its label, from 0 to 2 (Brier, Monthly Weather Review
/// 78, 1950). It tells two versions apart on far fewer texts than how many of them they label right.
pub fn brier(probabilities: &[f32], label: usize) -> f64 {
    let of = |(at, p): (usize, &f32)| (f64::from(*p) - f64::from(u8::from(at == label))).powi(2);
    probabilities.iter().enumerate().map(of).sum()
}

impl Paired {
    /// Compares which texts the current version and the candidate label right, by a paired bootstrap over the texts (Efron
    /// and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 16).
    pub fn new(before: &[bool], after: &[bool], seed: u64) -> Self {
        let gain = |(before, after): (&bool, &bool)| f64::from(u8::from(*after)) - f64::from(u8::from(*before));
        Self::of_gains(before, after, before.iter().zip(after).map(gain).collect(), seed)
    }

    /// The same by a loss of each text, such as [`brier`], beside whether it is labelled right.
    pub fn by_loss(before: (&[bool], &[f64]), after: (&[bool], &[f64]), seed: u64) -> Self {
        let gains = before.1.iter().zip(after.1).map(|(before, after)| before - after).collect();
        Self::of_gains(before.0, after.0, gains, seed)
    }

    fn of_gains(before: &[bool], after: &[bool], gains: Vec<f64>, seed: u64) -> Self {
        let texts = before.len();
        let share = |right: &[bool]| right.iter().filter(|right| **right).count() as f64 / texts.max(1) as f64;
        let mut chance = StdRng::seed_from_u64(seed);
        let mut resample =
            || (0..texts).map(|_| gains[chance.random_range(0..texts)]).sum::<f64>() / texts.max(1) as f64;
        let mut means: Vec<f64> = (0..RESAMPLES).map(|_| resample()).collect();
        means.sort_by(f64::total_cmp);
        Self { texts, before: share(before), after: share(after), least_gain: means[RESAMPLES / 20] }
    }
}

/// What became of texts: how many the current version labels right, how many a candidate, and on how many they differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    texts: usize,
    before: usize,
    after: usize,
    turned: usize,
}

impl Change {
    /// Of which texts the current version and the candidate label right.
    pub fn new(before: &[bool], after: &[bool]) -> Self {
        let count = |right: &[bool]| right.iter().filter(|right| **right).count();
        let turned = before.iter().zip(after).filter(|(before, after)| before != after).count();
        Self { texts: before.len(), before: count(before), after: count(after), turned }
    }

    /// How much of what may be lost on the anchor set was: above 1 it is too much.
    pub fn spent(&self) -> f64 {
        self.spent_of(MOST_LOST * self.texts as f64)
    }

    /// The same of a part of the set, where a loss that chance explains is borne as well: one up to its standard deviation if
    /// every turned text had turned by chance (McNemar, Psychometrika 12, 1947). Fewer than [`FEWEST_TEXTS`] say nothing.
    pub fn spent_of_part(&self) -> f64 {
        let most = (MOST_LOST_OF_PART * self.texts as f64).max((self.turned as f64).sqrt());
        if self.texts < FEWEST_TEXTS { 0.0 } else { self.spent_of(most) }
    }

    fn spent_of(&self, most: f64) -> f64 {
        if self.after >= self.before { 0.0 } else { (self.before - self.after) as f64 / most }
    }
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

/// A candidate is promoted if it is better on the pool's gate part, with 95 % confidence, and labels no fewer of it right, and
/// there is nothing on which it `lost` too much: the anchor set, or a part of it, by its name.
pub fn decide(pool: &Paired, lost: Option<(&str, Change)>) -> Decision {
    let percent = |share: f64| 100.0 * share;
    if pool.texts < FEWEST_TEXTS {
        return Decision::Kept(format!("the gate part has {} texts, expected at least {FEWEST_TEXTS}", pool.texts));
    }
    if pool.least_gain <= 0.0 || pool.after < pool.before {
        return Decision::Kept(format!(
            "not surely better on the pool's gate part: {:.1} % before, {:.1} % after, of {} texts",
            percent(pool.before),
            percent(pool.after),
            pool.texts
        ));
    }
    match lost {
        Some((name, Change { texts, before, after, .. })) => {
            let [before, after] = [before, after].map(|right| percent(right as f64 / texts as f64));
            Decision::Kept(format!("worse on {name}: {before:.1} % before, {after:.1} % after, of {texts} texts"))
        }
        None => Decision::Promoted,
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
    fn a_loss_shows_what_too_few_labels_do() {
        assert!((brier(&[0.8, 0.2], 0) - 0.08).abs() < 1e-6 && (brier(&[0.0, 1.0], 0) - 2.0).abs() < 1e-6);
        let by_loss = |right: usize, less: f64| {
            let losses = |less: f64| (0..60).map(|text| 0.5 - less + 0.001 * f64::from(text)).collect::<Vec<_>>();
            let before = first(30, 60);
            decide(&Paired::by_loss((&before, &losses(0.0)), (&first(right, 60), &losses(less)), 1), None)
        };
        // As many right as before, and surer of them.
        assert_eq!(by_loss(30, 0.1), Decision::Promoted);
        assert!(matches!(by_loss(30, 0.0), Decision::Kept(_)));
        // Surer, but fewer are right.
        assert!(matches!(by_loss(29, 0.1), Decision::Kept(_)));
    }

    #[test]
    fn what_is_lost_on_the_anchor_set_refuses() {
        let pool = Paired::new(&first(200, 400), &first(300, 400), 1);
        let anchor = |after| Change::new(&first(700, 1000), &first(after, 1000));
        assert_eq!([anchor(701), anchor(695)].map(|change| change.spent()), [0.0, 1.0]);
        assert!(anchor(694).spent() > 1.0);
        let decision = decide(&pool, Some(("the anchor set", anchor(694))));
        assert_eq!(
            decision,
            Decision::Kept("worse on the anchor set: 70.0 % before, 69.4 % after, of 1000 texts".to_owned())
        );
    }

    #[test]
    fn half_a_point_is_not_too_much_by_a_rounding_error() {
        for points in 1..500 {
            let texts = 200 * points;
            let change = |after| Change { texts, before: texts, after, turned: texts - after };
            assert!(change(texts - points).spent() <= 1.0 && change(texts - points - 1).spent() > 1.0, "{texts}");
        }
    }

    #[test]
    fn a_part_may_lose_a_point_or_what_chance_explains() {
        let of = |lost: usize, gained: usize, texts: usize| {
            let before = first(texts - gained, texts);
            let mut after = vec![true; texts];
            after[..lost].fill(false);
            Change::new(&before, &after).spent_of_part()
        };
        // A point of 1,000 texts is 10; 19 texts say nothing.
        assert_eq!(of(19, 0, 19), 0.0);
        assert_eq!((of(10, 0, 1000), of(9, 9, 1000)), (1.0, 0.0));
        assert!(of(11, 0, 1000) > 1.0);
        // 12 of 100 turned: chance explains a loss of 3.46.
        assert!(of(7, 5, 100) < 1.0 && of(8, 4, 100) > 1.0);
    }

    #[test]
    fn few_texts_decide_nothing() {
        let pool = Paired::new(&first(0, 10), &first(10, 10), 1);
        assert!(matches!(decide(&pool, None), Decision::Kept(why) if why.contains("10 texts")));
        assert!(matches!(decide(&Paired::new(&[], &[], 1), None), Decision::Kept(_)));
    }
}
