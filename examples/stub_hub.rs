//! A stand-in for the Hugging Face hub, for `make demo-controller`: `stub_hub MODELS [SLM=OWNER/NAME]...`
//!
//! It prints its address. Each SLM of the folder MODELS is served as a repository: packed in f16, with its config.json and
//! tokenizer.json, as it would lie on the hub. Beside them stand models that a plan has to refuse, and one of random weights.
//! Bases come from the data home.

#[path = "../tests/support/stub_hub.rs"]
mod stub_hub;

use anyhow::Context;
use autoannotator::hub::{Home, packing};
use autoannotator::slm::pack::{self, PackedSlm, PackedWeights, Precision};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::path::Path;
use stub_hub::{Hub, Lie, Repo};

/// A config.json as the hub has it.
fn config(slm: &PackedSlm) -> anyhow::Result<Value> {
    let mut config = serde_json::to_value(&slm.meta.config)?;
    let names = slm.meta.labels.iter().enumerate().map(|(id, name)| (id.to_string(), name.as_str().into()));
    config["id2label"] = Value::Object(names.collect());
    config["architectures"] = json!(["AutoannotatorForSequenceClassification"]);
    Ok(config)
}

/// An SLM's repository, packed in f16.
fn repo(id: &str, downloads: u64, slm: &PackedSlm, tokenizer: &[u8]) -> anyhow::Result<Repo> {
    let weights = pack::write(&slm.meta, &slm.weights, &slm.head)?;
    Ok(Repo::new(id, downloads, &config(slm)?, tokenizer, weights))
}

/// The same shape with weights by chance.
fn by_chance(mut slm: PackedSlm) -> PackedSlm {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    if let PackedWeights::F32(weights) = &mut slm.weights {
        for (_, _, values) in weights.tensors_mut() {
            for value in values {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                *value = ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * 0.05;
            }
        }
    }
    slm
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let models = args.next().context("usage: stub_hub MODELS [SLM=OWNER/NAME]...")?;
    let pairs: Vec<String> = args.collect();
    let pairs: Vec<(&str, &str)> = pairs.iter().filter_map(|pair| pair.split_once('=')).collect();
    let home = Home::find(None)?;
    let ids: Vec<String> = pairs.iter().map(|(slm, _)| (*slm).to_owned()).collect();
    packing::pack(Path::new(&models), &ids, &[Precision::F16], &home, &ProgressBar::hidden())?;
    let mut repos = Vec::new();
    for (place, (slm, id)) in pairs.iter().enumerate() {
        let read = packing::read(&home, slm, "f32")?;
        repos.push(repo(id, 1000 - 10 * place as u64, &read.packed, &read.tokenizer)?);
        if place == 0 {
            let owner = id.split_once('/').map_or(*id, |(owner, _)| owner);
            let named = |name: &str| format!("{owner}/{name}");
            let chance = by_chance(read.packed.clone());
            repos.push(repo(&named("random-weights"), 5000, &chance, &read.tokenizer)?);
            let good = repo(&named("x"), 400, &read.packed, &read.tokenizer)?;
            let as_id = |name: &str| good.clone().with("id", named(name).into());
            repos.push(as_id("pickle-only").renamed("model.safetensors", "pytorch_model.bin"));
            repos.push(as_id("gated").with("gated", json!("manual")));
            repos.push(as_id("custom-code").with("config", json!({ "auto_map": { "AutoModel": "modeling.Model" } })));
            repos.push(as_id("no-tokenizer").renamed("tokenizer.json", "notes.txt"));
            repos.push(as_id("wrong-hash").lying(Lie::Hash));
            let mut regression = as_id("regression");
            let mut scores = config(&read.packed)?;
            scores["problem_type"] = json!("regression");
            regression.files.insert("config.json".into(), scores.to_string().into_bytes());
            repos.push(regression);
        }
    }
    let hub = Hub::new(repos);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, hub.router()).await?)
}
