//! The server's routes, and what each bad behaviour of the reviewer comes to.

#[path = "support/stub_llm.rs"]
mod stub_llm;

use autoannotator::Spec;
use autoannotator::serve::config::{Config, Limits};
use autoannotator::serve::{Options, bind, rounds, router};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use stub_llm::Stub;

const KEY: &str = "sk-secret-4711";
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct House {
    url: String,
    http: reqwest::Client,
    stub: Arc<Stub>,
    upstream: String,
    dir: tempfile::TempDir,
}

async fn spawn(app: axum::Router) -> String {
    let listener = bind(HOST, 0).await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

/// A server before a stub, with more lines for its config; without an LLM where `llm` is false.
async fn house_with(llm: bool, config: &str, no_schema: bool) -> House {
    let stub = Stub::new(&[("love", "positive"), ("hate", "negative")], "neutral", no_schema);
    let upstream = spawn(stub.router()).await;
    let file =
        format!("[llm]\nurl = \"{upstream}\"\nkey = \"{KEY}\"\nmodel = \"stub\"\ntimeout_seconds = 0.5\n{config}");
    let llm = Config::read(if llm { &file } else { "" }, |_| None).expect("config").llm;
    let dir = tempfile::tempdir().expect("folder");
    let write = |path: &str, bytes: &[u8]| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        std::fs::write(path, bytes).expect("file");
    };
    write("page/index.html", b"<!doctype html><title>page</title>");
    write("page/assets/core-abc123.wasm", b"\0asm");
    write("packed/index.json", b"{\"slms\":[]}");
    write("packed/s/0123/shard-0", &[7; 1000]);
    let tickets = Spec::from_toml(include_str!("../examples/tickets.toml")).expect("spec");
    let kept = include_str!("../examples/tickets.toml")
        .replace("task = \"tickets\"", "task = \"kept\"")
        .replace("to = \"llm\"", "to = \"llm\"\nkeep_text = true");
    let kept = Spec::from_toml(&kept).expect("spec");
    let options = Options {
        page: dir.path().join("page"),
        packed: dir.path().join("packed"),
        specs: vec![tickets, kept],
        llm,
        pool: dir.path().join("pool.db"),
        rounds: None,
        tokens: Vec::new(),
        limits: Limits::default(),
        hosts: Vec::new(),
        origins: Vec::new(),
    };
    let url = spawn(router(options, true).expect("router")).await;
    let http = reqwest::Client::builder().no_proxy().build().expect("client");
    House { url, http, stub, upstream, dir }
}

async fn house() -> House {
    house_with(true, "", false).await
}

fn body(texts: &[&str]) -> Value {
    let items: Vec<Value> =
        texts.iter().enumerate().map(|(index, text)| json!({ "id": index.to_string(), "text": text })).collect();
    json!({ "task": "sentiment", "spec": null, "items": items, "mode": "label" })
}

impl House {
    async fn post(&self, body: &Value, headers: &[(&str, &str)]) -> (u16, Option<String>, Value) {
        let mut request = self.http.post(format!("{}/v1/review", self.url)).json(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.expect("an answer");
        let status = response.status().as_u16();
        let wait = response.headers().get("retry-after").map(|value| value.to_str().expect("text").to_owned());
        let text = response.text().await.expect("text");
        assert!(!text.contains(KEY), "the key leaked: {text}");
        (status, wait, serde_json::from_str(&text).expect("JSON"))
    }

    async fn review(&self, texts: &[&str]) -> (u16, Option<String>, Value) {
        self.post(&body(texts), &[]).await
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
        let mut request = self.http.get(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.expect("an answer")
    }
}

#[tokio::test]
async fn hard_samples_are_labelled_and_arrive_redacted() {
    let house = house().await;
    let (status, _, answer) = house.review(&["I love ann@example.com", "I hate it", "so @bob said !once"]).await;
    assert_eq!(status, 200, "{answer}");
    let labels: Vec<_> = answer["items"].as_array().expect("items").iter().map(|item| item["label"].clone()).collect();
    assert_eq!(labels, ["positive", "negative", "neutral"]);
    assert_eq!(answer["usage"], json!({ "prompt_tokens": 300, "completion_tokens": 30, "cost_usd": 0.0 }));
    assert_eq!((answer["remaining_budget_usd"].clone(), answer["model"].clone()), (Value::Null, json!("stub")));
    let log = house.stub.log();
    let all = serde_json::to_string(&log).expect("JSON");
    assert!(!all.contains("ann@") && !all.contains("@bob") && all.contains("[EMAIL]") && all.contains("[HANDLE]"));
    assert_eq!(log[0]["authorization"], format!("Bearer {KEY}"));
    assert_eq!(log[0]["body"]["response_format"]["type"], "json_schema");
    assert_eq!(log.len(), 4, "429 was asked again");
}

#[tokio::test]
async fn a_reply_that_is_no_label_is_none() {
    let house = house().await;
    let (status, _, answer) = house.review(&["!unknown", "!garbage", "!500", "!empty", "!hang", "!echo", "love"]).await;
    assert_eq!(status, 200, "{answer}");
    let items = answer["items"].as_array().expect("items");
    let whys = ["reply-label", "upstream-garbage", "upstream-status", "reply-empty", "upstream-timeout", "reply-label"];
    for (item, why) in items.iter().zip(whys) {
        assert_eq!(item["label"], Value::Null);
        assert!(item["why"].as_str().expect("why").contains(why), "{item} {why}");
    }
    assert_eq!(items[6]["label"], "positive");
    let tries = |text: &str| house.stub.log().iter().filter(|entry| entry["text"] == text).count();
    assert_eq!((tries("!500"), tries("!hang"), tries("!garbage")), (3, 1, 1));
}

#[tokio::test]
async fn what_stops_every_item_stops_the_request() {
    let house = house().await;
    let (status, _, answer) = house.review(&["!401"]).await;
    assert_eq!((status, &answer["error"]["code"]), (502, &json!("upstream-auth")));
    assert!(answer["error"]["message"].as_str().expect("message").contains("AUTOANNOTATOR_LLM_KEY"));
    let (status, wait, answer) = house.review(&["!429", "!429 too"]).await;
    assert_eq!((status, wait.as_deref(), &answer["error"]["retry_after"]), (429, Some("77"), &json!(77)));
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_an_error() {
    let gone = bind(HOST, 0).await.expect("a port").local_addr().expect("address");
    let llm = Config::read(&format!("[llm]\nurl = \"http://{gone}\"\nmodel = \"m\""), |_| None).expect("config").llm;
    let house = house_with(false, "", false).await;
    let options = Options {
        page: house.dir.path().join("none"),
        packed: house.dir.path().join("none"),
        specs: vec![],
        llm,
        pool: house.dir.path().join("pool.db"),
        rounds: None,
        tokens: Vec::new(),
        limits: Limits::default(),
        hosts: Vec::new(),
        origins: Vec::new(),
    };
    let url = spawn(router(options, true).expect("router")).await;
    let house = House { url, ..house };
    let (status, _, answer) = house.review(&["x"]).await;
    assert_eq!((status, &answer["error"]["code"]), (502, &json!("upstream-unreachable")));
    assert!(house.get("/", &[]).await.text().await.expect("text").contains("not built"));
}

#[tokio::test]
async fn the_schema_is_left_out_where_it_is_refused() {
    let house = house_with(true, "concurrency = 1\n", true).await;
    let (status, _, answer) = house.review(&["love", "hate"]).await;
    assert_eq!((status, &answer["items"][1]["label"]), (200, &json!("negative")));
    assert_eq!(house.stub.log().len(), 3, "one refusal, then never again");
}

#[tokio::test]
async fn a_repeated_request_is_answered_from_the_record() {
    let house = house().await;
    let key = [("idempotency-key", "k1")];
    let asked = body(&["love"]);
    let (first, second) = tokio::join!(house.post(&asked, &key), house.post(&asked, &key));
    assert_eq!((first.0, &first.2), (200, &second.2));
    assert_eq!(house.stub.log().len(), 1);
    assert_eq!(house.post(&body(&["hate"]), &key).await.0, 409);
    // A failure is not recorded: the same key may try again.
    let failing = [("idempotency-key", "k2")];
    house.post(&body(&["!401"]), &failing).await;
    house.post(&body(&["!401"]), &failing).await;
    assert_eq!(house.stub.log().iter().filter(|entry| entry["text"] == "!401").count(), 2);
}

#[tokio::test]
async fn the_budget_is_a_cap() {
    // 110 tokens at 1,000 dollars a million cost 0.11; a call reserves well below 2.
    let prices = "prompt_usd_per_million = 1000.0\ncompletion_usd_per_million = 1000.0\nbudget_usd = 2.0\n";
    let house = house_with(true, prices, false).await;
    let (mut spent, mut refused) = (0.0, false);
    for round in 0..40 {
        let (status, _, answer) = house.review(&[&format!("love {round}")]).await;
        if status == 402 {
            assert_eq!(answer["error"]["code"], "review-budget");
            refused = true;
            break;
        }
        spent += answer["usage"]["cost_usd"].as_f64().expect("cost");
        let left = answer["remaining_budget_usd"].as_f64().expect("budget");
        assert!((left - (2.0 - spent)).abs() < 1e-6 && left >= 0.0);
    }
    assert!(refused && spent > 0.0 && spent <= 2.0, "{spent}");
    let status: Value = house.get("/v1/status", &[]).await.json().await.expect("JSON");
    assert_eq!(status["review"]["prices"], json!({ "prompt": 1000.0, "completion": 1000.0 }));
    assert!((status["review"]["spent_usd"].as_f64().expect("spent") - spent).abs() < 1e-6);
    // What an estimate goes by is what the upstream is sent.
    let sent = house.stub.log()[0]["body"]["messages"].clone();
    let user: Value = serde_json::from_str(sent[1]["content"].as_str().expect("a text")).expect("JSON");
    let bytes = |text: &Value| text.as_str().expect("text").len();
    let system = bytes(&sent[0]["content"]) + bytes(&user["reminder"]);
    let tasks = status["tasks"].as_array().expect("tasks");
    let task = tasks.iter().find(|task| task["name"] == "sentiment").expect("the task");
    assert_eq!(task["prompt_bytes"], json!(system));
}

impl House {
    /// Another server on the same pool and store, as after a restart.
    async fn again(&self, config: &str) -> House {
        let upstream = self.upstream.clone();
        let file =
            format!("[llm]\nurl = \"{upstream}\"\nkey = \"{KEY}\"\nmodel = \"stub\"\ntimeout_seconds = 0.5\n{config}");
        let options = Options {
            page: self.dir.path().join("page"),
            packed: self.dir.path().join("packed"),
            specs: vec![],
            llm: Config::read(&file, |_| None).expect("config").llm,
            pool: self.dir.path().join("pool.db"),
            rounds: None,
            tokens: Vec::new(),
            limits: Limits::default(),
            hosts: Vec::new(),
            origins: Vec::new(),
        };
        let url = spawn(router(options, true).expect("router")).await;
        House {
            url,
            http: self.http.clone(),
            stub: self.stub.clone(),
            upstream,
            dir: tempfile::tempdir().expect("folder"),
        }
    }
}

#[tokio::test]
async fn money_answers_and_replies_outlive_the_server() {
    let prices = "prompt_usd_per_million = 1000.0\ncompletion_usd_per_million = 1000.0\nbudget_usd = 2.5\n";
    let house = house_with(true, prices, false).await;
    let (asked, key) = (body(&["love one", "hate two"]), [("idempotency-key", "k1")]);
    let (status, _, first) = house.post(&asked, &key).await;
    assert_eq!(status, 200, "{first}");
    let calls = house.stub.log().len();
    let again = house.again(prices).await;
    assert_eq!(again.post(&asked, &key).await, (200, None, first.clone()));
    assert_eq!(again.post(&body(&["other"]), &key).await.0, 409);
    // The same text under another key is known, and costs nothing.
    let (status, _, known) = again.review(&["hate two"]).await;
    assert_eq!(
        (status, &known["items"][0]["label"], &known["usage"]["cost_usd"]),
        (200, &json!("negative"), &json!(0.0))
    );
    assert_eq!(house.stub.log().len(), calls, "nothing was sent again");
    let status: Value = again.get("/v1/status", &[]).await.json().await.expect("JSON");
    assert_eq!(status["review"]["spent_usd"].as_f64(), first["usage"]["cost_usd"].as_f64());
    let store = autoannotator::serve::store::Store::read_only(&house.dir.path().join("pool.db")).expect("a store");
    let log = store.audit().expect("holds");
    assert_eq!(log.len(), 2, "an answer from the record is no new event");
    assert!(log.iter().all(|(_, entry)| !entry.contains("love") && !entry.contains("hate")), "{log:?}");
    let mut refused = 0;
    for round in 0..30 {
        refused += u32::from(again.review(&[&format!("love {round}")]).await.0 == 402);
    }
    let spent = store.calls().expect("reads").iter().map(|call| call.spent).sum::<i64>() as f64 / 1e9;
    assert!(refused > 0 && spent <= 2.5, "{refused} refused, {spent} spent");
}

#[tokio::test]
async fn a_task_has_a_budget_of_its_own() {
    let prices = "prompt_usd_per_million = 1000.0\ncompletion_usd_per_million = 1000.0\ntask_budget_usd = 2.5\n";
    let house = house_with(true, prices, false).await;
    let mut last = 200;
    for round in 0..20 {
        last = house.review(&[&format!("love {round}")]).await.0;
    }
    assert_eq!(last, 402);
    let mut other = body(&["love"]);
    other["task"] = json!("toxicity");
    assert_eq!(house.post(&other, &[]).await.0, 200);
}

#[tokio::test]
async fn an_upstream_that_fails_is_left_alone_for_a_while() {
    let house = house().await;
    assert_eq!(house.get("/readyz", &[]).await.status(), 200);
    for _ in 0..4 {
        house.review(&["!500 a", "!500 b"]).await;
    }
    let sent = house.stub.log().len();
    let (status, wait, answer) = house.review(&["love"]).await;
    assert_eq!((status, &answer["error"]["code"]), (429, &json!("upstream-busy")));
    assert!(wait.is_some_and(|wait| (1..=11).contains(&wait.parse::<u64>().expect("seconds"))));
    assert_eq!(house.stub.log().len(), sent, "it is left alone");
    let ready = house.get("/readyz", &[]).await;
    assert_eq!((ready.status().as_u16(), ready.headers().contains_key("retry-after")), (503, true));
    assert_eq!(house.get("/healthz", &[]).await.status(), 200);
}

#[tokio::test]
async fn a_full_queue_asks_to_come_back() {
    let house = house_with(true, "concurrency = 1\nqueue = 2\n", false).await;
    let texts: Vec<String> = (0..12).map(|number| format!("!slow love {number}")).collect();
    let asked = body(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    let (status, _, answer) = house.post(&asked, &[]).await;
    assert_eq!(status, 200);
    let items = answer["items"].as_array().expect("items");
    let busy =
        items.iter().filter(|item| item["why"].as_str().is_some_and(|why| why.contains("upstream-busy"))).count();
    assert_eq!(busy, 9, "{answer}");
    // A request that finds no place at all is told when to come again.
    let long = house.post(&asked, &[]);
    let late = async {
        tokio::time::sleep(std::time::Duration::from_millis(15)).await;
        house.review(&["love at last"]).await
    };
    let (_, (status, wait, _)) = tokio::join!(long, late);
    assert_eq!((status, wait.as_deref()), (429, Some("5")));
}

#[tokio::test]
async fn without_an_llm_the_person_reviews() {
    let house = house_with(false, "", false).await;
    let (status, _, answer) = house.review(&["x"]).await;
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("review-unavailable")));
    let status: Value = house.get("/v1/status", &[]).await.json().await.expect("JSON");
    assert_eq!(status["review"]["available"], false);
    assert_eq!(status["review"]["prices"], Value::Null);
    assert_eq!(status["tasks"].as_array().expect("tasks").len(), 4);
}

#[tokio::test]
async fn bad_requests_are_refused_with_a_code() {
    let house = house().await;
    let long = "x".repeat(33 * 1024);
    let cases = [
        (json!({}), "request-json"),
        (json!({ "task": "poetry", "items": [{ "id": "1", "text": "x" }] }), "review-task"),
        (json!({ "task": "sentiment", "items": [] }), "request-items"),
        (body(&vec!["x"; 65]), "request-items"),
        (body(&[&long]), "request-text"),
        (
            json!({ "task": "sentiment", "items": [{ "id": "1", "text": "x" }, { "id": "1", "text": "y" }] }),
            "request-ids",
        ),
        (
            json!({ "task": "sentiment", "spec": { "task": "toxicity" }, "items": [{ "id": "1", "text": "x" }] }),
            "review-spec",
        ),
        (json!({ "task": "sentiment", "prompt": "free use", "items": [{ "id": "1", "text": "x" }] }), "request-json"),
    ];
    for (request, code) in cases {
        let (status, _, answer) = house.post(&request, &[]).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!(code)), "{answer}");
    }
    let plain = house.http.post(format!("{}/v1/review", house.url)).body("{}").send().await.expect("answer");
    assert_eq!(plain.status(), 415);
    let huge = house.http.post(format!("{}/v1/review", house.url)).header("content-type", "application/json");
    assert_eq!(huge.body(vec![b' '; 5 << 20]).send().await.expect("answer").status(), 413);
    assert_eq!(house.get("/v1/review", &[]).await.status(), 405);
    assert_eq!(house.get("/v1/none", &[]).await.status(), 404);
    assert!(house.stub.log().is_empty());
}

#[tokio::test]
async fn other_sites_are_refused() {
    let house = house().await;
    let asked = body(&["love"]);
    assert_eq!(house.post(&asked, &[("origin", "https://evil.example")]).await.0, 403);
    assert_eq!(house.post(&asked, &[("origin", "null")]).await.0, 403);
    assert_eq!(house.post(&asked, &[("host", "evil.example")]).await.0, 403);
    assert_eq!(house.get("/v1/status", &[("host", "127.0.0.1.evil.example")]).await.status(), 403);
    assert_eq!(house.post(&asked, &[("origin", &house.url)]).await.0, 200);
    assert_eq!(house.get("/v1/status", &[("host", "localhost:8080")]).await.status(), 200);
}

#[tokio::test]
async fn page_and_models_are_served() {
    let house = house().await;
    let header = |response: &reqwest::Response, name: &str| {
        response.headers().get(name).map(|value| value.to_str().expect("text").to_owned()).unwrap_or_default()
    };
    for path in ["/", "/some/view"] {
        let index = house.get(path, &[]).await;
        assert_eq!(index.status(), 200);
        assert!(header(&index, "content-type").starts_with("text/html"));
        assert_eq!(header(&index, "cache-control"), "no-cache");
        assert!(header(&index, "content-security-policy").contains("'wasm-unsafe-eval'"));
    }
    let wasm = house.get("/assets/core-abc123.wasm", &[]).await;
    assert_eq!(header(&wasm, "content-type"), "application/wasm");
    assert!(header(&wasm, "cache-control").contains("immutable"));
    assert_eq!(house.get("/assets/none.js", &[]).await.status(), 404);
    let part = house.get("/models/s/0123/shard-0", &[("range", "bytes=990-")]).await;
    assert_eq!((part.status().as_u16(), header(&part, "content-range").as_str()), (206, "bytes 990-999/1000"));
    assert!(header(&part, "cache-control").contains("immutable"));
    assert_eq!(house.get("/models/none", &[]).await.status(), 404);
    assert_eq!(house.get("/models/..%2fpage/index.html", &[]).await.status(), 404);
}

#[tokio::test]
async fn a_taken_port_gives_way_to_the_next() {
    let first = bind(HOST, 0).await.expect("a port").local_addr().expect("address");
    let held = bind(HOST, first.port()).await.expect("held");
    let port = held.local_addr().expect("address").port();
    let next = bind(HOST, port).await.expect("the next");
    assert!(next.local_addr().expect("address").port() > port);
}

fn annotation(id: &str, verdict: &Value, label: Option<&str>) -> Value {
    let votes = json!([{ "slm": "a", "version": "0123", "engine": "cpu", "precision": "int8", "label": "bug",
        "probabilities": [0.5, 0.3, 0.2] }]);
    let review = label.map(|label| json!({ "label": label, "by": { "kind": "human" } }));
    json!({ "sample": { "id": id, "text": format!("text {id}") }, "votes": votes, "verdict": verdict, "review": review,
        "label": label, "source": label.map(|_| "human") })
}

#[tokio::test]
async fn reviewed_hard_samples_are_kept_where_the_spec_lets_them() {
    let house = house().await;
    let hard = json!({ "status": "hard", "why": "disagreement" });
    let accepted = json!({ "status": "accepted", "label": "bug", "confidence": 0.9 });
    let annotations = [
        annotation("1", &hard, Some("question")),
        annotation("2", &hard, Some("defect")),
        annotation("3", &hard, None),
        annotation("4", &accepted, None),
    ];
    let send = async |task: &str, annotations: &[Value]| {
        let body = json!({ "task": task, "annotations": annotations });
        let response = house.http.post(format!("{}/v1/pool", house.url)).json(&body).send().await.expect("an answer");
        (response.status().as_u16(), response.json::<Value>().await.expect("JSON"))
    };
    let told = |added, known, left_out, retracted| json!({ "added": added, "known": known, "left_out": left_out, "retracted": retracted });
    assert_eq!(send("kept", &annotations).await, (200, told(2, 0, 2, 0)));
    assert_eq!(send("kept", &annotations).await, (200, told(0, 2, 2, 0)));
    let (status, refused) = send("tickets", &annotations).await;
    assert_eq!((status, refused["error"]["code"].as_str()), (403, Some("pool-not-kept")));
    let code = |(status, answer): (u16, Value)| (status, answer["error"]["code"].as_str().unwrap_or("").to_owned());
    let wrong = |code: &str| (400, code.to_owned());
    assert_eq!(code(send("none", &[]).await), wrong("review-task"));
    assert_eq!(code(send("kept", &[annotation("5", &hard, Some("nonsense"))]).await), wrong("pool-sample"));
    let mut short = annotation("6", &hard, Some("bug"));
    short["votes"][0]["probabilities"] = json!([1.0]);
    assert_eq!(code(send("kept", &[short]).await), wrong("pool-sample"));
    assert_eq!(code(send("kept", &vec![annotation("7", &hard, Some("bug")); 501]).await), wrong("pool-sample"));
    let pool = autoannotator::tune::pool::Pool::open(&house.dir.path().join("pool.db")).expect("a pool");
    let counts = pool.counts("kept").expect("counts");
    assert_eq!((counts.unused, counts.labels["question"], counts.labels["bug"]), (2, 1, 1));
    let back = json!({ "task": "kept", "annotations": [], "retracted": [annotations[0], annotation("8", &hard, Some("bug"))] });
    let answer = house.http.post(format!("{}/v1/pool", house.url)).json(&back).send().await.expect("an answer");
    assert_eq!(answer.json::<Value>().await.expect("JSON"), told(0, 0, 0, 1));
    assert_eq!(pool.counts("kept").expect("counts").unused, 1);
    let status = house.get("/v1/status", &[]).await.json::<Value>().await.expect("JSON");
    let keeps = |name: &str| {
        status["tasks"].as_array().and_then(|all| all.iter().find(|task| task["name"] == name)?["keeps_text"].as_bool())
    };
    assert_eq!((keeps("kept"), keeps("tickets")), (Some(true), Some(false)));
}

/// A server whose rounds are held by a script: it tells what a round tells, and ends when the file `go` says how.
#[cfg(unix)]
async fn house_with_rounds(pool: usize) -> House {
    use std::os::unix::fs::PermissionsExt;
    let house = house_with(false, "", false).await;
    let script = house.dir.path().join("tune.sh");
    let go = house.dir.path().join("go");
    let report = r#"{"event":"slm","slm":"s","outcome":"promoted","gate":{"texts":20,"before":0.5,"after":0.9,"least_gain":0.2},"share":1.0,"trained_on":[70,140]}"#;
    let text = format!(
        "#!/bin/sh\necho \"$@\" > {dir}/arguments\necho '{{\"event\":\"pool\",\"samples\":{pool},\"contradicted\":3,\"overruled\":2}}'\n\
         echo '{{\"event\":\"progress\",\"slm\":\"s\",\"stage\":\"loss 0.5\",\"done\":3,\"all\":9}}'\n\
         while [ ! -f {go} ]; do sleep 0.05; done\n\
         if [ \"$(cat {go})\" = bad ]; then echo 'error: tune-pool: the pool is bad' >&2; exit 1; fi\n\
         echo '{report}'\necho '{{\"event\":\"done\",\"round\":7}}'\n",
        dir = house.dir.path().display(),
        go = go.display(),
    );
    std::fs::write(&script, text).expect("a script");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("a script");
    let spec = include_str!("../examples/tickets.toml")
        .replace("task = \"tickets\"", "task = \"kept\"")
        .replace("to = \"llm\"", "to = \"llm\"\nkeep_text = true");
    let spec = Spec::from_toml(&format!("{spec}\n[tune]\npool = {pool}\n")).expect("a spec");
    let files = Config::read("[rounds.kept]\nlayers = 2\n", |_| None).expect("config").rounds;
    let options = Options {
        page: house.dir.path().join("page"),
        packed: house.dir.path().join("packed"),
        specs: vec![spec],
        llm: None,
        pool: house.dir.path().join("rounds.db"),
        rounds: Some(rounds::Options {
            program: script,
            arguments: vec!["--home".into(), "h".into()],
            specs: house.dir.path().to_owned(),
            files,
        }),
        tokens: Vec::new(),
        limits: Limits::default(),
        hosts: Vec::new(),
        origins: Vec::new(),
    };
    let url = spawn(router(options, true).expect("router")).await;
    House { url, ..house }
}

#[cfg(unix)]
impl House {
    async fn rounds(&self) -> Value {
        self.get("/v1/rounds", &[]).await.json().await.expect("JSON")
    }

    /// The task's rounds, once they are so.
    async fn once(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..200 {
            let rounds = self.rounds().await["kept"].clone();
            if wanted(&rounds) {
                return rounds;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("never so: {}", self.rounds().await);
    }

    async fn hand_in(&self, from: usize, to: usize) {
        let one = |number: usize| {
            json!({
                "sample": { "id": number.to_string(), "text": format!("text {number}") }, "votes": [],
                "verdict": { "status": "hard", "why": "disagreement" },
                "review": { "label": "bug", "by": { "kind": "human" } }, "label": "bug", "source": "human",
            })
        };
        for part in (from..to).collect::<Vec<_>>().chunks(50) {
            let annotations: Vec<Value> = part.iter().map(|number| one(*number)).collect();
            let body = json!({ "task": "kept", "annotations": annotations });
            let answer = self.http.post(format!("{}/v1/pool", self.url)).json(&body).send().await.expect("an answer");
            assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap_or_default());
        }
    }

    async fn order(&self, method: reqwest::Method) -> u16 {
        let request = self.http.request(method, format!("{}/v1/rounds/kept", self.url));
        request.send().await.expect("an answer").status().as_u16()
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_full_pool_starts_a_round_that_is_told_of() {
    let house = house_with_rounds(100).await;
    house.hand_in(0, 99).await;
    assert_eq!(house.rounds().await["kept"]["running"], Value::Null);
    let mut events = house.get("/v1/rounds/events", &[]).await;
    assert!(events.headers()["content-type"].to_str().expect("text").starts_with("text/event-stream"));
    house.hand_in(99, 100).await;
    let rounds = house.once(|rounds| rounds["running"]["stage"] == "loss 0.5").await;
    assert_eq!((&rounds["unused"], &rounds["starts_at"]), (&100.into(), &100.into()));
    let running = &rounds["running"];
    assert_eq!((&running["slm"], &running["done"], &running["all"]), (&"s".into(), &3.into(), &9.into()));
    let drew = |state: &Value| ["samples", "contradicted", "overruled"].map(|what| state[what].as_u64());
    assert_eq!(drew(running), [Some(100), Some(3), Some(2)]);
    assert_eq!(house.order(reqwest::Method::POST).await, 409);
    let arguments = std::fs::read_to_string(house.dir.path().join("arguments")).expect("a file");
    std::fs::write(house.dir.path().join("go"), "well").expect("a file");
    let rounds = house.once(|rounds| rounds["last"] != Value::Null).await;
    assert_eq!((&rounds["last"]["outcome"], &rounds["last"]["round"]), (&"done".into(), &7.into()));
    assert_eq!(rounds["last"]["reports"][0]["outcome"], "promoted");
    assert_eq!(drew(&rounds["last"]), [Some(100), Some(3), Some(2)]);
    let slms = "tickets-minilm-l3,tickets-minilm-l6,tickets-mpnet";
    let spec = house.dir.path().join("rounds-kept.json");
    let read = Spec::from_json(&std::fs::read_to_string(&spec).expect("a file")).expect("a spec");
    assert_eq!(read.task.labels.names(), ["bug", "question", "request"]);
    assert_eq!(arguments.trim(), format!("tune --json --spec {} --slms {slms} --home h --layers 2", spec.display()));
    let mut seen = String::new();
    while !seen.contains("\"round\":7") {
        let part = events.chunk().await.expect("a stream").expect("an event");
        seen.push_str(&String::from_utf8_lossy(&part));
    }
    assert!(seen.contains("event: rounds") && seen.contains("loss 0.5"), "{seen}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_round_is_stopped_and_one_that_fails_says_why() {
    let house = house_with_rounds(0).await;
    assert_eq!(house.order(reqwest::Method::DELETE).await, 409);
    assert_eq!(house.order(reqwest::Method::POST).await, 202);
    house.once(|rounds| rounds["running"]["samples"] == 0).await;
    assert_eq!(house.order(reqwest::Method::DELETE).await, 202);
    let rounds = house.once(|rounds| rounds["last"] != Value::Null).await;
    assert_eq!((&rounds["last"]["outcome"], &rounds["running"]), (&"stopped".into(), &Value::Null));
    std::fs::write(house.dir.path().join("go"), "bad").expect("a file");
    assert_eq!(house.order(reqwest::Method::POST).await, 202);
    let rounds = house.once(|rounds| rounds["last"]["outcome"] == "failed").await;
    assert_eq!(rounds["last"]["problem"], "tune-pool: the pool is bad");
    let strange = self::body(&[]);
    let answer = house.http.post(format!("{}/v1/rounds/sentiment", house.url)).json(&strange).send().await;
    assert_eq!(answer.expect("an answer").status(), 404);
}

#[tokio::test]
async fn the_index_of_packed_slms_has_an_etag() {
    let house = house_with(false, "", false).await;
    let first = house.get("/models/index.json", &[]).await;
    let tag = first.headers()["etag"].to_str().expect("text").to_owned();
    assert_eq!((first.status().as_u16(), first.headers()["cache-control"].to_str().expect("text")), (200, "no-cache"));
    let again = house.get("/models/index.json", &[("if-none-match", &format!("\"other\", W/{tag}"))]).await;
    assert_eq!((again.status().as_u16(), again.text().await.expect("text").as_str()), (304, ""));
    std::fs::write(house.dir.path().join("packed/index.json"), b"{\"slms\":[1]}").expect("a file");
    let changed = house.get("/models/index.json", &[("if-none-match", &tag)]).await;
    assert_eq!(changed.status(), 200);
    assert_ne!(changed.headers()["etag"].to_str().expect("text"), tag);
}

/// A server that asks for tokens: `secret` may review, `boss` all of it; 30 requests a minute each.
async fn house_with_tokens() -> House {
    let house = house().await;
    let hash = |token: &str| autoannotator::slm::adapter::sha256_hex(token.as_bytes());
    let file = format!(
        "requests_per_minute = 30\n[llm]\nurl = \"{}\"\nmodel = \"stub\"\n[[tokens]]\nname = \"annotators\"\nsha256 = \"{}\"\n\
         scopes = [\"review\"]\n[[tokens]]\nname = \"ops\"\nsha256 = \"{}\"\nscopes = [\"admin\"]\n",
        house.upstream,
        hash("secret"),
        hash("boss"),
    );
    let Config { llm, tokens, limits, .. } = Config::read(&file, |_| None).expect("config");
    let options = Options {
        page: house.dir.path().join("page"),
        packed: house.dir.path().join("packed"),
        specs: vec![],
        llm,
        pool: house.dir.path().join("tokens.db"),
        rounds: None,
        tokens,
        limits,
        hosts: vec!["annotate.example.com".into()],
        origins: Vec::new(),
    };
    let url = spawn(router(options, true).expect("router")).await;
    House { url, ..house }
}

#[tokio::test]
async fn only_who_has_a_token_is_let_in() {
    let house = house_with_tokens().await;
    let asked = body(&["love"]);
    let code =
        |answer: &(u16, Option<String>, Value)| (answer.0, answer.2["error"]["code"].as_str().unwrap_or("").to_owned());
    assert_eq!(code(&house.post(&asked, &[]).await), (401, "token-missing".into()));
    assert_eq!(code(&house.post(&asked, &[("authorization", "Bearer wrong")]).await), (401, "token-unknown".into()));
    assert_eq!(house.post(&asked, &[("authorization", "Bearer secret")]).await.0, 200);
    let refused = house.get("/v1/rounds", &[]).await;
    assert_eq!(
        (refused.status().as_u16(), refused.headers()["www-authenticate"].to_str().expect("text")),
        (401, "Bearer")
    );
    // Everybody may see that it is there, and the page and its models.
    let status: Value = house.get("/v1/status", &[]).await.json().await.expect("JSON");
    assert_eq!((&status["token_needed"], &status["tasks"]), (&json!(true), &json!([])));
    let status: Value =
        house.get("/v1/status", &[("authorization", "Bearer secret")]).await.json().await.expect("JSON");
    assert_eq!((&status["token_needed"], &status["review"]["available"]), (&json!(false), &json!(true)));
    for open in ["/", "/healthz", "/readyz", "/models/index.json"] {
        assert_eq!(house.get(open, &[]).await.status(), 200, "{open}");
    }
    assert_eq!(house.get("/metrics", &[("authorization", "Bearer secret")]).await.status(), 403);
    let metrics = house.get("/metrics", &[("authorization", "Bearer boss")]).await.text().await.expect("text");
    for line in [
        "autoannotator_requests_total{route=\"/v1/review\",status=\"200\"} 1",
        "autoannotator_items_total{outcome=\"labelled\"} 1",
        "autoannotator_tokens_total{kind=\"prompt\"} 100",
        "autoannotator_upstream_resting{model=\"stub\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    // A proxy's name is known, and its page is the server's own; others are not.
    let through = |host: &'static str, origin: &'static str| {
        [("host", host), ("origin", origin), ("authorization", "Bearer secret")]
    };
    assert_eq!(house.post(&asked, &through("annotate.example.com", "https://annotate.example.com")).await.0, 200);
    assert_eq!(house.post(&asked, &through("annotate.example.com", "https://evil.example.com")).await.0, 403);
    assert_eq!(house.post(&asked, &through("evil.example.com", "https://evil.example.com")).await.0, 403);
    let store = autoannotator::serve::store::Store::read_only(&house.dir.path().join("tokens.db")).expect("a store");
    assert_eq!(store.calls().expect("reads")[0].client, "annotators");
    assert!(!format!("{:?}", store.audit()).contains("secret"));
}

#[tokio::test]
async fn who_asks_too_often_is_told_to_wait() {
    let house = house_with_tokens().await;
    let mut last = None;
    for _ in 0..40 {
        last = Some(house.get("/v1/rounds", &[("authorization", "Bearer secret")]).await);
    }
    let last = last.expect("an answer");
    assert_eq!(last.status(), 429);
    let wait: u64 = last.headers()["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((1..=3).contains(&wait), "{wait}");
    assert_eq!(house.get("/v1/rounds", &[("authorization", "Bearer boss")]).await.status(), 200, "another client");
}

#[tokio::test]
async fn without_tokens_only_this_machine_is_served() {
    let house = house().await;
    let options = Options {
        page: house.dir.path().join("page"),
        packed: house.dir.path().join("packed"),
        specs: vec![],
        llm: None,
        pool: house.dir.path().join("pool.db"),
        rounds: None,
        tokens: Vec::new(),
        limits: Limits::default(),
        hosts: Vec::new(),
        origins: Vec::new(),
    };
    let listener = bind(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0).await.expect("a port");
    let problem = autoannotator::serve::serve(listener, options).await.err().map(|error| error.to_string());
    assert!(problem.is_some_and(|problem| problem.starts_with("serve-tokens")));
}
