// transformers.js in Node.js: the same SLMs in q8, one thread, on the texts of a file. On onnxruntime-node, which is native
// code; or, as it is where there is no native code, on onnxruntime-web.
import { readFile } from 'node:fs/promises';

const { native, hub, address, slms, texts, batch } = JSON.parse(await readFile(process.argv[2], 'utf8'));
// It looks for native code wherever it finds Node.js.
if (!native) Object.defineProperty(process, 'release', { value: { ...process.release, name: 'edge' } });
const web = './node_modules/@huggingface/transformers/dist/transformers.web.js';
const { env, pipeline } = await import(native ? '@huggingface/transformers' : web);
if (native) {
  env.allowRemoteModels = false;
  env.localModelPath = hub;
} else {
  env.allowLocalModels = false;
  env.remoteHost = address;
  env.backends.onnx.wasm.numThreads = 1;
  const dist = new URL('./node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded', import.meta.url).href;
  env.backends.onnx.wasm.wasmPaths = { mjs: `${dist}.mjs`, wasm: `${dist}.wasm` };
}
const session_options = { intraOpNumThreads: 1, interOpNumThreads: 1 };
const classifiers = [];
for (const id of slms) classifiers.push(await pipeline('text-classification', id, { device: native ? 'cpu' : 'wasm', dtype: 'q8', session_options }));
for (const classify of classifiers) await classify(texts[0]);
const first = performance.now();
const before = process.cpuUsage();
const labels = slms.map(() => []);
for (let at = 0; at < texts.length; at += batch) {
  const some = texts.slice(at, at + batch);
  for (const [slm, classify] of classifiers.entries()) labels[slm].push(...(await classify(some)).map(({ label }) => label));
}
const { user, system } = process.cpuUsage(before);
console.log(JSON.stringify({ first, cpuMs: (user + system) / 1000, labels }));
