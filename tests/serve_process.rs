//! The server as a process: what it says where, how it ends, and how it does behind a proxy and under foreign requests.
#![cfg(unix)]

#[path = "support/stub_llm.rs"]
mod stub_llm;

use autoannotator::serve::bind;
use autoannotator::serve::store::Store;
use autoannotator::slm::adapter::sha256_hex;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use stub_llm::Stub;

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const KEY: &str = "sk-secret-4711";
const TOKEN: &str = "token-of-ops-0815";

/// A running server, whose folder holds all it writes; it ends with this.
struct Process {
    child: Child,
    url: String,
    home: tempfile::TempDir,
}

/// The prices and caps of the tests, and a token for everything.
fn config(lines: &str) -> String {
    format!(
        "{lines}\n[llm]\nmodel = \"stub\"\ntimeout_seconds = 3.0\nprompt_usd_per_million = 1.0\n\
         completion_usd_per_million = 1.0\nbudget_usd = 1000.0\nclient_budget_usd = 900.0\n\
         [[tokens]]\nname = \"ops\"\nscopes = [\"admin\"]\nsha256 = \"{}\"\n",
        sha256_hex(TOKEN.as_bytes())
    )
}

impl Process {
    /// Starts one before this LLM, with a task whose texts may be kept beside the built-in ones.
    fn start(upstream: &str, lines: &str) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let at = |name: &str| home.path().join(name);
        let kept = include_str!("../examples/tickets.toml")
            .replace("task = \"tickets\"", "task = \"kept\"")
            .replace("to = \"llm\"", "to = \"llm\"\nkeep_text = true");
        std::fs::write(at("kept.toml"), kept).expect("a file");
        std::fs::write(at("server.toml"), config(lines)).expect("a file");
        std::fs::create_dir_all(at("page")).expect("a folder");
        std::fs::write(at("page/index.html"), "<!doctype html><title>page</title>").expect("a file");
        std::fs::create_dir_all(at("packed")).expect("a folder");
        std::fs::write(at("packed/index.json"), "{\"slms\":[]}").expect("a file");
        let mut child = Command::new(env!("CARGO_BIN_EXE_autoannotator"))
            .args(["serve", "--port", "18280", "--home"])
            .arg(home.path())
            .args([Path::new("--page"), &at("page"), Path::new("--config"), &at("server.toml")])
            .args([Path::new("--spec"), &at("kept.toml")])
            .env("RUST_LOG", "debug")
            .env("AUTOANNOTATOR_LLM_URL", upstream)
            .env("AUTOANNOTATOR_LLM_KEY", KEY)
            .stdout(Stdio::piped())
            .stderr(File::create(at("stderr")).expect("a file"))
            .spawn()
            .expect("the binary");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("an address");
        Self { child, url: line.trim().trim_end_matches('/').to_owned(), home }
    }

    fn terminate(&self) {
        let killed = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(killed.expect("kill").success());
    }

    /// Waits for its end; none where it goes on.
    fn end(&mut self, within: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + within;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    fn port(&self) -> &str {
        self.url.rsplit(':').next().expect("a port")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn spawn(app: axum::Router) -> String {
    let listener = bind(HOST, 0).await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

async fn stub() -> String {
    spawn(Stub::new(&[("love", "positive"), ("crash", "bug")], "neutral", false).router()).await
}

fn client() -> Client {
    Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().expect("a client")
}

fn review(texts: &[&str]) -> Value {
    let items: Vec<Value> =
        texts.iter().enumerate().map(|(id, text)| json!({ "id": id.to_string(), "text": text })).collect();
    json!({ "task": "sentiment", "items": items })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_key_nor_token_nor_text_is_said_anywhere() {
    const TEXT: &str = "aardvark-of-a-text";
    const GUESS: &str = "guessed-token-1234";
    let server = Process::start(&stub().await, "requests_per_minute_per_address = 60\nunknown_tokens_per_minute = 3");
    let http = client();
    let mut said: Vec<(String, String)> = Vec::new();
    let mut ask = async |method: Method, path: &str, token: &str, body: String| {
        let request = http.request(method.clone(), format!("{}{path}", server.url)).bearer_auth(token);
        let answer = request.header("content-type", "application/json").body(body).send().await.expect("an answer");
        let (status, headers) = (answer.status().as_u16(), format!("{:?}", answer.headers()));
        let text = answer.text().await.expect("text");
        said.push((format!("{method} {path} {status}"), headers + &text));
        status
    };
    let commands = ["", "!echo ", "!500 ", "!garbage ", "!unknown ", "!empty ", "!hang ", "!once ", "!429 "];
    let texts: Vec<String> = commands.iter().map(|command| format!("{command}{TEXT} love {TOKEN}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut seen = vec![ask(Method::POST, "/v1/review", TOKEN, review(&texts).to_string()).await];
    for command in ["!401", "!429", "!hang", "!500"] {
        seen.push(ask(Method::POST, "/v1/review", TOKEN, review(&[&format!("{command} {TEXT}")]).to_string()).await);
    }
    let items = json!({ "task": "sentiment", "items": TEXT });
    let wrong_task = json!({ "task": "none", "items": [{ "id": "1", "text": TEXT }] });
    let wrong_spec = json!({ "task": "sentiment", "spec": { "task": "none" }, "items": [{ "id": "1", "text": TEXT }] });
    let by = json!({ "label": "nonsense", "by": { "kind": "human" } });
    let sample = json!({ "id": "1", "text": TEXT });
    let verdict = json!({ "status": "hard", "why": "tie" });
    let annotation = json!({ "sample": sample, "votes": [], "verdict": verdict, "review": by });
    let pooled = json!({ "task": "kept", "annotations": [annotation] });
    let broken_pool = json!({ "task": "kept", "annotations": [TEXT] });
    for (path, body) in [
        ("/v1/review", items.to_string()),
        ("/v1/review", format!("{{\"task\": {TEXT}")),
        ("/v1/review", wrong_task.to_string()),
        ("/v1/review", wrong_spec.to_string()),
        ("/v1/pool", pooled.to_string()),
        ("/v1/pool", broken_pool.to_string()),
        ("/v1/rounds/none", String::new()),
        ("/v1/none", String::new()),
    ] {
        seen.push(ask(Method::POST, path, TOKEN, body).await);
    }
    for path in ["/v1/status", "/v1/rounds", "/metrics", "/readyz", "/"] {
        seen.push(ask(Method::GET, path, TOKEN, String::new()).await);
    }
    for _ in 0..5 {
        seen.push(ask(Method::POST, "/v1/review", GUESS, review(&[TEXT]).to_string()).await);
    }
    for status in [200, 400, 401, 404, 429] {
        assert!(seen.contains(&status), "{status} in {seen:?}");
    }
    server.terminate();
    let mut server = server;
    assert!(server.end(Duration::from_secs(10)).is_some_and(|status| status.success()));

    let log = std::fs::read_to_string(server.home.path().join("stderr")).expect("a log");
    assert!(log.contains("DEBUG") && log.contains("no review"), "nothing was logged: {log}");
    let audit = Store::read_only(&server.home.path().join("pool.db")).expect("a store").audit().expect("holds");
    assert!(!audit.is_empty());
    said.push(("audit".into(), format!("{audit:?}")));
    // All that it wrote, logs and databases.
    for entry in std::fs::read_dir(server.home.path()).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            said.push((
                path.display().to_string(),
                String::from_utf8_lossy(&std::fs::read(&path).expect("a file")).into(),
            ));
        }
    }
    for (from, text) in &said {
        for secret in [KEY, TOKEN, GUESS, TEXT] {
            assert!(!text.contains(secret), "{from} says {secret}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_is_finished_first() {
    let slow = async || {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let content = json!({ "label": "positive" }).to_string();
        axum::Json(json!({ "choices": [{ "index": 0, "message": { "role": "assistant", "content": content } }],
            "usage": { "prompt_tokens": 1, "completion_tokens": 1 } }))
    };
    let upstream = spawn(axum::Router::new().route("/v1/chat/completions", axum::routing::post(slow))).await;
    let mut server = Process::start(&upstream, "");
    let http = client();
    // Neither a stream that never ends nor an idle connection keeps it.
    let events =
        http.get(format!("{}/v1/rounds/events", server.url)).bearer_auth(TOKEN).send().await.expect("a stream");
    let idle = std::net::TcpStream::connect(format!("{HOST}:{}", server.port())).expect("a connection");
    let post = http.post(format!("{}/v1/review", server.url)).bearer_auth(TOKEN).json(&review(&["love"]));
    let asked = tokio::spawn(async move { post.send().await.expect("an answer").json::<Value>().await.expect("JSON") });
    tokio::time::sleep(Duration::from_millis(400)).await;
    let started = Instant::now();
    server.terminate();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let late = std::net::TcpStream::connect(format!("{HOST}:{}", server.port()));
    assert!(late.is_err(), "it still takes connections");
    assert!(!asked.is_finished(), "the LLM was not slow enough");
    let answer = asked.await.expect("a task");
    assert_eq!(answer["items"][0]["label"], "positive", "{answer}");
    assert_eq!(server.end(Duration::from_secs(5)).and_then(|status| status.code()), Some(0));
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    drop((events, idle));
}

/// nginx with the example's configuration, on free ports and with a certificate of its own.
struct Proxy {
    child: Child,
    /// Of TLS.
    port: u16,
    certificate: PathBuf,
}

const NAME: &str = "annotate.example.com";

impl Proxy {
    async fn start(dir: &Path, server: &Process) -> Self {
        let free = async || bind(HOST, 18443).await.expect("a port");
        let (tls, plain) = (free().await, free().await);
        let port = |listener: &tokio::net::TcpListener| listener.local_addr().expect("an address").port();
        let (tls_port, plain_port) = (port(&tls), port(&plain));
        drop((tls, plain));
        let (certificate, key) = (dir.join("certificate.pem"), dir.join("key.pem"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"])
            .args(["-subj", &format!("/CN={NAME}"), "-addext", &format!("subjectAltName=DNS:{NAME}")])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args([Path::new("-keyout"), &key, Path::new("-out"), &certificate])
            .output()
            .expect("openssl");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut site = include_str!("../examples/deploy/nginx.conf").to_owned();
        for (what, there) in [
            ("listen 443 ", format!("listen {HOST}:{tls_port} ")),
            ("listen 80;", format!("listen {HOST}:{plain_port};")),
            ("/etc/letsencrypt/live/annotate.example.com/fullchain.pem", certificate.display().to_string()),
            ("/etc/letsencrypt/live/annotate.example.com/privkey.pem", key.display().to_string()),
            ("127.0.0.1:8080", format!("{HOST}:{}", server.port())),
        ] {
            assert!(site.contains(what), "the example has no {what}");
            site = site.replace(what, &there);
        }
        let folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {}/{name};\n", dir.display()))
            .concat();
        let config = format!(
            "daemon off; master_process off; pid {0}/pid; error_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{folders}{site}}}\n",
            dir.display()
        );
        std::fs::write(dir.join("nginx.conf"), config).expect("a file");
        let child =
            Command::new("nginx").arg("-c").arg(dir.join("nginx.conf")).arg("-p").arg(dir).spawn().expect("nginx");
        let proxy = Self { child, port: tls_port, certificate };
        for _ in 0..100 {
            if std::net::TcpStream::connect((HOST, tls_port)).is_ok() {
                return proxy;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("nginx does not listen");
    }

    /// Of the client at a loopback address whose last number is `from`.
    fn client(&self, from: u8) -> Client {
        let pem = std::fs::read(&self.certificate).expect("a file");
        Client::builder()
            .no_proxy()
            .https_only(true)
            .timeout(Duration::from_secs(20))
            .tls_built_in_root_certs(false)
            .add_root_certificate(reqwest::Certificate::from_pem(&pem).expect("a certificate"))
            .resolve(NAME, (HOST, self.port).into())
            .local_address(IpAddr::from(Ipv4Addr::new(127, 0, 0, from)))
            .build()
            .expect("a client")
    }

    fn url(&self, path: &str) -> String {
        format!("https://{NAME}:{}{path}", self.port)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs nginx: make test-proxy"]
async fn deploy_behind_nginx_is_as_without() {
    let server = Process::start(&stub().await, &format!("hosts = [\"{NAME}\"]\nunknown_tokens_per_minute = 3"));
    let dir = tempfile::tempdir().expect("a folder");
    let proxy = Proxy::start(dir.path(), &server).await;
    let http = proxy.client(1);

    let index = http.get(proxy.url("/")).send().await.expect("an answer");
    assert_eq!(index.status(), 200);
    assert!(index.headers().contains_key("strict-transport-security"));
    assert!(index.text().await.expect("text").contains("<title>page</title>"));
    let status = async |token: Option<&str>| -> Value {
        let request = http.get(proxy.url("/v1/status"));
        let request = token.into_iter().fold(request, |request, token| request.bearer_auth(token));
        request.send().await.expect("an answer").json().await.expect("JSON")
    };
    assert_eq!(status(None).await["token_needed"], true);
    assert_eq!(status(Some(TOKEN)).await["review"]["available"], true);

    let own = format!("https://{NAME}:{}", proxy.port);
    let post = |origin: &str, body: String| {
        let request = http.post(proxy.url("/v1/review")).bearer_auth(TOKEN).header("origin", origin);
        request.header("content-type", "application/json").body(body).send()
    };
    let answer = post(&own, review(&["I love it"]).to_string()).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.json::<Value>().await.expect("JSON")["items"][0]["label"], "positive");
    assert_eq!(post("https://evil.example.com", review(&["x"]).to_string()).await.expect("an answer").status(), 403);

    // What the server takes passes the proxy, and no more.
    let padded = |bytes: usize| review(&["love"]).to_string() + &" ".repeat(bytes);
    assert_eq!(post(&own, padded(4_100_000)).await.expect("an answer").status(), 200);
    assert_eq!(post(&own, padded(4_500_000)).await.expect("an answer").status(), 413);

    // The first event, and one that comes of what happens then, while the stream is open.
    let mut events = http.get(proxy.url("/v1/rounds/events")).bearer_auth(TOKEN).send().await.expect("a stream");
    let mut next = async || {
        let event = tokio::time::timeout(Duration::from_secs(5), events.chunk()).await.expect("an event at once");
        String::from_utf8_lossy(&event.expect("a stream").expect("an event")).into_owned()
    };
    assert!(next().await.contains("\"unused\":0"));
    let annotation = json!({ "sample": { "id": "1", "text": "it crashes" }, "votes": [], "label": "bug", "source": "human",
        "verdict": { "status": "hard", "why": "tie" }, "review": { "label": "bug", "by": { "kind": "human" } } });
    let pooled = json!({ "task": "kept", "annotations": [annotation] });
    let pooled = http.post(proxy.url("/v1/pool")).bearer_auth(TOKEN).json(&pooled).send().await.expect("an answer");
    assert_eq!(pooled.status(), 200);
    assert!(next().await.contains("\"unused\":1"));

    // Each client of the proxy has its own quota.
    let guess = async |from: u8| {
        let guess =
            proxy.client(from).get(proxy.url("/v1/rounds")).bearer_auth("guess").header("x-forwarded-for", "9.9.9.9");
        guess.send().await.expect("an answer").status().as_u16()
    };
    assert_eq!([guess(2).await, guess(2).await, guess(2).await, guess(2).await], [401, 401, 401, 429]);
    assert_eq!(guess(3).await, 401);
    assert_eq!(http.get(proxy.url("/v1/rounds")).bearer_auth(TOKEN).send().await.expect("an answer").status(), 200);
}

#[test]
#[ignore = "for machines with systemd: make test-proxy"]
fn deploy_unit_is_sound() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return eprintln!("skipped: systemd-analyze is not here");
    }
    let dir = tempfile::tempdir().expect("a folder");
    let unit = dir.path().join("autoannotator.service");
    let there = include_str!("../examples/deploy/autoannotator.service")
        .replace("/usr/local/bin/autoannotator", env!("CARGO_BIN_EXE_autoannotator"));
    std::fs::write(&unit, there).expect("a file");
    let found = Command::new("systemd-analyze").arg("verify").arg(&unit).output().expect("systemd-analyze");
    let said = String::from_utf8_lossy(&found.stderr);
    assert!(found.status.success() && !said.contains("autoannotator.service"), "{said}");
}

/// One run of schemathesis over the document that the server hands out.
fn schemathesis(program: &str, server: &Process, mode: &str, hooks: Option<&str>) {
    let mut command = Command::new(program);
    command
        .current_dir(server.home.path())
        .env("PYTHONPATH", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .args(["run", &format!("{}/v1/openapi.json", server.url), "--mode", mode, "--checks", "all"])
        // A stream that does not end; it has tests of its own.
        .args(["--exclude-path", "/v1/rounds/events"])
        .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
        .args(["--seed", "4711", "--generation-database", "none", "--max-examples", "80", "--continue-on-failure"])
        .args(["--request-timeout", "20", "--no-color", "--phases", "examples,coverage,fuzzing"]);
    if let Some(hooks) = hooks {
        command.env("SCHEMATHESIS_HOOKS", hooks);
    }
    let status = command.status().expect("schemathesis");
    assert!(status.success(), "schemathesis, mode {mode}: {status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs schemathesis: make test-api"]
async fn the_api_does_as_its_document_says() {
    let program = std::env::var("SCHEMATHESIS").expect("SCHEMATHESIS is the path of its program");
    let limits =
        "requests_per_minute = 1000000\nrequests_per_minute_per_address = 1000000\nunknown_tokens_per_minute = 1000000";
    let server = Process::start(&stub().await, limits);
    tokio::task::block_in_place(|| {
        schemathesis(&program, &server, "negative", None);
        schemathesis(&program, &server, "positive", Some("narrow"));
    });
}
