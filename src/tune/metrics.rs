//! Figures on labelled data, and the temperature.

use crate::annotate::report::{Confusion, Score};
use crate::slm::adapter::Metrics;
use crate::slm::probabilities;
use crate::vote::argmax;

/// Accuracy, macro-F1 (as in a run's report) and negative log likelihood of logits `[texts x labels]` at a temperature.
pub fn metrics(logits: &[f32], gold: &[usize], labels: usize, temperature: f32) -> Metrics {
    let mut probability = logits.to_vec();
    probabilities(&mut probability, labels, temperature);
    let mut confusion = Confusion::new(labels);
    let mut nll = 0.0;
    for (row, gold) in probability.chunks_exact(labels).zip(gold) {
        confusion.add(*gold, Some(argmax(row)));
        nll -= f64::from(row[*gold].max(1e-12)).ln();
    }
    let Score { accuracy, macro_f1 } = confusion.score();
    Metrics { accuracy, macro_f1, nll: nll / gold.len().max(1) as f64 }
}

/// What turns raw logits into calibrated ones: `logits / temperature + bias`.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    /// The temperature.
    pub temperature: f32,
    /// What is added to each label's logit after it; the mean is 0.
    pub bias: Vec<f32>,
}

impl Calibration {
    /// What has to be added to the raw logits, so that a division by the temperature alone calibrates them.
    pub fn shift(&self) -> Vec<f32> {
        self.bias.iter().map(|bias| bias * self.temperature).collect()
    }

    /// The raw logits with [`Self::shift`] added to each row.
    pub fn shifted(&self, logits: &[f32]) -> Vec<f32> {
        let shift = self.shift();
        let rows = logits.chunks_exact(shift.len());
        rows.flat_map(|row| row.iter().zip(&shift).map(|(logit, shift)| logit + shift)).collect()
    }
}

/// Bias-corrected temperature scaling (Alexandari et al., arXiv 1901.06852), of whose bias only that share, in
/// quarters, is kept which has the best macro-F1 (the smallest of equals); the temperature is fitted with it. The whole
/// bias takes over the file's shares of the labels, which texts of another kind do not have.
pub fn calibrate(logits: &[f32], gold: &[usize], labels: usize) -> Calibration {
    let whole = bias_corrected(logits, gold, labels).shift();
    let mut best: Option<(f64, Calibration)> = None;
    for quarters in 0..=4u8 {
        let shift: Vec<f32> = whole.iter().map(|shift| shift * f32::from(quarters) / 4.0).collect();
        let mut fit = Calibration { temperature: 1.0, bias: shift.clone() };
        let shifted = fit.shifted(logits);
        fit.temperature = fit_temperature(&shifted, gold, labels);
        fit.bias = shift.iter().map(|shift| shift / fit.temperature).collect();
        let score = metrics(&shifted, gold, labels, fit.temperature).macro_f1;
        if best.as_ref().is_none_or(|(best, _)| score > *best) {
            best = Some((score, fit));
        }
    }
    best.map_or_else(|| Calibration { temperature: 1.0, bias: vec![0.0; labels] }, |(_, fit)| fit)
}

/// The temperature and the bias of least negative log likelihood, found in turns, as the problem is convex in
/// `1 / temperature` and the bias.
fn bias_corrected(logits: &[f32], gold: &[usize], labels: usize) -> Calibration {
    let mut fit = Calibration { temperature: 1.0, bias: vec![0.0; labels] };
    let mut present = vec![0.0; labels];
    gold.iter().for_each(|gold| present[*gold] += 1.0);
    for _ in 0..40 {
        let shift: Vec<f32> = fit.shift();
        fit.temperature = fit_temperature(&fit.shifted(logits), gold, labels);
        fit.bias = shift.iter().map(|shift| shift / fit.temperature).collect();
        for _ in 0..20 {
            let mut probability = fit.shifted(logits);
            probabilities(&mut probability, labels, fit.temperature);
            for (label, bias) in fit.bias.iter_mut().enumerate() {
                let expected: f32 = probability.iter().skip(label).step_by(labels).sum();
                *bias += (present[label] - expected) / gold.len().max(1) as f32;
            }
        }
    }
    let mean = fit.bias.iter().sum::<f32>() / labels as f32;
    fit.bias.iter_mut().for_each(|bias| *bias -= mean);
    fit
}

/// The temperature of least negative log likelihood (Guo et al., arXiv 1706.04599), by golden section on its logarithm
/// between 1/8 and 8.
pub(super) fn fit_temperature(logits: &[f32], gold: &[usize], labels: usize) -> f32 {
    let loss = |log: f64| metrics(logits, gold, labels, log.exp() as f32).nll;
    let ratio = (5f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (-(8f64.ln()), 8f64.ln());
    while high - low > 1e-3 {
        let (a, b) = (high - ratio * (high - low), low + ratio * (high - low));
        if loss(a) < loss(b) { high = b } else { low = a }
    }
    ((low + high) / 2.0).exp() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_small_confusion() {
        // Gold 0 0 1 2, given 0 1 1 1: F1 are 2/3, 1/2 and 0.
        let logits = [5.0, 0.0, 0.0, 0.0, 5.0, 0.0, 0.0, 5.0, 0.0, 0.0, 5.0, 0.0];
        let m = metrics(&logits, &[0, 0, 1, 2], 3, 1.0);
        assert!((m.accuracy - 0.5).abs() < 1e-9);
        assert!((m.macro_f1 - (2.0 / 3.0 + 0.5) / 3.0).abs() < 1e-9);
    }

    #[test]
    fn temperature_is_found_again() {
        // Rows whose frequencies match a softmax at temperature 2: logits (2 ln 3, 0) and three of four are label 0.
        let logit = 2.0 * 3f32.ln();
        let logits: Vec<f32> = (0..400).flat_map(|_| [logit, 0.0]).collect();
        let gold: Vec<usize> = (0..400).map(|i| usize::from(i % 4 == 0)).collect();
        let temperature = fit_temperature(&logits, &gold, 2);
        assert!((temperature - 2.0).abs() < 1e-2, "{temperature}");
    }

    #[test]
    fn a_wrong_prior_is_corrected() {
        // Two kinds of rows, labelled by a softmax of (2 logits + (1, -1, 0)); the calibration must find that again.
        let mut logits = Vec::new();
        let mut gold = Vec::new();
        for row in [[0.4f32, 0.1, -0.3], [-0.5, 0.6, 0.2], [0.0, -0.2, 0.5]] {
            let mut probability: Vec<f32> = row.iter().zip([1.0, -1.0, 0.0]).map(|(x, b)| 2.0 * x + b).collect();
            probabilities(&mut probability, 3, 1.0);
            for (label, share) in probability.iter().enumerate() {
                for _ in 0..(share * 1000.0).round() as usize {
                    logits.extend(row);
                    gold.push(label);
                }
            }
        }
        let fit = bias_corrected(&logits, &gold, 3);
        assert!((fit.temperature - 0.5).abs() < 0.02, "{fit:?}");
        assert!(fit.bias.iter().zip([1.0, -1.0, 0.0]).all(|(got, want)| (got - want).abs() < 0.05), "{fit:?}");
    }

    #[test]
    fn of_the_bias_only_what_helps_is_kept() {
        // Two kinds of 400 rows each: a logit of label 0 against 0, and how many of the rows are label 0.
        let fit = |kinds: [(f32, usize); 2]| {
            let logits: Vec<f32> = kinds.iter().flat_map(|(logit, _)| [*logit, 0.0].repeat(400)).collect();
            let gold = kinds.iter().flat_map(|(_, first)| (0..400).map(move |i| usize::from(i >= *first)));
            calibrate(&logits, &gold.collect::<Vec<_>>(), 2)
        };
        // The second kind is mostly label 0, but label 1 is found nowhere else: the bias would take it all.
        let kept = fit([(2.0, 396), (-0.2, 240)]);
        assert!(kept.bias.iter().all(|bias| *bias == 0.0), "{kept:?}");
        // Both kinds lie on label 0's side: only a bias brings label 1 in.
        let moved = fit([(3.0, 390), (1.0, 40)]);
        assert!(moved.bias[1] > 0.5, "{moved:?}");
    }
}
