//! The kernels, generic over the instruction set, and the table of them for each.
//!
//! Weights are packed into panels of two vectors' width, so that a register tile of `ROWS` rows by one panel runs over the
//! inputs without spilling. An output is one accumulator that starts at the bias and takes the inputs in order, wherever
//! its row lies: results do not depend on tiles, threads or the batch.

use super::dot::{Dot, Plain};
use super::int8::{self, Int8Product, Int8Rows, Quantize};
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Scalar, Simd};
use std::array::from_fn;

/// The values of a row block that should stay in the second-level cache.
const BLOCK: usize = 1 << 17;

/// How many rows of a panel ahead the next ones are fetched: the second-level cache, where panels lie, answers too late by itself.
const AHEAD: usize = 16;

/// What happens to a product before it is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Epilogue {
    /// Nothing.
    Plain,
    /// GELU (by erf; absolute error below 3e-7).
    Gelu,
}

/// A matrix with its columns in panels, `[columns / width][inputs][width]`, the last panel filled with zeros.
pub(super) struct Panels<'a> {
    /// The values.
    pub values: &'a [f32],
    /// One for each column of all panels, or empty for none.
    pub bias: &'a [f32],
    /// Rows of the matrix.
    pub inputs: usize,
    /// Number of panels.
    pub count: usize,
}

/// `c = epilogue(a x panels + bias) (+ c)`, for `rows` rows.
pub(super) struct Product<'a> {
    /// `[rows x stride_a]`, of which the first `inputs` of each row count.
    pub a: &'a [f32],
    /// Distance between rows of `a`.
    pub stride_a: usize,
    /// Rows of `a` and `c`.
    pub rows: usize,
    /// The right side.
    pub b: Panels<'a>,
    /// Added to the product: rows as those of `c`; empty for none.
    pub residual: &'a [f32],
    /// See [`Epilogue`].
    pub epilogue: Epilogue,
}

/// Attention scores to probabilities, in place.
pub(super) struct Softmax<'a> {
    /// Distance between rows.
    pub stride: usize,
    /// Valid values of a row, and the number of rows.
    pub tokens: usize,
    /// Scores are multiplied by it.
    pub scale: f32,
    /// Added after that: value `tokens_max - 1 + key - query`; empty for none.
    pub bias: &'a [f32],
    /// Index of distance 0 in `bias`.
    pub center: usize,
}

/// An affine layer normalisation of rows.
pub(super) struct LayerNorm<'a> {
    /// Distance between rows.
    pub stride: usize,
    /// Values of a row.
    pub width: usize,
    /// `[width]`.
    pub gamma: &'a [f32],
    /// `[width]`.
    pub beta: &'a [f32],
    /// Added to the variance.
    pub epsilon: f32,
}

/// The kernels of one instruction set. They may be called only where it is available.
pub(super) struct Kernels {
    /// Columns of a panel.
    pub panel: usize,
    /// Writes a product to `[rows x panels * width]`.
    pub product: unsafe fn(&Product<'_>, &mut [f32]),
    /// See [`Softmax`].
    pub softmax: unsafe fn(&Softmax<'_>, &mut [f32]),
    /// See [`LayerNorm`].
    pub layer_norm: unsafe fn(&LayerNorm<'_>, &mut [f32]),
    /// See [`Quantize`].
    pub quantize: unsafe fn(&Quantize<'_>, &mut Int8Rows),
    /// See [`Int8Product`]; writes to `[rows x panels * width]`.
    pub int8_product: unsafe fn(&Int8Product<'_>, &mut [f32]),
    /// GELU by its approximation with tanh, in place, of whole panels.
    pub gelu_tanh: unsafe fn(&mut [f32]),
    /// GELU, in place.
    #[cfg(feature = "native")]
    pub gelu: unsafe fn(&mut [f32]),
    /// Multiplies the second by GELU's derivative at the first.
    #[cfg(feature = "native")]
    pub gelu_back: unsafe fn(&[f32], &mut [f32]),
    /// Where an input (0 to 3) of a column stands in a block of a panel's columns by four inputs.
    pub place: fn(usize, usize) -> usize,
}

/// The kernels for an instruction set, compiled with its features.
macro_rules! kernels {
    ($table:ident, $module:ident, $simd:ty, $rows:literal, $dot:ty, $int8_rows:literal $(, $feature:literal)?) => {
        mod $module {
            use super::*;
            $(#[target_feature(enable = $feature)])?
            unsafe fn product(job: &Product<'_>, c: &mut [f32]) {
                unsafe {
                    match (job.epilogue, job.residual.is_empty()) {
                        (Epilogue::Plain, true) => super::product::<$simd, $rows, false, false>(job, c),
                        (Epilogue::Plain, false) => super::product::<$simd, $rows, false, true>(job, c),
                        (Epilogue::Gelu, _) => super::product::<$simd, $rows, true, false>(job, c),
                    }
                }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn softmax(job: &Softmax<'_>, scores: &mut [f32]) {
                unsafe { super::softmax::<$simd>(job, scores) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn layer_norm(job: &LayerNorm<'_>, x: &mut [f32]) {
                unsafe { super::layer_norm::<$simd>(job, x) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn quantize(job: &Quantize<'_>, out: &mut Int8Rows) {
                unsafe { int8::quantize::<$dot, $int8_rows>(job, out) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn int8_product(job: &Int8Product<'_>, c: &mut [f32]) {
                unsafe { int8::product::<$dot, $int8_rows>(job, c) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn gelu_tanh(x: &mut [f32]) {
                unsafe { super::gelu_tanh_all::<$simd>(x) }
            }
            #[cfg(feature = "native")]
            $(#[target_feature(enable = $feature)])?
            unsafe fn gelu(x: &mut [f32]) {
                unsafe { super::gelu_all::<$simd>(x) }
            }
            #[cfg(feature = "native")]
            $(#[target_feature(enable = $feature)])?
            unsafe fn gelu_back(x: &[f32], d: &mut [f32]) {
                unsafe { super::gelu_back::<$simd>(x, d) }
            }
            pub(in super::super) static TABLE: Kernels = Kernels {
                panel: 2 * <$simd as Simd>::LANES,
                product,
                softmax,
                layer_norm,
                quantize,
                int8_product,
                gelu_tanh,
                #[cfg(feature = "native")]
                gelu,
                #[cfg(feature = "native")]
                gelu_back,
                place: <$dot as Dot>::place,
            };
        }
        pub(super) use $module::TABLE as $table;
    };
}

kernels!(SCALAR, scalar, Scalar, 4, Plain, 4);
#[cfg(target_arch = "x86_64")]
use super::dot::{Maddubs256, Maddubs512, Vnni256, Vnni512};
#[cfg(target_arch = "x86_64")]
kernels!(AVX2, avx2, Avx2, 6, Maddubs256, 4, "avx2,fma");
#[cfg(target_arch = "x86_64")]
kernels!(AVX_VNNI, avx_vnni, Avx2, 6, Vnni256, 6, "avx2,fma,avxvnni");
#[cfg(target_arch = "x86_64")]
kernels!(AVX512, avx512, Avx512, 8, Maddubs512, 8, "avx512f,avx512bw,avx2,fma");
#[cfg(target_arch = "x86_64")]
kernels!(AVX512_VNNI, avx512_vnni, Avx512, 8, Vnni512, 6, "avx512f,avx512bw,avx512vnni,avx2,fma");
#[cfg(target_arch = "aarch64")]
use super::{
    dot::{NeonDot, NeonPairs},
    simd::Neon,
};
#[cfg(target_arch = "aarch64")]
kernels!(NEON, neon, Neon, 8, NeonPairs, 4, "neon");
#[cfg(target_arch = "aarch64")]
kernels!(NEON_DOT, neon_dot, Neon, 8, NeonDot, 8, "neon,dotprod");
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
use super::{dot::Pairs, simd::Wasm};
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
kernels!(SIMD128, simd128, Wasm, 4, Pairs, 4);
#[cfg(all(target_arch = "wasm32", target_feature = "relaxed-simd"))]
use super::{dot::RelaxedDot, simd::Relaxed};
#[cfg(all(target_arch = "wasm32", target_feature = "relaxed-simd"))]
kernels!(RELAXED, relaxed, Relaxed, 4, RelaxedDot, 16);

#[inline(always)]
unsafe fn product<S: Simd, const ROWS: usize, const GELU: bool, const ADD: bool>(job: &Product<'_>, c: &mut [f32]) {
    let panel = 2 * S::LANES;
    let (rows, k, stride_c) = (job.rows, job.b.inputs, job.b.count * panel);
    assert!(rows > 0 && k > 0 && k <= job.stride_a && (rows - 1) * job.stride_a + k <= job.a.len());
    assert!(job.b.values.len() >= job.b.count * k * panel && c.len() >= rows * stride_c);
    assert!(job.b.bias.is_empty() || job.b.bias.len() >= stride_c);
    assert!(!ADD || job.residual.len() >= rows * stride_c);
    let block = (BLOCK / k / ROWS).max(1) * ROWS;
    for first in (0..rows).step_by(block) {
        let end = (first + block).min(rows);
        for index in 0..job.b.count {
            let mut row = first;
            while row < end {
                unsafe { tile::<S, ROWS, GELU, ADD>(job, c.as_mut_ptr(), row, end, index) };
                row += ROWS;
            }
        }
    }
}

/// Rows `first..min(first + ROWS, end)` by panel `index`. Rows beyond the end repeat the last one and are not stored.
#[inline(always)]
unsafe fn tile<S: Simd, const ROWS: usize, const GELU: bool, const ADD: bool>(
    job: &Product<'_>,
    c: *mut f32,
    first: usize,
    end: usize,
    index: usize,
) {
    unsafe {
        let panel = 2 * S::LANES;
        let (k, stride_c) = (job.b.inputs, job.b.count * panel);
        let mut a = [job.a.as_ptr(); ROWS];
        for (r, pointer) in a.iter_mut().enumerate() {
            *pointer = pointer.add((first + r).min(end - 1) * job.stride_a);
        }
        let start = if job.b.bias.is_empty() {
            [S::splat(0.0); 2]
        } else {
            let bias = job.b.bias.as_ptr().add(index * panel);
            [S::load(bias), S::load(bias.add(S::LANES))]
        };
        let mut sums = [start; ROWS];
        let mut b = job.b.values.as_ptr().add(index * k * panel);
        for p in 0..k {
            let (low, high) = (S::load(b), S::load(b.add(S::LANES)));
            S::prefetch(b.wrapping_add(AHEAD * panel));
            S::prefetch(b.wrapping_add(AHEAD * panel + S::LANES));
            b = b.add(panel);
            for r in 0..ROWS {
                let x = S::splat(*a[r].add(p));
                sums[r] = [S::madd(x, low, sums[r][0]), S::madd(x, high, sums[r][1])];
            }
        }
        for (r, sum) in sums.iter().enumerate().take(end - first) {
            let at = (first + r) * stride_c + index * panel;
            let values = if GELU { gelu::<S, 2>(*sum) } else { *sum };
            for (half, value) in values.iter().enumerate() {
                let at = at + half * S::LANES;
                let residual = if ADD { S::load(job.residual.as_ptr().add(at)) } else { S::splat(0.0) };
                S::store(c.add(at), if ADD { S::add(*value, residual) } else { *value });
            }
        }
    }
}

/// Added to a number below 2^22, it leaves the nearest integer in the low bits of the sum.
pub(super) const TO_INTEGER: f32 = 12_582_912.0;

/// `e^x` for x up to 88, relative error below 2e-7; `e^-86` for anything smaller. Of `N` vectors at a time, because wasm
/// engines make a constant anew for each use in a loop.
#[inline(always)]
unsafe fn exp<S: Simd, const N: usize>(x: [S::V; N]) -> [S::V; N] {
    unsafe {
        let x: [S::V; N] = from_fn(|i| S::min(S::max(x[i], S::splat(-86.0)), S::splat(88.0)));
        let power: [S::V; N] = from_fn(|i| S::madd(x[i], S::splat(std::f32::consts::LOG2_E), S::splat(TO_INTEGER)));
        let n: [S::V; N] = from_fn(|i| S::sub(power[i], S::splat(TO_INTEGER)));
        // ln 2 in two parts, the first exact in few bits, so that the remainder keeps its digits.
        let r: [S::V; N] = from_fn(|i| S::madd(n[i], S::splat(-0.693_359_4), x[i]));
        let r: [S::V; N] = from_fn(|i| S::madd(n[i], S::splat(2.121_944_4e-4), r[i]));
        // e^r = 1 + r + r^2 P(r), P fitted to |r| <= ln(2) / 2 (error 3e-9).
        let p = polynomial::<S, N, 5>([0.499_999_94, 0.166_665_2, 0.041_668_393, 0.008_368_781, 0.001_381_446_7], r);
        // Step by step: a larger closure is not always put in place, and then calls for each operation.
        let p: [S::V; N] = from_fn(|i| S::mul(p[i], r[i]));
        let p: [S::V; N] = from_fn(|i| S::madd(p[i], r[i], r[i]));
        let p: [S::V; N] = from_fn(|i| S::add(p[i], S::splat(1.0)));
        from_fn(|i| S::scale(p[i], power[i]))
    }
}

/// A polynomial by Horner's rule, the constant first.
#[inline(always)]
unsafe fn polynomial<S: Simd, const N: usize, const TERMS: usize>(terms: [f32; TERMS], x: [S::V; N]) -> [S::V; N] {
    unsafe {
        let mut p = [S::splat(terms[TERMS - 1]); N];
        for term in terms.iter().rev().skip(1) {
            p = from_fn(|i| S::madd(p[i], x[i], S::splat(*term)));
        }
        p
    }
}

/// `x / 2 (1 + erf(x / sqrt 2))`, absolute error below 3e-7. It is `max(x, 0)` less a bump that both sides of zero share,
/// `|x| upper_tail(|x|)`, which is as good as zero from 5.4 on.
#[inline(always)]
pub(super) unsafe fn gelu<S: Simd, const N: usize>(x: [S::V; N]) -> [S::V; N] {
    unsafe {
        let size: [S::V; N] = from_fn(|i| S::min(absolute::<S>(x[i]), S::splat(5.4)));
        let [above, below] = upper_tail::<S, N>(size);
        from_fn(|i| S::sub(S::max(x[i], S::splat(0.0)), S::div(S::mul(above[i], size[i]), below[i])))
    }
}

/// Numerator and denominator of `erfc(x / sqrt 2) / 2` for x from 0 to 5.4, fitted for [`gelu`].
#[inline(always)]
unsafe fn upper_tail<S: Simd, const N: usize>(x: [S::V; N]) -> [[S::V; N]; 2] {
    unsafe {
        let above = [0.500_007_2, -0.488_380_7, 0.192_267_42, -0.038_109_705, 0.003_800_556_3, -0.000_152_449_81];
        let below = [
            1.0,
            -0.178_610_07,
            0.240_319_52,
            -0.012_113_438,
            0.012_291_545,
            0.007_248_074,
            -0.001_956_791_2,
            0.000_748_173_57,
        ];
        [polynomial::<S, N, 6>(above, x), polynomial::<S, N, 8>(below, x)]
    }
}

/// [`gelu`] of one value, on any machine the same.
pub(in super::super) fn gelu_of(x: f32) -> f32 {
    // SAFETY: the scalar instruction set is everywhere.
    let [[y, ..]] = unsafe { gelu::<Scalar, 1>([[x; 4]]) };
    y
}

/// `x / 2 (1 + tanh(u))` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`, which is `x / (1 + e^-2u)`. Of whole vectors, two at a
/// time.
#[inline(always)]
unsafe fn gelu_tanh_all<S: Simd>(x: &mut [f32]) {
    unsafe {
        assert!(x.len().is_multiple_of(2 * S::LANES));
        let (one, cube) = (S::splat(1.0), S::splat(0.044_715));
        let factor = S::splat(-2.0 * 0.797_884_6); // sqrt(2 / pi)
        for j in (0..x.len()).step_by(2 * S::LANES) {
            let at = x.as_mut_ptr().add(j);
            let x = [S::load(at), S::load(at.add(S::LANES))];
            let u: [S::V; 2] = from_fn(|i| S::mul(factor, S::madd(S::mul(cube, x[i]), S::mul(x[i], x[i]), x[i])));
            let [low, high] = exp::<S, 2>(u);
            S::store(at, S::div(x[0], S::add(one, low)));
            S::store(at.add(S::LANES), S::div(x[1], S::add(one, high)));
        }
    }
}

/// Of whole vectors, two at a time.
#[cfg(feature = "native")]
#[inline(always)]
unsafe fn gelu_all<S: Simd>(x: &mut [f32]) {
    unsafe {
        assert!(x.len().is_multiple_of(2 * S::LANES));
        for j in (0..x.len()).step_by(2 * S::LANES) {
            let at = x.as_mut_ptr().add(j);
            let [low, high] = gelu::<S, 2>([S::load(at), S::load(at.add(S::LANES))]);
            S::store(at, low);
            S::store(at.add(S::LANES), high);
        }
    }
}

/// The derivative is the normal distribution's function and `x` times its density, absolute error below 1e-5. Of whole
/// vectors, two at a time.
#[cfg(feature = "native")]
#[inline(always)]
unsafe fn gelu_back<S: Simd>(x: &[f32], d: &mut [f32]) {
    unsafe {
        assert!(x.len() == d.len() && x.len().is_multiple_of(2 * S::LANES));
        for j in (0..x.len()).step_by(2 * S::LANES) {
            let (from, at) = (x.as_ptr().add(j), d.as_mut_ptr().add(j));
            let [low, high] = gelu_slope::<S, 2>([S::load(from), S::load(from.add(S::LANES))]);
            S::store(at, S::mul(S::load(at), low));
            S::store(at.add(S::LANES), S::mul(S::load(at.add(S::LANES)), high));
        }
    }
}

#[cfg(feature = "native")]
#[inline(always)]
unsafe fn gelu_slope<S: Simd, const N: usize>(x: [S::V; N]) -> [S::V; N] {
    unsafe {
        let size: [S::V; N] = from_fn(|i| S::min(absolute::<S>(x[i]), S::splat(5.4)));
        let [above, below] = upper_tail::<S, N>(size);
        let body: [S::V; N] = from_fn(|i| S::sub(S::splat(0.5), S::div(above[i], below[i])));
        // The sign, of all but the least of them.
        let sign: [S::V; N] = from_fn(|i| S::min(S::mul(x[i], S::splat(1e30)), S::splat(1.0)));
        let sign: [S::V; N] = from_fn(|i| S::max(sign[i], S::splat(-1.0)));
        let function: [S::V; N] = from_fn(|i| S::madd(body[i], sign[i], S::splat(0.5)));
        let power: [S::V; N] = from_fn(|i| S::mul(S::mul(x[i], x[i]), S::splat(-0.5)));
        let density = exp::<S, N>(power);
        let height = S::splat(1.0 / (2.0 * std::f32::consts::PI).sqrt());
        from_fn(|i| S::madd(S::mul(x[i], height), density[i], function[i]))
    }
}

#[inline(always)]
pub(super) unsafe fn absolute<S: Simd>(x: S::V) -> S::V {
    unsafe { S::max(x, S::sub(S::splat(0.0), x)) }
}

/// The lanes of a vector, folded in order.
#[inline(always)]
pub(super) unsafe fn lanes<S: Simd>(v: S::V, from: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut values = [0.0; 16];
    unsafe { S::store(values.as_mut_ptr(), v) };
    values[..S::LANES].iter().fold(from, |a, b| f(a, *b))
}

/// Values that are summed side by side on every instruction set, so that those that fuse alike give the same bits, and an
/// int8 activation is rounded to the same level in the tab and natively.
const SUMS: usize = 16;

/// The sum of `f` of vectors at multiples of [`SUMS`] below `whole`, then of `rest` of what follows up to `end`.
#[inline(always)]
unsafe fn sum<S: Simd>(
    whole: usize,
    end: usize,
    f: impl Fn(usize, S::V) -> S::V,
    rest: impl Fn(usize, f32) -> f32,
) -> f32 {
    unsafe {
        // `SUMS / S::LANES` of them count.
        let mut sums = [S::splat(0.0); 4];
        for j in (0..whole).step_by(SUMS) {
            for (k, sum) in sums.iter_mut().enumerate().take(SUMS / S::LANES) {
                *sum = f(j + k * S::LANES, *sum);
            }
        }
        let mut values = [0.0; SUMS];
        for (k, sum) in sums.into_iter().enumerate().take(SUMS / S::LANES) {
            S::store(values.as_mut_ptr().add(k * S::LANES), sum);
        }
        (whole..end).for_each(|j| values[j % SUMS] = rest(j, values[j % SUMS]));
        values.iter().sum()
    }
}

#[inline(always)]
unsafe fn softmax<S: Simd>(job: &Softmax<'_>, scores: &mut [f32]) {
    unsafe {
        let padded = job.tokens.next_multiple_of(S::LANES);
        assert!(padded <= job.stride && scores.len() >= job.tokens * job.stride);
        assert!(job.bias.is_empty() || (job.center + 1 >= job.tokens && job.bias.len() >= job.center + padded));
        let scale = S::splat(job.scale);
        for query in 0..job.tokens {
            let row = &mut scores[query * job.stride..][..padded];
            row[job.tokens..].fill(f32::MIN);
            let p = row.as_mut_ptr();
            let mut max = S::splat(f32::MIN);
            for j in (0..padded).step_by(S::LANES) {
                let mut v = S::mul(S::load(p.add(j)), scale);
                if !job.bias.is_empty() {
                    v = S::add(v, S::load(job.bias.as_ptr().add(job.center - query + j)));
                }
                S::store(p.add(j), v);
                max = S::max(v, max);
            }
            let max = S::splat(lanes::<S>(max, f32::MIN, |a, b| if a > b { a } else { b }));
            let whole = padded / (4 * S::LANES) * (4 * S::LANES);
            for j in (0..whole).step_by(4 * S::LANES) {
                let at: [*mut f32; 4] = from_fn(|k| p.add(j + k * S::LANES));
                let e = exp::<S, 4>(at.map(|p| S::sub(S::load(p), max)));
                at.into_iter().zip(e).for_each(|(p, e)| S::store(p, e));
            }
            for j in (whole..padded).step_by(S::LANES) {
                let [e] = exp::<S, 1>([S::sub(S::load(p.add(j)), max)]);
                S::store(p.add(j), e);
            }
            let whole = job.tokens / SUMS * SUMS;
            let total = sum::<S>(whole, job.tokens, |j, sum| S::add(sum, S::load(p.add(j))), |j, sum| sum + *p.add(j));
            let inverse = S::splat(1.0 / total);
            for j in (0..padded).step_by(S::LANES) {
                S::store(p.add(j), S::mul(S::load(p.add(j)), inverse));
            }
        }
    }
}

#[inline(always)]
unsafe fn layer_norm<S: Simd>(job: &LayerNorm<'_>, x: &mut [f32]) {
    unsafe {
        let (n, whole) = (job.width, job.width / SUMS * SUMS);
        assert!(n <= job.stride && job.gamma.len() == n && job.beta.len() == n);
        let (gamma, beta) = (job.gamma.as_ptr(), job.beta.as_ptr());
        for row in x.chunks_exact_mut(job.stride) {
            let p = row.as_mut_ptr();
            let mean = sum::<S>(whole, n, |j, sum| S::add(sum, S::load(p.add(j))), |j, sum| sum + *p.add(j)) / n as f32;
            let center = S::splat(mean);
            let square = |j: usize, sum: S::V| {
                let d = S::sub(S::load(p.add(j)), center);
                S::madd(d, d, sum)
            };
            let rest = |j: usize, sum: f32| sum + (*p.add(j) - mean) * (*p.add(j) - mean);
            let variance = sum::<S>(whole, n, square, rest) / n as f32;
            let inverse = 1.0 / (variance + job.epsilon).sqrt();
            let scale = S::splat(inverse);
            for j in (0..whole).step_by(S::LANES) {
                let d = S::mul(S::sub(S::load(p.add(j)), center), scale);
                S::store(p.add(j), S::madd(d, S::load(gamma.add(j)), S::load(beta.add(j))));
            }
            let affine = job.gamma[whole..n].iter().zip(&job.beta[whole..n]);
            for (x, (gamma, beta)) in row[whole..n].iter_mut().zip(affine) {
                *x = (*x - mean) * inverse * gamma + beta;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// erf by its Maclaurin series in f64, good to 1e-11 up to |x| = 4.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..120 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn exp_and_gelu_keep_their_stated_error() {
        for i in -40_000..40_000 {
            let x = i as f32 * 1e-4;
            let (mut e, mut g) = ([0.0f32; 4], [0.0f32; 4]);
            unsafe {
                Scalar::store(e.as_mut_ptr(), exp::<Scalar, 1>([[x * 20.0; 4]])[0]);
                Scalar::store(g.as_mut_ptr(), gelu::<Scalar, 1>([[x; 4]])[0]);
            }
            let exact = f64::from(x * 20.0).exp();
            assert!((f64::from(e[0]) / exact - 1.0).abs() < 2e-7, "exp {x}: {}", e[0]);
            let exact = f64::from(x) / 2.0 * (1.0 + erf(f64::from(x) * std::f64::consts::FRAC_1_SQRT_2));
            assert!((f64::from(g[0]) - exact).abs() < 3e-7 + 6e-8 * exact.abs(), "gelu {x}: {} {exact}", g[0]);
            let mut t = [x * 2.0; 8];
            unsafe { gelu_tanh_all::<Scalar>(&mut t) };
            let x = f64::from(x * 2.0);
            let exact = x / 2.0 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
            assert!((f64::from(t[0]) - exact).abs() < 4e-7 + 6e-7 * exact.abs(), "gelu tanh {x}: {} {exact}", t[0]);
        }
    }
}
