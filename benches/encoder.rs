//! Two layers of the CPU encoder at the widths of MPNet and of MiniLM: 8 texts of 30 tokens, one thread, every instruction
//! set. The throughput is in operations: read `Gelem/s` as GFLOP/s.

use autoannotator::slm::Batch;
use autoannotator::slm::config::{Architecture, EncoderConfig};
use autoannotator::slm::cpu::{CpuEncoder, Isa};
use autoannotator::slm::weights::{EncoderWeights, Extras, LayerWeights, Linear, Norm};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::time::Duration;

const LAYERS: usize = 2;
const TEXTS: usize = 8;
const TOKENS: usize = 30;

/// Repeatable numbers in -0.05..0.05.
fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 1000) as f32 * 1e-4 - 0.05).collect()
}

fn linear(outputs: usize, inputs: usize) -> Linear {
    Linear { weight: values(outputs * inputs), bias: values(outputs), outputs, inputs }
}

fn weights(heads: usize, h: usize) -> EncoderWeights {
    let norm = || Norm { gamma: vec![1.0; h], beta: vec![0.0; h] };
    let layer = || LayerWeights {
        query: linear(h, h),
        key: linear(h, h),
        value: linear(h, h),
        output: linear(h, h),
        attention_norm: norm(),
        up: linear(4 * h, h),
        down: linear(h, 4 * h),
        output_norm: norm(),
    };
    EncoderWeights {
        config: EncoderConfig {
            architecture: Architecture::Bert,
            vocab_size: 1000,
            hidden_size: h,
            num_hidden_layers: LAYERS,
            num_attention_heads: heads,
            intermediate_size: 4 * h,
            max_position_embeddings: 512,
            type_vocab_size: 1,
            layer_norm_eps: 1e-5,
            ..EncoderConfig::default()
        },
        words: values(1000 * h),
        positions: values(512 * h),
        token_types: values(h),
        embedding_norm: norm(),
        layers: (0..LAYERS).map(|_| layer()).collect(),
        relative_bias: Vec::new(),
        extras: Extras::default(),
    }
}

fn encoder(criterion: &mut Criterion) {
    let ids: Vec<u32> = (0..TOKENS as u32).collect();
    let batch = Batch::new((0..TEXTS).map(|_| ids.as_slice()));
    for (name, heads, hidden) in [("mpnet", 12, 768), ("minilm", 12, 384)] {
        let weights = weights(heads, hidden);
        let mut group = criterion.benchmark_group(name);
        // 2 operations a weight and token, and twice a product of all pairs of a text's tokens.
        let operations = LAYERS * TEXTS * TOKENS * (24 * hidden * hidden + 4 * TOKENS * hidden);
        group.throughput(Throughput::Elements(operations as u64));
        for isa in Isa::available() {
            let mut encoder = CpuEncoder::with_isa(&weights, Some(isa)).threads(1);
            group.bench_function(format!("{isa:?}"), |b| b.iter(|| encoder.hidden(&batch, LAYERS)));
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = encoder
}
criterion_main!(benches);
