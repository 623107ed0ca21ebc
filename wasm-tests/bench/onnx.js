// onnxruntime-web in the browser: wasm, one thread, SIMD, no proxy.
import * as ort from '/npm/onnxruntime-web/dist/ort.wasm.min.mjs';

ort.env.wasm.numThreads = 1;
ort.env.wasm.proxy = false;
ort.env.wasm.wasmPaths = '/npm/onnxruntime-web/dist/';

/** A session of one graph. The inputs are made before the clock runs. */
export async function onnx(url) {
  const session = await ort.InferenceSession.create(url, { executionProviders: ['wasm'], graphOptimizationLevel: 'all' });
  return {
    prepare({ texts, pad }) {
      const length = Math.max(...texts.map((text) => text.length));
      const fill = (value) => {
        const values = texts.flatMap((text) => Array.from({ length }, (_, at) => BigInt(value(text[at]))));
        return new ort.Tensor('int64', BigInt64Array.from(values), [texts.length, length]);
      };
      const all = {
        input_ids: fill((id) => id ?? pad),
        attention_mask: fill((id) => (id === undefined ? 0 : 1)),
        token_type_ids: fill(() => 0),
      };
      const feeds = Object.fromEntries(session.inputNames.map((name) => [name, all[name]]));
      return async () => (await session.run(feeds)).logits.data;
    },
    free: () => session.release(),
  };
}
