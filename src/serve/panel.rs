//! The panel: one LLM or several, and how their labels become one.

use super::config::{self, Policy};
use super::examples::Examples;
use super::ledger::Ledger;
use super::near::Near;
use super::reviews::Recent;
use super::store::Store;
use super::upstream::{Outcome, Question, Said, Upstream, UpstreamError};
use crate::review::prompt::Template;
use crate::review::protocol::Usage;
use crate::review::redact::Redactor;
use crate::review::screen::Screen;
use crate::slm::adapter::{hex, sha256_of};
use crate::spec::{Example, Prices, Spec};
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A task as it is reviewed: its spec, and the prompts that follow from it.
pub struct Job {
    /// The spec.
    pub spec: Arc<Spec>,
    /// The prompts.
    pub template: Template,
    /// What redacts texts once more.
    pub redactor: Redactor,
    /// What finds texts that speak to the LLM; none where all are sent.
    pub screen: Option<Screen>,
}

impl From<Arc<Spec>> for Job {
    fn from(spec: Arc<Spec>) -> Self {
        let screen = spec.review.screen.then(|| Screen::new(&spec.task));
        Self { template: Template::new(&spec), redactor: spec.review.redactor(), screen, spec }
    }
}

impl Job {
    /// A reviewed sample as an LLM may be shown it: redacted; none of a text that no LLM is sent.
    pub fn example(&self, text: &str, label: &str) -> Option<Example> {
        let text = self.redactor.redact(text).text().to_owned();
        let held = self.screen.as_ref().and_then(|screen| screen.why(&text)).is_some();
        (!held).then(|| Example { text, label: label.to_owned() })
    }
}

/// What became of one text.
#[derive(Debug, Clone, PartialEq)]
pub struct Reviewed {
    /// What was said.
    pub said: Said,
    /// The models that said it.
    pub models: Vec<String>,
}

/// The review of one text, or why there is none.
pub type Review = Result<Reviewed, UpstreamError>;

/// The LLMs behind the server.
pub struct Panel {
    upstreams: Vec<Upstream>,
    policy: Policy,
    total: Duration,
    ledger: Arc<Ledger>,
    store: Store,
    identity: String,
    near: Near,
    examples: Examples,
    /// By the hash of a text, what the reply to it is known by.
    asked: Mutex<Recent<[u8; 32]>>,
}

impl Panel {
    /// Makes the clients; nothing is sent yet.
    pub fn new(config: config::Llm, store: Store) -> anyhow::Result<Self> {
        let ledger = Arc::new(Ledger::new(config.caps, store.clone())?);
        let policy = format!("{:?}", config.policy);
        let models = config.upstreams.iter().flat_map(|one| [one.endpoint.as_str(), one.model.as_str()]);
        let identity = hex(&sha256_of(models.chain([policy.as_str()])));
        let upstream = |config| Upstream::new(config, ledger.clone(), store.clone());
        let upstreams = config.upstreams.into_iter().map(upstream).collect::<anyhow::Result<_>>()?;
        let (policy, total) = (config.policy, Duration::from_secs_f64(config.total_seconds));
        Ok(Self {
            upstreams,
            policy,
            total,
            ledger,
            store,
            identity,
            near: config.near,
            examples: config.examples,
            asked: Mutex::default(),
        })
    }

    /// The LLMs, the one that is asked first first.
    pub fn upstreams(&self) -> &[Upstream] {
        &self.upstreams
    }

    /// The models' names.
    pub fn models(&self) -> String {
        self.upstreams.iter().map(|upstream| upstream.config().model.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// What tokens cost at most: those of the dearest LLM, or of all where all are asked.
    pub fn prices(&self) -> Prices {
        let all = self.upstreams.iter().map(|upstream| upstream.config().prices);
        let add =
            |a: Prices, b: Prices| Prices { prompt: a.prompt + b.prompt, completion: a.completion + b.completion };
        let dearer = |a: Prices, b: Prices| if b.usd(10, 1) > a.usd(10, 1) { b } else { a };
        all.reduce(if self.policy == Policy::Majority { add } else { dearer }).unwrap_or_default()
    }

    /// What was spent, and what is left.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Where answers and money are kept.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Seconds until an LLM is tried again, where none that is needed can be asked now.
    pub fn resting(&self) -> Option<u64> {
        let resting = self.upstreams.iter().map(Upstream::resting);
        match self.policy {
            // Any of them can do it.
            Policy::Fallback | Policy::Cascade { .. } => resting.min_by_key(|seconds| seconds.unwrap_or(0)).flatten(),
            Policy::Majority => {
                let most = self.upstreams.len() / 2;
                let mut all: Vec<u64> = resting.flatten().collect();
                all.sort_unstable();
                (all.len() > most).then(|| all.first().copied()).flatten()
            }
        }
    }

    /// The reviewed samples that are shown to the LLMs.
    pub fn examples(&self) -> &Examples {
        &self.examples
    }

    /// What a client's idempotency key means here: nothing to another client, task or panel.
    pub fn key(&self, client: &str, job: &Job, key: &str) -> String {
        let own = [client, self.identity.as_str(), key];
        hex(&sha256_of(own.into_iter().chain([job.template.identity()])))
    }

    /// The reviews of texts, not redacted yet, where each was asked about of late and its label is known.
    pub fn known(&self, job: &Job, texts: &[&str]) -> Option<Vec<Review>> {
        let upstream = self.upstreams.first()?;
        let known = |text: &&str| {
            let hash = lock(&self.asked).get(&sha256_of([job.template.identity(), text]))?;
            let said = upstream.known(&hash).ok()?.filter(|said| said.label.is_some())?;
            Some(Ok(Reviewed { said, models: vec![upstream.config().model.clone()] }))
        };
        texts.iter().map(known).collect()
    }

    /// Remembers by what the labels are known that the first LLM gave to texts; `redacted` are the same texts as sent.
    pub fn remember(&self, job: &Job, texts: &[&str], redacted: &[String], reviews: &[Review]) {
        // Other policies ask more than one.
        let Some(upstream) = self.upstreams.first().filter(|_| self.policy == Policy::Fallback) else { return };
        for ((text, redacted), review) in texts.iter().zip(redacted).zip(reviews) {
            let by_first = |reviewed: &Reviewed| reviewed.models == [upstream.config().model.as_str()];
            if review.as_ref().is_ok_and(|reviewed| reviewed.said.label.is_some() && by_first(reviewed)) {
                let hash = upstream.hash(&job.template, 0, false, redacted);
                lock(&self.asked).keep(sha256_of([job.template.identity(), text]), hash);
            }
        }
    }

    /// Has redacted texts reviewed, several a call where the spec says so. A review for each, and what all of it cost.
    pub async fn review(&self, job: &Job, client: &str, texts: Vec<String>) -> (Vec<Review>, Usage) {
        let deadline = Instant::now() + self.total;
        let mut by_text: BTreeMap<String, Review> = BTreeMap::new();
        let mut distinct = Vec::new();
        for text in texts.iter().collect::<BTreeSet<_>>() {
            match screened(job, text) {
                Some(review) => drop(by_text.insert(text.clone(), Ok(review))),
                None => distinct.push(text.clone()),
            }
        }
        let chunks = distinct.chunks(job.spec.review.batch.max(1));
        let chunks = chunks.map(|chunk| self.chunk(job, client, deadline, chunk));
        let mut usage = Usage::default();
        for (reviews, cost) in join_all(chunks).await {
            by_text.extend(reviews);
            usage.add(&cost);
        }
        let broken = || Err(UpstreamError::Broken);
        (texts.iter().map(|text| by_text.get(text).cloned().unwrap_or_else(broken)).collect(), usage)
    }

    /// The texts of one call.
    async fn chunk(
        &self,
        job: &Job,
        client: &str,
        deadline: Instant,
        chunk: &[String],
    ) -> (Vec<(String, Review)>, Usage) {
        let texts: Vec<&str> = chunk.iter().map(String::as_str).collect();
        let (task, template) = (&job.spec.task, &job.template);
        let examples = match self.examples.has(&task.name) {
            true => self.examples.clone().like(&task.name, chunk.to_vec()).await,
            false => Vec::new(),
        };
        let examples = examples.as_slice();
        let question = Question { task, template, examples, client, deadline, confidence: false, sample: 0 };
        let (reviews, usage) = self.near_or_decided(&question, &texts).await;
        (chunk.iter().cloned().zip(reviews).collect(), usage)
    }

    /// What is nearly the same as what was labelled before is given its label; the rest is decided.
    async fn near_or_decided(&self, question: &Question<'_>, texts: &[&str]) -> (Vec<Review>, Usage) {
        let task = &question.task.name;
        if !self.near.has(task) {
            return self.decide(question, texts).await;
        }
        // What an LLM said of exactly this text comes first.
        let knows = |text: &&str| self.upstreams.iter().any(|upstream| upstream.knows(question, text));
        let (vectors, found): (Vec<_>, Vec<_>) = self.near.clone().look(task, texts).await.into_iter().unzip();
        let found = texts.iter().zip(found).map(|(text, found)| found.filter(|_| !knows(text)));
        let mut reviews: Vec<Option<Review>> = found.map(|found| found.map(Ok)).collect();
        let left: Vec<&str> =
            texts.iter().zip(&reviews).filter(|(_, review)| review.is_none()).map(|(text, _)| *text).collect();
        let (decided, usage) = self.decide(question, &left).await;
        let mut decided = decided.into_iter();
        for (review, vector) in reviews.iter_mut().zip(&vectors).filter(|(review, _)| review.is_none()) {
            *review = decided.next();
            if let (Some(Ok(reviewed)), Some(vector)) = (&review, vector)
                && reviewed.said.label.is_some()
            {
                let said = Said { known: true, ..reviewed.said.clone() };
                self.near.keep(task, vector, &Reviewed { said, ..reviewed.clone() });
            }
        }
        (reviews.into_iter().map(|review| review.unwrap_or(Err(UpstreamError::Broken))).collect(), usage)
    }

    async fn decide(&self, question: &Question<'_>, texts: &[&str]) -> (Vec<Review>, Usage) {
        match self.policy {
            Policy::Fallback => self.one_after_the_other(question, texts, None).await,
            Policy::Cascade { confidence, samples } => {
                self.one_after_the_other(question, texts, Some((confidence, samples))).await
            }
            Policy::Majority => self.majority(question, texts).await,
        }
    }

    /// Each LLM is asked about what the ones before it failed at or, in a cascade, were not sure of.
    async fn one_after_the_other(
        &self,
        question: &Question<'_>,
        texts: &[&str],
        sure: Option<(f64, u32)>,
    ) -> (Vec<Review>, Usage) {
        let mut reviews: Vec<Review> = vec![Err(UpstreamError::Unreachable); texts.len()];
        let mut usage = Usage::default();
        let mut left: Vec<usize> = (0..texts.len()).collect();
        for (place, upstream) in self.upstreams.iter().enumerate() {
            let last = place + 1 == self.upstreams.len();
            let asked: Vec<&str> = left.iter().filter_map(|at| texts.get(*at).copied()).collect();
            let (outcomes, cost) = match sure {
                Some((_, samples)) if !last => confident(upstream, question, &asked, samples).await,
                _ => upstream.ask(question, &asked).await,
            };
            usage.add(&cost);
            let enough = |said: &Said| match sure {
                Some((confidence, _)) if !last => {
                    said.label.is_some() && said.confidence.is_some_and(|its| its >= confidence)
                }
                _ => true,
            };
            let mut open = Vec::new();
            for (at, outcome) in left.into_iter().zip(outcomes) {
                if !outcome.as_ref().is_ok_and(enough) {
                    open.push(at);
                }
                let models = vec![upstream.config().model.clone()];
                if let Some(review) = reviews.get_mut(at) {
                    *review = outcome.map(|said| Reviewed { said, models });
                }
            }
            left = open;
            if left.is_empty() {
                break;
            }
        }
        (reviews, usage)
    }

    /// All LLMs are asked; the label of more than half of all is the text's.
    async fn majority(&self, question: &Question<'_>, texts: &[&str]) -> (Vec<Review>, Usage) {
        let all = join_all(self.upstreams.iter().map(|upstream| upstream.ask(question, texts))).await;
        let mut usage = Usage::default();
        let mut by_text: Vec<Vec<(&Upstream, Outcome)>> = texts.iter().map(|_| Vec::new()).collect();
        for (upstream, (outcomes, cost)) in self.upstreams.iter().zip(all) {
            usage.add(&cost);
            by_text.iter_mut().zip(outcomes).for_each(|(one, outcome)| one.push((upstream, outcome)));
        }
        (by_text.into_iter().map(|outcomes| elected(&outcomes)).collect(), usage)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a text comes to that is for a person from the start.
fn screened(job: &Job, text: &str) -> Option<Reviewed> {
    let why = job.screen.as_ref()?.why(text)?;
    let why = Some(format!("screened: no LLM is asked, because {why}; it is for a person"));
    Some(Reviewed { said: Said { label: None, why, confidence: None, known: false }, models: Vec::new() })
}

/// What more than half of the LLMs say of a text; those that failed count as LLMs.
fn elected(outcomes: &[(&Upstream, Outcome)]) -> Review {
    let labels = outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().ok()?.label.as_deref());
    let most = labels.clone().find(|label| 2 * labels.clone().filter(|other| other == label).count() > outcomes.len());
    // One that failed could have decided. What the others said is known the next time.
    if let (None, Some((_, Err(error)))) = (most, outcomes.iter().find(|(_, outcome)| outcome.is_err())) {
        return Err(error.clone());
    }
    let for_it = |outcome: &Outcome| outcome.as_ref().is_ok_and(|said| most.is_none() || said.label.as_deref() == most);
    let models = outcomes.iter().filter(|(_, outcome)| for_it(outcome));
    let models = models.map(|(upstream, _)| upstream.config().model.clone()).collect();
    let why = most.is_none().then(|| "the LLMs do not agree".to_owned());
    let known = outcomes.iter().all(|(_, outcome)| outcome.as_ref().is_ok_and(|said| said.known));
    Ok(Reviewed { said: Said { label: most.map(str::to_owned), why, confidence: None, known }, models })
}

/// Asks with the label's probability; where the LLM does not tell it, by the agreement of several samples.
async fn confident(
    upstream: &Upstream,
    question: &Question<'_>,
    texts: &[&str],
    samples: u32,
) -> (Vec<Outcome>, Usage) {
    let (mut outcomes, mut usage) = upstream.ask_surely(question, texts).await;
    let untold =
        |outcome: &Outcome| outcome.as_ref().is_ok_and(|said| said.label.is_some() && said.confidence.is_none());
    let open: Vec<usize> =
        outcomes.iter().enumerate().filter(|(_, outcome)| untold(outcome)).map(|(at, _)| at).collect();
    if open.is_empty() {
        return (outcomes, usage);
    }
    let asked: Vec<&str> = open.iter().filter_map(|at| texts.get(*at).copied()).collect();
    let mut by_text: Vec<Vec<Said>> = asked.iter().map(|_| Vec::new()).collect();
    for sample in 1..=samples {
        let (said, cost) = upstream.ask(&Question { sample, ..*question }, &asked).await;
        usage.add(&cost);
        by_text.iter_mut().zip(said).for_each(|(all, said)| all.extend(said));
    }
    for (at, said) in open.into_iter().zip(&by_text) {
        if let Some(Ok(outcome)) = outcomes.get_mut(at) {
            let agree = said.iter().filter(|said| said.label == outcome.label).count();
            outcome.confidence = Some(agree as f64 / f64::from(samples));
        }
    }
    (outcomes, usage)
}
