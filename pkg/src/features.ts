// Which of the builds the engine can run.

/** A module with one function that returns a v128 of the instructions in `code`. */
function module(...code: number[]): Uint8Array<ArrayBuffer> {
  const body = [0, ...code, 11];
  const head = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0];
  return new Uint8Array([...head, 10, body.length + 2, 1, body.length, ...body]);
}

/** i32.const 0, i8x16.splat. */
const SPLAT = [65, 0, 253, 15];

/** Whether there is SIMD, without which the models do not run: i8x16.popcnt. */
export function simd(): boolean {
  return WebAssembly.validate(module(...SPLAT, 253, 98));
}

/** Whether there is relaxed SIMD, with which they run faster: i32x4.relaxed_dot_i8x16_i7x16_add_s. */
export function relaxedSimd(): boolean {
  return WebAssembly.validate(module(...SPLAT, ...SPLAT, ...SPLAT, 253, 0x93, 2));
}
