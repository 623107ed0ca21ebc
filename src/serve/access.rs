//! Who may use the API: on a loopback address everybody who sits at the machine, elsewhere who has a token. Of a token only
//! its hash is kept.

use super::ApiError;
use super::config::{Limits, Token};
use crate::slm::adapter::sha256_hex;
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, NotUntil, Quota, RateLimiter};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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

/// Checks between two at which what is known of addresses that no longer ask is dropped.
const CHECKS: u32 = 4096;

/// The tokens, and who asked how often of late.
pub(super) struct Access {
    tokens: Vec<Token>,
    /// Whether a proxy on this machine says for whom it asks.
    proxied: bool,
    clients: DefaultKeyedRateLimiter<String>,
    addresses: DefaultKeyedRateLimiter<IpAddr>,
    unknown_tokens: DefaultKeyedRateLimiter<IpAddr>,
    /// Addresses whose tokens are not looked at until then.
    waiting: Mutex<HashMap<IpAddr, Instant>>,
    checks: AtomicU32,
}

impl Access {
    /// With these tokens; with none everybody is let in.
    pub(super) fn new(tokens: Vec<Token>, limits: &Limits, proxied: bool) -> Self {
        Self {
            tokens,
            proxied,
            clients: RateLimiter::keyed(Quota::per_minute(limits.client)),
            addresses: RateLimiter::keyed(Quota::per_minute(limits.address)),
            unknown_tokens: RateLimiter::keyed(Quota::per_minute(limits.unknown_tokens)),
            waiting: Mutex::default(),
            checks: AtomicU32::new(0),
        }
    }

    /// Whether a token is needed.
    pub(super) fn asks(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// The address that asks: of the connection, or of the proxy's client where a proxy on this machine names it. None where
    /// the server was not told of connections. Of IPv6 the network, of which everybody has many addresses.
    fn address(&self, request: &Request) -> Option<IpAddr> {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>()?.0.ip().to_canonical();
        let forwarded = || {
            let hops = request.headers().get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
            hops.rsplit(',').next()?.trim().parse::<IpAddr>().ok()
        };
        let address = if self.proxied && peer.is_loopback() { forwarded().unwrap_or(peer) } else { peer };
        Some(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
            address => address,
        })
    }

    fn client(&self, request: &Request) -> Result<Client, ApiError> {
        let address = self.address(request);
        if let Some(address) = address {
            self.tidy();
            let message =
                "too many requests come from this address; the operator can raise requests_per_minute_per_address";
            self.addresses.check_key(&address).map_err(|until| too_often(message, wait(&until)))?;
        }
        let name = if self.asks() { self.named(request, address)? } else { "local".to_owned() };
        let message = "this client asks too often; the operator can raise requests_per_minute";
        self.clients.check_key(&name).map_err(|until| too_often(message, wait(&until)))?;
        Ok(Client(name))
    }

    /// Forgets addresses that have not asked for a while, so that strangers cannot fill the memory.
    fn tidy(&self) {
        if self.checks.fetch_add(1, Ordering::Relaxed) % CHECKS == CHECKS - 1 {
            self.addresses.retain_recent();
            self.addresses.shrink_to_fit();
            self.unknown_tokens.retain_recent();
            self.unknown_tokens.shrink_to_fit();
            let now = Instant::now();
            lock(&self.waiting).retain(|_, until| *until > now);
        }
    }

    /// Refuses an address that has guessed too often, whatever its token is: a right guess must not be told from a wrong one.
    fn waits(&self, address: IpAddr) -> Result<(), ApiError> {
        let until = lock(&self.waiting).get(&address).copied();
        match until.and_then(|until| until.checked_duration_since(Instant::now())) {
            Some(left) => Err(too_often(UNKNOWN_TOKENS, left)),
            None => Ok(()),
        }
    }

    /// Counts an unknown token; an error where there were too many.
    fn guessed(&self, address: IpAddr) -> Result<(), ApiError> {
        self.unknown_tokens.check_key(&address).map_err(|until| {
            let left = wait(&until);
            lock(&self.waiting).insert(address, Instant::now() + left);
            too_often(UNKNOWN_TOKENS, left)
        })
    }

    /// The client whose token it is, if that allows what is asked.
    fn named(&self, request: &Request, address: Option<IpAddr>) -> Result<String, ApiError> {
        let refuse = |status, code, message: &str| Err(ApiError::new(status, code, message));
        let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some(given) = given.and_then(|value| value.strip_prefix("Bearer ")) else {
            let message = "this server asks for a token; send it as Authorization: Bearer TOKEN";
            return refuse(StatusCode::UNAUTHORIZED, "token-missing", message);
        };
        if let Some(address) = address {
            self.waits(address)?;
        }
        let hash = sha256_hex(given.trim().as_bytes());
        let Some(token) = self.tokens.iter().find(|token| token.sha256 == hash) else {
            if let Some(address) = address {
                self.guessed(address)?;
            }
            return refuse(StatusCode::UNAUTHORIZED, "token-unknown", "this server does not know this token");
        };
        let needed = needed(request.method(), request.uri().path());
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

const UNKNOWN_TOKENS: &str = "too many unknown tokens came from this address; wait, then send the right one";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait(until: &NotUntil<<DefaultClock as Clock>::Instant>) -> Duration {
    until.wait_time_from(DefaultClock::default().now())
}

fn too_often(message: &str, left: Duration) -> ApiError {
    let mut error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate-limit", message);
    error.retry_after = Some(left.as_secs() + 1);
    error
}

/// What a request needs to be allowed.
fn needed(method: &Method, path: &str) -> Scope {
    let changes = !matches!(*method, Method::GET | Method::HEAD);
    if path == "/metrics" || (path.starts_with("/v1/rounds") && changes) { Scope::Admin } else { Scope::Review }
}

/// Lets in who may, and says who it is; the status is told to everybody, in short.
pub(super) async fn admit(access: &Access, mut request: Request, next: Next) -> Response {
    match access.client(&request) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use std::net::Ipv4Addr;
    use std::num::NonZeroU32;

    #[test]
    fn strangers_do_not_fill_the_memory() {
        let limits = Limits { address: NonZeroU32::MAX, unknown_tokens: NonZeroU32::MIN, ..Limits::default() };
        let token = Token { name: "a".into(), sha256: "0".repeat(64), scopes: vec![Scope::Review] };
        let access = Access::new(vec![token], &limits, false);
        let ask = |number: u32| {
            let peer = ConnectInfo(SocketAddr::from((Ipv4Addr::from_bits(number), 1)));
            let request = Request::builder().uri("/v1/status").header("authorization", "Bearer guess").extension(peer);
            access.client(&request.body(Body::empty()).expect("a request")).map(|_| ()).map_err(|error| error.status)
        };
        for number in 0..4 * CHECKS {
            assert_eq!(ask(number), Err(StatusCode::UNAUTHORIZED));
            assert_eq!(ask(number), Err(StatusCode::TOO_MANY_REQUESTS));
        }
        let known = access.addresses.len();
        assert!(known <= CHECKS as usize, "{known} addresses are known of {}", 4 * CHECKS);
        // Those that wait are known as long as they do.
        assert_eq!(ask(7), Err(StatusCode::TOO_MANY_REQUESTS));
    }
}
