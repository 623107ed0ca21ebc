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

/// The temperature of least negative log likelihood (Guo et al., arXiv 1706.04599), by golden section on its logarithm
/// between 1/8 and 8. It leaves each text's label as it is: a bias besides it (BCTS, arXiv 1901.06852) would learn the
/// validation file's share of the labels, which texts of another kind do not have.
pub fn fit_temperature(logits: &[f32], gold: &[usize], labels: usize) -> f32 {
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
}
