//! A stand-in for the hub: its search, its lists of files, its files by a redirect to a storage; and ways to behave badly.

#![allow(dead_code, reason = "each user takes its part")]

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// The commit of every repository.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Models of a page of the search at most, fewer than the hub has, so that pages are turned.
const PAGE: usize = 4;

/// How a repository's weights are lied about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// They are what is listed.
    None,
    /// The list says fewer bytes than come.
    Size,
    /// The list says another hash.
    Hash,
    /// They break off half way.
    Half,
}

/// A repository.
#[derive(Clone)]
pub struct Repo {
    /// Its listing but for files: `id`, `downloads`, `tags` and so on.
    pub listing: Value,
    /// Its files.
    pub files: BTreeMap<String, Vec<u8>>,
    /// How it lies.
    pub lie: Lie,
}

impl Repo {
    /// A repository with a config.json, a tokenizer.json and weights.
    pub fn new(id: &str, downloads: u64, config: &Value, tokenizer: &[u8], weights: Vec<u8>) -> Self {
        let files = [
            ("config.json", config.to_string().into_bytes()),
            ("tokenizer.json", tokenizer.to_vec()),
            ("model.safetensors", weights),
        ];
        let listing = json!({
            "id": id, "sha": COMMIT, "downloads": downloads, "gated": false, "private": false, "disabled": false,
            "pipeline_tag": "text-classification", "tags": ["license:apache-2.0", "en", "text-classification"],
            "config": { "model_type": config["model_type"], "architectures": config["architectures"] },
        });
        let files = files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        Self { listing, files, lie: Lie::None }
    }

    /// The same with something of its listing changed.
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.listing[key] = value;
        self
    }

    /// The same with its weights in a file of another name.
    pub fn renamed(mut self, from: &str, to: &str) -> Self {
        if let Some(bytes) = self.files.remove(from) {
            self.files.insert(to.to_owned(), bytes);
        }
        self
    }

    /// The same, lying.
    pub fn lying(mut self, lie: Lie) -> Self {
        self.lie = lie;
        self
    }

    fn id(&self) -> &str {
        self.listing["id"].as_str().unwrap_or_default()
    }

    fn siblings(&self, blobs: bool) -> Vec<Value> {
        self.files
            .iter()
            .map(|(name, bytes)| {
                let mut file = json!({ "rfilename": name });
                if blobs {
                    let large = name.ends_with(".safetensors");
                    let size = bytes.len() - if large && self.lie == Lie::Size { 10 } else { 0 };
                    file["size"] = size.into();
                    if large {
                        let sha256 = if self.lie == Lie::Hash { "0".repeat(64) } else { sha256(bytes) };
                        file["lfs"] = json!({ "sha256": sha256, "size": size, "pointerSize": 134 });
                    }
                }
                file
            })
            .collect()
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How the hub is today.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// It answers.
    Well,
    /// It answers 503.
    Down,
    /// It never answers.
    Hanging,
    /// It answers 429 so many times, each with Retry-After in seconds, and then well.
    Limited(usize, u64),
    /// It answers something else than JSON.
    Garbage,
}

/// The hub.
pub struct Hub {
    /// Its repositories.
    pub repos: Mutex<Vec<Repo>>,
    /// How it is.
    pub mood: Mutex<Mood>,
    log: Mutex<Vec<String>>,
}

impl Hub {
    /// A hub of repositories.
    pub fn new(repos: Vec<Repo>) -> Arc<Self> {
        Arc::new(Self { repos: Mutex::new(repos), mood: Mutex::new(Mood::Well), log: Mutex::default() })
    }

    /// Every request so far: path and query, and after a space its authorization.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("log").clone()
    }

    /// The routes.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/api/models", get(search))
            .route("/api/models/{owner}/{name}/revision/{revision}", get(listed))
            .route("/{owner}/{name}/resolve/{revision}/{*file}", get(resolve))
            .route("/storage/{owner}/{name}/{*file}", get(storage))
            .with_state(self.clone())
    }

    /// Notes a request; an answer where the hub is not well.
    async fn mood(&self, what: String, headers: &HeaderMap) -> Option<Response> {
        let token = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        self.log.lock().expect("log").push(format!("{what} {token}").trim().to_owned());
        let mood = *self.mood.lock().expect("mood");
        match mood {
            Mood::Well => None,
            Mood::Down => Some(StatusCode::SERVICE_UNAVAILABLE.into_response()),
            Mood::Garbage => Some("<html>maintenance</html>".into_response()),
            Mood::Hanging => std::future::pending().await,
            Mood::Limited(times, seconds) => {
                *self.mood.lock().expect("mood") =
                    if times > 1 { Mood::Limited(times - 1, seconds) } else { Mood::Well };
                Some((StatusCode::TOO_MANY_REQUESTS, [("retry-after", seconds.to_string())]).into_response())
            }
        }
    }

    fn repo(&self, owner: &str, name: &str) -> Option<Repo> {
        let id = format!("{owner}/{name}");
        self.repos.lock().expect("repos").iter().find(|repo| repo.id() == id).cloned()
    }
}

async fn search(State(hub): State<Arc<Hub>>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let query = query.unwrap_or_default();
    if let Some(answer) = hub.mood(format!("/api/models?{query}"), &headers).await {
        return answer;
    }
    let pairs: Vec<(&str, String)> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key, value.replace("%3A", ":").replace('+', " ")))
        .collect();
    let one = |wanted: &str| pairs.iter().find(|(key, _)| *key == wanted).map(|(_, value)| value.clone());
    let all = |wanted: &str| {
        pairs.iter().filter(|(key, _)| *key == wanted).map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    let word = one("search").unwrap_or_default().to_lowercase();
    let has_tag = |repo: &Repo, tag: &String| {
        repo.listing["tags"].as_array().is_some_and(|tags| tags.iter().any(|own| own == tag))
    };
    let repos = hub.repos.lock().expect("repos").clone();
    let mut found: Vec<Repo> = repos
        .into_iter()
        .filter(|repo| repo.id().to_lowercase().contains(&word))
        .filter(|repo| all("filter").iter().all(|tag| has_tag(repo, tag)))
        .collect();
    found.sort_by_key(|repo| std::cmp::Reverse(repo.listing["downloads"].as_u64()));
    let start: usize = one("cursor").and_then(|cursor| cursor.parse().ok()).unwrap_or(0);
    let count = one("limit").and_then(|limit| limit.parse().ok()).unwrap_or(PAGE).min(PAGE);
    let siblings = all("expand").iter().any(|field| field == "siblings");
    let page: Vec<Value> = found
        .iter()
        .skip(start)
        .take(count)
        .map(|repo| {
            let mut listing = repo.listing.clone();
            if siblings {
                listing["siblings"] = repo.siblings(false).into();
            }
            listing
        })
        .collect();
    let more = start + count < found.len();
    let mut response = axum::Json(page).into_response();
    if more {
        let host = headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
        let rest: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with("cursor=")).collect();
        let next = format!("<http://{host}/api/models?{}&cursor={}>; rel=\"next\"", rest.join("&"), start + count);
        response.headers_mut().insert("link", HeaderValue::from_str(&next).expect("a link"));
    }
    response
}

async fn listed(
    State(hub): State<Arc<Hub>>,
    Path((owner, name, revision)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    if let Some(answer) = hub.mood(format!("/api/models/{owner}/{name}/revision/{revision}"), &headers).await {
        return answer;
    }
    match hub.repo(&owner, &name).filter(|_| revision == COMMIT) {
        Some(repo) => {
            let mut listing = repo.listing.clone();
            listing["siblings"] = repo.siblings(true).into();
            axum::Json(listing).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn resolve(
    State(hub): State<Arc<Hub>>,
    Path((owner, name, revision, file)): Path<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response {
    if let Some(answer) = hub.mood(format!("/{owner}/{name}/resolve/{revision}/{file}"), &headers).await {
        return answer;
    }
    let Some(bytes) =
        hub.repo(&owner, &name).filter(|_| revision == COMMIT).and_then(|repo| repo.files.get(&file).cloned())
    else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if !file.ends_with(".safetensors") {
        return bytes.into_response();
    }
    let host = headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
    let location = format!("http://{host}/storage/{owner}/{name}/{file}");
    (StatusCode::FOUND, [("location", location)]).into_response()
}

async fn storage(
    State(hub): State<Arc<Hub>>,
    Path((owner, name, file)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    if let Some(answer) = hub.mood(format!("/storage/{owner}/{name}/{file}"), &headers).await {
        return answer;
    }
    let Some(repo) = hub.repo(&owner, &name) else { return StatusCode::NOT_FOUND.into_response() };
    let Some(bytes) = repo.files.get(&file).cloned() else { return StatusCode::NOT_FOUND.into_response() };
    if repo.lie == Lie::Half {
        let half = bytes.get(..bytes.len() / 2).unwrap_or_default().to_vec();
        let parts = [Ok(half), Err(std::io::Error::other("broken"))];
        return Body::from_stream(futures_util::stream::iter(parts)).into_response();
    }
    bytes.into_response()
}
