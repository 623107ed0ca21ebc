// The GPU build in Chromium and Firefox, in a page and in a worker, on tiny models: against PyTorch `transformers`, and where
// things fail. WebGPU runs in software there (SwiftShader, lavapipe), so this is about values and calls, not about speed.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, mkdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { chromium } from 'playwright-core';
import puppeteer from 'puppeteer-core';
import { files } from '../bench/server.mjs';
import { cases, file, pack } from '../reference.mjs';
import { root } from './servers.mjs';

const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const FIREFOX = process.env.FIREFOX ?? '/usr/bin/firefox-esr';

/** A page in each browser. Firefox computes on lavapipe, and wants to be told that it may. */
const BROWSERS = {
  Chromium: async () => {
    const browser = await chromium.launch({
      executablePath: CHROMIUM,
      args: ['--headless=new', '--no-sandbox', '--enable-unsafe-webgpu', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
    });
    return { browser, page: await browser.newPage() };
  },
  Firefox: async () => {
    const browser = await puppeteer.launch({
      browser: 'firefox',
      executablePath: FIREFOX,
      headless: true,
      timeout: 120_000,
      protocolTimeout: 300_000,
      userDataDir: path.join(folder, 'firefox'),
      extraPrefsFirefox: { 'dom.webgpu.enabled': true, 'dom.webgpu.workers.enabled': true, 'gfx.webgpu.ignore-blocklist': true },
    });
    return { browser, page: await browser.newPage() };
  },
};

const missing = {
  Firefox: [
    [FIREFOX, 'install it (Debian: firefox-esr) or set FIREFOX'],
    ['/usr/share/vulkan/icd.d', 'Firefox computes on Vulkan (Debian: mesa-vulkan-drivers)'],
  ].find(([file]) => !existsSync(file)),
};

let folder;
let server;

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'autoannotator-gpu-'));
  for (const entry of cases.filter(({ model }) => ['bert', 'mpnet'].includes(model))) {
    await mkdir(path.join(folder, entry.model));
    await writeFile(path.join(folder, entry.model, 'packed'), pack(entry));
    await writeFile(path.join(folder, entry.model, 'tokenizer'), file(`${entry.model}/tokenizer.json`));
  }
  await mkdir(path.join(folder, 'int8'));
  await writeFile(path.join(folder, 'int8/packed'), pack(cases.find(({ model }) => model === 'bert'), 'int8'));
  await writeFile(path.join(folder, 'int8/tokenizer'), file('bert/tokenizer.json'));
  server = await files({ '/wasm/': path.join(root, 'pkg/wasm'), '/models/': folder, '/': path.join(root, 'wasm-tests/page') });
});

after(async () => {
  server?.stop();
  if (folder) await rm(folder, { recursive: true, force: true });
});

const farthest = (one, other) => Math.max(...one.map((value, at) => Math.abs(value - other[at])));

const near = (found, expected, what, most = 1e-4) => {
  assert.equal(found?.length, expected.length, what);
  expected.forEach((value, at) => assert.ok(Math.abs(found[at] - value) < most, `${what}: ${found[at]}, expected ${value}`));
};

for (const [name, launch] of Object.entries(BROWSERS)) {
  describe(name, { skip: missing[name] && `${missing[name][0]} is missing: ${missing[name][1]}` }, () => {
    let browser;
    let page;

    before(async () => {
      ({ browser, page } = await launch());
      page.setDefaultNavigationTimeout(120_000);
      page.on('pageerror', (error) => assert.fail(`the page threw: ${error.stack}`));
      await page.goto(`${server.url}/gpu.html`);
    });
    after(() => browser?.close());

    const inPage = (task, what) => page.evaluate(async ([task, what]) => (await import('/gpu.js')).run(task, what), [task, what]);

    const inWorker = (task, what) =>
      page.evaluate(
        ([task, what]) =>
          new Promise((resolve, reject) => {
            const worker = new Worker('/gpu.js', { type: 'module' });
            worker.onmessage = ({ data }) => resolve(data);
            worker.onerror = ({ message }) => reject(new Error(message));
            worker.postMessage({ task, what });
          }),
        [task, what],
      );

    for (const [where, run] of [['a page', inPage], ['a worker', inWorker]]) {
      for (const model of ['bert', 'mpnet']) {
        test(`${model} in ${where}: logits are the reference's, by one submit of what was made at load`, async () => {
          const { votes } = cases.find((entry) => entry.model === model);
          const texts = votes.map((vote) => vote.text);
          const found = await run('logits', { model, texts });
          near(found.logits, votes.flatMap((vote) => vote.logits), `on ${found.name}`);
          assert.equal(found.engine, 'gpu');
          assert.deepEqual(found.votes.map((vote) => vote.engine), texts.map(() => 'gpu'));
          const { dispatchWorkgroups, ...counts } = found.counts;
          assert.deepEqual(counts, { submit: 1, writeBuffer: 2, createBindGroup: 0, createBuffer: 0, createComputePipeline: 0 });
          const layers = JSON.parse(file(`${model}/config.json`)).num_hidden_layers;
          assert.equal(dispatchWorkgroups, 7 * layers + 2);
        });
      }

      test(`in ${where} a lost device is an error by its code, and another one serves`, async () => {
        const { votes } = cases.find((entry) => entry.model === 'bert');
        const found = await run('lost', { model: 'bert', texts: votes.map((vote) => vote.text) });
        const expected = votes.flatMap((vote) => vote.logits);
        near(found.before, expected, 'before');
        near(found.again, expected, 'on another device');
        assert.equal(found.after.code, 'slm-gpu', JSON.stringify(found.after));
        if (Array.isArray(found.middle)) near(found.middle, expected, 'what was done already');
        else assert.equal(found.middle.code, 'slm-gpu', JSON.stringify(found.middle));
      });

      for (const model of ['bert', 'int8']) {
        test(`in ${where} the shape of the products that is fastest on hardware serves (${model})`, async () => {
          const { votes } = cases.find((entry) => entry.model === 'bert');
          const what = { model, texts: votes.map((vote) => vote.text) };
          const { logits } = await run('logits', what);
          const packs = model === 'int8' && (await run('packs'));
          // Each measurement runs all of them, which takes a software adapter seconds.
          const shapes = where === 'a page' ? ['Small', 'Wide', 'Broad', 'Shared'] : ['Shared'];
          for (const shape of [...shapes, ...(packs ? ['Packed'] : [])]) {
            const found = await run('measured', { ...what, shape });
            // Attention, LayerNorm, pooling, head, four shapes; and the packed one, of int8.
            assert.equal(found.pipelines, 8 + Number(packs));
            assert.deepEqual(found.served, [`product ${shape}`]);
            // The packed one rounds its inputs as the CPU engine does, if in smaller groups.
            const rounded = shape === 'Packed' && (await run('onCpu', what)).logits;
            near(found.logits, logits, shape, 1e-4 + (rounded ? 1.5 * farthest(rounded, logits) : 0));
          }
        });
      }

      for (const how of ['null', 'throws', 'no device', 'no WebGPU', 'software']) {
        test(`in ${where} no GPU of use (${how}) is an error that says so`, async () => {
          const found = await run('none', { how });
          assert.equal(found.code, 'slm-no-gpu', JSON.stringify(found));
        });
      }
    }
  });
}
