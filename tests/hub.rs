//! Bases from a local server that answers like the hub. No network.
#![cfg(feature = "native")]

use autoannotator::hub::{Catalogue, Home, HubSettings};
use autoannotator::slm::adapter::sha256_hex;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use indicatif::ProgressBar;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const CONFIG: &str = r#"{ model_type = "bert", vocab_size = 5, hidden_size = 4, num_hidden_layers = 1, num_attention_heads = 2, intermediate_size = 6, max_position_embeddings = 8, type_vocab_size = 2, layer_norm_eps = 1e-12 }"#;

/// A BERT of one layer: names and shapes written out, in the order that the hash is defined over.
fn tensors() -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let layer = "encoder.layer.0";
    let mut shapes = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![5, 4]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![8, 4]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![2, 4]),
        ("embeddings.LayerNorm.weight".to_owned(), vec![4]),
        ("embeddings.LayerNorm.bias".to_owned(), vec![4]),
    ];
    for (name, shape) in [
        ("attention.self.query", vec![4, 4]),
        ("attention.self.key", vec![4, 4]),
        ("attention.self.value", vec![4, 4]),
        ("attention.output.dense", vec![4, 4]),
        ("intermediate.dense", vec![6, 4]),
        ("output.dense", vec![4, 6]),
        ("attention.output.LayerNorm", vec![4]),
        ("output.LayerNorm", vec![4]),
    ] {
        let bias = vec![shape[0]];
        shapes.push((format!("{layer}.{name}.weight"), shape));
        shapes.push((format!("{layer}.{name}.bias"), bias));
    }
    let mut next = 0.0f32;
    let mut value = || {
        next += 0.125;
        next
    };
    let bytes = |n: usize, value: &mut dyn FnMut() -> f32| (0..n).flat_map(|_| value().to_le_bytes()).collect();
    shapes
        .into_iter()
        .map(|(name, shape)| {
            let n = shape.iter().product();
            (name, shape, bytes(n, &mut value))
        })
        .collect()
}

fn safetensors_file() -> Vec<u8> {
    let all = tensors();
    let views = all.iter().map(|(n, s, b)| (n, TensorView::new(Dtype::F32, s.clone(), b).expect("view")));
    safetensors::serialize(views, None).expect("safetensors")
}

/// The hash as models/bases.toml defines it, made here without the crate's code.
fn tensors_sha256() -> String {
    let mut hash = Sha256::new();
    for (name, shape, bytes) in tensors() {
        hash.update(name.as_bytes());
        hash.update([0]);
        hash.update((shape.len() as u64).to_le_bytes());
        shape.iter().for_each(|dim| hash.update((*dim as u64).to_le_bytes()));
        hash.update(bytes);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

const TOKENIZER: &[u8] = br#"{"version":"1.0","padding":null}"#;

/// What the server saw: path and `Authorization` of every request, in order.
#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<(String, Option<String>)>>,
    files: Mutex<HashMap<String, Vec<u8>>>,
}

impl Seen {
    fn paths(&self) -> Vec<String> {
        self.requests.lock().expect("lock").iter().map(|(path, _)| path.clone()).collect()
    }
}

/// Answers a range, as the hub's storage does.
fn ranged(bytes: &[u8], headers: &HeaderMap) -> Response {
    let range = headers.get("range").and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("bytes="));
    let (start, end) = range.and_then(|r| r.split_once('-')).unwrap_or(("0", ""));
    let start: usize = start.parse().expect("start");
    let end: usize = if end.is_empty() { bytes.len() } else { end.parse::<usize>().expect("end") + 1 };
    let body = bytes[start..end.min(bytes.len())].to_vec();
    let mut response = (StatusCode::PARTIAL_CONTENT, body).into_response();
    let content_range = format!("bytes {start}-{}/{}", end.saturating_sub(1), bytes.len());
    let header = |text: &str| HeaderValue::from_str(text).expect("header");
    response.headers_mut().insert("content-range", header(&content_range));
    response.headers_mut().insert("etag", header(&format!("\"{}\"", sha256_hex(bytes))));
    response.headers_mut().insert("x-repo-commit", header("0123456789abcdef"));
    response
}

/// `/{owner}/{repo}/resolve/{revision}/{file}`: small files at once, weights by a redirect to the storage, as on the hub.
async fn resolve(
    State(seen): State<Arc<Seen>>,
    Path((owner, repo, _revision, file)): Path<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let key = format!("{owner}/{repo}/{file}");
    let token = headers.get("authorization").and_then(|v| v.to_str().ok()).map(str::to_owned);
    seen.requests.lock().expect("lock").push((key.clone(), token));
    let Some(bytes) = seen.files.lock().expect("lock").get(&key).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if !file.ends_with(".safetensors") {
        return ranged(&bytes, &headers);
    }
    let host = headers.get("host").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let location = format!("http://{host}/storage/{owner}/{repo}/{file}");
    let headers = [
        ("location", location),
        ("x-linked-etag", format!("\"{}\"", sha256_hex(&bytes))),
        ("x-repo-commit", "0123456789abcdef".to_owned()),
    ];
    (StatusCode::FOUND, headers).into_response()
}

async fn storage(State(seen): State<Arc<Seen>>, Path(key): Path<String>, headers: HeaderMap) -> Response {
    match seen.files.lock().expect("lock").get(&key) {
        Some(bytes) => ranged(bytes, &headers),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// A server on a free port, on a thread of its own until the test's process ends.
fn server(files: &[(&str, Vec<u8>)]) -> (SocketAddr, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    seen.files.lock().expect("lock").extend(files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    listener.set_nonblocking(true).expect("nonblocking");
    let address = listener.local_addr().expect("address");
    let app = Router::new()
        .route("/storage/{*key}", get(storage))
        .route("/{owner}/{repo}/resolve/{revision}/{*file}", get(resolve))
        .with_state(seen.clone());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("listener");
            axum::serve(listener, app).await.expect("serve");
        });
    });
    (address, seen)
}

/// A base with two repositories as sources; `sha256` is what the first one's weights should have.
fn catalogue(sha256: &str) -> Catalogue {
    let toml = format!(
        r#"
[[base]]
id = "tiny"
licence = "none"
tensors_sha256 = "{}"
tokenizer_sha256 = "{}"
config = {CONFIG}
[[base.source]]
kind = "hub"
repo = "test/first"
weights = {{ file = "model.safetensors", sha256 = "{sha256}" }}
tokenizer = {{ file = "tokenizer.json" }}
[[base.source]]
kind = "hub"
repo = "test/second"
weights = {{ file = "model.safetensors" }}
tokenizer = {{ file = "tokenizer.json" }}
"#,
        tensors_sha256(),
        sha256_hex(TOKENIZER)
    );
    Catalogue::from_toml(&toml, "test.toml").expect("catalogue")
}

struct Setting {
    folder: tempfile::TempDir,
    home: Home,
    hub: HubSettings,
}

fn setting(endpoint: String) -> Setting {
    let folder = tempfile::tempdir().expect("folder");
    let home = Home::find(Some(&folder.path().join("home"))).expect("home");
    let hub = HubSettings {
        endpoint,
        token: Some("secret-token".into()),
        offline: false,
        cache: folder.path().join("hf"),
        first_answer: Duration::from_secs(2),
    };
    Setting { folder, home, hub }
}

fn both_repositories() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("test/first/model.safetensors", safetensors_file()),
        ("test/first/tokenizer.json", TOKENIZER.to_vec()),
        ("test/second/model.safetensors", safetensors_file()),
        ("test/second/tokenizer.json", TOKENIZER.to_vec()),
    ]
}

#[test]
fn the_first_source_is_used_with_the_token_and_the_second_run_asks_nobody() {
    let (address, seen) = server(&both_repositories());
    let s = setting(format!("http://{address}"));
    let (catalogue, bar) = (catalogue(&sha256_hex(&safetensors_file())), ProgressBar::hidden());
    let base = catalogue.base("tiny", &s.home, &s.hub, &bar).expect("base");
    assert_eq!((base.source.as_str(), base.tokenizer_json.as_slice()), ("hub test/first", TOKENIZER));
    let weights = base.weights().expect("weights");
    assert_eq!(weights.words[..2], [0.125, 0.25]);
    assert_eq!(autoannotator::hub::tensors_sha256(&weights), tensors_sha256());
    let requests = seen.requests.lock().expect("lock").clone();
    assert!(requests.iter().all(|(_, token)| token.as_deref() == Some("Bearer secret-token")), "{requests:?}");
    assert!(requests.iter().all(|(path, _)| path.starts_with("test/first/")), "{requests:?}");
    assert_eq!(catalogue.base("tiny", &s.home, &s.hub, &bar).expect("again"), base);
    assert_eq!(seen.paths().len(), requests.len(), "the second time comes from the cache");
}

#[test]
fn wrong_weights_are_refused_and_the_next_source_is_tried() {
    let mut files = both_repositories();
    let last = files[0].1.len() - 1;
    files[0].1[last] ^= 1;
    let (address, seen) = server(&files);
    let s = setting(format!("http://{address}"));
    let right = sha256_hex(&safetensors_file());
    let base = catalogue(&right).base("tiny", &s.home, &s.hub, &ProgressBar::hidden()).expect("base");
    assert_eq!(base.source, "hub test/second");
    assert!(seen.paths().contains(&"test/first/model.safetensors".to_owned()));
}

#[test]
fn weights_without_a_file_hash_are_checked_by_their_tensors_and_every_source_is_named() {
    let mut files = both_repositories();
    files.remove(0);
    let last = files[1].1.len() - 1;
    files[1].1[last] ^= 1;
    let (address, _) = server(&files);
    let s = setting(format!("http://{address}"));
    let error = catalogue(&"0".repeat(64)).base("tiny", &s.home, &s.hub, &ProgressBar::hidden()).expect_err("none");
    let text = error.to_string();
    for part in
        ["hub-sources", "test/first", "404", "test/second", "its tensors", &tensors_sha256(), "autoannotator pull"]
    {
        assert!(text.contains(part), "'{part}' in {text}");
    }
    assert!(!text.contains("secret-token"), "{text}");
}

#[test]
fn offline_asks_nobody_but_uses_the_hubs_own_cache() {
    let (address, seen) = server(&both_repositories());
    let mut s = setting(format!("http://{address}"));
    s.hub.offline = true;
    let (catalogue, bar) = (catalogue(&sha256_hex(&safetensors_file())), ProgressBar::hidden());
    let error = catalogue.base("tiny", &s.home, &s.hub, &bar).expect_err("offline").to_string();
    assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
    let repo = s.folder.path().join("hf/models--test--second");
    std::fs::create_dir_all(repo.join("refs")).expect("refs");
    std::fs::create_dir_all(repo.join("snapshots/abc")).expect("snapshot");
    std::fs::write(repo.join("refs/main"), "abc").expect("ref");
    std::fs::write(repo.join("snapshots/abc/model.safetensors"), safetensors_file()).expect("weights");
    std::fs::write(repo.join("snapshots/abc/tokenizer.json"), TOKENIZER).expect("tokenizer");
    assert_eq!(catalogue.base("tiny", &s.home, &s.hub, &bar).expect("cached").source, "hub test/second");
    assert!(repo.join("snapshots/abc/model.safetensors").is_file(), "the hub's cache is left as it was");
    assert_eq!(seen.paths(), Vec::<String>::new());
}

#[test]
fn a_hub_that_does_not_answer_is_given_up_soon() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let mut s = setting(format!("http://{}", silent.local_addr().expect("address")));
    s.hub.first_answer = Duration::from_millis(200);
    let start = Instant::now();
    let error = catalogue(&"0".repeat(64)).base("tiny", &s.home, &s.hub, &ProgressBar::hidden()).expect_err("silent");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(error.to_string().contains("did not answer"), "{error}");
}

#[test]
fn pulls_at_the_same_time_end_with_one_sound_base() {
    let (address, _) = server(&both_repositories());
    let s = setting(format!("http://{address}"));
    let catalogue = catalogue(&sha256_hex(&safetensors_file()));
    std::thread::scope(|scope| {
        let pull = || catalogue.base("tiny", &s.home, &s.hub, &ProgressBar::hidden()).expect("base").weights();
        let all: Vec<_> = (0..4).map(|_| scope.spawn(pull)).collect();
        for pulled in all {
            assert!(pulled.join().expect("thread").is_ok());
        }
    });
}

#[test]
fn the_built_in_list_of_bases_is_sound() {
    let catalogue = Catalogue::from_toml(include_str!("../models/bases.toml"), "models/bases.toml").expect("sound");
    let ids: Vec<&str> = catalogue.bases.iter().map(|base| base.id.as_str()).collect();
    assert_eq!(ids, ["paraphrase-MiniLM-L3-v2", "all-MiniLM-L6-v2", "all-mpnet-base-v2"]);
    assert!(catalogue.get("gpt-5").expect_err("unknown").to_string().contains("all-MiniLM-L6-v2"));
    assert!(Catalogue::from_toml("[[base]]\nid = \"x\"", "bad.toml").is_err());
}
