//! The server as a process, killed again and again under load: nothing that was answered is lost, nothing that was settled is
//! sent again, and what the LLM billed is never more than the ledger says, nor that more than the cap.
#![cfg(unix)]

#[path = "support/stub_llm.rs"]
mod stub_llm;

use autoannotator::serve::bind;
use autoannotator::serve::store::Store;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use stub_llm::Stub;

/// Kills.
const KILLS: usize = 200;
/// Requests of a round, of so many texts each.
const REQUESTS: usize = 6;
const TEXTS: usize = 3;
/// US dollars: 110 tokens of the stub at 1,000 a million.
const BILL: f64 = 0.11;

fn start(home: &Path, upstream: &str) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_autoannotator"))
        .args(["serve", "--port", "18180", "--config"])
        .arg(home.join("server.toml"))
        .arg("--home")
        .arg(home)
        .env("AUTOANNOTATOR_LLM_URL", upstream)
        .env("AUTOANNOTATOR_LLM_MODEL", "stub")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("an address");
    (child, line.trim().trim_end_matches('/').to_owned())
}

fn request(round: usize, number: usize) -> Value {
    let item = |text: usize| json!({ "id": text.to_string(), "text": format!("!slow love {round} {number} {text}") });
    json!({ "task": "sentiment", "spec": null, "items": (0..TEXTS).map(item).collect::<Vec<_>>(), "mode": "label" })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_under_load_lose_nothing_and_pay_nothing_twice() {
    let stub = Stub::new(&[("love", "positive")], "neutral", false);
    let listener = bind(IpAddr::V4(Ipv4Addr::LOCALHOST), 0).await.expect("a port");
    let upstream = format!("http://{}", listener.local_addr().expect("an address"));
    let app = stub.router();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let home = tempfile::tempdir().expect("a folder");
    let cap = 10.0 * BILL * (KILLS * REQUESTS * TEXTS) as f64;
    let config =
        format!("[llm]\nprompt_usd_per_million = 1000.0\ncompletion_usd_per_million = 1000.0\nbudget_usd = {cap}\n");
    std::fs::write(home.path().join("server.toml"), config).expect("a file");
    let http =
        Arc::new(reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().expect("a client"));
    let mut answers: HashMap<(usize, usize), Value> = HashMap::new();
    let store = home.path().join("pool.db");

    for round in 0..KILLS {
        let (mut child, url) = start(home.path(), &upstream);
        let mut open = tokio::task::JoinSet::new();
        for number in 0..REQUESTS {
            let (http, url) = (http.clone(), url.clone());
            open.spawn(async move {
                let post = http.post(format!("{url}/v1/review")).header("idempotency-key", format!("{round}-{number}"));
                let answer = post.json(&request(round, number)).send().await.ok()?;
                Some((number, answer.json::<Value>().await.ok()?))
            });
        }
        tokio::time::sleep(Duration::from_millis((round * 7 % 75) as u64)).await;
        child.kill().expect("SIGKILL");
        child.wait().expect("ends");
        while let Some(Ok(outcome)) = open.join_next().await {
            answers.extend(outcome.map(|(number, answer)| ((round, number), answer)));
        }
    }

    // A last server: what was answered is answered the same, and what was not is now.
    let (mut child, url) = start(home.path(), &upstream);
    for round in 0..KILLS {
        for number in 0..REQUESTS {
            let post = http.post(format!("{url}/v1/review")).header("idempotency-key", format!("{round}-{number}"));
            let answer = post.json(&request(round, number)).send().await.expect("an answer");
            assert_eq!(answer.status(), 200);
            let answer: Value = answer.json().await.expect("JSON");
            assert!((0..TEXTS).all(|text| answer["items"][text]["label"] == "positive"), "{answer}");
            if let Some(before) = answers.get(&(round, number)) {
                assert_eq!(before["items"], answer["items"], "an answer was lost");
            }
        }
    }
    child.kill().expect("SIGKILL");
    child.wait().expect("ends");

    let calls = Store::open(&store).expect("a store").calls().expect("reads");
    let interrupted = calls.iter().filter(|call| call.interrupted).count();
    let settled = calls.len() - interrupted;
    let sent = stub.log().len();
    assert_eq!(settled, KILLS * REQUESTS * TEXTS, "each text is settled once, and so never sent again");
    assert!(sent <= calls.len(), "{sent} were sent, {} were written down before", calls.len());
    assert!(interrupted > KILLS / 2, "only {interrupted} calls were interrupted");
    let mut times: HashMap<String, usize> = HashMap::new();
    stub.log().iter().for_each(|entry| *times.entry(entry["text"].to_string()).or_default() += 1);
    assert!(times.values().filter(|times| **times > 1).map(|times| times - 1).sum::<usize>() <= interrupted);
    let (billed, spent) = (sent as f64 * BILL, calls.iter().map(|call| call.spent).sum::<i64>() as f64 / 1e9);
    assert!(billed <= spent + 1e-6 && spent <= cap, "billed {billed}, ledger {spent}, cap {cap}");
    assert!(Store::read_only(&store).expect("a store").audit().is_ok(), "the audit log holds");
}
