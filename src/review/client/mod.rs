//! Asking a server's `/v1/review`. Only redacted texts can be sent: [`RedactedItem`] is made by redaction alone.

#[cfg(feature = "native")]
mod native;
#[cfg(target_arch = "wasm32")]
mod wasm;

#[cfg(feature = "native")]
pub use native::{HttpReviewer, review_blocking};
#[cfg(target_arch = "wasm32")]
pub use wasm::FetchReviewer;

use super::protocol::{ErrorBody, Mode, ReviewItem, ReviewRequest, ReviewResponse};
use super::redact::{Redacted, Redactor};
use crate::sample::{Review, ReviewedBy, Sample};
use crate::task::{LabelSet, Task};
use std::future::Future;
use thiserror::Error;

/// A sample as it may leave the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedactedItem {
    id: String,
    text: Redacted,
}

impl RedactedItem {
    /// Redacts a sample.
    pub fn new(sample: &Sample, redactor: &Redactor) -> Self {
        Self { id: sample.id.clone(), text: redactor.redact(&sample.text) }
    }

    /// The sample's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What will be sent of it.
    pub fn text(&self) -> &Redacted {
        &self.text
    }
}

/// Who decides hard samples. Implementations do the I/O.
pub trait Reviewer {
    /// Reviews the items; one answer each, in their order. Asking again with the same `key` and items costs nothing.
    fn review(
        &self,
        task: &Task,
        items: &[RedactedItem],
        key: &str,
    ) -> impl Future<Output = Result<ReviewResponse, ReviewError>>;
}

/// Why there are no reviews.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReviewError {
    /// The server could not be reached, or said nothing in time.
    #[error("review-unreachable: {0}; check that the server runs and its address is right")]
    Unreachable(String),
    /// Too many requests, and the retries are used up.
    #[error("review-busy: the reviewer asks to slow down; try again in {retry_after} s")]
    Busy {
        /// Seconds to wait.
        retry_after: u64,
    },
    /// The server refused.
    #[error("review-refused: the server answered {status} ({code}): {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The server's code.
        code: String,
        /// What it says.
        message: String,
    },
    /// The answer is not what the protocol says.
    #[error(
        "review-garbage: the server's answer is not a review: {0}; check that the address is autoannotator's server"
    )]
    Garbage(String),
}

impl ReviewError {
    #[cfg(feature = "native")]
    /// Whether the same request may be sent again.
    pub fn passes(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Busy { .. } => true,
            Self::Refused { status, .. } => *status >= 500 && *status != 503,
            Self::Garbage(_) => false,
        }
    }
}

/// The request that asks about `items`, for whatever sends it.
pub fn request(task: &Task, items: &[RedactedItem]) -> ReviewRequest {
    let items =
        items.iter().map(|item| ReviewItem { id: item.id.clone(), text: item.text.text().to_owned() }).collect();
    ReviewRequest { task: task.name.clone(), spec: None, items, mode: Mode::Label }
}

/// Reads an answer to a request about `items`: all of them, in order, with labels of the task or none.
pub fn read(
    status: u16,
    retry_after: Option<u64>,
    body: &[u8],
    labels: &LabelSet,
    items: &[RedactedItem],
) -> Result<ReviewResponse, ReviewError> {
    if status != 200 {
        let error = serde_json::from_slice::<ErrorBody>(body).ok().map(|body| body.error);
        if status == 429 {
            let seconds = retry_after.or(error.and_then(|error| error.retry_after)).unwrap_or(1);
            return Err(ReviewError::Busy { retry_after: seconds });
        }
        let (code, message) =
            error.map_or(("http".into(), "no explanation".into()), |error| (error.code, error.message));
        return Err(ReviewError::Refused { status, code, message });
    }
    let mut answer: ReviewResponse =
        serde_json::from_slice(body).map_err(|error| ReviewError::Garbage(error.to_string()))?;
    let same = answer.items.len() == items.len() && answer.items.iter().zip(items).all(|(a, b)| a.id == b.id);
    if !same {
        return Err(ReviewError::Garbage("it speaks of other samples than were asked about".into()));
    }
    for item in &mut answer.items {
        if item.label.as_ref().is_some_and(|label| !labels.iter().any(|known| known.name == *label)) {
            item.why = item.label.take().map(|label| format!("'{label}' is none of the labels"));
        }
    }
    Ok(answer)
}

/// The reviews of an answer by sample id. What the request cost is shared out over its samples without a rest.
pub fn reviews(answer: &ReviewResponse) -> Vec<(String, Review)> {
    let count = answer.items.len().max(1) as u64;
    let share = |total: u64, index: u64| total / count + u64::from(index < total % count);
    let review = |(index, item): (usize, &super::protocol::ReviewedItem)| {
        let review = Review {
            label: item.label.clone(),
            by: ReviewedBy::Llm { model: answer.model.clone() },
            why: item.why.clone(),
            prompt_tokens: share(answer.usage.prompt_tokens, index as u64),
            completion_tokens: share(answer.usage.completion_tokens, index as u64),
            cost_usd: answer.usage.cost_usd / count as f64,
        };
        (item.id.clone(), review)
    };
    answer.items.iter().enumerate().map(review).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items() -> (Task, Vec<RedactedItem>) {
        let redactor = Redactor::new(["Bob"]);
        let sample = |id: &str, text: &str| RedactedItem::new(&Sample { id: id.into(), text: text.into() }, &redactor);
        (Task::built_in("sentiment").expect("built in"), vec![sample("1", "hi @ann, bob"), sample("2", "no")])
    }

    #[test]
    fn only_redacted_text_is_sent() {
        let (task, items) = items();
        let sent = serde_json::to_string(&request(&task, &items)).expect("JSON");
        assert!(sent.contains("hi [HANDLE], [NAME]") && !sent.contains("ann") && !sent.contains("bob"), "{sent}");
    }

    #[test]
    fn answers_are_checked() {
        let (task, items) = items();
        let read = |status, body: &str| read(status, None, body.as_bytes(), &task.labels, &items);
        let good = r#"{"items":[{"id":"1","label":"positive"},{"id":"2","label":"joy"}],"usage":{"prompt_tokens":5,"completion_tokens":2,"cost_usd":0.5},"model":"m"}"#;
        let answer = read(200, good).expect("good");
        let all = reviews(&answer);
        assert_eq!(all[0].1.label.as_deref(), Some("positive"));
        assert_eq!((all[1].1.label.clone(), all[1].1.why.as_deref()), (None, Some("'joy' is none of the labels")));
        assert_eq!(all.iter().map(|(_, review)| review.prompt_tokens).sum::<u64>(), 5);
        assert!(matches!(read(200, "<html>"), Err(ReviewError::Garbage(_))));
        assert!(matches!(read(200, &good.replace("\"2\"", "\"3\"")), Err(ReviewError::Garbage(_))));
        assert!(matches!(read(500, "oops"), Err(ReviewError::Refused { status: 500, .. })));
        let busy = r#"{"error":{"code":"c","message":"m","retry_after":7}}"#;
        assert_eq!(read(429, busy), Err(ReviewError::Busy { retry_after: 7 }));
    }
}
