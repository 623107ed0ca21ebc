// What takes over where a GPU fails, or its kernels do not know a model: the package with stand-ins for its builds, which fail
// as they are told.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { afterEach, before, beforeEach, test } from 'node:test';
import { entry } from './kit.mjs';

const NO_KERNELS = 'slm-no-gpu: the GPU engine has no kernels for deberta-v2; the CPU engine serves every machine';
const LABELS = ['yes', 'no'].map((name) => ({ name, aliases: [] }));
const FILE = new TextEncoder().encode('a file');
const EMPTY_MODULE = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]);

/** An error as the crate throws it. */
const thrown = (message) => Object.assign(new Error(message), { code: message.split(': ')[0] });

let core;
/** What was made and let go of, in order. */
let log;
let warnings;
/** What each build does beyond answering, by `build.step`; it may throw. */
let faults;
/** What adapters were asked for. */
let asked;

const step = (build, name) => {
  log.push(`${build}.${name}`);
  return faults[`${build}.${name}`]?.();
};

function fakeBuild(name) {
  const slm = (device) => ({
    voteOn: () => undefined,
    free: () => step(name, 'free'),
    vote: async (texts) => {
      step(name, 'vote');
      // So that the GPU is the faster one.
      if (device === 'cpu') await new Promise((resolve) => setTimeout(resolve, 5));
      return texts.map(() => ({ slm: 'a', version: '1', engine: device, precision: 'f32', label: 'yes', probabilities: [1, 0] }));
    },
  });
  class SlmLoader {
    push() {}
    free() {}
    finish() {
      step(name, 'finish');
      return slm('cpu');
    }
    async finishOn() {
      step(name, 'finishOn');
      return slm('gpu');
    }
    async finishOnBurn() {
      step(name, 'finishOnBurn');
      return slm('burn');
    }
  }
  const Gpu = {
    async request() {
      step(name, 'request');
      return { destroy: () => step(name, 'destroy'), free: () => undefined };
    },
  };
  const glue = {
    SlmLoader,
    Gpu,
    init: async () => ({ memory: { buffer: new ArrayBuffer(8) } }),
    refusedBytes: () => 0,
    reserve: () => undefined,
    checkLabels: () => undefined,
    builtInSpec: (task) => ({ task: { name: task, labels: LABELS }, slms: ['a'], rule: 'unanimous', review: { redact: false } }),
    verdict: () => ({ status: 'accepted', label: 'yes', confidence: 1 }),
    annotation: (sample, votes, verdict) => ({ sample, votes, verdict, review: null, label: 'yes', source: 'consensus' }),
  };
  return { factory: async () => ({ create: () => glue }), module: async () => EMPTY_MODULE };
}

async function models(path) {
  const entry = { name: 'x', bytes: FILE.length, sha256: createHash('sha256').update(FILE).digest('hex') };
  const slm = { id: 'a', task: 'sentiment', labels: ['yes', 'no'], version: '1', precision: 'f16', shards: [entry], tokenizer: entry };
  return path === 'index.json' ? Response.json({ slms: [slm] }) : new Response(FILE);
}

const load = (options = {}) => {
  const runtime = { builds: { relaxed: fakeBuild('relaxed'), plain: fakeBuild('plain'), gpu: fakeBuild('gpu') }, base: () => undefined, cache: false, atOnce: 1 };
  return core.load({ task: 'sentiment', models, batch: 1, onWarning: (warning) => warnings.push(warning.message), ...options }, runtime);
};
const burn = async () => ({ burn: fakeBuild('burn') });
const engines = async (annotator, texts = ['a', 'b']) => {
  const found = [];
  for await (const { votes, verdict } of annotator.annotate(texts)) found.push(votes[0]?.engine ?? verdict.why);
  return found;
};
const count = (what) => log.filter((one) => one === what).length;

/** Throws the first `times` times. */
const first = (times, error) => () => {
  if (times-- > 0) throw error;
};
const trap = () => new WebAssembly.RuntimeError('unreachable');

const own = Object.getOwnPropertyDescriptor(globalThis, 'navigator');

before(async () => {
  core = await entry('core');
});

beforeEach(() => {
  [log, warnings, faults, asked] = [[], [], {}, []];
  const requestAdapter = async (options) => (asked.push(options), { info: { vendor: 'test', architecture: '', description: '' } });
  Object.defineProperty(globalThis, 'navigator', { configurable: true, value: { gpu: { requestAdapter } } });
});

afterEach(() => {
  if (own) Object.defineProperty(globalThis, 'navigator', own);
  else delete globalThis.navigator;
});

test('the faster one serves, on the GPU that the engine will ask for', async () => {
  const annotator = await load();
  assert.deepEqual(await engines(annotator), ['gpu', 'gpu']);
  assert.deepEqual(asked, [{ powerPreference: 'high-performance' }]);
  assert.deepEqual([count('relaxed.free') + count('plain.free'), count('gpu.destroy'), warnings], [1, 0, []]);
  annotator.dispose();
});

test('a browser that never names its GPU: the CPU serves after 5 seconds', async (t) => {
  navigator.gpu.requestAdapter = () => (asked.push('silence'), new Promise(() => {}));
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const loading = load();
  while (!asked.length) await new Promise(setImmediate);
  t.mock.timers.tick(5000);
  const annotator = await loading;
  t.mock.timers.reset();
  assert.deepEqual(await engines(annotator), ['cpu', 'cpu']);
  assert.equal(count('gpu.destroy'), 0);
  annotator.dispose();
});

test('a GPU that is lost while it is timed: the CPU serves', async () => {
  faults['gpu.vote'] = first(9, thrown('slm-gpu: the device was lost'));
  const annotator = await load();
  await new Promise(setImmediate);
  assert.deepEqual(await engines(annotator), ['cpu', 'cpu']);
  assert.deepEqual(warnings, ["slm-gpu: the CPU votes in the GPU's place (the device was lost)"]);
  assert.equal(count('gpu.destroy'), 1);
  annotator.dispose();
});

test('a CPU that traps while it is timed does not leak the GPU', async () => {
  for (const build of ['relaxed', 'plain']) faults[`${build}.vote`] = first(9, trap());
  const annotator = await load();
  assert.deepEqual(await engines(annotator), ['gpu', 'gpu']);
  annotator.dispose();
});

test('loading that is stopped at the GPU frees what is on the CPU', async () => {
  const cut = new AbortController();
  faults['gpu.request'] = () => cut.abort();
  await assert.rejects(load({ signal: cut.signal }), { name: 'AbortError' });
  await new Promise(setImmediate);
  assert.deepEqual([count('relaxed.free') + count('plain.free'), count('gpu.destroy'), warnings], [1, 1, []]);
});

for (const [what, message] of [['no adapter', 'slm-no-gpu: no adapter'], ['a device refused', 'slm-no-gpu: requestDevice: denied']]) {
  test(`${what}: the CPU serves, unless the GPU was demanded`, async () => {
    faults['gpu.request'] = first(9, thrown(message));
    const annotator = await load();
    assert.deepEqual(await engines(annotator), ['cpu', 'cpu']);
    assert.deepEqual(warnings, [`slm-no-gpu: the CPU votes in the GPU's place (${message.slice(12)})`]);
    annotator.dispose();
    await assert.rejects(load({ device: 'gpu' }), { code: 'slm-no-gpu' });
  });
}

test('after a trap there is another GPU, and the old one is let go of', async () => {
  faults['gpu.vote'] = first(1, trap());
  const annotator = await load({ device: 'gpu' });
  assert.deepEqual(await engines(annotator), ['gpu', 'gpu']);
  assert.deepEqual([count('gpu.request'), count('gpu.destroy'), warnings, (await annotator.info()).restarts], [2, 1, [], 1]);
  annotator.dispose();
});

for (const [what, fault] of [
  ['none any more', { 'gpu.request': thrown('slm-no-gpu: no adapter') }],
  ['one that is lost at once', { 'gpu.finishOn': thrown('slm-gpu: lost') }],
]) {
  test(`after a trap there is ${what}: the CPU goes on, for good`, async () => {
    const annotator = await load({ device: 'gpu' });
    faults['gpu.vote'] = first(1, trap());
    for (const [name, error] of Object.entries(fault)) faults[name] = first(9, error);
    assert.deepEqual(await engines(annotator), ['cpu', 'cpu']);
    assert.equal(warnings.length, 1);
    assert.equal(count('gpu.destroy'), count('gpu.request') - Number(what === 'none any more'));
    const requests = count('gpu.request');
    for (const build of ['relaxed', 'plain']) faults[`${build}.vote`] = first(1, trap());
    assert.deepEqual(await engines(annotator), ['cpu', 'cpu']);
    assert.deepEqual([count('gpu.request'), (await annotator.info()).restarts], [requests, 2]);
    annotator.dispose();
  });
}

test('a lost GPU is let go of, and the CPU goes on', async () => {
  const annotator = await load({ device: 'gpu' });
  faults['gpu.vote'] = first(1, thrown('slm-gpu: the device was lost'));
  assert.deepEqual(await engines(annotator), ['cpu', 'cpu']);
  assert.deepEqual([count('gpu.destroy'), count('gpu.free'), warnings.length], [1, 1, 1]);
  annotator.dispose();
});

for (const device of ['auto', 'gpu']) {
  test(`device ${device}: a model without kernels goes to the CPU, with a warning`, async () => {
    faults['gpu.finishOn'] = first(9, thrown(NO_KERNELS));
    const annotator = await load({ device });
    assert.deepEqual(await engines(annotator), ['cpu', 'cpu']);
    assert.deepEqual(warnings, ["slm-no-gpu: the CPU votes in the GPU's place (a: the GPU engine has no kernels for deberta-v2). The option 'burn' brings a GPU engine that may take it"]);
    assert.equal(count('gpu.destroy'), 1);
    annotator.dispose();
  });

  test(`device ${device}: burn-wgpu takes it where it was brought`, async () => {
    faults['gpu.finishOn'] = first(9, thrown(NO_KERNELS));
    const annotator = await load({ device, burn });
    assert.deepEqual(await engines(annotator), ['burn', 'burn']);
    const { build, device: on } = await annotator.info();
    assert.deepEqual([build, on, warnings, count('gpu.destroy')], ['burn', 'gpu', [], 1]);
    annotator.dispose();
  });

  for (const [what, bring, why] of [
    ['is not installed', () => Promise.reject(new Error('Cannot find package')), /autoannotator-burn: Cannot find package/],
    ['cannot take it either', burn, /a: burn-wgpu takes weights in f16 or f32/],
  ]) {
    test(`device ${device}: burn-wgpu ${what}`, async () => {
      faults['gpu.finishOn'] = first(9, thrown(NO_KERNELS));
      faults['burn.finishOnBurn'] = first(9, thrown('slm-no-gpu: burn-wgpu takes weights in f16 or f32, and these are in int8; the CPU engine serves every machine'));
      const annotator = await load({ device, burn: bring });
      assert.deepEqual(await engines(annotator), ['cpu', 'cpu']);
      assert.equal(warnings.length, 1);
      assert.match(warnings[0], why);
      annotator.dispose();
    });
  }
}

test('burn-wgpu is not brought where it is not needed', async () => {
  const annotator = await load({ burn: () => assert.fail('it was') });
  assert.deepEqual(await engines(annotator), ['gpu', 'gpu']);
  annotator.dispose();
});

test('it cannot be brought into the package’s own worker', async () => {
  const { Annotator } = await entry('worker.node');
  await assert.rejects(Annotator.load({ task: 'sentiment', models: '/models', burn }), { name: 'OptionError', code: 'option', message: /'burn'/ });
});
