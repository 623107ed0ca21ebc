//! The GPU engine against the CPU engine, on random shapes and weights: on whatever adapter there is, in software too
//! (Debian: `mesa-vulkan-drivers`). Where there is none these tests say so and pass, unless `AUTOANNOTATOR_GPU=required`.

#![cfg(feature = "gpu")]

use autoannotator::slm::cpu::CpuEngine;
use autoannotator::slm::gpu::{Gpu, GpuEngine, GpuOptions};
use autoannotator::slm::pack::PackedWeights;
use autoannotator::slm::weights::{EncoderWeights, Head, Pooling};
use autoannotator::slm::{Batch, Engine, SlmError};
use pollster::block_on;
use random::{Random, cases, dequantized};

#[path = "common/random.rs"]
mod random;

fn gpu() -> Option<Gpu> {
    match block_on(Gpu::request(GpuOptions { software: true })) {
        Ok(gpu) => Some(gpu),
        Err(error) if std::env::var("AUTOANNOTATOR_GPU").is_ok_and(|value| value == "required") => panic!("{error}"),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// The cases that the kernels take: heads of a multiple of four values.
fn taken() -> impl Iterator<Item = (Random, EncoderWeights)> {
    cases().filter(|(_, weights)| (weights.config.hidden_size / weights.config.num_attention_heads).is_multiple_of(4))
}

fn farthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

#[test]
fn logits_are_those_of_the_cpu_engine() {
    let Some(gpu) = gpu() else { return };
    let mut count = 0;
    for (mut random, weights) in taken() {
        let texts = random.texts(&weights.config, 9);
        let batch = Batch::new(texts.iter().map(Vec::as_slice));
        for pooling in [Pooling::Mean, Pooling::Cls] {
            let head = Head { pooling, linear: random.linear(3, weights.config.hidden_size), temperature: 1.0 };
            let expected = CpuEngine::new(&weights, head.clone()).logits(&batch).expect("cpu");
            let mut engine =
                block_on(GpuEngine::new(&gpu, PackedWeights::F32(weights.clone()), &head)).expect("loaded");
            let found = block_on(engine.logits(&batch)).expect("gpu");
            let off = farthest(&found, &expected);
            assert!(off < 1e-4, "{:?}: {off}", weights.config);
            let int8 = weights.quantize();
            let plain = dequantized(&int8, &weights);
            let expected = CpuEngine::new(&plain, head.clone()).logits(&batch).expect("cpu");
            let mut engine = block_on(GpuEngine::new(&gpu, PackedWeights::Int8(int8), &head)).expect("loaded");
            let off = farthest(&block_on(engine.logits(&batch)).expect("gpu"), &expected);
            assert!(off < 0.1, "int8 {:?}: {off}", weights.config);
            count += 1;
        }
    }
    assert!(count > 4);
}

#[test]
fn a_lost_device_is_an_error_and_nothing_hangs() {
    let Some(gpu) = gpu() else { return };
    let (mut random, weights) = taken().next().expect("a case");
    let head = Head { pooling: Pooling::Mean, linear: random.linear(2, weights.config.hidden_size), temperature: 1.0 };
    let texts = random.texts(&weights.config, 3);
    let batch = Batch::new(texts.iter().map(Vec::as_slice));
    let mut engine = block_on(GpuEngine::new(&gpu, PackedWeights::F32(weights), &head)).expect("loaded");
    block_on(engine.logits(&batch)).expect("logits");
    gpu.destroy();
    for _ in 0..2 {
        let error = block_on(engine.logits(&batch)).expect_err("lost");
        assert!(matches!(error, SlmError::Gpu(_)), "{error}");
    }
}
