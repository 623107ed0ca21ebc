//! Our side of `make bench-native`: runs a packed SLM on the batches that come on stdin, so that the bench can take turns
//! with its peer.
//!
//! `bench_native THREADS TOKENIZER SHARD...`; a line in, a line out, both JSON: `{"text": ".."}` gives `{"ids": [..]}`, and
//! `{"texts": [[ids of a text], ..], "times": n}` gives `{"seconds": median of n runs, "logits": [..]}`.

use anyhow::{Context, Result};
use autoannotator::slm::{Batch, model::Slm};
use serde::Deserialize;
use serde_json::json;
use std::io::Write;
use std::time::Instant;

#[derive(Deserialize)]
#[serde(untagged)]
enum Request {
    Tokenize { text: String },
    Run { texts: Vec<Vec<u32>>, times: usize },
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let threads = args.next().and_then(|threads| threads.parse().ok()).context("the first argument is a number")?;
    let tokenizer = std::fs::read(args.next().context("the second argument is a tokenizer.json")?)?;
    let mut packed = Vec::new();
    for shard in args {
        packed.extend(std::fs::read(&shard).with_context(|| format!("{shard} cannot be read"))?);
    }
    let mut slm = Slm::load(&packed, &tokenizer, threads)?;
    for line in std::io::stdin().lines() {
        let answer = match serde_json::from_str(&line?)? {
            Request::Tokenize { text } => json!({ "ids": slm.tokenize(&text)?.ids }),
            Request::Run { texts, times } => run(&mut slm, &texts, times)?,
        };
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn run(slm: &mut Slm, texts: &[Vec<u32>], times: usize) -> Result<serde_json::Value> {
    let batch = Batch::new(texts.iter().map(Vec::as_slice));
    let mut seconds = Vec::with_capacity(times);
    let mut logits = Vec::new();
    for _ in 0..times {
        let start = Instant::now();
        logits = pollster::block_on(slm.logits_of_tokens(&batch))?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(json!({ "seconds": seconds.get(times / 2), "logits": logits }))
}
