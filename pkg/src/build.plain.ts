import { create } from '../wasm/plain/autoannotator.factory.js';
import { type Build, compile } from './runtime.js';

// Imported at once: a service worker may not import later.
export const plain: Build = {
  factory: async () => ({ create }),
  module: () => compile(new URL('../wasm/plain/autoannotator_bg.wasm', import.meta.url)),
};
