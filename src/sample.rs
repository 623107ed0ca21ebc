//! The records that flow: sample -> votes -> verdict -> review -> annotation.

use serde::{Deserialize, Serialize};

/// One text to be labelled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Unique in its data set: the 1-based number of its row, as text.
    pub id: String,
    /// The text.
    pub text: String,
}

/// What one SLM says of one sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vote {
    /// The SLM's id, such as `sentiment-minilm-l3`.
    pub slm: String,
    /// The version of its weights: the first 12 hexadecimal digits of the packed file's SHA-256.
    pub version: String,
    /// The engine that ran it, such as `cpu`.
    pub engine: String,
    /// The precision it ran in, such as `f32`.
    pub precision: String,
    /// The label of highest probability (the first of equals); empty where the model finds none of the task's.
    pub label: String,
    /// Calibrated probabilities in the task's label order; they sum to 1.
    pub probabilities: Vec<f32>,
    /// True where the text was longer than the SLM's maximum and its end was cut.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// What the votes amount to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum Verdict {
    /// The rule was met: the label stands without a review.
    Accepted {
        /// The label.
        label: String,
        /// The mean calibrated probability that the SLMs give this label.
        confidence: f32,
    },
    /// The rule was not met: a reviewer decides.
    Hard {
        /// Why, such as `disagreement` or `tie`.
        why: String,
    },
    /// There was nothing to vote on, such as a text of only whitespace.
    SetAside {
        /// Why.
        why: String,
    },
}

/// Who reviewed a hard sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ReviewedBy {
    /// An LLM, by the name of its model.
    Llm {
        /// The model.
        model: String,
    },
    /// A person.
    Human {
        /// Who, where they said so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
    },
}

/// What a reviewer said of a hard sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Review {
    /// The label, or none where the reviewer gave no usable one.
    pub label: Option<String>,
    /// Who reviewed.
    pub by: ReviewedBy,
    /// Why there is no label, or what the reviewer added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Tokens of the prompt that this sample cost.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Tokens of the completion that this sample cost.
    #[serde(default)]
    pub completion_tokens: u64,
    /// US dollars that this sample cost.
    #[serde(default)]
    pub cost_usd: f64,
}

/// Where a final label came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The SLMs agreed.
    Consensus,
    /// An LLM reviewed it.
    Llm,
    /// A person reviewed it.
    Human,
}

/// A sample with everything that was said of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Annotation {
    /// The sample.
    pub sample: Sample,
    /// The votes, in the spec's order of SLMs; empty where the sample was set aside.
    pub votes: Vec<Vote>,
    /// What the votes amount to.
    pub verdict: Verdict,
    /// The review, where there was one.
    pub review: Option<Review>,
    /// The final label, or none: nothing is labelled by default.
    pub label: Option<String>,
    /// Where the label came from; none where there is no label.
    pub source: Option<Source>,
}

impl Annotation {
    /// An annotation as the verdict leaves it, before any review.
    pub fn new(sample: Sample, votes: Vec<Vote>, verdict: Verdict) -> Self {
        let label = match &verdict {
            Verdict::Accepted { label, .. } => Some(label.clone()),
            _ => None,
        };
        let source = label.is_some().then_some(Source::Consensus);
        Self { sample, votes, verdict, review: None, label, source }
    }

    /// Adds a review: its label, if it has one, becomes the final one.
    pub fn with_review(mut self, review: Review) -> Self {
        if let Some(label) = &review.label {
            self.label = Some(label.clone());
            self.source = Some(match review.by {
                ReviewedBy::Llm { .. } => Source::Llm,
                ReviewedBy::Human { .. } => Source::Human,
            });
        }
        self.review = Some(review);
        self
    }

    /// Whether a reviewer still has to decide.
    pub fn is_open(&self) -> bool {
        matches!(self.verdict, Verdict::Hard { .. }) && self.label.is_none()
    }
}
