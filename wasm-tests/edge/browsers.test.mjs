// The package in browsers: a page, a dedicated worker, a service worker; and built by bundlers, three lines each.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { cp, mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import * as esbuild from 'esbuild';
import { chromium } from 'playwright-core';
import puppeteer from 'puppeteer-core';
import * as vite from 'vite';
import webpack from 'webpack';
import { cases, file as reference, labels, pack } from '../reference.mjs';
import { record } from './figures.mjs';
import { burnConsumer, consumer, entry, fileServer, folder, here, mismatches, models, native, noBurn, noModels, noTexts, SLMS, texts } from './kit.mjs';

const ARGS = ['--headless=new', '--no-sandbox', '--enable-unsafe-webgpu', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const FIREFOX = process.env.FIREFOX ?? '/usr/bin/firefox-esr';
const COUNT = 500;

/** The three lines, of an entry of the package. */
const three = (from, more = '') => `import { Annotator } from '${from}';
const annotator = await Annotator.load({ task: 'sentiment', models: '/models/', slms: ['sentiment-minilm-l3']${more} });
for await (const { label } of annotator.annotate(['I love this film'])) document.title = label;
`;
const page = (script) => `<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>-</title>${script}`;

/** A folder of models with a tiny one that the GPU's kernels do not take: its heads are of two values, and they want multiples of four. */
async function oddModels() {
  const out = folder('odd');
  await mkdir(path.join(out, 'odd/1'), { recursive: true });
  const kept = async (name, body) => {
    await writeFile(path.join(out, 'odd/1', name), body);
    return { name, bytes: body.length, sha256: createHash('sha256').update(body).digest('hex') };
  };
  const shard = await kept('shard', pack(cases.find(({ model }) => model === 'bert'), 'f32', { num_attention_heads: 12 }));
  const tokenizer = await kept('tokenizer', reference('bert/tokenizer.json'));
  await writeFile(path.join(out, 'index.json'), JSON.stringify({ slms: [{ id: 'odd', task: 'sentiment', labels, version: '1', precision: 'f32', shards: [shard], tokenizer }] }));
  return out;
}

describe('in browsers', { skip: noModels }, () => {
  let browser;

  before(async () => {
    browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ARGS });
  });
  after(() => browser?.close());

  async function opened(url) {
    const tab = await browser.newPage();
    const problems = [];
    tab.on('pageerror', (error) => problems.push(error.stack));
    tab.on('console', (message) => message.type() === 'error' && problems.push(message.text()));
    await tab.goto(url);
    return { tab, problems };
  }

  /** Opens a page, and waits for the label. */
  async function shown(url) {
    const { tab, problems } = await opened(url);
    try {
      const title = async () => (await tab.waitForFunction(() => document.title !== '-', undefined, { timeout: 120_000 }), tab.title());
      assert.equal(await title().catch((error) => `${error.message}: ${problems.join('\n')}`), 'positive');
    } finally {
      await tab.close();
    }
  }

  /** The same of what was built; gives the addresses that were asked for. */
  async function shows(built, more = {}) {
    const served = await fileServer({ '/models/': models, ...more, '/': built });
    try {
      await shown(served.url);
      return served.seen.map(({ url }) => url);
    } finally {
      served.stop();
    }
  }

  test('a plain script', async () => {
    const out = await consumer('plain');
    await writeFile(path.join(out, 'index.html'), page(`<script type="module">${three('./node_modules/autoannotator/dist/index.js')}</script>`));
    const seen = await shows(out);
    assert.deepEqual(seen.filter((url) => url.endsWith('.wasm')).map((url) => url.split('/').at(-2)), ['relaxed'], 'one module is fetched');
  });

  for (const from of ['autoannotator', 'autoannotator/worker']) {
    test(`Vite: ${from}`, async () => {
      const out = await consumer('vite');
      await writeFile(path.join(out, 'index.html'), page('<script type="module" src="./main.js"></script>'));
      await writeFile(path.join(out, 'main.js'), three(from));
      await vite.build({ root: out, logLevel: 'error', build: { target: 'es2022' } });
      await shows(path.join(out, 'dist'));
    });

    test(`Vite's development server: ${from}`, async () => {
      const out = await consumer('vite-dev');
      await writeFile(path.join(out, 'index.html'), page('<script type="module" src="./main.js"></script>'));
      await writeFile(path.join(out, 'main.js'), three(from));
      const served = await fileServer({ '/models/': models });
      const server = await vite.createServer({
        root: out,
        logLevel: 'error',
        optimizeDeps: { exclude: ['autoannotator'] },
        server: { host: '127.0.0.1', port: 0, watch: null, proxy: { '/models/': served.url } },
      });
      try {
        await server.listen();
        await shown(server.resolvedUrls.local[0]);
      } finally {
        await server.close();
        served.stop();
      }
    });

    test(`webpack: ${from}`, async () => {
      const out = await consumer('webpack');
      await mkdir(path.join(out, 'dist'));
      await writeFile(path.join(out, 'dist/index.html'), page('<script type="module" src="./main.js"></script>'));
      await writeFile(path.join(out, 'main.js'), three(from));
      const compiler = webpack({ mode: 'production', context: out, entry: './main.js', output: { path: path.join(out, 'dist'), publicPath: 'auto' }, performance: { hints: false } });
      const stats = await promisify(compiler.run.bind(compiler))();
      assert.deepEqual(stats.toJson({ all: false, errors: true, warnings: true }), { ...stats.toJson({ all: false, errors: true, warnings: true }), errors: [], warnings: [] });
      await shows(path.join(out, 'dist'));
    });
  }

  const esbuilt = async (source, options) => {
    const out = await consumer('esbuild');
    await writeFile(path.join(out, 'main.js'), source);
    const { warnings } = await esbuild.build({ absWorkingDir: out, entryPoints: ['main.js'], bundle: true, format: 'esm', target: 'es2022', minify: true, logLevel: 'error', ...options });
    assert.deepEqual(warnings, []);
    return out;
  };

  test('esbuild: modules by the file loader', async () => {
    const source = `import plain from 'autoannotator/plain.wasm';\nimport relaxed from 'autoannotator/relaxed.wasm';\n${three('autoannotator', ', wasm: { plain, relaxed }')}`;
    const out = await esbuilt(source, { outdir: 'dist', loader: { '.wasm': 'file' } });
    await writeFile(path.join(out, 'dist/index.html'), page('<script type="module" src="./main.js"></script>'));
    await shows(path.join(out, 'dist'));
  });

  test('esbuild: modules copied to where the package looks for them', async () => {
    const out = await esbuilt(three('autoannotator'), { outdir: 'dist/js' });
    await cp(path.join(out, 'node_modules/autoannotator/wasm'), path.join(out, 'dist/wasm'), { recursive: true });
    await writeFile(path.join(out, 'dist/index.html'), page('<script type="module" src="./js/main.js"></script>'));
    await shows(path.join(out, 'dist'));
  });

  test('a second visit is answered from the cache, the index too where there is no network', async () => {
    const out = await consumer('again');
    await writeFile(path.join(out, 'index.html'), page(''));
    let offline = false;
    const away = (url) => offline && url.includes('/models/');
    const served = await fileServer({ '/models/': models, '/': out });
    const { tab } = await opened(served.url);
    await tab.route('**/models/**', (route) => (away(route.request().url()) ? route.abort() : route.continue()));
    const visit = () =>
      tab.evaluate(async () => {
        const { Annotator } = await import('/node_modules/autoannotator/dist/index.js');
        const annotator = await Annotator.load({ task: 'sentiment', models: '/models', slms: ['sentiment-minilm-l3'] });
        for await (const { label } of annotator.annotate(['I love this film'])) return label;
      });
    try {
      assert.equal(await visit(), 'positive');
      const before = served.seen.filter(({ url }) => url.endsWith('.bin')).length;
      assert.equal(before, 1);
      offline = true;
      assert.equal(await visit(), 'positive');
      assert.equal(served.seen.filter(({ url }) => url.endsWith('.bin')).length, 1);
    } finally {
      await tab.close();
      served.stop();
    }
  });

  describe('the same verdicts', { skip: noTexts }, () => {
    let served;
    let some;
    let bits;
    let reference;
    const job = (from) => ({ entry: `/node_modules/autoannotator/dist/${from}.js`, texts: some, options: { models: '/models/', slms: SLMS, device: 'cpu' } });

    before(async () => {
      some = await texts(COUNT);
      reference = await native(some);
      const { Annotator } = await entry('simd.node');
      const annotator = await Annotator.load({ task: 'sentiment', slms: SLMS, models, device: 'cpu' });
      bits = [];
      for await (const annotation of annotator.annotate(some)) bits.push(annotation);
      annotator.dispose();
      const out = await (noBurn ? consumer('pages') : burnConsumer('pages'));
      served = await fileServer({ '/models/': models, '/odd/': await oddModels(), '/node_modules/': path.join(out, 'node_modules'), '/': path.join(here, 'pages') });
    });
    after(() => served?.stop());

    function check(name, found, exact, version) {
      assert.equal(found.error, undefined, found.error);
      if (exact) assert.deepEqual(found.annotations, bits, `${name}: other bits than in Node.js`);
      const { clear, near } = mismatches(found.annotations, reference);
      console.log(`${name}: ${clear.length} verdicts of ${COUNT} differ from the native ones, ${near.length} more where two labels are within 0.01`);
      assert.deepEqual(clear, []);
      assert.ok(near.length <= COUNT * 0.005, JSON.stringify(near));
      const { memoryBytes, first, ms, build, device } = found;
      const [runtime, where = 'page'] = name.replace(' (relaxed)', '').split(', ');
      record(name, { runtime, where, version: version ?? browser.version(), device, build, mismatches: clear.length, near: near.length, memoryMib: memoryBytes / 2 ** 20, firstMs: first, textsPerSecond: (COUNT * 1000) / ms });
    }

    async function inChromium(where, work) {
      const { tab } = await opened(`${served.url}/blank.html`);
      try {
        return await tab.evaluate(async ([where, work]) => (await import('/ask.js'))[where](work), [where, work]);
      } finally {
        await tab.close();
      }
    }

    test('Chromium, a page', async () => check('Chromium', await inChromium('inPage', job('simd')), true));
    test('Chromium, a page, what it takes by itself', async () => check('Chromium (relaxed)', await inChromium('inPage', job('index')), false));
    test('Chromium, a worker of one’s own', async () => check('Chromium, worker', await inChromium('inWorker', job('simd')), true));
    test('Chromium, autoannotator/worker', async () => check('Chromium, autoannotator/worker', await inChromium('inPage', job('worker')), false));
    test('Chromium, a service worker', async () => check('Chromium, service worker', await inChromium('inServiceWorker', job('simd')), true));

    test('Chromium, WebGPU in software', async () => {
      const few = { ...job('gpu'), texts: some.slice(0, 24) };
      few.options = { ...few.options, device: 'gpu', slms: SLMS.slice(0, 1) };
      const found = await inChromium('inPage', few);
      assert.equal(found.device, 'gpu');
      const off = found.annotations.filter((annotation, at) => {
        const [first, second] = [...bits[at].votes[0].probabilities].sort((a, b) => b - a);
        return annotation.votes[0].engine !== 'gpu' || (first - second > 0.05 && annotation.votes[0].label !== bits[at].votes[0].label);
      });
      assert.deepEqual(off, []);
    });

    test('Chromium, autoannotator-burn', { skip: noBurn }, async () => {
      const { tab } = await opened(`${served.url}/burn.html`);
      try {
        const work = { entry: '/node_modules/autoannotator-burn/dist/index.js', texts: some.slice(0, 4), options: { models: '/models/', slms: SLMS.slice(0, 1), device: 'gpu', batch: 4 } };
        const found = await tab.evaluate(async (work) => (await import('/ask.js')).inPage(work), work);
        assert.deepEqual([found.build, found.device, found.annotations.length], ['burn', 'gpu', 4]);
        for (const [at, { votes: [vote] }] of found.annotations.entries()) {
          const [first, second] = [...bits[at].votes[0].probabilities].sort((a, b) => b - a);
          assert.equal(vote.engine, 'burn');
          if (first - second > 0.05) assert.equal(vote.label, bits[at].votes[0].label, some[at]);
        }
      } finally {
        await tab.close();
      }
    });

    test('Chromium, a model without kernels: the CPU votes with a warning or, where it is brought, burn-wgpu', async () => {
      const { tab } = await opened(`${served.url}/burn.html`);
      try {
        const found = await tab.evaluate(async (brings) => {
          const { Annotator } = await import('/node_modules/autoannotator/dist/index.js');
          const all = [];
          for (const burn of brings ? [undefined, () => import('/node_modules/autoannotator-burn/dist/index.js')] : [undefined]) {
            const warnings = [];
            const annotator = await Annotator.load({ task: 'sentiment', models: '/odd/', slms: ['odd'], device: 'gpu', onWarning: ({ message }) => warnings.push(message), ...(burn && { burn }) });
            for await (const { votes } of annotator.annotate(['a b c'])) all.push({ ...votes[0], warnings });
            annotator.dispose();
          }
          return all;
        }, !noBurn);
        const [onCpu, onBurn] = found;
        assert.equal(onCpu.engine, 'cpu');
        assert.match(onCpu.warnings.join(), /^slm-no-gpu: the CPU votes in the GPU's place \(odd: .*\)\. The option 'burn' brings/);
        if (noBurn) return;
        assert.deepEqual([onBurn.engine, onBurn.warnings], ['burn', []]);
        onBurn.probabilities.forEach((one, at) => assert.ok(Math.abs(one - onCpu.probabilities[at]) < 1e-4));
      } finally {
        await tab.close();
      }
    });

    test('Chromium, a GPU that is lost: the CPU goes on; one that is slower than the CPU is not taken', async () => {
      const { tab } = await opened(`${served.url}/blank.html`);
      try {
        const found = await tab.evaluate(
          async (texts) => {
            const devices = [];
            const { requestDevice } = GPUAdapter.prototype;
            GPUAdapter.prototype.requestDevice = async function (...args) {
              devices.push(await requestDevice.apply(this, args));
              return devices.at(-1);
            };
            const { Annotator } = await import('/node_modules/autoannotator/dist/index.js');
            const options = { task: 'sentiment', models: '/models/', slms: ['sentiment-minilm-l3'], batch: 4 };
            const onGpu = await Annotator.load({ ...options, device: 'gpu' });
            const engines = [];
            for await (const { votes } of onGpu.annotate(texts)) {
              engines.push(votes[0].engine);
              if (engines.length === 4) devices[0].destroy();
            }
            const { device, restarts } = await onGpu.info();
            onGpu.dispose();
            // Passes its adapter off as hardware, once: the kernels should know better.
            const { get } = Object.getOwnPropertyDescriptor(GPUAdapter.prototype, 'info');
            let asked = 0;
            Object.defineProperty(GPUAdapter.prototype, 'info', {
              get() {
                return asked++ === 0 ? { vendor: 'test', architecture: '', device: '', description: '', isFallbackAdapter: false } : get.call(this);
              },
            });
            const chosen = await Annotator.load({ ...options, device: 'auto' });
            const labels = [];
            for await (const { label } of chosen.annotate(texts)) labels.push(label);
            const { device: taken } = await chosen.info();
            chosen.dispose();
            return { engines, device, restarts, taken, labels, asked: devices.length };
          },
          some.slice(0, 12),
        );
        assert.deepEqual(found.engines, [...Array(4).fill('gpu'), ...Array(8).fill('cpu')]);
        assert.deepEqual([found.device, found.restarts, found.taken, found.asked], ['cpu', 1, 'cpu', 2]);
        assert.equal(found.labels.length, 12);
      } finally {
        await tab.close();
      }
    });

    test('Firefox', { skip: existsSync(FIREFOX) ? false : `${FIREFOX} is missing: install it (Debian: firefox-esr) or set FIREFOX` }, async () => {
      const firefox = await puppeteer.launch({ browser: 'firefox', executablePath: FIREFOX, headless: true, userDataDir: folder('firefox'), protocolTimeout: 300_000 });
      try {
        const tab = await firefox.newPage();
        await tab.goto(`${served.url}/blank.html`);
        const found = await tab.evaluate(async (work) => JSON.stringify(await (await import('/ask.js')).inPage(work)), job('simd'));
        check('Firefox', JSON.parse(found), true, (await firefox.version()).split('/').at(-1));
      } finally {
        await firefox.close();
      }
    });
  });
});
