//! Which of a model's labels is which of the task's: the `label_map` that a spec gets for it.

use crate::slm::Scoring;
use crate::task::{Label, LabelSet, Task};
use crate::vote::{Ballot, LabelMap};

/// A person's word on one label: of which model, its label, the task's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The model's id.
    pub model: String,
    /// Its label; `none` for texts that a sigmoid head finds no label for.
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

/// Maps by a person's word, else by the names and aliases of the task's labels, else by those of a built-in task's label that
/// means the same. Every label of the task must be stood for; what is not is an error that says it. None where the model
/// needs no map.
pub fn propose(
    id: &str,
    (labels, scoring): (&[String], Scoring),
    task: &LabelSet,
    given: &[Given],
) -> Result<Option<LabelMap>, String> {
    let mut map = LabelMap::default();
    for label in labels {
        let by_hand = given.iter().find(|one| one.model == id && one.from == *label).map(|one| one.to.clone());
        let found = by_hand.or_else(|| named(label, task).and_then(|index| task.name(index)).map(str::to_owned));
        if let Some(to) = found.filter(|to| task.index(label).is_none_or(|own| task.index(to) != Some(own))) {
            map.labels.insert(label.clone(), to);
        }
    }
    let none = given.iter().find(|one| one.model == id && one.from == "none" && !labels.contains(&one.from));
    map.none = none.map(|one| one.to.clone());
    let own = || labels.iter().take(12).map(String::as_str).collect::<Vec<_>>().join(", ");
    let ballot = Ballot::new(task, labels, scoring, Some(&map)).map_err(|error| {
        let first = labels.first().map(String::as_str).unwrap_or_default();
        let name = task.name(0).unwrap_or_default();
        format!("map-labels: its labels ({}): {error}; say what they stand for by --map '{id}:{first}={name}'", own())
    })?;
    let missing = &ballot.uncovered().task;
    if let Some(name) = missing.first() {
        let unused = ballot.uncovered().model.first().or(labels.first()).map(String::as_str).unwrap_or_default();
        return Err(format!(
            "map-labels: its labels ({}) do not cover {}; where they mean these, say so by --map '{id}:{unused}={name}'",
            own(),
            missing.join(", ")
        ));
    }
    Ok(Ballot::new(task, labels, scoring, None).is_err().then_some(map))
}

/// `non_toxic`, `Non-Toxic` and `non toxic` are one name.
fn fold(name: &str) -> String {
    name.to_lowercase().replace(['_', '-'], " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn names(label: &Label) -> Vec<String> {
    std::iter::once(&label.name).chain(&label.aliases).cloned().collect()
}

fn named(label: &str, task: &LabelSet) -> Option<usize> {
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

    fn task(names: &[&str]) -> LabelSet {
        let label = |name: &&str| Label { name: (*name).into(), aliases: Vec::new(), definition: None };
        LabelSet::new(names.iter().map(label).collect()).expect("labels")
    }

    fn map(labels: &[&str], task: &LabelSet, given: &[&str]) -> Result<Option<LabelMap>, String> {
        let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        let given: Vec<Given> = given.iter().map(|text| text.parse().expect("a word")).collect();
        propose("o/m", (&labels, Scoring::Softmax), task, &given)
    }

    fn pairs(map: Option<LabelMap>) -> Vec<(String, String)> {
        map.expect("a map").labels.into_iter().collect()
    }

    fn pair(from: &str, to: &str) -> (String, String) {
        (from.to_owned(), to.to_owned())
    }

    #[test]
    fn names_and_aliases_are_matched() {
        let sentiment = Task::built_in("sentiment").expect("built in").labels;
        assert_eq!(map(&["POS", "Neutral", "NEG"], &sentiment, &[]).expect("no map is needed"), None);
        // A task of one's own knows what the built-in ones call the same.
        let own = task(&["Positive", "Negative"]);
        let found = map(&["neg", "neu", "pos"], &own, &[]).expect("a map");
        assert_eq!(pairs(found), [pair("neg", "Negative"), pair("pos", "Positive")]);
        let toxicity = task(&["toxic", "non-toxic"]);
        assert_eq!(
            pairs(map(&["TOXIC", "non_toxic"], &toxicity, &[]).expect("a map")),
            [pair("non_toxic", "non-toxic")]
        );
    }

    #[test]
    fn what_is_not_covered_is_told() {
        let own = task(&["bug", "praise", "question"]);
        let error = map(&["LABEL_0", "bug"], &own, &[]).expect_err("not covered");
        assert!(
            error.contains("do not cover praise, question") && error.contains("--map 'o/m:LABEL_0=praise'"),
            "{error}"
        );
        assert!(map(&["a", "b"], &own, &[]).expect_err("none").contains("--map 'o/m:a=bug'"));
        assert!(map(&["a", "bug"], &own, &["o/m:a=joy"]).expect_err("none").contains("'joy'"));
        let found = map(&["LABEL_0", "LABEL_1", "bug"], &own, &["o/m:LABEL_0=praise", "o/m:LABEL_1=question"]);
        assert_eq!(pairs(found.expect("a map")), [pair("LABEL_0", "praise"), pair("LABEL_1", "question")]);
        assert!("nonsense".parse::<Given>().is_err() && "a=b".parse::<Given>().is_err());
    }

    #[test]
    fn a_sigmoid_head_may_find_nothing() {
        let labels = ["toxic", "insult"].map(str::to_owned);
        let toxicity = Task::built_in("toxicity").expect("built in").labels;
        let given = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a word")).collect::<Vec<Given>>();
        let propose = |texts: &[&str]| propose("o/m", (&labels, Scoring::Sigmoid), &toxicity, &given(texts));
        assert!(propose(&[]).expect_err("not covered").contains("do not cover non-toxic"));
        let map = propose(&["o/m:none=non-toxic", "o/m:insult=toxic"]).expect("covered").expect("a map");
        assert_eq!((map.none.as_deref(), map.labels.len()), (Some("non-toxic"), 1));
    }
}
