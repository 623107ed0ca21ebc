//! The CPU engine against a slow, obvious f64 implementation of the encoder, on random shapes and weights, for every
//! instruction set of this machine; and the independence of a text from its batch, bit for bit.

use autoannotator::slm::config::relative_position_bucket;
use autoannotator::slm::cpu::{CpuEncoder, CpuEngine, Isa};
use autoannotator::slm::quant::Int8Matrix;
use autoannotator::slm::weights::{EncoderWeights, Head, Linear, Norm, Pooling};
use autoannotator::slm::{Batch, Engine};
use random::{cases, dequantized};

#[path = "common/random.rs"]
mod random;

type Rows = Vec<Vec<f64>>;

fn linear(x: &Rows, map: &Linear) -> Rows {
    let one = |row: &Vec<f64>| {
        (0..map.outputs)
            .map(|o| {
                let dot: f64 = (0..map.inputs).map(|i| row[i] * f64::from(map.weight[o * map.inputs + i])).sum();
                dot + f64::from(map.bias[o])
            })
            .collect()
    };
    x.iter().map(one).collect()
}

fn norm(x: &mut Rows, norm: &Norm, epsilon: f32) {
    for row in x {
        let n = row.len() as f64;
        let mean = row.iter().sum::<f64>() / n;
        let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
        for (i, v) in row.iter_mut().enumerate() {
            *v = (*v - mean) / (variance + f64::from(epsilon)).sqrt() * f64::from(norm.gamma[i])
                + f64::from(norm.beta[i]);
        }
    }
}

fn add(x: &Rows, y: &Rows) -> Rows {
    x.iter().zip(y).map(|(x, y)| x.iter().zip(y).map(|(x, y)| x + y).collect()).collect()
}

/// GELU with erf by its Maclaurin series.
fn gelu(x: f64) -> f64 {
    let z = x * std::f64::consts::FRAC_1_SQRT_2;
    if z.abs() > 5.0 {
        return x.max(0.0);
    }
    let (mut term, mut sum) = (z, z);
    for n in 1..200 {
        term *= -z * z / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    x / 2.0 * (1.0 + sum * std::f64::consts::FRAC_2_SQRT_PI)
}

/// The hidden states of one text after `layers` layers, as the papers write them.
fn reference(w: &EncoderWeights, ids: &[u32], layers: usize) -> Rows {
    let config = &w.config;
    let (h, size) = (config.hidden_size, config.head_size());
    let at = |table: &[f32], row: usize, i: usize| table.get(row * h + i).map_or(0.0, |v| f64::from(*v));
    let embed = |(position, id): (usize, &u32)| {
        let position = position + config.first_position();
        let of = |i| at(&w.words, *id as usize, i) + at(&w.positions, position, i) + at(&w.token_types, 0, i);
        (0..h).map(of).collect()
    };
    let mut x: Rows = ids.iter().enumerate().map(embed).collect();
    norm(&mut x, &w.embedding_norm, config.layer_norm_eps);
    for layer in &w.layers[..layers] {
        let (q, k, v) = (linear(&x, &layer.query), linear(&x, &layer.key), linear(&x, &layer.value));
        let mut context = vec![vec![0.0; h]; x.len()];
        for head in 0..config.num_attention_heads {
            let columns = head * size..(head + 1) * size;
            for i in 0..x.len() {
                let score = |j: usize| {
                    let dot: f64 = columns.clone().map(|c| q[i][c] * k[j][c]).sum();
                    let bias = if w.relative_bias.is_empty() {
                        0.0
                    } else {
                        let bucket =
                            relative_position_bucket(j as i64 - i as i64, config.relative_attention_num_buckets);
                        f64::from(w.relative_bias[bucket * config.num_attention_heads + head])
                    };
                    (dot / (size as f64).sqrt() + bias).exp()
                };
                let scores: Vec<f64> = (0..x.len()).map(score).collect();
                let sum: f64 = scores.iter().sum();
                for c in columns.clone() {
                    context[i][c] = (0..x.len()).map(|j| scores[j] / sum * v[j][c]).sum();
                }
            }
        }
        let mut y = add(&linear(&context, &layer.output), &x);
        norm(&mut y, &layer.attention_norm, config.layer_norm_eps);
        let mut inner = linear(&y, &layer.up);
        inner.iter_mut().flatten().for_each(|v| *v = gelu(*v));
        x = add(&linear(&inner, &layer.down), &y);
        norm(&mut x, &layer.output_norm, config.layer_norm_eps);
    }
    x
}

#[test]
fn hidden_states_are_those_of_the_plain_implementation() {
    for (mut random, weights) in cases() {
        let texts = random.texts(&weights.config, 3);
        let batch = Batch::new(texts.iter().map(Vec::as_slice));
        for layers in 0..=weights.layers.len() {
            let expected: Vec<f64> = texts.iter().flat_map(|ids| reference(&weights, ids, layers)).flatten().collect();
            for isa in Isa::available() {
                let found = CpuEncoder::with_isa(&weights, Some(isa)).hidden(&batch, layers).expect("hidden");
                assert_eq!(found.len(), expected.len());
                for (found, expected) in found.iter().zip(&expected) {
                    let off = (f64::from(*found) - expected).abs();
                    assert!(off < 1e-4, "{isa:?} {:?} layers {layers}: {found} {expected}", weights.config);
                }
            }
        }
    }
}

#[test]
fn a_text_is_the_same_bits_alone_in_any_batch_and_on_any_number_of_threads() {
    for (mut random, weights) in cases() {
        let texts = random.texts(&weights.config, 17);
        let layers = weights.layers.len();
        for isa in Isa::available() {
            let mut one = CpuEncoder::with_isa(&weights, Some(isa)).threads(1);
            let alone: Vec<f32> =
                texts.iter().flat_map(|ids| one.hidden(&Batch::new([&ids[..]]), layers).expect("alone")).collect();
            let batch = Batch::new(texts.iter().map(Vec::as_slice));
            for threads in [1, 2, 5] {
                let together =
                    CpuEncoder::with_isa(&weights, Some(isa)).threads(threads).hidden(&batch, layers).expect("batch");
                let same = together.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same && together.len() == alone.len(), "{isa:?} {threads} {:?}", weights.config);
            }
        }
    }
}

#[test]
fn packing_by_value_or_reference_gives_the_same_bits() {
    let (mut random, weights) = cases().next().expect("a case");
    let texts = random.texts(&weights.config, 2);
    let batch = Batch::new(texts.iter().map(Vec::as_slice));
    let by_reference = CpuEncoder::new(&weights).hidden(&batch, 1).expect("hidden");
    assert_eq!(CpuEncoder::from_weights(weights).hidden(&batch, 1).expect("hidden"), by_reference);
}

#[test]
fn logits_are_the_head_on_the_pooled_states() {
    for (mut random, weights) in cases().take(6) {
        let texts = random.texts(&weights.config, 4);
        let batch = Batch::new(texts.iter().map(Vec::as_slice));
        for pooling in [Pooling::Mean, Pooling::Cls] {
            let map = random.linear(3, weights.config.hidden_size);
            let head = Head { pooling, dense: None, linear: map, temperature: 1.0 };
            let found = CpuEngine::new(&weights, head.clone()).logits(&batch).expect("logits");
            for (ids, found) in texts.iter().zip(found.chunks_exact(3)) {
                let states = reference(&weights, ids, weights.layers.len());
                let taken = if pooling == Pooling::Mean { states.len() } else { 1 };
                let mean = |i: usize| states[..taken].iter().map(|row| row[i]).sum::<f64>() / taken as f64;
                let pooled = vec![(0..weights.config.hidden_size).map(mean).collect()];
                for (found, expected) in found.iter().zip(&linear(&pooled, &head.linear)[0]) {
                    assert!((f64::from(*found) - expected).abs() < 1e-4, "{found} {expected}");
                }
            }
        }
    }
}

#[test]
fn foreign_input_is_refused_and_an_empty_batch_is_empty() {
    let (_, weights) = cases().next().expect("a case");
    let mut encoder = CpuEncoder::new(&weights);
    let (vocabulary, longest) = (weights.config.vocab_size as u32, weights.config.max_length());
    assert!(encoder.hidden(&Batch::new([&[vocabulary][..]]), 1).is_err());
    assert!(encoder.hidden(&Batch::new([&[][..]]), 1).is_err());
    assert!(encoder.hidden(&Batch::new([&vec![0; longest + 1][..]]), 1).is_err());
    assert!(encoder.hidden(&Batch { ids: vec![0, 0], lengths: vec![1] }, 1).is_err());
    assert!(encoder.hidden(&Batch::new([&[0][..]]), 99).is_err());
    assert!(encoder.hidden(&Batch::new([&vec![0; longest][..]]), 1).is_ok());
    assert_eq!(encoder.hidden(&Batch::default(), 1).expect("empty"), Vec::<f32>::new());
}

#[test]
fn logits_that_are_not_finite_are_an_error() {
    let (mut random, weights) = cases().next().expect("a case");
    let linear = random.linear(2, weights.config.hidden_size);
    let mut head = Head { pooling: Pooling::Mean, dense: None, linear, temperature: 1.0 };
    head.linear.bias[1] = f32::NAN;
    let error = CpuEngine::new(&weights, head).logits(&Batch::new([&[0][..]])).expect_err("NaN");
    assert!(error.to_string().contains("not finite"));
}

/// Int8 weights by what the texts put into the maps; by rounding alone where that is not built.
fn calibrated(weights: &EncoderWeights, texts: &[Vec<u32>]) -> EncoderWeights<Int8Matrix> {
    #[cfg(feature = "native")]
    return weights.quantize_for(texts, |_| ()).expect("calibrated");
    #[cfg(not(feature = "native"))]
    {
        let _ = texts;
        weights.quantize()
    }
}

#[test]
fn int8_is_near_the_weights_it_stands_for_on_every_instruction_set() {
    for (mut random, weights) in cases() {
        let texts = random.texts(&weights.config, 5);
        let batch = Batch::new(texts.iter().map(Vec::as_slice));
        // In turns by rounding alone, and by what texts put into the maps, which gives multipliers too.
        let int8 = if weights.layers.len() == 1 { weights.quantize() } else { calibrated(&weights, &texts) };
        let layers = weights.layers.len();
        let exact = CpuEncoder::new(&dequantized(&int8, &weights)).hidden(&batch, layers).expect("f32");
        let run = |isa, batch: &Batch| {
            CpuEncoder::from_int8(int8.clone(), Some(isa)).threads(1).hidden(batch, layers).expect("int8")
        };
        let scalar = run(Isa::Scalar, &batch);
        let rms = |a: &[f32], b: &[f32]| {
            (a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / a.len() as f64).sqrt()
        };
        // What is left is the rounding of activations: about a hundredth of states whose spread is about 1.
        assert!(rms(&scalar, &exact) < 0.05, "{:?}: {}", weights.config, rms(&scalar, &exact));
        for isa in Isa::available() {
            let found = run(isa, &batch);
            // The integer sums are the same; f32 differs in its last bits and may round an activation to the next level.
            assert!(rms(&found, &scalar) < 0.02, "{isa:?} {:?}: {}", weights.config, rms(&found, &scalar));
            let alone: Vec<f32> = texts.iter().flat_map(|ids| run(isa, &Batch::new([&ids[..]]))).collect();
            let same = alone.iter().zip(&found).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{isa:?}: a text depends on its batch");
        }
    }
}

#[test]
fn instruction_sets_that_fuse_alike_give_the_same_bits() {
    let fused = [Isa::Avx2, Isa::AvxVnni, Isa::Avx512, Isa::Avx512Vnni, Isa::Neon, Isa::NeonDot];
    let fused: Vec<Isa> = Isa::available().into_iter().filter(|isa| fused.contains(isa)).collect();
    for (mut random, weights) in cases() {
        let texts = random.texts(&weights.config, 5);
        let batch = Batch::new(texts.iter().map(Vec::as_slice));
        let (int8, layers) = (calibrated(&weights, &texts), weights.layers.len());
        let bits = |mut encoder: CpuEncoder| -> Vec<u32> {
            encoder.hidden(&batch, layers).expect("hidden").iter().map(|x| x.to_bits()).collect()
        };
        let all = |isa: &Isa| {
            let f32 = bits(CpuEncoder::with_isa(&weights, Some(*isa)));
            (f32, bits(CpuEncoder::from_int8(int8.clone(), Some(*isa))))
        };
        for pair in fused.windows(2) {
            assert!(all(&pair[0]) == all(&pair[1]), "{pair:?} {:?}", weights.config);
        }
    }
}
