// The interface of `autoannotator`, on burn-wgpu.
import { type AnnotatorLoader, type Build, browser, compile, load } from 'autoannotator/core';

export type * from 'autoannotator/core';
export { AutoannotatorError, DisposedError, MemoryError, ModelsError, OptionError, ReviewError, TrapError, WasmError, WorkerError } from 'autoannotator/core';

/** What `autoannotator` takes as its option `burn`. */
export const burn: Build = {
  factory: () => import('../wasm/autoannotator.factory.js'),
  module: () => compile(new URL('../wasm/autoannotator_bg.wasm', import.meta.url)),
};

/** Loads SLMs on WebGPU, in f16 or f32; where there is none, on the CPU. */
export const Annotator: AnnotatorLoader = { load: (options) => load(options, browser({ burn })) };
export type Annotator = import('autoannotator/core').Annotator;
