import { type Build, compile } from './runtime.js';

export const gpu: Build = {
  factory: () => import('../wasm/gpu/autoannotator.factory.js'),
  module: () => compile(new URL('../wasm/gpu/autoannotator_bg.wasm', import.meta.url)),
};
