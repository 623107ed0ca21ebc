//! Examples that an LLM is shown with a text: the reviewed samples that are most like it, by an SLM's embedding. Only of tasks
//! whose spec lets texts be kept. Embeddings are kept in memory alone.

use super::near::{Embed, Index, vector};
use crate::spec::Example;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The reviewed samples of each task.
#[derive(Clone, Default)]
pub struct Examples(Arc<HashMap<String, Task>>);

struct Task {
    embedder: Mutex<Box<dyn Embed>>,
    /// So many are shown.
    count: usize,
    known: Mutex<Index<Example>>,
}

impl Examples {
    /// For each of some tasks an embedder, and how many examples are shown.
    pub fn new(tasks: impl IntoIterator<Item = (String, Box<dyn Embed>, usize)>) -> Self {
        let task = |embedder, count| Task { embedder: Mutex::new(embedder), count, known: Mutex::default() };
        Self(Arc::new(tasks.into_iter().map(|(name, embedder, count)| (name, task(embedder, count))).collect()))
    }

    /// Adds reviewed samples, whose texts must be redacted; the label that is told last of a text stands. It blocks while it
    /// embeds them.
    pub fn add(&self, task: &str, samples: impl IntoIterator<Item = Example>) {
        let Some(task) = self.0.get(task) else { return };
        for sample in samples {
            let Some(vector) = vector(&task.embedder, &sample.text) else { continue };
            let mut known = task.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.forget(|other| other.text == sample.text);
            known.keep(&vector, sample);
        }
    }

    /// Shows a text no more.
    pub fn forget(&self, task: &str, text: &str) {
        let Some(task) = self.0.get(task) else { return };
        let mut known = task.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.forget(|other| other.text == text);
    }

    /// Whether a task has examples to be picked from.
    pub(super) fn has(&self, task: &str) -> bool {
        self.0.get(task).is_some_and(|task| !task.known.lock().unwrap_or_else(PoisonError::into_inner).is_empty())
    }

    /// What is shown with some texts that share a call, the most alike last; computed where it blocks nobody.
    pub(super) async fn like(self, task: &str, texts: Vec<String>) -> Vec<Example> {
        let task = task.to_owned();
        tokio::task::spawn_blocking(move || self.pick(&task, &texts)).await.unwrap_or_default()
    }

    fn pick(&self, task: &str, texts: &[String]) -> Vec<Example> {
        let Some(task) = self.0.get(task) else { return Vec::new() };
        let mut all: Vec<(f32, Example)> = Vec::new();
        for text in texts {
            let Some(vector) = vector(&task.embedder, text) else { continue };
            let known = task.known.lock().unwrap_or_else(PoisonError::into_inner);
            // One more, since a text that is asked about is no example of itself.
            let near = known.nearest(&vector, task.count + texts.len());
            all.extend(near.into_iter().map(|(cosine, example)| (cosine, example.clone())));
        }
        all.retain(|(_, example)| !texts.contains(&example.text));
        all.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        let mut picked: Vec<Example> = Vec::new();
        for (_, example) in all {
            if picked.len() < task.count && picked.iter().all(|other| other.text != example.text) {
                picked.push(example);
            }
        }
        picked.reverse();
        picked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slm::SlmError;

    /// How often each letter stands in a text.
    struct Letters;

    impl Embed for Letters {
        fn embed(&mut self, text: &str) -> Result<Vec<f32>, SlmError> {
            let mut counts = vec![0.0; 26];
            for byte in text.bytes().filter(u8::is_ascii_lowercase) {
                counts[usize::from(byte - b'a')] += 1.0;
            }
            Ok(counts)
        }
    }

    #[test]
    fn the_most_alike_are_shown_last_and_a_text_is_no_example_of_itself() {
        let examples = Examples::new([("t".to_owned(), Box::new(Letters) as Box<dyn Embed>, 2)]);
        assert!(!examples.has("t"));
        let example = |text: &str| Example { text: text.into(), label: "a".into() };
        examples.add("t", ["aaaa", "aaab", "aabb", "bbbb", "aaab"].map(example));
        examples.add("other", [example("aaaa")]);
        let texts = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            examples.pick("t", &texts).into_iter().map(|example| example.text).collect::<Vec<_>>()
        };
        assert!(examples.has("t") && !examples.has("other"));
        assert_eq!(texts(&["aaaa"]), ["aabb", "aaab"]);
        assert_eq!(texts(&["aaaac"]), ["aaab", "aaaa"]);
        assert_eq!(texts(&["bbbb", "aaaa"]), ["aabb", "aaab"]);
        assert!(texts(&["!"]).is_empty());
        examples.add("t", [Example { text: "aaab".into(), label: "b".into() }]);
        let labels =
            |of: &str| examples.pick("t", &[of.to_owned()]).into_iter().map(|one| one.label).collect::<Vec<_>>();
        assert_eq!(labels("aaaa"), ["a", "b"]);
        examples.forget("t", "aaab");
        assert_eq!(texts(&["aaaa"]), ["bbbb", "aabb"]);
    }
}
