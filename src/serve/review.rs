//! `POST /v1/review`: checks, the idempotency record, and the calls.

use super::access::Client;
use super::panel::{Job, Panel, Review, Reviewed};
use super::upstream::UpstreamError;
use super::{ApiError, Server};
use crate::review::protocol::{MAX_ITEMS, MAX_TEXT, ReviewItem, ReviewRequest, ReviewResponse, ReviewedItem, Usage};
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Requests whose answers are remembered at most.
const REMEMBERED: usize = 1_000;

type Slot = Arc<tokio::sync::Mutex<Option<ReviewResponse>>>;

/// Answers given, by idempotency key, with the hash of the body that they answer; and the keys, the oldest first.
#[derive(Default)]
pub(super) struct Record(Mutex<(Known, VecDeque<String>)>);

type Known = HashMap<String, (Vec<u8>, Slot)>;

impl Record {
    /// The slot of a key; an error where the key was used with another body.
    fn slot(&self, key: String, hash: Vec<u8>) -> Result<Slot, ApiError> {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, order) = &mut *guard;
        if let Some((before, slot)) = known.get(&key) {
            let same = *before == hash;
            return same.then(|| slot.clone()).ok_or_else(used);
        }
        if order.len() >= REMEMBERED
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
        let slot = Slot::default();
        order.push_back(key.clone());
        known.insert(key, (hash, slot.clone()));
        Ok(slot)
    }
}

pub(super) async fn review(
    State(server): State<Arc<Server>>,
    Extension(Client(client)): Extension<Client>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<ReviewResponse>, ApiError> {
    let bad = |code, message: String| ApiError::new(StatusCode::BAD_REQUEST, code, message);
    let body = body.map_err(|error| ApiError::new(error.status(), "request-body", error.body_text()))?;
    let request: ReviewRequest = super::json(&headers, &body)?;
    let job = server.job(&request)?;
    check(&request.items)?;
    let key = match headers.get("idempotency-key").map(|value| value.to_str().unwrap_or_default()) {
        None => None,
        Some(key) if !key.is_empty() && key.len() <= 255 => Some(key.to_owned()),
        Some(_) => return Err(bad("idempotency-key", "Idempotency-Key must be 1 to 255 ASCII characters".into())),
    };
    let Some(panel) = server.panel.clone() else { return Err(unavailable()) };
    let key = key.map(|key| (panel.key(&client, &job, &key), Sha256::digest(&body).to_vec()));
    let slot = match &key {
        Some((key, hash)) => {
            if let Some(answer) = answered(&panel, key, hash)? {
                return Ok(Json(answer));
            }
            server.record.slot(key.clone(), hash.clone())?
        }
        None => Slot::default(),
    };
    let texts: Vec<&str> = request.items.iter().map(|item| item.text.as_str()).collect();
    if let Some(reviews) = panel.known(&job, &texts) {
        let made = answer(&panel, &job, &client, request.items, reviews, Usage::default()).await?;
        return Ok(Json(keep(&server, &panel, &job, &client, key, made).await));
    }
    // In a task of its own: what is paid for is recorded, even where the client has gone.
    let work = tokio::spawn(async move {
        let mut known = slot.lock().await;
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        let redacted = redacted(&job, &request.items);
        let (reviews, usage) = panel.review(&job, &client, redacted.clone()).await;
        let texts: Vec<&str> = request.items.iter().map(|item| item.text.as_str()).collect();
        panel.remember(&job, &texts, &redacted, &reviews);
        let made = answer(&panel, &job, &client, request.items, reviews, usage).await?;
        let (whole, fresh) = (made.whole, keep(&server, &panel, &job, &client, key, made).await);
        if whole {
            *known = Some(fresh.clone());
        }
        Ok(fresh)
    });
    let broken = |_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "server", "the review broke off; ask again");
    work.await.map_err(broken)?.map(Json)
}

/// An answer, and what is to be told of it.
struct Made {
    response: ReviewResponse,
    /// Whether every item was reviewed, so that it is worth keeping.
    whole: bool,
    /// Items whose labels were known.
    known: usize,
}

/// What the audit log says of an answer, which holds no text.
#[derive(Serialize)]
struct Entry<'a> {
    event: &'static str,
    task: &'a str,
    client: &'a str,
    model: &'a str,
    items: usize,
    labelled: usize,
    known: usize,
    prompt_tokens: u64,
    completion_tokens: u64,
    cost_usd: f64,
}

/// Counts an answer, and writes it down: in the audit log, and by its idempotency key where it has one.
async fn keep(
    server: &Server,
    panel: &Panel,
    job: &Job,
    client: &str,
    key: Option<(String, Vec<u8>)>,
    made: Made,
) -> ReviewResponse {
    let Made { response, whole, known } = made;
    let labelled = response.items.iter().filter(|item| item.label.is_some()).count();
    server.count(&response, labelled, known);
    let Usage { prompt_tokens, completion_tokens, cost_usd } = response.usage;
    let entry = Entry {
        event: "review",
        task: &job.spec.task.name,
        client,
        model: &response.model,
        items: response.items.len(),
        labelled,
        known,
        prompt_tokens,
        completion_tokens,
        cost_usd,
    };
    let key = key.filter(|_| whole);
    let kept = key.map(|(key, hash)| (key, hash, serde_json::to_string(&response).unwrap_or_default()));
    if let Err(error) = panel.store().answered(kept, &entry).await {
        tracing::error!("an answer is not kept: {error}");
    }
    response
}

/// The texts as they may be sent.
fn redacted(job: &Job, items: &[ReviewItem]) -> Vec<String> {
    let text = |item: &ReviewItem| match job.spec.review.redact {
        true => job.redactor.redact(&item.text).text().to_owned(),
        false => item.text.clone(),
    };
    items.iter().map(text).collect()
}

fn unavailable() -> ApiError {
    let message = "no LLM is configured on this server: hard samples are for a person. The operator can set AUTOANNOTATOR_LLM_URL, _KEY and _MODEL";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "review-unavailable", message)
}

/// The answer that a key was given before, also by a server that has stopped since.
fn answered(panel: &Panel, key: &str, hash: &[u8]) -> Result<Option<ReviewResponse>, ApiError> {
    let known = panel.store().answer(key).map_err(|error| {
        tracing::error!("{error}");
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "review-store",
            "the server cannot read its record; ask again later",
        )
    })?;
    match known {
        Some((before, _)) if before != hash => Err(used()),
        Some((_, response)) => Ok(serde_json::from_str(&response).ok()),
        None => Ok(None),
    }
}

fn used() -> ApiError {
    let message = "this Idempotency-Key was used with another request; use a new one";
    ApiError::new(StatusCode::CONFLICT, "idempotency-key", message)
}

fn check(items: &[ReviewItem]) -> Result<(), ApiError> {
    let bad = |code, message: String| Err(ApiError::new(StatusCode::BAD_REQUEST, code, message));
    if items.is_empty() || items.len() > MAX_ITEMS {
        return bad("request-items", format!("a request has 1 to {MAX_ITEMS} items, this one has {}", items.len()));
    }
    if let Some(item) = items.iter().find(|item| item.text.len() > MAX_TEXT || item.id.len() > 256) {
        let id: String = item.id.chars().take(40).collect();
        return bad("request-text", format!("item '{id}' is too long; a text has at most {MAX_TEXT} bytes, an id 256"));
    }
    let ids: BTreeSet<&str> = items.iter().map(|item| item.id.as_str()).collect();
    if ids.len() != items.len() {
        return bad("request-ids", "two items have the same id".into());
    }
    Ok(())
}

/// The answer of the items' reviews. What stops all of them is an error; what stops one is that item's.
async fn answer(
    panel: &Panel,
    job: &Job,
    client: &str,
    items: Vec<ReviewItem>,
    reviews: Vec<Review>,
    usage: Usage,
) -> Result<Made, ApiError> {
    let known = reviews.iter().flatten().filter(|reviewed| reviewed.said.known).count();
    let whole = reviews.iter().all(Result::is_ok);
    let (count, cost_usd, task) = (items.len(), usage.cost_usd, &job.spec.task.name);
    match response(panel, items, reviews, usage) {
        Ok(response) => Ok(Made { response, whole, known }),
        Err(error) => {
            let entry = json!({
                "event": "failed", "task": task, "client": client, "items": count, "code": error.code,
                "cost_usd": cost_usd,
            });
            if cost_usd > 0.0
                && let Err(error) = panel.store().answered(None, &entry).await
            {
                tracing::error!("a failure is not kept: {error}");
            }
            Err(error)
        }
    }
}

impl Server {
    /// Counts what a request came to.
    fn count(&self, answer: &ReviewResponse, labelled: usize, known: usize) {
        let counts = [("labelled", labelled), ("unlabelled", answer.items.len() - labelled), ("known", known)];
        for (outcome, count) in counts {
            self.metrics.items.with_label_values(&[outcome]).inc_by(count as u64);
        }
        self.metrics.tokens.with_label_values(&["prompt"]).inc_by(answer.usage.prompt_tokens);
        self.metrics.tokens.with_label_values(&["completion"]).inc_by(answer.usage.completion_tokens);
    }
}

fn response(
    panel: &Panel,
    items: Vec<ReviewItem>,
    reviews: Vec<Review>,
    usage: Usage,
) -> Result<ReviewResponse, ApiError> {
    let none = reviews.iter().all(Result::is_err);
    if let (true, Some(Err(error))) = (none, reviews.first()) {
        tracing::warn!("no review: {error}");
        let whole = reviews.iter().filter_map(|review| review.as_ref().err()).find_map(whole);
        if let Some(error) = whole {
            return Err(error);
        }
    }
    let mut models = BTreeSet::new();
    let reviewed = items.into_iter().zip(reviews).map(|(item, review)| match review {
        Ok(Reviewed { said, models: by }) => {
            models.extend(by);
            ReviewedItem { id: item.id, label: said.label, why: said.why }
        }
        Err(error) => ReviewedItem { id: item.id, label: None, why: Some(error.to_string()) },
    });
    let items = reviewed.collect();
    let model = if models.is_empty() { panel.models() } else { models.into_iter().collect::<Vec<_>>().join(", ") };
    Ok(ReviewResponse { items, usage, remaining_budget_usd: panel.ledger().remaining(), model })
}

/// The answer to a whole request whose items all failed, where asking again or the operator could help.
fn whole(error: &UpstreamError) -> Option<ApiError> {
    let (status, code) = match error {
        UpstreamError::Auth => (StatusCode::BAD_GATEWAY, "upstream-auth"),
        UpstreamError::Busy { .. } => (StatusCode::TOO_MANY_REQUESTS, "upstream-busy"),
        UpstreamError::Budget => (StatusCode::PAYMENT_REQUIRED, "review-budget"),
        UpstreamError::Unreachable => (StatusCode::BAD_GATEWAY, "upstream-unreachable"),
        UpstreamError::Store => (StatusCode::SERVICE_UNAVAILABLE, "review-store"),
        UpstreamError::Status(_) | UpstreamError::Timeout | UpstreamError::Garbage | UpstreamError::Broken => {
            return None;
        }
    };
    let text = error.to_string();
    let message = text.split_once(": ").map_or(text.as_str(), |(_, message)| message);
    let mut answer = ApiError::new(status, code, message);
    if let UpstreamError::Busy { retry_after } = error {
        answer.retry_after = Some(*retry_after);
    }
    Some(answer)
}
