import { readFile } from 'node:fs/promises';
import type { Build } from './runtime.js';

export const relaxed: Build = {
  factory: () => import('../wasm/relaxed/autoannotator.factory.js'),
  module: () => readFile(new URL('../wasm/relaxed/autoannotator_bg.wasm', import.meta.url)),
};
