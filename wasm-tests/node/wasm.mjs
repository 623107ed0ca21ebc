// The built wasm, instantiated from its bytes as a bundler-less runtime would.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** A path in the repository. */
export const at = (path) => fileURLToPath(new URL(`../../${path}`, import.meta.url));

const module = await import(new URL('../../pkg/wasm/plain/autoannotator.js', import.meta.url));
module.initSync({ module: readFileSync(at('pkg/wasm/plain/autoannotator_bg.wasm')) });

/** The wasm surface. */
export const aa = module;

export const utf8 = (text) => new TextEncoder().encode(text);
export const text = (bytes) => new TextDecoder('utf-8', { fatal: true }).decode(bytes);
