//! A stand-in for an OpenAI-compatible LLM, with scripted behaviours and a log of all it was asked.
//!
//! It labels by keyword: the first `keyword=label` whose keyword the text holds, else the fallback. A text may also
//! hold a command: `!401`, `!429`, `!500`, `!garbage`, `!unknown`, `!hang`, `!slow`, `!empty`, `!echo` (replies with the key it
//! was given), `!once` (429 with Retry-After 0 the first time, then as usual).

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// What the stub is told to be.
pub struct Stub {
    /// Keyword and label.
    pub keywords: Vec<(String, String)>,
    /// The label of a text without a keyword.
    pub fallback: String,
    /// Whether `response_format` is answered with 400.
    pub no_schema: bool,
    log: Mutex<Vec<Value>>,
}

impl Stub {
    /// A stub of keywords and a fallback.
    pub fn new(keywords: &[(&str, &str)], fallback: &str, no_schema: bool) -> Arc<Self> {
        let keywords = keywords.iter().map(|(word, label)| ((*word).to_owned(), (*label).to_owned())).collect();
        Arc::new(Self { keywords, fallback: fallback.to_owned(), no_schema, log: Mutex::default() })
    }

    /// Every request's body so far, with what it was authorised by.
    pub fn log(&self) -> Vec<Value> {
        self.log.lock().expect("log").clone()
    }

    /// The routes: `/v1/chat/completions` and `/log`.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/v1/chat/completions", post(chat))
            .route("/log", get(|State(stub): State<Arc<Self>>| async move { Json(stub.log()) }))
            .with_state(self.clone())
    }
}

async fn chat(State(stub): State<Arc<Stub>>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let bearer = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let user = body["messages"][1]["content"].as_str().unwrap_or_default();
    let text = serde_json::from_str::<Value>(user).ok().and_then(|user| user["text"].as_str().map(str::to_owned));
    let text = text.unwrap_or_default();
    let seen = {
        let mut log = stub.log.lock().expect("log");
        log.push(json!({ "text": text, "authorization": bearer, "body": body }));
        log.iter().filter(|entry| entry["text"] == text).count()
    };
    if stub.no_schema && body.get("response_format").is_some() {
        return (StatusCode::BAD_REQUEST, "response_format is not supported").into_response();
    }
    let busy = |seconds: &'static str| (StatusCode::TOO_MANY_REQUESTS, [("retry-after", seconds)]).into_response();
    let has = |command: &str| text.contains(command);
    if has("!401") {
        return (StatusCode::UNAUTHORIZED, format!("wrong key: {bearer}")).into_response();
    } else if has("!429") {
        return busy("77");
    } else if has("!once") && seen == 1 {
        return busy("0");
    } else if has("!500") {
        return (StatusCode::INTERNAL_SERVER_ERROR, format!("broken for {bearer}")).into_response();
    } else if has("!garbage") {
        return "<html>not a completion".into_response();
    } else if has("!slow") {
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    } else if has("!hang") {
        std::future::pending::<()>().await;
    }
    let by_keyword = stub.keywords.iter().find(|(word, _)| text.contains(word.as_str()));
    let label = by_keyword.map_or(stub.fallback.clone(), |(_, label)| label.clone());
    let content = match () {
        () if has("!unknown") => json!({ "label": "banana" }).to_string(),
        () if has("!empty") => String::new(),
        () if has("!echo") => bearer,
        () => json!({ "label": label }).to_string(),
    };
    let usage = json!({ "prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110 });
    Json(json!({ "choices": [{ "index": 0, "message": { "role": "assistant", "content": content } }], "usage": usage }))
        .into_response()
}
