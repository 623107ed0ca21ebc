import { readFile } from 'node:fs/promises';
import type { Build } from './runtime.js';

export const gpu: Build = {
  factory: () => import('../wasm/gpu/autoannotator.factory.js'),
  module: () => readFile(new URL('../wasm/gpu/autoannotator_bg.wasm', import.meta.url)),
};
