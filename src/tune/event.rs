//! What a round says of itself while it runs: a line of JSON each, from `autoannotator tune --json` to whoever started it.

use super::pool::DrawCounts;
use super::round::Report;
use serde::{Deserialize, Serialize};

/// How the error begins that says that a round of the task runs already.
pub const ANOTHER_ROUND: &str = "another round of the task";

/// One thing that happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The round's samples are there.
    Pool(DrawCounts),
    /// How far it has come.
    Progress(Progress),
    /// An SLM is through.
    Slm(Report),
    /// The round has ended.
    Done {
        /// Its number.
        round: i64,
    },
}

/// How far a round has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The SLM at work; empty before the first.
    pub slm: String,
    /// What it does.
    pub stage: String,
    /// Steps done.
    pub done: u64,
    /// All steps.
    pub all: u64,
}
