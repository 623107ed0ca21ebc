// The edge worker and its twins, as they stand in examples/edge-worker.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { cpSync, readdirSync, readFileSync, statSync, symlinkSync } from 'node:fs';
import path from 'node:path';
import { describe, test } from 'node:test';
import { record } from './figures.mjs';
import { inWorkerd, runBuilt, workerd } from './isolates.mjs';
import { consumer, env, exec, here, models, noModels, OWN_NODE, reviewer, root, RUNTIMES, SLMS } from './kit.mjs';

const HARD = 'the rocket by @someone is not bad at all, write to me@example.com';
const TEXTS = ['I love this film', { id: 'b', text: 'worst day ever, I hate it' }, HARD];

/** What every one of them has to do. */
async function speaks(ask, desk) {
  // Cold, and several at once: they share one annotator.
  const answers = await Promise.all([1, 2, 3].map(() => ask('/annotate', { texts: TEXTS })));
  for (const { status, body } of answers) {
    assert.equal(status, 200, JSON.stringify(body));
    assert.deepEqual(body.annotations.map(({ sample, label, source }) => [sample.id, label, source]), [
      ['1', 'positive', 'consensus'],
      ['b', 'negative', 'consensus'],
      ['3', 'neutral', 'llm'],
    ]);
  }
  assert.equal(desk.seen.length, 3, 'one hard sample a request');
  for (const { body, headers } of desk.seen) {
    assert.ok(!body.includes('me@example.com') && !body.includes('love') && body.includes('rocket'), body);
    assert.equal(headers.authorization, 'Bearer sesame');
  }
  for (const wrong of [{}, { texts: 'x' }, { texts: Array(257).fill('x') }, { texts: [1] }]) {
    assert.equal((await ask('/annotate', wrong)).status, 400, JSON.stringify(wrong).slice(0, 40));
  }
  assert.equal((await ask('/elsewhere')).status, 404);
  const { body } = await ask('/info');
  assert.equal(body.slms.length, 2);
  assert.ok(body.memoryBytes <= 96 * 2 ** 20, `${body.memoryBytes} bytes of WebAssembly memory`);
  return body;
}

describe('the edge worker', { skip: noModels }, () => {
  test('workerd', async () => {
    const desk = await reviewer();
    const worker = await workerd({ REVIEW_URL: desk.url, REVIEW_TOKEN: 'sesame' });
    try {
      const { memoryBytes } = await speaks(worker.ask, desk);
      // Texts as long as the SLMs read, many at once: the peak.
      const long = Array.from({ length: 256 }, (_, at) => `${at} ${'the film was good and the food was bad '.repeat(1 + (at % 30))}`);
      assert.equal((await worker.ask('/annotate', { texts: long })).body.annotations.length, 256);
      const { body } = await worker.ask('/info');
      const peak = Math.max(memoryBytes, body.memoryBytes) / 2 ** 20;
      assert.ok(peak <= 96, `${peak} MiB`);
      assert.equal(body.restarts, 0);
      record('workerd', { peakMib: peak });
    } finally {
      await worker.stop();
      desk.stop();
    }
  });

  test('models in R2, checked as they stream', async () => {
    const index = JSON.parse(readFileSync(path.join(models, 'index.json'), 'utf8'));
    const slm = index.slms.find(({ id, precision }) => id === SLMS[0] && precision === 'int8');
    const worker = await inWorkerd('r2.js', path.join(here, 'workers'), {}, 'autoannotator', { r2Buckets: ['BUCKET'] });
    try {
      const bucket = await worker.miniflare.getR2Bucket('BUCKET');
      await bucket.put('index.json', JSON.stringify({ slms: [slm] }));
      for (const { name } of [...slm.shards, slm.tokenizer]) await bucket.put(`${slm.id}/${slm.version}/${name}`, readFileSync(path.join(models, slm.id, slm.version, name)));
      for (const source of ['/', '/body']) assert.deepEqual((await worker.ask(source)).body, { label: 'positive' });
      const shard = `${slm.id}/${slm.version}/${slm.shards[0].name}`;
      const good = readFileSync(path.join(models, shard));
      const changed = Buffer.from(good);
      changed[good.length - 1000] ^= 1;
      for (const bad of [changed, Buffer.concat([good, Buffer.from('x')])]) {
        await bucket.put(shard, bad);
        assert.deepEqual((await worker.ask('/')).body, { name: 'ModelsError', code: 'models-hash' });
      }
      await bucket.put(shard, good.subarray(0, -1));
      assert.equal((await worker.ask('/')).body.code, 'models-hash');
    } finally {
      await worker.stop();
    }
  });

  // wrangler runs in Node.js 22 and later.
  const node = RUNTIMES['Node.js 22'] ?? (parseInt(process.versions.node) >= 22 ? RUNTIMES[OWN_NODE] : undefined);
  test('as wrangler deploys it', { skip: node ? false : 'wrangler needs Node.js 22' }, async () => {
    const out = await consumer('wrangler');
    cpSync(path.join(root, 'examples/edge-worker'), out, { recursive: true });
    symlinkSync(models, path.join(out, 'models'));
    const wrangler = path.join(here, 'node_modules/wrangler/bin/wrangler.js');
    const { stdout } = await exec(node[0], [wrangler, 'deploy', '--dry-run', '--outdir', 'built'], { cwd: out, env });
    const [, kib] = /gzip: ([\d.]+) KiB/.exec(stdout) ?? assert.fail(stdout);
    assert.ok(Number(kib) <= 1024, `${kib} KiB are uploaded`);
    record('wrangler', { gzipKib: Number(kib) });
    const built = path.join(out, 'built');
    const modules = readdirSync(built).filter((name) => name.endsWith('.wasm'));
    assert.deepEqual([modules.length, statSync(path.join(built, 'index.js')).isFile()], [1, true]);
    const desk = await reviewer();
    const worker = await runBuilt(built, { TASK: 'sentiment', REVIEW_URL: desk.url, REVIEW_TOKEN: 'sesame' });
    try {
      await speaks(worker.ask, desk);
    } finally {
      await worker.stop();
      desk.stop();
    }
  });

  for (const [name, command] of Object.entries(RUNTIMES)) {
    test(name, async () => {
      const out = await consumer('example');
      cpSync(path.join(root, 'examples/edge-worker'), out, { recursive: true, filter: (file) => !file.endsWith('package.json') });
      const desk = await reviewer();
      const script = name === 'Deno' ? 'deno.js' : 'node.js';
      const child = spawn(command[0], [...command.slice(1), script, models], {
        cwd: out,
        env: { ...env, PORT: '0', REVIEW_URL: desk.url, REVIEW_TOKEN: 'sesame' },
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      try {
        const url = await new Promise((resolve, reject) => {
          let said = '';
          child.stdout.on('data', (part) => {
            said += part;
            const found = /http:\/\/\S+/.exec(said);
            if (found) resolve(found[0]);
          });
          child.on('exit', (code) => reject(new Error(`it ended with ${code}: ${said}`)));
        });
        await speaks(async (pathname, body) => {
          const response = await fetch(url + pathname, body === undefined ? {} : { method: 'POST', body: JSON.stringify(body) });
          return { status: response.status, body: await response.json() };
        }, desk);
      } finally {
        child.kill();
        desk.stop();
      }
    });
  }
});
