// Runs the GPU build where it is loaded: in a page, or as a worker that answers messages.
import init, { Gpu, SlmLoader } from '/wasm/gpu/autoannotator.js';

const bytes = async (path) => new Uint8Array(await (await fetch(path)).arrayBuffer());

/** What an error is to whoever asked. */
const told = (error) => ({ error: String(error), code: error?.code });

/** Counts calls of WebGPU while `work` runs. */
async function counted(work) {
  const counts = {};
  const undo = [
    [GPUComputePassEncoder, 'dispatchWorkgroups'],
    [GPUQueue, 'submit'],
    [GPUQueue, 'writeBuffer'],
    [GPUDevice, 'createBindGroup'],
    [GPUDevice, 'createBuffer'],
    [GPUDevice, 'createComputePipeline'],
  ].map(([{ prototype }, name]) => {
    const original = prototype[name];
    counts[name] = 0;
    prototype[name] = function (...args) {
      counts[name] += 1;
      return original.apply(this, args);
    };
    return () => (prototype[name] = original);
  });
  try {
    return { result: await work(), counts };
  } finally {
    undo.forEach((back) => back());
  }
}

/**
 * Sets the clock a second forward for each product that is asked of another pipeline. Gives back the labels of the products
 * that ran since they were last asked for, and what undoes it.
 */
function favour(label) {
  const { now } = Performance.prototype;
  const { createComputePipeline } = GPUDevice.prototype;
  const { setPipeline } = GPUComputePassEncoder.prototype;
  const labels = new WeakMap();
  let ran = new Set();
  let late = 0;
  Performance.prototype.now = function () {
    return now.call(this) + late;
  };
  GPUDevice.prototype.createComputePipeline = function (wanted) {
    const pipeline = createComputePipeline.call(this, wanted);
    if (wanted.label.startsWith('product')) labels.set(pipeline, wanted.label);
    return pipeline;
  };
  GPUComputePassEncoder.prototype.setPipeline = function (pipeline) {
    const product = labels.get(pipeline);
    if (product) ran.add(product);
    if (product && product !== label) late += 1000;
    return setPipeline.call(this, pipeline);
  };
  const takeServed = () => {
    const taken = [...ran];
    ran = new Set();
    return taken;
  };
  const undo = () => {
    Object.assign(Performance.prototype, { now });
    Object.assign(GPUDevice.prototype, { createComputePipeline });
    Object.assign(GPUComputePassEncoder.prototype, { setPipeline });
  };
  return { takeServed, undo };
}

async function loader(model) {
  const loader = new SlmLoader('0');
  loader.push(await bytes(`/models/${model}/packed`));
  return loader;
}

const load = async (model, gpu) => (await loader(model)).finishOn(gpu, await bytes(`/models/${model}/tokenizer`));

const TASKS = {
  /** Logits of the texts, and what the second forward asked of the GPU. */
  async logits({ model, texts }) {
    const gpu = await Gpu.request(true);
    const slm = await load(model, gpu);
    await slm.logits(texts);
    const { result, counts } = await counted(() => slm.logits(texts));
    const votes = await slm.vote(texts);
    return { logits: [...result], counts, name: gpu.name, engine: slm.engine, votes };
  },

  /** A device that is lost, between two forwards and in the middle of one; then another device. */
  async lost({ model, texts }) {
    const gpu = await Gpu.request(true);
    const slm = await load(model, gpu);
    const before = [...(await slm.logits(texts))];
    const going = slm.logits(texts).then((logits) => [...logits], told);
    gpu.destroy();
    const middle = await going; // one call at a time
    const after = await slm.logits(texts).then(String, told).catch(told);
    const again = await load(model, await Gpu.request(true));
    return { before, middle, after, again: [...(await again.logits(texts))] };
  },

  /** As on an adapter in hardware, where each shape of the products is measured, by a clock to which only one of them is fast. */
  async measured({ model, texts, shape }) {
    const { info } = Object.getOwnPropertyDescriptors(GPUAdapter.prototype);
    const hardware = { vendor: 'a test', architecture: '', device: '', description: '', isFallbackAdapter: false, subgroupMinSize: 4, subgroupMaxSize: 128 };
    Object.defineProperty(GPUAdapter.prototype, 'info', { configurable: true, get: () => hardware });
    const { takeServed, undo } = favour(`product ${shape}`);
    try {
      const gpu = await Gpu.request(false);
      const { result: slm, counts } = await counted(() => load(model, gpu));
      takeServed();
      return { logits: [...(await slm.logits(texts))], served: takeServed(), pipelines: counts.createComputePipeline };
    } finally {
      undo();
      Object.defineProperty(GPUAdapter.prototype, 'info', info);
    }
  },

  /** Whether the browser has products of packed int8. */
  async packs() {
    return navigator.gpu.wgslLanguageFeatures.has('packed_4x8_integer_dot_product');
  },

  /** Logits by the CPU engine. */
  async onCpu({ model, texts }) {
    const slm = (await loader(model)).finish(await bytes(`/models/${model}/tokenizer`));
    return { logits: [...(await slm.logits(texts))] };
  },

  /** What is said where the browser has no WebGPU, gives no adapter or no device, or where the adapter computes on the CPU. */
  async none({ how }) {
    const { requestAdapter } = GPU.prototype;
    const { requestDevice } = GPUAdapter.prototype;
    const navigators = Object.getPrototypeOf(navigator);
    const { gpu } = Object.getOwnPropertyDescriptors(navigators);
    if (how === 'null') GPU.prototype.requestAdapter = async () => null;
    if (how === 'throws') GPU.prototype.requestAdapter = async () => Promise.reject(new Error('denied'));
    if (how === 'no device') GPUAdapter.prototype.requestDevice = async () => Promise.reject(new DOMException('denied', 'OperationError'));
    if (how === 'no WebGPU') delete navigators.gpu;
    try {
      return await Gpu.request(how !== 'software').then(String, told);
    } finally {
      Object.assign(GPU.prototype, { requestAdapter });
      Object.assign(GPUAdapter.prototype, { requestDevice });
      Object.defineProperty(navigators, 'gpu', gpu);
    }
  },
};

export async function run(task, what) {
  await init();
  return TASKS[task](what);
}

if (typeof window === 'undefined') {
  onmessage = async ({ data: { task, what } }) => postMessage(await run(task, what).catch(told));
}
