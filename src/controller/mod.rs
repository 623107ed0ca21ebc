//! The meta-controller: which SLMs a new task is labelled by, and the projects that label it.
//!
//! In AutoAnnotator (arXiv 2506.16393, section 3) an LLM selects the SLMs and writes the code that runs them. Here it may
//! propose labels and an order in which candidates are looked at, out of a closed list; what is chosen follows from
//! measurements, and what is written is a spec that was validated. Nothing that an LLM or the hub wrote is ever executed or
//! used as a path.
//!
//! | module | what it holds |
//! |---|---|
//! | [`labels`] | the labels of a new task: proposed by an LLM, edited by a person |
//! | [`cold_start`] | SLMs for a task that none exists for, from a few labelled texts |
//! | [`catalogue`] | the models there are, and why others are out of the question |
//! | [`remote`] | the hub over HTTP: its search, and files that are verified as they arrive |
//! | [`mapping`] | which of a model's labels is which of the task's |
//! | [`llm`] | an LLM asked within a budget, each reply kept |
//! | [`rank`] | the order in which candidates are measured |
//! | [`probe`] | the labelled texts that candidates are measured on |
//! | [`measure`] | a candidate brought, packed and measured |
//! | [`select`] | the ensemble of the best accuracy, and what that figure is worth |
//! | [`write`](mod@write) | the spec |
//! | [`generate`] | projects for a spec: page, worker, batch job |

pub mod catalogue;
pub mod cold_start;
pub mod generate;
pub mod labels;
pub mod llm;
pub mod mapping;
pub mod measure;
pub mod probe;
pub mod rank;
pub mod remote;
pub mod select;
pub mod write;

use crate::hub::HubError;
use crate::serve::upstream::UpstreamError;
use crate::slm::SlmError;
use crate::spec::SpecError;
use crate::task::TaskError;
use thiserror::Error;

/// What can go wrong in a plan.
#[derive(Debug, Error)]
pub enum PlanError {
    /// The hub does not answer as it should.
    #[error("plan-hub: {0}")]
    Hub(String),
    /// A file of a plan cannot be read or written, or is not what it should be.
    #[error("plan-file: {file}: {problem}")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Labels that make no task.
    #[error("plan-labels: {0}")]
    Labels(String),
    /// An LLM's reply that is not what it was asked for, also when it was asked again.
    #[error(
        "plan-reply: the LLM was asked twice for {what}, and its reply is not that: {problem}. It began with: {reply}. Give it by flags (see --help) or take another LLM"
    )]
    Reply {
        /// What it was asked for.
        what: &'static str,
        /// What is wrong with its last reply.
        problem: String,
        /// The start of that reply.
        reply: String,
    },
    /// The LLM cannot be asked.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// A step costs, and nobody said that it may.
    #[error("plan-consent: {0}. Give --yes to let it be spent, or by flags what the LLM is asked for (see --help)")]
    Consent(String),
    /// Texts that nothing can be measured on.
    #[error("plan-probe: {0}")]
    Probe(String),
    /// No candidate is left.
    #[error("plan-candidates: {0}")]
    Candidates(String),
    /// No ensemble fits.
    #[error("plan-size: {0}")]
    Size(String),
    /// What was chosen is no better than saying the commonest label.
    #[error("plan-none-passes: {0}")]
    NonePasses(String),
    /// The spec does not hold what was chosen.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The labels make no task.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// A model that cannot be used.
    #[error(transparent)]
    Slm(#[from] SlmError),
    /// The home or a model folder fails.
    #[error(transparent)]
    Home(#[from] HubError),
}

impl PlanError {
    fn file(path: &std::path::Path, problem: impl std::fmt::Display) -> Self {
        Self::File { file: path.display().to_string(), problem: problem.to_string() }
    }
}

/// A text by others, for a terminal: one line, without control characters, and not long.
pub fn plain(text: &str, max: usize) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let clean = clean.split_whitespace().collect::<Vec<_>>().join(" ");
    match clean.char_indices().nth(max) {
        Some((end, _)) => format!("{}...", clean.get(..end).unwrap_or_default()),
        None => clean,
    }
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn what_others_wrote_cannot_steer_a_terminal() {
        assert_eq!(plain("a\u{1b}[31m red\r\n\tthing\u{9b}", 99), "a [31m red thing");
        assert_eq!(plain("äöüß", 2), "äö...");
    }
}
