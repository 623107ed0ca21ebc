//! Which of a model's labels is which of the task's.

use crate::task::{LabelSet, Task};
use serde::{Deserialize, Serialize};

/// For each of a model's labels the index of the task's label that it stands for; none where it stands for none. Every
/// label of the task is stood for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelMap(Vec<Option<usize>>);

/// A person's word on one label: of which model, its label, the task's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The model's id.
    pub model: String,
    /// Its label.
    pub from: String,
    /// The task's label.
    pub to: String,
}

impl std::str::FromStr for Given {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=').and_then(|(left, to)| Some((left.rsplit_once(':')?, to)));
        let Some(((model, from), to)) =
            parts.filter(|((model, from), to)| ![model, from, to].iter().any(|t| t.is_empty()))
        else {
            return Err("expected MODEL:LABEL=TASK_LABEL, such as owner/name:LABEL_0=negative".to_owned());
        };
        Ok(Self { model: model.to_owned(), from: from.to_owned(), to: to.to_owned() })
    }
}

impl LabelMap {
    /// Maps by a person's word, else by the names and aliases of the task's labels, else by those of a built-in task's label
    /// that means the same. What is not covered is an error that says it.
    pub fn new(id: &str, labels: &[String], task: &LabelSet, given: &[Given]) -> Result<Self, String> {
        let by_hand = |label: &str| given.iter().find(|one| one.model == id && one.from == label);
        let mut map = Vec::with_capacity(labels.len());
        for label in labels {
            map.push(match by_hand(label) {
                Some(one) => Some(task.index(&one.to).ok_or_else(|| {
                    format!(
                        "map-label: --map names '{}', which is none of the task's labels: {}",
                        one.to,
                        task.names().join(", ")
                    )
                })?),
                None => named(label, task),
            });
        }
        let missing: Vec<&str> =
            (0..task.len()).filter(|index| !map.contains(&Some(*index))).filter_map(|index| task.name(index)).collect();
        if missing.is_empty() {
            return Ok(Self(map));
        }
        let own = labels.iter().take(12).map(String::as_str).collect::<Vec<_>>().join(", ");
        let first = labels.first().map(String::as_str).unwrap_or_default();
        Err(format!(
            "map-labels: its labels ({own}) do not cover {}; where they mean these, say so by --map '{id}:{first}={}'",
            missing.join(", "),
            missing.first().copied().unwrap_or_default()
        ))
    }

    /// Whether each of the model's labels stands for one of the task's and no two for the same.
    pub fn is_one_to_one(&self) -> bool {
        let mut sorted: Vec<Option<usize>> = self.0.clone();
        sorted.sort_unstable();
        sorted.iter().enumerate().all(|(at, to)| *to == Some(at))
    }

    /// Whether the model's labels are the task's, in their order.
    pub fn is_identity(&self) -> bool {
        self.0.iter().enumerate().all(|(at, to)| *to == Some(at))
    }

    /// For each of the model's labels the task's.
    pub fn to(&self) -> &[Option<usize>] {
        &self.0
    }

    /// A model's probabilities as ones of the task's labels: those of labels that stand for the same are added, and what
    /// falls on none is left out. All zero where everything does.
    pub fn apply(&self, probabilities: &[f32], labels: usize) -> Vec<f32> {
        let mut mapped = vec![0.0; labels];
        for (probability, to) in probabilities.iter().zip(&self.0) {
            if let Some(place) = to.and_then(|to| mapped.get_mut(to)) {
                *place += probability;
            }
        }
        let sum: f32 = mapped.iter().sum();
        if sum > 0.0 {
            mapped.iter_mut().for_each(|value| *value /= sum);
        }
        mapped
    }
}

/// `non_toxic`, `Non-Toxic` and `non toxic` are one name.
fn fold(name: &str) -> String {
    name.to_lowercase().replace(['_', '-'], " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn named(label: &str, task: &LabelSet) -> Option<usize> {
    let names = |label: &crate::task::Label| {
        std::iter::once(label.name.clone()).chain(label.aliases.clone()).collect::<Vec<_>>()
    };
    let meant = |wanted: &str| task.iter().position(|one| names(one).iter().any(|name| fold(name) == fold(wanted)));
    meant(label).or_else(|| {
        let built_in = Task::BUILT_IN.into_iter().filter_map(|name| Task::built_in(name).ok());
        let same = built_in.flat_map(|task| task.labels.iter().map(names).collect::<Vec<_>>());
        same.filter(|all| all.iter().any(|name| fold(name) == fold(label))).flatten().find_map(|name| meant(&name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Label;

    fn task(names: &[&str]) -> LabelSet {
        let label = |name: &&str| Label { name: (*name).into(), aliases: Vec::new(), definition: None };
        LabelSet::new(names.iter().map(label).collect()).expect("labels")
    }

    fn map(labels: &[&str], task: &LabelSet, given: &[&str]) -> Result<LabelMap, String> {
        let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        let given: Vec<Given> = given.iter().map(|text| text.parse().expect("a word")).collect();
        LabelMap::new("o/m", &labels, task, &given)
    }

    #[test]
    fn names_and_aliases_are_matched() {
        let sentiment = Task::built_in("sentiment").expect("built in").labels;
        assert_eq!(map(&["POS", "Neutral", "NEG"], &sentiment, &[]).expect("a map").0, [Some(2), Some(1), Some(0)]);
        // A task of one's own knows what the built-in ones call the same.
        let own = task(&["Positive", "Negative"]);
        let found = map(&["neg", "neu", "pos"], &own, &[]).expect("a map");
        assert_eq!(found.0, [Some(1), None, Some(0)]);
        assert!(!found.is_one_to_one() && !found.is_identity());
        let toxicity = task(&["toxic", "non-toxic"]);
        assert!(map(&["TOXIC", "non_toxic"], &toxicity, &[]).expect("a map").is_identity());
    }

    #[test]
    fn what_is_not_covered_is_told() {
        let own = task(&["bug", "praise", "question"]);
        let error = map(&["LABEL_0", "bug"], &own, &[]).expect_err("not covered");
        assert!(
            error.contains("do not cover praise, question") && error.contains("--map 'o/m:LABEL_0=praise'"),
            "{error}"
        );
        assert!(map(&["a", "bug"], &own, &["o/m:a=joy"]).expect_err("none").contains("'joy'"));
        let found = map(&["LABEL_0", "LABEL_1", "bug"], &own, &["o/m:LABEL_0=praise", "o/m:LABEL_1=question"]);
        assert!(found.expect("a map").is_one_to_one());
        assert!("nonsense".parse::<Given>().is_err() && "a=b".parse::<Given>().is_err());
    }

    #[test]
    fn probabilities_of_labels_that_mean_the_same_are_added() {
        let own = task(&["negative", "positive"]);
        let given = ["o/m:1 star=negative", "o/m:2 stars=negative", "o/m:5 stars=positive"];
        let found = map(&["1 star", "2 stars", "3 stars", "5 stars"], &own, &given).expect("a map");
        let mapped = found.apply(&[0.1, 0.2, 0.4, 0.3], 2);
        assert!((mapped[0] - 0.5).abs() < 1e-6 && (mapped[1] - 0.5).abs() < 1e-6);
        assert_eq!(found.apply(&[0.0, 0.0, 1.0, 0.0], 2), [0.0, 0.0]);
    }
}
