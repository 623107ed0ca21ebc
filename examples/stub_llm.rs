//! An OpenAI-compatible stub LLM for tests of the page: `stub_llm [PORT] [FALLBACK] [KEYWORD=LABEL]...`
//!
//! It prints its address, labels by keyword, and tells at `GET /log` everything it was asked.

#[path = "../tests/support/stub_llm.rs"]
mod stub_llm;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let port = args.next().and_then(|port| port.parse().ok()).unwrap_or(0);
    let fallback = args.next().unwrap_or_else(|| "neutral".into());
    let given: Vec<String> = args.collect();
    let pairs: Vec<(&str, &str)> = given.iter().filter_map(|pair| pair.split_once('=')).collect();
    let stub = stub_llm::Stub::new(&pairs, &fallback, false);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, stub.router()).await
}
