// What `make bench-gpu` runs in the tab: our WGSL engine, onnxruntime-web's WebGPU provider and burn-wgpu, the CPU engine as
// the oracle.
import * as ort from '/npm/onnxruntime-web/dist/ort.webgpu.min.mjs';
import initCpu, { SlmLoader as CpuLoader } from '/wasm/plain/autoannotator.js';
import * as burn from '/wasm/burn/autoannotator.js';
import initGpu, { Gpu, SlmLoader } from '/wasm/gpu/autoannotator.js';
import { engineOf } from './feeds.js';

ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = '/npm/onnxruntime-web/dist/';
ort.env.logLevel = 'error';

const COUNTED = [
  [GPUComputePassEncoder, 'dispatchWorkgroups', 'dispatches'],
  [GPUQueue, 'submit', 'submits'],
  [GPUDevice, 'createBindGroup', 'bind_groups'],
  [GPUQueue, 'writeBuffer', 'writes'],
];
const counts = {};
for (const [{ prototype }, name, as] of COUNTED) {
  const original = prototype[name];
  counts[as] = 0;
  prototype[name] = function (...args) {
    counts[as] += 1;
    return original.apply(this, args);
  };
}

/** Our pipelines that add up over the lanes of a workgroup: what subgroups could serve. */
const SUMS = ['layer norm'];
const { setPipeline, dispatchWorkgroups } = GPUComputePassEncoder.prototype;
let without = [];
let left = false;
GPUComputePassEncoder.prototype.setPipeline = function (pipeline) {
  left = without.includes(pipeline.label);
  return setPipeline.call(this, pipeline);
};
GPUComputePassEncoder.prototype.dispatchWorkgroups = function (...args) {
  return left ? undefined : dispatchWorkgroups.apply(this, args);
};

const bytes = async (url) => new Uint8Array(await (await fetch(url)).arrayBuffer());

async function files(manifest) {
  const at = (name) => bytes(`/models/${manifest.id}/${manifest.version}/${name}`);
  return { shards: await Promise.all(manifest.shards.map((shard) => at(shard.name))), tokenizer: await at(manifest.tokenizer.name) };
}

/** Ours, from bytes in memory. */
const make = {
  async gpu({ shards, tokenizer }, manifest) {
    const gpu = await Gpu.request(true);
    const loader = new SlmLoader(manifest.version);
    shards.forEach((shard) => loader.push(shard));
    return ours(await loader.finishOn(gpu, tokenizer));
  },
  async cpu({ shards, tokenizer }, manifest) {
    const loader = new CpuLoader(manifest.version);
    shards.forEach((shard) => loader.push(shard));
    return ours(loader.finish(tokenizer));
  },
  async burn({ shards, tokenizer }, manifest) {
    const loader = new burn.SlmLoader(manifest.version);
    shards.forEach((shard) => loader.push(shard));
    return ours(await loader.finishOnBurn(tokenizer));
  },
  async ort(graph) {
    return engineOf(ort, await ort.InferenceSession.create(graph, { executionProviders: ['webgpu'], graphOptimizationLevel: 'all' }));
  },
};

const ours = (slm) => ({
  prepare({ texts }) {
    const [ids, lengths] = [Uint32Array.from(texts.flat()), Uint32Array.from(texts, (text) => text.length)];
    return () => slm.logitsOfTokens(ids, lengths);
  },
  pooled: (texts) => slm.pooledOfTokens(Uint32Array.from(texts.flat()), Uint32Array.from(texts, (text) => text.length)),
  free: () => slm.free(),
});

const engines = new Map();

/** Texts of real words: ids that occur in the vocabulary, no two texts alike. */
function shape(batch, tokens) {
  return Array.from({ length: batch }, (_, text) => [101, ...Array.from({ length: tokens - 2 }, (_, at) => 1996 + ((text * 7919 + at * 104729) % 20000)), 102]);
}

async function clock(run) {
  const start = performance.now();
  const result = await run();
  return [performance.now() - start, result];
}

const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b);
  const half = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
};

/** An ONNX graph of one Identity. */
const NOTHING = 'CAg6NwoQCgF4EgF5IghJZGVudGl0eRIBZ1oPCgF4EgoKCAgBEgQKAggBYg8KAXkSCgoICAESBAoCCAFCBAoAEBE=';

/** Starts a kind's module, whose compilation is nobody's first call; for onnxruntime that asks for its device too. */
const begin = {
  cpu: () => initCpu(),
  gpu: () => initGpu(),
  burn: () => burn.default(),
  async ort() {
    const graph = Uint8Array.from(atob(NOTHING), (character) => character.charCodeAt(0));
    const session = await ort.InferenceSession.create(graph, { executionProviders: ['webgpu'] });
    await session.run({ x: new ort.Tensor('float32', [0], [1]) });
  },
};

/** Starts the modules of these kinds, and says what computes. */
async function start(kinds) {
  for (const kind of kinds) await begin[kind]();
  const adapter = await navigator.gpu.requestAdapter();
  const { vendor, architecture, device, description } = adapter.info;
  return { adapter: [vendor, architecture, device, description].filter(Boolean).join(' '), software: adapter.info.isFallbackAdapter };
}

/**
 * Makes the engines `{name: {kind, manifest | url}}` and returns the milliseconds of the last one from its bytes in memory to
 * its first logits of one short text, pipelines and all.
 */
async function load(wanted) {
  let ms;
  for (const [name, { kind, manifest, url }] of Object.entries(wanted)) {
    const source = manifest ? await files(manifest) : await bytes(url);
    [ms] = await clock(async () => {
      engines.set(name, await make[kind](source, manifest));
      await engines.get(name).prepare({ texts: shape(1, 32), pad: 0 })();
    });
  }
  return ms;
}

/**
 * How far the logits of engines are from those of `oracle` on a shape, at most; and embeddings, of unit length, where ours.
 */
async function check({ oracle, names, batch, tokens }) {
  const texts = shape(batch, tokens);
  const of = (name) => engines.get(name).prepare({ texts, pad: 0 })();
  const unit = (values, width) => {
    const rows = Array.from({ length: values.length / width }, (_, row) => [...values.slice(row * width, (row + 1) * width)]);
    return rows.map((row) => row.map((value) => value / Math.hypot(...row)));
  };
  const wanted = await of(oracle);
  const found = {};
  for (const name of names) {
    const engine = engines.get(name);
    const logits = await of(name);
    found[name] = { logits: Math.max(...wanted.map((value, at) => Math.abs(value - logits[at]))) };
    if (!engine.pooled) continue;
    const [mine, right] = [await engine.pooled(texts), await engines.get(oracle).pooled(texts)];
    const width = right.length / texts.length;
    const [a, b] = [unit(mine, width), unit(right, width)];
    found[name].embedding = Math.max(...a.flatMap((row, at) => row.map((value, place) => Math.abs(value - b[at][place]))));
    found[name].cosine = Math.min(...a.map((row, at) => row.reduce((sum, value, place) => sum + value * b[at][place], 0)));
  }
  return found;
}

/** Median milliseconds of each engine on one shape, in turns, and what one forward asked of WebGPU. */
async function time({ names, batch, tokens, rounds, budget }) {
  const runs = new Map(names.map((name) => [name, engines.get(name).prepare({ texts: shape(batch, tokens), pad: 0 })]));
  const times = Object.fromEntries(names.map((name) => [name, []]));
  const asked = {};
  // The first run of a shape compiles.
  for (const run of runs.values()) await run();
  const begin = performance.now();
  for (let round = 0; round < rounds && (round < 2 || performance.now() - begin < budget); round++) {
    for (const name of round % 2 ? [...names].reverse() : names) {
      const before = { ...counts };
      times[name].push((await clock(runs.get(name)))[0]);
      asked[name] = Object.fromEntries(Object.entries(counts).map(([what, count]) => [what, count - before[what]]));
    }
  }
  return Object.fromEntries(names.map((name) => [name, { ms: median(times[name]), ...asked[name] }]));
}

/** The share of an engine's forward that its sums over lanes take: the median of forwards with and without them, in turns. */
async function sums({ name, batch, tokens, rounds }) {
  const run = engines.get(name).prepare({ texts: shape(batch, tokens), pad: 0 });
  const times = [[], []];
  for (let round = 0; round < rounds; round++) {
    for (const [at, labels] of [[], SUMS].entries()) {
      without = labels;
      times[at].push((await clock(run))[0]);
    }
  }
  without = [];
  return 1 - median(times[1]) / median(times[0]);
}

async function free() {
  for (const engine of engines.values()) await engine.free();
  engines.clear();
}

globalThis.bench = { start, load, check, time, sums, free };
