// Processor time a text and the cold start, against transformers.js (q8, one thread) in Node.js: two SLMs, the same texts. It
// runs on onnxruntime-node there, native code with the processor's own int8 instructions; and, as it has to where there is no
// native code, on onnxruntime-web. Ends with one line of JSON of everything that `make test-edge` measured.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { files } from '../bench/server.mjs';
import { figures, record } from './figures.mjs';
import { annotateInWorkerd } from './isolates.mjs';
import { consumer, env, exec, folder, here, home, models, noModels, noTexts, OWN_NODE, RUNTIMES, SLMS, texts, userCache } from './kit.mjs';
import { writeTables } from './tables.mjs';

const ROUNDS = Number(process.env.ROUNDS ?? 3);
const COUNT = Number(process.env.TEXTS ?? 500);
const BATCHES = [1, 8];
const cache = path.join(userCache, 'bench');
const python = path.join(cache, 'venv/bin/python');
const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
const say = (text) => process.stderr.write(`${text}\n`);

/** The newer Node.js: for both sides. */
const node = RUNTIMES['Node.js 22']?.[0] ?? process.execPath;

function exported() {
  const out = path.join(cache, 'onnx');
  mkdirSync(out, { recursive: true });
  execFileSync(python, [path.join(here, '../bench/export.py'), ...SLMS, '--home', home, '--out', out], { stdio: ['ignore', 'ignore', 'inherit'] });
  return out;
}

async function measure() {
  const some = await texts(COUNT);
  const job = path.join(folder('peer'), 'job.json');
  const hub = exported();
  const served = await files({ '/': hub });
  const out = await consumer('bench', 'run.mjs');
  const times = {};
  const took = (name, { cpuMs, first }) => {
    times[name] ??= { cpu: [], first: [] };
    times[name].cpu.push(cpuMs / COUNT);
    times[name].first.push(first);
    say(`${name}: ${(cpuMs / COUNT).toFixed(2)} ms of processor time a text, ${first.toFixed(0)} ms to the first label`);
  };
  for (let round = 0; round < ROUNDS; round++) {
    for (const native of [true, false]) {
      for (const batch of BATCHES) {
        writeFileSync(job, JSON.stringify({ native, hub, address: `${served.url}/`, slms: SLMS, texts: some, batch }));
        const { stdout } = await exec(node, [path.join(here, 'peer/peer.mjs'), job], { env, maxBuffer: 1 << 28 });
        took(`transformers.js, ${native ? 'native' : 'wasm'}, batches of ${batch}`, JSON.parse(stdout));
      }
    }
    for (const entry of ['autoannotator', 'autoannotator/simd']) {
      writeFileSync(path.join(out, 'job.json'), JSON.stringify({ models, slms: SLMS, texts: some, entry }));
      const { stdout } = await exec(node, ['run.mjs'], { cwd: out, env, maxBuffer: 1 << 28 });
      const found = JSON.parse(stdout);
      took(`Node.js, ${found.build}`, found);
    }
    for (const from of ['autoannotator', 'autoannotator/simd']) {
      const found = await annotateInWorkerd(some, from);
      took(`workerd, ${found.build}`, found);
    }
  }
  served.stop();
  return Object.fromEntries(Object.entries(times).map(([name, { cpu, first }]) => [name, { cpu: median(cpu), first: median(first) }]));
}

const missing = noModels || noTexts || (existsSync(python) ? false : `${python} is missing; run \`make test-edge\``);
if (missing) say(`the comparison with transformers.js is left out: ${missing}`);
else record('bench', await measure());

const all = figures();
const bench = all.bench ?? {};
const least = (peer, key) => Math.min(...Object.entries(bench).filter(([name]) => name.startsWith(`transformers.js, ${peer}`)).map(([, found]) => found[key]));
/** How many times as fast as the fastest batch of the peer. */
const over = (name, key, peer) => (bench[name] ? Number((least(peer, key) / bench[name][key]).toFixed(2)) : null);
const ours = bench['Node.js, relaxed'] ? 'Node.js, relaxed' : 'Node.js, plain';
const runs = Object.values(all).filter((found) => found.mismatches !== undefined);
say(`measured in ${node === process.execPath ? OWN_NODE : 'Node.js 22'}, ${runs.length} runs' verdicts held against the native ones`);
if (process.env.TABLES) writeTables(all);
console.log(
  JSON.stringify({
    workerd_peak_mib: all.workerd?.peakMib ?? null,
    workerd_vs_transformersjs: over('workerd, relaxed', 'cpu', 'native'),
    node_vs_transformersjs: over(ours, 'cpu', 'native'),
    cold_start_vs_transformersjs: over(ours, 'first', 'native'),
    tarball_kb: all.package?.tarballKb ?? null,
    verdict_mismatches: runs.length ? runs.reduce((sum, found) => sum + found.mismatches, 0) : null,
    workerd_vs_transformersjs_wasm: over('workerd, relaxed', 'cpu', 'wasm'),
    node_vs_transformersjs_wasm: over(ours, 'cpu', 'wasm'),
    cold_start_vs_transformersjs_wasm: over(ours, 'first', 'wasm'),
  }),
);
