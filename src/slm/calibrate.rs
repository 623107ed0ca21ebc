//! Int8 weights that are rounded with an eye on what goes into them: texts run through the f32 encoder, and each matrix
//! is rounded so that its products with their hidden states change least (GPTQ, arXiv 2210.17323), after inputs of large
//! values have handed some of their size to their weights (SmoothQuant, arXiv 2211.10438).

use super::cpu::{CpuEncoder, times_transposed};
use super::quant::{GROUP, Int8Matrix, Room, SUM_OF_EIGHT, WEIGHT_LEVELS, best_scale, level, quantized_layer, rotate};
use super::weights::{EncoderWeights, LayerWeights, Linear};
use super::{Batch, SlmError};
use rayon::prelude::*;

/// The most tokens that are looked at: enough for the widest matrix, few enough for a short wait.
const TOKENS: usize = 4096;

/// Rows that are rounded together, so that a row of the Cholesky factor is read once for all of them.
const ROWS: usize = 8;

/// Rows and columns of a block of the Cholesky decomposition.
const BLOCK: usize = 64;

/// What goes into one linear map, over all tokens: the largest size of each input, and their products `[inputs x inputs]`.
struct Statistics {
    largest: Vec<f32>,
    products: Vec<f32>,
}

impl Statistics {
    /// Of `x`, `[tokens x inputs]`.
    fn new(x: &[f32], inputs: usize) -> Self {
        let tokens = x.len() / inputs;
        let mut largest = vec![0.0f32; inputs];
        let mut columns = vec![0.0; x.len()];
        for (token, row) in x.chunks_exact(inputs).enumerate() {
            for (input, value) in row.iter().enumerate() {
                largest[input] = largest[input].max(value.abs());
                columns[input * tokens + token] = *value;
            }
        }
        Self { largest, products: times_transposed(&columns, &columns, inputs, tokens) }
    }

    /// Takes in what went into the same map another time.
    fn add(&mut self, other: &Self) {
        self.largest.iter_mut().zip(&other.largest).for_each(|(a, b)| *a = a.max(*b));
        self.products.iter_mut().zip(&other.products).for_each(|(a, b)| *a += b);
    }
}

impl EncoderWeights {
    /// The word embeddings and linear maps in int8, fitted to what `texts` (token ids) put into each map. `progress` is
    /// told of each layer that is done. Token ids or lengths that the model cannot take are an error.
    pub fn quantize_for(
        &self,
        texts: &[Vec<u32>],
        mut progress: impl FnMut(usize),
    ) -> Result<EncoderWeights<Int8Matrix>, SlmError> {
        let mut tokens = 0;
        let texts = texts.iter().take_while(|ids| {
            tokens += ids.len();
            tokens <= TOKENS
        });
        let batch = Batch::new(texts.map(Vec::as_slice));
        if batch.ids.is_empty() {
            return Err(SlmError::Input("there are no texts to calibrate by".to_owned()));
        }
        let (hidden, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let (mut layers, mut gates) = (Vec::with_capacity(self.layers.len()), Vec::new());
        // Consecutive layers may share their weights: these are rounded by what went into all of them.
        let mut open: Option<(usize, [Statistics; 4])> = None;
        let mut close = |(index, statistics): (usize, [Statistics; 4])| {
            let (layer, gate) =
                quantize_layer(&self.layers[index], self.extras.gates.get(index), statistics.each_ref());
            layers.push(layer);
            gates.extend(gate);
            progress(index + 1);
        };
        CpuEncoder::new(self).layer_inputs(&batch, |index, inputs| {
            let [qkv, output, up] = [inputs.qkv, inputs.output, inputs.up].map(|x| Statistics::new(&x, hidden));
            let found = [qkv, output, up, Statistics::new(&inputs.down, inner)];
            match &mut open {
                Some((last, sums)) if *last == index => sums.iter_mut().zip(&found).for_each(|(sum, one)| sum.add(one)),
                _ => {
                    if let Some(done) = open.replace((index, found)) {
                        close(done);
                    }
                }
            }
            if self.config.layer_groups.is_none()
                && let Some(done) = open.take()
            {
                close(done);
            }
        })?;
        if let Some(done) = open.take() {
            close(done);
        }
        Ok(self.quantized(layers, gates))
    }
}

/// A layer, and its gate where it has one: that takes the same inputs as the feed-forward part's first map.
fn quantize_layer(
    layer: &LayerWeights,
    gate: Option<&Linear>,
    inputs: [&Statistics; 4],
) -> (LayerWeights<Int8Matrix>, Option<Linear<Int8Matrix>>) {
    let [qkv, output, up, down] = inputs;
    let gate = gate.map(|map| {
        let weight = quantize(&[map], up).into_iter().next().unwrap_or_default();
        Linear { weight, bias: map.bias.clone(), outputs: map.outputs, inputs: map.inputs }
    });
    let matrices = [
        quantize(&[&layer.query, &layer.key, &layer.value], qkv),
        quantize(&[&layer.output], output),
        quantize(&[&layer.up], up),
        quantize(&[&layer.down], down),
    ];
    let mut matrices = matrices.into_iter().flatten();
    (quantized_layer(layer, std::array::from_fn(|_| matrices.next().unwrap_or_default())), gate)
}

/// Rounds maps of the same inputs.
fn quantize(maps: &[&Linear], statistics: &Statistics) -> Vec<Int8Matrix> {
    let inputs = maps[0].inputs;
    let weights: Vec<f32> = maps.iter().flat_map(|map| &map.weight).copied().collect();
    let multipliers = multipliers(&statistics.largest, &weights);
    let mut weights: Vec<f32> =
        weights.chunks_exact(inputs).flat_map(|row| row.iter().zip(&multipliers).map(|(w, m)| w / m)).collect();
    weights.chunks_exact_mut(inputs).for_each(rotate);
    let mut products = statistics.products.clone();
    for (row, m) in products.chunks_exact_mut(inputs).zip(&multipliers) {
        row.iter_mut().zip(&multipliers).for_each(|(value, other)| *value *= m * other);
        rotate(row);
    }
    let mut products = transposed(&products, inputs);
    products.chunks_exact_mut(inputs).for_each(rotate);
    let (factor, order) = factor(&products, inputs);
    let (values, scales) = round(&weights, &factor, &order);
    let groups = inputs.div_ceil(GROUP);
    let mut from = 0;
    let part = |map: &&Linear| {
        let rows = from..from + map.outputs;
        from = rows.end;
        Int8Matrix {
            values: values[rows.start * inputs..rows.end * inputs].to_vec(),
            scales: scales[rows.start * groups..rows.end * groups].to_vec(),
            multipliers: multipliers.clone(),
        }
    };
    maps.iter().map(part).collect()
}

/// The transpose of a square matrix.
fn transposed(matrix: &[f32], n: usize) -> Vec<f32> {
    (0..n * n).map(|at| matrix[at % n * n + at / n]).collect()
}

/// How much of an input's size its weights take over: in powers, between nothing (0) and all (1). Measured.
const SMOOTHING: f32 = 0.55;

/// A bit by chance, always the same for an input: one of a hash (MurmurHash3's finalizer).
fn chance(input: usize) -> bool {
    let mut bits = input as u32 ^ 0x5bd1_e995;
    for factor in [0x85eb_ca6b, 0xc2b2_ae35] {
        bits = (bits ^ bits >> 16).wrapping_mul(factor);
    }
    bits >> 31 == 1
}

/// What smooths inputs of these largest values, input by input, in half precision; about 1 in the middle. Signs by chance
/// keep what all inputs have in common from meeting in one when they are rotated.
fn multipliers(largest: &[f32], weights: &[f32]) -> Vec<f32> {
    let mut largest_weight = vec![0.0f32; largest.len()];
    for row in weights.chunks_exact(largest.len()) {
        largest_weight.iter_mut().zip(row).for_each(|(max, w)| *max = max.max(w.abs()));
    }
    let ratio = |(x, w): (&f32, &f32)| w.max(1e-5).powf(1.0 - SMOOTHING) / x.max(1e-5).powf(SMOOTHING);
    let raw: Vec<f32> = largest.iter().zip(&largest_weight).map(ratio).collect();
    let mean = (raw.iter().map(|m| m.ln()).sum::<f32>() / raw.len() as f32).exp();
    let sign = |input: usize| if chance(input) { 1.0 } else { -1.0 };
    let multiplier = |(input, m): (usize, &f32)| sign(input) * (m / mean).clamp(1e-3, 1e3);
    raw.iter().enumerate().map(|m| half::f16::from_f32(multiplier(m)).to_f32()).collect()
}

/// The lower Cholesky factor of the products, inputs in the returned order (those that matter most last), with as much
/// added to the diagonal as it takes; the identity, which is to round each input by itself, where they are not finite.
fn factor(products: &[f32], inputs: usize) -> (Vec<f32>, Vec<usize>) {
    let mut order: Vec<usize> = (0..inputs).collect();
    order.sort_by(|a, b| products[a * inputs + a].total_cmp(&products[b * inputs + b]));
    let mean = order.iter().map(|i| products[i * inputs + i]).sum::<f32>() / inputs as f32;
    let mut damping = 0.01 * mean.max(1e-20);
    while damping.is_finite() {
        let mut matrix: Vec<f32> =
            order.iter().flat_map(|row| order.iter().map(move |column| products[row * inputs + column])).collect();
        (0..inputs).for_each(|i| matrix[i * inputs + i] += damping);
        if cholesky(&mut matrix, inputs) {
            return (matrix, order);
        }
        damping *= 10.0;
    }
    let mut identity = vec![0.0; inputs * inputs];
    (0..inputs).for_each(|i| identity[i * inputs + i] = 1.0);
    (identity, order)
}

/// Replaces the lower triangle of a symmetric matrix by its Cholesky factor, block of columns by block; false where it is
/// not positive definite.
fn cholesky(matrix: &mut [f32], n: usize) -> bool {
    for first in (0..n).step_by(BLOCK) {
        let end = (first + BLOCK).min(n);
        let rows = &mut matrix[first * n..];
        if first > 0 {
            let left: Vec<f32> = rows.chunks_exact(n).flat_map(|row| &row[..first]).copied().collect();
            let done = times_transposed(&left, &left[..(end - first) * first], end - first, first);
            for (row, done) in rows.chunks_exact_mut(n).zip(done.chunks_exact(end - first)) {
                row[first..end].iter_mut().zip(done).for_each(|(value, done)| *value -= done);
            }
        }
        let (block, below) = rows.split_at_mut((end - first) * n);
        for row in 0..end - first {
            let (before, rest) = block.split_at_mut(row * n);
            let row_values = &mut rest[first..end];
            for column in 0..=row {
                let other = before.get(column * n + first..column * n + end);
                let dot = |other: &[f32]| other[..column].iter().zip(&row_values[..column]).map(|(a, b)| a * b).sum();
                let sum: f32 = match other {
                    Some(other) => dot(other),
                    None => dot(row_values),
                };
                let value = row_values[column] - sum;
                row_values[column] = match other {
                    Some(other) => value / other[column],
                    None if value > 0.0 => value.sqrt(),
                    None => return false,
                };
            }
        }
        let block = &*block;
        below.par_chunks_exact_mut(n).for_each(|row| {
            for column in 0..end - first {
                let other = &block[column * n + first..][..=column];
                let sum: f32 = other[..column].iter().zip(&row[first..]).map(|(a, b)| a * b).sum();
                row[first + column] = (row[first + column] - sum) / other[column];
            }
        });
    }
    true
}

/// How much coarser the scales of a row may become, step by step, where its weights would pass their sums.
const COARSER: [f32; 5] = [1.0, 1.1, 1.2, 1.35, 1.5];

/// Rounds rows of weights, input by input from the last of the order: each takes over what the inputs rounded before it
/// left of the error that `factor` measures. A row whose weights had to give way to [`SUM_OF_EIGHT`] is tried with coarser
/// scales too. Returns values and scales, in the inputs' own order.
///
/// It is Babai's nearest plane, which GPTQ amounts to (arXiv 2507.18553).
fn round(weights: &[f32], factor: &[f32], order: &[usize]) -> (Vec<i8>, Vec<f32>) {
    let inputs = order.len();
    let groups = inputs.div_ceil(GROUP);
    let mut values = vec![0i8; weights.len()];
    let mut scales = vec![0.0; weights.len() / inputs * groups];
    let rows = values.par_chunks_mut(ROWS * inputs).zip(weights.par_chunks(ROWS * inputs));
    rows.zip(scales.par_chunks_mut(ROWS * groups)).for_each(|((values, weights), scales)| {
        let mut open: Vec<(usize, f32)> = (0..weights.len() / inputs).map(|row| (row, f32::INFINITY)).collect();
        for coarser in COARSER {
            let mut tried: Vec<Row<'_>> =
                open.iter().map(|(row, _)| Row::new(&weights[row * inputs..][..inputs], coarser)).collect();
            round_together(&mut tried, factor, order);
            let mut still = Vec::new();
            for ((row, best), tried) in open.into_iter().zip(tried) {
                if tried.error < best {
                    values[row * inputs..][..inputs].copy_from_slice(&tried.values);
                    scales[row * groups..][..groups].copy_from_slice(&tried.scales);
                }
                if tried.gave_way {
                    still.push((row, best.min(tried.error)));
                }
            }
            open = still;
        }
    });
    (values, scales)
}

/// A row that is being rounded.
struct Row<'a> {
    weights: &'a [f32],
    values: Vec<i8>,
    scales: Vec<f32>,
    carried: Vec<f32>,
    room: Room,
    error: f32,
    gave_way: bool,
}

impl<'a> Row<'a> {
    fn new(weights: &'a [f32], coarser: f32) -> Self {
        let scale = |group: &[f32]| half::f16::from_f32(coarser * best_scale(group, f32::from(WEIGHT_LEVELS))).to_f32();
        Self {
            weights,
            values: vec![0; weights.len()],
            scales: weights.chunks(GROUP).map(scale).collect(),
            carried: vec![0.0; weights.len()],
            room: Room::new(weights.len(), Some(SUM_OF_EIGHT)),
            error: 0.0,
            gave_way: false,
        }
    }
}

fn round_together(rows: &mut [Row<'_>], factor: &[f32], order: &[usize]) {
    for (place, input) in order.iter().enumerate().rev() {
        let line = &factor[place * order.len()..][..=place];
        for row in rows.iter_mut() {
            let scale = row.scales[input / GROUP];
            let wanted = row.weights[*input] + row.carried[place] / line[place];
            let nearest = level(wanted, scale, f32::from(WEIGHT_LEVELS));
            let value = row.room.take(*input, nearest);
            row.values[*input] = value;
            row.gave_way |= f32::from(value) != nearest;
            row.error += ((wanted - f32::from(value) * scale) * line[place]).powi(2);
            let error = row.weights[*input] - f32::from(value) * scale;
            row.carried[..=place].iter_mut().zip(line).for_each(|(carried, factor)| *carried += error * factor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Repeatable numbers in -1..1.
    fn values(n: usize, mut state: u64) -> Vec<f32> {
        let next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        std::iter::repeat_with(next).take(n).collect()
    }

    #[test]
    fn a_cholesky_factor_times_its_transpose_is_the_matrix() {
        for n in [1, 2, 5, BLOCK, BLOCK + 1, 3 * BLOCK - 7] {
            let x = values(n * (n + 3), n as u64);
            let matrix = times_transposed(&x, &x, n, n + 3);
            let mut factor = matrix.clone();
            assert!(cholesky(&mut factor, n), "{n}");
            for i in 0..n {
                for j in 0..=i {
                    let sum: f64 = (0..=j).map(|k| f64::from(factor[i * n + k]) * f64::from(factor[j * n + k])).sum();
                    assert!((sum - f64::from(matrix[i * n + j])).abs() < 1e-4 * (n + 3) as f64, "{n} {i} {j}");
                }
            }
        }
        assert!(!cholesky(&mut [1.0, 2.0, 2.0, 1.0], 2), "not positive definite");
    }

    #[test]
    fn values_that_are_not_finite_end_in_plain_rounding() {
        let (factor, order) = factor(&[f32::NAN; 9], 3);
        assert_eq!(factor, [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
        assert_eq!(order.len(), 3);
    }

    /// The squared error of the products of `x` with a rounded matrix.
    fn error(x: &[f32], map: &Linear, rounded: &Int8Matrix) -> f64 {
        let (inputs, groups) = (map.inputs, map.inputs.div_ceil(GROUP));
        let mut off = Vec::new();
        for (output, row) in rounded.values.chunks_exact(inputs).enumerate() {
            let scale = |input: usize| rounded.scales[output * groups + input / GROUP];
            let mut row: Vec<f32> = row.iter().enumerate().map(|(input, q)| f32::from(*q) * scale(input)).collect();
            rotate(&mut row);
            let weights = &map.weight[output * inputs..];
            off.extend(row.iter().enumerate().map(|(input, value)| {
                let multiplier = rounded.multipliers.get(input).copied().unwrap_or(1.0);
                f64::from(value * multiplier - weights[input])
            }));
        }
        let products = x.chunks_exact(inputs).flat_map(|x| off.chunks_exact(inputs).map(move |off| (x, off)));
        products.map(|(x, off)| x.iter().zip(off).map(|(x, off)| f64::from(*x) * off).sum::<f64>().powi(2)).sum()
    }

    #[test]
    fn products_with_what_was_looked_at_are_nearer_than_by_rounding_alone() {
        for (outputs, inputs) in [(7, 20), (24, 64), (40, 150)] {
            // Inputs that go together, and one that is far larger than the others.
            let hidden = values(300 * 6, 1);
            let mix = values(inputs * 6, 2);
            let mut x = times_transposed(&hidden, &mix, inputs, 6);
            x.iter_mut().zip(values(300 * inputs, 3)).for_each(|(x, noise)| *x += 0.1 * noise);
            x.chunks_exact_mut(inputs).for_each(|row| row[inputs / 2] *= 30.0);
            let map = Linear { weight: values(outputs * inputs, 4), bias: vec![0.0; outputs], outputs, inputs };
            let fitted = quantize(&[&map], &Statistics::new(&x, inputs)).remove(0);
            assert!(fitted.values.iter().all(|value| value.unsigned_abs() <= WEIGHT_LEVELS));
            let mut rows = map.weight.clone();
            rows.chunks_exact_mut(inputs).for_each(rotate);
            let plain = Int8Matrix::quantize(&rows, inputs, GROUP, WEIGHT_LEVELS, Some(SUM_OF_EIGHT));
            let (fitted, plain) = (error(&x, &map, &fitted), error(&x, &map, &plain));
            assert!(fitted < 0.5 * plain, "{outputs} x {inputs}: {fitted} {plain}");
        }
    }
}
