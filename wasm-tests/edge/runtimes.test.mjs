// The same texts in every runtime: bit for bit on the plain build, and the verdicts of the native binary.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { before, describe, test } from 'node:test';
import { record } from './figures.mjs';
import { consumer, env, exec, here, mismatches, models, native, noModels, noTexts, OWN_NODE, RUNTIMES, SLMS, texts } from './kit.mjs';
import { annotateInEdgeRuntime, annotateInWorkerd } from './isolates.mjs';

const COUNT = 500;

async function run(name, job) {
  const out = await consumer('runtime', 'run.mjs');
  await writeFile(path.join(out, 'job.json'), JSON.stringify({ models, slms: SLMS, ...job }));
  const [file, ...args] = RUNTIMES[name];
  const { stdout } = await exec(file, [...args, 'run.mjs'], { cwd: out, env, maxBuffer: 1 << 28 });
  return JSON.parse(stdout);
}

/** What was tested: the program's own word, or the version of its package. */
async function versionOf(runtime) {
  const command = RUNTIMES[runtime];
  if (!command) return JSON.parse(await readFile(path.join(here, 'node_modules', runtime, 'package.json'), 'utf8')).version;
  const { stdout } = await exec(command[0], ['--version'], { env });
  return /\d+\.\d+\.\d+/.exec(stdout)[0];
}

describe('the same verdicts everywhere', { skip: noModels || noTexts }, () => {
  let some;
  let reference;
  let own;
  let bits;

  before(async () => {
    some = await texts(COUNT);
    reference = await native(some);
    own = await run(OWN_NODE, { texts: some, entry: 'autoannotator/simd' });
    bits = own.annotations;
  });

  const check = async (name, found, exact) => {
    assert.equal(found.annotations.length, COUNT);
    if (exact) assert.deepEqual(found.annotations, bits, `${name}: other bits than in ${OWN_NODE}`);
    const { clear, near } = mismatches(found.annotations, reference);
    const listed = JSON.stringify([...clear, ...near]);
    console.log(`${name}: ${clear.length} verdicts of ${COUNT} differ from the native ones, ${near.length} more where two labels are within 0.01${near.length ? `: ${listed}` : ''}`);
    assert.deepEqual(clear, []);
    assert.ok(near.length <= COUNT * 0.005, listed);
    assert.ok(found.memoryBytes <= 96 * 2 ** 20, `${found.memoryBytes} bytes of WebAssembly memory`);
    const [runtime] = name.split(' (');
    const { memoryBytes, first, ms, build, device } = found;
    record(name, { runtime, version: await versionOf(runtime), device, build, mismatches: clear.length, near: near.length, memoryMib: memoryBytes / 2 ** 20, firstMs: first, textsPerSecond: (COUNT * 1000) / ms });
  };

  for (const name of Object.keys(RUNTIMES)) {
    test(`${name}, plain build`, async () => check(name, name === OWN_NODE ? own : await run(name, { texts: some, entry: 'autoannotator/simd' }), true));
    test(`${name}, what it takes by itself`, async () => {
      const found = await run(name, { texts: some, entry: 'autoannotator' });
      check(`${name} (${found.build})`, found, found.build === 'plain');
    });
  }

  const vulkan = existsSync('/usr/share/vulkan/icd.d') ? false : 'there is no Vulkan adapter, not even in software';
  test('Deno, WebGPU', { skip: vulkan }, async () => {
    const { annotations, device } = await run('Deno', { texts: some.slice(0, 24), slms: SLMS.slice(0, 1), entry: 'autoannotator', device: 'gpu' });
    assert.equal(device, 'gpu');
    annotations.forEach(({ votes: [vote] }, at) => {
      const [first, second] = [...bits[at].votes[0].probabilities].sort((a, b) => b - a);
      assert.equal(vote.engine, 'gpu');
      if (first - second > 0.05) assert.equal(vote.label, bits[at].votes[0].label, some[at]);
    });
  });

  test('workerd, plain kernels', async () => check('workerd', await annotateInWorkerd(some, 'autoannotator/simd'), true));
  test('workerd, what it takes by itself', async () => check('workerd (relaxed)', await annotateInWorkerd(some), false));
  test('edge-runtime', async () => check('edge-runtime', await annotateInEdgeRuntime(some), true));
});
