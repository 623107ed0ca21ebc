//! An LLM that is asked within a budget. What it will cost is told before it is asked, each reply is kept beside the plan, and
//! a plan that goes on pays for none twice.

use super::{PlanError, plain};
use crate::hub::write_atomically;
use crate::review::prompt::{Prompt, Template};
use crate::review::protocol::Usage;
use crate::serve::config;
use crate::serve::panel::{Job, Panel, Review};
use crate::serve::store::Store;
use crate::serve::upstream::{Question, UpstreamError};
use crate::slm::adapter::{hex, sha256_of};
use crate::spec::Spec;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of a token, about.
const BYTES: f64 = 4.0;
/// Tokens of a reply that is a label in JSON.
const LABEL_REPLY: f64 = 10.0;
/// Texts that are reviewed before what they were given is looked at.
const CHUNK: usize = 32;

/// What a step may cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Calls.
    pub calls: usize,
    /// Tokens, about.
    pub tokens: f64,
    /// US dollars, about; none where the prices are not known.
    pub usd: Option<f64>,
}

/// Asks whether a step may cost that much; an error where not.
pub type Consent = Box<dyn Fn(&str, &Cost) -> Result<(), PlanError>>;

/// Replies by what was asked, and what all of them cost: the file by which a plan goes on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Replies {
    #[serde(default)]
    replies: BTreeMap<String, String>,
    /// What was spent.
    #[serde(default)]
    pub spent: Usage,
}

/// The LLM of a plan.
pub struct Llm {
    panel: Panel,
    /// Who pays, to the ledger.
    client: String,
    priced: bool,
    consent: Consent,
    replies: Replies,
    path: PathBuf,
}

impl Llm {
    /// Asks the LLMs of `config`, at most for `budget` US dollars where `priced` says that the prices are known. `path` keeps
    /// replies; `client` names the plan to the ledger, which holds the budget over restarts.
    pub fn new(
        mut config: config::Llm,
        store: Store,
        budget: Option<f64>,
        priced: bool,
        client: String,
        path: PathBuf,
        consent: Consent,
    ) -> Result<Self, PlanError> {
        config.caps.client = budget.filter(|_| priced);
        let panel = Panel::new(config, store).map_err(|e| PlanError::file(&path, e))?;
        let replies = match std::fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json)
                .map_err(|e| PlanError::file(&path, format!("{e}; remove it, or give --fresh")))?,
            Err(_) => Replies::default(),
        };
        Ok(Self { panel, client, priced, consent, replies, path })
    }

    /// The models' names.
    pub fn models(&self) -> String {
        self.panel.models()
    }

    /// What was spent by this plan.
    pub fn spent(&self) -> Usage {
        self.replies.spent
    }

    fn usd(&self, prompt: f64, reply: f64) -> Option<f64> {
        let prices = self.panel.prices();
        self.priced.then_some((prompt * prices.prompt + reply * prices.completion) / 1e6)
    }

    fn save(&self) -> Result<(), PlanError> {
        let json = serde_json::to_vec_pretty(&self.replies).map_err(|e| PlanError::file(&self.path, e))?;
        Ok(write_atomically(&self.path, &json)?)
    }

    /// Asks for something that `parse` accepts, once more where it does not, and keeps the reply that it accepted.
    pub async fn ask<T>(
        &mut self,
        what: &'static str,
        (system, mut data, schema): (&str, Value, Value),
        reply_tokens: u64,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, PlanError> {
        let key = hex(&sha256_of([self.panel.models().as_str(), system, data.to_string().as_str()]));
        if let Some(Ok(known)) = self.replies.replies.get(&key).map(|reply| parse(reply)) {
            return Ok(known);
        }
        let bytes = Prompt::of(system, &data, schema.clone(), reply_tokens).sent_bytes();
        let (prompt, reply) = (bytes as f64 / BYTES, reply_tokens as f64 / 2.0);
        (self.consent)(what, &Cost { calls: 1, tokens: prompt + reply, usd: self.usd(prompt, reply) })?;
        let mut last = (String::new(), String::new());
        for _ in 0..2 {
            let reply = self.complete(Prompt::of(system, &data, schema.clone(), reply_tokens)).await?;
            match parse(&reply) {
                Ok(found) => {
                    self.replies.replies.insert(key, reply);
                    self.save()?;
                    return Ok(found);
                }
                Err(problem) => {
                    data["your_last_reply_was_refused"] = problem.clone().into();
                    last = (problem, reply);
                }
            }
        }
        let (problem, reply) = last;
        Err(PlanError::Reply { what, problem: plain(&problem, 300), reply: plain(&reply, 120) })
    }

    async fn complete(&mut self, prompt: Prompt<'_>) -> Result<String, PlanError> {
        let Some(upstream) = self.panel.upstreams().first() else { return Err(UpstreamError::Unreachable.into()) };
        // The ledger books by task; there is none yet.
        let spec = Spec::built_in("sentiment")?;
        let task = crate::task::Task { name: "plan".to_owned(), labels: spec.task.labels.clone() };
        let template = Template::new(&spec);
        let deadline = Instant::now() + Duration::from_secs_f64(2.0 * upstream.config().timeout_seconds);
        let question = Question {
            task: &task,
            template: &template,
            examples: &[],
            client: &self.client,
            deadline,
            confidence: false,
            sample: 0,
        };
        let (reply, usage) = upstream.complete(&question, prompt).await;
        self.replies.spent.add(&usage);
        self.save()?;
        Ok(reply?)
    }

    /// What it takes to have texts labelled.
    pub fn cost_of_labels(&self, spec: &Spec, texts: &[String]) -> Cost {
        let template = Template::new(spec);
        let bytes: usize = texts.iter().map(|text| template.one(text, &[]).sent_bytes()).sum();
        let (prompt, reply) = (bytes as f64 / BYTES, LABEL_REPLY * texts.len() as f64);
        Cost { calls: texts.len(), tokens: prompt + reply, usd: self.usd(prompt, reply) }
    }

    async fn review(&mut self, job: &Job, texts: Vec<String>) -> Result<Vec<Review>, PlanError> {
        let (reviews, usage) = self.panel.review(job, &self.client, texts).await;
        self.replies.spent.add(&usage);
        self.save()?;
        Ok(reviews)
    }

    /// Has redacted texts labelled, each alone, after consent; none for a text that it gave no label, that speaks to the
    /// reviewer, or that the budget did not reach. Replies are known by the home's store, so none is paid for twice.
    pub async fn label(
        &mut self,
        spec: Spec,
        texts: &[String],
        told: impl Fn(usize),
    ) -> Result<Vec<Option<String>>, PlanError> {
        (self.consent)("the labels of the probe", &self.cost_of_labels(&spec, texts))?;
        let job = Job::from(Arc::new(spec));
        let mut labels = Vec::with_capacity(texts.len());
        for chunk in texts.chunks(CHUNK) {
            let mut reviews = self.review(&job, chunk.to_vec()).await?;
            // Calls at once reserve more than they come to: what was refused for that is asked about again, alone.
            for (text, review) in chunk.iter().zip(&mut reviews) {
                if *review == Err(UpstreamError::Budget)
                    && let Some(again) = self.review(&job, vec![text.clone()]).await?.pop()
                {
                    *review = again;
                }
            }
            if let (true, Some(Err(error))) = (reviews.iter().all(Result::is_err), reviews.first()) {
                // What is labelled by then is used, if the budget was the reason.
                if *error == UpstreamError::Budget && labels.iter().any(Option::is_some) {
                    break;
                }
                return Err(error.clone().into());
            }
            labels.extend(reviews.into_iter().map(|review| review.ok().and_then(|reviewed| reviewed.said.label)));
            told(labels.len());
        }
        labels.resize(texts.len(), None);
        Ok(labels)
    }
}
