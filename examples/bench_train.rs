//! Our side of `make bench-train`: trains the upper layers of a base by LoRA on the batches that come on stdin, so that the
//! bench can take turns with its peer.
//!
//! `bench_train BASE LAYERS`; the first line is `{"prepare": [[[ids of a text], ..], ..]}`, whose batches' frozen layers are
//! computed and kept, as a training does; each later line `{"steps": n}` gives `{"seconds": median of n steps, "loss": mean}`.

use anyhow::{Context, Result, bail};
use autoannotator::hub::{Home, base};
use autoannotator::slm::burn::{Classifier, Training};
use autoannotator::slm::cpu::backward::{Step, Trainee};
use autoannotator::slm::weights::{Head, Linear, Pooling};
use autoannotator::tune::activations::{Activations, Frozen};
use burn::optim::{AdamWConfig, ModuleOptimizer};
use burn::tensor::Device;
use indicatif::ProgressBar;
use serde::Deserialize;
use serde_json::json;
use std::io::Write;
use std::time::Instant;

const LABELS: usize = 3;

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Request {
    Prepare(Vec<Vec<Vec<u32>>>),
    Steps(usize),
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let id = args.next().context("the first argument is a base")?;
    let layers: usize = args.next().and_then(|layers| layers.parse().ok()).context("the second is a number")?;
    let weights = base(&id, &Home::find(None)?, &ProgressBar::hidden())?.weights()?;
    let first = weights.layers.len() - layers;
    let width = weights.config.hidden_size;
    let linear = Linear { weight: vec![0.0; LABELS * width], bias: vec![0.0; LABELS], outputs: LABELS, inputs: width };
    let head = Head { pooling: Pooling::Mean, dense: None, linear, temperature: 1.0 };
    let training = Training::Lora { rank: 16, alpha: 32.0, embedding_rank: 0, seed: 0 };
    let mut model = Classifier::new(&weights, &head, first, training, 0.1, &Device::flex().autodiff());
    let mut optimizer: ModuleOptimizer = AdamWConfig::new().with_weight_decay(0.01).init();
    let mut trainee = Trainee::new(&weights, first, Pooling::Mean);
    let mut frozen = Frozen::new(&weights, first);
    let mut batches: Vec<(Activations, Vec<usize>)> = Vec::new();
    let mut step = 0;
    for line in std::io::stdin().lines() {
        let answer = match serde_json::from_str(&line?)? {
            Request::Prepare(texts) => {
                for batch in texts {
                    let lengths = batch.iter().map(Vec::len).collect();
                    batches.push((frozen.activations(&batch, &ProgressBar::hidden())?, lengths));
                }
                json!({ "batches": batches.len() })
            }
            Request::Steps(_) if batches.is_empty() => bail!("nothing was prepared"),
            Request::Steps(steps) => {
                let (mut seconds, mut losses) = (Vec::new(), 0.0);
                for _ in 0..steps {
                    let start = Instant::now();
                    let (activations, lengths) = &batches[step % batches.len()];
                    let texts: Vec<usize> = (0..lengths.len()).collect();
                    let targets: Vec<f32> = texts.iter().flat_map(|text| one_hot(text % LABELS)).collect();
                    let seeds: Vec<u64> = texts.iter().map(|text| (step * 1000 + text) as u64).collect();
                    let hidden = activations.gather(&texts);
                    let total = lengths.len() as f32;
                    let job = Step { hidden: &hidden, lengths, targets: &targets, total, seeds: &seeds, dropout: 0.1 };
                    let (loss, gradient) = trainee.gradient(&model.parameters(), &job);
                    let gradients = model.gradients(gradient);
                    model = optimizer.step(1e-4, model, gradients);
                    seconds.push(start.elapsed().as_secs_f64());
                    losses += loss / steps as f32;
                    step += 1;
                }
                seconds.sort_by(f64::total_cmp);
                json!({ "seconds": seconds[steps / 2], "loss": losses })
            }
        };
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn one_hot(label: usize) -> [f32; LABELS] {
    std::array::from_fn(|at| f32::from(u8::from(at == label)))
}
