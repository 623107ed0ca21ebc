// Memory stays flat: over many texts, and over loading and disposing again and again.
import assert from 'node:assert/strict';
import path from 'node:path';
import { describe, test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { record } from './figures.mjs';
import { inWorkerd } from './isolates.mjs';
import { entry, here, models, noModels, SLMS } from './kit.mjs';

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc');

/** MiB of the process that JavaScript and WebAssembly hold. */
async function held() {
  for (let round = 0; round < 3; round++) {
    gc();
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const { heapUsed, external } = process.memoryUsage();
  return (heapUsed + external) / 2 ** 20;
}

const load = async () => (await entry('simd.node')).Annotator;
// One model: what would leak does so with any number of them.
const options = { task: 'sentiment', slms: SLMS.slice(0, 1), models, device: 'cpu' };

describe('memory', { skip: noModels }, () => {
  test('over 10,000 texts', async () => {
    const Annotator = await load();
    const annotator = await Annotator.load(options);
    const sizes = [];
    for (let thousand = 0; thousand < 10; thousand++) {
      const texts = Array.from({ length: 1000 }, (_, at) => `film ${thousand * 1000 + at} ${'good '.repeat(at % 7)}`);
      let count = 0;
      for await (const annotation of annotator.annotate(texts)) count += annotation.votes.length;
      assert.equal(count, texts.length);
      sizes.push([await held(), (await annotator.info()).memoryBytes / 2 ** 20]);
    }
    annotator.dispose();
    const [first, last] = [sizes[0], sizes.at(-1)];
    const listed = sizes.map(([js, wasm]) => `${js.toFixed(1)}/${wasm.toFixed(1)}`).join(' ');
    assert.ok(last[0] <= first[0] * 1.05 && last[1] <= first[1] * 1.05, listed);
    record('memory', { after1000Texts: first[0], after10000Texts: last[0], wasmMib: last[1] });
  });

  test('over 50 times of loading and disposing', async () => {
    const Annotator = await load();
    const sizes = [];
    for (let time = 1; time <= 50; time++) {
      const annotator = await Annotator.load(options);
      for await (const { label } of annotator.annotate(['I love it'])) assert.equal(label, 'positive');
      annotator.dispose();
      if (time % 10 === 0) sizes.push(await held());
    }
    assert.ok(sizes.at(-1) <= sizes[0] * 1.05, sizes.map((size) => size.toFixed(1)).join(' '));
    record('memory', { after10Loads: sizes[0], after50Loads: sizes.at(-1) });
  });

  test('in workerd: what does not fit is refused or set aside, and the worker goes on', async () => {
    const worker = await inWorkerd('limits.js', path.join(here, 'workers'));
    try {
      const most = 104 * 2 ** 20;
      for (const again of [1, 2]) {
        const { body: usual } = await worker.ask('/');
        assert.deepEqual(usual.annotations.map(({ label }) => label), ['positive']);
        assert.equal(usual.compiles, false, 'no run-time compilation, as in production');
        assert.ok(usual.info.memoryBytes < most, `${usual.info.memoryBytes} bytes`);
        const { body: three } = await worker.ask('/three');
        assert.deepEqual([three.typed, three.code], [true, 'wasm-memory'], JSON.stringify(three));
        const { body: long } = await worker.ask('/long');
        assert.equal(long.annotations[0].verdict.status, 'set-aside');
        assert.match(long.annotations[0].verdict.why, /^wasm-memory: /);
        assert.equal(long.info.restarts, 2 * again);
      }
    } finally {
      await worker.stop();
    }
  });
});
