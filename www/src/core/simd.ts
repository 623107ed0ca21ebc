// Whether the browser can run the models' WebAssembly.

/** A module with one function that returns a v128: it validates only where there is SIMD. */
const MODULE = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
]);

export function simd(): boolean {
  return typeof WebAssembly === 'object' && WebAssembly.validate(MODULE);
}
