//! The server: the page, the packed SLMs, the review proxy in front of an LLM, and the pool of reviewed samples.

pub mod access;
mod breaker;
mod completion;
pub mod config;
pub mod examples;
mod guard;
pub mod ledger;
mod metrics;
pub mod near;
mod openapi;
pub mod panel;
mod pool;
mod review;
mod reviews;
pub mod rounds;
pub mod store;
pub mod upstream;

use crate::review::protocol::{ErrorBody, ErrorDetail, ReviewRequest};
use crate::slm::adapter::sha256_hex;
use crate::spec::{Prices, Spec};
use crate::task::Task;
use crate::tune::pool::Pool;
use anyhow::Context;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Extension, Json, Router};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tower_http::services::{ServeDir, ServeFile};

/// Bytes of a request's body at most: 64 texts of 32 KiB, escaped.
const MAX_BODY: usize = 4 << 20;
/// Ports tried after the one asked for.
const MORE_PORTS: u16 = 50;

/// What is served.
pub struct Options {
    /// The folder of the built page.
    pub page: PathBuf,
    /// The folder of the packed SLMs, with its `index.json`.
    pub packed: PathBuf,
    /// Specs of further tasks, or in the place of the built-in ones.
    pub specs: Vec<Spec>,
    /// The LLM, if there is one.
    pub llm: Option<config::Llm>,
    /// The file of the pool, made when a task's spec lets text be kept, and of the store, made when there is an LLM.
    pub pool: PathBuf,
    /// How rounds are held; none for a server that holds none.
    pub rounds: Option<rounds::Options>,
    /// Who may use it; with none everybody who reaches it.
    pub tokens: Vec<config::Token>,
    /// How often it may be asked.
    pub limits: config::Limits,
    /// Names of a proxy before it, which needs tokens.
    pub hosts: Vec<String>,
    /// Origins whose pages may use the API, which needs tokens.
    pub origins: Vec<String>,
}

/// What the handlers share.
pub(crate) struct Server {
    jobs: BTreeMap<String, Arc<panel::Job>>,
    panel: Option<Arc<panel::Panel>>,
    record: review::Record,
    /// Where any task's text may be kept.
    pool: Option<Arc<Mutex<Pool>>>,
    rounds: Arc<rounds::Rounds>,
    access: access::Access,
    metrics: metrics::Metrics,
}

/// An answer that is an error.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry_after: Option<u64>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self { status, code, message, retry_after } = self;
        let body = ErrorBody { error: ErrorDetail { code: code.into(), message, retry_after } };
        let mut response = (status, Json(body)).into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// A body that is JSON of this type.
fn json<T: DeserializeOwned>(headers: &HeaderMap, body: &[u8]) -> Result<T, ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        let message = "send the request as application/json";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "request-type", message));
    }
    serde_json::from_slice(body).map_err(|error| {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            "request-json",
            format!("not a request of this kind: {}", problem(&error)),
        )
    })
}

/// What is wrong with JSON and where, without the value that is, which may be a text or a secret.
fn problem(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(", expected ") {
        Some((found, expected)) => {
            let kind = found.split(['"', '`']).next().unwrap_or_default().trim_end();
            format!("{kind}, expected {expected}")
        }
        None => text,
    }
}

impl Server {
    fn new(options: &mut Options) -> anyhow::Result<Self> {
        let (specs, llm) = (std::mem::take(&mut options.specs), options.llm.take());
        let mut all = BTreeMap::new();
        for name in Task::BUILT_IN {
            all.insert(name.to_owned(), Arc::new(Spec::built_in(name)?));
        }
        for spec in specs {
            all.insert(spec.task.name.clone(), Arc::new(spec));
        }
        let panel = match llm {
            Some(llm) => Some(Arc::new(panel::Panel::new(llm, store::Store::open(&options.pool)?)?)),
            None => None,
        };
        let kept = all.values().any(|spec| spec.review.keep_text);
        let pool = kept.then(|| Pool::open(&options.pool)).transpose()?.map(|pool| Arc::new(Mutex::new(pool)));
        let rounds = rounds::Rounds::new(options.rounds.take(), pool.clone(), all.values());
        let tokens = std::mem::take(&mut options.tokens);
        let access = access::Access::new(tokens, &options.limits, !options.hosts.is_empty());
        let (record, metrics) = (review::Record::default(), metrics::Metrics::new()?);
        let jobs = all.into_iter().map(|(name, spec)| (name, Arc::new(spec.into()))).collect();
        Ok(Self { jobs, panel, record, pool, rounds, access, metrics })
    }

    /// The server's own spec of the task; the sender's, if it gives one, must have the same labels.
    fn job(&self, request: &ReviewRequest) -> Result<Arc<panel::Job>, ApiError> {
        let bad = |code, message: String| ApiError::new(StatusCode::BAD_REQUEST, code, message);
        let job = self.task(&request.task)?;
        if let Some(given) = &request.spec {
            let given = Spec::from_json(&given.to_string()).map_err(|error| bad("review-spec", error.to_string()))?;
            let labels = &job.spec.task.labels;
            if given.task.labels.names() != labels.names() {
                let message = format!("the spec's labels differ from this server's: {}", labels.names().join(", "));
                return Err(bad("review-spec", message));
            }
        }
        Ok(job)
    }

    /// What is reviewed under a task's name.
    fn task(&self, name: &str) -> Result<Arc<panel::Job>, ApiError> {
        self.jobs.get(name).cloned().ok_or_else(|| {
            let known: Vec<&str> = self.jobs.keys().map(String::as_str).collect();
            let message = format!(
                "this server has no such task; it has: {}. The operator can add one with --spec",
                known.join(", ")
            );
            ApiError::new(StatusCode::BAD_REQUEST, "review-task", message)
        })
    }
}

/// `GET /v1/status`.
#[derive(Serialize)]
struct Status {
    version: &'static str,
    /// Whether the one who asks has to show a token; they are told no more than that.
    token_needed: bool,
    review: ReviewStatus,
    tasks: Vec<TaskStatus>,
}

/// The LLM, if there is one.
#[derive(Serialize, Default)]
struct ReviewStatus {
    available: bool,
    model: Option<String>,
    /// Of the dearest LLM, or of all together where all are asked; none where there are none.
    prices: Option<Prices>,
    remaining_budget_usd: Option<f64>,
    spent_usd: Option<f64>,
}

#[derive(Serialize)]
struct TaskStatus {
    name: String,
    labels: Vec<String>,
    keeps_text: bool,
    /// Bytes of a call's prompt beside the texts, for each text of a call.
    prompt_bytes: usize,
}

async fn status(State(server): State<Arc<Server>>, client: Option<Extension<access::Client>>) -> Json<Status> {
    let version = env!("CARGO_PKG_VERSION");
    if client.is_none() {
        return Json(Status { version, token_needed: true, review: ReviewStatus::default(), tasks: Vec::new() });
    }
    let panel = server.panel.as_deref();
    let ledger = panel.map(panel::Panel::ledger);
    let prices = panel.map(panel::Panel::prices);
    let review = ReviewStatus {
        available: panel.is_some(),
        model: panel.map(panel::Panel::models),
        prices: prices.filter(|prices| prices.usd(1_000_000, 1_000_000) > 0.0),
        remaining_budget_usd: ledger.and_then(ledger::Ledger::remaining),
        spent_usd: ledger.map(ledger::Ledger::spent),
    };
    let task = |job: &Arc<panel::Job>| TaskStatus {
        name: job.spec.task.name.clone(),
        labels: job.spec.task.labels.names().to_vec(),
        keeps_text: job.spec.review.keep_text,
        prompt_bytes: job.template.shared_bytes(job.spec.review.batch),
    };
    Json(Status { version, token_needed: false, review, tasks: server.jobs.values().map(task).collect() })
}

/// Whether it runs.
async fn healthz() -> &'static str {
    "ok"
}

/// Whether it can do its work: an upstream that is left alone for a while is a reason not to send it more.
async fn readyz(State(server): State<Arc<Server>>) -> Result<&'static str, ApiError> {
    match server.panel.as_deref().and_then(panel::Panel::resting) {
        None => Ok("ready"),
        Some(seconds) => {
            let mut error = ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "upstream-resting",
                "the LLM fails; it is left alone for a while",
            );
            error.retry_after = Some(seconds);
            Err(error)
        }
    }
}

async fn no_such_route() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not-found", "there is nothing here; GET /v1/openapi.json tells what there is")
}

async fn no_such_method() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method", "this address does not take that method")
}

async fn no_page() -> Html<&'static str> {
    Html(
        "<!doctype html><title>autoannotator</title><p>The page is not built. Run <code>make run</code>, or name its folder with <code>--page</code>.",
    )
}

/// The list of the packed SLMs, by which a page notices new versions: an ETag says whether it is another one.
async fn packed_index(State(packed): State<PathBuf>, headers: HeaderMap) -> Response {
    let Ok(json) = tokio::fs::read(packed.join("index.json")).await else {
        return ApiError::new(StatusCode::NOT_FOUND, "not-found", "no SLM is packed; run `autoannotator pack`")
            .into_response();
    };
    let tag = format!("\"{}\"", &sha256_hex(&json)[..16]);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let known = known.is_some_and(|tags| tags.split(',').any(|one| one.trim().trim_start_matches("W/") == tag));
    let tag = [(header::ETAG, tag)];
    if known {
        return (StatusCode::NOT_MODIFIED, tag).into_response();
    }
    (tag, [(header::CONTENT_TYPE, "application/json")], json).into_response()
}

/// The routes. `loopback`: whether only this machine's own names may be asked for.
pub fn router(options: Options, loopback: bool) -> anyhow::Result<Router> {
    Ok(build(options, loopback)?.0)
}

fn build(mut options: Options, loopback: bool) -> anyhow::Result<(Router, Arc<rounds::Rounds>)> {
    let server = Arc::new(Server::new(&mut options)?);
    let rounds = server.rounds.clone();
    rounds.watch();
    // Each of its routers says itself what it takes, so that what it does not take is an error like all others.
    let guarded = |router: Router<Arc<Server>>| {
        router
            .method_not_allowed_fallback(no_such_method)
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .route_layer(middleware::from_fn_with_state(server.clone(), metrics::count))
            .with_state(server.clone())
    };
    let open =
        |router: Router<Arc<Server>>| router.method_not_allowed_fallback(no_such_method).with_state(server.clone());
    let v1 = guarded(
        Router::new()
            .route("/v1/status", get(status))
            .route("/v1/review", post(review::review))
            .route("/v1/pool", post(pool::pool))
            .route("/v1/rounds", get(rounds::list))
            .route("/v1/rounds/events", get(rounds::events))
            .route("/v1/rounds/{task}", post(rounds::start).delete(rounds::stop))
            .route("/v1/{*rest}", any(no_such_route)),
    )
    .merge(open(Router::new().route("/v1/openapi.json", get(openapi::document))));
    let v1 = match guard::cors(&options.origins) {
        Some(cors) => v1.layer(cors),
        None => v1,
    };
    let packed = Router::new()
        .route("/models/index.json", get(packed_index))
        .method_not_allowed_fallback(no_such_method)
        .with_state(options.packed.clone());
    let router = v1
        .merge(guarded(Router::new().route("/metrics", get(metrics::metrics))))
        .merge(open(Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz))))
        .merge(packed)
        .nest_service("/models", ServeDir::new(&options.packed));
    let index = options.page.join("index.html");
    let router = if index.is_file() {
        let page = Router::new()
            .nest_service("/assets", ServeDir::new(options.page.join("assets")))
            .fallback_service(ServeDir::new(&options.page).fallback(ServeFile::new(index)))
            .layer(tower_http::compression::CompressionLayer::new());
        router.merge(page)
    } else {
        router.fallback(get(no_page))
    };
    let names = guard::Names { loopback, hosts: options.hosts.into(), origins: options.origins.into() };
    let router = router.layer(middleware::from_fn_with_state(names, guard::guard));
    Ok((router, rounds))
}

/// Binds the port, or the next free one after it.
pub async fn bind(host: IpAddr, port: u16) -> anyhow::Result<TcpListener> {
    let mut last = None;
    for port in port..=port.saturating_add(MORE_PORTS) {
        match TcpListener::bind(SocketAddr::new(host, port)).await {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => last = Some(error),
            Err(error) => {
                return Err(error).with_context(|| format!("serve-bind: {host}:{port} cannot be listened on"));
            }
        }
    }
    Err(last.map_or_else(|| anyhow::anyhow!("no port"), anyhow::Error::from)).with_context(|| {
        format!(
            "serve-bind: ports {port} to {} are all taken; name another with --port",
            port.saturating_add(MORE_PORTS)
        )
    })
}

/// Keeps other servers from the store as long as it is there: a budget is one server's to count.
fn lock(pool: &Path) -> anyhow::Result<File> {
    let path = pool.with_extension("lock");
    let lock = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    anyhow::ensure!(
        !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)),
        "serve-home: another server uses {}; its budgets hold for one server at a time. Stop it, or give another --home",
        pool.display()
    );
    Ok(lock)
}

/// Serves until ctrl-c or SIGTERM, then finishes what is in flight. Returns what keeps other servers from the store: to be
/// dropped after the runtime, whose last tasks hold the store too.
pub async fn serve(listener: TcpListener, options: Options) -> anyhow::Result<File> {
    let loopback = listener.local_addr()?.ip().is_loopback();
    let open = match () {
        () if !options.tokens.is_empty() => None,
        () if !options.hosts.is_empty() => Some("hosts names a proxy, through which anybody could use the LLM"),
        () if !options.origins.is_empty() => Some("origins lets pages of other sites use the LLM"),
        () if !loopback => {
            Some("anybody who reaches this address could use the LLM; serve on 127.0.0.1, or ask for tokens")
        }
        () => None,
    };
    if let Some(why) = open {
        anyhow::bail!(
            "serve-tokens: {why}; make a token with `autoannotator token NAME` and put its lines into --config"
        );
    }
    let lock = lock(&options.pool)?;
    let (router, rounds) = build(options, loopback)?;
    let stop = async move {
        stopped().await;
        rounds.close();
    };
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).with_graceful_shutdown(stop).await?;
    Ok(lock)
}

async fn stopped() {
    let interrupt = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    #[cfg(unix)]
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();
    tokio::select! { () = interrupt => {}, () = terminate => {} }
}
