// The built wasm, instantiated from its bytes as a bundler-less runtime would.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { setFlagsFromString } from 'node:v8';

/** A path in the repository. */
export const at = (path) => fileURLToPath(new URL(`../../${path}`, import.meta.url));

/** The build under test: plain or relaxed. */
export const build = process.env.AUTOANNOTATOR_WASM ?? 'plain';

// Node.js 20 has relaxed SIMD behind a flag; later ones have it, and pass over the flag.
if (build === 'relaxed') setFlagsFromString('--experimental-wasm-relaxed-simd');

const module = await import(new URL(`../../pkg/wasm/${build}/autoannotator.js`, import.meta.url));
module.initSync({ module: readFileSync(at(`pkg/wasm/${build}/autoannotator_bg.wasm`)) });

/** The wasm surface. */
export const aa = module;

export const utf8 = (text) => new TextEncoder().encode(text);
export const text = (bytes) => new TextDecoder('utf-8', { fatal: true }).decode(bytes);
