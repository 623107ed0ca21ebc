//! From the labels that a model knows to those of a task.
//!
//! A model of a hub names its labels as its makers did: `LABEL_0`, `1 star`, `joy`. A [`Ballot`] says which label of the
//! task each of them is, several to one where need be, and makes a vote of the model's probabilities. A model that finds
//! none of the task's labels names none: its vote has an empty label, and the sample is hard.

use super::argmax;
use crate::slm::Scoring;
use crate::task::LabelSet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// A probability from which on a sigmoid head's label counts, where the spec gives no other.
pub const THRESHOLD: f32 = 0.5;

/// What a spec's `[label_map.ID]` says of one SLM. Labels of the model that it does not name are those of the task that
/// have their name or alias, or else none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelMap {
    /// The model's label, and the name of the task's.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// From which probability on a label counts, above 0 and below 1; only for a sigmoid head. [`THRESHOLD`] without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
    /// The same for single labels of the model.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub thresholds: BTreeMap<String, f32>,
    /// The task's label of a text for which no label counts; only for a sigmoid head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub none: Option<String>,
}

/// Why a model cannot vote on a task.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum BallotError {
    /// The map names a label that the model does not have.
    #[error("label-map-model: the map names '{label}', and the model knows the labels: {known}")]
    UnknownModelLabel {
        /// The label named.
        label: String,
        /// The model's labels.
        known: String,
    },
    /// The map names a label that the task does not have.
    #[error("label-map-task: the map names '{label}', and the task has the labels: {known}")]
    UnknownTaskLabel {
        /// The label named.
        label: String,
        /// The task's labels.
        known: String,
    },
    /// Without a map, model and task have to have the same labels.
    #[error("label-map-missing: {problem}; give the SLM a [label_map] in the spec")]
    Different {
        /// Which labels have no counterpart.
        problem: String,
    },
    /// No label of the model is one of the task.
    #[error("label-map-empty: no label of the model is one of the task; the model knows: {known}")]
    Empty {
        /// The model's labels.
        known: String,
    },
    /// Thresholds where labels exclude each other.
    #[error("label-map-threshold: '{key}' is for a model that may give a text several labels, and this one gives one")]
    Threshold {
        /// The key of the map.
        key: &'static str,
    },
}

/// Labels without a counterpart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Uncovered {
    /// Labels of the model that are none of the task: where one of them is the most probable, the vote has no label.
    pub model: Vec<String>,
    /// Labels of the task that the model never names.
    pub task: Vec<String>,
}

impl Uncovered {
    /// Whether every label has a counterpart.
    pub fn is_empty(&self) -> bool {
        self.model.is_empty() && self.task.is_empty()
    }
}

impl std::fmt::Display for Uncovered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        if !self.model.is_empty() {
            parts.push(format!("of the model's labels, these are none of the task: {}", self.model.join(", ")));
        }
        if !self.task.is_empty() {
            parts.push(format!("of the task's labels, the model never names: {}", self.task.join(", ")));
        }
        f.write_str(&parts.join("; "))
    }
}

/// How one model votes on one task.
#[derive(Debug, Clone, PartialEq)]
pub struct Ballot {
    /// The task's labels.
    names: Vec<String>,
    /// Each of the model's labels: the index of the task's, and the threshold of a sigmoid head.
    to: Vec<(Option<usize>, f32)>,
    none: Option<usize>,
    scoring: Scoring,
    uncovered: Uncovered,
}

impl Ballot {
    /// Of a model's labels, in the order of its head, for a task. Without a map each label has to have its counterpart.
    pub fn new(
        task: &LabelSet,
        model: &[String],
        scoring: Scoring,
        map: Option<&LabelMap>,
    ) -> Result<Self, BallotError> {
        let known = || model.join(", ");
        let plain = LabelMap::default();
        let given = map.unwrap_or(&plain);
        for label in given.labels.keys().chain(given.thresholds.keys()) {
            if !model.contains(label) {
                return Err(BallotError::UnknownModelLabel { label: label.clone(), known: known() });
            }
        }
        let of_task = |label: &String| {
            let unknown = || BallotError::UnknownTaskLabel { label: label.clone(), known: task.names().join(", ") };
            task.index(label).ok_or_else(unknown)
        };
        if scoring == Scoring::Softmax {
            let key = [
                ("threshold", given.threshold.is_some()),
                ("thresholds", !given.thresholds.is_empty()),
                ("none", given.none.is_some()),
            ];
            if let Some((key, _)) = key.iter().find(|(_, is_given)| *is_given) {
                return Err(BallotError::Threshold { key });
            }
        }
        let none = given.none.as_ref().map(of_task).transpose()?;
        let mut to = Vec::with_capacity(model.len());
        for label in model {
            let index = match given.labels.get(label) {
                Some(named) => Some(of_task(named)?),
                None => task.index(label),
            };
            let threshold = given.thresholds.get(label).copied().or(given.threshold).unwrap_or(THRESHOLD);
            to.push((index, threshold));
        }
        let is_named = |index: usize| none == Some(index) || to.iter().any(|(to, _)| *to == Some(index));
        let uncovered = Uncovered {
            model: model.iter().zip(&to).filter(|(_, (to, _))| to.is_none()).map(|(label, _)| label.clone()).collect(),
            task: task.names().into_iter().enumerate().filter(|(index, _)| !is_named(*index)).map(|(_, n)| n).collect(),
        };
        if to.iter().all(|(to, _)| to.is_none()) {
            return Err(BallotError::Empty { known: known() });
        }
        if map.is_none() && !uncovered.is_empty() {
            return Err(BallotError::Different { problem: uncovered.to_string() });
        }
        Ok(Self { names: task.names(), to, none, scoring, uncovered })
    }

    /// Of a model whose labels are the task's.
    pub fn plain(labels: &[String], scoring: Scoring) -> Self {
        let to = (0..labels.len()).map(|index| (Some(index), THRESHOLD)).collect();
        Self { names: labels.to_vec(), to, none: None, scoring, uncovered: Uncovered::default() }
    }

    /// The task's labels, in the order of a vote's probabilities.
    pub fn labels(&self) -> &[String] {
        &self.names
    }

    /// Labels without a counterpart.
    pub fn uncovered(&self) -> &Uncovered {
        &self.uncovered
    }

    /// The vote on one text: its label, which is empty where the model finds none of the task's, and a distribution over
    /// the task's labels. `probabilities` are the model's, in the order of its labels.
    ///
    /// Of a softmax head, the probabilities of labels that are one in the task add up. What labels take that are none of
    /// the task is left out, and where that is more than any label of the task has there is no label.
    ///
    /// Of a sigmoid head, a probability is first stretched so that its threshold lies at one half; of labels that are one
    /// in the task the highest stands. The label is the highest above one half. Below, it is the one named for `none`,
    /// which has one less the highest, or there is no label.
    pub fn vote(&self, probabilities: &[f32]) -> (String, Vec<f32>) {
        let mut scores = vec![0.0f32; self.names.len()];
        let is_label = match self.scoring {
            Scoring::Softmax => {
                let mut rest = 0.0;
                for ((to, _), probability) in self.to.iter().zip(probabilities) {
                    match to.and_then(|index| scores.get_mut(index)) {
                        Some(score) => *score += probability,
                        None => rest += probability,
                    }
                }
                let is_label = scores.iter().any(|score| *score >= rest);
                if rest > 0.0 {
                    spread(&mut scores);
                }
                is_label
            }
            Scoring::Sigmoid => {
                for ((to, threshold), probability) in self.to.iter().zip(probabilities) {
                    if let Some(score) = to.and_then(|index| scores.get_mut(index)) {
                        *score = score.max(stretched(*probability, *threshold));
                    }
                }
                if let Some(none) = self.none {
                    let others = scores.iter().enumerate().filter(|(index, _)| *index != none);
                    let highest = others.map(|(_, score)| *score).fold(0.0, f32::max);
                    if let Some(score) = scores.get_mut(none) {
                        *score = score.max(1.0 - highest);
                    }
                }
                let is_label = scores.iter().any(|score| *score >= 0.5);
                spread(&mut scores);
                is_label
            }
        };
        let label = self.names.get(argmax(&scores)).filter(|_| is_label).cloned().unwrap_or_default();
        (label, scores)
    }
}

/// Moves a threshold to one half, linearly on both of its sides.
fn stretched(probability: f32, threshold: f32) -> f32 {
    if probability < threshold {
        0.5 * probability / threshold
    } else {
        0.5 + 0.5 * (probability - threshold) / (1.0 - threshold)
    }
}

/// Makes scores sum to one; scores that are all zero become equal.
fn spread(scores: &mut [f32]) {
    let sum: f32 = scores.iter().sum();
    let equal = 1.0 / scores.len().max(1) as f32;
    scores.iter_mut().for_each(|score| *score = if sum > 0.0 { *score / sum } else { equal });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Label, Task};
    use proptest::prelude::*;

    fn task() -> LabelSet {
        Task::built_in("sentiment").expect("built in").labels
    }

    fn names(labels: &[&str]) -> Vec<String> {
        labels.iter().map(|label| (*label).to_owned()).collect()
    }

    fn map(labels: &[(&str, &str)]) -> LabelMap {
        let labels = labels.iter().map(|(model, task)| ((*model).to_owned(), (*task).to_owned())).collect();
        LabelMap { labels, ..LabelMap::default() }
    }

    fn stars() -> (Vec<String>, LabelMap) {
        let model = names(&["1 star", "2 stars", "3 stars", "4 stars", "5 stars"]);
        let to = ["negative", "negative", "neutral", "positive", "positive"];
        let pairs: Vec<(&str, &str)> = model.iter().map(String::as_str).zip(to).collect();
        let map = map(&pairs);
        (model, map)
    }

    fn close(found: &[f32], expected: &[f32]) {
        let same = found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6);
        assert!(same && found.len() == expected.len(), "{found:?}, expected {expected:?}");
    }

    #[test]
    fn probabilities_of_one_label_add_up() {
        let (model, map) = stars();
        let ballot = Ballot::new(&task(), &model, Scoring::Softmax, Some(&map)).expect("a ballot");
        assert!(ballot.uncovered().is_empty());
        // The most probable label of the model is neutral, that of the task positive.
        let (label, found) = ballot.vote(&[0.1, 0.05, 0.35, 0.25, 0.25]);
        assert_eq!(label, "positive");
        close(&found, &[0.15, 0.35, 0.5]);
    }

    #[test]
    fn names_and_aliases_need_no_map_in_any_order() {
        let model = names(&["POS", "Negative", "neu"]);
        let ballot = Ballot::new(&task(), &model, Scoring::Softmax, None).expect("a ballot");
        let (label, found) = ballot.vote(&[0.2, 0.5, 0.3]);
        assert_eq!(label, "negative");
        close(&found, &[0.5, 0.3, 0.2]);
        // The task's own labels give the very same numbers.
        let plain = [0.1f32, 0.2, 0.7];
        let same = Ballot::new(&task(), &task().names(), Scoring::Softmax, None).expect("a ballot");
        assert_eq!(same.vote(&plain), ("positive".to_owned(), plain.to_vec()));
        assert_eq!(Ballot::plain(&task().names(), Scoring::Softmax), same);
    }

    #[test]
    fn where_another_label_is_likelier_there_is_none() {
        let model = names(&["bullish", "bearish", "off-topic"]);
        let ballot = Ballot::new(&task(), &model, Scoring::Softmax, Some(&LabelMap::default())).expect("a ballot");
        assert_eq!(
            (&ballot.uncovered().model, &ballot.uncovered().task),
            (&names(&["off-topic"]), &names(&["neutral"]))
        );
        assert_eq!(ballot.vote(&[0.3, 0.2, 0.5]).0, "");
        let (label, found) = ballot.vote(&[0.5, 0.1, 0.4]);
        assert_eq!(label, "positive");
        close(&found, &[1.0 / 6.0, 0.0, 5.0 / 6.0]);
        close(&ballot.vote(&[0.0, 0.0, 1.0]).1, &[1.0 / 3.0; 3]);
    }

    #[test]
    fn a_sigmoid_head_has_thresholds_and_none() {
        let model = names(&["joy", "anger", "love", "surprise"]);
        let mut map = map(&[("joy", "positive"), ("love", "positive"), ("anger", "negative")]);
        map.threshold = Some(0.3);
        map.thresholds.insert("anger".into(), 0.8);
        let ballot = Ballot::new(&task(), &model, Scoring::Sigmoid, Some(&map)).expect("a ballot");
        assert_eq!(
            (&ballot.uncovered().model, &ballot.uncovered().task),
            (&names(&["surprise"]), &names(&["neutral"]))
        );
        // 0.7 is below anger's threshold, 0.4 above love's.
        assert_eq!(ballot.vote(&[0.1, 0.7, 0.4, 0.9]).0, "positive");
        assert_eq!(ballot.vote(&[0.1, 0.95, 0.4, 0.0]).0, "negative");
        assert_eq!(ballot.vote(&[0.29, 0.79, 0.1, 0.99]).0, "");
        map.none = Some("NEU".into());
        let ballot = Ballot::new(&task(), &model, Scoring::Sigmoid, Some(&map)).expect("a ballot");
        assert!(ballot.uncovered().task.is_empty());
        let (label, found) = ballot.vote(&[0.15, 0.2, 0.1, 0.99]);
        assert_eq!(label, "neutral");
        // Stretched: 0.25, 0.125, and one less the higher of them.
        close(&found, &[0.125 / 1.125, 0.75 / 1.125, 0.25 / 1.125]);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let refusal = |model: &[&str], scoring, map: Option<LabelMap>| {
            Ballot::new(&task(), &names(model), scoring, map.as_ref()).expect_err("refused").to_string()
        };
        let two = ["negative", "positive"];
        let message = refusal(&two, Scoring::Softmax, None);
        assert_eq!(
            message,
            "label-map-missing: of the task's labels, the model never names: neutral; give the SLM a [label_map] in the spec"
        );
        let message = refusal(&["a", "negative", "neutral", "positive"], Scoring::Softmax, None);
        assert!(message.contains("these are none of the task: a;"), "{message}");
        let message = refusal(&two, Scoring::Softmax, Some(map(&[("happy", "positive")])));
        assert_eq!(
            message,
            "label-map-model: the map names 'happy', and the model knows the labels: negative, positive"
        );
        let message = refusal(&two, Scoring::Softmax, Some(map(&[("positive", "good")])));
        assert_eq!(
            message,
            "label-map-task: the map names 'good', and the task has the labels: negative, neutral, positive"
        );
        let message = refusal(&["a", "b"], Scoring::Softmax, Some(LabelMap::default()));
        assert_eq!(message, "label-map-empty: no label of the model is one of the task; the model knows: a, b");
        let thresholds = LabelMap { threshold: Some(0.3), ..LabelMap::default() };
        assert!(refusal(&two, Scoring::Softmax, Some(thresholds.clone())).contains("'threshold' is for a model"));
        assert!(Ballot::new(&task(), &names(&two), Scoring::Sigmoid, Some(&thresholds)).is_ok());
    }

    /// A task of four labels, a map of six of the model's to them or to none, and the model's probabilities.
    fn cases() -> impl Strategy<Value = (Vec<Option<usize>>, Vec<f32>, Vec<f32>, bool)> {
        (
            prop::collection::vec(prop::option::weighted(0.8, 0usize..4), 6),
            prop::collection::vec(0.001f32..0.999, 6),
            prop::collection::vec(0.05f32..0.95, 6),
            any::<bool>(),
        )
    }

    proptest! {
        #[test]
        fn votes_are_distributions_and_the_order_of_labels_is_nothing_to_them(
            (to, mut scores, thresholds, sigmoid) in cases(), none in prop::option::of(0usize..4), order in Just((0usize..6).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let label = |name: String| Label { name, aliases: Vec::new(), definition: None };
            let task = LabelSet::new((0..4).map(|i| label(format!("t{i}"))).collect()).expect("a task");
            let model: Vec<String> = (0..6).map(|i| format!("m{i}")).collect();
            let scoring = if sigmoid { Scoring::Sigmoid } else { Scoring::Softmax };
            let mut map = LabelMap::default();
            map.labels.extend(model.iter().zip(&to).filter_map(|(m, t)| Some((m.clone(), format!("t{}", (*t)?)))));
            if sigmoid {
                map.thresholds.extend(model.iter().cloned().zip(thresholds.iter().copied()));
                map.none = none.map(|none| format!("t{none}"));
            } else {
                let sum: f32 = scores.iter().sum();
                scores.iter_mut().for_each(|score| *score /= sum);
            }
            let Ok(ballot) = Ballot::new(&task, &model, scoring, Some(&map)) else {
                prop_assert!(to.iter().all(Option::is_none));
                return Ok(());
            };
            let (label, found) = ballot.vote(&scores);
            prop_assert!((found.iter().sum::<f32>() - 1.0).abs() < 1e-5 && found.iter().all(|p| (0.0..=1.0).contains(p)), "{found:?}");
            if !label.is_empty() {
                prop_assert_eq!(&label, &ballot.labels()[argmax(&found)]);
            }
            // Against the rule said plainly.
            let best = |index: usize| (0..6).filter(|i| to[*i] == Some(index)).map(|i| scores[i]).fold(0.0, f32::max);
            if sigmoid && none.is_none() {
                let above = (0..6).any(|i| to[i].is_some() && scores[i] >= thresholds[i]);
                prop_assert_eq!(!label.is_empty(), above);
            } else if sigmoid {
                prop_assert!(!label.is_empty());
            } else if let Some(index) = task.index(&label) {
                prop_assert!(found[index] >= best(index) - 1e-6);
            }
            // The same model with its labels in another order.
            let shuffled: Vec<String> = order.iter().map(|i| model[*i].clone()).collect();
            let ballot = Ballot::new(&task, &shuffled, scoring, Some(&map)).expect("a ballot");
            let (_, again) = ballot.vote(&order.iter().map(|i| scores[*i]).collect::<Vec<_>>());
            prop_assert!(again.iter().zip(&found).all(|(a, b)| (a - b).abs() < 1e-5), "{again:?}, {found:?}");
        }
    }
}
