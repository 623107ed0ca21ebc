//! `annotator.toml`: the declarative pipeline, validated.

/// The pipeline of one task.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {}
