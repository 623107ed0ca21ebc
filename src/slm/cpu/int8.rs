//! Int8 products, generic over the instruction set. Activations are rotated and quantised by row and group of inputs,
//! weights by column and group; the sums of a group are exact, those of the groups are f32. An output depends on its row
//! and column alone.

use super::super::quant::{ACTIVATION_LEVELS, GROUP, ROTATION, rotate_unscaled};
use super::dot::Dot;
use super::kernels::{Epilogue, absolute, gelu, lanes};
use super::simd::Simd;
use std::array::from_fn;

/// The bytes of a row block that should stay in the second-level cache.
const BLOCK: usize = 1 << 18;

/// The most rows of a tile.
const MOST_ROWS: usize = 16;

/// Int8 weights with their columns in panels. A panel is, for each group of inputs, what the sums start from (it takes off
/// what [`ACTIVATION_ZERO`] adds), the blocks of four inputs, and the scales: [`Layout`] says where.
///
/// [`ACTIVATION_ZERO`]: super::super::quant::ACTIVATION_ZERO
pub(super) struct Int8Panels<'a> {
    /// The panels.
    pub bytes: &'a [u8],
    /// One for each column of all panels.
    pub bias: &'a [f32],
    /// Inputs.
    pub inputs: usize,
    /// Number of panels.
    pub count: usize,
}

/// Where things stand in a panel of `columns` columns, in bytes.
pub(super) struct Layout {
    /// Columns of the panel.
    pub columns: usize,
    /// Blocks of four inputs, in fours.
    pub quads: usize,
}

impl Layout {
    pub(super) fn new(columns: usize, inputs: usize) -> Self {
        Self { columns, quads: quads(inputs) }
    }

    /// Size of a panel.
    pub(super) fn size(&self) -> usize {
        4 * self.columns * (2 * self.groups() + self.quads)
    }

    /// Where a group begins: with its starts, one `i32` a column.
    pub(super) fn starts(&self, group: usize) -> usize {
        4 * self.columns * group * (2 + GROUP / 4)
    }

    /// The block that holds an input.
    pub(super) fn block(&self, input: usize) -> usize {
        self.starts(input / GROUP) + 4 * self.columns * (1 + input % GROUP / 4)
    }

    /// The scales of a group, one `f32` a column.
    pub(super) fn scales(&self, group: usize) -> usize {
        let blocks = (self.quads - group * GROUP / 4).min(GROUP / 4);
        self.starts(group) + 4 * self.columns * (1 + blocks)
    }

    fn groups(&self) -> usize {
        self.quads.div_ceil(GROUP / 4)
    }
}

/// Rows of activations: a value `q` stands for `(q - ACTIVATION_ZERO) * scale` of its row and group. A row is, for each
/// group, the values and the scale; see [`Dot::INTERLEAVED`] for where they stand.
#[derive(Default)]
pub(super) struct Int8Rows {
    bytes: Vec<u8>,
    /// A row before it is quantised.
    rotated: Vec<f32>,
}

/// Bytes of a row of `Int8Rows`.
fn row_bytes<D: Dot>(inputs: usize) -> usize {
    4 * quads(inputs) * D::WIDTH + size_of::<f32>() * inputs.div_ceil(GROUP)
}

/// `c = epilogue(a x panels + bias) (+ residual)`.
pub(super) struct Int8Product<'a> {
    /// As many rows as `c`, of the panels' inputs.
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

/// Rotates and quantises rows: `x` is `[rows x stride]`, of which the first `inputs` count and what follows them is zero.
pub(super) struct Quantize<'a> {
    /// The values.
    pub x: &'a [f32],
    /// Distance between rows.
    pub stride: usize,
    /// Values of a row that count.
    pub inputs: usize,
    /// What each input is multiplied by first, the scale of the rotation with it; as long as a row, up to whole vectors.
    pub multipliers: &'a [f32],
}

/// Blocks of four inputs, in fours.
fn quads(inputs: usize) -> usize {
    4 * inputs.div_ceil(16)
}

#[inline(always)]
pub(super) unsafe fn quantize<D: Dot, const ROWS: usize>(job: &Quantize<'_>, out: &mut Int8Rows) {
    unsafe {
        let lanes_n = <D::S as Simd>::LANES;
        let (rows, whole) = (job.x.len() / job.stride, 4 * quads(job.inputs));
        let vectors = job.inputs.next_multiple_of(lanes_n);
        assert!(vectors <= job.stride && GROUP.is_multiple_of(16) && job.multipliers.len() >= vectors);
        // A product reads whole tiles of rows.
        let size = (rows + MOST_ROWS) * row_bytes::<D>(job.inputs);
        if out.bytes.len() < size {
            out.bytes.resize(size, 0);
        }
        out.rotated.clear();
        out.rotated.resize(whole, 0.0);
        let (multipliers, rotated) = (job.multipliers.as_ptr(), out.rotated.as_mut_ptr());
        let blocks = job.inputs / ROTATION * ROTATION;
        let together = if D::INTERLEAVED { ROWS } else { 1 };
        for (index, row) in job.x.chunks_exact(job.stride).enumerate() {
            let row = row.as_ptr();
            let place = index % together;
            let mut target = out.bytes.as_mut_ptr().add((index - place) * row_bytes::<D>(job.inputs));
            for j in (0..blocks).step_by(ROTATION) {
                rotate::<D::S>(row.add(j), multipliers.add(j), rotated.add(j));
            }
            for j in (blocks..vectors).step_by(lanes_n) {
                let x = D::S::mul(D::S::load(row.add(j)), D::S::load(multipliers.add(j)));
                D::S::store(rotated.add(j), x);
            }
            for first in (0..job.inputs).step_by(GROUP) {
                let end = (first + GROUP).min(whole);
                let mut largest = D::S::splat(1e-30);
                for j in (first..end).step_by(lanes_n) {
                    largest = D::S::max(absolute::<D::S>(D::S::load(rotated.add(j))), largest);
                }
                let largest = lanes::<D::S>(largest, 0.0, |a, b| if a > b { a } else { b });
                let inverse = f32::from(ACTIVATION_LEVELS) / largest;
                for j in (first..end).step_by(16) {
                    D::store(target.add(place * 16 * D::WIDTH), rotated.add(j), inverse);
                    target = target.add(together * 16 * D::WIDTH);
                }
                let scale = target.cast::<f32>().add(place);
                scale.write_unaligned(largest / f32::from(ACTIVATION_LEVELS));
                target = target.add(together * size_of::<f32>());
            }
        }
    }
}

/// `x` times `multipliers`, rotated without the scale: see [`rotate_unscaled`]. Vectors of four need no shuffling.
#[inline(always)]
unsafe fn rotate<S: Simd>(x: *const f32, multipliers: *const f32, out: *mut f32) {
    unsafe {
        if S::LANES != 4 {
            for j in (0..ROTATION).step_by(S::LANES) {
                S::store(out.add(j), S::mul(S::load(x.add(j)), S::load(multipliers.add(j))));
            }
            return rotate_unscaled(&mut *out.cast());
        }
        // Two of the four stages at a time, so that all values stay in registers; in the other's order.
        for i in (0..ROTATION).step_by(16) {
            let v: [S::V; 4] = from_fn(|k| S::mul(S::load(x.add(i + 4 * k)), S::load(multipliers.add(i + 4 * k))));
            four::<S>(v, out.add(i), 4);
        }
        for i in (0..16).step_by(4) {
            four::<S>(from_fn(|k| S::load(out.add(16 * k + i))), out.add(i), 16);
        }
    }
}

/// Two stages of a rotation, stored `step` values apart.
#[inline(always)]
unsafe fn four<S: Simd>([a, b, c, d]: [S::V; 4], out: *mut f32, step: usize) {
    unsafe {
        let (a, b, c, d) = (S::add(a, b), S::sub(a, b), S::add(c, d), S::sub(c, d));
        S::store(out, S::add(a, c));
        S::store(out.add(step), S::add(b, d));
        S::store(out.add(2 * step), S::sub(a, c));
        S::store(out.add(3 * step), S::sub(b, d));
    }
}

#[inline(always)]
pub(super) unsafe fn product<D: Dot, const ROWS: usize>(job: &Int8Product<'_>, c: &mut [f32]) {
    const { assert!(ROWS <= MOST_ROWS && (D::INPUTS == 16 || !D::INTERLEAVED)) };
    let panel = 2 * <D::S as Simd>::LANES;
    let (rows, stride_c, row_bytes) = (job.rows, job.b.count * panel, row_bytes::<D>(job.b.inputs));
    assert!(rows > 0 && job.a.bytes.len() >= (rows + MOST_ROWS) * row_bytes);
    assert!(job.b.bytes.len() >= job.b.count * Layout::new(panel, job.b.inputs).size() && c.len() >= rows * stride_c);
    assert!(job.b.bias.len() >= stride_c && (job.residual.is_empty() || job.residual.len() >= rows * stride_c));
    let block = (BLOCK / row_bytes / ROWS).max(1) * ROWS;
    for first in (0..rows).step_by(block) {
        let end = (first + block).min(rows);
        for index in 0..job.b.count {
            let mut row = first;
            while row < end {
                unsafe { tile::<D, ROWS>(job, c.as_mut_ptr(), row, end, index) };
                row += ROWS;
            }
        }
    }
}

/// Rows `first..min(first + ROWS, end)` by panel `index`. Rows beyond the end hold anything and are not stored.
#[allow(clippy::needless_range_loop, reason = "a row is looked for in several places")]
#[inline(always)]
unsafe fn tile<D: Dot, const ROWS: usize>(job: &Int8Product<'_>, c: *mut f32, first: usize, end: usize, index: usize) {
    unsafe {
        let lanes = <D::S as Simd>::LANES;
        let panel = 2 * lanes;
        let (layout, stride_c) = (Layout::new(panel, job.b.inputs), job.b.count * panel);
        let row_bytes = row_bytes::<D>(job.b.inputs);
        // Everything is read in the order in which it stands, so that few pointers are needed.
        let mut a: [*const u8; ROWS] = from_fn(|r| job.a.bytes.as_ptr().add((first + r) * row_bytes));
        let mut tile = a[0];
        let mut b = job.b.bytes.as_ptr().add(index * layout.size());
        let mut total = job.b.bias.as_ptr().add(index * panel);
        let mut total_stride = 0;
        let c = c.add(first * stride_c + index * panel);
        let constant = D::constant();
        let mut left = 4 * layout.quads / D::INPUTS;
        let count = if D::INTERLEAVED { ROWS.min(end - first) } else { ROWS };
        let mut sums = [[D::sum(b.cast()); 2]; ROWS];
        let mut sums = sums.as_mut_ptr();
        if D::INTERLEAVED {
            // Of a pointer from who knows where the compiler does not take the sums into registers.
            sums = std::hint::black_box(sums);
        }
        while left > 0 {
            let steps = left.min(GROUP / D::INPUTS);
            left -= steps;
            for r in 0..count {
                *sums.add(r) = [D::sum(b.cast()), D::sum(b.add(4 * lanes).cast())];
            }
            b = b.add(4 * panel);
            for _ in 0..steps {
                let blocks = D::blocks(b);
                b = b.add(D::INPUTS * panel);
                let (mut row, mut at) = (tile, sums);
                for r in 0..count {
                    let x = D::input(if D::INTERLEAVED { row } else { a[r] });
                    if D::INTERLEAVED {
                        row = row.add(D::INPUTS * D::WIDTH);
                    } else {
                        a[r] = a[r].add(D::INPUTS * D::WIDTH);
                    }
                    for half in [0, 1] {
                        (*at)[half] = D::dot((*at)[half], x, blocks[half], constant);
                    }
                    at = at.add(1);
                }
                tile = tile.add(ROWS * D::INPUTS * D::WIDTH);
            }
            let scales = [D::S::load(b.cast()), D::S::load(b.add(4 * lanes).cast())];
            b = b.add(4 * panel);
            for r in 0..count {
                let scale = if D::INTERLEAVED { tile.add(r * size_of::<f32>()) } else { a[r] };
                let scale = D::S::splat(scale.cast::<f32>().read_unaligned());
                if !D::INTERLEAVED {
                    a[r] = a[r].add(size_of::<f32>());
                }
                if first + r < end {
                    for half in [0, 1] {
                        let value = D::S::load(total.add(r * total_stride + half * lanes));
                        let value = D::S::madd(D::float((*sums.add(r))[half]), D::S::mul(scale, scales[half]), value);
                        D::S::store(c.add(r * stride_c + half * lanes), value);
                    }
                }
            }
            tile = tile.add(ROWS * size_of::<f32>());
            // What the groups add up to waits where it will stand: it would take registers from the sums.
            (total, total_stride) = (c, stride_c);
        }
        if job.epilogue == Epilogue::Gelu {
            for r in 0..ROWS.min(end - first) {
                let p = c.add(r * stride_c);
                let [low, high] = gelu::<D::S, 2>([D::S::load(p), D::S::load(p.add(lanes))]);
                D::S::store(p, low);
                D::S::store(p.add(lanes), high);
            }
        }
        if !job.residual.is_empty() {
            let residual = job.residual.as_ptr().add(first * stride_c + index * panel);
            for r in 0..ROWS.min(end - first) {
                for at in [r * stride_c, r * stride_c + lanes] {
                    D::S::store(c.add(at), D::S::add(D::S::load(c.add(at)), D::S::load(residual.add(at))));
                }
            }
        }
    }
}
