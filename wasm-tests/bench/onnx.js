// onnxruntime-web in the browser: wasm, one thread, SIMD, no proxy.
import * as ort from '/npm/onnxruntime-web/dist/ort.wasm.min.mjs';
import { engineOf } from './feeds.js';

ort.env.wasm.numThreads = 1;
ort.env.wasm.proxy = false;
ort.env.wasm.wasmPaths = '/npm/onnxruntime-web/dist/';

/** A session of one graph. */
export async function onnx(url) {
  return engineOf(ort, await ort.InferenceSession.create(url, { executionProviders: ['wasm'], graphOptimizationLevel: 'all' }));
}
