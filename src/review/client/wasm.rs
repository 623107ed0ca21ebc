//! The client on `fetch`.

use super::{RedactedItem, ReviewError, Reviewer, read, request};
use crate::review::protocol::ReviewResponse;
use crate::task::Task;
use gloo_net::http::Request;

/// Milliseconds until a request is given up.
const TIMEOUT: u32 = 120_000;

/// A server's `/v1/review` by `fetch`. It asks once: who calls it knows the page's clock, and asks again with the same
/// key after what a [`ReviewError::Busy`] says.
#[derive(Debug, Clone)]
pub struct FetchReviewer {
    url: String,
}

impl FetchReviewer {
    /// A reviewer at a server's address; empty for the page's own server.
    pub fn new(server: &str) -> Self {
        Self { url: format!("{}/v1/review", server.trim_end_matches('/')) }
    }
}

impl Reviewer for FetchReviewer {
    async fn review(&self, task: &Task, items: &[RedactedItem], key: &str) -> Result<ReviewResponse, ReviewError> {
        let unreachable = |error: gloo_net::Error| ReviewError::Unreachable(error.to_string());
        let cut = web_sys::AbortSignal::timeout_with_u32(TIMEOUT);
        let sent = Request::post(&self.url)
            .header("idempotency-key", key)
            .abort_signal(Some(&cut))
            .json(&request(task, items))
            .map_err(unreachable)?;
        let response = sent.send().await.map_err(unreachable)?;
        let wait = response.headers().get("retry-after").and_then(|text| text.trim().parse().ok());
        let body = response.binary().await.map_err(unreachable)?;
        read(response.status(), wait, &body, &task.labels, items)
    }
}
