//! Encoders of random shapes and weights.

#![allow(dead_code, reason = "each test file uses its part")]

use autoannotator::slm::config::{Architecture, EncoderConfig};
use autoannotator::slm::quant::Int8Matrix;
use autoannotator::slm::weights::{EncoderWeights, Extras, LayerWeights, Linear, Norm};

/// A small generator of repeatable numbers (xorshift).
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number in `low..=high`.
    pub fn size(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() >> 11) as usize % (high - low + 1)
    }

    /// Numbers within `spread` of `middle`.
    pub fn values(&mut self, n: usize, middle: f32, spread: f32) -> Vec<f32> {
        (0..n).map(|_| middle + spread * ((self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0)).collect()
    }

    /// A linear map.
    pub fn linear(&mut self, outputs: usize, inputs: usize) -> Linear {
        let spread = 2.0 / (inputs as f32).sqrt();
        Linear {
            weight: self.values(outputs * inputs, 0.0, spread),
            bias: self.values(outputs, 0.0, 0.5),
            outputs,
            inputs,
        }
    }

    /// A LayerNorm.
    pub fn norm(&mut self, n: usize) -> Norm {
        Norm { gamma: self.values(n, 1.0, 0.5), beta: self.values(n, 0.0, 0.3) }
    }

    /// An encoder.
    pub fn weights(&mut self, architecture: Architecture) -> EncoderWeights {
        let heads = self.size(1, 4);
        let bert = architecture == Architecture::Bert;
        let config = EncoderConfig {
            architecture,
            vocab_size: self.size(5, 60),
            hidden_size: heads * self.size(1, 40),
            num_hidden_layers: self.size(1, 3),
            num_attention_heads: heads,
            intermediate_size: self.size(1, 430),
            max_position_embeddings: 180,
            type_vocab_size: if bert { 2 } else { 0 },
            layer_norm_eps: 1e-5,
            relative_attention_num_buckets: if bert { 0 } else { 32 },
            pad_token_id: 1,
            ..EncoderConfig::default()
        };
        let (h, i) = (config.hidden_size, config.intermediate_size);
        EncoderWeights {
            words: self.values(config.vocab_size * h, 0.0, 1.0),
            positions: self.values(config.max_position_embeddings * h, 0.0, 1.0),
            token_types: self.values(config.type_vocab_size * h, 0.0, 1.0),
            embedding_norm: self.norm(h),
            layers: (0..config.num_hidden_layers)
                .map(|_| LayerWeights {
                    query: self.linear(h, h),
                    key: self.linear(h, h),
                    value: self.linear(h, h),
                    output: self.linear(h, h),
                    attention_norm: self.norm(h),
                    up: self.linear(i, h),
                    down: self.linear(h, i),
                    output_norm: self.norm(h),
                })
                .collect(),
            relative_bias: self.values(config.relative_attention_num_buckets * heads, 0.0, 1.0),
            extras: Extras::default(),
            config,
        }
    }

    /// Texts as token ids, some as long as the model takes.
    pub fn texts(&mut self, config: &EncoderConfig, count: usize) -> Vec<Vec<u32>> {
        (0..count)
            .map(|_| {
                let longest = if self.size(0, 4) == 0 { config.max_length() } else { 40 };
                let length = self.size(1, longest);
                (0..length).map(|_| self.size(0, config.vocab_size - 1) as u32).collect()
            })
            .collect()
    }
}

/// Encoders of random shapes, with what makes their texts.
pub fn cases() -> impl Iterator<Item = (Random, EncoderWeights)> {
    (1..=24).map(|seed| {
        let mut random = Random(seed * 0x9E37_79B9_7F4A_7C15);
        let architecture = if seed % 2 == 0 { Architecture::Bert } else { Architecture::Mpnet };
        let weights = random.weights(architecture);
        (random, weights)
    })
}

/// The weights that int8 stands for, in f32.
pub fn dequantized(weights: &EncoderWeights<Int8Matrix>, original: &EncoderWeights) -> EncoderWeights {
    let matrix = |matrix: &Int8Matrix, inputs: usize, group: usize| -> Vec<f32> {
        let per_row = inputs.div_ceil(group);
        let scale = |index: usize| matrix.scales[index / inputs * per_row + index % inputs / group];
        matrix.values.iter().enumerate().map(|(index, value)| f32::from(*value) * scale(index)).collect()
    };
    let linear = |map: &Linear<Int8Matrix>| Linear {
        weight: map.weight.plain(map.inputs),
        bias: map.bias.clone(),
        outputs: map.outputs,
        inputs: map.inputs,
    };
    let hidden = weights.config.hidden_size;
    let layers = weights.layers.iter().zip(&original.layers).map(|(layer, original)| {
        let [query, key, value, output, up, down] = layer.linears().map(linear);
        LayerWeights { query, key, value, output, up, down, ..original.clone() }
    });
    EncoderWeights { words: matrix(&weights.words, hidden, hidden), layers: layers.collect(), ..original.clone() }
}
