//! Int8 products, generic over the instruction set. Activations are quantised by row and group of inputs, weights by column
//! and group; the sums of a group are exact, those of the groups are f32. An output depends on its row and column alone.

use super::super::quant::{ACTIVATION_LEVELS, GROUP};
use super::dot::Dot;
use super::kernels::{Epilogue, gelu, lanes};
use super::simd::Simd;

/// The bytes of a row block that should stay in the second-level cache.
const BLOCK: usize = 1 << 18;

/// The largest activation.
const LEVELS: f32 = ACTIVATION_LEVELS as f32;

/// Int8 weights with their columns in panels, `[columns / width][inputs / 4][blocks of four inputs]`, zeros at the ends,
/// of which there are an even number for the inputs.
pub(super) struct Int8Panels<'a> {
    /// The packed weights.
    pub values: &'a [i8],
    /// By panel, group of inputs and column.
    pub scales: &'a [f32],
    /// The sums of the weights of each group, in the order of `scales`.
    pub sums: &'a [i32],
    /// One for each column of all panels.
    pub bias: &'a [f32],
    /// Inputs.
    pub inputs: usize,
    /// Number of panels.
    pub count: usize,
}

/// Rows of activations: value `q` stands for `(q - zero) * scale` of its row and group.
#[derive(Default)]
pub(super) struct Int8Rows {
    values: Vec<u8>,
    /// By row and group.
    scales: Vec<f32>,
    /// By row and group.
    zeros: Vec<i32>,
}

/// `c = epilogue(a x panels + bias) (+ residual)`.
pub(super) struct Int8Product<'a> {
    /// As many rows as `c`, `4 * quads(inputs)` values each.
    pub a: &'a Int8Rows,
    /// Rows of `a` and `c`.
    pub rows: usize,
    /// The right side.
    pub b: Int8Panels<'a>,
    /// Added to the product: rows as those of `c`; empty for none.
    pub residual: &'a [f32],
    /// See [`Epilogue`].
    pub epilogue: Epilogue,
}

/// Quantises rows: `x` is `[rows x stride]`, of which the first `inputs` count and what follows them is zero.
pub(super) struct Quantize<'a> {
    /// The values.
    pub x: &'a [f32],
    /// Distance between rows.
    pub stride: usize,
    /// Values of a row that count.
    pub inputs: usize,
    /// What each input is multiplied by first; as long as a row, up to whole vectors.
    pub multipliers: &'a [f32],
}

/// Blocks of four inputs, in pairs.
pub(super) fn quads(inputs: usize) -> usize {
    2 * inputs.div_ceil(8)
}

#[inline(always)]
pub(super) unsafe fn quantize<D: Dot>(job: &Quantize<'_>, out: &mut Int8Rows) {
    unsafe {
        let lanes_n = <D::S as Simd>::LANES;
        let (rows, quads) = (job.x.len() / job.stride, quads(job.inputs));
        // Whole vectors are read and stored; a row of the result is followed by the next one, or by room for a vector.
        let whole = (4 * quads).next_multiple_of(lanes_n);
        assert!(whole <= job.stride && GROUP.is_multiple_of(lanes_n) && job.multipliers.len() >= whole);
        let row_bytes = 4 * quads * D::WIDTH;
        let size = rows * row_bytes + lanes_n * D::WIDTH;
        if out.values.len() < size {
            out.values.resize(size, 0);
        }
        out.scales.clear();
        out.zeros.clear();
        let multipliers = job.multipliers.as_ptr();
        let (least, most) = (D::S::splat(0.0), D::S::splat(LEVELS));
        for (index, row) in job.x.chunks_exact(job.stride).enumerate() {
            let target = out.values.as_mut_ptr().add(index * row_bytes);
            for first in (0..job.inputs).step_by(GROUP) {
                let end = (first + GROUP).min(whole);
                let value = |j: usize| D::S::mul(D::S::load(row.as_ptr().add(j)), D::S::load(multipliers.add(j)));
                let (mut low, mut high) = (least, least);
                for j in (first..end).step_by(lanes_n) {
                    let x = value(j);
                    (low, high) = (D::S::min(x, low), D::S::max(x, high));
                }
                let (low, high) = (lanes::<D::S>(low, 0.0, f32::min), lanes::<D::S>(high, 0.0, f32::max));
                let range = (high - low).max(1e-30);
                let zero = (-low * LEVELS / range).round_ties_even();
                let (inverse, shift) = (D::S::splat(LEVELS / range), D::S::splat(zero));
                for j in (first..end).step_by(lanes_n) {
                    let q = D::S::round(D::S::madd(value(j), inverse, shift));
                    D::store(target.add(j * D::WIDTH), D::S::min(D::S::max(q, least), most));
                }
                out.scales.push(range / LEVELS);
                out.zeros.push(zero as i32);
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn product<D: Dot, const ROWS: usize, const GELU: bool, const ADD: bool>(
    job: &Int8Product<'_>,
    c: &mut [f32],
) {
    let panel = 2 * <D::S as Simd>::LANES;
    let (rows, quads, stride_c) = (job.rows, quads(job.b.inputs), job.b.count * panel);
    let groups = job.b.inputs.div_ceil(GROUP);
    assert!(rows > 0 && job.a.values.len() >= rows * 4 * quads * D::WIDTH);
    assert!(job.a.scales.len() >= rows * groups && job.a.zeros.len() >= rows * groups);
    assert!(job.b.values.len() >= job.b.count * quads * 4 * panel && c.len() >= rows * stride_c);
    assert!(job.b.bias.len() >= stride_c && job.b.scales.len() >= stride_c * groups);
    assert!(job.b.sums.len() >= stride_c * groups);
    assert!(!ADD || job.residual.len() >= rows * stride_c);
    let block = (BLOCK / (4 * quads * D::WIDTH) / ROWS).max(1) * ROWS;
    for first in (0..rows).step_by(block) {
        let end = (first + block).min(rows);
        for index in 0..job.b.count {
            let mut row = first;
            while row < end {
                unsafe { tile::<D, ROWS, GELU, ADD>(job, c.as_mut_ptr(), row, end, index) };
                row += ROWS;
            }
        }
    }
}

/// Rows `first..min(first + ROWS, end)` by panel `index`. Rows beyond the end repeat the last one and are not stored.
#[inline(always)]
unsafe fn tile<D: Dot, const ROWS: usize, const GELU: bool, const ADD: bool>(
    job: &Int8Product<'_>,
    c: *mut f32,
    first: usize,
    end: usize,
    index: usize,
) {
    unsafe {
        let lanes = <D::S as Simd>::LANES;
        let panel = 2 * lanes;
        let (quads, stride_c) = (quads(job.b.inputs), job.b.count * panel);
        let groups = job.b.inputs.div_ceil(GROUP);
        let row_bytes = 4 * quads * D::WIDTH;
        let mut a = [job.a.values.as_ptr(); ROWS];
        let mut row_groups = [0; ROWS];
        for r in 0..ROWS {
            let row = (first + r).min(end - 1);
            a[r] = a[r].add(row * row_bytes);
            row_groups[r] = row * groups;
        }
        let bias = job.b.bias.as_ptr().add(index * panel);
        let mut totals = [[D::S::load(bias), D::S::load(bias.add(lanes))]; ROWS];
        let mut b = job.b.values.as_ptr().cast::<u8>().add(index * quads * 4 * panel);
        for group in 0..groups {
            let at = (index * groups + group) * panel;
            let (scales, zeros) = (job.b.scales.as_ptr().add(at), job.b.sums.as_ptr().add(at));
            let mut sums = [[D::times(0, zeros); 2]; ROWS];
            for r in 0..ROWS {
                let zero = -*job.a.zeros.get_unchecked(row_groups[r] + group);
                sums[r] = [D::times(zero, zeros), D::times(zero, zeros.add(lanes))];
            }
            let first = group * (GROUP / 4);
            for quad in (first..(first + GROUP / 4).min(quads)).step_by(D::QUADS) {
                let (low, high) = (D::block(b, 4 * panel), D::block(b.add(4 * lanes), 4 * panel));
                b = b.add(D::QUADS * 4 * panel);
                for r in 0..ROWS {
                    let x = D::input(a[r].add(quad * 4 * D::WIDTH));
                    sums[r] = [D::dot(sums[r][0], x, low), D::dot(sums[r][1], x, high)];
                }
            }
            let (low, high) = (D::S::load(scales), D::S::load(scales.add(lanes)));
            for r in 0..ROWS {
                let scale = D::S::splat(*job.a.scales.get_unchecked(row_groups[r] + group));
                let [total_low, total_high] = totals[r];
                totals[r] = [
                    D::S::madd(D::float(sums[r][0]), D::S::mul(scale, low), total_low),
                    D::S::madd(D::float(sums[r][1]), D::S::mul(scale, high), total_high),
                ];
            }
        }
        for (r, total) in totals.iter().enumerate().take(end - first) {
            for (half, value) in total.iter().enumerate() {
                let at = (first + r) * stride_c + index * panel + half * lanes;
                let mut value = *value;
                if GELU {
                    value = gelu::<D::S>(value);
                }
                if ADD {
                    value = D::S::add(value, D::S::load(job.residual.as_ptr().add(at)));
                }
                D::S::store(c.add(at), value);
            }
        }
    }
}
