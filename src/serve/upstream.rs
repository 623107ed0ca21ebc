//! One upstream: any OpenAI-compatible `/v1/chat/completions`. What it says of itself never reaches a client: its error
//! texts may repeat the key.

use super::breaker::{Breaker, Place, Turns};
use super::completion::{Body, Completion, failed, read};
use super::config;
use super::ledger::{Ledger, Refusal};
use super::store::{Known, Store, StoreError};
use crate::review::prompt::{Prompt, Template};
use crate::review::protocol::Usage;
use crate::review::reply::{self, Found};
use crate::slm::adapter::sha256_of;
use crate::spec::Example;
use crate::task::Task;
use reqwest::header::HeaderMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};
use thiserror::Error;
use tokio::sync::Semaphore;

/// Attempts at one call.
const TRIES: u32 = 3;
/// Seconds for which it is known that a text was given no usable label.
const NONE_FOR: u64 = 600;
/// Seconds after which a client may ask again where the queue is full.
const QUEUE_WAIT: u64 = 5;
/// A wait longer than this is handed on to the client.
const LONGEST_WAIT: u64 = 20;

/// Why the upstream gave no reply.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UpstreamError {
    /// 401 or 403.
    #[error("upstream-auth: the LLM refused the server's key; the operator must check AUTOANNOTATOR_LLM_KEY")]
    Auth,
    /// It asks to slow down, to the last attempt; or it failed of late and is left alone; or too many wait for it.
    #[error("upstream-busy: the LLM is busy or left alone for a while; try again in {retry_after} s")]
    Busy {
        /// Seconds to wait.
        retry_after: u64,
    },
    /// Any other status than 200.
    #[error(
        "upstream-status: the LLM answered with status {0}; the operator must check AUTOANNOTATOR_LLM_URL and _MODEL"
    )]
    Status(u16),
    /// No answer in time.
    #[error(
        "upstream-timeout: the LLM gave no answer in time; for a slow one the operator can raise timeout_seconds and total_seconds"
    )]
    Timeout,
    /// The connection broke after the request was sent.
    #[error("upstream-broken: the connection to the LLM broke before it had answered")]
    Broken,
    /// No connection.
    #[error("upstream-unreachable: the LLM cannot be reached; the operator must check AUTOANNOTATOR_LLM_URL")]
    Unreachable,
    /// Not a chat completion.
    #[error("upstream-garbage: the LLM's answer is not a chat completion")]
    Garbage,
    /// The budget does not cover the call.
    #[error(
        "review-budget: a budget is used up; the operator can raise budget_usd, task_budget_usd or client_budget_usd"
    )]
    Budget,
    /// What would be spent cannot be written down.
    #[error("review-store: the server cannot write its ledger, so nothing is sent; the operator must look at its log")]
    Store,
}

impl UpstreamError {
    fn again(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Unreachable) || matches!(self, Self::Status(status) if *status >= 500)
    }

    /// Whether the upstream may have done the work, and so may bill it.
    fn may_cost(&self) -> bool {
        matches!(self, Self::Timeout | Self::Garbage | Self::Broken | Self::Status(502 | 504 | 524))
    }
}

/// What an LLM said of one text.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    /// The label's canonical name.
    pub label: Option<String>,
    /// Why there is none.
    pub why: Option<String>,
    /// The probability that the LLM gave the label, where it told.
    pub confidence: Option<f64>,
    /// Whether it was known and nothing was sent.
    pub known: bool,
}

/// A text that is asked about.
pub type Outcome = Result<Said, UpstreamError>;

/// What is asked, for whom, and how.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// The task.
    pub task: &'a Task,
    /// Its prompts.
    pub template: &'a Template,
    /// What is shown with the texts besides the spec's examples.
    pub examples: &'a [Example],
    /// Who pays.
    pub client: &'a str,
    /// When nothing more is tried.
    pub deadline: Instant,
    /// Whether the labels' log-probabilities are wanted.
    pub confidence: bool,
    /// Which of several samples it is, drawn with some chance; 0 for the one most likely reply.
    pub sample: u32,
}

/// One call for some texts: what is sent, what their replies are known by, and how a reply is read.
struct Call<'a, R> {
    question: &'a Question<'a>,
    prompt: Prompt<'a>,
    hashes: &'a [[u8; 32]],
    read: R,
}

/// An LLM behind the server.
pub struct Upstream {
    http: reqwest::Client,
    config: config::Upstream,
    ledger: Arc<Ledger>,
    store: Store,
    breaker: Breaker,
    waiting: AtomicUsize,
    turns: Turns,
    slots: Semaphore,
    /// Whether the upstream takes `response_format`; learnt from its first 400.
    schema: AtomicBool,
    /// Whether it takes `logprobs`; learnt likewise.
    logprobs: AtomicBool,
    /// Calls answered, and failed attempts.
    counts: [AtomicU64; 2],
}

impl Upstream {
    /// Makes the client; nothing is sent yet.
    pub fn new(config: config::Upstream, ledger: Arc<Ledger>, store: Store) -> anyhow::Result<Self> {
        let http = http_client(&config.endpoint, Duration::from_secs_f64(config.timeout_seconds))?;
        let slots = Semaphore::new(config.concurrency);
        let (breaker, waiting) = (Breaker::default(), AtomicUsize::new(0));
        let (schema, logprobs) = (AtomicBool::new(true), AtomicBool::new(true));
        let (turns, counts) = (Turns::default(), Default::default());
        Ok(Self { http, ledger, store, breaker, waiting, turns, slots, schema, logprobs, counts, config })
    }

    /// What is configured of it.
    pub fn config(&self) -> &config::Upstream {
        &self.config
    }

    /// Seconds until it is tried again, where it has failed too often of late.
    pub fn resting(&self) -> Option<u64> {
        self.breaker.resting()
    }

    /// Calls that were answered, and attempts that failed.
    pub fn counts(&self) -> [u64; 2] {
        self.counts.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// Asks for labels with their probabilities, or without where it takes no `logprobs`.
    pub async fn ask_surely(&self, question: &Question<'_>, texts: &[&str]) -> (Vec<Outcome>, Usage) {
        let confidence = self.logprobs.load(Ordering::Relaxed);
        let (outcomes, mut usage) = self.ask(&Question { confidence, ..*question }, texts).await;
        let refused = |outcome: &Outcome| matches!(outcome, Err(UpstreamError::Status(400 | 422)));
        if !confidence || !outcomes.iter().all(refused) {
            return (outcomes, usage);
        }
        let (outcomes, cost) = self.ask(question, texts).await;
        usage.add(&cost);
        if outcomes.iter().any(Result::is_ok) {
            self.logprobs.store(false, Ordering::Relaxed);
        }
        (outcomes, usage)
    }

    /// Whether it has labelled exactly this text.
    pub fn knows(&self, question: &Question<'_>, text: &str) -> bool {
        [false, true].into_iter().any(|confidence| {
            let known = self.known(&self.hash(question.template, question.sample, confidence, text));
            matches!(known, Ok(Some(Said { label: Some(_), .. })))
        })
    }

    /// What its reply to a text is known by.
    pub(super) fn hash(&self, template: &Template, sample: u32, confidence: bool, text: &str) -> [u8; 32] {
        let how = format!("{sample} {confidence}");
        let own = [self.config.endpoint.as_str(), self.config.model.as_str(), how.as_str()];
        sha256_of(own.into_iter().chain([template.identity(), text]))
    }

    /// Has redacted texts, no two the same, labelled in one call, except those whose replies are known; what the reply
    /// leaves out is asked about alone. An outcome for each text, and what all of it cost.
    pub async fn ask(&self, question: &Question<'_>, texts: &[&str]) -> (Vec<Outcome>, Usage) {
        let hash = |text: &&str| self.hash(question.template, question.sample, question.confidence, text);
        let hashes: Vec<[u8; 32]> = texts.iter().map(hash).collect();
        // The same text that is asked about at the same time waits for the first one's reply; in one order everywhere, so
        // that nobody waits for each other.
        let mut order: Vec<&[u8; 32]> = hashes.iter().collect();
        order.sort_unstable();
        let mut held = Vec::with_capacity(order.len());
        for hash in order {
            let turn = tokio::time::timeout_at(question.deadline.into(), self.turns.take(*hash).lock_owned()).await;
            let Ok(turn) = turn else {
                return (vec![Err(UpstreamError::Busy { retry_after: QUEUE_WAIT }); texts.len()], Usage::default());
            };
            held.push(turn);
        }
        let mut usage = Usage::default();
        let mut outcomes: Vec<Option<Outcome>> = hashes.iter().map(|hash| self.known(hash).transpose()).collect();
        let open = |outcomes: &[Option<Outcome>]| -> Vec<usize> {
            outcomes.iter().enumerate().filter(|(_, outcome)| outcome.is_none()).map(|(at, _)| at).collect()
        };
        let left = open(&outcomes);
        if left.len() > 1 {
            let asked: Vec<_> = left.iter().filter_map(|at| Some((*hashes.get(*at)?, *texts.get(*at)?))).collect();
            let said = self.together(question, &asked, &mut usage).await;
            for (at, outcome) in left.into_iter().zip(said) {
                outcomes[at] = outcome;
            }
        }
        for at in open(&outcomes) {
            let (hash, text) = (hashes[at], texts[at]);
            outcomes[at] = Some(self.alone(question, hash, text, &mut usage).await);
        }
        (outcomes.into_iter().map(|outcome| outcome.unwrap_or(Err(UpstreamError::Garbage))).collect(), usage)
    }

    /// Has a prompt for something else than labels answered: the reply as it is, and what it cost. Of the question only who
    /// pays, for what task, and until when counts. Nothing of it is known the next time.
    pub async fn complete(
        &self,
        question: &Question<'_>,
        prompt: Prompt<'_>,
    ) -> (Result<String, UpstreamError>, Usage) {
        let (reply, mut usage) = (OnceLock::new(), Usage::default());
        let read = |completion: &Completion| {
            let _ = reply.set(completion.content().to_owned());
            Vec::new()
        };
        let outcome = self.tried(&Call { question, prompt, hashes: &[], read }, &mut usage).await;
        (outcome.and_then(|_| reply.into_inner().ok_or(UpstreamError::Garbage)), usage)
    }

    /// What is known of what this is the hash of; that there was no label is known for a while.
    pub(super) fn known(&self, hash: &[u8; 32]) -> Result<Option<Said>, UpstreamError> {
        let found = self.store.review(hash).map_err(|error| lost(&error))?;
        let fresh = |known: &Known| known.label.is_some() || known.age < NONE_FOR;
        Ok(found.filter(fresh).map(|Known { label, confidence, .. }| {
            let why = label.is_none().then(|| "the LLM gave no usable label a moment ago".to_owned());
            Said { label, why, confidence, known: true }
        }))
    }

    /// One text, in a call of its own.
    async fn alone(&self, question: &Question<'_>, hash: [u8; 32], text: &str, usage: &mut Usage) -> Outcome {
        let labels = &question.task.labels;
        let read = |completion: &Completion| match reply::parse(labels, completion.content()) {
            Ok(found) => vec![Some(said(question, completion, found))],
            Err(error) => {
                let why = Some(error.to_string());
                vec![Some(Said { label: None, why, confidence: None, known: false })]
            }
        };
        let prompt = question.template.one(text, question.examples);
        let mut said = self.tried(&Call { question, prompt, hashes: &[hash], read }, usage).await?;
        said.pop().flatten().ok_or(UpstreamError::Garbage)
    }

    /// Several texts in one call. None for those that have to be asked about alone.
    async fn together(
        &self,
        question: &Question<'_>,
        asked: &[([u8; 32], &str)],
        usage: &mut Usage,
    ) -> Vec<Option<Outcome>> {
        // Drawn anew for each call, so that no text can know an id; the place in it keeps them apart.
        let random = std::collections::hash_map::RandomState::new();
        let id = |at: usize| format!("{:06x}{at:02x}", random.hash_one(at) & 0xff_ffff);
        let ids: Vec<String> = (0..asked.len()).map(id).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let slots: Vec<(&str, &str)> = ids.iter().zip(asked).map(|(id, (_, text))| (*id, *text)).collect();
        let read = |completion: &Completion| {
            let found = reply::parse_many(&question.task.labels, completion.content(), &ids);
            found.into_iter().map(|found| found.map(|found| said(question, completion, found))).collect()
        };
        let prompt = question.template.many(&slots, question.examples);
        let hashes: Vec<[u8; 32]> = asked.iter().map(|(hash, _)| *hash).collect();
        match self.tried(&Call { question, prompt, hashes: &hashes, read }, usage).await {
            Ok(said) => said.into_iter().map(|said| said.map(Ok)).collect(),
            // It may be one of the texts, or all of them together.
            Err(UpstreamError::Status(400..=499) | UpstreamError::Garbage | UpstreamError::Budget) => {
                vec![None; asked.len()]
            }
            Err(error) => vec![Some(Err(error)); asked.len()],
        }
    }

    /// Calls until there is a reply, an error that asking again does not help, or it was tried often or long enough.
    async fn tried<R: Fn(&Completion) -> Vec<Option<Said>>>(
        &self,
        call: &Call<'_, R>,
        usage: &mut Usage,
    ) -> Result<Vec<Option<Said>>, UpstreamError> {
        let question = call.question;
        let busy = UpstreamError::Busy { retry_after: QUEUE_WAIT };
        let place = Place::new(&self.waiting, self.config.queue).ok_or(busy.clone())?;
        let slot = tokio::time::timeout_at(question.deadline.into(), self.slots.acquire()).await;
        let _slot = slot.map_err(|_| busy)?.map_err(|_| UpstreamError::Unreachable)?;
        drop(place);
        let mut tried = 1;
        loop {
            // Nothing is sent any more, so nothing is reserved, and the LLM is not to blame.
            if Instant::now() >= question.deadline {
                return Err(UpstreamError::Timeout);
            }
            self.breaker.admit().map_err(|retry_after| UpstreamError::Busy { retry_after })?;
            let outcome = self.paid(call, usage).await;
            let cut_short = Instant::now() >= question.deadline;
            self.breaker.note(outcome.as_ref().err().filter(|_| !cut_short));
            self.counts[usize::from(outcome.is_err())].fetch_add(1, Ordering::Relaxed);
            let error = match outcome {
                Ok(said) => return Ok(said),
                Err(error) if !error.again() || tried == TRIES => return Err(error),
                Err(error) => error,
            };
            let wait = if let UpstreamError::Busy { retry_after } = error { retry_after } else { 0 };
            let wait_for = Duration::from_secs(wait) + jitter(tried);
            if wait > LONGEST_WAIT || Instant::now() + wait_for >= question.deadline {
                return Err(error);
            }
            tokio::time::sleep(wait_for).await;
            tried += 1;
        }
    }

    /// One attempt: reserve what it can cost at most, call, settle what it did cost.
    async fn paid<R: Fn(&Completion) -> Vec<Option<Said>>>(
        &self,
        call: &Call<'_, R>,
        usage: &mut Usage,
    ) -> Result<Vec<Option<Said>>, UpstreamError> {
        let Call { question, prompt, hashes, read } = call;
        let most = self.config.prices.usd(prompt.most_tokens(), prompt.reply_tokens);
        let reserve = self.ledger.reserve(&question.task.name, question.client, &self.config.model, most).await;
        let reserve = reserve.map_err(|refusal| match refusal {
            Refusal::Budget => UpstreamError::Budget,
            Refusal::Store(error) => lost(&error),
        })?;
        let called = self.call(question, prompt).await;
        let (cost, said) = match &called {
            Ok(completion) => (self.cost(completion, most), read(completion)),
            Err(error) => {
                let cost_usd = if error.may_cost() { most } else { 0.0 };
                (Usage { cost_usd, ..Usage::default() }, Vec::new())
            }
        };
        let known = hashes.iter().zip(&said).filter_map(|(hash, said)| {
            let Said { label, confidence, .. } = said.clone()?;
            Some((*hash, Known { age: 0, label, confidence }))
        });
        let tokens = [cost.prompt_tokens, cost.completion_tokens];
        self.ledger.settle(reserve, cost.cost_usd, tokens, known.collect());
        // Nothing is written later that would be waited for in its place.
        if called.is_err()
            && let Err(error) = self.store.flush().await
        {
            tracing::error!("{error}");
        }
        usage.add(&cost);
        called.map(|_| said)
    }

    /// Who does not say what it took is charged at the reserve.
    fn cost(&self, completion: &Completion, most: f64) -> Usage {
        match completion.tokens() {
            Some((prompt_tokens, completion_tokens)) => {
                let cost_usd = self.config.prices.usd(prompt_tokens, completion_tokens);
                Usage { prompt_tokens, completion_tokens, cost_usd }
            }
            None => Usage { cost_usd: most, ..Usage::default() },
        }
    }

    async fn call(&self, question: &Question<'_>, prompt: &Prompt<'_>) -> Result<Completion, UpstreamError> {
        let body = |schema: bool| Body::new(&self.config.model, question, prompt, schema);
        if !self.schema.load(Ordering::Relaxed) {
            return self.post(question, &body(false)).await;
        }
        match self.post(question, &body(true)).await {
            Err(UpstreamError::Status(400 | 422)) => {
                let plain = self.post(question, &body(false)).await?;
                self.schema.store(false, Ordering::Relaxed);
                Ok(plain)
            }
            other => other,
        }
    }

    async fn post(&self, question: &Question<'_>, body: &Body<'_>) -> Result<Completion, UpstreamError> {
        let left = question.deadline.saturating_duration_since(Instant::now());
        let mut request = self.http.post(self.config.endpoint.clone()).json(body);
        if left < Duration::from_secs_f64(self.config.timeout_seconds) {
            request = request.timeout(left);
        }
        if let Some(key) = &self.config.key {
            request = request.bearer_auth(key);
        }
        let response = request.send().await.map_err(|error| failed(&error))?;
        match response.status().as_u16() {
            200 => read(response).await,
            401 | 403 => Err(UpstreamError::Auth),
            429 => Err(UpstreamError::Busy { retry_after: retry_after(response.headers()).unwrap_or(1) }),
            status => Err(UpstreamError::Status(status)),
        }
    }
}

fn said(question: &Question<'_>, completion: &Completion, found: Found) -> Said {
    let label = question.task.labels.name(found.label).map(str::to_owned);
    Said { label, why: None, confidence: completion.probability(found.at), known: false }
}

fn lost(error: &StoreError) -> UpstreamError {
    tracing::error!("{error}");
    UpstreamError::Store
}

/// A client that follows no redirect (a key must not travel on), and uses no proxy for this machine's own addresses.
pub(crate) fn http_client(url: &reqwest::Url, timeout: Duration) -> reqwest::Result<reqwest::Client> {
    let builder = reqwest::Client::builder()
        .timeout(timeout)
        .connect_timeout(Duration::from_secs(10).min(timeout))
        .redirect(reqwest::redirect::Policy::none());
    let own = url.host_str().is_some_and(super::guard::loopback_name);
    if own { builder.no_proxy().build() } else { builder.build() }
}

/// The seconds of a `Retry-After` header, which may also be a date.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get("retry-after")?.to_str().ok()?.trim();
    let until = || httpdate::parse_http_date(value).ok()?.duration_since(SystemTime::now()).ok();
    value.parse().ok().or_else(|| Some(until()?.as_secs() + 1))
}

/// Full jitter: anything up to a quarter of a second, doubled with each attempt.
pub(crate) fn jitter(tried: u32) -> Duration {
    // The hasher's keys are the standard library's randomness.
    let random = std::collections::hash_map::RandomState::new().hash_one(tried);
    Duration::from_millis(random % (250 << tried.min(6)).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_seconds_or_a_date() {
        let wait = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", value.parse().expect("a value"));
            retry_after(&headers)
        };
        assert_eq!((wait("17"), wait("soon"), wait("-3")), (Some(17), None, None));
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(30));
        assert!(wait(&later).is_some_and(|seconds| (28..=31).contains(&seconds)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT"), None);
    }

    #[test]
    fn jitter_is_bounded_and_differs() {
        let waits: std::collections::BTreeSet<Duration> = (0..50).map(|_| jitter(1)).collect();
        assert!(waits.len() > 5 && waits.iter().all(|wait| *wait < Duration::from_millis(500)));
    }
}
