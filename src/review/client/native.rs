//! The client on reqwest, and a blocking facade for command lines.

use super::{RedactedItem, ReviewError, Reviewer, read, request, reviews};
use crate::review::protocol::{MAX_TEXT, ReviewResponse};
use crate::review::redact::Redactor;
use crate::sample::{Review, ReviewedBy, Sample};
use crate::task::Task;
use sha2::{Digest, Sha256};
use std::time::Duration;

/// Samples of one request.
const BATCH: usize = 16;
const TRIES: u32 = 4;
/// A wait longer than this is told instead of kept.
const LONGEST_WAIT: u64 = 60;

/// A server's `/v1/review` over HTTP.
#[derive(Debug, Clone)]
pub struct HttpReviewer {
    http: reqwest::Client,
    url: String,
}

impl HttpReviewer {
    /// A reviewer at a server's address, such as `http://127.0.0.1:8080`, with or without `/v1/review`.
    pub fn new(url: &str) -> Result<Self, ReviewError> {
        let base = url.trim_end_matches('/').trim_end_matches("/v1/review");
        let parsed =
            reqwest::Url::parse(base).map_err(|error| ReviewError::Unreachable(format!("'{url}': {error}")))?;
        let http = crate::serve::upstream::http_client(&parsed, Duration::from_secs(300))
            .map_err(|error| ReviewError::Unreachable(error.to_string()))?;
        Ok(Self { http, url: format!("{base}/v1/review") })
    }

    async fn once(&self, task: &Task, items: &[RedactedItem], key: &str) -> Result<ReviewResponse, ReviewError> {
        let unreachable = |error: reqwest::Error| ReviewError::Unreachable(error.without_url().to_string());
        let mut post = self.http.post(&self.url).header("idempotency-key", key).json(&request(task, items));
        if let Some(token) = std::env::var("AUTOANNOTATOR_TOKEN").ok().filter(|token| !token.is_empty()) {
            post = post.bearer_auth(token);
        }
        let sent = post.send().await;
        let response = sent.map_err(unreachable)?;
        let status = response.status().as_u16();
        let wait = crate::serve::upstream::retry_after(response.headers());
        let body = response.bytes().await.map_err(unreachable)?;
        read(status, wait, &body, &task.labels, items)
    }
}

impl Reviewer for HttpReviewer {
    async fn review(&self, task: &Task, items: &[RedactedItem], key: &str) -> Result<ReviewResponse, ReviewError> {
        let mut tried = 1;
        loop {
            let error = match self.once(task, items, key).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let wait = match &error {
                ReviewError::Busy { retry_after } if *retry_after > LONGEST_WAIT => return Err(error),
                ReviewError::Busy { retry_after } => Duration::from_secs(*retry_after),
                _ => Duration::ZERO,
            };
            if !error.passes() || tried == TRIES {
                return Err(error);
            }
            tokio::time::sleep(wait + crate::serve::upstream::jitter(tried)).await;
            tried += 1;
        }
    }
}

/// Redacts the samples and has them reviewed by the server at `url`, a batch after the other; a review for each, in
/// their order. The idempotency keys follow from the contents: the same samples asked again are not paid twice while
/// the server runs. Not to be called from async code.
pub fn review_blocking(
    url: &str,
    task: &Task,
    redactor: &Redactor,
    samples: &[Sample],
) -> Result<Vec<(String, Review)>, ReviewError> {
    let reviewer = HttpReviewer::new(url)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ReviewError::Unreachable(error.to_string()))?;
    let mut all = Vec::with_capacity(samples.len());
    for batch in samples.chunks(BATCH) {
        let items: Vec<RedactedItem> = batch.iter().map(|sample| RedactedItem::new(sample, redactor)).collect();
        let (fit, long): (Vec<_>, Vec<_>) =
            items.iter().cloned().partition(|item| item.text().text().len() <= MAX_TEXT);
        let mut answered = match fit.is_empty() {
            true => Vec::new(),
            false => reviews(&runtime.block_on(reviewer.review(task, &fit, &key(task, &fit)))?),
        };
        answered.extend(long.iter().map(|item| (item.id().to_owned(), too_long())));
        let place = |id: &str| items.iter().position(|item| item.id() == id);
        answered.sort_by_key(|(id, _)| place(id));
        all.append(&mut answered);
    }
    Ok(all)
}

fn too_long() -> Review {
    Review {
        label: None,
        by: ReviewedBy::Llm { model: "none".into() },
        why: Some(format!("the text is longer than the {MAX_TEXT} bytes that are sent to a reviewer")),
        prompt_tokens: 0,
        completion_tokens: 0,
        cost_usd: 0.0,
    }
}

fn key(task: &Task, items: &[RedactedItem]) -> String {
    let body = serde_json::to_vec(&request(task, items)).unwrap_or_default();
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}
