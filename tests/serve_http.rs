//! The server's shell: who may ask from where and how often, what every answer carries, and what errors say.

#[path = "support/stub_llm.rs"]
mod stub_llm;

use autoannotator::serve::config::Config;
use autoannotator::serve::{Options, bind, router, serve};
use autoannotator::slm::adapter::sha256_hex;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use stub_llm::Stub;

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LABELS: &str = "https://labels.example.com";
const PROXY: &str = "annotate.example.com";
const KNOWN: &str = "Bearer secret";
/// A token's lines: `secret` may do everything.
const TOKEN: &str = "[[tokens]]\nname = \"a\"\nscopes = [\"admin\"]\nsha256 = ";

struct House {
    url: String,
    _dir: tempfile::TempDir,
}

fn options(dir: &Path, config: &str) -> Options {
    let config = Config::read(config, |_| None).expect("config");
    std::fs::create_dir_all(dir.join("page/assets")).expect("folder");
    std::fs::write(dir.join("page/index.html"), "<!doctype html><title>page</title>").expect("file");
    Options {
        page: dir.join("page"),
        packed: dir.join("packed"),
        specs: vec![],
        llm: config.llm,
        pool: dir.join("pool.db"),
        rounds: None,
        tokens: config.tokens,
        limits: config.limits,
        hosts: config.hosts,
        origins: config.origins,
    }
}

/// A server that knows its connections, before a stub, with these lines in its config and a token.
async fn house(lines: &str) -> House {
    let stub = Stub::new(&[("love", "positive")], "neutral", false);
    let listener = bind(HOST, 0).await.expect("a port");
    let upstream = listener.local_addr().expect("an address");
    let app = stub.router();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let dir = tempfile::tempdir().expect("folder");
    let hash = sha256_hex(b"secret");
    let config = format!("{lines}\n[llm]\nurl = \"http://{upstream}\"\nmodel = \"stub\"\n{TOKEN}\"{hash}\"\n");
    let app = router(options(dir.path(), &config), true).expect("router");
    let listener = bind(HOST, 0).await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    House { url, _dir: dir }
}

impl House {
    /// Asks from a loopback address whose last number is `from`.
    async fn ask_from(&self, from: u8, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let local: IpAddr = Ipv4Addr::new(127, 0, 0, from).into();
        let http = reqwest::Client::builder().no_proxy().local_address(local).build().expect("client");
        let mut request = http.request(method, format!("{}{path}", self.url)).body(body.to_owned());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.expect("an answer")
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
        self.ask_from(1, method, path, headers, "").await
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> (StatusCode, Value) {
        let headers = [&[("authorization", KNOWN), ("content-type", "application/json")], headers].concat();
        let answer = self.ask_from(1, Method::POST, path, &headers, body).await;
        (answer.status(), answer.json().await.expect("JSON"))
    }
}

fn header(answer: &Response, name: &str) -> String {
    answer.headers().get(name).map(|value| value.to_str().expect("text").to_owned()).unwrap_or_default()
}

fn review(texts: &[&str]) -> String {
    let items: Vec<Value> =
        texts.iter().enumerate().map(|(id, text)| json!({ "id": id.to_string(), "text": text })).collect();
    json!({ "task": "sentiment", "items": items }).to_string()
}

#[tokio::test]
async fn pages_of_listed_origins_may_use_the_api_and_nothing_else() {
    let house = house(&format!("origins = [\"{LABELS}\"]")).await;
    let asks = [("origin", LABELS), ("access-control-request-method", "POST")];
    let wanted = ("access-control-request-headers", "authorization,content-type,idempotency-key");
    let answer = house.ask(Method::OPTIONS, "/v1/review", &[&asks[..], &[wanted]].concat()).await;
    assert_eq!((answer.status(), header(&answer, "access-control-allow-origin")), (StatusCode::OK, LABELS.to_owned()));
    let allowed = header(&answer, "access-control-allow-headers").to_lowercase();
    assert!(wanted.1.split(',').all(|name| allowed.split(',').any(|one| one.trim() == name)), "{allowed}");
    assert_eq!(header(&answer, "access-control-allow-methods"), "GET,POST,DELETE");
    assert!(header(&answer, "vary").to_lowercase().contains("origin"));
    assert_eq!(header(&answer, "access-control-allow-credentials"), "");

    let (status, answer) = house.post("/v1/review", &[("origin", LABELS)], &review(&["love"])).await;
    assert_eq!((status.as_u16(), &answer["items"][0]["label"]), (200, &json!("positive")));
    // Also what is refused: a page has to be able to read why.
    let refused = house.ask(Method::GET, "/v1/rounds", &[("origin", LABELS)]).await;
    assert_eq!((refused.status().as_u16(), header(&refused, "access-control-allow-origin").as_str()), (401, LABELS));
    assert!(header(&refused, "access-control-expose-headers").contains("retry-after"));
    assert!(header(&refused, "vary").to_lowercase().contains("origin"));
    let document = house.ask(Method::GET, "/v1/openapi.json", &[("origin", LABELS)]).await;
    assert_eq!(header(&document, "access-control-allow-origin"), LABELS);

    for other in ["https://evil.example.com", "http://labels.example.com", "https://labels.example.com:444", "null"] {
        let headers = [("origin", other), ("access-control-request-method", "POST"), ("authorization", KNOWN)];
        let answer = house.ask(Method::OPTIONS, "/v1/review", &headers).await;
        assert_eq!(
            (answer.status().as_u16(), header(&answer, "access-control-allow-origin").as_str()),
            (403, ""),
            "{other}"
        );
        assert_eq!(house.post("/v1/review", &[("origin", other)], &review(&["love"])).await.0, 403, "{other}");
        let answer = house.ask(Method::GET, "/v1/status", &headers).await;
        assert_eq!(header(&answer, "access-control-allow-origin"), "", "{other}");
    }
    for path in ["/", "/metrics", "/models/index.json", "/healthz"] {
        let answer = house.ask(Method::OPTIONS, path, &asks).await;
        assert_eq!(answer.status(), 403, "{path}");
        let answer = house.ask(Method::GET, path, &[("origin", LABELS), ("authorization", KNOWN)]).await;
        assert_eq!(header(&answer, "access-control-allow-origin"), "", "{path}");
    }
}

#[tokio::test]
async fn origins_and_hosts_need_tokens() {
    for (lines, why) in [(format!("origins = [\"{LABELS}\"]"), "origins"), (format!("hosts = [\"{PROXY}\"]"), "hosts")]
    {
        let dir = tempfile::tempdir().expect("folder");
        let listener = bind(HOST, 0).await.expect("a port");
        let problem = serve(listener, options(dir.path(), &lines)).await.expect_err("refused").to_string();
        assert!(problem.starts_with("serve-tokens: ") && problem.contains(why), "{problem}");
    }
}

#[tokio::test]
async fn every_answer_carries_the_security_headers() {
    let house = house(&format!("hosts = [\"{PROXY}\"]")).await;
    let proxied = [("host", PROXY), ("authorization", KNOWN)];
    let foreign = [("host", "evil.example.com")];
    let unknown = [("authorization", "Bearer unknown")];
    type Headers<'a> = &'a [(&'a str, &'a str)];
    let cases: [(Method, &str, Headers<'_>, u16); 10] = [
        (Method::GET, "/", &[], 200),
        (Method::GET, "/", &proxied, 200),
        (Method::GET, "/", &foreign, 403),
        (Method::GET, "/assets/none.js", &[], 404),
        (Method::GET, "/v1/status", &proxied, 200),
        (Method::GET, "/v1/none", &proxied, 404),
        (Method::GET, "/v1/rounds", &unknown, 401),
        (Method::PUT, "/v1/rounds", &proxied, 405),
        (Method::GET, "/models/index.json", &[], 404),
        (Method::GET, "/healthz", &[], 200),
    ];
    for (method, path, headers, status) in cases {
        let answer = house.ask(method, path, headers).await;
        assert_eq!(answer.status(), status, "{path}");
        let policy = header(&answer, "content-security-policy");
        let directives: Vec<&str> = policy.split(';').map(str::trim).collect();
        for directive in [
            "default-src 'self'",
            "script-src 'self' 'wasm-unsafe-eval'",
            "frame-ancestors 'none'",
            "object-src 'none'",
            "base-uri 'none'",
        ] {
            assert!(directives.contains(&directive), "{path}: {directive}");
        }
        assert!(!policy.contains("unsafe-inline") && !policy.contains("'unsafe-eval'") && !policy.contains('*'));
        assert!(header(&answer, "permissions-policy").contains("camera=()"), "{path}");
        for (name, value) in [
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
            ("referrer-policy", "no-referrer"),
            ("x-content-type-options", "nosniff"),
        ] {
            assert_eq!(header(&answer, name), value, "{path}: {name}");
        }
        // Only where a proxy with TLS is asked: a browser would else never again reach another server of this machine.
        let transport = header(&answer, "strict-transport-security");
        assert_eq!(!transport.is_empty(), headers.contains(&("host", PROXY)), "{path}: {transport}");
    }
}

#[tokio::test]
async fn an_address_has_a_quota_of_its_own() {
    let house = house("requests_per_minute_per_address = 20").await;
    let known = [("authorization", KNOWN)];
    let mut last = None;
    for _ in 0..25 {
        last = Some(house.ask_from(2, Method::GET, "/v1/status", &known, "").await);
    }
    let last = last.expect("an answer");
    assert_eq!(last.status(), 429);
    assert!((1..=4).contains(&header(&last, "retry-after").parse::<u64>().expect("seconds")));
    let body: Value = last.json().await.expect("JSON");
    assert_eq!(body["error"]["code"], "rate-limit");
    assert_eq!(house.ask_from(3, Method::GET, "/v1/status", &known, "").await.status(), 200, "another address");
    assert_eq!(house.ask_from(2, Method::GET, "/healthz", &[], "").await.status(), 200, "it is no part of the API");
    // Nobody names another address where no proxy is configured.
    let forged = [("authorization", KNOWN), ("x-forwarded-for", "203.0.113.9")];
    assert_eq!(house.ask_from(2, Method::GET, "/v1/status", &forged, "").await.status(), 429);
}

#[tokio::test]
async fn tokens_cannot_be_guessed() {
    let house = house("unknown_tokens_per_minute = 5").await;
    let guess = [("authorization", "Bearer guess")];
    for path in ["/v1/rounds", "/v1/rounds", "/v1/rounds"] {
        assert_eq!(house.ask_from(2, Method::GET, path, &guess, "").await.status(), 401);
    }
    // The status, which answers everybody, is no way around it; nor does a request without a token count.
    for _ in 0..10 {
        assert_eq!(house.ask_from(2, Method::GET, "/v1/status", &[], "").await.status(), 200);
    }
    for _ in 0..2 {
        assert_eq!(house.ask_from(2, Method::GET, "/v1/status", &guess, "").await.status(), 200);
    }
    let refused = house.ask_from(2, Method::GET, "/v1/status", &guess, "").await;
    assert_eq!(refused.status(), 429);
    assert!((1..=13).contains(&header(&refused, "retry-after").parse::<u64>().expect("seconds")));
    // The right one is not told from a wrong one meanwhile; elsewhere it goes on.
    let known = [("authorization", KNOWN)];
    assert_eq!(house.ask_from(2, Method::GET, "/v1/rounds", &known, "").await.status(), 429);
    assert_eq!(house.ask_from(3, Method::GET, "/v1/rounds", &known, "").await.status(), 200);
}

#[tokio::test]
async fn a_proxy_says_for_whom_it_asks() {
    let house = house(&format!("hosts = [\"{PROXY}\"]\nunknown_tokens_per_minute = 1")).await;
    let guess = async |forwarded: &str| {
        let headers = [("host", PROXY), ("authorization", "Bearer guess"), ("x-forwarded-for", forwarded)];
        house.ask(Method::GET, "/v1/rounds", &headers).await.status().as_u16()
    };
    assert_eq!((guess("203.0.113.1").await, guess("203.0.113.1").await), (401, 429));
    assert_eq!(guess("203.0.113.2").await, 401, "another client of the proxy");
    assert_eq!(guess("203.0.113.2, 203.0.113.1").await, 429, "only the last is the proxy's own word");
    // Of IPv6 the network counts.
    assert_eq!((guess("2001:db8::1").await, guess("2001:db8::2:1").await), (401, 429));
    assert_eq!(guess("2001:db8:0:1::1").await, 401);
    // What is no address is the proxy's own.
    assert_eq!((guess("unknown").await, guess("").await), (401, 429));
}

#[tokio::test]
async fn what_a_route_does_not_take_is_an_error_like_all_others() {
    let house = house("").await;
    let known = [("authorization", KNOWN)];
    for (path, allowed) in [
        ("/v1/status", "GET,HEAD"),
        ("/v1/review", "POST"),
        ("/v1/pool", "POST"),
        ("/v1/rounds", "GET,HEAD"),
        ("/v1/rounds/events", "GET,HEAD"),
        ("/v1/rounds/sentiment", "POST,DELETE"),
        ("/v1/openapi.json", "GET,HEAD"),
        ("/metrics", "GET,HEAD"),
        ("/healthz", "GET,HEAD"),
        ("/readyz", "GET,HEAD"),
        ("/models/index.json", "GET,HEAD"),
    ] {
        for method in [Method::PUT, Method::PATCH, Method::OPTIONS, Method::TRACE] {
            let answer = house.ask(method.clone(), path, &known).await;
            assert_eq!(
                (answer.status().as_u16(), header(&answer, "allow").as_str()),
                (405, allowed),
                "{method} {path}"
            );
            let body: Value = answer.json().await.expect("JSON");
            assert_eq!(body["error"]["code"], "method", "{method} {path}");
        }
    }
    let answer = house.ask(Method::POST, "/v1/rounds/%ff", &known).await;
    assert_eq!(answer.status(), 404);
    assert_eq!(answer.json::<Value>().await.expect("JSON")["error"]["code"], "rounds-task");
}

#[tokio::test]
async fn errors_do_not_repeat_what_was_sent() {
    let house = house("").await;
    let text = "my secret text, expected by nobody";
    let sample =
        json!({ "sample": { "id": "1", "text": "t" }, "votes": [], "verdict": { "status": "hard", "why": "tie" } });
    let with = |field: &str| {
        let mut annotation = sample.clone();
        annotation[field] = json!(text);
        json!({ "task": "sentiment", "annotations": [annotation] }).to_string()
    };
    for (path, body, says) in [
        (
            "/v1/review",
            json!({ "task": "sentiment", "items": text }).to_string(),
            "invalid type: string, expected a sequence",
        ),
        ("/v1/review", json!({ "task": "sentiment", "items": [text] }).to_string(), "expected struct ReviewItem"),
        (
            "/v1/review",
            json!({ "task": "sentiment", "items": [], "mode": text }).to_string(),
            "unknown variant, expected `label`",
        ),
        (
            "/v1/review",
            json!({ "task": "sentiment", "items": [], text: 1 }).to_string(),
            "unknown field, expected one of `task`",
        ),
        ("/v1/review", json!({ "items": [] }).to_string(), "missing field `task`"),
        ("/v1/review", format!("{{\"task\": {text}"), "at line 1"),
        ("/v1/pool", with("sample"), "expected struct Sample"),
        ("/v1/pool", with("source"), "unknown variant, expected one of `consensus`"),
        ("/v1/pool", with("votes"), "expected a sequence"),
    ] {
        let (status, answer) = house.post(path, &[], &body).await;
        let message = answer["error"]["message"].as_str().expect("a message");
        assert_eq!((status.as_u16(), &answer["error"]["code"]), (400, &json!("request-json")), "{answer}");
        assert!(message.contains(says) && !message.contains("secret"), "{message}");
    }
    let plain =
        house.ask_from(1, Method::POST, "/v1/pool", &[("authorization", KNOWN), ("content-type", "text/plain")], "{}");
    assert_eq!(plain.await.status(), 415);
    let (status, answer) = house.post("/v1/pool", &[], &" ".repeat(5 << 20)).await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (413, &json!("request-body")));
}

#[tokio::test]
async fn everybody_may_read_what_the_api_is() {
    let house = house("").await;
    let answer = house.ask(Method::GET, "/v1/openapi.json", &[]).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "content-type").as_str()), (200, "application/json"));
    let document: Value = answer.json().await.expect("JSON");
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    // What is marked as open is open, and everything else asks for a token.
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in ["get", "post", "delete"].into_iter().filter(|method| item.get(method).is_some()) {
            let security = item[method].get("security").unwrap_or(&document["security"]);
            let open = security.as_array().is_some_and(|all| all.is_empty() || all.contains(&json!({})));
            let path = path.replace("{task}", "sentiment");
            let answer = house.ask(method.to_uppercase().parse().expect("a method"), &path, &[]).await;
            assert_eq!(answer.status() != 401, open, "{method} {path}");
            assert!(
                item[method]["responses"].get(answer.status().as_str()).is_some(),
                "{method} {path}: {}",
                answer.status()
            );
        }
    }
}
