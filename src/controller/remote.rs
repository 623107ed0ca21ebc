//! The hub over HTTP: its search, and files that are verified as they arrive. What it says is not believed: sizes, hashes
//! and addresses are checked, and nothing is waited for without end.

use super::PlanError;
use super::catalogue::{Listing, Sibling};
use crate::hub::{Home, HubSettings};
use crate::serve::upstream::{jitter, retry_after};
use crate::slm::adapter::hex;
use reqwest::{Response, Url};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Attempts at one request.
const TRIES: u32 = 3;
/// Seconds that the hub may ask to wait.
const LONGEST_WAIT: u64 = 30;
/// Bytes of a page of its search at most.
const MAX_PAGE: u64 = 32 << 20;
/// Models of a page.
const PAGE: usize = 100;
/// Bytes of a file at most.
const MAX_FILE: u64 = 4 << 30;
/// What the search is to tell of each model.
const EXPAND: [&str; 10] =
    ["sha", "downloads", "gated", "private", "disabled", "pipeline_tag", "tags", "config", "siblings", "safetensors"];

/// What models are looked for by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Words, each looked for by itself; none for the most downloaded models of any name.
    pub words: Vec<String>,
    /// Tags that every model must have, such as `license:mit` or `en`.
    pub tags: Vec<String>,
    /// Models of a word at most.
    pub limit: usize,
}

impl Query {
    /// What tells it from others.
    pub(super) fn key(&self) -> String {
        format!("{:?} {:?} {}", self.words, self.tags, self.limit)
    }
}

/// The hub.
pub struct Remote {
    http: reqwest::Client,
    endpoint: Url,
    settings: HubSettings,
}

impl Remote {
    /// Makes the client; nothing is sent yet.
    pub fn new(settings: HubSettings) -> Result<Self, PlanError> {
        let endpoint = Url::parse(settings.endpoint.trim_end_matches('/')).ok();
        let endpoint = endpoint.filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some());
        let endpoint =
            endpoint.ok_or_else(|| PlanError::Hub("HF_ENDPOINT is no http:// or https:// address".to_owned()))?;
        let builder = reqwest::Client::builder()
            .connect_timeout(settings.first_answer)
            .read_timeout(settings.first_answer * 2)
            .user_agent(concat!("autoannotator/", env!("CARGO_PKG_VERSION")));
        // A proxy has no business with this machine's own addresses.
        let host = endpoint.host_str().unwrap_or_default();
        let own = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let http = if own { builder.no_proxy().build() } else { builder.build() };
        let http = http.map_err(|e| PlanError::Hub(format!("no client can be made: {e}")))?;
        Ok(Self { http, endpoint, settings })
    }

    /// Its address.
    pub fn endpoint(&self) -> &str {
        self.settings.endpoint.trim_end_matches('/')
    }

    /// Whether nothing may be asked of it.
    pub fn is_offline(&self) -> bool {
        self.settings.offline
    }

    /// The models that it lists for a query, the most downloaded first, each once.
    pub async fn search(&self, query: &Query) -> Result<Vec<Value>, PlanError> {
        let words = if query.words.is_empty() { vec![String::new()] } else { query.words.clone() };
        let mut all: Vec<Value> = Vec::new();
        for word in &words {
            for model in self.search_word(word, query).await? {
                let id = |value: &Value| value.get("id").and_then(Value::as_str).map(str::to_owned);
                if id(&model).is_some() && !all.iter().any(|known| id(known) == id(&model)) {
                    all.push(model);
                }
            }
        }
        let downloads = |value: &Value| value.get("downloads").and_then(Value::as_u64).unwrap_or(0);
        all.sort_by_key(|value| std::cmp::Reverse(downloads(value)));
        Ok(all)
    }

    async fn search_word(&self, word: &str, query: &Query) -> Result<Vec<Value>, PlanError> {
        let mut url = self.url(&["api", "models"]);
        {
            let mut pairs = url.query_pairs_mut();
            pairs.append_pair("pipeline_tag", "text-classification");
            if !word.is_empty() {
                pairs.append_pair("search", word);
            }
            for tag in &query.tags {
                pairs.append_pair("filter", tag);
            }
            pairs.append_pair("sort", "downloads").append_pair("direction", "-1");
            pairs.append_pair("limit", &query.limit.min(PAGE).to_string());
            for field in EXPAND {
                pairs.append_pair("expand", field);
            }
        }
        let mut models = Vec::new();
        let mut next = Some(url);
        while let Some(url) = next.take().filter(|_| models.len() < query.limit) {
            let response = self.get(url).await.map_err(|problem| self.problem(&problem))?;
            next = self.next_page(&response);
            let json = body(response, MAX_PAGE).await.map_err(|problem| self.problem(&problem))?;
            let page: Vec<Value> = serde_json::from_slice(&json)
                .map_err(|e| self.problem(&format!("its search gave no list of models: {e}")))?;
            if page.is_empty() {
                break;
            }
            models.extend(page);
        }
        models.truncate(query.limit);
        Ok(models)
    }

    /// `Link: <...>; rel="next"`, which must be the same hub's.
    fn next_page(&self, response: &Response) -> Option<Url> {
        let link = response.headers().get("link")?.to_str().ok()?;
        let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
        let url = Url::parse(next.split_once('<')?.1.split_once('>')?.0).ok()?;
        (url.origin() == self.endpoint.origin()).then_some(url)
    }

    fn problem(&self, problem: &str) -> PlanError {
        PlanError::Hub(format!(
            "{}: {problem}. Check the network and HF_ENDPOINT, or give --catalogue FILE, --folder DIR or --offline",
            self.endpoint()
        ))
    }

    /// A small file of a repository.
    pub(super) async fn small(&self, repo: &str, revision: &str, file: &str, max: u64) -> Result<Vec<u8>, String> {
        if let Some(path) = self.known(repo, revision, file) {
            return std::fs::read(&path).map_err(|e| e.to_string());
        }
        body(self.get(self.file_url(repo, revision, file)).await?, max).await
    }

    /// The files of a commit, with sizes and, of large ones, hashes.
    pub(super) async fn listed(&self, repo: &str, revision: &str) -> Result<Vec<Sibling>, String> {
        let mut url = self.url(&["api", "models"]);
        push(&mut url, &[repo, "revision", revision]);
        url.query_pairs_mut().append_pair("blobs", "true");
        let json = body(self.get(url).await?, MAX_PAGE).await?;
        let listing: Listing =
            serde_json::from_slice(&json).map_err(|e| format!("its list of files cannot be read: {e}"))?;
        Ok(listing.siblings)
    }

    /// Brings files of a commit into the home, in the hub's layout, each checked against what the hub lists of it; returns
    /// their folder. `told` hears of the bytes as they arrive. A file that is there already is not asked for again.
    pub async fn bring(
        &self,
        repo: &str,
        revision: &str,
        files: &[String],
        home: &Home,
        told: impl Fn(&str, u64),
    ) -> Result<PathBuf, String> {
        let folder = home.path().join("hub").join(repo.replace('/', "--")).join(revision);
        let missing: Vec<&String> = files.iter().filter(|file| !folder.join(file).is_file()).collect();
        if missing.is_empty() {
            return Ok(folder);
        }
        let mut listed: Option<Vec<Sibling>> = None;
        for name in missing {
            let target = folder.join(name);
            let parent = target.parent().unwrap_or(&folder);
            std::fs::create_dir_all(parent).map_err(|e| format!("{}: {e}", parent.display()))?;
            if let Some(known) = self.known(repo, revision, name) {
                copy(&known, &target)?;
                continue;
            }
            if self.is_offline() {
                return Err(format!("offline, and {name} of {repo} is in no cache"));
            }
            if listed.is_none() {
                listed = Some(self.listed(repo, revision).await?);
            }
            let sibling = listed.iter().flatten().find(|sibling| sibling.name == *name);
            let sibling = sibling.ok_or_else(|| format!("{name} is gone from {repo}"))?;
            self.download(repo, revision, sibling, &target, &told).await?;
        }
        Ok(folder)
    }

    /// A file in the hub's own cache.
    fn known(&self, repo: &str, revision: &str, file: &str) -> Option<PathBuf> {
        let folder = self.settings.cache.join(format!("models--{}", repo.replace('/', "--")));
        let path = folder.join("snapshots").join(revision).join(file);
        path.is_file().then_some(path)
    }

    async fn download(
        &self,
        repo: &str,
        revision: &str,
        file: &Sibling,
        target: &Path,
        told: &impl Fn(&str, u64),
    ) -> Result<(), String> {
        let name = &file.name;
        let size = file.lfs.as_ref().map(|lfs| lfs.size).filter(|size| *size > 0).or(file.size);
        if size.is_some_and(|size| size > MAX_FILE) {
            return Err(format!("{name} has {} bytes, more than {MAX_FILE}", size.unwrap_or_default()));
        }
        let mut response = self.get(self.file_url(repo, revision, name)).await?;
        let disk = |e: std::io::Error| format!("{}: {e}", target.display());
        let folder = target.parent().unwrap_or(Path::new("."));
        let mut part = tempfile::NamedTempFile::new_in(folder).map_err(disk)?;
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        let most = size.unwrap_or(MAX_FILE);
        while let Some(chunk) = response.chunk().await.map_err(|e| failed(&e))? {
            bytes += chunk.len() as u64;
            if bytes > most {
                return Err(format!("{name} is longer than the {most} bytes that the hub lists; it is not kept"));
            }
            hash.update(&chunk);
            part.write_all(&chunk).map_err(disk)?;
            told(name, bytes);
        }
        if size.is_some_and(|size| size != bytes) {
            return Err(format!("{name} has {bytes} bytes, the hub lists {most}; it is not kept"));
        }
        let found = hex(&hash.finalize());
        match &file.lfs {
            Some(lfs) if !lfs.sha256.is_empty() && lfs.sha256 != found => Err(format!(
                "{name} has SHA-256 {found}, the hub lists {}; it is not kept",
                super::plain(&lfs.sha256, 80)
            )),
            _ => part.persist(target).map(|_| ()).map_err(|e| disk(e.error)),
        }
    }

    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.endpoint.clone();
        push(&mut url, segments);
        url
    }

    fn file_url(&self, repo: &str, revision: &str, file: &str) -> Url {
        self.url(&[repo, "resolve", revision, file])
    }

    /// A response of status 200. What may pass is tried again, after the wait that the hub asks for.
    async fn get(&self, url: Url) -> Result<Response, String> {
        if self.is_offline() {
            return Err("HF_HUB_OFFLINE, AUTOANNOTATOR_OFFLINE or --offline says that it may not be asked".to_owned());
        }
        let mut tried = 1;
        loop {
            let mut request = self.http.get(url.clone());
            if let Some(token) = &self.settings.token {
                request = request.bearer_auth(token);
            }
            let response = request.send().await.map_err(|e| failed(&e))?;
            let (status, wait) = match response.status().as_u16() {
                200 => return Ok(response),
                429 => (429, retry_after(response.headers()).unwrap_or(1)),
                status @ 500..=599 => (status, 0),
                401 | 403 => return Err("access is refused (401 or 403); check HF_TOKEN".to_owned()),
                404 => return Err("not found (404)".to_owned()),
                status => return Err(format!("status {status}")),
            };
            if tried == TRIES || wait > LONGEST_WAIT {
                return Err(match status {
                    429 => format!("it is rate-limited and asks to wait {wait} s; try again later, or give HF_TOKEN"),
                    status => format!("status {status}"),
                });
            }
            tokio::time::sleep(Duration::from_secs(wait) + jitter(tried)).await;
            tried += 1;
        }
    }
}

/// Appends parts of a path, each of which may itself have slashes.
fn push(url: &mut Url, segments: &[&str]) {
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments.iter().flat_map(|segment| segment.split('/')));
    }
}

/// A body of at most so many bytes.
async fn body(mut response: Response, max: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| failed(&e))? {
        if (bytes.len() + chunk.len()) as u64 > max {
            return Err(format!("an answer of more than {max} bytes"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn failed(error: &reqwest::Error) -> String {
    match error {
        error if error.is_timeout() => "no answer in time".to_owned(),
        error if error.is_connect() => "it cannot be reached".to_owned(),
        error if error.is_redirect() => "it redirects without end".to_owned(),
        _ => "the connection broke".to_owned(),
    }
}

/// Beside its place, then renamed into it.
fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let part = to.with_extension("part");
    let copied = std::fs::copy(from, &part).and_then(|_| std::fs::rename(&part, to));
    copied.map_err(|e| format!("{}: {e}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(endpoint: &str) -> Result<Remote, PlanError> {
        let mut settings = HubSettings::from_env();
        settings.endpoint = endpoint.to_owned();
        Remote::new(settings)
    }

    #[test]
    fn addresses_are_made_of_escaped_parts() {
        let hub = remote("http://127.0.0.1:9/mirror/").expect("a hub");
        let url = hub.file_url("owner/a b", "main", "onnx/model.onnx");
        assert_eq!(url.as_str(), "http://127.0.0.1:9/mirror/owner/a%20b/resolve/main/onnx/model.onnx");
        assert!(remote("ftp://a").is_err() && remote("nonsense").is_err());
    }
}
