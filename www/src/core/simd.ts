// Whether, and how fast, the browser can run the models' WebAssembly.

/** A module with one function that returns a v128 of the instructions in `code`. */
function module(...code: number[]): Uint8Array<ArrayBuffer> {
  const body = [0, ...code, 11];
  const head = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0];
  return new Uint8Array([...head, 10, body.length + 2, 1, body.length, ...body]);
}

/** i32.const 0, i8x16.splat. */
const SPLAT = [65, 0, 253, 15];
/** i8x16.popcnt, which simd128 has. */
const PLAIN = module(...SPLAT, 253, 98);
/** i32x4.relaxed_dot_i8x16_i7x16_add_s, which only relaxed SIMD has. */
const RELAXED = module(...SPLAT, ...SPLAT, ...SPLAT, 253, 0x93, 2);

/** Whether there is SIMD, without which the models do not run. */
export function simd(): boolean {
  return typeof WebAssembly === 'object' && WebAssembly.validate(PLAIN);
}

/** Whether there is relaxed SIMD, with which they run faster. */
export function relaxedSimd(): boolean {
  return typeof WebAssembly === 'object' && WebAssembly.validate(RELAXED);
}
