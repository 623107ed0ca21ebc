//! Int8 weights: symmetric, a scale for each group of a row.

use super::weights::{EncoderWeights, LayerWeights, Linear};

/// The largest value of a weight.
pub const WEIGHT_LEVELS: u8 = 80;

/// The largest size of an activation. It is stored with [`ACTIVATION_ZERO`] added, so that it has seven bits and no sign.
pub const ACTIVATION_LEVELS: u8 = 63;

/// What stands for an activation of zero.
pub const ACTIVATION_ZERO: u8 = 64;

/// The largest sum of positive weights, and of negative ones, of eight that meet in one 16-bit sum (see [`eight`]): wasm's
/// relaxed SIMD, AVX2 and AVX-512 BW then add four of their products before they widen, and nothing saturates. Few weights
/// have to give way.
pub const SUM_OF_EIGHT: u32 = i16::MAX as u32 / (ACTIVATION_ZERO + ACTIVATION_LEVELS) as u32;

/// The number of the eight inputs that `input` is one of: of each sixteen, two of each four.
pub fn eight(input: usize) -> usize {
    input / 16 * 2 + input % 4 / 2
}

/// Inputs that are rotated together.
pub const ROTATION: usize = 64;

/// Rotates each whole 64 values by a Hadamard matrix (Sylvester's, over every fourth value; its own inverse), which spreads
/// what is large in one of them (QuaRot, arXiv 2404.00456): as long as both sides of a product are rotated it stays the same.
pub fn rotate(row: &mut [f32]) {
    for block in row.as_chunks_mut::<ROTATION>().0 {
        rotate_unscaled(block);
        block.iter_mut().for_each(|x| *x *= ROTATION_SCALE);
    }
}

/// What [`rotate_unscaled`] lacks.
pub(super) const ROTATION_SCALE: f32 = 0.25;

/// As [`rotate`], of one block, four times too large.
#[inline(always)]
pub(super) fn rotate_unscaled(block: &mut [f32; ROTATION]) {
    for half in [4, 8, 16, 32] {
        for pair in block.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
    }
}

/// Inputs of a linear map that share a scale, in weights and in activations. Scales by group keep the outliers of single
/// inputs, which transformers are known for (arXiv 2208.07339), from taking the precision of all others.
pub const GROUP: usize = 192;

/// The largest value of an embedding.
pub const EMBEDDING_LEVELS: u8 = 127;

/// A matrix by rows in int8: an element is its value times the scale of its group. A linear map's rows are rotated (see
/// [`rotate`]); rotated back, each element is multiplied by the multiplier of its input.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Int8Matrix {
    /// Row by row.
    pub values: Vec<i8>,
    /// Row by row, one a group; each is a half-precision number.
    pub scales: Vec<f32>,
    /// What each input is multiplied by before it is quantised, so that no single input takes the precision of its group
    /// (SmoothQuant, arXiv 2211.10438); empty for ones.
    pub multipliers: Vec<f32>,
}

impl Int8Matrix {
    /// Quantises rows of `inputs` finite values to `-levels..=levels` in groups of `group`. Of some scales below the one
    /// that fits the largest value, each group takes that of the least squared error. With `sum`, no four values' sizes
    /// sum to more.
    pub fn quantize(rows: &[f32], inputs: usize, group: usize, levels: u8, sum: Option<u32>) -> Self {
        let mut matrix = Self { values: Vec::with_capacity(rows.len()), ..Self::default() };
        let levels = f32::from(levels);
        for row in rows.chunks_exact(inputs.max(1)) {
            let mut room = Room::new(inputs, sum);
            for (index, values) in row.chunks(group.max(1)).enumerate() {
                let scale = best_scale(values, levels);
                matrix.scales.push(scale);
                let value = |(i, x): (usize, &f32)| room.take(index * group + i, level(*x, scale, levels));
                matrix.values.extend(values.iter().enumerate().map(value));
            }
        }
        matrix
    }
}

impl Int8Matrix {
    /// The weights of a linear map of `inputs` as they act on inputs that are neither multiplied nor rotated.
    pub fn plain(&self, inputs: usize) -> Vec<f32> {
        let groups = inputs.div_ceil(GROUP);
        let mut weights = Vec::with_capacity(self.values.len());
        for (row, scales) in self.values.chunks_exact(inputs.max(1)).zip(self.scales.chunks_exact(groups.max(1))) {
            let from = weights.len();
            let groups = row.chunks(GROUP).zip(scales);
            weights
                .extend(groups.flat_map(|(values, scale)| values.iter().map(move |value| f32::from(*value) * scale)));
            rotate(&mut weights[from..]);
            weights[from..].iter_mut().zip(&self.multipliers).for_each(|(weight, multiplier)| *weight *= multiplier);
        }
        weights
    }
}

/// What is left of the sums of eight in a row: for positive values, and for negative ones.
pub(super) struct Room(Vec<[u32; 2]>);

impl Room {
    pub(super) fn new(inputs: usize, sum: Option<u32>) -> Self {
        Self(vec![[sum.unwrap_or(u32::MAX); 2]; eight(inputs) + 2])
    }

    /// The value, or the nearest there is room for.
    pub(super) fn take(&mut self, input: usize, value: f32) -> i8 {
        let room = &mut self.0[eight(input)];
        let value = value.clamp(-(room[1] as f32), room[0] as f32) as i8;
        room[usize::from(value < 0)] -= u32::from(value.unsigned_abs());
        value
    }
}

/// Whether no eight weights of a row pass [`SUM_OF_EIGHT`].
pub(super) fn fits_sums(row: &[i8]) -> bool {
    row.chunks(16).all(|sixteen| {
        // By their place among four inputs, of which two and two belong together.
        let (mut above, mut below) = ([0i16; 4], [0i16; 4]);
        for four in sixteen.chunks(4) {
            for (i, value) in four.iter().enumerate() {
                above[i] += i16::from(*value).max(0);
                below[i] += (-i16::from(*value)).max(0);
            }
        }
        let most = SUM_OF_EIGHT as i16;
        [above, below].iter().all(|[a, b, c, d]| a + b <= most && c + d <= most)
    })
}

/// The nearest level of a value; with a scale of 0 all are 0.
pub(super) fn level(x: f32, scale: f32, levels: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { (x / scale).round_ties_even().clamp(-levels, levels) }
}

pub(super) fn best_scale(row: &[f32], levels: f32) -> f32 {
    let largest = row.iter().fold(0.0f32, |max, x| max.max(x.abs())) / levels;
    let error = |scale: f32| -> f32 {
        let difference = |x: &f32| x - scale * level(*x, scale, levels);
        row.iter().map(|x| difference(x) * difference(x)).sum()
    };
    let candidates = (0..=8).map(|step| half::f16::from_f32(largest * (1.0 - 0.05 * step as f32)).to_f32());
    let scored = candidates.map(|scale| (error(scale), scale));
    scored.reduce(|best, other| if other.0 < best.0 { other } else { best }).map_or(0.0, |(_, scale)| scale)
}

impl EncoderWeights {
    /// The word embeddings and linear maps in int8, each number rounded by itself. See `calibrate` for what is better
    /// where there are texts to measure by.
    pub fn quantize(&self) -> EncoderWeights<Int8Matrix> {
        let gates = self.extras.gates.iter().map(quantize_map).collect();
        self.quantized(self.layers.iter().map(LayerWeights::quantize).collect(), gates)
    }

    /// With these layers and gates, and the word embeddings in int8.
    pub(super) fn quantized(
        &self,
        layers: Vec<LayerWeights<Int8Matrix>>,
        gates: Vec<Linear<Int8Matrix>>,
    ) -> EncoderWeights<Int8Matrix> {
        let width = self.config.embedding_width();
        EncoderWeights {
            config: self.config.clone(),
            words: Int8Matrix::quantize(&self.words, width, width, EMBEDDING_LEVELS, None),
            positions: self.positions.clone(),
            token_types: self.token_types.clone(),
            embedding_norm: self.embedding_norm.clone(),
            layers,
            relative_bias: self.relative_bias.clone(),
            extras: self.extras.with_gates(gates),
        }
    }
}

impl LayerWeights {
    /// The linear maps in int8, each number rounded by itself.
    pub(super) fn quantize(&self) -> LayerWeights<Int8Matrix> {
        quantized_layer(self, self.linears().map(|map| quantize_map(map).weight))
    }
}

/// A linear map in int8, each number rounded by itself.
fn quantize_map(map: &Linear) -> Linear<Int8Matrix> {
    let mut rows = map.weight.clone();
    rows.chunks_exact_mut(map.inputs.max(1)).for_each(rotate);
    let weight = Int8Matrix::quantize(&rows, map.inputs, GROUP, WEIGHT_LEVELS, Some(SUM_OF_EIGHT));
    Linear { weight, bias: map.bias.clone(), outputs: map.outputs, inputs: map.inputs }
}

/// A layer with other matrices, in the order of [`LayerWeights::linears`].
pub(super) fn quantized_layer(layer: &LayerWeights, matrices: [Int8Matrix; 6]) -> LayerWeights<Int8Matrix> {
    let [query, key, value, output, up, down] = matrices;
    let linear =
        |map: &Linear, weight| Linear { weight, bias: map.bias.clone(), outputs: map.outputs, inputs: map.inputs };
    LayerWeights {
        query: linear(&layer.query, query),
        key: linear(&layer.key, key),
        value: linear(&layer.value, value),
        output: linear(&layer.output, output),
        attention_norm: layer.attention_norm.clone(),
        up: linear(&layer.up, up),
        down: linear(&layer.down, down),
        output_norm: layer.output_norm.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_row_of_zeros_stays_zero() {
        let matrix = Int8Matrix::quantize(&[0.0; 4], 4, 4, 63, None);
        assert_eq!(matrix, Int8Matrix { values: vec![0; 4], scales: vec![0.0], multipliers: Vec::new() });
    }

    proptest! {
        #[test]
        fn no_eight_weights_pass_their_sums(rows in proptest::collection::vec(-3.0f32..3.0, 1..80), group in 1usize..90) {
            let matrix = Int8Matrix::quantize(&rows, rows.len(), group, WEIGHT_LEVELS, Some(SUM_OF_EIGHT));
            let mut sums = vec![[0; 2]; rows.len() + 8];
            for (i, value) in matrix.values.iter().enumerate() {
                sums[eight(i)][usize::from(*value < 0)] += u32::from(value.unsigned_abs());
            }
            prop_assert!(sums.iter().flatten().all(|sum| *sum <= SUM_OF_EIGHT));
            prop_assert!(fits_sums(&matrix.values));
        }

        #[test]
        fn sums_are_checked_as_they_are_counted(values in proptest::collection::vec(-80i8..=80, 1..100)) {
            let mut sums = vec![[0; 2]; values.len() + 8];
            for (i, value) in values.iter().enumerate() {
                sums[eight(i)][usize::from(*value < 0)] += u32::from(value.unsigned_abs());
            }
            prop_assert_eq!(fits_sums(&values), sums.iter().flatten().all(|sum| *sum <= SUM_OF_EIGHT));
        }

        #[test]
        fn a_rotation_is_its_own_inverse_and_keeps_products(
            a in proptest::collection::vec(-3.0f32..3.0, 150), b in proptest::collection::vec(-3.0f32..3.0, 150),
        ) {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let (mut x, mut y) = (a.clone(), b.clone());
            rotate(&mut x);
            rotate(&mut y);
            prop_assert!((dot(&x, &y) - dot(&a, &b)).abs() < 1e-3);
            rotate(&mut x);
            prop_assert!(x.iter().zip(&a).all(|(x, a)| (x - a).abs() < 1e-5));
        }

        #[test]
        fn an_error_is_at_most_that_of_the_scale_that_fits_the_largest(
            rows in proptest::collection::vec(-3.0f32..3.0, 1..80), group in 1usize..90,
        ) {
            for levels in [WEIGHT_LEVELS, EMBEDDING_LEVELS] {
                let matrix = Int8Matrix::quantize(&rows, rows.len(), group, levels, None);
                prop_assert!(matrix.values.iter().all(|value| value.unsigned_abs() <= levels));
                prop_assert_eq!(matrix.scales.len(), rows.len().div_ceil(group));
                for ((row, values), scale) in rows.chunks(group).zip(matrix.values.chunks(group)).zip(&matrix.scales) {
                    let naive = row.iter().fold(0.0f32, |max, x| max.max(x.abs())) / f32::from(levels);
                    let bound = row.len() as f32 * naive * naive / 4.0;
                    let error: f32 = row.iter().zip(values).map(|(x, q)| (x - f32::from(*q) * scale).powi(2)).sum();
                    prop_assert!(error <= bound * 1.01 + 1e-12, "{error} {bound}");
                }
            }
        }
    }
}
