import { type Build, compile } from './runtime.js';

export const plain: Build = {
  factory: () => import('../wasm/plain/autoannotator.factory.js'),
  module: () => compile(new URL('../wasm/plain/autoannotator_bg.wasm', import.meta.url)),
};
