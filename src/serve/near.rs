//! Near duplicates: a text that an SLM's embedding puts very close to one that an LLM has labelled is given that label.
//! Off unless it is configured. Embeddings say something of their texts, so they are kept in memory alone.

use super::panel::Reviewed;
use crate::slm::model::Slm;
use crate::slm::{Batch, SlmError};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Texts of a task that are remembered at most; then the oldest are forgotten.
const MOST: usize = 20_000;

/// What turns a text into a vector of fixed length.
pub trait Embed: Send {
    /// The vector of a text.
    fn embed(&mut self, text: &str) -> Result<Vec<f32>, SlmError>;
}

impl Embed for Slm {
    fn embed(&mut self, text: &str) -> Result<Vec<f32>, SlmError> {
        let ids = self.tokenize(text)?.ids;
        pollster::block_on(self.pooled_of_tokens(&Batch::new([ids.as_slice()])))
    }
}

/// The labelled texts of each task, by their embeddings.
#[derive(Clone, Default)]
pub struct Near(Arc<HashMap<String, Task>>);

struct Task {
    embedder: Mutex<Box<dyn Embed>>,
    /// The cosine at which two texts are one.
    similarity: f32,
    known: Mutex<Index<Reviewed>>,
}

/// Unit vectors, and something for each. Beyond [`MOST`] the oldest are forgotten.
pub(super) struct Index<T> {
    /// End to end.
    vectors: Vec<f32>,
    values: Vec<T>,
    /// The place that is written next.
    next: usize,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self { vectors: Vec::new(), values: Vec::new(), next: 0 }
    }
}

impl<T> Index<T> {
    /// Whether a vector is as long as the others.
    fn fits(&self, vector: &[f32]) -> bool {
        !vector.is_empty() && self.vectors.len() == self.values.len() * vector.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Adds a vector; one of another length is left out.
    pub(super) fn keep(&mut self, vector: &[f32], value: T) {
        if !self.fits(vector) {
            return;
        }
        if self.values.len() < MOST {
            self.vectors.extend_from_slice(vector);
            self.values.push(value);
            return;
        }
        let place = self.next;
        self.next = (place + 1) % MOST;
        if let Some(old) = self.vectors.get_mut(place * vector.len()..(place + 1) * vector.len()) {
            old.copy_from_slice(vector);
        }
        if let Some(old) = self.values.get_mut(place) {
            *old = value;
        }
    }

    /// Forgets what is like this.
    pub(super) fn forget(&mut self, like: impl Fn(&T) -> bool) {
        let width = self.vectors.len() / self.values.len().max(1);
        while let Some(place) = self.values.iter().position(&like) {
            self.values.remove(place);
            self.vectors.drain(place * width..(place + 1) * width);
        }
    }

    /// The nearest ones and their cosines, the nearest first.
    pub(super) fn nearest(&self, vector: &[f32], count: usize) -> Vec<(f32, &T)> {
        if !self.fits(vector) {
            return Vec::new();
        }
        let cosine = |other: &[f32]| vector.iter().zip(other).map(|(a, b)| a * b).sum::<f32>();
        let mut all: Vec<(f32, &T)> = self.vectors.chunks_exact(vector.len()).map(cosine).zip(&self.values).collect();
        let count = count.min(all.len());
        if count > 0 {
            all.select_nth_unstable_by(count - 1, |(one, _), (other, _)| other.total_cmp(one));
        }
        all.truncate(count);
        all.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        all
    }
}

/// A text's unit vector, where it can be told.
pub(super) fn vector(embedder: &Mutex<Box<dyn Embed>>, text: &str) -> Option<Vec<f32>> {
    let mut embedder = embedder.lock().unwrap_or_else(PoisonError::into_inner);
    let mut vector = embedder.embed(text).inspect_err(|error| tracing::warn!("no embedding: {error}")).ok()?;
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|value| *value /= norm);
    (norm > 0.0 && norm.is_finite()).then_some(vector)
}

impl Near {
    /// With an embedder for each of some tasks; `similarity` is the cosine at which a text is taken for another.
    pub fn new(embedders: impl IntoIterator<Item = (String, Box<dyn Embed>)>, similarity: f64) -> Self {
        let similarity = similarity as f32;
        let task = |embedder| Task { embedder: Mutex::new(embedder), similarity, known: Mutex::default() };
        Self(Arc::new(embedders.into_iter().map(|(name, embedder)| (name, task(embedder))).collect()))
    }

    /// Whether a task has an embedder.
    pub(super) fn has(&self, task: &str) -> bool {
        self.0.contains_key(task)
    }

    /// The texts' vectors, and what was said of the nearest texts; computed where it blocks nobody.
    pub(super) async fn look(self, task: &str, texts: &[&str]) -> Vec<(Option<Vec<f32>>, Option<Reviewed>)> {
        let (task, count) = (task.to_owned(), texts.len());
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        let look = move |text: &String| {
            let vector = self.vector(&task, text);
            let found = vector.as_ref().and_then(|vector| self.find(&task, vector));
            (vector, found)
        };
        let looked = tokio::task::spawn_blocking(move || texts.iter().map(look).collect()).await;
        looked.unwrap_or_else(|_| vec![(None, None); count])
    }

    /// A text's unit vector, where the task has an embedder and it can be told.
    fn vector(&self, task: &str, text: &str) -> Option<Vec<f32>> {
        vector(&self.0.get(task)?.embedder, text)
    }

    /// What was said of the nearest text, if that is near enough.
    fn find(&self, task: &str, vector: &[f32]) -> Option<Reviewed> {
        let task = self.0.get(task)?;
        let known = task.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (cosine, said) = known.nearest(vector, 1).pop()?;
        (cosine >= task.similarity).then(|| said.clone())
    }

    /// Remembers what was said of a text.
    pub(super) fn keep(&self, task: &str, vector: &[f32], said: &Reviewed) {
        if let Some(task) = self.0.get(task) {
            task.known.lock().unwrap_or_else(PoisonError::into_inner).keep(vector, said.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::upstream::Said;

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

    fn near() -> Near {
        Near::new([("t".to_owned(), Box::new(Letters) as Box<dyn Embed>)], 0.95)
    }

    fn said(label: &str) -> Reviewed {
        let said = Said { label: Some(label.into()), why: None, confidence: None, known: false };
        Reviewed { said, models: vec!["m".into()] }
    }

    #[test]
    fn only_what_is_near_is_found() {
        let near = near();
        let vector = |text: &str| near.vector("t", text).expect("a vector");
        near.keep("t", &vector("the cat sat on the mat"), &said("one"));
        near.keep("t", &vector("quick brown fox jumps"), &said("two"));
        let label = |text: &str| near.find("t", &vector(text)).and_then(|reviewed| reviewed.said.label);
        assert_eq!(label("the cat sat on the mat!").as_deref(), Some("one"));
        assert_eq!(label("a quick brown fox jumps").as_deref(), Some("two"));
        assert_eq!(label("zzz"), None);
        assert!(near.vector("t", "").is_none() && near.vector("other", "text").is_none());
    }

    #[test]
    fn the_nearest_come_first() {
        let mut index = Index::default();
        for (vector, value) in [([1.0, 0.0], 'a'), ([0.0, 1.0], 'b'), ([0.6, 0.8], 'c'), ([0.8, 0.6], 'd')] {
            index.keep(&vector, value);
        }
        let nearest = |count| index.nearest(&[1.0, 0.0], count).iter().map(|(_, value)| **value).collect::<String>();
        assert_eq!([0, 1, 3, 9].map(nearest), ["", "a", "adc", "adcb"]);
        assert!(index.nearest(&[1.0], 3).is_empty());
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let near = near();
        let vector = |text: &str| near.vector("t", text).expect("a vector");
        near.keep("t", &vector("aaa"), &said("first"));
        (0..MOST).for_each(|_| near.keep("t", &vector("bbb"), &said("later")));
        assert!(near.find("t", &vector("aaa")).is_none());
        assert_eq!(near.find("t", &vector("bbb")).and_then(|one| one.said.label).as_deref(), Some("later"));
    }
}
