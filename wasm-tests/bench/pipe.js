// transformers.js in the browser: wasm, one thread, everything from this server.
import { env, pipeline } from '/npm/@huggingface/transformers/dist/transformers.min.js';

// The build of its runtime without WebGPU, which it takes by itself for a browser that has none: smaller, quicker to load and
// faster on the CPU than the one it takes by itself in Chromium.
const dist = `${location.origin}/npm/@huggingface/transformers/node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded`;
env.allowLocalModels = false;
env.remoteHost = `${location.origin}/hub/`;
env.backends.onnx.wasm.numThreads = 1;
env.backends.onnx.wasm.wasmPaths = { mjs: `${dist}.mjs`, wasm: `${dist}.wasm` };

/** A text-classification pipeline; `batch` texts go through it at once. */
export async function pipe(id, dtype) {
  const classify = await pipeline('text-classification', id, { device: 'wasm', dtype });
  return {
    async label(texts, batch = 1) {
      const labels = [];
      for (let at = 0; at < texts.length; at += batch) {
        labels.push(...(await classify(texts.slice(at, at + batch))).map((found) => found.label));
      }
      return labels;
    },
    free: () => classify.dispose(),
  };
}
