//! Who may ask: on a loopback address only pages that this server served itself, whatever a name server says.

use super::ApiError;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

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

fn refusal(loopback: bool, method: &Method, headers: &HeaderMap) -> Option<ApiError> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    if loopback && !loopback_name(without_port(host)) {
        let message = "this server answers only to localhost and 127.0.0.1; open it by that name";
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
pub(crate) async fn guard(State(loopback): State<bool>, request: Request, next: Next) -> Response {
    let mut response = match refusal(loopback, request.method(), request.headers()) {
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
