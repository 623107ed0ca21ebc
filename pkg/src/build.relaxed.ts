import { create } from '../wasm/relaxed/autoannotator.factory.js';
import { type Build, compile } from './runtime.js';

// Imported at once: a service worker may not import later.
export const relaxed: Build = {
  factory: async () => ({ create }),
  module: () => compile(new URL('../wasm/relaxed/autoannotator_bg.wasm', import.meta.url)),
};
