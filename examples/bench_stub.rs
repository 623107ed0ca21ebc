//! The cheapest OpenAI-compatible server that `make bench-serve` can have: `bench_stub MILLISECONDS`.
//!
//! It prints its address. Every POST is answered after the delay with a label; GET tells how many there were and the first
//! one's body. One thread, no HTTP library: it must not be what a bench of another server measures.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections that wait to be accepted at most.
const BACKLOG: u32 = 4096;
const COMPLETION: &str = r#"{"id":"chatcmpl-bench","object":"chat.completion","created":1700000000,"model":"bench","choices":[{"index":0,"message":{"role":"assistant","content":"{\"label\":\"positive\"}"},"finish_reason":"stop"}],"usage":{"prompt_tokens":180,"completion_tokens":8,"total_tokens":188}}"#;

#[derive(Default)]
struct Seen {
    requests: u64,
    first: String,
}

/// A whole request at the beginning of the bytes: where its body begins and ends.
fn whole(bytes: &[u8]) -> Option<(usize, usize)> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(bytes.get(..head)?).ok()?;
    let length = text.lines().filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok()).flatten()
    });
    let end = head + length.unwrap_or(0);
    (bytes.len() >= end).then_some((head, end))
}

fn answer(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

async fn write(stream: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn serve(
    stream: TcpStream,
    seen: Rc<RefCell<Seen>>,
    completion: Rc<Vec<u8>>,
    delay: Duration,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = Vec::with_capacity(4096);
    loop {
        while let Some((head, end)) = whole(&bytes) {
            if bytes.starts_with(b"GET") {
                let told = {
                    let seen = seen.borrow();
                    serde_json::json!({ "requests": seen.requests, "first": seen.first }).to_string()
                };
                write(&stream, &answer(&told)).await?;
            } else {
                {
                    let mut seen = seen.borrow_mut();
                    seen.requests += 1;
                    if seen.requests == 1 {
                        seen.first = String::from_utf8_lossy(bytes.get(head..end).unwrap_or_default()).into_owned();
                    }
                }
                tokio::time::sleep(delay).await;
                write(&stream, &completion).await?;
            }
            bytes.drain(..end);
        }
        stream.readable().await?;
        match stream.try_read_buf(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

fn main() -> std::io::Result<()> {
    let delay =
        std::env::args().nth(1).and_then(|text| text.parse().ok()).map_or(Duration::ZERO, Duration::from_millis);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let socket = TcpSocket::new_v4()?;
        socket.bind(([127, 0, 0, 1], 0).into())?;
        let listener: TcpListener = socket.listen(BACKLOG)?;
        println!("http://{}", listener.local_addr()?);
        let (seen, completion) = (Rc::new(RefCell::new(Seen::default())), Rc::new(answer(COMPLETION)));
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::task::spawn_local(serve(stream, seen.clone(), completion.clone(), delay));
        }
    })
}
