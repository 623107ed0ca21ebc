//! Int8 dot products: one small trait, one implementation an instruction set.
//!
//! Activations are 1 to 127 and weights so small that the sums of eight products that some instruction sets form fit in 16
//! bits (see `quant::SUM_OF_EIGHT`), so every instruction set gives the exact sum.

use super::kernels::TO_INTEGER;
#[cfg(all(target_arch = "wasm32", target_feature = "relaxed-simd"))]
use super::simd::Relaxed;
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Scalar, Simd};
use crate::slm::quant::ACTIVATION_ZERO;

/// Dot products of `INPUTS` int8. Weights lie in blocks of `2 * S::LANES` columns by four inputs, one byte each. Every method
/// must be called where the instruction set is available; pointers may be unaligned.
#[allow(clippy::missing_safety_doc, reason = "said once, above")]
pub(super) trait Dot {
    /// The f32 vectors that go with it.
    type S: Simd;
    /// `S::LANES` sums of 32 bits.
    type Sum: Copy;
    /// The weights of `S::LANES` columns in registers.
    type Block: Copy;
    /// `INPUTS` activations of a row, repeated as the blocks need them.
    type Input: Copy;
    /// See [`Dot::constant`].
    type Constant: Copy;
    /// Inputs of one step; a divisor of 16.
    const INPUTS: usize;
    /// Bytes of an activation in memory.
    const WIDTH: usize;
    /// Whether rows of a tile stand together, 16 activations of each in turn, and its sums in memory: engines load all that a
    /// loop loads before they compute, which leaves no registers for the sums of more than two rows.
    const INTERLEAVED: bool = false;
    /// Where input `input` (0 to 3) of column `column` (below `2 * S::LANES`) stands in a block.
    fn place(column: usize, input: usize) -> usize {
        4 * column + input
    }
    /// The `S::LANES` integers at `p`.
    unsafe fn sum(p: *const i32) -> Self::Sum;
    /// The weights of a step at `p`: of the first `S::LANES` columns, and of the last.
    unsafe fn blocks(p: *const u8) -> [Self::Block; 2];
    unsafe fn input(p: *const u8) -> Self::Input;
    /// What [`Dot::dot`] needs in a register.
    unsafe fn constant() -> Self::Constant;
    /// `sum + input . block`, for each column.
    unsafe fn dot(sum: Self::Sum, input: Self::Input, block: Self::Block, constant: Self::Constant) -> Self::Sum;
    /// The sums as f32.
    unsafe fn float(sum: Self::Sum) -> <Self::S as Simd>::V;
    /// Stores the 16 values at `x`, in units of `1 / inverse`, as activations.
    unsafe fn store(p: *mut u8, x: *const f32, inverse: f32);
}

/// Values in units of `1 / inverse`, rounded and above [`ACTIVATION_ZERO`], as what [`TO_INTEGER`] makes of them: the same
/// on every instruction set that fuses alike.
#[inline(always)]
unsafe fn activations<S: Simd>(x: *const f32, inverse: f32) -> S::V {
    unsafe { S::madd(S::load(x), S::splat(inverse), S::splat(TO_INTEGER + f32::from(ACTIVATION_ZERO))) }
}

/// The reference: plain loops.
pub(super) struct Plain;

impl Dot for Plain {
    type S = Scalar;
    type Sum = [i32; 4];
    type Block = [i8; 16];
    type Input = [i8; 4];
    type Constant = ();
    const INPUTS: usize = 4;
    const WIDTH: usize = 1;
    #[inline(always)]
    unsafe fn sum(p: *const i32) -> [i32; 4] {
        unsafe { p.cast::<[i32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn blocks(p: *const u8) -> [[i8; 16]; 2] {
        unsafe { p.cast::<[[i8; 16]; 2]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn input(p: *const u8) -> [i8; 4] {
        unsafe { p.cast::<[i8; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn constant() {}
    #[inline(always)]
    unsafe fn dot(mut sum: [i32; 4], input: [i8; 4], block: [i8; 16], (): ()) -> [i32; 4] {
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
    unsafe fn store(p: *mut u8, x: *const f32, inverse: f32) {
        for i in (0..16).step_by(4) {
            unsafe {
                p.add(i).cast::<[u8; 4]>().write_unaligned(
                    activations::<Scalar>(x.add(i), inverse)
                        .map(|q| q.to_bits().wrapping_sub(TO_INTEGER.to_bits()) as u8),
                )
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Maddubs256, Maddubs512, Vnni256, Vnni512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Avx2, Avx512, Dot, TO_INTEGER, activations};
    use std::arch::x86_64::*;
    use std::array::from_fn;

    /// Implements [`Dot`] for x86, whose instructions take one side as unsigned: the activations.
    macro_rules! dot {
        ($(#[$doc:meta])* $name:ident, $simd:ty, $int:ty, $float:ty, $quads:literal, $load:ident, $splat:ident, $convert:ident, dot($sum:ident, $input:ident, $block:ident) = $dot:expr;
         store($p:ident, $x:ident, $inverse:ident) = $store:expr) => {
            $(#[$doc])*
            pub struct $name;
            impl Dot for $name {
                type S = $simd;
                type Sum = $int;
                type Block = [$int; $quads];
                type Input = [$int; $quads];
                type Constant = ();
                const INPUTS: usize = 4 * $quads;
                const WIDTH: usize = 1;
                #[inline(always)]
                unsafe fn sum(p: *const i32) -> $int {
                    unsafe { $load(p.cast()) }
                }
                #[inline(always)]
                unsafe fn blocks(p: *const u8) -> [[$int; $quads]; 2] {
                    const SIZE: usize = size_of::<$int>();
                    unsafe { [0, 1].map(|half| from_fn(|i| $load(p.add((2 * i + half) * SIZE).cast()))) }
                }
                #[inline(always)]
                unsafe fn input(p: *const u8) -> [$int; $quads] {
                    unsafe { p.cast::<[i32; $quads]>().read_unaligned().map(|x| $splat(x)) }
                }
                #[inline(always)]
                unsafe fn constant() {}
                #[inline(always)]
                unsafe fn dot($sum: $int, $input: [$int; $quads], $block: [$int; $quads], (): ()) -> $int {
                    unsafe { $dot }
                }
                #[inline(always)]
                unsafe fn float(sum: $int) -> $float {
                    unsafe { $convert(sum) }
                }
                #[inline(always)]
                unsafe fn store($p: *mut u8, $x: *const f32, $inverse: f32) {
                    unsafe { $store }
                }
            }
        };
    }

    #[inline(always)]
    unsafe fn store256(p: *mut u8, x: *const f32, inverse: f32) {
        unsafe {
            let words = [0, 8].map(|i| {
                let v = _mm256_castps_si256(activations::<Avx2>(x.add(i), inverse));
                let v = _mm256_sub_epi32(v, _mm256_castps_si256(_mm256_set1_ps(TO_INTEGER)));
                _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v))
            });
            _mm_storeu_si128(p.cast(), _mm_packus_epi16(words[0], words[1]));
        }
    }

    dot! {
        /// AVX2.
        Maddubs256, Avx2, __m256i, __m256, 4, _mm256_loadu_si256, _mm256_set1_epi32, _mm256_cvtepi32_ps,
        dot(sum, input, block) = {
            let pairs = [0, 1, 2, 3].map(|i| _mm256_maddubs_epi16(input[i], block[i]));
            let low = _mm256_add_epi16(pairs[0], pairs[1]);
            let all = _mm256_add_epi16(low, _mm256_add_epi16(pairs[2], pairs[3]));
            _mm256_add_epi32(sum, _mm256_madd_epi16(all, _mm256_set1_epi16(1)))
        };
        store(p, x, inverse) = store256(p, x, inverse)
    }

    dot! {
        /// AVX2 with AVX-VNNI.
        Vnni256, Avx2, __m256i, __m256, 2, _mm256_loadu_si256, _mm256_set1_epi32, _mm256_cvtepi32_ps,
        dot(sum, input, block) =
            _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(sum, input[0], block[0]), input[1], block[1]);
        store(p, x, inverse) = store256(p, x, inverse)
    }

    dot! {
        /// AVX-512 with BW.
        Maddubs512, Avx512, __m512i, __m512, 4, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_cvtepi32_ps,
        dot(sum, input, block) = {
            let pairs = [0, 1, 2, 3].map(|i| _mm512_maddubs_epi16(input[i], block[i]));
            let low = _mm512_add_epi16(pairs[0], pairs[1]);
            let all = _mm512_add_epi16(low, _mm512_add_epi16(pairs[2], pairs[3]));
            _mm512_add_epi32(sum, _mm512_madd_epi16(all, _mm512_set1_epi16(1)))
        };
        store(p, x, inverse) =
            {
            let q = _mm512_castps_si512(activations::<Avx512>(x, inverse));
            let q = _mm512_sub_epi32(q, _mm512_castps_si512(_mm512_set1_ps(TO_INTEGER)));
            _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(q))
        }
    }

    dot! {
        /// AVX-512 with VNNI.
        Vnni512, Avx512, __m512i, __m512, 2, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_cvtepi32_ps,
        dot(sum, input, block) =
            _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum, input[0], block[0]), input[1], block[1]);
        store(p, x, inverse) =
            {
            let q = _mm512_castps_si512(activations::<Avx512>(x, inverse));
            let q = _mm512_sub_epi32(q, _mm512_castps_si512(_mm512_set1_ps(TO_INTEGER)));
            _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(q))
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) use aarch64::{NeonDot, NeonPairs};

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use super::super::simd::Neon;
    use super::{Dot, TO_INTEGER, activations};
    use std::arch::aarch64::*;
    use std::arch::asm;

    /// Implements [`Dot`] for steps of 16 inputs on NEON.
    macro_rules! dot {
        ($(#[$doc:meta])* $name:ident, dot($sum:ident, $input:ident, $block:ident) = $dot:expr) => {
            $(#[$doc])*
            pub struct $name;
            impl Dot for $name {
                type S = Neon;
                type Sum = int32x4_t;
                type Block = [int8x16_t; 4];
                type Input = int8x16_t;
                type Constant = ();
                const INPUTS: usize = 16;
                const WIDTH: usize = 1;
                #[inline(always)]
                unsafe fn sum(p: *const i32) -> int32x4_t {
                    unsafe { vld1q_s32(p) }
                }
                #[inline(always)]
                unsafe fn blocks(p: *const u8) -> [[int8x16_t; 4]; 2] {
                    let at = |i: usize| unsafe { vld1q_s8(p.add(16 * i).cast()) };
                    [[at(0), at(2), at(4), at(6)], [at(1), at(3), at(5), at(7)]]
                }
                #[inline(always)]
                unsafe fn input(p: *const u8) -> int8x16_t {
                    unsafe { vld1q_s8(p.cast()) }
                }
                #[inline(always)]
                unsafe fn constant() {}
                #[inline(always)]
                unsafe fn dot($sum: int32x4_t, $input: int8x16_t, $block: [int8x16_t; 4], (): ()) -> int32x4_t {
                    unsafe { $dot }
                }
                #[inline(always)]
                unsafe fn float(sum: int32x4_t) -> float32x4_t {
                    unsafe { vcvtq_f32_s32(sum) }
                }
                #[inline(always)]
                unsafe fn store(p: *mut u8, x: *const f32, inverse: f32) {
                    unsafe {
                        let base = vdupq_n_s32(TO_INTEGER.to_bits().cast_signed());
                        let four = |at: usize| {
                            let v = vreinterpretq_s32_f32(activations::<Neon>(x.add(at), inverse));
                            vmovn_s32(vsubq_s32(v, base))
                        };
                        let eight = |at: usize| vmovn_s16(vcombine_s16(four(at), four(at + 4)));
                        vst1q_s8(p.cast(), vcombine_s8(eight(0), eight(8)));
                    }
                }
            }
        };
    }

    dot! {
        /// NEON: products of 16 bits; those of four steps add in 16 bits, and neighbours too.
        NeonPairs, dot(sum, input, block) = {
            let x = vreinterpretq_s32_s8(input);
            let x = [vdupq_laneq_s32::<0>(x), vdupq_laneq_s32::<1>(x), vdupq_laneq_s32::<2>(x), vdupq_laneq_s32::<3>(x)]
                .map(|x| vreinterpretq_s8_s32(x));
            let mut low = vmull_s8(vget_low_s8(x[0]), vget_low_s8(block[0]));
            let mut high = vmull_high_s8(x[0], block[0]);
            for i in 1..4 {
                low = vmlal_s8(low, vget_low_s8(x[i]), vget_low_s8(block[i]));
                high = vmlal_high_s8(high, x[i], block[i]);
            }
            vpadalq_s16(sum, vpaddq_s16(low, high))
        }
    }

    /// `sdot` by four of the 16 inputs. The intrinsic is not stable (rust-lang/rust#117224).
    macro_rules! sdot {
        ($sum:expr, $block:expr, $input:expr, $lane:literal) => {{
            let mut sum: int32x4_t = $sum;
            asm!(
                concat!("sdot {sum:v}.4s, {block:v}.16b, {input:v}.4b[", $lane, "]"),
                sum = inout(vreg) sum,
                block = in(vreg) $block,
                input = in(vreg) $input,
                options(pure, nomem, nostack, preserves_flags)
            );
            sum
        }};
    }

    dot! {
        /// NEON with the dot product instructions.
        NeonDot, dot(sum, input, block) = {
            let sum = sdot!(sum, block[0], input, 0);
            let sum = sdot!(sum, block[1], input, 1);
            let sum = sdot!(sum, block[2], input, 2);
            sdot!(sum, block[3], input, 3)
        }
    }
}

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub(super) use wasm::*;

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[allow(unused_unsafe, reason = "on wasm all but loads and stores are safe")]
mod wasm {
    use super::super::simd::{Simd, Wasm};
    use super::{Dot, TO_INTEGER, activations};
    use std::arch::wasm32::*;

    /// 16 activations as two vectors of 16 bits, rounded by a sum that leaves integers in its low bits: a conversion takes
    /// many more instructions.
    #[inline(always)]
    unsafe fn integers<S: Simd<V = v128>>(x: *const f32, inverse: f32) -> [v128; 2] {
        let four = |at: usize| unsafe { i32x4_sub(activations::<S>(x.add(at), inverse), S::splat(TO_INTEGER)) };
        [i16x8_narrow_i32x4(four(0), four(4)), i16x8_narrow_i32x4(four(8), four(12))]
    }

    /// Plain simd128: products of 16 bits, two inputs at a time. A block holds its first two inputs of all columns, then
    /// its last two.
    pub struct Pairs;

    impl Dot for Pairs {
        type S = Wasm;
        type Sum = v128;
        type Block = v128;
        type Input = v128;
        type Constant = ();
        const INPUTS: usize = 2;
        const WIDTH: usize = 2;
        fn place(column: usize, input: usize) -> usize {
            input / 2 * 16 + 2 * column + input % 2
        }
        #[inline(always)]
        unsafe fn sum(p: *const i32) -> v128 {
            unsafe { v128_load(p.cast()) }
        }
        #[inline(always)]
        unsafe fn blocks(p: *const u8) -> [v128; 2] {
            unsafe { [i16x8_load_extend_i8x8(p.cast()), i16x8_load_extend_i8x8(p.add(8).cast())] }
        }
        #[inline(always)]
        unsafe fn input(p: *const u8) -> v128 {
            unsafe { v128_load32_splat(p.cast()) }
        }
        #[inline(always)]
        unsafe fn constant() {}
        #[inline(always)]
        unsafe fn dot(sum: v128, input: v128, block: v128, (): ()) -> v128 {
            i32x4_add(sum, i32x4_dot_i16x8(input, block))
        }
        #[inline(always)]
        unsafe fn float(sum: v128) -> v128 {
            f32x4_convert_i32x4(sum)
        }
        #[inline(always)]
        unsafe fn store(p: *mut u8, x: *const f32, inverse: f32) {
            unsafe {
                let [low, high] = integers::<Wasm>(x, inverse);
                v128_store(p.cast(), low);
                v128_store(p.add(16).cast(), high);
            }
        }
    }

    /// Relaxed SIMD: activations are below 128, so that signed and unsigned readings of them agree.
    #[cfg(target_feature = "relaxed-simd")]
    pub struct RelaxedDot;

    #[cfg(target_feature = "relaxed-simd")]
    impl Dot for RelaxedDot {
        type S = super::Relaxed;
        type Sum = v128;
        type Block = [v128; 4];
        type Input = [v128; 4];
        type Constant = v128;
        const INPUTS: usize = 16;
        const WIDTH: usize = 1;
        const INTERLEAVED: bool = true;
        #[inline(always)]
        unsafe fn sum(p: *const i32) -> v128 {
            unsafe { v128_load(p.cast()) }
        }
        #[inline(always)]
        unsafe fn blocks(p: *const u8) -> [[v128; 4]; 2] {
            let p = p.cast::<v128>();
            unsafe {
                let at = |i: usize| v128_load(p.add(i));
                [[at(0), at(2), at(4), at(6)], [at(1), at(3), at(5), at(7)]]
            }
        }
        #[inline(always)]
        unsafe fn input(p: *const u8) -> [v128; 4] {
            unsafe { [0, 1, 2, 3].map(|i| v128_load32_splat(p.add(4 * i).cast())) }
        }
        #[inline(always)]
        unsafe fn constant() -> v128 {
            // A constant that the compiler knows is made anew at each use.
            static ONES: v128 = i16x8(1, 1, 1, 1, 1, 1, 1, 1);
            unsafe { std::ptr::read_volatile(&raw const ONES) }
        }
        #[inline(always)]
        unsafe fn dot(sum: v128, input: [v128; 4], block: [v128; 4], ones: v128) -> v128 {
            let pairs = [0, 1, 2, 3].map(|i| i16x8_relaxed_dot_i8x16_i7x16(block[i], input[i]));
            let all = i16x8_add(i16x8_add(pairs[0], pairs[1]), i16x8_add(pairs[2], pairs[3]));
            i32x4_add(sum, i32x4_dot_i16x8(all, ones))
        }
        #[inline(always)]
        unsafe fn float(sum: v128) -> v128 {
            f32x4_convert_i32x4(sum)
        }
        #[inline(always)]
        unsafe fn store(p: *mut u8, x: *const f32, inverse: f32) {
            unsafe {
                let [low, high] = integers::<super::Relaxed>(x, inverse);
                v128_store(p.cast(), i8x16_narrow_i16x8(low, high));
            }
        }
    }
}
