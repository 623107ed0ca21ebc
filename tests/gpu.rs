//! The GPU engine against the CPU engine, on random shapes and weights: on whatever adapter there is, in software too
//! (Debian: `mesa-vulkan-drivers`). Where there is none these tests say so and pass, unless `AUTOANNOTATOR_GPU=required`.

#![cfg(feature = "gpu")]

#[cfg(feature = "gpu-burn")]
use autoannotator::slm::burn::BurnEngine;
use autoannotator::slm::cpu::{CpuEncoder, CpuEngine};
use autoannotator::slm::gpu::{Gpu, GpuEngine, GpuOptions, Shape};
use autoannotator::slm::pack::PackedWeights;
use autoannotator::slm::weights::{EncoderWeights, Head, LayerWeights, Pooling};
use autoannotator::slm::{Batch, Engine, SlmError};
use pollster::block_on;
use random::{Random, cases, dequantized};

mod common;
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

/// The cases that the kernels take.
fn taken() -> impl Iterator<Item = (Random, EncoderWeights)> {
    cases().filter(|(_, weights)| takes(weights))
}

/// Whether the kernels take it: heads of a multiple of four values.
fn takes(weights: &EncoderWeights) -> bool {
    (weights.config.hidden_size / weights.config.num_attention_heads).is_multiple_of(4)
}

fn head(random: &mut Random, weights: &EncoderWeights) -> Head {
    let linear = random.linear(2, weights.config.hidden_size);
    Head { pooling: Pooling::Mean, dense: None, linear, temperature: 1.0 }
}

/// The first case on the GPU, with some texts.
fn loaded(gpu: &Gpu, count: usize) -> (GpuEngine, Vec<Vec<u32>>) {
    let (mut random, weights) = taken().next().expect("a case");
    let (head, texts) = (head(&mut random, &weights), random.texts(&weights.config, count));
    (block_on(GpuEngine::new(gpu, PackedWeights::F32(weights), &head)).expect("loaded"), texts)
}

fn farthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().chain(b).all(|value| value.is_finite()), "not a number");
    a.iter().zip(b).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

#[test]
fn logits_are_those_of_the_cpu_engine() {
    let Some(gpu) = gpu() else { return };
    let mut count = 0;
    for (mut random, weights) in taken() {
        let texts = random.texts(&weights.config, 9);
        let batch = Batch::new(texts.iter().map(Vec::as_slice));
        // More labels than a workgroup has invocations, too.
        for (pooling, labels) in [(Pooling::Mean, 3), (Pooling::Cls, 77)] {
            let linear = random.linear(labels, weights.config.hidden_size);
            let head = Head { pooling, dense: None, linear, temperature: 1.0 };
            let expected = CpuEngine::new(&weights, head.clone()).logits(&batch).expect("cpu");
            let mut engine =
                block_on(GpuEngine::new(&gpu, PackedWeights::F32(weights.clone()), &head)).expect("loaded");
            let found = block_on(engine.logits(&batch)).expect("gpu");
            let off = farthest(&found, &expected);
            assert!(off < 1e-4, "{:?}: {off}", weights.config);
            let expected = CpuEngine::new(&weights, head.clone()).pooled(&batch).expect("cpu");
            let off = farthest(&block_on(engine.pooled(&batch)).expect("gpu"), &expected);
            assert!(off < 1e-4, "pooled {:?}: {off}", weights.config);
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
fn every_shape_of_the_products_gives_the_same() {
    let Some(gpu) = gpu() else { return };
    for (mut random, weights) in taken().take(4) {
        let texts = random.texts(&weights.config, 20);
        let batch = Batch::new(texts.iter().map(Vec::as_slice));
        let head = head(&mut random, &weights);
        for packed in [PackedWeights::F32(weights.clone()), PackedWeights::Int8(weights.quantize())] {
            let mut engine = block_on(GpuEngine::new(&gpu, packed, &head)).expect("loaded");
            let first = block_on(engine.logits(&batch)).expect("gpu");
            for shape in Shape::ALL {
                engine.set_shape(shape);
                let off = farthest(&block_on(engine.logits(&batch)).expect("gpu"), &first);
                assert!(off < 1e-4, "{shape:?} {:?}: {off}", weights.config);
            }
        }
    }
}

/// Inputs are rounded in the packed shape, as the CPU engine does it with int8, but in smaller groups.
#[test]
fn the_packed_shape_is_no_farther_off_than_the_cpu_engine() {
    let Some(gpu) = gpu() else { return };
    for (mut random, weights) in taken().take(6) {
        let texts = random.texts(&weights.config, 20);
        let batch = Batch::new(texts.iter().map(Vec::as_slice));
        let head = head(&mut random, &weights);
        let int8 = weights.quantize();
        let exact = CpuEngine::new(&dequantized(&int8, &weights), head.clone()).logits(&batch).expect("cpu");
        let mut cpu = CpuEngine::from_encoder(CpuEncoder::from_int8(int8.clone(), None), head.clone());
        let most = farthest(&cpu.logits(&batch).expect("cpu"), &exact);
        let mut engine = block_on(GpuEngine::new(&gpu, PackedWeights::Int8(int8), &head)).expect("loaded");
        let unrounded = block_on(engine.logits(&batch)).expect("gpu");
        assert!(engine.takes(Shape::Packed), "{} has no packed products", gpu.describe());
        engine.set_shape(Shape::Packed);
        let found = block_on(engine.logits(&batch)).expect("gpu");
        assert!(found != unrounded, "the shape was not taken");
        let off = farthest(&found, &exact);
        assert!(off < 1.5 * most + 1e-4, "{:?}: {off}, the CPU engine {most}", weights.config);
        for (ids, row) in texts.iter().zip(found.chunks_exact(2)).step_by(5) {
            assert_eq!(block_on(engine.logits(&Batch::new([&ids[..]]))).expect("logits"), row);
        }
    }
}

#[test]
fn weights_that_are_exact_in_f16_lie_in_f16() {
    let Some(gpu) = gpu() else { return };
    for (mut random, mut weights) in taken().take(4) {
        let texts = random.texts(&weights.config, 20);
        let batch = Batch::new(texts.iter().map(Vec::as_slice));
        let head = head(&mut random, &weights);
        for layer in &mut weights.layers {
            let LayerWeights { query, key, value, output, up, down, .. } = layer;
            for map in [query, key, value, output, up, down] {
                map.weight.iter_mut().for_each(|value| *value = half::f16::from_f32(*value).to_f32());
            }
        }
        let expected = CpuEngine::new(&weights, head.clone()).logits(&batch).expect("cpu");
        let mut engine = block_on(GpuEngine::new(&gpu, PackedWeights::F32(weights), &head)).expect("loaded");
        assert_eq!(engine.precision(), if gpu.reads_f16() { "f16" } else { "f32" });
        for shape in Shape::ALL {
            engine.set_shape(shape);
            let off = farthest(&block_on(engine.logits(&batch)).expect("gpu"), &expected);
            assert!(off < 1e-4, "{shape:?}: {off}");
        }
    }
}

#[cfg(feature = "gpu-burn")]
#[test]
fn burn_wgpu_computes_on_the_same_device() {
    let Some(gpu) = gpu() else { return };
    for (mut random, weights) in taken().take(2) {
        let texts = random.texts(&weights.config, 5);
        let batch = Batch::new(texts.iter().map(Vec::as_slice));
        let head = head(&mut random, &weights);
        let mut other = BurnEngine::new(&weights, &head, &gpu.burn().expect("shared"));
        let mut engine = block_on(GpuEngine::new(&gpu, PackedWeights::F32(weights), &head)).expect("loaded");
        for _ in 0..2 {
            let found = block_on(engine.logits(&batch)).expect("gpu");
            let off = farthest(&found, &other.logits(&batch).expect("burn"));
            assert!(off < 1e-4, "{off}");
        }
    }
    assert_eq!(gpu.burn().expect("shared"), gpu.burn().expect("the same"));
}

#[test]
fn tuning_leaves_the_logits_as_they_are() {
    let Some(gpu) = gpu() else { return };
    let (mut engine, texts) = loaded(&gpu, 3);
    let batch = Batch::new(texts.iter().map(Vec::as_slice));
    let before = block_on(engine.logits(&batch)).expect("logits");
    let start = std::time::Instant::now();
    block_on(engine.tune(|| start.elapsed().as_secs_f64() * 1000.0)).expect("tuned");
    assert!(farthest(&block_on(engine.logits(&batch)).expect("logits"), &before) < 1e-4);
}

#[test]
fn a_batch_longer_than_a_forward_takes_several_and_a_text_does_not_depend_on_the_others() {
    let Some(gpu) = gpu() else { return };
    let (mut engine, texts) = loaded(&gpu, 160);
    assert!(texts.iter().map(Vec::len).sum::<usize>() > 2048);
    engine.set_shape(Shape::Wide);
    let together = block_on(engine.logits(&Batch::new(texts.iter().map(Vec::as_slice)))).expect("logits");
    for (ids, row) in texts.iter().zip(together.chunks_exact(2)).step_by(10) {
        let alone = block_on(engine.logits(&Batch::new([&ids[..]]))).expect("logits");
        assert_eq!(alone, row, "a text depends on its batch");
    }
}

#[test]
fn what_the_kernels_cannot_take_is_left_to_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let (mut random, weights) = cases().find(|(_, weights)| !takes(weights)).expect("a case");
    let head = head(&mut random, &weights);
    let error = block_on(GpuEngine::new(&gpu, PackedWeights::F32(weights), &head)).err().expect("refused");
    assert!(matches!(error, SlmError::NoGpu(_)), "{error}");
}

/// With burn-wgpu a device has its adapter's limits, which may be larger.
#[cfg(not(feature = "gpu-burn"))]
#[test]
fn what_does_not_fit_is_an_error_and_others_go_on() {
    let Some(gpu) = gpu() else { return };
    let (mut engine, texts) = loaded(&gpu, 3);
    let batch = Batch::new(texts.iter().map(Vec::as_slice));
    let before = block_on(engine.logits(&batch)).expect("logits");
    let (mut random, mut weights) = taken().next().expect("a case");
    // Of a forward's rows, more than a binding may have.
    let (hidden, inner) = (weights.config.hidden_size, 20_000);
    weights.config.intermediate_size = inner;
    for layer in &mut weights.layers {
        (layer.up, layer.down) = (random.linear(inner, hidden), random.linear(hidden, inner));
    }
    let head = head(&mut random, &weights);
    let error = block_on(GpuEngine::new(&gpu, PackedWeights::F32(weights), &head)).err().expect("refused");
    assert!(matches!(error, SlmError::Gpu(_)), "{error}");
    assert_eq!(block_on(engine.logits(&batch)).expect("as before"), before);
    loaded(&gpu, 1);
}

#[test]
fn a_lost_device_is_an_error_and_nothing_hangs() {
    let Some(gpu) = gpu() else { return };
    let (mut engine, texts) = loaded(&gpu, 3);
    let batch = Batch::new(texts.iter().map(Vec::as_slice));
    block_on(engine.logits(&batch)).expect("logits");
    gpu.destroy();
    for _ in 0..2 {
        let error = block_on(engine.logits(&batch)).expect_err("lost");
        assert!(matches!(error, SlmError::Gpu(_)), "{error}");
    }
}

/// `annotate` on the GPU says what the CPU says, to its rounding; with `auto` an adapter in software is left alone, and no row
/// is lost by it.
#[test]
fn annotate_computes_on_the_device_that_was_chosen() {
    let Some(gpu) = gpu() else { return };
    let bench = common::Bench::new();
    let mut random = common::Random(3);
    let word =
        |bits: u64| (0..1 + bits % 7).map(|at| char::from(b'a' + (bits >> (4 * at) & 15) as u8)).collect::<String>();
    let rows: String = (0..60).map(|_| format!("{} {}\n", word(random.bits()), word(random.bits()))).collect();
    bench.file("in.csv", format!("text\n{rows}"));
    let on = |device: &str| {
        let out = format!("{device}.jsonl");
        let mut command = bench.command("in.csv", &out, &["--device", device]);
        let output = command.env("RUST_LOG", "autoannotator=info").output().expect("the binary");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        (common::read(&bench.path(&out)), said)
    };
    let (on_cpu, _) = on("cpu");
    let (on_gpu, said) = on("gpu");
    assert!(said.contains(&format!("GPU: {}", gpu.describe())), "{said}");
    assert_eq!((on_cpu.len(), on_gpu.len()), (60, 60));
    for (gpu, cpu) in on_gpu.iter().zip(&on_cpu) {
        for slm in common::SLMS {
            assert_eq!(gpu[format!("{slm}.engine")], "gpu");
            // In int8, which the GPU takes in groups of its own.
            for label in ["negative", "neutral", "positive"] {
                let of = |row: &serde_json::Value| row[format!("{slm}.p.{label}")].as_f64().expect("a probability");
                assert!((of(gpu) - of(cpu)).abs() < 0.2, "{slm}: {gpu} {cpu}");
            }
        }
    }
    if gpu.is_software() {
        let (by_itself, said) = on("auto");
        assert!(said.contains("computes on the CPU"), "{said}");
        assert_eq!(by_itself, on_cpu);
    }
}
