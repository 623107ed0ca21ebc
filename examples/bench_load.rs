//! Load at a fixed rate, whether or not answers come (open loop): `bench_load URL TOKEN BODY SEED RATE SECONDS`.
//!
//! BODY is a file; a text of its own takes the place of `TEXT` in it for each request. Time counts from when a request was
//! due, so that a server that stalls does not hide it. Prints one line of JSON.

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use std::time::Duration;
use tokio::time::Instant;

/// The number as letters: digits could be taken for a telephone number and redacted.
fn letters(mut number: u64) -> String {
    let mut text = String::new();
    for _ in 0..6 {
        text.push(char::from(b'a' + (number % 26) as u8));
        number /= 26;
    }
    text
}

fn milliseconds(sorted: &[Duration], share: f64) -> f64 {
    let place = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(place).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let [url, token, body, seed, rate, seconds] = given.as_slice() else {
        return Err("bench_load URL TOKEN BODY SEED RATE SECONDS".into());
    };
    let (url, template) = (reqwest::Url::parse(url)?, std::fs::read_to_string(body)?);
    let (rate, seconds): (f64, f64) = (rate.parse()?, seconds.parse()?);
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build()?;
    let bearer = format!("Bearer {token}");
    let mut calls = tokio::task::JoinSet::new();
    let started = Instant::now();
    for number in 0..(rate * seconds) as u64 {
        let due = started + Duration::from_secs_f64(number as f64 / rate);
        let body = template.replace("TEXT", &format!("{seed} {}", letters(number)));
        let call =
            http.post(url.clone()).header(AUTHORIZATION, &bearer).header(CONTENT_TYPE, "application/json").body(body);
        tokio::time::sleep_until(due).await;
        calls.spawn(async move {
            let answer = call.send().await.ok()?;
            let ok = answer.status().is_success();
            answer.bytes().await.ok()?;
            ok.then(|| due.elapsed())
        });
    }
    let mut times: Vec<Duration> = calls.join_all().await.into_iter().flatten().collect();
    times.sort_unstable();
    let sent = (rate * seconds) as usize;
    println!(
        "{}",
        serde_json::json!({
            "requests": sent, "failed": sent - times.len(), "p50": milliseconds(&times, 0.5),
            "p90": milliseconds(&times, 0.9), "p99": milliseconds(&times, 0.99), "max": milliseconds(&times, 1.0),
        })
    );
    Ok(())
}
