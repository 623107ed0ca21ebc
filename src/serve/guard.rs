//! Who may ask: on a loopback address only pages that this server served itself, whatever a name server says, under its
//! own names or those that a proxy before it has.

use super::ApiError;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// Only what the page needs: its own scripts, wasm, workers and this server.
const POLICY: &str = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; \
     img-src 'self' data: blob:; connect-src 'self' blob:; worker-src 'self' blob:; object-src 'none'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

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

/// What a request's host may be.
#[derive(Clone)]
pub(crate) struct Names {
    /// Only this machine's own names, and these.
    pub(crate) loopback: bool,
    /// The names of a proxy before it.
    pub(crate) hosts: Arc<[String]>,
}

fn refusal(names: &Names, method: &Method, headers: &HeaderMap) -> Option<ApiError> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    let name = without_port(host);
    if names.loopback && !loopback_name(name) && !names.hosts.iter().any(|known| known.eq_ignore_ascii_case(name)) {
        let message = "this server answers only to localhost and 127.0.0.1; open it by that name, or have its operator add the one of a proxy to hosts";
        return Some(ApiError::new(StatusCode::FORBIDDEN, "host-refused", message));
    }
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let origin = headers.get(header::ORIGIN).map(|_| text(header::ORIGIN).unwrap_or_default());
    let own = |origin: &str| origin.split_once("://").is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(host));
    if !reads && origin.is_some_and(|origin| !own(origin)) {
        let message = "the request comes from another site's page; only this server's own page may ask";
        return Some(ApiError::new(StatusCode::FORBIDDEN, "origin-refused", message));
    }
    None
}

/// Refuses foreign hosts and origins, and puts the security headers on every answer.
pub(crate) async fn guard(State(names): State<Names>, request: Request, next: Next) -> Response {
    let mut response = match refusal(&names, request.method(), request.headers()) {
        Some(error) => error.into_response(),
        None => next.run(request).await,
    };
    for (name, value) in [
        ("content-security-policy", POLICY),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
