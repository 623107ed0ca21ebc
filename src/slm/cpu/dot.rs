//! Int8 dot products: one small trait, one implementation an instruction set.
//!
//! Activations are 0 to 127 and weights so small that the sums of four products that some instruction sets form fit in 16
//! bits (see `quant::SUM_OF_FOUR`), so every instruction set gives the exact sum.

#[cfg(all(target_arch = "wasm32", target_feature = "relaxed-simd"))]
use super::simd::Relaxed;
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Scalar, Simd};

/// Dot products of `QUADS` times four int8. Weights lie in blocks of `S::LANES` columns by four inputs, one byte each. Every
/// method must be called where the instruction set is available; pointers may be unaligned.
#[allow(clippy::missing_safety_doc, reason = "said once, above")]
pub(super) trait Dot {
    /// The f32 vectors that go with it.
    type S: Simd;
    /// `S::LANES` sums of 32 bits.
    type Sum: Copy;
    /// `QUADS` blocks in registers.
    type Block: Copy;
    /// `QUADS` times four activations of a row, repeated as the blocks need them.
    type Input: Copy;
    /// Blocks of one step: 1 or 2.
    const QUADS: usize;
    /// Bytes of an activation in memory.
    const WIDTH: usize;
    /// Where input `input` (0 to 3) of column `column` stands in a block.
    fn place(column: usize, input: usize) -> usize {
        4 * column + input
    }
    /// `x` times each of the integers at `p`.
    unsafe fn times(x: i32, p: *const i32) -> Self::Sum;
    /// The blocks at `p` and, for the second, `next` bytes on.
    unsafe fn block(p: *const u8, next: usize) -> Self::Block;
    unsafe fn input(p: *const u8) -> Self::Input;
    /// `sum + input . block`, for each column.
    unsafe fn dot(sum: Self::Sum, input: Self::Input, block: Self::Block) -> Self::Sum;
    /// The sums as f32.
    unsafe fn float(sum: Self::Sum) -> <Self::S as Simd>::V;
    /// Stores `S::LANES` integers from 0 to 127 as activations.
    unsafe fn store(p: *mut u8, v: <Self::S as Simd>::V);
}

/// The reference: plain loops.
pub(super) struct Plain;

impl Dot for Plain {
    type S = Scalar;
    type Sum = [i32; 4];
    type Block = [i8; 16];
    type Input = [i8; 4];
    const QUADS: usize = 1;
    const WIDTH: usize = 1;
    #[inline(always)]
    unsafe fn times(x: i32, p: *const i32) -> [i32; 4] {
        unsafe { p.cast::<[i32; 4]>().read_unaligned() }.map(|y| x * y)
    }
    #[inline(always)]
    unsafe fn block(p: *const u8, _: usize) -> [i8; 16] {
        unsafe { p.cast::<[i8; 16]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn input(p: *const u8) -> [i8; 4] {
        unsafe { p.cast::<[i8; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn dot(mut sum: [i32; 4], input: [i8; 4], block: [i8; 16]) -> [i32; 4] {
        for (column, sum) in sum.iter_mut().enumerate() {
            for (i, x) in input.iter().enumerate() {
                *sum += i32::from(*x) * i32::from(block[4 * column + i]);
            }
        }
        sum
    }
    #[inline(always)]
    unsafe fn float(sum: [i32; 4]) -> [f32; 4] {
        sum.map(|sum| sum as f32)
    }
    #[inline(always)]
    unsafe fn store(p: *mut u8, v: [f32; 4]) {
        unsafe { p.cast::<[i8; 4]>().write_unaligned(v.map(|x| x as i8)) }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Maddubs256, Maddubs512, Vnni256, Vnni512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Avx2, Avx512, Dot};
    use std::arch::x86_64::*;

    /// Implements [`Dot`] for x86, whose instructions take one side as unsigned: the activations.
    macro_rules! dot {
        ($(#[$doc:meta])* $name:ident, $simd:ty, $int:ty, $float:ty, $load:ident, $splat:ident, $times:ident, $convert:ident, dot($sum:ident, $input:ident, $block:ident) = $dot:expr;
         store($p:ident, $v:ident) = $store:expr) => {
            $(#[$doc])*
            pub struct $name;
            impl Dot for $name {
                type S = $simd;
                type Sum = $int;
                type Block = [$int; 2];
                type Input = [$int; 2];
                const QUADS: usize = 2;
                const WIDTH: usize = 1;
                #[inline(always)]
                unsafe fn times(x: i32, p: *const i32) -> $int {
                    unsafe { $times($splat(x), $load(p.cast())) }
                }
                #[inline(always)]
                unsafe fn block(p: *const u8, next: usize) -> [$int; 2] {
                    unsafe { [$load(p.cast()), $load(p.add(next).cast())] }
                }
                #[inline(always)]
                unsafe fn input(p: *const u8) -> [$int; 2] {
                    unsafe { p.cast::<[i32; 2]>().read_unaligned().map(|x| $splat(x)) }
                }
                #[inline(always)]
                unsafe fn dot($sum: $int, $input: [$int; 2], $block: [$int; 2]) -> $int {
                    unsafe { $dot }
                }
                #[inline(always)]
                unsafe fn float(sum: $int) -> $float {
                    unsafe { $convert(sum) }
                }
                #[inline(always)]
                unsafe fn store($p: *mut u8, $v: $float) {
                    unsafe { $store }
                }
            }
        };
    }

    #[inline(always)]
    unsafe fn store256(p: *mut u8, v: __m256) {
        unsafe {
            let v = _mm256_cvtps_epi32(v);
            let v = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            _mm_storel_epi64(p.cast(), _mm_packs_epi16(v, v));
        }
    }

    dot! {
        /// AVX2.
        Maddubs256, Avx2, __m256i, __m256, _mm256_loadu_si256, _mm256_set1_epi32, _mm256_mullo_epi32,
        _mm256_cvtepi32_ps,
        dot(sum, input, block) = {
            let pairs = [0, 1].map(|i| _mm256_maddubs_epi16(input[i], block[i]));
            let pairs = _mm256_add_epi16(pairs[0], pairs[1]);
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        };
        store(p, v) = store256(p, v)
    }

    dot! {
        /// AVX2 with AVX-VNNI.
        Vnni256, Avx2, __m256i, __m256, _mm256_loadu_si256, _mm256_set1_epi32, _mm256_mullo_epi32,
        _mm256_cvtepi32_ps,
        dot(sum, input, block) =
            _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(sum, input[0], block[0]), input[1], block[1]);
        store(p, v) = store256(p, v)
    }

    dot! {
        /// AVX-512 with BW.
        Maddubs512, Avx512, __m512i, __m512, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_mullo_epi32,
        _mm512_cvtepi32_ps,
        dot(sum, input, block) = {
            let pairs = [0, 1].map(|i| _mm512_maddubs_epi16(input[i], block[i]));
            let pairs = _mm512_add_epi16(pairs[0], pairs[1]);
            _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        };
        store(p, v) = _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)))
    }

    dot! {
        /// AVX-512 with VNNI.
        Vnni512, Avx512, __m512i, __m512, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_mullo_epi32,
        _mm512_cvtepi32_ps,
        dot(sum, input, block) =
            _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum, input[0], block[0]), input[1], block[1]);
        store(p, v) = _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)))
    }
}

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub(super) use wasm::*;

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[allow(unused_unsafe, reason = "on wasm all but loads and stores are safe")]
mod wasm {
    use super::super::kernels::TO_INTEGER;
    use super::super::simd::Wasm;
    use super::Dot;
    use std::arch::wasm32::*;

    /// Whole numbers as integers, by the low bits of a sum: a conversion takes many more instructions.
    #[inline(always)]
    fn integers(v: v128) -> v128 {
        let shift = f32x4_splat(TO_INTEGER);
        i32x4_sub(f32x4_add(v, shift), shift)
    }

    /// Plain simd128: products of 16 bits, two inputs at a time. A block holds its first two inputs of all columns, then
    /// its last two, so that it widens to two vectors whose sums need no shuffling.
    pub struct Pairs;

    impl Dot for Pairs {
        type S = Wasm;
        type Sum = v128;
        type Block = [v128; 2];
        type Input = [v128; 2];
        const QUADS: usize = 1;
        const WIDTH: usize = 2;
        fn place(column: usize, input: usize) -> usize {
            input / 2 * 8 + 2 * column + input % 2
        }
        #[inline(always)]
        unsafe fn times(x: i32, p: *const i32) -> v128 {
            i32x4_mul(i32x4_splat(x), unsafe { v128_load(p.cast()) })
        }
        #[inline(always)]
        unsafe fn block(p: *const u8, _: usize) -> [v128; 2] {
            unsafe { [i16x8_load_extend_i8x8(p.cast()), i16x8_load_extend_i8x8(p.add(8).cast())] }
        }
        #[inline(always)]
        unsafe fn input(p: *const u8) -> [v128; 2] {
            unsafe { [v128_load32_splat(p.cast()), v128_load32_splat(p.add(4).cast())] }
        }
        #[inline(always)]
        unsafe fn dot(sum: v128, input: [v128; 2], block: [v128; 2]) -> v128 {
            let sum = i32x4_add(sum, i32x4_dot_i16x8(input[0], block[0]));
            i32x4_add(sum, i32x4_dot_i16x8(input[1], block[1]))
        }
        #[inline(always)]
        unsafe fn float(sum: v128) -> v128 {
            f32x4_convert_i32x4(sum)
        }
        #[inline(always)]
        unsafe fn store(p: *mut u8, v: v128) {
            let v = integers(v);
            unsafe { v128_store64_lane::<0>(i16x8_narrow_i32x4(v, v), p.cast()) }
        }
    }

    /// Relaxed SIMD: activations are below 128, so that signed and unsigned readings of them agree.
    #[cfg(target_feature = "relaxed-simd")]
    pub struct RelaxedDot;

    #[cfg(target_feature = "relaxed-simd")]
    impl Dot for RelaxedDot {
        type S = super::Relaxed;
        type Sum = v128;
        type Block = [v128; 2];
        type Input = [v128; 2];
        const QUADS: usize = 2;
        const WIDTH: usize = 1;
        #[inline(always)]
        unsafe fn times(x: i32, p: *const i32) -> v128 {
            i32x4_mul(i32x4_splat(x), unsafe { v128_load(p.cast()) })
        }
        #[inline(always)]
        unsafe fn block(p: *const u8, next: usize) -> [v128; 2] {
            unsafe { [v128_load(p.cast()), v128_load(p.add(next).cast())] }
        }
        #[inline(always)]
        unsafe fn input(p: *const u8) -> [v128; 2] {
            unsafe { [v128_load32_splat(p.cast()), v128_load32_splat(p.add(4).cast())] }
        }
        #[inline(always)]
        unsafe fn dot(sum: v128, input: [v128; 2], block: [v128; 2]) -> v128 {
            let pairs = [0, 1].map(|i| i16x8_relaxed_dot_i8x16_i7x16(block[i], input[i]));
            i32x4_add(sum, i32x4_extadd_pairwise_i16x8(i16x8_add(pairs[0], pairs[1])))
        }
        #[inline(always)]
        unsafe fn float(sum: v128) -> v128 {
            f32x4_convert_i32x4(sum)
        }
        #[inline(always)]
        unsafe fn store(p: *mut u8, v: v128) {
            let v = integers(v);
            let v = i16x8_narrow_i32x4(v, v);
            unsafe { v128_store32_lane::<0>(i8x16_narrow_i16x8(v, v), p.cast()) }
        }
    }
}
