//! `/metrics`, in Prometheus's text format.

use super::{ApiError, Server, access};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus::core::Collector;
use prometheus::{Gauge, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};
use std::sync::Arc;
use std::time::Instant;

/// What is counted as it happens; what only has a state is asked for when somebody looks.
pub(super) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    seconds: HistogramVec,
    /// Items by what became of them: `labelled`, `unlabelled`, and of both `known`.
    pub(super) items: IntCounterVec,
    /// Tokens of the prompt and of the completion.
    pub(super) tokens: IntCounterVec,
    spent: Gauge,
    resting: IntGaugeVec,
    calls: IntGaugeVec,
    unused: IntGaugeVec,
}

impl Metrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let name = |name: &str, help: &str| Opts::new(format!("autoannotator_{name}"), help);
        let registry = Registry::new();
        let requests = IntCounterVec::new(name("requests_total", "Requests answered"), &["route", "status"])?;
        let seconds = name("request_seconds", "Time to answer a request");
        let seconds = HistogramVec::new(HistogramOpts::from(seconds), &["route"])?;
        let items = IntCounterVec::new(name("items_total", "Samples reviewed, by outcome"), &["outcome"])?;
        let tokens = IntCounterVec::new(name("tokens_total", "Tokens of the LLM"), &["kind"])?;
        let spent = Gauge::with_opts(name("spent_usd", "US dollars spent and reserved"))?;
        let resting = name("upstream_resting", "1 while an LLM is left alone after failures");
        let resting = IntGaugeVec::new(resting, &["model"])?;
        let calls =
            IntGaugeVec::new(name("upstream_calls", "Attempts at an LLM since the start"), &["model", "outcome"])?;
        let unused = IntGaugeVec::new(name("pool_unused", "Reviewed samples that no round has used"), &["task"])?;
        let all: [Box<dyn Collector>; 8] = [
            Box::new(requests.clone()),
            Box::new(seconds.clone()),
            Box::new(items.clone()),
            Box::new(tokens.clone()),
            Box::new(spent.clone()),
            Box::new(resting.clone()),
            Box::new(calls.clone()),
            Box::new(unused.clone()),
        ];
        all.into_iter().try_for_each(|one| registry.register(one))?;
        Ok(Self { registry, requests, seconds, items, tokens, spent, resting, calls, unused })
    }
}

/// `GET /metrics`.
pub(super) async fn metrics(State(server): State<Arc<Server>>) -> Result<Response, ApiError> {
    let metrics = &server.metrics;
    if let Some(panel) = &server.panel {
        metrics.spent.set(panel.ledger().spent());
        for upstream in panel.upstreams() {
            let model = upstream.config().model.as_str();
            metrics.resting.with_label_values(&[model]).set(i64::from(upstream.resting().is_some()));
            for (outcome, count) in ["answered", "failed"].into_iter().zip(upstream.counts()) {
                metrics.calls.with_label_values(&[model, outcome]).set(count.cast_signed());
            }
        }
    }
    for (task, unused) in server.rounds.unused() {
        metrics.unused.with_label_values(&[task.as_str()]).set(unused as i64);
    }
    let text = TextEncoder::new().encode_to_string(&metrics.registry.gather()).map_err(|error| {
        tracing::error!("metrics: {error}");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "metrics", "the metrics cannot be written")
    })?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

/// Lets in who may, and counts the request by its route; addresses that are none do not become labels.
pub(super) async fn count(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let started = Instant::now();
    let response = access::admit(&server.access, request, next).await;
    let metrics = &server.metrics;
    metrics.requests.with_label_values(&[route.as_str(), response.status().as_str()]).inc();
    metrics.seconds.with_label_values(&[route.as_str()]).observe(started.elapsed().as_secs_f64());
    response
}
