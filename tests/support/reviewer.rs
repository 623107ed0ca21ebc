//! A server's review endpoint, for the command line's tests.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// Ids of the samples asked about, by idempotency key.
pub type Asked = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

/// A reviewer that finds everything neutral. Its address, and what it was asked.
pub fn reviewer() -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let asked = Asked::default();
    let seen = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(&stream);
            let (mut key, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                    break;
                }
                let (name, value) = line.split_once(':').unwrap_or_default();
                match name.to_lowercase().as_str() {
                    "idempotency-key" => key = value.trim().to_owned(),
                    "content-length" => length = value.trim().parse().unwrap_or(0),
                    _ => {}
                }
            }
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_err() || length == 0 {
                continue;
            }
            let request: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            let ids: Vec<String> = request["items"]
                .as_array()
                .expect("items")
                .iter()
                .map(|i| i["id"].as_str().expect("id").into())
                .collect();
            seen.lock().expect("lock").insert(key, ids.clone());
            let items: Vec<_> = ids.iter().map(|id| serde_json::json!({"id": id, "label": "neutral"})).collect();
            let usage = serde_json::json!({"prompt_tokens": 160, "completion_tokens": 16, "cost_usd": 0.25});
            let answer = serde_json::json!({"items": items, "usage": usage, "model": "stub"}).to_string();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", answer.len());
            let _ = (&stream).write_all((head + &answer).as_bytes());
        }
    });
    (address, asked)
}
