//! `POST /v1/review`: what the page, the companion and the server say to each other.

use crate::sample::Annotation;
use serde::{Deserialize, Serialize};

/// Items of one request at most.
pub const MAX_ITEMS: usize = 64;
/// Bytes of one item's text at most.
pub const MAX_TEXT: usize = 32 * 1024;

/// Asks for reviews.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReviewRequest {
    /// The task's name; the server composes the prompt from its own spec of it.
    pub task: String,
    /// The sender's spec, if it wants to be sure that the server's has the same labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<serde_json::Value>,
    /// The samples, redacted; at most [`MAX_ITEMS`], their ids unique.
    pub items: Vec<ReviewItem>,
    /// What is wanted of them.
    #[serde(default)]
    pub mode: Mode,
}

/// What is wanted of the items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// One label each.
    #[default]
    Label,
}

/// One sample to be reviewed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReviewItem {
    /// The sample's id.
    pub id: String,
    /// Its redacted text, at most [`MAX_TEXT`] bytes.
    pub text: String,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReviewResponse {
    /// One for each item asked about, in the order of the request.
    pub items: Vec<ReviewedItem>,
    /// What all of them cost.
    pub usage: Usage,
    /// What is left of the budget in US dollars; none where there is no cap.
    #[serde(default)]
    pub remaining_budget_usd: Option<f64>,
    /// The model that reviewed.
    pub model: String,
}

/// What the reviewer said of one item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReviewedItem {
    /// The sample's id.
    pub id: String,
    /// The label's canonical name, or none: the sample is for a person.
    pub label: Option<String>,
    /// Why there is no label.
    #[serde(default)]
    pub why: Option<String>,
}

/// What something cost.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompts.
    pub prompt_tokens: u64,
    /// Tokens of the replies.
    pub completion_tokens: u64,
    /// US dollars, 0 where no prices are configured.
    pub cost_usd: f64,
}

impl Usage {
    /// Adds what something else cost.
    pub fn add(&mut self, other: &Self) {
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.cost_usd += other.cost_usd;
    }
}

/// Annotations of one [`PoolRequest`] at most.
pub const MAX_POOLED: usize = 500;

/// Annotations whose reviews may go into the server's pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolRequest {
    /// The task's name.
    pub task: String,
    /// Any annotations; only those with a reviewer's label are kept.
    pub annotations: Vec<Annotation>,
    /// Annotations that were handed in before, whose label was taken back since: they go out of the pool, unless a round has
    /// used them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retracted: Vec<Annotation>,
}

/// What became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolResponse {
    /// Kept, and on the disk.
    pub added: usize,
    /// In the pool before.
    pub known: usize,
    /// Without a reviewer's label.
    pub left_out: usize,
    /// Out of the pool again.
    #[serde(default)]
    pub retracted: usize,
}

/// The body of every answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// What went wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// A stable code.
    pub code: String,
    /// What is wrong and what to do about it.
    pub message: String,
    /// Seconds to wait before asking again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}
