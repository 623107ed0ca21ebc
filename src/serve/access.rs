//! Who may use the API: on a loopback address everybody who sits at the machine, elsewhere who has a token. Of a token only
//! its hash is kept.

use super::ApiError;
use super::config::Token;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use sha2::{Digest, Sha256};
use std::num::NonZeroU32;
use std::sync::Arc;

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Have texts reviewed, and hand reviewed ones in.
    Review,
    /// All of it, and start and stop rounds, and read the metrics.
    Admin,
}

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Client(pub String);

/// The tokens, and how often each was used of late.
pub(super) struct Access {
    /// Each with its hash in bytes.
    tokens: Vec<(Vec<u8>, Token)>,
    limiter: DefaultKeyedRateLimiter<String>,
}

impl Access {
    /// With these tokens; with none everybody is let in.
    pub(super) fn new(tokens: Vec<Token>, requests_per_minute: NonZeroU32) -> Self {
        let bytes = |hex: &str| {
            let byte = |at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
            (0..hex.len()).step_by(2).filter_map(byte).collect()
        };
        let tokens = tokens.into_iter().map(|token| (bytes(&token.sha256), token)).collect();
        Self { tokens, limiter: RateLimiter::keyed(Quota::per_minute(requests_per_minute)) }
    }

    /// Whether a token is needed.
    pub(super) fn asks(&self) -> bool {
        !self.tokens.is_empty()
    }

    fn client(&self, headers: &HeaderMap, needed: Scope) -> Result<Client, ApiError> {
        let name = if self.asks() { self.named(headers, needed)? } else { "local".to_owned() };
        if let Err(until) = self.limiter.check_key(&name) {
            use governor::clock::{Clock, DefaultClock};
            let message = "this client asks too often; the operator can raise requests_per_minute";
            let mut error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate-limit", message);
            error.retry_after = Some(until.wait_time_from(DefaultClock::default().now()).as_secs() + 1);
            return Err(error);
        }
        Ok(Client(name))
    }

    fn named(&self, headers: &HeaderMap, needed: Scope) -> Result<String, ApiError> {
        let refuse = |status, code, message: &str| Err(ApiError::new(status, code, message));
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some(given) = given.and_then(|value| value.strip_prefix("Bearer ")) else {
            let message = "this server asks for a token; send it as Authorization: Bearer TOKEN";
            return refuse(StatusCode::UNAUTHORIZED, "token-missing", message);
        };
        let hash = Sha256::digest(given.trim());
        let Some((_, token)) = self.tokens.iter().find(|(known, _)| known[..] == hash[..]) else {
            return refuse(StatusCode::UNAUTHORIZED, "token-unknown", "this server does not know this token");
        };
        if !token.scopes.contains(&needed) && !token.scopes.contains(&Scope::Admin) {
            return refuse(
                StatusCode::FORBIDDEN,
                "token-scope",
                "this token does not allow that; it needs the scope admin",
            );
        }
        Ok(token.name.clone())
    }
}

/// What a request needs to be allowed.
fn needed(method: &Method, path: &str) -> Scope {
    let changes = !matches!(*method, Method::GET | Method::HEAD);
    if path == "/metrics" || (path.starts_with("/v1/rounds") && changes) { Scope::Admin } else { Scope::Review }
}

/// Lets in who may, and says who it is; the status is told to everybody, in short.
pub(super) async fn admit(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    let needed = needed(request.method(), request.uri().path());
    match access.client(request.headers(), needed) {
        Ok(client) => {
            request.extensions_mut().insert(client);
            next.run(request).await
        }
        Err(error) if request.uri().path() == "/v1/status" && error.status == StatusCode::UNAUTHORIZED => {
            next.run(request).await
        }
        Err(error) => {
            let unauthorized = error.status == StatusCode::UNAUTHORIZED;
            let mut response = error.into_response();
            if unauthorized {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            response
        }
    }
}
