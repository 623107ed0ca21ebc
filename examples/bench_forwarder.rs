//! What a proxy cannot be cheaper than with these libraries: `bench_forwarder URL` hands each JSON body on to the URL and its
//! answer back, and does nothing else. `make bench-serve` measures the server against it.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::Value;

type Upstream = (reqwest::Client, reqwest::Url);

async fn forward(State((http, url)): State<Upstream>, Json(body): Json<Value>) -> Result<Response, StatusCode> {
    let failed = |_| StatusCode::BAD_GATEWAY;
    let answer = http.post(url).json(&body).send().await.map_err(failed)?;
    let (status, bytes) = (answer.status(), answer.bytes().await.map_err(failed)?);
    Ok((status, [(header::CONTENT_TYPE, "application/json")], bytes).into_response())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url: reqwest::Url = std::env::args().nth(1).ok_or("bench_forwarder URL")?.parse()?;
    let http = reqwest::Client::builder().no_proxy().timeout(std::time::Duration::from_secs(60)).build()?;
    let router = Router::new().route("/v1/chat/completions", post(forward)).with_state((http, url));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, router).await?)
}
