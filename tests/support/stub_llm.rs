//! A stand-in for an OpenAI-compatible LLM, with scripted behaviours and a log of all it was asked.
//!
//! It labels by keyword: the first `keyword=label` whose keyword the text holds, else the fallback. A text may also
//! hold a command: `!401`, `!429`, `!500`, `!garbage`, `!unknown`, `!hang`, `!slow`, `!empty`, `!echo` (replies with the key it
//! was given), `!once` (429 with Retry-After 0 the first time, then as usual), `!half` (half a body), `!huge` (an endless one),
//! `!unsure` (a label of probability 0.5), `!waver` (samples disagree); and of several texts a call `!left-out`, `!twice` and
//! `!wrong-id`.
//!
//! Asked for something else than labels (a user's message with `asked`), it replies with what was scripted for that, the last
//! of it again and again; else labels by its keywords, and a ranking in the order of the list.

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
    /// Whether log-probabilities are told where they are asked for.
    pub logprobs: bool,
    /// Replies to what is asked besides labels, by what it is.
    scripted: Mutex<std::collections::HashMap<String, Vec<String>>>,
    log: Mutex<Vec<Value>>,
}

impl Stub {
    /// A stub of keywords and a fallback.
    pub fn new(keywords: &[(&str, &str)], fallback: &str, no_schema: bool) -> Arc<Self> {
        let keywords = keywords.iter().map(|(word, label)| ((*word).to_owned(), (*label).to_owned())).collect();
        let (scripted, log) = (Mutex::default(), Mutex::default());
        Arc::new(Self { keywords, fallback: fallback.to_owned(), no_schema, logprobs: false, scripted, log })
    }

    /// One that tells log-probabilities.
    #[allow(dead_code, reason = "not every test wants them")]
    pub fn telling(keywords: &[(&str, &str)], fallback: &str) -> Arc<Self> {
        let mut stub = Arc::into_inner(Self::new(keywords, fallback, false)).expect("one");
        stub.logprobs = true;
        Arc::new(stub)
    }

    /// Scripts the replies to what is asked besides labels, such as `ranking`.
    #[allow(dead_code, reason = "not every test asks")]
    pub fn script(&self, asked: &str, replies: &[&str]) {
        let replies = replies.iter().map(|reply| (*reply).to_owned()).collect();
        self.scripted.lock().expect("script").insert(asked.to_owned(), replies);
    }

    fn other(&self, asked: &str, user: &Value) -> String {
        let mut scripted = self.scripted.lock().expect("script");
        match scripted.get_mut(asked) {
            Some(replies) if replies.len() > 1 => return replies.remove(0),
            Some(replies) => return replies.first().cloned().unwrap_or_default(),
            None => {}
        }
        if asked == "ranking" {
            let places = user["candidates"]
                .as_array()
                .map(|all| all.iter().map(|one| json!({ "id": one["id"], "reason": "as listed" })).collect::<Vec<_>>());
            return json!({ "ranking": places }).to_string();
        }
        let mut names = vec![&self.fallback];
        self.keywords.iter().map(|(_, label)| label).for_each(|label| {
            if !names.contains(&label) {
                names.push(label);
            }
        });
        let label =
            |name: &&String| json!({ "name": name, "definition": format!("texts that are {name}"), "edge_cases": [] });
        let labels: Vec<Value> = names.iter().map(label).collect();
        json!({ "name": "stub-task", "search": [], "labels": labels }).to_string()
    }

    fn label(&self, text: &str, seed: u64) -> String {
        if text.contains("!unknown") {
            return "banana".to_owned();
        }
        let by_keyword = self.keywords.iter().find(|(word, _)| text.contains(word.as_str()));
        let wavers = text.contains("!waver") && seed % 2 == 1;
        by_keyword.filter(|_| !wavers).map_or(self.fallback.clone(), |(_, label)| label.clone())
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
    let user = body["messages"].as_array().and_then(|all| all.last()).and_then(|last| last["content"].as_str());
    let user: Value = serde_json::from_str(user.unwrap_or_default()).unwrap_or_default();
    let asked = user["asked"].as_str().map(str::to_owned);
    let several: Option<Vec<(String, String)>> = user["texts"].as_array().filter(|_| asked.is_none()).map(|texts| {
        let of = |item: &Value, key: &str| item[key].as_str().unwrap_or_default().to_owned();
        texts.iter().map(|item| (of(item, "id"), of(item, "text"))).collect()
    });
    let text = match &several {
        Some(texts) => texts.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("\n"),
        None => user["text"].as_str().unwrap_or_default().to_owned(),
    };
    let seed = body["seed"].as_u64().unwrap_or_default();
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
    let label = stub.label(&text, seed);
    let content = match several {
        _ if asked.is_some() => stub.other(asked.as_deref().unwrap_or_default(), &user),
        _ if has("!empty") => String::new(),
        _ if has("!echo") => bearer,
        Some(texts) => answers(&stub, &texts, seed),
        None => json!({ "label": label }).to_string(),
    };
    let usage = json!({ "prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110 });
    let mut choice = json!({ "index": 0, "message": { "role": "assistant", "content": content } });
    if stub.logprobs && body["logprobs"] == true {
        let logprob: f64 = if has("!unsure") { 0.5 } else { 0.99 };
        choice["logprobs"] = json!({ "content": [{ "token": content, "logprob": logprob.ln() }] });
    }
    let whole = json!({ "choices": [choice], "usage": usage });
    if has("!half") || has("!huge") {
        let bytes = if has("!half") { whole.to_string()[..40].to_owned() } else { " ".repeat(3 << 20) };
        let parts = [Ok(bytes), Err(std::io::Error::other("broken"))];
        return axum::body::Body::from_stream(futures_util::stream::iter(parts)).into_response();
    }
    Json(whole).into_response()
}

fn answers(stub: &Stub, texts: &[(String, String)], seed: u64) -> String {
    let mut answers = Vec::new();
    for (id, text) in texts {
        let id = if text.contains("!wrong-id") { "no-such-id" } else { id };
        let answer = json!({ "id": id, "label": stub.label(text, seed) });
        let times = 1 + usize::from(text.contains("!twice")) - usize::from(text.contains("!left-out"));
        answers.extend(std::iter::repeat_n(answer, times));
    }
    json!({ "answers": answers }).to_string()
}
