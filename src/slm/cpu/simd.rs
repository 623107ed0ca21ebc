//! Vectors of f32: one small trait, one implementation an instruction set.

/// A vector of `LANES` f32. Every method must be called where the instruction set is available; pointers must be valid for
/// `LANES` values (unaligned is fine).
#[allow(clippy::missing_safety_doc, reason = "said once, above")]
pub(super) trait Simd {
    /// The vector.
    type V: Copy;
    /// Values in a vector.
    const LANES: usize;
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    /// Has the cache fetch what `p` points to, which may be nothing of ours; does nothing where machines need no such hint.
    #[inline(always)]
    unsafe fn prefetch(_p: *const f32) {}
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, fused where the instruction set fuses.
    unsafe fn madd(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// `a * 2^n` for a normal result, n the integer in the lowest nine bits of `power`.
    unsafe fn scale(a: Self::V, power: Self::V) -> Self::V;
}

/// Four plain f32, without fusing: the same bits as [`Wasm`].
pub(super) struct Scalar;

#[inline(always)]
fn zip(a: [f32; 4], b: [f32; 4], f: impl Fn(f32, f32) -> f32) -> [f32; 4] {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

impl Simd for Scalar {
    type V = [f32; 4];
    const LANES: usize = 4;
    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 4] {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> [f32; 4] {
        unsafe { p.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: [f32; 4]) {
        unsafe { p.cast::<[f32; 4]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn madd(a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        zip(zip(a, b, |a, b| a * b), c, |ab, c| ab + c)
    }
    #[inline(always)]
    unsafe fn max(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn scale(a: [f32; 4], power: [f32; 4]) -> [f32; 4] {
        zip(a, power, |a, power| f32::from_bits(a.to_bits().wrapping_add(power.to_bits() << 23)))
    }
}

/// AVX-512.
#[cfg(target_arch = "x86_64")]
pub(super) struct Avx512;
/// AVX2 with FMA.
#[cfg(target_arch = "x86_64")]
pub(super) struct Avx2;
/// NEON.
#[cfg(target_arch = "aarch64")]
pub(super) struct Neon;
/// WebAssembly SIMD, without the relaxed instructions: deterministic.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub(super) struct Wasm;

/// WebAssembly SIMD with fused multiply-adds where the machine has them: engines may differ in the last bit.
#[cfg(all(target_arch = "wasm32", target_feature = "relaxed-simd"))]
pub(super) struct Relaxed;

/// Implements [`Simd`] by intrinsics: a list of `method(arguments) = expression`.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", all(target_arch = "wasm32", target_feature = "simd128")))]
macro_rules! simd {
    ($name:ident, $vector:ty, $lanes:literal,
     $(prefetch($pp:ident) = $prefetch:expr;)?
     load($lp:ident) = $load:expr; store($sp:ident, $sv:ident) = $store:expr; splat($x:ident) = $splat:expr;
     $($method:ident($($arg:ident),*) = $body:expr;)*) => {
        impl Simd for $name {
            type V = $vector;
            const LANES: usize = $lanes;
            #[inline(always)]
            unsafe fn splat($x: f32) -> $vector {
                unsafe { $splat }
            }
            #[inline(always)]
            unsafe fn load($lp: *const f32) -> $vector {
                unsafe { $load }
            }
            #[inline(always)]
            unsafe fn store($sp: *mut f32, $sv: $vector) {
                unsafe { $store }
            }
            $(
                #[inline(always)]
                unsafe fn prefetch($pp: *const f32) {
                    unsafe { $prefetch }
                }
            )?
            $(
                #[inline(always)]
                unsafe fn $method($($arg: $vector),*) -> $vector {
                    unsafe { $body }
                }
            )*
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Avx2, Avx512, Simd};
    use std::arch::x86_64::*;

    simd! { Avx512, __m512, 16,
        prefetch(p) = _mm_prefetch::<_MM_HINT_T0>(p.cast());
        load(p) = _mm512_loadu_ps(p);
        store(p, v) = _mm512_storeu_ps(p, v);
        splat(x) = _mm512_set1_ps(x);
        add(a, b) = _mm512_add_ps(a, b);
        sub(a, b) = _mm512_sub_ps(a, b);
        mul(a, b) = _mm512_mul_ps(a, b);
        div(a, b) = _mm512_div_ps(a, b);
        madd(a, b, c) = _mm512_fmadd_ps(a, b, c);
        max(a, b) = _mm512_max_ps(a, b);
        min(a, b) = _mm512_min_ps(a, b);
        scale(a, power) = {
            let power = _mm512_slli_epi32::<23>(_mm512_castps_si512(power));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), power))
        };
    }

    simd! { Avx2, __m256, 8,
        prefetch(p) = _mm_prefetch::<_MM_HINT_T0>(p.cast());
        load(p) = _mm256_loadu_ps(p);
        store(p, v) = _mm256_storeu_ps(p, v);
        splat(x) = _mm256_set1_ps(x);
        add(a, b) = _mm256_add_ps(a, b);
        sub(a, b) = _mm256_sub_ps(a, b);
        mul(a, b) = _mm256_mul_ps(a, b);
        div(a, b) = _mm256_div_ps(a, b);
        madd(a, b, c) = _mm256_fmadd_ps(a, b, c);
        max(a, b) = _mm256_max_ps(a, b);
        min(a, b) = _mm256_min_ps(a, b);
        scale(a, power) = {
            let power = _mm256_slli_epi32::<23>(_mm256_castps_si256(power));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), power))
        };
    }
}

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use super::{Neon, Simd};
    use std::arch::aarch64::*;

    simd! { Neon, float32x4_t, 4,
        load(p) = vld1q_f32(p);
        store(p, v) = vst1q_f32(p, v);
        splat(x) = vdupq_n_f32(x);
        add(a, b) = vaddq_f32(a, b);
        sub(a, b) = vsubq_f32(a, b);
        mul(a, b) = vmulq_f32(a, b);
        div(a, b) = vdivq_f32(a, b);
        madd(a, b, c) = vfmaq_f32(c, a, b);
        max(a, b) = vmaxq_f32(a, b);
        min(a, b) = vminq_f32(a, b);
        scale(a, power) = {
            let power = vshlq_n_s32::<23>(vreinterpretq_s32_f32(power));
            vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(a), power))
        };
    }
}

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[allow(unused_unsafe, reason = "on wasm all but loads and stores are safe")]
mod wasm {
    #[cfg(target_feature = "relaxed-simd")]
    use super::Relaxed;
    use super::{Simd, Wasm};
    use std::arch::wasm32::*;

    simd! { Wasm, v128, 4,
        load(p) = v128_load(p.cast());
        store(p, v) = v128_store(p.cast(), v);
        splat(x) = f32x4_splat(x);
        add(a, b) = f32x4_add(a, b);
        sub(a, b) = f32x4_sub(a, b);
        mul(a, b) = f32x4_mul(a, b);
        div(a, b) = f32x4_div(a, b);
        madd(a, b, c) = f32x4_add(f32x4_mul(a, b), c);
        max(a, b) = f32x4_pmax(b, a);
        min(a, b) = f32x4_pmin(b, a);
        scale(a, power) = i32x4_add(a, i32x4_shl(power, 23));
    }

    #[cfg(target_feature = "relaxed-simd")]
    simd! { Relaxed, v128, 4,
        load(p) = v128_load(p.cast());
        store(p, v) = v128_store(p.cast(), v);
        splat(x) = f32x4_splat(x);
        add(a, b) = f32x4_add(a, b);
        sub(a, b) = f32x4_sub(a, b);
        mul(a, b) = f32x4_mul(a, b);
        div(a, b) = f32x4_div(a, b);
        madd(a, b, c) = f32x4_relaxed_madd(a, b, c);
        max(a, b) = f32x4_relaxed_max(a, b);
        min(a, b) = f32x4_relaxed_min(a, b);
        scale(a, power) = i32x4_add(a, i32x4_shl(power, 23));
    }
}
