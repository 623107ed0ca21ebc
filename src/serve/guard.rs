//! Who may ask: on a loopback address only pages that this server served itself, whatever a name server says, under its
//! own names or those that a proxy before it has; and, of the API, pages of the origins that its operator lists.

use super::ApiError;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Duration;
use tower_http::cors::CorsLayer;

const POLICY: &str = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; \
    img-src 'self' data: blob:; connect-src 'self' blob:; worker-src 'self'; object-src 'none'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";
const NO_DEVICES: &str = "accelerometer=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), \
    hid=(), magnetometer=(), microphone=(), midi=(), payment=(), serial=(), usb=()";

/// What every answer carries. The page may load its own scripts, wasm and workers, connect to this server, and use no device.
static HEADERS: [(HeaderName, HeaderValue); 6] = [
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (HeaderName::from_static("permissions-policy"), HeaderValue::from_static(NO_DEVICES)),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    // Also for pages of other origins that may use the API: it does not concern what they fetch by CORS.
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];

/// Behind a proxy with TLS, which the names of `hosts` mean.
const TRANSPORT: &str = "max-age=31536000";

/// Whether a host name, without its port, means this machine.
pub(crate) fn loopback_name(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

/// From where may be asked.
#[derive(Clone)]
pub(crate) struct Names {
    /// Only under this machine's own names, and these.
    pub(crate) loopback: bool,
    /// The names of a proxy before it.
    pub(crate) hosts: Arc<[String]>,
    /// Other origins whose pages may use the API.
    pub(crate) origins: Arc<[String]>,
}

impl Names {
    fn proxy(&self, host: &str) -> bool {
        self.hosts.iter().any(|known| known.eq_ignore_ascii_case(without_port(host)))
    }

    fn refusal(&self, request: &Request) -> Option<ApiError> {
        let headers = request.headers();
        let host = text(headers, &header::HOST);
        if self.loopback && !loopback_name(without_port(host)) && !self.proxy(host) {
            let message = "this server answers only to localhost and 127.0.0.1; open it by that name, or have its operator add the one of a proxy to hosts";
            return Some(ApiError::new(StatusCode::FORBIDDEN, "host-refused", message));
        }
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let listed =
            |origin: &str| request.uri().path().starts_with("/v1/") && self.origins.iter().any(|known| known == origin);
        let own = |origin: &str| origin.split_once("://").is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(host));
        let origin = headers.contains_key(header::ORIGIN).then(|| text(headers, &header::ORIGIN));
        if !reads && origin.is_some_and(|origin| !own(origin) && !listed(origin)) {
            let message = "the request comes from another site's page; only this server's own page may ask, and those that its operator adds to origins";
            return Some(ApiError::new(StatusCode::FORBIDDEN, "origin-refused", message));
        }
        None
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Refuses foreign hosts and origins, and puts the security headers on every answer, and how long it may be kept.
pub(crate) async fn guard(State(names): State<Names>, request: Request, next: Next) -> Response {
    let proxied = names.proxy(text(request.headers(), &header::HOST));
    let fixed = fixed(request.uri().path());
    let mut response = match names.refusal(&request) {
        Some(error) => error.into_response(),
        None => next.run(request).await,
    };
    let ok = response.status().is_success() || response.status() == StatusCode::NOT_MODIFIED;
    let kept = if fixed && ok { "public, max-age=31536000, immutable" } else { "no-cache" };
    let headers = response.headers_mut();
    headers.reserve(HEADERS.len() + 2);
    for (name, value) in &HEADERS {
        headers.insert(name, value.clone());
    }
    if proxied {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(TRANSPORT));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static(kept));
    response
}

/// Whether an address carries a hash, and so what it means never changes.
fn fixed(path: &str) -> bool {
    let parts = path.strip_prefix("/models/").map_or(0, |rest| rest.split('/').count());
    path.starts_with("/assets/") || parts == 3
}

/// Tells browsers that pages of these origins may use the API, with a token and never with cookies; none without origins.
pub(crate) fn cors(origins: &[String]) -> Option<CorsLayer> {
    let origins: Vec<HeaderValue> = origins.iter().filter_map(|origin| origin.parse().ok()).collect();
    (!origins.is_empty()).then(|| {
        CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST, Method::DELETE])
            .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, HeaderName::from_static("idempotency-key")])
            .expose_headers([header::RETRY_AFTER])
            .max_age(Duration::from_secs(600))
    })
}
