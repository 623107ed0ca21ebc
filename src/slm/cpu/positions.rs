//! What DeBERTa and ModernBERT add to the encoder's layers: attention to relative positions, rotary positions, and windows.

use super::kernels::{Epilogue, Kernels, Panels, Product};
use super::{Aligned, Packed, PackedWeights};
use crate::slm::config::{Disentangled, EncoderConfig, Rotary, disentangled_row};
use crate::slm::weights::Linear;

/// The keys or the queries of DeBERTa's relative positions in one layer: for each head `[size x rows]` in panels.
pub(super) struct Relative {
    heads: Vec<Aligned<f32>>,
    size: usize,
}

impl Relative {
    /// From the table `[rows x hidden]` through a linear map.
    pub(super) fn new(table: &[f32], map: &Linear, heads: usize, kernels: &Kernels) -> Self {
        let packed = Packed::new(&[map], kernels);
        let (rows, stride) = (table.len() / map.inputs, packed.bias.len());
        let mut mapped = vec![0.0; rows * stride];
        if let PackedWeights::F32(values) = &packed.weights {
            let b = Panels { values: values.get(), bias: &packed.bias, inputs: map.inputs, count: packed.panels };
            let (residual, epilogue) = (&[][..], Epilogue::Plain);
            let job = Product { a: table, stride_a: map.inputs, rows, b, residual, epilogue };
            // SAFETY: `Isa::kernels` gives only kernels that the machine can run; they check their slices.
            unsafe { (kernels.product)(&job, &mut mapped) }
        }
        let (size, panel) = (map.outputs / heads, kernels.panel);
        let of_head = |head: usize| {
            let mut panels = Aligned::new(0.0, rows.div_ceil(panel) * size * panel);
            for (row, values) in mapped.chunks_exact(stride).enumerate() {
                let target = &mut panels.get_mut()[row / panel * size * panel + row % panel..];
                let values = &values[head * size..][..size];
                values.iter().enumerate().for_each(|(at, value)| target[at * panel] = *value);
            }
            panels
        };
        Self { heads: (0..heads).map(of_head).collect(), size }
    }
}

/// DeBERTa's relative positions in one layer.
#[derive(Default)]
pub(super) struct Positions {
    /// Keys that content attends to.
    pub keys: Option<Relative>,
    /// Queries that attend to content.
    pub queries: Option<Relative>,
}

/// The row of the table for each distance (query minus key) that a text can have.
pub(super) struct Distances {
    rows: Vec<usize>,
    longest: usize,
}

impl Distances {
    pub(super) fn new(kind: &Disentangled, longest: usize) -> Self {
        let reach = longest as i64;
        Self { rows: (1 - reach..reach).map(|distance| disentangled_row(kind, distance)).collect(), longest }
    }

    fn row(&self, query: usize, key: usize) -> usize {
        self.rows[self.longest - 1 + query - key]
    }

    /// Adds to a head's scores, rows of `stride` for `tokens` queries, what positions add. `rows` are the text's queries,
    /// keys and values, `row` wide; the queries of the head begin at `column`, its keys at `hidden` after that.
    #[allow(clippy::too_many_arguments, reason = "as many as attention has")]
    pub(super) fn add(
        &self,
        positions: &Positions,
        head: usize,
        (rows, row, column, hidden): (&[f32], usize, usize, usize),
        (tokens, stride): (usize, usize),
        kernels: &Kernels,
        buffer: &mut Vec<f32>,
        scores: &mut [f32],
    ) {
        let panel = kernels.panel;
        // The rows that such a text needs lie together.
        let (first, last) = (self.row(0, tokens - 1) / panel, self.row(tokens - 1, 0) / panel);
        let width = (last - first + 1) * panel;
        let products = [(&positions.keys, column, true), (&positions.queries, hidden + column, false)];
        for (relative, column, by_query) in products {
            let Some(Relative { heads, size }) = relative else { continue };
            let values = &heads[head].get()[first * size * panel..];
            let b = Panels { values, bias: &[], inputs: *size, count: last - first + 1 };
            let (a, epilogue) = (&rows[column..], Epilogue::Plain);
            let job = Product { a, stride_a: row, rows: tokens, b, residual: &[], epilogue };
            let products = super::part(buffer, tokens * width);
            // SAFETY: `Isa::kernels` gives only kernels that the machine can run; they check their slices.
            unsafe { (kernels.product)(&job, products) };
            for (query, scores) in scores.chunks_exact_mut(stride).take(tokens).enumerate() {
                for (key, score) in scores[..tokens].iter_mut().enumerate() {
                    let token = if by_query { query } else { key };
                    *score += products[token * width + self.row(query, key) - first * panel];
                }
            }
        }
    }
}

/// Cosines and sines of the angles by which queries and keys are turned, `[positions x size / 2]`.
pub(super) struct Angles {
    cosines: Vec<f32>,
    sines: Vec<f32>,
    half: usize,
}

impl Angles {
    pub(super) fn new(theta: f32, longest: usize, size: usize) -> Self {
        let half = size / 2;
        let speeds: Vec<f32> = (0..half).map(|i| 1.0 / theta.powf((2 * i) as f32 / size as f32)).collect();
        let angles = (0..longest).flat_map(|position| speeds.iter().map(move |speed| position as f32 * speed));
        let (sines, cosines) = angles.map(f32::sin_cos).unzip();
        Self { cosines, sines, half }
    }

    /// Turns the vectors of a token's queries or keys.
    fn turn(&self, position: usize, row: &mut [f32]) {
        let at = position * self.half..(position + 1) * self.half;
        let (cosines, sines) = (&self.cosines[at.clone()], &self.sines[at]);
        for vector in row.chunks_exact_mut(2 * self.half) {
            let (low, high) = vector.split_at_mut(self.half);
            for (((a, b), cosine), sine) in low.iter_mut().zip(high).zip(cosines).zip(sines) {
                (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
            }
        }
    }
}

/// ModernBERT's positions.
pub(super) struct Turns {
    global_every: usize,
    global: Angles,
    local: Angles,
    /// By distance, 0 in the middle: nothing within the window, minus a billion outside of it.
    window: Vec<f32>,
}

impl Turns {
    pub(super) fn new(rotary: &Rotary, config: &EncoderConfig, panel: usize) -> Self {
        let (longest, size) = (config.max_length(), config.head_size());
        let far = |at: usize| if at.abs_diff(longest - 1) > rotary.window { -1e9 } else { 0.0 };
        Self {
            global_every: rotary.global_every,
            global: Angles::new(rotary.global_theta, longest, size),
            local: Angles::new(rotary.local_theta, longest, size),
            window: (0..2 * longest - 1).map(far).chain(std::iter::repeat_n(0.0, panel)).collect(),
        }
    }

    fn is_global(&self, layer: usize) -> bool {
        layer.is_multiple_of(self.global_every)
    }

    /// What is added to the scores of a layer, by distance; nothing where attention is global.
    pub(super) fn window(&self, layer: usize) -> &[f32] {
        if self.is_global(layer) { &[] } else { &self.window }
    }

    /// Turns queries and keys of texts, the first `2 * hidden` values of rows of `stride`.
    pub(super) fn turn(&self, layer: usize, lengths: &[usize], qkv: &mut [f32], (stride, hidden): (usize, usize)) {
        let angles = if self.is_global(layer) { &self.global } else { &self.local };
        let positions = lengths.iter().flat_map(|length| 0..*length);
        for (row, position) in qkv.chunks_exact_mut(stride).zip(positions) {
            angles.turn(position, &mut row[..2 * hidden]);
        }
    }
}
