// `make bench-gpu`: our WGSL engine against onnxruntime-web's WebGPU provider. See --help.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { brotliCompressSync } from 'node:zlib';
import { files } from './server.mjs';
import { launch } from './tab.mjs';

const HELP = `Usage: make bench-gpu [ARGS="options"]

Our WGSL engine against onnxruntime-web's WebGPU provider, and against burn-wgpu in the smallest shape, in one Chromium tab,
on whatever adapter there is. Prints a table and, last, one line of JSON: geometric means over shapes and SLMs, above 1 is faster.

  --slms IDS      ids of SLMs, comma-separated [default: sentiment-minilm-l3,sentiment-minilm-l6]
  --rounds N      rounds of each shape [default: 5]
  --budget S      seconds after which a shape gets no more rounds; it gets 2 in any case [default: 20]

Environment: AUTOANNOTATOR_HOME (packed SLMs), CHROMIUM, CHROMIUM_ARGS (for a real GPU, say --enable-features=Vulkan).`;

const here = fileURLToPath(new URL('.', import.meta.url));
const root = path.join(here, '../..');
const cache = path.join(process.env.XDG_CACHE_HOME || path.join(homedir(), '.cache'), 'autoannotator');
const home = process.env.AUTOANNOTATOR_HOME || cache;
const SHAPES = [[1, 32], [8, 32], [8, 128]];
const MINE = ['ours f32', 'ours int8'];
const PLAIN = 'ort plain';
const FUSED = 'ort fused';
const BURN = 'burn-wgpu';
const ALL = [...MINE, PLAIN, FUSED, BURN];
/** First calls of each engine. */
const FIRSTS = 3;
/** What runs in every shape. */
const TIMED = ALL.filter((name) => name !== BURN);

const { values: options } = parseArgs({
  options: {
    help: { type: 'boolean', short: 'h' },
    slms: { type: 'string', default: 'sentiment-minilm-l3,sentiment-minilm-l6' },
    rounds: { type: 'string', default: '5' },
    budget: { type: 'string', default: '20' },
  },
});
if (options.help) {
  console.log(HELP);
  process.exit();
}
const slms = options.slms.split(',');
const mean = (values) => (values.length ? Math.exp(values.reduce((sum, value) => sum + Math.log(value), 0) / values.length) : null);
const round = (value, digits = 2) => (value === null || value === undefined ? null : Number(value.toFixed(digits)));

function exported() {
  const out = path.join(cache, 'bench/onnx');
  mkdirSync(out, { recursive: true });
  const python = path.join(cache, 'bench/venv/bin/python');
  execFileSync(python, [path.join(here, 'export.py'), ...slms, '--home', home, '--out', out], { stdio: ['ignore', 'ignore', 'inherit'] });
  return out;
}

const line = (...cells) => console.log(cells.map((cell, at) => (at === 0 ? String(cell).padEnd(20) : String(cell).padStart(12))).join(' '));
const ms = (value) => value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);

const index = JSON.parse(readFileSync(path.join(home, 'packed/index.json'), 'utf8')).slms;
const packed = (id, int8) => {
  const found = index.find((slm) => slm.id === id && (slm.precision === 'int8') === int8);
  if (!found) throw new Error(`${id} is not packed in ${int8 ? 'int8' : 'f32'}; run \`autoannotator pack\``);
  return found;
};
const graph = (id, name) => `/hub/${id}/resolve/main/onnx/${name}.onnx`;

const server = await files({
  '/wasm/': path.join(root, 'pkg/wasm'),
  '/models/': path.join(home, 'packed'),
  '/npm/': path.join(here, 'node_modules'),
  '/hub/': exported(),
  '/': here,
});
/** What the engines of an SLM are made of. */
const made = (id) => ({
  oracle: { kind: 'cpu', manifest: packed(id, false) },
  [MINE[0]]: { kind: 'gpu', manifest: packed(id, false) },
  [MINE[1]]: { kind: 'gpu', manifest: packed(id, true) },
  [PLAIN]: { kind: 'ort', url: graph(id, 'model') },
  [FUSED]: { kind: 'ort', url: graph(id, 'model_heads') },
  [BURN]: { kind: 'burn', manifest: packed(id, false) },
});

async function open() {
  const tab = await launch(['--enable-unsafe-webgpu', ...(process.env.CHROMIUM_ARGS ?? '').split(' ').filter(Boolean)]);
  const page = await tab.open(`${server.url}/blank.html`);
  await page.evaluate(() => import('/gpu-page.js'));
  return { close: () => tab.close(), call: (name, ...args) => page.evaluate(([name, args]) => globalThis.bench[name](...args), [name, args]) };
}

/**
 * Milliseconds of each engine's first call, the median of several, each in a browser of its own: what one has compiled would
 * spare the next one.
 */
async function firstCalls(id) {
  const times = Object.fromEntries(ALL.map((name) => [name, []]));
  for (let at = 0; at < FIRSTS; at++) {
    for (const name of at % 2 ? [...ALL].reverse() : ALL) {
      const engine = made(id)[name];
      const tab = await open();
      try {
        await tab.call('start', [engine.kind]);
        times[name].push(await tab.call('load', { [name]: engine }));
      } finally {
        await tab.close();
      }
    }
  }
  return Object.fromEntries(ALL.map((name) => [name, times[name].sort((a, b) => a - b)[Math.floor(FIRSTS / 2)]]));
}

/**
 * Ends the bench where an engine does not compute what the CPU engine does. Of the fused graph it is only told: from 32 tokens on
 * onnxruntime-web 1.30's attention kernel computes something else on SwiftShader, and its time is that of work of the same size.
 */
function agrees(id, check) {
  for (const [name, { logits }] of Object.entries(check)) {
    const most = name === MINE[1] ? 0.5 : MINE.includes(name) ? 1e-4 : 1e-3;
    if (logits <= most) continue;
    const problem = `${name} does not agree with the CPU engine in f32 (logits off by ${logits})`;
    if (name !== FUSED) throw new Error(`${id}: ${problem}: nothing is timed`);
    console.log(`  ${problem}: what it takes is told all the same`);
  }
}

const rows = [];
const sums = [];
const firsts = [];
const checks = [];
const tab = await open();
try {
  const { call } = tab;
  const { adapter, software } = await call('start', [...new Set(Object.values(made(slms[0])).map((engine) => engine.kind))]);
  console.log(`Adapter: ${adapter}${software ? ' (in software)' : ''}`);
  console.log('\nMilliseconds a batch (texts x tokens), text ids to logits in memory');
  line('', ...ALL);
  for (const id of slms) {
    const first = await firstCalls(id);
    firsts.push(first);
    await call('load', made(id));
    for (const [at, [batch, tokens]] of SHAPES.entries()) {
      const names = at === 0 ? ALL : TIMED;
      const check = await call('check', { oracle: 'oracle', names, batch, tokens });
      agrees(id, check);
      checks.push(check);
      const found = await call('time', { names, batch, tokens, rounds: Number(options.rounds), budget: Number(options.budget) * 1000 });
      line(`${id.replace('sentiment-', '')} ${batch} x ${tokens}`, ...names.map((name) => ms(found[name].ms)));
      if (at === 0) for (const what of ['dispatches', 'submits', 'bind_groups', 'writes']) line(`  ${what}`, ...ALL.map((name) => found[name][what]));
      rows.push(found);
      sums.push(await call('sums', { name: MINE[0], batch, tokens, rounds: 2 * Number(options.rounds) }));
      line('  in LayerNorms', `${(100 * sums.at(-1)).toFixed(1)} %`);
    }
    line(`${id.replace('sentiment-', '')} first call`, ...ALL.map((name) => ms(first[name])));
    await call('free');
  }
} finally {
  await tab.close();
  server.stop();
}

const ratio = (peer, of = rows, value = (row, name) => row[name].ms) =>
  of.filter((row) => peer in row).map((row) => value(row, peer) / value(row, MINE[0]));
const size = (build) => {
  const file = path.join(root, 'pkg/wasm', build, 'autoannotator_bg.wasm');
  return existsSync(file) ? brotliCompressSync(readFileSync(file)).length / 1000 : null;
};
const largest = (what) => Math.max(...rows.map((row) => row[MINE[0]][what]));
const all = [...ratio(PLAIN), ...ratio(FUSED)];
console.log();
console.log(
  JSON.stringify({
    gpu_vs_ort: round(mean(ratio(PLAIN))),
    gpu_vs_ort_min: round(Math.min(...all)),
    gpu_vs_ort_fused: round(mean(ratio(FUSED))),
    gpu_int8_vs_ort: round(mean(rows.map((row) => row[PLAIN].ms / row[MINE[1]].ms))),
    gpu_first_call_vs_ort: round(mean(ratio(PLAIN, firsts, (row, name) => row[name]))),
    gpu_first_call_vs_ort_fused: round(mean(ratio(FUSED, firsts, (row, name) => row[name]))),
    gpu_vs_burn: round(mean(ratio(BURN))),
    dispatches: largest('dispatches'),
    submits: largest('submits'),
    bind_groups: largest('bind_groups'),
    buffer_writes: largest('writes'),
    sums_share: round(sums.reduce((sum, share) => sum + share, 0) / sums.length, 3),
    max_abs_err_f32: Math.max(...checks.map((check) => check[MINE[0]].embedding)),
    max_abs_err_f32_logits: Math.max(...checks.map((check) => check[MINE[0]].logits)),
    ort_fused_max_abs_err_logits: round(Math.max(...checks.map((check) => check[FUSED].logits)), 3),
    cos_int8: round(Math.min(...checks.map((check) => check[MINE[1]].cosine)), 5),
    // Neither has the formats of files.
    gpu_wasm_brotli_kb: round(size('gpu') - size('relaxed'), 1),
    burn_wasm_brotli_kb: round(size('burn'), 1),
  }),
);
