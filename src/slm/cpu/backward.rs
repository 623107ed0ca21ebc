//! Training on the CPU: the upper layers forward and backward on our own kernels, with the gradients written out by hand.
//!
//! As in the engine, tokens lie end to end without padding. A batch is cut into a fixed number of parts of whole texts; each
//! goes forward and backward on one thread, and the gradients are summed in order: the number of threads changes no bit.

use super::kernels::{Kernels, LayerNorm};
use super::{Aligned, Epilogue, Isa, Panels, Product, distances, softmax};
use crate::slm::config::EncoderConfig;
use crate::slm::weights::{EncoderWeights, LayerWeights, Linear, Norm, Pooling};
use gemm::Parallelism;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use rayon::prelude::*;

/// Parts of a batch.
const PARTS: usize = 4;

/// The low-rank pair of a map: `scale (x A) B` is added to its output.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// `[inputs x rank]`.
    pub a: Vec<f32>,
    /// `[rank x outputs]`.
    pub b: Vec<f32>,
    /// What the pair's product is multiplied by.
    pub scale: f32,
}

/// What trains of a linear map, or the gradient by it.
#[derive(Debug, Clone, PartialEq)]
pub struct Map {
    /// `[inputs x outputs]`; empty where it is frozen.
    pub weight: Vec<f32>,
    /// `[outputs]`.
    pub bias: Vec<f32>,
    /// The pair, where it has one.
    pub pair: Option<Pair>,
}

/// What trains of a layer, or the gradient by it.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerParameters {
    /// Query, key, value, output, up, down.
    pub maps: [Map; 6],
    /// After attention, and at the end.
    pub norms: [Norm; 2],
}

/// What trains of the upper layers and the head, or the gradient by it.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    /// From the first trained layer upwards.
    pub layers: Vec<LayerParameters>,
    /// Its weight is never empty.
    pub head: Map,
}

impl Parameters {
    /// All values, tensor after tensor.
    pub fn slices(&mut self) -> impl Iterator<Item = &mut Vec<f32>> {
        let maps = self.layers.iter_mut().flat_map(|LayerParameters { maps, norms }| {
            let maps = maps.iter_mut().flat_map(Map::slices);
            maps.chain(norms.iter_mut().flat_map(|Norm { gamma, beta }| [gamma, beta]))
        });
        maps.chain(self.head.slices())
    }

    /// Of the same shapes, all zero.
    fn zeros(&self) -> Self {
        let mut zeros = self.clone();
        zeros.slices().for_each(|slice| slice.fill(0.0));
        zeros
    }

    fn add(&mut self, mut other: Self) {
        for (sum, values) in self.slices().zip(other.slices()) {
            sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += *value);
        }
    }
}

impl Map {
    fn slices(&mut self) -> impl Iterator<Item = &mut Vec<f32>> {
        let pair = self.pair.iter_mut().flat_map(|Pair { a, b, .. }| [a, b]);
        [&mut self.weight, &mut self.bias].into_iter().chain(pair)
    }
}

/// Texts of a step.
pub struct Step<'a> {
    /// What goes into the first trained layer, `[tokens x hidden]`, end to end.
    pub hidden: &'a [f32],
    /// Tokens of each text.
    pub lengths: &'a [usize],
    /// `[texts x labels]`, each row the target times the text's weight.
    pub targets: &'a [f32],
    /// What the loss is divided by.
    pub total: f32,
    /// For each text what its dropout is drawn from.
    pub seeds: &'a [u64],
    /// Share of values that are dropped, in 0..1, to 1/256.
    pub dropout: f32,
}

/// A matrix in panels, for products with rows of its `inputs`.
struct Weights {
    values: Aligned<f32>,
    inputs: usize,
    panels: usize,
}

impl Weights {
    fn new(inputs: usize, outputs: usize, panel: usize, at: impl Fn(usize, usize) -> f32) -> Self {
        let panels = outputs.div_ceil(panel);
        let mut values = Aligned::new(0.0, panels * inputs * panel);
        for (index, target) in values.get_mut().chunks_exact_mut(inputs * panel).take(panels).enumerate() {
            let first = index * panel;
            for (input, row) in target.chunks_exact_mut(panel).enumerate() {
                let columns = panel.min(outputs - first);
                row[..columns].iter_mut().enumerate().for_each(|(column, value)| *value = at(input, first + column));
            }
        }
        Self { values, inputs, panels }
    }
}

/// A map's weights for the way forward and the way back; a map of several outputs side by side is one.
struct Both {
    forward: Weights,
    backward: Weights,
}

impl Both {
    fn frozen(maps: &[&Linear], panel: usize) -> Self {
        let (inputs, each) = (maps[0].inputs, maps[0].outputs);
        let at = |input: usize, output: usize| maps[output / each].weight[output % each * inputs + input];
        Self::new(inputs, each * maps.len(), panel, at)
    }

    /// From weights that train, `[inputs x outputs]` each.
    fn trained(maps: &[Map], panel: usize) -> Self {
        let each = maps[0].bias.len();
        let inputs = maps[0].weight.len() / each;
        let at = |input: usize, output: usize| maps[output / each].weight[input * each + output % each];
        Self::new(inputs, each * maps.len(), panel, at)
    }

    fn new(inputs: usize, outputs: usize, panel: usize, at: impl Fn(usize, usize) -> f32) -> Self {
        Self {
            forward: Weights::new(inputs, outputs, panel, &at),
            backward: Weights::new(outputs, inputs, panel, |output, input| at(input, output)),
        }
    }
}

/// The four products of a layer: query, key and value in one; output; up; down.
type LayerBoth = [Both; 4];

/// Which of a layer's six maps each product is made of.
const MAPS: [std::ops::Range<usize>; 4] = [0..3, 3..4, 4..5, 5..6];

/// The upper layers of an encoder with its head, in training.
pub struct Trainee {
    config: EncoderConfig,
    kernels: &'static Kernels,
    pooling: Pooling,
    layers: Vec<LayerBoth>,
    distances: Vec<Vec<f32>>,
}

/// Rows of activations, `[rows x stride]`; what is behind `width` in a row is zero.
#[derive(Default)]
struct Rows {
    values: Vec<f32>,
    stride: usize,
}

impl Rows {
    fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.stride)
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.values.chunks_exact_mut(self.stride)
    }

    fn count(&self) -> usize {
        self.values.len() / self.stride
    }

    fn add(&mut self, other: &Self) {
        self.values.iter_mut().zip(&other.values).for_each(|(sum, value)| *sum += value);
    }

    /// Columns from `from` on, for [`times`].
    fn from(&self, column: usize) -> View<'_> {
        View { values: &self.values[column..], row: self.stride, column: 1 }
    }

    fn transposed(&self, column: usize) -> View<'_> {
        View { values: &self.values[column..], row: 1, column: self.stride }
    }
}

/// A matrix by its strides.
#[derive(Clone, Copy)]
struct View<'a> {
    values: &'a [f32],
    row: usize,
    column: usize,
}

impl<'a> View<'a> {
    fn new(values: &'a [f32], width: usize) -> Self {
        Self { values, row: width, column: 1 }
    }

    fn transposed(values: &'a [f32], width: usize) -> Self {
        Self { values, row: 1, column: width }
    }

    fn holds(&self, rows: usize, columns: usize) -> bool {
        (rows - 1) * self.row + (columns - 1) * self.column < self.values.len()
    }
}

/// `c = factor a b`, or that added to it, for `a` of `rows x inner` and `b` of `inner x columns`.
fn times(
    c: (&mut [f32], usize),
    [rows, columns, inner]: [usize; 3],
    a: View<'_>,
    b: View<'_>,
    factor: f32,
    adds: bool,
) {
    let (c, stride) = c;
    assert!(rows * columns * inner > 0 && (rows - 1) * stride + columns <= c.len());
    assert!(a.holds(rows, inner) && b.holds(inner, columns));
    // SAFETY: the strides stay within the slices, as asserted; `c` is borrowed alone.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            c.as_mut_ptr(),
            1,
            stride as isize,
            adds,
            a.values.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.values.as_ptr(),
            b.column as isize,
            b.row as isize,
            1.0,
            factor,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// What dropout keeps: a random byte a value, and the bytes below which a value falls.
#[derive(Default)]
struct Dropout {
    bytes: Vec<u8>,
    threshold: u8,
}

impl Dropout {
    /// Bytes for `sizes` values of texts, each text's from its own seed.
    fn new(step: &Step<'_>, site: usize, sizes: impl Iterator<Item = usize>) -> Self {
        let threshold = (step.dropout * 256.0).round() as u8;
        let mut bytes = Vec::new();
        if threshold > 0 {
            for (seed, size) in step.seeds.iter().zip(sizes) {
                let from = bytes.len();
                bytes.resize(from + size, 0);
                let seed = seed.wrapping_add((site as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
                StdRng::seed_from_u64(seed).fill_bytes(&mut bytes[from..]);
            }
        }
        Self { bytes, threshold }
    }

    /// On values that lie as the bytes do; the way back is the same.
    fn apply(&self, values: &mut [f32], from: usize) {
        if self.threshold == 0 {
            return;
        }
        let factor = 256.0 / (256.0 - f32::from(self.threshold));
        for (value, byte) in values.iter_mut().zip(&self.bytes[from..]) {
            *value *= if *byte >= self.threshold { factor } else { 0.0 };
        }
    }
}

/// What a LayerNorm leaves for the way back.
struct Normed {
    /// Its inputs less their mean, by their deviation.
    normal: Rows,
    /// 1 over the deviation, a row.
    inverse: Vec<f32>,
}

/// What a layer leaves for the way back.
struct Tape {
    x: Rows,
    qkv: Rows,
    /// Attention weights before dropout, by text and head.
    weights: Vec<f32>,
    context: Rows,
    attention_norm: Normed,
    y: Rows,
    before_gelu: Rows,
    inner: Rows,
    output_norm: Normed,
    /// `x A` of each map, without its scale; empty without a pair.
    low: [Vec<f32>; 6],
    /// On the attention weights, and on what both halves add.
    dropout: [Dropout; 3],
}

impl Trainee {
    /// The layers from `first_layer` on, whose frozen weights are packed.
    pub fn new(weights: &EncoderWeights, first_layer: usize, pooling: Pooling) -> Self {
        let kernels = Isa::best();
        let panel = kernels.panel;
        let layer = |layer: &LayerWeights| {
            let LayerWeights { query, key, value, output, up, down, .. } = layer;
            [&[query, key, value][..], &[output], &[up], &[down]].map(|maps| Both::frozen(maps, panel))
        };
        Self {
            config: weights.config.clone(),
            kernels,
            pooling,
            layers: weights.layers[first_layer..].iter().map(layer).collect(),
            distances: distances(&weights.config, &weights.relative_bias, panel),
        }
    }

    /// Takes up weights that train, where there are any.
    fn repack(&mut self, parameters: &Parameters) {
        let panel = self.kernels.panel;
        self.layers.par_iter_mut().zip(&parameters.layers).for_each(|(layer, LayerParameters { maps, .. })| {
            for (both, maps) in layer.iter_mut().zip(MAPS.map(|range| &maps[range])) {
                if !maps[0].weight.is_empty() {
                    *both = Both::trained(maps, panel);
                }
            }
        });
    }

    /// Logits `[texts x labels]` without dropout, from hidden states `[tokens x hidden]`.
    pub fn logits(&mut self, parameters: &Parameters, hidden: &[f32], lengths: &[usize]) -> Vec<f32> {
        self.repack(parameters);
        let seeds = vec![0; lengths.len()];
        let step = Step { hidden, lengths, targets: &[], total: 1.0, seeds: &seeds, dropout: 0.0 };
        let this = &*self;
        let parts = parts(&step, self.config.hidden_size, 0);
        let logits = parts.par_iter().map(|part| this.forward(parameters, part).0);
        logits.collect::<Vec<_>>().concat()
    }

    /// The loss of a step, the cross entropy with its targets, and its gradient.
    pub fn gradient(&mut self, parameters: &Parameters, step: &Step<'_>) -> (f32, Parameters) {
        self.repack(parameters);
        let this = &*self;
        let labels = parameters.head.bias.len();
        let parts = parts(step, self.config.hidden_size, labels);
        let one = |part: &Step<'_>| {
            let (mut logits, pooled, tapes) = this.forward(parameters, part);
            let loss = loss_gradient(&mut logits, part.targets, labels, part.total);
            (loss, this.backward(parameters, part, &logits, &pooled, tapes))
        };
        let found: Vec<(f32, Parameters)> = parts.par_iter().map(one).collect();
        let mut sum = (0.0, parameters.zeros());
        for (loss, gradient) in found {
            sum.0 += loss;
            sum.1.add(gradient);
        }
        sum
    }

    fn stride(&self, width: usize) -> usize {
        width.next_multiple_of(self.kernels.panel)
    }

    fn rows(&self, count: usize, width: usize) -> Rows {
        let stride = self.stride(width);
        Rows { values: vec![0.0; count * stride], stride }
    }

    /// `a W (+ bias) (+ residual)`.
    fn product(&self, a: &Rows, weights: &Weights, bias: &[f32], residual: Option<&Rows>) -> Rows {
        let (count, stride) = (a.count(), weights.panels * self.kernels.panel);
        let mut padded = bias.to_vec();
        if !bias.is_empty() {
            padded.resize(stride, 0.0);
        }
        let b = Panels { values: weights.values.get(), bias: &padded, inputs: weights.inputs, count: weights.panels };
        let residual = residual.map_or(&[][..], |rows| &rows.values);
        let job = Product { a: &a.values, stride_a: a.stride, rows: count, b, residual, epilogue: Epilogue::Plain };
        let mut c = vec![0.0; count * stride];
        // SAFETY: `Isa::kernels` gives only kernels that the machine can run; they check their slices.
        unsafe { (self.kernels.product)(&job, &mut c) };
        Rows { values: c, stride }
    }

    /// The product of maps side by side, with their pairs; `low` takes what goes between the pairs.
    fn forward_maps(&self, x: &Rows, both: &Both, maps: &[Map], low: &mut [Vec<f32>]) -> Rows {
        let bias: Vec<f32> = maps.iter().flat_map(|map| &map.bias).copied().collect();
        let mut y = self.product(x, &both.forward, &bias, None);
        let (count, inputs) = (x.count(), both.forward.inputs);
        let mut column = 0;
        for (map, low) in maps.iter().zip(low) {
            let outputs = map.bias.len();
            if let Some(Pair { a, b, scale }) = &map.pair {
                let rank = a.len() / inputs;
                low.resize(count * rank, 0.0);
                times((low, rank), [count, rank, inputs], x.from(0), View::new(a, rank), 1.0, false);
                let stride = y.stride;
                let to = (&mut y.values[column..], stride);
                times(to, [count, outputs, rank], View::new(low, rank), View::new(b, outputs), *scale, true);
            }
            column += outputs;
        }
        y
    }

    /// Adds the gradients of maps from that of their output, `dy`, and returns that of their input where it is `wanted`.
    fn backward_maps(
        &self,
        (x, dy): (&Rows, &Rows),
        both: &Both,
        (maps, gradients): (&[Map], &mut [Map]),
        low: &[Vec<f32>],
        wanted: bool,
    ) -> Rows {
        let (count, inputs) = (x.count(), both.forward.inputs);
        let mut dx = if wanted { self.product(dy, &both.backward, &[], None) } else { Rows::default() };
        let mut column = 0;
        for ((map, gradient), low) in maps.iter().zip(gradients).zip(low) {
            let outputs = map.bias.len();
            for row in dy.iter() {
                gradient.bias.iter_mut().zip(&row[column..]).for_each(|(sum, value)| *sum += value);
            }
            if !map.weight.is_empty() {
                let to = (&mut gradient.weight[..], outputs);
                times(to, [inputs, outputs, count], x.transposed(0), dy.from(column), 1.0, false);
            }
            if let (Some(Pair { a, b, scale }), Some(Pair { a: da, b: db, .. })) = (&map.pair, &mut gradient.pair) {
                let rank = a.len() / inputs;
                let to = (&mut db[..], outputs);
                times(to, [rank, outputs, count], View::transposed(low, rank), dy.from(column), *scale, false);
                let mut d_low = vec![0.0; count * rank];
                let b = View::transposed(b, outputs);
                times((&mut d_low, rank), [count, rank, outputs], dy.from(column), b, *scale, false);
                let d_low_rows = View::new(&d_low, rank);
                times((&mut da[..], rank), [inputs, rank, count], x.transposed(0), d_low_rows, 1.0, false);
                if wanted {
                    let stride = dx.stride;
                    let a = View::transposed(a, rank);
                    times((&mut dx.values, stride), [count, inputs, rank], d_low_rows, a, 1.0, true);
                }
            }
            column += outputs;
        }
        dx
    }

    /// Logits, pooled states, and what the layers leave for the way back.
    fn forward(&self, parameters: &Parameters, step: &Step<'_>) -> (Vec<f32>, Vec<f32>, Vec<Tape>) {
        let hidden = self.config.hidden_size;
        let mut x = self.rows(step.hidden.len() / hidden, hidden);
        x.iter_mut().zip(step.hidden.chunks_exact(hidden)).for_each(|(row, from)| row[..hidden].copy_from_slice(from));
        let mut tapes = Vec::new();
        for (index, (both, parameters)) in self.layers.iter().zip(&parameters.layers).enumerate() {
            let (tape, out) = self.forward_layer(both, parameters, step, index, x);
            tapes.push(tape);
            x = out;
        }
        let labels = parameters.head.bias.len();
        let (mut pooled, mut logits) = (Vec::new(), Vec::new());
        let mut rows = x.iter();
        for length in step.lengths {
            let mut sum = vec![0.0; hidden];
            let taken = if self.pooling == Pooling::Mean { *length } else { 1 };
            for (at, row) in rows.by_ref().take(*length).enumerate() {
                if at < taken {
                    sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value / taken as f32);
                }
            }
            let weight = |label: usize| parameters.head.weight.iter().skip(label).step_by(labels);
            let of = |label| weight(label).zip(&sum).fold(parameters.head.bias[label], |y, (w, x)| y + w * x);
            logits.extend((0..labels).map(of));
            pooled.extend(sum);
        }
        (logits, pooled, tapes)
    }

    fn forward_layer(
        &self,
        both: &LayerBoth,
        parameters: &LayerParameters,
        step: &Step<'_>,
        index: usize,
        x: Rows,
    ) -> (Tape, Rows) {
        let LayerParameters { maps, norms } = parameters;
        let hidden = self.config.hidden_size;
        let heads = self.config.num_attention_heads;
        let stride = self.stride(hidden);
        let mut low: [Vec<f32>; 6] = Default::default();
        let weights_of = |length: &usize| heads * length * self.stride(*length);
        let dropout = [
            Dropout::new(step, 3 * index, step.lengths.iter().map(weights_of)),
            Dropout::new(step, 3 * index + 1, step.lengths.iter().map(|length| length * stride)),
            Dropout::new(step, 3 * index + 2, step.lengths.iter().map(|length| length * stride)),
        ];
        let qkv = self.forward_maps(&x, &both[0], &maps[MAPS[0].clone()], &mut low[MAPS[0].clone()]);
        let (weights, context) = self.attend(&qkv, step.lengths, &dropout[0]);
        let mut y = self.forward_maps(&context, &both[1], &maps[MAPS[1].clone()], &mut low[MAPS[1].clone()]);
        dropout[1].apply(&mut y.values, 0);
        y.add(&x);
        let attention_norm = self.normalise(&norms[0], &mut y);
        let before_gelu = self.forward_maps(&y, &both[2], &maps[MAPS[2].clone()], &mut low[MAPS[2].clone()]);
        let mut inner = Rows { values: before_gelu.values.clone(), stride: before_gelu.stride };
        // SAFETY: as in `product`.
        unsafe { (self.kernels.gelu)(&mut inner.values) };
        let mut out = self.forward_maps(&inner, &both[3], &maps[MAPS[3].clone()], &mut low[MAPS[3].clone()]);
        dropout[2].apply(&mut out.values, 0);
        out.add(&y);
        let output_norm = self.normalise(&norms[1], &mut out);
        (Tape { x, qkv, weights, context, attention_norm, y, before_gelu, inner, output_norm, low, dropout }, out)
    }

    fn normalise(&self, norm: &Norm, x: &mut Rows) -> Normed {
        let (width, epsilon) = (self.config.hidden_size, self.config.layer_norm_eps);
        let mut inverse = Vec::with_capacity(x.count());
        for row in x.iter() {
            let mean = sum(&row[..width], |x| x) / width as f32;
            let variance = sum(&row[..width], |x| (x - mean) * (x - mean)) / width as f32;
            inverse.push(1.0 / (variance + epsilon).sqrt());
        }
        let job = |gamma, beta| LayerNorm { stride: x.stride, width, gamma, beta, epsilon };
        let (ones, zeros) = (vec![1.0; width], vec![0.0; width]);
        // SAFETY: as in `product`.
        unsafe { (self.kernels.layer_norm)(&job(&ones, &zeros), &mut x.values) };
        let normal = Rows { values: x.values.clone(), stride: x.stride };
        for row in x.iter_mut() {
            let affine = norm.gamma.iter().zip(&norm.beta);
            row.iter_mut().zip(affine).for_each(|(x, (gamma, beta))| *x = *x * gamma + beta);
        }
        Normed { normal, inverse }
    }

    /// From the gradient of a LayerNorm's output to that of its input, in place.
    fn normalise_back(&self, norm: &Norm, normed: &Normed, gradient: &mut Norm, dy: &mut Rows) {
        let width = self.config.hidden_size;
        for ((row, normal), inverse) in dy.iter_mut().zip(normed.normal.iter()).zip(&normed.inverse) {
            let (row, normal) = (&mut row[..width], &normal[..width]);
            for (at, dy) in row.iter_mut().enumerate() {
                gradient.gamma[at] += *dy * normal[at];
                gradient.beta[at] += *dy;
                *dy *= norm.gamma[at];
            }
            let mean = sum(row, |dy| dy) / width as f32;
            let along = dot(row, normal) / width as f32;
            row.iter_mut().zip(normal).for_each(|(dy, normal)| *dy = inverse * (*dy - mean - normal * along));
        }
    }

    /// Attention weights of all texts and heads before dropout, and what they mix.
    fn attend(&self, qkv: &Rows, lengths: &[usize], dropout: &Dropout) -> (Vec<f32>, Rows) {
        let (hidden, size) = (self.config.hidden_size, self.config.head_size());
        let mut context = self.rows(qkv.count(), hidden);
        let mut weights = Vec::new();
        let mut first = 0;
        for &length in lengths {
            let stride = self.stride(length);
            for head in 0..self.config.num_attention_heads {
                let at = first * qkv.stride + head * size;
                let from = weights.len();
                weights.resize(from + length * stride, 0.0);
                let scores = &mut weights[from..];
                let (query, key) = (qkv.from(at), qkv.transposed(at + hidden));
                times((scores, stride), [length, length, size], query, key, 1.0, false);
                let bias = self.distances.get(head).map_or(&[][..], |bias| bias);
                softmax(self.kernels, &self.config, bias, (length, stride), scores);
                let mut dropped = scores.to_vec();
                dropout.apply(&mut dropped, from);
                let to = (&mut context.values[first * context.stride + head * size..], context.stride);
                let value = qkv.from(at + 2 * hidden);
                times(to, [length, size, length], View::new(&dropped, stride), value, 1.0, false);
            }
            first += length;
        }
        (weights, context)
    }

    /// The gradient of query, key and value from that of what attention mixed.
    fn attend_back(&self, tape: &Tape, lengths: &[usize], d_context: &Rows) -> Rows {
        let (hidden, size) = (self.config.hidden_size, self.config.head_size());
        let scale = 1.0 / (size as f32).sqrt();
        let mut d_qkv = Rows { values: vec![0.0; tape.qkv.values.len()], stride: tape.qkv.stride };
        let (mut first, mut from) = (0, 0);
        for &length in lengths {
            let stride = self.stride(length);
            let mut d_scores = vec![0.0; length * stride];
            for head in 0..self.config.num_attention_heads {
                let at = first * tape.qkv.stride + head * size;
                let weights = &tape.weights[from..from + length * stride];
                let d_mixed = d_context.from(first * d_context.stride + head * size);
                let mut dropped = weights.to_vec();
                tape.dropout[0].apply(&mut dropped, from);
                let into = |column: usize| at + column * hidden;
                let square = [length, size, length];
                let d_value = (&mut d_qkv.values[into(2)..], tape.qkv.stride);
                times(d_value, square, View::transposed(&dropped, stride), d_mixed, 1.0, false);
                let value = tape.qkv.transposed(into(2));
                times((&mut d_scores, stride), [length, length, size], d_mixed, value, 1.0, false);
                tape.dropout[0].apply(&mut d_scores, from);
                for (d_row, row) in d_scores.chunks_exact_mut(stride).zip(weights.chunks_exact(stride)) {
                    let along = dot(&d_row[..length], &row[..length]);
                    d_row[..length].iter_mut().zip(row).for_each(|(d, weight)| *d = weight * (*d - along));
                }
                let d_query = (&mut d_qkv.values[into(0)..], tape.qkv.stride);
                times(d_query, square, View::new(&d_scores, stride), tape.qkv.from(into(1)), scale, false);
                let d_key = (&mut d_qkv.values[into(1)..], tape.qkv.stride);
                times(d_key, square, View::transposed(&d_scores, stride), tape.qkv.from(into(0)), scale, false);
                from += length * stride;
            }
            first += length;
        }
        d_qkv
    }

    fn backward(
        &self,
        parameters: &Parameters,
        step: &Step<'_>,
        d_logits: &[f32],
        pooled: &[f32],
        tapes: Vec<Tape>,
    ) -> Parameters {
        let (hidden, labels) = (self.config.hidden_size, parameters.head.bias.len());
        let mut gradient = parameters.zeros();
        let head = &mut gradient.head;
        let mut dx = self.rows(step.lengths.iter().sum(), hidden);
        let mut rows = dx.values.chunks_exact_mut(dx.stride);
        for ((d, pooled), length) in d_logits.chunks_exact(labels).zip(pooled.chunks_exact(hidden)).zip(step.lengths) {
            head.bias.iter_mut().zip(d).for_each(|(sum, d)| *sum += d);
            let taken = if self.pooling == Pooling::Mean { *length } else { 1 };
            let mut d_pooled = vec![0.0; hidden];
            for (at, pooled) in pooled.iter().enumerate() {
                let weights = &parameters.head.weight[at * labels..][..labels];
                let sums = &mut head.weight[at * labels..][..labels];
                sums.iter_mut().zip(d).for_each(|(sum, d)| *sum += d * pooled);
                d_pooled[at] = weights.iter().zip(d).map(|(w, d)| w * d).sum::<f32>() / taken as f32;
            }
            for (at, row) in rows.by_ref().take(*length).enumerate() {
                if at < taken {
                    row[..hidden].copy_from_slice(&d_pooled);
                }
            }
        }
        for (index, tape) in tapes.into_iter().enumerate().rev() {
            let (layer, gradient) = (&parameters.layers[index], &mut gradient.layers[index]);
            dx = self.backward_layer(&self.layers[index], layer, gradient, step, tape, dx, index > 0);
        }
        gradient
    }

    #[allow(clippy::too_many_arguments, reason = "a layer's way back has that many operands")]
    fn backward_layer(
        &self,
        both: &LayerBoth,
        LayerParameters { maps, norms }: &LayerParameters,
        gradient: &mut LayerParameters,
        step: &Step<'_>,
        tape: Tape,
        mut dy: Rows,
        wanted: bool,
    ) -> Rows {
        let mut back = |product: usize, x: &Rows, dy: &Rows, wanted| {
            let range = MAPS[product].clone();
            let maps = (&maps[range.clone()], &mut gradient.maps[range.clone()]);
            self.backward_maps((x, dy), &both[product], maps, &tape.low[range], wanted)
        };
        self.normalise_back(&norms[1], &tape.output_norm, &mut gradient.norms[1], &mut dy);
        let mut d_out = Rows { values: dy.values.clone(), stride: dy.stride };
        tape.dropout[2].apply(&mut d_out.values, 0);
        let mut d_inner = back(3, &tape.inner, &d_out, true);
        // SAFETY: as in `product`.
        unsafe { (self.kernels.gelu_back)(&tape.before_gelu.values, &mut d_inner.values) };
        let d_y = back(2, &tape.y, &d_inner, true);
        dy.add(&d_y);
        self.normalise_back(&norms[0], &tape.attention_norm, &mut gradient.norms[0], &mut dy);
        let mut d_out = Rows { values: dy.values.clone(), stride: dy.stride };
        tape.dropout[1].apply(&mut d_out.values, 0);
        let d_context = back(1, &tape.context, &d_out, true);
        let d_qkv = self.attend_back(&tape, step.lengths, &d_context);
        let d_x = back(0, &tape.x, &d_qkv, wanted);
        if wanted {
            dy.add(&d_x);
        }
        dy
    }
}

/// Parts of whole texts, of about the same number of them.
fn parts<'a>(step: &Step<'a>, hidden: usize, labels: usize) -> Vec<Step<'a>> {
    let each = step.lengths.len().div_ceil(PARTS).max(1);
    let (mut rest, mut targets) = (step.hidden, step.targets);
    let texts = step.lengths.chunks(each).zip(step.seeds.chunks(each));
    texts
        .map(|(lengths, seeds)| {
            let (part_hidden, other) = rest.split_at(lengths.iter().sum::<usize>() * hidden);
            let (part_targets, other_targets) = targets.split_at(lengths.len() * labels);
            (rest, targets) = (other, other_targets);
            Step { hidden: part_hidden, lengths, targets: part_targets, seeds, ..*step }
        })
        .collect()
}

/// The cross entropy of logits with their targets over `total`; the logits become its gradient.
fn loss_gradient(logits: &mut [f32], targets: &[f32], labels: usize, total: f32) -> f32 {
    let mut loss = 0.0;
    for (row, targets) in logits.chunks_exact_mut(labels).zip(targets.chunks_exact(labels)) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let log_sum = row.iter().map(|x| (x - max).exp()).sum::<f32>().ln() + max;
        let weight: f32 = targets.iter().sum();
        for (x, target) in row.iter_mut().zip(targets) {
            let log_probability = *x - log_sum;
            loss -= target * log_probability / total;
            *x = (weight * log_probability.exp() - target) / total;
        }
    }
    loss
}

/// A sum in eight lanes.
fn sum(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; 8];
    let chunks = values.chunks_exact(8);
    let rest: f32 = chunks.remainder().iter().map(|x| f(*x)).sum();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane += f(*x));
    }
    lanes.iter().sum::<f32>() + rest
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(lane, (a, b))| *lane += a * b);
    }
    lanes.iter().sum::<f32>() + rest
}
