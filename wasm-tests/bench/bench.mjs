// `make bench-web`: our engine in the browser against onnxruntime-web and transformers.js. See --help.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism, homedir, tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { brotliCompressSync } from 'node:zlib';
import { aa } from '../node/wasm.mjs';
import { makespan, pageMemory } from './product.mjs';
import { files } from './server.mjs';
import { launch, memory, pin } from './tab.mjs';

const HELP = `Usage: make bench-web [ARGS="options"]

Our wasm engine against onnxruntime-web and transformers.js in one Chromium tab, on one thread. Prints a table and, last,
one line of JSON: geometric means over shapes and SLMs, above 1 is faster (memory: below 1 is smaller).

  --quick         for development: the smallest SLM, 200 texts, few rounds, without the page
  --slms IDS      ids of SLMs, comma-separated [default: the sentiment ensemble]
  --parts PARTS   of shapes, tweets, first, memory, makespan [default: all]; figures of the others are null
  --texts FILE    csv with a column 'text' [default: $AUTOANNOTATOR_SHARED/data/sent_tweet_extraction_test.csv]
  --count N       how many of its texts [default: 2000]
  --rounds N      rounds of each shape [default: 30]
  --budget S      seconds after which a shape gets no more rounds; it gets 3 in any case [default: 60]
  --core N        the core that the tab is kept on while it is timed [default: the last]

Environment: AUTOANNOTATOR_HOME (packed SLMs), CHROMIUM, AUTOANNOTATOR_BINARY.`;

const here = fileURLToPath(new URL('.', import.meta.url));
const root = path.join(here, '../..');
const cache = path.join(process.env.XDG_CACHE_HOME || path.join(homedir(), '.cache'), 'autoannotator');
const home = process.env.AUTOANNOTATOR_HOME || cache;
const SHAPES = [[1, 32], [1, 128], [8, 32], [8, 128]];
const F32 = ['model', 'model_fused'];
const Q8 = ['model_quantized', 'model_quantized_channel', 'model_fused_quantized', 'model_fused_quantized_channel'];
const DTYPE = 'q8';

function options() {
  const { values } = parseArgs({
    options: {
      help: { type: 'boolean', short: 'h' },
      quick: { type: 'boolean' },
      slms: { type: 'string' },
      parts: { type: 'string' },
      texts: { type: 'string' },
      count: { type: 'string' },
      rounds: { type: 'string' },
      budget: { type: 'string' },
      core: { type: 'string' },
    },
  });
  if (values.help) {
    console.log(HELP);
    process.exit();
  }
  const { quick } = values;
  return {
    slms: (values.slms ?? (quick ? 'sentiment-minilm-l3' : 'sentiment-minilm-l3,sentiment-minilm-l6,sentiment-mpnet')).split(','),
    parts: (values.parts ?? (quick ? 'shapes,tweets,first' : 'shapes,tweets,first,memory,makespan')).split(','),
    texts: values.texts ?? path.join(process.env.AUTOANNOTATOR_SHARED ?? path.join(root, '../shared'), 'data/sent_tweet_extraction_test.csv'),
    count: Number(values.count ?? (quick ? 200 : 2000)),
    rounds: Number(values.rounds ?? (quick ? 5 : 30)),
    budget: Number(values.budget ?? (quick ? 10 : 60)) * 1000,
    core: Number(values.core ?? availableParallelism() - 1),
  };
}

const { slms, parts, texts: file, count, rounds, budget, core } = options();
const say = (text) => process.stderr.write(`${text}\n`);
const mean = (values) => (values.length ? Math.exp(values.reduce((sum, value) => sum + Math.log(value), 0) / values.length) : null);
const round = (value, digits = 3) => (value === null || value === undefined ? null : Number(value.toFixed(digits)));
const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

function readTexts() {
  if (!existsSync(file)) throw new Error(`${file} is missing; set AUTOANNOTATOR_SHARED, or give a csv with --texts`);
  const reader = new aa.RowReader('csv', { textColumn: 'text' });
  const rows = [...reader.push(readFileSync(file)), ...reader.finish()];
  return rows.map((row) => row.text).filter((text) => text.trim() !== '').slice(0, count);
}

/** The peers' files: ONNX of the packed SLMs, made by `export.py`. */
function exported() {
  const python = path.join(cache, 'bench/venv/bin/python');
  const out = path.join(cache, 'bench/onnx');
  mkdirSync(out, { recursive: true });
  execFileSync(python, [path.join(here, 'export.py'), ...slms, '--home', home, '--out', out], { stdio: ['ignore', 'ignore', 'inherit'] });
  return out;
}

const index = JSON.parse(readFileSync(path.join(home, 'packed/index.json'), 'utf8')).slms;
const builds = ['plain', 'relaxed'].filter((build) => existsSync(path.join(root, 'pkg/wasm', build)));
const best = builds.at(-1);
const reference = `f32 ${best}`;
const packed = (id, int8) => index.find((slm) => slm.id === id && (slm.precision === 'int8') === int8);
const texts = readTexts();
const onnx = exported();
const scratch = mkdtempSync(path.join(tmpdir(), 'autoannotator-bench-'));
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));
const server = await files({
  '/wasm/': path.join(root, 'pkg/wasm'),
  '/models/': path.join(home, 'packed'),
  '/npm/': path.join(here, 'node_modules'),
  '/hub/': onnx,
  '/': here,
});

/** A pinned tab with the bench's page. */
async function bench(work) {
  const tab = await launch();
  try {
    const page = await tab.open(`${server.url}/blank.html`);
    await page.evaluate(() => import('/page.js'));
    if (!pin(tab.process(), core)) say('the tab could not be kept on one core: is taskset there?');
    return await work(page, (name, args) => page.evaluate(([name, args]) => globalThis.bench[name](...args), [name, args]));
  } finally {
    await tab.close();
  }
}

/** What runs an SLM in the tab, by name: ours in each build and precision, and the graphs. */
function engines(id) {
  const mine = builds.flatMap((build) =>
    [false, true].filter((int8) => packed(id, int8)).map((int8) => [`${int8 ? 'int8' : 'f32'} ${build}`, { kind: 'ours', build, manifest: packed(id, int8) }]),
  );
  const graph = (name) => [name, { kind: 'onnx', url: `/hub/${id}/resolve/main/onnx/${name}.onnx` }];
  return Object.fromEntries([...mine, ...[...F32, ...Q8].map(graph)]);
}

function line(...cells) {
  console.log(cells.map((cell, at) => (at === 0 ? String(cell).padEnd(26) : String(cell).padStart(13))).join(' '));
}

const ms = (value) => (value === undefined ? '-' : value.toFixed(value < 10 ? 2 : 1));

/**
 * Before anything is timed: in f32 both sides are the same model. Gives the q8 graphs that are not worse than the published
 * one, by more than chance on these few texts: a graph that is fast and wrong is no peer.
 */
async function agree(call, id, wanted) {
  const step = Math.max(1, Math.floor(texts.length / 200));
  const shares = {};
  for (const name of Object.keys(wanted)) {
    const { share, apart, texts: n } = await call('agreement', [name, reference, step]);
    say(`${id}: ${name}: ${(100 * share).toFixed(1)} % of ${n} labels as ${reference}, logits within ${apart.toExponential(1)}`);
    const exact = name.startsWith('f32') || F32.includes(name);
    if (exact && (share < 1 || apart > 1e-3)) throw new Error(`${id}: ${name} does not agree with our f32: it is not the same model`);
    shares[name] = share;
  }
  return Q8.filter((name) => shares[name] >= shares[Q8[0]] - 0.01);
}

/** Times the shapes of one SLM; gives a row a shape, and which of the graphs `quantized` is the fastest over all. */
async function shapes(call, id, wanted, quantized) {
  const names = Object.keys(wanted);
  const mine = names.filter((name) => wanted[name].kind === 'ours');
  const families = { ...Object.fromEntries(mine.map((name) => [name, [name]])), f32: F32, q8: quantized };
  const rows = [];
  for (const [batch, tokens] of SHAPES) {
    const times = await call('time', [{ families, batch, tokens, rounds, sample: 40, budget }]);
    const of = (name) => times[name]?.ms;
    const ort = Math.min(...F32.map(of));
    const q8 = Math.min(...quantized.map(of));
    line(`${id.replace('sentiment-', '')} ${batch} x ${tokens}`, ...['f32 plain', 'f32 relaxed'].map((name) => ms(of(name))), ms(ort), ...['int8 plain', 'int8 relaxed'].map((name) => ms(of(name))), ms(q8), ms(of(Q8[0])));
    rows.push({ of, ort, q8 });
  }
  const [[, fastest]] = quantized.map((name) => [mean(rows.map((row) => row.of(name))), name]).sort(([a], [b]) => a - b);
  return { rows, fastest };
}

/** Shares of labels that are those of f32, over all texts. */
async function quality(call, id, name) {
  const share = async (engine) => (await call('agreement', [engine, reference])).share;
  const int8 = packed(id, true) ? await share(`int8 ${best}`) : null;
  return { id, name, int8, q8: await share(name), published: await share(Q8[0]) };
}

const results = { shapes: [], quality: [], tweets: [] };

if (parts.includes('shapes')) {
  console.log('\nMilliseconds a batch (texts x tokens), one thread; onnxruntime-web: the fastest of its graphs');
  line('', 'f32 plain', 'f32 relaxed', 'ort f32', 'int8 plain', 'int8 relaxed', 'ort best q8', 'ort publ. q8');
  for (const id of slms) {
    await bench(async (page, call) => {
      const wanted = engines(id);
      const { labels } = packed(id, false);
      const pad = id.includes('mpnet') ? 1 : 0;
      await call('load', [{ engines: wanted, texts, labels, pad }]);
      const quantized = await agree(call, id, wanted);
      const { rows, fastest } = await shapes(call, id, wanted, quantized);
      results.shapes.push(...rows);
      await call('free', [F32]);
      results.quality.push(await quality(call, id, fastest));
    });
  }
  console.log(`\nLabels that are those of f32, of ${texts.length}`);
  line('', 'int8', 'ort best q8', 'ort publ. q8', '  the best is');
  for (const { id, int8, q8, published, name } of results.quality) {
    line(id.replace('sentiment-', ''), ...[int8, q8, published].map((share) => (share === null ? '-' : `${(100 * share).toFixed(2)} %`)), `  ${name}`);
  }
}

if (parts.includes('tweets')) {
  console.log(`\nSeconds for ${texts.length} texts, text to label`);
  line('', 'ours', 'precision', `transf.js ${DTYPE}`, 'its batch', 'same labels');
  for (const id of slms) {
    await bench(async (page, call) => {
      const manifest = packed(id, true) ?? packed(id, false);
      const wanted = { mine: { kind: 'ours', build: best, manifest }, peer: { kind: 'pipe', id, dtype: DTYPE } };
      await call('load', [{ engines: wanted, texts, labels: manifest.labels }]);
      const times = id.includes('mpnet') ? 1 : Math.min(5, rounds);
      const found = await call('tweets', [{ mine: 'mine', peer: 'peer', rounds: times, slices: 10 }]);
      line(id.replace('sentiment-', ''), (found.mine / 1000).toFixed(2), manifest.precision, (found.peer / 1000).toFixed(2), found.batch, `${(100 * found.agreement).toFixed(1)} %`);
      if (found.agreement < 0.5) throw new Error(`${id}: transformers.js gives other labels: it is not the same model`);
      results.tweets.push(found.peer / found.mine);
    });
  }
}

/** Milliseconds from a new page to the first label, everything cached: median of some visits after the first. */
async function first(id) {
  const tab = await launch();
  const manifest = packed(id, true) ?? packed(id, false);
  const asks = { ours: { who: 'ours', id, build: best, precision: manifest.precision }, peer: { who: 'pipe', id, dtype: DTYPE } };
  const times = { ours: [], peer: [] };
  try {
    for (let visit = 0; visit < 8; visit++) {
      for (const [who, ask] of Object.entries(asks)) {
        const page = await tab.open(`${server.url}/first.html?${new URLSearchParams(ask)}`);
        await page.waitForFunction(() => globalThis.first);
        // Chromium keeps compiled code from the third visit on.
        if (visit >= 3) times[who].push(await page.evaluate(() => globalThis.first.ms));
        await page.close();
      }
    }
  } finally {
    await tab.close();
  }
  return { ours: median(times.ours), peer: median(times.peer) };
}

if (parts.includes('first')) {
  console.log('\nMilliseconds from a new page to the first label, weights cached');
  line('', 'ours', `transf.js ${DTYPE}`);
  results.first = [];
  for (const id of slms) {
    const found = await first(id);
    line(id.replace('sentiment-', ''), ms(found.ours), ms(found.peer));
    results.first.push(found.peer / found.ours);
  }
}

/** MB of a tab in which transformers.js has labelled `some` with every SLM, in the page itself or with a worker for each. */
async function peerMemory(some, workers) {
  const tab = await launch();
  try {
    const page = await tab.open(`${server.url}/blank.html`);
    await page.evaluate(
      async ({ slms, some, workers, dtype }) => {
        globalThis.kept = [];
        for (const id of slms) {
          if (workers) {
            const worker = new Worker('/pipe.worker.js', { type: 'module' });
            const done = new Promise((resolve, reject) => Object.assign(worker, { onmessage: resolve, onerror: reject }));
            worker.postMessage({ id, dtype, texts: some });
            await done;
            globalThis.kept.push(worker);
          } else {
            const { pipe } = await import('/pipe.js');
            const engine = await pipe(id, dtype);
            await engine.label(some, 8);
            globalThis.kept.push(engine);
          }
        }
      },
      { slms, some, workers, dtype: DTYPE },
    );
    await page.waitForTimeout(3000);
    return await memory(tab, page);
  } finally {
    await tab.close();
  }
}

if (parts.includes('memory')) {
  const some = texts.slice(0, 200);
  const mine = await pageMemory(texts.slice(0, 400), scratch);
  const peers = [await peerMemory(some, false), await peerMemory(some, true)];
  console.log('\nMB of the tab (proportional set size), the ensemble loaded and 200 texts labelled');
  line('', 'ours', 'transf.js', 'in workers');
  line('', ...[mine, ...peers].map((size) => size.toFixed(0)));
  results.memory = mine / Math.min(...peers);
}

if (parts.includes('makespan')) {
  const { wall, work, cores } = await makespan(texts, scratch);
  console.log(`\nThe page, ${texts.length} texts: ${wall.toFixed(1)} s for ${work.toFixed(1)} s of the workers' processor time on ${cores} cores`);
  results.makespan = wall / (work / cores);
}

server.stop();
const over = (value, name) => mean(results.shapes.map((row) => row[value] / row.of(name)).filter(Number.isFinite));
const shares = (key) => {
  const found = results.quality.map((row) => row[key]).filter((share) => share !== null);
  return found.length ? found.reduce((sum, share) => sum + share, 0) / found.length : null;
};
const size = Math.max(...builds.map((build) => brotliCompressSync(readFileSync(path.join(root, 'pkg/wasm', build, 'autoannotator_bg.wasm'))).length));
console.log();
console.log(
  JSON.stringify({
    f32_vs_ort: round(over('ort', 'f32 plain')),
    f32_relaxed_vs_ort: round(over('ort', 'f32 relaxed')),
    int8_vs_ort_q8: round(over('q8', 'int8 relaxed')),
    int8_plain_vs_ort_q8: round(over('q8', 'int8 plain')),
    tweets_vs_transformersjs_q8: round(mean(results.tweets)),
    int8_label_agreement: round(shares('int8'), 5),
    ort_q8_label_agreement: round(shares('q8'), 5),
    first_label_vs_transformersjs: round(mean(results.first ?? [])),
    memory_vs_transformersjs: round(results.memory),
    cpu_wasm_brotli_kb: round(size / 1000, 1),
    makespan_over_ideal: round(results.makespan),
  }),
);
