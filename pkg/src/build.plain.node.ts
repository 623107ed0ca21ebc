import { readFile } from 'node:fs/promises';
import type { Build } from './runtime.js';

export const plain: Build = {
  factory: () => import('../wasm/plain/autoannotator.factory.js'),
  module: () => readFile(new URL('../wasm/plain/autoannotator_bg.wasm', import.meta.url)),
};
