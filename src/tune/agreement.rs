//! How far SLMs agree, and how far their probabilities are to be believed.

use crate::vote::argmax;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Resamples of the bootstrap.
const RESAMPLES: usize = 1000;

/// Bins of the calibration error.
const BINS: usize = 15;

/// The 95 % interval of a mean, by the percentile bootstrap over its values (Efron and Tibshirani, An Introduction to the
/// Bootstrap, 1993, chapter 13); `[0, 0]` of none.
pub fn interval(values: &[f64], seed: u64) -> [f64; 2] {
    if values.is_empty() {
        return [0.0; 2];
    }
    let mut chance = StdRng::seed_from_u64(seed);
    let mut resample = || {
        let sum: f64 = (0..values.len()).map(|_| values[chance.random_range(0..values.len())]).sum();
        sum / values.len() as f64
    };
    let mut means: Vec<f64> = (0..RESAMPLES).map(|_| resample()).collect();
    means.sort_by(f64::total_cmp);
    [means[RESAMPLES / 40], means[RESAMPLES - 1 - RESAMPLES / 40]]
}

/// A bin of a reliability diagram.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Bin {
    /// Texts whose label's probability lies in it.
    pub texts: usize,
    /// The mean of that probability.
    pub confidence: f64,
    /// The share of them whose label is right.
    pub accuracy: f64,
}

/// The reliability diagram of probabilities, a row a text: 15 bins of equal width over the label's probability.
pub fn reliability<'a>(rows: impl IntoIterator<Item = (&'a [f32], usize)>) -> [Bin; BINS] {
    let mut bins = [Bin::default(); BINS];
    for (row, gold) in rows {
        let label = argmax(row);
        let confidence = f64::from(row[label]);
        let bin = &mut bins[((confidence * BINS as f64) as usize).min(BINS - 1)];
        bin.texts += 1;
        bin.confidence += confidence;
        bin.accuracy += f64::from(u8::from(label == gold));
    }
    for bin in bins.iter_mut().filter(|bin| bin.texts > 0) {
        bin.confidence /= bin.texts as f64;
        bin.accuracy /= bin.texts as f64;
    }
    bins
}

/// The expected calibration error (Guo et al., arXiv 1706.04599): the mean gap between confidence and accuracy.
pub fn calibration_error(bins: &[Bin]) -> f64 {
    let texts: usize = bins.iter().map(|bin| bin.texts).sum();
    let gap = |bin: &Bin| bin.texts as f64 * (bin.confidence - bin.accuracy).abs();
    bins.iter().map(gap).sum::<f64>() / texts.max(1) as f64
}

/// A value with its 95 % interval, by the percentile bootstrap over the texts.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Estimate {
    /// Of all texts.
    pub value: f64,
    /// From and to.
    pub interval: [f64; 2],
}

/// Chance-corrected agreement.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Agreement {
    /// Fleiss's kappa over all raters (Psychological Bulletin 76, 1971).
    pub fleiss_kappa: Estimate,
    /// Krippendorff's alpha for nominal labels (Content Analysis, 2004, chapter 11).
    pub krippendorff_alpha: Estimate,
    /// Cohen's kappa of each pair of raters: first, second, kappa (Educational and Psychological Measurement 20, 1960).
    pub cohen_kappa: Vec<(usize, usize, Estimate)>,
}

/// The agreement of raters, each with a label for every text. Where all say the same label throughout it is 1; of fewer than
/// two raters or no texts it is all zero.
pub fn agreement(raters: &[Vec<usize>], labels: usize) -> Agreement {
    let texts = raters.first().map_or(0, Vec::len);
    if raters.len() < 2 || texts == 0 {
        return Agreement::default();
    }
    let mut chance = StdRng::seed_from_u64(0);
    let mut resamples: Vec<Vec<f64>> =
        (0..RESAMPLES).map(|_| kappas(raters, labels, (0..texts).map(|_| chance.random_range(0..texts)))).collect();
    let mut estimates = kappas(raters, labels, 0..texts).into_iter().enumerate().map(|(at, value)| {
        resamples.sort_by(|a, b| a[at].total_cmp(&b[at]));
        let of = |resample: usize| resamples[resample][at];
        Estimate { value, interval: [of(RESAMPLES / 40), of(RESAMPLES - 1 - RESAMPLES / 40)] }
    });
    let mut next = || estimates.next().unwrap_or_default();
    Agreement {
        fleiss_kappa: next(),
        krippendorff_alpha: next(),
        cohen_kappa: pairs(raters.len()).map(|(a, b)| (a, b, next())).collect(),
    }
}

/// The figures by name; raters count from 1.
pub fn agreements(agreement: &Agreement) -> Vec<(String, Estimate)> {
    let cohen = |(a, b, of): &(usize, usize, Estimate)| (format!("Cohen's kappa of {} and {}", a + 1, b + 1), *of);
    let all = [
        ("Fleiss's kappa".to_owned(), agreement.fleiss_kappa),
        ("Krippendorff's alpha".to_owned(), agreement.krippendorff_alpha),
    ];
    all.into_iter().chain(agreement.cohen_kappa.iter().map(cohen)).collect()
}

/// Every two of so many raters.
fn pairs(raters: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..raters).flat_map(move |first| (first + 1..raters).map(move |second| (first, second)))
}

/// Fleiss's kappa, Krippendorff's alpha and Cohen's kappa of each pair, of some texts.
fn kappas(raters: &[Vec<usize>], labels: usize, texts: impl Iterator<Item = usize>) -> Vec<f64> {
    let mut totals = vec![vec![0.0; labels]; raters.len()];
    let mut same = vec![0.0; pairs(raters.len()).count()];
    let mut count = 0.0;
    for text in texts {
        count += 1.0;
        raters.iter().zip(&mut totals).for_each(|(rater, totals)| totals[rater[text]] += 1.0);
        for ((a, b), same) in pairs(raters.len()).zip(&mut same) {
            *same += f64::from(u8::from(raters[a][text] == raters[b][text]));
        }
    }
    // Of a text's ordered pairs of raters the share that agrees is that of its unordered ones.
    let observed = same.iter().sum::<f64>() / (same.len() as f64 * count);
    let all = count * raters.len() as f64;
    let of_label = |label: usize| totals.iter().map(|totals| totals[label]).sum::<f64>();
    let expected = (0..labels).map(|label| (of_label(label) / all).powi(2)).sum();
    // Alpha draws the pair without putting the first one back.
    let without = (0..labels).map(|label| of_label(label) * (of_label(label) - 1.0)).sum::<f64>() / (all * (all - 1.0));
    let cohen = |((a, b), same): ((usize, usize), &f64)| {
        let expected = totals[a].iter().zip(&totals[b]).map(|(a, b)| a * b).sum::<f64>() / (count * count);
        corrected(same / count, expected)
    };
    let several = [corrected(observed, expected), corrected(observed, without)];
    several.into_iter().chain(pairs(raters.len()).zip(&same).map(cohen)).collect()
}

fn corrected(observed: f64, expected: f64) -> f64 {
    if expected >= 1.0 { 1.0 } else { (observed - expected) / (1.0 - expected) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fourteen raters, ten subjects, five categories: an example that is widely printed, whose kappa is 0.210.
    #[test]
    fn fleiss_kappa_of_the_known_example() {
        let counts = [
            [0, 0, 0, 0, 14],
            [0, 2, 6, 4, 2],
            [0, 0, 3, 5, 6],
            [0, 3, 9, 2, 0],
            [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0],
            [3, 2, 6, 3, 0],
            [2, 5, 3, 2, 2],
            [6, 5, 2, 1, 0],
            [0, 2, 2, 3, 7],
        ];
        let spread = |row: &[usize; 5]| {
            row.iter().enumerate().flat_map(|(label, count)| std::iter::repeat_n(label, *count)).collect::<Vec<_>>()
        };
        let texts: Vec<Vec<usize>> = counts.iter().map(spread).collect();
        let raters: Vec<Vec<usize>> = (0..14).map(|rater| texts.iter().map(|text| text[rater]).collect()).collect();
        let found = agreement(&raters, 5);
        assert!((found.fleiss_kappa.value - 0.210).abs() < 5e-4, "{found:?}");
        assert_eq!(found.cohen_kappa.len(), 14 * 13 / 2);
    }

    /// Two raters, ten units, of which six agree. By hand: alpha = 1 - 19 * 8 / (2 * 14 * 6) = 0.095; Cohen's kappa: both say
    /// 1 in 4 of 10 and 2 of 10: (0.6 - 0.56) / 0.44 = 0.0909.
    #[test]
    fn alpha_and_cohen_by_hand() {
        let a = vec![0, 1, 0, 0, 0, 0, 0, 0, 1, 0];
        let b = vec![1, 1, 1, 0, 0, 1, 0, 0, 0, 0];
        let found = agreement(&[a, b], 2);
        assert!((found.krippendorff_alpha.value - (1.0 - 19.0 * 8.0 / (2.0 * 14.0 * 6.0))).abs() < 1e-12, "{found:?}");
        assert!((found.cohen_kappa[0].2.value - 0.04 / 0.44).abs() < 1e-12, "{found:?}");
    }

    /// 1,000 texts on which two raters agree in 80 %, half of them of each label: kappa is 0.6, and its standard error by the
    /// delta method sqrt(0.8 * 0.2 / 1000) / 0.5 = 0.0253.
    #[test]
    fn the_interval_of_kappa_is_that_of_the_normal_approximation() {
        let a: Vec<usize> = (0..1000).map(|text| text % 2).collect();
        let b: Vec<usize> = (0..1000).map(|text| (text + usize::from(text / 2 % 5 == 0)) % 2).collect();
        let Estimate { value, interval: [from, to] } = agreement(&[a, b], 2).cohen_kappa[0].2;
        assert!((value - 0.6).abs() < 1e-9, "{value}");
        assert!(
            (from - (0.6 - 1.96 * 0.0253)).abs() < 0.01 && (to - (0.6 + 1.96 * 0.0253)).abs() < 0.01,
            "{from} {to}"
        );
    }

    #[test]
    fn full_agreement_is_one_and_nothing_is_nothing() {
        let found = agreement(&[vec![0, 1, 2], vec![0, 1, 2]], 3);
        let full = Estimate { value: 1.0, interval: [1.0, 1.0] };
        assert_eq!((found.fleiss_kappa, found.krippendorff_alpha, found.cohen_kappa[0].2), (full, full, full));
        assert_eq!(agreement(&[vec![1, 1], vec![1, 1]], 3).fleiss_kappa, full);
        assert_eq!(agreement(&[], 3), Agreement::default());
    }

    #[test]
    fn calibration_error_is_the_gap() {
        let (sure, unsure) = ([0.9f32, 0.1], [0.6f32, 0.4]);
        let bins = reliability([(&sure[..], 0), (&sure, 1), (&unsure, 0), (&unsure, 0)]);
        assert!((calibration_error(&bins) - (0.5 * 0.4 + 0.5 * 0.4)).abs() < 1e-6, "{bins:?}");
        assert_eq!(calibration_error(&[]), 0.0);
    }

    #[test]
    fn an_interval_holds_the_mean() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 4 == 0)).collect();
        let [low, high] = interval(&values, 1);
        // 1.96 standard errors of a share of 0.25 in 400 are 0.042.
        assert!((low - 0.2075).abs() < 0.01 && (high - 0.2925).abs() < 0.01, "{low} {high}");
        assert_eq!(interval(&[], 1), [0.0; 2]);
    }
}
