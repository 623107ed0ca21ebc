//! A task and its labels.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What can be wrong with a task.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TaskError {
    /// No built-in task has this name.
    #[error("task-unknown: there is no built-in task '{name}'; there are: {}. Give a spec with labels for another", Task::BUILT_IN.join(", "))]
    Unknown {
        /// The name that was asked for.
        name: String,
    },
    /// Fewer than two labels.
    #[error("task-labels: a task needs at least two labels, this one has {found}")]
    TooFewLabels {
        /// How many there were.
        found: usize,
    },
    /// A name or alias that is empty, or that stands for two labels.
    #[error("task-label: '{name}' {problem}")]
    Label {
        /// The name or alias.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// One label of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    /// The canonical name, as it is written into results.
    pub name: String,
    /// Other names that mean the same, in files or in a reviewer's reply.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// What the label means, told to reviewers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<String>,
}

/// The labels of a task, in their fixed order: index i of a probability vector belongs to label i.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct LabelSet(Vec<Label>);

impl LabelSet {
    /// Checks and keeps the labels: at least two, no name or alias empty or standing for two labels
    /// (compared without regard to case and surrounding space).
    pub fn new(labels: Vec<Label>) -> Result<Self, TaskError> {
        if labels.len() < 2 {
            return Err(TaskError::TooFewLabels { found: labels.len() });
        }
        let mut seen = std::collections::BTreeMap::new();
        for (index, label) in labels.iter().enumerate() {
            for name in std::iter::once(&label.name).chain(&label.aliases) {
                let key = fold(name);
                if key.is_empty() {
                    return Err(TaskError::Label { name: name.clone(), problem: "is empty; give the label a name" });
                }
                if seen.insert(key, index).is_some_and(|other| other != index) {
                    return Err(TaskError::Label { name: name.clone(), problem: "stands for two labels; rename one" });
                }
            }
        }
        Ok(Self(labels))
    }

    /// How many labels there are.
    #[allow(clippy::len_without_is_empty, reason = "a label set is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The labels in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Label> {
        self.0.iter()
    }

    /// The canonical names in order.
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|label| label.name.clone()).collect()
    }

    /// The index of the label that `text` names, exactly (without regard to case and surrounding space), by its name or an alias.
    pub fn index(&self, text: &str) -> Option<usize> {
        let key = fold(text);
        self.0.iter().position(|label| std::iter::once(&label.name).chain(&label.aliases).any(|name| fold(name) == key))
    }

    /// The canonical name of label `index`.
    pub fn name(&self, index: usize) -> Option<&str> {
        self.0.get(index).map(|label| label.name.as_str())
    }
}

fn fold(text: &str) -> String {
    text.trim().to_lowercase()
}

/// What is to be labelled: a name and its labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Task {
    /// The task's name, such as `sentiment`.
    pub name: String,
    /// Its labels, in order.
    pub labels: LabelSet,
}

impl Task {
    /// The names of the built-in tasks.
    pub const BUILT_IN: [&'static str; 2] = ["sentiment", "toxicity"];

    /// A built-in task by its name.
    pub fn built_in(name: &str) -> Result<Self, TaskError> {
        let labels: &[(&str, &[&str], &str)] = match name {
            "sentiment" => &[
                ("negative", &["neg", "bearish"], "the writer's attitude is unfavourable"),
                ("neutral", &["neu"], "no clear attitude, or a balance of both"),
                ("positive", &["pos", "bullish"], "the writer's attitude is favourable"),
            ],
            "toxicity" => &[
                ("non-toxic", &["nontoxic", "non toxic", "not toxic", "safe"], "acceptable in a civil conversation"),
                ("toxic", &["offensive", "unsafe"], "rude, insulting, hateful, threatening or otherwise harmful"),
            ],
            _ => return Err(TaskError::Unknown { name: name.to_owned() }),
        };
        let labels = labels
            .iter()
            .map(|(name, aliases, definition)| Label {
                name: (*name).to_owned(),
                aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
                definition: Some((*definition).to_owned()),
            })
            .collect();
        Ok(Self { name: name.to_owned(), labels: LabelSet::new(labels)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(name: &str, aliases: &[&str]) -> Label {
        Label { name: name.into(), aliases: aliases.iter().map(|a| (*a).into()).collect(), definition: None }
    }

    #[test]
    fn built_in_tasks_are_sound() {
        for name in Task::BUILT_IN {
            assert!(Task::built_in(name).is_ok(), "{name}");
        }
        assert!(matches!(Task::built_in("poetry"), Err(TaskError::Unknown { .. })));
    }

    #[test]
    fn names_and_aliases_are_found_exactly() {
        let labels = Task::built_in("toxicity").expect("built in").labels;
        assert_eq!(labels.index(" Non-Toxic "), Some(0));
        assert_eq!(labels.index("offensive"), Some(1));
        assert_eq!(labels.index("toxic."), None);
        assert_eq!(labels.index(""), None);
    }

    #[test]
    fn ambiguous_or_empty_labels_are_refused() {
        assert!(LabelSet::new(vec![label("a", &[])]).is_err());
        assert!(LabelSet::new(vec![label("a", &[]), label(" ", &[])]).is_err());
        assert!(LabelSet::new(vec![label("a", &["B"]), label("b", &[])]).is_err());
        assert!(LabelSet::new(vec![label("a", &["a"]), label("b", &[])]).is_ok());
    }
}
