import { type Build, compile } from './runtime.js';

export const relaxed: Build = {
  factory: () => import('../wasm/relaxed/autoannotator.factory.js'),
  module: () => compile(new URL('../wasm/relaxed/autoannotator_bg.wasm', import.meta.url)),
};
