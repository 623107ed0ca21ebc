//! One small language model: a BERT-family encoder with a classification head.
//!
//! [`config`] reads `config.json`; [`weights`] the tensors; [`hub`] a whole classifier of the hub with its own head;
//! [`tokenize`] the tokenizer; [`adapter`] merges what was trained into a base; [`pack`] is the file that a browser downloads; [`cpu`] runs it, and makes the gradients of a training
//! on the CPU; [`gpu`] runs it on a GPU. The burn module (`burn`) holds what trains, trains on a GPU, and is the oracle.

pub mod adapter;
#[cfg(any(feature = "burn", feature = "gpu-burn"))]
pub mod burn;
#[cfg(feature = "native")]
mod calibrate;
pub mod config;
pub mod cpu;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod hub;
pub mod model;
pub mod pack;
pub mod quant;
pub mod tokenize;
pub mod weights;

use crate::vote::BallotError;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What can be wrong with a model or its input. Every message names the file or tensor and what was expected.
#[derive(Debug, Error)]
pub enum SlmError {
    /// A file is not what it should be.
    #[error("slm-file: {file}: {problem}")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it and what was expected.
        problem: String,
    },
    /// The architecture is not one that is served.
    #[error(
        "slm-architecture: {file}: model_type '{found}' is not supported; supported: bert, roberta (BERTweet too), xlm-roberta, distilbert, electra, mpnet, albert, deberta-v2 (v3 too), modernbert"
    )]
    Architecture {
        /// The file.
        file: String,
        /// The `model_type` found.
        found: String,
    },
    /// A tensor is missing.
    #[error("slm-tensor-missing: {file}: there is no tensor '{tensor}' (expected shape {expected:?})")]
    MissingTensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The shape that was expected.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the config says.
    #[error("slm-tensor-shape: {file}: tensor '{tensor}' has shape {found:?}, expected {expected:?}")]
    Shape {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that was expected.
        expected: Vec<usize>,
    },
    /// A tensor holds NaN or infinity.
    #[error("slm-tensor-value: {file}: tensor '{tensor}' holds a value that is not finite at index {index}")]
    NotFinite {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The first such element.
        index: usize,
    },
    /// The tokenizer refused.
    #[error("slm-tokenizer: {0}")]
    Tokenizer(String),
    /// There is no GPU of use.
    #[error("slm-no-gpu: {0}; the CPU engine serves every machine")]
    NoGpu(String),
    /// A GPU failed while it worked: it was lost or ran out of memory.
    #[error("slm-gpu: {0}")]
    Gpu(String),
    /// Its labels are not those of the task.
    #[error("slm-labels: '{id}': {error}")]
    Labels {
        /// The SLM.
        id: String,
        /// What is wrong with them.
        error: BallotError,
    },
    /// Token ids or lengths that the model cannot take.
    #[error("slm-input: {0}")]
    Input(String),
}

/// Texts as token ids, end to end, without padding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// The ids of all texts, one text after the other, special tokens included.
    pub ids: Vec<u32>,
    /// The number of tokens of each text; they sum to `ids.len()`.
    pub lengths: Vec<usize>,
}

impl Batch {
    /// Joins token lists end to end.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let mut batch = Self::default();
        for ids in texts {
            batch.ids.extend_from_slice(ids);
            batch.lengths.push(ids.len());
        }
        batch
    }

    /// Checks that lengths and ids fit each other and a model of this vocabulary and maximum length (in tokens).
    pub fn check(&self, vocabulary: usize, max_length: usize) -> Result<(), SlmError> {
        let fail = |problem: String| Err(SlmError::Input(problem));
        if self.lengths.iter().try_fold(0usize, |sum, n| sum.checked_add(*n)) != Some(self.ids.len()) {
            return fail(format!("the lengths do not sum to the {} token ids", self.ids.len()));
        }
        if let Some(n) = self.lengths.iter().find(|n| **n == 0 || **n > max_length) {
            return fail(format!("a text of {n} tokens; expected 1 to {max_length}"));
        }
        if let Some(id) = self.ids.iter().find(|id| **id as usize >= vocabulary) {
            return fail(format!("token id {id} is outside the vocabulary of {vocabulary}"));
        }
        Ok(())
    }
}

/// Something that runs an SLM's encoder and head.
pub trait Engine {
    /// Its short name, recorded on votes: `cpu`, `burn`.
    fn name(&self) -> &'static str;

    /// The arithmetic's precision, recorded on votes: `f32`.
    fn precision(&self) -> &'static str;

    /// Raw logits (before the temperature), `[texts x labels]` row by row. A text's logits do not depend on the other texts of its batch, bit for bit.
    fn logits(&mut self, batch: &Batch) -> Result<Vec<f32>, SlmError>;
}

/// Logits as they are, where all are finite; else an error.
fn finite(logits: Vec<f32>) -> Result<Vec<f32>, SlmError> {
    if logits.iter().all(|logit| logit.is_finite()) {
        return Ok(logits);
    }
    Err(SlmError::Input("the model gave a logit that is not finite; its weights are unusable".to_owned()))
}

/// How logits become probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scoring {
    /// One label a text: [`probabilities`].
    #[default]
    Softmax,
    /// Any number of labels a text, each with a probability of its own: `sigmoid(logit / temperature)`.
    Sigmoid,
}

impl Scoring {
    /// Logits to probabilities, row by row in place; `labels` values a row.
    pub fn probabilities(self, logits: &mut [f32], labels: usize, temperature: f32) {
        match self {
            Self::Softmax => probabilities(logits, labels, temperature),
            Self::Sigmoid => logits.iter_mut().for_each(|logit| *logit = 1.0 / (1.0 + (-*logit / temperature).exp())),
        }
    }
}

/// `softmax(logits / temperature)`, row by row in place; `labels` values a row.
pub fn probabilities(logits: &mut [f32], labels: usize, temperature: f32) {
    for row in logits.chunks_exact_mut(labels) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for value in row.iter_mut() {
            *value = ((*value - max) / temperature).exp();
            sum += *value;
        }
        row.iter_mut().for_each(|value| *value /= sum);
    }
}

/// Groups texts of similar length: each group's sum of tokens is at most `budget` (a text longer than that is a group of
/// its own) and it holds at most `max_texts`. Returns groups of indices into `lengths`; every index stands in exactly one.
pub fn plan_batches(lengths: &[usize], budget: usize, max_texts: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|index| lengths[*index]);
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut tokens = 0;
    for index in order {
        match groups.last_mut() {
            Some(group) if tokens + lengths[index] <= budget && group.len() < max_texts => {
                group.push(index);
                tokens += lengths[index];
            }
            _ => {
                groups.push(vec![index]);
                tokens = lengths[index];
            }
        }
    }
    groups
}
