//! The upstream: any OpenAI-compatible `/v1/chat/completions`. What it says of itself never reaches a client: its
//! error texts may repeat the key.

use super::config::Llm;
use super::ledger::{Ledger, Refusal, Reserve};
use super::store::{Store, StoreError};
use crate::review::prompt::{self, Prompt, REPLY_TOKENS};
use crate::review::protocol::Usage;
use crate::review::reply;
use crate::slm::adapter::{hex, sha256_of};
use crate::spec::Prices;
use crate::task::Task;
use reqwest::header::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::Semaphore;

/// Attempts at one item.
const TRIES: u32 = 3;
/// Failures in a row after which the upstream is left alone.
const FAILURES: u32 = 8;
/// For how long.
const RESTS_FOR: Duration = Duration::from_secs(10);
/// Seconds for which it is known that a text was given no usable label.
const NONE_FOR: u64 = 600;
/// Turns at which those that nobody holds are forgotten.
const TURNS: usize = 4096;
/// Seconds after which a client may ask again where the queue is full.
const QUEUE_WAIT: u64 = 5;
/// A wait longer than this is handed on to the client.
const LONGEST_WAIT: u64 = 20;
/// Bytes of an upstream's answer at most.
const MAX_ANSWER: usize = 1 << 20;

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
    #[error("upstream-timeout: the LLM gave no answer in time")]
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

/// What an item came to.
#[derive(Debug, Clone)]
pub struct Reviewed {
    /// The label's canonical name.
    pub label: Option<String>,
    /// Why there is none.
    pub why: Option<String>,
    /// What it cost.
    pub usage: Usage,
    /// Whether it was known and nothing was sent.
    pub known: bool,
}

/// A text to be reviewed, for whom, and what its reply is known by.
struct Question<'a> {
    prompt: Prompt,
    task: &'a Task,
    client: &'a str,
    hash: [u8; 32],
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
    usage: Option<Tokens>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
}

#[derive(Deserialize)]
struct Tokens {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

/// The LLM behind the server.
pub struct Upstream {
    http: reqwest::Client,
    config: Llm,
    ledger: Ledger,
    store: Store,
    breaker: Breaker,
    waiting: AtomicUsize,
    turns: Turns,
    slots: Semaphore,
    /// Whether the upstream takes `response_format`; learnt from its first 400.
    schema: AtomicBool,
}

impl Upstream {
    /// Makes the client; nothing is sent yet.
    pub fn new(config: Llm, store: Store) -> anyhow::Result<Self> {
        let http = http_client(&config.endpoint, Duration::from_secs_f64(config.timeout_seconds))?;
        let slots = Semaphore::new(config.concurrency);
        let ledger = Ledger::new(config.caps, store.clone())?;
        let (breaker, waiting, schema) = (Breaker::default(), AtomicUsize::new(0), AtomicBool::new(true));
        let turns = Turns::default();
        Ok(Self { http, ledger, store, breaker, waiting, turns, slots, schema, config })
    }

    /// The model's name.
    pub fn model(&self) -> &str {
        &self.config.model
    }

    /// US dollars a million tokens, where any are configured.
    pub fn prices(&self) -> Option<Prices> {
        Some(self.config.prices).filter(|prices| prices.usd(1_000_000, 1_000_000) > 0.0)
    }

    /// What is left of the budget in US dollars, if there is a cap.
    pub fn remaining(&self) -> Option<f64> {
        self.ledger.remaining()
    }

    /// Spent and reserved so far, in US dollars.
    pub fn spent(&self) -> f64 {
        self.ledger.spent()
    }

    /// Where its answers and money are kept.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Seconds until the upstream is tried again, where it has failed too often of late.
    pub fn resting(&self) -> Option<u64> {
        self.breaker.resting()
    }

    /// What a client's idempotency key means here: nothing to another client, task or LLM.
    pub fn key(&self, client: &str, task: &Task, key: &str) -> String {
        let system = prompt::compose(task, "").system;
        hex(&sha256_of([client, self.config.endpoint.as_str(), &self.config.model, &system, key]))
    }

    /// Has one redacted text reviewed, unless its reply is known.
    pub async fn review(&self, task: &Task, client: &str, text: &str) -> Result<Reviewed, UpstreamError> {
        let prompt = prompt::compose(task, text);
        let hash = sha256_of([self.config.endpoint.as_str(), &self.config.model, &prompt.system, &prompt.user]);
        // The same text that is asked about at the same time waits for the first one's reply.
        let turn = self.turns.take(hash);
        let _turn = turn.lock().await;
        if let Some(reviewed) = self.known(&hash)? {
            return Ok(reviewed);
        }
        self.tried(&Question { prompt, task, client, hash }).await
    }

    /// The label that is known for what this is the hash of; that there was none is known for a while.
    fn known(&self, hash: &[u8; 32]) -> Result<Option<Reviewed>, UpstreamError> {
        let reviewed = |label: Option<String>| {
            let why = label.is_none().then(|| "the LLM gave no usable label a moment ago".to_owned());
            Reviewed { label, why, usage: Usage::default(), known: true }
        };
        let found = self.store.review(hash).map_err(|error| lost(&error))?;
        Ok(found.filter(|(age, label)| label.is_some() || *age < NONE_FOR).map(|(_, label)| reviewed(label)))
    }

    /// Calls until there is a reply, an error that asking again does not help, or it was tried often enough.
    async fn tried(&self, question: &Question<'_>) -> Result<Reviewed, UpstreamError> {
        let place = Place::new(&self.waiting, self.config.queue);
        let place = place.ok_or(UpstreamError::Busy { retry_after: QUEUE_WAIT })?;
        let _slot = self.slots.acquire().await.map_err(|_| UpstreamError::Unreachable)?;
        drop(place);
        let mut tried = 1;
        loop {
            self.breaker.admit().map_err(|retry_after| UpstreamError::Busy { retry_after })?;
            let outcome = self.paid(question).await;
            self.breaker.note(outcome.as_ref().err());
            match outcome {
                Ok(reviewed) => return Ok(reviewed),
                Err(UpstreamError::Busy { retry_after }) if retry_after > LONGEST_WAIT => {
                    return Err(UpstreamError::Busy { retry_after });
                }
                Err(error) if error.again() && tried < TRIES => {
                    let wait = if let UpstreamError::Busy { retry_after } = error { retry_after } else { 0 };
                    tokio::time::sleep(Duration::from_secs(wait) + jitter(tried)).await;
                    tried += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn without_key(&self, text: String) -> String {
        match self.config.key.as_deref() {
            Some(key) if !key.is_empty() => text.replace(key, "[KEY]"),
            _ => text,
        }
    }

    /// One attempt: reserve what it can cost at most, call, settle what it did cost.
    async fn paid(&self, question: &Question<'_>) -> Result<Reviewed, UpstreamError> {
        let Question { prompt, task, client, hash } = question;
        // A token is at least a byte; 64 more for the chat's own.
        let most = self.config.prices.usd((prompt.system.len() + prompt.user.len() + 64) as u64, REPLY_TOKENS);
        let reserve = self.ledger.reserve(&task.name, client, &self.config.model, most).await;
        let reserve = reserve.map_err(|refusal| match refusal {
            Refusal::Budget => UpstreamError::Budget,
            Refusal::Store(error) => lost(&error),
        })?;
        match self.call(prompt).await {
            Ok(completion) => {
                let content = completion.choices.into_iter().next().and_then(|choice| choice.message.content);
                // Who does not say what it took is charged at the reserve.
                let tokens = completion.usage.and_then(|tokens| tokens.prompt_tokens.zip(tokens.completion_tokens));
                let usage = match tokens.filter(|(prompt, _)| *prompt > 0) {
                    Some((prompt_tokens, completion_tokens)) => {
                        let cost_usd = self.config.prices.usd(prompt_tokens, completion_tokens);
                        Usage { prompt_tokens, completion_tokens, cost_usd }
                    }
                    None => Usage { cost_usd: most, ..Usage::default() },
                };
                let (label, why) = match reply::parse(&task.labels, &content.unwrap_or_default()) {
                    Ok(index) => (task.labels.name(index).map(str::to_owned), None),
                    Err(error) => (None, Some(self.without_key(error.to_string()))),
                };
                self.settle(reserve, &usage, Some((*hash, label.clone()))).await;
                Ok(Reviewed { label, why, usage, known: false })
            }
            Err(error) => {
                let cost_usd = if error.may_cost() { most } else { 0.0 };
                self.settle(reserve, &Usage { cost_usd, ..Usage::default() }, None).await;
                Err(error)
            }
        }
    }

    /// Where it cannot be written down, the call stays charged at its reserve.
    async fn settle(&self, reserve: Reserve, usage: &Usage, reply: Option<([u8; 32], Option<String>)>) {
        let tokens = [usage.prompt_tokens, usage.completion_tokens];
        if let Err(error) = self.ledger.settle(reserve, usage.cost_usd, tokens, reply).await {
            tracing::error!("a call stays charged at its reserve: {error}");
        }
    }

    async fn call(&self, prompt: &Prompt) -> Result<Completion, UpstreamError> {
        if !self.schema.load(Ordering::Relaxed) {
            return self.post(self.body(prompt, false)).await;
        }
        match self.post(self.body(prompt, true)).await {
            Err(UpstreamError::Status(400 | 422)) => {
                let plain = self.post(self.body(prompt, false)).await?;
                self.schema.store(false, Ordering::Relaxed);
                Ok(plain)
            }
            other => other,
        }
    }

    fn body(&self, prompt: &Prompt, schema: bool) -> Value {
        let mut body = json!({
            "model": self.config.model,
            "temperature": 0,
            "max_tokens": REPLY_TOKENS,
            "messages": [
                { "role": "system", "content": prompt.system },
                { "role": "user", "content": prompt.user },
            ],
        });
        if schema {
            let schema = json!({ "name": "label", "strict": true, "schema": prompt.schema });
            body["response_format"] = json!({ "type": "json_schema", "json_schema": schema });
        }
        body
    }

    async fn post(&self, body: Value) -> Result<Completion, UpstreamError> {
        let mut request = self.http.post(self.config.endpoint.clone()).json(&body);
        if let Some(key) = &self.config.key {
            request = request.bearer_auth(key);
        }
        let mut response = request.send().await.map_err(|error| failed(&error))?;
        match response.status().as_u16() {
            200 => {}
            401 | 403 => return Err(UpstreamError::Auth),
            429 => return Err(UpstreamError::Busy { retry_after: retry_after(response.headers()).unwrap_or(1) }),
            status => return Err(UpstreamError::Status(status)),
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| failed(&error))? {
            if bytes.len() + chunk.len() > MAX_ANSWER {
                return Err(UpstreamError::Garbage);
            }
            bytes.extend_from_slice(&chunk);
        }
        let completion: Completion = serde_json::from_slice(&bytes).map_err(|_| UpstreamError::Garbage)?;
        if completion.choices.is_empty() { Err(UpstreamError::Garbage) } else { Ok(completion) }
    }
}

fn lost(error: &StoreError) -> UpstreamError {
    tracing::error!("{error}");
    UpstreamError::Store
}

/// What is being asked about: a lock for each, kept as long as somebody holds it.
#[derive(Default)]
struct Turns(Mutex<HashMap<[u8; 32], Weak<tokio::sync::Mutex<()>>>>);

impl Turns {
    fn take(&self, hash: [u8; 32]) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(&hash).and_then(Weak::upgrade) {
            return turn;
        }
        if turns.len() >= TURNS {
            turns.retain(|_, turn| turn.strong_count() > 0);
        }
        let turn = Arc::default();
        turns.insert(hash, Arc::downgrade(&turn));
        turn
    }
}

/// A place among those who wait for a call, as long as it lives.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn new(waiting: &'a AtomicUsize, most: usize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Leaves an upstream alone for a while that has failed several times in a row; afterwards one call tries it.
#[derive(Default)]
struct Breaker(Mutex<(u32, Option<Instant>)>);

impl Breaker {
    fn resting(&self) -> Option<u64> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = state.1?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| left.as_secs() + 1)
    }

    /// Lets a call go, or says how many seconds it has to wait. After a rest one goes ahead, and the others wait for what it
    /// meets with.
    fn admit(&self) -> Result<(), u64> {
        if let Some(seconds) = self.resting() {
            return Err(seconds);
        }
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.1.is_some() {
            state.1 = Some(Instant::now() + RESTS_FOR);
        }
        Ok(())
    }

    fn note(&self, error: Option<&UpstreamError>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let broken = match error {
            // Nothing was sent: the next call may try it.
            Some(UpstreamError::Budget | UpstreamError::Store) => {
                state.1 = state.1.map(|_| Instant::now());
                return;
            }
            Some(UpstreamError::Unreachable | UpstreamError::Timeout | UpstreamError::Broken) => true,
            Some(UpstreamError::Status(status)) => *status >= 500,
            _ => false,
        };
        if !broken {
            *state = (0, None);
            return;
        }
        state.0 += 1;
        if state.0 >= FAILURES {
            state.1 = Some(Instant::now() + RESTS_FOR);
        }
    }
}

fn failed(error: &reqwest::Error) -> UpstreamError {
    match error {
        error if error.is_timeout() => UpstreamError::Timeout,
        error if error.is_connect() => UpstreamError::Unreachable,
        error if error.is_decode() => UpstreamError::Garbage,
        _ => UpstreamError::Broken,
    }
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

/// The seconds of a `Retry-After` header; a date is taken as the client's default.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<u64> {
    headers.get("retry-after")?.to_str().ok()?.trim().parse().ok()
}

/// Full jitter: anything up to a quarter of a second, doubled with each attempt.
pub(crate) fn jitter(tried: u32) -> Duration {
    // The hasher's keys are the standard library's randomness.
    let random = std::collections::hash_map::RandomState::new().hash_one(tried);
    Duration::from_millis(random % (250 << tried.min(6)).max(1))
}
